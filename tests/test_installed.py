"""The package as others get it: its version, its files, and the first minutes with a wheel."""

import json
import os
import re
import sys
import time
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.processes import completed

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONSTRAINTS = ROOT / "constraints.txt"


def test_constraints_pin_a_version_that_is_allowed_of_every_dependency():
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *(one for extra in extras.values() for one in extra)]
    for needed in map(Requirement, asked):
        if needed.name == PROJECT["name"]:
            continue
        pinned = [pin for pin in pins if pin.name == needed.name]
        assert pinned, f"{needed.name} has no line in {CONSTRAINTS.name}"
        for pin in pinned:
            [one] = pin.specifier
            assert one.operator == "==", pin
            assert needed.specifier.contains(one.version), f"{pin}, but pyproject says {needed}"


def run(*command, cwd, **settings):
    """Run a command away from the clone and from its environment."""
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYSPARK", "SPARK"))
    }
    done = completed(*command, cwd=cwd, env=clean | settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """A Python that builds without asking an index again."""
    place = tmp_path_factory.mktemp("builder")
    run(sys.executable, "-m", "venv", place, cwd=place)
    python = place / "bin" / "python"
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    run(python, "-m", "pip", "install", "-q", *needed["requires"], "twine", "build", cwd=place)
    return python


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A copy of the tracked files, without .git."""
    place = tmp_path_factory.mktemp("copies") / "copy"
    files = run("git", "ls-files", cwd=ROOT).splitlines()
    for name in files:
        if (ROOT / name).exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes((ROOT / name).read_bytes())
    return place


@pytest.fixture(scope="module")
def wheel(builder, tracked, tmp_path_factory):
    place = tmp_path_factory.mktemp("dist")
    run(builder, "-m", "build", "-q", "--no-isolation", "-o", place, tracked, cwd=place)
    assert run(builder, "-m", "twine", "check", "--strict", *place.iterdir(), cwd=place)
    [found] = place.glob("*.whl")
    return found


@pytest.mark.thorough
def test_the_version_is_that_of_the_newest_tag(builder, tracked, tmp_path):
    def version(place):
        found = run(builder, "-m", "setuptools_scm", cwd=place)
        return found.splitlines()[-1]

    def git(*words, at=tracked):
        names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return run("git", *names, *words, cwd=at)

    assert version(tracked) == "0.1.dev0"
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    assert re.fullmatch(r"0\.1\.dev1\+g[0-9a-f]+", version(tracked))
    git("tag", "a-tag-of-another-kind-1")
    assert version(tracked).startswith("0.1.dev1+g")
    git("tag", "v0.1.0")
    assert version(tracked) == "0.1.0"
    (tmp_path / "archive").mkdir()
    git("archive", "-o", tmp_path / "archive.tar", "HEAD")
    run("tar", "-xf", tmp_path / "archive.tar", cwd=tmp_path / "archive")
    assert version(tmp_path / "archive") == "0.1.0"
    git("commit", "-q", "--allow-empty", "-m", "second")
    assert version(tracked).startswith("0.1.1.dev1+g")
    git("clone", "-q", "--depth", "1", "--no-tags", f"file://{tracked}", "shallow", at=tmp_path)
    assert version(tmp_path / "shallow").startswith("0.1.dev1+g")


@pytest.mark.thorough
def test_ten_titles_from_a_wheel(wheel, tmp_path):
    """The walk of docs/pipelines.md, in a clean environment away from the clone."""
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    pip = [tmp_path / "env" / "bin" / "python", "-m", "pip", "install", "-q"]
    run(*pip, f"{wheel}[report]", "-c", CONSTRAINTS, cwd=tmp_path)
    sample = ROOT / "tests" / "data" / "movietweetings"
    for name in ("ratings.parquet", "titles.csv"):
        (tmp_path / name).write_bytes((sample / name).read_bytes())
    page = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    [walk] = re.findall(r"^```bash\n(nonconvex init .*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    busy, started = os.getloadavg()[0], time.perf_counter()
    path = f"{tmp_path / 'env' / 'bin'}:{os.environ['PATH']}"
    told = [
        run("bash", "-c", line, cwd=tmp_path, PATH=path)
        for line in walk.splitlines()
        if line.strip()
    ]
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s from the table to ten titles; {busy:.1f} cores were busy before")
    _, checked, trained, lists, served = told
    assert json.loads(checked.splitlines()[-1])["problems"] == []
    assert "α + biases" in trained
    titles = lists.partition("why the first")[0].splitlines()[2:]
    assert sum(line.strip() != "" for line in titles) == 10
    assert "The Shawshank Redemption" in lists
    assert json.loads(served.splitlines()[-1])["users"] > 19000
