"""Ratings made ready for a fit: checked, indexed, and packed by users and by items."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.data.ids import IdIndex
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.execution import (
    BlockStore,
    CachedBlocks,
    Exchange,
    ExchangePolicy,
    ExecutionMode,
    LocalBlocks,
    driver_capacity,
    use_driver,
)
from nonconvex.distributed.factorization.packing import (
    REPORT,
    Checked,
    Lookups,
    PackingSide,
    check_chunks,
    check_range,
    collect_ids,
    encode_on_driver,
    ids_of,
    index_chunk_ids,
    pack_blocks,
    pack_divided,
    pack_in_place,
    pack_locally,
    read_chunks,
    row_sums,
    triples_batch,
)
from nonconvex.distributed.factorization.state import Blocks
from nonconvex.distributed.runtime import broadcast, collect_table, collectable_bytes
from nonconvex.numerics.factorization.blocks import LONG, RatingBlock, parts_of

_Transform = Callable[[RatingBlock], RatingBlock]

_BROADCAST = ExchangePolicy()
_CHUNK_BYTES = 16  # of a rating in a chunk, with its share of the ids
_HASHED = 1 << 16  # ids converted to Python objects at a time

_log = logging.getLogger("nonconvex")


class Ids(NamedTuple):
    """The ids of both sides, in the order of their dense indices."""

    users: pa.ChunkedArray
    items: pa.ChunkedArray


@dataclass(frozen=True)
class TrainingSet:
    """The packed ratings of a fit and their statistics; cached until `release`."""

    blocks: Blocks
    ids: Ids
    ratings: int  # number of training ratings
    total: float  # n of the objective: the sum of the degrees of all users
    weight: float  # sum of the weights in the blocks
    # weighted mean and standard deviation of the ratings in the blocks
    mean: float
    deviation: float
    # of the original training ratings
    minimum: float
    maximum: float
    # training ratings that repeat the pair of another one; each is in the objective
    duplicates: int
    exchange: Exchange = "broadcast"  # the exchange that the policy has chosen
    lookups: Lookups | None = None  # for packing again, should an executor lose its blocks

    def fingerprint(self) -> str:
        """Return a hash of the ids and of sums over their ratings, independent of order."""
        digest = hashlib.sha256()
        both = (self.blocks.user_degrees, self.blocks.item_degrees)
        for ids, degrees in zip(self.ids, both, strict=True):
            digest.update(repr(ids.type).encode())
            for first in range(0, len(ids), _HASHED):
                some = ids.slice(first, _HASHED).to_pylist()
                digest.update(json.dumps([str(value) for value in some]).encode())
            digest.update(degrees.tobytes())
        digest.update(np.array([self.mean, self.deviation, self.total]).tobytes())
        return digest.hexdigest()

    def release(self) -> None:
        """Free what is cached."""
        for packed in (self.blocks.users, self.blocks.items, self.blocks.validation):
            if packed is not None:
                packed.release()
        if self.lookups is not None:
            self.lookups.destroy()


def pack_ratings(
    ratings: DataFrame,
    *,
    user_blocks: int | None,
    item_blocks: int | None,
    dtype: type[np.floating],
    transform: _Transform | None = None,
    place: ExecutionMode = "executors",
    unknowns: int = 1,
    policy: ExchangePolicy = _BROADCAST,
) -> TrainingSet:
    """Check, index and pack the ratings of any dataframe.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item``, ``rating double``, and if there are any ``weight double`` and
        ``held_out boolean``, which marks validation ratings.
    """
    session, has_validation = ratings.sparkSession, "held_out" in ratings.columns
    on_driver = partial(_pack_on_driver, session, user_blocks, item_blocks, dtype, transform)
    collected = collect_table(ratings, driver_capacity(session, place))
    if collected is not None:
        encoded = encode_on_driver(collected, dtype)
        del collected
        checked = check_chunks(encoded, dtype, has_validation=has_validation)
        if use_driver(session, place, checked.rows, unknowns):
            return on_driver(encoded, checked)
        del encoded
    chunks, lookups = read_chunks(ratings, dtype), None
    try:
        reports = chunks.select(REPORT).toArrow()
        checked = check_chunks(reports, dtype, has_validation=has_validation)
        few = checked.rows * _CHUNK_BYTES <= collectable_bytes(session)
        if (few or place == "driver") and use_driver(session, place, checked.rows, unknowns):
            return on_driver(chunks.toArrow(), checked)
        train = chunks.where("not held_out")
        users, items = (
            collect_ids(chunks, side, ratings.schema[side].dataType.simpleString(), blocks)
            for side, blocks in (("user", user_blocks), ("item", item_blocks))
        )
        lookups = broadcast(session, {"user": users, "item": items})
        by_user, by_item = _sides(users, items)
        exchange = policy.choose(max(len(users.ids), len(items.ids)))
        divided = policy.divisible and exchange == "broadcast"
        blocks = []
        for side, ids, others in ((by_user, users, items), (by_item, items, users)):
            parts = parts_of(len(others.ids)) if divided and len(ids.long) else 0
            divided_side = side._replace(parts=parts, long=len(ids.long))
            frame = pack_blocks(train, divided_side, dtype, transform, lookups)
            blocks.append(CachedBlocks(frame, ids.blocks if parts else None))
        if has_validation:
            held_out = pack_blocks(chunks.where("held_out"), by_user, dtype, lookups=lookups)
            blocks.append(CachedBlocks(held_out))
        training = _finish(blocks, Ids(users.ids, items.ids), dtype, checked)
        return replace(training, lookups=lookups, exchange=exchange)
    except BaseException:
        if lookups is not None:
            lookups.destroy()
        raise
    finally:
        chunks.unpersist()


def load_prepared(
    prepared: PreparedRatings,
    *,
    dtype: type[np.floating],
    transform: _Transform | None = None,
    place: ExecutionMode = "executors",
    unknowns: int = 1,
    policy: ExchangePolicy = _BROADCAST,
) -> TrainingSet:
    """Pack prepared ratings, which are in blocks on disk; see `pack_ratings`.

    Only validation ratings and divided long rows are shuffled.
    """
    manifest, session = prepared.manifest, prepared.spark
    rows = manifest.counts["train"] + manifest.counts["validation"]
    checked = check_range(Checked(rows, manifest.minimum, manifest.maximum), dtype)
    by_user = PackingSide("user_index", "item_index", "block", manifest.user_blocks)
    by_item = PackingSide("item_index", "user_index", "block", manifest.item_blocks)
    users, items = (_id_table(prepared, name) for name in ("users", "items"))
    packed: list[BlockStore] = []
    exchange: Exchange = "broadcast"
    if use_driver(session, place, rows, unknowns):
        weight = ["weight"] if "weight" in manifest.types else []
        columns = ["user_index", "item_index", "rating", *weight]
        for name, side in (("by_user", by_user), ("by_item", by_item)):
            tables = prepared.collect(name, [*columns, "block"])
            batches = [triples_batch(table, side) for table in tables if len(table)]
            packed.append(LocalBlocks(session, pack_locally(batches, side, dtype, transform)))
        if manifest.counts["validation"]:
            held_out = pa.concat_tables(prepared.collect("validation", columns))
            block = users["block"].take(held_out["user_index"])
            batch = triples_batch(held_out.append_column("block", block), by_user)
            packed.append(LocalBlocks(session, pack_locally([batch], by_user, dtype)))
    else:
        exchange = policy.choose(max(len(users), len(items)))
        divided = policy.divisible and exchange == "broadcast"
        for part, side, own, other in (
            (prepared.by_user, by_user, users, items),
            (prepared.by_item, by_item, items, users),
        ):
            long = np.flatnonzero(own["count"].to_numpy() > LONG)
            if divided and len(long):
                frame = pack_divided(part, side, long, len(other), dtype, transform)
                packed.append(CachedBlocks(frame, side.blocks))
            else:
                packed.append(CachedBlocks(pack_in_place(part, side, dtype, transform)))
        if manifest.counts["validation"]:
            user_blocks = prepared.users.select(F.col("index").alias("user_index"), "block")
            frame = prepared.validation.join(user_blocks, on="user_index", how="left")
            packed.append(CachedBlocks(pack_blocks(frame, by_user, dtype)))
    training = _finish(packed, Ids(users["id"], items["id"]), dtype, checked)
    return replace(training, exchange=exchange)


def _pack_on_driver(
    session: SparkSession,
    user_blocks: int | None,
    item_blocks: int | None,
    dtype: type[np.floating],
    transform: _Transform | None,
    chunks: pa.Table,
    checked: Checked,
) -> TrainingSet:
    """Pack checked chunks in the memory of the driver, as `pack_ratings` does."""
    train, held_out = (
        chunks.filter(pc.equal(chunks["held_out"], value)).to_batches(max_chunksize=1)
        for value in (False, True)
    )
    lookups = {}
    for side, blocks in (("user", user_blocks), ("item", item_blocks)):
        ids = pa.Table.from_batches(ids_of(side)(iter(train)))
        counted = ids.group_by("id").aggregate([("count", "sum")]).rename_columns(["id", "count"])
        lookups[side] = index_chunk_ids(session, counted, blocks)
    users, items = lookups.values()
    by_user, by_item = _sides(users, items)
    parts = ((train, by_user, transform), (train, by_item, transform), (held_out, by_user, None))
    packed = [
        LocalBlocks(session, pack_locally(part, side, dtype, change, lookups))
        for part, side, change in parts
        if len(part)
    ]
    return _finish(packed, Ids(users.ids, items.ids), dtype, checked)


def _sides(users: IdIndex, items: IdIndex) -> tuple[PackingSide, PackingSide]:
    return (
        PackingSide("user", "item", None, users.blocks),
        PackingSide("item", "user", None, items.blocks),
    )


def _finish(
    packed: Sequence[BlockStore], ids: Ids, dtype: type[np.floating], checked: Checked
) -> TrainingSet:
    """Sum the statistics of blocks by users, by items and held out, and make the training set."""
    for name, blocks in zip(("users", "items"), packed, strict=False):
        if blocks.first_part is not None:
            _log.info("the ratings of the longest %s are divided among tasks", name)
    try:
        users = row_sums(packed[0], len(ids.users), dtype)
        items = row_sums(packed[1], len(ids.items), dtype)
        weight = float(users["weights"].sum())
        if not weight > 0:
            raise RatingsError("all weights are 0; at least one rating must have a positive weight")
    except BaseException:
        for blocks in packed:
            blocks.release()
        raise
    validation = packed[2] if len(packed) > 2 else None
    mean = float(users["sums"].sum()) / weight
    variance = float(users["squares"].sum()) / weight - mean**2
    return TrainingSet(
        blocks=Blocks(packed[0], packed[1], validation, users["degrees"], items["degrees"], dtype),
        ids=ids,
        ratings=int(users["counts"]),
        total=float(users["degrees"].sum()),
        weight=weight,
        mean=mean,
        deviation=float(np.sqrt(max(variance, 0.0))),
        minimum=checked.minimum,
        maximum=checked.maximum,
        duplicates=int(users["duplicates"]),
    )


def _id_table(prepared: PreparedRatings, name: str) -> pa.Table:
    """Collect the ids of a side with ``count, block``, in the order of their indices."""
    table = pa.concat_tables(prepared.collect(name, ["index", "id", "count", "block"]))
    return table.take(pc.sort_indices(table["index"]))
