"""The job that measures a published model, run in this process, against numpy."""

import json
import re
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import evaluate
from nonconvex.distributed.data.prepare import prepare_ratings
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.distributed.data.validation import Columns, Rules
from nonconvex.distributed.publication import new_run, publish_run
from nonconvex.factorization_sections import FactorizationConfig
from nonconvex.job import run
from nonconvex.recommendation import MatrixFactorization
from nonconvex.reports import METRICS, metrics_json

CONFIG = """
[prepared]
path = "{root}/prepared"

[output]
path = "{root}/runs"
"""


def prepare(spark, root, target, seed):
    return prepare_ratings(
        read_source(spark, str(root / "ratings.csv")),
        str(root / target),
        columns=Columns(weight="weight"),
        rules=Rules(),
        split=Split("random", validation=0.2, test=0.3, seed=seed),
    )


@pytest.fixture(scope="module")
def root(spark, tmp_path_factory):
    """A published model, and the ratings it was trained on."""
    root = tmp_path_factory.mktemp("evaluation")
    rows = [
        f"{u},i{i},{1 + (u * i + u) % 5},{0.5 + u % 2}"
        for u in range(12)
        for i in range(9)
        if (u + i) % 4
    ]
    (root / "ratings.csv").write_text("\n".join(["user,item,rating,weight", *rows, ""]))
    (root / "config.toml").write_text(CONFIG.format(root=root))
    prepared = prepare(spark, root, "prepared", seed=1)
    model = MatrixFactorization(rank=2, maxIter=2).fitPrepared(prepared)
    with new_run(spark, str(root / "runs")) as this:
        model.write().save(this.model)
        (root / "runs" / f"run_id={this.id}" / METRICS).write_text(
            metrics_json(this.id, prepared, model, None)
        )
    publish_run(spark, str(root / "runs"), this, after=None)
    return root


@pytest.fixture(scope="module")
def job(root):
    """Run the job; return its exit status, what it printed, the last line of it, and its log."""

    def job(*overrides):
        sets = [word for override in overrides for word in ("--set", override)]
        out, log = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(log):
            arguments = ["--config", str(root / "config.toml"), *sets]
            status = run(evaluate.main, FactorizationConfig, description="", argv=arguments)
        *printed, last = out.getvalue().splitlines()
        outcome = json.loads(last)
        assert outcome["exit"] == status
        return status, printed, outcome, log.getvalue()

    return job


def rows_of(path):
    return pq.read_table(path).to_pylist()


def errors_by_hand(model, test):
    """R̂ − R of test ratings, from the files of a model alone."""
    (metadata,) = (json.loads(file.read_text()) for file in (model / "metadata").glob("part-*"))
    sides = [
        {row["id"]: (row["bias"], np.array(row["features"])) for row in rows_of(model / name)}
        for name in ("userFactors", "itemFactors")
    ]
    zero = (0.0, np.zeros(2))
    errors = []
    for row in test:
        (b_u, g_u), (b_i, g_i) = (
            side.get(row[name], zero) for side, name in zip(sides, ("user", "item"), strict=True)
        )
        errors.append(metadata["globalBias"] + b_u + b_i + g_u @ g_i - row["rating"])
    return np.array(errors)


def test_the_published_model_is_measured_as_by_hand(job, root):
    status, printed, outcome, log = job(f"evaluation.report={root}/report.json")
    assert status == 0, outcome
    (model,) = (root / "runs").glob("run_id=*/model")
    assert outcome["model"] == str(model)
    test = rows_of(root / "prepared" / "test")
    errors, weights = errors_by_hand(model, test), np.array([row["weight"] for row in test])
    rmse = np.sqrt(np.average(errors**2, weights=weights))
    assert outcome["metrics"]["rmse"]["model"] == pytest.approx(rmse, rel=1e-6)
    mae = np.average(abs(errors), weights=weights)
    assert outcome["metrics"]["mae"]["model"] == pytest.approx(mae, rel=1e-6)
    assert outcome["metrics"]["ratings"] == len(test)
    report = json.loads((root / "report.json").read_text())
    assert report["overall"] == outcome["metrics"]
    for side in ("user", "item"):
        assert sum(bin["ratings"] for bin in report[f"by_{side}"].values()) == len(test)
    text = "\n".join(printed)
    assert re.search(rf"^model +{rmse:.4f} +{mae:.4f}$", text, re.MULTILINE)
    assert f"on {len(test)} test ratings, predictions not clipped\n" in text
    for side in ("user", "item"):
        title = f"RMSE by the number of training ratings of the {side}"
        assert re.search(rf"^{title}\n +ratings +model +α", text, re.MULTILINE)
    assert printed[-1] == f"model: {model}"
    assert "other ratings" not in log


def test_a_model_by_its_own_path_on_the_validation_ratings(job, root):
    (model,) = (root / "runs").glob("run_id=*/model")
    status, printed, outcome, _ = job(f"evaluation.model={model}", "evaluation.part=validation")
    assert status == 0
    rows = rows_of(root / "prepared" / "validation")
    errors, weights = errors_by_hand(model, rows), np.array([row["weight"] for row in rows])
    rmse = np.sqrt(np.average(errors**2, weights=weights))
    assert outcome["metrics"]["rmse"]["model"] == pytest.approx(rmse, rel=1e-6)
    assert outcome["part"] == "validation"
    assert "validation ratings" in "\n".join(printed)


@pytest.mark.parametrize(
    ("override", "status", "message"),
    [
        ("evaluation.model=no/such", 3, "there is nothing at no/such: train a model first"),
        ("prepared.path=no/such", 3, "there are no prepared ratings at no/such"),
        ("evaluation.part=train", 2, "evaluation.part must be 'test' or 'validation'"),
        ("evaluation.modle=x", 2, "unknown key evaluation.modle; did you mean evaluation.model?"),
    ],
)
def test_bad_input_is_one_sentence(job, override, status, message):
    found, printed, outcome, log = job(override)
    assert found == status
    assert message in outcome["error"]
    assert printed == []
    assert "Traceback" not in log


def test_a_model_that_may_have_seen_the_test_is_measured_with_a_warning(job, root, spark):
    prepare(spark, root, "other", seed=2)
    status, _, _, log = job(f"prepared.path={root}/other")
    assert status == 0
    assert "WARNING the model was trained on other ratings or another split" in log
