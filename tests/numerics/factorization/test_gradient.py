"""The gradient of f against central differences of f, and what sampling users makes of it."""

import numpy as np
import pytest

from nonconvex.numerics.convergence import Stationarity
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gradient import (
    Gradient,
    gradient,
    gradient_sums,
    sample_ratings,
)
from nonconvex.numerics.factorization.model import Background, Factors, Ridge, preference_block
from nonconvex.numerics.optim import make_optimizer, make_schedule
from tests.numerics.factorization.problems import fit, random_problem, ridges, solve

USERS, ITEMS, RANK = 7, 5, 2


def random(generator, **settings):
    return random_problem(generator, USERS, ITEMS, RANK, **settings)


def slope(problem, *, transform=None, sampled=None):
    """The gradient by the kernels: both sides of the same ratings, of some users or of all."""
    pulls, diagonals = [], []
    for side, rows in ((problem, True), (problem.transposed, False)):
        alpha, own, other = side.factors
        block, background = side.block, None
        if transform is not None:
            block = transform(block)
            background = Background.of(other, alpha, biases=side.biases)
        degrees = np.zeros(len(own))
        degrees[block.rows] = block.degrees
        if sampled is not None:
            block = sample_ratings(block, sampled, rows=rows)
        options = {"biases": side.biases, "background": background}
        part = gradient_sums(block, other, alpha, side.user_ridge, own[block.rows], **options)
        x = np.zeros_like(own)
        x[block.rows] = part.x
        pulls.append(part._replace(x=x))
        diagonals.append(side.user_ridge.diagonal(degrees, own.shape[1]))
    return gradient(problem.factors, *pulls, *diagonals, problem.total)


def assert_is_gradient(found, f, problem, generator, h=1e-5):
    """Compare with central differences in random directions."""
    for _ in range(5):
        sides = (generator.normal(size=x.shape) for x in problem.factors[1:])
        mask = np.append(float(problem.biases), np.ones(RANK))
        direction = (0.7, *(x * mask for x in sides))
        ahead, behind = (
            Factors(*(p + step * d for p, d in zip(problem.factors, direction, strict=True)))
            for step in (h, -h)
        )
        along_it = sum(float(np.sum(x * y)) for x, y in zip(found, direction, strict=True))
        assert along_it == pytest.approx((f(ahead) - f(behind)) / (2 * h), rel=1e-8)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biases", [True, False])
def test_equals_central_differences(exponent, weighted, biases):
    generator = np.random.default_rng(0)
    settings = {"exponent": exponent, "weighted": weighted, "biases": biases}
    problem = random(generator, reg=0.03, bias_ratio=0.4, **settings)

    def f(at):
        return problem._replace(factors=at).objective()

    assert_is_gradient(slope(problem), f, problem, generator)


def test_equals_central_differences_for_implicit_feedback():
    generator = np.random.default_rng(1)
    problem = random(generator)
    users, items, ratings = problem.users, problem.items, np.abs(problem.ratings)
    kappa, n = 2.0, len(ratings)
    user_ridge, item_ridge = ridges(0.03, float(n), USERS, ITEMS)
    problem = problem._replace(ratings=ratings, user_ridge=user_ridge, item_ridge=item_ridge)

    def f(at):  # the definition, over all pairs
        confidence, preference = np.ones((USERS, ITEMS)), np.zeros((USERS, ITEMS))
        confidence[users, items] += kappa * ratings
        preference[users, items] = 1
        beta = at.users[:, :1] + at.items[:, 0]
        predicted = at.alpha + beta + at.users[:, 1:] @ at.items[:, 1:].T
        penalty = 0.03 * n * sum(np.sum(x**2) for x in (at.users, at.items))
        return (np.sum(confidence * (preference - predicted) ** 2) + penalty) / n

    found = slope(problem, transform=lambda block: preference_block(block, kappa))
    assert_is_gradient(found, f, problem, generator)


def test_samples_average_to_the_whole():
    problem = random(np.random.default_rng(2), reg=0.03)
    each = (np.arange(USERS) == user for user in range(USERS))  # each user alone once
    parts = [slope(problem, sampled=user) for user in each]
    mean = Gradient(*(np.mean([part[i] for part in parts], axis=0) for i in range(3)))
    for found, expected in zip(mean, slope(problem), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows", [True, False])
def test_a_sample_is_the_ratings_of_those_sampled(rows):
    block = RatingBlock.from_triples([0, 0, 2, 2, 3], [1, 4, 0, 4, 2], [1.0, 2, 3, 4, 5], [1.0] * 5)
    sampled = np.isin(np.arange(5), [2, 4] if rows else [0, 4])
    part = sample_ratings(block, sampled, rows=rows)
    kept = {(2, 0), (2, 4)} if rows else {(0, 4), (2, 0), (2, 4)}
    of_rating = np.repeat(part.rows, part.counts).tolist()
    assert set(zip(of_rating, part.columns.tolist(), strict=True)) == kept
    assert part.weights.tolist() == [2.5] * len(kept)
    assert part.offsets[-1] == len(part.ratings) == len(kept)
    part = sample_ratings(block, np.zeros(5, bool), rows=rows)  # of none
    assert len(part.rows) == len(part.ratings) == 0
    ridge = Ridge(0.1, 0.0, 2, 1.0)
    assert gradient_sums(part, np.ones((5, 3)), 0.0, ridge, np.ones((0, 3))).x.shape == (0, 3)


@pytest.mark.parametrize("name", ["adam", pytest.param("nesterov", marks=pytest.mark.thorough)])
def test_descent_reaches_what_als_reaches(name):
    problem = random(np.random.default_rng(3), density=0.85, reg=0.05)
    expected = fit(problem, solve, 300).objective()
    rate = {"adam": 0.1, "nesterov": 0.05}[name]
    optimizer = make_optimizer(name, make_schedule("cosine", rate, decay_steps=1500))
    shapes = [np.shape(part) for part in problem.factors]
    bounds = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

    def flat(parts):
        return np.concatenate([np.ravel(part) for part in parts])

    def at(theta):
        pieces = zip(np.split(theta, bounds), shapes, strict=True)
        return problem._replace(factors=Factors(*(p.reshape(shape) for p, shape in pieces)))

    theta = flat(problem.factors)
    state = optimizer.init(theta)
    for _ in range(1500):
        step, state = optimizer.update(flat(slope(at(theta))), state, theta)
        theta = theta + step
    assert at(theta).objective() == pytest.approx(expected, rel=5e-3)
    assert np.linalg.norm(flat(slope(at(theta)))) < 1e-3


@pytest.mark.parametrize("nonnegative", [False, True])
def test_stationarity_is_that_of_a_loop_over_parameters(nonnegative):
    generator = np.random.default_rng(4)
    factors = Factors(3.0, *(generator.normal(size=(n, 1 + RANK)) for n in (USERS, ITEMS)))
    factors.users[:3, 1:] = 0
    slope = Gradient(-0.2, *(generator.normal(size=x.shape) for x in factors[1:]))
    squares, size = 0.2**2, 3.0**2
    for x, g in zip(factors[1:], slope[1:], strict=True):
        if nonnegative:
            x[:, 1:] = np.maximum(x[:, 1:], 0)
        for (row, column), value in np.ndenumerate(x):
            size += value**2
            at_its_bound = nonnegative and column > 0 and value == 0
            if not (at_its_bound and g[row, column] > 0):
                squares += g[row, column] ** 2
    found = Stationarity.of(slope, factors, 1.7, nonnegative=nonnegative)
    assert found.gradient_norm == pytest.approx(np.sqrt(squares), rel=1e-14)
    relative = np.sqrt(squares * size) / 1.7
    assert found.relative_gradient == pytest.approx(relative, rel=1e-14)


def test_alternating_least_squares_ends_where_the_gradient_is_zero():
    problem = random(np.random.default_rng(3), density=0.85, reg=0.05)
    found = []
    for iterations in (1, 10, 2000):
        end = fit(problem, solve, iterations)
        found.append(Stationarity.of(slope(end), end.factors, end.objective()).relative_gradient)
    assert found[0] > found[1] > 1e-5 > 1e-10 > found[2]
