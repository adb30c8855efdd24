"""Predictions of a factorization: from factors that are broadcast, or rows that are joined on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.columns import check_frame, check_new, id_column, id_type
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.factorization.predict import (
    index_table,
    predictions,
    row_predictions,
    with_index,
    with_row,
)
from nonconvex.distributed.model_tables import factor_table
from nonconvex.distributed.rows import DistantFactors, DistantRows, gathered
from nonconvex.estimators.factorization.predict import Uncertain
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.numerics.factorization.model import Factors

__all__ = ["Predictor"]


class Predictor(Uncertain):
    """What adds predictions to a dataframe, and holds the factors that they are made of."""

    _held: Factors | DistantFactors
    _ids: Ids
    _summary: TrainingSummary
    _implicit: bool
    _shared: tuple[Broadcast[NDArray[np.floating]], ...] | None = None

    @property
    def factors(self) -> Factors:
        """All parameters as arrays, the rows in ascending order of their ids.

        Where rows were exchanged by shuffle they are on the executors, where `save`, `transform`
        without intervals, `userFactors` and `itemFactors` leave them.  This brings them to the
        driver, as does all else that a model can do.
        """
        self._held = gathered(self._held)
        return self._held

    @property
    def rank(self) -> int:
        """Number K of factors."""
        return int(self._held.users.shape[1]) - 1

    @property
    def globalBias(self) -> float:
        """The global bias α."""
        return float(self._held.alpha)

    def _with_predictions(self, dataset: DataFrame) -> DataFrame:
        """Do what ``transform`` does."""
        check_frame("dataset", dataset)
        predicted = self.getOrDefault("predictionCol")
        check_new(dataset, predicted, "predictionCol")
        spark, distant = dataset.sparkSession, self._is_distant()
        keys = {}
        joined = dataset
        for role, ids, rows in zip(("userCol", "itemCol"), self._ids, self._rows(), strict=True):
            table = factor_table(spark, ids, rows) if distant else index_table(dataset, ids)
            key = id_column(dataset, self.getOrDefault(role), role, id_type(table, "id"))
            keys[role] = f"{self.uid}_{role}"
            joined = (with_row if distant else with_index)(joined, key, table, keys[role])
        user, item = (F.col(name) for name in keys.values())
        if distant:
            score = row_predictions(self.globalBias, self.rank, user, item, self._limits())
        else:
            users, items = self._broadcast(spark)
            score = predictions(self.globalBias, users, items, user, item, self._limits())
        known = user.isNotNull() & item.isNotNull()
        strategy = self.getOrDefault("coldStartStrategy")
        if strategy == "nan":
            score = F.when(known, score).otherwise(F.lit(float("nan")))
        elif strategy == "drop":
            joined = joined.where(known)
        scored = joined.withColumn(predicted, score)
        if not distant:
            scored = self._with_uncertainty(scored, user, item, known, (users, items))
        return scored.drop(*keys.values())

    def _rows(self) -> tuple[NDArray[np.floating] | DistantRows, ...]:
        return self._held.users, self._held.items

    def _is_distant(self) -> bool:
        """Whether predictions are made of rows that stay on the executors."""
        return isinstance(self._held, DistantFactors) and not self._tells_uncertainty()

    def _limits(self) -> tuple[float, float] | None:
        if not self.getOrDefault("clipPredictions"):
            return None
        return (0.0, 1.0) if self._implicit else (self._summary.minimum, self._summary.maximum)

    def _broadcast(self, spark: SparkSession) -> tuple[Broadcast[NDArray[np.floating]], ...]:
        """Users and items on the executors: once for a model, as dataframes stay lazy."""
        if self._shared is None:
            context = spark.sparkContext
            self._shared = tuple(context.broadcast(x) for x in self.factors[1:])
        return self._shared
