"""SIGTERM to a training job: to it, its group, Java under spark-submit, and process 1."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.jobs.cluster import ROOT, SPARK_HOME
from tests.jobs.drivers import Driver, place_for_runs, wait_for_processes

LONG = ["--set", "factorization.rank=30", "--set", "factorization.maxIter=100000"]
SUBMIT = [str(SPARK_HOME / "bin/spark-submit"), "--master", "local[1]", "--driver-memory", "1g"]
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable]
NIGHTLY = """
import sys
from nonconvex.commands import nightly
nightly.CHAIN = {"train": ["--config", sys.argv[3], *sys.argv[4:]]}
sys.exit(nightly.run_night(["2026-11-25"]))
"""


@pytest.fixture
def root(tmp_path):
    with place_for_runs(tmp_path):
        yield tmp_path


def is_terminated(driver, root):
    """It finishes the iteration, saves it, says so in one line, and leaves no process."""
    assert driver.wait_for(r"iteration +\d+ ")
    yield
    outcome = driver.outcome()
    assert outcome["exit"] == driver.process.returncode == 143, outcome
    assert outcome["status"] == "error"
    [saved] = [path.name for path in (root / "checkpoint").iterdir()]
    done = int(saved.removeprefix("iteration="))
    assert outcome["error"] == (
        f"terminated after iteration {done}, which is saved in {root}/checkpoint; "
        "run the same fit again to continue from there"
    )
    assert outcome["log"].count("a second SIGTERM ends at once") == 1
    assert "Traceback" not in outcome["log"], outcome["log"]
    wait_for_processes()


def test_it_ends_after_the_iteration_and_another_job_goes_on(root):
    driver = Driver(root, *LONG)
    for _ in is_terminated(driver, root):
        os.killpg(driver.process.pid, signal.SIGTERM)  # Java gets it, too
    done = next((root / "checkpoint").iterdir()).name.removeprefix("iteration=")
    more = f"factorization.maxIter={int(done) + 1}"
    outcome = Driver(root, *LONG[:2], "--set", more).outcome()
    assert (outcome["exit"], outcome["iterations"]) == (0, int(done) + 1)
    assert f"continuing after iteration {done}, from" in outcome["log"]


@pytest.mark.thorough
@pytest.mark.parametrize("to", [os.kill, os.killpg])
@pytest.mark.parametrize("before", [(sys.executable,), SUBMIT])
def test_under_spark_submit_and_alone(root, before, to):
    driver = Driver(root, *LONG, before=before, PYSPARK_DRIVER_PYTHON=sys.executable)
    for _ in is_terminated(driver, root):
        to(driver.process.pid, signal.SIGTERM)


@pytest.mark.thorough
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="only root has namespaces"
)
def test_as_process_1(root):
    driver = Driver(root, *LONG, before=NAMESPACE)
    for _ in is_terminated(driver, root):
        process = driver.process.pid
        [child] = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to", [os.kill, os.killpg])
def test_in_a_night(root, to, number):
    before = [sys.executable, "-c", NIGHTLY]
    driver = Driver(root, *LONG, before=before, PYTHONPATH=str(ROOT))
    if number == signal.SIGTERM or to is os.kill:
        for _ in is_terminated(driver, root):
            to(driver.process.pid, number)
        return
    assert driver.wait_for(r"iteration +\d+ ")  # Ctrl-C, which the job gets first or second
    to(driver.process.pid, number)
    outcome = driver.outcome()
    assert outcome["exit"] == driver.process.returncode
    assert outcome["error"].startswith(("interrupted after", "terminated after"))
    wait_for_processes()
