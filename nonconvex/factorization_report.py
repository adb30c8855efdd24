"""What the page of a factorization needs of the data: aggregates, made by Spark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.calibration import agreement
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.numerics.metrics import Evaluation
from nonconvex.recommendation import MatrixFactorizationModel
from nonconvex.reporting.circumstances import Circumstances
from nonconvex.reporting.factorization import FactorizationRun
from nonconvex.reporting.landmarks import landmarks

__all__ = ["gather"]


def gather(
    model: MatrixFactorizationModel,
    prepared: PreparedRatings,
    evaluation: Evaluation | None,
    circumstances: Circumstances,
    names: DataFrame | None,
    solver: str,
) -> FactorizationRun:
    """Collect what a page shows of a run.

    Parameters
    ----------
    model : MatrixFactorizationModel
    prepared : PreparedRatings
        That it was trained on.
    evaluation : Evaluation or None
        From `nonconvex.baselines.compare`.
    circumstances : Circumstances
    names : DataFrame or None
        ``id, name`` of items, of which some are looked up.
    solver : str
        That made the model.

    Examples
    --------
    >>> about = Circumstances("a", "", {"nonconvex": "1.0"}, {"train": 2.5}, None)
    >>> run = gather(model, prepared, None, about, None, "als")
    >>> sorted(run.names[index] for index in run.landmarks.high[0])
    ['Pacific Rim', 'The Conjuring', 'The Great Gatsby', 'World War Z']
    """
    counts = tuple(_counts(table) for table in (prepared.users, prepared.items))
    shown = landmarks(model.factors, counts[1])
    tiles, coverage = None, None
    if evaluation is not None:
        ratings = _predicted(model, prepared)
        manifest = prepared.manifest
        tiles = agreement(
            ratings, F.col("rating"), F.col("prediction"), manifest.minimum, manifest.maximum
        )
        coverage = _coverage(model, ratings)
    return FactorizationRun(
        manifest=prepared.manifest,
        summary=model.summary,
        evaluation=evaluation,
        agreement=tiles,
        factors=model.factors,
        counts=(counts[0], counts[1]),
        landmarks=shown,
        names={} if shown is None else _names(model, shown.items(), names),
        solver=solver,
        clipped=model.getOrDefault("clipPredictions"),
        coverage=coverage,
        circumstances=circumstances,
    )


def _predicted(model: MatrixFactorizationModel, prepared: PreparedRatings) -> DataFrame:
    """Return the test ratings with predictions, and intervals if there are any."""
    params: dict[Any, Any] = {
        model.userCol: "user",
        model.itemCol: "item",
        model.predictionCol: "prediction",
    }
    if model.getOrDefault("predictionIntervalCol") is not None:
        params[model.predictionIntervalCol] = "interval"
    if model.getOrDefault("predictionStdCol") is not None:
        params[model.predictionStdCol] = "deviation"
    return model.copy(params).transform(prepared.test.select("user", "item", "rating"))


def _coverage(model: MatrixFactorizationModel, ratings: DataFrame) -> tuple[float, float] | None:
    if "interval" not in ratings.columns or not model.getOrDefault("predictionNoise"):
        return None
    inside = (F.col("interval.lower") <= F.col("rating")) & (
        F.col("rating") <= F.col("interval.upper")
    )
    share = ratings.agg(F.avg(inside.cast("double"))).first()
    assert share is not None
    return model.getOrDefault("predictionInterval"), float(share[0] or 0.0)


def _counts(table: DataFrame) -> NDArray[np.int64]:
    """Return how many training ratings each id has, in the order of the indices."""
    collected = table.select("index", "count").toArrow()
    counts = np.zeros(len(collected), np.int64)
    counts[collected["index"].to_numpy()] = collected["count"].to_numpy()
    return counts


def _names(
    model: MatrixFactorizationModel, items: list[int], names: DataFrame | None
) -> Mapping[int, str]:
    """Return what to call items: their name if there is one, else their id."""
    ids = model._ids.items.take(pa.array(items)).to_pylist()
    called = {}
    if names is not None:
        wanted = names.where(F.col("id").isin([str(one) for one in ids])).dropDuplicates(["id"])
        called = {row.id: row.name for row in wanted.collect() if row.name}
    return {index: called.get(str(one), str(one)) for index, one in zip(items, ids, strict=True)}
