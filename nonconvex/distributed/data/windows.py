"""Windows of days over tables that have a directory for each day."""

from __future__ import annotations

import logging
from collections.abc import Collection
from datetime import date, timedelta
from typing import NamedTuple

__all__ = ["Window", "WindowError"]

_logger = logging.getLogger("nonconvex")


class WindowError(ValueError):
    """A day without data; the message says which."""

    exit_status = 3


class Window(NamedTuple):
    """The last days of a table in directories ``<column>=<YYYY-MM-DD>``.

    Attributes
    ----------
    column : str
        What the directories are named by.
    until : date
        The last day, which must be there.
    days : int
        How many days, at least 1, the last one among them; others may be missing.
    """

    column: str
    until: date
    days: int

    def directories(self, path: str, names: Collection[str]) -> list[str]:
        """Return the directories of the window that are there, the first day first.

        Parameters
        ----------
        path : str
            Where the table is, for the message.
        names : collection of str
            What is in the directory of the table.

        Raises
        ------
        WindowError
            If the last day is not among them.

        Examples
        --------
        >>> window = Window("date", date(2026, 3, 1), 3)
        >>> window.directories("ratings", ["date=2026-02-26", "date=2026-02-28", "date=2026-03-01"])
        ['date=2026-02-28', 'date=2026-03-01']
        """
        days = [self.until - timedelta(days=back) for back in reversed(range(self.days))]
        wanted = [f"{self.column}={day.isoformat()}" for day in days]
        there = [name for name in wanted if name in names]
        if wanted[-1] not in there:
            dated = sorted(name for name in names if name.startswith(f"{self.column}="))
            last = f"the last one is {dated[-1]}" if dated else "it has no directory of a day"
            raise WindowError(
                f"{path} has no {wanted[-1]}, {last}: wait until that day is there, or give "
                "another --run-date"
            )
        _logger.info("%s: %d of %d days", path, len(there), len(wanted))
        return there
