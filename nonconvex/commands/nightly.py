"""The jobs of a night, in their order: the one place that says so.

``nonconvex nightly 2026-11-25`` runs them here, one after the other, and stops at the first that
fails; jobs/nightly_dag.py makes tasks of Airflow of them.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from signal import SIGINT, SIGTERM
from types import FrameType

from nonconvex.commands.__main__ import COMMANDS

CHAIN = {
    "train": ["--config", "conf/nightly.toml", "--run-date", "{run_date}"],
    "evaluate": ["--config", "conf/nightly.toml", "--run-date", "{run_date}"],
    "recommend": ["--config", "conf/nightly_recommend.toml"],
}
"""Each command, and its arguments."""


def arguments(name: str, run_date: str) -> list[str]:
    """Return the arguments of a command of the chain for a day."""
    return [argument.format(run_date=run_date) for argument in CHAIN[name]]


def run_night(argv: Sequence[str] | None = None) -> int:
    """Run the chain for a day; return the exit status of the last job that ran.

    SIGTERM and Ctrl-C are passed on to the job that is running, as SIGTERM, and waited for.
    """
    given = sys.argv[1:] if argv is None else argv
    if len(given) != 1:
        print("usage: nonconvex nightly YYYY-MM-DD", file=sys.stderr)
        return 2
    chain = _Chain()
    before = {number: signal.signal(number, chain.stop) for number in (SIGINT, SIGTERM)}
    try:
        for name in CHAIN:
            command = [sys.executable, "-m", "nonconvex.commands", name, *arguments(name, given[0])]
            status = chain.run(command)
            if status:
                return status
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Chain:
    """The job that is running, to which signals are passed on."""

    def __init__(self) -> None:
        self._job: subprocess.Popen[bytes] | None = None
        self._asked = 0  # the exit status to end with, once a signal came

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on."""
        self._asked = 128 + number
        if self._job is not None:
            self._job.terminate()

    def run(self, command: list[str]) -> int:
        """Run a job, unless a signal came before; return its exit status as a shell has it."""
        if self._asked:
            return self._asked
        self._job = subprocess.Popen(command)
        if self._asked:  # meanwhile
            self._job.terminate()
        status = self._job.wait()
        return 128 - status if status < 0 else status


def script(name: str) -> str:
    """Return the name of a command as a job, which is that of its script in jobs/."""
    return COMMANDS[name].job or name
