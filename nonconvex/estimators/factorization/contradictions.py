"""Params that contradict each other, or that would be set and then ignored."""

from __future__ import annotations

from nonconvex.estimators.factorization.params import DESCENT_ALONE, SAMPLING, FactorizationParams
from nonconvex.estimators.params import ParamError, refuse_set

__all__ = ["check_prepared", "check_together"]

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
