"""`evaluate` of a model against Spark's own evaluators on the lists that the model makes."""

import numpy as np
import pandas as pd
import pytest
from pyspark.ml.evaluation import RankingEvaluator, RegressionEvaluator
from pyspark.sql import functions as F

from nonconvex.distributed.columns import ColumnError
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.numerics.metrics import EvaluationError
from nonconvex.recommendation import MatrixFactorization

RANKING = ("ndcgAtK", "recallAtK", "precisionAtK", "meanAveragePrecisionAtK")


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(21)
    table = pd.DataFrame(np.argwhere(rng.random((60, 30)) < 0.4), columns=["user", "item"])
    taste = np.where(table["user"] % 3 == table["item"] % 3, 4.0, 2.0)
    table["rating"] = taste + rng.integers(-1, 2, len(table))
    table["test"] = rng.random(len(table)) < 0.3
    # Users and items that training does not know.
    table.loc[(table["user"] >= 57) | (table["item"] == 29), "test"] = True
    return table


@pytest.fixture(scope="module")
def parts(spark, table):
    frame = spark.createDataFrame(table).cache()
    return frame.where("not test"), frame.where("test")


@pytest.fixture(scope="module")
def model(parts):
    return MatrixFactorization(rank=3, maxIter=3).fit(parts[0])


@pytest.fixture(scope="module")
def implicit(parts):
    return MatrixFactorization(rank=3, maxIter=3, implicitPrefs=True, confidence=2.0).fit(parts[0])


def by_spark(model, relevant, exclude, k):
    """Spark's metrics of the lists that the model makes for those who have something relevant."""
    lists = model.recommendForUserSubset(relevant, k, exclude=exclude)
    of_each = F.collect_set(F.col("item").cast("double"))
    labels = relevant.groupBy("user").agg(of_each.alias("label"))
    ranked = lists.selectExpr("user", "cast(recommendations.item as array<double>) as prediction")
    both = ranked.join(labels, "user").cache()
    metrics = {name: RankingEvaluator(metricName=name, k=k).evaluate(both) for name in RANKING}
    items = both.select(F.explode("prediction")).distinct().count()
    metrics["coverageAtK"] = items / model.itemFactors.count()
    metrics["users"] = both.count()
    both.unpersist()
    return metrics


@pytest.mark.parametrize(("k", "threshold", "excluding"), [(40, None, True), (3, 4.0, False)])
def test_metrics_are_those_of_spark(model, parts, k, threshold, excluding):
    train, test = parts
    given = {"threshold": threshold, "exclude": "train" if excluding else None}
    found = model.evaluate(test.union(test.limit(5)), k, **given)
    relevant = test if threshold is None else test.where(F.col("rating") >= threshold)
    expected = by_spark(model, relevant, train if excluding else None, k)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert (found["k"], found["ratings"], found["unpredicted"]) == (k, test.count() + 5, 0)
    predicted = model.transform(test.union(test.limit(5)))
    for name in ("rmse", "mae"):
        evaluator = RegressionEvaluator(labelCol="rating", metricName=name)
        assert found[name] == pytest.approx(evaluator.evaluate(predicted), rel=1e-12)


def test_implicit_feedback_is_measured_by_preferences(implicit, parts):
    train, test = parts
    test = test.withColumn("rating", F.col("rating") - 2)  # some are now 0 or less
    found = implicit.evaluate(test, 5)
    liked = test.where("rating > 0")
    expected = by_spark(implicit, liked, train, 5)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    predicted = implicit.transform(test).withColumn("rating", (F.col("rating") > 0).cast("double"))
    evaluator = RegressionEvaluator(labelCol="rating")
    assert found["rmse"] == pytest.approx(evaluator.evaluate(predicted), rel=1e-12)


@pytest.mark.parametrize("strategy", ["nan", "drop"])
def test_what_has_no_prediction_is_counted(model, parts, table, strategy):
    strict = model.copy({model.coldStartStrategy: strategy})
    found = strict.evaluate(parts[1], 5)
    test = table[table["test"]]
    unknown = (test["user"] >= 57) | (test["item"] == 29)
    assert found["unpredicted"] == unknown.sum()
    assert found["ratings"] == (~unknown).sum()
    assert found["users"] == test.loc[test["user"] < 57, "user"].nunique()


def test_columns_and_weights_are_those_of_training(spark, parts):
    renamed = "user as u", "item as i", "rating as r", "user % 3 as w"
    train, test = (part.selectExpr(*renamed) for part in parts)
    names = {"userCol": "u", "itemCol": "i", "ratingCol": "r", "weightCol": "w"}
    model = MatrixFactorization(rank=1, maxIter=1, predictionCol="p", **names).fit(train)
    found = model.evaluate(test)
    evaluator = RegressionEvaluator(labelCol="r", predictionCol="p", weightCol="w")
    assert found["rmse"] == pytest.approx(evaluator.evaluate(model.transform(test)), rel=1e-9)
    with pytest.raises(ColumnError, match="weightCol='w': there is no such column"):
        model.evaluate(test.drop("w"))


def test_bad_calls(model, parts):
    test, nulls = parts[1], F.when(F.col("user") > 3, F.col("rating"))
    for data, given, kind, message in (
        (test, {"k": 0}, ValueError, "^k must be an integer ≥ 1, got 0$"),
        (test, {"threshold": "4"}, ValueError, "^threshold must be a finite number, got"),
        (test, {"threshold": float("nan")}, ValueError, "^threshold must be a finite number, got"),
        (test, {"threshold": 99.0}, EvaluationError, "there is nobody to rank for, as nothing is"),
        (test.where("false"), {}, EvaluationError, "there are no ratings to evaluate with"),
        (test.drop("rating"), {}, ColumnError, "ratingCol='rating': there is no such column"),
        (test.withColumn("rating", nulls), {}, RatingsError, "of the .* ratings to .* null or NaN"),
    ):
        with pytest.raises(kind, match=message):
            model.evaluate(data, **given)
