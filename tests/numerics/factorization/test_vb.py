"""Variational inference: rows and F against slow twins, ALS, and exact integration."""

from math import lgamma

import numpy as np
import pytest

from nonconvex.numerics.factorization import vb
from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import SIDE_ORDER, Ridge, Side
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import random_problem


def wide(generator, x, omega=True):
    """Rows about x with random covariances."""
    layout = vb.Layout(x.shape[1] - 1)
    rows = layout.start(x, 0.1)
    for row in rows:
        root = generator.normal(0, 0.3, (layout.unknowns, layout.unknowns))
        row[layout.unknowns : -2] = (root @ root.T + 0.01 * np.eye(len(root)))[layout.entries]
        row[-2:] = generator.gamma(5, 0.2, 2) if omega else 1.0
    return rows


def prior_of(generator, unknowns):
    return vb.Prior(generator.gamma(4, 0.5, unknowns), generator.normal(0, 0.3, unknowns), 0.5)


class Row:
    """One row of a side, by loops over its ratings."""

    def __init__(self, rated, given, fixed):
        layout, prior, tau = given.prior.layout, given.prior, given.tau
        self.prior, self.tau, self.kappa, self.of_users = prior, tau, given.user_freedom, False
        self.d = twins.degree(rated)
        self.center = np.log((1 + self.d) / (1 + prior.least)) * prior.slope
        width = layout.unknowns
        a, b = np.diag(prior.precision) / tau, prior.precision / tau * self.center
        for column, rating, weight in rated:
            v = layout.covariances(layout.kept(fixed[column : column + 1]))[0]
            omega = 1.0 if given.of_users else fixed[column, -2]
            z = np.append(1.0, fixed[column, 1:width])
            inner = v.copy()
            inner[0] = inner[:, 0] = 0
            a = a + weight * (omega * np.outer(z, z) + inner)
            cross = np.append(0.0, v[0, 1:])
            b = b + weight * (omega * z * (rating - given.alpha - fixed[column, 0]) - cross)
        self.m = np.linalg.solve(a, b)
        self.v = np.linalg.inv(a) / tau
        if layout.rank > vb.FULL:
            self.v = np.diag(1 / np.diag(a)) / tau
        self.omega, self.inverse = 1.0, 1.0


def expected_squares(alpha, x, vx, z, vz, rating, omega=1.0):
    """E ω (R − α − β_u − β_i − γ_u·γ_i)² over both rows, where ω x xᵀ has ω m mᵀ + V."""
    error = rating - alpha - x[0] - z[0] - x[1:] @ z[1:]
    zz = np.outer(np.append(1, z[1:]), np.append(1, z[1:]))
    inner = vz.copy()
    inner[0] = inner[:, 0] = 0
    xx = np.outer(np.append(1, x[1:]), np.append(1, x[1:]))
    of_items = omega * (xx * vz).sum()  # z̃ has the variance of β_i in its place of the constant
    return omega * error**2 + of_items + (zz * vx).sum() + (inner * vx).sum()


@pytest.mark.parametrize("kernel", ["numpy", "compiled"])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("of_users", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_rows_are_those_of_a_loop_over_ratings(of_users, full, weighted, kernel, monkeypatch):
    monkeypatch.setattr(vb, "FULL", 32 if full else -1)
    generator = np.random.default_rng(3)
    problem = random_problem(generator, 7, 9, 3, weighted=weighted)
    fixed = wide(generator, problem.factors.items, omega=not of_users)
    given = vb.Given(3.1, 1.7, prior_of(generator, 4), of_users, kernel=kernel)
    update = given.update(problem.block, fixed)
    layout = vb.Layout(3)
    sums = vb.RowSums.of(np.zeros(3 + 2 * 4))
    for number, rated in enumerate(problem.rows.values()):
        twin, row = Row(rated, given, fixed), update.x[number]
        np.testing.assert_allclose(row[:4], twin.m, rtol=1e-8)
        v = layout.covariances(layout.kept(row[None]))[0]
        np.testing.assert_allclose(v, twin.v, rtol=1e-8, atol=1e-12)
        weights = [w * (1.0 if of_users else fixed[c, -2]) for c, _, w in rated]
        errors = [r - twins.predict(3.1, twin.m, fixed[c, :4]) for c, r, _ in rated]
        squares = sum(w * e**2 for (_, _, w), e in zip(rated, errors, strict=True))
        assert update.squares[number] == pytest.approx(squares, rel=1e-8)
        h, omega, plain = np.log((1 + twin.d) / 1.5), row[-2], 0.0
        for column, rating, weight in rated:
            other = fixed[column]
            vz = layout.covariances(layout.kept(other[None]))[0]
            if of_users:
                own = omega, twin.m, twin.v, other[:4], vz
                plain += weight * expected_squares(3.1, twin.m, 0 * vz, other[:4], vz, rating)
            else:
                own = other[-2], other[:4], vz, twin.m, twin.v
            steady, x, vx, z, vz = own
            term = expected_squares(3.1, x, vx, z, vz, rating, steady)
            sums = sums._replace(errors=sums.errors + weight * term)
        residual = omega * sum(w * e for w, e in zip(weights, errors, strict=True))
        assert update.residual[number] == pytest.approx(residual, rel=1e-7, abs=1e-9)
        assert update.more[number, 0] == pytest.approx(sums.errors, rel=1e-8)
        sums = sums._replace(errors=0.0)
        assert update.more[number, 1] == pytest.approx(omega * twin.d)
        assert update.more[number, 2] == pytest.approx(omega * h**2)
        np.testing.assert_allclose(update.more[number, 3:7], omega * h * twin.m)
        squares = omega * twin.m**2 + np.diag(twin.v)
        np.testing.assert_allclose(update.more[number, 7:], squares, rtol=1e-8)
        if of_users:
            apart = ((twin.m - twin.center) ** 2 * given.prior.precision).sum()
            shape, rate = (5 + twin.d) / 2, (5 + 1.7 * plain + apart) / 2
            np.testing.assert_allclose(row[-2:], [shape / rate, rate / (shape - 1)])
        else:
            assert (row[-2:] == 1).all()


def test_the_gamma_function_and_its_derivative():
    x = np.array([2.5, 3.0, 7.25, 40.0, 1e5])
    log, slope = vb._gamma(x)
    np.testing.assert_allclose(log, [lgamma(value) for value in x], rtol=1e-11)
    secants = [(lgamma(value + 1e-5) - lgamma(value - 1e-5)) / 2e-5 for value in x]
    np.testing.assert_allclose(slope, secants, rtol=1e-6)
    euler = 0.57721566490153286
    assert vb._gamma(np.array([3.0]))[1][0] == pytest.approx(1.5 - euler, rel=1e-13)


def free_energy(problem, alpha, level, rows, scatters):
    """F/n by loops: E log q − E log p(R, everything), with Gamma shapes and rates of ω given."""
    layout, n = level.layout, 0.0
    x, z = rows[Side.USERS], rows[Side.ITEMS]
    whole = {side: layout.covariances(layout.kept(of)) for side, of in rows.items()}
    weights = np.ones(len(problem.ratings)) if problem.weights is None else problem.weights
    logs = [vb._gamma(np.array([a]))[1][0] - np.log(b) for a, b in scatters]
    total, k = 0.0, layout.unknowns
    for u, i, rating, w in zip(problem.users, problem.items, problem.ratings, weights, strict=True):
        pair = x[u, :k], whole[Side.USERS][u], z[i, :k], whole[Side.ITEMS][i]
        square = expected_squares(alpha, *pair, rating, x[u, -2])
        total += w / 2 * (np.log(2 * np.pi / level.tau) - logs[u]) + level.tau * w * square / 2
        n += w
    for side, index in ((Side.USERS, problem.users), (Side.ITEMS, problem.items)):
        prior = level.priors[side]
        for r, row in enumerate(rows[side]):
            h = np.log((1 + weights[index == r].sum()) / (1 + prior.least))
            omega = row[-2] if side == Side.USERS else 1.0
            v = whole[side][r]
            square = omega * (row[:k] - h * prior.slope) ** 2 + np.diag(v)
            log = np.log(prior.precision).sum() + np.linalg.slogdet(v)[1]
            total += ((prior.precision * square).sum() - log - k) / 2
    for (a, b), log in zip(scatters, logs, strict=True):
        total += a * np.log(b) - lgamma(a) - 2.5 * np.log(2.5) + lgamma(2.5)
        total += (a - 2.5) * log - (b - 2.5) * a / b
    return total / n


@pytest.mark.parametrize("kernel", ["numpy", "compiled"])
@pytest.mark.parametrize("full", [True, False])
def test_the_free_energy_is_that_of_a_loop_and_never_rises(full, kernel, monkeypatch):
    monkeypatch.setattr(vb, "FULL", 32 if full else -1)
    generator = np.random.default_rng(1)
    problem = random_problem(generator, 12, 9, 3, density=0.7, weighted=True)
    blocks = {Side.USERS: problem.block, Side.ITEMS: problem.transposed.block}
    layout = vb.Layout(3)
    rows = {
        side: layout.start(getattr(problem.factors, side) / 10, vb.START_VARIANCE) for side in Side
    }
    degrees = {side: block.degrees for side, block in blocks.items()}
    assert [len(degrees[side]) for side in Side] == [12, 9]
    priors = {side: vb.Prior.start(np.full(4, 2.0), d) for side, d in degrees.items()}
    counts = {side: len(d) for side, d in degrees.items()}
    level = vb.Hyperparameters(0.5, priors, counts, degrees[Side.USERS].sum())
    cost = {s: level.given(s, 0).penalty(degrees[s], rows[s]).sum() for s in Side}
    alpha, mean, history, scatters = 3.0, 0.0, [], [(2.5, 2.5)] * 12
    for iteration in range(1, 12):
        for side in SIDE_ORDER:
            alpha += mean
            given = level.given(side, alpha)._replace(kernel=kernel)
            update = given.update(blocks[side], rows[side.other])
            rows[side] = update.x
            held = iteration <= vb.HELD
            cost[side] = level.learn(
                side, update.penalty.sum(), vb.RowSums.of(update.more.sum(axis=0)), held=held
            )
            mean = update.residual.sum() / level.weight
            if side == Side.USERS:
                shape = (5 + degrees[side]) / 2
                scatters = list(zip(shape, shape / rows[side][:, -2], strict=True))
            history.append(level.free_energy(sum(cost.values())))
            twin = free_energy(problem, alpha, level, rows, scatters)
            assert history[-1] == pytest.approx(twin, rel=1e-10)
    assert -0.01 < np.diff(history)[-1] <= np.diff(history).max() < 1e-12
    assert all((prior.precision[1:] <= 2.0).all() for prior in level.priors.values())
    again = vb.Hyperparameters.of(level.save())
    assert again.save() == level.save()
    assert again.free_energy(0.0) != history[-1]


@pytest.mark.parametrize("kernel", ["numpy", "compiled"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rank", [3, 30])
def test_without_covariances_and_with_fixed_priors_it_is_als_bit_for_bit(dtype, rank, kernel):
    generator = np.random.default_rng(2)
    problem = random_problem(generator, 30, 40, rank, weighted=rank == 3).astype(dtype)
    ridge = Ridge(0.02, 0.0, problem.total, problem.total / 30, 0.3)
    diagonal = ridge.diagonal(np.ones(1), 1 + rank)[0]
    for tau in (1.0, 0.25):  # a power of two, so that Λ/τ has no rounding
        prior = vb.Prior.start(tau * diagonal, problem.block.degrees)
        fixed = vb.Layout(rank).start(problem.factors.items, 0.0)
        for of_users in (True, False):
            given = vb.Given(3.0, tau, prior, of_users, kernel=kernel)
            update = given.update(problem.block, fixed)
            expected = solve_rows(problem.block, problem.factors.items, 3.0, ridge, kernel=kernel)
            assert update.x[:, : 1 + rank].tobytes() == expected.x.tobytes()
            assert update.squares.tobytes() == expected.squares.tobytes()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-4), (np.float64, 1e-11)])
@pytest.mark.parametrize("rank", [0, 1, 7, 15, 33])
def test_compiled_rows_are_those_of_numpy(rank, dtype, tolerance):
    # Tiles are copied of all items, of two ranges of them, and in turn of those of each rating.
    for items, weighted, of_users in ((20, 0, 1), (3_000, 1, 1), (5_000, 0, 0), (20, 1, 0)):
        generator = np.random.default_rng(items + of_users)
        n = 20_000  # one row is longer than a segment
        row = np.minimum(generator.geometric(0.2, n), 30) - 1
        row[n // 4 :] = 3
        column, ratings = generator.integers(0, items, n), generator.integers(1, 11, n)
        weights = generator.random(n) if weighted else None
        block = RatingBlock.from_triples(row, column, ratings, weights, dtype=dtype)
        fixed = wide(generator, generator.normal(0, 0.5, (items, 1 + rank)).astype(dtype))
        given = vb.Given(5.5, 1.7, prior_of(generator, 1 + rank), bool(of_users))
        exact = RatingBlock.from_triples(row, column, ratings, weights, dtype=np.float64)
        twin = given.update(exact, fixed.astype(float))
        update = given._replace(kernel="compiled").update(block, fixed)
        assert update.x.dtype == dtype
        for of, expected in zip(update, twin, strict=True):
            terms = twin.squares if of is update.residual else expected  # a sum that is nearly 0
            size = max(1.0, float(np.abs(terms).max()))
            np.testing.assert_allclose(of, expected, atol=tolerance * size)


def test_rows_that_elimination_cannot_solve_are_left_to_numpy():
    generator = np.random.default_rng(0)
    block = random_problem(generator, 30, 40, 3, density=0.3).astype(np.float32).block
    fixed = wide(generator, generator.normal(0, 1, (40, 4)).astype(np.float32))
    given = vb.Given(3.0, 1.0, vb.Prior.start(np.array([1.0, 1.0, -9.0, 1.0]), block.degrees), True)
    with np.errstate(all="ignore"):
        twin = given.update(block, fixed)
        update = given._replace(kernel="compiled").update(block, fixed)
    failed = np.isnan(twin.penalty)
    assert 0 < failed.sum() < len(failed)
    assert update.x[failed].tobytes() == twin.x[failed].tobytes()
    np.testing.assert_allclose(update.x, twin.x, rtol=1e-3, atol=1e-3)


def test_given_the_items_the_posterior_of_a_user_is_exact():
    """Where the items are known, mean field is exact: against integration over (β, γ)."""
    generator = np.random.default_rng(4)
    tau, alpha, kappa = 2.0, 0.5, 5.0
    prior = vb.Prior(np.array([2.0, 1.5]), np.array([0.3, -0.2]), 1.0)
    items = np.column_stack([generator.normal(0, 0.3, 4), generator.normal(0, 1, 4)])
    ratings = np.array([2.0, 0.3, -0.4, 1.1])
    block = RatingBlock.from_triples(np.zeros(4, int), np.arange(4), ratings)
    given = vb.Given(alpha, tau, prior, of_users=True)
    fixed = vb.Layout(1).start(items, 0.0)
    update = given.update(block, fixed)
    points = np.linspace(-8, 8, 401)
    beta, gamma = np.meshgrid(points, points, indexing="ij")
    h = np.log(5 / 2)
    quadratic = prior.precision[0] * (beta - h * 0.3) ** 2
    quadratic += prior.precision[1] * (gamma + h * 0.2) ** 2
    for (of_item, g), rating in zip(items, ratings, strict=True):
        quadratic += tau * (rating - alpha - of_item - beta - g * gamma) ** 2
    # ω is integrated over: ∫ ω^((4 + 2)/2) Gamma(ω) exp(−ω quadratic/2) dω
    power = (kappa + 4 + 2) / 2
    log = -power * np.log((kappa + quadratic) / 2) + lgamma(power)
    log += kappa / 2 * np.log(kappa / 2) - lgamma(kappa / 2)
    log += np.log(prior.precision).sum() / 2 + 2 * np.log(tau) - 3 * np.log(2 * np.pi)
    density = np.exp(log)
    mass = density.sum()
    mean = np.array([(density * beta).sum(), (density * gamma).sum()]) / mass
    apart = np.stack([beta - mean[0], gamma - mean[1]])
    covariance = np.einsum("kij,lij,ij->kl", apart, apart, density) / mass
    x, layout = update.x, vb.Layout(1)
    np.testing.assert_allclose(x[0, :2], mean, atol=1e-4)
    v = layout.covariances(layout.kept(x))[0] * x[0, -1]
    np.testing.assert_allclose(v, covariance, rtol=2e-3)
    # and F is −log p(R)
    one = vb.Hyperparameters(tau, dict.fromkeys(Side, prior), dict.fromkeys(Side, 1), 4.0)
    sums = vb.RowSums.of(update.more.sum(axis=0))
    cost = one.learn(Side.USERS, float(update.penalty.sum()), sums, held=True)
    one.tau = tau
    evidence = np.log(mass * (points[1] - points[0]) ** 2)
    assert 4 * one.free_energy(cost) == pytest.approx(-evidence, rel=1e-4)


def test_deviations_are_those_of_draws():
    generator = np.random.default_rng(5)
    users, items = (
        wide(generator, np.array([[0.3, 1.0, -0.5]])),
        wide(generator, np.array([[0.1, 0.7, 0.2]]), omega=False),
    )
    layout, tau, n = vb.Layout(2), 2.0, 60_000
    priors = {side: prior_of(generator, 3) for side in Side}
    level = vb.Hyperparameters(tau, priors, dict.fromkeys(Side, 1), 1.0)
    posterior = level.posterior(users, items)
    u, i = np.array([0, -1, 0, -1]), np.array([0, 0, -1, -1])
    arguments = (users[:, :3], items[:, :3], posterior.measured, u, i)
    found = posterior.spread(of_ratings=False).deviations(*arguments)
    noisy = posterior.spread().deviations(*arguments)
    means = {Side.USERS: users, Side.ITEMS: items}
    for number, pair in enumerate(zip(u, i, strict=True)):
        drawn, noise = [], 5 / 3
        for side, index in zip(Side, pair, strict=True):
            row, omega = means[side], np.ones(n)
            if index >= 0:
                mean, v = row[0, :3], layout.covariances(layout.kept(row))[0] * row[0, -1]
                noise = row[0, -1] if side == Side.USERS else noise
            else:
                mean, v = np.zeros(3), np.diag(1 / priors[side].precision)
                if side == Side.USERS:
                    omega = generator.gamma(2.5, 1 / 2.5, n)
            normal = generator.multivariate_normal(np.zeros(3), v, n)
            drawn.append(mean + normal / np.sqrt(omega)[:, None])
        x, z = drawn
        predicted = x[:, 0] + z[:, 0] + (x[:, 1:] * z[:, 1:]).sum(axis=1)
        assert found[number] == pytest.approx(predicted.std(), rel=0.04)
        assert noisy[number] ** 2 - found[number] ** 2 == pytest.approx(noise / tau)
    restored = vb.VariationalPosterior.restore(posterior.measured, posterior.save())
    np.testing.assert_array_equal(restored.spread().deviations(*arguments), noisy)
