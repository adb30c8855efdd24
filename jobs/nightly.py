"""The jobs of a night, in their order: the one place that says so.

python jobs/nightly.py 2026-11-25 runs them here, one after the other, and stops at the first that
fails; jobs/nightly_dag.py makes tasks of Airflow of them.
"""

import subprocess
import sys
from pathlib import Path

JOBS = Path(__file__).resolve().parent

CHAIN = {
    "train_factorization": ["--config", "conf/nightly.toml", "--run-date", "{run_date}"],
    "evaluate": ["--config", "conf/nightly.toml", "--run-date", "{run_date}"],
    "recommend": ["--config", "conf/nightly_recommend.toml"],
}
"""Each job, and its arguments."""


def arguments(job: str, run_date: str) -> list[str]:
    """Return the arguments of a job of the chain for a day."""
    return [argument.format(run_date=run_date) for argument in CHAIN[job]]


def main(argv: list[str]) -> int:
    """Run the chain for a day; return the exit status of the last job that ran."""
    if len(argv) != 1:
        print("usage: python jobs/nightly.py YYYY-MM-DD", file=sys.stderr)
        return 2
    for job in CHAIN:
        command = [sys.executable, str(JOBS / f"{job}.py"), *arguments(job, argv[0])]
        status = subprocess.run(command, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
