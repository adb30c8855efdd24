"""What both solvers promise, and the systems they solve."""

import itertools

import numpy as np
import pytest
from hypothesis import strategies as st

from nonconvex.numerics.factorization import als, design
from nonconvex.numerics.factorization.als import conjugate_gradients, solve_quadratics, solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Factors, Ridge, predict
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import (
    SOLVERS,
    Problem,
    assert_same_bits,
    fit,
    for_all,
    half_steps,
    lecture,
    problems,
    random_problem,
    ridges,
    solve,
    sweep,
)

both_solvers = pytest.mark.parametrize("solver", SOLVERS)


@pytest.mark.parametrize("nonnegative", [False, True])
@both_solvers
@for_all(problem=problems(regs=(0.0, 1e-3, 0.01, 0.3)))
def test_the_objective_falls_out_of_the_update_and_never_rises(solver, nonnegative, problem):
    if nonnegative:  # descent is promised from where γ ≥ 0 holds
        alpha, *sides = problem.factors
        sides = [np.hstack([x[:, :1], np.abs(x[:, 1:])]) for x in sides]
        problem = problem._replace(factors=Factors(alpha, *sides))
    # where f is 0 but for rounded errors, and without a ridge
    rel, size = (1e-12, 1e-20) if problem.user_ridge.reg else (1e-9, 1e-12)
    rounding = size * np.mean(problem.ratings**2)
    before = problem.objective()
    for after, f in half_steps(problem, solver, 2, nonnegative=nonnegative):
        assert f == pytest.approx(after.objective(), rel=rel, abs=rounding)
        assert f <= before * (1 + 1e-13) + rounding
        assert not nonnegative or after.factors.users[:, 1:].min(initial=0) >= 0
        before = f


@both_solvers
@for_all(problem=problems())
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
@for_all(problem=problems())
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
@for_all(problem=problems())
def test_rows_get_the_same_bits_in_whatever_block_they_stand(solver, dtype, nonnegative, problem):
    problem = problem.astype(dtype)
    whole = solver(problem, nonnegative=nonnegative)
    generator = np.random.default_rng(len(problem.users))
    order = generator.permutation(len(problem.users))
    assert_same_bits(solver(problem, problem.part(order).block, nonnegative=nonnegative), whole)
    home = generator.integers(0, 3, len(problem.factors.users))  # rows over three blocks
    for block in range(3):
        if np.any(home[problem.users] == block):
            mine = home[problem.block.rows] == block
            part = problem.part(home[problem.users] == block).block
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
        alone = solver(problem, problem.part(problem.users == j).block)
        assert_same_bits(alone, type(whole)(*(values[j : j + 1] for values in whole)))


@both_solvers
@for_all(problem=problems(regs=(0.01, 0.3)))
def test_single_precision_in_is_single_precision_out(solver, problem):
    double, single = solver(problem), solver(problem.astype(np.float32))
    assert (double.x.dtype, single.x.dtype) == (np.float64, np.float32)
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
def test_the_lecture_s_starts_reach_the_same_network_objective(solver):
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


@for_all(problems())
def test_a_row_solves_its_own_ridge_regression(problem):
    alpha, _, z = problem.factors
    for x, rated in zip(solve(problem).x, problem.rows.values(), strict=True):
        diagonal = twins.ridges(problem.user_ridge, twins.degree(rated), len(x))
        twin = twins.solve_row(rated, z, alpha, diagonal, problem.biases)
        np.testing.assert_allclose(x, twin, rtol=1e-10, atol=1e-10 * np.abs(twin).max())


def assert_slope_0(after, k):
    """Assert that ∂f/∂x_k is 0 for all users, by its formula and by central differences of f."""
    alpha, x, z = after.factors
    n, f = after.total, after.objective()
    for u, rated in after.rows.items():
        diagonal = twins.ridges(after.user_ridge, twins.degree(rated), x.shape[1])
        value, size = twins.slope(rated, z, alpha, diagonal, x[u], k)
        assert abs(value) <= 1e-8 * size
        # f is a parabola along x_k, so central differences are exact for any step
        assert abs(after.central_difference(u, k)) * n / 2 <= 1e-8 * size + 1e-13 * n * f


@for_all(problems())
def test_every_partial_derivative_is_0_after_the_update(problem):
    after = problem.with_users(solve(problem).x, problem.block.rows)
    for k in range(0 if problem.biases else 1, after.factors.users.shape[1]):
        assert_slope_0(after, k)


@for_all(problems())
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
    monkeypatch.setattr(design, "SEGMENT", 8)
    cut = solve(problem)
    assert max(problem.block.counts) > 3 * 8
    tolerance = {np.float32: 1e-4, np.float64: 1e-11}[dtype]
    for one, two in zip(cut, whole, strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance * np.abs(two).max())
    for j, u in enumerate(problem.block.rows):  # and to the same bits in any block
        assert solve(problem.part(problem.users == u)).x.tobytes() == cut.x[j].tobytes()


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
        monkeypatch.setattr(design, "CACHE_ELEMENTS", elements)
        assert_same_bits(solve(problem), whole)


@pytest.mark.parametrize("reg", [0.0, 1e-30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fewer_ratings_than_unknowns_and_no_ridge_give_a_small_solution(dtype, reg):
    generator = np.random.default_rng(0)
    for _ in range(50):
        count, rank = generator.integers(1, 5), 8
        z = generator.normal(size=(count, 1 + rank)).astype(dtype)
        ratings = generator.normal(size=count).astype(dtype)
        start, both = Factors(0.0, np.zeros((1, 9), dtype), z), ridges(reg, count, 1, count)
        pairs = np.zeros(count, int), np.arange(count)
        problem = Problem(*pairs, ratings, None, start, *both, biases=True)
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


def quadratics(seed, size, width, ridge=0.1, rank=6):
    """Return A = ZᵀZ + ridge I and b = Zᵀy."""
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(size, rank, width))
    y = generator.normal(size=(size, rank, 1))
    a = z.swapaxes(1, 2) @ z + ridge * np.eye(width)
    return a, (z.swapaxes(1, 2) @ y)[..., 0]


def stack(seed, size, width):
    """Return quadratics of rows with 100 ratings each, in float32."""
    return [part.astype(np.float32) for part in quadratics(seed, size, width, 20.0, rank=100)]


def twin(a, b, steps):
    """The textbook, one system at a time, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    x, r, p = np.zeros(len(b)), b, b
    for _ in range(steps):
        if np.linalg.norm(r) <= als.TOLERANCE * np.linalg.norm(b):
            break
        length = r @ r / (p @ a @ p)
        x, before = x + length * p, r @ r
        r = r - length * (a @ p)
        p = r + r @ r / before * p
    return x


def test_it_takes_the_steps_of_the_textbook():
    a, b = stack(0, 7, 12)
    for steps in range(1, 9):
        for a_s, b_s, x_s in zip(a, b, conjugate_gradients(a, b, steps)[0], strict=True):
            expected = twin(a_s, b_s, steps)
            np.testing.assert_allclose(x_s, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("width", [33, 65, 129])
def test_it_converges_to_the_solution_and_says_so(width):
    a, b = stack(1, 20, width)
    x, converged = conjugate_gradients(a, b, 40)
    assert converged.all()
    assert x.dtype == np.float32
    exact = np.linalg.solve(a.astype(np.float64), b.astype(np.float64)[..., None])[..., 0]
    np.testing.assert_allclose(x, exact, rtol=0, atol=2e-5 * np.abs(exact).max())


@pytest.mark.parametrize("width", [11, 33, 65, 129])
def test_the_bits_of_a_solution_depend_on_its_own_system_alone(width):
    a, b = stack(3, 24, width)
    a[5:9] += 20 * np.eye(width, dtype=np.float32)  # these converge sooner than the others
    together, _ = conjugate_gradients(a, b, 40)
    order = np.random.default_rng(0).permutation(24)
    assert conjugate_gradients(a[order], b[order], 40)[0].tobytes() == together[order].tobytes()
    for s in range(24):
        assert conjugate_gradients(a[s : s + 1], b[s : s + 1], 40)[0].tobytes() == (
            together[s].tobytes()
        )


def test_what_cannot_converge_is_told_and_touches_nothing():
    a, b = stack(4, 6, 12)
    alone, _ = conjugate_gradients(a, b, 40)
    a[1], b[2], a[3] = 0, 0, np.nan
    x, converged = conjugate_gradients(a, b, 40)
    assert converged.tolist() == [True, False, True, False, True, True]
    assert not x[[1, 2]].any()
    assert x[[0, 4, 5]].tobytes() == alone[[0, 4, 5]].tobytes()


def long_rows(rank=32, rows=30, seed=5):
    generator = np.random.default_rng(seed)
    z = generator.normal(0, 0.5, size=(400, 1 + rank)).astype(np.float32)
    counts = np.repeat([20, 90, 390], rows // 3)
    columns = np.concatenate([generator.permutation(400)[:count] for count in counts])
    ratings = generator.normal(3, 1, size=len(columns))
    block = RatingBlock.from_triples(
        np.repeat(np.arange(rows), counts), columns, ratings, dtype=np.float32
    )
    return block, z


def test_rows_in_float32_solve_their_equation_as_exactly_as_by_elimination(monkeypatch):
    block, z = long_rows()
    ridge = Ridge(20 / len(block.ratings), 0.0, len(block.ratings), 10.0, 0.2)
    solved = []
    monkeypatch.setattr(
        als,
        "conjugate_gradients",
        lambda a, b, steps: solved.append(len(a)) or conjugate_gradients(a, b, steps),
    )
    found = solve_rows(block, z, 3.0, ridge)
    assert sum(solved) == 20  # the longest rows are eliminated
    exact = solve_rows(block, z.astype(np.float64), 3.0, ridge)
    assert sum(solved) == 20  # and so is everything in float64
    np.testing.assert_allclose(found.x, exact.x, rtol=0, atol=2e-5 * np.abs(exact.x).max())
    f, least = ((update.squares + update.penalty).sum() for update in (found, exact))
    assert f == pytest.approx(least, rel=1e-6)


def test_rows_that_do_not_converge_are_eliminated(monkeypatch):
    block, z = long_rows()
    ridge = Ridge(1e-6, 0.0, len(block.ratings), 10.0)
    monkeypatch.setattr(als, "MOST_STEPS", 2)
    hasty = solve_rows(block, z, 3.0, ridge).x
    monkeypatch.setattr(als, "LEAST_UNKNOWNS", 1000)
    assert hasty.tobytes() == solve_rows(block, z, 3.0, ridge).x.tobytes()


SEEDS = st.integers(0, 2**32 - 1)


def value(a, b, x):
    return 0.5 * x @ a @ x - b @ x


def best_of_all_active_sets(a, b):
    """The slow twin: solve over every set of free unknowns, and keep the best that is ≥ 0."""
    best = np.zeros(len(b))
    for size in range(len(b)):
        for others in itertools.combinations(range(1, len(b)), size):
            free = [0, *others]
            x = np.zeros(len(b))
            x[free] = np.linalg.lstsq(a[np.ix_(free, free)], b[free], rcond=None)[0]
            if np.all(x[1:] >= 0) and value(a, b, x) < value(a, b, best):
                best = x
    return best


@for_all(SEEDS, st.integers(0, 6), st.integers(1, 7))
def test_the_gradient_is_0_at_the_minimum(seed, size, width):
    a, b = quadratics(seed, size, width)
    x = solve_quadratics(a, b)
    assert x.shape == b.shape
    np.testing.assert_allclose(np.einsum("skl,sl->sk", a, x), b, atol=1e-12)
    assert solve_quadratics(a.astype(np.float32), b.astype(np.float32)).dtype == np.float32


def test_a_singular_system_has_the_solution_of_least_norm():
    # A = vvᵀ with v = (1, 2) and b = 5 v: every x with v·x = 5 is a minimum, (1, 2) the shortest
    a, b = np.array([[1.0, 2.0], [2.0, 4.0]]), np.array([5.0, 10.0])
    np.testing.assert_allclose(solve_quadratics(a[None], b[None]), [[1.0, 2.0]], rtol=1e-14)
    np.testing.assert_allclose(
        solve_quadratics(a[None], b[None], nonnegative=True), [[1, 2]], rtol=1e-14
    )
    assert not solve_quadratics(np.zeros((1, 3, 3)), np.zeros((1, 3))).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_singular_system_does_not_touch_the_others(dtype):
    a, b = (part.astype(dtype) for part in quadratics(0, 5, 4))
    alone = solve_quadratics(a, b)
    a[2] = 0
    b[2] = 0
    beside = solve_quadratics(a, b)
    assert not beside[2].any()
    others = [0, 1, 3, 4]
    assert beside[others].tobytes() == alone[others].tobytes()


@for_all(SEEDS, st.integers(1, 6), st.sampled_from([np.float32, np.float64]), st.booleans())
def test_the_bits_of_a_minimum_depend_on_its_own_quadratic_alone(seed, width, dtype, nonnegative):
    a, b = (part.astype(dtype) for part in quadratics(seed, 9, width, ridge=1e-3))
    together = solve_quadratics(a, b, nonnegative=nonnegative)
    order = np.random.default_rng(seed).permutation(9)
    shuffled = solve_quadratics(a[order], b[order], nonnegative=nonnegative)
    assert shuffled.tobytes() == together[order].tobytes()
    for s in range(9):
        alone = solve_quadratics(a[s : s + 1], b[s : s + 1], nonnegative=nonnegative)
        assert alone.tobytes() == together[s].tobytes()


@for_all(SEEDS, st.integers(1, 6), st.sampled_from([1e-6, 1e-3, 1.0]))
def test_the_nonnegative_minimum_is_the_best_of_all_active_sets(seed, width, ridge):
    a, b = quadratics(seed, 4, width, ridge, rank=4)
    x = solve_quadratics(a, b, nonnegative=True)
    assert np.all(x[:, 1:] >= 0)
    for a_s, b_s, x_s in zip(a, b, x, strict=True):
        twin = best_of_all_active_sets(a_s, b_s)
        assert value(a_s, b_s, x_s) == pytest.approx(value(a_s, b_s, twin), rel=1e-10)
        np.testing.assert_allclose(x_s, twin, atol=1e-8 * np.abs(twin).max())


@for_all(SEEDS, st.integers(1, 30), st.sampled_from([1e-6, 1e-3, 1.0]))
def test_the_nonnegative_minimum_satisfies_karush_kuhn_and_tucker(seed, width, ridge):
    a, b = quadratics(seed, 5, width, ridge, rank=20)
    x = solve_quadratics(a, b, nonnegative=True)
    slope = np.einsum("skl,sl->sk", a, x) - b
    rounding = 1e-12 * (np.einsum("skl,sl->sk", np.abs(a), np.abs(x)) + np.abs(b))
    free = x != 0
    free[:, 0] = True
    assert np.all(x[:, 1:] >= 0)
    assert np.all(np.abs(slope[free]) <= rounding[free])
    assert np.all(slope[~free] >= -rounding[~free])


def test_demanding_what_holds_anyway_changes_nothing():
    a, b = quadratics(1, 50, 4)
    free = solve_quadratics(a, b)
    kept = np.all(free[:, 1:] >= 0, axis=1)
    assert 0 < kept.sum() < 50
    bounded = solve_quadratics(a, b, nonnegative=True)
    assert np.array_equal(bounded[kept], free[kept])
    assert not np.any(bounded[~kept] == free[~kept])


def test_nonnegative_unknowns_are_found_in_a_bounded_number_of_rounds(monkeypatch):
    a, b = quadratics(3, 200, 30, ridge=1e-8, rank=20)
    expected = solve_quadratics(a, b, nonnegative=True)
    monkeypatch.setattr(als, "ROUNDS_PER_UNKNOWN", 1)
    assert solve_quadratics(a, b, nonnegative=True).tobytes() == expected.tobytes()


def test_what_is_reached_when_the_rounds_run_out_is_nonnegative_too(monkeypatch):
    monkeypatch.setattr(als, "ROUNDS_PER_UNKNOWN", 1)
    a, b = quadratics(4, 5000, 4, ridge=1e-6, rank=4)
    assert solve_quadratics(a, b, nonnegative=True)[:, 1:].min() >= 0
    monkeypatch.setattr(als, "ROUNDS_PER_UNKNOWN", 0)
    assert not solve_quadratics(a, b, nonnegative=True).any()


@for_all(problems(), st.booleans())
def test_a_sweep_is_the_scalar_closed_forms_in_turn(problem, nonnegative):
    alpha, start, z = problem.factors
    update = sweep(problem, nonnegative=nonnegative)
    assert problem.biases or not update.x[:, 0].any()
    for found, (u, rated) in zip(update.x, problem.rows.items(), strict=True):
        diagonal = twins.ridges(problem.user_ridge, twins.degree(rated), len(found))
        twin = twins.sweep_row(rated, z, alpha, diagonal, start[u], problem.biases, nonnegative)
        np.testing.assert_allclose(found, twin, rtol=1e-10, atol=1e-10 * np.abs(twin).max())


@for_all(problems())
def test_every_partial_derivative_is_0_right_after_its_own_update(problem):
    # A sweep goes from left to right: after x_k, what stands right of k is as it was.
    new, start = sweep(problem).x, problem.factors.users[problem.block.rows]
    for k in range(0 if problem.biases else 1, new.shape[1]):
        x = np.hstack([new[:, : k + 1], start[:, k + 1 :]])
        assert_slope_0(problem.with_users(x, problem.block.rows), k)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_sweeps_over_one_side_end_at_its_exact_solution(nonnegative):
    problem = random_problem(np.random.default_rng(1), 20, 15, 3, reg=0.05)
    exact = solve(problem, nonnegative=nonnegative).x
    for _ in range(200):
        update = sweep(problem, nonnegative=nonnegative)
        problem = problem.with_users(update.x, problem.block.rows)
    np.testing.assert_allclose(update.x, exact, atol=1e-10 * np.abs(exact).max())


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_a_row_without_weight_solves_to_0_and_a_sweep_leaves_it_where_it_is(exponent):
    block = RatingBlock.from_triples([0, 0, 1], [0, 1, 0], [5, 4, 3], [0, 0, 2])
    z, start = np.random.default_rng(0).normal(size=(2, 4)), np.ones((2, 4))
    ridge = Ridge(0.1, exponent, 2, 1.0)
    solved, swept = solve_rows(block, z, 1.0, ridge), als.sweep_rows(block, z, 1.0, ridge, start)
    for update, expected in ((solved, 0), (swept, 1 if exponent else 0)):
        assert update.x[0].tolist() == [expected] * 4
        assert not np.any(update.x[1] == expected)
        assert [values[0] for values in update[1:]] == [0, 0, 0, 0]
    assert np.all(start == 1)  # what was passed in is left alone


def test_both_solvers_agree_on_how_low_f_can_go():
    problem = random_problem(np.random.default_rng(6), 25, 20, 2, reg=0.02)
    exact, coordinate = fit(problem, solve, 60), fit(problem, sweep, 120)
    assert coordinate.objective() == pytest.approx(exact.objective(), rel=1e-3)
