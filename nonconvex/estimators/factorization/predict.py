"""Standard deviations and intervals of predictions: what a model says of how sure it is."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.columns import check_new
from nonconvex.distributed.factorization.uncertainty import add_uncertainty, deviations
from nonconvex.estimators.factorization.params import FactorizationModelParams
from nonconvex.estimators.params import ParamError
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.factorization.posterior import Posterior, half_width
from nonconvex.numerics.factorization.ridge_posterior import Measured, RidgePosterior, RidgeSpread

__all__ = ["Uncertain"]

_ROLES = ("predictionStdCol", "predictionIntervalCol")


class Uncertain(FactorizationModelParams):
    """What adds deviations and intervals to predictions.

    Where a model was sampled, the variance of a prediction is its variance over the kept samples;
    that of a rating has the noise of the user in addition.  An id that training has not seen may
    have any row of N(0, Λ⁻¹).  Where it was minimized, the variance is that of the ridge
    regressions of the user and of the item, see `nonconvex.numerics.factorization.ridge_posterior`.  Intervals
    are those of a normal distribution about the prediction.
    """

    _posterior: Posterior | None
    _ridge: RidgePosterior | None
    _shared_samples: tuple[Broadcast[NDArray[np.floating]], ...] | None = None
    _shared_measured: Broadcast[Measured] | None = None
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
            users, items, steadiness = self._broadcast_samples(spark, posterior)
            more = steadiness if noisy else None
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
            arrays = (posterior.users, posterior.items, posterior.steadiness)
            self._shared_samples = tuple(spark.sparkContext.broadcast(x) for x in arrays)
        return self._shared_samples
