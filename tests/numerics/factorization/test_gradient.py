"""The gradient of f against central differences of f, and what sampling users makes of it."""

import numpy as np
import pytest

from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gradient import (
    Gradient,
    gradient,
    gradient_sums,
    sample_ratings,
)
from nonconvex.numerics.factorization.model import (
    Background,
    Factors,
    Ridge,
    objective,
    preference_block,
)
from nonconvex.numerics.optim import make_optimizer, make_schedule

USERS, ITEMS, RANK = 7, 5, 2


def triples(generator, n=20):
    pairs = generator.choice(USERS * ITEMS, n, replace=False)
    return pairs // ITEMS, pairs % ITEMS, generator.normal(3, 1, n)


def random_factors(generator, *, biases=True):
    users, items = (generator.normal(size=(m, 1 + RANK)) for m in (USERS, ITEMS))
    if not biases:
        users[:, 0] = items[:, 0] = 0
    return Factors(0.7, users, items)


def slope(factors, data, ridges, weights=None, *, biases=True, transform=None, sampled=None):
    """The gradient by the kernels: both sides of the same ratings, of some users or of all."""
    users, items, ratings = data
    pulls, diagonals = [], []
    for rows, columns, own, other, ridge in (
        (users, items, factors.users, factors.items, ridges[0]),
        (items, users, factors.items, factors.users, ridges[1]),
    ):
        block = RatingBlock.from_triples(rows, columns, ratings, weights)
        background = None
        if transform is not None:
            block = transform(block)
            background = Background.of(other, factors.alpha, biases=biases)
        degrees = np.zeros(len(own))
        degrees[block.rows] = block.degrees
        if sampled is not None:
            block = sample_ratings(block, sampled, rows=own is factors.users)
        options = {"biases": biases, "background": background}
        part = gradient_sums(block, other, factors.alpha, ridge, own[block.rows], **options)
        x = np.zeros_like(own)
        x[block.rows] = part.x
        pulls.append(part._replace(x=x))
        diagonals.append(ridge.diagonal(degrees, own.shape[1]))
    return gradient(factors, *pulls, *diagonals, ridges[0].total)


def along(factors, direction, step):
    return Factors(*(p + step * d for p, d in zip(factors, direction, strict=True)))


def central_difference(f, factors, direction, h=1e-5):
    return (f(along(factors, direction, h)) - f(along(factors, direction, -h))) / (2 * h)


def assert_is_gradient(found, f, factors, generator, *, biases=True):
    for _ in range(5):
        direction = random_factors(generator, biases=biases)
        expected = central_difference(f, factors, direction)
        along_it = sum(float(np.sum(x * y)) for x, y in zip(found, direction, strict=True))
        assert along_it == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("biases", [True, False])
def test_equals_central_differences(exponent, weighted, biases):
    generator = np.random.default_rng(0)
    users, items, ratings = triples(generator)
    weights = generator.uniform(0.5, 2, len(ratings)) if weighted else None
    total = len(ratings) if weights is None else float(weights.sum())
    ridges = [Ridge(0.03, exponent, total, total / m, 0.4) for m in (USERS, ITEMS)]
    factors = random_factors(generator, biases=biases)
    found = slope(factors, (users, items, ratings), ridges, weights, biases=biases)

    def f(at):
        return objective(at, users, items, ratings, *ridges, weights)

    assert_is_gradient(found, f, factors, generator, biases=biases)


def test_equals_central_differences_for_implicit_feedback():
    generator = np.random.default_rng(1)
    users, items, ratings = triples(generator)
    ratings = np.abs(ratings)
    kappa, total = 2.0, float(len(ratings))
    ridges = [Ridge(0.03, 0.0, total, total / m) for m in (USERS, ITEMS)]
    factors = random_factors(generator)

    def transform(block):
        return preference_block(block, kappa)

    def f(at):  # the definition, over all pairs
        confidence, preference = np.ones((USERS, ITEMS)), np.zeros((USERS, ITEMS))
        confidence[users, items] += kappa * ratings
        preference[users, items] = 1
        beta = at.users[:, :1] + at.items[:, 0]
        predicted = at.alpha + beta + at.users[:, 1:] @ at.items[:, 1:].T
        penalty = 0.03 * total * sum(np.sum(x**2) for x in (at.users, at.items))
        return (np.sum(confidence * (preference - predicted) ** 2) + penalty) / total

    found = slope(factors, (users, items, ratings), ridges, transform=transform)
    assert_is_gradient(found, f, factors, generator)


def test_samples_average_to_the_whole():
    generator = np.random.default_rng(2)
    users, items, ratings = triples(generator)
    total = float(len(ratings))
    ridges = [Ridge(0.03, 0.0, total, total / m) for m in (USERS, ITEMS)]
    factors = random_factors(generator)
    whole = slope(factors, (users, items, ratings), ridges)
    each = (np.arange(USERS) == user for user in range(USERS))  # each user alone once
    parts = [slope(factors, (users, items, ratings), ridges, sampled=user) for user in each]
    mean = Gradient(*(np.mean([part[i] for part in parts], axis=0) for i in range(3)))
    for found, expected in zip(mean, whole, strict=True):
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
    generator = np.random.default_rng(3)
    users, items, ratings = triples(generator, 30)
    total = float(len(ratings))
    ridges = [Ridge(0.05, 0.0, total, total / m) for m in (USERS, ITEMS)]
    start = random_factors(generator)

    alpha, x, z = start
    for _ in range(300):
        update = solve_rows(RatingBlock.from_triples(items, users, ratings), x, alpha, ridges[1])
        z, alpha = update.x, alpha + update.residual.sum() / total
        update = solve_rows(RatingBlock.from_triples(users, items, ratings), z, alpha, ridges[0])
        x, alpha = update.x, alpha + update.residual.sum() / total
    expected = objective(Factors(alpha, x, z), users, items, ratings, *ridges)

    rate = {"adam": 0.1, "nesterov": 0.05}[name]
    optimizer = make_optimizer(name, make_schedule("cosine", rate, decay_steps=1500))
    shapes = [np.shape(part) for part in start]
    bounds = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

    def flat(parts):
        return np.concatenate([np.ravel(part) for part in parts])

    def unflat(theta):
        pieces = np.split(theta, bounds)
        return Factors(*(p.reshape(shape) for p, shape in zip(pieces, shapes, strict=True)))

    theta = flat(start)
    state = optimizer.init(theta)
    for _ in range(1500):
        found = slope(unflat(theta), (users, items, ratings), ridges)
        step, state = optimizer.update(flat(found), state, theta)
        theta = theta + step
    reached = objective(unflat(theta), users, items, ratings, *ridges)
    assert reached == pytest.approx(expected, rel=5e-3)
    assert np.linalg.norm(flat(slope(unflat(theta), (users, items, ratings), ridges))) < 1e-3
