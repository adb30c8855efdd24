"""Params of neural networks.

Params of networks that contradict each other, or that would be set and then ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

from pyspark.ml.param.shared import (
    HasFeaturesCol,
    HasHandleInvalid,
    HasLabelCol,
    HasPredictionCol,
    HasProbabilityCol,
    HasRawPredictionCol,
)

from nonconvex.estimators.params import (
    CheckedParams,
    DescentParams,
    FitParams,
    ParamError,
    choice,
    flag,
    integer,
    names,
    number,
    numbers,
    optional,
    param,
    refuse_set,
    text,
)
from nonconvex.numerics.network.model import ACTIVATIONS, SCHEMES

__all__ = [
    "ClassificationModelParams",
    "ClassifierParams",
    "NetworkModelParams",
    "NetworkParams",
    "RegressorParams",
    "check_network",
]

HANDLE_INVALID = ("error", "skip", "keep")
GRADIENTS = ("auto", "driver", "executors")


def _each(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Take what `convert` takes, or a list of such."""

    def convert_each(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [convert(one) for one in value]
        return convert(value)

    return convert_each


def _sizes(value: Any) -> list[int]:
    size = integer(1)
    try:
        if isinstance(value, (str, Mapping, Set)):  # the last two have no order of their own
            raise TypeError
        return [size(entry) for entry in value]
    except (TypeError, ValueError):
        raise ValueError(f"must be a list of sizes, each an integer ≥ 1, got {value!r}") from None


def _class_weight(value: Any) -> str | list[float]:
    if isinstance(value, str):
        return choice(("balanced",))(value)
    return numbers(0)(value)


def _thresholds(value: Any) -> list[float]:
    given = numbers(0)(value)
    if given.count(0.0) > 1:
        raise ValueError(f"must be > 0 except for one at most, got {value!r}")
    return given


def _solver(value: Any) -> str:
    if value != "gd":
        raise ValueError(
            f"must be gd, gradient descent, got {value!r}; which kind of it is said by "
            "optimizer, and the default, adam, needs no other solver"
        )
    return str(value)


class NetworkModelParams(
    CheckedParams, HasFeaturesCol, HasLabelCol, HasPredictionCol, HasHandleInvalid
):
    """Params that estimators of networks and their models share."""

    featuresCol = param(
        "column of features, vectors or arrays of numbers, or a list of columns of numbers",
        names,
    )
    labelCol = param("column of labels", text())
    weightCol = FitParams.weightCol
    predictionCol = param(
        "column of predictions, which is added, unless it is ''",
        text(empty=True),
    )
    handleInvalid = param(
        "what prediction does with a row whose features are null, NaN or infinite: 'error' (the "
        "query fails), 'skip' (no row) or 'keep' (its predictions are null); fit refuses it",
        choice(HANDLE_INVALID),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(weightCol=None, handleInvalid="error")


class ClassificationModelParams(NetworkModelParams, HasProbabilityCol, HasRawPredictionCol):
    """Params that the classifier and its model share."""

    probabilityCol = param(
        "column of vectors of the probability of each class, which is added, unless it is ''",
        text(empty=True),
    )
    rawPredictionCol = param(
        "column of vectors of the logit of each class, which is added, unless it is ''",
        text(empty=True),
    )
    thresholds = param(
        "a number ≥ 0 for each class, of which one may be 0: the class with the greatest ratio of "
        "probability to threshold is predicted; by default the most probable one",
        optional(_thresholds),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(thresholds=None)


class NetworkParams(NetworkModelParams, DescentParams, FitParams):
    """Params that all estimators of networks share."""

    layers = param(
        "sizes of the layers, from the features to the outputs, or of the hidden layers alone; by "
        "default there are none, and the model is linear",
        optional(_sizes),
    )
    activation = param(
        f"of the hidden layers, one of {', '.join(ACTIVATIONS)}, or a list with one for each",
        _each(choice(tuple(ACTIVATIONS))),
    )
    stepGradient = param(
        "'straight-through' trains through the activation step as if it were the identity; by "
        "default it is refused, as its derivative is 0",
        optional(choice(("straight-through",))),
    )
    fitBiases = param("whether layers have biases b", flag)
    initialization = param(
        f"how weights are drawn, one of {', '.join(SCHEMES)}; by default he-uniform with relu, "
        "and else glorot-uniform",
        optional(choice(SCHEMES)),
    )
    initialWeights = param(
        "all parameters to start from, W and b of the first layer, then of the next, each W by the "
        "units it comes from: the order of model.weights, here and in MLlib; by default random",
        optional(numbers()),
    )
    regParam = param(
        "λ ≥ 0 of the penalty (λ/2) Σ ‖W‖² on weights, not on biases",
        number(0),
    )
    standardization = param(
        "whether features get mean 0 and variance 1, as measured in fit",
        flag,
    )
    maxIter = param("most epochs, passes over the data, ≥ 1", integer(1))
    maxSteps = param("most steps, ≥ 1; by default any number", optional(integer(1)))
    batchSize = param("rows of a minibatch, ≥ 1", integer(1))
    tol = param(
        "stop when an epoch changes the objective by less than tol times its value, ≥ 0",
        number(0),
    )
    patience = param(
        "stop when the validation loss has not improved for so many epochs, and return the best "
        "epoch; needs validation rows",
        optional(integer(1)),
    )
    gradients = param(
        "where gradients are computed: 'driver', 'executors', or 'auto', where a step is shorter "
        "by the sizes of the data and the network and the number of cores; summary.gradients says "
        "which it was",
        choice(GRADIENTS),
    )

    def _batch_size(self) -> int:
        """Return the size of a minibatch that is meant."""
        return int(self.getOrDefault("batchSize"))

    def _standardize_targets(self) -> bool:
        """Tell whether the numbers to predict are standardized."""
        return False


class RegressorParams(NetworkParams):
    """Params of `MultilayerPerceptronRegressor`."""

    labelCol = param(
        "column of targets, numbers, vectors or arrays, or a list of columns of numbers",
        names,
    )
    targetStandardization = param(
        "whether targets get mean 0 and variance 1 in training, as measured in fit, so that "
        "learningRate and regParam do not depend on their units; predictions are in those of the "
        "data",
        flag,
    )

    def _standardize_targets(self) -> bool:
        return bool(self.getOrDefault("targetStandardization"))


class ClassifierParams(ClassificationModelParams, NetworkParams):
    """Params of `MultilayerPerceptronClassifier`."""

    labelCol = param("column of labels, strings or whole numbers", text())
    classWeight = param(
        "what the weights of rows are multiplied by: a number ≥ 0 for each class, in the order of "
        "the labels, or 'balanced', so that all classes weigh the same; by default nothing",
        optional(_class_weight),
    )
    stepSize = param("MLlib's name of learningRate", optional(number(0, exclusive=True)))
    blockSize = param("MLlib's name of batchSize, if it is set", optional(integer(1)))
    solver = param("'gd': gradient descent by minibatches; see optimizer", _solver)

    def _rate(self) -> float:
        given = self.getOrDefault("stepSize")
        return super()._rate() if given is None else float(given)

    def _batch_size(self) -> int:
        given = self.getOrDefault("blockSize")
        return super()._batch_size() if given is None else int(given)


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
            f"patience={get('patience')} needs validation rows; set validationIndicatorCol"
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
