"""Folding in: the rows of one side, new or changed, while the other side stands still."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, StructField, StructType

from nonconvex.distributed.data.ids import default_blocks
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.factorization.predict import index_table, with_index
from nonconvex.distributed.runtime import freeze_gc_once
from nonconvex.numerics.convergence import FitError
from nonconvex.numerics.deterministic import one_thread_per_product
from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gibbs import Conditional
from nonconvex.numerics.factorization.model import Background, Factors, Ridge, Side, preferences
from nonconvex.numerics.factorization.posterior import Posterior, fold_rows
from nonconvex.numerics.factorization.ridge_posterior import RidgePosterior, RidgeSpread

__all__ = ["Drawing", "Equation", "fold_in", "fold_in_samples"]

_log = logging.getLogger("nonconvex")

_Batches = Iterator[pa.RecordBatch]

_Solve = Callable[[RatingBlock, pa.Array], NDArray[np.floating]]

_NOUNS = ("user", "item")


class Equation(NamedTuple):
    """What the rows of the side that is folded in solve, apart from the ratings.

    Attributes
    ----------
    ridge : Ridge
        With n and the mean degree of training.
    biases, nonnegative : bool
        Whether there are β, and whether γ ≥ 0 is demanded.
    confidence : float or None
        κ of implicit feedback; None if ratings are explicit.
    """

    ridge: Ridge
    biases: bool
    nonnegative: bool
    confidence: float | None


class Drawing(NamedTuple):
    """How the rows of the side that is folded in are drawn in every kept sample.

    Attributes
    ----------
    posterior : Posterior
    shared : two broadcast float arrays
        Its users and its items.
    """

    posterior: Posterior
    shared: Sequence[Broadcast[NDArray[np.floating]]]


def fold_in(
    ratings: DataFrame,
    side: Side,
    factors: Factors,
    ids: Ids,
    shared: Sequence[Broadcast[NDArray[np.floating]]],
    equation: Equation,
    ridge: RidgePosterior | None = None,
) -> tuple[Factors, Ids, RidgePosterior | None]:
    """Solve the rows of one side that have ratings, against the other side as it is.

    The ratings of a row come together over one shuffle, and a task holds those of its rows: about
    a million, see `nonconvex.distributed.data.ids.default_blocks`.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item``, in the types of the model, ``rating double``, and ``weight double`` if
        there are weights: all ratings of each row that is to be solved.
    side : Side
        What is folded in.
    factors : Factors
    ids : Ids
    shared : two broadcast float arrays
        The users and the items of `factors`.
    equation : Equation
    ridge : RidgePosterior, optional
        What is known beside the rows.

    Returns
    -------
    Factors, Ids, RidgePosterior or None
        With the solved rows in the place of those that there were, and new ones among them in
        the order of their ids.

    Raises
    ------
    RatingsError
        If some ratings cannot be used, or none is of an id on the other side that is known.
    FitError
        If a row becomes non-finite.
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
    """Draw the rows of one side that have ratings in every kept sample, given the other side.

    Parameters and errors are those of `fold_in`.

    Returns
    -------
    Factors
        The mean model, with rows that are means over the samples.
    Ids
    Posterior
        The kept samples, with the rows that were drawn.
    """
    own = Ids._fields.index(side)
    posterior, shared = drawing
    mean, samples = getattr(factors, side), getattr(posterior, side)
    width = mean.shape[1], mean.shape[1] + samples.shape[1]
    user_precision = posterior.user_precision
    if side == Side.ITEMS:  # which have none
        user_precision = np.ones((len(mean), len(posterior.taus)), mean.dtype)
    with one_thread_per_product():
        projections = posterior.projections(side, factors)
    solve = _draws(posterior.conditionals(side), projections, shared[1 - own])
    ids, whole = _fold(ratings, own, np.hstack([mean, samples, user_precision]), ids, solve)
    mean, samples, user_precision = np.split(whole, width, axis=1)
    if side == Side.USERS:
        posterior = posterior._replace(users=samples, user_precision=user_precision)
        return factors._replace(users=mean), ids, posterior
    return factors._replace(items=mean), ids, posterior._replace(items=samples)


def _fold(
    ratings: DataFrame, own: int, rows: NDArray[np.floating], ids: Ids, solve: _Solve
) -> tuple[Ids, NDArray[np.floating]]:
    """Put rows in the place of those that there were, and among them."""
    other, noun, side = 1 - own, _NOUNS[1 - own], Ids._fields[own]
    named = ratings.withColumnsRenamed({_NOUNS[own]: "id", noun: "other"})
    indexed = with_index(named, F.col("other"), index_table(ratings, ids[other]), "column")
    used = _check(indexed, noun)
    placed = indexed.where("column is not null").repartition(default_blocks(ratings, used), "id")
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
    """Raise for ratings that cannot be used; return how many can, and log how many are ignored."""
    bad = F.col("id").isNull() | F.col("other").isNull()
    for name in ("rating", "weight"):
        if name in indexed.columns:
            number = F.coalesce(F.abs(name), F.lit(float("nan")))
            bad |= ~(number < float("inf"))  # NaN is above it
    if "weight" in indexed.columns:
        bad |= F.col("weight") < 0
    unknown = F.col("column").isNull()
    counts = indexed.agg(F.count("*"), F.count_if(bad), F.count_if(unknown)).first()
    assert counts is not None
    total, unusable, ignored = counts
    if unusable:
        raise RatingsError(
            f"{unusable:,} of the {total:,} ratings to fold in have a null id, or a rating or "
            "weight that is not a finite number or is a weight below 0; drop or mend them"
        )
    if ignored == total:
        raise RatingsError(
            f"none of the {total:,} ratings to fold in is of one of the {noun}s that the model "
            f"knows; give ratings of those, or train again"
        )
    if ignored:
        _log.info("ignored %d of %d ratings: their %ss are not in the model", ignored, total, noun)
    return int(total - ignored)


def _task(solve: _Solve, dtype: type[np.floating]) -> Callable[[_Batches], _Batches]:
    """Return what solves for the rows of a partition."""

    def task(batches: _Batches) -> _Batches:
        freeze_gc_once()
        held = [batch for batch in batches if len(batch)]
        if not held:
            return
        table = pa.Table.from_batches(held).combine_chunks()
        coded = table["id"].chunk(0).dictionary_encode()
        block = RatingBlock.from_triples(
            coded.indices,
            table["column"],
            table["rating"],
            table["weight"] if "weight" in table.column_names else None,
            dtype=dtype,
        )
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
    fixed: Broadcast[NDArray[np.floating]],
    spread: RidgeSpread | None,
) -> _Solve:
    """Return what solves for rows, and adds what a `RidgePosterior` is to know of each."""

    def solve(block: RatingBlock, ids: pa.Array) -> NDArray[np.floating]:
        del ids
        if equation.confidence is not None:
            block = preferences(block, equation.confidence)
        update = solve_rows(
            block,
            fixed.value,
            alpha,
            equation.ridge,
            biases=equation.biases,
            nonnegative=equation.nonnegative,
            background=background,
        )
        if spread is None:
            return update.x
        known = [block.degrees]
        if own == 0:
            known.append(spread.levels(block.degrees, update.squares))
        return np.column_stack([update.x, *known])

    return solve


def _draws(
    given: list[Conditional],
    projections: NDArray[np.float64],
    fixed: Broadcast[NDArray[np.floating]],
) -> _Solve:
    def solve(block: RatingBlock, ids: pa.Array) -> NDArray[np.floating]:
        # Indices are those of a partition: random numbers are those of the id.
        digests = (blake2b(str(value).encode(), digest_size=8) for value in ids.to_pylist())
        keys = np.array([int.from_bytes(digest.digest()) for digest in digests], np.uint64)
        return np.hstack(fold_rows(block, fixed.value, given, projections, keys[block.rows]))

    return solve


def _merge(
    ids: pa.ChunkedArray,
    rows: NDArray[np.floating],
    new: pa.ChunkedArray,
    new_rows: NDArray[np.floating],
) -> tuple[pa.ChunkedArray, NDArray[np.floating]]:
    """Replace the rows of ids that are there, and put others among them in the order of ids."""
    place = pc.index_in(new, value_set=ids)
    there = place.is_valid().to_numpy()
    rows = rows.copy()
    rows[place.drop_null().to_numpy()] = new_rows[there]
    merged = pa.chunked_array([*ids.chunks, *new.filter(pa.array(~there)).chunks])
    order = pc.sort_indices(merged)
    return merged.take(order), np.concatenate([rows, new_rows[~there]])[order.to_numpy()]
