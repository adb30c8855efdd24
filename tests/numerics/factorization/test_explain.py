"""What ratings add to a prediction: they add up to it, and one by one are solved for again."""

import numpy as np
import pytest

from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.explain import contributions, explain_row
from nonconvex.numerics.factorization.fold_in import Equation
from nonconvex.numerics.factorization.model import (
    Background,
    Factors,
    Ridge,
    Side,
    preference_block,
)
from nonconvex.numerics.factorization.vb import Covariances, VariationalPosterior
from tests.numerics.factorization.test_vb import prior_of, wide

ALPHA, RIDGE = 3.0, Ridge(0.05, 0.5, 30, 3.0, 0.4)
TARGET = np.array([0.0, 0.7, -1.2, 0.4])


@pytest.fixture(scope="module")
def fixed():
    return np.random.default_rng(5).normal(size=(12, 4))


@pytest.fixture(scope="module")
def block():
    rng = np.random.default_rng(6)
    items = rng.choice(12, 7, replace=False)
    ratings, weights = rng.integers(1, 6, 7), rng.uniform(0.5, 2, 7)
    return RatingBlock.from_triples(np.zeros(7, int), items, ratings, weights)


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("implicit", [True, False])
def test_they_add_up_to_the_interaction(fixed, block, biases, nonnegative, implicit):
    background = None
    if implicit:
        block = preference_block(block, 2.0)
        background = Background.of(fixed, ALPHA, biases=biases)
    options = {"biases": biases, "background": background}
    [x] = solve_rows(block, fixed, ALPHA, RIDGE, nonnegative=nonnegative, **options).x
    penalty = np.diag(RIDGE.diagonal(block.degrees, 4)[0])
    free = np.append(True, x[1:] > 0) if nonnegative else np.ones(4, bool)
    assert free.all() == (not nonnegative), "so that some unknowns are held at 0"
    carried = contributions(block, fixed, ALPHA, penalty, TARGET, free=free, **options)
    missing = 0.0
    if background is not None:  # what pulls x though nobody rated it
        z = fixed[block.columns] * [0, 1, 1, 1] + [float(biases), 0, 0, 0]
        a = (z.T * block.weights) @ z + penalty + background.gram
        inverse = np.zeros((4, 4))
        inverse[np.ix_(free, free)] = np.linalg.inv(a[np.ix_(free, free)])
        missing = float(TARGET @ inverse @ background.rhs)
    assert carried.sum() + missing == pytest.approx(float(TARGET @ x), abs=1e-12)


def test_each_is_what_is_solved_for_if_the_others_say_nothing(fixed, block):
    """The obvious twin: put the targets of all other ratings to 0, and solve again."""
    penalty = np.diag(RIDGE.diagonal(block.degrees, 4)[0])
    carried = contributions(block, fixed, ALPHA, penalty, TARGET)
    silent = ALPHA + fixed[block.columns, 0]
    for number in range(7):
        ratings = np.where(np.arange(7) == number, block.ratings, silent)
        [x] = solve_rows(block._replace(ratings=ratings), fixed, ALPHA, RIDGE).x
        assert carried[number] == pytest.approx(float(TARGET @ x), abs=1e-12)


def test_a_ridge_of_zero_and_fewer_ratings_than_unknowns(fixed):
    block = RatingBlock.from_triples([0, 0], [1, 2], [5.0, 1.0])
    carried = contributions(block, fixed, ALPHA, np.zeros((4, 4)), TARGET)
    z = fixed[[1, 2]] * [0, 1, 1, 1] + [1, 0, 0, 0]
    x = np.linalg.pinv(z) @ (np.array([5.0, 1.0]) - ALPHA - fixed[[1, 2], 0])
    assert carried.sum() == pytest.approx(float(TARGET @ x), abs=1e-9)


@pytest.mark.parametrize("weighted", [True, False])
def test_variational_rows_have_their_own_prior_and_covariances(fixed, block, weighted):
    """The obvious twin again, with the update of a user: what changes without a rating's target."""
    generator = np.random.default_rng(7)
    items, priors = wide(generator, fixed), [prior_of(generator, 4) for _ in range(2)]
    block = block if weighted else block._replace(weights=None)
    learned = VariationalPosterior(Covariances(np.empty((1, 0)), items[:, 4:]), 1.7, *priors, 8.0)
    given = learned.given(Side.USERS, ALPHA)
    x = given.update(block, items).x[:, :4]
    equation = Equation(RIDGE, biases=True, nonnegative=False, confidence=None)
    pair, factors = (0, 3), Factors(ALPHA, x, fixed)
    names = [f"item {column}" for column in block.columns]
    why = explain_row(("ann", "film"), pair, factors, learned, equation, names, block)
    carried = {reason.item: reason.contribution for reason in why.reasons}
    silent = ALPHA + fixed[block.columns, 0]
    for number, name in enumerate(names):
        ratings = np.where(np.arange(7) == number, silent, block.ratings)
        [without] = given.update(block._replace(ratings=ratings), items).x[:, :4]
        expected = float(fixed[3, 1:] @ (x[0] - without)[1:])
        assert carried[name] == pytest.approx(expected, abs=1e-12)
