"""What both solvers promise, and where alternating between the two sides arrives."""

import numpy as np
import pytest
from hypothesis import given

from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Factors, predict
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import (
    PROPERTY,
    SOLVERS,
    Problem,
    fit,
    half_steps,
    lecture,
    problems,
    random_problem,
    ridges,
    solve,
    sweep,
)

both_solvers = pytest.mark.parametrize("solver", SOLVERS)


def assert_same_bits(update, other):
    for name, one, two in zip(update._fields, update, other, strict=True):
        assert one.tobytes() == two.tobytes(), name


def part_of(problem, chosen):
    """The block of some of the ratings."""
    weights = None if problem.weights is None else problem.weights[chosen]
    return problem._replace(
        users=problem.users[chosen],
        items=problem.items[chosen],
        ratings=problem.ratings[chosen],
        weights=weights,
    ).block


@pytest.mark.parametrize("nonnegative", [False, True])
@both_solvers
@PROPERTY
@given(problem=problems())
def test_the_objective_falls_out_of_the_update_and_never_rises(solver, nonnegative, problem):
    if nonnegative:  # descent is promised from where γ ≥ 0 holds
        alpha, *sides = problem.factors
        sides = [np.hstack([x[:, :1], np.abs(x[:, 1:])]) for x in sides]
        problem = problem._replace(factors=Factors(alpha, *sides))
    rounding = 1e-20 * np.mean(problem.ratings**2)  # where f is 0 but for rounded errors
    before = problem.objective()
    for after, f in half_steps(problem, solver, 2, nonnegative=nonnegative):
        assert f == pytest.approx(after.objective(), rel=1e-12, abs=rounding)
        assert f <= before * (1 + 1e-13) + rounding
        assert not nonnegative or after.factors.users[:, 1:].min(initial=0) >= 0
        before = f


@both_solvers
@PROPERTY
@given(problem=problems(regs=(0.0, 0.01)))
def test_without_regularization_f_rises_by_rounding_at_most(solver, problem):
    rounding = 1e-12 * np.mean(problem.ratings**2)
    before = problem.objective()
    for after, f in half_steps(problem, solver, 3):
        assert f == pytest.approx(after.objective(), rel=1e-9, abs=rounding)
        assert f <= before + rounding
        before = f


@both_solvers
@PROPERTY
@given(problem=problems())
def test_alpha_s_closed_form_is_a_sum_over_the_residuals(solver, problem):
    update = solver(problem)
    problem = problem.with_users(update.x, problem.block.rows)
    alpha, x, z = problem.factors
    closed_form = size = 0.0
    for u, rated in problem.rows.items():
        for i, rating, weight in rated:
            closed_form += weight * (rating - twins.predict(0.0, x[u], z[i])) / problem.total
            size += weight * abs(rating) / problem.total
    step = update.residual.sum() / update.weight.sum()
    assert alpha + step == pytest.approx(closed_form, rel=1e-10, abs=1e-12 * size)

    # f is a parabola in α, so central differences are exact for any step
    above, below = (problem.with_alpha(alpha + step + h).objective() for h in (1.0, -1.0))
    assert abs(above - below) / 2 <= 1e-8 * 2 * size + 1e-13 * above


@both_solvers
@PROPERTY
@given(problem=problems())
def test_the_sums_of_an_update_are_loops_over_its_ratings(solver, problem):
    update = solver(problem)
    alpha, x, z = problem.with_users(update.x, problem.block.rows).factors
    for j, (u, rated) in enumerate(problem.rows.items()):
        residual, squares = twins.sums(rated, z, alpha, x[u])
        size = sum(r.weight * abs(r.rating) for r in rated)
        diagonal = twins.ridges(problem.user_ridge, twins.degree(rated), x.shape[1])
        assert update.residual[j] == pytest.approx(residual, rel=1e-10, abs=1e-12 * size)
        assert update.squares[j] == pytest.approx(squares, rel=1e-10, abs=1e-20 * size**2)
        assert update.penalty[j] == pytest.approx(diagonal @ x[u] ** 2, rel=1e-12)
        assert update.weight[j] == pytest.approx(twins.degree(rated), rel=1e-14)


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@both_solvers
@PROPERTY
@given(problem=problems())
def test_rows_get_the_same_bits_in_whatever_block_they_stand(solver, dtype, nonnegative, problem):
    problem = problem.astype(dtype)
    whole = solver(problem, nonnegative=nonnegative)
    generator = np.random.default_rng(len(problem.users))
    order = generator.permutation(len(problem.users))
    assert_same_bits(solver(problem, part_of(problem, order), nonnegative=nonnegative), whole)
    home = generator.integers(0, 3, len(problem.factors.users))  # rows over three blocks
    for block in range(3):
        if np.any(home[problem.users] == block):
            mine = home[problem.block.rows] == block
            part = part_of(problem, home[problem.users] == block)
            update = solver(problem, part, nonnegative=nonnegative)
            assert_same_bits(update, type(whole)(*(values[mine] for values in whole)))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rank", [20, 64])
@both_solvers
def test_long_rows_get_the_same_bits_alone(solver, rank, weighted):
    problem = random_problem(
        np.random.default_rng(rank), 12, 400, rank, density=0.7, weighted=weighted, reg=1e-4
    ).astype(np.float32)
    whole = solver(problem)
    for j in range(12):
        alone = solver(problem, part_of(problem, problem.users == j))
        assert_same_bits(alone, type(whole)(*(values[j : j + 1] for values in whole)))


@both_solvers
@PROPERTY
@given(problem=problems(regs=(0.01, 0.3)))
def test_single_precision_in_is_single_precision_out(solver, problem):
    double, single = solver(problem), solver(problem.astype(np.float32))
    assert double.x.dtype == np.float64
    assert single.x.dtype == np.float32
    assert {a.dtype for a in (*single[1:], *double[1:])} == {np.dtype(np.float64)}
    np.testing.assert_allclose(single.x, double.x, atol=2e-3 * np.abs(double.x).max())


@pytest.mark.parametrize(("solver", "tolerance"), [(solve, 1e-6), (sweep, 1e-12)])
def test_single_precision_reports_the_objective_of_what_it_returns(solver, tolerance):
    problem = random_problem(np.random.default_rng(3), 30, 20, 4).astype(np.float32)
    problem = problem._replace(ratings=np.rint(problem.ratings))
    for after, f in half_steps(problem, solver, 5):
        assert f == pytest.approx(after.objective(), rel=tolerance)


@both_solvers
def test_an_empty_block_is_an_empty_update(solver):
    problem = random_problem(np.random.default_rng(0), 3, 4, 2)
    update = solver(problem, RatingBlock.from_triples([], [], []))
    assert [a.shape for a in update] == [(0, 3), (0,), (0,), (0,), (0,)]


@both_solvers
def test_rank_0_is_the_model_of_biases(solver):
    problem = random_problem(np.random.default_rng(0), 6, 5, 0, reg=0.1)
    alpha, _, z = problem.factors
    update = solver(problem)
    for x, rated in zip(update.x, problem.rows.values(), strict=True):
        above = sum(r.rating - alpha - z[r.column][0] for r in rated)
        assert x == pytest.approx([above / (len(rated) + 0.1 * problem.total)], rel=1e-12)


@both_solvers
def test_without_biases_beta_stays_as_it_was(solver):
    problem = random_problem(np.random.default_rng(0), 6, 5, 3, biases=False, bias_ratio=0.0)
    for after, _ in half_steps(problem, solver, 2):
        assert not after.factors.users[:, 0].any()


@both_solvers
def test_swapping_users_and_items_mirrors_the_result(solver):
    # Of a symmetric matrix, with both sides starting alike, either side may be called users.
    generator = np.random.default_rng(4)
    matrix = generator.normal(size=(8, 8))
    users, items = np.nonzero(np.abs(matrix + matrix.T) > 0.5)
    ratings = (matrix + matrix.T)[users, items]
    x = generator.normal(size=(8, 4))
    start, both = Factors(0.5, x, x), ridges(0.01, len(ratings), 8, 8)
    problem = Problem(users, items, ratings, None, start, *both, biases=True)
    assert_same_bits(solver(problem), solver(problem.transposed))


def planted(seed, rank, reg, noise=0.01):
    """Ratings by two planted factors and biases; return the pairs left out and their ratings."""
    generator = np.random.default_rng(seed)
    x, z = generator.normal(size=(40, 3)), generator.normal(size=(30, 3))
    everywhere = np.nonzero(np.ones((40, 30)))
    ratings = predict(Factors(3.0, x, z), *everywhere)
    seen = generator.random(1200) < 0.8
    u, i = (index[seen] for index in everywhere)
    noisy = ratings[seen] + noise * generator.normal(size=len(u))
    start = Factors(noisy.mean(), *(generator.normal(size=(m, 1 + rank)) / 2 for m in (40, 30)))
    problem = Problem(u, i, noisy, None, start, *ridges(reg, len(u), 40, 30), biases=True)
    return problem, [index[~seen] for index in everywhere], ratings[~seen]


@pytest.mark.parametrize(("rank", "reg", "bound"), [(2, 1e-5, 0.01), (4, 1e-4, 0.03)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("solver", "rounds"), [(solve, 40), (sweep, 80)])
def test_planted_ratings_come_back(solver, rounds, dtype, rank, reg, bound):
    problem, pairs, ratings = planted(0, rank, reg)
    reached = fit(problem.astype(dtype), solver, rounds)
    error = predict(reached.factors, *pairs) - ratings
    assert np.sqrt(np.mean(error**2)) < bound


# The example of the lecture, K = 2.  Nothing that was observed joins its two groups, so f only
# knows the factors within each: the two pairs of axes may stand at any angle to each other, and
# the prediction for (2, 4) is the cosine of that angle.  The slide draws the right angle.


@pytest.mark.parametrize("seed", range(3))
@both_solvers
def test_the_lecture_s_ratings_are_reproduced_from_any_start(solver, seed):
    reached = fit(lecture(seed, reg=1e-6), solver, 100, intercept=False)
    predictions = predict(reached.factors, reached.users, reached.items)
    np.testing.assert_allclose(predictions, 1, atol=1e-3)


@both_solvers
def test_the_lecture_s_starts_reach_the_same_objective(solver):
    reached = [fit(lecture(s, reg=1e-3), solver, 200, intercept=False) for s in range(3)]
    assert np.ptp([r.objective() for r in reached]) < 1e-4
    pair = np.array([1]), np.array([3])
    assert np.ptp([predict(r.factors, *pair) for r in reached]) > 0.1


@both_solvers
def test_the_lecture_s_factors_predict_0_across_its_groups(solver):
    start = lecture(0, reg=1e-6)
    group = np.array([[0, 1, 0]] * 3 + [[0, 0, 1]] * 2)  # by β, γ_1, γ_2
    alpha, *sides = start.factors
    start = start._replace(factors=Factors(alpha, *(np.abs(x) * group for x in sides)))
    reached = fit(start, solver, 50, intercept=False)
    _, x, z = reached.factors
    np.testing.assert_allclose(x[:, 1:] @ z[:, 1:].T, group[:, 1:] @ group[:, 1:].T, atol=1e-3)
    assert predict(reached.factors, np.array([1]), np.array([3])) == 0


def test_the_angle_between_the_lecture_s_groups_is_free():
    reached = fit(lecture(0, reg=1e-3), solve, 100, intercept=False)
    predictions = []
    for angle in np.linspace(0, np.pi, 5):
        turn = np.eye(3)
        turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        alpha, x, z = reached.factors
        turned = Factors(alpha, *(np.vstack([s[:3], s[3:] @ turn]) for s in (x, z)))
        assert reached._replace(factors=turned).objective() == pytest.approx(reached.objective())
        predictions.append(predict(turned, np.array([1]), np.array([3]))[0])
    assert predictions[0] == pytest.approx(-predictions[-1])
    assert np.ptp(predictions) > 1
