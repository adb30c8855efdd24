"""Params of networks, and the checks of their combinations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
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


def _each(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a converter of one value or of a list."""

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


class NetworkModelParams(
    CheckedParams, HasFeaturesCol, HasLabelCol, HasPredictionCol, HasHandleInvalid
):
    """Params that estimators of networks and their models share."""

    featuresCol = param(
        "column of features, vectors or arrays of numbers, or a list of columns of numbers", names
    )
    labelCol = param("column of labels", text())
    weightCol = FitParams.weightCol
    predictionCol = param(
        "column that transform adds with the predictions; '' adds none", text(empty=True)
    )
    handleInvalid = param(
        "treatment of rows with null, NaN or infinite features in predictions: 'error' (the query "
        "fails), 'skip' (leave the row out) or 'keep' (null predictions); fit always fails",
        choice(HANDLE_INVALID),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(weightCol=None, handleInvalid="error")


class ClassificationModelParams(NetworkModelParams, HasProbabilityCol, HasRawPredictionCol):
    """Params that the classifier and its model share."""

    predictionCol = param(
        "column that transform adds with the predicted class, a double: the label, or of strings "
        "its index in model.labels; '' adds none",
        text(empty=True),
    )
    predictedLabelCol = param(
        "column that transform adds with the predicted label where labels are strings, or where "
        "it is set; '' adds none",
        text(empty=True),
    )
    probabilityCol = param(
        "column that transform adds with the vector of class probabilities; '' adds none",
        text(empty=True),
    )
    rawPredictionCol = param(
        "column that transform adds with the vector of class logits; '' adds none", text(empty=True)
    )
    thresholds = param(
        "a number ≥ 0 for each class, at most one of them 0: the predicted class has the greatest "
        "ratio of probability to threshold; by default the most probable class is predicted",
        optional(_thresholds),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(thresholds=None, predictedLabelCol="predictedLabel")


class NetworkParams(NetworkModelParams, DescentParams, FitParams):
    """Params that all estimators of networks share."""

    layers = param(
        "sizes of all layers, from the features to the outputs, or of the hidden layers alone; "
        "by default there is one hidden layer of 100; [] is the linear model",
        optional(_sizes),
    )
    activation = param(
        f"activation of the hidden layers, one of {', '.join(ACTIVATIONS)}, or a list of one for "
        "each layer",
        _each(choice(tuple(ACTIVATIONS))),
    )
    stepGradient = param(
        "'straight-through' uses the derivative of the identity for the activation step; by "
        "default a network with this activation cannot be fitted, because its derivative is 0",
        optional(choice(("straight-through",))),
    )
    fitBiases = param("whether layers have biases", flag)
    initialization = param(
        f"distribution of random initial weights, one of {', '.join(SCHEMES)}; by default "
        "he-uniform with relu in three or more hidden layers, otherwise glorot-uniform",
        optional(choice(SCHEMES)),
    )
    initialWeights = param(
        "all initial parameters in the order of model.weights, which is MLlib's: W and b of the "
        "first layer, then of the next, each W by its input units; by default they are random",
        optional(numbers()),
    )
    regParam = param(
        "strength λ ≥ 0 of the penalty (λ/2) Σ ‖W‖² on weights; biases have none", number(0)
    )
    standardization = param(
        "whether features are standardized to mean 0 and variance 1 of the training data, or "
        "where one is nearly constant to a range of 20",
        flag,
    )
    maxIter = param(
        "maximum number of epochs (passes over the data), ≥ 1; by default as many as make 10,000 "
        "steps, and from 20 to 100",
        optional(integer(1)),
    )
    maxSteps = param("maximum number of steps, ≥ 1; by default there is none", optional(integer(1)))
    batchSize = param(
        "number of rows of a minibatch, ≥ 1; unless it is set, at most a quarter of the rows",
        integer(1),
    )
    tol = param(
        "stop when an epoch changes the objective by less than tol times its value; ≥ 0", number(0)
    )
    patience = param(
        "stop when the validation loss has not improved for this many epochs, and return the best "
        "epoch; needs validationIndicatorCol, and is 10 by default with it; 0 returns the last "
        "epoch",
        optional(integer(0)),
    )
    gradients = param(
        "place where gradients are computed: 'driver', 'executors', or 'auto', the one with the "
        "shorter step, estimated from the sizes of the data and the network and the number of "
        "cores; summary.gradients is the choice",
        choice(GRADIENTS),
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

    labelCol = param(
        "column of targets, numbers, vectors or arrays, or a list of columns of numbers", names
    )
    targetStandardization = param(
        "whether targets are standardized in training, so that learningRate and regParam do not "
        "depend on their units; predictions are in the units of the data",
        flag,
    )
    solver = param(
        "'gd': gradient descent by minibatches; 'exact': the closed form of a linear regression; "
        f"or 'auto': exact without a hidden layer, of up to {MAX_FEATURES:,} features, unless a "
        "Param of the descent or of its start is set",
        choice(("auto", "gd", "exact")),
    )

    def _standardize_targets(self) -> bool:
        return bool(self.getOrDefault("targetStandardization"))


class ClassifierParams(ClassificationModelParams, NetworkParams):
    """Params of `MultilayerPerceptronClassifier`."""

    _aliases: ClassVar[Mapping[str, str]] = {"stepSize": "learningRate"}

    labelCol = param("column of labels, strings or whole numbers", text())
    classWeight = param(
        "factors of the weights of rows: a number ≥ 0 for each class, in the order of the labels, "
        "or 'balanced', which gives all classes the same total weight; by default 1",
        optional(_class_weight),
    )
    stepSize = param("MLlib's name of learningRate", number(0, exclusive=True))
    blockSize = param("accepted, and has no meaning here; see batchSize", integer(1))
    solver = param(
        "'gd': gradient descent by minibatches, see optimizer; MLlib's 'l-bfgs' is accepted, and "
        "means the same",
        choice(("gd", "l-bfgs")),
    )


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
