"""Exchange of rows by shuffle: each block is sent the rows of the other side that it needs.

The rows of both sides stay on the executors, in the blocks of their updates, from the random start
to the written model.  A half-step sends a few sums to the driver, independent of the blocks.

The layout is made once for a fit.  On each side, a block is a partition of RDDs with its ratings
(`InBlock`), its rows, and an `OutBlock`: its rows that each block of the other side needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import SparkSession

from nonconvex.distributed.factorization.execution import CachedBlocks
from nonconvex.distributed.factorization.packing import unpack
from nonconvex.distributed.factorization.state import (
    AnyFactors,
    Blocks,
    FitState,
    Penalty,
    RandomRows,
    RowExchange,
    ShardedFactors,
    SideUpdate,
)
from nonconvex.distributed.factorization.steps import AnyStep
from nonconvex.distributed.rows import (
    CachedRows,
    CheckpointedRows,
    Element,
    Rows,
    ShardedRows,
    by_number,
    group_by_type,
    scatter,
    zip_partitions,
)
from nonconvex.distributed.runtime import begin_task, executors
from nonconvex.numerics import Doubles, Floats, Longs
from nonconvex.numerics.deterministic import Kernel, PartialSums, complete, squared_moves
from nonconvex.numerics.factorization.blocks import (
    InBlock,
    OutBlockPart,
    RatingBlock,
    held_out_in_block_of,
    in_block_of,
    out_block_parts,
)
from nonconvex.numerics.factorization.model import Factors, InitialRows, Side, squared_errors
from nonconvex.numerics.factorization.ridge_posterior import (
    MOMENT_ROWS,
    DesignMoments,
    FactorVariance,
    degree_shares,
    moment_of,
    moments_here,
    row_moment,
)
from nonconvex.numerics.factorization.vb import InferredUpdate

if TYPE_CHECKING:
    from pyspark import RDD

_Moment = Callable[[Floats, Doubles], Doubles]

_log = logging.getLogger("nonconvex")


class OutBlock(NamedTuple):
    """The out-block of a block: each part with the number of the block that needs it."""

    parts: list[OutBlockPart]


@dataclass(frozen=True)
class SideLayout:
    """Layout of one side of the ratings."""

    ratings: RDD[Element]
    out_blocks: RDD[Element]  # cached, with a partition for each block
    firsts: Longs  # (B,): index of the first row of each block
    rows: int  # number of rows in all blocks
    needed: int  # rows of the other side that the blocks need, each counted once for each block

    def slices(self) -> list[slice]:
        """Return the rows of each block."""
        bounds = np.append(self.firsts, self.rows).tolist()
        return [slice(start, stop) for start, stop in pairwise(bounds)]

    def release(self) -> None:
        """Remove everything from the cache."""
        self.ratings.unpersist()
        self.out_blocks.unpersist()


Layout = dict[str, SideLayout]
"""By side; ``held_out`` has the validation ratings by users, and out-blocks of items for them."""


def lay_out(
    users: CachedBlocks,
    items: CachedBlocks,
    held_out: CachedBlocks | None,
    dtype: type[np.floating],
) -> Layout:
    """Lay out ratings packed by users and by items, and held-out ones in the blocks of users.

    No long row may be in parts.  The caller releases the layouts.
    """
    ratings = {
        side: _in_blocks(_blocks(packed, dtype, None), lambda block, _: in_block_of(block))
        for side, packed in ((Side.USERS, users), (Side.ITEMS, items))
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
    out = {side: _out_blocks(ratings[side.other], firsts[side]) for side in Side}
    layout: Layout = {
        side: SideLayout(ratings[side], out[side], firsts[side], rows[side], needed[side])
        for side in Side
    }
    if held_out is not None:
        starts = firsts[Side.USERS]
        held = _in_blocks(
            _blocks(held_out, dtype, len(starts)),
            lambda block, number: held_out_in_block_of(block, int(starts[number])),
        )
        out_blocks = _out_blocks(held, firsts[Side.ITEMS])
        wanted = sum(count for _, _, count in held.map(_sizes).collect())
        layout["held_out"] = SideLayout(held, out_blocks, starts, rows[Side.USERS], wanted)
    return layout


def _blocks(packed: CachedBlocks, dtype: type[np.floating], blocks: int | None) -> RDD[Element]:
    """Send each block to the partition of its number."""

    def numbered(batch: pa.RecordBatch) -> list[Element]:
        return list(unpack(iter([batch]), dtype))

    if blocks is None:
        numbers = packed.batches.flatMap(lambda batch: batch.column("block").to_pylist())
        blocks = 1 + max(numbers.collect())
    return packed.batches.flatMap(numbered).partitionBy(blocks, by_number)


def _in_blocks(blocks: RDD[Element], make: Callable[[RatingBlock, int], InBlock]) -> RDD[Element]:
    """Cache the in-block of each block."""

    def in_blocks(elements: Iterable[Element]) -> Iterator[Element]:
        begin_task()
        for number, block in elements:
            yield number, make(block, number)

    return blocks.mapPartitions(in_blocks, True).persist(StorageLevel.MEMORY_AND_DISK_DESER)


def _out_blocks(ratings: RDD[Element], firsts: Longs) -> RDD[Element]:
    """Cache the out-blocks of one side, for the ratings that need its rows."""

    def wanted(element: tuple[int, InBlock]) -> list[Element]:
        number, own = element
        parts = out_block_parts(own.columns, firsts)
        return [(part.block, part._replace(block=number)) for part in parts]

    parts = ratings.flatMap(wanted).partitionBy(len(firsts), by_number)
    return parts.mapPartitions(_out_block, True).persist(StorageLevel.MEMORY_AND_DISK_DESER)


def _sizes(element: tuple[int, InBlock]) -> tuple[int, int, int]:
    number, own = element
    return number, len(own.block.rows), len(own.columns)


def _out_block(elements: Iterable[tuple[int, OutBlockPart]]) -> Iterator[Element]:
    parts: dict[int, list[OutBlockPart]] = {}
    for number, part in elements:
        parts.setdefault(number, []).append(part)
    for number, of_block in parts.items():
        yield number, OutBlock(sorted(of_block, key=attrgetter("block")))


def design_moments(
    factors: AnyFactors, degrees: Sequence[Floats], *, biases: bool
) -> DesignMoments:
    """Return `DesignMoments.of`; sharded rows send a matrix per `MOMENT_ROWS` rows."""
    users, items = _moments(factors, degrees, partial(moment_of, biases=biases))
    return DesignMoments(users, items, factors.users.dtype)


def factor_variance(factors: AnyFactors, degrees: Sequence[Floats]) -> FactorVariance:
    """Return `FactorVariance.of` the rows of both sides, each with its share of the ratings."""
    return FactorVariance.of(*_moments(factors, degrees, row_moment))


def _moments(
    factors: AnyFactors, degrees: Sequence[Floats], moment: _Moment
) -> tuple[Doubles, Doubles]:
    """Return the moments of both sides, with the same bits wherever the rows are."""
    add: Callable[..., Doubles] = moments_here if isinstance(factors, Factors) else _moments_there
    sides = zip((factors.users, factors.items), degrees, strict=True)
    users, items = (add(rows, of_side, moment) for rows, of_side in sides)
    return users, items


def _moments_there(kept: ShardedRows, degrees: Floats, moment: _Moment) -> Doubles:
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
        begin_task()
        for number, (parts, [share]) in group_by_type(elements, tuple, np.ndarray).items():
            x = np.concatenate([rows for _, rows in sorted(parts, key=itemgetter(0))])
            yield number, moment(x, share)

    chunks = kept.elements.flatMap(cut).partitionBy(len(shares), by_number)
    joined = zip_partitions(chunks, scatter(SparkSession.active(), shares))
    found = dict(joined.mapPartitions(square).collect())
    return np.asarray(sum(found[number] for number in range(len(shares))))


class Shipment(NamedTuple):
    """Rows that one block sends to another."""

    source: int
    x: Floats


class Shuffle(RowExchange):
    """Exchange without the driver, for one problem of explicit ratings solved by least squares.

    The blocks are on executors.
    """

    sharded = True

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(blocks)
        self._layout: Layout = {}
        self._rows: dict[Side, CachedRows] = {}  # the current ones
        self._cached: list[CachedRows] = []  # all that executors hold
        self._detached: Sequence[CachedRows] = ()

    def __enter__(self) -> Self:
        """Lay out the ratings."""
        super().__enter__()
        try:
            blocks = self._blocks
            users, items, held_out = blocks.users, blocks.items, blocks.validation
            assert isinstance(users, CachedBlocks)
            assert isinstance(items, CachedBlocks)
            assert held_out is None or isinstance(held_out, CachedBlocks)
            self.describe("layout of the exchange")
            self._layout = lay_out(users, items, held_out, blocks.dtype)
            for packed in (users, items):
                packed.release()  # the layout replaces them
            # Two copies, if there are two executors: nothing computes lost rows again.
            copies = 2 if executors(self._session) > 1 else 1
            self._level = StorageLevel(True, True, False, True, copies)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Release everything."""
        for of_side in self._layout.values():
            of_side.release()
        self._release_but(self._detached)
        super().__exit__(*exception)

    @staticmethod
    def initial(alpha: float, users: InitialRows, items: InitialRows) -> AnyFactors:
        """Leave it to the executors to draw the rows."""
        return ShardedFactors(alpha, RandomRows(users), RandomRows(items))

    def place(self, side: Side, rows: Any) -> CachedRows:
        """Send rows to their blocks."""
        slices = self._layout[side].slices()
        if isinstance(rows, np.ndarray):
            parts = [Rows(rows[place], None, None) for place in slices]
            placed = scatter(self._session, parts)
        else:
            placed = rows.placed(self._session, slices)
        cached = self._cache(side, placed, rows.shape[1])
        cached.elements.count()
        if isinstance(rows, CheckpointedRows):
            rows.release()
        return cached

    def penalty(self, side: Side, ridge: Penalty, rows: CachedRows) -> float:
        """Return the regularization of all rows of a side."""

        def penalties(elements: Iterable[Element]) -> Iterator[PartialSums]:
            begin_task()
            for needs, rows in group_by_type(elements, InBlock, Rows).values():
                if needs:
                    penalty = ridge.penalty(needs[0].block.degrees, rows[0].x)
                    yield PartialSums.of(needs[0].first, penalty[None])

        joined = zip_partitions(self._layout[side].ratings, rows.elements)
        [penalty] = complete(joined.mapPartitions(penalties).collect())
        return penalty

    def put(self, states: Sequence[Any], changed: Sequence[Side] = ()) -> None:
        """Do nothing: rows are where they were updated."""

    def update(self, side: Side, states: Sequence[FitState]) -> list[SideUpdate]:
        """Send the rows of the other side to the ratings, and update the rows of this one."""
        [state] = states
        layout = self._layout[side]
        joined = self._joined(layout, side, self._layout[side.other].out_blocks)
        updated = joined.mapPartitions(_update(state.step(side)), True)
        after = self._cache(side, updated, state.rows[side].shape[1])
        sums = complete(after.elements.map(lambda element: element[1].sums).collect())
        self._release_but([*self._rows.values(), *state.best_rows()])
        residual, squares, penalty, weight, moved, *more = sums
        return [SideUpdate(after, residual, squares, penalty, weight, moved, more=more)]

    def validate(self, states: Sequence[FitState]) -> list[float]:
        """Send rows of items to the validation ratings, which are in the blocks of their users."""
        [state] = states
        layout = self._layout["held_out"]
        joined = self._joined(layout, Side.USERS, layout.out_blocks)
        task = _errors(state.alpha, layout.rows, state.unknowns, state.problem.kernel)
        found = joined.mapPartitions(task).collect()
        seen = {number for number, _ in found}
        parts = [sums for _, sums in found]
        for number, place in enumerate(layout.slices()):
            if number not in seen:
                parts.append(PartialSums.of(place.start, np.zeros((2, place.stop - place.start))))
        squares, weight = complete(parts)
        return [float(np.sqrt(squares / weight))]

    def detach(self, rows: Sequence[CachedRows]) -> None:
        """Keep these rows on the executors when everything else is released."""
        self._detached = rows

    def _release_but(self, kept: Sequence[CachedRows]) -> None:
        for rows in self._cached:
            if rows not in kept:
                rows.release()
        self._cached = [rows for rows in self._cached if rows in kept]

    def _joined(self, layout: SideLayout, side: Side, out_blocks: RDD[Element]) -> RDD[Element]:
        """Bring together the rows of a block, its ratings, and the rows that these need."""
        sent = zip_partitions(self._rows[side.other].elements, out_blocks).mapPartitions(_send)
        received = sent.partitionBy(len(layout.firsts), by_number)
        return zip_partitions(self._rows[side].elements, layout.ratings, received)

    def _cache(self, side: Side, elements: RDD[Element], width: int) -> CachedRows:
        """Cache rows without their lineage."""
        if len(self._rows) < len(Side):
            self._log_bytes(side, width)
        elements.persist(self._level)
        elements.localCheckpoint()
        dtype = np.dtype(self._blocks.dtype)
        rows = CachedRows(elements, self._layout[side].slices(), width, dtype)
        self._rows[side] = rows
        self._cached.append(rows)
        return rows

    def _log_bytes(self, side: Side, width: int) -> None:
        """Log how many bytes of a side an iteration sends."""
        needed = self._layout[side.other].needed
        if side == Side.ITEMS and "held_out" in self._layout:
            needed += self._layout["held_out"].needed
        _log.info(
            "rows are exchanged by shuffle: an iteration sends %.1f MB of %s to %d blocks of %s, "
            "each row once to every block that needs it",
            needed * width * np.dtype(self._blocks.dtype).itemsize / 1e6,
            side,
            len(self._layout[side.other].firsts),
            side.other,
        )


def _send(elements: Iterable[Element]) -> Iterator[Element]:
    """Send the rows of a block that other blocks need."""
    begin_task()
    for number, (found, of_rows) in group_by_type(elements, OutBlock, Rows).items():
        for part in found[0].parts if found else ():
            yield part.block, Shipment(number, of_rows[0].x[part.positions])


def _received(elements: Iterable[Element]) -> Iterator[tuple[int, InBlock, Floats, list[Floats]]]:
    """Yield the number of each block with rows, its ratings, its rows, and those it was sent."""
    begin_task()
    kinds = (InBlock, Rows, Shipment)
    for number, (needs, own, shipments) in group_by_type(elements, *kinds).items():
        if needs:
            sent = [shipment.x for shipment in sorted(shipments, key=attrgetter("source"))]
            yield number, needs[0], own[0].x, sent


def _update(step: AnyStep) -> Callable[[Iterable[Element]], Iterator[Element]]:
    def update(elements: Iterable[Element]) -> Iterator[Element]:
        for number, ratings, before, sent in _received(elements):
            update = step(ratings.block, np.concatenate(sent), before)
            more = update.more.T if isinstance(update, InferredUpdate) else ()
            values = np.stack([*update[1:5], squared_moves(update.x, before), *more])
            yield number, Rows(update.x, PartialSums.of(ratings.first, values), update.squares)

    return update


def _errors(
    alpha: float, users: int, unknowns: int | None, kernel: Kernel
) -> Callable[[Iterable[Element]], Iterator[tuple[int, PartialSums]]]:
    """Return a task that sums errors over users, and over all unknown ones."""

    def errors(elements: Iterable[Element]) -> Iterator[tuple[int, PartialSums]]:
        for number, (first, block, _), own, sent in _received(elements):
            x = np.ascontiguousarray(own[:, :unknowns])
            means = [rows[:, :unknowns] for rows in sent]
            factors = Factors(alpha, x, np.concatenate(means) if means else np.zeros_like(x[:1]))
            squares = squared_errors(factors, block, kernel=kernel)
            found = np.stack([squares, block.total_weights()])
            known = block.rows >= 0
            values = np.zeros((2, len(x)))
            values[:, block.rows[known]] = found[:, known]
            yield number, PartialSums.of(first, values)
            if not known.all():
                yield number, PartialSums.of(users, found[:, ~known])

    return errors
