"""Sums from whatever ranges of rows, and normal numbers by address: the same bits."""

from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest

from nonconvex.numerics.deterministic import (
    CHUNK,
    PartialSums,
    Stream,
    complete,
    normal_rows,
    squared_moves,
    total,
)


@pytest.mark.parametrize("rows", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 77])
def test_totals_of_ranges_are_the_totals_of_all_rows(rows):
    generator = np.random.default_rng(rows)
    values = generator.normal(size=(3, rows)) * 10.0 ** generator.integers(-8, 9, rows)
    starts = range(0, rows, CHUNK)  # the slow twin adds up each chunk, and then the chunks
    chunks = [[np.add.reduceat(x[at : at + CHUNK], [0])[0] for at in starts] for x in values]
    expected = [float(np.sum(of_one)) if of_one else 0.0 for of_one in chunks]
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
    expected = np.linalg.norm(after.astype(float) - before, axis=1) ** 2
    np.testing.assert_allclose(squared_moves(after, before), expected, rtol=1e-12)


ROWS = np.arange(20_000)


@pytest.fixture(scope="module")
def normals():
    return normal_rows(Stream.of(42, 1), ROWS, 5)


def test_a_row_has_its_numbers_wherever_it_stands(normals):
    chosen = np.random.default_rng(0).permutation(ROWS)[:100]
    some = normal_rows(Stream.of(42, 1), chosen.astype(np.int32), 5)
    assert some.tobytes() == normals[chosen].tobytes()


def test_they_are_standard_normal(normals):
    grid = np.linspace(-4, 4, 81)
    exact = np.array([NormalDist().cdf(value) for value in grid])
    for column in normals.T:
        empirical = np.searchsorted(np.sort(column), grid) / len(column)
        assert np.abs(empirical - exact).max() < 1.63 / np.sqrt(len(column))  # 99 % by Kolmogorov
    assert np.abs(normals).max() > 4


def test_they_do_not_hang_together(normals):
    other = normal_rows(Stream.of(42, 2), ROWS, 5)
    later = np.roll(normals, 1, axis=0)
    together = np.corrcoef(np.hstack([normals, other, later, normals**2]).T)
    assert np.abs(together - np.eye(20))[np.triu_indices(20, 1)].max() < 5 / np.sqrt(len(ROWS))


@pytest.mark.parametrize("key", [(42, 2), (43, 1), (42, 1, 0)])
def test_streams_differ_by_seed_and_by_key(normals, key):
    assert not np.isin(normal_rows(Stream.of(*key), ROWS, 5), normals).any()


def test_many_numbers_of_a_row_and_large_and_negative_keys_and_seeds_do_not_repeat():
    wide = normal_rows(Stream.of(0), ROWS[:50], 400)
    assert len(np.unique(wide)) == wide.size
    keys = np.array([-1, 0, 2**63 - 1, -(2**63)])
    assert len(np.unique(normal_rows(Stream.of(-1, 0), keys, 2))) == 8
    assert normal_rows(Stream.of(0), keys, 0).shape == (4, 0)
