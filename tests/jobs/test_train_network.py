"""The jobs that train a network and predict with it, run in this process."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nonconvex.commands.network import train_network_job
from nonconvex.commands.predict import predict_job
from nonconvex.neural_network import MultilayerPerceptronClassificationModel
from nonconvex.pipeline.config import load
from nonconvex.pipeline.network.config import NetworkConfig
from nonconvex.pipeline.runs import POINTER
from nonconvex.pipeline.sections import PredictionConfig
from nonconvex.recommendation import MatrixFactorization
from tests.factories import flowers
from tests.jobs.cluster import ROOT

TRAIN = """
split = {{ validation = 0.2, test = 0.2 }}
network = {{ layers = [5], maxIter = 30, learningRate = 0.05, numRestarts = 2 }}
output.path = "{root}/runs"
[examples]
path = "{root}/flowers.csv"
task = "classification"
label = "kind"
invalid = "reject"
"""
PREDICT = """
model.path = "{root}/runs"
table.path = "{root}/flowers.csv"
predictions = {{ invalid = "skip", keep = ["kind"] }}
output.path = "{root}/predictions"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    table = flowers(240)
    table.loc[7, "b"] = np.nan
    table.to_csv(root / "flowers.csv", index=False)
    (root / "train.toml").write_text(TRAIN.format(root=root))
    (root / "predict.toml").write_text(PREDICT.format(root=root))
    return root


@pytest.fixture(scope="module")
def job(run_job, root):
    """Run a job with a configuration in `root`."""
    return lambda main, kind, config, *overrides: run_job(main, kind, root / config, *overrides)


@pytest.fixture(scope="module")
def trained(job):
    status, printed, outcome, log = job(train_network_job, NetworkConfig, "train.toml")
    assert status == 0, outcome
    return printed, outcome, log


def test_what_is_printed_and_reported(trained):
    printed, outcome, _ = trained
    text = "\n".join(printed)
    assert printed[0].startswith("network 3-")
    title = "restart epoch f accuracy validation loss validation accuracy stopped"
    assert " ".join(printed[1].split()) == title
    assert sum(line.startswith(("0 * ", "1 * ")) for line in printed) == 1
    metrics = outcome["metrics"]
    accuracy, constant = (metrics[name]["accuracy"] for name in ("model", "baseline"))
    assert accuracy > 0.9 > 0.6 > constant
    assert f"model                  {accuracy:.4f}" in text
    assert f"share of each class    {constant:.4f}" in text
    assert f"on {outcome['rows']['test']} test rows" in text
    assert printed[-2:] == [f"model: {outcome['model']}", f"report: {outcome['report']}"]
    html = Path(outcome["report"]).read_text()
    for text in ("Confusion", "rejected: b is null", f"{accuracy:.4f}", outcome["run_id"]):
        assert text in html, text
    assert outcome["rows"]["rejected"] == 1
    assert sum(outcome["rows"].values()) == 240


def test_what_is_written(trained, root, spark):
    directory = Path(trained[1]["model"]).parent
    assert json.loads((root / "runs" / POINTER).read_text()) == {"run_id": trained[1]["run_id"]}
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics["evaluation"]["model"]["confusionMatrix"]
    assert len(metrics["summary"]["restarts"]) == 2
    [rejected] = spark.read.parquet(str(directory / "rejected")).collect()
    assert rejected.reason == "b is null, NaN, infinite or no number"
    assert rejected.b is None or rejected.b == ""
    resolved = load(NetworkConfig, directory / "config.toml")
    assert resolved.network["batchSize"] == 128
    assert resolved.network["layers"] == [5]
    model = MultilayerPerceptronClassificationModel.load(trained[1]["model"])
    assert model.labels == ["iris", "lily", "rose"]


def test_predictions_are_those_of_the_model(trained, job, root, spark):
    status, _, outcome, _ = job(predict_job, PredictionConfig, "predict.toml")
    assert status == 0, outcome
    assert outcome["rows"] == 239, "one row has no number and is skipped"
    assert outcome["model"] == trained[1]["model"]
    table = spark.read.parquet(f"{root}/predictions/predictions")
    added = ("prediction", "predictedLabel", "probability", "rawPrediction")
    assert table.columns == ["kind", *added]
    assert table.where("kind = predictedLabel").count() > 0.9 * 239
    again = partial(job, predict_job, PredictionConfig, "predict.toml")
    again().refused(3, "this job has written to")
    broken = again("output.overwrite=true", 'predictions.invalid="error"')
    broken.refused(3, "null, NaN or infinite in some rows")
    assert spark.read.parquet(f"{root}/predictions/predictions").count() == 239, "nothing is lost"


def test_a_factorization_predicts_a_table_of_text(job, root, spark):
    rows = [(1, 10, 4.0), (1, 11, 2.0), (2, 10, 5.0)]
    ratings = spark.createDataFrame(rows, ["user", "item", "rating"])
    model = MatrixFactorization(rank=1, maxIter=1).fit(ratings)
    model.write().overwrite().save(f"{root}/factorization")
    (root / "pairs.csv").write_text("user,item\n1,10\n9,11\n")
    overrides = [f'model.path="{root}/factorization"', f'table.path="{root}/pairs.csv"']
    overrides += ["predictions.keep=[]", f'output.path="{root}/ratings"']
    about_features = job(predict_job, PredictionConfig, "predict.toml", *overrides)
    about_features.refused(2, "is about the features of a network")
    (root / "pairs.toml").write_text(PREDICT.format(root=root).replace('invalid = "skip", ', ""))
    status, _, outcome, _ = job(predict_job, PredictionConfig, "pairs.toml", *overrides)
    assert status == 0, outcome
    found = sorted(row[0] for row in spark.read.parquet(f"{root}/ratings/predictions").collect())
    expected = model.transform(spark.createDataFrame([(1, 10), (9, 11)], ["user", "item"]))
    assert found == sorted(row.prediction for row in expected.collect())


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        (["network.layer=[3]"], 2, "unknown key network.layer; did you mean network.layers?"),
        (["split.validation=0", "network.patience=3"], 2, "patience=3 needs validation rows; set"),
        (["network.batchSize=0"], 2, "network: batchSize must be an integer ≥ 1, got 0"),
        (["network.featuresCol=a"], 2, "unknown key network.featuresCol"),
        (["examples.task=ranking"], 2, "examples.task must be 'classification' or 'regression'"),
        (['examples.label=["a","b"]'], 2, "examples.label must be one column for a class"),
        (["split.test=1.0"], 2, "test must be a fraction in [0, 1), got 1.0"),
        (["examples.path=no/such.csv"], 3, "there is nothing at no/such.csv"),
        (["examples.label=sort"], 3, "there is no column 'sort' in "),
        (["examples.invalid=error"], 3, "1 of the 240 rows of "),
        (["network.layers=[3,5,4]"], 2, "layers=[3, 5, 4] begins with the 3 features and"),
    ],
)
def test_bad_input_publishes_nothing(trained, job, root, overrides, status, message):
    del trained
    before = (root / "runs" / POINTER).read_text(), len(list((root / "runs").iterdir()))
    job(train_network_job, NetworkConfig, "train.toml", *overrides).refused(status, message)
    assert before == ((root / "runs" / POINTER).read_text(), len(list((root / "runs").iterdir())))


@pytest.mark.parametrize("name", ["digits", "diabetes"])
def test_the_shipped_configurations_are_valid(name):
    pytest.importorskip("sklearn")
    config = load(NetworkConfig, ROOT / "conf" / f"{name}.toml")
    assert config.examples.path == f"sklearn:{name}"
    assert load(PredictionConfig, ROOT / "conf" / "predict.toml").model.path
