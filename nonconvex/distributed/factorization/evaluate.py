"""Evaluation on the executors: retrieval metrics of top-N lists, and errors of predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.columns import TOTALS, batch_of, named_column, totals_in
from nonconvex.distributed.factorization.predict import index_table, with_index
from nonconvex.distributed.factorization.top_n import ModelSide, Ranker, lists_of, requests, tasks
from nonconvex.distributed.runtime import binary_row, freeze_gc_once
from nonconvex.numerics.deterministic import Totals
from nonconvex.numerics.metrics import Evaluation, EvaluationError, add_errors, evaluation_of
from nonconvex.numerics.ranking import average_precision, hits, ndcg, precision, recall

METRICS = ("ndcgAtK", "recallAtK", "precisionAtK", "meanAveragePrecisionAtK")
"""Means over the rows, by the names of Spark's ``RankingEvaluator``."""

_Batches = Iterator[pa.RecordBatch]


def retrieval(
    relevant: DataFrame,
    ranker: Ranker,
    rows: ModelSide,
    columns: ModelSide,
    *,
    exclude: DataFrame | None,
    unknown: bool,
) -> dict[str, float]:
    """Measure the lists of the rows with relevant columns.

    Parameters
    ----------
    relevant : DataFrame
        ``id, other``: the ids of a row and of a column that is relevant for it, in the types of
        training; a repeated pair counts once.

    Returned are the `METRICS`, as means over the rows, which are summed exactly, so no order
    matters; ``coverageAtK``, the fraction of all columns that are in any list; and ``users``, the
    number of rows.
    """
    keys = _relevant(relevant, rows, columns)
    asked, ranker = requests(
        keys if unknown else keys.where("index is not null"), ranker, rows, columns, exclude=exclude
    )
    schema = "metrics binary, found binary"
    parts = asked.mapInArrow(_measure(ranker), schema).toArrow().to_pylist()
    if not parts:
        raise EvaluationError(
            "there is nobody to rank for, as nothing is relevant for any user that can be ranked "
            "for: lower the threshold, or give ratings of users that the model knows"
        )
    values = [np.frombuffer(part["metrics"]).reshape(len(METRICS), -1) for part in parts]
    of_rows = np.concatenate(values, axis=1)
    users = of_rows.shape[1]
    found = np.zeros(len(columns.ids), dtype=bool)
    for part in parts:
        found[np.frombuffer(part["found"], np.int32)] = True
    means = {name: math.fsum(of) / users for name, of in zip(METRICS, of_rows, strict=True)}
    return {**means, "coverageAtK": float(found.mean()), "users": users}


def _relevant(relevant: DataFrame, rows: ModelSide, columns: ModelSide) -> DataFrame:
    """Return ``id, index, relevant, total`` of each row.

    The number of all relevant columns is more than that of ``relevant`` indices where the model
    does not know some.
    """
    once = relevant.where("id is not null and other is not null").distinct()
    indexed = with_index(once, F.col("other"), index_table(once, columns.ids), "column")
    lists = (
        indexed.repartition(tasks(indexed), "id")
        .groupBy("id")
        .agg(F.collect_list("column").alias("relevant"), F.count("*").alias("total"))
    )
    return with_index(lists, F.col("id"), index_table(lists, rows.ids), "index")


def _measure(ranker: Ranker) -> Callable[[_Batches], _Batches]:
    def measure(batches: _Batches) -> _Batches:
        for batch in filter(len, batches):
            ranked = ranker(batch).lists
            total = batch.column("total").to_numpy()
            hit = hits(ranked, lists_of(batch, "relevant"), ranker.n)
            metrics = np.stack(
                [
                    ndcg(hit, total),
                    recall(hit, total),
                    precision(hit),
                    average_precision(hit, total),
                ]
            )
            yield binary_row({}, {"metrics": metrics, "found": np.unique(ranked.columns)})

    return measure


_COUNTS = ("user_count", "item_count")


def evaluate_ratings(ratings: DataFrame, predictors: Sequence[str]) -> Evaluation:
    """Compare predictions with ratings, in one pass.

    Sums are exact and rounded once, so the errors depend on the ratings and predictions alone,
    not on their order or partitioning.

    Parameters
    ----------
    ratings : DataFrame
        ``rating``, ``user_count`` and ``item_count`` (how many training ratings the user and the
        item have), ``weight`` if there are weights, and a column of doubles for each predictor.
    """
    weighted = "weight" in ratings.columns
    predictions = [named_column(name).alias(f"p{i}") for i, name in enumerate(predictors)]
    used = ratings.select("rating", *_COUNTS, *(["weight"] if weighted else []), *predictions)
    collected = used.mapInArrow(_errors(len(predictions), weighted), TOTALS).toArrow()
    return evaluation_of(totals_in(collected), predictors)


def _errors(predictors: int, weighted: bool) -> Callable[[_Batches], _Batches]:
    def errors(batches: _Batches) -> _Batches:
        freeze_gc_once()
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
