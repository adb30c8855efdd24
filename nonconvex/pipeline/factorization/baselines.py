"""Three simple predictors that a factorization has to beat, fitted on the same ratings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.ml.param import Param
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.columns import exact_sums
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.factorization.evaluate import evaluate_ratings
from nonconvex.distributed.factorization.predict import at_index, predictions
from nonconvex.distributed.runtime import broadcasting
from nonconvex.numerics.metrics import Evaluation, EvaluationError
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
