"""Errors of predictions against the same in numpy."""

import numpy as np
import pandas as pd
import pytest

from nonconvex.distributed.factorization.evaluate import evaluate_ratings
from nonconvex.numerics.metrics import BINS, EvaluationError

PREDICTORS = ("model", "odd `name`")
EDGES = [0, 1, 3, 6, 11, 21, 51, 101, np.inf]


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


def check(scores, table):
    """The scores are those of the rows of the table, as numpy computes them."""
    weights = table["weight"] if "weight" in table else np.ones(len(table))
    assert scores.ratings == len(table)
    for name in PREDICTORS:
        error = table[name] - table["rating"]
        mse = np.average(error**2, weights=weights)
        assert scores.rmse[name] == pytest.approx(np.sqrt(mse), rel=1e-12)
        assert scores.mae[name] == pytest.approx(np.average(abs(error), weights=weights), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_overall_and_by_count_are_those_of_numpy(spark, weighted):
    table = random_ratings(weighted=weighted)
    found = evaluate_ratings(spark.createDataFrame(table), PREDICTORS)
    check(found.overall, table)
    assert found.unpredicted == 0
    for side, by_count in (("user", found.by_user), ("item", found.by_item)):
        labels = pd.cut(table[f"{side}_count"], EDGES, right=False, labels=BINS)
        assert list(by_count) == [label for label in BINS if label in set(labels)]
        for label, scores in by_count.items():
            check(scores, table[labels == label])


def test_order_and_partitioning_change_nothing(spark):
    table = random_ratings(weighted=True)
    expected = evaluate_ratings(spark.createDataFrame(table).coalesce(1), PREDICTORS)
    shuffled = spark.createDataFrame(table.sample(frac=1, random_state=1))
    assert evaluate_ratings(shuffled.repartition(5), PREDICTORS) == expected


def test_a_rating_that_one_cannot_predict_is_left_out_for_all(spark):
    table = random_ratings()
    table.loc[[0, 1], "model"] = np.nan
    table.loc[1, "odd `name`"] = np.inf
    table.loc[2, "odd `name`"] = None
    table.loc[:2, "user_count"] = 5  # a bin that nothing else is in
    ratings = spark.createDataFrame(table)
    found = evaluate_ratings(ratings, PREDICTORS)
    assert found.unpredicted == 3
    check(found.overall, table[3:])
    assert sum(scores.ratings for scores in found.by_user.values()) == len(table) - 3


def test_a_bin_without_weight_has_no_scores(spark):
    table = random_ratings(weighted=True)
    table.loc[table["user_count"] == 0, "weight"] = 0.0
    found = evaluate_ratings(spark.createDataFrame(table), PREDICTORS)
    assert "0" not in found.by_user
    assert found.overall.ratings == len(table)


def test_what_cannot_be_measured_is_refused(spark):
    ratings = spark.createDataFrame(random_ratings(rows=3))
    with pytest.raises(EvaluationError, match=r"there are no ratings to evaluate with: hold some"):
        evaluate_ratings(ratings.where("false"), PREDICTORS)
    with pytest.raises(EvaluationError, match=r"none of the 3 ratings has a prediction: set cold"):
        evaluate_ratings(ratings.selectExpr("*", "double('nan') as none"), ["model", "none"])
    with pytest.raises(EvaluationError, match=r"all weights are 0: at least one"):
        evaluate_ratings(ratings.selectExpr("*", "0d as weight"), PREDICTORS)
