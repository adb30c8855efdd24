"""The baselines and the comparison with them, against numpy on the same few ratings."""

from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from nonconvex.distributed.data.prepare import prepare_ratings
from nonconvex.distributed.data.prepared import seen_pairs
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.distributed.data.validation import Columns, Rules
from nonconvex.distributed.factorization import evaluate
from nonconvex.distributed.files import FileSystem
from nonconvex.estimators.factorization.predict import ModelState
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.metrics import EvaluationError
from nonconvex.pipeline.factorization import results
from nonconvex.pipeline.factorization.results import BASELINES, compare
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel


@pytest.fixture(scope="module")
def table():
    """Ratings with weights and a given split: some test users and items are not in training."""
    rng = np.random.default_rng(5)
    pairs = [(user, item) for user in range(12) for item in range(8) if rng.random() < 0.7]
    table = pd.DataFrame(pairs, columns=["user", "item"])
    tastes = rng.choice([-2.0, 2.0], 12)[table["user"]] + rng.choice([-2.0, 2.0], 8)[table["item"]]
    table["rating"] = np.clip(3 + tastes + rng.integers(-1, 2, len(table)), 1, 5)
    table["weight"] = rng.choice([0.5, 1.0, 3.0], len(table))
    table["part"] = rng.choice(["train", "train", "validation", "test"], len(table))
    unseen = (table["user"] >= 10) | (table["item"] == 7)
    table.loc[unseen & (table["part"] == "train"), "part"] = "test"
    table.loc[table["user"] == 0, "weight"] = 0.0  # a user whose ratings do not count
    return table


@pytest.fixture(scope="module")
def prepare(spark, table, tmp_path_factory):
    """Prepare the ratings, with or without their weights."""
    source = tmp_path_factory.mktemp("source")

    def prepare(weight, less=0.0):
        path = source / f"{less}.parquet"
        table.assign(rating=table["rating"] - less).to_parquet(path)
        return prepare_ratings(
            read_source(spark, str(path)),
            str(tmp_path_factory.mktemp("target") / "prepared"),
            columns=Columns(weight=weight),
            rules=Rules(),
            split=Split("column", column="part"),
        )

    return prepare


@pytest.fixture(scope="module")
def weighted(prepare):
    return prepare("weight")


@pytest.fixture(scope="module")
def unweighted(prepare):
    return prepare(None)


@pytest.fixture(scope="module")
def model(weighted):
    return MatrixFactorization(rank=2, maxIter=2, regUser=1e-3).fitPrepared(weighted)


def user_means_of(table, weights):
    """Weighted means of the training ratings of each user, by pandas; NaN where nothing weighs."""
    sums = pd.DataFrame({"w": weights, "wr": weights * table["rating"]})
    train = table["part"] == "train"
    sums = sums[train].groupby(table["user"][train]).sum()
    return sums["wr"] / sums["w"]


def test_the_global_mean_and_that_of_each_user(weighted, unweighted, table):
    train = table[table["part"] == "train"]
    for prepared, weights in ((weighted, table["weight"]), (unweighted, np.ones(len(table)))):
        _, found = MatrixFactorization(rank=0, solver="als").fitBesideBaselines(prepared)
        mean = np.average(train["rating"], weights=weights[train.index])
        assert found.mean == pytest.approx(mean, rel=1e-14)
        expected = user_means_of(table, weights).fillna(mean)
        assert found.ids.users.to_pylist() == list(expected.index)
        assert found.user_means == pytest.approx(expected.to_numpy())
        assert found.counts[0].tolist() == train.groupby("user").size().tolist()


def check(found, rows, weights):
    for name in ("model", *BASELINES):
        error = rows[name] - rows["rating"]
        rmse = np.sqrt(np.average(error**2, weights=weights))
        assert found.overall.rmse[name] == pytest.approx(rmse, rel=1e-9)
        mae = np.average(abs(error), weights=weights)
        assert found.overall.mae[name] == pytest.approx(mae, rel=1e-9)


def predict_all(prepared, model, part, table, weights):
    """The ratings of a part with all predictions, by pandas."""
    found = getattr(prepared, part).toPandas()
    biases = MatrixFactorization(rank=0, solver="als").fitPrepared(prepared)
    for name, predictor in (("model", model), ("biases", biases)):
        pairs = getattr(prepared, part).select("user", "item")
        predicted = predictor.transform(pairs).toPandas()
        found = found.merge(predicted.rename(columns={"prediction": name}), on=["user", "item"])
    train = table["part"] == "train"
    found["global_mean"] = np.average(table["rating"][train], weights=weights[train])
    means = found["user"].map(user_means_of(table, weights))
    found["user_mean"] = means.fillna(found["global_mean"])
    return found


def test_a_model_beside_the_baselines(weighted, model, table):
    found = compare(model, weighted).errors
    rows = predict_all(weighted, model, "test", table, table["weight"])
    check(found, rows, rows["weight"])
    assert found.unpredicted == 0
    train = table[table["part"] == "train"]
    for side, by_count in (("user", found.by_user), ("item", found.by_item)):
        counts = rows[side].map(train[side].value_counts()).fillna(0)
        assert by_count["0"].ratings == sum(counts == 0) > 0
        assert by_count["3–5"].ratings == sum((counts >= 3) & (counts <= 5)) > 0


def test_in_a_job_as_on_the_driver_beside_a_model_of_other_ids(weighted, model, monkeypatch):
    """Also with intervals, and where executors hold the rows of models."""
    interval = {"predictionIntervalCol": "between", "predictionInterval": 0.5}
    sure = MatrixFactorization(rank=1, maxIter=1, **interval).fitPrepared(weighted)
    fewer = model._ids._replace(users=model._ids.users[5:])
    rows = model.factors._replace(users=model.factors.users[5:])
    less = MatrixFactorizationModel(ModelState(rows, fewer, model.summary))
    others = {"less": less, "more": model}
    found = compare(sure, weighted, others=others)
    assert found.errors.overall.rmse["less"] != found.errors.overall.rmse["more"]
    assert found.histogram.counts.sum() == weighted.manifest.counts["test"]
    predicted = sure.transform(weighted.test).toPandas()
    ends = pd.DataFrame([*predicted["between"]], columns=["lower", "upper"])
    inside = predicted["rating"].between(ends["lower"], ends["upper"])
    assert 0 < found.covered == inside.mean() < 1
    monkeypatch.setattr(evaluate, "DRIVER_ROWS", 0)
    again = compare(sure, weighted, others=others)
    assert (again.errors, again.covered) == (found.errors, found.covered)
    np.testing.assert_array_equal(again.histogram.counts, found.histogram.counts)
    monkeypatch.setattr(results, "rating_model", lambda *about, **more: None)
    assert compare(sure, weighted, others=others).errors == found.errors


def check_lists(found, prepared, models, users=None):
    """The lists that `evaluate` makes of all but the test ratings, by ids and in Spark."""
    seen = seen_pairs(prepared, ("train", "validation"), "user", "item")
    test = prepared.test if users is None else prepared.test.where(F.col("user").isin(users))
    counts = prepared.items.orderBy("index").toPandas()["count"].to_numpy(float)[:, None]
    rows = Factors(0.0, np.zeros((len(models["model"]._ids.users), 1)), counts)
    state = ModelState(rows, models["model"]._ids, models["model"].summary)
    popular = models["model"]._copyValues(MatrixFactorizationModel(state))
    models = {**models, "popularity": popular}
    assert found.keys() - {"k", "users"} == models.keys()
    for name, model in models.items():
        whole = model.copy({model.coldStartStrategy: "bias"})
        told = whole.evaluate(test, k=found["k"], exclude=seen)
        assert {key: told[key] for key in found[name]} == found[name]
        assert told["users"] == found["users"]
        assert 0 < found[name]["ndcgAtK"] < 1


def test_lists_of_all_who_are_in_the_test(weighted, model, monkeypatch):
    """Also where the ratings are not on this machine, and more than the driver takes."""
    monkeypatch.setattr(results, "LIST_LENGTH", 3)
    biases = MatrixFactorization(rank=0, solver="als")
    _, baselines = biases.fitBesideBaselines(weighted)
    models = {"model": model, "biases": biases.fitPrepared(weighted)}
    found = results.measure_lists(model, weighted, baselines)
    everybody = {row.user for row in weighted.test.collect()}
    assert found["users"] == len(everybody)
    check_lists(found, weighted, models)
    assert found["users"] > len(everybody & {*model._ids.users.to_pylist()}), "cold ones, too"
    few = sorted(everybody, key=lambda user: blake2b(str(user).encode()).digest())[:5]
    monkeypatch.setattr(results, "_LISTED", 5)
    sampled = results.measure_lists(model, weighted, baselines)
    assert sampled["users"] == 5
    check_lists(sampled, weighted, models, few)
    monkeypatch.setattr(FileSystem, "local_path", lambda files, path: None)
    for rows in (results.DRIVER_ROWS, 0):
        monkeypatch.setattr(results, "DRIVER_ROWS", rows)
        assert results.measure_lists(model, weighted, baselines) == sampled


def test_lists_of_implicit_feedback_take_positive_strengths(prepare):
    prepared = prepare(None, 3.0)
    model = MatrixFactorization(rank=1, maxIter=2, implicitPrefs=True).fitPrepared(prepared)
    found = results.measure_lists(model, prepared, None)
    check_lists(found, prepared, {"model": model})
    assert found["users"] < prepared.test.select("user").distinct().count()
    nothing = prepare(None, 9.0)
    assert results.measure_lists(model, nothing, None) is None


def test_predictions_of_validation_ratings_clipped_as_the_model_clips(unweighted, table):
    free = {"rank": 4, "maxIter": 4, "regUser": 1e-9, "regItem": 1e-9, "clipPredictions": True}
    wild = MatrixFactorization(**free).fitPrepared(unweighted)
    found = compare(wild, unweighted, "validation").errors
    free = wild.copy({wild.clipPredictions: False})
    rows = predict_all(unweighted, free, "validation", table, np.ones(len(table)))
    assert not rows["model"].between(1, 5).all()
    for name in ("model", "biases"):
        rows[name] = rows[name].clip(1, 5)
    check(found, rows, np.ones(len(rows)))


def test_what_the_model_does_not_predict_is_counted(weighted, model):
    names = {model.userCol: "rating", model.itemCol: "item_index", model.predictionCol: "weight"}
    found = compare(model.copy({**names, model.coldStartStrategy: "drop"}), weighted).errors
    rows = weighted.test.toPandas()
    unknown = rows["user_index"].isna() | rows["item_index"].isna()
    assert found.unpredicted == sum(unknown) > 0
    assert found.overall.ratings == len(rows) - found.unpredicted
    assert "0" not in found.by_user


def test_what_cannot_be_compared_is_refused(weighted, unweighted, model):
    counts = {**weighted.manifest.counts, "test": 0}
    without = replace(weighted, manifest=replace(weighted.manifest, counts=counts))
    with pytest.raises(EvaluationError, match=r"has no test ratings: hold some out when prep"):
        compare(model, without)
    implicit = MatrixFactorization(rank=1, maxIter=1, implicitPrefs=True).fitPrepared(unweighted)
    with pytest.raises(EvaluationError, match=r"predicts preferences and not ratings"):
        compare(implicit, unweighted)
