"""The exact solve of a row: by hand, against its twin, and where its derivatives are 0."""

import numpy as np
import pytest
from hypothesis import given

from nonconvex.numerics.factorization import design as designs
from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Factors, Ridge
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import (
    PROPERTY,
    Problem,
    problems,
    random_problem,
    ridges,
    solve,
)


def test_four_ratings_by_hand():
    # α = 3 and β_i = 0, so y = R − 3; γ_i is 1 for item 0 and −1 for item 1; n λ = 2.
    # User 0 rated both 4 and 5: A = [2 0; 0 2] + 2 I, b = (1 + 2, 1 − 2).
    # User 1 rated item 0 twice, 1 and 1: A = [2 2; 2 2] + 2 I, b = (−4, −4).
    block = RatingBlock.from_triples([0, 0, 1, 1], [0, 1, 0, 0], [4, 5, 1, 1])
    update = solve_rows(block, np.array([[0.0, 1], [0, -1]]), 3.0, Ridge(0.5, 0.0, 4, 2.0))
    np.testing.assert_allclose(update.x, [[3 / 4, -1 / 4], [-2 / 3, -2 / 3]], rtol=1e-14)
    # errors: 1 − 1/2 and 2 − 1; −2 + 4/3 twice
    np.testing.assert_allclose(update.residual, [1.5, -4 / 3], rtol=1e-14)
    np.testing.assert_allclose(update.squares, [1.25, 8 / 9], rtol=1e-14)
    np.testing.assert_allclose(update.penalty, [2 * 10 / 16, 2 * 8 / 9], rtol=1e-14)
    np.testing.assert_allclose(update.weight, [2, 2], rtol=0)


@PROPERTY
@given(problems())
def test_a_row_solves_its_own_ridge_regression(problem):
    alpha, _, z = problem.factors
    for x, rated in zip(solve(problem).x, problem.rows.values(), strict=True):
        diagonal = twins.ridges(problem.user_ridge, twins.degree(rated), len(x))
        twin = twins.solve_row(rated, z, alpha, diagonal, problem.biases)
        np.testing.assert_allclose(x, twin, rtol=1e-10, atol=1e-10 * np.abs(twin).max())


@PROPERTY
@given(problems())
def test_every_partial_derivative_is_0_after_the_update(problem):
    after = problem.with_users(solve(problem).x, problem.block.rows)
    alpha, x, z = after.factors
    n, f = problem.total, after.objective()
    for u, rated in problem.rows.items():
        diagonal = twins.ridges(problem.user_ridge, twins.degree(rated), x.shape[1])
        for k in range(0 if problem.biases else 1, x.shape[1]):
            value, size = twins.slope(rated, z, alpha, diagonal, x[u], k)
            assert abs(value) <= 1e-8 * size
            # f is a parabola along x_k, so central differences are exact for any step
            assert abs(after.central_difference(u, k)) * n / 2 <= 1e-8 * size + 1e-13 * n * f


@PROPERTY
@given(problems())
def test_the_nonnegative_rows_are_the_best_there_are(problem):
    after = problem.with_users(solve(problem, nonnegative=True).x, problem.block.rows)
    alpha, x, z = after.factors
    for u, rated in problem.rows.items():
        diagonal = twins.ridges(problem.user_ridge, twins.degree(rated), x.shape[1])
        assert np.all(x[u, 1:] >= 0)
        for k in range(0 if problem.biases else 1, x.shape[1]):
            value, size = twins.slope(rated, z, alpha, diagonal, x[u], k)
            assert value >= -1e-8 * size  # f does not fall as x_k grows …
            if k == 0 or x[u, k] > 0:
                assert value <= 1e-8 * size  # … nor as it shrinks, where it may


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_rows_are_summed_in_segments_to_the_same_result(monkeypatch, dtype, weighted):
    problem = random_problem(np.random.default_rng(7), 12, 60, 4, density=0.6, weighted=weighted)
    problem = problem._replace(users=np.where(problem.items > 40, 0, problem.users)).astype(dtype)
    whole = solve(problem)
    monkeypatch.setattr(designs, "SEGMENT", 8)
    cut = solve(problem)
    assert max(problem.block.counts) > 3 * 8
    tolerance = {np.float32: 1e-4, np.float64: 1e-11}[dtype]
    for one, two in zip(cut, whole, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance * np.abs(two).max())
    for j, u in enumerate(problem.block.rows):  # and to the same bits in any block
        chosen = problem.users == u
        part = problem._replace(
            users=problem.users[chosen],
            items=problem.items[chosen],
            ratings=problem.ratings[chosen],
            weights=None if problem.weights is None else problem.weights[chosen],
        )
        assert solve(part).x.tobytes() == cut.x[j].tobytes()


def test_a_very_long_row_in_single_precision_keeps_its_digits():
    # Summed in one piece, the row would be off by 4e-5.
    n, generator = 400_000, np.random.default_rng(0)
    z = np.abs(generator.normal(size=(n, 3))).astype(np.float32)
    ratings = generator.normal(0.5, 1, n).astype(np.float32)
    single = RatingBlock.from_triples(np.zeros(n), np.arange(n), ratings, dtype=np.float32)
    ridge = Ridge(1e-6, 0.0, n, n)
    found = solve_rows(single, z, 0.0, ridge).x
    exact = solve_rows(single, z.astype(np.float64), 0.0, ridge).x
    np.testing.assert_allclose(found, exact, rtol=0, atol=5e-6 * np.abs(exact).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bits_do_not_depend_on_how_many_rows_are_gathered_at_a_time(monkeypatch, dtype):
    problem = random_problem(np.random.default_rng(8), 40, 30, 5, weighted=True).astype(dtype)
    whole = solve(problem)
    for elements in (1, 200, 2000):
        monkeypatch.setattr(designs, "CACHE_ELEMENTS", elements)
        for one, two in zip(solve(problem), whole, strict=True):
            assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_a_row_without_weight_solves_to_0(exponent):
    block = RatingBlock.from_triples([0, 0, 1], [0, 1, 0], [5, 4, 3], [0, 0, 2])
    z = np.random.default_rng(0).normal(size=(2, 4))
    update = solve_rows(block, z, 1.0, Ridge(0.1, exponent, 2, 1.0))
    assert not update.x[0].any()
    assert update.x[1].all()
    assert [values[0] for values in update[1:]] == [0, 0, 0, 0]


def test_weights_count_as_ratings():
    z = np.random.default_rng(0).normal(size=(3, 3))
    ridge = Ridge(0.1, 1.0, 4, 4.0)
    twice = RatingBlock.from_triples([0, 0, 0, 0], [0, 1, 1, 2], [5, 4, 4, 3])
    weighted = RatingBlock.from_triples([0, 0, 0], [0, 1, 2], [5, 4, 3], [1, 2, 1])
    for one, two in zip(
        solve_rows(weighted, z, 1.0, ridge), solve_rows(twice, z, 1.0, ridge), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-13)


@pytest.mark.parametrize("reg", [0.0, 1e-30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fewer_ratings_than_unknowns_and_no_ridge_give_a_small_solution(dtype, reg):
    generator = np.random.default_rng(0)
    for _ in range(50):
        count, rank = generator.integers(1, 5), 8
        z = generator.normal(size=(count, 1 + rank)).astype(dtype)
        ratings = generator.normal(size=count).astype(dtype)
        problem = Problem(
            np.zeros(count, int),
            np.arange(count),
            ratings,
            None,
            Factors(0.0, np.zeros((1, 1 + rank), dtype), z),
            *ridges(reg, count, 1, count),
            biases=True,
        )
        update = solve(problem)
        shortest = twins.solve_row(problem.rows[0], z.astype(float), 0.0, np.zeros(1 + rank))
        assert np.linalg.norm(update.x) < 2 * np.linalg.norm(shortest)
        assert update.squares[0] < 1e-4 * (ratings**2).sum()


@pytest.mark.parametrize("bias_ratio", [0.0, 1.0])
@pytest.mark.parametrize("reg", [0.0, 0.01])
def test_without_biases_or_ridge_on_them_rows_solve_as_if_there_were_no_bias(reg, bias_ratio):
    problem = random_problem(
        np.random.default_rng(2), 20, 15, 3, reg=reg, bias_ratio=bias_ratio, biases=False
    )
    x, (alpha, _, z) = solve(problem).x, problem.factors
    assert not x[:, 0].any()
    for found, rated in zip(x, problem.rows.values(), strict=True):
        if len(rated) >= 3:
            diagonal = [1.0, *[reg * problem.total] * 3]
            twin = twins.solve_row(rated, z, alpha, diagonal, biases=False)
            np.testing.assert_allclose(found, twin, rtol=1e-9, atol=1e-12)
