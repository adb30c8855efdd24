"""Top-N and similarity against sorting in numpy everything that a model predicts."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from nonconvex.distributed.columns import ColumnError
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel

USERS, ITEMS = 620, 60
COMPLETIST = 7  # a user who has rated every item


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(3)
    table = pd.DataFrame(np.argwhere(rng.random((USERS, ITEMS)) < 0.2), columns=["user", "item"])
    table = pd.concat([table, pd.DataFrame({"user": COMPLETIST, "item": range(ITEMS)})])
    table = table.drop_duplicates(["user", "item"])
    x, z = rng.normal(0, 1, (USERS, 3)), rng.normal(0, 1, (ITEMS, 3))
    noise = rng.normal(0, 0.3, len(table))
    table["rating"] = 3 + (x[table["user"]] * z[table["item"]]).sum(axis=1) + noise
    return table * [10, 3, 1]  # ids are not indices


@pytest.fixture(scope="module")
def ratings(spark, table):
    return spark.createDataFrame(table.astype({"user": int, "item": int})).cache()


@pytest.fixture(scope="module")
def model(ratings):
    return MatrixFactorization(rank=4, maxIter=2, coldStartStrategy="bias").fit(ratings)


@pytest.fixture(scope="module")
def scores(model):
    """Every prediction, in float64, as a table of users and items."""
    users, items = model.userFactors.toPandas(), model.itemFactors.toPandas()
    gamma = [np.stack(side["features"]).astype(np.float64) for side in (users, items)]
    beta = [side["bias"].to_numpy().astype(np.float64) for side in (users, items)]
    predicted = model.globalBias + beta[0][:, None] + beta[1] + gamma[0] @ gamma[1].T
    return pd.DataFrame(predicted, index=users["id"], columns=items["id"])


@pytest.fixture(scope="module")
def some_items(spark):
    """Half of the items, one of them twice, one that nobody knows, and a null."""
    ids = [*range(0, 3 * ITEMS, 6), 0, 999_999, None]
    return spark.createDataFrame([(i,) for i in ids], "item long")


@pytest.fixture(scope="module")
def some_pairs(spark):
    rng = np.random.default_rng(4)
    pairs = np.argwhere(rng.random((USERS - 20, ITEMS)) < 0.3) * [10, 3]
    pairs = [*map(tuple, pairs.tolist()), (0, 999_999), (0, None), (None, 0), (0, 0), (0, 0)]
    return spark.createDataFrame(pairs, "user long, item long")


def collect(frame):
    return {row[0]: [tuple(member) for member in row[1]] for row in frame.collect()}


def members(frame):
    return {(row[0], row[1]) for row in frame.select("user", "item").collect()}


def check(lists, scores, n, allowed):
    """Compare with sorting all scores; `allowed` says which (row, column) may be in a list."""
    for row in lists:
        columns = [column for column in scores.columns if allowed(row, column)]
        best = sorted(columns, key=lambda column: (-scores.at[row, column], column))[:n]
        assert [column for column, _ in lists[row]] == best
        expected = scores.loc[row, best].to_numpy().astype(np.float32)
        np.testing.assert_allclose([rating for _, rating in lists[row]], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "exclude", "candidates"),
    [
        *((10, None, None), (10, "train", None), (10, "ratings", None), (50, None, "items")),
        *((5, "ratings", "items"), (5, None, "pairs"), (5, "train", "pairs")),
    ],
)
def test_for_all_users(model, scores, ratings, some_items, some_pairs, n, exclude, candidates):
    given = {"ratings": ratings, "items": some_items, "pairs": some_pairs}
    frame = model.recommendForAllUsers(
        n, exclude=given.get(exclude, exclude), candidates=given.get(candidates)
    )
    schema = "struct<user:bigint,recommendations:array<struct<item:bigint,rating:float>>>"
    assert frame.schema.simpleString() == schema
    lists, seen, of_pairs = collect(frame), members(ratings) if exclude else (), members(some_pairs)
    offered = {
        None: lambda user, item: True,
        "items": lambda user, item: item % 6 == 0,
        "pairs": lambda user, item: (user, item) in of_pairs,
    }[candidates]
    check(lists, scores, n, lambda user, item: offered(user, item) and (user, item) not in seen)
    assert len(lists) == USERS
    assert not exclude or lists[10 * COMPLETIST] == []
    assert candidates != "pairs" or lists[10 * USERS - 10] == []  # no candidates
    assert n < 50 or {len(list_) for list_ in lists.values()} == {ITEMS // 2}


def test_ratings_are_predictions(model):
    lists = model.recommendForAllUsers(3).select("user", F.inline("recommendations"))
    pairs = model.transform(lists.sample(0.2, seed=1)).toPandas()
    assert (pairs["prediction"].astype(np.float32) == pairs["rating"]).all()


def test_for_all_items(model, scores, ratings):
    lists = model.recommendForAllItems(10, exclude="train")
    schema = "struct<item:bigint,recommendations:array<struct<user:bigint,rating:float>>>"
    assert lists.schema.simpleString() == schema
    lists, seen = collect(lists), members(ratings)
    assert len(lists) == ITEMS
    check(lists, scores.T, 10, lambda item, user: (user, item) not in seen)
    renamed = model.copy({model.itemCol: "film"}).recommendForAllItems(10, exclude="train")
    assert renamed.columns[0] == "film"
    assert collect(renamed) == lists


def test_for_some_items(spark, model, scores):
    asked = spark.createDataFrame([(0,), (30,), (30,)], "item long")
    users = spark.createDataFrame([(10,), (500,), (40,)], "user long")
    lists = collect(model.recommendForItemSubset(asked, 2, candidates=users))
    assert set(lists) == {0, 30}
    check(lists, scores.T, 2, lambda item, user: user in (10, 500, 40))


def test_for_some_users(spark, model, scores):
    """Unknown ones are recommended by item bias, or left out."""
    asked = spark.createDataFrame([(30,), (-1,), (30,), (None,), (50,)], "user long")
    seen = spark.createDataFrame([(-1, 0), (-1, 3), (30, 3)], "user long, item long")
    lists = collect(model.recommendForUserSubset(asked, ITEMS, exclude=seen))
    assert set(lists) == {30, 50, -1}
    biases = model.globalBias + model.itemFactors.toPandas().set_index("id")["bias"]
    with_unknown = pd.concat([scores, biases.rename(-1).to_frame().T.astype(float)])
    barred = members(seen)
    check(lists, with_unknown, ITEMS, lambda user, item: (user, item) not in barred)
    for strategy in ("nan", "drop"):
        strict = model.copy({model.coldStartStrategy: strategy})
        assert set(collect(strict.recommendForUserSubset(asked, 2))) == {30, 50}
    assert model.recommendForUserSubset(asked.where("false"), 2).count() == 0
    of_int = model.recommendForUserSubset(asked.select(F.col("user").cast("int")), np.int64(2))
    assert collect(of_int) == collect(model.recommendForUserSubset(asked, 2))


def test_clipping_keeps_the_order(ratings):
    # A large ridge keeps predictions inside the range: scale the factors up.
    model = MatrixFactorization(rank=2, maxIter=1, regUser=0.0, regItem=0.0).fit(ratings)
    free = collect(model.recommendForAllUsers(ITEMS))
    clipped = collect(model.setClipPredictions(True).recommendForAllUsers(ITEMS))
    low, high = np.float32(model.summary.minimum), np.float32(model.summary.maximum)
    assert any(rating > high for list_ in free.values() for _, rating in list_)
    for user, list_ in free.items():
        assert [item for item, _ in clipped[user]] == [item for item, _ in list_]
        rated = np.array([rating for _, rating in list_]).clip(low, high)
        assert rated.tolist() == [rating for _, rating in clipped[user]]


def test_equal_predictions_come_in_the_order_of_ids(spark):
    frame = spark.createDataFrame([(u, i, 4.0) for u in "ab" for i in ("9", "10", "z", "ä")])
    frame = frame.toDF("the user", "an.item", "rating")
    model = MatrixFactorization(rank=0, userCol="the user", itemCol="an.item", maxIter=1).fit(frame)
    lists = model.recommendForAllUsers(3)
    assert lists.columns == ["the user", "recommendations"]
    ordered = [item for item, _ in collect(lists)["a"]]
    assert ordered == ["10", "9", "z"]
    without = collect(model.recommendForAllUsers(3, exclude=frame.where("`an.item` = '9'")))
    assert [item for item, _ in without["b"]] == ["10", "z", "ä"]
    assert collect(model.similarItems(2)) == {item: [] for item in ("9", "10", "z", "ä")}  # γ = 0


def test_similar(spark, model):
    asked = spark.createDataFrame([(10,), (-5,), (10,), (30,)], "user long")
    items, users = model.similarItems(5), model.similarUsers(4, asked)
    schema = "struct<item:bigint,similar:array<struct<item:bigint,similarity:float>>>"
    assert items.schema.simpleString() == schema
    items, users = collect(items), collect(users)
    assert len(items) == ITEMS
    assert set(users) == {10, 30}
    for lists, n, factors in ((items, 5, model.itemFactors), (users, 4, model.userFactors)):
        side = factors.toPandas()
        gamma = np.stack(side["features"]).astype(np.float64)
        unit = gamma / np.linalg.norm(gamma, axis=1, keepdims=True)
        cosines = pd.DataFrame(unit @ unit.T, index=side["id"], columns=side["id"])
        check(lists, cosines, n, lambda one, other: one != other)


# Bad calls
@pytest.mark.parametrize("n", [0, -1, True, 2.0, "3", None])
def test_n_is_an_integer(model, ratings, n):
    for call in (
        *(model.recommendForAllUsers, model.recommendForAllItems),
        *(model.similarItems, model.similarUsers),
        lambda n: model.recommendForUserSubset(ratings, n),
        lambda n: model.recommendForItemSubset(ratings, n),
    ):
        with pytest.raises(ValueError, match=rf"^n\w* must be an integer ≥ 1, got {n!r}$"):
            call(n)


def test_arguments_that_are_no_dataframes_or_lack_columns(model, ratings):
    for_all, for_items = model.recommendForAllUsers, model.recommendForItemSubset
    only_users, text = ratings.select("user"), ratings.withColumn("item", F.lit("a"))
    missing = "itemCol='item': there is no such column"
    for call, given, kind, message in (
        (for_all, {"exclude": "seen"}, ValueError, "exclude must be a DataFrame, 'train', 'aut"),
        (for_all, {"exclude": [(1, 2)]}, ValueError, "exclude must be a DataFrame, 'train', 'aut"),
        (for_all, {"candidates": [1]}, ValueError, "candidates must be a DataFrame or None, got"),
        (for_items, {"dataset": [1]}, ValueError, "dataset must be a DataFrame, got"),
        (model.similarItems, {"subset": [1]}, ValueError, "subset must be a DataFrame or None, g"),
        (for_all, {"exclude": only_users}, ColumnError, f"exclude: {missing}"),
        (for_all, {"candidates": only_users}, ColumnError, f"candidates: {missing}"),
        (for_all, {"candidates": text}, ColumnError, "candidates: itemCol='item': the column is s"),
        (for_items, {"dataset": only_users}, ColumnError, missing),
    ):
        with pytest.raises(kind, match=f"^{message}"):
            call(n=1, **given)


def test_a_loaded_model_does_not_know_the_pairs_of_training(model, ratings, tmp_path):
    model.write().overwrite().save(str(tmp_path / "model"))
    loaded = MatrixFactorizationModel.load(str(tmp_path / "model"))
    with pytest.raises(ValueError, match="pass exclude=a DataFrame of them"):
        loaded.recommendForAllUsers(1, exclude="train")
    lists = loaded.recommendForAllUsers(4, exclude=ratings)
    assert collect(lists) == collect(model.recommendForAllUsers(4, exclude="train"))
