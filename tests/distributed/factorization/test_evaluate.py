"""Errors of predictions on the executors against the kernel."""

import numpy as np
import pandas as pd
import pytest

from nonconvex.distributed.factorization.evaluate import evaluate_ratings
from nonconvex.numerics.metrics import EvaluationError


def random_ratings(*, weighted=False, rows=400):
    rng = np.random.default_rng(3)
    ratings, predictions = rng.uniform(0, 10, rows), rng.normal(5, 2, rows)
    table = pd.DataFrame({"rating": ratings, "prediction": predictions})
    if weighted:
        table["weight"] = rng.choice([0.0, 0.1, 1.0, 7.0], rows)
    return table


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_those_of_numpy_of_what_is_predicted(spark, weighted):
    table = random_ratings(weighted=weighted)
    table.loc[:2, "prediction"] = [np.nan, np.inf, -np.inf]
    found = evaluate_ratings(spark.createDataFrame(table))
    assert found.unpredicted == 3
    known = table[3:]
    weights = known["weight"] if weighted else np.ones(len(known))
    error = known["prediction"] - known["rating"]
    assert found.overall.ratings == len(known)
    rmse = np.sqrt(np.average(error**2, weights=weights))
    assert found.overall.rmse["prediction"] == pytest.approx(rmse, rel=1e-12)
    mae = np.average(abs(error), weights=weights)
    assert found.overall.mae["prediction"] == pytest.approx(mae, rel=1e-12)


def test_order_and_partitioning_change_nothing(spark):
    table = random_ratings(weighted=True)
    expected = evaluate_ratings(spark.createDataFrame(table).coalesce(1))
    shuffled = spark.createDataFrame(table.sample(frac=1, random_state=1))
    assert evaluate_ratings(shuffled.repartition(5)) == expected


def test_what_cannot_be_measured_is_refused(spark):
    ratings = spark.createDataFrame(random_ratings(rows=3))
    with pytest.raises(EvaluationError, match=r"there are no ratings to evaluate with: hold some"):
        evaluate_ratings(ratings.where("false"))
    with pytest.raises(EvaluationError, match=r"none of the 3 ratings has a prediction: set cold"):
        evaluate_ratings(ratings.selectExpr("rating", "double('nan') as prediction"))
    with pytest.raises(EvaluationError, match=r"all weights are 0: at least one"):
        evaluate_ratings(ratings.selectExpr("*", "0d as weight"))
