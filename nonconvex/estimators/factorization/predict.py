"""Standard deviations and intervals of predictions: what a model says of how sure it is.

Predictions of a factorization: from factors that are broadcast, or rows that are joined on.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.columns import check_frame, check_new, id_column, id_type
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.factorization.predict import (
    add_uncertainty,
    deviations,
    index_table,
    predictions,
    row_predictions,
    with_index,
    with_row,
)
from nonconvex.distributed.model_tables import factor_table
from nonconvex.distributed.rows import ShardedFactors, ShardedRows, gather_factors
from nonconvex.estimators.factorization.params import FactorizationModelParams
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.estimators.params import ParamError
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.factorization.posterior import Posterior, half_width
from nonconvex.numerics.factorization.ridge_posterior import (
    RidgePosterior,
    RidgeSpread,
    RowEvidence,
)

__all__ = ["Predictor", "Uncertain"]

_ROLES = ("predictionStdCol", "predictionIntervalCol")


class Uncertain(FactorizationModelParams):
    """What adds deviations and intervals to predictions.

    Where a model was sampled, the variance of a prediction is its variance over the kept samples;
    that of a rating has the noise of the user in addition.  An id that training has not seen may
    have any row of N(0, Λ⁻¹).  Where it was minimized, the variance is that of the ridge
    regressions of the user and of the item, see
    `nonconvex.numerics.factorization.ridge_posterior`.
    Intervals are those of a normal distribution about the prediction.
    """

    _posterior: Posterior | None
    _ridge: RidgePosterior | None
    _shared_samples: tuple[Broadcast[NDArray[np.floating]], ...] | None = None
    _shared_measured: Broadcast[RowEvidence] | None = None
    _spread: RidgeSpread | None = None

    @property
    @abstractmethod
    def factors(self) -> Factors:
        """All parameters as arrays."""

    @abstractmethod
    def _limits(self) -> tuple[float, float] | None:
        """What predictions are clipped to."""

    def _with_uncertainty(
        self,
        scored: DataFrame,
        user: Column,
        item: Column,
        known: Column,
        rows: tuple[Broadcast[NDArray[np.floating]], ...],
    ) -> DataFrame:
        """Add the columns of deviations and of intervals that are asked for."""
        if not self._tells_uncertainty():
            return scored
        get = self.getOrDefault
        names = [get(role) for role in _ROLES]
        for role, name in zip(_ROLES, names, strict=True):
            if name is not None:
                check_new(scored, name, role)
        deviation = self._deviation(scored.sparkSession, user, item, rows)
        if get("coldStartStrategy") == "nan":
            deviation = F.when(known, deviation).otherwise(F.lit(float("nan")))
        held = f"{self.uid}_deviation"
        return add_uncertainty(
            scored.withColumn(held, deviation),
            get("predictionCol"),
            held,
            names[0],
            names[1],
            half_width(get("predictionInterval")),
            self._limits(),
        )

    def _tells_uncertainty(self) -> bool:
        """Whether a column of deviations or of intervals is asked for."""
        return any(self.getOrDefault(role) is not None for role in _ROLES)

    def _deviation(
        self,
        spark: SparkSession,
        user: Column,
        item: Column,
        rows: tuple[Broadcast[NDArray[np.floating]], ...],
    ) -> Column:
        noisy, posterior, ridge = self.getOrDefault("predictionNoise"), self._posterior, self._ridge
        if posterior is not None:
            users, items, user_precision = self._broadcast_samples(spark, posterior)
            more = user_precision if noisy else None
            return deviations(posterior.spread(), (users, items), more, user, item)
        if ridge is None:
            raise ParamError(
                f"{' and '.join(_ROLES)} are not for this model, which was trained with "
                "implicitPrefs, nonnegative, ensemble or a ridge of 0, is one of several kept "
                "restarts, or was saved before models had intervals; unset them"
            )
        if self._shared_measured is None or self._spread is None:
            self._shared_measured = spark.sparkContext.broadcast(ridge.measured)
            self._spread = ridge.spread(self.factors)
        spread = self._spread._replace(of_ratings=noisy)
        return deviations(spread, rows, self._shared_measured, user, item)

    def _broadcast_samples(
        self, spark: SparkSession, posterior: Posterior
    ) -> tuple[Broadcast[NDArray[np.floating]], ...]:
        """Users, items and ω of the kept samples on the executors."""
        if self._shared_samples is None:
            arrays = (posterior.users, posterior.items, posterior.user_precision)
            self._shared_samples = tuple(spark.sparkContext.broadcast(x) for x in arrays)
        return self._shared_samples


class Predictor(Uncertain):
    """What adds predictions to a dataframe, and holds the factors that they are made of."""

    _held: Factors | ShardedFactors
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
        self._held = gather_factors(self._held)
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

    def _rows(self) -> tuple[NDArray[np.floating] | ShardedRows, ...]:
        return self._held.users, self._held.items

    def _is_distant(self) -> bool:
        """Whether predictions are made of rows that stay on the executors."""
        return isinstance(self._held, ShardedFactors) and not self._tells_uncertainty()

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
