"""SIGTERM, by which schedulers stop a job, raises an exception as Ctrl-C does.

Some send it to the whole process group, where others forward it again.  So a SIGTERM soon after a
signal is part of it, and only a later one is a second one.  A fit defers the first one: see
`nonconvex.distributed.checkpoints.Interruption`.

What is raised in a finalizer is dropped by Python: a signal that comes just then is sent again.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TOGETHER = 2.0
"""Seconds after a signal in which a SIGTERM is part of it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, where no fit defers it."""

    number = signal.SIGTERM


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """Return what a shell reports of a program that the signal ended: 130 or 143."""
    return 128 + int(getattr(interrupt, "number", signal.SIGINT))


class Termination:
    """The handler of SIGTERM in a job, which calls `before` and raises `Terminated`."""

    def __init__(self) -> None:
        self.before: Callable[[], object] | None = None
        self.asked, self._since = False, -TOGETHER
        self.dropped: KeyboardInterrupt | None = None  # whose signal is to be sent again

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise Terminated, unless the signal is part of the one before."""
        now = time.monotonic()
        if now - self._since < TOGETHER and self.dropped is None:
            return
        self.asked, self._since, self.dropped = True, now, None
        try:
            if self.before is not None:
                self.before()
        finally:
            raise Terminated("terminated")

    @staticmethod
    def behind(error: BaseException | None) -> KeyboardInterrupt | None:
        """Return the exception of a signal during which another was raised, as in a cleanup."""
        while error is not None and not isinstance(error, KeyboardInterrupt):
            error = error.__context__
        return error

    def send_again(self, interrupt: KeyboardInterrupt) -> None:
        """Send the signal of a dropped exception soon; take no lock, as any may be held here."""
        self.dropped = interrupt

        def send() -> None:
            time.sleep(0.05)  # until the finalizer has ended; if it has not, there is a next time
            if self.dropped is interrupt:  # and the job has not ended meanwhile
                os.kill(os.getpid(), getattr(interrupt, "number", signal.SIGINT))

        _thread.start_new_thread(send, ())


@contextmanager
def terminating() -> Iterator[Termination]:
    """Raise Terminated at SIGTERM, in the main thread, as Ctrl-C raises KeyboardInterrupt."""
    termination = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield termination
        return
    before, ignored = signal.signal(signal.SIGTERM, termination.handle), sys.unraisablehook

    def dropped(found: sys.UnraisableHookArgs) -> None:
        if isinstance(found.exc_value, KeyboardInterrupt):
            termination.send_again(found.exc_value)
        else:
            ignored(found)

    sys.unraisablehook = dropped
    try:
        yield termination
    finally:
        termination.dropped, sys.unraisablehook = None, ignored
        signal.signal(signal.SIGTERM, before)
