"""Normal numbers by address: equal for equal rows, and otherwise normal and independent."""

from statistics import NormalDist

import numpy as np
import pytest

from nonconvex.numerics.rng import Stream, normal_rows

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


def test_more_numbers_of_a_row_do_not_repeat():
    wide = normal_rows(Stream.of(0), ROWS[:50], 400)
    assert len(np.unique(wide)) == wide.size


def test_large_and_negative_keys_and_seeds_are_keys():
    keys = np.array([-1, 0, 2**63 - 1, -(2**63)])
    assert len(np.unique(normal_rows(Stream.of(-1, 0), keys, 2))) == 8
    assert normal_rows(Stream.of(0), keys, 0).shape == (4, 0)
