"""Factors of a fit or a model: arrays on the driver, or sharded rows on the executors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD
from pyspark.sql import SparkSession

from nonconvex.distributed.rows import Element, Rows, ShardedRows, scatter
from nonconvex.distributed.runtime import freeze_gc_once
from nonconvex.numerics.factorization.model import Factors, InitialRows

__all__ = ["RandomRows", "ShardedFactors", "factors_of", "gather_factors"]

_log = logging.getLogger("nonconvex")


@dataclass(frozen=True)
class RandomRows:
    """Random rows that executors draw."""

    random: InitialRows

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and 1 + K."""
        return self.random.rows, 1 + self.random.rank

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the rows."""
        return np.dtype(self.random.dtype)

    def placed(self, spark: SparkSession, slices: Sequence[slice]) -> RDD[Element]:
        """Return an element of `Rows` for each slice, in the partition of its number."""
        random = self.random

        def draw(elements: Iterable[Element]) -> Iterator[Element]:
            freeze_gc_once()
            for number, (first, stop) in elements:
                yield number, Rows(random.between(first, stop), None, None)

        bounds = [(place.start, place.stop) for place in slices]
        return scatter(spark, bounds).mapPartitions(draw, True)

    def gather(self) -> NDArray[np.floating]:
        """Return all rows, drawn on the driver."""
        return self.random.between(0, self.random.rows)


class ShardedFactors:
    """All parameters of the model, with sharded rows.

    Parameters
    ----------
    alpha : float
    users, items : ShardedRows
    """

    def __init__(self, alpha: float, users: ShardedRows, items: ShardedRows) -> None:
        self.alpha, self.users, self.items = alpha, users, items
        self._gathered: Factors | None = None

    def gather(self) -> Factors:
        """Return all parameters as arrays on the driver; they stay on the executors, too."""
        if self._gathered is None:
            sides = (self.users, self.items)
            size = sum(rows.shape[0] * rows.shape[1] * rows.dtype.itemsize for rows in sides)
            counts = [rows.shape[0] for rows in sides]
            _log.info(
                "collecting the factors of %s users and %s items on the driver, %s bytes",
                *(f"{number:,}" for number in (*counts, size)),
            )
            self._gathered = Factors(self.alpha, *(rows.gather() for rows in sides))
        return self._gathered


def factors_of(alpha: float, users: Any, items: Any) -> Factors | ShardedFactors:
    """Return the parameters with these rows, arrays or sharded ones."""
    if isinstance(users, np.ndarray):
        return Factors(alpha, users, items)
    return ShardedFactors(alpha, users, items)


def gather_factors(factors: Factors | ShardedFactors) -> Factors:
    """Return factors as arrays on the driver."""
    return factors.gather() if isinstance(factors, ShardedFactors) else factors
