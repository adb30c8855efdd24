"""Functions chosen by name, with settings of which none is ignored."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TypeVar

__all__ = ["given_settings"]

SettingT = TypeVar("SettingT")


def given_settings(
    kind: str,
    name: str,
    members: Mapping[str, Callable[..., object]],
    settings: Mapping[str, SettingT | None],
    error: type[Exception],
) -> dict[str, SettingT]:
    """Return the settings that are given, which are all that the member of this name takes.

    Parameters
    ----------
    kind : str
        What the members are, for the message.
    name : str
        One of them.
    members : mapping
        Functions of a first argument, which is no setting, and of settings.
    settings : mapping
        None is the member's default.
    error : type
        What is raised.

    Raises
    ------
    error
        If there is no such member, or a setting is not one of its settings.

    Examples
    --------
    >>> members = {"constant": lambda rate: rate, "step": lambda rate, steps=1: rate / steps}
    >>> given_settings("schedule", "step", members, {"steps": 3, "fraction": None}, ValueError)
    {'steps': 3}
    >>> given_settings("schedule", "constant", members, {"steps": 3}, ValueError)
    Traceback (most recent call last):
    ValueError: schedule 'constant' takes no settings, got steps=3; leave it unset
    """
    if name not in members:
        raise error(f"{kind} must be one of {', '.join(members)}, got {name!r}")
    given = {setting: value for setting, value in settings.items() if value is not None}
    _, *taken = inspect.signature(members[name]).parameters
    for setting, value in given.items():
        if setting not in taken:
            raise error(
                f"{kind} {name!r} takes {', '.join(taken) or 'no settings'}, "
                f"got {setting}={value!r}; leave it unset"
            )
    return given
