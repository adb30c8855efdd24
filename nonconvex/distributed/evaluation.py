"""Errors of predictions: of all ratings, and by how much training knew of the user and the item."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from operator import add, and_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.summation import exact_sums

__all__ = ["BINS", "Evaluation", "EvaluationError", "Scores", "evaluate"]

BINS = ("0", "1–2", "3–5", "6–10", "11–20", "21–50", "51–100", "> 100")
"""The bins of the number of training ratings that a user or an item has."""

_EDGES = (1, 3, 6, 11, 21, 51, 101)  # the least count of each bin but the first
_LEFT_OUT = "left out"

_Cell = tuple[int, int]  # the bin of the user, the bin of the item
_Sums = Sequence[Fraction]  # of 1, w, and for each predictor w (R̂ − R)² and w |R̂ − R|


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


@dataclass(frozen=True)
class Evaluation:
    """Errors of several predictors on the same held-out ratings.

    Parameters
    ----------
    overall : Scores
        Of all ratings.
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


def evaluate(ratings: DataFrame, predictors: Sequence[str]) -> Evaluation:
    """Compare predictions with ratings, in one pass.

    Sums are exact and rounded once, so the errors depend on the ratings and predictions alone,
    not on their order or partitioning.

    Parameters
    ----------
    ratings : DataFrame
        ``rating``, ``user_count`` and ``item_count`` (how many training ratings the user and the
        item have), ``weight`` if there are weights, and a column of doubles for each predictor.
    predictors : sequence of str
        The names of these; a rating for which one of them has no finite number is left out of all.

    Returns
    -------
    Evaluation

    Raises
    ------
    EvaluationError
        If there are no ratings, none is predicted, or none of those has a weight.

    Examples
    --------
    >>> ratings = spark.createDataFrame(  # doctest: +SKIP
    ...     [(4.0, 3.0, 10, 0), (2.0, 2.0, 0, 10)], "rating double, mean double, "
    ...     "user_count long, item_count long",
    ... )
    >>> evaluate(ratings, ["mean"]).overall  # doctest: +SKIP
    Scores(ratings=2, rmse={'mean': 0.7071067811865476}, mae={'mean': 0.5})
    """
    unpredicted, cells = _sum(ratings, predictors)
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


def _sum(ratings: DataFrame, predictors: Sequence[str]) -> tuple[int, dict[_Cell, list[Fraction]]]:
    """Add up the errors within every pair of a bin of users and a bin of items."""
    weight = F.col("weight") if "weight" in ratings.columns else F.lit(1.0)
    terms = [F.lit(1.0), weight]
    for name in predictors:
        error = _column(name) - F.col("rating")
        terms += [weight * error * error, weight * F.abs(error)]
    bins = [_bin(F.col(f"{side}_count")) for side in ("user", "item")]
    keys = [F.concat_ws(" ", F.lit(str(number)), *bins) for number in range(len(terms))]
    kept = [_pair(*pair) for pair in zip(keys, terms, strict=True)]
    finite = (F.abs(_column(name)) < float("inf") for name in predictors)  # NaN is above it
    left_out = F.array(_pair(F.lit(_LEFT_OUT), F.lit(1.0)))
    pairs = F.when(reduce(and_, finite), F.array(*kept)).otherwise(left_out)
    table = ratings.select(F.explode(pairs).alias("pair")).select("pair.*")
    sums = exact_sums(table, "value", by="key")
    unpredicted = int(sums.pop(_LEFT_OUT, 0))
    cells: dict[_Cell, list[Fraction]] = defaultdict(lambda: [Fraction()] * len(terms))
    for key, value in sums.items():
        number, user_bin, item_bin = map(int, key.split())
        cells[user_bin, item_bin][number] = value
    return unpredicted, dict(cells)


def _bin(count: Column) -> Column:
    """Return the place in `BINS`."""
    return reduce(add, ((count >= edge).cast("int") for edge in _EDGES))


def _pair(key: Column, value: Column) -> Column:
    return F.struct(key.alias("key"), value.alias("value"))


def _column(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")


def _by_bin(
    cells: Mapping[_Cell, _Sums], side: int, predictors: Sequence[str]
) -> dict[str, Scores]:
    scores = {}
    for number, label in enumerate(BINS):
        members = [sums for cell, sums in cells.items() if cell[side] == number]
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
        rmse=dict(zip(predictors, map(math.sqrt, means[::2]), strict=True)),
        mae=dict(zip(predictors, means[1::2], strict=True)),
    )
