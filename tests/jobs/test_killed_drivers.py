"""Drivers killed while they prepare, train and publish, and two of them at once."""

import hashlib
import json
import os
import random
import re
import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.jobs.cluster import model_bits
from tests.jobs.drivers import Driver, place_for_runs, wait_for_processes

pytestmark = pytest.mark.thorough

STEPS = {
    "preparing": [r"rows accepted", r"users in", r"wrote prepared ratings"],
    "training": [rf"iteration {number:3d} " for number in range(1, 13)],
    "publishing": [r"iteration  12 ", r"published "],
}
"""What the log says on the way of each phase."""
PARTS = 7
"""Each kills one driver in each phase: 21 moments."""
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
        driver = Driver(root)
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


def leftovers(root):
    """Files that only someone who is writing needs."""
    hidden = [path for path in root.rglob(".*") if path.suffix != ".crc"]
    sums = [path for path in root.rglob(".*.crc") if not path.with_name(path.name[1:-4]).exists()]
    return hidden + sums + list(root.rglob("_temporary"))


@pytest.mark.parametrize("part", range(PARTS))
def test_killed_at_any_moment_the_next_run_comes_to_the_same_model(root, undisturbed, part):
    runs, bits, draw = root / "runs", undisturbed.bits, random.Random(part)
    if part % 2:  # else nothing is published yet
        shutil.copytree(undisturbed.runs, runs)
    told = []
    for phase, steps in STEPS.items():
        driver, step = Driver(root), draw.randrange(len(steps) - 1)
        assert driver.wait_for(steps[step]), driver.outcome()
        time.sleep(draw.uniform(0, undisturbed.seconds[phase][step]))
        driver.kill(java=draw.random() < 0.5)
        if part % 2 or (runs / "published.json").exists():
            check_published(runs, bits)
        told.append(f"killed while {phase}: {everything(root)}")
    outcome = Driver(root).outcome()
    assert outcome["exit"] == 0, (outcome, told)
    check_published(runs, bits)
    print(*told, sep="\n")
    assert entries(runs) == ["published.json", f"run_id={outcome['run_id']}"], told
    assert set(everything(root)) == WHOLE, told
    assert not leftovers(root), told
    wait_for_processes()
    print(entries(Path(os.environ["TMPDIR"])))


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
