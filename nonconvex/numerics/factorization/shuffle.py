"""In-blocks and out-blocks: the rows of the other side that the ratings of a block need."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization.blocks import RatingBlock

__all__ = ["InBlock", "OutBlockPart", "held_out_in_block_of", "in_block_of", "out_block_parts"]


class InBlock(NamedTuple):
    """The ratings of a block, with columns renumbered to those that occur.

    Attributes
    ----------
    first : int
        Index of its first row; the others follow it without a gap.
    block : RatingBlock
        Rows are counted from `first`, columns are positions in `columns`.
    columns : int32 array of shape (c,)
        Indices on the other side, ascending, each once.
    """

    first: int
    block: RatingBlock
    columns: NDArray[np.int32]


class OutBlockPart(NamedTuple):
    """Rows of one block of the other side.

    Attributes
    ----------
    block : int
    positions : int32 array
        Counted from the first row of that block, ascending.
    """

    block: int
    positions: NDArray[np.int32]


def in_block_of(block: RatingBlock) -> InBlock:
    """Renumber the columns of a block of training ratings.

    The order of columns stays, and with it the bits of all sums over ratings.

    Examples
    --------
    >>> needs = in_block_of(RatingBlock.from_triples([4, 4, 5], [9, 2, 9], [1, 2, 3]))
    >>> needs.first, needs.block.rows.tolist(), needs.block.columns.tolist(), needs.columns.tolist()
    (4, [0, 1], [0, 1, 1], [2, 9])
    """
    first, rows = int(block.rows[0]), np.arange(len(block.rows), dtype=np.int32)
    if not np.array_equal(block.rows, first + rows):
        raise ValueError(f"the {len(rows)} rows of a block are not all those from {first} on")
    touched = np.zeros(int(block.columns.max()) + 1, bool)
    touched[block.columns] = True
    place = np.cumsum(touched, dtype=np.int32) - np.int32(1)
    alone = block._replace(rows=rows, columns=place[block.columns])
    return InBlock(first, alone, np.flatnonzero(touched).astype(np.int32))


def held_out_in_block_of(block: RatingBlock, first: int) -> InBlock:
    """Renumber the columns of a block of held-out ratings.

    Rows may have no ratings, and -1, an id unknown in training, stays -1.

    Parameters
    ----------
    block : RatingBlock
    first : int
        Index of the first row of the block of training ratings that these belong to.

    Examples
    --------
    >>> needs = held_out_in_block_of(RatingBlock.from_triples([-1, 5, 5], [7, -1, 3], [1, 2, 3]), 4)
    >>> needs.block.rows.tolist(), needs.block.columns.tolist(), needs.columns.tolist()
    ([-1, 1], [1, 0, -1], [3, 7])
    """
    known = block.columns >= 0
    columns = np.unique(block.columns[known])
    place = np.where(known, np.searchsorted(columns, block.columns), -1).astype(np.int32)
    rows = np.where(block.rows < 0, -1, block.rows - first).astype(np.int32)
    return InBlock(first, block._replace(rows=rows, columns=place), columns)


def out_block_parts(columns: NDArray[np.int32], firsts: NDArray[np.int64]) -> list[OutBlockPart]:
    """Return the needed rows of each block of the other side, if any; together all `columns`.

    Parameters
    ----------
    columns : int32 array of shape (c,)
        Indices, ascending.
    firsts : int64 array of shape (B,)
        Index of the first row of each block.

    Examples
    --------
    >>> for share in out_block_parts(np.array([2, 5, 9], np.int32), np.array([0, 4, 7, 9])):
    ...     print(share.block, share.positions)
    0 [2]
    1 [1]
    3 [0]
    """
    bounds = np.append(np.searchsorted(columns, firsts), len(columns))
    return [
        OutBlockPart(number, columns[start:stop] - np.int32(firsts[number]))
        for number, (start, stop) in enumerate(pairwise(bounds))
        if stop > start
    ]
