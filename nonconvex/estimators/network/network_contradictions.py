"""Params of networks that contradict each other, or that would be set and then ignored."""

from __future__ import annotations

from nonconvex.estimators.network.params import ClassifierParams, NetworkParams
from nonconvex.estimators.params import ParamError, refuse_set

__all__ = ["check_network", "check_prepared_network"]

# What is settled when examples are prepared.
_PREPARED = ("featuresCol", "labelCol", "weightCol", "validationIndicatorCol")


def check_network(params: NetworkParams, *, validated: bool, warm: bool) -> None:
    """Raise for Params that do not go together, before any data are read.

    Parameters
    ----------
    params : NetworkParams
    validated : bool
        Whether there are validation rows.
    warm : bool
        Whether the fit starts from an earlier model.

    Raises
    ------
    ParamError
    """
    get = params.getOrDefault
    if get("patience") is not None and not validated:
        raise ParamError(
            f"patience={get('patience')} needs validation rows to look at; set "
            "validationIndicatorCol, or prepare the examples with it"
        )
    if get("checkpointPath") is None:
        refuse_set(params, ["checkpointInterval"], "needs checkpointPath, which is not set")
    if warm:
        refuse_set(params, ["initialWeights"], "is for fits that do not start from a model")
    if warm or get("initialWeights") is not None:
        start = "an initial model" if warm else "initialWeights"
        if get("numRestarts") > 1:
            raise ParamError(
                f"numRestarts={get('numRestarts')} with {start} would repeat one fit; "
                "set numRestarts=1, or let the starts be random"
            )
        names = ["initialization", "firstRestart"]
        refuse_set(params, names, f"is for random starts, and this one is {start}")
    activation = get("activation")
    if "step" not in ([activation] if isinstance(activation, str) else activation):
        refuse_set(params, ["stepGradient"], "is for the activation step alone")
    elif get("stepGradient") is None:
        raise ParamError(
            "the derivative of the activation step is 0, so nothing is learned through it; choose "
            'another activation, or set stepGradient="straight-through"'
        )
    if isinstance(params, ClassifierParams):
        for name, meant in (("stepSize", "learningRate"), ("blockSize", "batchSize")):
            if params.isSet(meant):
                refuse_set(params, [name], f"is another name of {meant}, which is set too")
    params._optimizer()


def check_prepared_network(params: NetworkParams) -> None:
    """Raise `ParamError` for what a fit of prepared examples would ignore."""
    refuse_set(params, _PREPARED, "is settled when examples are prepared")
