"""Descriptions of Spark jobs, for the reader of Spark's web page."""

from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

__all__ = ["described"]

_PROPERTY = "spark.job.description"


@contextmanager
def described(spark: SparkSession, text: str) -> Iterator[None]:
    """Describe the Spark jobs of a block; afterwards the description is what it was.

    Examples
    --------
    >>> with described(spark, "evaluation"):  # doctest: +SKIP
    ...     frame.count()
    """
    context = spark.sparkContext
    before = context.getLocalProperty(_PROPERTY) or ""
    context.setJobDescription(text)
    try:
        yield
    finally:
        context.setLocalProperty(_PROPERTY, before)
