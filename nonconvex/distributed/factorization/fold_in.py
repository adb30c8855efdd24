"""Folding in: new or changed rows of one side, given the other side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import Broadcast
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, StructField, StructType

from nonconvex.distributed.data.ids import default_blocks
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.factorization.predict import index_table, with_index
from nonconvex.distributed.runtime import Batches, Task, freeze_gc_once
from nonconvex.numerics import Doubles, Floats
from nonconvex.numerics.convergence import FitError
from nonconvex.numerics.deterministic import one_thread_per_product
from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gibbs import Conditional
from nonconvex.numerics.factorization.model import (
    Background,
    Factors,
    Ridge,
    Side,
    preference_block,
)
from nonconvex.numerics.factorization.posterior import Posterior, fold_rows
from nonconvex.numerics.factorization.ridge_posterior import RidgePosterior, RidgeSpread

_log = logging.getLogger("nonconvex")


_Solve = Callable[[RatingBlock, pa.Array], Floats]

_NOUNS = ("user", "item")


class Equation(NamedTuple):
    """The normal equation of folded rows, apart from the ratings."""

    ridge: Ridge  # with n and the mean degree of training
    # whether there are β, and whether γ ≥ 0 is required
    biases: bool
    nonnegative: bool
    confidence: float | None  # κ of implicit feedback; None if ratings are explicit


class Drawing(NamedTuple):
    """The kept samples that folded rows are drawn in."""

    posterior: Posterior
    shared: Sequence[Broadcast[Floats]]  # users and items of the posterior


def fold_in(
    ratings: DataFrame,
    side: Side,
    factors: Factors,
    ids: Ids,
    shared: Sequence[Broadcast[Floats]],
    equation: Equation,
    ridge: RidgePosterior | None = None,
) -> tuple[Factors, Ids, RidgePosterior | None]:
    """Solve the rows of one side that have ratings, given the other side.

    Takes all ratings of each such row, as ``user, item, rating double[, weight double]``, with ids
    in the types of the model.  One shuffle brings the ratings of a row together; a task holds about
    a million ratings, see `nonconvex.distributed.data.ids.default_blocks`.
    """
    own = Ids._fields.index(side)
    other = 1 - own
    rows = (factors.users, factors.items)
    background = None
    if equation.confidence is not None:
        background = Background.of(rows[other], factors.alpha, biases=equation.biases)
    spread = None if ridge is None else ridge.spread(factors)
    solve = _equations(equation, own, factors.alpha, background, shared[other], spread)
    before = [rows[own]]
    if ridge is not None:
        of_rows = (ridge.measured.user_degrees, ridge.measured.item_degrees)[own]
        before += [of_rows[:, None], *([ridge.measured.noise[:, None]] if not own else [])]
    ids, whole = _fold(ratings, own, np.hstack(before), ids, solve)
    x, known = np.split(whole, [rows[own].shape[1]], axis=1)
    x = np.ascontiguousarray(x)
    if ridge is not None:
        names = ("user_degrees", "noise") if side == Side.USERS else ("item_degrees",)
        columns = dict(zip(names, map(np.ascontiguousarray, known.T), strict=True))
        ridge = ridge._replace(measured=ridge.measured._replace(**columns))
    replaced = factors._replace(users=x) if side == Side.USERS else factors._replace(items=x)
    return replaced, ids, ridge


def fold_in_samples(
    ratings: DataFrame, side: Side, factors: Factors, ids: Ids, drawing: Drawing
) -> tuple[Factors, Ids, Posterior]:
    """Draw the rows of one side that have ratings in every kept sample; see `fold_in`."""
    own = Ids._fields.index(side)
    posterior, shared = drawing
    mean, samples = getattr(factors, side), getattr(posterior, side)
    width = mean.shape[1], mean.shape[1] + samples.shape[1]
    user_precision = posterior.user_precision
    if side == Side.ITEMS:  # items have no ω
        user_precision = np.ones((len(mean), len(posterior.taus)), mean.dtype)
    with one_thread_per_product():
        projections = posterior.projections(side, factors)
    given, kappa = posterior.conditionals(side), posterior.user_freedom
    solve = _draws(given, projections, kappa, shared[1 - own])
    ids, whole = _fold(ratings, own, np.hstack([mean, samples, user_precision]), ids, solve)
    mean, samples, user_precision = np.split(whole, width, axis=1)
    if side == Side.USERS:
        posterior = posterior._replace(users=samples, user_precision=user_precision)
        return factors._replace(users=mean), ids, posterior
    return factors._replace(items=mean), ids, posterior._replace(items=samples)


def _fold(
    ratings: DataFrame, own: int, rows: Floats, ids: Ids, solve: _Solve
) -> tuple[Ids, Floats]:
    """Replace the rows of known ids by solved ones, and insert those of new ids."""
    other, noun, side = 1 - own, _NOUNS[1 - own], Ids._fields[own]
    named = ratings.withColumnsRenamed({_NOUNS[own]: "id", noun: "other"})
    indexed = with_index(named, F.col("other"), index_table(ratings, ids[other]), "column")
    used = _check(indexed, noun)
    placed = indexed.where("column is not null").repartition(
        default_blocks(ratings.sparkSession, used), "id"
    )
    id_type = indexed.schema["id"].dataType
    schema = StructType([StructField("ids", ArrayType(id_type)), StructField("rows", BinaryType())])
    parts = placed.mapInArrow(_task(solve, rows.dtype.type), schema).toArrow()
    new = pa.chunked_array([part.flatten() for part in parts["ids"].chunks])
    solved = np.concatenate([np.frombuffer(part, rows.dtype) for part in parts["rows"].to_pylist()])
    if not np.isfinite(solved).all():
        raise FitError(
            f"folding in made {side} that are not finite; check that the ratings are on the scale "
            "of training"
        )
    merged, whole = _merge(ids[own], rows, new, solved.reshape(len(new), -1))
    _log.info("folded in %d %s, %d of them new", len(new), side, len(merged) - len(ids[own]))
    return ids._replace(**{side: merged}), whole


def _check(indexed: DataFrame, noun: str) -> int:
    """Refuse unusable ratings, log how many are ignored, and return how many are used."""
    bad = F.col("id").isNull() | F.col("other").isNull()
    for name in ("rating", "weight"):
        if name in indexed.columns:
            number = F.coalesce(F.abs(name), F.lit(float("nan")))
            bad |= ~(number < float("inf"))  # NaN is greater
    if "weight" in indexed.columns:
        bad |= F.col("weight") < 0
    unknown = F.col("column").isNull()
    counts = indexed.agg(F.count("*"), F.count_if(bad), F.count_if(unknown)).first()
    assert counts is not None
    total, unusable, ignored = counts
    if unusable:
        raise RatingsError(
            f"{unusable:,} of the {total:,} ratings to fold in have a null id, or a rating or "
            "weight that is not a finite number, or a negative weight; drop or fix them"
        )
    if ignored == total:
        raise RatingsError(
            f"none of the {total:,} ratings to fold in is of one of the {noun}s that the model "
            f"knows; give ratings of those, or train again"
        )
    if ignored:
        _log.info("ignored %d of %d ratings: their %ss are not in the model", ignored, total, noun)
    return int(total - ignored)


def _task(solve: _Solve, dtype: type[np.floating]) -> Task:
    """Return a task that solves for the rows of a partition."""

    def task(batches: Batches) -> Batches:
        freeze_gc_once()
        held = [batch for batch in batches if len(batch)]
        if not held:
            return
        table = pa.Table.from_batches(held).combine_chunks()
        coded = table["id"].chunk(0).dictionary_encode()
        weights = table["weight"] if "weight" in table.column_names else None
        triples = (coded.indices, table["column"], table["rating"], weights)
        block = RatingBlock.from_triples(*triples, dtype=dtype)
        solved = solve(block, coded.dictionary).astype(dtype)
        ids = pa.ListArray.from_arrays(pa.array([0, len(solved)], pa.int32()), coded.dictionary)
        rows = pa.array([solved.tobytes()])
        yield pa.RecordBatch.from_arrays([ids, rows], ["ids", "rows"])

    return task


def _equations(
    equation: Equation,
    own: int,
    alpha: float,
    background: Background | None,
    fixed: Broadcast[Floats],
    spread: RidgeSpread | None,
) -> _Solve:
    """Return a solver of rows, with the columns of `ResidualStats` if there is a spread."""

    def solve(block: RatingBlock, ids: pa.Array) -> Floats:
        del ids
        if equation.confidence is not None:
            block = preference_block(block, equation.confidence)
        kept = {"biases": equation.biases, "nonnegative": equation.nonnegative}
        x = fixed.value
        update = solve_rows(block, x, alpha, equation.ridge, background=background, **kept)
        if spread is None:
            return update.x
        known = [block.degrees]
        if own == 0:
            known.append(spread.levels(block.degrees, update.squares))
        return np.column_stack([update.x, *known])

    return solve


def _draws(
    given: list[Conditional], projections: Doubles, kappa: float, fixed: Broadcast[Floats]
) -> _Solve:
    def solve(block: RatingBlock, ids: pa.Array) -> Floats:
        # Row indices are local to a partition, so random numbers are keyed by the id.
        digests = (blake2b(str(value).encode(), digest_size=8) for value in ids.to_pylist())
        keys = np.array([int.from_bytes(digest.digest()) for digest in digests], np.uint64)
        keys = keys[block.rows]
        return np.hstack(fold_rows(block, fixed.value, given, projections, keys, kappa))

    return solve


def _merge(
    ids: pa.ChunkedArray, rows: Floats, new: pa.ChunkedArray, new_rows: Floats
) -> tuple[pa.ChunkedArray, Floats]:
    """Replace the rows of known ids, and insert new ids in order."""
    place = pc.index_in(new, value_set=ids)
    there = place.is_valid().to_numpy()
    rows = rows.copy()
    rows[place.drop_null().to_numpy()] = new_rows[there]
    merged = pa.chunked_array([*ids.chunks, *new.filter(pa.array(~there)).chunks])
    order = pc.sort_indices(merged)
    return merged.take(order), np.concatenate([rows, new_rows[~there]])[order.to_numpy()]
