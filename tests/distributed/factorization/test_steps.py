"""Rows whose ratings several tasks work through."""

import numpy as np
import pyarrow as pa
import pytest
from pyspark import cloudpickle
from pyspark.sql import functions as F

from nonconvex.distributed.connect import LocalValue
from nonconvex.distributed.data import ids as indices
from nonconvex.distributed.data.prepare import prepare_ratings
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.distributed.data.validation import Columns, Rules
from nonconvex.distributed.factorization.execution import LocalBlocks
from nonconvex.distributed.factorization.packing import PackingSide, encode, pack_locally, row_sums
from nonconvex.distributed.factorization.steps import Step, _update, update_side
from nonconvex.numerics.factorization import als as least_squares
from nonconvex.numerics.factorization import blocks
from nonconvex.numerics.factorization.blocks import parts_of
from nonconvex.numerics.factorization.model import Ridge
from nonconvex.recommendation import MatrixFactorization
from tests.factories import ITEMS, USERS, same_bits, triples


def packed(*, item_blocks, divided):
    """The ratings by items, in memory, as executors would have them."""
    users, items, ratings = triples()
    weights = np.random.default_rng(1).uniform(0.1, 2, len(ratings))
    found = {}
    for name, ids, number in (("user", users, 3), ("item", items, item_blocks)):
        distinct, counts = np.unique(ids, return_counts=True)
        found[name] = indices.index_ids(pa.table({"id": distinct, "count": counts}), number)
    parts = parts_of(USERS) if divided else 0
    side = PackingSide("item", "user", item_blocks, parts, len(found["item"].long))
    table = pa.table({"user": users, "item": items, "rating": ratings, "weight": weights})
    chunks = pa.Table.from_batches(encode(np.float32)(iter(table.to_batches())))
    batches = pack_locally(chunks.to_batches(), side, np.float32, found, held_out=False)
    held = LocalBlocks(None, batches)
    held.first_part = item_blocks if divided else None
    return held, [batch["block"][0].as_py() for batch in batches]


@pytest.mark.parametrize("item_blocks", [1, 4])
def test_parts_in_blocks_of_their_own_come_to_the_same_bits(monkeypatch, item_blocks):
    for module in (blocks, least_squares, indices):
        monkeypatch.setattr(module, "LONG", 12)
    monkeypatch.setattr(blocks, "SPAN", 9)
    whole, _ = packed(item_blocks=2, divided=False)
    parts, numbers = packed(item_blocks=item_blocks, divided=True)
    assert max(numbers) >= item_blocks + 2 * parts_of(USERS), "at least three rows are in parts"
    generator = np.random.default_rng(2)
    x, z = (generator.normal(size=(m, 4)).astype(np.float32) for m in (USERS, ITEMS))
    ridge = Ridge(0.02, 0.5, 300.0, 12.0, 0.5)
    steps = [
        Step("als", 3.0, ridge, biases, nonnegative, None)
        for biases, nonnegative in ((True, False), (False, True))
    ]
    fixed, own = LocalValue([x, 2 * x]), LocalValue([z, z])
    for ours, theirs in zip(
        update_side(parts, steps, fixed, own, np.float32),
        update_side(whole, steps, fixed, own, np.float32),
        strict=True,
    ):
        for name in ours._fields:
            assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes(), name
    ours, theirs = (row_sums(held, ITEMS, np.float32) for held in (parts, whole))
    for name in ("degrees", "weights", "sums", "squares"):
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    assert ours["counts"] == theirs["counts"]


@pytest.mark.parametrize("solver", ["als", "als-cg", "als-coordinate", "gd"])
def test_rows_before_are_sent_only_if_a_step_reads_them(solver):
    fixed, own = LocalValue([np.zeros((ITEMS, 4))]), LocalValue([np.full((USERS, 4), 7.0)])
    step = Step(solver, 3.0, Ridge(0.02, 0.5, 300.0, 12.0, 0.5), True, False, None)
    sent = cloudpickle.dumps(_update([step], fixed, own, np.float32, None))
    assert (own.value[0].tobytes() in sent) == (solver != "als")


@pytest.mark.thorough
def test_an_item_that_everybody_rates_is_worked_through_by_several_tasks(spark, tmp_path, caplog):
    everybody = spark.range(600_000).select(F.col("id").alias("user"), F.lit(0).alias("item"))
    some = spark.range(200_000).select(F.col("id").alias("user"), (1 + F.col("id") % 50))
    data = everybody.union(some).withColumn("rating", F.expr("(user * 7919) % 11 / 2.0"))
    data.write.parquet(str(tmp_path / "ratings"))
    prepared = prepare_ratings(
        read_source(spark, str(tmp_path / "ratings")),
        str(tmp_path / "prepared"),
        columns=Columns(),
        rules=Rules(),
        split=Split("random", validation=0.0, test=0.0, seed=1),
    )
    estimator = MatrixFactorization(rank=2, maxIter=2, tol=0.0)
    expected = estimator.setUpdates("driver").fit(data)
    estimator.setUpdates("executors")
    with caplog.at_level("INFO", logger="nonconvex"):
        same_bits(estimator.fitPrepared(prepared).factors, expected.factors)
        same_bits(estimator.setNumUserBlocks(3).fit(data).factors, expected.factors)
    assert caplog.text.count("the ratings of the longest items are divided among tasks") == 2
