"""How sure kept samples are, against loops over them; their mean at a low rank; diagnostics."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nonconvex.numerics.factorization import posterior as posterior_module
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gibbs import RowDistribution, Sample
from nonconvex.numerics.factorization.model import Factors, Side, predict
from nonconvex.numerics.factorization.posterior import (
    LowRankMean,
    Posterior,
    effective_size,
    fold_rows,
    half_width,
    split_r_hat,
)

USERS, ITEMS, RANK, SAMPLES = 7, 5, 2, 6


def rows_of(generator):
    root = generator.normal(size=(1 + RANK, 1 + RANK))
    precision = root @ root.T + 2 * np.eye(1 + RANK)
    return RowDistribution(np.zeros(1 + RANK), generator.normal(size=1 + RANK), precision, 1.0)


@pytest.fixture
def samples():
    generator = np.random.default_rng(0)

    def draw():
        x, z = (generator.normal(size=(count, 1 + RANK)) for count in (USERS, ITEMS))
        factors, tau = Factors(float(generator.normal()), x, z), float(generator.gamma(3))
        rows = rows_of(generator), rows_of(generator)
        return Sample(factors, tau, *rows, generator.gamma(5, 0.2, USERS))

    return [draw() for _ in range(SAMPLES)]


@pytest.fixture
def posterior(samples):
    return Posterior.of(samples, seed=1)


def test_samples_come_out_as_they_went_in(posterior, samples):
    for number in (0, SAMPLES - 1, -1):
        one, other = posterior.sample(number), samples[number]
        assert (one.factors.alpha, one.tau) == (other.factors.alpha, other.tau)
        np.testing.assert_array_equal(one.factors.users, other.factors.users)
        np.testing.assert_array_equal(one.factors.items, other.factors.items)
        np.testing.assert_array_equal(one.user_precision, other.user_precision)
        assert one.items is other.items


@pytest.mark.parametrize("elements", [1, 1 << 20])
def test_deviations_of_pairs_that_are_known(posterior, samples, elements, monkeypatch):
    monkeypatch.setattr(posterior_module, "_ELEMENTS", elements)
    u, i = np.array([0, 3, 6, 3]), np.array([4, 0, 0, 2])
    drawn = np.array([predict(sample.factors, u, i) for sample in samples])
    noise = np.mean([1 / (sample.tau * sample.user_precision[u]) for sample in samples], axis=0)
    variance = drawn.var(axis=0, ddof=1)
    arguments = posterior.users, posterior.items
    found = posterior.spread().deviations(*arguments, None, u, i)
    np.testing.assert_allclose(found, np.sqrt(variance))
    found = posterior.spread().deviations(*arguments, posterior.user_precision, u, i)
    np.testing.assert_allclose(found, np.sqrt(variance + noise))


def test_deviations_of_ids_that_were_never_seen_are_those_of_draws(posterior, samples):
    """Pairs with an unknown user, an unknown item, and both, whose rows are drawn in a loop."""
    u, i = np.array([-1, 2, -1]), np.array([3, -1, -1])
    variance = np.zeros(3)
    drawn = np.array([predict(sample.factors, u, i) for sample in samples])
    draws = 40_000
    generator = np.random.default_rng(1)
    for sample in samples:
        x, z = (
            generator.multivariate_normal(np.zeros(1 + RANK), np.linalg.inv(rows.precision), draws)
            for rows in (sample.users, sample.items)
        )
        x /= np.sqrt(generator.gamma(5 / 2, 2 / 5, (draws, 1)))  # ω
        z3, x2 = sample.factors.items[3], sample.factors.users[2]
        new = [
            x[:, 0] + x[:, 1:] @ z3[1:],
            z[:, 0] + z[:, 1:] @ x2[1:],
            x[:, 0] + z[:, 0] + (x[:, 1:] * z[:, 1:]).sum(axis=1),
        ]
        variance += np.var(new, axis=1) / SAMPLES
    spread = posterior.spread()
    found = spread.deviations(posterior.users, posterior.items, None, u, i)
    np.testing.assert_allclose(found, np.sqrt(variance + drawn.var(axis=0, ddof=1)), rtol=0.05)
    noisy = spread.deviations(posterior.users, posterior.items, posterior.user_precision, u, i)
    # the mean of 1/ω is 5/3 for Gamma(5/2, 5/2)
    unknown = 5 / 3 * np.mean([1 / sample.tau for sample in samples])
    assert noisy[0] ** 2 - found[0] ** 2 == pytest.approx(unknown)


def test_folded_rows_are_draws_given_the_other_side(posterior, samples):
    """Copies of one user: their mean and covariance are those of its regression in each sample."""
    copies = 4000
    columns, ratings = np.array([0, 2, 3]), np.array([1.0, -2.0, 0.5])
    block = RatingBlock.from_triples(
        np.repeat(np.arange(copies), 3), np.tile(columns, copies), np.tile(ratings, copies)
    )
    mean_model = Factors(0.0, np.zeros((USERS, 3)), samples[0].factors.items)
    projections = posterior.projections(Side.USERS, mean_model)
    mean, draws, omega = fold_rows(
        block, posterior.items, posterior.conditionals(Side.USERS), projections, np.arange(copies)
    )
    width = 1 + RANK
    for s, sample in enumerate(samples):
        own = draws[:, s * width : (s + 1) * width]
        z = sample.factors.items[columns]
        design = np.column_stack([np.ones(3), z[:, 1:]])
        # ω of a sample is what its draw suggests; the draw was made with that of the one before
        errors = ratings - sample.factors.alpha - z[:, 0] - own @ design.T
        prior = np.log((1 + 3) / (1 + 1)) * sample.users.slope
        apart = np.einsum("rk,kl,rl->r", own - prior, sample.users.precision, own - prior)
        scatter = sample.tau * (errors**2).sum(axis=1) + apart
        expected = (5 + 3 + width) / (5 + scatter)
        np.testing.assert_allclose(omega[:, s], expected, rtol=1e-9)
        if s:
            plain = sample.tau * (design.T @ design) + sample.users.precision
            b = sample.tau * (design.T @ (ratings - sample.factors.alpha - z[:, 0]))
            center = np.linalg.solve(plain, b + sample.users.precision @ prior)
            root = np.linalg.cholesky(omega[:, s - 1][:, None, None] * plain)
            standard = np.einsum("rlk,rl->rk", root, own - center)  # Lᵀ (x − A⁻¹ b)
            assert np.abs(standard.mean(axis=0)).max() < 4 / np.sqrt(copies)
            np.testing.assert_allclose(np.cov(standard.T), np.eye(width), atol=0.12)
    assert mean.shape == (copies, 3)


def test_the_mean_of_folded_rows_predicts_the_mean_over_the_samples(posterior, samples):
    block = RatingBlock.from_triples([0, 0], [1, 4], [2.0, -1.0])
    # a mean model of full rank, in which the users of every sample lie
    given = posterior.conditionals(Side.ITEMS)
    transposed = Factors(0.0, np.eye(USERS, 1 + USERS, 1), np.zeros((ITEMS, 1 + USERS)))
    arguments = block, posterior.users, given, posterior.projections(Side.ITEMS, transposed)
    mean, draws, omega = fold_rows(*arguments, np.array([9]))
    expected = np.zeros(USERS)
    for conditional, sample in zip(given, samples, strict=True):
        z = conditional._replace(stream=None).draw(block, sample.factors.users).x[0]
        expected += (z[0] + sample.factors.users[:, 1:] @ z[1:]) / SAMPLES
    np.testing.assert_allclose(mean[0, 0] + mean[0, 1:], expected, atol=1e-10)
    assert (omega == 1).all()
    assert not np.array_equal(fold_rows(*arguments, np.array([8]))[1], draws)


@pytest.mark.parametrize(("level", "deviations"), [(0.9, 1.6448536), (0.6826895, 1.0)])
def test_the_half_width_of_an_interval(level, deviations):
    assert half_width(level) == pytest.approx(deviations)


ROWS, COLUMNS, TURNED = 60, 45, 3


def samples_of(count, noise, seed=0):
    """Samples about one matrix, each in coordinates of its own."""
    generator = np.random.default_rng(seed)
    x, z = (generator.normal(size=(ROWS, TURNED)), generator.normal(size=(COLUMNS, TURNED)))
    samples = []
    for _ in range(count):
        turn = np.linalg.qr(generator.normal(size=(TURNED, TURNED)))[0]
        rows = [(side + noise * generator.normal(size=side.shape)) @ turn for side in (x, z)]
        biases = [generator.normal(size=(len(side), 1)) for side in rows]
        users, items = (np.hstack(pair) for pair in zip(biases, rows, strict=True))
        samples.append(Factors(float(generator.normal()), users, items))
    return samples


def matrix(factors):
    alpha, x, z = factors
    return alpha + x[:, :1] + z[:, 0] + x[:, 1:] @ z[:, 1:].T


def mean_model(samples, rank, begun=None, ordered_map=map):
    mean = begun or LowRankMean(samples[:1], rank, np.random.default_rng(1))
    for sample in samples:
        mean.add(sample, ordered_map)
    return mean


def test_it_is_exact_where_the_rank_suffices():
    samples = samples_of(4, noise=0.5)
    result = mean_model(samples, 4 * TURNED).result()
    np.testing.assert_allclose(matrix(result), np.mean([*map(matrix, samples)], axis=0), atol=1e-10)


def test_a_low_rank_is_nearly_as_good_as_the_best_of_that_rank():
    samples = samples_of(50, noise=0.4)
    result = mean_model(samples, 6).result()
    exact = np.mean([s.users[:, 1:] @ s.items[:, 1:].T for s in samples], axis=0)
    best = np.linalg.norm(np.linalg.svd(exact, compute_uv=False)[6:])
    found = np.linalg.norm(result.users[:, 1:] @ result.items[:, 1:].T - exact)
    assert result.users.shape == (ROWS, 7)
    assert found < 1.5 * best
    # and much better than two samples side by side, which are of the same rank
    pair = np.mean([s.users[:, 1:] @ s.items[:, 1:].T for s in samples[:2]], axis=0)
    assert found < 0.4 * np.linalg.norm(pair - exact)


@pytest.mark.parametrize(("users", "items", "rank"), [(2, 9, 30), (9, 2, 30), (1, 1, 1)])
def test_a_rank_above_what_there_is(users, items, rank):
    generator = np.random.default_rng(0)
    sample = Factors(1.0, generator.normal(size=(users, 4)), generator.normal(size=(items, 4)))
    result = matrix(mean_model([sample], rank).result())
    np.testing.assert_allclose(result, matrix(sample), atol=1e-10)
    # without factors there are biases
    samples = [Factors(float(k), np.full((3, 1), k), np.full((2, 1), 2.0 * k)) for k in (1, 2)]
    result = mean_model(samples, 10).result()
    assert result.users.shape == (3, 1)
    np.testing.assert_allclose(matrix(result), np.full((3, 2), 6.0))


def test_it_goes_on_from_what_was_saved_and_in_threads_to_the_same_bits(monkeypatch):
    monkeypatch.setattr(posterior_module, "CHUNK", 7)  # rows at a time
    samples = samples_of(6, noise=0.5)
    half, whole = mean_model(samples[:3], 5), mean_model(samples, 5)
    with ThreadPoolExecutor(3) as pool:
        again = mean_model(samples[3:], 5, LowRankMean.restore(*half.save()), pool.map)
    for one, other in zip(again.result(), whole.result(), strict=True):
        np.testing.assert_array_equal(one, other)


def autoregressive(rho, chains=4, length=2000, seed=0):
    noise = np.random.default_rng(seed).standard_normal((chains, length))
    draws = noise.copy()
    for t in range(1, length):
        draws[:, t] = rho * draws[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    return draws


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.5, 0.9])
def test_the_effective_size_of_an_autoregressive_chain(rho):
    exact = 8000 * (1 - rho) / (1 + rho)
    assert effective_size(autoregressive(rho)) == pytest.approx(exact, rel=0.4 if rho < 0 else 0.15)
    assert split_r_hat(autoregressive(rho)) == pytest.approx(1, abs=0.01)


def test_r_hat_by_hand():
    # halves (0, 2), (4, 6), (0, 2), (0, 2): W = 2, means 1, 5, 1, 1 with B/n = 4
    draws = np.array([[0.0, 2, 4, 6], [0, 2, 0, 2]])
    assert split_r_hat(draws) == pytest.approx(np.sqrt((2 / 2 + 4) / 2))
    odd = autoregressive(0.5, length=101)  # the one in the middle is left out
    assert split_r_hat(odd) == split_r_hat(np.delete(odd, 50, axis=1))


def test_chains_apart_are_told_apart_and_one_that_drifts_by_its_own_halves():
    draws = autoregressive(0.0)
    draws[0] += 3
    assert split_r_hat(draws) > 1.5
    assert effective_size(draws) < 20
    assert split_r_hat(autoregressive(0.0, chains=1) + np.linspace(0, 5, 2000)) > 1.5


def test_too_few_draws_and_a_quantity_that_does_not_move():
    assert np.isnan([split_r_hat(np.zeros((2, 3))), effective_size(np.zeros((2, 3)))]).all()
    still = np.ones((2, 10))
    assert split_r_hat(still) == 1.0
    assert effective_size(still) == 20
    still[0] = 2
    assert split_r_hat(still) == np.inf
    assert effective_size(still) == 4
