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
    frame = spark.createDataFrame(table.astype({"user": int, "item": int})).cache()
    yield frame
    frame.unpersist()


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


class TestForAllUsers:
    def test_the_best_of_all(self, model, scores):
        lists = model.recommendForAllUsers(10)
        assert lists.schema.simpleString() == (
            "struct<user:bigint,recommendations:array<struct<item:bigint,rating:float>>>"
        )
        lists = collect(lists)
        assert len(lists) == USERS
        check(lists, scores, 10, lambda user, item: True)

    @pytest.mark.parametrize("by_name", [True, False])
    def test_without_what_was_rated(self, model, scores, ratings, by_name):
        lists = collect(model.recommendForAllUsers(10, exclude="train" if by_name else ratings))
        seen = members(ratings)
        check(lists, scores, 10, lambda user, item: (user, item) not in seen)
        assert len(lists) == USERS
        assert lists[10 * COMPLETIST] == []

    def test_candidates_for_all(self, model, scores, some_items):
        lists = collect(model.recommendForAllUsers(50, candidates=some_items))
        assert {len(list_) for list_ in lists.values()} == {ITEMS // 2}
        check(lists, scores, 50, lambda user, item: item % 6 == 0)

    def test_candidates_for_all_without_what_was_rated(self, model, scores, ratings, some_items):
        lists = collect(model.recommendForAllUsers(5, exclude=ratings, candidates=some_items))
        seen = members(ratings)
        check(lists, scores, 5, lambda user, item: item % 6 == 0 and (user, item) not in seen)

    def test_candidates_for_each(self, model, scores, ratings, some_pairs):
        allowed, seen = members(some_pairs), members(ratings)
        lists = collect(model.recommendForAllUsers(5, candidates=some_pairs))
        check(lists, scores, 5, lambda user, item: (user, item) in allowed)
        assert lists[10 * USERS - 10] == []  # no candidates
        lists = collect(model.recommendForAllUsers(5, exclude="train", candidates=some_pairs))
        left = allowed - seen
        check(lists, scores, 5, lambda user, item: (user, item) in left)

    def test_ratings_are_predictions(self, model):
        lists = model.recommendForAllUsers(3).select("user", F.inline("recommendations"))
        pairs = model.transform(lists.sample(0.2, seed=1)).toPandas()
        assert (pairs["prediction"].astype(np.float32) == pairs["rating"]).all()


def test_for_all_items(model, scores, ratings):
    lists = model.recommendForAllItems(10, exclude="train")
    assert lists.schema.simpleString() == (
        "struct<item:bigint,recommendations:array<struct<user:bigint,rating:float>>>"
    )
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


class TestForSomeUsers:
    @pytest.fixture
    def asked(self, spark):
        return spark.createDataFrame([(30,), (-1,), (30,), (None,), (50,)], "user long")

    def test_unknown_users_are_recommended_by_item_bias(self, spark, model, scores, asked):
        seen = spark.createDataFrame([(-1, 0), (-1, 3), (30, 3)], "user long, item long")
        lists = collect(model.recommendForUserSubset(asked, ITEMS, exclude=seen))
        assert set(lists) == {30, 50, -1}
        biases = model.globalBias + model.itemFactors.toPandas().set_index("id")["bias"]
        with_unknown = pd.concat([scores, biases.rename(-1).to_frame().T.astype(float)])
        barred = members(seen)
        check(lists, with_unknown, ITEMS, lambda user, item: (user, item) not in barred)

    @pytest.mark.parametrize("strategy", ["nan", "drop"])
    def test_or_left_out(self, model, asked, strategy):
        strict = model.copy({model.coldStartStrategy: strategy})
        assert set(collect(strict.recommendForUserSubset(asked, 2))) == {30, 50}

    def test_nobody(self, model, asked):
        assert model.recommendForUserSubset(asked.where("false"), 2).count() == 0

    def test_ids_of_another_numeric_type(self, spark, model, asked):
        lists = collect(model.recommendForUserSubset(asked.select(F.col("user").cast("int")), 2))
        assert lists == collect(model.recommendForUserSubset(asked, 2))


def test_clipping_keeps_the_order(spark, table):
    # A large ridge keeps predictions inside the range: scale the factors up.
    model = MatrixFactorization(rank=2, maxIter=1, regUser=0.0, regItem=0.0).fit(
        spark.createDataFrame(table.astype({"user": int, "item": int}))
    )
    free = collect(model.recommendForAllUsers(ITEMS))
    clipped = collect(model.setClipPredictions(True).recommendForAllUsers(ITEMS))
    low, high = np.float32(model.summary.minimum), np.float32(model.summary.maximum)
    assert any(rating > high for list_ in free.values() for _, rating in list_)
    for user, list_ in free.items():
        assert [item for item, _ in clipped[user]] == [item for item, _ in list_]
        ratings = np.array([rating for _, rating in list_]).clip(low, high)
        assert ratings.tolist() == [rating for _, rating in clipped[user]]


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


class TestSimilar:
    def cosines(self, side):
        gamma = np.stack(side["features"]).astype(np.float64)
        unit = gamma / np.linalg.norm(gamma, axis=1, keepdims=True)
        return pd.DataFrame(unit @ unit.T, index=side["id"], columns=side["id"])

    def test_items(self, model):
        similar = model.similarItems(5)
        assert similar.schema.simpleString() == (
            "struct<item:bigint,similar:array<struct<item:bigint,similarity:float>>>"
        )
        lists = collect(similar)
        assert len(lists) == ITEMS
        check(lists, self.cosines(model.itemFactors.toPandas()), 5, lambda a, b: a != b)

    def test_of_some_users(self, spark, model):
        asked = spark.createDataFrame([(10,), (-5,), (10,), (30,)], "user long")
        lists = collect(model.similarUsers(4, asked))
        assert set(lists) == {10, 30}
        check(lists, self.cosines(model.userFactors.toPandas()), 4, lambda a, b: a != b)


class TestBadCalls:
    @pytest.mark.parametrize("n", [0, -1, True, 2.0, "3", None])
    def test_n(self, model, ratings, n):
        calls = [
            model.recommendForAllUsers,
            model.recommendForAllItems,
            model.similarItems,
            model.similarUsers,
            lambda n: model.recommendForUserSubset(ratings, n),
            lambda n: model.recommendForItemSubset(ratings, n),
        ]
        for call in calls:
            with pytest.raises(ValueError, match=f"^n must be an integer ≥ 1, got {n!r}$"):
                call(n)

    def test_numpy_integers_are_fine(self, model, ratings):
        one = model.recommendForUserSubset(ratings.limit(1), np.int64(3)).first()
        assert len(one.recommendations) == 3

    def test_arguments_that_are_no_dataframes(self, model, ratings):
        with pytest.raises(ValueError, match="exclude must be a DataFrame, 'train' or None, got"):
            model.recommendForAllUsers(1, exclude="seen")
        with pytest.raises(ValueError, match="exclude must be a DataFrame, 'train' or None, got"):
            model.recommendForAllUsers(1, exclude=[(1, 2)])
        with pytest.raises(ValueError, match="candidates must be a DataFrame or None, got"):
            model.recommendForAllUsers(1, candidates=[1])
        with pytest.raises(ValueError, match="dataset must be a DataFrame, got"):
            model.recommendForUserSubset([1], 1)
        with pytest.raises(ValueError, match="subset must be a DataFrame or None, got"):
            model.similarItems(1, subset=[1])

    def test_columns(self, model, ratings):
        only_users, text = ratings.select("user"), ratings.withColumn("item", F.lit("a"))
        with pytest.raises(ColumnError, match=r"^exclude: itemCol='item': there is no such column"):
            model.recommendForAllUsers(1, exclude=only_users)
        with pytest.raises(ColumnError, match=r"^candidates: itemCol='item': there is no such"):
            model.recommendForAllUsers(1, candidates=only_users)
        with pytest.raises(ColumnError, match=r"^candidates: itemCol='item': the column is string"):
            model.recommendForAllUsers(1, candidates=text)
        with pytest.raises(ColumnError, match=r"^itemCol='item': there is no such column"):
            model.recommendForItemSubset(only_users, 1)

    def test_a_loaded_model_does_not_know_the_pairs_of_training(self, model, ratings, tmp_path):
        model.write().overwrite().save(str(tmp_path / "model"))
        loaded = MatrixFactorizationModel.load(str(tmp_path / "model"))
        with pytest.raises(ValueError, match="pass exclude=a DataFrame of them"):
            loaded.recommendForAllUsers(1, exclude="train")
        lists = loaded.recommendForAllUsers(4, exclude=ratings)
        assert collect(lists) == collect(model.recommendForAllUsers(4, exclude="train"))
