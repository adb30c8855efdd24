"""Contenders of the benchmark of networks: this project, MLlib and scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.ml import Model, PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.neural_network import MultilayerPerceptronClassifier

__all__ = ["MLlibTrainer", "OurTrainer", "SklearnTrainer", "has_sklearn"]


def has_sklearn() -> bool:
    """Tell whether scikit-learn is installed."""
    return find_spec("sklearn") is not None


@dataclass(frozen=True)
class OurTrainer:
    """`MultilayerPerceptronClassifier` of this project.

    Parameters
    ----------
    spark : SparkSession
    layers : sequence of int
        The hidden ones.
    batch_size : int
    rate : float
    gradients : {"driver", "executors", "auto"}
        Where they are computed.
    params : mapping
        Other Params.
    """

    spark: SparkSession
    layers: Sequence[int]
    batch_size: int
    rate: float
    gradients: str = "driver"
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"nonconvex ({self.gradients})"

    def fit(self, path: str, epochs: int) -> Any:
        """Train so many epochs; with tol=0, none is left out."""
        own = {"layers": list(self.layers), "batchSize": self.batch_size, "tol": 0.0}
        rate = {"learningRate": self.rate, "gradients": self.gradients}
        estimator = MultilayerPerceptronClassifier(
            **{**own, **rate, **self.params, "maxIter": epochs}
        )
        return estimator.fit(self.spark.read.parquet(path))

    def accuracy(self, model: Any, path: str) -> float:
        """Return the share of right classes."""
        return _accuracy(model, self.spark.read.parquet(path))


@dataclass(frozen=True)
class MLlibTrainer:
    """`MultilayerPerceptronClassifier` of MLlib, on features that its scaler standardized.

    What it calls an iteration, and the tables an epoch, is a step of L-BFGS over all rows.

    Parameters
    ----------
    spark : SparkSession
    layers : sequence of int
        From the features to the classes.
    params : mapping
        Other Params.
    """

    spark: SparkSession
    layers: Sequence[int]
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str = "MLlib"

    def fit(self, path: str, epochs: int) -> Any:
        """Train so many iterations."""
        from pyspark.ml.classification import MultilayerPerceptronClassifier as Peer
        from pyspark.ml.feature import StandardScaler

        rows = self._vectors(path)
        scaler = StandardScaler(inputCol="vector", outputCol="scaled", withMean=True).fit(rows)
        scaled = scaler.transform(rows).select("scaled", "label").persist()
        own = {"layers": list(self.layers), "featuresCol": "scaled", "tol": 0.0, "seed": 1}
        try:
            model = Peer(**{**own, **self.params, "maxIter": epochs}).fit(scaled)
        finally:
            scaled.unpersist()
        return PipelineModel([scaler, model])

    def accuracy(self, model: Any, path: str) -> float:
        """Return the share of right classes."""
        return _accuracy(model, self._vectors(path))

    def _vectors(self, path: str) -> DataFrame:
        from pyspark.ml.functions import array_to_vector

        rows = self.spark.read.parquet(path)
        return rows.select(array_to_vector(F.col("features")).alias("vector"), "label")


@dataclass(frozen=True)
class SklearnTrainer:
    """``MLPClassifier`` of scikit-learn, in this process, by Adam, on standardized features.

    Parameters
    ----------
    spark : SparkSession
        Reads what is not on this machine.
    layers : sequence of int
        The hidden ones.
    batch_size : int
    rate : float
    """

    spark: SparkSession
    layers: Sequence[int]
    batch_size: int
    rate: float
    name: str = "scikit-learn"

    def fit(self, path: str, epochs: int) -> Any:
        """Train so many epochs."""
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x, y = self._read(path)
        network = MLPClassifier(
            hidden_layer_sizes=tuple(self.layers),
            batch_size=min(self.batch_size, len(y)),
            solver="adam",
            learning_rate_init=self.rate,
            max_iter=epochs,
            early_stopping=False,
            tol=0.0,
            n_iter_no_change=epochs,  # or it would end early
            random_state=1,
        )
        with warnings.catch_warnings():
            # that it has made all its epochs, as it should
            warnings.simplefilter("ignore")
            return make_pipeline(StandardScaler(copy=False), network).fit(x, y)

    def accuracy(self, model: Any, path: str) -> float:
        """Return the share of right classes."""
        x, y = self._read(path)
        return float(model.score(x, y))

    def _read(self, path: str) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Read Parquet as one does without Spark, where it can be."""
        columns = ["features", "label"]
        try:
            table = pq.read_table(path, columns=columns, partitioning=None)
        except (OSError, ValueError):  # of a file system that pyarrow does not know, or by a name
            table = self.spark.read.parquet(path).select(columns).toArrow()
        features = table["features"].combine_chunks()
        x = features.flatten().to_numpy().reshape(len(features), -1)
        return x.astype(np.float32), table["label"].to_numpy()


def _accuracy(model: Model, rows: DataFrame) -> float:
    right = (F.col("prediction") == F.col("label")).cast("double")
    return float(model.transform(rows).agg(F.avg(right)).collect()[0][0])
