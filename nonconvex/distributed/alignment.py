"""RDDs of numbered elements that are cut alike, so that what is of one block stays in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pyspark import RDD, SparkContext

__all__ = ["Element", "by_number", "scattered", "together", "united"]

Element = tuple[int, Any]
"""The number of a block, and something of it."""


def by_number(number: int) -> int:
    """Return the partition of a block: RDDs that are cut by this function stay side by side."""
    return number


def united(*rdds: RDD[Element]) -> RDD[Element]:
    """Put the elements of each partition of several RDDs into one partition, where they are.

    Parameters
    ----------
    *rdds : RDD
        All cut by `by_number` into as many partitions.
    """
    context: Any = rdds[0].context
    # All hold pickled lists, of whatever lengths, so that nothing need be written anew.
    serializer = context.serializer
    joined: RDD[Element] = context.union([RDD(rdd._jrdd, context, serializer) for rdd in rdds])
    return joined


def scattered(context: SparkContext, values: Sequence[Any]) -> RDD[Element]:
    """Send each value to the partition of its number.

    Examples
    --------
    >>> scattered(spark.sparkContext, ["a", "b"]).glom().collect()
    [[(0, 'a')], [(1, 'b')]]
    """
    numbered: list[Element] = list(enumerate(values))
    return context.parallelize(numbered, len(numbered)).partitionBy(len(numbered), by_number)


def together(elements: Iterable[Element], *kinds: type) -> dict[int, list[list[Any]]]:
    """Put together what is of one block, by kind.

    Examples
    --------
    >>> together([(0, "a"), (3, 2.5), (0, 1.5), (0, "b")], str, float)
    {0: [['a', 'b'], [1.5]], 3: [[], [2.5]]}
    """
    found: dict[int, list[list[Any]]] = {}
    for number, value in elements:
        found.setdefault(number, [[] for _ in kinds])[kinds.index(type(value))].append(value)
    return found
