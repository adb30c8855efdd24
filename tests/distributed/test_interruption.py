"""Ctrl-C is taken note of, and the second one is not put off."""

import signal
import threading

import pytest

from nonconvex.distributed.interruption import Interrupted, Interruption


def test_the_first_is_noted_and_the_second_ends_at_once(caplog):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:  # noqa: PT012
        assert not interruption.asked
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked
        assert "the iteration is finished first; Ctrl-C again ends at once" in caplog.text
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(Interrupted, match="after sweep 3, and nothing is saved; with checkpointPa"):
        interruption.end("sweep 3", None)


def test_what_ignores_it_goes_on_doing_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
        assert not interruption.asked
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
