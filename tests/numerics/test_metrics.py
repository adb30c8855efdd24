"""Exact sums against fractions, and errors against the means of numpy."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.errors import BINS, EvaluationError, add_errors, evaluation_of
from nonconvex.numerics.summation import add_exactly, fractions_of

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
    edges = [0, 1, 3, 6, 11, 21, 51, 101, math.inf]
    for side, by_count in ((users, found.by_user), (items, found.by_item)):
        for label, low, high in zip(BINS, edges, edges[1:], strict=False):
            members = (side >= low) & (side < high)
            assert by_count[label].ratings == members.sum()
            mse = np.average((predictions[1] - ratings)[members] ** 2, weights=w[members])
            assert by_count[label].rmse["b"] == pytest.approx(math.sqrt(mse), rel=1e-12)
    mae = np.average(abs(predictions[0] - ratings), weights=w)
    assert found.overall.mae["a"] == pytest.approx(mae, rel=1e-12)


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
