"""The job that measures a published model, run in this process, against numpy."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from nonconvex.commands.factorization import evaluate_job
from nonconvex.pipeline.factorization.config import FactorizationConfig

CONFIG = """
prepared.path = "{root}/prepared"
output.path = "{root}/runs"
"""


@pytest.fixture(scope="module")
def root(films):
    return films.root


@pytest.fixture(scope="module")
def job(run_job, root, tmp_path_factory):
    """Run the job; return its exit status, what it printed, the last line of it, and its log."""
    config = tmp_path_factory.mktemp("evaluation") / "config.toml"
    config.write_text(CONFIG.format(root=root))
    return lambda *overrides: run_job(evaluate_job, FactorizationConfig, config, *overrides)


def rows_of(path):
    return pq.read_table(path).to_pylist()


def errors_by_hand(model, test):
    """R̂ − R of test ratings, from the files of a model alone."""
    (metadata,) = (json.loads(file.read_text()) for file in (model / "metadata").glob("part-*"))
    sides = [
        {row["id"]: (row["bias"], np.array(row["features"])) for row in rows_of(model / name)}
        for name in ("userFactors", "itemFactors")
    ]
    zero = (0.0, np.zeros(3))
    errors = []
    for row in test:
        (b_u, g_u), (b_i, g_i) = (
            side.get(row[name], zero) for side, name in zip(sides, ("user", "item"), strict=True)
        )
        errors.append(metadata["globalBias"] + b_u + b_i + g_u @ g_i - row["rating"])
    return np.array(errors)


def test_the_published_model_is_measured_as_by_hand(job, root, tmp_path):
    status, printed, outcome, log = job(f"evaluation.report={tmp_path}/report.json")
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
    report = json.loads((tmp_path / "report.json").read_text())
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
    job(override).refused(status, message)


def test_a_model_that_may_have_seen_the_test_is_measured_with_a_warning(job, films, spark):
    films.prepare(spark, "other", seed=2)
    status, _, _, log = job(f"prepared.path={films.root}/other")
    assert status == 0
    assert "WARNING the model was trained on other ratings or another split" in log
