"""Results of training a factorization: baselines, tables, metrics, figures of the data."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from heapq import nsmallest
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml.param import Param
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_type

from nonconvex import __version__
from nonconvex.distributed.columns import id_column
from nonconvex.distributed.data.prepared import Manifest, PreparedRatings
from nonconvex.distributed.factorization.evaluate import (
    DRIVER_ROWS,
    Baselines,
    Comparison,
    Panel,
    RatingModel,
    measure,
    rating_counts,
)
from nonconvex.distributed.factorization.predict import places_of
from nonconvex.distributed.files import FileSystem, read_verified
from nonconvex.estimators.display import text_table
from nonconvex.estimators.factorization.evaluate import rating_model
from nonconvex.local.model_tables import find_ids
from nonconvex.numerics.deterministic import choose_kernel
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.metrics import Evaluation, EvaluationError, Scores
from nonconvex.numerics.ranking import Lists, list_metrics, mean_metrics, top_n
from nonconvex.pipeline.runs import METRICS
from nonconvex.pipeline.text import strict_json
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel

BASELINES = ("biases", "user_mean", "global_mean")
"""The names of the baselines, from the strongest to the weakest on most ratings."""

_LISTED, LIST_LENGTH = 10_000, 10  # the most users that lists are measured for, and items in them

_logger = logging.getLogger("nonconvex")


def compare_trained(
    model: MatrixFactorizationModel,
    prepared: PreparedRatings,
    baselines: Baselines | None,
    rivals: Mapping[str, MatrixFactorizationModel],
) -> Comparison | None:
    """`compare` a new model on the test ratings with `rivals` and, for an ensemble, its best start.

    None if there are no test ratings, or no baselines.
    """
    if baselines is None or not prepared.manifest.counts["test"]:
        return None
    averaged = model.getOrDefault("ensemble") and model.restarts[1:]
    best = {"best_start": model.restarts[model.summary.best]} if averaged else {}
    return compare(model, prepared, others={**best, **rivals}, baselines=baselines)


def compare(
    model: MatrixFactorizationModel,
    prepared: PreparedRatings,
    part: str = "test",
    *,
    others: Mapping[str, MatrixFactorizationModel] | None = None,
    baselines: Baselines | None = None,
) -> Comparison:
    """Measure a model on held-out ratings, beside the baselines on the same ratings.

    The predictors are ``"model"``, those of `others` and `BASELINES`, which by default are fitted
    to the training ratings.  Predictions are clipped to the range of the training ratings if
    ``clipPredictions`` of the model says so, and then those of α + biases are, too.  Means predict
    an unknown user by the global mean.  Ratings that the model cannot predict, which depends on
    ``coldStartStrategy``, are left out and counted.
    """
    manifest = prepared.manifest
    if model.getOrDefault("implicitPrefs"):
        raise EvaluationError(
            "a model of implicit feedback predicts preferences and not ratings, which RMSE and "
            "MAE would compare: rank with it, or train with implicitPrefs=False"
        )
    if not manifest.counts[part]:
        raise EvaluationError(
            f"{prepared.path} has no {part} ratings: hold some out when preparing the ratings"
        )
    if baselines is None:
        _, baselines = MatrixFactorization(rank=0).fitBesideBaselines(prepared)
        assert baselines is not None
    _logger.info("predicting %s %s ratings", f"{manifest.counts[part]:,}", part)
    clip = model.getOrDefault("clipPredictions")
    ratings = prepared.test if part == "test" else prepared.validation
    used = ["user_index", "item_index", "rating", *({"weight"} & set(manifest.types))]
    plain = list(used)
    models: dict[str, RatingModel | None] = {}
    for name, one in {"model": model, **(others or {})}.items():
        first = name == "model"
        found = rating_model(one._state, one, baselines.ids, clip=clip, intervals=first)
        models[name] = found
        if found is None:
            ratings, used = _predict(one, ratings, name, clip), [*used, name]
        elif found.ids is not None:
            own = {
                f"{name}_{side}": id_column(ratings, side, f"{side}Col", from_arrow_type(ids.type))
                for side, ids in zip(("user", "item"), found.ids, strict=True)
            }
            ratings, used = ratings.withColumns(own), [*used, *own]
    panel = Panel(models, baselines, (manifest.minimum, manifest.maximum), clip)
    predictors = (*models, *BASELINES)
    rows: DataFrame | pa.Table = ratings.select(*used)
    if used == plain and manifest.counts[part] <= DRIVER_ROWS:
        rows = pa.concat_tables(prepared.collect(part, used))
    return measure(rows, manifest.counts[part], panel, predictors)


def measure_lists(
    model: MatrixFactorizationModel, prepared: PreparedRatings, baselines: Baselines | None
) -> dict[str, Any] | None:
    """Measure lists of 10 for the users of test ratings: the model's and those of baselines.

    Every item that a user rated in the test is relevant, of implicit feedback those whose strength
    is positive.  No list has items that the user rated before.  More than 10,000 users are
    represented by those whose ids have the smallest hashes.  Returns ``k, users``, and the
    metrics of `nonconvex.numerics.ranking.mean_metrics` for ``model``, ``biases`` and
    ``popularity``, whose lists are of the items with most ratings; None if nothing is relevant.
    """
    counts, columns = prepared.manifest.counts, ["user", "user_index", "item_index", "rating"]
    if not counts["test"]:
        return None
    few, ids = counts["test"] <= DRIVER_ROWS, prepared.test.select("user").distinct
    test = pa.concat_tables(prepared.collect("test", columns) if few else [ids().toArrow()])
    users = pc.unique(test["user"])
    if len(users) > _LISTED:
        least = nsmallest(_LISTED, users.to_pylist(), lambda id: blake2b(f"{id}".encode()).digest())
        users = pa.array(least, users.type)
    if not few:
        test = pa.concat_tables(prepared.collect("test", columns, users))
    relevant = pc.is_in(test["user"], value_set=users)
    if model.getOrDefault("implicitPrefs"):
        relevant = pc.and_(relevant, pc.greater(test["rating"], 0.0))
    test = test.filter(relevant)
    if not len(test):
        return None
    users = pc.unique(test["user"])
    row, column = find_ids(test["user"], users), places_of(test["item_index"])
    places = np.full(len(users), -1, np.int32)
    places[row] = places_of(test["user_index"])
    wanted, seen = Lists.of(row, column, len(users)), []
    parts = [("by_user", "user_index", pa.array(places)), ("validation", "user", users)]
    for part, key, among in parts[: 1 + (counts["validation"] > 0)]:
        for table in prepared.collect(part, [key, "item_index"], among):
            seen.append((find_ids(table[key], among), places_of(table["item_index"])))
    of_rows, columns_seen = map(np.concatenate, zip(*seen, strict=True))
    excluded = Lists.of(of_rows, columns_seen, len(users))
    kernel = choose_kernel(model.getOrDefault("kernel"))
    predictors = {"model": model.factors} | ({"biases": baselines.biases} if baselines else {})
    popularity, equal = rating_counts(prepared, "items"), np.zeros((len(model.factors.users), 1))
    predictors["popularity"] = Factors(0.0, equal, popularity[:, None].astype(np.float64))
    lists: dict[str, Any] = {"k": LIST_LENGTH, "users": len(users)}
    for name, factors in predictors.items():
        ranked = top_n(factors, places, LIST_LENGTH, excluded=excluded, kernel=kernel)
        metrics = list_metrics(ranked.lists, wanted, np.bincount(row), LIST_LENGTH)
        lists[name] = mean_metrics(metrics, ranked.columns, len(factors.items))
        del lists[name]["users"]
    return lists


def _predict(
    model: MatrixFactorizationModel, ratings: DataFrame, name: str, clip: bool
) -> DataFrame:
    """Add the predictions of a model as a column, NaN where it has none."""
    params: dict[Param[Any], Any] = {
        model.userCol: "user",
        model.itemCol: "item",
        model.predictionCol: name,
        model.clipPredictions: clip,
    }
    if model.getOrDefault("coldStartStrategy") == "drop":  # what is left out is to be counted
        params[model.coldStartStrategy] = "nan"
    return model.copy(params).transform(ratings)


def evaluation_report(
    evaluation: Evaluation | None, part: str, *, clipped: bool, by_count: bool = False
) -> str | None:
    """Show the errors of a model and the baselines on a part of the ratings, if there are any.

    `clipped` tells whether predictions were clipped; `by_count` adds the RMSE by how many training
    ratings the user and the item have.

    Examples
    --------
    >>> scores = Scores(2, {"model": 1.25, "biases": 1.5}, {"model": 1.0, "biases": 1.125})
    >>> print(evaluation_report(Evaluation(scores, {}, {}, 1), "test", clipped=False))
                  RMSE     MAE
    model       1.2500  1.0000
    α + biases  1.5000  1.1250
    on 2 test ratings, predictions not clipped; 1 more left out, which the model cannot predict
    """
    if evaluation is None:
        return None
    overall = evaluation.overall
    rows = [
        [predictor_title(name), f"{rmse:.4f}", f"{overall.mae[name]:.4f}"]
        for name, rmse in overall.rmse.items()
    ]
    clipping = "clipped to the range of training" if clipped else "not clipped"
    caption = f"on {overall.ratings:,} {part} ratings, predictions {clipping}"
    if evaluation.unpredicted:
        caption += f"; {evaluation.unpredicted:,} more left out, which the model cannot predict"
    blocks = [text_table(["", "RMSE", "MAE"], rows) + f"\n{caption}"]
    if by_count:
        sides = {"user": evaluation.by_user, "item": evaluation.by_item}
        blocks += [_count_table(side, bins) for side, bins in sides.items()]
    return "\n\n".join(blocks)


def metrics_json(
    run_id: str,
    prepared: PreparedRatings,
    model: MatrixFactorizationModel,
    evaluation: Evaluation | None,
    lists: Mapping[str, Any] | None = None,
) -> str:
    """Return all numbers of a run as JSON: the data, the fit, the errors."""
    manifest = prepared.manifest
    data = {"path": prepared.path, "fingerprint": manifest.fingerprint, "counts": manifest.counts}
    return strict_json(
        {
            "run_id": run_id,
            "nonconvex": __version__,
            "prepared": data,
            "evaluation": evaluation and asdict(evaluation),
            "lists": lists,
            "clipPredictions": model.getOrDefault("clipPredictions"),
            "summary": asdict(model.summary),
        }
    )


def trained_on(spark: SparkSession, model_path: str) -> str | None:
    """Return the fingerprint of the training ratings from the metrics of the model's run.

    None if the model is not in the directory of a run.
    """
    run = model_path.rstrip("/").rpartition("/")[0]
    if not FileSystem(spark, model_path).exists(f"{run}/{METRICS}"):
        return None
    fingerprint: str = json.loads(read_verified(spark, run, METRICS))["prepared"]["fingerprint"]
    return fingerprint


def ratings_figures(manifest: Manifest) -> dict[str, float]:
    """Return the figures of prepared ratings in which a later run looks for drift."""
    counts = manifest.counts
    figures = {
        "read": counts["read"],
        "rejected": counts["read"] - counts["accepted"],
        "train": counts["train"],
        "users": manifest.users,
        "items": manifest.items,
        "mean": manifest.mean,
        "minimum": manifest.minimum,
        "maximum": manifest.maximum,
    }
    if counts["test"]:
        for side, rows in manifest.unknown["test"].items():
            figures[f"unknown {side} in test"] = rows / counts["test"]
    return figures


def id_changes(before: MatrixFactorizationModel, now: MatrixFactorizationModel) -> dict[str, float]:
    """Return how many users and items of a model are new, and how many are gone."""
    changes: dict[str, float] = {}
    for side, old, new in zip(("users", "items"), before._ids, now._ids, strict=True):
        if old.type != new.type:  # such as integers that are text now: none is the same
            old, new = old.cast(pa.string()), new.cast(pa.string())
        known = int(pc.sum(pc.is_in(new, value_set=old)).as_py() or 0)
        changes |= {f"new {side}": len(new) - known, f"{side} gone": len(old) - known}
    return changes


def predictor_title(predictor: str) -> str:
    """Return the name of a predictor to read."""
    return "α + biases" if predictor == "biases" else predictor.replace("_", " ")


def _count_table(side: str, bins: Mapping[str, Scores]) -> str:
    names = list(next(iter(bins.values())).rmse)
    rows = [
        [label, f"{scores.ratings:,}", *(f"{scores.rmse[name]:.4f}" for name in names)]
        for label, scores in bins.items()
    ]
    table = text_table(["", "ratings", *map(predictor_title, names)], rows)
    return f"RMSE by the number of training ratings of the {side}\n{table}"
