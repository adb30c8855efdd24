"""Ranking by prediction: the n best columns of each row, and the quality of ranked lists.

A *row* is the owner of a list, a *column* a member: users and items, items and users, or the same
side twice.  Relevance is binary, and metrics are defined as in Spark's ``RankingEvaluator``: only
places 1 … k count, and a shorter list has misses at its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics import Bools, Doubles, Floats, Ints, Longs
from nonconvex.numerics.deterministic import Kernel, require
from nonconvex.numerics.factorization.model import Factors, predict

# Scores are computed in tiles of this many rows and columns: 4 megabytes of float32, which stay in
# a core's cache.  If every column of a tile ties, all of it is sorted, in some 100 megabytes.
ROWS, COLUMNS = 128, 8192

_AT_A_TIME = 1 << 12  # rows whose error bounds are computed together

LIST_METRICS = ("ndcgAtK", "recallAtK", "precisionAtK", "meanAveragePrecisionAtK")
"""The metrics of `list_metrics`, by the names of Spark's ``RankingEvaluator`` for their means."""

# The greatest values of this many columns are compared instead of the values themselves.
GROUP = 16


class Lists(NamedTuple):
    """A list of columns for each of b rows, one after the other."""

    offsets: Longs  # (b + 1,): the list of row j is at ``offsets[j]:offsets[j + 1]``
    columns: Ints

    @classmethod
    def of(cls, row: Ints, column: Ints, rows: int) -> Lists:
        """Sort pairs of a row and a column into lists for so many rows, without columns -1."""
        row, column = row[column >= 0], column[column >= 0]
        lengths = np.bincount(row, minlength=rows)
        return cls(np.append(0, np.cumsum(lengths)), column[np.lexsort((column, row))])

    @property
    def lengths(self) -> Longs:
        """Lengths of the lists, of shape (b,)."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> Longs:
        """The row of each member."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)

    def of_rows(self, first: int, last: int) -> Lists:
        """Return the lists of rows ``first:last``."""
        offsets = self.offsets[first : last + 1]
        return Lists(offsets - offsets[0], self.columns[offsets[0] : offsets[-1]])


class Ranked(NamedTuple):
    """Lists of columns, the best first, with their predictions; see `Lists`."""

    offsets: Longs
    columns: Ints
    scores: Doubles

    @property
    def lists(self) -> Lists:
        """The lists without scores."""
        return Lists(self.offsets, self.columns)


def top_n(
    factors: Factors,
    rows: Ints,
    n: int,
    *,
    columns: Ints | None = None,
    excluded: Lists | None = None,
    kernel: Kernel = "numpy",
) -> Ranked:
    """Return the n columns of the greatest predictions for each row; ties in ascending order.

    A product of float32 matrices scores all columns.  Its rounding depends on the shapes, so it
    only selects candidates: columns that its error bound cannot rule out are predicted again in
    float64, and these predictions decide.  The result is that of sorting all predictions of
    `nonconvex.numerics.factorization.model.predict`, to the bit, whatever the other rows are.

    Parameters
    ----------
    factors : Factors
        Rows are its users and columns its items.
    rows : int array of shape (b,)
        Indices; -1 is an unknown id, with β = 0 and γ = 0.
    n : int
        At least 1.
    columns : int array, optional
        Indices of allowed columns; by default all.
    excluded : Lists, optional
        Forbidden columns of each row.
    kernel : "numpy" or "compiled"
        Also that of the predictions, see `nonconvex.numerics.deterministic`.

    Returns
    -------
    Ranked
        Fewer than n columns where fewer are allowed.

    Examples
    --------
    >>> users, items = np.array([[0.0, 1.0]]), np.array([[0.0, 2.0], [0.5, 1.5], [1.0, 0.0]])
    >>> seen = Lists(np.array([0, 1]), np.array([1], np.int32))
    >>> found = top_n(Factors(3.0, users, items), np.array([0]), 2, excluded=seen)
    >>> found.columns, found.scores
    (array([0, 2], dtype=int32), array([5., 4.]))
    """
    tiles = _Tiles(factors, columns)
    if kernel == "compiled":
        return _top_n_compiled(factors, rows, n, tiles, excluded)
    parts = []
    for first in range(0, len(rows), ROWS):
        batch = rows[first : first + ROWS]
        seen = None if excluded is None else excluded.of_rows(first, first + len(batch))
        parts.append(_search(factors, batch, n, tiles, seen))
    return _concatenate(parts)


def rank_lists(
    factors: Factors, rows: Ints, n: int, lists: Lists, *, kernel: Kernel = "numpy"
) -> Ranked:
    """Like `top_n`, where each row has its own list of allowed columns."""
    row, column = lists.rows, lists.columns
    found = _Found(row, column, predict(factors, rows[row], column, kernel=kernel))
    return found.best(n).ranked(len(rows))


def _top_n_compiled(
    factors: Factors, rows: Ints, n: int, tiles: _Tiles, excluded: Lists | None
) -> Ranked:
    require("compiled")
    from nonconvex.numerics.compiled import ranking as compiled

    offsets, places = np.zeros(len(rows) + 1, np.int64), np.zeros(0, np.int64)
    if excluded is not None:
        row, place = tiles.places(excluded)
        places = np.sort(row << 32 | place) & 0xFFFFFFFF
        offsets[1:] = np.cumsum(np.bincount(row, minlength=len(rows)))
    slack = np.empty(len(rows))
    for first in range(0, len(rows), _AT_A_TIME):
        some = rows[first : first + _AT_A_TIME]
        x = np.where(some[:, None] >= 0, factors.users[some], 0)
        offset = factors.alpha + x[:, 0].astype(np.float64)
        slack[first : first + len(some)] = tiles.slack(x, offset)
    return Ranked(*compiled.best_columns(factors, rows, n, tiles.packed, slack, (offsets, places)))


def directions(x: Floats) -> Doubles:
    """(0, γ / ‖γ‖) of each row (β, γ), of shape (m, 1 + K); zeros where γ = 0.

    With α = 0, the prediction for two of these is the cosine of their γ.
    """
    gamma = x.astype(np.float64)
    gamma[:, 0] = 0
    length = np.sqrt(np.einsum("mk,mk->m", gamma, gamma))
    return gamma / np.where(length > 0, length, 1)[:, None]


class _Tiles:
    """Allowed columns, in tiles of factors of approximate scores β_i + γ_u·γ_i."""

    def __init__(self, factors: Factors, columns: Ints | None) -> None:
        items = factors.items
        self.columns = np.arange(len(items)) if columns is None else np.unique(columns)
        chosen = items if columns is None else items[self.columns]
        self._factors = chosen.astype(np.float32, copy=False)  # (m, 1 + K)
        self._place = None
        if columns is not None:
            self._place = np.full(len(items), -1)
            self._place[self.columns] = np.arange(len(self.columns))
        squares = np.einsum("mk,mk->m", chosen, chosen, dtype=np.float64)
        self._longest = float(np.sqrt(squares.max(initial=0)))

    def places(self, excluded: Lists) -> tuple[Longs, Longs]:
        """Return the row, and the place among the allowed columns, of each excluded column."""
        row, place = excluded.rows, excluded.columns.astype(np.int64)
        if self._place is not None:
            place = self._place[place]
            row, place = row[place >= 0], place[place >= 0]
        return row, place

    @property
    def packed(self) -> Any:
        """The `nonconvex.numerics.compiled.ranking.PackedColumns`."""
        from nonconvex.numerics.compiled.ranking import PackedColumns

        return PackedColumns.pack(self.columns, self._factors)

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for first in range(0, len(self.columns), COLUMNS):
            yield first, self._factors[first : first + COLUMNS]

    def slack(self, x: Floats, offset: Doubles) -> Doubles:
        """Margin below the bar within which an approximate score is not ruled out, of (b,).

        A float32 sum of 1 + K products is off by at most (1 + K) ε ‖(1, γ_u)‖ ‖(β_i, γ_i)‖ with
        ε = 2⁻²⁴; three more ε are for rounding the terms and the bar.  The exact score is a sum of
        float64, and not exact either.
        """
        terms = x.shape[1] + 3
        gamma = np.einsum("bk,bk->b", x[:, 1:], x[:, 1:], dtype=np.float64)
        size = np.sqrt(1 + gamma) * self._longest
        single = terms * (2.0**-24 * size + np.finfo(np.float32).tiny)
        double = terms * 2.0**-53 * (size + np.abs(offset))
        # Twice: the score below the bar may be too low, and the one that set the bar too high.
        return np.asarray(2 * (single + double))


class _Found(NamedTuple):
    """Predicted columns, by row, descending score and column."""

    row: Longs
    column: Ints
    score: Doubles

    @classmethod
    def predict(cls, factors: Factors, rows: Ints, row: Longs, column: Ints) -> _Found:
        """Predict columns for ``rows[row]``."""
        return cls(row, column, predict(factors, rows[row], column))

    def best(self, n: int) -> _Found:
        """Sort, and keep n of each row."""
        order = np.lexsort((self.column, -self.score, self.row))
        found = _Found(self.row[order], self.column[order], self.score[order])
        kept = found.places < n
        return _Found(found.row[kept], found.column[kept], found.score[kept])

    @property
    def places(self) -> Longs:
        """0, 1, 2 … within each row."""
        return np.arange(len(self.row)) - np.searchsorted(self.row, self.row)

    def with_others(self, others: _Found) -> _Found:
        """Concatenate both, unsorted."""
        return _Found(
            np.concatenate([self.row, others.row]),
            np.concatenate([self.column, others.column]),
            np.concatenate([self.score, others.score]),
        )

    def ranked(self, rows: int) -> Ranked:
        """Return lists for so many rows."""
        offsets = np.append(0, np.cumsum(np.bincount(self.row, minlength=rows)))
        return Ranked(offsets, self.column.astype(np.int32), self.score)


def _search(factors: Factors, rows: Ints, n: int, tiles: _Tiles, excluded: Lists | None) -> Ranked:
    """Find the n best columns of at most ``ROWS`` rows."""
    x = np.where(rows[:, None] >= 0, factors.users[rows], 0)  # (b, 1 + K)
    offset = factors.alpha + x[:, 0].astype(np.float64)
    slack = tiles.slack(x, offset)
    single = x.astype(np.float32)
    single[:, 0] = 1
    forbidden = None if excluded is None else tiles.places(excluded)
    bar = np.full(len(rows), -np.inf)  # a score that n columns of each row reach
    nothing = np.zeros(0, np.int64)
    found = _Found(nothing, nothing, np.zeros(0))
    for first, z in tiles:
        approximate = single @ z.T  # (b, columns of the tile)
        if forbidden is not None:
            row, place = forbidden[0], forbidden[1] - first
            here = (place >= 0) & (place < len(z))
            approximate[row[here], place[here]] = -np.inf
        bar = np.maximum(bar, _reached(approximate, n))
        # Excluded columns have -inf, below every finite number.
        least = np.maximum(bar - slack, np.finfo(np.float32).min).astype(np.float32)
        row, place = np.divmod(np.flatnonzero(approximate >= least[:, None]), len(z))
        new = _Found.predict(factors, rows, row, tiles.columns[first + place])
        found = found.with_others(new).best(n)
        nth = found.places == n - 1
        row = found.row[nth]
        bar[row] = np.maximum(bar[row], found.score[nth] - offset[row])
    return found.ranked(len(rows))


def _reached(values: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Return a value that at least n columns of each row reach; -inf if there are fewer.

    The nth greatest of the maxima of groups is nearly the nth greatest value, in a tenth of the
    time.
    """
    width = values.shape[1]
    if n > width:
        return np.full(len(values), -np.inf, np.float32)
    groups = min(max(width // GROUP, 2 * n), width)
    greatest = values[:, :groups].copy()
    for first in range(groups, width - groups + 1, groups):  # a remainder may be left out
        np.maximum(greatest, values[:, first : first + groups], out=greatest)
    return np.partition(greatest, groups - n, axis=1)[:, groups - n]


def _concatenate(parts: list[Ranked]) -> Ranked:
    lengths = [np.diff(part.offsets) for part in parts]
    return Ranked(
        np.append(0, np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))),
        np.concatenate([np.zeros(0, np.int32), *(part.columns for part in parts)]),
        np.concatenate([np.zeros(0), *(part.scores for part in parts)]),
    )


def hits(ranked: Lists, relevant: Lists, k: int) -> Bools:
    """Relevance of each of the first k members of a list, of shape (b, k).

    Examples
    --------
    >>> ranked = Lists(np.array([0, 3]), np.array([4, 2, 9], np.int32))
    >>> hits(ranked, Lists(np.array([0, 2]), np.array([9, 4], np.int32)), 4)
    array([[ True, False,  True, False]])
    """
    place = np.arange(len(ranked.columns)) - ranked.offsets[ranked.rows]
    found = np.isin(_pairs(ranked), _pairs(relevant)) & (place < k)
    table = np.zeros((len(ranked.lengths), k), dtype=bool)
    table[ranked.rows[found], place[found]] = True
    return table


def precision(hits: Bools) -> Doubles:
    """Fraction of k places that are hits: (1/k) Σ_r hit_r, of shape (b,)."""
    return np.asarray(hits.sum(axis=1) / hits.shape[1])


def recall(hits: Bools, relevant: Ints) -> Doubles:
    """Fraction of the relevant columns that are hits: (1/|relevant|) Σ_r hit_r, of shape (b,).

    `hits` (b, k) are those of `hits`; `relevant` (b,) ≥ 1 is the number of relevant columns.
    """
    return np.asarray(hits.sum(axis=1) / relevant)


def average_precision(hits: Bools, relevant: Ints) -> Doubles:
    """Mean precision at the hits, (1/min(k, |relevant|)) Σ_r hit_r (hits up to r) / r, of (b,).

    Its mean over rows is MAP@k.  Parameters are those of `recall`.

    Examples
    --------
    >>> average_precision(np.array([[True, False, True, False]]), np.array([2]))
    array([0.83333333])
    """
    k = hits.shape[1]
    at_hits = np.where(hits, np.cumsum(hits, axis=1) / np.arange(1, k + 1), 0)
    return np.asarray(at_hits.sum(axis=1) / np.minimum(relevant, k))


def ndcg(hits: Bools, relevant: Ints) -> Doubles:
    """Σ_r hit_r / log₂(r + 1) over its greatest possible value, of shape (b,).

    That is Σ_{r ≤ min(k, |relevant|)} 1 / log₂(r + 1).  Relevance is binary.  Parameters are those
    of `recall`.

    References
    ----------
    Järvelin and Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques.

    Examples
    --------
    >>> ndcg(np.array([[True, False, False]]), np.array([1]))
    array([1.])
    """
    k = hits.shape[1]
    gains = 1 / np.log2(np.arange(2, k + 2))
    best = np.cumsum(gains)[np.minimum(relevant, k) - 1]
    return np.asarray(np.where(hits, gains, 0).sum(axis=1) / best)


def list_metrics(ranked: Lists, relevant: Lists, total: Ints, k: int) -> Doubles:
    """The `LIST_METRICS` of each row, of shape (4, b).

    `total` (b,) has the relevant columns of each row: more than `relevant` where some are unknown.
    """
    hit = hits(ranked, relevant, k)
    of_rows = (ndcg(hit, total), recall(hit, total), precision(hit))
    return np.stack([*of_rows, average_precision(hit, total)])


def mean_metrics(of_rows: Doubles, found: Ints, columns: int) -> dict[str, float]:
    """Return means of `list_metrics`, summed exactly, and ``coverageAtK`` and ``users``.

    These are the share of so many columns that are `found` in any list, and the number of rows.
    """
    means = [math.fsum(of) / len(of) for of in of_rows]
    coverage = {"coverageAtK": len(np.unique(found)) / columns, "users": of_rows.shape[1]}
    return dict(zip(LIST_METRICS, means, strict=True)) | coverage


def _pairs(lists: Lists) -> Longs:
    return (lists.rows << 32) | lists.columns
