"""RDDs of numbered elements that are cut alike, so that what is of one block stays in one place."""

from __future__ import annotations

from typing import Any

from pyspark import RDD

__all__ = ["Element", "by_number", "united"]

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
