"""The estimators over Spark Connect: their contract a second time, and the bits of both sessions.

A process has sessions of one kind, so those of Spark Connect are in a process of their own.  It
runs test_contract.py, and over_connect.py, which compares it with the classic session here.
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from nonconvex.distributed.data.prepare import Columns, Rules, prepare_ratings
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.local import load
from tests.factories import planted_table
from tests.over_connect import FITS, THOROUGH, answers, digest, estimator, fit_prepared, loaded
from tests.processes import completed

pytest.importorskip("grpc", reason="pip install 'nonconvex[connect]'")
pytest.importorskip("numba", reason="pip install 'nonconvex[fast]'")
ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "marker", ["not thorough", pytest.param("thorough", marks=[pytest.mark.thorough])]
)
def test_the_contract_holds_over_spark_connect_and_so_do_the_bits(spark, tmp_path, marker):
    path, names = tmp_path, FITS if marker == "thorough" else FITS.keys() - set(THOROUGH)
    data = spark.createDataFrame(planted_table()).cache()
    for name in names:
        model = estimator(name).fit(data)
        model.save(str(path / "classic" / name))
        (path / f"{name}.json").write_text(json.dumps(answers(name, model, data)))
    planted_table().drop(columns="held_out").to_parquet(path / "ratings.parquet")
    source, split = read_source(spark, f"{path}/ratings.parquet"), Split(validation=0.2)
    prepare_ratings(source, f"{path}/prepared", columns=Columns(), rules=Rules(), split=split)
    (path / "prepared.json").write_text(json.dumps(digest(fit_prepared(spark, path))))
    environment = {
        "SPARK_REMOTE": "local[2]",
        "SPARK_TESTING": "1",  # a free port
        "NONCONVEX_CLASSIC": str(path),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider"]
    processes = [["tests/estimators/test_contract.py", "tests/over_connect.py"]]
    if marker == "thorough":  # in a session without files of values too large for a closure
        processes.append(["tests/test_long_sessions.py::test_two_hundred_fits_over_connect"])
    for files in processes:
        done = completed(*command, "-m", marker, *files, env=os.environ | environment, cwd=ROOT)
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert re.search(r"\d passed", done.stdout)
        assert "skipped" not in done.stdout
    for saved in (path / "connect").iterdir():
        said = json.loads((path / f"{saved.name}.json").read_text())
        assert digest(loaded(saved.name, saved)) == said["parameters"]
        assert load(str(saved))  # without Spark
