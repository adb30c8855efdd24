"""Implicit feedback, against loops over all pairs: observed or not, liked or not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.implicit import Background, preferences
from nonconvex.numerics.factorization.model import Factors
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import (
    PROPERTY,
    SOLVERS,
    Problem,
    lecture,
    problems,
    random_problem,
    solve,
    sweep,
)

CONFIDENCES = st.sampled_from([0.1, 1.0, 40.0])


class Feedback:
    """A problem whose ratings are strengths of feedback, and its twin: a rating for every pair."""

    def __init__(self, problem: Problem, confidence: float):
        positive = float(max(1, (problem.ratings > 0).sum()))
        alpha, users, items = problem.factors
        self.problem = problem._replace(
            user_ridge=problem.user_ridge._replace(
                total=positive, mean_degree=positive / len(users)
            ),
            item_ridge=problem.item_ridge._replace(
                total=positive, mean_degree=positive / len(items)
            ),
            weights=None,
        )
        self.confidence = confidence
        self.block = preferences(self.problem.block, confidence)
        self.background = Background.of(items, alpha, biases=problem.biases)
        strengths = {u: {r.column: r.rating for r in row} for u, row in self.problem.rows.items()}
        self.rows = {
            u: twins.implicit_ratings(row, len(items), confidence) for u, row in strengths.items()
        }
        width = users.shape[1]
        self.degrees = {u: sum(v > 0 for v in row.values()) for u, row in strengths.items()}
        self.ridges = {
            u: np.array(twins.ridges(self.problem.user_ridge, degree, width))
            for u, degree in self.degrees.items()
        }

    @property
    def transposed(self):
        return Feedback(self.problem.transposed, self.confidence)

    def penalties(self):
        x = self.problem.factors.users.astype(float)
        return {u: float(self.ridges[u] @ x[u] ** 2) for u in self.rows}

    def objective(self):
        """n f, by loops over all pairs."""
        alpha, x, z = self.problem.factors
        squares = sum(twins.sums(rated, z, alpha, x[u])[1] for u, rated in self.rows.items())
        return squares + sum(self.penalties().values()) + sum(self.transposed.penalties().values())

    def update(self, solver, **options):
        return solver(self.problem, self.block, background=self.background, **options)

    def with_users(self, x):
        return Feedback(self.problem.with_users(x, self.block.rows), self.confidence)


@st.composite
def feedback(draw):
    """Strengths of either sign, some 0; everybody and everything occurs."""
    problem = draw(problems())
    users, u = np.unique(problem.users, return_inverse=True)
    items, i = np.unique(problem.items, return_inverse=True)
    alpha, x, z = problem.factors
    strengths = np.where(np.arange(len(u)) % 4 == 3, 0.0, problem.ratings)
    factors = Factors(alpha, x[users], z[items])
    return Feedback(
        problem._replace(users=u, items=i, ratings=strengths, factors=factors), draw(CONFIDENCES)
    )


@pytest.mark.parametrize("strength", [3.0, 0.5, 0.0, -2.0])
@pytest.mark.parametrize("confidence", [1.0, 40.0])
@pytest.mark.parametrize("prediction", [-1.0, 0.0, 0.7, 1.0, 5.0])
def test_a_pair_costs_its_background_and_an_explicit_rating(strength, confidence, prediction):
    block = preferences(RatingBlock.from_triples([0], [0], [strength]), confidence)
    c, p = 1 + confidence * abs(strength), float(strength > 0)
    (rating,), (weight,) = block.ratings, block.weights
    explicit = weight * (rating - prediction) ** 2 - rating
    assert prediction**2 + explicit == pytest.approx(c * (p - prediction) ** 2, abs=1e-11)


def test_only_positive_strengths_count_for_the_regularization():
    block = RatingBlock.from_triples([0, 0, 0, 1, 1], [0, 1, 2, 0, 1], [2.0, 0.0, 1.0, -1.0, 0.0])
    found = preferences(block, 2.0)
    assert found.degrees.tolist() == [2, 0]
    assert found.weights.tolist() == [4, 0, 2, 2, 0]
    assert found.ratings.tolist() == [1.25, 0, 1.5, 0, 0]
    assert [a.dtype for a in preferences(block, 2)[:-1]] == [a.dtype for a in found[:-1]]
    single = preferences(RatingBlock.from_triples([0], [0], [2.0], dtype=np.float32), 2.0)
    assert single.ratings.dtype == single.weights.dtype == np.float32


@PROPERTY
@given(problems())
def test_a_background_is_a_loop_over_all_columns(problem):
    alpha, x, z = problem.factors
    background = Background.of(z, alpha, biases=problem.biases)
    predictions = np.array([[twins.predict(alpha, row, column) for column in z] for row in x])
    size = np.abs(predictions).max(initial=1.0)
    close = {"rtol": 1e-10, "atol": 1e-10 * size**2}
    np.testing.assert_allclose(background.residual(x), -predictions.sum(axis=1), **close)
    np.testing.assert_allclose(background.squares(x), (predictions**2).sum(axis=1), **close)
    # half the gradient of Σ R̂² is gram x − pull
    half = predictions @ np.hstack([np.full((len(z), 1), float(problem.biases)), z[:, 1:]])
    np.testing.assert_allclose(x @ background.gram - background.pull, half, **close)
    assert background.columns == len(z)


@PROPERTY
@given(feedback())
def test_the_solution_is_that_of_a_weighted_rating_for_every_pair(feedback):
    alpha, _, z = feedback.problem.factors
    update = feedback.update(solve)
    for x, u in zip(update.x, feedback.block.rows, strict=True):
        diagonal, biases = feedback.ridges[u], feedback.problem.biases
        for k in range(0 if biases else 1, len(x)):
            value, size = twins.slope(feedback.rows[u], z, alpha, diagonal, x, k)
            assert abs(value) <= 1e-8 * size
        if np.all(diagonal > 0):
            twin = twins.solve_row(feedback.rows[u], z, alpha, diagonal, biases)
            np.testing.assert_allclose(x, twin, rtol=1e-9, atol=1e-9 * np.abs(twin).max())


@PROPERTY
@given(feedback(), st.booleans())
def test_a_sweep_is_that_over_a_weighted_rating_for_every_pair(feedback, nonnegative):
    alpha, x, z = feedback.problem.factors
    update = feedback.update(sweep, nonnegative=nonnegative)
    for found, u in zip(update.x, feedback.block.rows, strict=True):
        biases = feedback.problem.biases
        twin = twins.sweep_row(
            feedback.rows[u], z, alpha, feedback.ridges[u], x[u], biases, nonnegative
        )
        np.testing.assert_allclose(found, twin, rtol=1e-9, atol=1e-9 * np.abs(twin).max())


@pytest.mark.parametrize("solver", SOLVERS)
@PROPERTY
@given(feedback=feedback())
def test_the_sums_of_an_update_are_those_over_all_pairs(solver, feedback):
    update = feedback.update(solver)
    after = feedback.with_users(update.x)
    alpha, x, z = after.problem.factors
    for j, u in enumerate(feedback.block.rows):
        rated = feedback.rows[u]
        residual, squares = twins.sums(rated, z, alpha, x[u])
        size = max(twins.sums(rated, z, 0.0, np.zeros_like(x[u]))[1], squares, 1.0)
        assert update.residual[j] == pytest.approx(residual, rel=1e-9, abs=1e-10 * size)
        assert update.squares[j] == pytest.approx(squares, rel=1e-9, abs=1e-10 * size)
        assert update.penalty[j] == pytest.approx(after.penalties()[u], rel=1e-12)
        assert update.weight[j] == pytest.approx(twins.degree(rated), rel=1e-12)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
@PROPERTY
@given(feedback=feedback())
def test_the_objective_over_all_pairs_never_rises(solver, nonnegative, feedback):
    if nonnegative:  # descent is promised from where γ ≥ 0 holds
        alpha, *sides = feedback.problem.factors
        sides = [np.hstack([x[:, :1], np.abs(x[:, 1:])]) for x in sides]
        feedback = Feedback(
            feedback.problem._replace(factors=Factors(alpha, *sides)), feedback.confidence
        )
    slack = 1e-12 * sum(twins.degree(rated) for rated in feedback.rows.values())
    f = feedback.objective()
    for _ in range(2):
        update = feedback.update(solver, nonnegative=nonnegative)
        step = update.residual.sum() / update.weight.sum()
        feedback = feedback.with_users(update.x)
        before, f = f, feedback.objective()
        assert f <= before * (1 + 1e-12) + slack
        alpha = feedback.problem.factors.alpha + step  # also the best α for the new rows
        feedback = Feedback(feedback.problem.with_alpha(alpha), feedback.confidence).transposed
        before, f = f, feedback.objective()
        assert f <= before * (1 + 1e-12) + slack


@PROPERTY
@given(feedback())
def test_a_strength_of_0_says_as_little_as_none(feedback):
    said = feedback.problem.ratings != 0
    problem = feedback.problem
    problem = problem._replace(
        users=problem.users[said], items=problem.items[said], ratings=problem.ratings[said]
    )
    without = Feedback(problem, feedback.confidence)
    x = dict(zip(feedback.block.rows, feedback.update(solve).x, strict=True))
    for u, found in zip(without.block.rows, without.update(solve).x, strict=True):
        if np.all(feedback.ridges[u] > 0):
            np.testing.assert_allclose(found, x[u], rtol=1e-8, atol=1e-8 * np.abs(x[u]).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_get_the_same_bits_in_whatever_block_they_stand(solver, dtype):
    problem = random_problem(np.random.default_rng(5), 12, 30, 6).astype(dtype)
    feedback = Feedback(problem, 10.0)
    whole = feedback.update(solver)
    for j, u in enumerate(feedback.block.rows):
        mine = problem.users == u
        block = RatingBlock.from_triples(
            problem.users[mine], problem.items[mine], problem.ratings[mine], dtype=dtype
        )
        block = preferences(block, 10.0)
        alone = solver(feedback.problem, block, background=feedback.background)
        for one, all_rows in zip(alone, whole, strict=True):
            assert one.tobytes() == all_rows[j : j + 1].tobytes()


@pytest.mark.parametrize("seed", range(3))
def test_the_lecture_s_groups_are_told_apart_from_any_start(seed):
    # All pairs count, so what was not observed pulls the prediction of (2, 4) to 0.
    feedback = Feedback(lecture(seed, reg=0.01), confidence=10.0)
    for _ in range(100):
        feedback = feedback.with_users(feedback.update(solve).x).transposed
    _, x, z = feedback.problem.factors
    predictions = x[:, 1:] @ z[:, 1:].T
    assert np.all(np.abs(predictions[:3, 3:]) < 1e-6)
    assert np.all(np.abs(predictions[3:, :3]) < 1e-6)
    observed = predictions[feedback.problem.users, feedback.problem.items]
    assert np.all(np.abs(observed - 1) < 0.1)
