from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from nonconvex.distributed.data import ids as indexing
from nonconvex.distributed.data.ids import attach_indices, default_blocks, encode_ids, index_ids
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.packing import (
    collect_ids,
    index_chunk_ids,
    read_chunks,
    sum_counts,
    survey_chunks,
)
from nonconvex.numerics.factorization.blocks import counting_order


def twin(ids, blocks):
    """Index in plain Python: id, index, count, block, in ascending order."""
    table, before = [], 0
    for index, one in enumerate(sorted(set(ids))):
        count = ids.count(one)
        table.append((one, index, count, before * blocks // len(ids)))
        before += count
    return table


def counted(ids, kind):
    table = pa.table({"id": pa.array(ids, kind)})
    return table.group_by("id").aggregate([("id", "count")]).rename_columns(["id", "count"])


def rows(table):
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("blocks", "kind", "sql", "make"),
    [
        (1, pa.int64(), "bigint", int),
        (3, pa.string(), "string", lambda i: f"{chr(0x61 + i % 20)}{'é😀'[i % 2]}{i}"),
        (16, pa.decimal128(20, 2), "decimal(20,2)", lambda i: Decimal(f"{i}.25")),
        (300, pa.int16(), "smallint", lambda i: i % 1000),
    ],
)
def test_ids_in_ascending_order_in_blocks_of_equal_ratings(spark, blocks, kind, sql, make):
    skewed = np.floor(np.random.default_rng(5).pareto(0.7, 400)).clip(0, 10**12)
    ids = [make(int(i) * 7 - 100) for i in skewed]
    index = index_ids(counted(ids, kind), blocks)
    assert rows(index.table) == twin(ids, blocks)
    assert index.table.schema.types == [kind, pa.int32(), pa.int64(), pa.int32()]
    distinct, places = encode_ids(pa.chunked_array([ids[:150], ids[150:]], kind))
    assert distinct.to_pylist() == sorted(set(ids))
    assert distinct.take(pa.array(places)).to_pylist() == ids
    order = np.argsort(places, kind="stable")
    for block, members in index.cut(order):
        assert {row[3] for row in rows(index.table) if row[0] in {ids[m] for m in members}} == {
            block
        }
    assert np.concatenate([members for _, members in index.cut(order)]).tolist() == order.tolist()
    frame = spark.createDataFrame([(i,) for i in ids], f"user {sql}")
    ratings = frame.select("user", F.lit(1).alias("item"), F.lit(2.0).alias("rating"))
    chunks = read_chunks(ratings, np.float32)
    [surveyed] = [survey_chunks(chunks).ids["user"]]
    collected = collect_ids(chunks, "user", sql)
    assert collected.sort_by("id").equals(
        sum_counts([surveyed]).sort_by("id").cast(collected.schema)
    )
    held = index_chunk_ids(spark, collected, blocks)
    chunks.release()
    known = pa.chunked_array([held.ids.slice(1), [None]], held.ids.type)
    places = held.indices_of(known)
    assert places.tolist() == [*range(1, len(index.table)), -1]
    assert index.indices_of(distinct.slice(1)).tolist() == places[:-1].tolist()
    assert held.ids.to_pylist() == index.table["id"].to_pylist()
    assert held.blocks_of(places).tolist() == [*index.table["block"].to_pylist()[1:], 0]


def test_blocks_beyond_the_ids_stay_empty():
    few = index_ids(counted([7, 7, 9], pa.int32()), 100, "user")
    assert rows(few.table) == [(7, 0, 2, 0), (9, 1, 1, 66)]
    assert [(block, part.tolist()) for block, part in few.cut(np.arange(3))] == [
        (0, [0, 1]),
        (66, [2]),
    ]


def test_rows_are_ordered_by_counting():
    keys = np.random.default_rng(3).integers(0, [[5], [70_000], [2**31 - 1]], (3, 500), np.int32)
    assert counting_order(*keys).tolist() == np.lexsort(keys).tolist()
    assert counting_order(np.zeros(0, np.int32)).tolist() == []


def test_both_sides_are_attached_and_the_unknown_is_null(spark):
    indices = {
        "user": index_ids(counted([1, 1, 2], pa.int32()), 2),
        "item": index_ids(counted(["a", "b", "a"], pa.string()), 1),
    }
    frame = spark.createDataFrame([(2, "b", 0.5), (3, "a", 1.0)], "user int, item string, x double")
    found = attach_indices(frame, indices).orderBy("user")
    columns = ("user", "item", "x", "user_index", "user_block", "item_index", "item_block")
    assert [tuple(row) for row in found.select(*columns).collect()] == [
        (2, "b", 0.5, 1, 1, 1, 0),
        (3, "a", 1.0, None, None, 0, 0),
    ]


def test_blocks_are_for_two_million_ratings_and_as_many_for_every_core(spark):
    assert spark.sparkContext.defaultParallelism == 2
    assert [default_blocks(spark, n) for n in (0, 4_000_000, 4_000_001)] == [2, 2, 4]


def test_what_cannot_be_indexed_is_refused(monkeypatch):
    ids = counted([7, 8, 9], pa.int32())
    with pytest.raises(ValueError, match="number of blocks must be at least 1, got 0"):
        index_ids(ids, 0, "user")
    monkeypatch.setattr(indexing, "_MOST_IDS", 2)
    with pytest.raises(RatingsError, match="column 'user' has 3 different ids, and at most 2 can"):
        index_ids(ids, 1, "user")
