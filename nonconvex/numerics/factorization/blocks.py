"""The ratings of some rows of one side, in compressed sparse row form, and padded.

A *row* is a user when users are updated and an item when items are; a *column* is the other kind.
Everything is written once, for rows, and called once for each side.  In padded form each row is
followed by zeros up to the length of its class, so that rows of a class form a matrix.  In-blocks
and out-blocks name the rows of the other side that the ratings of a block need.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nonconvex.numerics import Bools, Doubles, Floats, Ints, Longs
from nonconvex.numerics.deterministic import Kernel, require

PADDING = -1
"""The column of what is not a rating."""

GROWTH = 1.25  # ratio of the padded lengths of neighbouring classes

_AT_A_TIME = 1 << 20  # padded ratings

_FEW = 1 << 10  # ratings by which most blocks are seen not to be in order
_MANY = 1 << 16  # ratings from which on it is worth while to load compiled code

LONG = 1 << 18
"""Most ratings of a row that are summed at once; a longer row is summed in parts."""

SPAN = 1 << 18
"""Columns of a part."""

_T = TypeVar("_T", bound=np.generic)


class RatingsError(ValueError):
    """Data that cannot be used as ratings."""

    exit_status = 3


class Padded(NamedTuple):
    """The ratings of a block, class after class, in the order of `batches`."""

    # (p,): dense index on the other side; `PADDING` where there is no rating
    columns: Ints
    ratings: Floats  # (p,): 0 where there is no rating
    weights: Floats | None  # (p,): Likewise; None means that every weight is 1


class Batch(NamedTuple):
    """Rows of similar length, to be solved together."""

    members: Longs  # (s,): positions of the rows in their block
    length: int  # the padded length; at least the number of ratings of each of these rows
    start: int  # place of their padded ratings, which are of shape (s, length)

    def of(self, values: NDArray[_T]) -> NDArray[_T]:
        """Return the values of these rows in a padded array, of shape (s, length)."""
        size = len(self.members) * self.length
        return values[self.start : self.start + size].reshape(-1, self.length)


def batches(counts: Longs, budget: int) -> Iterator[Batch]:
    """Cut rows into batches of at most ``budget`` padded ratings; a longer row is alone.

    The padded length of a row depends on the number of its ratings alone, so that its sums have the
    same bits in every block.
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


def pad(offsets: Longs, columns: Ints, ratings: Floats, weights: Floats | None) -> Padded:
    """Pad the ratings of a block; the arrays are those of `RatingBlock`."""
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


def _spread(values: NDArray[_T], place: Longs, size: int, filler: int) -> NDArray[_T]:
    spread = np.full(size, filler, values.dtype)
    spread[place] = values
    return spread


def _padded_lengths(longest: int) -> Longs:
    lengths = [0]
    while lengths[-1] < longest:
        lengths.append(max(lengths[-1] + 1, int(lengths[-1] * GROWTH)))
    return np.array(lengths)


class RatingBlock(NamedTuple):
    """Ratings grouped by row.

    The 3 × 4 matrix (· is not observed) ::

        row 0   5 · 3 ·
        row 1   · · · ·          (no ratings: the row is not in the block)
        row 2   · 4 · 1

    is ``rows = [0, 2]``, ``offsets = [0, 2, 4]``, ``columns = [0, 2, 1, 3]`` and
    ``ratings = [5, 3, 4, 1]``: the ratings of ``rows[j]`` are at ``offsets[j]:offsets[j + 1]``.
    """

    rows: Ints  # (r,): dense index of each row on its own side, ascending
    offsets: Longs  # (r + 1,): where each row's ratings begin and end
    columns: Ints  # (n,): dense index on the other side, ascending within a row
    ratings: Floats  # (n,)
    # (n,): weight of each rating, ≥ 0; ``None`` means that every weight is 1
    weights: Floats | None
    # (r,): degree of each row in the regularization: the sum of its weights, |I_u| (or |U_i|) when
    # there are none
    degrees: Doubles
    padded: Padded | None = None  # the same ratings padded, if they have been already

    @classmethod
    def from_triples(
        cls,
        rows: ArrayLike,
        columns: ArrayLike,
        ratings: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        dtype: type[np.floating] = np.float64,
        kernel: Kernel = "numpy",
    ) -> RatingBlock:
        """Sort (row, column, rating) triples into a block, whose bits are those of any kernel.

        Equal triples in any order give the same block: pairs that occur more than once are
        ordered by rating, then by weight.
        """
        row = np.asarray(rows, np.int32)
        column = np.asarray(columns, np.int32)
        rating = np.asarray(ratings, dtype)
        weight = None if weights is None else np.asarray(weights, dtype)
        ascending = all(_ascending(row[:some], column[:some]) for some in (_FEW, len(row)))
        found: tuple[Ints, Longs, Ints, Floats, Floats | None] | None = None
        if not ascending and kernel == "compiled" and len(row) >= _MANY:
            require(kernel)
            from nonconvex.numerics.compiled.blocks import sort_triples

            found = sort_triples(row, column, rating, weight)
        if found is None:
            if not ascending:
                # The rows of a block are neighbours; the greatest difference needs all 32 bits.
                keys = ((of - of.min()).view(np.uint32) for of in (column, row))
                order = counting_order(*keys)
                row, column, rating = row[order], column[order], rating[order]
                weight = None if weight is None else weight[order]
            starts = np.flatnonzero(np.append(True, np.diff(row))[: len(row)])
            offsets = np.append(starts, len(row)).astype(np.int64)
            found = row[starts], offsets, column, rating, weight
        index, offsets, others, values, given = found
        if not ascending:
            _order_repeats(offsets, others, values, given)
        return cls(index, offsets, others, values, given, _sums(offsets, others, given))

    @property
    def counts(self) -> Longs:
        """Number of ratings of each row, of shape (r,)."""
        return np.diff(self.offsets)

    @property
    def duplicates(self) -> int:
        """Number of ratings that repeat the (row, column) pair of the one before."""
        return int(np.count_nonzero(_repeats(self.offsets, self.columns)))

    def with_padding(self) -> RatingBlock:
        """Return the same block with its ratings padded, see this module."""
        if self.padded is not None:
            return self
        return self._replace(padded=pad(self.offsets, self.columns, self.ratings, self.weights))

    def divided(self, chosen: Bools) -> tuple[RatingBlock, RatingBlock]:
        """Return the rows that are not chosen, and the parts of those that are.

        A part has the index of its row; `chosen` is a bool array of shape (r,).
        """
        of_rating = np.repeat(chosen, self.counts)
        others = self._taken(~chosen, ~of_rating)
        rows = self._taken(chosen, of_rating)
        starts, row = _parts(rows.offsets, rows.columns, 0)
        parts = rows._replace(
            rows=rows.rows[row],
            offsets=np.append(starts, len(rows.columns)).astype(np.int64),
            degrees=np.zeros(len(row)),
        )
        return others, parts

    def _taken(self, rows: Bools, ratings: Bools) -> RatingBlock:
        return RatingBlock(
            self.rows[rows],
            np.append(0, np.cumsum(self.counts[rows])),
            self.columns[ratings],
            self.ratings[ratings],
            None if self.weights is None else self.weights[ratings],
            self.degrees[rows],
        )

    def over_rows(self, values: Floats) -> Doubles:
        """Sum of a value of each rating over each row, of shape (r,) in float64."""
        return _sums(self.offsets, self.columns, values)

    def total_weights(self) -> Doubles:
        """Sum of the weights of each row, of shape (r,)."""
        return _sums(self.offsets, self.columns, self.weights)

    def row_of_rating(self) -> Longs:
        """Position in ``rows`` of each rating, of shape (n,)."""
        return np.repeat(np.arange(len(self.rows)), self.counts)


def counting_order(*keys: Ints) -> Longs:
    """Return the order of rows by the last of some keys ≥ 0, then by the one before, and so on.

    numpy sorts 16-bit numbers by counting, in a third of the time that comparisons take, and leaves
    equal ones in their order.
    """
    order = None
    for key in keys:
        for shift in range(0, int(key.max(initial=0)).bit_length(), 16):
            digits = (key >> shift).astype(np.uint16)
            if order is None:
                order = np.argsort(digits, kind="stable")
            else:
                order = order[np.argsort(digits[order], kind="stable")]
    return np.arange(len(keys[0])) if order is None else order


def _ascending(row: Ints, column: Ints) -> bool:
    """Tell whether pairs are in order, each once."""
    pair = (row.astype(np.int64) << 32) + column
    return not np.any(np.diff(pair) <= 0)


def _repeats(offsets: Longs, columns: Ints) -> Bools:
    """Tell which ratings repeat the pair of the one before, of shape (n,)."""
    same = np.zeros(len(columns) + 1, bool)
    same[1:-1] = columns[1:] == columns[:-1]
    same[offsets[:-1]] = False  # neighbours that belong to different rows
    return same[:-1]


def _order_repeats(offsets: Longs, columns: Ints, rating: Floats, weight: Floats | None) -> None:
    """Order the ratings of pairs that repeat by rating and weight, in place."""
    same = _repeats(offsets, columns)
    if not same.any():
        return
    tied = np.flatnonzero(same | np.append(same[1:], False))
    row = np.searchsorted(offsets, tied, side="right")
    more = () if weight is None else (weight[tied],)
    order = tied[np.lexsort((*more, rating[tied], columns[tied], row))]
    rating[tied] = rating[order]
    if weight is not None:
        weight[tied] = weight[order]


def part_of(columns: Ints) -> Ints:
    """Return the part of a long row that each of these columns belongs to."""
    return columns // np.int32(SPAN)


def parts_of(columns: int) -> int:
    """Return the greatest number of parts of a long row, given the number of columns."""
    return -(-columns // SPAN)


def _sums(offsets: Longs, columns: Ints, values: Floats | None) -> Doubles:
    if values is None:
        return np.diff(offsets).astype(np.float64)
    starts, row = _parts(offsets, columns, LONG)
    sums: Doubles = np.add.reduceat(values.astype(np.float64), starts)
    if len(starts) == len(offsets) - 1:  # the usual case
        return sums
    whole = np.zeros(len(offsets) - 1)
    np.add.at(whole, row, sums)  # one after the other
    return whole


def _parts(offsets: Longs, columns: Ints, length: int) -> tuple[Longs, Longs]:
    """Return the starts of rows, and of parts of rows longer than `length`, and their rows."""
    starts, row = [offsets[:-1]], [np.arange(len(offsets) - 1)]
    for number in np.flatnonzero(np.diff(offsets) > length):
        part = part_of(columns[offsets[number] : offsets[number + 1]])
        cuts = offsets[number] + 1 + np.flatnonzero(np.diff(part))
        starts.append(cuts)
        row.append(np.full(len(cuts), number))
    if len(starts) == 1:
        return starts[0], row[0]
    order = np.argsort(np.concatenate(starts))
    return np.concatenate(starts)[order], np.concatenate(row)[order]


class InBlock(NamedTuple):
    """The ratings of a block, with columns renumbered to those that occur."""

    first: int  # index of its first row; the others follow it without a gap
    block: RatingBlock  # rows are counted from `first`, columns are positions in `columns`
    columns: Ints  # (c,): Indices on the other side, ascending, each once


class OutBlockPart(NamedTuple):
    """Rows of one block of the other side."""

    block: int
    positions: Ints  # counted from the first row of that block, ascending


def in_block_of(block: RatingBlock) -> InBlock:
    """Renumber the columns of a block of training ratings.

    The order of columns stays, and with it the bits of all sums over ratings.
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
    """
    known = block.columns >= 0
    columns = np.unique(block.columns[known])
    place = np.where(known, np.searchsorted(columns, block.columns), -1).astype(np.int32)
    rows = np.where(block.rows < 0, -1, block.rows - first).astype(np.int32)
    return InBlock(first, block._replace(rows=rows, columns=place), columns)


def out_block_parts(columns: Ints, firsts: Longs) -> list[OutBlockPart]:
    """Return the needed rows of each block of the other side, if any; together all `columns`.

    These indices (c,) are ascending; `firsts` (B,) are those of the first row of each block.
    """
    bounds = np.append(np.searchsorted(columns, firsts), len(columns))
    return [
        OutBlockPart(number, columns[start:stop] - np.int32(firsts[number]))
        for number, (start, stop) in enumerate(pairwise(bounds))
        if stop > start
    ]
