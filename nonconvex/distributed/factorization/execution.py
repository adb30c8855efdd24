"""Passes over packed blocks: Spark jobs, or threads of the driver.

Planning a job and starting its tasks takes longer than the arithmetic of a hundred thousand
ratings, and executors that are no more than the driver's own cores only add the way to them. Every
`BlockStore` runs the same function over the same bytes, so all give the same bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from pyspark import StorageLevel
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.connect import LocalValue, keep, refuse
from nonconvex.distributed.rows import by_number
from nonconvex.distributed.runtime import (
    Batches,
    Task,
    Value,
    begin_task,
    begun,
    broadcast,
    connected,
    driver_has_all_cores,
    driver_memory,
    from_bytes,
    map_in_threads,
    parallelism,
    to_bytes,
    worker_core,
)
from nonconvex.numerics.deterministic import Kernel, core_of, one_thread_per_product

if TYPE_CHECKING:
    from pyspark import RDD

Elements = Any
"""Batches of executors: an RDD of them, or over Spark Connect a dataframe of their bytes."""

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

    def of_session(self, spark: SparkSession) -> ExchangePolicy:
        """Return the policy of fits in a session; rows that executors keep are elements of RDDs."""
        if not connected(spark):
            return self
        if self.asked == "shuffle":
            raise refuse("exchange='shuffle' keeps rows in RDDs; set exchange='auto'")
        return self._replace(obstacle=self.obstacle or "a session of Spark Connect")

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


class BlockStore(Protocol):
    """Packed blocks of ratings, and the means of passing over them; its maker releases it."""

    session: SparkSession
    first_part: int | None  # number of the first block that is a part of a long row, if any
    batches: Elements

    def run(self, task: Task) -> pa.Table:
        """Apply a task to all blocks, and return all batches that it yields."""

    def share(self, value: T) -> Value[T]:
        """Make a value available to the tasks of later passes."""

    def core(self, kernel: Kernel) -> str:
        """Return the type of processor that runs the tasks, see `core_of`."""

    def release(self) -> None:
        """Free the blocks."""


class _ExecutorBlocks:
    """Base of blocks that are where the tasks run."""

    session: SparkSession

    def share(self, value: T) -> Value[T]:
        """Broadcast; over Spark Connect, send the value along with each pass."""
        return broadcast(self.session, value)

    def core(self, kernel: Kernel) -> str:
        """Ask the executors, and warn once if the driver has another, or they have several."""
        return worker_core(self.session, kernel)


class CachedBlocks(_ExecutorBlocks):
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

    def release(self) -> None:
        """Remove the blocks from the cache."""
        self.batches.unpersist()


class FrameBlocks(_ExecutorBlocks):
    """Blocks that a server of Spark Connect keeps, as a dataframe of their bytes."""

    def __init__(
        self, session: SparkSession, batches: DataFrame, first_part: int | None = None
    ) -> None:
        self.session, self.first_part, self.batches = session, first_part, batches
        self.release = keep(batches)

    def run(self, task: Task) -> pa.Table:
        """Map the dataframe, in one job."""
        found = map_elements(self.batches, task).toArrow()
        return pa.concat_tables(from_bytes(one.as_buffer()) for one in found["batch"])


def cache_blocks(
    session: SparkSession, batches: Elements, first_part: int | None = None
) -> BlockStore:
    """Cache batches where the session has executors."""
    return (FrameBlocks if connected(session) else CachedBlocks)(session, batches, first_part)


def batches_of(frame: DataFrame, schema: pa.Schema) -> Elements:
    """Return the rows of a dataframe as elements, each a batch with its binary columns in place."""
    if connected(frame):
        return frame.mapInArrow(begun(lambda rows: _encoded(_cut_rows(rows))), _ENCODED)

    def batch(row: Row) -> pa.RecordBatch:
        arrays = [
            _binary(value) if field.type == pa.binary() else pa.array([value], field.type)
            for value, field in zip(row, schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    return frame.rdd.map(batch)


def frame_of(
    session: SparkSession, batches: Elements, columns: Sequence[str], types: str
) -> DataFrame:
    """Return some columns of batches as a dataframe of those types."""
    if connected(session):
        names = [column.split()[0] for column in types.split(", ")]

        def chosen(content: Batches) -> Batches:
            for batch in _decoded(content):
                yield pa.RecordBatch.from_arrays([batch[name] for name in columns], names)

        found: DataFrame = batches.mapInArrow(begun(chosen), types)
        return found

    def rows(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
        return list(zip(*(batch[name].to_pylist() for name in columns), strict=True))

    return session.createDataFrame(batches.flatMap(rows), types)


def map_elements(batches: Elements, task: Task) -> Elements:
    """Apply a task to the batches of each partition."""
    if isinstance(batches, DataFrame):
        over = begun(lambda content: _encoded(task(_decoded(content))))
        return batches.mapInArrow(over, _ENCODED)
    return batches.mapPartitions(_on_elements(task))


def shuffle_pieces(pieces: Elements, join: Task, partitions: int, first: int = 0) -> Elements:
    """Send each batch to the partition of its ``block``, counted from `first`, and join them."""
    if isinstance(pieces, DataFrame):
        return map_elements(pieces.repartitionById(partitions, F.col("block") - first), join)

    def numbered(piece: pa.RecordBatch) -> tuple[int, pa.RecordBatch]:
        return piece["block"][0].as_py() - first, piece

    sent = pieces.map(numbered).partitionBy(partitions, by_number)
    return map_elements(sent.values(), join)


def number_of_tasks(batches: Elements) -> int:
    """Return the number of partitions, at least 1; over Spark Connect, an estimate."""
    if isinstance(batches, DataFrame):
        return _TASKS * parallelism(batches.sparkSession)
    return max(int(batches.getNumPartitions()), 1)


_ENCODED = "block int, batch binary"
_TASKS = 4  # per core


def _encoded(batches: Batches) -> Batches:
    """Put each batch into a row of `_ENCODED`, by its block if it has one."""
    for batch in batches:
        block = batch["block"].slice(0, 1) if "block" in batch.schema.names else pa.nulls(1)
        content = pa.array([to_bytes(pa.Table.from_batches([batch]))], pa.binary())
        yield pa.RecordBatch.from_arrays([block.cast(pa.int32()), content], ["block", "batch"])


def _decoded(rows: Batches) -> Batches:
    for batch in rows:
        for content in batch["batch"]:
            yield from from_bytes(content.as_buffer()).to_batches()


def _cut_rows(batches: Batches) -> Batches:
    for batch in batches:
        yield from (batch.slice(row, 1) for row in range(len(batch)))


def _on_elements(task: Task) -> Callable[[Iterable[pa.RecordBatch]], Batches]:
    def on_partition(batches: Iterable[pa.RecordBatch]) -> Batches:
        begin_task()
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
        self.batches: Elements = None  # none are on executors
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
