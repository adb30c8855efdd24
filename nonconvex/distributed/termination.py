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
    """The handler of signals in a job, which lets `before` run and raises `asked`."""

    def __init__(self) -> None:
        self.before: Callable[[], object] | None = None
        self.asked: KeyboardInterrupt | None = None  # of the last signal
        self.dropped: KeyboardInterrupt | None = None  # whose signal is to be sent again
        self._since = -TOGETHER

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Raise Terminated or KeyboardInterrupt, unless a SIGTERM is part of the signal before."""
        term, now = number == signal.SIGTERM, time.monotonic()
        if term and now - self._since < TOGETHER and self.dropped is None:
            return
        self.asked = Terminated("terminated") if term else KeyboardInterrupt()
        self._since, self.dropped = now, None
        try:
            if self.before is not None:  # in a thread, as this one may be amid a command to Java
                _thread.start_new_thread(self.before, ())
        finally:
            raise self.asked

    def listen(self) -> None:
        """Handle SIGTERM and SIGINT, also where Spark has a handler meanwhile."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self.handle)

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
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    ignored = sys.unraisablehook

    def dropped(found: sys.UnraisableHookArgs) -> None:
        if isinstance(found.exc_value, KeyboardInterrupt):
            termination.send_again(found.exc_value)
        else:
            ignored(found)

    sys.unraisablehook = dropped
    try:
        termination.listen()
        yield termination
    finally:
        termination.dropped, sys.unraisablehook = None, ignored
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: one that Python cannot set
