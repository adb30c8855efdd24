import itertools
import time
from datetime import date, datetime
from decimal import Decimal

import pytest

from nonconvex.distributed.data.validation import (
    _NUMBER,
    Columns,
    RatingsError,
    Rules,
    accepted_ratings,
    count_reasons,
    label_ratings,
)

NAN, INF = float("nan"), float("inf")
TYPED = "user bigint, item string, rating double, weight double, timestamp bigint, split string"
GREATEST = 2**63 - 1
ALL = Columns(weight="weight", timestamp="timestamp")


def reasons(frame, *args, **options):
    return [row.reason for row in label_ratings(frame, *args, **options).collect()]


def test_every_reason_to_refuse_a_typed_row(spark):
    good = {"user": 1, "item": "a", "rating": 4.0, "weight": 1.0, "timestamp": 7, "split": "train"}
    cases = [({"rating": 1.0, "weight": 0.0, "split": "test"}, None)]
    cases += [({"rating": 5.0, "split": "validation"}, None)]
    cases += [({name: None}, f"{name} is null") for name in list(good)[:5]]
    for name in ("rating", "weight"):
        cases += [({name: NAN}, f"{name} is NaN"), ({name: INF}, f"{name} is infinite")]
    cases += [
        ({"rating": -INF}, "rating is infinite"),
        ({"rating": 0.5}, "rating is below 1: 0.5"),
        ({"rating": 5.5}, "rating is above 5: 5.5"),
        ({"weight": -1.0}, "weight is below 0: -1.0"),
        ({"split": "dev"}, "split is none of train, validation, test: dev"),
        ({"split": None}, "split is none of train, validation, test: null"),
    ]
    bad = {"split": "dev"}  # of several reasons the first is given
    for name, value, reason in (
        ("timestamp", None, "timestamp is null"),
        ("weight", -1.0, "weight is below 0: -1.0"),
        ("rating", NAN, "rating is NaN"),
        ("item", None, "item is null"),
        ("user", None, "user is null"),
    ):
        bad = {**bad, name: value}
        cases.append((bad, reason))
    rows = spark.createDataFrame([tuple((good | row).values()) for row, _ in cases], TYPED)
    rules = Rules(minimum=1, maximum=5)
    found = reasons(rows, ALL, rules, split="split", timestamp_required=True)
    assert found == [reason for _, reason in cases]
    rows = spark.createDataFrame([(1, "a", 4.0, 1.0, None, None)], TYPED)
    assert reasons(rows, ALL, Rules()) == [None], "a timestamp may be null where none is needed"


def test_every_reason_to_refuse_a_row_of_text(spark):
    texts = ("abc", "", "4,5", "5d", "0x1p3")
    cases = [
        ((" 4.5 ", "7", None), None),
        (("-.5e+1", "2013-10-09 23:22:24", None), None),
        *(((text, "7", None), f"rating is not a number: '{text}'") for text in texts),
        (("NaN", "7", None), "rating is NaN"),
        (("-Infinity", "7", None), "rating is infinite"),
        (("1e999", "7", None), "rating is infinite"),
        (("3", "then", None), "timestamp is neither a number nor a date-time: then"),
        (("3", "7", "1,a"), "line is malformed"),
    ]
    schema = "user string, item string, rating string, timestamp string, bad string"
    rows = [(None if row[2] else "1", "a", *row) for row, _ in cases]
    columns = Columns(timestamp="timestamp")
    rows = spark.createDataFrame(rows, schema)
    found = reasons(rows, columns, Rules(), text=True, malformed="bad")
    assert found == [reason for _, reason in cases]


def test_a_long_cell_costs_linear_time_and_is_quoted_in_part(spark):
    cells = [cell for size in (20_000, 2_000_000) for cell in ("9" * size, "9" * size + "x")]
    start = time.process_time(), time.monotonic()
    patterns = spark.createDataFrame([(cell,) for cell in cells], "cell string")
    found = [row[0] for row in patterns.select(patterns.cell.rlike(_NUMBER)).collect()]
    assert found == [True, False] * 2
    rows = [("1", "a", cell, "1") for cell in cells] + [("1", "a", "1", cell) for cell in cells]
    rows = spark.createDataFrame(rows, "user string, item string, rating string, timestamp string")
    found = reasons(rows, Columns(timestamp="timestamp"), Rules(), text=True)
    long = "has more than 1,000 characters: "
    assert (
        found
        == [f"rating {long}" + "9" * 100 + "…"] * 4 + [f"timestamp {long}" + "9" * 100 + "…"] * 4
    )
    rows = spark.createDataFrame([("x" * 10**6, "a", 1.0)], ["user", "item", "rating"])
    assert reasons(rows, Columns(), Rules(ids="long")) == [
        "user is not an integer: " + "x" * 100 + "…"
    ]
    assert time.monotonic() - start[1] < 30  # a quadratic pattern takes 32 s for 20 kB


def test_ids_that_would_be_merged_are_refused(spark):
    ids = ["Jos\ufffd", '{"id": 1}', "[1, 2]", "[deleted]", "{not json", "José"]
    rows = [(i, "a", "1") for i in ids] + [("a", i, "1") for i in ids]
    rows = spark.createDataFrame(rows, ["user", "item", "rating"])
    bytes_of = "has bytes that are not UTF-8: Jos\ufffd"
    for nested in (False, True):
        expected = [
            bytes_of,
            *(f"is an object or a list: {i}" if nested else None for i in ids[1:3]),
            *[None] * 3,
        ]
        found = reasons(rows, Columns(), Rules(), text=True, nested=nested)
        for side, part in (("user", found[:6]), ("item", found[6:])):
            assert part == [why and f"{side} {why}" for why in expected]
    rows = spark.sql("select cast(X'4aff' as string) user, 1 item, 1.0 rating")
    assert reasons(rows, Columns(), Rules()) == ["user has bytes that are not UTF-8: J\ufffd"]


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


@pytest.mark.parametrize("other", ["-20", f"{GREATEST}", "007", "1.0", " 2", f"{2**63}", ""])
def test_ids_of_text_are_integers_if_all_accepted_ones_are(spark, other):
    ids, integer = ["1", "0", other], other in ("-20", f"{GREATEST}")
    rows = [(i, "a", "1") for i in ids] + [("refused", "a", "x")]
    rows = spark.createDataFrame(rows, ["user", "item", "rating"])
    labelled = label_ratings(rows, Columns(), Rules(), text=True)
    intake = count_reasons(labelled, integers=True)
    assert intake.integers == (frozenset({"user"}) if integer else frozenset())
    users = [row.user for row in accepted_ratings(labelled, intake.integers).collect()]
    assert users == ([int(i) for i in ids] if integer else ids)  # else 007 and 7 were one user


def test_columns_with_odd_names_and_inside_structs(spark):
    rows = spark.sql("""
        select 1 as `user.id`, named_struct('id', 2, 'in ner', named_struct('x', 3.5)) as `an item`,
               'no' as `user`, 0.5 as `⭐ `, 9 as `a``b`
    """)
    columns = Columns(user="user.id", item="an item.id", rating="an item.in ner.x")
    assert label_ratings(rows, columns, Rules()).first()[:3] == (1, 2, 3.5)
    columns = Columns(user="a`b", item="user", rating="⭐ ")
    assert label_ratings(rows, columns, Rules()).first()[:3] == (9, "no", 0.5)


def test_a_column_is_there_and_has_one_role(spark):
    rows = spark.createDataFrame([(1, 2, 3.0)], "userId int, item int, rating double")
    there = "no column 'user' for the user: the columns are 'userId', 'item', 'rating'"
    both = Columns(user="item")
    for columns, options, message in (
        (Columns(), {}, there),
        (Columns(user="userId.x"), {}, "no column 'userId.x' for the user"),
        (Columns(), {"text": True, "malformed": "rating"}, "the columns are 'userId', 'item'$"),
        (both, {}, "'item' is named for both the user and the item"),
    ):
        with pytest.raises(RatingsError, match=message):
            label_ratings(rows, columns, Rules(), **options)


@pytest.mark.parametrize(
    ("roles", "kinds", "allowed"),
    [
        (["user", "item"], "double boolean binary struct<id:int> timestamp",
         "a string, an integer or a decimal"),
        (["rating", "weight"], "string array<double> boolean", "a number"),
        (["timestamp"], "string boolean", "a number, a timestamp or a date"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_named_beside_what_is_allowed(spark, roles, kinds, allowed):
    names = ("user", "item", "rating", "weight", "timestamp")
    for role, kind in itertools.product(roles, kinds.split()):
        schema = ", ".join(f"{name} {kind if name == role else 'int'}" for name in names)
        message = f"column '{role}' for the {role} is of type {kind}, and must be {allowed}: cast"
        with pytest.raises(RatingsError, match=message):
            label_ratings(spark.createDataFrame([], schema), ALL, Rules())


def test_counts_are_by_reason_and_no_good_rows_are_an_error(spark):
    def count(rows, name="r"):
        frame = spark.createDataFrame(rows, "user int, item int, rating double")
        return count_reasons(label_ratings(frame, Columns(), Rules(maximum=5)), name)

    found = count([(1, 1, 3.0), (1, 2, 7.0), (1, 3, 8.0), (None, 1, 3.0)])
    assert found == (4, 1, {"rating is above 5": 2, "user is null": 1}, frozenset(), 0)
    with pytest.raises(RatingsError, match=r"^ratings.csv has no rows"):
        count([], "ratings.csv")
    message = r"^none of the 3 rows of r is .*: rating is null \(2\), user is null \(1\);"
    with pytest.raises(RatingsError, match=message):
        count([(None, 1, 1.0), (1, 1, None), (2, 1, None)])


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
