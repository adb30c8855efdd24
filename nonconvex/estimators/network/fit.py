"""What a fit of a network is to do, made of Params and of what the examples turn out to be.

The fit of a network: from Params and examples to its best restart, and what came of each.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from nonconvex.distributed.checkpoints import Checkpoints
from nonconvex.distributed.data.examples import ExamplesError, Outline
from nonconvex.distributed.network.dataset import ExampleSet
from nonconvex.distributed.network.fit import train_network
from nonconvex.distributed.network.gradients import Choice, Validation, decide
from nonconvex.distributed.network.predict import Scorer
from nonconvex.distributed.network.shards import Reading
from nonconvex.estimators.network.params import NetworkParams
from nonconvex.estimators.network.summary import NetworkSummary, RestartSummary
from nonconvex.estimators.params import ParamError, refuse_set
from nonconvex.numerics.convergence import StoppingRule
from nonconvex.numerics.network.backprop import Sums, objective
from nonconvex.numerics.network.model import Network, initialize
from nonconvex.numerics.network.training import Trained

__all__ = ["Plan", "complete_layers", "fit_network", "plan_network"]

_log = logging.getLogger("nonconvex")


@dataclass(frozen=True)
class Plan:
    """A network, where its training starts, and how it is to read examples.

    Parameters
    ----------
    network : Network
    theta : float array of shape (R, p)
        Where the restarts begin.
    restarts : list of int
        Their numbers.
    reading : Reading
    """

    network: Network
    theta: NDArray[np.floating]
    restarts: list[int]
    reading: Reading


def plan_network(params: NetworkParams, examples: ExampleSet, initial: Scorer | None) -> Plan:
    """Make a plan.

    Parameters
    ----------
    params : NetworkParams
    examples : ExampleSet
    initial : Scorer, optional
        An earlier model to start from: its layers, activations and biases are taken unless they
        are set, and its standardization in any case, so that training starts at what it predicts.

    Raises
    ------
    ParamError
        If Params contradict the examples, or each other.
    ExamplesError
        If the examples do not let the Params be.
    """
    get = params.getOrDefault
    weights = _class_weights(params, examples)
    _check_thresholds(params, examples.outline)
    dtype: type[np.floating] = np.float32 if get("precision") == "float32" else np.float64
    if initial is not None:
        network = _network_of(params, examples.outline, initial)
        _check_initial(params, examples.outline, network, initial)
        reading = examples.reading(
            standardize=False, dtype=get("precision"), class_weights=weights
        )._replace(standardization=initial.standardization, targets=initial.targets)
        _warn_of_ignored(examples, initial)
        return Plan(network, initial.theta.astype(dtype)[None], [0], reading)
    network = _network_of(params, examples.outline, None)
    reading = examples.reading(
        standardize=get("standardization"),
        standardize_targets=params._standardize_targets(),
        dtype=get("precision"),
        class_weights=weights,
    )
    if get("initialWeights") is not None:
        given = np.array(get("initialWeights"), dtype)
        if len(given) != network.size:
            raise ParamError(
                f"initialWeights has {len(given)} numbers, and with layers={list(network.layers)} "
                f"there are {network.size} parameters; give as many"
            )
        return Plan(network, given[None], [0], reading)
    scheme = get("initialization")
    if scheme is None:
        scheme = "he-uniform" if "relu" in network.activations else "glorot-uniform"
    first = get("firstRestart")
    numbers = list(range(first, first + get("numRestarts")))
    starts = [initialize(network, scheme, get("seed"), number, dtype) for number in numbers]
    return Plan(network, np.stack(starts), numbers, reading)


def complete_layers(layers: Sequence[int], outline: Outline) -> tuple[int, ...]:
    """Return all layers, where their first and last entry may have been left out.

    They are all there if they begin with the number of features and end with that of the outputs:
    the numbers to predict, or the classes, or 1 for two classes.  If neither is so, or there is
    one entry or none, they are the hidden layers.

    Raises
    ------
    ParamError
        If one is so and the other is not.
    ExamplesError
        If all are given, and labels are not 0 … k − 1.

    Examples
    --------
    >>> from nonconvex.distributed.data.examples import Classes
    >>> iris = Outline(150, 0, 4, 3, Classes("string", ("setosa", "versicolor", "virginica")))
    >>> complete_layers([4, 8, 3], iris), complete_layers([8], iris), complete_layers([], iris)
    ((4, 8, 3), (4, 8, 3), (4, 3))
    >>> complete_layers([4, 8], iris)
    Traceback (most recent call last):
    ParamError: layers=[4, 8] begins with the 4 features and does not end with...
    """
    given, features, targets = tuple(layers), outline.features, outline.targets
    allowed = (1, 2) if outline.classes is not None and targets == 2 else (targets,)
    begins = len(given) >= 2 and given[0] == features
    ends = len(given) >= 2 and given[-1] in allowed
    what = "targets" if outline.classes is None else "classes"
    if begins is not ends:
        whole = (*given[:-1], targets) if begins else (features, *given[1:])
        hidden = (features, *given, allowed[0])
        found = f"the {features} features" if begins else f"the {given[-1]} {what}"
        lacks = f"begin with the {features} features"
        if begins:
            lacks = f"end with the {targets} {what}"
        verb = "begins" if begins else "ends"
        raise ParamError(
            f"layers={list(given)} {verb} with {found} and does not {lacks}; set "
            f"layers={list(whole)} if they are all layers, and layers={list(hidden)} if they are "
            "the hidden ones"
        )
    if not begins:
        return (features, *given, allowed[0])
    if outline.classes is not None and outline.classes.kind == "double":
        for value in outline.classes.values:
            if not 0 <= value < targets:
                raise ExamplesError(
                    f"the label {value:g} is outside 0 … {targets - 1}, which labels are with "
                    f"layers={list(given)}; relabel, or leave the first and the last entry of "
                    "layers out, and labels may be any whole numbers"
                )
    return given


def _network_of(params: NetworkParams, outline: Outline, initial: Scorer | None) -> Network:
    get = params.getOrDefault
    layers = complete_layers(get("layers") or [], outline)
    if initial is not None and not params.isSet("layers"):
        layers = initial.network.layers
    hidden = len(layers) - 2
    activation = get("activation")
    if initial is not None and not params.isSet("activation"):
        activation = list(initial.network.activations)
    elif not hidden:
        refuse_set(params, ["activation"], f"is of hidden layers, and layers={list(layers)}")
    if isinstance(activation, str):
        activation = [activation] * hidden
    elif len(activation) != hidden:
        raise ParamError(
            f"activation has {len(activation)} names, and layers={list(layers)} has {hidden} "
            "hidden layers; give one for each, or one for all"
        )
    loss = "squared-error"
    if outline.classes is not None:
        loss = "binary-cross-entropy" if layers[-1] == 1 else "categorical-cross-entropy"
    bias = get("fitBiases")
    if initial is not None and not params.isSet("fitBiases"):
        bias = initial.network.bias
    step, reg = get("stepGradient"), get("regParam")
    return Network(layers, tuple(activation), loss, bias, step_gradient=step, reg=reg)


def _check_initial(
    params: NetworkParams, outline: Outline, network: Network, initial: Scorer
) -> None:
    """Raise if a fit cannot start from a model."""
    if initial.classes != outline.classes:
        raise ParamError(
            f"the initial model has {_shown(initial)} and the examples have "
            f"{_shown_classes(outline)}; they must be equal"
        )
    own, new = initial.network, network
    for what, a, b in (
        ("features", own.layers[0], outline.features),
        ("outputs", own.classes or own.layers[-1], outline.targets),
        ("layers", list(own.layers), list(new.layers)),
        ("activation", list(own.activations), list(new.activations)),
        ("fitBiases", own.bias, new.bias),
    ):
        if a != b:
            raise ParamError(
                f"the initial model has {what} {a} and this fit {b}; they must be equal: leave "
                "Params unset to take those of the model"
            )
    if "step" in new.activations and new.step_gradient is None:
        raise ParamError(
            "the initial model has the activation step, through which nothing is learned; set "
            'stepGradient="straight-through"'
        )
    for name, kept in (
        ("standardization", initial.standardization),
        ("targetStandardization", initial.targets),
    ):
        scaled = kept is not None and bool((kept.scale != 1).any() or kept.mean.any())
        if params.hasParam(name) and params.isSet(name) and params.getOrDefault(name) != scaled:
            raise ParamError(
                f"{name}={params.getOrDefault(name)} is not that of the initial model, which is "
                "kept; unset it"
            )


def _warn_of_ignored(examples: ExampleSet, initial: Scorer) -> None:
    """Say which features of a warm start vary now, and did not when the model was trained."""
    still = np.isinf(initial.standardization.scale) & ~examples.measures.moments.constant()
    if still.any():
        first = examples.columns.feature_name(int(np.flatnonzero(still)[0]))
        _log.warning(
            "%d features were constant when the initial model was trained, and it goes on without "
            "them: %s%s; start anew to learn of them",
            still.sum(),
            first,
            ", …" if still.sum() > 1 else "",
        )


def _check_thresholds(params: NetworkParams, outline: Outline) -> None:
    if outline.classes is None or params.getOrDefault("thresholds") is None:
        return
    given = params.getOrDefault("thresholds")
    if len(given) != outline.targets:
        raise ParamError(
            f"thresholds has {len(given)} numbers, and there are {outline.targets} classes; give "
            "one for each, in the order of labels"
        )


def _shown(initial: Scorer) -> str:
    outline = Outline(0, 0, 0, initial.network.layers[-1], initial.classes)
    return _shown_classes(outline)


def _shown_classes(outline: Outline) -> str:
    if outline.classes is None:
        return f"{outline.targets} targets"
    values = [repr(value) for value in outline.classes.values]
    return f"the classes {', '.join(values[:5])}{', …' if values[5:] else ''}"


def _class_weights(params: NetworkParams, examples: ExampleSet) -> list[float] | None:
    """Return what each class is weighted with: "balanced" is W / (k W_c)."""
    classes = examples.outline.classes
    if classes is None or params.getOrDefault("classWeight") is None:
        return None
    given, weights = params.getOrDefault("classWeight"), examples.measures.class_weights
    if isinstance(given, str):
        if not (weights > 0).all():
            label = classes.values[int(np.argmin(weights))]
            raise ExamplesError(
                f"classWeight='balanced' needs rows of every class to train on, and {label!r} has "
                "none that weigh anything; add some, or give a list of numbers"
            )
        balanced: list[float] = (weights.sum() / (len(weights) * weights)).tolist()
        return balanced
    if len(given) != len(weights):
        raise ParamError(
            f"classWeight has {len(given)} numbers, and there are {len(weights)} classes, "
            f"{', '.join(map(str, classes.values[:5]))}{', …' if classes.values[5:] else ''}; "
            "give one for each, in this order"
        )
    if not weights @ given > 0:
        raise ParamError(
            f"classWeight={given} is 0 for every class there is; let one at least weigh something"
        )
    return list(given)


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
        StoppingRule(get("maxIter"), get("maxSteps"), get("tol"), get("patience")),
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
