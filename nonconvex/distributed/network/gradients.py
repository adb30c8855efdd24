"""Sums over shards of examples, computed on the driver or on the executors.

All of networks that runs jobs on RDDs is in this module.  `Shards` runs tasks on shards.
`LocalGradients`, `StreamedGradients` and `ExecutorGradients` are the implementations of
`nonconvex.numerics.network.training.Gradients`; `choose_mode` estimates which one makes the
shorter step, and `open_gradients` opens it.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark import InheritableThread, StorageLevel
from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.connect import answer_batch, keep, read_answers
from nonconvex.distributed.network.shards import ExampleDecoder, Shard
from nonconvex.distributed.runtime import (
    Batches,
    Value,
    begin_task,
    broadcast,
    connected,
    driver_cores,
    parallelism,
    rows_of,
)
from nonconvex.numerics import Doubles, Floats, Longs
from nonconvex.numerics.network.backprop import (
    LANES,
    EvaluationSums,
    Examples,
    LocalGradients,
    S,
    Slice,
    Sums,
    epoch_order,
    epoch_rows,
    evaluate,
    merge,
    piece_order,
    row_order,
    sums,
)
from nonconvex.numerics.network.least_squares import NormalSums
from nonconvex.numerics.network.model import Network
from nonconvex.numerics.network.training import Gradients

if TYPE_CHECKING:
    from pyspark import RDD

GradientMode = Literal["driver", "executors"]

MEMORY_BYTES = 512 << 20
"""Most bytes of features that the driver keeps; of more, it fetches a part at a time."""

CHUNK_BYTES = 64 << 20
"""Most bytes fetched at a time, unless one shard is larger."""

_STORED = 1.5  # bytes per byte: above 127, a byte takes two as the JVM pickles it

# Measured on two cores with 784-128-10, in float32; only their proportions decide.
_JOB_SECONDS = 0.05  # of a job whose tasks do nothing, and a broadcast
_BYTES_PER_SECOND = 300e6  # through a socket, pickled
_FLOPS_PER_SECOND = 20e9  # of a core

_log = logging.getLogger("nonconvex")

_T = TypeVar("_T")
_OnRows = Callable[[Iterable[Any]], list[_T]]


class ShardRows(Protocol):
    """Rows of shards in the cache of executors, at most one in a partition; see `Shard`."""

    session: SparkSession

    def run(self, function: _OnRows[_T], partitions: Sequence[int]) -> list[_T]:
        """Apply a function to the rows of each of some partitions, and return all results."""

    def release(self) -> None:
        """Remove them from the cache."""


class CachedRdd:
    """Rows in an RDD, of which a job runs over the partitions that it needs."""

    def __init__(self, sharded: DataFrame, values: int) -> None:
        self.session = sharded.sparkSession
        self._rows: RDD[Any] = rows_of(sharded).persist(_storage_level(self.session, values))

    def run(self, function: _OnRows[_T], partitions: Sequence[int]) -> list[_T]:
        """Run one job."""
        results: list[_T] = self._rows.context.runJob(self._rows, function, partitions)
        return results

    def release(self) -> None:
        """Remove them from the cache."""
        self._rows.unpersist()


class FrameRows:
    """Rows that a server of Spark Connect keeps as a dataframe, by their first column."""

    def __init__(self, sharded: DataFrame) -> None:
        self.session, self._rows = sharded.sparkSession, sharded
        self.release = keep(sharded)

    def run(self, function: _OnRows[_T], partitions: Sequence[int]) -> list[_T]:
        """Map those rows of the dataframe in one job."""

        def task(batches: Batches) -> Batches:
            rows = (tuple(row.values()) for batch in batches for row in batch.to_pylist())
            yield from map(answer_batch, function(rows))

        return read_answers(self._rows.where(self._rows[0].isin(list(partitions))), task)


@dataclass(frozen=True)
class Shards:
    """The shards to train on, or those to validate on; shard q lies in partition `first` + q."""

    rows: ShardRows
    first: int
    count: int
    sizes: tuple[int, ...] = ()  # number of examples of each shard, once it is known

    def share(self, value: _T) -> Value[_T]:
        """Make a value available to tasks."""
        return broadcast(self.rows.session, value)

    def run(
        self, task: Callable[[int, Shard], _T], shards: Iterable[int] | None = None
    ) -> dict[int, _T]:
        """Run a task on some shards, all by default, as one job.

        Returns the results by shard, in the order of `shards`; an empty shard has none.  Raises
        RuntimeError if a shard is lost, because the data have changed.
        """
        wanted = list(range(self.count) if shards is None else shards)
        first = self.first

        def on_partition(rows: Iterable[Any]) -> list[tuple[int, _T]]:
            begin_task()
            found = (Shard(*row) for row in rows)
            return [(shard.number - first, task(shard.number - first, shard)) for shard in found]

        if not wanted:
            return {}
        partitions = [first + shard for shard in wanted]
        done = dict(self.rows.run(on_partition, partitions))
        lost = [shard for shard in wanted if shard not in done and self.sizes and self.sizes[shard]]
        if lost:
            raise RuntimeError(
                f"{len(lost)} shards of the examples are lost: the files or the dataframe changed "
                "during the fit; start again"
            )
        return {shard: done[shard] for shard in wanted if shard in done}

    def bounded(self, row_bytes: int, bound: int, order: Iterable[int]) -> Iterator[list[int]]:
        """Yield runs of shards in this order, each of at most `bound` bytes or one shard."""
        chunk: list[int] = []
        size = 0
        for shard in order:
            more = self.sizes[shard] * row_bytes
            if chunk and size + more > bound:
                yield chunk
                chunk, size = [], 0
            chunk.append(shard)
            size += more
        if chunk:
            yield chunk


def cache_shards(sharded: DataFrame, values: int) -> ShardRows:
    """Cache shards with this many numbers in all, in memory or on disk; the caller releases."""
    return FrameRows(sharded) if connected(sharded) else CachedRdd(sharded, values)


def _storage_level(spark: SparkSession, values: int) -> StorageLevel:
    """Return the level for this many numbers: memory if they take no more than half of it.

    Spark would spill shard by shard; but shards are large objects, which fragment the heap, and
    executors ran out of memory when it was a little over half full.
    """
    context: Any = spark.sparkContext
    status = context._jsc.sc().getExecutorMemoryStatus().values().iterator()
    room = 0
    while status.hasNext():  # the driver's too, which counts only where it is an executor
        room += status.next()._1()
    needed = int(_STORED * values * 4)
    if 2 * needed <= room:
        return StorageLevel.MEMORY_AND_DISK
    _log.info(
        "%d MB of examples are kept on the executors' disks: their storage memory is %d MB",
        needed >> 20,
        room >> 20,
    )
    return StorageLevel.DISK_ONLY


def fetch_examples(
    shards: Shards, decoder: ExampleDecoder, chunk_bytes: int = CHUNK_BYTES
) -> Examples:
    """Bring all examples to the driver, shard after shard, `chunk_bytes` at a time."""
    x = np.empty((sum(shards.sizes), len(decoder.standardization.mean)), decoder.dtype)
    y: list[NDArray[Any]] = []
    weights: list[Doubles] = []
    shared = shards.share(decoder)
    start = 0
    try:
        for chunk in shards.bounded(decoder.row_bytes(), chunk_bytes, range(shards.count)):
            for part in shards.run(_decode(shared), chunk).values():
                x[start : start + len(part.x)] = part.x
                start += len(part.x)
                y.append(part.y)
                if part.weight is not None:
                    weights.append(part.weight)
    finally:
        shared.destroy()
    return Examples(x, np.concatenate(y), np.concatenate(weights) if weights else None)


class _WithDecoder:
    """Base of what sends a decoder to the executors once; a context manager."""

    def __init__(self, network: Network, shards: Shards, decoder: ExampleDecoder) -> None:
        self._network, self._shards, self._decoder = network, shards, decoder

    def __enter__(self) -> Self:
        """Broadcast the decoder."""
        self._broadcast = self._shards.share(self._decoder)
        return self

    def __exit__(self, *exception: object) -> None:
        """Destroy the broadcast."""
        self._broadcast.destroy()

    def _total(
        self, theta: Floats, task: Callable[[Floats, int, Shard], S], shards: Iterable[int] | None
    ) -> S:
        """Add up what a task makes of θ and of some shards, all by default, in one job."""
        shared = self._shards.share(theta)
        try:
            parts = self._shards.run(lambda q, shard: task(shared.value, q, shard), shards)
            return reduce(merge, parts.values())
        finally:
            shared.destroy()


class StreamedGradients(_WithDecoder):
    """Gradients on the driver, of more examples than it may keep; a context manager.

    A thread fetches the shards of an epoch in order and stays one chunk ahead, so that about four
    chunks are in memory.  The bits are those of `LocalGradients`.
    """

    def __init__(
        self,
        network: Network,
        shards: Shards,
        decoder: ExampleDecoder,
        batch_size: int,
        seed: int,
        threads: int = 1,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        super().__init__(network, shards, decoder)
        self._batch_size, self._seed, self._chunk_bytes = batch_size, seed, chunk_bytes
        self._threads = threads
        self._ahead: _Ahead[dict[int, Examples]] | None = None

    def __enter__(self) -> Self:
        """Start the threads."""
        self._pool = ThreadPoolExecutor(self._threads)
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        """End the threads, and destroy the broadcast."""
        if self._ahead is not None:
            self._ahead.close()
        self._pool.shutdown()
        super().__exit__(*exception)

    def epoch(self, number: int) -> Iterator[Callable[[Floats], Sums]]:
        """Yield a function for each minibatch: θ of shape (R, p) to its sums."""
        sizes = self._shards.sizes
        order = [shard for shard in piece_order(len(sizes), self._seed, number) if sizes[shard]]
        chunks = self._shards.bounded(self._decoder.row_bytes(), self._chunk_bytes, order)
        task = _decode(self._broadcast)
        held: dict[int, Examples] = {}
        last = -1
        with closing(
            _Ahead(self._shards.rows.session, partial(self._shards.run, task), chunks)
        ) as ahead:
            self._ahead = ahead
            for batch in epoch_rows(sizes, self._batch_size, self._seed, number):
                parts: list[tuple[Examples, Longs]] = []
                for shard, rows in batch:
                    if shard != last:  # an epoch visits each shard once: the last one is done
                        held.pop(last, None)
                        last = shard
                    while shard not in held:
                        held |= next(ahead)
                    parts.append((held[shard], rows))
                yield partial(self._sums, *_joined(parts))

    def _sums(self, examples: Examples, rows: Longs | None, theta: Floats) -> Sums:
        return sums(self._network, theta, examples, rows, ordered_map=self._pool.map)


def _decode(decoder: Value[ExampleDecoder]) -> Callable[[int, Shard], Examples]:
    return lambda _, shard: decoder.value(shard)


def _joined(parts: list[tuple[Examples, Longs]]) -> tuple[Examples, Longs | None]:
    """Concatenate the rows of a minibatch, unless they are all of one shard."""
    if len(parts) == 1:
        return parts[0]
    taken = [
        [None if values is None else values.take(rows, axis=0) for values in examples]
        for examples, rows in parts
    ]
    x, y, weight = (
        None if column[0] is None else np.concatenate(column) for column in zip(*taken, strict=True)
    )
    assert x is not None
    assert y is not None
    return Examples(x, y, weight), None


class _Ahead(Generic[_T]):
    """An iterator over ``fetch(chunk)`` for each chunk, made by a thread that stays one ahead."""

    def __init__(
        self, spark: SparkSession, fetch: Callable[[list[int]], _T], chunks: Iterable[list[int]]
    ) -> None:
        self._fetch, self._chunks = fetch, chunks
        self._results: queue.Queue[_T | BaseException] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        # Inherits the caller's job group and description, so that cancelling these cancels it.
        self._thread = InheritableThread(target=self._run, daemon=True, session=spark)
        self._thread.start()

    def __next__(self) -> _T:
        """Wait for the next result; raise the error of the thread."""
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """End the thread, which finishes its current chunk."""
        self._stop.set()
        while self._thread.is_alive():
            if not self._results.empty():
                self._results.get()  # it may be waiting for room
            self._thread.join(0.01)

    def _run(self) -> None:
        try:
            for chunk in self._chunks:
                if self._stop.is_set():
                    return
                self._results.put(self._fetch(chunk))
        except BaseException as error:  # the consumer raises it
            self._results.put(error)


class ExecutorGradients(_WithDecoder):
    """Gradients on the executors, a job for each step; a context manager.

    Each task draws the row order of its shard again, and returns the sums over its rows of the
    minibatch; the driver adds them in the order of the minibatch.
    """

    def __init__(
        self, network: Network, shards: Shards, decoder: ExampleDecoder, batch_size: int, seed: int
    ) -> None:
        super().__init__(network, shards, decoder)
        self._batch_size, self._seed = batch_size, seed

    def epoch(self, number: int) -> Iterator[Callable[[Floats], Sums]]:
        """Yield a function for each minibatch: θ of shape (R, p) to its sums."""
        for batch in epoch_order(self._shards.sizes, self._batch_size, self._seed, number):
            yield partial(self._sums, number, batch)

    def _sums(self, epoch: int, batch: list[Slice], theta: Floats) -> Sums:
        slices = {part.piece: part for part in batch}
        network, decoder, seed = self._network, self._broadcast, self._seed

        def task(theta: Floats, number: int, shard: Shard) -> Sums:
            _, start, stop = slices[number]
            rows = row_order(shard.rows, seed, epoch, number)[start:stop]
            return sums(network, theta, decoder.value(shard, rows))

        return self._total(theta, task, slices)


class Validation(_WithDecoder):
    """Function of θ of shape (R, p) to its evaluation on shards, a job; a context manager."""

    def __call__(self, theta: Floats) -> EvaluationSums:
        """Evaluate every restart."""
        network, decoder = self._network, self._broadcast

        def task(theta: Floats, number: int, shard: Shard) -> EvaluationSums:
            return evaluate(network, theta, decoder.value(shard))

        return self._total(theta, task, None)


class NormalEquation(_WithDecoder):
    """The sums of a linear regression over all shards; a context manager."""

    def sums(self) -> NormalSums:
        """Sum in the order of the shards, so many at a time as the driver has room for."""
        network, decoder = self._network, self._broadcast

        def task(number: int, shard: Shard) -> NormalSums:
            return NormalSums.of(network, decoder.value(shard))

        ones = replace(self._shards, sizes=(1,) * self._shards.count)
        size = 8 * (network.layers[0] + 1) ** 2
        parts = (
            part
            for chunk in ones.bounded(size, CHUNK_BYTES, range(ones.count))
            for part in self._shards.run(task, chunk).values()
        )
        return reduce(NormalSums.merge, parts)


@dataclass(frozen=True)
class StepCost:
    """Sizes of the data, the network and the cluster, and the time of a step estimated from them.

    `parameters` is R p, of all restarts; bytes of a row are those of its features.
    """

    rows: int
    row_bytes: int
    shards: int
    batch_size: int
    parameters: int
    parameter_bytes: int
    driver_cores: int
    executor_cores: int

    @property
    def bytes(self) -> int:
        """Bytes of all features."""
        return self.rows * self.row_bytes

    @property
    def fits(self) -> bool:
        """True if the driver may keep all examples."""
        return self.bytes <= MEMORY_BYTES

    def driver_seconds(self) -> float:
        """Estimate a step on the driver, which computes while it fetches the next rows."""
        fetching = 0.0 if self.fits else self._batch * self.row_bytes / _BYTES_PER_SECOND
        return max(self._arithmetic(min(self.driver_cores, LANES)), fetching)

    def executors_seconds(self) -> float:
        """Estimate a step on the executors: a job, in which each task reads a shard."""
        tasks = min(self.shards, 1 + self._batch * self.shards // self.rows)
        parallel = min(tasks, self.executor_cores)
        moved = (1 + tasks) * self.parameters * self.parameter_bytes
        read = tasks / parallel * self.bytes / self.shards
        return _JOB_SECONDS + (moved + read) / _BYTES_PER_SECOND + self._arithmetic(parallel)

    @property
    def _batch(self) -> int:
        return min(self.batch_size, self.rows)

    def _arithmetic(self, cores: int) -> float:
        # A multiplication and an addition forward, twice as many backward.
        return 6 * self._batch * self.parameters / (cores * _FLOPS_PER_SECOND)


class GradientChoice(NamedTuple):
    """A mode, and a sentence that gives the reason for it."""

    mode: GradientMode
    reason: str


def cheaper_mode(cost: StepCost) -> GradientChoice:
    """Return the mode of the shorter step."""
    here, there = cost.driver_seconds(), cost.executors_seconds()
    mode: GradientMode = "driver" if here <= there else "executors"
    return GradientChoice(
        mode,
        f"gradients on the {mode}: {_round(cost.bytes / 1e6)} MB of examples "
        f"{'fit' if cost.fits else 'do not fit'} into the {_round(MEMORY_BYTES / 1e6)} MB "
        f"that the driver may keep, and a step takes some {_round(1e3 * here)} ms on the driver "
        f"and {_round(1e3 * there)} ms on the executors",
    )


def _round(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{max(value, 0.01):.2g}"


def choose_mode(
    network: Network,
    shards: Shards,
    decoder: ExampleDecoder,
    *,
    batch_size: int,
    restarts: int,
    asked: GradientMode | Literal["auto"],
) -> GradientChoice:
    """Return the mode that is asked for, or the cheaper one for "auto", which is logged."""
    if asked != "auto":
        return GradientChoice(asked, f"gradients on the {asked}, as requested")
    cost = StepCost(
        rows=sum(shards.sizes),
        row_bytes=decoder.row_bytes(),
        shards=shards.count,
        batch_size=batch_size,
        parameters=restarts * network.size,
        parameter_bytes=np.dtype(decoder.dtype).itemsize,
        driver_cores=driver_cores(),
        executor_cores=parallelism(shards.rows.session),
    )
    choice = cheaper_mode(cost)
    _log.info("%s", choice.reason)
    return choice


def open_gradients(
    network: Network,
    shards: Shards,
    decoder: ExampleDecoder,
    mode: GradientMode,
    *,
    batch_size: int,
    seed: int,
) -> AbstractContextManager[Gradients]:
    """Return a context manager of gradients over minibatches.

    In either mode minibatches have the same rows in the same order, and their sums differ by
    rounding only.  On the driver they are the same to the bit whether all examples fit into
    `MEMORY_BYTES` or are fetched anew in every epoch, an eighth of this at a time at most.
    """
    if mode == "executors":
        return ExecutorGradients(network, shards, decoder, batch_size, seed)
    threads = min(driver_cores(), LANES)
    chunk_bytes = min(CHUNK_BYTES, MEMORY_BYTES // 8)
    if sum(shards.sizes) * decoder.row_bytes() > MEMORY_BYTES:
        return StreamedGradients(network, shards, decoder, batch_size, seed, threads, chunk_bytes)
    examples = fetch_examples(shards, decoder, chunk_bytes)
    return LocalGradients(network, examples, shards.sizes, batch_size, seed, threads)
