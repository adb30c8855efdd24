"""Habits of pyspark.ml: streams, columns, keywords, pickles, a picture, and words in a session."""

import datetime
import inspect
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyspark.errors import StreamingQueryException
from pyspark.sql import functions as F

from nonconvex.distributed.columns import ColumnError
from nonconvex.estimators.params import ParamError
from nonconvex.neural_network import (
    MultilayerPerceptronClassificationModel,
    MultilayerPerceptronClassifier,
    MultilayerPerceptronRegressionModel,
    MultilayerPerceptronRegressor,
)
from nonconvex.recommendation import ALS, MatrixFactorization, MatrixFactorizationModel
from tests.processes import completed

QUICK = {"rank": 2, "maxIter": 2}


@pytest.fixture(scope="module")
def model(ratings):
    return MatrixFactorization(**QUICK).fit(ratings)


@pytest.fixture(scope="module")
def network(ratings):
    features = {"featuresCol": ["user", "item"], "labelCol": "held", "maxIter": 1, "layers": [4]}
    labelled = ratings.withColumn("held", F.col("held").cast("int"))
    return MultilayerPerceptronClassifier(**features).fit(labelled)


def predictions(model, frame):
    return model.transform(frame).orderBy("user", "item").toPandas().prediction.to_numpy()


# Streams
def test_streams_are_transformed_and_not_fitted(spark, ratings, model, network, tmp_path):
    ratings.write.parquet(f"{tmp_path}/in")
    stream = spark.readStream.schema(ratings.schema).parquet(f"{tmp_path}/in")
    model.save(f"{tmp_path}/model")
    loaded = MatrixFactorizationModel.load(f"{tmp_path}/model")
    dropping = loaded.copy({loaded.coldStartStrategy: "drop"})
    for number, one in enumerate((model, loaded, dropping, network)):
        name = f"scored{number}"
        query = one.transform(stream).writeStream.format("memory").queryName(name).start()
        try:
            query.processAllAvailable()
        finally:
            query.stop()
        found = spark.table(name).orderBy("user", "item").toPandas().prediction
        np.testing.assert_array_equal(found, predictions(one, ratings))
    for estimator in (MatrixFactorization(), MultilayerPerceptronClassifier()):
        with pytest.raises(ColumnError, match=r"^dataset is a stream, and a fit reads all rows"):
            estimator.fit(stream)


def test_users_of_a_stream_are_folded_in_batch_by_batch(spark, ratings, model, tmp_path):
    new = ratings.withColumn("user", F.col("user") + 10_000)
    new.write.parquet(f"{tmp_path}/in")
    stream = spark.readStream.schema(new.schema).parquet(f"{tmp_path}/in")
    kept = []
    query = stream.writeStream.foreachBatch(
        lambda batch, number: kept.append(model.foldInUsers(batch))
    ).start()
    try:
        query.processAllAvailable()
    except StreamingQueryException as error:
        pytest.fail(str(error))
    finally:
        query.stop()
    users = new.select("user").distinct().count()
    assert kept[-1].userFactors.where("id >= 10000").count() == users


# Columns
def test_columns_are_found_as_spark_finds_them(spark, ratings, model):
    wanted = predictions(model, ratings)
    nested = ratings.select(F.struct("user", "item").alias("who"), "rating", "user", "item")
    for names, data in (
        ({"userCol": "USER", "itemCol": "`item`", "ratingCol": "Rating"}, ratings),
        ({"userCol": "who.user", "itemCol": "who.item"}, nested),
    ):
        fitted = MatrixFactorization(**QUICK, **names).fit(data)
        np.testing.assert_array_equal(predictions(fitted, data), wanted)
    spark.conf.set("spark.sql.caseSensitive", "true")
    try:
        with pytest.raises(ColumnError, match="userCol='USER': there is no such column; there are"):
            MatrixFactorization(userCol="USER").fit(ratings)
    finally:
        spark.conf.unset("spark.sql.caseSensitive")
    with pytest.raises(ColumnError, match="userCol='user': there is no such column"):
        MatrixFactorization().fit(ratings.withColumnRenamed("user", "who"))  # no current_user()
    wide = ratings.select("*", *(F.lit(0).alias(f"filler{number}") for number in range(60)))
    with pytest.raises(ColumnError) as caught:
        MatrixFactorization(userCol="usre").fit(wide)
    assert "the nearest of the 65 columns are user, " in str(caught.value)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("kind", ["double", "float", "date", "binary"])
def test_ids_of_other_types(ratings, model, kind):
    def cast(name):
        if kind == "date":
            return F.date_add(F.lit(datetime.date(2020, 1, 1)), F.col(name).cast("int"))
        text = F.lpad(F.col(name).cast("string"), 6, "0")
        return text.cast("binary") if kind == "binary" else F.col(name).cast(kind)

    data = ratings.select(cast("user").alias("user"), cast("item").alias("item"), "rating")
    fitted = MatrixFactorization(**QUICK).fit(data)
    wanted = "bigint" if kind in ("double", "float") else kind
    assert fitted.userFactors.schema["id"].dataType.simpleString() == wanted
    np.testing.assert_array_equal(predictions(fitted, data), predictions(model, ratings))
    assert fitted.recommendForUserSubset(data.limit(1), 2).count() == 1
    if kind == "double":
        half = data.withColumn("user", F.col("user") + 0.5)
        with pytest.raises(ColumnError, match=r"numbers that are ids must be integers of at most"):
            MatrixFactorization(**QUICK).fit(half)
        dropping = fitted.copy({fitted.coldStartStrategy: "drop"})
        assert dropping.transform(half).count() == 0


# A loaded model
def test_a_loaded_model_evaluates_with_what_it_has(ratings, model, tmp_path, caplog):
    model.save(f"{tmp_path}/model")
    loaded = MatrixFactorizationModel.load(f"{tmp_path}/model")
    assert loaded.evaluate(ratings, k=3) == model.evaluate(ratings, k=3, exclude=None)
    assert "the lists may hold pairs of training, which a loaded model does not" in caplog.text
    with pytest.raises(ValueError, match="exclude='train' needs the pairs of training"):
        loaded.evaluate(ratings, exclude="train")


# Pickles
def test_models_and_estimators_are_pickled(ratings, model, network):
    for one in (model, network, MatrixFactorization(rank=3), ALS(alpha=2.0)):
        again = pickle.loads(pickle.dumps(one))
        assert type(again) is type(one)
        assert again.uid == one.uid
        assert again.extractParamMap() == one.extractParamMap()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(predictions(again, ratings), predictions(model, ratings))
    assert isinstance(pickle.loads(pickle.dumps(network)), MultilayerPerceptronClassificationModel)


# Words
def test_params_are_explained_in_groups():
    text = MatrixFactorization(rank=7).explainParams()
    groups = [line for line in text.splitlines() if not line.startswith(" ")]
    assert groups == ["data:", "model:", "loop:", "output:", "execution:", "solver:"]
    assert "  rank: number K of factors" in text
    assert "current: 7)" in text
    lines = text.splitlines()
    assert len(lines) == len(MatrixFactorization().params) + len(groups)


def test_the_help_of_an_accessor_shows_no_type_of_nothing():
    assert str(inspect.signature(MatrixFactorization.getRank)) == "(self)"
    assert str(inspect.signature(MatrixFactorization.setRank)) == "(self, value)"
    assert inspect.getdoc(MatrixFactorization.setRank).startswith("Set rank: number K of factors")


def test_the_length_of_lists_has_one_value(model):
    assert model.recommendForAllUsers(numItems=1).count() == model.recommendForAllUsers(1).count()
    with pytest.raises(ParamError, match="numItems and n are one argument, got both; leave n out"):
        model.recommendForAllUsers(2, n=3)
    with pytest.raises(ValueError, match="numUsers must be an integer ≥ 1, got None"):
        model.recommendForAllItems()


def test_a_fit_is_drawn(model, network, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    for one, unit, error in ((model, "iteration", "RMSE"), (network, "epoch", "loss")):
        axes = one.summary.plot()
        [line] = axes.lines
        assert len(line.get_ydata()) == len(one.summary.restarts[0].history) / (1 + (one is model))
        assert line.get_ydata()[-1] == one.summary.objectiveHistory[-1]
        assert (axes.get_xlabel(), axes.get_ylabel()) == (unit, "objective f")
        _, given = pyplot.subplots()
        assert one.summary.plot(given) is given
        history = [{**step, "validation_rmse": 0.0} for step in one.summary.restarts[0].history]
        start = replace(one.summary.restarts[0], history=history)
        exact = replace(one.summary, restarts=[start, replace(start, restart=1)])
        exact.plot(given)
        assert given.figure.axes[-1].get_ylabel() == f"validation {error} (dashed)"
        labels = [text.get_text() for text in given.get_legend().get_texts()]
        assert labels[-2:] == ["other starts", "start 0, the best"]
        assert given.lines[-1].get_markevery() == [getattr(start, unit) - 1]
        renderer = axes.figure.canvas.get_renderer()
        assert axes.title.get_window_extent(renderer).width < axes.figure.bbox.width
        pyplot.close("all")
    monkeypatch.setattr("nonconvex.estimators.display.find_spec", lambda name: None)
    advice = r"nothing, as matplotlib is not installed: pip install 'nonconvex\[report\]'$"
    with pytest.raises(ImportError, match=advice):
        model.summary.plot()


def test_workers_are_this_python(tmp_path):
    """In a session that is not ours, with another python3 first in the path."""
    other = tmp_path / "python3"
    other.write_text("#!/bin/sh\nexit 9\n")
    other.chmod(0o755)
    script = """
from pyspark.sql import SparkSession
from nonconvex.recommendation import MatrixFactorization
spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", False).getOrCreate()
data = spark.range(40).selectExpr("id % 5 AS user", "id % 8 AS item", "double(id % 3) AS rating")
model = MatrixFactorization(rank=1, maxIter=1, updates="executors").fit(data)
print("rows:", model.transform(data).count(), model.recommendForAllUsers(1).count())
"""
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    environment |= {k: v for k, v in os.environ.items() if k in ("JAVA_HOME", "TMPDIR")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = completed(sys.executable, "-c", script, env=environment, cwd=tmp_path)
    assert "rows: 40 5" in done.stdout, done.stderr[-2000:]


def test_auto_is_als_where_a_param_is_only_for_als(ratings):
    for params in ({"regUser": 0.1}, {"rank": 33}, {"fitBiases": True}):
        assert MatrixFactorization(**params).chosen_solver == "als"
    assert ALS(solver="auto").chosen_solver == "als" != MatrixFactorization().chosen_solver
    with pytest.raises(ParamError, match=r"regParam=0\.1 has no meaning with solver='vb'"):
        ALS(solver="vb", regParam=0.1).fit(ratings)


def test_a_linear_regression_keeps_its_solver_in_the_model(ratings, tmp_path):
    linear = MultilayerPerceptronRegressor(
        featuresCol=["user", "item"], labelCol="rating", layers=[]
    )
    fitted = linear.fit(ratings)
    assert fitted.layers == [2, 1]
    assert fitted.summary.totalIterations == 1
    fitted.save(f"{tmp_path}/model")
    loaded = MultilayerPerceptronRegressionModel.load(f"{tmp_path}/model")
    for one in (fitted, loaded):
        assert one.summary.restarts[0].stop.startswith("solved")
