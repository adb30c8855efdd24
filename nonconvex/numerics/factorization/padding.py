"""Ratings of rows padded to few lengths, so that the sums of many rows are one product.

The ratings of a row stand behind each other, and behind them as many zeros as its length class
says.  Rows of one class stand behind each other, so that some of them are a matrix, read in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["PADDING", "Batch", "Padded", "batches", "pad"]

PADDING = -1
"""The column of what is not a rating."""

GROWTH = 1.25  # each class of padded lengths is a quarter longer than the one before

_AT_A_TIME = 1 << 20  # padded ratings

_T = TypeVar("_T", bound=np.generic)


class Padded(NamedTuple):
    """The ratings of a block, class after class, as `batches` finds them.

    Attributes
    ----------
    columns : int32 array of shape (p,)
        Dense index on the other side; `PADDING` where there is no rating.
    ratings : float array of shape (p,)
        0 where there is no rating.
    weights : float array of shape (p,) or None
        Likewise; None means that every weight is 1.
    """

    columns: NDArray[np.int32]
    ratings: NDArray[np.floating]
    weights: NDArray[np.floating] | None


class Batch(NamedTuple):
    """Rows of similar length, to be solved together.

    Attributes
    ----------
    members : int64 array of shape (s,)
        Positions of the rows in their block.
    length : int
        The padded length; at least the number of ratings of each of these rows.
    start : int
        Where their padded ratings begin; they are of shape (s, length).
    """

    members: NDArray[np.int64]
    length: int
    start: int

    def of(self, values: NDArray[_T]) -> NDArray[_T]:
        """Return the part of a padded array that is of these rows, of shape (s, length)."""
        size = len(self.members) * self.length
        return values[self.start : self.start + size].reshape(-1, self.length)


def batches(counts: NDArray[np.int64], budget: int) -> Iterator[Batch]:
    """Cut rows into batches of at most ``budget`` padded ratings; a longer row stands alone.

    The padded length of a row depends on the number of its ratings and on nothing else, so that
    its sums are added up in the same order, to the same bits, in whatever block it stands.

    Examples
    --------
    >>> [(batch.members.tolist(), batch.length) for batch in batches(np.array([2, 7, 0, 6]), 100)]
    [([0], 2), ([3], 6), ([1], 7)]
    """
    lengths = _padded_lengths(int(counts.max(initial=0)))
    kind = np.searchsorted(lengths, counts)
    order = np.argsort(kind, kind="stable")
    bounds = np.searchsorted(kind[order], np.arange(len(lengths) + 1))
    place = 0
    for length, start, stop in zip(lengths.tolist(), bounds, bounds[1:], strict=False):
        if length == 0:
            continue
        step = max(1, budget // length)
        for first in range(start, stop, step):
            members = order[first : min(first + step, stop)]
            yield Batch(members, length, place)
            place += len(members) * length


def pad(
    offsets: NDArray[np.int64],
    columns: NDArray[np.int32],
    ratings: NDArray[np.floating],
    weights: NDArray[np.floating] | None,
) -> Padded:
    """Pad the ratings of a block; the arrays are those of `nonconvex.numerics.factorization.blocks.RatingBlock`.

    Examples
    --------
    >>> ten = np.arange(10, dtype=np.int32)
    >>> pad(np.array([0, 10]), ten, ten / 2, None).columns.tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    counts = np.diff(offsets)
    first = np.zeros(len(counts), np.int64)  # where the ratings of each row begin, once padded
    size = 0
    for batch in batches(counts, _AT_A_TIME):
        rows = len(batch.members)
        first[batch.members] = batch.start + batch.length * np.arange(rows)
        size = batch.start + rows * batch.length
    place = np.repeat(first - offsets[:-1], counts)
    place += np.arange(len(place))
    return Padded(
        _spread(columns, place, size, PADDING),
        _spread(ratings, place, size, 0),
        None if weights is None else _spread(weights, place, size, 0),
    )


def _spread(values: NDArray[_T], place: NDArray[np.int64], size: int, filler: int) -> NDArray[_T]:
    spread = np.full(size, filler, values.dtype)
    spread[place] = values
    return spread


def _padded_lengths(longest: int) -> NDArray[np.int64]:
    lengths = [0]
    while lengths[-1] < longest:
        lengths.append(max(lengths[-1] + 1, int(lengths[-1] * GROWTH)))
    return np.array(lengths)
