"""The fit of a network: from Params and examples to its best restart, and what came of each."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from nonconvex.distributed.checkpoints import Checkpoints
from nonconvex.distributed.data.examples import ExamplesError
from nonconvex.distributed.network.dataset import ExampleSet
from nonconvex.distributed.network.executor_gradients import Validation
from nonconvex.distributed.network.fit import train_network
from nonconvex.distributed.network.gradients import Choice, decide
from nonconvex.distributed.network.predict import Scorer
from nonconvex.estimators.network.fit import Plan, plan_network
from nonconvex.estimators.network.params import NetworkParams
from nonconvex.estimators.network.summary import NetworkSummary, RestartSummary
from nonconvex.numerics.epochs import Limits
from nonconvex.numerics.network.backprop import Sums, objective
from nonconvex.numerics.network.training import Trained

__all__ = ["fit_network"]


def fit_network(
    params: NetworkParams, examples: ExampleSet, initial: Scorer | None, started: float
) -> tuple[Scorer, NetworkSummary]:
    """Train from every start, and choose the best.

    Parameters
    ----------
    params : NetworkParams
    examples : ExampleSet
    initial : Scorer, optional
        An earlier model to start from.
    started : float
        When the fit began, by `time.perf_counter`.

    Raises
    ------
    ParamError, ExamplesError
        If Params and examples contradict each other.
    FitError
        If no restart stays finite.
    """
    get = params.getOrDefault
    if get("validationIndicatorCol") is not None and examples.validation is None:
        raise ExamplesError(
            f"validationIndicatorCol={get('validationIndicatorCol')!r} is false in all "
            f"{examples.outline.rows:,} rows; hold some out, or unset it"
        )
    plan = plan_network(params, examples, initial)
    choice = decide(
        plan.network,
        examples.train,
        plan.reading,
        batch_size=params._batch_size(),
        restarts=len(plan.theta),
        place=get("gradients"),
    )
    trained = train_network(
        plan.network,
        plan.theta,
        examples,
        plan.reading,
        params._optimizer(axis=-1, decays=plan.network.is_weight),
        Limits(get("maxIter"), get("maxSteps"), get("tol"), get("patience")),
        batch_size=params._batch_size(),
        seed=get("seed"),
        place=choice.place,
        checkpoints=_checkpoints(params, examples, plan, choice),
        first=plan.restarts[0],
    )
    restarts = _restarts(examples, plan, trained)
    best = min(range(len(restarts)), key=lambda number: restarts[number].merit)
    weights = plan.reading.class_weights
    summary = NetworkSummary(
        training_rows=examples.outline.rows,
        validation_rows=examples.outline.held_out,
        weight=examples.measures.moments.weight,
        layers=list(plan.network.layers),
        activations=list(plan.network.activations),
        loss=plan.network.loss,
        parameters=plan.network.size,
        constant_features=int(examples.measures.moments.constant().sum()),
        class_weights=None if weights is None else weights.tolist(),
        gradients=choice.place,
        gradients_reason=choice.reason,
        batch_size=params._batch_size(),
        warm_start=initial is not None or get("initialWeights") is not None,
        best=best,
        restarts=restarts,
        seconds=time.perf_counter() - started,
    )
    scorer = Scorer(
        plan.network,
        trained[best].theta,
        plan.reading.standardization,
        examples.outline.classes,
        plan.reading.targets,
    )
    return scorer, summary


def _restarts(examples: ExampleSet, plan: Plan, trained: list[Trained]) -> list[RestartSummary]:
    """Summarize every restart, with f over all training rows, in a pass over them."""
    network, theta = plan.network, np.stack([end.theta for end in trained])
    with Validation(network, examples.train, plan.reading) as evaluate:
        reached = evaluate(theta)
    with np.errstate(all="ignore"):  # of a restart that diverged
        f, _ = objective(network, theta, Sums(reached.loss, np.zeros_like(theta), reached.weight))
        losses, metrics = reached.mean_loss(), reached.metric(network)
    columns = (values.tolist() for values in (f, losses, metrics))
    return [
        RestartSummary.of(*values) for values in zip(plan.restarts, trained, *columns, strict=True)
    ]


def _checkpoints(
    params: NetworkParams, examples: ExampleSet, plan: Plan, choice: Choice
) -> Checkpoints | None:
    """Return where the state of a fit is to be saved, and what a fit it is."""
    path = params.getOrDefault("checkpointPath")
    if path is None:
        return None
    values = {param.name: params.getOrDefault(param) for param in params.params}
    identity: dict[str, Any] = {
        name: value for name, value in values.items() if name not in _NOT_OF_THE_FIT
    }
    identity |= {
        "gradients": choice.place,
        "layers": list(plan.network.layers),
        "start": _digest(plan.theta),
        "standardization": _digest(np.stack(plan.reading.standardization)),
        "targets": plan.reading.targets and _digest(np.stack(plan.reading.targets)),
        "examples": examples.fingerprint,
    }
    interval = params.getOrDefault("checkpointInterval")
    return Checkpoints(SparkSession.active(), path, interval, identity)


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


# What may change between an interrupted fit and the one that goes on from its checkpoint.
_NOT_OF_THE_FIT = {
    *("predictionCol", "probabilityCol", "rawPredictionCol", "thresholds", "handleInvalid"),
    *("maxIter", "checkpointPath", "checkpointInterval", "initialWeights"),
}
