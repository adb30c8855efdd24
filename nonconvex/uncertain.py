"""Standard deviations and intervals of predictions: what a model says that has samples."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.columns import check_new
from nonconvex.distributed.uncertainty import add_uncertainty, deviations
from nonconvex.factorization_params import FactorizationModelParams
from nonconvex.numerics.posterior import Posterior, half_width
from nonconvex.params import ParamError

__all__ = ["Uncertain"]

_ROLES = ("predictionStdCol", "predictionIntervalCol")


class Uncertain(FactorizationModelParams):
    """What adds deviations and intervals to predictions.

    The variance of a prediction is its variance over the kept samples; that of a rating has the
    noise of the user in addition.  An id that training has not seen may have any row of N(0, Λ⁻¹).
    Intervals are those of a normal distribution about the prediction.
    """

    _posterior: Posterior | None
    _shared_samples: tuple[Broadcast[NDArray[np.floating]], ...] | None = None

    @abstractmethod
    def _limits(self) -> tuple[float, float] | None:
        """What predictions are clipped to."""

    def _with_uncertainty(
        self, scored: DataFrame, user: Column, item: Column, known: Column
    ) -> DataFrame:
        """Add the columns of deviations and of intervals that are asked for."""
        get, posterior = self.getOrDefault, self._posterior
        names = [get(role) for role in _ROLES]
        if names == [None, None]:
            return scored
        if posterior is None:
            raise ParamError(
                f"{' and '.join(_ROLES)} need samples, which a model has that was trained with "
                "solver='gibbs'; unset them"
            )
        for role, name in zip(_ROLES, names, strict=True):
            if name is not None:
                check_new(scored, name, role)
        *sides, steadiness = self._broadcast_samples(scored.sparkSession, posterior)
        noise = steadiness if get("predictionNoise") else None
        users, items = sides
        deviation = deviations(posterior.spread(), users, items, noise, user, item)
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

    def _broadcast_samples(
        self, spark: SparkSession, posterior: Posterior
    ) -> tuple[Broadcast[NDArray[np.floating]], ...]:
        """Users, items and ω of the kept samples on the executors."""
        if self._shared_samples is None:
            arrays = (posterior.users, posterior.items, posterior.steadiness)
            self._shared_samples = tuple(spark.sparkContext.broadcast(x) for x in arrays)
        return self._shared_samples
