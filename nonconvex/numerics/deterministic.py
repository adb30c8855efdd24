"""Sums over all rows of a side in one fixed order, however the rows are cut into blocks.

The sum of m values is that of the sums of each `CHUNK` of them, by their index.  Who holds a range
of rows adds up the chunks that lie within, and passes on the values of those it has a part of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CHUNK", "PartialSums", "complete", "squared_moves", "total"]

CHUNK = 1 << 10

_Array = NDArray[np.float64]


class PartialSums(NamedTuple):
    """Sums of s quantities over the rows first, first + 1, …, as far as they are certain.

    Attributes
    ----------
    first : int
        Index of the first row.
    head : float64 array of shape (s, h)
        Of the rows before the first whole chunk.
    chunks : float64 array of shape (s, c)
        The sums of whole chunks.
    tail : float64 array of shape (s, t)
        Of the rows after the last whole chunk.
    """

    first: int
    head: _Array
    chunks: _Array
    tail: _Array

    @classmethod
    def of(cls, first: int, values: _Array) -> PartialSums:
        """Add up what can be of values of shape (s, rows).

        Examples
        --------
        >>> sums = PartialSums.of(1000, np.ones((1, 1100)))
        >>> sums.head.shape, sums.chunks.tolist(), sums.tail.shape
        ((1, 24), [[1024.0]], (1, 52))
        """
        rows = values.shape[1]
        start = min(-first % CHUNK, rows)
        stop = start + (rows - start) // CHUNK * CHUNK
        chunks = np.stack([_chunk_sums(of_one) for of_one in values[:, start:stop]])
        return cls(first, values[:, :start], chunks, values[:, stop:])


def total(values: _Array) -> float:
    """Sum the values of all rows of a side, of shape (m,).

    Examples
    --------
    >>> total(np.arange(2000.0))
    1999000.0
    """
    return float(_chunk_sums(values).sum())


def squared_moves(after: NDArray[np.floating], before: NDArray[np.floating]) -> _Array:
    """Return ‖x_after − x_before‖² of each row, from arrays of shape (r, 1 + K).

    Examples
    --------
    >>> squared_moves(np.array([[3.0, 5.0]]), np.array([[0.0, 1.0]]))
    array([25.])
    """
    change = after.astype(np.float64) - before
    squares: _Array = np.einsum("rk,rk->r", change, change)
    return squares


def complete(parts: Sequence[PartialSums]) -> list[float]:
    """Return `total` of each of s quantities, from the sums over ranges that make up all rows.

    Examples
    --------
    >>> values = np.arange(4000.0)[None] / 3
    >>> parts = [PartialSums.of(1500, values[:, 1500:]), PartialSums.of(0, values[:, :1500])]
    >>> complete(parts) == [total(values[0])]
    True
    """
    ordered = sorted(parts, key=lambda part: part.first)
    return [_complete_one(ordered, number) for number in range(len(ordered[0].head))]


def _complete_one(ordered: Sequence[PartialSums], number: int) -> float:
    sums: list[_Array] = []
    open_chunk: list[_Array] = []
    for part in ordered:
        head, chunks, tail = part.head[number], part.chunks[number], part.tail[number]
        open_chunk.append(head)
        if (part.first + len(head)) % CHUNK == 0:
            sums += [_chunk_sums(np.concatenate(open_chunk)), chunks]
            open_chunk = [tail]
    sums.append(_chunk_sums(np.concatenate(open_chunk)) if open_chunk else np.zeros(0))
    return float(np.concatenate(sums).sum())


def _chunk_sums(values: _Array) -> _Array:
    starts = np.arange(0, len(values), CHUNK)
    sums: _Array = np.add.reduceat(np.ascontiguousarray(values), starts)
    return sums
