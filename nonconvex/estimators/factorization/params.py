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
from nonconvex.numerics.factorization.vb import FULL


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

    predictionCol = param("column of predictions, which transform adds", text())
    userCol = param("column of user ids", text())
    itemCol = param("column of item ids", text())
    coldStartStrategy = param(
        "prediction for an unknown id: 'bias' (α and the known bias), 'nan' or 'drop'",
        choice(["bias", "nan", "drop"]),
    )
    kernel = param(
        "'compiled' (by numba), 'numpy', or 'auto': compiled if the driver has numba",
        choice(["auto", "numpy", "compiled"]),
    )
    clipPredictions = param("whether predictions are clipped to the range in training", flag)
    predictionStdCol = param("column of deviations, which transform adds", optional(text()))
    predictionIntervalCol = param("column of intervals, which transform adds", optional(text()))
    predictionInterval = param("probability of intervals", number(0, exclusive=True, below=1))
    predictionNoise = param("whether deviations include the noise of a rating", flag)


class SamplingParams(Params):
    """Params of Gibbs sampling."""

    numBurnIn = param("solver 'gibbs': sweeps ≥ 0 to discard at first", integer(0))
    numSamples = param("solver 'gibbs': samples ≥ 2 of each chain", integer(2))
    thinning = param("solver 'gibbs': sweeps ≥ 1 for each sample", integer(1))
    numKept = param("solver 'gibbs': samples ≥ 2 to keep, for intervals and fold-in", integer(2))
    meanRank = param("'gibbs': rank ≥ 1 of the mean; by default 2 rank + 10", optional(integer(1)))
    fitUserPrecision = param("solvers 'gibbs', 'vb': whether steady users count more (ω_u)", flag)


SAMPLING = tuple(name for name in declared(SamplingParams) if name != "fitUserPrecision")
"""Names of the Params that only Gibbs sampling reads."""


class FactorizationParams(FactorizationModelParams, SamplingParams, DescentParams, FitParams):
    """Params of `MatrixFactorization`."""

    ratingCol = param("column of ratings, finite numbers", text())
    rank = param("number K of factors, ≥ 0; with 0 there are only α and the biases", integer(0))
    maxIter = param("most iterations, ≥ 1; most fits end before, by tol", integer(1))
    tol = param("stop when the relative change of the objective is less; ≥ 0", number(0))
    patience = param(
        "stop after so many iterations without a better validation RMSE; 0: keep the last",
        optional(integer(0)),
    )
    gradientTol = param("solver 'gd': norm of the gradient to stop at, ≥ 0", number(0))
    miniBatchFraction = param("solver 'gd': part in (0, 1] of the users of a step", fraction)
    regUser = param(
        "λ₁ ≥ 0 of users; by default 16 sd(R) / n of n ratings R (implicitPrefs: 5 "
        "mean(confidence |R|) / n)",
        optional(number(0)),
    )
    regItem = param("λ₂ ≥ 0 of items; by default like regUser", optional(number(0)))
    biasRegRatio = param(
        "ρ ≥ 0: biases have the regularization ρ λ; by default 1 if regUser or regItem is set, "
        "else 3 / (n λ), or 30 with implicitPrefs",
        optional(number(0)),
    )
    regExponent = param("ν ≥ 0: with d ratings, λ (d / mean d)^ν; 1 is MLlib's rule", number(0))
    solver = param(
        "'vb' (inference), 'gibbs' (sampling), 'als', 'als-cg', 'als-coordinate', 'gd' (gradient "
        "descent), or 'auto': vb, or als where a Param asks for it",
        choice(["auto", "als", "als-cg", "als-coordinate", "gd", "vb", "gibbs"]),
    )
    fitIntercept = param("whether the model has the global bias α", flag)
    fitBiases = param("whether the model has the biases β_u and β_i", flag)
    nonnegative = param("whether all factors γ are ≥ 0", flag)
    implicitPrefs = param("whether ratings are counts of implicit feedback", flag)
    confidence = param(
        "κ > 0: with implicitPrefs, a pair weighs 1 + κ |rating|", number(0, exclusive=True)
    )
    initScale = param("standard deviation > 0 of the random factors at the start", _positive_scale)
    keepRestarts = param("whether model.restarts has the models of all random starts", flag)
    ensemble = param("whether it predicts the mean of all random starts; the rank grows", flag)
    numUserBlocks = param("number of blocks of users, ≥ 1; same result", optional(integer(1)))
    numItemBlocks = param("number of blocks of items, likewise", optional(integer(1)))
    updates = param(
        "place of updates: 'executors', 'driver' or 'auto', the faster; same result",
        choice(["auto", "driver", "executors"]),
    )
    exchange = param(
        "'broadcast' or 'shuffle' of rows to tasks, or 'auto', by size; same result",
        choice(["auto", "broadcast", "shuffle"]),
    )
    maxBroadcastBytes = param("exchange 'auto': most bytes ≥ 0 of a side to broadcast", integer(0))

    @property
    def chosen_solver(self) -> str:
        """The solver of a fit, which "auto" leaves to the other Params."""
        get = self.getOrDefault
        if get("solver") != "auto":
            return str(get("solver"))
        given = [name for name in _NOT_INFERRED if self.isSet(name) and get(name) is not None]
        minimized = given or get("rank") > FULL or get("maxIter") == 0
        return "als" if minimized or isinstance(self, ALSParams) else "vb"  # MLlib's is minimized


class ALSParams(FactorizationParams):
    """Params of `ALS`: those of MLlib by their names, and those of `MatrixFactorization`."""

    # α and biases are switched together
    _aliases: ClassVar[Mapping[str, str]] = {"alpha": "confidence", "fitIntercept": "fitBiases"}

    regParam = param(
        "λ ≥ 0, λ d with d ratings; with fitBiases by default from the ratings", number(0)
    )
    alpha = param("α ≥ 0: with implicitPrefs, a pair weighs 1 + α |rating|", number(0))
    confidence = param("another name of alpha", number(0))
    maxIter = param("most iterations, ≥ 0; with 0 the model is its start", integer(0))
    ratingCol = param("column of ratings; with '' each row is rated 1", text(empty=True))
    checkpointInterval = param("iterations ≥ 1 between checkpoints, or -1", _interval)
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


# Params that are fixed when ratings are prepared.
_PREPARED = ("weightCol", "validationIndicatorCol", "numUserBlocks", "numItemBlocks")


def check_combination(params: FactorizationParams, *, has_validation: bool, warm: bool) -> None:
    """Raise `ParamError` for Params that contradict each other or would be ignored.

    `has_validation` says whether there are validation ratings, `warm` whether the fit starts from
    an earlier model.
    """
    get, solver = params.getOrDefault, params.chosen_solver
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
        if solver == "als-cg" and get(name):
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
    if solver == "gd":
        params._optimizer()
    else:
        refuse_set(params, DESCENT_ONLY, f"is only for solver='gd', not {solver!r}")
    if solver in ("gibbs", "vb") and isinstance(params, ALSParams):
        refuse_set(params, ["regParam"], f"has no meaning with solver={solver!r}")
    if solver == "gibbs":
        refuse_set(params, _NOT_SAMPLED, "has no meaning with solver='gibbs'")
        samples = get("numSamples") * get("numRestarts")
        if get("numKept") > samples:
            refuse_set(params, ["numKept"], f"is more than the {samples} samples there will be")
    else:
        refuse_set(params, SAMPLING, f"is only for solver='gibbs', not {solver!r}")
        if solver == "vb":
            refuse_set(params, _NOT_INFERRED, "has no meaning with solver='vb'")
        else:
            only = f"is only for solvers 'gibbs' and 'vb', not {solver!r}"
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
    chosen = any(map(params.isSet, ("regParam", "regUser", "regItem"))) if as_mllib else True
    if get("implicitPrefs") and get("fitBiases") and get("confidence") == 0 and not chosen:
        raise ParamError("alpha=0 with fitBiases=True has no default λ; set regParam")
    if get("maxIter") == 0 and solver == "vb":
        raise ParamError("maxIter=0 does not go with solver='vb'; set maxIter ≥ 1")
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
