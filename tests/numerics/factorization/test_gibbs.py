"""Gibbs sampling: draws against twins, the whole against exact integration and Geweke's test."""

from itertools import product

import numpy as np
import pytest

from nonconvex.numerics.deterministic import Stream, normal_rows
from nonconvex.numerics.factorization import design as designs
from nonconvex.numerics.factorization import gibbs
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import SIDE_ORDER, Factors, predict
from nonconvex.numerics.factorization.posterior import effective_size
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import (
    assert_same_bits,
    for_all,
    problems,
    random_problem,
)

STREAM = Stream.of(42, 0)


def distribution(generator, width):
    root = generator.normal(size=(width, width))
    mean, slope = generator.normal(size=(2, width))
    return gibbs.RowDistribution(mean, slope, root @ root.T + np.eye(width), least=0.5)


def draw(problem, tau=1.7, rows=None, stream=STREAM, block=None):
    width = problem.factors.items.shape[1]
    rows = distribution(np.random.default_rng(3), width) if rows is None else rows
    given_all = gibbs.Conditional(problem.factors.alpha, tau, rows, stream)
    return given_all.draw(problem.block if block is None else block, problem.factors.items)


@for_all(problems())
def test_a_row_is_drawn_from_its_own_regression(problem):
    alpha, _, z = problem.factors
    width, tau = z.shape[1], 1.7
    rows = distribution(np.random.default_rng(3), width)
    update = draw(problem, tau, rows)
    for number, (u, rated) in enumerate(problem.rows.items()):
        expected = rows.mean + np.log((1 + twins.degree(rated)) / 1.5) * rows.slope
        a, b = rows.precision.copy(), rows.precision @ expected
        for column, rating, weight in rated:
            design = np.append(1.0, z[column, 1:])
            a += tau * weight * np.outer(design, design)
            b += tau * weight * design * (rating - alpha - z[column, 0])
        covariance = np.linalg.inv(a)
        noise = np.linalg.cholesky(a) @ normal_rows(STREAM, np.array([u]), width)[0]
        twin = covariance @ (b + noise)
        np.testing.assert_allclose(update.x[number], twin, rtol=1e-8, atol=1e-9)
        sums = twins.sums(rated, z, alpha, twin)
        found = update.residual[number], update.squares[number]
        np.testing.assert_allclose(found, sums, rtol=1e-7, atol=1e-7)
        apart = twin - expected
        assert update.penalty[number] == pytest.approx(apart @ rows.precision @ apart, rel=1e-7)
        assert update.weight[number] == pytest.approx(twins.degree(rated))


@pytest.mark.parametrize("of_rows", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_steadiness_counts_as_a_weight_of_the_ratings_and_of_the_prior_of_a_user(of_rows, weighted):
    problem = random_problem(np.random.default_rng(7), 9, 12, 3, weighted=weighted)
    generator = np.random.default_rng(0)
    omega = generator.gamma(5, 0.2, 9 if of_rows else 12)
    block, rows = problem.block, distribution(generator, 4)
    given_all = gibbs.Conditional(1.0, 1.7, rows, STREAM, omega, of_rows)
    plain = given_all._replace(user_precision=None)
    fixed = problem.factors.items
    update, unweighted = given_all.draw(block, fixed), plain.draw(block, fixed)
    each = omega[np.repeat(block.rows, block.counts) if of_rows else block.columns]
    weighted = block._replace(weights=each if block.weights is None else each * block.weights)
    for number, row in enumerate(block.rows):
        own = omega[row] if of_rows else 1.0
        prior = rows._replace(precision=own * rows.precision)
        twin = plain._replace(rows=prior).draw(weighted, fixed)
        for one, other in zip(update, twin, strict=True):
            np.testing.assert_allclose(one[number], other[number], rtol=1e-9, atol=1e-12)
    if of_rows:  # the mean of a row does not depend on its ω
        means = (each._replace(stream=None).draw(block, fixed).x for each in (given_all, plain))
        np.testing.assert_allclose(*means, rtol=1e-9)
        assert not np.allclose(update.x, unweighted.x)


def test_users_without_a_precision_of_their_own(problem):
    chain = chain_of(problem, noise_prior=gibbs.NoisePrior(3.0, 2.0, user_freedom=np.inf))
    for sweep in (gibbs.HELD, gibbs.HELD + 1):
        sweep_of(chain, problem, sweep)
    np.testing.assert_array_equal(chain.user_precision, np.ones(12))
    assert gibbs.NoisePrior(0.0, 1.0, user_freedom=np.inf).scatter == 1.0
    assert gibbs.NoisePrior(0.0, 1.0).scatter == pytest.approx(5 / 3)


def test_draws_have_the_mean_and_the_covariance_of_the_conditional():
    generator = np.random.default_rng(0)
    root = generator.normal(size=(3, 3))
    a, b = root @ root.T + np.eye(3), generator.normal(size=3)
    n = 40_000
    normals = normal_rows(STREAM, np.arange(n), 3)
    x = gibbs.draw_normals(np.broadcast_to(a, (n, 3, 3)), np.broadcast_to(b, (n, 3)), normals)
    covariance = np.linalg.inv(a)
    error = np.sqrt(np.diag(covariance) / n)
    assert np.all(np.abs(x.mean(axis=0) - covariance @ b) < 4 * error)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=4 * np.sqrt(2 / n))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bits_of_a_row_depend_on_no_other_row(monkeypatch, dtype):
    problem = random_problem(np.random.default_rng(7), 20, 60, 4, density=0.6, weighted=True)
    problem = problem.astype(dtype)
    whole = draw(problem)
    assert whole.x.dtype == dtype
    rows = problem.block.rows
    for j in (0, 7, len(rows) - 1):
        alone = draw(problem.part(problem.users == rows[j]))
        assert_same_bits(alone, type(whole)(*(values[j : j + 1] for values in whole)))
    monkeypatch.setattr(designs, "CACHE_ELEMENTS", 100)
    assert_same_bits(draw(problem), whole)


def test_a_matrix_that_rounding_made_indefinite_is_drawn_by_alone():
    good, bad = np.diag([2.0, 3.0]), np.array([[1.0, 1.0], [1.0, 1.0 - 1e-9]])
    a, b = np.stack([good, bad]), np.ones((2, 2))
    normals = np.array([[0.3, -0.4], [0.5, 0.6]])
    x = gibbs.draw_normals(a, b, normals)
    assert np.isfinite(x).all()
    assert x[0].tobytes() == gibbs.draw_normals(a[:1], b[:1], normals[:1])[0].tobytes()


# Against exact integration
def test_posterior_means_and_variances_of_a_planted_model_are_exact():
    """Two users, two items, K = 1, with α, τ, μ and Λ given.

    The items have four unknowns, integrated over by Gauss and Hermite; given them, the two ratings
    of a user are normal, and so is what they predict.  Copies of the problem that share nothing
    are as many chains.
    """
    alpha, tau, precision = 0.5, 2.0, np.diag([2.0, 1.5])
    ratings = np.array([[2.0, 0.3], [-0.4, np.nan]])  # the last one is to be predicted
    exact = integrate(ratings, alpha, tau, precision)

    copies, rows = 1500, gibbs.RowDistribution(np.zeros(2), np.zeros(2), precision, 1.0)
    u, i = np.nonzero(np.isfinite(ratings))
    shift = 2 * np.arange(copies)[:, None]
    users, items = (u + shift).ravel(), (i + shift).ravel()
    by_user = RatingBlock.from_triples(users, items, np.tile(ratings[u, i], copies))
    by_item = RatingBlock.from_triples(items, users, np.tile(ratings[u, i], copies))
    x = z = np.random.default_rng(0).normal(size=(2 * copies, 2))
    sums = np.zeros((2, 4))
    burn_in, sweeps = 20, 40
    for sweep in range(burn_in + sweeps):
        z = gibbs.Conditional(alpha, tau, rows, Stream.of(1, sweep, 0)).draw(by_item, x).x
        x = gibbs.Conditional(alpha, tau, rows, Stream.of(1, sweep, 1)).draw(by_user, z).x
        if sweep >= burn_in:
            pairs = [(shift[:, 0] + a, shift[:, 0] + b) for a, b in product((0, 1), (0, 1))]
            drawn = np.array([predict(Factors(alpha, x, z), *pair) for pair in pairs])
            sums += [drawn.mean(axis=1), (drawn**2).mean(axis=1)]
    mean, square = sums / sweeps
    np.testing.assert_allclose(mean, exact[0], atol=0.015)
    np.testing.assert_allclose(square - mean**2, exact[1], rtol=0.04)


def integrate(ratings, alpha, tau, precision, nodes=14):
    """Posterior means and variances of the four predictions."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    spread = 1 / np.sqrt(np.diag(precision))
    grid = np.array(list(product(points, repeat=4)))  # β and γ of both items
    z = grid.reshape(-1, 2, 2) * spread  # (g, item, unknown)
    weight = np.prod(np.array(list(product(weights, repeat=4))), axis=1)
    design = np.stack([np.ones(z.shape[:2]), z[:, :, 1]], axis=2)  # (g, item, unknown)
    moments = []
    for rated in ratings:
        seen = np.isfinite(rated)
        d, y = design[:, seen], rated[seen] - alpha - z[:, seen, 0]
        marginal = d @ np.linalg.inv(precision) @ d.swapaxes(1, 2) + np.eye(seen.sum()) / tau
        density = np.exp(-0.5 * np.einsum("gi,gij,gj->g", y, np.linalg.inv(marginal), y))
        weight = weight * density / np.sqrt(np.linalg.det(marginal))
        covariance = np.linalg.inv(tau * d.swapaxes(1, 2) @ d + precision)
        x = np.einsum("gkl,gil,gi->gk", covariance, d, tau * y)
        for item in (0, 1):
            mean = alpha + z[:, item, 0] + np.einsum("gk,gk->g", design[:, item], x)
            variance = np.einsum("gk,gkl,gl->g", design[:, item], covariance, design[:, item])
            moments.append((mean, variance + mean**2))
    total = weight.sum()
    first = np.array([weight @ mean / total for mean, _ in moments])
    second = np.array([weight @ square / total for _, square in moments])
    return first, second - first**2


# Geweke's joint distribution test
USERS, ITEMS, RANK = 3, 2, 1
LEVEL = gibbs.NoisePrior(center=1.0, unit=0.7, freedom=12.0, user_freedom=14.0)
ROW_PRIOR = gibbs.RowPrior(np.array([0.5, 0.8]), freedom=12.0, rows=4.0)
PAIRS = np.array(list(product(range(USERS), range(ITEMS)))).T[:, 1:]  # one pair is not observed
DEGREES = {"users": np.array([1.0, 2, 2]), "items": np.array([2.0, 3])}


def prior_draw(generator):
    """Draw all unknowns from the prior."""

    def rows(side, count, omega):
        nu, width = ROW_PRIOR.freedom, 1 + RANK
        rate = nu * ROW_PRIOR.units**2 / 2
        precision = generator.gamma(nu / 2, 1 / rate)
        mean, slope = generator.normal(0, 1 / np.sqrt(ROW_PRIOR.rows * precision), (2, width))
        h = np.log((1 + DEGREES[side]) / (1 + DEGREES[side].min()))
        noise = generator.normal(size=(count, width)) / np.sqrt(np.outer(omega, precision))
        return mean + h[:, None] * slope + noise

    tau = generator.gamma(LEVEL.freedom / 2, 2 / (LEVEL.freedom * LEVEL.unit**2))
    omega = generator.gamma(LEVEL.user_freedom / 2, 2 / LEVEL.user_freedom, USERS)
    alpha = generator.normal(LEVEL.center, LEVEL.unit)
    sides = rows("users", USERS, omega), rows("items", ITEMS, np.ones(ITEMS))
    return Factors(alpha, *sides), tau, omega


def rate(factors, tau, omega, generator):
    noise = generator.normal(size=PAIRS.shape[1]) / np.sqrt(tau * omega[PAIRS[0]])
    return predict(factors, *PAIRS) + noise


def functionals(factors, tau, omega):
    alpha, x, z = factors
    everything = np.concatenate([[alpha, np.log(tau)], x.mean(axis=0), z.mean(axis=0)])
    squares = [alpha**2, *(x**2).mean(axis=0), *(z**2).mean(axis=0)]
    apart = [x[:, 0].var(), x[:, 1].var(), (x[0, 1] * z[0, 1]) ** 2, x[0, 0] * z[0, 0]]
    apart += [z[1, 0] - z[0, 0], (z[1, 0] - z[0, 0]) ** 2, (x[1, 1] - x[0, 1]) ** 2]
    return np.concatenate([everything, squares, apart, np.log(omega), [omega @ omega]])


def test_geweke():
    """Unknowns and data drawn in turn, each given the other, are draws from the joint prior."""
    generator = np.random.default_rng(5)
    marginal = np.array([functionals(*prior_draw(generator)) for _ in range(5000)])
    factors, tau, omega = prior_draw(generator)
    held = dict.fromkeys(DEGREES, np.ones(1 + RANK))
    chain = gibbs.Chain(factors, tau, DEGREES, held, noise_prior=LEVEL, row_prior=ROW_PRIOR, seed=9)
    chain.user_precision = omega
    successive = []
    for sweep in range(gibbs.HELD + 1, gibbs.HELD + 2001):
        now = Factors(chain.alpha, chain.rows["users"], chain.rows["items"])
        ratings = rate(now, chain.tau, chain.user_precision, generator)
        for side in SIDE_ORDER:
            own, other = (1, "users") if side == "items" else (0, "items")
            block = RatingBlock.from_triples(PAIRS[own], PAIRS[1 - own], ratings)
            update = chain.conditional(side, sweep).draw(block, chain.rows[other])
            whole = chain.rows[side].copy()
            whole[block.rows] = update.x
            chain.replace(side, update._replace(x=whole), sweep)
        now = Factors(chain.alpha, chain.rows["users"], chain.rows["items"])
        successive.append(functionals(now, chain.tau, chain.user_precision))
    drawn = np.array(successive)
    sizes = np.array([effective_size(column[None]) for column in drawn.T])
    error = np.sqrt(marginal.var(axis=0) * (1 / len(marginal) + 1 / sizes))
    z = (drawn.mean(axis=0) - marginal.mean(axis=0)) / error
    assert sizes.min() > 100
    assert np.abs(z).max() < 3.5, z.round(1)


# One chain
def degrees_of(problem):
    return {"users": problem.block.degrees, "items": problem.transposed.block.degrees}


def chain_of(problem, seed=1, **arguments):
    priors = {"noise_prior": gibbs.NoisePrior(3.0, 2.0), "row_prior": gibbs.RowPrior.of(2.0, 3)}
    held = dict.fromkeys(("users", "items"), np.array([1.0, 2, 2, 2]))
    settings = {"seed": seed, **priors, **arguments}
    return gibbs.Chain(problem.factors, 0.5, degrees_of(problem), held, **settings)


def sweep_of(chain, problem, sweep):
    for side in SIDE_ORDER:
        block = problem.transposed.block if side == "items" else problem.block
        fixed = chain.rows["users" if side == "items" else "items"]
        chain.replace(side, chain.conditional(side, sweep).draw(block, fixed), sweep)


@pytest.fixture
def problem():
    return random_problem(np.random.default_rng(1), 12, 9, 3, density=0.9)


def test_centered_rows_predict_the_same_and_a_chain_knows_its_error_and_f(problem):
    chain = chain_of(problem)
    sweep_of(chain, problem, gibbs.HELD + 1)
    centered = chain.sample()
    now = Factors(chain.alpha, chain.rows["users"], chain.rows["items"])
    pair = problem.users, problem.items
    np.testing.assert_allclose(predict(centered.factors, *pair), predict(now, *pair), rtol=1e-12)
    assert chain.intercept == centered.factors.alpha
    for side, degrees in degrees_of(problem).items():
        found = getattr(centered, side).penalty(getattr(centered.factors, side), degrees)
        expected = chain.distributions[side].penalty(chain.rows[side], degrees)
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    of_sides = [chain.distributions[side] for side in ("users", "items")]
    at_mean = Factors(chain.alpha, *(side.mean[None] for side in of_sides))
    mean = gibbs.Sample.of(at_mean, chain.tau, *of_sides, chain.user_precision)
    assert not mean.factors.users.any()
    assert not mean.factors.items.any()
    errors = problem.ratings - predict(now, problem.users, problem.items)
    assert chain.train_rmse == pytest.approx(np.sqrt(np.mean(errors**2)))
    degrees = degrees_of(problem)
    of_users, of_items = (
        chain.distributions[s].penalty(chain.rows[s], degrees[s]) for s in degrees
    )
    omega = chain.user_precision
    penalty = omega @ of_users + of_items.sum()
    f = (omega[problem.users] @ errors**2 + penalty / chain.tau) / len(errors)
    assert chain.objective == pytest.approx(f)


def test_a_chain_that_was_restored_goes_on_to_the_same_bits(problem):
    one, other = chain_of(problem), chain_of(problem)
    for sweep in (1, 2):
        sweep_of(one, problem, sweep)
    sweep_of(other, problem, 1)
    arrays, values = other.save()
    resumed = chain_of(problem)
    resumed.restore(arrays, values)
    sweep_of(resumed, problem, 2)
    assert resumed.sample().factors.users.tobytes() == one.sample().factors.users.tobytes()
    assert (resumed.alpha, resumed.tau) == (one.alpha, one.tau)


def test_the_first_sweeps_hold_the_precision_still(problem):
    chain = chain_of(problem)
    for sweep in (1, gibbs.HELD):
        sweep_of(chain, problem, sweep)
        np.testing.assert_array_equal(chain.distributions["items"].precision, np.diag([1, 2, 2, 2]))
    sweep_of(chain, problem, gibbs.HELD + 1)
    assert chain.distributions["items"].mean.all()


def test_chains_differ_by_seed_and_by_number(problem):
    alphas = set()
    for seed, number in ((1, 0), (2, 0), (1, 1)):
        chain = chain_of(problem, seed=seed, number=number)
        sweep_of(chain, problem, 1)
        alphas.add(chain.alpha)
    assert len(alphas) == 3


def test_ratings_on_another_scale_give_the_same_model_on_that_scale(problem):
    one = chain_of(problem)
    alpha, x, z = problem.factors
    unit = np.append(4.0, np.full(3, 2.0))
    factors = Factors(4 * alpha, x * unit, z * unit)
    scaled = problem._replace(ratings=4 * problem.ratings, factors=factors)
    held = dict.fromkeys(("users", "items"), np.array([1.0, 2, 2, 2]) / unit**2)
    priors = {"noise_prior": gibbs.NoisePrior(12.0, 8.0), "row_prior": gibbs.RowPrior.of(8.0, 3)}
    other = gibbs.Chain(scaled.factors, 0.5 / 16, degrees_of(problem), held, seed=1, **priors)
    for sweep in (gibbs.HELD, gibbs.HELD + 1):
        sweep_of(one, problem, sweep)
        sweep_of(other, scaled, sweep)
    np.testing.assert_allclose(other.rows["users"], one.rows["users"] * unit, rtol=1e-6)
    assert other.tau == pytest.approx(one.tau / 16)
