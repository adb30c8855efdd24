"""A pass over packed blocks: one Spark job, or, where they are few, a loop on the driver.

Planning a job and waking its tasks takes longer than working through a hundred thousand ratings.
Both places run the same function over the same bytes, so they give the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row, SparkSession

from nonconvex.distributed.runtime import freeze_gc_once
from nonconvex.numerics.deterministic import one_thread_per_product

__all__ = [
    "DRIVER_NUMBERS",
    "DRIVER_RATINGS",
    "BlockStore",
    "CachedBlocks",
    "ExecutionMode",
    "LocalBlocks",
    "LocalValue",
    "Value",
    "fits_on_driver",
]

ExecutionMode = Literal["auto", "driver", "executors"]

DRIVER_RATINGS = 1 << 18
"""Most ratings that the driver works through by itself: some ten megabytes."""

DRIVER_NUMBERS = 1 << 22
"""Most ratings times unknowns of a row, over all problems, that it does so with."""

T = TypeVar("T")
_T_co = TypeVar("_T_co", covariant=True)
_Batches = Iterator[pa.RecordBatch]


def fits_on_driver(ratings: int, unknowns: int) -> bool:
    """Tell whether a pass is made sooner on the driver than a job is planned.

    Parameters
    ----------
    ratings : int
    unknowns : int
        1 + K, added up over all problems.

    Examples
    --------
    >>> fits_on_driver(100_000, 11), fits_on_driver(100_000, 8 * 11), fits_on_driver(1_000_000, 1)
    (True, False, False)
    """
    return ratings <= DRIVER_RATINGS and ratings * unknowns <= DRIVER_NUMBERS


class Value(Protocol[_T_co]):
    """What every task of a pass can read, until it is destroyed; a broadcast is one."""

    @property
    def value(self) -> _T_co:
        """The value."""

    def destroy(self) -> None:
        """Release it everywhere."""


class LocalValue(Generic[T]):
    """A value that is read where it already is."""

    def __init__(self, value: T) -> None:
        self.value = value

    def destroy(self) -> None:
        """Do nothing: whoever holds the value lets it go."""


class BlockStore(Protocol):
    """Blocks of ratings, ready to be passed over; released by whoever made them."""

    session: SparkSession
    whole: int | None

    def run(self, task: Callable[[_Batches], _Batches]) -> pa.Table:
        """Apply a task to all blocks, and put together what it yields."""

    def share(self, value: T) -> Value[T]:
        """Let the tasks of the passes that follow read a value."""

    def release(self) -> None:
        """Free the blocks."""


class CachedBlocks:
    """Blocks that executors have cached, from `nonconvex.distributed.factorization.packing.pack`.

    They are cached as elements of an RDD, pickled as Python has them: the first task of a job over
    these works after some 60 ms, and of one that is planned from a dataframe after 150 to 200.

    Attributes
    ----------
    rdd : RDD of Arrow batches
        An element for each block, with the columns of the dataframe.
    whole : int or None
        Number of the first block that is a part of a long row; None if there is none.
    """

    def __init__(self, blocks: DataFrame, whole: int | None = None) -> None:
        self.session, self.whole = blocks.sparkSession, whole
        self.rdd = blocks.rdd.map(_batch).persist(StorageLevel.MEMORY_AND_DISK)

    def run(self, task: Callable[[_Batches], _Batches]) -> pa.Table:
        """Run one job, with a task for each partition."""

        def on_partition(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            freeze_gc_once()
            return task(iter(batches))

        return pa.Table.from_batches(self.rdd.context.runJob(self.rdd, on_partition))

    def share(self, value: T) -> Value[T]:
        """Broadcast."""
        return self.session.sparkContext.broadcast(value)

    def release(self) -> None:
        """Take the blocks out of the cache."""
        self.rdd.unpersist()


def _batch(row: Row) -> pa.RecordBatch:
    """Return a batch of one row: its number, and its binary columns in place."""
    arrays = [
        pa.array([value], pa.int32()) if isinstance(value, int) else _binary(value) for value in row
    ]
    return pa.RecordBatch.from_arrays(arrays, row.__fields__)


def _binary(value: bytes | None) -> pa.Array:
    if value is None:
        return pa.nulls(1, pa.binary())
    ends = pa.py_buffer(np.array([0, len(value)], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(value)])


class LocalBlocks:
    """Blocks in the memory of the driver, from `packing.pack_here`."""

    def __init__(self, session: SparkSession, blocks: Sequence[pa.RecordBatch]) -> None:
        self.session = session
        self.whole: int | None = None
        self._blocks = blocks

    def run(self, task: Callable[[_Batches], _Batches]) -> pa.Table:
        """Give each block to the next thread that is free."""

        def over(block: pa.RecordBatch) -> list[pa.RecordBatch]:
            return list(task(iter([block])))

        # Products of several threads would differ from those of an executor, which has one.
        with one_thread_per_product(), ThreadPoolExecutor(_cores()) as threads:
            parts = threads.map(over, self._blocks)
            return pa.Table.from_batches([batch for part in parts for batch in part])

    def share(self, value: T) -> Value[T]:
        """Hold the value: it is here."""
        return LocalValue(value)

    def release(self) -> None:
        """Let the blocks go."""
        self._blocks = []


def _cores() -> int:
    has_affinity: Any = getattr(os, "sched_getaffinity", None)
    return len(has_affinity(0)) if has_affinity else os.cpu_count() or 1
