"""How long fits go on and how: the settings of their loop, from Params."""

from __future__ import annotations

from typing import Literal

from nonconvex.distributed.factorization.gibbs import SamplingSettings
from nonconvex.distributed.factorization.gradient_descent import DescentSettings
from nonconvex.estimators.factorization.fit import LoopSettings
from nonconvex.estimators.factorization.params import FactorizationParams

__all__ = ["loop_of"]


def loop_of(params: FactorizationParams, exchange: Literal["broadcast", "shuffle"]) -> LoopSettings:
    """Return the settings of the loop that an estimator's fits share.

    Examples
    --------
    >>> from nonconvex.recommendation import MatrixFactorization
    >>> loop_of(MatrixFactorization(maxIter=3), "broadcast").max_iter
    3
    """
    get = params.getOrDefault
    descent, sampling = None, None
    if get("solver") == "gd":
        descent = DescentSettings(params._optimizer(), get("miniBatchFraction"), get("seed"))
    if get("solver") == "gibbs":
        lengths = map(get, ("numBurnIn", "numSamples", "thinning", "numKept"))
        sampling = SamplingSettings(*lengths)
    return LoopSettings(
        max_iter=get("maxIter"),
        tol=get("tol"),
        patience=get("patience"),
        gradient_tol=get("gradientTol"),
        descent=descent,
        sampling=sampling,
        checkpoint_path=get("checkpointPath"),
        checkpoint_interval=get("checkpointInterval"),
        exchange=exchange,
    )
