"""Params of networks, and the checks of their combinations."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, ClassVar

from pyspark.ml.param import Params
from pyspark.ml.param.shared import (
    HasFeaturesCol,
    HasHandleInvalid,
    HasLabelCol,
    HasPredictionCol,
    HasProbabilityCol,
    HasRawPredictionCol,
)

from nonconvex.estimators.params import (
    DESCENT,
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
from nonconvex.numerics.network.least_squares import MAX_FEATURES
from nonconvex.numerics.network.model import ACTIVATIONS, SCHEMES

HANDLE_INVALID = ("error", "skip", "keep")
GRADIENTS = ("auto", "driver", "executors")


def _activation(value: Any) -> str | list[str]:
    name = choice(ACTIVATIONS)
    return [name(one) for one in value] if isinstance(value, (list, tuple)) else name(value)


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


class NetworkModelParams(
    CheckedParams, HasFeaturesCol, HasLabelCol, HasPredictionCol, HasHandleInvalid
):
    """Params that estimators of networks and their models share."""

    featuresCol = param("column of vectors or arrays, or a list of columns of numbers", names)
    labelCol = param("column of labels", text())
    weightCol = FitParams.weightCol
    predictionCol = param("column of predictions to add; '' adds none", text(empty=True))
    handleInvalid = param(
        "null, NaN or infinite features: 'error', 'skip' the row, or 'keep' it, without prediction",
        choice(HANDLE_INVALID),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(weightCol=None, handleInvalid="error")


class ClassificationModelParams(NetworkModelParams, HasProbabilityCol, HasRawPredictionCol):
    """Params that the classifier and its model share."""

    predictionCol = param(
        "column of predicted classes to add, of strings by index in labels; '' adds none",
        text(empty=True),
    )
    predictedLabelCol = param(
        "column of labels to add, if strings or set; '' adds none", text(empty=True)
    )
    probabilityCol = param("column of class probabilities to add; '' adds none", text(empty=True))
    rawPredictionCol = param("column of vectors of logits to add; '' adds none", text(empty=True))
    thresholds = param(
        "a number ≥ 0 for each class, by which probabilities are divided first",
        optional(_thresholds),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(thresholds=None, predictedLabelCol="predictedLabel")


class NetworkParams(NetworkModelParams, DescentParams, FitParams):
    """Params that all estimators of networks share."""

    layers = param(
        "sizes of hidden or of all layers; by default [100]; [] is the linear model",
        optional(_sizes),
    )
    activation = param(
        f"activation of hidden layers, one of {', '.join(ACTIVATIONS)}, or a list with one for "
        "each",
        _activation,
    )
    stepGradient = param(
        "'straight-through': derivative 1 of the activation step, which needs it",
        optional(choice(("straight-through",))),
    )
    fitBiases = param("whether layers have biases", flag)
    initialization = param(
        f"initial weights: one of {', '.join(SCHEMES)}; by default glorot-uniform, or he-uniform "
        "for deep relu",
        optional(choice(SCHEMES)),
    )
    initialWeights = param("initial parameters, ordered as model.weights", optional(numbers()))
    regParam = param(
        "λ ≥ 0 of the penalty (λ/2) Σ ‖W‖² on weights; by default 1/(2n) of n rows to train on, "
        "or 0 without hidden layers",
        optional(number(0)),
    )
    standardization = param("whether features are scaled to mean 0 and variance 1", flag)
    maxIter = param("most epochs ≥ 1; by default for 10,000 steps, 20 to 100", optional(integer(1)))
    maxSteps = param("most steps, ≥ 1; by default no limit", optional(integer(1)))
    batchSize = param("rows of a minibatch, ≥ 1; by default at most a quarter", integer(1))
    tol = param("stop when the relative change of the objective is less; ≥ 0", number(0))
    patience = param(
        "stop after so many epochs without a better validation loss; 0: keep the last",
        optional(integer(0)),
    )
    gradients = param(
        "'driver', 'executors', or 'auto', the faster; see summary", choice(GRADIENTS)
    )

    def _batch_size(self, rows: int) -> int:
        """Return the size of a minibatch: unless it is set, a quarter of few rows, at least 8."""
        size = int(self.getOrDefault("batchSize"))
        return size if self.isSet("batchSize") else min(size, max(8, rows // 4))

    def _epochs(self, rows: int) -> int:
        """Return the number of epochs, by default from the number of training rows."""
        given = self.getOrDefault("maxIter")
        steps = -(-rows // self._batch_size(rows))
        return int(given) if given is not None else min(max(-(-10_000 // steps), 20), 100)

    def _steps(self, rows: int) -> int:
        """Return the number of steps if no epoch is left out."""
        steps = self._epochs(rows) * -(-rows // self._batch_size(rows))
        return min(steps, self.getOrDefault("maxSteps") or steps)

    def _standardize_targets(self) -> bool:
        """Return whether regression targets are standardized."""
        return False


OF_DESCENT = (
    *DESCENT,
    *("initialization", "initialWeights", "maxIter", "maxSteps", "batchSize", "tol", "patience"),
    *("seed", "numRestarts", "firstRestart", "gradients", "checkpointPath"),
)
"""Params that a fit in closed form does not read."""


class RegressorParams(NetworkParams):
    """Params of `MultilayerPerceptronRegressor`."""

    labelCol = param("column of numbers, vectors or arrays, or a list of columns", names)
    targetStandardization = param("whether targets are scaled while the network is trained", flag)
    solver = param(
        f"'gd' (gradient descent), 'exact' (a linear regression in closed form) or 'auto': exact "
        f"if it is linear, of ≤ {MAX_FEATURES:,} features",
        choice(("auto", "gd", "exact")),
    )

    def _standardize_targets(self) -> bool:
        return bool(self.getOrDefault("targetStandardization"))


class ClassifierParams(ClassificationModelParams, NetworkParams):
    """Params of `MultilayerPerceptronClassifier`."""

    _aliases: ClassVar[Mapping[str, str]] = {"stepSize": "learningRate"}

    labelCol = param("column of labels, strings or whole numbers", text())
    classWeight = param(
        "a factor ≥ 0 for each class, or 'balanced'; by default 1", optional(_class_weight)
    )
    stepSize = param("MLlib's name of learningRate", number(0, exclusive=True))
    blockSize = param("accepted, and has no meaning here; see batchSize", integer(1))
    solver = param("'gd'; MLlib's 'l-bfgs' means the same", choice(("gd", "l-bfgs")))


def check_thresholds(params: Params, classes: int) -> list[float] | None:
    """Return the thresholds; raise ParamError if there is not one for each class."""
    given: list[float] | None = params.getOrDefault("thresholds")
    if given is not None and len(given) != classes:
        raise ParamError(
            f"thresholds has {len(given)} numbers, and there are {classes} classes; "
            "give one for each, in the order of labels"
        )
    return given


def check_network(params: NetworkParams, *, has_validation: bool, warm: bool) -> None:
    """Raise ParamError for a wrong combination of Params, before any data are read.

    `has_validation`: there are validation rows; `warm`: the fit starts from an earlier model.
    """
    get = params.getOrDefault
    if get("patience") and not has_validation:
        raise ParamError(
            f"patience={get('patience')} needs validation rows; set validationIndicatorCol"
        )
    if get("checkpointPath") is None:
        refuse_set(params, ["checkpointInterval"], "needs checkpointPath, which is not set")
    if warm:
        refuse_set(params, ["initialWeights"], "cannot be used with an initial model")
    if warm or get("initialWeights") is not None:
        start = "an initial model" if warm else "initialWeights"
        if get("numRestarts") > 1:
            raise ParamError(
                f"numRestarts={get('numRestarts')} with {start} would repeat one fit; "
                "set numRestarts=1, or let the starts be random"
            )
        names = ["initialization", "firstRestart"]
        refuse_set(params, names, f"is for random starts, not for {start}")
    activation = get("activation")
    if "step" not in ([activation] if isinstance(activation, str) else activation):
        refuse_set(params, ["stepGradient"], "is for the activation step alone")
    elif get("stepGradient") is None:
        raise ParamError(
            "the derivative of the activation step is 0, so nothing is learned through it; choose "
            'another activation, or set stepGradient="straight-through"'
        )
    params._optimizer(steps=1)
