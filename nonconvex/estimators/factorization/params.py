"""Params of the latent factor model.

Params that contradict each other, or that would be set and then ignored.
"""

from __future__ import annotations

from typing import Any

from pyspark.ml.param import Params
from pyspark.ml.param.shared import HasPredictionCol

from nonconvex.estimators.params import (
    DESCENT,
    CheckedParams,
    DescentParams,
    FitParams,
    ParamError,
    choice,
    flag,
    fraction,
    integer,
    number,
    optional,
    param,
    refuse_set,
    text,
)

__all__ = [
    "DESCENT_ALONE",
    "NOT_OF_THE_FIT",
    "SAMPLING",
    "SHARED",
    "FactorizationModelParams",
    "FactorizationParams",
    "SamplingParams",
    "check_prepared",
    "check_together",
]

COLD_START = ("bias", "nan", "drop")
EXCHANGES = ("auto", "broadcast", "shuffle")
PLACES = ("auto", "driver", "executors")
SOLVERS = ("als", "als-coordinate", "gd", "gibbs")


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

    predictionStdCol = param(
        "predictionStdCol",
        "column of the standard deviation of predictions; by default none",
        optional(text("predictionStdCol")),
    )
    predictionIntervalCol = param(
        "predictionIntervalCol",
        "column of structs (lower, upper) that ratings are in with probability "
        "predictionInterval; by default none",
        optional(text("predictionIntervalCol")),
    )
    predictionInterval = param(
        "predictionInterval",
        "probability of intervals, > 0 and < 1",
        number("predictionInterval", 0, exclusive=True, below=1),
    )
    predictionNoise = param(
        "predictionNoise",
        "whether deviations and intervals are those of a rating, which scatters about its mean, "
        "or of that mean",
        flag("predictionNoise"),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            userCol="user",
            itemCol="item",
            coldStartStrategy="bias",
            clipPredictions=False,
            predictionStdCol=None,
            predictionIntervalCol=None,
            predictionInterval=0.9,
            predictionNoise=True,
        )


class SamplingParams(Params):
    """Params of Gibbs sampling."""

    numBurnIn = param(
        "numBurnIn",
        "with solver 'gibbs', sweeps of each chain that are forgotten, ≥ 0; the first five do not "
        "draw how far rows spread, and belong among them",
        integer("numBurnIn", 0),
    )
    numSamples = param(
        "numSamples",
        "with solver 'gibbs', samples of each chain that the prediction is the mean of, ≥ 2",
        integer("numSamples", 2),
    )
    thinning = param(
        "thinning", "with solver 'gibbs', sweeps for a sample, ≥ 1", integer("thinning", 1)
    )
    numKept = param(
        "numKept",
        "with solver 'gibbs', samples that the model keeps whole, ≥ 2, for deviations, intervals "
        "and fold-in; it has (numKept (rank + 1) + meanRank) numbers for each user and item",
        integer("numKept", 2),
    )
    meanRank = param(
        "meanRank",
        "with solver 'gibbs', rank ≥ 1 of the model that predicts: the mean of all samples, as "
        "nearly as this rank allows; by default 2 rank + 10",
        optional(integer("meanRank", 1)),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(numBurnIn=50, numSamples=200, thinning=1, numKept=20, meanRank=None)


SAMPLING = ("numBurnIn", "numSamples", "thinning", "numKept", "meanRank")
"""Names of the Params that only Gibbs sampling reads."""


class FactorizationParams(FactorizationModelParams, SamplingParams, DescentParams, FitParams):
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
        "'als' (each row exactly), 'als-coordinate' (one unknown of each row at a time), 'gd' "
        "(gradient descent on all at once) or 'gibbs' (the mean over samples of the posterior)",
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
    updates = param(
        "updates",
        "where rows are updated: on the 'executors', by a Spark job for each half-step, on the "
        "'driver', or 'auto': there if the ratings are so few that no job could be planned in the "
        "time. It changes the time, never the result",
        choice("updates", PLACES),
    )
    exchange = param(
        "exchange",
        "how rows of one side come to the ratings of the other: 'broadcast' (all, by way of the "
        "driver, to every core), 'shuffle' (each to the blocks that need it), or 'auto': by "
        "shuffle if the larger side takes more than maxBroadcastBytes. It changes the time and "
        "the memory, never the result",
        choice("exchange", EXCHANGES),
    )
    maxBroadcastBytes = param(
        "maxBroadcastBytes",
        "with exchange 'auto', most bytes ≥ 0 of rows of one side that are broadcast; each core "
        "has a copy",
        integer("maxBroadcastBytes", 0),
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
            updates="auto",
            exchange="auto",
            maxBroadcastBytes=512 << 20,
        )


DESCENT_ALONE = (*DESCENT, "gradientTol", "miniBatchFraction")
"""Params that mean something for solver 'gd' alone."""

SHARED = (
    *("userCol", "itemCol", "ratingCol", "weightCol", "validationIndicatorCol"),
    *("implicitPrefs", "confidence", "precision", "numUserBlocks", "numItemBlocks"),
    *("updates", "exchange", "maxBroadcastBytes"),
    *("maxIter", "tol", "patience", "checkpointPath", "checkpointInterval"),
    *DESCENT_ALONE,
    *("numBurnIn", "numSamples", "thinning", "numKept"),
)
"""Params that fits must be equal in to be fitted together: what they read, and their loop."""


NOT_OF_THE_FIT = {
    *("predictionCol", "coldStartStrategy", "clipPredictions", "keepRestarts", "ensemble"),
    *("numUserBlocks", "numItemBlocks", "updates", "exchange", "maxBroadcastBytes"),
    *("maxIter", "checkpointPath", "checkpointInterval"),
    *("predictionStdCol", "predictionIntervalCol", "predictionInterval", "predictionNoise"),
}
"""Params that may change between an interrupted fit and the one that goes on from there."""

_UNCERTAIN = ("predictionStdCol", "predictionIntervalCol")


# Fits whose rows are not normal, given the other side; or not one fit.
_NOT_NORMAL = ("implicitPrefs", "nonnegative", "ensemble")


# A row that was never seen is of N(0, s² P⁻¹), and there P = 0.
_RIDGES = ("regUser", "regItem", "biasRegRatio")


# What sampling has no use for: it draws how much to regularize, and predicts the mean of all.
_NOT_SAMPLED = (
    *("maxIter", "tol", "patience", "regUser", "regItem", "biasRegRatio", "regExponent"),
    *("fitIntercept", "fitBiases", "nonnegative", "implicitPrefs", "confidence"),
    *("keepRestarts", "ensemble"),
)


# What is settled when ratings are prepared.
_PREPARED = ("weightCol", "validationIndicatorCol", "numUserBlocks", "numItemBlocks")


def check_together(params: FactorizationParams, *, validated: bool, warm: bool) -> None:
    """Raise for Params that do not go together.

    Parameters
    ----------
    params : FactorizationParams
    validated : bool
        Whether there are validation ratings.
    warm : bool
        Whether the fit starts from an earlier model.

    Raises
    ------
    ParamError
    """
    get = params.getOrDefault
    if get("userCol") == get("itemCol"):
        raise ParamError(
            f"userCol and itemCol are both {get('userCol')!r}; name the two columns of ids"
        )
    if get("patience") is not None and not validated:
        raise ParamError(
            f"patience={get('patience')} needs validation ratings to look at; set "
            "validationIndicatorCol, or prepare the ratings with a validation fraction"
        )
    if get("implicitPrefs") and get("weightCol") is not None:
        raise ParamError(
            f"weightCol={get('weightCol')!r} has no meaning with implicitPrefs=True, where "
            "the rating itself is the weight; unset one of them"
        )
    if not (get("rank") or get("fitBiases") or get("fitIntercept")):
        raise ParamError(
            "rank=0 without intercept and biases leaves nothing to fit; "
            "set rank ≥ 1, fitBiases or fitIntercept"
        )
    if get("solver") == "gd":
        params._optimizer()
    else:
        refuse_set(params, DESCENT_ALONE, f"is only for solver='gd', not {get('solver')!r}")
    if get("solver") == "gibbs":
        refuse_set(params, _NOT_SAMPLED, "has no meaning with solver='gibbs'")
        samples = get("numSamples") * get("numRestarts")
        if get("numKept") > samples:
            refuse_set(params, ["numKept"], f"is more than the {samples} samples there will be")
    else:
        refuse_set(params, SAMPLING, f"is only for solver='gibbs', not {get('solver')!r}")
        for uncertain in _UNCERTAIN:
            if get(uncertain) is not None:
                _refuse_not_normal(params, uncertain)
    if get("predictionIntervalCol") is None:
        refuse_set(params, ["predictionInterval"], "needs predictionIntervalCol, which is not set")
    if get("predictionIntervalCol") is None and get("predictionStdCol") is None:
        refuse_set(
            params, ["predictionNoise"], "needs predictionStdCol or predictionIntervalCol to be set"
        )
    if not get("implicitPrefs"):
        refuse_set(params, ["confidence"], "is only for implicitPrefs=True")
    if not get("fitBiases"):
        refuse_set(params, ["biasRegRatio"], "is only for fitBiases=True")
    if get("checkpointPath") is None:
        refuse_set(params, ["checkpointInterval"], "needs checkpointPath, which is not set")
    if warm and get("numRestarts") > 1:
        raise ParamError(
            f"numRestarts={get('numRestarts')} with an initial model would repeat one fit; "
            "set numRestarts=1, or setInitialModel(None)"
        )
    if warm:
        refuse_set(
            params, ["initScale", "firstRestart"], "is for random starts, not initial models"
        )


def _refuse_not_normal(params: FactorizationParams, uncertain: str) -> None:
    """Raise for what keeps a minimum from telling how sure it is."""
    get = params.getOrDefault
    for name in _NOT_NORMAL:
        if get(name):
            raise ParamError(
                f"{uncertain}={get(uncertain)!r} does not go with {name}=True, where rows are not "
                f"normal about the minimum; unset one of them"
            )
    for name in _RIDGES:
        if get(name) == 0 and (name != "biasRegRatio" or get("fitBiases")):
            raise ParamError(
                f"{uncertain}={get(uncertain)!r} does not go with {name}=0.0, where nothing says "
                f"how far from 0 the row of a new id may be; set {name} > 0"
            )


def check_prepared(params: FactorizationParams) -> None:
    """Raise `ParamError` for what a fit of prepared ratings would ignore."""
    refuse_set(params, _PREPARED, "is settled when ratings are prepared")
