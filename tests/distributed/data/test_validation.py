from datetime import date, datetime
from decimal import Decimal

import pytest

from nonconvex.distributed.data.validation import (
    Columns,
    RatingsError,
    Rules,
    accepted_ratings,
    count_reasons,
    label_ratings,
)

NAN, INF = float("nan"), float("inf")
TYPED = "user bigint, item string, rating double, weight double, timestamp bigint, split string"
ALL = Columns(weight="weight", timestamp="timestamp")


def reasons(frame, *args, **options):
    return [row.reason for row in label_ratings(frame, *args, **options).collect()]


def test_every_reason_to_refuse_a_typed_row(spark):
    cases = [
        ((1, "a", 4.0, 1.0, 7, "train"), None),
        ((1, "a", 1.0, 0.0, 7, "test"), None),
        ((1, "a", 5.0, 1.0, 7, "validation"), None),
        ((None, "a", 4.0, 1.0, 7, "train"), "user is null"),
        ((1, None, 4.0, 1.0, 7, "train"), "item is null"),
        ((1, "a", None, 1.0, 7, "train"), "rating is null"),
        ((1, "a", NAN, 1.0, 7, "train"), "rating is NaN"),
        ((1, "a", INF, 1.0, 7, "train"), "rating is infinite"),
        ((1, "a", -INF, 1.0, 7, "train"), "rating is infinite"),
        ((1, "a", 0.5, 1.0, 7, "train"), "rating is below 1: 0.5"),
        ((1, "a", 5.5, 1.0, 7, "train"), "rating is above 5: 5.5"),
        ((1, "a", 4.0, None, 7, "train"), "weight is null"),
        ((1, "a", 4.0, NAN, 7, "train"), "weight is NaN"),
        ((1, "a", 4.0, INF, 7, "train"), "weight is infinite"),
        ((1, "a", 4.0, -1.0, 7, "train"), "weight is below 0: -1.0"),
        ((1, "a", 4.0, 1.0, None, "train"), "timestamp is null"),
        ((1, "a", 4.0, 1.0, 7, "dev"), "split is none of train, validation, test: dev"),
        ((1, "a", 4.0, 1.0, 7, None), "split is none of train, validation, test: null"),
        ((None, None, NAN, -1.0, None, "dev"), "user is null"),  # the first reason is given
        ((1, None, NAN, -1.0, None, "dev"), "item is null"),
        ((1, "a", NAN, -1.0, None, "dev"), "rating is NaN"),
        ((1, "a", 4.0, -1.0, None, "dev"), "weight is below 0: -1.0"),
        ((1, "a", 4.0, 1.0, None, "dev"), "timestamp is null"),
    ]
    rows = spark.createDataFrame([row for row, _ in cases], TYPED)
    rules = Rules(minimum=1, maximum=5)
    found = reasons(rows, ALL, rules, split="split", timestamp_required=True)
    assert found == [reason for _, reason in cases]


def test_a_timestamp_may_be_null_where_none_is_needed(spark):
    rows = spark.createDataFrame([(1, "a", 4.0, 1.0, None, None)], TYPED)
    assert reasons(rows, ALL, Rules()) == [None]


def test_every_reason_to_refuse_a_row_of_text(spark):
    cases = [
        (("1", "a", " 4.5 ", "7", None), None),
        (("1", "a", "-.5e+1", "2013-10-09 23:22:24", None), None),
        (("1", "a", "abc", "7", None), "rating is not a number: 'abc'"),
        (("1", "a", "", "7", None), "rating is not a number: ''"),
        (("1", "a", "4,5", "7", None), "rating is not a number: '4,5'"),
        (("1", "a", "5d", "7", None), "rating is not a number: '5d'"),
        (("1", "a", "0x1p3", "7", None), "rating is not a number: '0x1p3'"),
        (("1", "a", "NaN", "7", None), "rating is NaN"),
        (("1", "a", "-Infinity", "7", None), "rating is infinite"),
        (("1", "a", "1e999", "7", None), "rating is infinite"),
        (("1", "a", "3", "then", None), "timestamp is neither a number nor a date-time: then"),
        ((None, "a", "3", "7", "1,a"), "line is malformed"),
    ]
    schema = "user string, item string, rating string, timestamp string, bad string"
    rows = spark.createDataFrame([row for row, _ in cases], schema)
    columns = Columns(timestamp="timestamp")
    found = reasons(rows, columns, Rules(), text=True, malformed="bad")
    assert found == [reason for _, reason in cases]


def test_ratings_and_times_are_read_for_what_they_are(spark):
    rows = spark.sql("""
        select * from values
            ('1', 'a', '4.5', '1381360944'), ('1', 'b', '-0.0', '1381360944.9'),
            ('1', 'c', '1e1', '2013-10-09 23:22:24'), ('1', 'd', '3', null)
        as (user, item, rating, timestamp)
    """)
    found = label_ratings(rows, Columns(timestamp="timestamp"), Rules(), text=True).collect()
    assert [row.rating for row in found] == [4.5, 0.0, 10.0, 3.0]
    assert str(found[1].rating) == "0.0"  # and not −0, the bits of which differ
    assert [row.timestamp for row in found] == [1381360944] * 3 + [None]


@pytest.mark.parametrize(
    "when",
    [1381276800, 1381276800.5, Decimal("1381276800.50"), datetime(2013, 10, 9), date(2013, 10, 9)],
)
def test_times_of_every_type_become_seconds(spark, when):
    rows = spark.createDataFrame([(1, 2, 3, when)], ["user", "item", "rating", "timestamp"])
    labelled = label_ratings(rows, Columns(timestamp="timestamp"), Rules())
    assert labelled.schema["timestamp"].dataType.simpleString() == "bigint"
    assert labelled.first().timestamp == 1381276800


@pytest.mark.parametrize("kind", ["string", "tinyint", "smallint", "int", "bigint", "decimal(9,2)"])
def test_ids_keep_their_type(spark, kind):
    rows = spark.sql(f"select cast('5' as {kind}) user, cast('6' as {kind}) item, 1 rating")
    accepted = accepted_ratings(label_ratings(rows, Columns(), Rules()))
    assert accepted.schema["user"].dataType.simpleString() == kind
    assert accepted.schema["item"].dataType.simpleString() == kind
    assert accepted.columns == ["user", "item", "rating"]


def test_ids_become_what_the_rules_say(spark):
    rows = spark.createDataFrame([("5", 7, 1.0), ("x", 8, 1.0)], ["user", "item", "rating"])
    text = label_ratings(rows, Columns(), Rules(ids="string")).collect()
    assert [(row.user, row.item) for row in text] == [("5", "7"), ("x", "8")]
    numbers = label_ratings(rows, Columns(), Rules(ids="long")).collect()
    assert [(row.user, row.item) for row in numbers] == [(5, 7), (None, 8)]
    assert [row.reason for row in numbers] == [None, "user is not an integer: x"]


@pytest.mark.parametrize(
    ("ids", "integer"),
    [
        (["1", "-20", "0", "9223372036854775807"], True),
        (["1", "007"], False),  # else 007 and 7 would be one user
        (["1", "1.0"], False),
        (["1", " 2"], False),
        (["1", "9223372036854775808"], False),
        (["1", ""], False),
    ],
)
def test_ids_of_text_are_integers_if_all_accepted_ones_are(spark, ids, integer):
    rows = [(i, "a", "1") for i in ids] + [("refused", "a", "x")]
    rows = spark.createDataFrame(rows, ["user", "item", "rating"])
    labelled = label_ratings(rows, Columns(), Rules(), text=True)
    intake = count_reasons(labelled, integers=True)
    assert intake.integers == (frozenset({"user"}) if integer else frozenset())
    users = [row.user for row in accepted_ratings(labelled, intake.integers).collect()]
    assert users == ([int(i) for i in ids] if integer else ids)


def test_columns_with_odd_names_and_inside_structs(spark):
    rows = spark.sql("""
        select 1 as `user.id`, named_struct('id', 2, 'in ner', named_struct('x', 3.5)) as `an item`,
               'no' as `user`, 0.5 as `⭐ `, 9 as `a``b`
    """)
    columns = Columns(user="user.id", item="an item.id", rating="an item.in ner.x")
    assert label_ratings(rows, columns, Rules()).first()[:3] == (1, 2, 3.5)
    columns = Columns(user="a`b", item="user", rating="⭐ ")
    assert label_ratings(rows, columns, Rules()).first()[:3] == (9, "no", 0.5)


def test_a_missing_column_is_named_beside_those_there_are(spark):
    rows = spark.createDataFrame([(1, 2, 3.0)], "userId int, item int, rating double")
    message = "no column 'user' for the user: the columns are 'userId', 'item', 'rating'"
    with pytest.raises(RatingsError, match=message):
        label_ratings(rows, Columns(), Rules())
    with pytest.raises(RatingsError, match=r"no column 'userId.x' for the user"):
        label_ratings(rows, Columns(user="userId.x"), Rules())
    with pytest.raises(RatingsError, match=r"the columns are 'userId', 'item'$"):
        label_ratings(rows, Columns(), Rules(), text=True, malformed="rating")


def test_a_column_has_one_role(spark):
    rows = spark.createDataFrame([(1, 2, 3.0)], "user int, item int, rating double")
    with pytest.raises(RatingsError, match="'user' is named for both the user and the item"):
        label_ratings(rows, Columns(item="user"), Rules())


@pytest.mark.parametrize(
    ("role", "kind", "allowed"),
    [
        ("user", "double", "a string, an integer or a decimal"),
        ("user", "boolean", "a string, an integer or a decimal"),
        ("item", "binary", "a string, an integer or a decimal"),
        ("item", "struct<id:int>", "a string, an integer or a decimal"),
        ("item", "timestamp", "a string, an integer or a decimal"),
        ("rating", "string", "a number"),
        ("rating", "array<double>", "a number"),
        ("rating", "boolean", "a number"),
        ("weight", "string", "a number"),
        ("timestamp", "string", "a number, a timestamp or a date"),
        ("timestamp", "boolean", "a number, a timestamp or a date"),
    ],
)
def test_a_wrong_type_is_named_beside_what_is_allowed(spark, role, kind, allowed):
    names = ("user", "item", "rating", "weight", "timestamp")
    schema = ", ".join(f"{name} {kind if name == role else 'int'}" for name in names)
    rows = spark.createDataFrame([], schema)
    message = rf"column '{role}' for the {role} is of type {kind}, and must be {allowed}: cast it"
    with pytest.raises(RatingsError, match=message):
        label_ratings(rows, ALL, Rules())


def test_counts_are_by_reason_without_the_values(spark):
    rows = [(1, 1, 3.0), (1, 2, 7.0), (1, 3, 8.0), (None, 1, 3.0)]
    rows = spark.createDataFrame(rows, "user int, item int, rating double")
    intake = count_reasons(label_ratings(rows, Columns(), Rules(maximum=5)))
    assert intake == (4, 1, {"rating is above 5": 2, "user is null": 1}, frozenset())


def test_no_rows_and_no_good_rows_are_errors(spark):
    schema = "user int, item int, rating double"
    nothing = label_ratings(spark.createDataFrame([], schema), Columns(), Rules())
    with pytest.raises(RatingsError, match=r"^ratings.csv has no rows"):
        count_reasons(nothing, "ratings.csv")
    rows = spark.createDataFrame([(None, 1, 1.0), (1, 1, None), (2, 1, None)], schema)
    message = (
        r"^none of the 3 rows of r is a usable rating: rating is null \(2\), user is null \(1\);"
    )
    with pytest.raises(RatingsError, match=message):
        count_reasons(label_ratings(rows, Columns(), Rules()), "r")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"ids": "int"}, r"ids must be one of auto, string, long, got 'int'"),
        ({"duplicates": "max"}, r"duplicates must be one of error, first, last, mean, got 'max'"),
        ({"minimum": 5, "maximum": 1}, r"minimum must be ≤ maximum, got 5 and 1"),
    ],
)
def test_rules_that_cannot_be_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        Rules(**choices)
