"""Ctrl-C during a fit: the iteration is finished, and its state saved, before the fit ends."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any, NoReturn, Self

from nonconvex.distributed.checkpoints import Checkpoints

__all__ = ["Interrupted", "Interruption"]

_log = logging.getLogger("nonconvex")


class Interrupted(KeyboardInterrupt):
    """A fit that was ended by Ctrl-C, after a whole iteration; says how to go on."""


class Interruption:
    """Takes note of SIGINT instead of ending at once; the second one ends at once.

    Signals reach the main thread alone: in another one, and where SIGINT is ignored or not
    handled by Python, this does nothing.

    Examples
    --------
    >>> with Interruption() as interruption:
    ...     interruption.asked
    False
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        """Begin to take note."""
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *about: object) -> None:
        """Leave SIGINT to who had it before."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self._before(number, frame)
            return
        self.asked = True
        _log.warning("interrupted: the iteration is finished first; Ctrl-C again ends at once")

    def end(self, done: str, checkpoints: Checkpoints | None) -> NoReturn:
        """End the fit.

        Parameters
        ----------
        done : str
            The last iteration, such as "iteration 3".
        checkpoints : Checkpoints or None
            Where its state is saved.

        Raises
        ------
        Interrupted
        """
        if checkpoints is None:
            raise Interrupted(
                f"interrupted after {done}, and nothing is saved; with checkpointPath set, the "
                "same fit goes on from where it was interrupted"
            )
        raise Interrupted(
            f"interrupted after {done}, which is saved in {checkpoints.path}; the same fit, run "
            "again, goes on from there"
        )
