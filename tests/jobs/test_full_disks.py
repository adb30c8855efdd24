"""A disk that is full while a job prepares, saves a checkpoint or publishes."""

import json
import os
import subprocess
import tempfile
from contextlib import contextmanager

import pytest

from nonconvex.commands.factorization import train_job
from nonconvex.pipeline.factorization.config import FactorizationConfig
from tests.jobs.cluster import ROOT, model_bits

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk"),
]

CONFIG = """
ratings.path = "{ratings}"
prepared.path = "{prepared}"
output.path = "{output}"
report.write = false
[factorization]
rank = 8
maxIter = 4
tol = 0.0
checkpointPath = "{checkpoint}"
checkpointInterval = 1
"""


@pytest.fixture
def disk(tmp_path):
    """A disk of 16 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(place)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.decode()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def filled(disk, free):
    """Leave so many bytes free."""
    about = os.statvfs(disk)
    filler = disk / "filler"
    with filler.open("wb") as file:
        left = about.f_bavail * about.f_frsize - free
        file.write(b"\0" * left)
    yield
    filler.unlink()


@pytest.fixture
def train(run_job, tmp_path):
    def train(**places):
        where = {name: tmp_path / name for name in ("prepared", "checkpoint", "output")} | places
        ratings = ROOT / "tests/data/movietweetings/ratings.parquet"
        config = tmp_path / "config.toml"
        config.write_text(CONFIG.format(ratings=ratings, **where))
        ended = run_job(train_job, FactorizationConfig, config)
        return ended.outcome | {"log": ended.log}

    return train


def refused(outcome):
    """The outcome is one sentence about the disk, without a traceback."""
    assert outcome["exit"] == 1
    assert "No space left on device" in outcome["error"], outcome["error"]
    assert "free some space, and start the job again" in outcome["error"]
    assert "\n" not in outcome["error"]
    assert "Traceback" not in outcome["log"]


def names(place):
    return sorted(entry.name for entry in place.iterdir() if not entry.name.endswith(".crc"))


@pytest.mark.parametrize("free", [0, 50_000, 1_000_000])
def test_while_preparing(train, disk, free):
    with filled(disk, free):
        refused(train(prepared=disk / "prepared"))
        assert names(disk) == ["filler"]
    outcome = train(prepared=disk / "prepared")
    assert outcome["exit"] == 0, outcome


@pytest.mark.parametrize("free", [0, 50_000])
def test_of_temporary_files_while_preparing(train, disk, free, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    with filled(disk, free):
        outcome = train()
        assert (outcome["exit"], outcome["error"]) == (
            1,
            f"the temporary directory {disk} cannot be written: No space left on device: "
            "free some space there, or name another one by TMPDIR",
        )
        assert "Traceback" not in outcome["log"]
        assert names(disk) == ["filler"]
    assert train()["exit"] == 0


@pytest.mark.parametrize("checkpoints", [0.5, 1.5])
def test_while_a_checkpoint_is_saved(train, disk, checkpoints, tmp_path):
    whole = train(output=tmp_path / "others")
    place, size = disk / "checkpoint", 1_050_000
    with filled(disk, int(checkpoints * size)):
        refused(train(checkpoint=place))
        assert names(place) == ["iteration=1"] * (checkpoints > 1)
    outcome = train(checkpoint=place)
    assert outcome["exit"] == 0, outcome
    assert ("continuing after iteration 1" in outcome["log"]) == (checkpoints > 1)
    assert model_bits(outcome["model"]) == model_bits(whole["model"])


@pytest.mark.parametrize("free", [0, 100_000, 1_000_000])
def test_while_publishing(train, disk, free):
    runs = disk / "runs"
    first = train(output=runs)
    with filled(disk, free):
        refused(train(output=runs))
        assert json.loads((runs / "published.json").read_text())["run_id"] == first["run_id"]
        assert names(runs) == ["published.json", f"run_id={first['run_id']}"]
    second = train(output=runs)
    assert second["exit"] == 0, second
    assert model_bits(first["model"]) == model_bits(second["model"])
