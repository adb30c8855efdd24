"""The model and its objective, worked out by hand and against loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.factorization import model as factorization
from nonconvex.numerics.factorization.model import (
    Factors,
    Ridge,
    default_reg,
    initial_rows,
    objective,
    predict,
    squared_errors,
)
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import PROPERTY, problems, random_problem

# Two users, two items, K = 1, and four ratings; α = 1.
#
#             β   γ               β   γ               R̂           R
#   user 0    1   2     item 0    0   1     item 0    4   1       5   1
#   user 1    0  −1     item 1    1  −1     item 1    0   3       0   ·
X = np.array([[1.0, 2.0], [0.0, -1.0]])
Z = np.array([[0.0, 1.0], [1.0, -1.0]])
USERS, ITEMS = np.array([0, 0, 1]), np.array([0, 1, 0])
RATINGS = np.array([5.0, 1.0, 0.0])


def by_hand(user_ridge, item_ridge, weights=None):
    return objective(Factors(1.0, X, Z), USERS, ITEMS, RATINGS, user_ridge, item_ridge, weights)


def ridge(reg, exponent=0.0, bias_ratio=1.0):
    return Ridge(reg, exponent, total=3, mean_degree=1.5, bias_ratio=bias_ratio)


def test_predictions_in_the_head():
    users, items = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert predict(Factors(1.0, X, Z), users, items).tolist() == [4, 1, 0, 3]


@pytest.mark.parametrize(
    ("user", "item", "expected"), [(-1, -1, 1.0), (0, -1, 2.0), (-1, 1, 2.0), (0, 1, 1.0)]
)
def test_an_id_never_seen_contributes_nothing(user, item, expected):
    assert predict(Factors(1.0, X, Z), np.array([user]), np.array([item])) == expected


def test_the_objective_in_the_head():
    free = ridge(0.0)
    assert by_hand(free, free) == pytest.approx(1 / 3, rel=1e-15)  # errors −1, 0 and 0
    # Σ β² + ‖γ‖² is 5 + 1 over users and 1 + 2 over items
    assert by_hand(ridge(0.1), free) == pytest.approx(1 / 3 + 0.1 * 6, rel=1e-15)
    assert by_hand(free, ridge(0.1)) == pytest.approx(1 / 3 + 0.1 * 3, rel=1e-15)


def test_a_ridge_may_grow_with_the_number_of_ratings():
    # user 0 has 2 ratings and user 1 has 1, against 1.5 on average
    expected = 1 / 3 + 0.1 * (5 * 2 + 1 * 1) / 1.5
    assert by_hand(ridge(0.1, exponent=1.0), ridge(0.0)) == pytest.approx(expected, rel=1e-15)
    expected = 1 / 3 + 0.1 * (5 * 2**0.5 + 1 * 1**0.5) / 1.5**0.5
    assert by_hand(ridge(0.1, exponent=0.5), ridge(0.0)) == pytest.approx(expected, rel=1e-15)


def test_biases_may_be_regularized_less_than_factors():
    # Σ 0.5 β² + ‖γ‖² is 4.5 + 1 over users
    expected = 1 / 3 + 0.1 * 5.5
    assert by_hand(ridge(0.1, bias_ratio=0.5), ridge(0.0)) == pytest.approx(expected, rel=1e-15)


def test_weights_count_as_ratings():
    weights = np.array([2.0, 1.0, 1.0])
    four = Ridge(0.1, 1.0, total=4, mean_degree=2.0)
    again = Factors(1.0, X, Z), np.append(USERS, 0), np.append(ITEMS, 0), np.append(RATINGS, 5.0)
    assert by_hand(four, four, weights) == pytest.approx(objective(*again, four, four), rel=1e-15)


@PROPERTY
@given(problems(regs=(0.0, 0.01)))
def test_the_objective_is_what_loops_over_ratings_add_up(problem):
    alpha, x, z = problem.factors
    flipped = problem.transposed
    expected = twins.objective(
        alpha, x, z, problem.rows, flipped.rows, problem.user_ridge, problem.item_ridge
    )
    assert problem.objective() == pytest.approx(expected, rel=1e-12)
    assert flipped.objective() == pytest.approx(problem.objective(), rel=1e-16)


@PROPERTY
@given(problems())
def test_squared_errors_of_a_block_are_those_of_its_ratings(problem):
    alpha, x, z = problem.factors
    expected = [twins.sums(rated, z, alpha, x[row])[1] for row, rated in problem.rows.items()]
    np.testing.assert_allclose(squared_errors(problem.factors, problem.block), expected, rtol=1e-12)


@PROPERTY
@given(problems())
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


@PROPERTY
@given(st.floats(1e2, 1e8), st.floats(1e-3, 1e3))
def test_default_ridges_do_not_depend_on_the_number_or_the_scale_of_ratings(total, deviation):
    reg, ratio = default_reg(total, deviation)
    assert reg * total / deviation == pytest.approx(16)
    assert reg * total * ratio == pytest.approx(3)


@pytest.mark.parametrize("deviation", [0.0, float("nan")])
def test_ratings_that_are_all_the_same_have_a_default_ridge_too(deviation):
    assert default_reg(100, deviation) == pytest.approx((0.16, 3 / 16))


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
