"""A pass over packed blocks: one Spark job, or, where they are few, a loop on the driver.

Planning a job and waking its tasks takes longer than working through a hundred thousand ratings.
Both places run the same function over the same bytes, so they give the same bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Literal, Protocol, TypeVar

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.workers import settled
from nonconvex.numerics.threads import one_thread_per_product

__all__ = [
    "DRIVER_NUMBERS",
    "DRIVER_RATINGS",
    "Held",
    "OnDriver",
    "OnExecutors",
    "Packed",
    "Place",
    "Value",
    "few",
]

Place = Literal["auto", "driver", "executors"]

DRIVER_RATINGS = 1 << 18
"""Most ratings that the driver works through by itself: some ten megabytes."""

DRIVER_NUMBERS = 1 << 22
"""Most ratings times unknowns of a row, over all problems, that it does so with."""

T = TypeVar("T")
_T_co = TypeVar("_T_co", covariant=True)
_Batches = Iterator[pa.RecordBatch]


def few(ratings: int, unknowns: int) -> bool:
    """Tell whether a pass is made sooner on the driver than a job is planned.

    Parameters
    ----------
    ratings : int
    unknowns : int
        1 + K, added up over all problems.

    Examples
    --------
    >>> few(100_000, 11), few(100_000, 8 * 11), few(1_000_000, 1)
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


class Held(Generic[T]):
    """A value that is read where it already is."""

    def __init__(self, value: T) -> None:
        self.value = value

    def destroy(self) -> None:
        """Do nothing: whoever holds the value lets it go."""


class Packed(Protocol):
    """Blocks of ratings, ready to be passed over; released by whoever made them."""

    session: SparkSession

    def run(self, task: Callable[[_Batches], _Batches], schema: str) -> pa.Table:
        """Apply a task to all blocks; `schema` is that of what it yields."""

    def share(self, value: T) -> Value[T]:
        """Let the tasks of the passes that follow read a value."""

    def release(self) -> None:
        """Free the blocks."""


class OnExecutors:
    """Blocks that executors have cached, from `nonconvex.distributed.blocking.pack`."""

    def __init__(self, blocks: DataFrame) -> None:
        self.session = blocks.sparkSession
        self._blocks = blocks.persist()

    def run(self, task: Callable[[_Batches], _Batches], schema: str) -> pa.Table:
        """Run one job, with a task for each partition."""
        return self._blocks.mapInArrow(settled(task), schema).toArrow()

    def share(self, value: T) -> Value[T]:
        """Broadcast."""
        return self.session.sparkContext.broadcast(value)

    def release(self) -> None:
        """Take the blocks out of the cache."""
        self._blocks.unpersist()


class OnDriver:
    """Blocks in the memory of the driver, from `nonconvex.distributed.blocking.pack_here`."""

    def __init__(self, session: SparkSession, blocks: Sequence[pa.RecordBatch]) -> None:
        self.session = session
        self._blocks = blocks

    def run(self, task: Callable[[_Batches], _Batches], schema: str) -> pa.Table:
        """Give each block to the next thread that is free."""
        del schema  # a table knows its own

        def over(block: pa.RecordBatch) -> list[pa.RecordBatch]:
            return list(task(iter([block])))

        # Products of several threads would differ from those of an executor, which has one.
        with one_thread_per_product(), ThreadPoolExecutor(_cores()) as threads:
            parts = threads.map(over, self._blocks)
            return pa.Table.from_batches([batch for part in parts for batch in part])

    def share(self, value: T) -> Value[T]:
        """Hold the value: it is here."""
        return Held(value)

    def release(self) -> None:
        """Let the blocks go."""
        self._blocks = []


def _cores() -> int:
    has_affinity: Any = getattr(os, "sched_getaffinity", None)
    return len(has_affinity(0)) if has_affinity else os.cpu_count() or 1
