"""Training jobs as processes of their own, and places for them that leave nothing elsewhere."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest

from tests.jobs.cluster import ROOT

JOB = ROOT / "jobs/train_factorization.py"

CONFIG = """
ratings.path = "{ratings}"
split.test = 0.1
prepared = {{path = "{root}/prepared", overwrite = true}}
output = {{path = "{root}/runs", keep = 1}}
report.write = false
[factorization]
rank = 4
maxIter = 12
tol = 0.0
checkpointPath = "{root}/checkpoint"
checkpointInterval = 1
"""


class Driver:
    """A job in a process group of its own, with its log in a file.

    Under spark-submit that is Java's log, and all that Python writes is printed.
    """

    def __init__(self, root, *more, before=(sys.executable,), **environment):
        self._log = root / f"log{time.monotonic_ns()}.txt"
        self._out = self._log.with_suffix(".out")
        self._runs, self._earlier = root / "runs", set(root.glob("runs/run_id=*"))
        command = [*before, str(JOB), "--config", str(root / "config.toml"), *more]
        with self._log.open("w") as log, self._out.open("w") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=log,
                start_new_session=True,
                env=os.environ | environment,
            )

    def wait_for(self, pattern, seconds=600):
        """Wait until the log, or the path of a file of its run, has something.

        Returns when it did, None if the job has ended.
        """
        end = time.monotonic() + seconds
        while not re.search(pattern, self.log() + "\n".join(self._files())):
            if self.process.poll() is not None:
                return None
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.01)
        return time.monotonic()

    def log(self):
        """Return what it has logged and printed."""
        return self._log.read_text() + self._out.read_text()

    def _files(self):
        """Return the paths in the directory of its run."""
        mine = set(self._runs.glob("run_id=*")) - self._earlier
        return [str(path) for run in mine for path in run.glob("*")]

    def kill(self, *, java):
        """End Python at once, and Java too, or let it notice."""
        with suppress(ProcessLookupError):
            if java:
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def outcome(self):
        """Wait for the end; return the last line that was printed."""
        self.process.wait(600)
        outcome = json.loads(self._out.read_text().splitlines()[-1])
        return outcome | {"log": self.log()}


@contextmanager
def place_for_runs(root):
    """Write what a job needs; what Java, Python and Spark leave if killed goes elsewhere."""
    sample = pq.read_table(ROOT / "tests/data/movietweetings/ratings.parquet")
    ratings = root / "ratings.parquet"
    pq.write_table(sample.slice(0, 5_000), ratings)
    (root / "config.toml").write_text(CONFIG.format(ratings=ratings, root=root))
    with (
        TemporaryDirectory(prefix="nc", ignore_cleanup_errors=True) as own,
        pytest.MonkeyPatch.context() as patch,
    ):
        options = f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Djava.io.tmpdir={own}"
        patch.setenv("JAVA_TOOL_OPTIONS", options)  # compiling tiny jobs is most of the time
        patch.setenv("TMPDIR", own)
        patch.setenv("SPARK_LOCAL_DIRS", own)
        yield root


def wait_for_processes():
    """Wait until no process is left of the drivers that were killed, nor of their workers."""
    mine = f"TMPDIR={os.environ['TMPDIR']}\0".encode()
    end, left = time.monotonic() + 60, True
    while left:
        left = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mine in environment.read_bytes():
                    left.append(environment.parent.name)
        assert time.monotonic() < end, left
        time.sleep(0.1)
