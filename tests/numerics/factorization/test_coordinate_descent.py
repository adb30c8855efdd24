"""The sweep over the coordinates of a row: each is best for the values that it finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.coordinate_descent import sweep_rows
from nonconvex.numerics.factorization.model import Ridge
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import (
    PROPERTY,
    fit,
    problems,
    random_problem,
    solve,
    sweep,
)


def test_two_ratings_by_hand():
    # α = 3, y = R − 3 = (1, 2), γ_i = (1, −1) and n λ = 2; from β = 0 and γ = 1:
    # β = ((1 − 1) + (2 + 1)) / (2 + 2), then γ = ((1 − 3/4) − (2 − 3/4)) / (2 + 2).
    block = RatingBlock.from_triples([0, 0], [0, 1], [4, 5])
    z, start = np.array([[0.0, 1], [0, -1]]), np.array([[0.0, 1.0]])
    update = sweep_rows(block, z, 3.0, Ridge(1.0, 0.0, 2, 2.0), start)
    np.testing.assert_allclose(update.x, [[3 / 4, -1 / 4]], rtol=1e-14)
    np.testing.assert_allclose(update.residual, [1 / 2 + 1], rtol=1e-14)
    np.testing.assert_allclose(update.squares, [1 / 4 + 1], rtol=1e-14)
    np.testing.assert_allclose(update.penalty, [2 * 10 / 16], rtol=1e-14)
    np.testing.assert_allclose(update.weight, [2], rtol=0)


@PROPERTY
@given(problems(), st.booleans())
def test_a_sweep_is_the_scalar_closed_forms_in_turn(problem, nonnegative):
    alpha, start, z = problem.factors
    update = sweep(problem, nonnegative=nonnegative)
    for found, (u, rated) in zip(update.x, problem.rows.items(), strict=True):
        diagonal = twins.ridges(problem.user_ridge, twins.degree(rated), len(found))
        twin = twins.sweep_row(rated, z, alpha, diagonal, start[u], problem.biases, nonnegative)
        np.testing.assert_allclose(found, twin, rtol=1e-10, atol=1e-10 * np.abs(twin).max())


@PROPERTY
@given(problems())
def test_every_partial_derivative_is_0_right_after_its_own_update(problem):
    # A sweep goes from left to right: after x_k, what stands right of k is as it was.
    new, start = sweep(problem).x, problem.factors.users[problem.block.rows]
    for k in range(0 if problem.biases else 1, new.shape[1]):
        after = problem.with_users(
            np.hstack([new[:, : k + 1], start[:, k + 1 :]]), problem.block.rows
        )
        alpha, x, z = after.factors
        n, f = problem.total, after.objective()
        for u, rated in problem.rows.items():
            diagonal = twins.ridges(problem.user_ridge, twins.degree(rated), x.shape[1])
            value, size = twins.slope(rated, z, alpha, diagonal, x[u], k)
            assert abs(value) <= 1e-8 * size
            # f is a parabola along x_k, so central differences are exact for any step
            assert abs(after.central_difference(u, k)) * n / 2 <= 1e-8 * size + 1e-13 * n * f


def test_sweeps_over_one_side_end_at_its_exact_solution():
    problem = random_problem(np.random.default_rng(1), 20, 15, 3, reg=0.05)
    exact = solve(problem).x
    for _ in range(200):
        problem = problem.with_users(sweep(problem).x, problem.block.rows)
    reached = problem.factors.users[problem.block.rows]
    np.testing.assert_allclose(reached, exact, atol=1e-10 * np.abs(exact).max())


@pytest.mark.parametrize("nonnegative", [False, True])
def test_the_exact_solution_is_a_fixed_point(nonnegative):
    problem = random_problem(np.random.default_rng(1), 20, 15, 4)
    exact = solve(problem, nonnegative=nonnegative).x
    again = sweep(problem.with_users(exact, problem.block.rows), nonnegative=nonnegative).x
    np.testing.assert_allclose(again, exact, atol=1e-11 * np.abs(exact).max())


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_a_row_without_weight_or_ridge_stays_where_it_is(exponent):
    block = RatingBlock.from_triples([0, 1], [0, 0], [5, 3], [0, 2])
    start = np.ones((2, 3))
    update = sweep_rows(block, np.ones((1, 3)), 1.0, Ridge(0.1, exponent, 2, 1.0), start)
    assert update.x[0].tolist() == [1, 1, 1]
    assert [values[0] for values in update[1:]] == [0, 0, 0, 0]
    assert not np.any(update.x[1] == 1)
    assert start.tolist() == np.ones((2, 3)).tolist()  # what was passed in is left alone


def test_both_solvers_agree_on_how_low_f_can_go():
    problem = random_problem(np.random.default_rng(6), 25, 20, 2, reg=0.02)
    exact, coordinate = fit(problem, solve, 60), fit(problem, sweep, 120)
    assert coordinate.objective() == pytest.approx(exact.objective(), rel=1e-3)
