"""Errors of predictions, summed exactly: the same for any order of the rows.

Ratings: RMSE = √(Σ w e² / Σ w) and MAE = Σ w |e| / Σ w with e = R̂ − R, overall and by the number
of training ratings of the user and of the item.  Regression, of each target: RMSE = √(Σ w e² / Σ w)
and MAE = Σ w |e| / Σ w with e = ŷ − y, and R² = 1 − Σ w e² / Σ w (y − ȳ)².  Classification, with
N_ab = Σ w over the rows of class a that are predicted as b: accuracy = Σ_a N_aa / Σ_ab N_ab,
precision_c = N_cc / Σ_a N_ac, recall_c = N_cc / Σ_b N_cb, F1_c the harmonic mean of both,
and log loss = −Σ w log p_y / Σ w.

The ratio r of the RMSE of one predictor to that of another on the same ratings is known to

    SE(r) = r/2 · √(Σ w² (e²/M − e'²/M')²) / Σ w,   M = Σ w e² / Σ w,

to first order and if ratings are independent: errors that both make cancel out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics import Doubles, Ints, Longs
from nonconvex.numerics.deterministic import Totals, add_exactly, fractions_of

BINS = ("0", "1–2", "3–5", "6–10", "11–20", "21–50", "51–100", "> 100")
"""The bins of the number of training ratings that a user or an item has."""

_EDGES = (1, 3, 6, 11, 21, 51, 101)  # the least count of each bin but the first
_MOST_SQUARED = 1e150  # whose square is finite
_LEFT_OUT = len(BINS) ** 2  # the cell of ratings without a prediction by each predictor
_FEW = 21  # most actual values with a row of tiles each
_ROWS, _WEIGHT = 0, 1  # groups of Σ 1 and Σ w; the others follow
_SQUARED, _ABSOLUTE, _TARGET, _TARGET_SQUARED = range(4)  # of each target
_LOG_LOSS, _MATRIX = 2, 3

LEVELS = (81, 30)
"""Most levels of the actual values, and of the predictions, in a `PredictedVsActual`."""

_Sums = Sequence[Fraction]  # of the terms of `add_errors`


class EvaluationError(ValueError):
    """No data to evaluate a model on."""

    exit_status = 3


@dataclass(frozen=True)
class Scores:
    """Errors of several predictors on the same ratings."""

    ratings: int  # number of ratings
    # √(Σ w (R̂ − R)² / Σ w) of each predictor, with w = 1 where there are no weights
    rmse: dict[str, float]
    mae: dict[str, float]  # Σ w |R̂ − R| / Σ w of each predictor
    # of each other predictor, the standard error of RMSE(first) / RMSE(other)
    ratio_error: dict[str, float] = field(default_factory=dict)

    @property
    def by_predictor(self) -> dict[str, dict[str, float]]:
        """``rmse`` and ``mae`` of each predictor."""
        return {name: {"rmse": self.rmse[name], "mae": self.mae[name]} for name in self.rmse}


@dataclass(frozen=True)
class Evaluation:
    """Errors of several predictors on the same held-out ratings."""

    overall: Scores  # errors on all ratings that have a prediction
    # errors by the number of training ratings of the user (or item), for each non-empty bin
    by_user: dict[str, Scores]
    by_item: dict[str, Scores]
    unpredicted: int  # number of ratings left out because a predictor has no prediction


def add_errors(
    totals: Totals,
    ratings: Doubles,
    predictions: Doubles,
    weights: Doubles | None,
    user_counts: Ints,
    item_counts: Ints,
) -> Totals:
    """Add the errors of P predictors on n ratings to totals, and return them.

    For every cell, a bin of users and a bin of items, the totals are Σ 1, Σ w, and for each
    predictor Σ w e², Σ w |e| and, if there are others, Σ w² e⁴ and Σ w² e² e₁² with e₁ of the first
    one, all of them exact.  A rating with a prediction (P, n) that is not finite is left out of
    all, and counted.  Weights (n,) are 1 by default; the counts (n,) are numbers of training
    ratings of the user and of the item.
    """
    cell = _bin(user_counts) * len(BINS) + _bin(item_counts)
    predicted = np.isfinite(predictions).all(axis=0)
    ones = np.ones(len(ratings))
    w = (ones if weights is None else weights)[predicted]
    errors = predictions[:, predicted] - ratings[predicted]
    squares = w * errors**2
    terms = [ones[predicted], w, *squares, *(w * np.abs(errors))]
    if len(squares) > 1:
        kept = np.minimum(squares, _MOST_SQUARED)
        terms += [*kept**2, *(kept * kept[0])]
    width = len(terms)
    for number, term in enumerate(terms):
        add_exactly(totals, cell[predicted] * width + number, term)
    left_out = ones[~predicted]
    return add_exactly(totals, np.full(len(left_out), _LEFT_OUT * width), left_out)


def evaluation_of(totals: Totals, predictors: Sequence[str]) -> Evaluation:
    """Return the scores of totals.

    Raises EvaluationError if there are no ratings, none is predicted, or no such one has a weight.
    """
    width = 2 + (4 if len(predictors) > 1 else 2) * len(predictors)
    cells: dict[int, list[Fraction]] = defaultdict(lambda: [Fraction()] * width)
    for key, value in fractions_of(totals).items():
        cell, term = divmod(key, width)
        cells[cell][term] = value
    unpredicted = int(cells.pop(_LEFT_OUT, [Fraction()])[0])
    if not cells:
        raise EvaluationError(
            f"none of the {unpredicted:,} ratings has a prediction: set coldStartStrategy='bias', "
            "or give ratings of known users and items"
            if unpredicted
            else "there are no ratings to evaluate with: hold some out"
        )
    overall = _scores(cells.values(), predictors)
    if overall is None:
        raise EvaluationError(
            "all weights are 0: at least one rating to evaluate with must have a positive weight"
        )
    by_user, by_item = (_by_bin(cells, side, predictors) for side in (0, 1))
    return Evaluation(overall, by_user, by_item, unpredicted)


def _bin(counts: Ints) -> NDArray[np.intp]:
    """Return the places in `BINS`."""
    return np.searchsorted(_EDGES, counts, side="right")


def _by_bin(cells: Mapping[int, _Sums], side: int, predictors: Sequence[str]) -> dict[str, Scores]:
    scores = {}
    for number, label in enumerate(BINS):
        members = [sums for cell, sums in cells.items() if divmod(cell, len(BINS))[side] == number]
        of_bin = _scores(members, predictors) if members else None
        if of_bin is not None:
            scores[label] = of_bin
    return scores


def _scores(cells: Iterable[_Sums], predictors: Sequence[str]) -> Scores | None:
    """Return the errors over several cells, None if all weights are 0."""
    rows, weight, *errors = map(sum, zip(*cells, strict=True))
    if not weight:
        return None
    p = len(predictors)
    squared, absolute, *others = (errors[n : n + p] for n in range(0, len(errors), p))
    rmse = [math.sqrt(total / weight) for total in squared]
    ratio_error = {}
    for number, name in enumerate(predictors[1:], start=1):
        if squared[0] and squared[number]:
            fourth, products = others
            one, other = 1 / squared[0], 1 / squared[number]
            spread = fourth[0] * one**2 - 2 * products[number] * one * other
            spread += fourth[number] * other**2
            ratio = rmse[0] / rmse[number]
            ratio_error[name] = 0.5 * ratio * math.sqrt(max(spread, 0))
    return Scores(
        ratings=int(rows),
        rmse=dict(zip(predictors, rmse, strict=True)),
        mae={name: float(of / weight) for name, of in zip(predictors, absolute, strict=True)},
        ratio_error=ratio_error,
    )


class PredictedVsActual(NamedTuple):
    """2-D histogram of predicted against actual values."""

    # (rows, columns): by actual value and by prediction; values outside are counted at the edge
    counts: Longs
    # of shapes (rows + 1,) and (columns + 1,): the edges of the tiles
    actual: Doubles
    predicted: Doubles

    @classmethod
    def of(cls, counts: Longs, least: float, most: float) -> PredictedVsActual:
        """Choose the tiles to show, given the number of values in each tile, see `tile_of`."""
        fine, coarse = LEVELS
        span, counts = (most - least) or 1.0, counts.reshape(LEVELS)
        centres = least + span * np.arange(fine) / (fine - 1)
        taken = np.flatnonzero(counts.sum(axis=1))
        if 1 < len(taken) <= _FEW:  # such as ratings from 1 to 5
            counts, places = counts[taken], centres[taken]
            between = (places[1:] + places[:-1]) / 2
            outer = 2 * places[[0, -1]] - between[[0, -1]]
            edges = np.concatenate([outer[:1], between, outer[1:]])
        else:
            counts = counts.reshape(-1, 3, coarse).sum(axis=1)
            half = span / (fine - 1) / 2
            edges = np.linspace(least - half, most + half, len(counts) + 1)
        return cls(counts, edges, np.linspace(least, most, coarse + 1))


def tile_of(actual: Doubles, predicted: Doubles, least: float, most: float) -> Longs:
    """Return the number of the tile of each value, in a histogram of as many as `LEVELS` has.

    Examples
    --------
    >>> tile_of(np.array([1.0, 5.0]), np.array([1.2, 9.0]), 1.0, 5.0)
    array([   1, 2429])
    """
    (fine, coarse), span = LEVELS, (most - least) or 1.0
    row = np.clip(np.floor((actual - least) / span * (fine - 1) + 0.5), 0, fine - 1)
    column = np.clip(np.floor((predicted - least) / span * coarse), 0, coarse - 1)
    place: Longs = (row * coarse + column).astype(np.int64)
    return place


def add_regression(
    totals: Totals, y: Doubles, predicted: Doubles, weight: Doubles | None
) -> Totals:
    """Add the errors of some rows to totals, and return them.

    `y` and `predicted` are of shape (m, k), and the weights, if there are any, of shape (m,).
    """
    w = _add_rows(totals, len(y), weight)
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused
        for target in range(y.shape[1]):
            _add_target(totals, 2 + 4 * target, y[:, target], predicted[:, target], w)
    return totals


def regression_errors(totals: Totals, targets: Sequence[str]) -> dict[str, Any]:
    """Return the errors of totals.

    They are ``rmse, mae, r2`` (the first of the mean over the targets of Σ w e² / Σ w, the others
    means over the targets), ``rows``, ``weight``, and ``targets``, a list with ``target, mean,
    rmse, mae, r2`` of each, where the mean is ȳ.  R² is None for a constant target.  Raises
    EvaluationError if there are no rows, or none has a weight.

    Examples
    --------
    >>> y, predicted = np.array([[1.0], [3.0]]), np.array([[1.0], [2.0]])
    >>> errors = regression_errors(add_regression({}, y, predicted, None), ["y"])
    >>> errors["mae"], errors["r2"]
    (0.5, 0.5)
    """
    sums = fractions_of(totals)
    rows, weight = _rows(sums)
    of_targets: list[dict[str, Any]] = []
    squares = []
    for number, name in enumerate(targets):
        first = 2 + 4 * number
        squared, absolute, target, square = (sums.get(first + j, Fraction()) for j in range(4))
        variance = square / weight - (target / weight) ** 2
        squares.append(squared / weight)
        of_targets.append(
            {
                "target": name,
                "mean": float(target / weight),
                "rmse": math.sqrt(squares[-1]),
                "mae": float(absolute / weight),
                "r2": float(1 - squares[-1] / variance) if variance > 0 else None,
            }
        )
    explained = [one["r2"] for one in of_targets if one["r2"] is not None]
    return {
        "rmse": math.sqrt(sum(squares) / len(squares)),
        "mae": sum(one["mae"] for one in of_targets) / len(of_targets),
        "r2": sum(explained) / len(explained) if explained else None,
        "rows": rows,
        "weight": float(weight),
        "targets": of_targets,
    }


def add_classification(
    totals: Totals, y: Ints, predicted: Ints, loss: Doubles, weight: Doubles | None, classes: int
) -> Totals:
    """Add the predictions of some rows to totals, and return them.

    `y` and `predicted` (m,) are indices of classes, and `loss` (m,) is −log p_y; weights are (m,).
    """
    w = _add_rows(totals, len(y), weight)
    _add(totals, _LOG_LOSS, w * loss)
    cells = _MATRIX + y.astype(np.int64) * classes + predicted
    return add_exactly(totals, cells, w)


def classification_errors(totals: Totals, labels: Sequence[Any]) -> dict[str, Any]:
    """Return the errors of totals.

    They are ``accuracy, logLoss, rows, weight``; ``classes``, a list with ``label, precision,
    recall, f1, weight`` of each class (precision and recall are 0 for a class that was never
    predicted or does not occur); and ``confusionMatrix``, N as a list of rows.  Raises
    EvaluationError if there are no rows, or none has a weight.

    Examples
    --------
    >>> y, predicted = np.array([0, 0, 1]), np.array([0, 1, 1])
    >>> totals = add_classification({}, y, predicted, np.ones(3), None, 2)
    >>> errors = classification_errors(totals, ["a", "b"])
    >>> errors["confusionMatrix"], errors["classes"][1]["precision"]
    ([[1.0, 1.0], [0.0, 1.0]], 0.5)
    """
    sums = fractions_of(totals)
    rows, weight = _rows(sums)
    k = len(labels)
    matrix: dict[tuple[int, int], Fraction] = {
        divmod(group - _MATRIX, k): value for group, value in sums.items() if group >= _MATRIX
    }
    own, other = [Fraction()] * k, [Fraction()] * k  # Σ_b N_cb and Σ_a N_ac
    for (actual, taken), value in matrix.items():
        own[actual] += value
        other[taken] += value
    right = [matrix.get((number, number), Fraction()) for number in range(k)]
    return {
        "accuracy": float(sum(right, Fraction()) / weight),
        "logLoss": float(sums.get(_LOG_LOSS, Fraction()) / weight),
        "rows": rows,
        "weight": float(weight),
        "classes": [
            {
                "label": label,
                "precision": _ratio(right[number], other[number]),
                "recall": _ratio(right[number], own[number]),
                "f1": _ratio(2 * right[number], own[number] + other[number]),
                "weight": float(own[number]),
            }
            for number, label in enumerate(labels)
        ],
        "confusionMatrix": [
            [float(matrix.get((actual, taken), 0)) for taken in range(k)] for actual in range(k)
        ],
    }


def _add_target(totals: Totals, first: int, y: Doubles, predicted: Doubles, w: Doubles) -> None:
    error = predicted - y
    _add(totals, first + _SQUARED, w * error**2)
    _add(totals, first + _ABSOLUTE, w * np.abs(error))
    # Without rounding: the variance is a difference of these.
    for part in _product(w, y):
        _add(totals, first + _TARGET, part)
    square, rest = _product(y, y)
    for part in (*_product(w, square), *_product(w, rest)):
        _add(totals, first + _TARGET_SQUARED, part)


def _add_rows(totals: Totals, rows: int, weight: Doubles | None) -> Doubles:
    ones = np.ones(rows)
    w = ones if weight is None else weight
    _add(totals, _ROWS, ones)
    _add(totals, _WEIGHT, w)
    return w


def _add(totals: Totals, group: int, values: Doubles) -> None:
    if not np.isfinite(values).all():
        raise EvaluationError(
            "a prediction or a target is too large to be squared; rescale the targets, or check "
            "the features"
        )
    add_exactly(totals, np.full(len(values), group), values)


def _rows(sums: dict[int, Fraction]) -> tuple[int, Fraction]:
    rows, weight = int(sums.get(_ROWS, 0)), sums.get(_WEIGHT, Fraction())
    if not rows:
        raise EvaluationError("there are no rows to evaluate with: hold some out")
    if not weight:
        raise EvaluationError(
            "all weights are 0: at least one row to evaluate with must have a positive weight"
        )
    return rows, weight


def _ratio(part: Fraction, whole: Fraction) -> float:
    return float(part / whole) if whole else 0.0


def _product(a: Doubles, b: Doubles) -> tuple[Doubles, Doubles]:
    """Return p and e with p + e = a b exactly (Dekker, 1971)."""
    p = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(x: Doubles) -> tuple[Doubles, Doubles]:
    shifted = x * 134217729.0  # 2²⁷ + 1
    high = shifted - (shifted - x)
    return high, x - high
