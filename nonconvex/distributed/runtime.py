"""How far a fit has come: one line of the log for each start and iteration, or rows of a view."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Progress", "report"]

_log = logging.getLogger("nonconvex")


class Progress(NamedTuple):
    """What one start of a fit has reached.

    Attributes
    ----------
    name : str
        Which start it is, such as "restart 3"; empty if there is one only.
    unit : str
        "iteration", "sweep" or "epoch".
    done, most : int
        How many there were, and how many there can be.
    figures : mapping of str to str
        What was measured, as it is to be read.
    seconds : float
        What the last one took, which all starts share.
    stop : str or None
        Why it ended, if it has.
    """

    name: str
    unit: str
    done: int
    most: int
    figures: Mapping[str, str]
    seconds: float
    stop: str | None = None

    def line(self) -> str:
        """Return one line of a log.

        Examples
        --------
        >>> Progress("restart 1", "iteration", 2, 15, {"f": "0.81"}, 0.25).line()
        'restart 1  iteration   2  f 0.81  0.25 s'
        """
        parts = [self.name, f"{self.unit} {self.done:3d}"]
        parts += [f"{name} {value}" for name, value in self.figures.items()]
        parts += [f"{self.seconds:.2f} s", self.stop or ""]
        return "  ".join(filter(None, parts))


def report(progress: Progress) -> None:
    """Log a line, with the progress itself as ``record.progress`` for handlers that draw it."""
    _log.info("%s", progress.line(), extra={"progress": progress})
