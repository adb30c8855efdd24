"""Runs of jobs in MLflow, where it is installed, with a store of files."""

import json

import pytest

from nonconvex import tracking
from nonconvex.recommendation import MatrixFactorization
from nonconvex.tracking import TrackingError, log_run


@pytest.fixture(scope="module")
def run(spark, tmp_path_factory):
    """The directory of a run, with its model."""
    rows = [(u, i, float((u * i) % 5)) for u in range(8) for i in range(6)]
    ratings = spark.createDataFrame(rows, "user int, item int, rating double")
    model = MatrixFactorization(rank=1, maxIter=2).fit(ratings)
    directory = tmp_path_factory.mktemp("runs") / "run_id=a"
    model.write().save(str(directory / "model"))
    (directory / "report.html").write_text("<h1>α</h1>", encoding="utf-8")
    overall = {"ratings": 2, "rmse": {"model": 0.5}}
    metrics = {"run_id": "a", "evaluation": {"overall": overall}, "summary": {"history": [1.0]}}
    (directory / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return directory, model, ratings


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_model_metrics_params_and_page(spark, run, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("mlflow.spark")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no other one
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    directory, model, ratings = run
    with mlflow.start_run() as tracked:
        assert log_run(spark, str(directory)) == tracked.info.run_id
    kept = mlflow.get_run(tracked.info.run_id)
    assert kept.data.metrics == {
        "evaluation.overall.ratings": 2.0,
        "evaluation.overall.rmse.model": 0.5,
    }
    assert kept.data.params["userCol"] == "user"
    names = {file.path for file in mlflow.MlflowClient().list_artifacts(tracked.info.run_id)}
    assert {"report.html", "metrics.json"} <= names
    loaded = mlflow.spark.load_model(f"runs:/{tracked.info.run_id}/model")
    one, other = (m.transform(ratings).orderBy("user", "item").collect() for m in (model, loaded))
    assert [row.prediction for row in one] == [row.prediction for row in other]


def test_without_mlflow_it_says_how_to_get_it(spark, run, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(TrackingError, match=r"install it with pip install 'nonconvex\[mlflow\]'"):
        log_run(spark, str(run[0]))
