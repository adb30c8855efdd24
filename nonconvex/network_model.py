"""The models that the estimators of `nonconvex.neural_network` fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.ml import Model
from pyspark.ml.linalg import DenseVector, Vector
from pyspark.ml.util import MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.columns import check_frame, check_new
from nonconvex.distributed.data.examples import ExampleColumns
from nonconvex.distributed.network.evaluate import evaluate_network
from nonconvex.distributed.network.predict import OutputColumns, Scorer, raw_predictions, score
from nonconvex.estimators.network.params import (
    ClassificationModelParams,
    NetworkModelParams,
    RegressorParams,
)
from nonconvex.estimators.network.persistence import NetworkReader, NetworkWriter
from nonconvex.estimators.network.summary import NetworkSummary
from nonconvex.estimators.params import ParamError, with_accessors

__all__ = ["MultilayerPerceptronClassificationModel", "MultilayerPerceptronRegressionModel"]


class _NetworkModel(Model, NetworkModelParams, MLWritable):
    """What the models of a regression and of a classification have in common."""

    def __init__(self, scorer: Scorer | None = None, summary: NetworkSummary | None = None) -> None:
        super().__init__()
        if scorer is None or summary is None:
            raise TypeError(f"a {type(self).__name__} comes from fit or load")
        self._scorer, self._summary = scorer, summary
        self._shared: Broadcast[Scorer] | None = None

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
        """What the model was trained on, and how it went."""
        return self._summary

    def write(self) -> MLWriter:
        """Return a writer of Parquet and JSON; see `MLWriter.overwrite`."""
        return NetworkWriter(self)

    def _logits(self, value: Any) -> NDArray[np.float64]:
        """Return z of shape (1, d_L) for the features of one row."""
        x = np.asarray(value.toArray() if isinstance(value, Vector) else value, np.float64)
        if x.shape != (self.numFeatures,) or not np.isfinite(x).all():
            raise ValueError(
                f"features must be a vector of {self.numFeatures} finite numbers, got {value!r}"
            )
        return self._scorer.logits(x[None])

    def _outputs(self) -> dict[str, str]:
        """Return the columns to add by the Param that names each."""
        return {"predictionCol": self.getOrDefault("predictionCol")}

    def _thresholds(self) -> Sequence[float] | None:
        return None

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
            OutputColumns(*outputs.values()),
            handle_invalid=self.getOrDefault("handleInvalid"),
            thresholds=self._thresholds(),
        )

    def _evaluate(self, dataset: DataFrame) -> dict[str, Any]:
        check_frame("dataset", dataset)
        get = self.getOrDefault
        return evaluate_network(
            dataset,
            ExampleColumns(get("featuresCol"), get("labelCol"), get("weightCol")),
            self._broadcast(dataset.sparkSession),
            handle_invalid=get("handleInvalid"),
            thresholds=self._thresholds(),
        )

    def _broadcast(self, spark: SparkSession) -> Broadcast[Scorer]:
        """All of it on the executors: once for a model, as dataframes stay lazy."""
        if self._shared is None:
            self._shared = spark.sparkContext.broadcast(self._scorer)
        return self._shared


@with_accessors
class MultilayerPerceptronRegressionModel(
    _NetworkModel, MLReadable["MultilayerPerceptronRegressionModel"]
):
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

    def evaluate(self, dataset: DataFrame) -> dict[str, Any]:
        """Compare predictions with targets, weighted if training was.

        Parameters
        ----------
        dataset : DataFrame
            With the columns of training.

        Returns
        -------
        dict
            ``rmse, mae, r2``, overall; ``targets``, a list of the same with ``target``, the name
            of each; ``rows, weight, unpredicted``.  See `nonconvex.numerics.metrics` for
            the formulas.

        Raises
        ------
        ColumnError, ExamplesError, EvaluationError
            If columns or rows cannot be used, or there are none.
        """
        return self._evaluate(dataset)

    @classmethod
    def read(cls) -> MLReader[MultilayerPerceptronRegressionModel]:
        """Return a reader of what `write` wrote."""
        return NetworkReader(cls)


@with_accessors
class MultilayerPerceptronClassificationModel(
    _NetworkModel, ClassificationModelParams, MLReadable["MultilayerPerceptronClassificationModel"]
):
    """A network that predicts classes.

    ``transform`` adds the predicted label, a string where labels were strings and else a double,
    and vectors of probabilities and logits with an entry for each of `labels`.
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
        """Return the label of one row, given its features."""
        [index] = self._scorer.network.predicted(self._logits(value), self._thresholds())
        return self.labels[index]

    def predictRaw(self, value: Vector | Sequence[float]) -> DenseVector:
        """Return the logit of each class, given the features of one row."""
        return DenseVector(raw_predictions(self._logits(value))[0])

    def predictProbability(self, value: Vector | Sequence[float]) -> DenseVector:
        """Return the probability of each class, given the features of one row."""
        return DenseVector(self._scorer.network.probabilities(self._logits(value))[0])

    def evaluate(self, dataset: DataFrame) -> dict[str, Any]:
        """Compare predictions with labels, weighted if training was; not by classWeight.

        Parameters
        ----------
        dataset : DataFrame
            With the columns of training.

        Returns
        -------
        dict
            ``accuracy, logLoss``; ``classes``, a list with ``label, precision, recall, f1,
            weight`` of each; ``confusionMatrix``, a list with a row for each label and a column
            for each prediction; ``rows, weight, unpredicted``.  See
            `nonconvex.numerics.metrics` for the formulas.

        Raises
        ------
        ColumnError, ExamplesError, EvaluationError
            If columns or rows cannot be used, or there are none.
        """
        return self._evaluate(dataset)

    def _outputs(self) -> dict[str, str]:
        names = ("predictionCol", "probabilityCol", "rawPredictionCol")
        return {name: self.getOrDefault(name) for name in names}

    def _thresholds(self) -> Sequence[float] | None:
        given: Sequence[float] | None = self.getOrDefault("thresholds")
        if given is not None and len(given) != self.numClasses:
            raise ParamError(
                f"thresholds has {len(given)} numbers, and there are {self.numClasses} classes; "
                "give one for each, in the order of labels"
            )
        return given

    @classmethod
    def read(cls) -> MLReader[MultilayerPerceptronClassificationModel]:
        """Return a reader of what `write` wrote."""
        return NetworkReader(cls)
