"""Turns of contenders in one session, none of which pays for what the one before left behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import TypeVar

from pyspark.sql import SparkSession

__all__ = ["settled"]

ContenderT = TypeVar("ContenderT")


def settled(spark: SparkSession, turns: Iterator[ContenderT]) -> Iterator[ContenderT]:
    """Yield each contender once the garbage and the caches of the last one are gone.

    Parameters
    ----------
    spark : SparkSession
    turns : iterator
        The contenders in their order.
    """
    for contender in turns:
        spark.catalog.clearCache()
        gc.collect()
        assert spark.sparkContext._jvm is not None
        spark.sparkContext._jvm.System.gc()
        yield contender
