"""Params of the latent factor model."""

from __future__ import annotations

from typing import Any

from pyspark.ml.param.shared import HasPredictionCol

from nonconvex.params import CheckedParams, DescentParams, FitParams, param
from nonconvex.ranges import choice, flag, fraction, integer, number, optional, text

__all__ = ["FactorizationModelParams", "FactorizationParams"]

COLD_START = ("bias", "nan", "drop")
SOLVERS = ("als", "als-coordinate", "gd")


def _stationary(value: Any) -> float:
    if value == 0:
        raise ValueError(
            "initScale must be > 0, got 0: with every γ at zero the objective is stationary, and "
            "no solver could move"
        )
    return number("initScale", 0, exclusive=True)(value)


class FactorizationModelParams(CheckedParams, HasPredictionCol):
    """Params that `MatrixFactorization` and its model share: what prediction needs."""

    predictionCol = param(
        "predictionCol", "column of predictions, which is added", text("predictionCol")
    )
    userCol = param("userCol", "column of user ids: strings, integers or decimals", text("userCol"))
    itemCol = param("itemCol", "column of item ids: strings, integers or decimals", text("itemCol"))
    coldStartStrategy = param(
        "coldStartStrategy",
        "what to predict for an id that training has not seen: 'bias' (α and the bias of the id "
        "that is known), 'nan', or 'drop' (no row)",
        choice("coldStartStrategy", COLD_START),
    )
    clipPredictions = param(
        "clipPredictions",
        "whether predictions are clipped to the range of the training ratings, or with "
        "implicitPrefs to [0, 1]",
        flag("clipPredictions"),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            userCol="user", itemCol="item", coldStartStrategy="bias", clipPredictions=False
        )


class FactorizationParams(FactorizationModelParams, DescentParams, FitParams):
    """Params of `MatrixFactorization`."""

    ratingCol = param("ratingCol", "column of ratings: finite numbers", text("ratingCol"))
    rank = param("rank", "number K of factors, ≥ 0; 0 leaves α and the biases", integer("rank", 0))
    maxIter = param("maxIter", "most iterations, ≥ 1", integer("maxIter", 1))
    tol = param(
        "tol",
        "stop when an iteration changes the objective by less than tol times its value, ≥ 0",
        number("tol", 0),
    )
    patience = param(
        "patience",
        "stop when the validation RMSE has not improved for so many iterations, and return the "
        "best iteration; needs validation ratings",
        optional(integer("patience", 1)),
    )
    gradientTol = param(
        "gradientTol",
        "with solver 'gd', stop when the norm of the gradient is at most this, ≥ 0",
        number("gradientTol", 0),
    )
    miniBatchFraction = param(
        "miniBatchFraction",
        "with solver 'gd', the fraction in (0, 1] of the users that a step looks at; an iteration "
        "is as many steps as see each user once",
        fraction("miniBatchFraction"),
    )
    regUser = param(
        "regUser",
        "λ₁ ≥ 0: regularization of users, in the units of the objective; by default "
        "16 · (standard deviation of the ratings) / (number of ratings), or with implicitPrefs "
        "5 · (mean of confidence · |rating|) / (number of positive ratings)",
        optional(number("regUser", 0)),
    )
    regItem = param(
        "regItem",
        "λ₂ ≥ 0: regularization of items; the default is that of regUser",
        optional(number("regItem", 0)),
    )
    biasRegRatio = param(
        "biasRegRatio",
        "ρ ≥ 0: a bias is regularized with ρ λ; 1 if regUser or regItem is given, else by default "
        "such that n ρ λ = 3 (with implicitPrefs 1)",
        optional(number("biasRegRatio", 0)),
    )
    regExponent = param(
        "regExponent",
        "ν ≥ 0: a row with d ratings is regularized with λ (d / mean d)^ν; 0 is plain λ, 1 is "
        "what MLlib's ALS does",
        number("regExponent", 0),
    )
    solver = param(
        "solver",
        "'als' (each row exactly), 'als-coordinate' (one unknown of each row at a time) or 'gd' "
        "(gradient descent on all at once)",
        choice("solver", SOLVERS),
    )
    fitIntercept = param("fitIntercept", "whether the model has α", flag("fitIntercept"))
    fitBiases = param("fitBiases", "whether the model has β_u and β_i", flag("fitBiases"))
    nonnegative = param("nonnegative", "whether to demand γ ≥ 0", flag("nonnegative"))
    implicitPrefs = param(
        "implicitPrefs",
        "whether ratings are counts of implicit feedback rather than opinions: every pair then "
        "has a preference, 1 where the rating is positive and else 0",
        flag("implicitPrefs"),
    )
    confidence = param(
        "confidence",
        "κ > 0: with implicitPrefs, a pair weighs 1 + κ |rating|; MLlib's alpha",
        number("confidence", 0, exclusive=True),
    )
    initScale = param(
        "initScale", "standard deviation > 0 of the γ that a fit starts from", _stationary
    )
    keepRestarts = param(
        "keepRestarts",
        "whether the model keeps the models of all random starts as its restarts",
        flag("keepRestarts"),
    )
    ensemble = param(
        "ensemble",
        "whether the model predicts the mean of all random starts instead of the best; its rank "
        "is then numRestarts times rank",
        flag("ensemble"),
    )
    numUserBlocks = param(
        "numUserBlocks",
        "number of blocks of users, ≥ 1; by default as many as cores, and one for a million "
        "ratings. It changes the time, never the result",
        optional(integer("numUserBlocks", 1)),
    )
    numItemBlocks = param(
        "numItemBlocks",
        "number of blocks of items, as numUserBlocks",
        optional(integer("numItemBlocks", 1)),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            ratingCol="rating",
            rank=10,
            maxIter=15,
            tol=1e-4,
            gradientTol=0.0,
            miniBatchFraction=1.0,
            patience=None,
            regUser=None,
            regItem=None,
            biasRegRatio=None,
            regExponent=0.0,
            solver="als",
            fitIntercept=True,
            fitBiases=True,
            nonnegative=False,
            implicitPrefs=False,
            confidence=1.0,
            initScale=0.1,
            keepRestarts=False,
            ensemble=False,
            numUserBlocks=None,
            numItemBlocks=None,
        )
