"""Rows exchanged by shuffle: each block is sent the rows of the other side that it needs.

The rows of both sides stay on the executors, in the blocks that they are updated in, from where
they are drawn to where a model is written.  What comes to the driver of a half-step are a few sums,
in an order that no blocks can change.

Ratings laid out for an exchange of rows by shuffle: who needs which rows of whom.

Everything here is made once for a fit.  Each block is a partition of an RDD, on both sides, with
its ratings, its rows, and its *routes*: which of its rows go to which blocks of the other side, as
MLlib's out-blocks say it.

Second moments of rows that executors keep, to the bits of those of arrays on the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import RDD, StorageLevel

from nonconvex.distributed.factorization.execution import CachedBlocks
from nonconvex.distributed.factorization.packing import unpack
from nonconvex.distributed.factorization.runs import SIDES, Blocks, Broadcast, FitState, Moved
from nonconvex.distributed.factorization.steps import Step
from nonconvex.distributed.rows import (
    CachedRows,
    CheckpointedRows,
    Element,
    Rows,
    ShardedFactors,
    ShardedRows,
    by_number,
    group_by_type,
    scatter,
    zip_partitions,
)
from nonconvex.distributed.runtime import freeze_gc_once
from nonconvex.numerics.deterministic import PartialSums, complete, squared_moves
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Factors, Ridge, squared_errors
from nonconvex.numerics.factorization.ridge_posterior import (
    MOMENT_ROWS,
    DesignMoments,
    degree_shares,
    moment_of,
)
from nonconvex.numerics.factorization.shuffle import (
    InBlock,
    OutBlockPart,
    held_out_in_block_of,
    in_block_of,
    out_block_parts,
)

__all__ = ["Layout", "Routes", "Shuffle", "SideLayout", "lay_out", "moments"]


class Routes(NamedTuple):
    """Which rows of a block go where: each share with the number of the block that needs it."""

    shares: list[OutBlockPart]


@dataclass(frozen=True)
class SideLayout:
    """One side of the ratings.

    Parameters
    ----------
    ratings : RDD of (int, InBlock)
    routes : RDD of (int, Routes)
        Both cached, with a partition for each block.
    firsts : int64 array of shape (B,)
        Index of the first row of each block.
    rows : int
        Number of rows in all blocks.
    needed : int
        Rows of the other side that the blocks need, a row once for each block.
    """

    ratings: RDD[Element]
    routes: RDD[Element]
    firsts: NDArray[np.int64]
    rows: int
    needed: int

    def slices(self) -> list[slice]:
        """Return the rows of each block."""
        bounds = np.append(self.firsts, self.rows).tolist()
        return [slice(start, stop) for start, stop in pairwise(bounds)]

    def release(self) -> None:
        """Take everything out of the cache."""
        self.ratings.unpersist()
        self.routes.unpersist()


Layout = dict[str, SideLayout]
"""By side; with ``held_out``, the ratings to validate with by users, and routes of items there."""


def lay_out(
    users: CachedBlocks,
    items: CachedBlocks,
    held_out: CachedBlocks | None,
    dtype: type[np.floating],
) -> Layout:
    """Lay out the same ratings packed by users and by items, and some to validate with.

    Parameters
    ----------
    users, items : CachedBlocks
        Without long rows in parts.
    held_out : CachedBlocks or None
        Likewise, packed into the blocks of users.
    dtype : float type
        Of the ratings.

    Returns
    -------
    dict
        The layout of ``users``, ``items`` and perhaps ``held_out``, for the caller to release.
    """
    ratings = {
        side: _alone(_blocks(packed, dtype, None), lambda block, _: in_block_of(block))
        for side, packed in (("users", users), ("items", items))
    }
    firsts, rows, needed = {}, {}, {}
    try:
        for side, of_side in ratings.items():
            sizes = np.zeros((of_side.getNumPartitions(), 2), np.int64)
            for number, *size in of_side.map(_sizes).collect():
                sizes[number] = size
            rows[side], needed[side] = sizes.sum(axis=0).tolist()
            firsts[side] = np.cumsum(sizes[:, 0]) - sizes[:, 0]
    except BaseException:
        for of_side in ratings.values():
            of_side.unpersist()
        raise
    layout = {
        side: SideLayout(
            ratings[side],
            _routes_to(ratings[other], firsts[side]),
            firsts[side],
            rows[side],
            needed[side],
        )
        for side, other in (("users", "items"), ("items", "users"))
    }
    if held_out is not None:
        starts = firsts["users"]
        held = _alone(
            _blocks(held_out, dtype, len(starts)),
            lambda block, number: held_out_in_block_of(block, int(starts[number])),
        )
        routes = _routes_to(held, firsts["items"])
        wanted = sum(count for _, _, count in held.map(_sizes).collect())
        layout["held_out"] = SideLayout(held, routes, starts, rows["users"], wanted)
    return layout


def _blocks(packed: CachedBlocks, dtype: type[np.floating], blocks: int | None) -> RDD[Element]:
    """Send each block to the partition of its number."""

    def numbered(batch: pa.RecordBatch) -> list[Element]:
        return list(zip(_numbers(batch), unpack(batch, dtype), strict=True))

    if blocks is None:
        blocks = 1 + max(packed.rdd.flatMap(_numbers).collect())
    return packed.rdd.flatMap(numbered).partitionBy(blocks, by_number)


def _numbers(batch: pa.RecordBatch) -> list[int]:
    numbers: list[int] = batch.column("block").to_pylist()
    return numbers


def _alone(blocks: RDD[Element], needs: Callable[[RatingBlock, int], InBlock]) -> RDD[Element]:
    """Keep each block with what it needs."""

    def alone(elements: Iterable[Element]) -> Iterator[Element]:
        freeze_gc_once()
        for number, block in elements:
            yield number, needs(block, number)

    return blocks.mapPartitions(alone, True).persist(StorageLevel.MEMORY_AND_DISK_DESER)


def _routes_to(ratings: RDD[Element], firsts: NDArray[np.int64]) -> RDD[Element]:
    """Return the routes of the blocks of one side to the ratings that need their rows."""
    wanted = ratings.flatMap(_wanted(firsts)).partitionBy(len(firsts), by_number)
    return wanted.mapPartitions(_routes, True).persist(StorageLevel.MEMORY_AND_DISK_DESER)


def _sizes(element: tuple[int, InBlock]) -> tuple[int, int, int]:
    number, needs = element
    return number, len(needs.block.rows), len(needs.columns)


def _wanted(firsts: NDArray[np.int64]) -> Callable[[tuple[int, InBlock]], list[Element]]:
    """Return what tells each block of the other side what a block wants of it."""

    def wanted(element: tuple[int, InBlock]) -> list[Element]:
        number, needs = element
        shares = out_block_parts(needs.columns, firsts)
        return [(share.block, share._replace(block=number)) for share in shares]

    return wanted


def _routes(elements: Iterable[tuple[int, OutBlockPart]]) -> Iterator[Element]:
    shares: dict[int, list[OutBlockPart]] = {}
    for number, share in elements:
        shares.setdefault(number, []).append(share)
    for number, of_block in shares.items():
        yield number, Routes(sorted(of_block, key=lambda share: share.block))


def moments(
    factors: ShardedFactors, degrees: Sequence[NDArray[np.floating]], *, biases: bool
) -> DesignMoments:
    """Do what `DesignMoments.of` does; what comes to the driver is a matrix for each `MOMENT_ROWS` rows.

    Parameters
    ----------
    factors : ShardedFactors
        Of rows that executors keep.
    degrees : (float array of shape (n_u,), float array of shape (n_i,))
    biases : bool
    """
    users, items = (
        _moment(rows, of_side, biases)
        for rows, of_side in zip((factors.users, factors.items), degrees, strict=True)
    )
    return DesignMoments(users, items, factors.users.dtype)


def _moment(kept: ShardedRows, degrees: NDArray[np.floating], biases: bool) -> NDArray[np.float64]:
    assert isinstance(kept, CachedRows)
    firsts = [place.start for place in kept.slices]
    shares = [share for _, share in degree_shares(degrees)]

    def cut(element: Element) -> Iterator[Element]:
        number, rows = element
        first = firsts[number]
        while first < firsts[number] + len(rows.x):
            chunk = first // MOMENT_ROWS
            start = first - firsts[number]
            stop = (chunk + 1) * MOMENT_ROWS - firsts[number]
            yield chunk, (first, rows.x[start:stop])
            first = (chunk + 1) * MOMENT_ROWS

    def square(elements: Iterable[Element]) -> Iterator[Element]:
        freeze_gc_once()
        for number, (parts, [share]) in group_by_type(elements, tuple, np.ndarray).items():
            x = np.concatenate([rows for _, rows in sorted(parts, key=_first)])
            yield number, moment_of(x, share, biases=biases)

    chunks = kept.rdd.flatMap(cut).partitionBy(len(shares), by_number)
    standing = zip_partitions(chunks, scatter(kept.rdd.context, shares))
    found = dict(standing.mapPartitions(square).collect())
    moment: NDArray[np.float64] = np.asarray(sum(found[number] for number in range(len(shares))))
    return moment


def _first(part: tuple[int, Any]) -> int:
    return part[0]


_log = logging.getLogger("nonconvex")


class Shipment(NamedTuple):
    """Rows that one block sends to another."""

    source: int
    x: NDArray[np.floating]


class Shuffle(Broadcast):
    """What `Broadcast` is, for one problem whose rows are not shared but exchanged.

    Parameters
    ----------
    blocks : Blocks
        On executors, of explicit ratings.
    run : FitState
        Solved by "als" or "als-coordinate".
    """

    def __init__(self, blocks: Blocks, run: FitState) -> None:
        super().__init__(blocks)
        self._run = run
        self._layout: Layout = {}
        self._rows: dict[str, CachedRows] = {}  # as they are now
        self._kept: list[CachedRows] = []  # all that executors keep
        self._wanted: list[CachedRows] = []  # those that outlive the exchange

    def __enter__(self) -> Shuffle:
        """Lay out the ratings, and send all rows to their blocks."""
        super().__enter__()
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Release everything."""
        for of_side in self._layout.values():
            of_side.release()
        self._release_but(self._wanted)
        super().__exit__(*exception)

    def _begin(self) -> None:
        users, items = self._blocks.users, self._blocks.items
        assert isinstance(users, CachedBlocks)
        assert isinstance(items, CachedBlocks)
        self.describe("layout of the exchange")
        held_out = self._blocks.validation
        assert held_out is None or isinstance(held_out, CachedBlocks)
        self._layout = lay_out(users, items, held_out, self._blocks.dtype)
        for packed in (users, items):
            packed.release()  # they are laid out instead
        self._level = _storage(users)
        self._run.relocate(self._place)
        if not self._run.penalty:
            for side in SIDES:
                self._run.penalty[side] = self._penalty(side)
        sample = self._rows["users"]
        row_bytes = sample.dtype.itemsize * sample.shape[1]
        needed = {name: of_side.needed for name, of_side in self._layout.items()}
        of_users = needed["items"] * row_bytes
        of_items = (needed["users"] + needed.get("held_out", 0)) * row_bytes
        _log.info(
            "rows are exchanged by shuffle: an iteration sends %.1f MB of users to %d blocks of "
            "items, and %.1f MB of items to %d blocks of users, each row once to every block that "
            "needs it",
            of_users / 1e6,
            len(self._layout["items"].firsts),
            of_items / 1e6,
            len(self._layout["users"].firsts),
        )

    def put(self, active: Sequence[Any], changed: Sequence[str] = ()) -> None:
        """Do nothing: rows are where they were updated."""

    def update(self, side: str, active: Sequence[FitState]) -> list[Moved]:
        """Send the rows of the other side to where they are needed, and update those of this."""
        [run] = active
        other = "items" if side == "users" else "users"
        standing = self._standing(self._layout[side], side, other, self._layout[other].routes)
        after = self._keep(side, standing.mapPartitions(_update(run.step(side)), True))
        residual, squares, penalty, weight, moved = complete(after.rdd.map(_sums).collect())
        self._release_but([*self._rows.values(), *run.best_rows()])
        return [Moved(after, residual, squares, penalty, weight, moved)]

    def validate(self, active: Sequence[FitState]) -> list[float]:
        """Send rows of items to the validation ratings, which are where their users are."""
        [run] = active
        layout = self._layout["held_out"]
        standing = self._standing(layout, "users", "items", layout.routes)
        found = standing.mapPartitions(_errors(run.alpha, layout.rows)).collect()
        seen = {number for number, _ in found}
        parts = [sums for _, sums in found]
        for number, place in enumerate(layout.slices()):
            if number not in seen:
                parts.append(PartialSums.of(place.start, np.zeros((2, place.stop - place.start))))
        squares, weight = complete(parts)
        return [float(np.sqrt(squares / weight))]

    def detach(self) -> None:
        """Leave the rows that the run has come to where they are: they are the caller's now."""
        self._wanted = self._run.best_rows()

    def _release_but(self, wanted: Sequence[CachedRows]) -> None:
        """Release all rows except some."""
        for rows in self._kept:
            if rows not in wanted:
                rows.release()
        self._kept = [rows for rows in self._kept if rows in wanted]

    def _standing(
        self, layout: SideLayout, side: str, other: str, routes: RDD[Element]
    ) -> RDD[Element]:
        """Put side by side the rows of a block, ratings of them, and what these need."""
        sent = zip_partitions(self._rows[other].rdd, routes).mapPartitions(_send)
        received = sent.partitionBy(len(layout.firsts), by_number)
        return zip_partitions(self._rows[side].rdd, layout.ratings, received)

    def _place(self, side: str, rows: NDArray[np.floating] | ShardedRows) -> CachedRows:
        """Send rows to their blocks."""
        slices = self._layout[side].slices()
        if isinstance(rows, np.ndarray):
            parts = [Rows(rows[place], None, None) for place in slices]
            placed = scatter(self._context, parts)
        else:
            placed = rows.placed(self._context, slices)
        kept = self._keep(side, placed)
        kept.rdd.count()
        if isinstance(rows, CheckpointedRows):
            rows.release()
        return kept

    def _keep(self, side: str, rows: RDD[Element]) -> CachedRows:
        """Keep rows, with nothing of how they were made once that is done."""
        rows.persist(self._level)
        rows.localCheckpoint()
        width = self._run.rows[side].shape[1]
        kept = CachedRows(rows, self._layout[side].slices(), width, np.dtype(self._blocks.dtype))
        self._rows[side] = kept
        self._kept.append(kept)
        return kept

    def _penalty(self, side: str) -> float:
        """Return what all rows of a side pay for regularization."""
        standing = zip_partitions(self._layout[side].ratings, self._rows[side].rdd)
        [penalty] = complete(standing.mapPartitions(_pay(self._run.problem.ridge(side))).collect())
        return penalty


def _storage(packed: CachedBlocks) -> StorageLevel:
    """Keep rows on two executors, if there are two: nothing makes them again if one is lost."""
    executors = packed.session.sparkContext._jsc.sc().getExecutorMemoryStatus().size() - 1
    return StorageLevel(True, True, False, True, 2 if executors > 1 else 1)


def _send(elements: Iterable[Element]) -> Iterator[Element]:
    """Cut out of the rows of a block what others need of it."""
    freeze_gc_once()
    for number, (found, of_rows) in group_by_type(elements, Routes, Rows).items():
        for share in found[0].shares if found else ():
            yield share.block, Shipment(number, of_rows[0].x[share.positions])


def _update(step: Step) -> Callable[[Iterable[Element]], Iterator[Element]]:
    def update(elements: Iterable[Element]) -> Iterator[Element]:
        freeze_gc_once()
        kinds = (InBlock, Rows, Shipment)
        for number, (needs, own, shipments) in group_by_type(elements, *kinds).items():
            if not needs:  # no row is in this block
                continue
            fixed = np.concatenate([sent.x for sent in sorted(shipments, key=_source)])
            before = own[0].x
            update = step(needs[0].block, fixed, before)
            x, *sums = update
            values = np.stack([*sums, squared_moves(x, before)])
            yield number, Rows(x, PartialSums.of(needs[0].first, values), update.squares)

    return update


def _pay(ridge: Ridge) -> Callable[[Iterable[Element]], Iterator[PartialSums]]:
    def pay(elements: Iterable[Element]) -> Iterator[PartialSums]:
        freeze_gc_once()
        for needs, rows in group_by_type(elements, InBlock, Rows).values():
            if needs:
                penalty = ridge.penalty(needs[0].block.degrees, rows[0].x)
                yield PartialSums.of(needs[0].first, penalty[None])

    return pay


def _errors(
    alpha: float, users: int
) -> Callable[[Iterable[Element]], Iterator[tuple[int, PartialSums]]]:
    """Return what sums errors over users, and over all unknown ones."""

    def errors(elements: Iterable[Element]) -> Iterator[tuple[int, PartialSums]]:
        freeze_gc_once()
        kinds = (InBlock, Rows, Shipment)
        for number, (needs, own, shipments) in group_by_type(elements, *kinds).items():
            if not needs:
                continue
            first, block, _ = needs[0]
            x = own[0].x
            sent = [shipment.x for shipment in sorted(shipments, key=_source)]
            factors = Factors(alpha, x, np.concatenate(sent) if sent else np.zeros_like(x[:1]))
            found = np.stack([squared_errors(factors, block), block.total_weights()])
            known = block.rows >= 0
            values = np.zeros((2, len(x)))
            values[:, block.rows[known]] = found[:, known]
            yield number, PartialSums.of(first, values)
            if not known.all():
                yield number, PartialSums.of(users, found[:, ~known])

    return errors


def _source(shipment: Shipment) -> int:
    return shipment.source


def _sums(element: Element) -> PartialSums:
    sums: PartialSums = element[1].sums
    return sums
