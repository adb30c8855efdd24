"""The model, its objective over ratings or over all pairs, and the rows that it starts from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.factorization import model as factorization
from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import (
    Background,
    Factors,
    InitialRows,
    Ridge,
    Side,
    default_implicit_reg,
    default_reg,
    initial_rows,
    predict,
    preference_block,
    squared_errors,
)
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import (
    SOLVERS,
    Problem,
    assert_same_bits,
    for_all,
    lecture,
    problems,
    random_problem,
    solve,
    sweep,
)


def test_predictions_in_the_head_and_an_id_never_seen_contributes_nothing():
    users, items = np.array([0, 0, 1, 1, -1, 0, -1]), np.array([0, 1, 0, 1, -1, -1, 1])
    x, z = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([[0.0, 1.0], [1.0, -1.0]])
    assert predict(Factors(1.0, x, z), users, items).tolist() == [4, 1, 0, 3, 1, 2, 2]


@for_all(problems(regs=(0.0, 0.01)))
def test_the_objective_is_what_loops_over_ratings_add_up(problem):
    alpha, x, z = problem.factors
    flipped = problem.transposed
    expected = twins.objective(
        alpha, x, z, problem.rows, flipped.rows, problem.user_ridge, problem.item_ridge
    )
    assert problem.objective() == pytest.approx(expected, rel=1e-12)
    assert flipped.objective() == pytest.approx(problem.objective(), rel=1e-16)


@for_all(problems())
def test_squared_errors_of_a_block_are_those_of_its_ratings(problem):
    alpha, x, z = problem.factors
    expected = [twins.sums(rated, z, alpha, x[row])[1] for row, rated in problem.rows.items()]
    np.testing.assert_allclose(squared_errors(problem.factors, problem.block), expected, rtol=1e-12)


@for_all(problems())
def test_the_penalty_of_a_ridge_is_its_diagonal_in_use(problem):
    x, block, ridge = problem.factors.users, problem.block, problem.user_ridge
    diagonal = ridge.diagonal(block.degrees, x.shape[1])
    for j, row in enumerate(block.rows):
        expected = twins.ridges(ridge, block.degrees[j], x.shape[1])
        np.testing.assert_allclose(diagonal[j], expected, rtol=1e-13)
        penalty = ridge.penalty(block.degrees[j : j + 1], x[row : row + 1])
        np.testing.assert_allclose(penalty, expected @ x[row] ** 2, rtol=1e-13)


def test_an_exponent_of_1_is_the_ridge_of_mllib():
    # MLlib adds λ |I_u| to the diagonal; with n ratings of m users, its λ is m times this λ
    rows, n, degrees = 8, 40, np.array([1.0, 4.0, 9.0])
    diagonal = Ridge(0.1 / rows, 1.0, n, n / rows).diagonal(degrees, 2)
    np.testing.assert_allclose(diagonal[:, 1], 0.1 * degrees, rtol=1e-15)


def test_predictions_do_not_depend_on_how_many_pairs_are_asked_for(monkeypatch):
    problem = random_problem(np.random.default_rng(0), 30, 20, 5)
    whole = predict(problem.factors, problem.users, problem.items)
    monkeypatch.setattr(factorization, "_CACHE_ELEMENTS", 7 * 6)
    cut = predict(problem.factors, problem.users, problem.items)
    assert cut.tobytes() == whole.tobytes()
    alpha, x, z = problem.factors
    pairs = zip(problem.users, problem.items, strict=True)
    loop = [twins.predict(alpha, x[u], z[i]) for u, i in pairs]
    np.testing.assert_allclose(whole, loop, rtol=1e-12, atol=1e-12)


def test_ids_never_seen_leave_no_trace_in_the_pairs_beside_them(monkeypatch):
    alpha, x, z = random_problem(np.random.default_rng(1), 30, 20, 5).factors
    users, items = np.arange(-1, 29), np.arange(30) % 21 - 1
    whole = predict(Factors(alpha, x, z), users, items)
    monkeypatch.setattr(factorization, "_CACHE_ELEMENTS", 7 * 6)
    assert predict(Factors(alpha, x, z), users, items).tobytes() == whole.tobytes()
    zeros = np.zeros((1, 6))
    seen = predict(Factors(alpha, np.vstack([x, zeros]), np.vstack([z, zeros])), users, items)
    assert seen.tobytes() == whole.tobytes()  # -1 is the row of zeros there


def test_predictions_of_single_precision_factors_are_summed_in_double():
    gamma = np.array([[0.0, 1.0, 1e-9]], np.float32)
    zero = np.array([0])
    assert predict(Factors(0.0, gamma, np.ones_like(gamma)), zero, zero)[0] > 2.0


@for_all(st.floats(1e2, 1e8), st.floats(1e-3, 1e3))
def test_default_ridges_do_not_depend_on_the_number_or_the_scale_of_ratings(total, deviation):
    reg, ratio = default_reg(total, deviation)
    assert reg * total / deviation == pytest.approx(16)
    assert reg * total * ratio == pytest.approx(3)
    for alike in (0.0, float("nan")):  # ratings that are all the same have one too
        assert default_reg(100, alike) == pytest.approx((0.16, 3 / 16))
    reg, ratio = default_implicit_reg(total, deviation)  # of a mean weight
    assert (reg * total, ratio) == pytest.approx((5 * deviation, 30))


def test_initial_rows_have_no_bias_and_the_scale_asked_for():
    x = initial_rows(2000, 5, 0.1, np.random.default_rng(0))
    assert not x[:, 0].any()
    assert x[:, 1:].mean() == pytest.approx(0, abs=0.005)
    assert x[:, 1:].std() == pytest.approx(0.1, rel=0.05)
    assert np.array_equal(x, initial_rows(2000, 5, 0.1, np.random.default_rng(0)))
    assert not np.array_equal(x, initial_rows(2000, 5, 0.1, np.random.default_rng(1)))


@pytest.mark.parametrize("scale", [0.0, -0.1, float("nan")])
def test_initial_rows_at_the_stationary_point_are_refused(scale):
    with pytest.raises(ValueError, match=rf"must be > 0, got {scale}"):
        initial_rows(3, 2, scale, np.random.default_rng(0))


CONFIDENCES = st.sampled_from([0.1, 1.0, 40.0])


class Feedback:
    """A problem whose ratings are strengths of feedback, and its twin: a rating for every pair."""

    def __init__(self, problem: Problem, confidence: float):
        positive = float(max(1, (problem.ratings > 0).sum()))
        alpha, users, items = problem.factors
        ridges = (
            ridge._replace(total=positive, mean_degree=positive / len(rows))
            for ridge, rows in ((problem.user_ridge, users), (problem.item_ridge, items))
        )
        names = ("user_ridge", "item_ridge")
        self.problem = problem._replace(weights=None, **dict(zip(names, ridges, strict=True)))
        self.confidence = confidence
        self.block = preference_block(self.problem.block, confidence)
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
    block = preference_block(RatingBlock.from_triples([0], [0], [strength]), confidence)
    c, p = 1 + confidence * abs(strength), float(strength > 0)
    (rating,), (weight,) = block.ratings, block.weights
    explicit = weight * (rating - prediction) ** 2 - rating
    assert prediction**2 + explicit == pytest.approx(c * (p - prediction) ** 2, abs=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_confidence_all_pairs_weigh_1(dtype):
    rng = np.random.default_rng(0)
    fixed = rng.normal(size=(30, 4)).astype(dtype)
    fixed[:, 0] = 0
    items, strengths = np.arange(0, 30, 3), rng.choice([-1.0, 0.0, 2.0], 10)
    block = RatingBlock.from_triples(np.zeros(10, int), items, strengths, dtype=dtype)
    block, ridge = preference_block(block, 0.0), Ridge(0.05, 1.0, 30, 3.0)
    background = Background.of(fixed, 0.0, biases=False)
    [x] = solve_rows(block, fixed, 0.0, ridge, biases=False, background=background).x
    z, p = fixed[:, 1:].astype(float), np.zeros(30)
    p[items] = strengths > 0
    penalty = np.diag(ridge.diagonal(block.degrees, 4)[0][1:])
    expected = np.linalg.solve(z.T @ z + penalty, z.T @ p)
    np.testing.assert_allclose(x[1:], expected, rtol=2e-5, atol=1e-6)


def test_only_positive_strengths_count_for_the_regularization():
    block = RatingBlock.from_triples([0, 0, 0, 1, 1], [0, 1, 2, 0, 1], [2.0, 0.0, 1.0, -1.0, 0.0])
    found = preference_block(block, 2.0)
    assert found.degrees.tolist() == [2, 0]
    assert found.weights.tolist() == [4, 0, 2, 2, 0]
    assert found.ratings.tolist() == [1.25, 0, 1.5, 0, 0]
    assert [a.dtype for a in preference_block(block, 2)[:-1]] == [a.dtype for a in found[:-1]]
    single = preference_block(RatingBlock.from_triples([0], [0], [2.0], dtype=np.float32), 2.0)
    assert single.ratings.dtype == single.weights.dtype == np.float32


@for_all(problems())
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
    np.testing.assert_allclose(x @ background.gram - background.rhs, half, **close)
    assert background.columns == len(z)


@for_all(feedback())
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


@for_all(feedback(), st.booleans())
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
@for_all(feedback=feedback())
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
@for_all(feedback=feedback())
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


@for_all(feedback())
def test_a_strength_of_0_says_as_little_as_none(feedback):
    problem = feedback.problem.part(feedback.problem.ratings != 0)
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
        block = preference_block(problem.part(problem.users == u).block, 10.0)
        alone = solver(feedback.problem, block, background=feedback.background)
        assert_same_bits(alone, type(whole)(*(values[j : j + 1] for values in whole)))


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


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 40), st.integers(-(2**70), 2**70))
def test_a_row_depends_on_its_index_alone(one, other, rank, seed):
    first, stop = sorted((one, other))
    rows = InitialRows(500, rank, 0.1, seed, 0, Side.ITEMS, np.float64, False)
    np.testing.assert_array_equal(rows.between(first, stop), rows.between(0, 500)[first:stop])


def test_rows_behind_more_than_is_drawn_at_a_time():
    rows = InitialRows(40_000, 10, 0.1, 0, 0, Side.USERS, np.float32, False)
    np.testing.assert_array_equal(rows.between(39_990, 40_000), rows.between(0, 40_000)[-10:])


def test_everything_changes_them_and_nonnegative_rows_are_the_sizes_of_others():
    start = InitialRows(3, 2, 0.1, 0, 0, Side.USERS, np.float32, False)
    rows = start.between(0, 3)
    for changed in ({"seed": 1}, {"restart": 1}, {"side": Side.ITEMS}, {"scale": 0.2}):
        assert not np.array_equal(rows[:, 1:], start._replace(**changed).between(0, 3)[:, 1:])
    sizes = start._replace(nonnegative=True).between(0, 3)
    assert sizes.dtype == np.float32
    np.testing.assert_array_equal(sizes, np.abs(rows))
