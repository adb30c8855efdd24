"""Moments of pieces, merged, are those of the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.network.standardize import Moments, Standardization


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.booleans(), st.integers(0, 99))
def test_merged_pieces_equal_the_whole(sizes, weighted, seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(1e3, 2.0, (sum(sizes), 3))
    w = generator.integers(0, 3, len(x)).astype(float) if weighted else np.ones(len(x))
    w[0] = 1.0
    cuts = np.cumsum(sizes)[:-1]
    parts = [Moments.of(*part) for part in zip(np.split(x, cuts), np.split(w, cuts), strict=True)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    mean = np.average(x, axis=0, weights=w)
    np.testing.assert_allclose(merged.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(merged.squares, w @ (x - mean) ** 2, rtol=1e-8, atol=1e-8)
    assert merged.weight == w.sum()
    assert (merged.minimum == x.min(axis=0)).all()
    assert (merged.maximum == x.max(axis=0)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_standardized_features_have_mean_0_and_variance_1_and_constants_are_0(dtype):
    x = np.random.default_rng(0).integers(0, 200, (50, 3)).astype(dtype)
    x[:, 1] = 0.1 if dtype != np.uint8 else 7
    found = Moments.of(x)
    assert found.constant().tolist() == [False, True, False]
    z = found.standardization().apply(x, np.float64)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(z.std(axis=0), [1, 0, 1], rtol=1e-12)
    assert (z[:, 1] == 0).all()
    # Nothing was learned of it, so another value than that of training says nothing either.
    assert (found.standardization().apply(x + 9, np.float64)[:, 1] == 0).all()
    targets = found.standardization(still=1.0)
    np.testing.assert_allclose(targets.invert(targets.apply(x, np.float64)), x, rtol=1e-12)


@pytest.mark.parametrize("cut", [1, 2])
def test_squares_beyond_all_numbers_are_told_and_nothing_is_printed(cut):
    x = np.array([[1.0, 2e200], [2.0, 0.0], [4.0, -2e200]])
    found = Moments.of(x[:cut]).merge(Moments.of(x[cut:]))
    assert found.overflowed().tolist() == [False, True]
    assert Moments.of(x * [[1.0, 1e-100]]).overflowed().tolist() == [False, False]


def test_a_large_mean_is_subtracted_before_rounding():
    x = 1.7e9 + np.arange(4.0)[:, None]
    z = Moments.of(x).standardization().apply(x, np.float32)
    assert z.dtype == np.float32
    np.testing.assert_allclose(np.diff(z[:, 0]), 1 / np.std(x), rtol=1e-6)


def test_pieces_of_no_weight_and_the_standardization_that_does_nothing():
    light = Moments.of(np.array([[5.0]]), np.array([0.0]))
    heavy = Moments.of(np.array([[1.0], [3.0]]))
    for merged in (light.merge(heavy), heavy.merge(light)):
        assert (merged.weight, merged.mean[0], merged.squares[0]) == (2.0, 2.0, 2.0)
    assert light.merge(light).weight == 0
    # Constant where it counts, and not elsewhere.
    still = Moments.of(np.array([[5.0], [2.0]]), np.array([0.0, 1.0]))
    assert still.standardization().scale[0] == np.inf
    x = np.array([[1.0, -2.5]])
    assert (Standardization.none(2).apply(x, np.float64) == x).all()
