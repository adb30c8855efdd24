"""Ranges of Params: converters that refuse what pyspark's own, which check types, let through.

Each takes the name of the Param, for the message, and returns a converter, which raises ValueError
in one sentence: what, allowed, given.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from typing import Any, NoReturn

__all__ = [
    "choice",
    "flag",
    "fraction",
    "integer",
    "names",
    "number",
    "numbers",
    "optional",
    "text",
]


def _refuse(name: str, allowed: str, value: object) -> NoReturn:
    raise ValueError(f"{name} must be {allowed}, got {value!r}")


def integer(name: str, minimum: int | None = None) -> Callable[[Any], int]:
    """Integers, ≥ `minimum` if there is one; numpy's too, but no 3.0 and no "3"."""
    allowed = "an integer" if minimum is None else f"an integer ≥ {minimum}"

    def convert(value: Any) -> int:
        number = None
        with suppress(TypeError):  # of 3.0, "3" and arrays
            number = None if isinstance(value, bool) else operator.index(value)
        if number is None or (minimum is not None and number < minimum):
            _refuse(name, allowed, value)
        return number

    return convert


def number(
    name: str, minimum: float = -math.inf, *, exclusive: bool = False, below: float = math.inf
) -> Callable[[Any], float]:
    """Finite numbers ≥ `minimum`, or > it if `exclusive`, and < `below`."""
    limits = [] if minimum == -math.inf else [f"{'>' if exclusive else '≥'} {minimum:g}"]
    limits += [] if below == math.inf else [f"< {below:g}"]
    allowed = f"a finite number {' and '.join(limits)}".rstrip()

    def convert(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, (bool, str)) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        inside = (number > minimum if exclusive else number >= minimum) and number < below
        if not (math.isfinite(number) and inside):
            _refuse(name, allowed, value)
        return number

    return convert


def fraction(name: str) -> Callable[[Any], float]:
    """Numbers > 0 and ≤ 1."""
    convert = number(name, 0, exclusive=True)

    def convert_fraction(value: Any) -> float:
        if convert(value) > 1:
            _refuse(name, "a number > 0 and ≤ 1", value)
        return convert(value)

    return convert_fraction


def choice(name: str, choices: Sequence[str]) -> Callable[[Any], str]:
    """One of some strings."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            _refuse(name, f"one of {', '.join(choices)}", value)
        return str(value)

    return convert


def flag(name: str) -> Callable[[Any], bool]:
    """True or False, numpy's too."""

    def convert(value: Any) -> bool:
        if type(value).__name__ not in ("bool", "bool_"):  # numpy's too
            _refuse(name, "True or False", value)
        return bool(value)

    return convert


def text(name: str, *, empty: bool = False) -> Callable[[Any], str]:
    """Strings that are not empty, unless `empty` says that they may be."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or not (value or empty):
            _refuse(name, "a name or ''" if empty else "a name", value)
        return str(value)

    return convert


def names(name: str) -> Callable[[Any], str | list[str]]:
    """A string that is not empty, or a list of at least one, all different."""

    def convert(value: Any) -> str | list[str]:
        several = isinstance(value, (list, tuple))
        given = list(value) if several else [value]
        right = all(isinstance(one, str) and one for one in given)
        if not (given and right and len(set(given)) == len(given)):
            _refuse(name, "a name, or a list of different names", value)
        return given if several else str(value)

    return convert


def numbers(name: str, minimum: float | None = None) -> Callable[[Any], list[float]]:
    """Lists, arrays or vectors of finite numbers, each ≥ `minimum` if that is given."""
    allowed = "a list of finite numbers" + ("" if minimum is None else f" ≥ {minimum:g}")
    entry = number(name, -math.inf if minimum is None else minimum)

    def convert(value: Any) -> list[float]:
        given: list[float] = []
        if not isinstance(value, (str, Mapping, Set)):  # the last two have no order of their own
            with suppress(TypeError, ValueError):
                given = [entry(one) for one in value]
        if not given:
            _refuse(name, allowed, value)
        return given

    return convert


def optional(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """None, or what `convert` takes."""
    return lambda value: None if value is None else convert(value)
