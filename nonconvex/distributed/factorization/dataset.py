"""Ratings made ready for a fit: checked, indexed, and packed by users and by items."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.data.ids import default_blocks
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.encoding import (
    check_chunks,
    collect_ids,
    ids_of,
    look_up,
    read_chunks,
)
from nonconvex.distributed.factorization.execution import (
    BlockStore,
    CachedBlocks,
    ExecutionMode,
    LocalBlocks,
    fits_on_driver,
)
from nonconvex.distributed.factorization.packing import (
    Lookups,
    PackingSide,
    pack_blocks,
    pack_divided,
    pack_in_place,
    pack_locally,
    row_sums,
    triples,
)
from nonconvex.distributed.factorization.runs import Blocks
from nonconvex.numerics.factorization.blocks import LONG, RatingBlock, parts_of

__all__ = ["Ids", "TrainingSet", "load_prepared", "pack_ratings"]

_Batches = Iterator[pa.RecordBatch]
_Transform = Callable[[RatingBlock], RatingBlock]

_HASHED = 1 << 16  # ids that are Python objects at a time

_log = logging.getLogger("nonconvex")


class Ids(NamedTuple):
    """The ids of both sides, in the order of their dense indices."""

    users: pa.ChunkedArray
    items: pa.ChunkedArray


@dataclass(frozen=True)
class TrainingSet:
    """Everything a fit needs of its ratings; held until `release`.

    Parameters
    ----------
    blocks : Blocks
    ids : Ids
    ratings : int
        Number of training ratings.
    total : float
        n of the objective: the sum of the degrees of all users.
    weight : float
        Sum of the weights in the blocks.
    mean, deviation : float
        Weighted mean and standard deviation of the ratings in the blocks.
    minimum, maximum : float
        Of the training ratings as they were given.
    duplicates : int
        Training ratings that repeat the pair of another one; each counts in the objective.
    lookups : broadcast, optional
        What the blocks would be packed with again, should an executor lose them.
    """

    blocks: Blocks
    ids: Ids
    ratings: int
    total: float
    weight: float
    mean: float
    deviation: float
    minimum: float
    maximum: float
    duplicates: int
    lookups: Lookups | None = None

    def fingerprint(self) -> str:
        """Return a hash of the ids and of sums over the ratings of each: no order matters."""
        digest = hashlib.sha256()
        for ids, degrees in zip(
            self.ids, (self.blocks.user_degrees, self.blocks.item_degrees), strict=True
        ):
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
    divide: Callable[[int], bool] | None = None,
) -> TrainingSet:
    """Check, index and pack the ratings of any dataframe.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item``, ``rating double``, and where there are any ``weight double`` and
        ``held_out boolean``, which says what is for validation.
    user_blocks, item_blocks : int, optional
        Number of blocks of each side, by default by the number of ratings.
    dtype : float type
        Of the ratings in the blocks, and of the arithmetic.
    transform : callable, optional
        Applied to the training ratings of each block.
    place : {"auto", "driver", "executors"}
        Where the blocks are to be: "auto" is the driver if they are `fits_on_driver`, with so many
        unknowns.
    unknowns : int
        1 + K, added up over all problems.
    divide : callable, optional
        Told the number of ids of the larger side, it says whether the parts of long rows may be
        in blocks of their own, which several tasks then work through.

    Returns
    -------
    TrainingSet

    Raises
    ------
    RatingsError
        For null ids, ratings or weights that are not finite numbers, negative weights, and when
        nothing is left to train on.
    """
    chunks, lookups = read_chunks(ratings, dtype), None
    try:
        validated = "held_out" in ratings.columns
        checked = check_chunks(chunks, validated=validated)
        extremes = (checked.minimum, checked.maximum)
        _refuse_great(extremes, dtype)
        if _here(place, checked.rows, unknowns):
            return _pack_here(chunks, user_blocks, item_blocks, dtype, transform, extremes)
        train = chunks.where("not held_out")
        users, items = (
            collect_ids(chunks, side, ratings.schema[side].dataType.simpleString(), blocks)
            for side, blocks in (("user", user_blocks), ("item", item_blocks))
        )
        lookups = ratings.sparkSession.sparkContext.broadcast({"user": users, "item": items})
        by_user = PackingSide("user", "item", None, users.blocks)
        by_item = PackingSide("item", "user", None, items.blocks)
        sizes = len(users.ids), len(items.ids)
        divided = divide is not None and divide(max(sizes))
        blocks = []
        for side, ids, columns in ((by_user, users, sizes[1]), (by_item, items, sizes[0])):
            parts = 0
            if divided and len(ids.long):
                parts = parts_of(columns)
            divided_side = side._replace(parts=parts, long=len(ids.long))
            frame = pack_blocks(train, divided_side, dtype, transform, lookups)
            blocks.append(CachedBlocks(frame, ids.blocks if parts else None))
        if validated:
            held_out = pack_blocks(chunks.where("held_out"), by_user, dtype, lookups=lookups)
            blocks.append(CachedBlocks(held_out))
        training = _finish(
            blocks,
            Ids(users.ids, items.ids),
            dtype,
            extremes,
        )
        return replace(training, lookups=lookups)
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
    divide: Callable[[int], bool] | None = None,
) -> TrainingSet:
    """Pack prepared ratings, which lie in blocks on disk.

    Nothing is shuffled but the validation, and long rows that are divided.

    Parameters and result are those of `pack_ratings`.
    """
    manifest = prepared.manifest
    _refuse_great((manifest.minimum, manifest.maximum), dtype)
    by_user = PackingSide("user_index", "item_index", "block", manifest.user_blocks)
    by_item = PackingSide("item_index", "user_index", "block", manifest.item_blocks)
    parts = [(prepared.by_user, by_user), (prepared.by_item, by_item)]
    held_out = None
    if manifest.counts["validation"]:
        blocks = prepared.users.select(F.col("index").alias("user_index"), "block")
        held_out = prepared.validation.join(blocks, on="user_index", how="left")
    rows = manifest.counts["train"] + manifest.counts["validation"]
    (users, user_counts), (items, item_counts) = map(_ids, (prepared.users, prepared.items))
    packed: list[BlockStore]
    if _here(place, rows, unknowns):
        session = prepared.users.sparkSession
        packed = [
            LocalBlocks(
                session, pack_locally(triples(part, side).toArrow(), side, dtype, transform)
            )
            for part, side in parts
        ]
        if held_out is not None:
            table = triples(held_out, by_user).toArrow()
            packed.append(LocalBlocks(session, pack_locally(table, by_user, dtype)))
    else:
        divided = divide is not None and divide(max(len(users), len(items)))
        packed = []
        for (part, side), counts, columns in zip(
            parts, (user_counts, item_counts), (len(items), len(users)), strict=True
        ):
            long = np.flatnonzero(counts > LONG)
            if divided and len(long):
                frame = pack_divided(part, side, long, columns, dtype, transform)
                packed.append(CachedBlocks(frame, side.blocks))
            else:
                packed.append(CachedBlocks(pack_in_place(part, side, dtype, transform)))
        if held_out is not None:
            packed.append(CachedBlocks(pack_blocks(held_out, by_user, dtype)))
    return _finish(
        packed,
        Ids(users, items),
        dtype,
        (manifest.minimum, manifest.maximum),
    )


def _refuse_great(extremes: tuple[float, float], dtype: type[np.floating]) -> None:
    """Refuse ratings whose squares, added up, could be more than the type of the factors holds."""
    great, most = max(map(abs, extremes)), float(np.finfo(dtype).max) ** 0.4
    if great > most:
        raise RatingsError(
            f"ratings reach {great:.3g} in size, and sums of their squares would overflow in "
            f"{np.dtype(dtype)}, which takes ratings up to {most:.0e}: divide them, or refuse "
            "such rows (ratings.minimum and ratings.maximum)"
        )


def _here(place: ExecutionMode, ratings: int, unknowns: int) -> bool:
    """Tell whether the driver works through the ratings by itself, and say so in the log."""
    if place == "auto" and fits_on_driver(ratings, unknowns):
        _log.info(
            "updates on the driver: %s ratings × %d unknowns take less time than planning a job",
            f"{ratings:,}",
            unknowns,
        )
        return True
    return place == "driver"


def _pack_here(
    chunks: DataFrame,
    user_blocks: int | None,
    item_blocks: int | None,
    dtype: type[np.floating],
    transform: _Transform | None,
    extremes: tuple[float, float],
) -> TrainingSet:
    """Do what `pack_ratings` does with checked ratings, in the memory of the driver."""
    session, table = chunks.sparkSession, chunks.toArrow()
    train, held_out = (table.filter(pc.equal(table["held_out"], value)) for value in (False, True))
    lookups = {}
    for side, blocks in (("user", user_blocks), ("item", item_blocks)):
        ids = pa.Table.from_batches(ids_of(side)(iter(train.to_batches())))
        counted = ids.group_by("id").aggregate([("count", "sum")])
        blocks = blocks or default_blocks(chunks, pc.sum(ids["count"]).as_py())
        lookups[side] = look_up(counted["id"], counted["count_sum"], blocks)
    by_user = PackingSide("user", "item", None, lookups["user"].blocks)
    by_item = PackingSide("item", "user", None, lookups["item"].blocks)
    parts = [(train, by_user, transform), (train, by_item, transform)]
    if len(held_out):
        parts.append((held_out, by_user, None))
    packed = [
        LocalBlocks(session, pack_locally(part, side, dtype, change, lookups))
        for part, side, change in parts
    ]
    return _finish(packed, Ids(lookups["user"].ids, lookups["item"].ids), dtype, extremes)


def _finish(
    packed: Sequence[BlockStore],
    ids: Ids,
    dtype: type[np.floating],
    extremes: tuple[float, float],
) -> TrainingSet:
    """Add up what the objective needs to know of the blocks, by users, by items and held out."""
    for name, blocks in zip(("users", "items"), packed, strict=False):
        if blocks.whole is not None:
            _log.info("the ratings of the longest %s are worked through by several tasks", name)
    try:
        users = row_sums(packed[0], len(ids.users), dtype)
        items = row_sums(packed[1], len(ids.items), dtype)
        weight = float(users["weights"].sum())
        if not weight > 0:
            raise RatingsError("all ratings have weight 0; at least one must weigh something")
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
        minimum=extremes[0],
        maximum=extremes[1],
        duplicates=int(users["duplicates"]),
    )


def _ids(table: DataFrame) -> tuple[pa.ChunkedArray, NDArray[np.int64]]:
    """Collect ids and counts in the order of their indices; sorted here, which saves two jobs."""
    collected = table.select("index", "id", "count").toArrow()
    ordered = collected.take(pc.sort_indices(collected["index"]))
    return ordered["id"], ordered["count"].to_numpy()
