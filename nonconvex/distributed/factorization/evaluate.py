"""Evaluation on the executors: retrieval metrics of top-N lists, and errors of predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.columns import TOTALS, batch_of, totals_in
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.factorization.dataset import Ids, TrainingSet
from nonconvex.distributed.factorization.packing import row_sums
from nonconvex.distributed.factorization.predict import index_table, places_of, with_index
from nonconvex.distributed.factorization.top_n import ModelSide, Ranker, lists_of, requests, tasks
from nonconvex.distributed.runtime import (
    Batches,
    Task,
    begin_task,
    binary_row,
    broadcasting,
    combined,
)
from nonconvex.numerics import Doubles, Ints, Longs
from nonconvex.numerics.deterministic import Totals, add_exactly, fractions_of
from nonconvex.numerics.factorization.model import Factors, predict
from nonconvex.numerics.factorization.posterior import Spread
from nonconvex.numerics.factorization.ridge_posterior import RidgeSpread
from nonconvex.numerics.factorization.vb import VariationalSpread
from nonconvex.numerics.metrics import (
    LEVELS,
    Evaluation,
    EvaluationError,
    PredictedVsActual,
    add_errors,
    evaluation_of,
    tile_of,
)
from nonconvex.numerics.ranking import LIST_METRICS, list_metrics, mean_metrics

_AT_A_TIME = 1 << 16  # ratings
_TILES = 1 << 32  # groups of totals: the tiles of the histogram from here on
_OUTSIDE, _INSIDE = 1 << 33, (1 << 33) + 1  # ratings outside and inside their intervals

DRIVER_ROWS = 1 << 22
"""The most held-out ratings that are measured on the driver."""


def retrieval(
    relevant: DataFrame,
    ranker: Ranker,
    rows: ModelSide,
    columns: ModelSide,
    *,
    exclude: DataFrame | None,
    unknown: bool,
) -> dict[str, float]:
    """Return the `mean_metrics` of the lists of the rows with relevant columns.

    `relevant` has ``id, other``, the ids of a row and of a column that is relevant for it, in the
    types of training; a repeated pair counts once.
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
    values = [np.frombuffer(part["metrics"]).reshape(len(LIST_METRICS), -1) for part in parts]
    found = np.concatenate([np.frombuffer(part["found"], np.int32) for part in parts])
    return mean_metrics(np.concatenate(values, axis=1), found, len(columns.ids))


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


def _measure(ranker: Ranker) -> Task:
    def measure(batches: Batches) -> Batches:
        for batch in filter(len, batches):
            ranked = ranker(batch).lists
            total = batch.column("total").to_numpy()
            metrics = list_metrics(ranked, lists_of(batch, "relevant"), total, ranker.n)
            yield binary_row({}, {"metrics": metrics, "found": np.unique(ranked.columns)})

    return measure


def evaluate_ratings(ratings: DataFrame) -> Evaluation:
    """Compare ``prediction`` with ``rating``, weighted if there is a ``weight``, in one job.

    Sums are exact and rounded once, so the errors depend on the ratings and predictions alone,
    not on their order or partitioning; all are in one bin of counts.
    """

    def add(totals: Totals, batch: pa.RecordBatch) -> Totals:
        ratings, predictions = _doubles(batch, "rating"), _doubles(batch, "prediction")[None]
        none = np.zeros(len(ratings), np.int64)
        return add_errors(totals, ratings, predictions, _weights(batch), none, none)

    weight = ["weight"] if "weight" in ratings.columns else []
    totals = _in_one_job(ratings.select("rating", "prediction", *weight), add)
    return evaluation_of(totals, ["prediction"])


def _in_one_job(frame: DataFrame, add: Callable[[Totals, pa.RecordBatch], Totals]) -> Totals:
    def task(batches: Batches) -> Batches:
        begin_task()
        totals: Totals = {}
        for table in combined(batches, 1 << 30, _AT_A_TIME):
            for batch in table.combine_chunks().to_batches():
                add(totals, batch)
        yield batch_of(totals)

    return totals_in(frame.mapInArrow(task, TOTALS).toArrow())


def _weights(batch: pa.RecordBatch) -> Doubles | None:
    return _doubles(batch, "weight") if "weight" in batch.schema.names else None


def _doubles(batch: pa.RecordBatch, name: str) -> Doubles:
    """Return a column of doubles, NaN for null."""
    column: Doubles = batch.column(name).to_numpy(zero_copy_only=False)
    return column


class Baselines(NamedTuple):
    """Predictors without factors, from packed training ratings."""

    ids: Ids
    # of shapes (n_u,) and (n_i,): the numbers of training ratings
    counts: tuple[Ints, Ints]
    # Σ w R / Σ w of the training ratings, and of those of each user (n_u,), which is the mean of
    # all where nothing weighs
    mean: float
    user_means: Doubles
    biases: Factors  # α + β_u + β_i

    @classmethod
    def of(cls, prepared: PreparedRatings, training: TrainingSet, biases: Factors) -> Baselines:
        """Add up the ratings of each user, from the packed ratings of a fit."""
        manifest, packed = prepared.manifest, training.blocks
        sums = row_sums(packed.users, manifest.users, packed.dtype)
        mean, weights = manifest.mean, sums["weights"]
        counts: Any = (packed.user_degrees, packed.item_degrees)
        if manifest.weight is not None:  # degrees are sums of weights then
            mean = math.fsum(sums["sums"]) / manifest.weight
            counts = rating_counts(prepared, "users"), rating_counts(prepared, "items")
        means = np.full(manifest.users, mean)
        np.divide(sums["sums"], weights, out=means, where=weights > 0)
        return cls(training.ids, counts, mean, means, biases)


def rating_counts(prepared: PreparedRatings, side: Literal["users", "items"]) -> Longs:
    """Return how many training ratings each user (or item) has, in the order of the indices."""
    collected = pa.concat_tables(prepared.collect(side, ["index", "count"]))
    counts = np.zeros(len(collected), np.int64)
    counts[collected["index"].to_numpy()] = collected["count"].to_numpy()
    return counts


class RatingModel(NamedTuple):
    """A model whose predictions of held-out ratings are measured, for any process."""

    factors: Factors
    ids: Ids | None  # of its rows; None if these are the ids of the training ratings
    limits: tuple[float, float] | None  # that predictions are clipped to
    cold: bool  # whether it predicts for ids that it does not know
    # for intervals: their half width in deviations, and the arguments of these before the indices
    spread: Spread | RidgeSpread | VariationalSpread | None = None
    half_width: float = 0.0
    arguments: tuple[Any, Any, Any] = (None, None, None)


class Comparison(NamedTuple):
    """All that the page of a run and its metrics say about held-out ratings."""

    errors: Evaluation
    histogram: PredictedVsActual  # of the first predictor
    covered: float | None  # the share of ratings inside the intervals of the first predictor


class Panel(NamedTuple):
    """Models and baselines, to be measured on the same ratings."""

    models: Mapping[str, RatingModel | None]  # None if the ratings have a column of predictions
    baselines: Baselines
    limits: tuple[float, float]  # of the training ratings
    clip: bool  # whether α + biases are clipped to them

    def add(self, totals: Totals, batch: pa.RecordBatch) -> Totals:
        """Add the errors of a batch, its tiles and what is inside of its intervals to totals.

        See `measure` for its columns.
        """
        indices = [places_of(batch.column(name)) for name in ("user_index", "item_index")]
        ratings, (_, counts, mean, user_means, biases) = _doubles(batch, "rating"), self.baselines
        alone = RatingModel(biases, None, self.limits if self.clip else None, cold=True)
        predictions = [
            *(_predict(model, name, batch, indices) for name, model in self.models.items()),
            _predict(alone, "", batch, indices),
            np.where(indices[0] < 0, mean, user_means[indices[0]]),
            np.full(len(ratings), mean),
        ]
        seen = [np.where(at < 0, 0, of[at]) for at, of in zip(indices, counts, strict=True)]
        add_errors(totals, ratings, np.stack(predictions), _weights(batch), *seen)
        known = np.isfinite(predictions[0])
        actual, predicted = ratings[known], predictions[0][known]
        place = _TILES + tile_of(actual, predicted, *self.limits)
        add_exactly(totals, place, np.ones(len(actual)))
        first = next(iter(self.models.values()))
        if first is not None and first.spread is not None:
            of_known = (at[known] for at in indices)
            reach = first.half_width * first.spread.deviations(*first.arguments, *of_known)
            ends = [predicted + sign * reach for sign in (-1, 1)]
            if first.limits is not None:
                ends = [np.clip(end, *first.limits) for end in ends]
            inside = (ends[0] <= actual) & (actual <= ends[1])
            add_exactly(totals, np.where(inside, _INSIDE, _OUTSIDE), np.ones(len(actual)))
        return totals


def measure(
    ratings: DataFrame | pa.Table, rows: int, panel: Panel, predictors: Sequence[str]
) -> Comparison:
    """Compare predictions with held-out ratings: on the driver if there are few, or in one job.

    Sums are exact, as in `evaluate_ratings`, so both ways give the same bits.  `ratings` has
    ``user_index``, ``item_index``, ``rating``, ``weight`` if there are weights; for a model ``m``
    with ids of its own ``m_user`` and ``m_item``; and ``m`` if it is None in the panel.
    """
    if isinstance(ratings, DataFrame) and rows <= DRIVER_ROWS:
        ratings = ratings.toArrow()
    if isinstance(ratings, pa.Table):
        totals: Totals = {}
        for batch in ratings.combine_chunks().to_batches(_AT_A_TIME):
            panel.add(totals, batch)
    else:
        with broadcasting(ratings.sparkSession) as share:
            shared = share(panel)
            totals = _in_one_job(ratings, lambda totals, batch: shared.value.add(totals, batch))
    errors = {key: q for key, q in totals.items() if key[0] < _TILES}
    others = fractions_of({key: q for key, q in totals.items() if key[0] >= _TILES})
    outside, inside = others.pop(_OUTSIDE, 0), others.pop(_INSIDE, 0)
    counts = np.zeros(math.prod(LEVELS), np.int64)
    for group, count in others.items():
        counts[group - _TILES] = int(count)
    return Comparison(
        evaluation_of(errors, predictors),
        PredictedVsActual.of(counts, *panel.limits),
        float(inside / (inside + outside)) if inside + outside else None,
    )


def _predict(
    model: RatingModel | None, name: str, batch: pa.RecordBatch, indices: list[Ints]
) -> Doubles:
    """Return the predictions of a model, NaN where it has none."""
    if model is None:
        return _doubles(batch, name)
    if model.ids is not None:
        keys = (batch.column(f"{name}_{side}") for side in ("user", "item"))
        found = map(pc.index_in, keys, model.ids)
        indices = [places_of(index) for index in found]
    predicted = predict(model.factors, *indices)
    if model.limits is not None:
        predicted = np.clip(predicted, *model.limits)
    if not model.cold:
        predicted[np.minimum(*indices) < 0] = np.nan
    return predicted
