"""Drivers killed while they prepare, train and publish, and two of them at once."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.jobs.test_cluster import model_bits

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs/train_factorization.py"
PHASES = {
    "preparing": (r"rows accepted", r"wrote prepared ratings"),
    "training": (r"iteration   1 ", r"iteration  12 "),
    "publishing": (r"iteration  12 ", r"published "),
}
"""What the log says when each begins and ends."""
MOMENTS = 21

CONFIG = """
[ratings]
path = "{ratings}"

[prepared]
path = "{root}/prepared"
overwrite = true

[factorization]
rank = 4
maxIter = 12
tol = 0.0
checkpointPath = "{root}/checkpoint"
checkpointInterval = 1

[output]
path = "{root}/runs"
keep = 1

[report]
write = false
"""


class Driver:
    """A job in a process group of its own, with its log in a file."""

    def __init__(self, root):
        self._log = root / f"log{time.monotonic_ns()}.txt"
        command = [sys.executable, str(JOB), "--config", str(root / "config.toml")]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
            )

    def wait_for(self, pattern, seconds=240):
        """Wait until the log says something; return when it did, None if the job has ended."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self._log.read_text()):
            if self.process.poll() is not None:
                return None
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.005)
        return time.monotonic()

    def kill(self, *, java):
        """End Python at once, and Java too, or let it notice."""
        with suppress(ProcessLookupError):
            if java:
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def outcome(self):
        """Wait for the end; return the last line that was printed."""
        out, _ = self.process.communicate(timeout=300)
        outcome = json.loads(out.splitlines()[-1])
        return outcome | {"log": self._log.read_text()}


@pytest.fixture
def root(tmp_path, monkeypatch):
    # The jobs are tiny: compiling them is most of the time.
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path / "local"))  # which Spark leaves if killed
    sample = pq.read_table(ROOT / "tests/data/movietweetings/ratings.parquet")
    ratings = tmp_path / "ratings.parquet"
    pq.write_table(sample.slice(0, 5_000), ratings)
    (tmp_path / "config.toml").write_text(CONFIG.format(ratings=ratings, root=tmp_path))
    return tmp_path


def check_published(runs, bits):
    """The pointer is whole, and leads to a whole model with the bits that it must have."""
    run_id = json.loads((runs / "published.json").read_text())["run_id"]
    model = runs / f"run_id={run_id}" / "model"
    sums = json.loads((model / "checksums.json").read_text())["files"]
    for name, said in sums.items():
        assert hashlib.sha256((model / name).read_bytes()).hexdigest() == said["sha256"]
    assert model_bits(model) == bits


def entries(directory):
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(".crc"))


def test_killed_at_any_moment_the_next_run_comes_to_the_same_model(root):
    draw = random.Random(1)
    first = Driver(root)
    seconds = {}
    for phase, (begins, ends) in PHASES.items():
        began = first.wait_for(begins)
        seconds[phase] = first.wait_for(ends) - began
    outcome = first.outcome()
    assert outcome["exit"] == 0, outcome
    bits = model_bits(outcome["model"])
    told = []
    for moment in range(MOMENTS):
        phase = list(PHASES)[moment % len(PHASES)]
        driver = Driver(root)
        assert driver.wait_for(PHASES[phase][0]), driver.outcome()
        time.sleep(draw.uniform(0, seconds[phase]))
        driver.kill(java=draw.random() < 0.5)
        check_published(root / "runs", bits)
        told.append(f"{phase} {entries(root / 'runs')}")
        if phase == "publishing":
            outcome = Driver(root).outcome()
            assert outcome["exit"] == 0, outcome
            check_published(root / "runs", bits)
            run = f"run_id={outcome['run_id']}"
            assert entries(root / "runs") == ["published.json", run], told
            left = [name for name in entries(root) if not name.startswith(("log", "local"))]
            assert left == ["config.toml", "prepared", "ratings.parquet", "runs"], told


def test_of_two_runs_at_once_each_is_published_or_says_why_not(root):
    first, second = Driver(root), Driver(root)
    outcomes = [first.outcome(), second.outcome()]
    done = [one for one in outcomes if one["exit"] == 0]
    assert done, outcomes
    for one in outcomes:
        if one["exit"]:
            assert one["exit"] == 1
            assert re.search(r"another (process|run)|has been since it began", one["error"]), one
            assert "Traceback" not in one["log"], one["log"]
    check_published(root / "runs", model_bits(done[-1]["model"]))
    outcome = Driver(root).outcome()
    assert outcome["exit"] == 0, outcome
    assert entries(root / "runs") == ["published.json", f"run_id={outcome['run_id']}"]
