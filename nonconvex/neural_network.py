"""Estimators and models of feed-forward neural networks, h⁽ˡ⁾ = σ_l(W_l h⁽ˡ⁻¹⁾ + b_l)."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from pyspark.ml import Model
from pyspark.ml.linalg import DenseVector, Vector
from pyspark.ml.util import MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.checkpoints import ModelCheckpoint
from nonconvex.distributed.columns import check_frame, check_new
from nonconvex.distributed.data.examples import ExampleColumns
from nonconvex.distributed.network.dataset import ExampleSet, shard_examples
from nonconvex.distributed.network.predict import OutputColumns, evaluate_network, score
from nonconvex.distributed.runtime import Value, broadcast_for, explained
from nonconvex.estimators.network.fit import fit_network
from nonconvex.estimators.network.params import (
    ClassificationModelParams,
    ClassifierParams,
    NetworkModelParams,
    NetworkParams,
    RegressorParams,
    check_network,
    check_thresholds,
)
from nonconvex.estimators.network.persistence import NetworkReader, NetworkWriter
from nonconvex.estimators.network.summary import NetworkSummary
from nonconvex.estimators.params import GridEstimator, ParamError, keywords, with_accessors
from nonconvex.estimators.persistence import KeepsCheckpoint
from nonconvex.numerics import Doubles
from nonconvex.numerics.network.model import Scorer, raw_predictions

if TYPE_CHECKING:
    from nonconvex.estimators.accessors import (
        ClassificationModelAccessors,
        ClassifierAccessors,
        RegressionModelAccessors,
        RegressorAccessors,
    )
else:  # `with_accessors` makes them
    ClassificationModelAccessors = ClassifierAccessors = object
    RegressionModelAccessors = RegressorAccessors = object

__all__ = [
    "MultilayerPerceptronClassificationModel",
    "MultilayerPerceptronClassifier",
    "MultilayerPerceptronRegressionModel",
    "MultilayerPerceptronRegressor",
]

_log = logging.getLogger("nonconvex")

# Params that name the columns of predictions, in the order of `OutputColumns`.
_OUTPUTS = ("predictionCol", "predictedLabelCol", "probabilityCol", "rawPredictionCol")


class _NetworkModel(Model, NetworkModelParams, KeepsCheckpoint, MLReadable[Any], MLWritable):
    """Base of the models of a regression and of a classification."""

    def __init__(self, scorer: Scorer | None = None, summary: NetworkSummary | None = None) -> None:
        super().__init__()
        if scorer is None or summary is None:
            raise TypeError(f"a {type(self).__name__} comes from fit or load")
        self._scorer, self._summary = scorer, summary
        self._shared: Value[Scorer] | None = None

    def _contents(self) -> tuple[Any, ...]:
        return self._scorer, self._summary

    def _facts(self) -> dict[str, Any]:
        return self.summary.facts()

    def _repr_html_(self) -> str:
        """Return the class and the table of the summary for a notebook."""
        return f"<p>{type(self).__name__}</p>{self.summary._repr_html_()}"

    @property
    def scorer(self) -> Scorer:
        """The network, its parameters, what standardizes features and targets, and the classes."""
        return self._scorer

    @property
    def layers(self) -> list[int]:
        """Sizes of the layers, from the features to the outputs."""
        return list(self._scorer.network.layers)

    def getLayers(self) -> list[int]:
        """Return `layers`, as MLlib's model does."""
        return self.layers

    @property
    def weights(self) -> DenseVector:
        """All parameters: W and b of the first layer, then of the next, in MLlib's order.

        They are for standardized features and targets, unless ``standardization`` and
        ``targetStandardization`` were False.
        """
        return DenseVector(self._scorer.theta.astype(np.float64))

    @property
    def numFeatures(self) -> int:
        """Number of features."""
        return self._scorer.network.layers[0]

    @property
    def hasSummary(self) -> bool:
        """True: a model has a summary, also after it was loaded."""
        return True

    @property
    def summary(self) -> NetworkSummary:
        """The data, the network, and the history of each restart."""
        return self._summary

    def write(self) -> MLWriter:
        """Return a writer of Parquet and JSON; see `MLWriter.overwrite`."""
        return NetworkWriter(self)

    @classmethod
    def read(cls) -> MLReader[Self]:
        """Return a reader of models that `write` wrote."""
        return NetworkReader(cls)

    def _logits(self, value: Any) -> Doubles:
        """Return z of shape (1, d_L) for the features of one row."""
        x = np.asarray(value.toArray() if isinstance(value, Vector) else value, np.float64)
        if x.shape != (self.numFeatures,) or not np.isfinite(x).all():
            raise ValueError(
                f"features must be a vector of {self.numFeatures} finite numbers, got {value!r}"
            )
        return self._scorer.logits(x[None])

    def _outputs(self) -> dict[str, str]:
        """Return the columns to add, by the Param that names each."""
        return {"predictionCol": self.getOrDefault("predictionCol")}

    def _thresholds(self) -> Sequence[float] | None:
        return None

    @explained()
    def _transform(self, dataset: DataFrame) -> DataFrame:
        check_frame("dataset", dataset)
        outputs = self._outputs()
        for role, name in outputs.items():
            check_new(dataset, name, role)
        named = [name for name in outputs.values() if name]
        if not named:
            raise ParamError(f"{', '.join(outputs)} are all '', so nothing is added; set one")
        if len(set(named)) < len(named):
            raise ParamError(f"{', '.join(outputs)} must differ, got {', '.join(named)}")
        return score(
            dataset,
            self.getOrDefault("featuresCol"),
            self._broadcast(dataset.sparkSession),
            OutputColumns(*(outputs.get(role, "") for role in _OUTPUTS)),
            handle_invalid=self.getOrDefault("handleInvalid"),
            thresholds=self._thresholds(),
        )

    @explained()
    def evaluate(self, dataset: DataFrame) -> dict[str, Any]:
        """Compare predictions with labels or targets, weighted if training was; not by classWeight.

        Parameters
        ----------
        dataset : DataFrame
            With the columns of training.

        Returns
        -------
        dict
            ``rows, weight, unpredicted``, and the errors, whose formulas are in
            `nonconvex.numerics.metrics`.  Of a regression they are ``rmse, mae, r2``, overall, and
            ``targets``, a list of the same with ``target``, the name of each.  Of a classification
            they are ``accuracy, logLoss``; ``classes``, a list with ``label, precision, recall,
            f1, weight`` of each; and ``confusionMatrix``, a list with a row for each label and a
            column for each prediction.

        Raises
        ------
        ColumnError, ExamplesError, EvaluationError
            If columns or rows cannot be used, or there are none.
        """
        check_frame("dataset", dataset)
        get = self.getOrDefault
        return evaluate_network(
            dataset,
            ExampleColumns(get("featuresCol"), get("labelCol"), get("weightCol")),
            self._broadcast(dataset.sparkSession),
            handle_invalid=get("handleInvalid"),
            thresholds=self._thresholds(),
        )

    def _broadcast(self, spark: SparkSession) -> Value[Scorer]:
        """Broadcast the network once for the model; dataframes that use it stay lazy."""
        if self._shared is None:
            self._shared = broadcast_for(self._scorer, spark, self._scorer)
        return self._shared


@with_accessors
class MultilayerPerceptronRegressionModel(_NetworkModel, RegressionModelAccessors):
    """A network that predicts one number or several.

    ``transform`` adds a column of doubles, or for several targets of arrays of doubles.
    """

    labelCol = RegressorParams.labelCol

    @property
    def numTargets(self) -> int:
        """Number of targets."""
        return self._scorer.network.layers[-1]

    def predict(self, value: Vector | Sequence[float]) -> float | list[float]:
        """Predict one row: a number, or for several targets a list.

        Parameters
        ----------
        value : vector or sequence of float
            Its features.
        """
        predicted: list[float] = self._logits(value)[0].tolist()
        return predicted if self.numTargets > 1 else predicted[0]


@with_accessors
class MultilayerPerceptronClassificationModel(
    _NetworkModel, ClassificationModelParams, ClassificationModelAccessors
):
    """A network that predicts classes.

    ``transform`` adds the predicted class, and vectors of probabilities and logits with an entry
    for each of `labels`.  The class is a double, as MLlib's evaluators want it: the label, or
    where labels were strings its index in `labels`; the string is in ``predictedLabelCol``.
    """

    @property
    def labels(self) -> list[Any]:
        """The labels, strings or doubles, in the order of the probabilities."""
        assert self._scorer.classes is not None
        return list(self._scorer.classes.values)

    @property
    def numClasses(self) -> int:
        """Number of classes."""
        return len(self.labels)

    def predict(self, value: Vector | Sequence[float]) -> Any:
        """Return the label of one row, a string where labels were strings, given its features."""
        [index] = self._scorer.network.predicted(self._logits(value), self._thresholds())
        return self.labels[index]

    def predictRaw(self, value: Vector | Sequence[float]) -> DenseVector:
        """Return the logit of each class, given the features of one row."""
        return DenseVector(raw_predictions(self._logits(value))[0])

    def predictProbability(self, value: Vector | Sequence[float]) -> DenseVector:
        """Return the probability of each class, given the features of one row."""
        return DenseVector(self._scorer.network.probabilities(self._logits(value))[0])

    def _outputs(self) -> dict[str, str]:
        assert self._scorer.classes is not None
        shown = self._scorer.classes.kind == "string" or self.isSet("predictedLabelCol")
        names = [name for name in _OUTPUTS if shown or name != "predictedLabelCol"]
        return {name: self.getOrDefault(name) for name in names}

    def _thresholds(self) -> Sequence[float] | None:
        return check_thresholds(self, self.numClasses)


ModelT = TypeVar(
    "ModelT", MultilayerPerceptronRegressionModel, MultilayerPerceptronClassificationModel
)


class _NetworkEstimator(GridEstimator[ModelT], NetworkParams, Generic[ModelT]):
    """Base of the estimators of a regression and of a classification."""

    _model_class: ClassVar[type[Any]]

    def setInitialModel(self, model: ModelT | None) -> Self:
        """Start fits from the parameters of an earlier model; None for random starts.

        Its layers, activations and biases are taken unless they are set, and must otherwise be
        equal; its standardizations are kept, so that training begins at its predictions.  It is
        not saved with the estimator.
        """
        if not (model is None or isinstance(model, self._model_class)):
            raise ParamError(
                f"the initial model must be a {self._model_class.__name__} or None, got {model!r}"
            )
        self._initial_model = model
        return self

    def _group(self, index: int) -> str:
        del index
        return repr(self._columns())

    def _fit_group(
        self, dataset: DataFrame, estimators: Sequence[_NetworkEstimator[ModelT]]
    ) -> list[ModelT]:
        """Fit estimators that read the same columns."""
        check_frame("dataset", dataset, batch=True)
        for estimator in estimators:
            has_validation = estimator.getOrDefault("validationIndicatorCol") is not None
            estimator._check(has_validation=has_validation)
        started = time.perf_counter()
        columns = estimators[0]._columns()
        classify = isinstance(self, ClassifierParams)
        examples = shard_examples(dataset, columns, classify=classify)
        models = []
        try:
            for estimator in estimators:
                models.append(estimator._train(examples, started))
                started = time.perf_counter()
        finally:
            examples.release()
        return models

    def _columns(self) -> ExampleColumns:
        """Return the columns of the examples."""

        def name(param: str) -> Any:
            given = self.getOrDefault(param)
            return tuple(given) if isinstance(given, list) else given

        names = ("featuresCol", "labelCol", "weightCol", "validationIndicatorCol")
        return ExampleColumns(*map(name, names))

    def _check(self, *, has_validation: bool) -> None:
        check_network(self, has_validation=has_validation, warm=self._initial_model is not None)

    def _train(self, examples: ExampleSet, started: float) -> ModelT:
        if self.getOrDefault("solver") == "l-bfgs":
            _log.info("solver='l-bfgs': the steps are those of minibatches; optimizer chooses them")
        initial = None if self._initial_model is None else self._initial_model.scorer
        scorer, summary, checkpoints = fit_network(self, examples, initial, started)
        model: ModelT = self._model_class(scorer, summary)
        model._checkpoint = ModelCheckpoint.of(checkpoints, 1)[0]
        model._resetUid(self.uid)
        return self._copyValues(model)


@with_accessors
class MultilayerPerceptronRegressor(
    _NetworkEstimator[MultilayerPerceptronRegressionModel], RegressorParams, RegressorAccessors
):
    """Network that predicts one number or several, by minibatch gradient descent.

    With h⁽⁰⁾ = x and h⁽ˡ⁾ = σ_l(W_l h⁽ˡ⁻¹⁾ + b_l), where σ_L is the identity, ŷ = h⁽ᴸ⁾, and

        f = Σ w ‖ŷ − y‖² / Σ w + (λ/2) Σ_l ‖W_l‖²

    is minimized over the training rows.  There is one hidden layer of 100 by default; with
    ``layers=[]`` it is linear regression, which is solved exactly.  Unless
    ``targetStandardization`` is False, y and ŷ in f are in standard deviations from the mean of
    each target, and so is f in `summary`; predictions are in the units of the data.

    Whatever the partitions and the number of cores, the same data, Params and seed give the same
    model to the bit; the two places that ``gradients`` names differ in rounding, so where
    ``"auto"`` might choose otherwise on another machine, name one.

    Parameters
    ----------
    layers, activation, maxIter, learningRate, …
        Params, by name; ``explainParams()`` describes every one, with its range and default.

    Examples
    --------
    >>> houses = spark.createDataFrame(
    ...     [(1, 40, 180.0), (2, 60, 240.0), (3, 60, 260.0), (3, 90, 350.0), (5, 120, 480.0)],
    ...     ["rooms", "area", "price"],
    ... )
    >>> regressor = MultilayerPerceptronRegressor(
    ...     featuresCol=["rooms", "area"], labelCol="price", layers=[16], learningRate=0.01
    ... )
    >>> model = regressor.fit(houses)
    >>> round(model.evaluate(houses)["r2"], 2)
    0.99
    """

    _model_class = MultilayerPerceptronRegressionModel

    @keywords
    def __init__(
        self,
        *,
        featuresCol: str | Sequence[str] = "features",
        labelCol: str | Sequence[str] = "label",
        predictionCol: str = "prediction",
        handleInvalid: str = "error",
        weightCol: str | None = None,
        validationIndicatorCol: str | None = None,
        layers: Sequence[int] | None = None,
        activation: str | Sequence[str] = "relu",
        stepGradient: str | None = None,
        fitBiases: bool = True,
        initialization: str | None = None,
        initialWeights: Sequence[float] | None = None,
        regParam: float | None = None,
        standardization: bool = True,
        targetStandardization: bool = True,
        maxIter: int | None = None,
        maxSteps: int | None = None,
        batchSize: int = 128,
        tol: float = 1e-6,
        patience: int | None = None,
        seed: int = 42,
        numRestarts: int = 1,
        firstRestart: int = 0,
        optimizer: str = "adam",
        learningRate: float = 5e-3,
        momentum: float | None = None,
        decay: float | None = None,
        epsilon: float | None = None,
        weightDecay: float | None = None,
        clipNorm: float | None = None,
        schedule: str = "cosine",
        decaySteps: int | None = None,
        decayRate: float | None = None,
        finalFraction: float | None = None,
        warmupSteps: int = 0,
        gradients: str = "auto",
        precision: str = "float32",
        checkpointPath: str | None = None,
        checkpointInterval: int = 10,
        solver: str = "auto",
    ) -> None:
        super().__init__()


@with_accessors
class MultilayerPerceptronClassifier(
    _NetworkEstimator[MultilayerPerceptronClassificationModel],
    ClassifierParams,
    ClassifierAccessors,
):
    """Network that predicts classes, by minibatch gradient descent.

    With h⁽⁰⁾ = x and h⁽ˡ⁾ = σ_l(W_l h⁽ˡ⁻¹⁾ + b_l), where σ_L is softmax, or sigmoid for one output
    and two classes, and with p = h⁽ᴸ⁾,

        f = −Σ w log p_y / Σ w + (λ/2) Σ_l ‖W_l‖²

    is minimized over the training rows.  There is one hidden layer of 100 by default; with
    ``layers=[]`` it is logistic regression.  Results depend on partitions and cores no more than
    those of `MultilayerPerceptronRegressor`.

    Params of MLlib's classifier keep their names.  Where one differs, this is why:

    * ``layers`` may leave out the first and last entry, which follow from the data.  Two classes
      may have one output.
    * Hidden layers are ``activation="relu"``; MLlib's are sigmoid.
    * Features are standardized; with ``standardization=False``, sigmoids and two outputs the
      network is MLlib's, and ``initialWeights`` and ``model.weights`` have its order.
    * ``maxIter`` counts epochs, each of many steps, and not steps over all rows.  ``tol`` is a
      relative change of f in an epoch.
    * ``solver`` is ``"gd"``, by minibatches, and ``optimizer`` says which kind; ``"l-bfgs"``, which
      needs a pass over all rows for every step, is accepted, and means the same.
    * ``stepSize`` is another name of ``learningRate``, by default 0.005 for Adam, falling to 0 as a
      cosine; ``blockSize`` has no meaning, and ``batchSize`` is that of a step.
    * ``seed`` is 42 in every process.
    * Labels may be strings: ``prediction`` is then the index in ``model.labels``, and
      ``predictedLabel`` the string.  Numbers need not be 0 … k − 1 where ``layers`` leaves their
      number out.
    * Training-only Params are not Params of the model; ``model.summary`` is a property.

    Parameters
    ----------
    layers, activation, maxIter, learningRate, …
        Params, by name; ``explainParams()`` describes every one, with its range and default.

    Examples
    --------
    >>> corners = spark.createDataFrame(
    ...     [(0, 0, "even"), (0, 1, "odd"), (1, 0, "odd"), (1, 1, "even")], ["x", "y", "label"]
    ... )
    >>> classifier = MultilayerPerceptronClassifier(
    ...     featuresCol=["x", "y"], layers=[8], learningRate=0.1, maxIter=50
    ... )
    >>> model = classifier.fit(corners)
    >>> model.evaluate(corners)["accuracy"]
    1.0
    """

    _model_class = MultilayerPerceptronClassificationModel

    @keywords
    def __init__(
        self,
        *,
        featuresCol: str | Sequence[str] = "features",
        labelCol: str = "label",
        predictionCol: str = "prediction",
        predictedLabelCol: str = "predictedLabel",
        probabilityCol: str = "probability",
        rawPredictionCol: str = "rawPrediction",
        thresholds: Sequence[float] | None = None,
        handleInvalid: str = "error",
        weightCol: str | None = None,
        validationIndicatorCol: str | None = None,
        layers: Sequence[int] | None = None,
        activation: str | Sequence[str] = "relu",
        stepGradient: str | None = None,
        fitBiases: bool = True,
        initialization: str | None = None,
        initialWeights: Sequence[float] | None = None,
        regParam: float | None = None,
        standardization: bool = True,
        classWeight: str | Sequence[float] | None = None,
        maxIter: int | None = None,
        maxSteps: int | None = None,
        batchSize: int = 128,
        tol: float = 1e-6,
        patience: int | None = None,
        seed: int = 42,
        numRestarts: int = 1,
        firstRestart: int = 0,
        optimizer: str = "adam",
        learningRate: float = 5e-3,
        momentum: float | None = None,
        decay: float | None = None,
        epsilon: float | None = None,
        weightDecay: float | None = None,
        clipNorm: float | None = None,
        schedule: str = "cosine",
        decaySteps: int | None = None,
        decayRate: float | None = None,
        finalFraction: float | None = None,
        warmupSteps: int = 0,
        gradients: str = "auto",
        precision: str = "float32",
        checkpointPath: str | None = None,
        checkpointInterval: int = 10,
        stepSize: float = 5e-3,
        blockSize: int = 128,
        solver: str = "gd",
    ) -> None:
        super().__init__()
