"""The model that `nonconvex.recommendation.MatrixFactorization` fits."""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.ml import Model
from pyspark.ml.util import (
    DefaultParamsReader,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.columns import id_column, id_type
from nonconvex.distributed.scoring import index_table, predictions, with_index
from nonconvex.distributed.storage import ModelError, factor_table, read_factors, write_factors
from nonconvex.distributed.training import Ids
from nonconvex.numerics.factorization import Factors
from nonconvex.params import FactorizationModelParams, with_accessors
from nonconvex.starts import warm_start
from nonconvex.summary import TrainingSummary

__all__ = ["MatrixFactorizationModel"]


@with_accessors
class MatrixFactorizationModel(
    Model, FactorizationModelParams, MLReadable["MatrixFactorizationModel"], MLWritable
):
    """A fitted latent factor model: α, and a row (β, γ) for every user and item.

    Attributes
    ----------
    rank : int
    globalBias : float
        α.
    userFactors, itemFactors : DataFrame
        ``id`` (of the type it had in training), ``bias``, ``features`` (an array).
    summary : TrainingSummary
    """

    def __init__(
        self,
        factors: Factors | None = None,
        ids: Ids | None = None,
        summary: TrainingSummary | None = None,
        *,
        implicit: bool = False,
    ) -> None:
        super().__init__()
        if factors is None or ids is None or summary is None:
            raise TypeError("a MatrixFactorizationModel comes from fit or load")
        self._factors, self._ids, self._summary = factors, ids, summary
        self._implicit = implicit
        self._shared: tuple[Broadcast[NDArray[np.floating]], ...] | None = None

    @property
    def rank(self) -> int:
        """Number K of factors."""
        return len(self._factors.users[0]) - 1

    @property
    def globalBias(self) -> float:
        """The global bias α."""
        return float(self._factors.alpha)

    @property
    def userFactors(self) -> DataFrame:
        """Rows ``id, bias, features`` of all users, in ascending order of their ids."""
        return factor_table(SparkSession.active(), self._ids.users, self._factors.users)

    @property
    def itemFactors(self) -> DataFrame:
        """Rows ``id, bias, features`` of all items, in ascending order of their ids."""
        return factor_table(SparkSession.active(), self._ids.items, self._factors.items)

    @property
    def summary(self) -> TrainingSummary:
        """What the model was trained on, and how it went."""
        return self._summary

    def start_for(
        self, ids: Ids, rank: int, dtype: type[np.floating]
    ) -> tuple[Factors, dict[str, dict[str, int]]]:
        """Return where a fit of other ids starts from this model, see `starts.warm_start`."""
        return warm_start(self._factors, self._ids, ids, rank, dtype)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        keys = {}
        indexed = dataset
        for role, ids in (("userCol", self._ids.users), ("itemCol", self._ids.items)):
            indices = index_table(dataset, ids)
            key = id_column(dataset, self.getOrDefault(role), role, id_type(indices, "id"))
            keys[role] = f"{self.uid}_{role}"
            indexed = with_index(indexed, key, indices, keys[role])
        user, item = (F.col(name) for name in keys.values())
        users, items = self._broadcast(dataset.sparkSession)
        score = predictions(self.globalBias, users, items, user, item, self._limits())
        known = user.isNotNull() & item.isNotNull()
        strategy = self.getOrDefault("coldStartStrategy")
        if strategy == "nan":
            score = F.when(known, score).otherwise(F.lit(float("nan")))
        elif strategy == "drop":
            indexed = indexed.where(known)
        return indexed.withColumn(self.getOrDefault("predictionCol"), score).drop(*keys.values())

    def _limits(self) -> tuple[float, float] | None:
        if not self.getOrDefault("clipPredictions"):
            return None
        return (0.0, 1.0) if self._implicit else (self._summary.minimum, self._summary.maximum)

    def _broadcast(self, spark: SparkSession) -> tuple[Broadcast[NDArray[np.floating]], ...]:
        """Users and items on the executors: once for a model, as dataframes stay lazy."""
        if self._shared is None:
            context = spark.sparkContext
            self._shared = tuple(context.broadcast(x) for x in self._factors[1:])
        return self._shared

    def write(self) -> MLWriter:
        """Return a writer of Parquet and JSON; see `MLWriter.overwrite`."""
        return _ModelWriter(self)

    @classmethod
    def read(cls) -> MLReader[MatrixFactorizationModel]:
        """Return a reader of what `write` wrote."""
        return _ModelReader()


class _ModelWriter(MLWriter):
    def __init__(self, model: MatrixFactorizationModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        model, spark = self._model, self.sparkSession
        write_factors(spark, f"{path}/userFactors", model._ids.users, model._factors.users)
        write_factors(spark, f"{path}/itemFactors", model._ids.items, model._factors.items)
        extra = {
            "globalBias": model.globalBias,
            "implicitPrefs": model._implicit,
            "summary": json.loads(model.summary.to_json()),
        }
        # Last, so that a directory with metadata is a whole model.
        DefaultParamsWriter.saveMetadata(model, path, spark, extra)


class _ModelReader(MLReader[MatrixFactorizationModel]):
    def load(self, path: str) -> MatrixFactorizationModel:
        spark = self.sparkSession
        try:
            metadata = DefaultParamsReader.loadMetadata(path, spark)
        except Exception as error:
            raise ModelError(f"{path} does not hold a model, or only part of one") from error
        name = f"{MatrixFactorizationModel.__module__}.{MatrixFactorizationModel.__name__}"
        if metadata["class"] != name:
            raise ModelError(f"{path} holds a {metadata['class']} and not a {name}")
        users, x = read_factors(spark, f"{path}/userFactors")
        items, z = read_factors(spark, f"{path}/itemFactors")
        model = MatrixFactorizationModel(
            Factors(metadata["globalBias"], x, z),
            Ids(users, items),
            TrainingSummary.from_json(json.dumps(metadata["summary"])),
            implicit=metadata["implicitPrefs"],
        )
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model
