"""Passes over packed blocks: Spark jobs, or threads of the driver.

Planning a job and starting its tasks takes longer than the arithmetic of a hundred thousand
ratings, and executors that are no more than the driver's own cores only add the way to them. Every
`BlockStore` runs the same function over the same bytes, so all give the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from pyspark import RDD, StorageLevel
from pyspark.sql import DataFrame, Row, SparkSession

from nonconvex.distributed.rows import by_number
from nonconvex.distributed.runtime import (
    Batches,
    Task,
    broadcast,
    driver_has_all_cores,
    driver_memory,
    freeze_gc_once,
    map_in_threads,
    worker_core,
)
from nonconvex.numerics.deterministic import Kernel, core_of, one_thread_per_product

ExecutionMode = Literal["auto", "driver", "executors"]
Exchange = Literal["broadcast", "shuffle"]

_log = logging.getLogger("nonconvex")

DRIVER_RATINGS = 1 << 18
"""Most ratings of a pass on the driver beside executors with more cores: some ten megabytes."""

DRIVER_NUMBERS = 1 << 22
"""Most ratings times unknowns per row, over all problems, of such a pass."""

RATING_BYTES = 64
"""Memory that a rating takes on the driver while it is packed by both sides."""

T = TypeVar("T")
_T_co = TypeVar("_T_co", covariant=True)


def driver_capacity(spark: SparkSession, place: ExecutionMode) -> int:
    """Return the most ratings that the driver updates because they fit its memory.

    0 if executors have more cores than the driver, unless the driver is asked for.
    """
    if place == "executors" or (place == "auto" and not driver_has_all_cores(spark)):
        return 0
    return driver_memory() // 2 // RATING_BYTES


def use_driver(spark: SparkSession, place: ExecutionMode, ratings: int, unknowns: int) -> bool:
    """Tell whether the driver updates the rows, and log the reason; `unknowns`: 1 + K, summed."""
    if place != "auto":
        return place == "driver"
    if ratings <= DRIVER_RATINGS and ratings * unknowns <= DRIVER_NUMBERS:
        reason = f"{ratings:,} ratings × {unknowns} unknowns take less time than planning a job"
    elif ratings <= (most := driver_capacity(spark, place)):
        reason = f"it has all cores, and {ratings:,} ratings fit its memory"
    else:
        why = f"the memory of the driver is for {most:,}" if most else "they have more cores"
        _log.info("updates on the executors: of %s ratings, as %s", f"{ratings:,}", why)
        return False
    _log.info("updates on the driver: %s", reason)
    return True


class ExchangePolicy(NamedTuple):
    """The choice between broadcasting the rows of a side and exchanging them by shuffle."""

    asked: str = "broadcast"
    row_bytes: int = 0  # bytes of a row, over all problems
    max_bytes: int = 0  # with "auto", the most bytes of a side that are broadcast
    obstacle: str = ""  # the property of the fit that rules out a shuffle, if any
    # whether the ratings of a long row may be divided among tasks, if rows are broadcast
    divisible: bool = False

    def choose(self, rows: int) -> Exchange:
        """Choose by the number of rows of the larger side, and log the reason."""
        if self.asked != "auto":
            return "broadcast" if self.asked == "broadcast" else "shuffle"
        size = rows * self.row_bytes
        sizes = (
            f"{rows:,} rows of a side take {size:,} bytes, and maxBroadcastBytes is "
            f"{self.max_bytes:,}"
        )
        if size <= self.max_bytes:
            _log.info("rows are broadcast: %s", sizes)
            return "broadcast"
        if self.obstacle:
            _log.warning(
                "rows are broadcast, though %s: no shuffle is for %s", sizes, self.obstacle
            )
            return "broadcast"
        _log.info("rows are exchanged by shuffle: %s", sizes)
        return "shuffle"


class Value(Protocol[_T_co]):
    """A value that every task of a pass can read until it is destroyed, such as a broadcast."""

    @property
    def value(self) -> _T_co:
        """The shared value."""

    def destroy(self) -> None:
        """Release it everywhere."""


class LocalValue(Generic[T]):
    """A value that is read in place."""

    def __init__(self, value: T) -> None:
        self.value = value

    def destroy(self) -> None:
        """Do nothing: garbage collection frees the value."""


class BlockStore(Protocol):
    """Packed blocks of ratings, and the means of passing over them; its maker releases it.

    Attributes
    ----------
    session : SparkSession
    first_part : int or None
        Number of the first block that is a part of a long row; None if there is none.
    """

    session: SparkSession
    first_part: int | None

    def run(self, task: Task) -> pa.Table:
        """Apply a task to all blocks, and return all batches that it yields."""

    def share(self, value: T) -> Value[T]:
        """Make a value available to the tasks of later passes."""

    def core(self, kernel: Kernel) -> str:
        """Return the type of processor that runs the tasks, see `core_of`."""

    def release(self) -> None:
        """Free the blocks."""


class CachedBlocks:
    """Blocks that executors have cached, from `packing.pack_blocks`, or chunks of ratings.

    They are cached as elements of an RDD, pickled as Python has them: the first task of a job over
    these works after some 60 ms, and of one that is planned from a dataframe after 150 to 200.
    An element of `batches` is the Arrow batch of a block; `first_part` is the number of the first
    block that is a part of a long row, or None.
    """

    def __init__(
        self, session: SparkSession, batches: RDD[pa.RecordBatch], first_part: int | None = None
    ) -> None:
        self.session, self.first_part = session, first_part
        self.batches = batches.persist(StorageLevel.MEMORY_AND_DISK)

    def run(self, task: Task) -> pa.Table:
        """Run one job, with a task for each partition."""
        run_job = self.batches.context.runJob
        return pa.Table.from_batches(run_job(self.batches, _on_elements(task)))

    def share(self, value: T) -> Value[T]:
        """Broadcast."""
        return broadcast(self.session, value)

    def core(self, kernel: Kernel) -> str:
        """Ask the executors, and warn once if the driver has another, or they have several."""
        return worker_core(self.session, kernel)

    def release(self) -> None:
        """Remove the blocks from the cache."""
        self.batches.unpersist()


def batches_of(frame: DataFrame, schema: pa.Schema) -> RDD[pa.RecordBatch]:
    """Return the rows of a dataframe as elements, each a batch with its binary columns in place."""

    def batch(row: Row) -> pa.RecordBatch:
        arrays = [
            _binary(value) if field.type == pa.binary() else pa.array([value], field.type)
            for value, field in zip(row, schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    return frame.rdd.map(batch)


def frame_of(
    session: SparkSession, batches: RDD[pa.RecordBatch], columns: Sequence[str], types: str
) -> DataFrame:
    """Return some columns of batches as a dataframe of those types."""

    def rows(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
        return list(zip(*(batch[name].to_pylist() for name in columns), strict=True))

    return session.createDataFrame(batches.flatMap(rows), types)


def map_elements(batches: RDD[pa.RecordBatch], task: Task) -> RDD[pa.RecordBatch]:
    """Apply a task to the batches of each partition."""
    return batches.mapPartitions(_on_elements(task))


def shuffle_pieces(
    pieces: RDD[pa.RecordBatch], join: Task, partitions: int, first: int = 0
) -> RDD[pa.RecordBatch]:
    """Send each batch to the partition of its ``block``, counted from `first`, and join them."""

    def numbered(piece: pa.RecordBatch) -> tuple[int, pa.RecordBatch]:
        return piece["block"][0].as_py() - first, piece

    sent = pieces.map(numbered).partitionBy(partitions, by_number)
    return map_elements(sent.values(), join)


def _on_elements(task: Task) -> Callable[[Iterable[pa.RecordBatch]], Batches]:
    def on_partition(batches: Iterable[pa.RecordBatch]) -> Batches:
        freeze_gc_once()
        return task(iter(batches))

    return on_partition


def _binary(value: bytes | None) -> pa.Array:
    if value is None:
        return pa.nulls(1, pa.binary())
    ends = pa.py_buffer(np.array([0, len(value)], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(value)])


class LocalBlocks:
    """Blocks in the memory of the driver, from `packing.pack_locally`."""

    def __init__(self, session: SparkSession, blocks: Sequence[pa.RecordBatch]) -> None:
        self.session = session
        self.first_part: int | None = None
        self._blocks = blocks

    def run(self, task: Task) -> pa.Table:
        """Give each block to the next free thread."""

        def over(block: pa.RecordBatch) -> list[pa.RecordBatch]:
            return list(task(iter([block])))

        # Executors have one thread per product: with several the bits would differ.
        with one_thread_per_product():
            parts = map_in_threads(over, self._blocks)
        return pa.Table.from_batches([batch for part in parts for batch in part])

    def share(self, value: T) -> Value[T]:
        """Return the value in place."""
        return LocalValue(value)

    def core(self, kernel: Kernel) -> str:
        """Return that of the driver."""
        return core_of(kernel)

    def release(self) -> None:
        """Drop the blocks."""
        self._blocks = []
