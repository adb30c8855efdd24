"""Errors of predictions, overall and by how much training knew of the user and the item."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.summation import Totals, add_exactly, fractions_of

__all__ = ["BINS", "Evaluation", "EvaluationError", "Scores", "add_errors", "evaluation_of"]

BINS = ("0", "1–2", "3–5", "6–10", "11–20", "21–50", "51–100", "> 100")
"""The bins of the number of training ratings that a user or an item has."""

_EDGES = (1, 3, 6, 11, 21, 51, 101)  # the least count of each bin but the first
_LEFT_OUT = len(BINS) ** 2  # the cell of the ratings that one of the predictors does not predict

_Sums = Sequence[Fraction]  # of 1, w, then w (R̂ − R)² of each predictor, then w |R̂ − R|


class EvaluationError(ValueError):
    """There is nothing to measure a model by."""

    exit_status = 3


@dataclass(frozen=True)
class Scores:
    """How well several predictors do on the same ratings.

    Parameters
    ----------
    ratings : int
        Number of ratings.
    rmse : dict of str to float
        √(Σ w (R̂ − R)² / Σ w) of each predictor, with w = 1 where there are no weights.
    mae : dict of str to float
        Σ w |R̂ − R| / Σ w of each predictor.
    """

    ratings: int
    rmse: dict[str, float]
    mae: dict[str, float]

    @property
    def by_predictor(self) -> dict[str, dict[str, float]]:
        """The same by predictor: ``rmse`` and ``mae`` of each."""
        return {name: {"rmse": self.rmse[name], "mae": self.mae[name]} for name in self.rmse}


@dataclass(frozen=True)
class Evaluation:
    """Errors of several predictors on the same held-out ratings.

    Parameters
    ----------
    overall : Scores
        Of all ratings that have a prediction.
    by_user, by_item : dict of str to Scores
        Of the ratings whose user (or item) has so many ratings in training: each of `BINS` that
        has any.
    unpredicted : int
        Number of ratings left out of all that, as one of the predictors has no prediction.
    """

    overall: Scores
    by_user: dict[str, Scores]
    by_item: dict[str, Scores]
    unpredicted: int


def add_errors(
    totals: Totals,
    ratings: NDArray[np.float64],
    predictions: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    user_counts: NDArray[np.integer],
    item_counts: NDArray[np.integer],
) -> Totals:
    """Add the errors of n predictions by each of P predictors to totals, and return them.

    For every cell, a bin of users and a bin of items, the totals are Σ 1, Σ w, and for each
    predictor Σ w (R̂ − R)² and Σ w |R̂ − R|, all of them exact.

    Parameters
    ----------
    totals : dict
        Changed in place; ``{}`` to begin with.
    ratings : float64 array of shape (n,)
    predictions : float64 array of shape (P, n)
        A rating for which one of them is not finite is left out of all, and counted.
    weights : float64 array of shape (n,), optional
        By default 1.
    user_counts, item_counts : int arrays of shape (n,)
        How many training ratings the user and the item have.
    """
    cell = _bin(user_counts) * len(BINS) + _bin(item_counts)
    predicted = np.isfinite(predictions).all(axis=0)
    ones = np.ones(len(ratings))
    w = (ones if weights is None else weights)[predicted]
    errors = predictions[:, predicted] - ratings[predicted]
    terms = [ones[predicted], w, *(w * errors**2), *(w * np.abs(errors))]
    width = len(terms)
    for number, term in enumerate(terms):
        add_exactly(totals, cell[predicted] * width + number, term)
    left_out = ones[~predicted]
    return add_exactly(totals, np.full(len(left_out), _LEFT_OUT * width), left_out)


def evaluation_of(totals: Totals, predictors: Sequence[str]) -> Evaluation:
    """Make scores of totals.

    Raises
    ------
    EvaluationError
        If there are no ratings, none is predicted, or none of those has a weight.

    Examples
    --------
    >>> counts = np.array([0, 10])
    >>> ratings, predicted = np.array([3.0, 2.0]), np.array([[4.0, 2.0]])
    >>> totals = add_errors({}, ratings, predicted, None, counts, counts)
    >>> evaluation_of(totals, ["mean"]).overall
    Scores(ratings=2, rmse={'mean': 0.7071067811865476}, mae={'mean': 0.5})
    """
    width = 2 + 2 * len(predictors)
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
        raise EvaluationError("the ratings to evaluate with have weight 0, all of them: weigh some")
    by_user, by_item = (_by_bin(cells, side, predictors) for side in (0, 1))
    return Evaluation(overall, by_user, by_item, unpredicted)


def _bin(counts: NDArray[np.integer]) -> NDArray[np.intp]:
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
    """Return the errors in several cells together, None if nothing in them has a weight."""
    rows, weight, *errors = map(sum, zip(*cells, strict=True))
    if not weight:
        return None
    means = [float(total / weight) for total in errors]
    return Scores(
        ratings=int(rows),
        rmse=dict(zip(predictors, map(math.sqrt, means[: len(predictors)]), strict=True)),
        mae=dict(zip(predictors, means[len(predictors) :], strict=True)),
    )
