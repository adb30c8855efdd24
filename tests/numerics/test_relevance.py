"""Metrics of ranked lists against loops over places, and numbers worked out by hand."""

import math

import numpy as np
import pytest

from nonconvex.numerics.ranking import Lists
from nonconvex.numerics.relevance import average_precision, hits, ndcg, precision, recall


def by_the_book(ranked, relevant, k):
    """Järvelin and Kekäläinen; Manning, Raghavan and Schütze: with sets and loops."""
    found = [item in relevant for item in ranked[:k]]
    gain = sum(1 / math.log2(r + 2) for r, hit in enumerate(found) if hit)
    best = sum(1 / math.log2(r + 2) for r in range(min(k, len(relevant))))
    at_hits = [sum(found[: r + 1]) / (r + 1) for r, hit in enumerate(found) if hit]
    return (
        gain / best,
        sum(found) / len(relevant),
        sum(found) / k,
        sum(at_hits) / min(k, len(relevant)),
    )


@pytest.mark.parametrize("k", [1, 5, 10, 30])
def test_metrics_are_those_of_the_books(k):
    rng = np.random.default_rng(k)
    ranked = [rng.choice(40, rng.integers(0, 21), replace=False) for _ in range(50)]
    relevant = [rng.choice(40, rng.integers(1, 15), replace=False) for _ in range(50)]
    ranked_lists, relevant_lists = (
        Lists(
            np.append(0, np.cumsum([len(x) for x in lists])),
            np.concatenate(lists).astype(np.int32),
        )
        for lists in (ranked, relevant)
    )
    found = hits(ranked_lists, relevant_lists, k)
    total = relevant_lists.lengths
    measured = [
        ndcg(found, total),
        recall(found, total),
        precision(found),
        average_precision(found, total),
    ]
    expected = [
        by_the_book(a.tolist(), set(b.tolist()), k) for a, b in zip(ranked, relevant, strict=True)
    ]
    np.testing.assert_allclose(np.transpose(measured), expected, rtol=1e-13)


def test_by_hand():
    # hit, miss, hit; three are relevant
    table = np.array([[True, False, True]])
    three = np.array([3])
    assert precision(table) == pytest.approx([2 / 3])
    assert recall(table, three) == pytest.approx([2 / 3])
    assert average_precision(table, three) == pytest.approx([(1 + 2 / 3) / 3])
    assert ndcg(table, three) == pytest.approx([1.5 / (1 + 1 / math.log2(3) + 0.5)])
