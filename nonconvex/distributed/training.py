"""Ratings made ready for a fit: checked, indexed, and packed by users and by items."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.blocking import Lookups, Side, pack, pack_in_place, unpack
from nonconvex.distributed.lookups import collect_ids
from nonconvex.distributed.prepared import PreparedRatings
from nonconvex.distributed.problems import Blocks
from nonconvex.distributed.ratings import RatingsError
from nonconvex.numerics.blocks import RatingBlock

__all__ = ["Ids", "TrainingSet", "load_prepared", "pack_ratings"]

_Batches = Iterator[pa.RecordBatch]
_Transform = Callable[[RatingBlock], RatingBlock]

_SUMS = ("rows", "degrees", "weights", "sums", "squares")


class Ids(NamedTuple):
    """The ids of both sides, in the order of their dense indices."""

    users: pa.ChunkedArray
    items: pa.ChunkedArray


@dataclass(frozen=True)
class TrainingSet:
    """Everything a fit needs of its ratings; cached until `release`.

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
            digest.update(json.dumps([str(value) for value in ids.to_pylist()]).encode())
            digest.update(degrees.tobytes())
        digest.update(np.array([self.mean, self.deviation, self.total]).tobytes())
        return digest.hexdigest()

    def release(self) -> None:
        """Free what is cached."""
        for packed in (self.blocks.users, self.blocks.items, self.blocks.validation):
            if packed is not None:
                packed.unpersist()
        if self.lookups is not None:
            self.lookups.destroy()


def pack_ratings(
    ratings: DataFrame,
    *,
    user_blocks: int | None,
    item_blocks: int | None,
    dtype: type[np.floating],
    transform: _Transform | None = None,
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

    Returns
    -------
    TrainingSet

    Raises
    ------
    RatingsError
        For null ids, ratings or weights that are not finite numbers, negative weights, and when
        nothing is left to train on.
    """
    ratings = ratings.persist()
    lookups: Lookups | None = None
    try:
        validated = "held_out" in ratings.columns
        train = ratings.where(~F.col("held_out")) if validated else ratings
        extremes = _check(ratings)
        users, items = (
            collect_ids(train, "user", user_blocks),
            collect_ids(train, "item", item_blocks),
        )
        lookups = ratings.sparkSession.sparkContext.broadcast({"user": users, "item": items})
        by_user = Side("user", "item", None, users.blocks)
        by_item = Side("item", "user", None, items.blocks)
        held_out = None
        if validated:
            held_out = pack(ratings.where("held_out"), by_user, dtype, lookups=lookups)
        training = _finish(
            pack(train, by_user, dtype, transform, lookups),
            pack(train, by_item, dtype, transform, lookups),
            held_out,
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
        ratings.unpersist()


def load_prepared(
    prepared: PreparedRatings,
    *,
    dtype: type[np.floating],
    transform: _Transform | None = None,
) -> TrainingSet:
    """Pack prepared ratings, which lie in blocks on disk: nothing is shuffled but the validation.

    Parameters and result are those of `pack_ratings`.
    """
    manifest = prepared.manifest
    by_user = Side("user_index", "item_index", "block", manifest.user_blocks)
    by_item = Side("item_index", "user_index", "block", manifest.item_blocks)
    validation = None
    if manifest.counts["validation"]:
        blocks = prepared.users.select(F.col("index").alias("user_index"), "block")
        held_out = prepared.validation.join(blocks, on="user_index", how="left")
        validation = pack(held_out, by_user, dtype)
    return _finish(
        pack_in_place(prepared.by_user, by_user, dtype, transform),
        pack_in_place(prepared.by_item, by_item, dtype, transform),
        validation,
        Ids(_ids(prepared.users), _ids(prepared.items)),
        dtype,
        (manifest.minimum, manifest.maximum),
    )


def _check(ratings: DataFrame) -> tuple[float, float]:
    """Raise if there is a value that cannot be used; return the range of the training ratings."""
    problems = {
        "null user ids": F.col("user").isNull(),
        "null item ids": F.col("item").isNull(),
        "null ratings": F.col("rating").isNull(),
        "ratings that are not finite": ~_finite("rating"),
    }
    if "weight" in ratings.columns:
        problems["null weights"] = F.col("weight").isNull()
        problems["weights that are not finite numbers ≥ 0"] = ~_finite("weight") | (
            F.col("weight") < 0
        )
    trained, held_out = F.col("rating"), F.lit(True)
    if "held_out" in ratings.columns:
        trained = F.when(~F.col("held_out"), F.col("rating"))
        held_out = F.col("held_out")
        problems["null validation indicators"] = held_out.isNull()
    counted = ratings.agg(
        F.count("*").alias("rows"),
        F.min(trained).alias("minimum"),
        F.max(trained).alias("maximum"),
        F.count_if(held_out).alias("held_out"),
        *(F.count_if(condition).alias(name) for name, condition in problems.items()),
    ).collect()[0]
    found = [f"{counted[name]:,} {name}" for name in problems if counted[name]]
    if found:
        raise RatingsError(
            f"the ratings have {' and '.join(found)} in {counted['rows']:,} rows; "
            "drop or fill them before fit"
        )
    if counted["minimum"] is None:
        held = " that are not held out for validation" if counted["rows"] else ""
        raise RatingsError(f"there are no ratings to train on{held}; at least one is needed")
    if not counted["held_out"]:
        raise RatingsError(
            f"the column of validationIndicatorCol is false in all {counted['rows']:,} rows; hold "
            "some ratings out for validation, or unset it"
        )
    return counted["minimum"], counted["maximum"]


def _finite(column: str) -> Column:
    value = F.col(column)
    return ~F.isnan(value) & (F.abs(value) != float("inf"))


def _finish(
    by_user: DataFrame,
    by_item: DataFrame,
    validation: DataFrame | None,
    ids: Ids,
    dtype: type[np.floating],
    extremes: tuple[float, float],
) -> TrainingSet:
    """Cache the blocks and add up what the objective needs to know of them."""
    cached = [packed.persist() for packed in (by_user, by_item, validation) if packed is not None]
    try:
        users = _statistics(by_user, len(ids.users), dtype)
        items = _statistics(by_item, len(ids.items), dtype)
    except BaseException:
        for packed in cached:
            packed.unpersist()
        raise
    weight = float(users["weights"].sum())
    if not weight > 0:
        for packed in cached:
            packed.unpersist()
        raise RatingsError("all ratings have weight 0; at least one must weigh something")
    mean = float(users["sums"].sum()) / weight
    variance = float(users["squares"].sum()) / weight - mean**2
    return TrainingSet(
        blocks=Blocks(by_user, by_item, validation, users["degrees"], items["degrees"], dtype),
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


def _statistics(packed: DataFrame, rows: int, dtype: type[np.floating]) -> dict[str, Any]:
    """Sums of each row in the order of the indices, and counts of all; fills the cache."""
    sql = "block int, counts long, duplicates long, " + ", ".join(f"{n} binary" for n in _SUMS)
    parts = packed.mapInArrow(_sums(dtype), sql).toArrow().to_pylist()
    seen = [part["block"] for part in parts]
    if len(set(seen)) < len(seen):
        raise RatingsError(
            "a block of the prepared ratings lies in several files or row groups; "
            "prepare the ratings again"
        )
    whole: dict[str, Any] = {name: np.zeros(rows) for name in _SUMS[1:]}
    for part in parts:
        index = np.frombuffer(part["rows"], np.int32)
        for name in _SUMS[1:]:
            whole[name][index] = np.frombuffer(part[name])
    for name in ("counts", "duplicates"):
        whole[name] = sum(part[name] for part in parts)
    return whole


def _sums(dtype: type[np.floating]) -> Callable[[_Batches], _Batches]:
    def sums(batches: _Batches) -> _Batches:
        for batch in batches:
            numbers = batch.column("block").to_pylist()
            for number, block in zip(numbers, unpack(batch, dtype), strict=True):
                ones = np.ones(len(block.ratings)) if block.weights is None else block.weights
                arrays = (
                    block.rows,
                    block.degrees,
                    block.total_weights(),
                    block.over_rows(ones * block.ratings),
                    block.over_rows(ones * block.ratings.astype(np.float64) ** 2),
                )
                columns = [
                    pa.array([number], pa.int32()),
                    pa.array([len(ones)]),
                    pa.array([block.duplicates]),
                    *(pa.array([values.tobytes()], pa.binary()) for values in arrays),
                ]
                names = ["block", "counts", "duplicates", *_SUMS]
                yield pa.RecordBatch.from_arrays(columns, names)

    return sums


def _ids(table: DataFrame) -> pa.ChunkedArray:
    """Collect the ids in the order of their indices; sorted here, which saves two jobs."""
    collected = table.select("index", "id").toArrow()
    return collected.take(pc.sort_indices(collected["index"]))["id"]
