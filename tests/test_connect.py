"""The estimators over Spark Connect: their contract a second time, and the bits of both sessions.

A process has sessions of one kind, so those of Spark Connect are in a process of their own.  It
runs test_contract.py, and over_connect.py, which compares it with the classic session here.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nonconvex.local import load
from tests.factories import planted_table
from tests.over_connect import FITS, answers, digest, estimator, loaded

pytest.importorskip("grpc", reason="pip install 'nonconvex[connect]'")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def directory(spark, tmp_path_factory):
    """Models of this session, and what they said."""
    path = tmp_path_factory.mktemp("connect")
    data = spark.createDataFrame(planted_table()).cache()
    for name in FITS:
        model = estimator(name).fit(data)
        model.save(str(path / "classic" / name))
        (path / f"{name}.json").write_text(json.dumps(answers(name, model, data)))
    return path


def test_the_contract_holds_over_spark_connect_and_so_do_the_bits(directory):
    environment = {
        "SPARK_REMOTE": "local[2]",
        "SPARK_TESTING": "1",  # a free port
        "NONCONVEX_CLASSIC": str(directory),
        "PYTHONPATH": str(ROOT),
    }
    files = ["tests/estimators/test_contract.py", "tests/over_connect.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *files],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert re.search(r"\d\d passed in", done.stdout), "none is skipped"
    for name in FITS:
        path = directory / "connect" / name
        said = json.loads((directory / f"{name}.json").read_text())
        assert digest(loaded(name, path)) == said["parameters"]
        assert load(str(path))  # without Spark
