"""How sure a minimum is, against matrices that are written out, and against ratings held out."""

import numpy as np
import pytest

from nonconvex.numerics.factorization import ridge_posterior as module
from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Factors, Ridge, predict, squared_errors
from nonconvex.numerics.factorization.posterior import half_width
from nonconvex.numerics.factorization.ridge_posterior import (
    FactorVariance,
    ResidualStats,
    RidgePosterior,
    row_moment,
)

USERS, ITEMS, RANK = 9, 7, 3


@pytest.fixture
def factors():
    g = np.random.default_rng(0)
    return Factors(3.0, g.normal(size=(USERS, 1 + RANK)), g.normal(size=(ITEMS, 1 + RANK)))


def ridge(reg, exponent=0.0, ratio=0.5, mean=6.0):
    return Ridge(reg, exponent, 54.0, mean, ratio)


def written_out(factors, measured, ridges, biases, u, i, noise):
    """The formulas of the module, with a matrix for each row."""
    designs, matrices = [], []
    sides = (
        (factors.items, measured.item_degrees, measured.user_degrees, ridges[0], u),
        (factors.users, measured.user_degrees, measured.item_degrees, ridges[1], i),
    )
    for other, other_degrees, degrees, of_side, row in sides:
        z = other.copy()
        z[:, 0] = float(biases)
        moment = sum(d * np.outer(r, r) for d, r in zip(other_degrees, z, strict=True))
        moment /= other_degrees.sum()
        d = degrees[row] if row >= 0 else 0.0
        of_ridge = d if d > 0 else min(degrees[degrees > 0])
        penalty = np.diag(of_side.diagonal(np.array([of_ridge]), 1 + RANK)[0])
        designs.append(z)
        matrices.append(np.linalg.pinv(d * moment + penalty, hermitian=True))
    (z, x), (of_user, of_item) = designs, matrices
    unseen = np.append(float(biases), np.zeros(RANK))
    z_i, x_u = (z[i] if i >= 0 else unseen), (x[u] if u >= 0 else unseen)
    v = z_i @ of_user @ z_i + x_u @ of_item @ x_u
    v += np.trace(of_user[1:, 1:] @ of_item[1:, 1:])
    own = measured.noise[u] if u >= 0 else noise * 5 / 3
    return own, v


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize("elements", [1, 1 << 20])
def test_deviations_are_those_of_matrices_written_out(
    factors, biases, exponent, elements, monkeypatch
):
    monkeypatch.setattr(module, "_ELEMENTS", elements)
    g = np.random.default_rng(1)
    degrees = g.integers(0, 9, USERS).astype(float), g.integers(1, 9, ITEMS) / 2
    measured = ResidualStats(*degrees, g.gamma(3, size=USERS))
    assert measured.user_degrees.min() == 0, "a row whose ratings weigh nothing"
    ratio = 0.5 if biases else 0.0  # which is then of nothing
    ridges = ridge(0.1, exponent, ratio), ridge(0.03, exponent, ratio, mean=4.0)
    posterior = RidgePosterior(measured, 2.0, *ridges, biases)
    u, i = np.array([0, 3, -1, 4, -1, 5]), np.array([2, 2, 1, -1, -1, 6])
    pairs = zip(u, i, strict=True)
    expected = [written_out(factors, measured, ridges, biases, *pair, 2.0) for pair in pairs]
    for of_ratings in (True, False):
        spread = posterior.spread(factors, of_ratings=of_ratings)
        found = spread.deviations(factors.users, factors.items, measured, u, i)
        wanted = [np.sqrt(noise * (v + of_ratings)) for noise, v in expected]
        np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_where_all_rate_all_it_is_the_posterior_of_the_ridge_regression(factors):
    measured = ResidualStats(np.full(USERS, 7.0), np.full(ITEMS, 9.0), np.ones(USERS))
    of_user = ridge(0.1)
    posterior = RidgePosterior(measured, 1.0, of_user, ridge(1e9), True)
    spread = posterior.spread(factors, of_ratings=False)
    z = np.column_stack([np.ones(ITEMS), factors.items[:, 1:]])
    a = z.T @ z + np.diag(of_user.diagonal(np.array([7.0]), 1 + RANK)[0])
    pairs = np.zeros(ITEMS, int), np.arange(ITEMS)
    found = spread.deviations(factors.users, factors.items, measured, *pairs)
    np.testing.assert_allclose(found**2, np.diag(z @ np.linalg.inv(a) @ z.T), rtol=1e-6)


def test_a_model_of_biases_alone():
    factors = Factors(3.0, np.zeros((2, 1)), np.zeros((1, 1)))
    measured = ResidualStats(np.array([4.0, 0.0]), np.array([4.0]), np.ones(2))
    one = Ridge(1.0, 0.0, 2.0, 2.0, 0.5)  # n λ ρ = 1
    spread = RidgePosterior(measured, 1.0, one, one, True).spread(factors)
    u, i = np.array([0, 1, -1]), np.array([0, 0, -1])
    found = spread.deviations(factors.users, factors.items, measured, u, i) ** 2
    np.testing.assert_allclose(found, [1 + 0.2 + 0.2, 1 + 1 + 0.2, 5 / 3 * 3], rtol=1e-10)


def test_the_noise_is_that_of_what_was_left_over():
    """As many unknowns as ratings leave a twentieth of them, and not nothing."""
    factors = Factors(0.0, np.ones((3, 3)), np.ones((2, 3)))
    degrees = np.array([2.0, 2.0, 0.0]), np.array([2.0, 2.0])
    weak = Ridge(1e-9, 0.0, 4.0, 2.0)
    squares = np.array([1.0, 3.0, 0.0])
    posterior = RidgePosterior.of(factors, degrees, squares, (weak, weak), biases=True)
    spread = posterior.spread(factors)
    assert spread.users.unknowns(degrees[0])[:2] == pytest.approx(1.0)  # of 3, by M of rank 1
    assert posterior.noise == pytest.approx(4 / (0.05 * 4))  # 4 − 2 · 1 − 2 · 1 is nothing
    noise = (5 * 20 + squares) / (5 + 0.05 * degrees[0])
    np.testing.assert_allclose(posterior.measured.noise, noise, rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_intervals_cover_what_they_say(seed):
    g = np.random.default_rng(seed)
    users, items, rank, n = 300, 120, 3, 9000
    sides = (g.normal(size=(m, 1 + rank)) * [0.5, *[0.6] * rank] for m in (users, items))
    planted = Factors(3.0, *sides)
    pairs = g.choice(users * items, n, replace=False)
    u, i = pairs // items, pairs % items
    scatter = 0.7 * np.sqrt(2.5 / g.gamma(2.5, size=users))
    ratings = predict(planted, u, i) + scatter[u] * g.normal(size=n)
    held = g.random(n) < 0.2
    d_u, d_i = (np.bincount(x[~held], minlength=m) for x, m in ((u, users), (i, items)))
    by_user = RatingBlock.from_triples(u[~held], i[~held], ratings[~held])
    by_item = RatingBlock.from_triples(i[~held], u[~held], ratings[~held])
    total = float((~held).sum())
    # In units of s², the ridges of the planted rows.
    s = np.mean(scatter**2)
    ridges = [Ridge(s / 0.36 / total, 0.0, total, total / m, 0.36 / 0.25) for m in (users, items)]
    x, z = g.normal(size=(users, 1 + rank)) * 0.1, np.zeros((items, 1 + rank))
    for _ in range(30):
        z[by_item.rows] = solve_rows(by_item, x, 3.0, ridges[1]).x
        x[by_user.rows] = solve_rows(by_user, z, 3.0, ridges[0]).x
    factors = Factors(3.0, x, z)
    squares = np.zeros(users)
    squares[by_user.rows] = squared_errors(factors, by_user)
    degrees = d_u.astype(float), d_i.astype(float)
    posterior = RidgePosterior.of(factors, degrees, squares, tuple(ridges), biases=True)
    deviations = posterior.spread(factors).deviations(x, z, posterior.measured, u[held], i[held])
    apart = np.abs(predict(factors, u[held], i[held]) - ratings[held])
    for level in (0.5, 0.9):
        covered = np.mean(apart <= half_width(level) * deviations)
        assert covered == pytest.approx(level, abs=0.05 if level == 0.5 else 0.03)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_variance_of_predictions_is_that_over_all_pairs(rank):
    """Against the table of all predictions, weighted by both degrees, without its means."""
    rng = np.random.default_rng(rank)
    x, z = rng.normal(0.5, 1, (7, 1 + rank)), rng.normal(-0.3, 1, (9, 1 + rank))
    p, q = (of / of.sum() for of in (rng.integers(1, 9, 7), rng.integers(1, 9, 9)))
    table = x[:, :1] + z[:, 0] + x[:, 1:] @ z[:, 1:].T
    mean, of_users, of_items = p @ table @ q, table @ q, p @ table
    left = table - of_users[:, None] - of_items + mean
    found = FactorVariance.of(row_moment(x, p), row_moment(z, q))
    assert found.total == pytest.approx(p @ (table - mean) ** 2 @ q)
    assert found.share == pytest.approx(p @ left**2 @ q / found.total)
    singular = np.linalg.svd(np.sqrt(np.outer(p, q)) * left, compute_uv=False)[:rank]
    np.testing.assert_allclose(found.axes, singular**2, rtol=1e-9)
    # The last axis alone, and all of them together, are as much as does not matter.
    for least, ranks in ((singular[-1] ** 2, [rank, rank - 1]), ((singular**2).sum(), [1, 0])):
        assert [found.effective_rank(np.sqrt(least * 1e3) * n) for n in (0.999, 1.001)] == ranks


def test_biases_and_no_factors_take_no_factors():
    share = np.full(4, 0.25)
    biases = row_moment(np.array([[1.0, 0], [2, 0], [3, 0], [4, 0]]), share)
    found = FactorVariance.of(biases, biases)
    assert (found.total, found.share, found.effective_rank(0.1)) == (2.5, 0.0, 0)
    same = row_moment(np.ones((4, 2)), share)
    assert FactorVariance.of(same, same).share == 0, "all predictions are 3"
