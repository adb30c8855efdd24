"""Params of the latent factor model, and the combinations of them that make no sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pyspark.ml.param import Params
from pyspark.ml.param.shared import HasPredictionCol

from nonconvex.estimators.params import (
    DESCENT,
    CheckedParams,
    DescentParams,
    FitParams,
    ParamError,
    choice,
    declared,
    flag,
    fraction,
    integer,
    number,
    optional,
    param,
    refuse_set,
    text,
)


def _positive_scale(value: Any) -> float:
    if value == 0:
        raise ValueError(
            "must be > 0, got 0: with every γ at zero the objective is stationary, and no solver "
            "could move"
        )
    return number(0, exclusive=True)(value)


def _interval(value: Any) -> int:
    return integer()(value) if value == -1 else integer(1)(value)


class FactorizationModelParams(CheckedParams, HasPredictionCol):
    """Params of predictions, which `MatrixFactorization` and its model share."""

    predictionCol = param("column of predictions, which is added", text())
    userCol = param("column of user ids: strings, integers or decimals", text())
    itemCol = param("column of item ids: strings, integers or decimals", text())
    coldStartStrategy = param(
        "prediction for an id that is not in the training data: 'bias' (α and the bias of the "
        "other id, if that one is known), 'nan', or 'drop' (no row)",
        choice(["bias", "nan", "drop"]),
    )
    kernel = param(
        "loops that compute: 'compiled' (by numba, of the extra nonconvex[fast]), 'numpy', or "
        "'auto': compiled where the driver can import numba. Both agree to rounding, and each with "
        "itself to the bit",
        choice(["auto", "numpy", "compiled"]),
    )
    clipPredictions = param(
        "whether predictions are clipped to the range of the training ratings, or with "
        "implicitPrefs to [0, 1]",
        flag,
    )
    predictionStdCol = param(
        "column of the standard deviation of predictions, which is added; none by default",
        optional(text()),
    )
    predictionIntervalCol = param(
        "column of intervals, structs (lower, upper) that contain a rating with probability "
        "predictionInterval, which is added; none by default",
        optional(text()),
    )
    predictionInterval = param(
        "probability of intervals, > 0 and < 1", number(0, exclusive=True, below=1)
    )
    predictionNoise = param(
        "whether deviations and intervals are for a rating, with its noise, or for its mean", flag
    )


class SamplingParams(Params):
    """Params of Gibbs sampling."""

    numBurnIn = param(
        "with solver 'gibbs', number ≥ 0 of sweeps at the start of each chain that are discarded; "
        "the first five keep the spread of the rows fixed and should be among them",
        integer(0),
    )
    numSamples = param(
        "with solver 'gibbs', number ≥ 2 of samples of each chain; the prediction is their mean",
        integer(2),
    )
    thinning = param("with solver 'gibbs', number ≥ 1 of sweeps for a sample", integer(1))
    numKept = param(
        "with solver 'gibbs', number ≥ 2 of samples that the model keeps, for deviations, "
        "intervals and fold-in; it has (numKept (rank + 1) + meanRank) numbers for each user and "
        "item",
        integer(2),
    )
    meanRank = param(
        "with solver 'gibbs', rank ≥ 1 of the model that predicts, which approximates the mean of "
        "all samples; 2 rank + 10 by default",
        optional(integer(1)),
    )
    fitUserPrecision = param(
        "with solvers 'gibbs' and 'vb', whether each user has a precision ω_u, by which their "
        "ratings count more or less; without, all are 1",
        flag,
    )


SAMPLING = tuple(name for name in declared(SamplingParams) if name != "fitUserPrecision")
"""Names of the Params that only Gibbs sampling reads."""


class FactorizationParams(FactorizationModelParams, SamplingParams, DescentParams, FitParams):
    """Params of `MatrixFactorization`."""

    ratingCol = param("column of ratings: finite numbers", text())
    rank = param("number K of factors, ≥ 0; 0 leaves α and the biases", integer(0))
    maxIter = param(
        "maximum number of iterations, ≥ 1; by default 15, and 40 with solver 'vb'", integer(1)
    )
    tol = param(
        "stop when an iteration changes the objective by less than tol times its value, ≥ 0",
        number(0),
    )
    patience = param(
        "stop when the validation RMSE has not improved for this many iterations, and return the "
        "best iteration; needs validation ratings, and is 3 by default where there are any (10 "
        "with solver 'gd', whose RMSE is less even); 0 returns the last iteration",
        optional(integer(0)),
    )
    gradientTol = param(
        "with solver 'gd', stop when the norm of the gradient is at most this, ≥ 0", number(0)
    )
    miniBatchFraction = param(
        "with solver 'gd', the fraction in (0, 1] of the users that a step reads; an iteration "
        "has as many steps as it takes to read each user once",
        fraction,
    )
    regUser = param(
        "λ₁ ≥ 0: regularization of users, in the units of the objective; by default "
        "16 · (standard deviation of the ratings) / (number of ratings), or with implicitPrefs "
        "5 · (mean of confidence · |rating|) / (number of positive ratings)",
        optional(number(0)),
    )
    regItem = param(
        "λ₂ ≥ 0: regularization of items; the default is that of regUser", optional(number(0))
    )
    biasRegRatio = param(
        "ρ ≥ 0: a bias is regularized with ρ λ; 1 by default if regUser or regItem is given, else "
        "such that n ρ λ = 3 (with implicitPrefs 1)",
        optional(number(0)),
    )
    regExponent = param(
        "ν ≥ 0: a row with d ratings is regularized with λ (d / mean d)^ν; 0 is plain λ, 1 is "
        "what MLlib's ALS does",
        number(0),
    )
    solver = param(
        "'als' (each row exactly), 'als-cg' (three conjugate gradients of each row from where it "
        "was: sooner near the minimum at ranks from 64 on), 'als-coordinate' (one unknown of each "
        "row at a time), 'gd' (gradient descent on all at once), 'vb' (a normal distribution of "
        "each row, by variational inference) or 'gibbs' (the mean over samples of the posterior)",
        choice(["als", "als-cg", "als-coordinate", "gd", "vb", "gibbs"]),
    )
    fitIntercept = param("whether the model has α", flag)
    fitBiases = param("whether the model has β_u and β_i", flag)
    nonnegative = param("whether all γ must be ≥ 0", flag)
    implicitPrefs = param(
        "whether ratings are counts of implicit feedback instead of opinions; every pair then has "
        "a preference: 1 if its rating is positive, else 0",
        flag,
    )
    confidence = param(
        "κ > 0: with implicitPrefs, a pair weighs 1 + κ |rating|; MLlib's alpha",
        number(0, exclusive=True),
    )
    initScale = param(
        "standard deviation > 0 of the random γ that a fit starts from", _positive_scale
    )
    keepRestarts = param(
        "whether the model keeps the models of all random starts as model.restarts", flag
    )
    ensemble = param(
        "whether the model predicts the mean of all random starts instead of the best one; its "
        "rank is then numRestarts times rank",
        flag,
    )
    numUserBlocks = param(
        "number of blocks of users, ≥ 1; by default the number of cores, or more, with a million "
        "ratings in each. It changes the time, never the result",
        optional(integer(1)),
    )
    numItemBlocks = param("number of blocks of items, like numUserBlocks", optional(integer(1)))
    updates = param(
        "where rows are updated: on the 'executors', with a Spark job for each half-step; on the "
        "'driver', in threads; or 'auto': on the driver if it has as many cores as the executors "
        "and the ratings fit its memory, or if that takes less time than planning a job. It "
        "changes the time, never the result",
        choice(["auto", "driver", "executors"]),
    )
    exchange = param(
        "how a task gets the rows of the other side: 'broadcast' (all rows, through the driver, to "
        "every core), 'shuffle' (each row to the blocks that need it), or 'auto': shuffle if the "
        "larger side takes more than maxBroadcastBytes. It changes the time and the memory, never "
        "the result",
        choice(["auto", "broadcast", "shuffle"]),
    )
    maxBroadcastBytes = param(
        "with exchange 'auto', maximum size ≥ 0 in bytes of the rows of one side that are "
        "broadcast; each core has a copy",
        integer(0),
    )


class ALSParams(FactorizationParams):
    """Params of `ALS`: those of MLlib by their names, and those of `MatrixFactorization`."""

    # α and biases are switched together
    _aliases: ClassVar[Mapping[str, str]] = {"alpha": "confidence", "fitIntercept": "fitBiases"}

    regParam = param(
        "λ ≥ 0: the row of a user or item with d ratings is regularized by λ d, if regUser and "
        "regItem are unset; with fitBiases, and unless it is set, the rule of MatrixFactorization "
        "is used instead",
        number(0),
    )
    alpha = param(
        "α > 0: with implicitPrefs, a pair weighs 1 + α |rating|", number(0, exclusive=True)
    )
    ratingCol = param("column of ratings: finite numbers; '' rates each row 1", text(empty=True))
    checkpointInterval = param(
        "iterations between two checkpoints, ≥ 1, or -1; it has no meaning without checkpointPath",
        _interval,
    )
    intermediateStorageLevel = param("accepted, and has no meaning here", text())
    finalStorageLevel = param("accepted, and has no meaning here", text())
    blockSize = param("accepted, and has no meaning here", integer(1))


IDLE = ("intermediateStorageLevel", "finalStorageLevel", "blockSize")
"""Params of MLlib's ALS that have no meaning here."""

DESCENT_ONLY = (*DESCENT, "gradientTol", "miniBatchFraction")
"""Params that only solver 'gd' reads."""

BATCHED_TOGETHER = (
    *("userCol", "itemCol", "ratingCol", "weightCol", "validationIndicatorCol"),
    *("implicitPrefs", "confidence", "precision", "numUserBlocks", "numItemBlocks"),
    *("updates", "exchange", "maxBroadcastBytes", "kernel"),
    *("maxIter", "tol", "patience", "checkpointPath", "checkpointInterval"),
    *DESCENT_ONLY,
    *("numBurnIn", "numSamples", "thinning", "numKept"),
)
"""Params in which fits must be equal to share the passes over the data: their input and loop."""

NON_IDENTITY_PARAMS = {
    *("predictionCol", "coldStartStrategy", "clipPredictions", "keepRestarts", "ensemble"),
    *("numUserBlocks", "numItemBlocks", "updates", "exchange", "maxBroadcastBytes"),
    *("kernel", "maxIter", "checkpointPath", "checkpointInterval"),
    *("predictionStdCol", "predictionIntervalCol", "predictionInterval", "predictionNoise"),
    *IDLE,
}
"""Params that may differ between an interrupted fit and the one that resumes it."""

# Params that inference does not read: it learns the regularization.
_NOT_INFERRED = (
    *("regUser", "regItem", "biasRegRatio", "regExponent"),
    *("fitIntercept", "fitBiases", "nonnegative", "implicitPrefs", "confidence"),
)

# Params that sampling does not read: it predicts the mean of all.
_NOT_SAMPLED = ("maxIter", "tol", "patience", *_NOT_INFERRED, "keepRestarts", "ensemble")


def max_iter_of(params: FactorizationParams) -> int:
    """Return ``maxIter``, or its default for the solver."""
    given: int = params.getOrDefault("maxIter")
    return 40 if params.getOrDefault("solver") == "vb" and not params.isSet("maxIter") else given


# Params that are fixed when ratings are prepared.
_PREPARED = ("weightCol", "validationIndicatorCol", "numUserBlocks", "numItemBlocks")


def check_combination(params: FactorizationParams, *, has_validation: bool, warm: bool) -> None:
    """Raise `ParamError` for Params that contradict each other or would be ignored.

    `has_validation` says whether there are validation ratings, `warm` whether the fit starts from
    an earlier model.
    """
    get = params.getOrDefault
    if get("userCol") == get("itemCol"):
        raise ParamError(
            f"userCol and itemCol are both {get('userCol')!r}; name the two columns of ids"
        )
    if get("patience") and not has_validation:
        raise ParamError(
            f"patience={get('patience')} needs validation ratings; set validationIndicatorCol, or "
            "prepare the ratings with a validation fraction"
        )
    for name in ("implicitPrefs", "nonnegative"):
        if get("solver") == "als-cg" and get(name):
            raise ParamError(
                f"solver='als-cg' does not go with {name}=True; set solver='als', or unset {name}"
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
        refuse_set(params, DESCENT_ONLY, f"is only for solver='gd', not {get('solver')!r}")
    if get("solver") == "gibbs":
        if isinstance(params, ALSParams):
            refuse_set(params, ["regParam"], "has no meaning with solver='gibbs'")
        refuse_set(params, _NOT_SAMPLED, "has no meaning with solver='gibbs'")
        samples = get("numSamples") * get("numRestarts")
        if get("numKept") > samples:
            refuse_set(params, ["numKept"], f"is more than the {samples} samples there will be")
    else:
        refuse_set(params, SAMPLING, f"is only for solver='gibbs', not {get('solver')!r}")
        if get("solver") == "vb":
            refuse_set(params, _NOT_INFERRED, "has no meaning with solver='vb'")
        else:
            only = f"is only for solvers 'gibbs' and 'vb', not {get('solver')!r}"
            refuse_set(params, ["fitUserPrecision"], only)
        for role in ("predictionStdCol", "predictionIntervalCol"):
            if get(role) is not None:
                _check_normal(params, role)
    if get("predictionIntervalCol") is None:
        refuse_set(params, ["predictionInterval"], "needs predictionIntervalCol, which is not set")
        if get("predictionStdCol") is None:
            needed = "needs predictionStdCol or predictionIntervalCol to be set"
            refuse_set(params, ["predictionNoise"], needed)
    as_mllib = isinstance(params, ALSParams)  # whose scripts set what then has no meaning
    if not (get("implicitPrefs") or as_mllib):
        refuse_set(params, ["confidence"], "is only for implicitPrefs=True")
    if not get("fitBiases"):
        refuse_set(params, ["biasRegRatio"], "is only for fitBiases=True")
    if get("checkpointPath") is None and not as_mllib:
        refuse_set(params, ["checkpointInterval"], "needs checkpointPath, which is not set")
    if get("ensemble") and get("numRestarts") == 1:
        raise ParamError(
            "ensemble=True is the mean of several starts, and numRestarts is 1; set numRestarts ≥ "
            "2, or unset ensemble"
        )
    if warm:
        if get("numRestarts") > 1:
            raise ParamError(
                f"numRestarts={get('numRestarts')} with an initial model would repeat one fit; "
                "set numRestarts=1, or setInitialModel(None)"
            )
        starts = ["initScale", "firstRestart"]
        refuse_set(params, starts, "is for random starts, not initial models")


def _check_normal(params: FactorizationParams, role: str) -> None:
    """Raise for a minimum that has no deviations: its rows are not normal, or have no prior."""
    get = params.getOrDefault
    asked = f"{role}={get(role)!r} does not go with"
    for name in ("implicitPrefs", "nonnegative", "ensemble"):
        if get(name):
            raise ParamError(
                f"{asked} {name}=True, where rows are not normal about the minimum; unset one of "
                "them"
            )
    for name in ("regUser", "regItem", "biasRegRatio"):  # the row of a new id is N(0, s² P⁻¹)
        if get(name) == 0 and (name != "biasRegRatio" or get("fitBiases")):
            raise ParamError(
                f"{asked} {name}=0.0, which leaves the row of a new id without a prior; set "
                f"{name} > 0"
            )


def check_prepared(params: FactorizationParams) -> None:
    """Raise `ParamError` for Params that a fit of prepared ratings would ignore."""
    refuse_set(params, _PREPARED, "is fixed when ratings are prepared")
