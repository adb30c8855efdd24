"""Errors of predictions that stand beside the ratings, in one pass on the executors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.sums import TOTALS, batch_of, totals_in
from nonconvex.distributed.workers import settle
from nonconvex.numerics.errors import Evaluation, add_errors, evaluation_of
from nonconvex.numerics.summation import Totals

__all__ = ["evaluate"]

_Batches = Iterator[pa.RecordBatch]

_COUNTS = ("user_count", "item_count")


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
    >>> ratings = spark.createDataFrame(
    ...     [(4.0, 3.0, 10, 0), (2.0, 2.0, 0, 10)], ["rating", "mean", "user_count", "item_count"]
    ... )
    >>> evaluate(ratings, ["mean"]).overall
    Scores(ratings=2, rmse={'mean': 0.7071067811865476}, mae={'mean': 0.5})
    """
    weighted = "weight" in ratings.columns
    named = [F.col("`" + name.replace("`", "``") + "`") for name in predictors]
    predictions = [column.alias(f"p{number}") for number, column in enumerate(named)]
    used = ratings.select("rating", *_COUNTS, *(["weight"] if weighted else []), *predictions)
    collected = used.mapInArrow(_errors(len(predictions), weighted), TOTALS).toArrow()
    return evaluation_of(totals_in(collected), predictors)


def _errors(predictors: int, weighted: bool) -> Callable[[_Batches], _Batches]:
    def errors(batches: _Batches) -> _Batches:
        settle()
        totals: Totals = {}
        for batch in filter(len, batches):
            columns = [_doubles(batch, f"p{number}") for number in range(predictors)]
            add_errors(
                totals,
                _doubles(batch, "rating"),
                np.stack(columns),
                _doubles(batch, "weight") if weighted else None,
                *(batch.column(name).to_numpy() for name in _COUNTS),
            )
        yield batch_of(totals)

    return errors


def _doubles(batch: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    """Return a column of doubles, NaN for null."""
    column: NDArray[np.float64] = batch.column(name).to_numpy(zero_copy_only=False)
    return column
