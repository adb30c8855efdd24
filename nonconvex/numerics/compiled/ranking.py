"""Predictions of pairs and top-N lists, with scores in tiles of registers.

A prediction is one loop over two gathered rows.  For lists, approximate scores β_i + γ_u·γ_i of six
rows and a vector of columns are float32 sums.  Those that reach the bar of their row, which n
columns reach for sure, less the error bound, are predicted in float64, and take their place in the
list of the row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics import Doubles, Floats, Ints, Longs
from nonconvex.numerics.compiled.lanes import (
    BYTES,
    compiled,
    dot_in_double,
    frozen,
    inner,
    keep_greater,
    prefetch,
    products_of_six,
    reaches,
    room,
)

_AHEAD = 8  # pairs whose rows are fetched before they are needed


@compiled
def _predict(alpha, x, z, users, items, predictions):
    width = x.shape[1]
    own, other = x.reshape(-1), z.reshape(-1)
    last = len(users) - 1
    for n in range(len(users)):
        later = min(n + _AHEAD, last)
        prefetch(own, max(users[later], 0) * width, width)
        prefetch(other, max(items[later], 0) * width, width)
        at, other_at = users[n] * width, items[n] * width
        total = alpha
        if at >= 0:
            total += np.float64(own[at])
        if other_at >= 0:
            total += np.float64(other[other_at])
        if at >= 0 and other_at >= 0:
            total += dot_in_double(own, at + 1, width - 1, other, other_at + 1)
        predictions[n] = total


def predict_pairs(alpha: float, x: Floats, z: Floats, users: Ints, items: Ints) -> Doubles:
    """Predict pairs; see `nonconvex.numerics.factorization.model.predict`."""
    predictions = np.empty(len(users))
    rows = frozen(x, x.dtype), frozen(z, x.dtype)
    pairs = frozen(users, np.int32), frozen(items, np.int32)
    if len(users):
        _predict(float(alpha), *rows, *pairs, predictions)
    return predictions


_LANES = BYTES // 4
_TOGETHER = 6  # rows of a tile
_ROWS, _COLUMNS = 4 * _TOGETHER, 4096  # scored at a time: 400 kilobytes
_GROUPS = 512  # of columns, whose greatest scores are compared instead of the scores themselves
_CANDIDATES = 32  # of a row that are predicted together
_LEAST = float(np.finfo(np.float32).min)


class PackedColumns(NamedTuple):
    """Allowed columns, and their rows (β, γ) in float32, one vector of columns after the other."""

    places: Ints  # (m,): ascending
    packed: Floats  # of shape (⌈m / 16⌉, 1 + K, 16), flat

    @classmethod
    def pack(cls, index: Ints, factors: NDArray[np.float32]) -> PackedColumns:
        """Pack the rows of shape (m, 1 + K) of the columns with these indices."""
        m, width = factors.shape
        vectors = -(-m // _LANES)
        whole = np.zeros((vectors * _LANES, width), np.float32)
        whole[:m] = factors
        packed = room(whole.size, whole.dtype)
        packed[:] = whole.reshape(vectors, _LANES, width).swapaxes(1, 2).ravel()
        return cls(frozen(index, np.int64), frozen(packed, np.float32))


@inner
def _insert(scores, columns, found, score, column):
    """Insert a column that comes after all others into a list; return its length."""
    n = len(scores)
    if found == n:
        if not score > scores[n - 1]:
            return n
        found = n - 1
    at = found
    while at > 0 and score > scores[at - 1]:
        scores[at], columns[at] = scores[at - 1], columns[at - 1]
        at -= 1
    scores[at], columns[at] = score, column
    return found + 1


@inner
def _reached(values, count, greatest, best, n):
    """Return a value that n of some values reach, or -inf: the nth of the maxima of groups."""
    if n > _GROUPS // 4 or count < _GROUPS:
        return -np.inf
    for lane in range(_GROUPS):
        greatest[lane] = values[lane]
    for first in range(_GROUPS, count - _GROUPS + 1, _GROUPS):
        for lane in range(0, _GROUPS, _LANES):
            keep_greater(greatest, lane, values, first + lane)
    best[:n] = -np.inf
    for value in greatest:
        at = n - 1
        if value > best[at]:
            while at > 0 and value > best[at - 1]:
                best[at] = best[at - 1]
                at -= 1
            best[at] = value
    return np.float64(best[n - 1])


@compiled
def _search(alpha, x, z, rows, slack, allowed, offsets, excluded, spaces, found):
    places, packed = allowed
    users, tile, greatest, best, bars, next_excluded, candidates = spaces
    counts, columns, scores = found
    width, n = x.shape[1], scores.shape[1]
    own, other = x.reshape(-1), z.reshape(-1)
    for first in range(0, len(rows), _ROWS):
        some = min(_ROWS, len(rows) - first)
        users[:] = 0
        for k in range(some):
            row = rows[first + k]
            at = k // _TOGETHER * _TOGETHER * width + k % _TOGETHER
            users[at] = 1
            for j in range(1, width):
                users[at + _TOGETHER * j] = x[row, j] if row >= 0 else 0
            next_excluded[k] = offsets[first + k]
        bars[:] = -np.inf
        for begin in range(0, len(places), _COLUMNS):
            count = min(_COLUMNS, len(places) - begin)
            for lane in range(0, count, _LANES):
                for k in range(0, some, _TOGETHER):
                    to, of, z_at = k * _COLUMNS + lane, k * width, (begin + lane) * width
                    products_of_six(
                        tile, to, _COLUMNS, users, of, _TOGETHER, packed, z_at, _LANES, width
                    )
            for k in range(some):
                number, row = first + k, rows[first + k]
                approximate = tile[k * _COLUMNS : (k + 1) * _COLUMNS]
                approximate[count:] = -np.inf
                stop = offsets[number + 1]
                while next_excluded[k] < stop and excluded[next_excluded[k]] < begin + count:
                    approximate[excluded[next_excluded[k]] - begin] = -np.inf
                    next_excluded[k] += 1
                bar = bars[k]
                if not begin:  # then the list says more
                    bar = _reached(approximate, count, greatest, best, n)
                offset = alpha + (np.float64(x[row, 0]) if row >= 0 else 0.0)
                lane = 0
                while lane < count:
                    # What is excluded has -inf, below every finite number.
                    least, some_reach = np.float32(max(bar - slack[number], _LEAST)), 0
                    while lane < count and some_reach < _CANDIDATES:
                        if reaches(approximate, lane, least):
                            for at in range(lane, min(lane + _LANES, count)):
                                candidates[some_reach] = at
                                some_reach += approximate[at] >= least
                        lane += _LANES
                    for at in candidates[:some_reach]:
                        prefetch(other, places[begin + at] * width, width)
                    for at in candidates[:some_reach]:
                        column = places[begin + at]
                        score = offset + np.float64(z[column, 0])
                        if row >= 0:
                            score += dot_in_double(
                                own, row * width + 1, width - 1, other, column * width + 1
                            )
                        counts[number] = _insert(
                            scores[number], columns[number], counts[number], score, column
                        )
                    if counts[number] == n:
                        bar = max(bar, scores[number, n - 1] - offset)
                bars[k] = bar


def best_columns(
    factors: tuple[float, Floats, Floats],
    rows: Ints,
    n: int,
    allowed: PackedColumns,
    slack: Doubles,
    excluded: tuple[Longs, Ints],
) -> tuple[Longs, Ints, Doubles]:
    """Return offsets, columns and predictions; see `nonconvex.numerics.ranking.top_n`.

    Parameters
    ----------
    slack : float64 array of shape (b,)
        Least distance below the bar at which an approximate score is ruled out.
    excluded : pair of arrays
        Offsets of shape (b + 1,), and places among the allowed columns of those that are not for
        a row, in ascending order.
    """
    alpha, x, z = factors
    width, most = x.shape[1], min(n, len(allowed.places))
    counts = np.zeros(len(rows), np.int64)
    columns, scores = np.zeros((len(rows), most), np.int32), np.zeros((len(rows), most))
    sizes = _ROWS * width, _ROWS * _COLUMNS, _GROUPS, _GROUPS
    singles = (room(size, np.dtype(np.float32)) for size in sizes)
    integers = np.zeros(_ROWS, np.int64), np.zeros(_CANDIDATES + _LANES, np.int64)
    spaces = *singles, np.zeros(_ROWS), *integers
    members = frozen(excluded[0], np.int64), frozen(excluded[1], np.int64)
    given = frozen(rows, np.int64), frozen(slack, np.float64), tuple(allowed), *members
    both, found = (frozen(x, x.dtype), frozen(z, x.dtype)), (counts, columns, scores)
    if most:
        _search(float(alpha), *both, *given, spaces, found)
    kept = np.arange(most) < counts[:, None]
    return np.append(0, np.cumsum(counts)), columns[kept], scores[kept]
