"""What a page says of every run, whatever it trained: configuration, versions, times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nonconvex.reporting.page import Part, Table

__all__ = ["Circumstances", "parts_of_every_run", "seconds"]


@dataclass(frozen=True)
class Circumstances:
    """How, where and with what a run was made.

    Parameters
    ----------
    run_id : str
    configuration : str
        As it was resolved, in TOML.
    versions : mapping of str to str
    timings : mapping of str to float
        Seconds that each stage took.
    previous : mapping or None
        The metrics of the run that was published before.
    """

    run_id: str
    configuration: str
    versions: Mapping[str, str]
    timings: Mapping[str, float]
    previous: Mapping[str, Any] | None

    def footer(self) -> str:
        """Return the line at the end of the page."""
        return f"Run {self.run_id}, by nonconvex {self.versions['nonconvex']}."


def parts_of_every_run(run: Circumstances) -> list[Part]:
    """Return the parts that end every page."""
    total = sum(run.timings.values())
    times = [[stage, seconds(spent)] for stage, spent in run.timings.items()]
    times.append(["all of these", seconds(total)])
    versions = [[name, version] for name, version in run.versions.items()]
    return [
        Part(
            "Configuration",
            "As it was resolved, defaults included; it is config.toml beside this page, and makes "
            "the same run again.",
            code=run.configuration,
        ),
        Part(
            "Versions and times",
            tables=[
                Table("Versions", ["", "version"], versions, words=True),
                Table("Times", ["", "took"], times),
            ],
        ),
    ]


def seconds(spent: float) -> str:
    """Return a duration to read.

    Examples
    --------
    >>> seconds(3.14159), seconds(75), seconds(7384)
    ('3.1 s', '1 min 15 s', '2 h 3 min')
    """
    if spent < 60:
        return f"{spent:.1f} s"
    minutes, rest = divmod(round(spent), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
