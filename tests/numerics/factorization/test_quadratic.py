"""Stacks of small quadratics: the minimum, also where A is singular or the unknowns are ≥ 0."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.factorization import quadratic
from nonconvex.numerics.factorization.quadratic import minimize
from tests.numerics.factorization.problems import PROPERTY

SEEDS = st.integers(0, 2**32 - 1)


def stack(seed, size, width, ridge=0.1, rank=6):
    """Return A = ZᵀZ + ridge I and b = Zᵀy."""
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(size, rank, width))
    y = generator.normal(size=(size, rank, 1))
    a = z.swapaxes(1, 2) @ z + ridge * np.eye(width)
    return a, (z.swapaxes(1, 2) @ y)[..., 0]


def value(a, b, x):
    return 0.5 * x @ a @ x - b @ x


def best_of_all_active_sets(a, b):
    """The slow twin: minimize over every set of free unknowns, and keep the best that is ≥ 0."""
    best = np.zeros(len(b))
    for size in range(len(b)):
        for others in itertools.combinations(range(1, len(b)), size):
            free = [0, *others]
            x = np.zeros(len(b))
            x[free] = np.linalg.lstsq(a[np.ix_(free, free)], b[free], rcond=None)[0]
            if np.all(x[1:] >= 0) and value(a, b, x) < value(a, b, best):
                best = x
    return best


@PROPERTY
@given(SEEDS, st.integers(0, 6), st.integers(1, 7))
def test_the_gradient_is_0_at_the_minimum(seed, size, width):
    a, b = stack(seed, size, width)
    x = minimize(a, b)
    assert x.shape == b.shape
    np.testing.assert_allclose(np.einsum("skl,sl->sk", a, x), b, atol=1e-12)
    assert minimize(a.astype(np.float32), b.astype(np.float32)).dtype == np.float32


def test_a_singular_system_has_the_solution_of_least_norm():
    # A = vvᵀ with v = (1, 2) and b = 5 v: every x with v·x = 5 is a minimum, (1, 2) the shortest
    a, b = np.array([[1.0, 2.0], [2.0, 4.0]]), np.array([5.0, 10.0])
    np.testing.assert_allclose(minimize(a[None], b[None]), [[1.0, 2.0]], rtol=1e-14)
    np.testing.assert_allclose(minimize(a[None], b[None], nonnegative=True), [[1, 2]], rtol=1e-14)
    assert not minimize(np.zeros((1, 3, 3)), np.zeros((1, 3))).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_singular_system_does_not_touch_the_others(dtype):
    a, b = (part.astype(dtype) for part in stack(0, 5, 4))
    alone = minimize(a, b)
    a[2] = 0
    b[2] = 0
    beside = minimize(a, b)
    assert not beside[2].any()
    others = [0, 1, 3, 4]
    assert beside[others].tobytes() == alone[others].tobytes()


@PROPERTY
@given(SEEDS, st.integers(1, 6), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_the_bits_of_a_solution_depend_on_its_own_system_alone(seed, width, dtype, nonnegative):
    a, b = (part.astype(dtype) for part in stack(seed, 9, width, ridge=1e-3))
    together = minimize(a, b, nonnegative=nonnegative)
    order = np.random.default_rng(seed).permutation(9)
    shuffled = minimize(a[order], b[order], nonnegative=nonnegative)
    assert shuffled.tobytes() == together[order].tobytes()
    for s in range(9):
        alone = minimize(a[s : s + 1], b[s : s + 1], nonnegative=nonnegative)
        assert alone.tobytes() == together[s].tobytes()


@PROPERTY
@given(SEEDS, st.integers(1, 6), st.sampled_from([1e-6, 1e-3, 1.0]))
def test_the_nonnegative_minimum_is_the_best_of_all_active_sets(seed, width, ridge):
    a, b = stack(seed, 4, width, ridge, rank=4)
    x = minimize(a, b, nonnegative=True)
    assert np.all(x[:, 1:] >= 0)
    for a_s, b_s, x_s in zip(a, b, x, strict=True):
        twin = best_of_all_active_sets(a_s, b_s)
        assert value(a_s, b_s, x_s) == pytest.approx(value(a_s, b_s, twin), rel=1e-10)
        np.testing.assert_allclose(x_s, twin, atol=1e-8 * np.abs(twin).max())


@PROPERTY
@given(SEEDS, st.integers(1, 30), st.sampled_from([1e-6, 1e-3, 1.0]))
def test_the_nonnegative_minimum_satisfies_karush_kuhn_and_tucker(seed, width, ridge):
    a, b = stack(seed, 5, width, ridge, rank=20)
    x = minimize(a, b, nonnegative=True)
    slope = np.einsum("skl,sl->sk", a, x) - b
    rounding = 1e-12 * (np.einsum("skl,sl->sk", np.abs(a), np.abs(x)) + np.abs(b))
    free = x != 0
    free[:, 0] = True
    assert np.all(x[:, 1:] >= 0)
    assert np.all(np.abs(slope[free]) <= rounding[free])
    assert np.all(slope[~free] >= -rounding[~free])


def test_demanding_what_holds_anyway_changes_nothing():
    a, b = stack(1, 50, 4)
    free = minimize(a, b)
    kept = np.all(free[:, 1:] >= 0, axis=1)
    assert 0 < kept.sum() < 50
    bounded = minimize(a, b, nonnegative=True)
    assert np.array_equal(bounded[kept], free[kept])
    assert not np.any(bounded[~kept] == free[~kept])


def test_the_bias_may_be_negative():
    a, b = np.array([[[2.0, 0.0], [0.0, 2.0]]]), np.array([[-4.0, -4.0]])
    assert minimize(a, b, nonnegative=True).tolist() == [[-2.0, 0.0]]


def test_nonnegative_unknowns_are_found_in_a_bounded_number_of_rounds(monkeypatch):
    a, b = stack(3, 200, 30, ridge=1e-8, rank=20)
    expected = minimize(a, b, nonnegative=True)
    monkeypatch.setattr(quadratic, "ROUNDS_PER_UNKNOWN", 1)
    assert minimize(a, b, nonnegative=True).tobytes() == expected.tobytes()


def test_what_is_reached_when_the_rounds_run_out_is_nonnegative_too(monkeypatch):
    monkeypatch.setattr(quadratic, "ROUNDS_PER_UNKNOWN", 1)
    a, b = stack(4, 5000, 4, ridge=1e-6, rank=4)
    assert minimize(a, b, nonnegative=True)[:, 1:].min() >= 0
    monkeypatch.setattr(quadratic, "ROUNDS_PER_UNKNOWN", 0)
    assert not minimize(a, b, nonnegative=True).any()
