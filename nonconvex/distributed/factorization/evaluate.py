"""How well top-N lists retrieve what is known to be relevant, measured on the executors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.factorization.predict import index_table, with_index
from nonconvex.distributed.factorization.top_n import Ranker, Side, lists_of, requests, tasks
from nonconvex.numerics.errors import EvaluationError
from nonconvex.numerics.relevance import average_precision, hits, ndcg, precision, recall

__all__ = ["METRICS", "retrieval"]

METRICS = ("ndcgAtK", "recallAtK", "precisionAtK", "meanAveragePrecisionAtK")
"""Means over the rows, under the names that Spark's ``RankingEvaluator`` has for them."""

_Batches = Iterator[pa.RecordBatch]


def retrieval(
    relevant: DataFrame,
    ranker: Ranker,
    rows: Side,
    columns: Side,
    *,
    exclude: DataFrame | None,
    unknown: bool,
) -> dict[str, float]:
    """Measure the lists of the rows for which something is relevant.

    Parameters
    ----------
    relevant : DataFrame
        ``id, other``: the ids of a row and of a column that is relevant for it, in the types of
        training; a repeated pair counts once.
    ranker : Ranker
        Its n is k.
    rows, columns : Side
    exclude : DataFrame, optional
        Pairs that no list may hold.
    unknown : bool
        Whether rows that the model does not know have lists.

    Returns
    -------
    dict of str to float
        `METRICS`, as means over the rows, which are summed exactly, so no order matters;
        ``coverageAtK``, the fraction of all columns that are in any list; and ``users``, the
        number of rows.

    Raises
    ------
    EvaluationError
        If there are no rows.
    """
    keys = _relevant(relevant, rows, columns)
    asked, ranker = requests(
        keys if unknown else keys.where("index is not null"),
        ranker,
        rows,
        columns,
        exclude=exclude,
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


def _relevant(relevant: DataFrame, rows: Side, columns: Side) -> DataFrame:
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
            columns = [
                pa.array([values.tobytes()], pa.binary())
                for values in (metrics, np.unique(ranked.columns))
            ]
            yield pa.RecordBatch.from_arrays(columns, ["metrics", "found"])

    return measure
