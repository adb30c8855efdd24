"""The jobs of a night, in their order: the one place that says so.

``nonconvex nightly 2026-11-25`` runs them here, one after the other, and stops at the first that
fails; jobs/nightly_dag.py makes tasks of Airflow of them.
"""

import subprocess
import sys
from collections.abc import Sequence

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chain for a day; return the exit status of the last job that ran."""
    given = sys.argv[1:] if argv is None else argv
    if len(given) != 1:
        print("usage: nonconvex nightly YYYY-MM-DD", file=sys.stderr)
        return 2
    for name in CHAIN:
        command = [sys.executable, "-m", "nonconvex.commands", name, *arguments(name, given[0])]
        status = subprocess.run(command, check=False).returncode
        if status:
            return status
    return 0


def script(name: str) -> str:
    """Return the name of a command as a job, which is that of its script in jobs/."""
    return COMMANDS[name].job or name
