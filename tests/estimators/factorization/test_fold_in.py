"""Folding in: training users come back as they were, new ones as a dense ridge solve has them."""

import logging

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from nonconvex.distributed.columns import ColumnError
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.numerics.factorization.model import Ridge
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel
from tests.numerics.factorization import twins

USERS, ITEMS = 40, 25


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(11)
    table = pd.DataFrame(np.argwhere(rng.random((USERS, ITEMS)) < 0.3), columns=["user", "item"])
    table["rating"] = rng.integers(1, 6, len(table)).astype(float)
    table["weight"] = rng.choice([0.0, 0.5, 1.0, 2.5], len(table))
    table["user"] = table["user"].map("u{:02}".format)
    return pd.concat([table, table.iloc[:3]])  # a few pairs twice


@pytest.fixture(scope="module")
def ratings(spark, table):
    return spark.createDataFrame(table).cache()


@pytest.fixture(scope="module")
def model(ratings):
    return MatrixFactorization(rank=3, maxIter=3, regExponent=0.5).fit(ratings)


@pytest.fixture
def new(spark):
    rows = [("u03½", 0, 5.0), ("u03½", 4, 1.0), ("u03½", 7, 4.0), ("zoe", 2, 2.0)]
    return spark.createDataFrame(rows, "user string, item long, rating double")


def rows_of(frame):
    """Ids and rows (β, γ) in float64."""
    side = frame.toPandas()
    rows = np.column_stack([side["bias"], np.stack(side["features"])]).astype(np.float64)
    return dict(zip(side["id"], rows, strict=True))


def ridge_solution(model, ratings, reg, rows, fixed):
    """argmin of Σ (R − α − β_i − z·x)² + ridge ‖(√ρ β, γ)‖², by the twin of the kernel."""
    exponent, total = model.summary.reg_exponent, model.summary.total
    ridge = Ridge(reg, exponent, total, total / rows, model.summary.bias_reg_ratio)
    rated = [twins.Rated(*rating) for rating in ratings]
    diagonal = twins.ridges(ridge, len(rated), 1 + model.rank)
    return twins.solve_row(rated, fixed, model.globalBias, diagonal)


KINDS = [
    {"weightCol": "weight", "regExponent": 0.7, "precision": "float64"},
    {"implicitPrefs": True, "confidence": 3.0, "nonnegative": True},
    {"fitBiases": False, "fitIntercept": False, "regUser": 1e-3},
]


@pytest.mark.parametrize("params", KINDS, ids=["weights", "implicit", "no biases"])
def test_a_training_user_gets_its_own_row_to_the_bit(ratings, params, tmp_path):
    model = MatrixFactorization(rank=3, maxIter=2, **params).fit(ratings)
    model.write().save(str(tmp_path / "model"))
    loaded = MatrixFactorizationModel.load(str(tmp_path / "model"))
    shuffled = ratings.orderBy(F.rand(5)).repartition(7)
    # all of them, and one alone, in another partition than before
    for some in (shuffled, ratings.where("user = 'u05'")):
        folded = loaded.foldInUsers(some)
        assert folded.factors.users.tobytes() == model.factors.users.tobytes()
        users = [row.id for row in folded.userFactors.collect()]
        assert users == [*map("u{:02}".format, range(USERS))]


NEW_ITEMS = [("u00", -3, 5.0), ("u09", -3, 1.0), ("u01", 3, 4.0)]


def test_new_rows_are_ridge_solutions(spark, model, new):
    summary, items = model.summary, spark.createDataFrame(NEW_ITEMS, new.schema)
    of_users, of_items = rows_of(model.userFactors), rows_of(model.itemFactors)
    users = model.foldInUsers(new)
    after_users, after_items = (
        rows_of(users.userFactors), rows_of(model.foldInItems(items).itemFactors)
    )  # fmt: skip
    for after, ratings, reg, rows, fixed in (
        (after_users, {"u03½": [(0, 5.0), (4, 1.0), (7, 4.0)], "zoe": [(2, 2.0)]},
         summary.reg_user, USERS, of_items),
        (after_items, {-3: [("u00", 5.0), ("u09", 1.0)], 3: [("u01", 4.0)]},
         summary.reg_item, ITEMS, of_users),
    ):  # fmt: skip
        for row, rated in ratings.items():
            expected = ridge_solution(model, rated, reg, rows, fixed)
            np.testing.assert_allclose(after[row], expected, rtol=1e-3, atol=1e-5)
    assert list(after_users) == sorted([*of_users, "u03½", "zoe"])
    assert list(after_items) == [-3, *range(ITEMS)]
    for user, row in of_users.items():
        np.testing.assert_array_equal(after_users[user], row)
    assert users.itemFactors.toPandas().equals(model.itemFactors.toPandas())
    assert users.summary == summary


def test_folded_users_are_served(model, new):
    folded = model.foldInUsers(new)
    lists = folded.recommendForUserSubset(new, ITEMS, exclude="train")
    offered = {row.user: {item for item, _ in row.recommendations} for row in lists.collect()}
    assert offered == {"u03½": set(range(ITEMS)) - {0, 4, 7}, "zoe": set(range(ITEMS)) - {2}}
    first = folded.transform(new.where("user = 'zoe'")).first()
    row, item = rows_of(folded.userFactors)["zoe"], rows_of(model.itemFactors)[2]
    expected = model.globalBias + row[0] + item[0] + row[1:] @ item[1:]
    assert first.prediction == pytest.approx(expected)


def test_unknown_items_are_ignored_and_counted(spark, model, new, caplog):
    more = [("zoe", 999, 5.0), ("nobody", 999, 5.0)]
    with_unknown = new.union(spark.createDataFrame(more, new.schema))
    with caplog.at_level(logging.INFO, "nonconvex"):
        folded = model.foldInUsers(with_unknown)
    assert "ignored 2 of 6 ratings: their items are not in the model" in caplog.text
    assert "folded in 2 users, 2 of them new" in caplog.text
    assert rows_of(folded.userFactors).keys() == rows_of(model.foldInUsers(new).userFactors).keys()


def test_bad_calls(ratings, model, new):
    weighted, known = model.copy().setWeightCol("weight"), F.col("user") != "zoe"
    nulls = [new.withColumn(name, F.when(known, F.col(name))) for name in new.columns]
    nothing = "none of the {} ratings to fold in is of one of the items that the model knows"
    for asked, data, kind, message in (
        (model, new.where("false"), RatingsError, nothing.format(0)),
        (model, new.withColumn("item", F.col("item") + 900), RatingsError, nothing.format(4)),
        *((model, some, RatingsError, "1 of the 4 ratings to fold in have a") for some in nulls),
        (model, new.drop("rating"), ColumnError, "ratingCol='rating': there is no such column"),
        (model, new.withColumn("item", F.lit("a")), ColumnError, "itemCol='item': the column is s"),
        (weighted, new, ColumnError, "weightCol='weight': there is no such column"),
        (weighted, ratings.withColumn("weight", F.lit(-1.0)), RatingsError, "a negative weight; d"),
    ):
        with pytest.raises(kind, match=message):
            asked.foldInUsers(data)
    for value in ("NaN", "Infinity"):
        with pytest.raises(RatingsError, match="4 of the 4 ratings to fold in have a null id, or"):
            model.foldInItems(new.withColumn("rating", F.lit(value).cast("double")))
