"""Ratings made ready for a fit: checked, indexed, and packed by users and by items."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.data.ids import IdIndex
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.execution import (
    BlockStore,
    Exchange,
    ExchangePolicy,
    ExecutionMode,
    LocalBlocks,
    driver_capacity,
    use_driver,
)
from nonconvex.distributed.factorization.packing import (
    Checked,
    Lookups,
    PackingSide,
    Survey,
    check_chunks,
    check_range,
    collect_ids,
    encode_on_driver,
    index_chunk_ids,
    pack_blocks,
    pack_in_place,
    pack_locally,
    pack_triples,
    read_chunks,
    row_sums,
    sum_counts,
    survey_chunks,
)
from nonconvex.distributed.factorization.state import Blocks
from nonconvex.distributed.runtime import broadcast, collect_table, collectable_bytes, from_bytes
from nonconvex.numerics.deterministic import Kernel
from nonconvex.numerics.factorization.blocks import RatingBlock, parts_of

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
    core: str = "unknown"  # type of processor that the bits of a fit depend on

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
    kernel: Kernel = "numpy",
) -> TrainingSet:
    """Check, index and pack ``user, item, rating double`` of any dataframe.

    There may be ``weight double`` and ``held_out boolean``, which marks validation ratings.
    """
    session, has_validation = ratings.sparkSession, "held_out" in ratings.columns
    policy = policy.of_session(session)
    on_driver = partial(
        _pack_on_driver, session, user_blocks, item_blocks, dtype, transform, kernel
    )
    collected = collect_table(ratings, driver_capacity(session, place))
    if collected is not None:
        encoded = encode_on_driver(collected, dtype)
        del collected
        checked = check_chunks(encoded, dtype, has_validation=has_validation)
        if use_driver(session, place, checked.rows, unknowns):
            return on_driver(encoded, checked)
        del encoded
    chunks = read_chunks(ratings, dtype)
    try:
        survey = survey_chunks(chunks)
        if survey is None:
            chunks.release()
            chunks = read_chunks(ratings, dtype, in_files=False)
            survey = survey_chunks(chunks)
            assert survey is not None
        checked = check_chunks(survey.reports, dtype, has_validation=has_validation)
        few = checked.rows * _CHUNK_BYTES <= collectable_bytes(session)
        if (few or place == "driver") and use_driver(session, place, checked.rows, unknowns):
            return on_driver(chunks.run(lambda batches: batches), checked)
        users, items = (
            _index(chunks, survey, ratings.schema[side].dataType.simpleString(), side, blocks)
            for side, blocks in (("user", user_blocks), ("item", item_blocks))
        )
        del survey
        lookups = broadcast(session, {"user": users, "item": items})
        exchange = policy.choose(max(len(users.ids), len(items.ids)))
        sides = _divided(*_sides(users, items, kernel), users, items, policy, exchange)
        blocks = [pack_blocks(chunks, side, dtype, lookups, transform) for side in sides]
        if has_validation:
            whole = sides[0]._replace(parts=0)
            blocks.append(pack_blocks(chunks, whole, dtype, lookups, held_out=True))
        return _finish(blocks, Ids(users.ids, items.ids), dtype, checked, lookups, exchange)
    finally:
        chunks.release()


def load_prepared(
    prepared: PreparedRatings,
    *,
    dtype: type[np.floating],
    transform: _Transform | None = None,
    place: ExecutionMode = "executors",
    unknowns: int = 1,
    policy: ExchangePolicy = _BROADCAST,
    kernel: Kernel = "numpy",
) -> TrainingSet:
    """Pack prepared ratings, which are in blocks on disk; see `pack_ratings`.

    Only validation ratings and divided long rows are shuffled.
    """
    manifest, session = prepared.manifest, prepared.spark
    policy = policy.of_session(session)
    rows = manifest.counts["train"] + manifest.counts["validation"]
    checked = check_range(Checked(rows, manifest.minimum, manifest.maximum), dtype)
    users, items = (
        IdIndex(_id_table(prepared, f"{side}s"), blocks)
        for side, blocks in (("user", manifest.user_blocks), ("item", manifest.item_blocks))
    )
    # without the ids, which no task needs
    found = {
        side: index._replace(table=index.table.select(["count", "block"]))
        for side, index in (("user", users), ("item", items))
    }
    weight = ["weight"] if "weight" in manifest.types else []
    columns = ["user_index", "item_index", "rating", *weight]
    validation, sides = manifest.counts["validation"], _sides(users, items, kernel)
    packed: list[BlockStore] = []
    exchange: Exchange = "broadcast"
    lookups: Lookups | None = None
    if use_driver(session, place, rows, unknowns):
        parts = [("by_user", sides[0], transform), ("by_item", sides[1], transform)]
        parts += [("validation", sides[0], None)] if validation else []
        for name, side, change in parts:
            tables = prepared.collect(name, columns)
            batches = [batch for table in tables for batch in table.combine_chunks().to_batches()]
            blocks = pack_locally(batches, side, dtype, found, change)
            packed.append(LocalBlocks(session, blocks))
    else:
        lookups = broadcast(session, found)
        exchange = policy.choose(max(len(users.table), len(items.table)))
        sides = _divided(*sides, users, items, policy, exchange)
        for part, side in zip((prepared.by_user, prepared.by_item), sides, strict=True):
            packed.append(pack_in_place(part.select(columns), side, dtype, lookups, transform))
        if validation:
            held_out = prepared.validation.select(columns)
            packed.append(pack_triples(held_out, sides[0]._replace(parts=0), dtype, lookups))
    return _finish(packed, Ids(users.ids, items.ids), dtype, checked, lookups, exchange)


def _pack_on_driver(
    session: SparkSession,
    user_blocks: int | None,
    item_blocks: int | None,
    dtype: type[np.floating],
    transform: _Transform | None,
    kernel: Kernel,
    chunks: pa.Table,
    checked: Checked,
) -> TrainingSet:
    """Pack checked chunks in the memory of the driver, as `pack_ratings` does."""
    train = chunks.filter(pc.invert(chunks["held_out"]))
    lookups = {}
    for side, blocks in (("user", user_blocks), ("item", item_blocks)):
        counted = sum_counts([from_bytes(ids.as_buffer()) for ids in train[f"{side}_ids"]])
        lookups[side] = index_chunk_ids(session, counted, blocks)
    users, items = lookups.values()
    by_user, by_item = _sides(users, items, kernel)
    batches = chunks.to_batches(max_chunksize=1)
    packed = [
        LocalBlocks(session, pack_locally(batches, side, dtype, lookups, change, held_out=held))
        for side, change, held in (
            (by_user, transform, False),
            (by_item, transform, False),
            (by_user, None, True),
        )[: 2 + (len(train) < len(chunks))]
    ]
    return _finish(packed, Ids(users.ids, items.ids), dtype, checked)


def _index(chunks: BlockStore, survey: Survey, kind: str, side: str, blocks: int | None) -> IdIndex:
    """Index the ids of a side, from the survey of its chunks if it has them."""
    if survey.ids is None:
        counted = collect_ids(chunks, side, kind)
    else:
        counted = sum_counts([survey.ids[side]])
    return index_chunk_ids(chunks.session, counted, blocks)


def _sides(users: IdIndex, items: IdIndex, kernel: Kernel) -> tuple[PackingSide, PackingSide]:
    by_user = PackingSide("user", "item", users.blocks, kernel=kernel)
    return by_user, PackingSide("item", "user", items.blocks, kernel=kernel)


def _divided(
    by_user: PackingSide,
    by_item: PackingSide,
    users: IdIndex,
    items: IdIndex,
    policy: ExchangePolicy,
    exchange: Exchange,
) -> tuple[PackingSide, PackingSide]:
    """Divide the long rows of both sides, if they may be divided."""
    if not policy.divisible or exchange != "broadcast":
        return by_user, by_item
    if len(users.long):
        by_user = by_user._replace(parts=parts_of(len(items.table)), long=len(users.long))
    if len(items.long):
        by_item = by_item._replace(parts=parts_of(len(users.table)), long=len(items.long))
    return by_user, by_item


def _finish(
    packed: Sequence[BlockStore],
    ids: Ids,
    dtype: type[np.floating],
    checked: Checked,
    lookups: Lookups | None = None,
    exchange: Exchange = "broadcast",
) -> TrainingSet:
    """Sum the statistics of blocks by users, by items and held out, and make the training set."""
    for name, blocks in zip(("users", "items"), packed, strict=False):
        if blocks.first_part is not None:
            _log.info("the ratings of the longest %s are divided among tasks", name)
    try:
        users = row_sums(packed[0], len(ids.users), dtype)
        items = row_sums(packed[1], len(ids.items), dtype)
        weight = float(users["weights"].sum())
        if not np.isfinite(weight):
            raise RatingsError(
                f"the sum of the weights is {weight} in {np.dtype(dtype)}: divide all weights by "
                "one number, which changes nothing but λ, or set precision='float64'"
            )
        if not weight > 0:
            raise RatingsError("all weights are 0; at least one rating must have a positive weight")
    except BaseException:
        for blocks in packed:
            blocks.release()
        if lookups is not None:
            lookups.destroy()
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
        exchange=exchange,
        lookups=lookups,
    )


def _id_table(prepared: PreparedRatings, name: str) -> pa.Table:
    """Collect the ids of a side with ``count, block``, in the order of their indices."""
    table = pa.concat_tables(prepared.collect(name, ["index", "id", "count", "block"]))
    return table.take(pc.sort_indices(table["index"]))
