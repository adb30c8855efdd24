"""Rows exchanged by shuffle: each block is sent the rows of the other side that it needs.

The rows of both sides stay on the executors, in the blocks that they are updated in, from where
they are drawn to where a model is written.  What comes to the driver of a half-step are a few sums,
in an order that no blocks can change.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD, StorageLevel

from nonconvex.distributed.alignment import Element, by_number, scattered, together, united
from nonconvex.distributed.factorization.execution import OnExecutors
from nonconvex.distributed.factorization.problems import SIDES, Blocks
from nonconvex.distributed.factorization.routing import Layout, Routes, SideLayout, lay_out
from nonconvex.distributed.factorization.runs import Moved, Run, Shared
from nonconvex.distributed.factorization.steps import Step
from nonconvex.distributed.rows import DistantRows, KeptRows, Rows, SavedRows
from nonconvex.distributed.workers import settle
from nonconvex.numerics.deterministic import PartialSums, complete, squared_moves
from nonconvex.numerics.factorization.model import Factors, Ridge, squared_errors
from nonconvex.numerics.factorization.shuffle import Needs

__all__ = ["Exchange"]

_log = logging.getLogger("nonconvex")


class Shipment(NamedTuple):
    """Rows that one block sends to another."""

    source: int
    x: NDArray[np.floating]


class Exchange(Shared):
    """What `Shared` is, for one problem whose rows are not shared but exchanged.

    Parameters
    ----------
    blocks : Blocks
        On executors, of explicit ratings.
    run : Run
        Solved by "als" or "als-coordinate".
    """

    def __init__(self, blocks: Blocks, run: Run) -> None:
        super().__init__(blocks)
        self._run = run
        self._layout: Layout = {}
        self._rows: dict[str, KeptRows] = {}  # as they are now
        self._kept: list[KeptRows] = []  # all that executors keep
        self._wanted: list[KeptRows] = []  # those that outlive the exchange

    def __enter__(self) -> Exchange:
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
        assert isinstance(users, OnExecutors)
        assert isinstance(items, OnExecutors)
        self.describe("layout of the exchange")
        held_out = self._blocks.validation
        assert held_out is None or isinstance(held_out, OnExecutors)
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

    def update(self, side: str, active: Sequence[Run]) -> list[Moved]:
        """Send the rows of the other side to where they are needed, and update those of this."""
        [run] = active
        other = "items" if side == "users" else "users"
        standing = self._standing(self._layout[side], side, other, self._layout[other].routes)
        after = self._keep(side, standing.mapPartitions(_update(run.step(side)), True))
        residual, squares, penalty, weight, moved = complete(after.rdd.map(_sums).collect())
        self._release_but([*self._rows.values(), *run.best_rows()])
        return [Moved(after, residual, squares, penalty, weight, moved)]

    def validate(self, active: Sequence[Run]) -> list[float]:
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

    def hand_over(self) -> None:
        """Leave the rows that the run has come to where they are: they are the caller's now."""
        self._wanted = self._run.best_rows()

    def _release_but(self, wanted: Sequence[KeptRows]) -> None:
        """Release all rows except some."""
        for rows in self._kept:
            if rows not in wanted:
                rows.release()
        self._kept = [rows for rows in self._kept if rows in wanted]

    def _standing(
        self, layout: SideLayout, side: str, other: str, routes: RDD[Element]
    ) -> RDD[Element]:
        """Put side by side the rows of a block, ratings of them, and what these need."""
        sent = united(self._rows[other].rdd, routes).mapPartitions(_send)
        received = sent.partitionBy(len(layout.firsts), by_number)
        return united(self._rows[side].rdd, layout.ratings, received)

    def _place(self, side: str, rows: NDArray[np.floating] | DistantRows) -> KeptRows:
        """Send rows to their blocks."""
        slices = self._layout[side].slices()
        if isinstance(rows, np.ndarray):
            parts = [Rows(rows[place], None, None) for place in slices]
            placed = scattered(self._context, parts)
        else:
            placed = rows.placed(self._context, slices)
        kept = self._keep(side, placed)
        kept.rdd.count()
        if isinstance(rows, SavedRows):
            rows.release()
        return kept

    def _keep(self, side: str, rows: RDD[Element]) -> KeptRows:
        """Keep rows, with nothing of how they were made once that is done."""
        rows.persist(self._level)
        rows.localCheckpoint()
        width = self._run.rows[side].shape[1]
        kept = KeptRows(rows, self._layout[side].slices(), width, np.dtype(self._blocks.dtype))
        self._rows[side] = kept
        self._kept.append(kept)
        return kept

    def _penalty(self, side: str) -> float:
        """Return what all rows of a side pay for regularization."""
        standing = united(self._layout[side].ratings, self._rows[side].rdd)
        [penalty] = complete(standing.mapPartitions(_pay(self._run.problem.ridge(side))).collect())
        return penalty


def _storage(packed: OnExecutors) -> StorageLevel:
    """Keep rows on two executors, if there are two: nothing makes them again if one is lost."""
    executors = packed.session.sparkContext._jsc.sc().getExecutorMemoryStatus().size() - 1
    return StorageLevel(True, True, False, True, 2 if executors > 1 else 1)


def _send(elements: Iterable[Element]) -> Iterator[Element]:
    """Cut out of the rows of a block what others need of it."""
    settle()
    for number, (found, of_rows) in together(elements, Routes, Rows).items():
        for share in found[0].shares if found else ():
            yield share.block, Shipment(number, of_rows[0].x[share.positions])


def _update(step: Step) -> Callable[[Iterable[Element]], Iterator[Element]]:
    def update(elements: Iterable[Element]) -> Iterator[Element]:
        settle()
        kinds = (Needs, Rows, Shipment)
        for number, (needs, own, shipments) in together(elements, *kinds).items():
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
        settle()
        for needs, rows in together(elements, Needs, Rows).values():
            if needs:
                penalty = ridge.penalty(needs[0].block.degrees, rows[0].x)
                yield PartialSums.of(needs[0].first, penalty[None])

    return pay


def _errors(
    alpha: float, users: int
) -> Callable[[Iterable[Element]], Iterator[tuple[int, PartialSums]]]:
    """Return what sums errors over users, and over all unknown ones."""

    def errors(elements: Iterable[Element]) -> Iterator[tuple[int, PartialSums]]:
        settle()
        kinds = (Needs, Rows, Shipment)
        for number, (needs, own, shipments) in together(elements, *kinds).items():
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
