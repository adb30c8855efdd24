"""Runs of jobs in MLflow, where it is installed, with a store of files."""

import json
import shutil

import pytest

from nonconvex.pipeline.mlflow import TrackingError, log_run


@pytest.fixture(scope="module")
def run(films, tmp_path_factory):
    """The directory of a run, with its model."""
    directory = tmp_path_factory.mktemp("runs") / "run_id=a"
    [saved] = films.root.glob("runs/run_id=*/model")
    shutil.copytree(saved, directory / "model")
    (directory / "report.html").write_text("<h1>α</h1>", encoding="utf-8")
    overall = {"ratings": 2, "rmse": {"model": 0.5}}
    metrics = {"run_id": "a", "evaluation": {"overall": overall}, "summary": {"history": [1.0]}}
    (directory / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    return directory


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_model_metrics_params_and_page(spark, run, films, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("mlflow.spark")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # mlflow-skinny has no other one
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    with mlflow.start_run() as tracked:
        assert log_run(spark, str(run)) == tracked.info.run_id
    kept = mlflow.get_run(tracked.info.run_id)
    assert kept.data.metrics == {
        "evaluation.overall.ratings": 2.0,
        "evaluation.overall.rmse.model": 0.5,
    }
    assert kept.data.params["userCol"] == "user"
    names = {file.path for file in mlflow.MlflowClient().list_artifacts(tracked.info.run_id)}
    assert {"report.html", "metrics.json"} <= names
    loaded = mlflow.spark.load_model(f"runs:/{tracked.info.run_id}/model")
    ratings = spark.read.parquet(str(films.root / "ratings.parquet"))
    models = films.model, loaded
    one, other = (each.transform(ratings).orderBy("user", "item").collect() for each in models)
    assert [row.prediction for row in one] == [row.prediction for row in other]


def test_without_mlflow_it_says_how_to_get_it(spark, run, monkeypatch):
    monkeypatch.setattr("nonconvex.pipeline.mlflow.find_spec", lambda name: None)
    with pytest.raises(TrackingError, match=r"install it with pip install 'nonconvex\[mlflow\]'"):
        log_run(spark, str(run))
