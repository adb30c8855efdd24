"""Exact sums against fractions, and errors against plain formulas, and where those would fail."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.deterministic import add_exactly, fractions_of
from nonconvex.numerics.metrics import (
    BINS,
    EvaluationError,
    add_classification,
    add_errors,
    add_regression,
    classification_errors,
    evaluation_of,
    regression_errors,
)

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@given(st.lists(st.tuples(st.integers(0, 3), finite)))
def test_sums_are_those_of_fractions(pairs):
    groups = np.array([group for group, _ in pairs], int)
    values = np.array([value for _, value in pairs], float)
    totals = add_exactly({}, groups[::2], values[::2])
    found = fractions_of(add_exactly(totals, groups[1::2], values[1::2]))
    expected = {}
    for group, value in pairs:
        expected[group] = expected.get(group, Fraction()) + Fraction(value)
    assert found == expected


def random_errors(seed=0, n=300):
    rng = np.random.default_rng(seed)
    ratings, predictions = rng.uniform(0, 5, n), rng.uniform(0, 5, (2, n))
    weights = rng.choice([0.0, 0.3, 2.0], n)
    counts = rng.choice([0, 1, 2, 3, 5, 6, 10, 11, 20, 21, 50, 51, 100, 101, 10**6], (2, n))
    return ratings, predictions, weights, *counts


@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_those_of_numpy(weighted):
    ratings, predictions, weights, users, items = random_errors()
    w = weights if weighted else np.ones(len(ratings))
    totals = {}
    for part in (slice(0, 100), slice(100, None)):
        given_weights = weights[part] if weighted else None
        sizes = users[part], items[part]
        add_errors(totals, ratings[part], predictions[:, part], given_weights, *sizes)
    found = evaluation_of(totals, ["a", "b"])

    def check(scores, members):
        assert scores.ratings == members.sum()
        for name, errors in zip("ab", (predictions - ratings)[:, members], strict=True):
            mse, mae = (np.average(e, weights=w[members]) for e in (errors**2, abs(errors)))
            assert scores.rmse[name] == pytest.approx(math.sqrt(mse), rel=1e-12)
            assert scores.mae[name] == pytest.approx(mae, rel=1e-12)
        squared = (predictions - ratings)[:, members] ** 2
        share = w[members] / w[members].sum()
        one, other = squared @ share
        influence = share * (squared[0] / one - squared[1] / other)
        error = np.sqrt(one / other * np.sum(influence**2)) / 2
        assert scores.ratio_error == {"b": pytest.approx(error, rel=1e-9)}

    check(found.overall, np.ones(len(ratings), bool))
    edges = [0, 1, 3, 6, 11, 21, 51, 101, math.inf]
    assert BINS == ("0", "1–2", "3–5", "6–10", "11–20", "21–50", "51–100", "> 100")
    for side, by_count in ((users, found.by_user), (items, found.by_item)):
        assert tuple(by_count) == BINS
        for label, low, high in zip(BINS, edges, edges[1:], strict=False):
            check(by_count[label], (side >= low) & (side < high))
    weights[users == 0] = 0
    without = evaluation_of(add_errors({}, ratings, predictions, weights, users, items), ["a", "b"])
    assert tuple(without.by_user) == BINS[1:], "a bin without weight has no scores"
    assert without.overall.ratings == len(ratings)


def test_the_error_of_a_ratio_is_what_samples_scatter_by():
    rng = np.random.default_rng(1)
    ratings = rng.normal(size=(400, 500))
    close = 0.3 * rng.normal(size=ratings.shape)
    predictions = np.stack([close, close + 0.2 * rng.normal(size=ratings.shape)], axis=1)
    none, ratios, errors = np.zeros(500, int), [], []
    for truth, predicted in zip(ratings, predictions, strict=True):
        scores = evaluation_of(add_errors({}, truth, predicted, None, none, none), "ab").overall
        ratios.append(scores.rmse["a"] / scores.rmse["b"])
        errors.append(scores.ratio_error["b"])
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.1)
    exact = evaluation_of(
        add_errors({}, np.ones(3), np.ones((2, 3)), None, *none[None, :3].repeat(2, 0)), "ab"
    )
    assert exact.overall.ratio_error == {}
    alone = add_errors({}, ratings[0], predictions[0, :1], None, none, none)
    assert {group for group, _ in alone} == set(range(4)), "nothing to compare one with"
    assert evaluation_of(alone, "a").overall.rmse["a"] > 0


def test_what_one_cannot_predict_is_left_out_for_all():
    ratings, predictions, _, users, items = random_errors(n=5)
    predictions[0, 1], predictions[1, 2] = np.nan, np.inf
    found = evaluation_of(add_errors({}, ratings, predictions, None, users, items), ["a", "b"])
    assert (found.unpredicted, found.overall.ratings) == (2, 3)
    nothing = add_errors({}, ratings, predictions * np.nan, None, users, items)
    with pytest.raises(EvaluationError, match="none of the 5 ratings has a prediction"):
        evaluation_of(nothing, ["a", "b"])
    with pytest.raises(EvaluationError, match="there are no ratings to evaluate with"):
        evaluation_of({}, ["a", "b"])


def test_regression_is_the_formulas_and_no_cut_of_the_rows_changes_a_bit():
    generator = np.random.default_rng(0)
    y, weight = generator.normal(size=(50, 2)), generator.uniform(0, 3, 50)
    predicted = y + generator.normal(size=(50, 2))
    found = regression_errors(add_regression({}, y, predicted, weight), ["a", "b"])
    cut = add_regression({}, y[33:], predicted[33:], weight[33:])
    cut = add_regression(cut, y[:33], predicted[:33], weight[:33])
    assert regression_errors(cut, "ab") == found
    error, total = predicted - y, weight.sum()
    squared = weight @ error**2 / total
    variance = weight @ (y - weight @ y / total) ** 2 / total
    assert [one["rmse"] for one in found["targets"]] == pytest.approx(np.sqrt(squared))
    assert [one["mae"] for one in found["targets"]] == pytest.approx(weight @ abs(error) / total)
    assert [one["r2"] for one in found["targets"]] == pytest.approx(1 - squared / variance)
    assert found["rmse"] == pytest.approx(np.sqrt(squared.mean()))
    assert found["r2"] == pytest.approx((1 - squared / variance).mean())
    assert (found["rows"], found["weight"]) == (50, pytest.approx(total))


def test_r2_of_targets_far_from_zero_keeps_its_digits():
    y = 1e9 + np.array([[0.1], [0.4], [0.7], [1.5]])
    weight = np.array([0.3, 1.1, 0.7, 2.3])
    predicted = y + np.array([[0.1], [-0.2], [0.1], [0.3]])
    found = regression_errors(add_regression({}, y, predicted, weight), ["y"])["r2"]
    w, values, guesses = ([Fraction(v) for v in a.ravel()] for a in (weight, y, predicted))
    mean = sum(a * b for a, b in zip(w, values, strict=True)) / sum(w)
    left = sum(a * (p - b) ** 2 for a, b, p in zip(w, values, guesses, strict=True))
    spread = sum(a * (b - mean) ** 2 for a, b in zip(w, values, strict=True))
    assert found == pytest.approx(float(1 - left / spread), rel=1e-12)
    constant = regression_errors(add_regression({}, y * 0 + 0.1, predicted, weight), ["y"])
    assert constant["r2"] is None


def test_classification_is_the_formulas():
    generator = np.random.default_rng(1)
    y, predicted = generator.integers(0, 3, (2, 60))
    weight, loss = generator.uniform(0, 2, (2, 60))
    sums = add_classification({}, y, predicted, loss, weight, 4)
    found = classification_errors(sums, ["a", "b", "c", "d"])
    matrix = np.zeros((4, 4))
    np.add.at(matrix, (y, predicted), weight)
    np.testing.assert_allclose(found["confusionMatrix"], matrix)
    assert found["accuracy"] == pytest.approx(weight[y == predicted].sum() / weight.sum())
    assert found["logLoss"] == pytest.approx(weight @ loss / weight.sum())
    one = found["classes"][1]
    precision, recall = matrix[1, 1] / matrix[:, 1].sum(), matrix[1, 1] / matrix[1].sum()
    assert (one["precision"], one["recall"]) == pytest.approx((precision, recall))
    assert one["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    never = found["classes"][3]
    assert (never["precision"], never["recall"], never["f1"], never["weight"]) == (0, 0, 0, 0)


def test_nothing_to_measure():
    none, one = np.zeros((0, 1)), np.ones((1, 1))
    for rows, weight, message in ((none, None, "no rows to eval"), (one, [0.0], "weights are 0")):
        with pytest.raises(EvaluationError, match=message):
            regression_errors(add_regression({}, rows, rows, weight and np.zeros(1)), ["y"])
    with pytest.raises(EvaluationError, match="too large to be squared"):
        add_regression({}, one * 1e200, one, None)
