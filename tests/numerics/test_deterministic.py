"""Sums over all rows: the same bits from whatever ranges of rows."""

from itertools import pairwise

import numpy as np
import pytest

from nonconvex.numerics.deterministic import CHUNK, PartialSums, complete, squared_moves, total


def slow_total(values):
    """Add up each chunk, and then the chunks."""
    starts = range(0, len(values), CHUNK)
    chunks = [np.add.reduceat(values[start : start + CHUNK], [0])[0] for start in starts]
    return float(np.sum(chunks)) if chunks else 0.0


@pytest.mark.parametrize("rows", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 77])
def test_totals_of_ranges_are_the_totals_of_all_rows(rows):
    generator = np.random.default_rng(rows)
    values = generator.normal(size=(3, rows)) * 10.0 ** generator.integers(-8, 9, rows)
    expected = [slow_total(of_one) for of_one in values]
    assert [total(of_one) for of_one in values] == expected
    for cuts in (0, 1, 2, 7, 60):
        bounds = np.sort(generator.integers(0, rows + 1, cuts))
        bounds = [0, *bounds.tolist(), rows]  # some ranges are empty
        parts = [PartialSums.of(first, values[:, first:last]) for first, last in pairwise(bounds)]
        generator.shuffle(parts)
        assert complete(parts) == expected


def test_what_is_sent_is_little():
    part = PartialSums.of(100, np.ones((5, 1_000_000)))
    assert part.head.shape[1] + part.chunks.shape[1] + part.tail.shape[1] < 2 * CHUNK + 1000


def test_moves_are_squared_distances():
    generator = np.random.default_rng(0)
    after, before = generator.normal(size=(2, 50, 4)).astype(np.float32)
    expected = [
        np.linalg.norm(a.astype(float) - b) ** 2 for a, b in zip(after, before, strict=True)
    ]
    np.testing.assert_allclose(squared_moves(after, before), expected, rtol=1e-12)
