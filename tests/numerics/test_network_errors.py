"""Errors of networks against the plain formulas, and where plain sums would fail."""

from fractions import Fraction

import numpy as np
import pytest

from nonconvex.numerics.errors import EvaluationError
from nonconvex.numerics.metrics import (
    add_classification,
    add_regression,
    classification_errors,
    regression_errors,
)


def test_regression_is_the_formulas_and_no_cut_of_the_rows_changes_a_bit():
    generator = np.random.default_rng(0)
    y, weight = generator.normal(size=(50, 2)), generator.uniform(0, 3, 50)
    predicted = y + generator.normal(size=(50, 2))
    found = regression_errors(add_regression({}, y, predicted, weight), ["a", "b"])
    cut = add_regression({}, y[33:], predicted[33:], weight[33:])
    assert (
        regression_errors(add_regression(cut, y[:33], predicted[:33], weight[:33]), "ab") == found
    )
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
    found = classification_errors(
        add_classification({}, y, predicted, loss, weight, 4), ["a", "b", "c", "d"]
    )
    matrix = np.array(
        [[weight[(y == a) & (predicted == b)].sum() for b in range(4)] for a in range(4)]
    )
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
    none = np.zeros((0, 1))
    with pytest.raises(EvaluationError, match="no rows to evaluate with"):
        regression_errors(add_regression({}, none, none, None), ["y"])
    one = np.ones((1, 1))
    with pytest.raises(EvaluationError, match="weight 0, all of them"):
        regression_errors(add_regression({}, one, one, np.zeros(1)), ["y"])
    with pytest.raises(EvaluationError, match="too great to be squared"):
        add_regression({}, one * 1e200, one, None)
