import numpy as np
import pytest
from pyspark.sql import functions as F

from nonconvex.distributed.data.splits import Split, split_ratings

SCHEMA = "user bigint, item bigint, timestamp bigint"


@pytest.fixture(scope="module")
def rows():
    """2,000 ratings by users of few and of many, with many equal times."""
    rng = np.random.default_rng(3)
    users = np.floor(rng.pareto(0.8, 2000)).clip(0, 500)
    times = rng.integers(0, 300, 2000)
    rows = np.column_stack([users, rng.permutation(2000), times]).astype(int)
    return [tuple(row) for row in rows.tolist()]


def parts(frame, split):
    found = split_ratings(frame, split)
    assert found.columns[-1] == "part"
    return {tuple(row)[:2]: row.part for row in found.collect()}


def share(found, part):
    return sum(value == part for value in found.values()) / len(found)


@pytest.mark.parametrize(
    "split",
    [
        Split("random", validation=0.1, test=0.2, seed=4),
        Split("time", validation=0.1, test=0.2),
        Split("last", validation=1, test=2),
    ],
    ids=lambda split: split.method,
)
def test_no_partitioning_and_no_order_changes_a_split(spark, rows, split):
    frame = spark.createDataFrame(rows, SCHEMA)
    expected = parts(frame.coalesce(1), split)
    assert set(expected.values()) == {"train", "validation", "test"}
    assert parts(frame.repartition(5, F.rand(1)), split) == expected


def test_a_random_split_has_the_stated_sizes_and_follows_the_seed(spark, rows):
    frame = spark.createDataFrame(rows, SCHEMA).cache()
    found = parts(frame, Split("random", validation=0.1, test=0.2, seed=4))
    # Six standard deviations of a share of 2,000 rows.
    assert share(found, "test") == pytest.approx(0.2, abs=0.054)
    assert share(found, "validation") == pytest.approx(0.1, abs=0.041)
    other = parts(frame, Split("random", validation=0.1, test=0.2, seed=5))
    both = [pair for pair in found if found[pair] == other[pair] == "test"]
    assert len(both) / len(found) == pytest.approx(0.2**2, abs=0.027)  # independent seeds
    without = parts(frame, Split("random", test=0.2, seed=4))
    assert {p for p in found if found[p] == "test"} == {p for p in without if without[p] == "test"}
    text = frame.select(F.col("user").cast("string"), F.col("item").cast("string"), "timestamp")
    as_text = parts(text, Split("random", validation=0.1, test=0.2, seed=4))
    assert as_text == {(str(u), str(i)): part for (u, i), part in found.items()}
    frame.unpersist()


def test_a_split_in_time_holds_out_the_latest(spark, rows):
    found = parts(spark.createDataFrame(rows, SCHEMA), Split("time", validation=0.1, test=0.2))
    times = {part: [t for u, i, t in rows if found[u, i] == part] for part in found.values()}
    assert max(times["train"]) < min(times["validation"])
    assert max(times["validation"]) < min(times["test"])
    largest = max(np.bincount([t for _, _, t in rows]))  # ratings of one time
    assert 400 - largest < len(times["test"]) <= 400
    assert 600 - largest < len(times["test"]) + len(times["validation"]) <= 600


def test_a_split_in_time_is_exact_without_equal_times_and_holds_out_nothing_of_one(spark):
    frame = spark.createDataFrame([(1, i, 10 * i) for i in range(10)], SCHEMA)
    found = parts(frame, Split("time", validation=0.2, test=0.1))
    assert [found[1, i] for i in range(10)] == ["train"] * 7 + ["validation"] * 2 + ["test"]
    same = spark.createDataFrame([(1, i, 5) for i in range(4)], SCHEMA)
    assert set(parts(same, Split("time", test=0.5)).values()) == {"train"}


@pytest.mark.parametrize(("validation", "test"), [(0, 1), (1, 2), (3, 0)])
def test_the_last_of_each_user_are_held_out(spark, rows, validation, test):
    expected = {}
    for user in {u for u, _, _ in rows}:
        own = sorted(((t, i) for u, i, t in rows if u == user), reverse=True)
        for rank, (_, item) in enumerate(own):
            held_out = len(own) > validation + test and rank < validation + test
            part = ("test" if rank < test else "validation") if held_out else "train"
            expected[user, item] = part
    frame = spark.createDataFrame(rows, SCHEMA)
    assert parts(frame, Split("last", validation=validation, test=test)) == expected
    sizes = np.bincount([u for u, _, _ in rows])
    assert 0 < min(sizes[sizes > 0]) <= 3 < max(sizes)  # so both cases were there


def test_a_column_says_the_part(spark):
    rows = [(1, 1, "train"), (1, 2, "validation"), (2, 1, "test")]
    frame = spark.createDataFrame(rows, "user int, item int, split string")
    found = split_ratings(frame, Split("column", column="fold"))
    assert found.columns == ["user", "item", "part"]
    assert [row.part for row in found.collect()] == ["train", "validation", "test"]


def test_without_sizes_all_is_for_training(spark, rows):
    frame = spark.createDataFrame(rows, SCHEMA)
    assert set(parts(frame, Split()).values()) == {"train"}


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"method": "kfold"}, "method must be one of random, time, last, column, got 'kfold'"),
        ({"test": 1.0}, r"test must be a fraction in \[0, 1\), got 1.0"),
        ({"validation": -0.1}, "validation must be a fraction"),
        ({"test": float("nan")}, "test must be a fraction"),
        ({"method": "time", "test": 2}, "test must be a fraction"),
        ({"test": 0.5, "validation": 0.5}, r"must leave rows for training, got 0.5 \+ 0.5"),
        ({"method": "last", "test": 0.1}, "test must be a number of ratings per user ≥ 0, got 0.1"),
        ({"method": "last", "test": -1}, "test must be a number of ratings per user ≥ 0, got -1"),
        ({"method": "column"}, "column must be named for method 'column' and for no other"),
        ({"column": "fold"}, "got method 'random' and column 'fold'"),
        (
            {"method": "column", "column": "c", "test": 0.1},
            "test is for the column to say, got 0.1",
        ),
    ],
)
def test_a_split_that_cannot_be_is_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        Split(**choices)
