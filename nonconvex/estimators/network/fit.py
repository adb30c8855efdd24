"""The fit of a network: from Params and examples to its best restart, with a summary of each."""

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
from nonconvex.distributed.data.examples import ExampleSchema, ExamplesError
from nonconvex.distributed.network.dataset import ExampleSet
from nonconvex.distributed.network.fit import solve_network, train_network
from nonconvex.distributed.network.gradients import GradientChoice, Validation, choose_mode
from nonconvex.distributed.network.shards import ExampleDecoder
from nonconvex.estimators.network.params import OF_DESCENT, NetworkParams, check_thresholds
from nonconvex.estimators.network.summary import NetworkRestart, NetworkSummary
from nonconvex.estimators.params import ParamError, patience_of, refuse_set
from nonconvex.numerics import Floats
from nonconvex.numerics.convergence import StoppingRule
from nonconvex.numerics.network.backprop import Sums, network_objective
from nonconvex.numerics.network.least_squares import MAX_FEATURES
from nonconvex.numerics.network.model import Classes, Network, Scorer, initialize
from nonconvex.numerics.network.training import Trained

_log = logging.getLogger("nonconvex")


@dataclass(frozen=True)
class Plan:
    """A network, the starts of its restarts, and the decoder of its examples."""

    network: Network
    theta: Floats  # (R, p), where the restarts begin
    restarts: list[int]  # their numbers
    decoder: ExampleDecoder


def plan_network(params: NetworkParams, examples: ExampleSet, initial: Scorer | None) -> Plan:
    """Make a plan of Params and examples, and of an initial model, if there is one.

    Its layers, activations and biases are taken unless they are set, and its standardization in
    any case, so that training starts at its predictions.  Raises ParamError if Params contradict
    the examples or each other, and ExamplesError if the examples rule the Params out.
    """
    get = params.getOrDefault
    weights = _class_weights(params, examples)
    if examples.schema.classes is not None:
        check_thresholds(params, len(examples.schema.classes.values))
    dtype: type[np.floating] = np.float32 if get("precision") == "float32" else np.float64
    if initial is not None:
        network = _network_of(params, examples, initial)
        _check_initial(params, examples.schema, network, initial)
        decoder = examples.decoder(
            standardize=False, dtype=get("precision"), class_weights=weights
        )._replace(standardization=initial.standardization, targets=initial.targets)
        _warn_of_ignored(examples, initial)
        return Plan(network, initial.theta.astype(dtype)[None], [0], decoder)
    network = _network_of(params, examples, None)
    decoder = examples.decoder(
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
        return Plan(network, given[None], [0], decoder)
    scheme = get("initialization")
    if scheme is None:
        deep = network.activations.count("relu") >= 3
        scheme = "he-uniform" if deep else "glorot-uniform"
    first = get("firstRestart")
    numbers = list(range(first, first + get("numRestarts")))
    starts = [initialize(network, scheme, get("seed"), number, dtype) for number in numbers]
    return Plan(network, np.stack(starts), numbers, decoder)


def complete_layers(layers: Sequence[int], schema: ExampleSchema) -> tuple[int, ...]:
    """Return all layers, if their first and last entry may have been left out.

    The list is complete if it begins with the number of features and ends with the number of
    outputs: the targets, the classes, or 1 for two classes.  If neither is so, or it has one entry
    or none, it is the hidden layers.  Raises ParamError if only one is so, and ExamplesError if
    the list is complete and labels are not 0 … k − 1.
    """
    given, features, targets = tuple(layers), schema.features, schema.targets
    allowed = (1, 2) if schema.classes is not None and targets == 2 else (targets,)
    begins = len(given) >= 2 and given[0] == features
    ends = len(given) >= 2 and given[-1] in allowed
    what = "targets" if schema.classes is None else "classes"
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
    if schema.classes is not None and schema.classes.kind == "double":
        for value in schema.classes.values:
            if not 0 <= value < targets:
                raise ExamplesError(
                    f"the label {value:g} is outside 0 … {targets - 1}, which labels are with "
                    f"layers={list(given)}; relabel, or leave the first and the last entry of "
                    "layers out, and labels may be any whole numbers"
                )
    return given


def _network_of(params: NetworkParams, examples: ExampleSet, initial: Scorer | None) -> Network:
    get, schema = params.getOrDefault, examples.schema
    if initial is not None and get("layers") is None:
        layers = initial.network.layers
    else:
        layers = complete_layers([100] if get("layers") is None else get("layers"), schema)
    hidden = len(layers) - 2
    activation = get("activation")
    if initial is not None and not params.isSet("activation"):
        activation = list(initial.network.activations)
    elif not hidden:
        refuse_set(params, ["activation"], f"needs hidden layers; layers={list(layers)} has none")
    if isinstance(activation, str):
        activation = [activation] * hidden
    elif len(activation) != hidden:
        raise ParamError(
            f"activation has {len(activation)} names, and layers={list(layers)} has {hidden} "
            "hidden layers; give one for each, or one for all"
        )
    loss = "squared-error"
    if schema.classes is not None:
        loss = "binary-cross-entropy" if layers[-1] == 1 else "categorical-cross-entropy"
    bias = get("fitBiases")
    if initial is not None and not params.isSet("fitBiases"):
        bias = initial.network.bias
    step, reg = get("stepGradient"), get("regParam")
    if reg is None:  # of a classifier, that of the mode if weights are N(0, 2)
        reg = 1 / (2 * sum(examples.stats.sizes)) if hidden else 0.0
    return Network(layers, tuple(activation), loss, bias, step_gradient=step, reg=reg)


def _check_initial(
    params: NetworkParams, schema: ExampleSchema, network: Network, initial: Scorer
) -> None:
    """Raise ParamError if the fit cannot start from the initial model."""
    if initial.classes != schema.classes:
        raise ParamError(
            f"the initial model has {_shown(initial.classes, initial.network.layers[-1])} and the "
            f"examples have {_shown(schema.classes, schema.targets)}; they must be equal"
        )
    own, new = initial.network, network
    for what, a, b in (
        ("features", own.layers[0], schema.features),
        ("outputs", own.classes or own.layers[-1], schema.targets),
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
            "the initial model has the activation step, whose derivative is 0; set "
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
    """Warn of features that vary now, and were constant when the initial model was trained."""
    still = np.isinf(initial.standardization.scale) & ~examples.stats.moments.constant()
    if still.any():
        first = examples.columns.feature_name(int(np.flatnonzero(still)[0]))
        _log.warning(
            "%d features were constant when the initial model was trained, and it ignores them: "
            "%s%s; start from random weights to use them",
            still.sum(),
            first,
            ", …" if still.sum() > 1 else "",
        )


def _shown(classes: Classes | None, targets: int) -> str:
    if classes is None:
        return f"{targets} targets"
    values = [repr(value) for value in classes.values]
    return f"the classes {', '.join(values[:5])}{', …' if values[5:] else ''}"


def _class_weights(params: NetworkParams, examples: ExampleSet) -> list[float] | None:
    """Return the weight of each class; "balanced" is W / (k W_c)."""
    classes = examples.schema.classes
    if classes is None or params.getOrDefault("classWeight") is None:
        return None
    given, weights = params.getOrDefault("classWeight"), examples.stats.class_weights
    if isinstance(given, str):
        if not (weights > 0).all():
            label = classes.values[int(np.argmin(weights))]
            raise ExamplesError(
                f"classWeight='balanced' needs rows of every class to train on, and {label!r} has "
                "none of positive weight; add some, or give a list of numbers"
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
            f"classWeight={given} is 0 for every class in the data; at least one must be positive"
        )
    return list(given)


def fit_network(
    params: NetworkParams, examples: ExampleSet, initial: Scorer | None, started: float
) -> tuple[Scorer, NetworkSummary, Checkpoints | None]:
    """Train from every start; return the best network, a summary and the checkpoints of the fit.

    `started` is the time when the fit began, by `time.perf_counter`.  Raises ParamError or
    ExamplesError if Params and examples contradict each other, and FitError if no restart stays
    finite.
    """
    get = params.getOrDefault
    if get("validationIndicatorCol") is not None and examples.validation is None:
        raise ExamplesError(
            f"validationIndicatorCol={get('validationIndicatorCol')!r} is false in all "
            f"{examples.schema.rows:,} rows; hold some out, or unset it"
        )
    patience = patience_of(params, 10, validated=examples.validation is not None)
    plan = plan_network(params, examples, initial)
    network, decoder, schema = plan.network, plan.decoder, examples.schema
    batch_size, epochs = params._batch_size(schema.rows), params._epochs(schema.rows)
    checkpoints = None
    if _exactly(params, network, warm=initial is not None):
        choice = GradientChoice("executors", "a linear regression, by its normal equation")
        trained = [solve_network(network, examples, decoder)]
    else:
        choice = choose_mode(
            network,
            examples.train,
            decoder,
            batch_size=batch_size,
            restarts=len(plan.theta),
            asked=get("gradients"),
        )
        checkpoints = _checkpoints(params, examples, plan, choice)
        trained = train_network(
            network,
            plan.theta,
            examples,
            decoder,
            params._optimizer(axis=-1, decays=network.is_weight, steps=params._steps(schema.rows)),
            StoppingRule(epochs, get("maxSteps"), get("tol"), patience),
            choice.mode,
            batch_size=batch_size,
            seed=get("seed"),
            checkpoints=checkpoints,
            first=plan.restarts[0],
        )
    restarts = _restarts(examples, plan, trained)
    best = min(range(len(restarts)), key=lambda number: restarts[number].merit)
    weights = decoder.class_weights
    summary = NetworkSummary(
        training_rows=schema.rows,
        validation_rows=schema.held_out,
        weight=examples.stats.moments.weight,
        layers=list(network.layers),
        activations=list(network.activations),
        loss=network.loss,
        parameters=network.size,
        constant_features=int(examples.stats.moments.constant().sum()),
        class_weights=None if weights is None else weights.tolist(),
        gradients=choice.mode,
        gradients_reason=choice.reason,
        batch_size=batch_size,
        warm_start=initial is not None or get("initialWeights") is not None,
        best=best,
        restarts=restarts,
        seconds=time.perf_counter() - started,
    )
    theta, standardization = trained[best].theta, decoder.standardization
    scorer = Scorer(network, theta, standardization, schema.classes, decoder.targets)
    return scorer, summary, checkpoints


def _exactly(params: NetworkParams, network: Network, *, warm: bool) -> bool:
    """Tell whether a fit has a closed form that is wanted."""
    solver = params.getOrDefault("solver")
    linear = network.depth == 1 and network.classes is None and network.layers[0] <= MAX_FEATURES
    descends = [name for name in OF_DESCENT if params.isSet(name)]
    if solver == "exact":
        if warm or not linear:
            what = "an initial model" if warm else f"layers={list(network.layers)}"
            raise ParamError(
                "solver='exact' is for a linear regression (layers=[]) of at most "
                f"{MAX_FEATURES:,} features from no initial model, and here is {what}; set "
                "solver='auto'"
            )
        refuse_set(params, descends, "is for gradient descent, not solver='exact'")
    return solver in ("auto", "exact") and linear and not warm and not descends


def _restarts(examples: ExampleSet, plan: Plan, trained: list[Trained]) -> list[NetworkRestart]:
    """Summarize every restart, with f over all training rows, in one pass."""
    network, theta = plan.network, np.stack([end.theta for end in trained])
    with Validation(network, examples.train, plan.decoder) as evaluate:
        reached = evaluate(theta)
    with np.errstate(all="ignore"):  # of a restart that diverged
        f, _ = network_objective(
            network, theta, Sums(reached.loss, np.zeros_like(theta), reached.weight)
        )
        losses, metrics = reached.mean_loss(), reached.metric(network)
    columns = (values.tolist() for values in (f, losses, metrics))
    return [
        NetworkRestart.of(*values) for values in zip(plan.restarts, trained, *columns, strict=True)
    ]


def _checkpoints(
    params: NetworkParams, examples: ExampleSet, plan: Plan, choice: GradientChoice
) -> Checkpoints | None:
    """Return the checkpoints of the fit, with its identity, if they are asked for."""
    path = params.getOrDefault("checkpointPath")
    if path is None:
        return None
    values = {param.name: params.getOrDefault(param) for param in params.params}
    identity: dict[str, Any] = {
        name: value for name, value in values.items() if name not in _NON_IDENTITY_PARAMS
    }
    identity |= {
        "gradients": choice.mode,
        "layers": list(plan.network.layers),
        "start": _digest(plan.theta),
        "standardization": _digest(np.stack(plan.decoder.standardization)),
        "targets": plan.decoder.targets and _digest(np.stack(plan.decoder.targets)),
        "examples": examples.fingerprint,
    }
    if identity["schedule"] == "cosine" and identity["decaySteps"] is None:
        identity["decaySteps"] = params._steps(examples.schema.rows)
    get = params.getOrDefault
    interval, epochs = get("checkpointInterval"), params._epochs(examples.schema.rows)
    return Checkpoints(SparkSession.active(), path, interval, identity, [epochs])


def _digest(values: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


# Params that may differ between an interrupted fit and the one that resumes from its checkpoint.
_NON_IDENTITY_PARAMS = {
    *("predictionCol", "predictedLabelCol", "probabilityCol", "rawPredictionCol"),
    *("thresholds", "handleInvalid"),
    *("maxIter", "checkpointPath", "checkpointInterval", "initialWeights"),
}
