"""The mean of samples at a low rank, against the mean of their matrices."""

import numpy as np
import pytest

from nonconvex.numerics.factorization.averaging import MeanModel
from nonconvex.numerics.factorization.model import Factors

USERS, ITEMS, RANK = 60, 45, 3


def samples_of(count, noise, seed=0):
    """Samples about one matrix, each in coordinates of its own."""
    generator = np.random.default_rng(seed)
    x, z = generator.normal(size=(USERS, RANK)), generator.normal(size=(ITEMS, RANK))
    samples = []
    for _ in range(count):
        turn = np.linalg.qr(generator.normal(size=(RANK, RANK)))[0]
        rows = [(side + noise * generator.normal(size=side.shape)) @ turn for side in (x, z)]
        biases = [generator.normal(size=(len(side), 1)) for side in rows]
        users, items = (np.hstack(pair) for pair in zip(biases, rows, strict=True))
        samples.append(Factors(float(generator.normal()), users, items))
    return samples


def matrix(factors):
    alpha, x, z = factors
    return alpha + x[:, :1] + z[:, 0] + x[:, 1:] @ z[:, 1:].T


def mean_model(samples, rank):
    mean = MeanModel(samples[:1], rank, np.random.default_rng(1))
    for sample in samples:
        mean.add(sample)
    return mean


def test_it_is_exact_where_the_rank_suffices():
    samples = samples_of(4, noise=0.5)
    exact = np.mean([matrix(sample) for sample in samples], axis=0)
    result = mean_model(samples, 4 * RANK).result()
    np.testing.assert_allclose(matrix(result), exact, atol=1e-10)


def test_a_low_rank_is_nearly_as_good_as_the_best_of_that_rank():
    samples = samples_of(50, noise=0.4)
    result = mean_model(samples, 6).result()
    exact = np.mean([s.users[:, 1:] @ s.items[:, 1:].T for s in samples], axis=0)
    left, values, right = np.linalg.svd(exact)
    best = np.linalg.norm((left[:, :6] * values[:6]) @ right[:6] - exact)
    found = np.linalg.norm(result.users[:, 1:] @ result.items[:, 1:].T - exact)
    assert result.users.shape == (USERS, 7)
    assert found < 1.5 * best
    # and much better than two samples side by side, which are of the same rank
    pair = np.mean([s.users[:, 1:] @ s.items[:, 1:].T for s in samples[:2]], axis=0)
    assert found < 0.4 * np.linalg.norm(pair - exact)


@pytest.mark.parametrize(("users", "items", "rank"), [(2, 9, 30), (9, 2, 30), (1, 1, 1)])
def test_a_rank_above_what_there_is(users, items, rank):
    generator = np.random.default_rng(0)
    sample = Factors(1.0, generator.normal(size=(users, 4)), generator.normal(size=(items, 4)))
    result = mean_model([sample], rank).result()
    np.testing.assert_allclose(matrix(result), matrix(sample), atol=1e-10)


def test_without_factors_there_are_biases():
    samples = [Factors(float(k), np.full((3, 1), k), np.full((2, 1), 2.0 * k)) for k in (1, 2)]
    result = mean_model(samples, 10).result()
    assert result.users.shape == (3, 1)
    np.testing.assert_allclose(matrix(result), np.full((3, 2), 6.0))


def test_it_goes_on_from_what_was_saved():
    samples = samples_of(6, noise=0.5)
    half, whole = mean_model(samples[:3], 5), mean_model(samples, 5)
    again = MeanModel.restore(*half.save())
    for sample in samples[3:]:
        again.add(sample)
    for one, other in zip(again.result(), whole.result(), strict=True):
        np.testing.assert_array_equal(one, other)
