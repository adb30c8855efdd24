"""Drivers killed and terminated from preparing to publishing, and two of them at once."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.jobs.cluster import model_bits
from tests.jobs.drivers import Driver, place_for_runs, wait_for_processes

STEPS = {
    "preparing": [r"rows accepted", r"users in", r"wrote prepared ratings"],
    "training": [rf"iteration {number:3d} " for number in range(1, 13)],
    "evaluating": [r"predicting ", r"run_id=\S+/model"],
    "writing": [r"run_id=\S+/model", r"run_id=\S+/metrics.json"],
    "reporting": [r"run_id=\S+/metrics.json", r"run_id=\S+/data.json"],
    "publishing": [r"run_id=\S+/data.json", r"published "],
}
"""What the log says, or which files there are, on the way of each phase."""
PARTS = 4
"""Each ends one driver in each of the six phases, by SIGKILL and by SIGTERM: 24 moments."""
REPORT = ["--set", "report.write=true"]
WHOLE = {"config.toml", "prepared", "ratings.parquet", "runs"}
"""What there is when all is done; logs, and what Java and Spark write for themselves, aside."""


@pytest.fixture
def root(tmp_path):
    with place_for_runs(tmp_path):
        yield tmp_path


class Undisturbed(NamedTuple):
    """A run that nobody killed: its runs, the bits of its model, the seconds of each step."""

    runs: Path
    bits: dict
    seconds: dict


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    seconds = {}
    with place_for_runs(tmp_path_factory.mktemp("undisturbed")) as root:
        driver = Driver(root, *REPORT)
        for phase, steps in STEPS.items():
            times = [driver.wait_for(step) for step in steps]
            seconds[phase] = [ends - begins for begins, ends in pairwise(times)]
        outcome = driver.outcome()
    assert outcome["exit"] == 0, outcome
    return Undisturbed(root / "runs", model_bits(outcome["model"]), seconds)


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


def everything(root):
    """What is in the place of runs and, for what ought to vanish, in it."""
    found = {}
    for name in entries(root):
        if not name.startswith("log"):
            found[name] = entries(root / name) if (root / name).is_dir() else None
    return found


def saved(root):
    """The last iteration whose checkpoint is whole."""
    names = [path.name for path in (root / "checkpoint").glob("iteration=*")]
    return max((int(name.removeprefix("iteration=")) for name in names), default=0)


def end(driver, number, draw):
    """End a driver by a signal, and with it Java or not; SIGTERM gives one line."""
    if number == signal.SIGKILL:
        return driver.kill(java=draw.random() < 0.5)
    draw.choice([os.kill, os.killpg])(driver.process.pid, number)
    outcome = driver.outcome()
    assert outcome["exit"] == driver.process.returncode, outcome
    assert outcome["exit"] in (0, 143), outcome  # 0 if it had done all
    assert "\n" not in outcome.get("error", ""), outcome
    assert "Traceback" not in outcome["log"], outcome["log"]
    return None


def iterations(driver):
    """The numbers of the iterations of its model, not of the baselines."""
    return [int(number) for number in re.findall(r"INFO iteration +(\d+) ", driver.log())]


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("part", range(PARTS))
def test_ended_at_any_moment_the_next_run_comes_to_the_same_model(root, undisturbed, part, number):
    runs, bits, draw = root / "runs", undisturbed.bits, random.Random(part)
    if part % 2:  # else nothing is published yet
        shutil.copytree(undisturbed.runs, runs)
    told, last = [], 0
    for phase, steps in [*STEPS.items(), ("nothing", [])]:
        driver = Driver(root, *REPORT)
        if steps:
            step = draw.randrange(len(steps) - 1)
            assert driver.wait_for(steps[step]), driver.outcome()
            time.sleep(draw.uniform(0, undisturbed.seconds[phase][step]))
            end(driver, number, draw)
        else:
            outcome = driver.outcome()
        if part % 2 or (runs / "published.json").exists():
            check_published(runs, bits)
        told.append(f"ended while {phase}: {everything(root)}")
        trained = iterations(driver)
        assert trained == list(range(last + 1, last + 1 + len(trained))), told
        last = saved(root)
    assert outcome["exit"] == 0, (outcome, told)
    print(*told, sep="\n")
    assert entries(runs) == ["published.json", f"run_id={outcome['run_id']}"], told
    assert set(everything(root)) == WHOLE, told
    hidden = [path for path in root.rglob(".*") if path.suffix != ".crc"]
    sums = [path for path in root.rglob(".*.crc") if not path.with_name(path.name[1:-4]).exists()]
    assert not hidden + sums + list(root.rglob("_temporary")), told
    wait_for_processes()
    print(entries(Path(os.environ["TMPDIR"])))


def test_what_was_trained_is_not_trained_again_for_what_comes_after(root):
    draw = random.Random(0)
    for phase, number in [("writing", signal.SIGKILL), ("evaluating", signal.SIGTERM), (None, 0)]:
        driver = Driver(root)
        if phase is not None:
            assert driver.wait_for(STEPS[phase][0]), driver.outcome()
            end(driver, number, draw)
            assert saved(root) == 12
        assert iterations(driver) == (list(range(1, 13)) if phase == "writing" else [])
    outcome = driver.outcome()
    assert (outcome["exit"], outcome["iterations"]) == (0, 12), outcome


@pytest.mark.thorough
def test_of_two_runs_at_once_each_is_published_or_says_why_not(root):
    first, second = Driver(root), Driver(root)
    outcomes = [first.outcome(), second.outcome()]
    done = [one for one in outcomes if one["exit"] == 0]
    assert done, outcomes
    for one in outcomes:
        if one["exit"]:
            assert one["exit"] == 1, one["error"]
            assert re.search(r"another (process|run)|has been since it began", one["error"]), one
            assert "Traceback" not in one["log"], one["log"]
    check_published(root / "runs", model_bits(done[-1]["model"]))
    outcome = Driver(root).outcome()
    assert outcome["exit"] == 0, outcome
    assert entries(root / "runs") == ["published.json", f"run_id={outcome['run_id']}"]
