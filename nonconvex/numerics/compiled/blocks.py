"""The counting sort that packs ratings into rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nonconvex.numerics import Floats, Ints, Longs
from nonconvex.numerics.compiled.lanes import compiled, frozen, inner

_LEAST = 1.0  # ratings for each index of a row or a column: with fewer, counters dominate


class Sorted(NamedTuple):
    """Triples by row and then by column; equal pairs are in their order."""

    rows: Ints  # (r,): each once
    offsets: Longs  # (r + 1,)
    columns: Ints
    ratings: Floats
    weights: Floats | None


@inner
def _add_up(counts):
    for k in range(1, len(counts)):
        counts[k] += counts[k - 1]


@compiled
def _sort(given, firsts, ends, by_column, found):
    row, column, rating, weight = given
    row_ends, column_ends = ends
    weighted = len(weight) > 0
    for k in range(len(row)):
        row_ends[row[k] - firsts[0] + 1] += 1
        column_ends[column[k] - firsts[1] + 1] += 1
    _add_up(row_ends)
    _add_up(column_ends)
    rows, ratings, weights = by_column
    for k in range(len(row)):
        at = column_ends[column[k] - firsts[1]]
        column_ends[column[k] - firsts[1]] = at + 1
        rows[at], ratings[at] = row[k], rating[k]
        if weighted:
            weights[at] = weight[k]
    first = 0
    for index in range(len(column_ends) - 1):
        for k in range(first, column_ends[index]):
            at = row_ends[rows[k] - firsts[0]]
            row_ends[rows[k] - firsts[0]] = at + 1
            found[0][at], found[1][at] = firsts[1] + index, ratings[k]
            if weighted:
                found[2][at] = weights[k]
        first = column_ends[index]


def sort_triples(row: Ints, column: Ints, rating: Floats, weight: Floats | None) -> Sorted | None:
    """Sort triples in two passes, by the counts of columns and of rows; None if they are few.

    Each number is written once in each pass, where `counting_order` sorts places, and gathers.
    """
    firsts, sizes = zip(
        *((int(of.min()), int(of.max()) - int(of.min()) + 1) for of in (row, column)), strict=True
    )
    if len(row) < _LEAST * sum(sizes):
        return None
    n, dtype = len(row), rating.dtype
    given = (row, np.int32), (column, np.int32), (rating, dtype)
    more = 0 if weight is None else n
    own = frozen(np.zeros(0) if weight is None else weight, dtype)
    ends = tuple(np.zeros(size + 1, np.int64) for size in sizes)
    by_column, found = (
        (np.empty(n, np.int32), np.empty(n, dtype), np.empty(more, dtype)) for _ in range(2)
    )
    arrays = *(frozen(array, kind) for array, kind in given), own
    _sort(arrays, firsts, ends, by_column, found)
    offsets = np.append(0, ends[0][:-1])
    kept = np.flatnonzero(np.diff(offsets))
    weights = None if weight is None else found[2]
    columns, ratings = found[:2]
    rows = (kept + firsts[0]).astype(np.int32)
    return Sorted(rows, np.append(0, offsets[1:][kept]), columns, ratings, weights)
