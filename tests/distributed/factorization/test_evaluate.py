"""Errors of predictions on the executors against the kernel."""

import numpy as np
import pandas as pd
import pytest

from nonconvex.distributed.factorization.evaluate import evaluate_ratings
from nonconvex.numerics.metrics import EvaluationError, add_errors, evaluation_of

PREDICTORS = ("model", "odd `name`")


def random_ratings(*, weighted=False, rows=400):
    """Ratings, two predictors of them, and how often the user and the item were seen."""
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {
            "rating": rng.uniform(0, 10, rows),
            "user_count": rng.choice([0, 1, 2, 3, 6, 10, 11, 20, 21, 51, 100, 101, 10**6], rows),
            "item_count": rng.geometric(0.02, rows) - 1,
            "model": rng.normal(5, 2, rows),
            "odd `name`": rng.normal(5, 1e-9, rows),
        }
    )
    if weighted:
        table["weight"] = rng.choice([0.0, 0.1, 1.0, 7.0], rows)
    return table


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_those_of_the_kernel_in_whatever_order_and_partitions(spark, weighted):
    table = random_ratings(weighted=weighted)
    table.loc[[0, 1], "model"] = np.nan
    table.loc[1, "odd `name`"] = np.inf
    table.loc[2, "odd `name`"] = None
    rating, *counts = (table[name].to_numpy() for name in ("rating", "user_count", "item_count"))
    predictions = table[list(PREDICTORS)].to_numpy().T
    weights = table["weight"].to_numpy() if weighted else None
    totals = add_errors({}, rating, predictions, weights, *counts)
    expected = evaluation_of(totals, PREDICTORS)
    assert expected.unpredicted == 3
    assert evaluate_ratings(spark.createDataFrame(table).coalesce(1), PREDICTORS) == expected
    shuffled = spark.createDataFrame(table.sample(frac=1, random_state=1))
    assert evaluate_ratings(shuffled.repartition(5), PREDICTORS) == expected


def test_what_cannot_be_measured_is_refused(spark):
    ratings = spark.createDataFrame(random_ratings(rows=3))
    with pytest.raises(EvaluationError, match=r"there are no ratings to evaluate with: hold some"):
        evaluate_ratings(ratings.where("false"), PREDICTORS)
    with pytest.raises(EvaluationError, match=r"none of the 3 ratings has a prediction: set cold"):
        evaluate_ratings(ratings.selectExpr("*", "double('nan') as none"), ["model", "none"])
    with pytest.raises(EvaluationError, match=r"all weights are 0: at least one"):
        evaluate_ratings(ratings.selectExpr("*", "0d as weight"), PREDICTORS)
