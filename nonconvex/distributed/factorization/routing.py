"""Ratings laid out for an exchange of rows by shuffle: who needs which rows of whom.

Everything here is made once for a fit.  Each block is a partition of an RDD, on both sides, with
its ratings, its rows, and its *routes*: which of its rows go to which blocks of the other side, as
MLlib's out-blocks say it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import RDD, StorageLevel

from nonconvex.distributed.alignment import Element, by_number
from nonconvex.distributed.factorization.execution import OnExecutors
from nonconvex.distributed.factorization.packing import unpack
from nonconvex.distributed.workers import settle
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.shuffle import (
    Needs,
    Share,
    held_out_needs_of,
    needs_of,
    shares_of,
)

__all__ = ["Layout", "Routes", "SideLayout", "lay_out"]


class Routes(NamedTuple):
    """Which rows of a block go where: each share with the number of the block that needs it."""

    shares: list[Share]


@dataclass(frozen=True)
class SideLayout:
    """One side of the ratings.

    Parameters
    ----------
    ratings : RDD of (int, Needs)
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
    users: OnExecutors,
    items: OnExecutors,
    held_out: OnExecutors | None,
    dtype: type[np.floating],
) -> Layout:
    """Lay out the same ratings packed by users and by items, and some to validate with.

    Parameters
    ----------
    users, items : OnExecutors
        Without long rows in parts.
    held_out : OnExecutors or None
        Likewise, packed into the blocks of users.
    dtype : float type
        Of the ratings.

    Returns
    -------
    dict
        The layout of ``users``, ``items`` and perhaps ``held_out``, for the caller to release.
    """
    ratings = {
        side: _alone(_blocks(packed, dtype, None), lambda block, _: needs_of(block))
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
            lambda block, number: held_out_needs_of(block, int(starts[number])),
        )
        routes = _routes_to(held, firsts["items"])
        wanted = sum(count for _, _, count in held.map(_sizes).collect())
        layout["held_out"] = SideLayout(held, routes, starts, rows["users"], wanted)
    return layout


def _blocks(packed: OnExecutors, dtype: type[np.floating], blocks: int | None) -> RDD[Element]:
    """Send each block to the partition of its number."""

    def numbered(batch: pa.RecordBatch) -> list[Element]:
        return list(zip(_numbers(batch), unpack(batch, dtype), strict=True))

    if blocks is None:
        blocks = 1 + max(packed.rdd.flatMap(_numbers).collect())
    return packed.rdd.flatMap(numbered).partitionBy(blocks, by_number)


def _numbers(batch: pa.RecordBatch) -> list[int]:
    numbers: list[int] = batch.column("block").to_pylist()
    return numbers


def _alone(blocks: RDD[Element], needs: Callable[[RatingBlock, int], Needs]) -> RDD[Element]:
    """Keep each block with what it needs."""

    def alone(elements: Iterable[Element]) -> Iterator[Element]:
        settle()
        for number, block in elements:
            yield number, needs(block, number)

    return blocks.mapPartitions(alone, True).persist(StorageLevel.MEMORY_AND_DISK_DESER)


def _routes_to(ratings: RDD[Element], firsts: NDArray[np.int64]) -> RDD[Element]:
    """Return the routes of the blocks of one side to the ratings that need their rows."""
    wanted = ratings.flatMap(_wanted(firsts)).partitionBy(len(firsts), by_number)
    return wanted.mapPartitions(_routes, True).persist(StorageLevel.MEMORY_AND_DISK_DESER)


def _sizes(element: tuple[int, Needs]) -> tuple[int, int, int]:
    number, needs = element
    return number, len(needs.block.rows), len(needs.columns)


def _wanted(firsts: NDArray[np.int64]) -> Callable[[tuple[int, Needs]], list[Element]]:
    """Return what tells each block of the other side what a block wants of it."""

    def wanted(element: tuple[int, Needs]) -> list[Element]:
        number, needs = element
        shares = shares_of(needs.columns, firsts)
        return [(share.block, share._replace(block=number)) for share in shares]

    return wanted


def _routes(elements: Iterable[tuple[int, Share]]) -> Iterator[Element]:
    shares: dict[int, list[Share]] = {}
    for number, share in elements:
        shares.setdefault(number, []).append(share)
    for number, of_block in shares.items():
        yield number, Routes(sorted(of_block, key=lambda share: share.block))
