from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from nonconvex.distributed.data import ids as indexing
from nonconvex.distributed.data.ids import attach_indices, default_blocks, index_ids, sorted_counts
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.packing import collect_ids, read_chunks


def twin(ids, blocks):
    """Index in plain Python: id, index, count, block, in ascending order."""
    table, before = [], 0
    for index, one in enumerate(sorted(set(ids))):
        count = ids.count(one)
        table.append((one, index, count, before * blocks // len(ids)))
        before += count
    return table


def indexed(frame, blocks):
    index = index_ids(frame, "user", blocks)
    try:
        assert index.blocks == blocks
        return index.size, [tuple(row) for row in index.table.collect()]
    finally:
        index.unpersist()


def skewed(n=400, seed=5):
    """Integers, some of them far more frequent than others, negative ones too."""
    rng = np.random.default_rng(seed)
    return [int(i) * 7 - 100 for i in np.floor(rng.pareto(0.7, n)).clip(0, 10**12)]


@pytest.mark.parametrize(
    ("blocks", "kind", "make"),
    [
        (1, "bigint", int),
        (3, "string", lambda i: f"{chr(0x61 + i % 20)}{'é😀'[i % 2]}{i}"),
        (16, "decimal(20,2)", lambda i: Decimal(f"{i}.25")),
        (300, "smallint", lambda i: i % 1000),
    ],
)
def test_ids_in_ascending_order_in_blocks_of_equal_ratings(spark, blocks, kind, make):
    ids = [make(i) for i in skewed()]
    frame = spark.createDataFrame([(i,) for i in ids], f"user {kind}")
    size, table = indexed(frame, blocks)
    assert size == len(set(ids))
    assert table == twin(ids, blocks)
    ratings = frame.select("user", F.lit(1).alias("item"), F.lit(2.0).alias("rating"))
    chunks = read_chunks(ratings, np.float32)
    held = collect_ids(chunks, "user", kind, blocks)
    chunks.unpersist()
    known = pa.chunked_array([held.ids.slice(1), [None]], held.ids.type)
    index = held.indices_of(known)
    assert index.tolist() == [*range(1, size), -1]
    assert held.ids.to_pylist() == [row[0] for row in table]
    assert held.blocks_of(index).tolist() == [*(row[3] for row in table[1:]), 0]


def test_no_partitioning_and_no_order_changes_an_index(spark, configure):
    ids = skewed(1000)
    frame = spark.createDataFrame([(i,) for i in ids], "user bigint")
    expected = len(set(ids)), twin(ids, 5)
    # so that a partition comes to Python in several pieces
    configure({"spark.sql.execution.arrow.maxRecordsPerBatch": "7"})
    for partitions in (1, 7):
        assert indexed(frame.repartition(partitions, F.rand(partitions)), 5) == expected


def test_blocks_beyond_the_ids_stay_empty(spark):
    few = spark.createDataFrame([(7,), (7,), (9,)], "user int")
    assert indexed(few, 100) == (2, [(7, 0, 2, 0), (9, 1, 1, 66)])
    assert indexed(few.limit(0), 4) == (0, [])


def test_values_are_counted_with_those_before_them(spark):
    counts = sorted_counts(spark.createDataFrame([(5,), (2,), (5,), (9,)], "t int"), "t")
    assert (counts.size, counts.rows) == (3, 4)
    found = [tuple(row) for row in counts.table.collect()]
    assert found == [(2, 0, 1, 0), (5, 1, 2, 1), (9, 2, 1, 3)]
    counts.unpersist()


def test_types_are_those_declared_and_nothing_stays_cached(spark):
    before = len(spark.sparkContext._jsc.getPersistentRDDs())
    index = index_ids(spark.createDataFrame([(7,)], "user string"), "user")
    types = index.table.schema.simpleString()
    assert types == "struct<id:string,index:int,count:bigint,block:int>"
    assert len(spark.sparkContext._jsc.getPersistentRDDs()) > before
    index.unpersist()
    assert len(spark.sparkContext._jsc.getPersistentRDDs()) == before


def test_both_sides_are_attached_and_the_unknown_is_null(spark):
    known = spark.createDataFrame([(1, "a"), (1, "b"), (2, "a")], "user int, item string")
    users, items = index_ids(known, "user", 2), index_ids(known, "item", 1)
    rows = spark.createDataFrame([(2, "b", 0.5), (3, "a", 1.0)], "user int, item string, x double")
    found = attach_indices(rows, users, items).orderBy("user")
    columns = ("user", "item", "x", "user_index", "user_block", "item_index", "item_block")
    assert [tuple(row) for row in found.select(*columns).collect()] == [
        (2, "b", 0.5, 1, 1, 1, 0),
        (3, "a", 1.0, None, None, 0, 0),
    ]
    users.unpersist()
    items.unpersist()


def test_blocks_are_for_a_million_ratings_and_for_every_core(spark):
    assert spark.sparkContext.defaultParallelism == 2
    assert [default_blocks(spark, n) for n in (0, 2_000_000, 2_000_001)] == [2, 2, 3]


def test_what_cannot_be_indexed_is_refused(spark, monkeypatch):
    frame = spark.createDataFrame([(7,), (8,), (9,)], "user int")
    with pytest.raises(ValueError, match="number of blocks must be at least 1, got 0"):
        index_ids(frame, "user", 0)
    monkeypatch.setattr(indexing, "_MOST_IDS", 2)
    with pytest.raises(RatingsError, match="column 'user' has 3 different ids, and at most 2 can"):
        index_ids(frame, "user")
