"""Chunks beside the rows that they were made of; no Spark is needed to cut them."""

from collections import Counter
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization import packing as chunks
from nonconvex.distributed.factorization.packing import Chunk, check_chunks, encode

IDS = {
    "string": (st.text("aé😀 ", max_size=3), pa.string()),
    "bigint": (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    "decimal": (st.integers(-5, 5).map(lambda i: Decimal(i) / 4), pa.decimal128(10, 2)),
}


@st.composite
def tables(draw, weighted):
    ids, kind = IDS[draw(st.sampled_from(sorted(IDS)))]
    numbers = st.floats(-1e6, 1e6, width=32)
    rows = draw(st.lists(st.tuples(ids, ids, numbers, numbers, st.booleans()), max_size=20))
    columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], [], [], []]
    table = {
        "user": pa.array(columns[0], kind),
        "item": pa.array(columns[1], kind),
        "rating": pa.array(columns[2], pa.float64()),
    }
    if weighted:
        table["weight"] = pa.array(map(abs, columns[3]), pa.float64())
        table["held_out"] = pa.array(columns[4], pa.bool_())
    return pa.table(table)


def encoded(table, rows=7):
    """What a partition that comes in batches of so many rows is cut into."""
    found = list(encode(np.float32)(iter(table.to_batches(max_chunksize=rows))))
    return found or [pa.RecordBatch.from_pylist([], chunks._SCHEMA)]


def rows_of(batches):
    """Decode chunks, one rating at a time."""
    for batch in batches:
        for index, held_out in enumerate(batch["held_out"].to_pylist()):
            chunk = Chunk.read(batch, index, np.float32)
            ids = {side: chunk.ids[side]["id"].to_pylist() for side in ("user", "item")}
            for at, rating in enumerate(chunk.ratings):
                weight = None if chunk.weights is None else chunk.weights[at]
                pair = (ids[side][chunk.places[side][at]] for side in ("user", "item"))
                yield (*pair, rating, weight, held_out)


def chunked(table):
    return pa.Table.from_batches(encoded(table))


@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_are_the_ratings(weighted, monkeypatch):
    monkeypatch.setattr(chunks.combined, "__defaults__", (5,))  # so that there are several

    @settings(deadline=None)
    @given(tables(weighted))
    def holds(table):
        rows = [
            (
                row["user"], row["item"], np.float32(row["rating"]),
                np.float32(row["weight"]) if weighted else None, row.get("held_out", False),
            )
            for row in table.to_pylist()
        ]  # fmt: skip
        batches = encoded(table)
        assert sorted(rows_of(batches), key=repr) == sorted(rows, key=repr)
        surveyed = list(chunks._survey(1 << 20)(iter(batches)))
        if any(not row[4] for row in rows):
            ids = chunks.from_bytes(surveyed.pop()["user_ids"][0].as_buffer()).to_pylist()
            of_train = [row[0] for row in rows if not row[4]]
            assert {row["id"]: row["count"] for row in ids} == Counter(of_train)
            assert len(ids) == len(set(of_train))
        reports = [batch.select(chunks.REPORT) for batch in surveyed]
        assert reports == [batch.select(chunks.REPORT) for batch in batches]
        train = [row["rating"] for row in table.to_pylist() if not row.get("held_out", False)]
        if train and any(row[4] for row in rows) == weighted:
            checked = check_chunks(chunked(table), np.float64, has_validation=weighted)
            assert checked == (len(rows), min(train), max(train))

    holds()


def test_what_cannot_be_used_is_counted_over_all_chunks():
    table = pa.table(
        {
            "user": pa.array(["a", None, "b", "c"] * 5),
            "item": pa.array([1, 2, None, None] * 5),
            "rating": pa.array([float("inf"), 1.0, None, float("nan")] * 5),
            "weight": pa.array([-1.0, None, float("inf"), 0.0] * 5),
            "held_out": pa.array([None, True, False, False] * 5),
        }
    )
    expected = (
        "the ratings have 5 null user ids and 10 null item ids and 5 null ratings and 10 ratings "
        "that are not finite and 5 null weights and 10 weights that are not finite numbers ≥ 0 "
        "and 5 null validation indicators in 20 rows; drop or fill them before fit"
    )
    with pytest.raises(RatingsError) as refused:
        check_chunks(chunked(table), np.float32, has_validation=True)
    assert str(refused.value) == expected


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        ([], "no ratings to train on; at least one"),
        ([True, True], "no ratings to train on that are not held out for validation"),
        ([False], "is false in all 1 rows; hold some ratings out"),
    ],
)
def test_there_must_be_ratings_of_both_kinds(held_out, message):
    ones = dict.fromkeys(("user", "item", "rating"), pa.array([1.0] * len(held_out)))
    table = pa.table(ones | {"held_out": pa.array(held_out, pa.bool_())})
    with pytest.raises(RatingsError, match=message):
        check_chunks(chunked(table), np.float32, has_validation=True)
