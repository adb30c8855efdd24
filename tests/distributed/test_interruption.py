"""Ctrl-C and SIGTERM: the first is deferred to the end of an iteration, the second ends at once."""

import signal
import threading
from functools import partial
from queue import SimpleQueue

import pytest

from nonconvex.distributed import termination
from nonconvex.distributed.checkpoints import Interrupted, Interruption
from nonconvex.distributed.runtime import StoppedError
from nonconvex.distributed.termination import Terminated, exit_status, terminating


def test_the_first_is_noted_and_the_second_ends_at_once(caplog):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interruption() as fit:  # noqa: PT012
        assert not fit.asked
        signal.raise_signal(signal.SIGINT)
        assert fit.asked
        assert "the iteration is finished first; Ctrl-C again ends at once" in caplog.text
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(Interrupted, match="after sweep 3, and nothing is saved; with checkpointPa"):
        fit.end("sweep 3", None)


def test_one_that_comes_too_late_for_an_iteration_is_not_lost():
    with pytest.raises(Interrupted, match="interrupted at the end of the fit"), Interruption():
        signal.raise_signal(signal.SIGINT)

    def fail(error):
        signal.raise_signal(signal.SIGINT)
        raise error

    for end in (RuntimeError("SparkContext was shut down"), StoppedError("it was, says Spark")):
        with pytest.raises(Interrupted, match="before the iteration ended"), Interruption():
            fail(end)


def test_what_fails_with_the_signal_is_tried_again():
    """A signal to the group has ended a program that Java had started."""
    tries = []

    def save(number=signal.SIGINT, *, fails=1):
        tries.append(1)
        signal.raise_signal(number) if len(tries) == 1 else None
        if len(tries) <= fails:
            raise OSError("chmod was terminated")

    with pytest.raises(Interrupted), Interruption() as fit:
        fit.attempt(save)
    assert len(tries) == 2
    for number, tried in ((signal.SIGINT, 2), (signal.SIGCHLD, 1)):
        tries.clear()
        with pytest.raises(OSError, match="chmod"), Interruption() as fit:
            fit.attempt(partial(save, number, fails=2))
        assert len(tries) == tried


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""
    now = [100.0]
    monkeypatch.setattr(termination.time, "monotonic", lambda: now[0])
    return now


class TestTermination:
    """SIGTERM in a job."""

    def test_in_a_fit_it_is_deferred_as_ctrl_c_is(self, clock, caplog):
        with pytest.raises(Terminated), terminating(), Interruption() as fit:  # noqa: PT012
            signal.raise_signal(signal.SIGTERM)
            assert "terminated: the iteration is finished first; a second SIGTERM" in caplog.text
            clock[0] += 1.9
            signal.raise_signal(signal.SIGTERM)  # which a group, or who forwards it, has doubled
            with pytest.raises(Interrupted, match="terminated after epoch 2, which is") as raised:
                fit.end("epoch 2", "path")
            assert exit_status(raised.value) == 143
            clock[0] += 0.1
            signal.raise_signal(signal.SIGTERM)

    def test_elsewhere_it_ends_the_job_once(self, clock):
        cancelled = SimpleQueue()
        with terminating() as handler:
            handler.before = lambda: cancelled.put(threading.get_ident())
            with pytest.raises(Terminated) as raised:
                signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            clock[0] += 2
            with pytest.raises(Terminated):
                signal.raise_signal(signal.SIGTERM)
        assert exit_status(raised.value) == 143
        assert exit_status(KeyboardInterrupt()) == 130
        threads = [cancelled.get(timeout=60) for _ in range(2)]
        assert threading.get_ident() not in threads  # it may be amid a command to Java
        assert cancelled.empty()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def test_outside_of_a_job_it_stays_what_it_was(self):
        with Interruption():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_ignores_it_goes_on_doing_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as fit:
            signal.raise_signal(signal.SIGINT)
        assert not fit.asked
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_it_does_nothing():
    before, errors = signal.getsignal(signal.SIGINT), []

    def enter():
        try:
            with Interruption():
                assert signal.getsignal(signal.SIGINT) is before
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert errors == []
