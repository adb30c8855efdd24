"""Results of training a factorization: baselines, tables, metrics, figures of the data."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.ml.param import Param
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex import __version__
from nonconvex.distributed.columns import exact_sums
from nonconvex.distributed.data.prepared import Manifest, PreparedRatings
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.factorization.evaluate import evaluate_ratings
from nonconvex.distributed.factorization.predict import at_index, predictions
from nonconvex.distributed.files import FileSystem, read_verified
from nonconvex.distributed.runtime import broadcasting
from nonconvex.estimators.display import text_table
from nonconvex.numerics.metrics import Evaluation, EvaluationError, Scores
from nonconvex.pipeline.runs import METRICS
from nonconvex.pipeline.text import strict_json
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel

BASELINES = ("biases", "user_mean", "global_mean")
"""The names of the baselines, from the strongest to the weakest on most ratings."""

_logger = logging.getLogger("nonconvex")


def global_mean(prepared: PreparedRatings) -> float:
    """Return Σ w R / Σ w of the training ratings, with w = 1 where there are no weights."""
    total = prepared.manifest.weight
    if total is None:
        return prepared.manifest.mean
    weighted = prepared.by_user.select(
        F.lit("all").alias("group"), (F.col("weight") * F.col("rating")).alias("value")
    )
    return float(exact_sums(weighted, "value", by="group")["all"]) / total


def user_means(prepared: PreparedRatings) -> DataFrame:
    """Return the mean training rating of each user, weighted where there are weights.

    The columns are ``user_index int, user_count long, user_mean double``: the number of ratings
    and their mean, which is null for a user whose ratings all have weight 0.
    """
    weight = F.lit(1.0) if prepared.manifest.weight is None else F.col("weight")
    mean = F.try_divide(F.sum(weight * F.col("rating")), F.sum(weight))
    return prepared.by_user.groupBy("user_index").agg(
        F.count("*").alias("user_count"), mean.alias("user_mean")
    )


def bias_model(prepared: PreparedRatings) -> MatrixFactorizationModel:
    """Return R̂_ui = α + β_u + β_i: a `MatrixFactorization` of rank 0 with all its defaults."""
    return MatrixFactorization(rank=0).fitPrepared(prepared)


def compare_trained(
    model: MatrixFactorizationModel,
    prepared: PreparedRatings,
    rivals: Mapping[str, MatrixFactorizationModel],
) -> Evaluation | None:
    """`compare` a new model on the test ratings with `rivals` and, for an ensemble, its best start.

    None if there are no test ratings, or the model is one of implicit feedback.
    """
    if model.getOrDefault("implicitPrefs") or not prepared.manifest.counts["test"]:
        return None
    averaged = model.getOrDefault("ensemble") and model.restarts[1:]
    best = {"best_start": model.restarts[model.summary.best]} if averaged else {}
    return compare(model, prepared, others={**best, **rivals})


def compare(
    model: MatrixFactorizationModel,
    prepared: PreparedRatings,
    part: str = "test",
    *,
    others: Mapping[str, MatrixFactorizationModel] | None = None,
) -> Evaluation:
    """Measure a model on held-out ratings, beside the baselines on the same ratings.

    The predictors are ``"model"``, those of `others` and `BASELINES`, which are fitted on the
    training ratings.  Predictions are clipped to the range of the training ratings if
    ``clipPredictions`` of the model says so, and then those of α + biases are, too.  Means predict
    an unknown user by the global mean.  Ratings that the model cannot predict, which depends on
    ``coldStartStrategy``, are left out and counted.
    """
    if model.getOrDefault("implicitPrefs"):
        raise EvaluationError(
            "a model of implicit feedback predicts preferences and not ratings, which RMSE and "
            "MAE would compare: rank with it, or train with implicitPrefs=False"
        )
    if not prepared.manifest.counts[part]:
        raise EvaluationError(
            f"{prepared.path} has no {part} ratings: hold some out when preparing the ratings"
        )
    _logger.info("fitting the baseline α + biases")
    biases = bias_model(prepared)
    _logger.info("predicting %s %s ratings", f"{prepared.manifest.counts[part]:,}", part)
    models = {"model": model, **(others or {})}
    clip = model.getOrDefault("clipPredictions")
    with broadcasting(prepared.spark) as share:
        ratings = _with_baselines(prepared, part, biases, clip, share)
        for name, predictor in models.items():
            ratings = _predict(predictor, ratings, name, clip)
        return evaluate_ratings(ratings, (*models, *BASELINES))


def _with_baselines(
    prepared: PreparedRatings,
    part: str,
    biases: MatrixFactorizationModel,
    clip: bool,
    share: Callable[[NDArray[Any]], Broadcast[Any]],
) -> DataFrame:
    """Return held-out ratings with the baselines, and the counts of their users and items.

    All of them are looked up by the index that prepared ratings have.
    """
    manifest = prepared.manifest
    mean, factors = global_mean(prepared), biases.factors
    means = np.full(manifest.users, mean)
    known = user_means(prepared).where("user_mean is not null").toArrow()
    means[known["user_index"].to_numpy()] = known["user_mean"].to_numpy()

    def at(values: NDArray[Any], side: str, unknown: float, kind: str) -> Column:
        return at_index(share(values), F.col(f"{side}_index"), unknown, kind)

    users, items = share(factors.users), share(factors.items)
    limits = (manifest.minimum, manifest.maximum) if clip else None
    indices = F.col("user_index"), F.col("item_index")
    held_out = prepared.test if part == "test" else prepared.validation
    return held_out.withColumns(
        {
            "user_count": at(rating_counts(prepared.users), "user", 0, "long"),
            "item_count": at(rating_counts(prepared.items), "item", 0, "long"),
            "biases": predictions(factors.alpha, users, items, *indices, limits),
            "user_mean": at(means, "user", mean, "double"),
            "global_mean": F.lit(mean),
        }
    )


def rating_counts(table: DataFrame) -> NDArray[np.int64]:
    """Return how many training ratings each user (or item) has, in the order of the indices."""
    collected = table.select("index", "count").toArrow()
    counts = np.zeros(len(collected), np.int64)
    counts[collected["index"].to_numpy()] = collected["count"].to_numpy()
    return counts


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
        [_title(name), f"{rmse:.4f}", f"{overall.mae[name]:.4f}"]
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
) -> str:
    """Return all numbers of a run as JSON: the data, the fit, the errors."""
    manifest = prepared.manifest
    return strict_json(
        {
            "run_id": run_id,
            "nonconvex": __version__,
            "prepared": {
                "path": prepared.path,
                "fingerprint": manifest.fingerprint,
                "counts": manifest.counts,
            },
            "evaluation": evaluation and asdict(evaluation),
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


def model_id_changes(
    before: MatrixFactorizationModel, now: MatrixFactorizationModel
) -> dict[str, float]:
    """Return the `id_changes` between two models."""
    return id_changes(before._ids, now._ids)


def id_changes(before: Ids, now: Ids) -> dict[str, float]:
    """Return how many users and items are new, and how many are gone."""
    changes: dict[str, float] = {}
    for side in ("users", "items"):
        old, new = getattr(before, side), getattr(now, side)
        if old.type != new.type:  # such as integers that are text now: none is the same
            old, new = old.cast(pa.string()), new.cast(pa.string())
        known = int(pc.sum(pc.is_in(new, value_set=old)).as_py() or 0)
        changes |= {f"new {side}": len(new) - known, f"{side} gone": len(old) - known}
    return changes


def _title(predictor: str) -> str:
    return "α + biases" if predictor == "biases" else predictor.replace("_", " ")


def _count_table(side: str, bins: Mapping[str, Scores]) -> str:
    names = list(next(iter(bins.values())).rmse)
    rows = [
        [label, f"{scores.ratings:,}", *(f"{scores.rmse[name]:.4f}" for name in names)]
        for label, scores in bins.items()
    ]
    table = text_table(["", "ratings", *map(_title, names)], rows)
    return f"RMSE by the number of training ratings of the {side}\n{table}"
