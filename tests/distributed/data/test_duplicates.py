import pytest
from pyspark.sql import functions as F

from nonconvex.distributed.data.duplicates import count_duplicates, resolve_duplicates
from nonconvex.distributed.data.ratings import RatingsError

SCHEMA = "user int, item string, rating double, timestamp bigint, position int"
ROWS = [
    (1, "a", 3.0, 50, 2),
    (1, "a", 5.0, 40, 1),  # first of the files
    (1, "a", 4.0, 60, 3),  # last in time
    (1, "b", 2.0, 10, 4),
    (2, "a", 1.0, 7, 5),
    (2, "a", 1.5, 7, 6),  # of equal times the later in the files
    (3, "c", 4.0, 1, 7),
    (3, "c", 4.0, 1, 8),
]


@pytest.fixture(params=[1, 4])
def ratings(spark, request):
    return spark.createDataFrame(ROWS, SCHEMA).repartition(request.param, F.rand(3))


def by_pair(frame):
    return {(row.user, row.item): row for row in frame.collect()}


def test_duplicates_are_counted_with_an_example(ratings):
    found = count_duplicates(ratings)
    assert found[:3] == (4, 3, 2)
    message = (
        r"^4 rows repeat a \(user, item\) pair: 3 pairs have several rows, 2 of them different "
        r"ratings \(user 1 has 3 ratings of item 'a', 3 to 5\); set duplicates to 'first', 'last'"
    )
    with pytest.raises(RatingsError, match=message):
        found.refuse()


def test_a_conflicting_example_comes_before_an_agreeing_one(spark):
    rows = [(1, "a", 4.0), (1, "a", 4.0), (2, "b", 1.0), (2, "b", 3.0)]
    ratings = spark.createDataFrame(rows, "user int, item string, rating double")
    assert count_duplicates(ratings).example.user == 2


def test_without_duplicates_there_is_nothing_to_refuse(ratings):
    found = count_duplicates(ratings.where("user = 1 and item = 'b'"))
    assert found == (0, 0, 0, None)
    found.refuse()


@pytest.mark.parametrize(
    ("policy", "expected", "dropped"),
    [
        ("first", [5.0, 2.0, 1.0, 4.0], [2, 3, 6, 8]),
        ("last", [4.0, 2.0, 1.5, 4.0], [1, 2, 5, 7]),
    ],
)
def test_one_row_is_kept_and_the_others_are_not_lost(ratings, policy, expected, dropped):
    kept, lost = resolve_duplicates(ratings, policy)
    assert kept.columns == ratings.columns
    found = by_pair(kept)
    assert [found[pair].rating for pair in sorted(found)] == expected
    lost = sorted(lost.collect(), key=lambda row: row.position)
    assert [row.position for row in lost] == dropped
    other = "an earlier" if policy == "first" else "a later"
    assert lost[0].reason == f"duplicate of {other} row: its rating is {expected[0]}"


def test_the_mean_counts_every_row(ratings):
    kept, lost = resolve_duplicates(ratings, "mean")
    assert lost is None
    assert kept.columns == ["user", "item", "rating", "timestamp"]
    found = by_pair(kept)
    assert found[1, "a"][2:] == (4.0, 60)
    assert found[1, "b"][2:] == (2.0, 10)
    assert found[2, "a"][2:] == (1.25, 7)


def test_the_mean_by_weight_has_the_squared_error_of_the_rows_up_to_a_constant(spark):
    rows = [(1, 1, 2.0, 0.5), (1, 1, 5.0, 2.5), (1, 2, 3.0, 0.0), (1, 2, 4.0, 0.0)]
    ratings = spark.createDataFrame(rows, "user int, item int, rating double, weight double")
    kept, _ = resolve_duplicates(ratings, "mean")
    found = by_pair(kept)
    assert found[1, 2][2:] == (3.5, 0.0)  # no weight at all: the plain mean
    merged = found[1, 1]

    def error(prediction, rows):
        return sum(row[3] * (row[2] - prediction) ** 2 for row in rows)

    differences = [error(p, rows[:2]) - error(p, [merged]) for p in (0.0, 1.0, 4.5)]
    assert differences == pytest.approx([differences[0]] * 3)


def test_the_mean_is_the_same_bits_in_any_order_and_of_equal_ratings_exact(spark):
    values = [0.1, 0.7, 1e16, -1e16, 0.3]
    rows = [(1, i, v) for i in range(40) for v in values[i % 5 :] + values[: i % 5]]
    rows += [(2, 1, 0.1)] * 3
    ratings = spark.createDataFrame(rows, "user int, item int, rating double")
    found = by_pair(resolve_duplicates(ratings, "mean")[0])
    assert len({found[1, i].rating for i in range(40)}) == 1
    assert sum([0.1, 0.1, 0.1]) / 3 != 0.1
    assert found[2, 1].rating == 0.1
