"""How good ranked lists are when some columns are known to be relevant for each row.

Relevance is binary, and the definitions are those of Spark's ``RankingEvaluator``.  Only places
1 … k of a list count; one that is shorter has misses at its end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.ranking import Lists

__all__ = ["average_precision", "hits", "ndcg", "precision", "recall"]


def hits(ranked: Lists, relevant: Lists, k: int) -> NDArray[np.bool_]:
    """Whether each of the first k of a list is relevant, of shape (b, k).

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


def precision(hits: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Fraction of k places that are hits: (1/k) Σ_r hit_r, of shape (b,).

    Examples
    --------
    >>> precision(np.array([[True, False, True, False]]))
    array([0.5])
    """
    return np.asarray(hits.sum(axis=1) / hits.shape[1])


def recall(hits: NDArray[np.bool_], relevant: NDArray[np.integer]) -> NDArray[np.float64]:
    """Fraction of the relevant columns that are hits: (1/|relevant|) Σ_r hit_r, of shape (b,).

    Parameters
    ----------
    hits : bool array of shape (b, k)
    relevant : int array of shape (b,)
        How many columns are relevant for each row, at least 1.

    Examples
    --------
    >>> recall(np.array([[True, False, True, False]]), np.array([4]))
    array([0.5])
    """
    return np.asarray(hits.sum(axis=1) / relevant)


def average_precision(
    hits: NDArray[np.bool_], relevant: NDArray[np.integer]
) -> NDArray[np.float64]:
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


def ndcg(hits: NDArray[np.bool_], relevant: NDArray[np.integer]) -> NDArray[np.float64]:
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


def _pairs(lists: Lists) -> NDArray[np.int64]:
    return (lists.rows << 32) | lists.columns
