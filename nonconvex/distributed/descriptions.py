"""Descriptions of Spark jobs, for the reader of Spark's web page."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark import SparkContext
from pyspark.sql import SparkSession

__all__ = ["describe", "described", "description"]

_PROPERTY = "spark.job.description"


@contextmanager
def described(spark: SparkSession, text: str) -> Iterator[None]:
    """Describe the Spark jobs of a block; afterwards the description is what it was.

    Examples
    --------
    >>> with described(spark, "evaluation"):
    ...     description(spark.sparkContext)
    'evaluation'
    """
    before = description(spark.sparkContext)
    describe(spark.sparkContext, text)
    try:
        yield
    finally:
        describe(spark.sparkContext, before)


def description(context: SparkContext) -> str | None:
    """Return how the Spark jobs of this thread are described now, None if they are not."""
    return context.getLocalProperty(_PROPERTY)


def describe(context: Any, text: str | None) -> None:
    """Describe the Spark jobs that follow.

    Parameters
    ----------
    context : SparkContext
    text : str or None
        None takes the description away, and Spark names jobs by the lines that started them;
        with an empty one they would have no name.
    """
    context.setLocalProperty(_PROPERTY, text)
