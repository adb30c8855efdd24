"""Where the gradients of minibatches are computed: by measured sizes, unless it is said.

Gradients computed on the driver from examples that it fetches: all at once, or as it goes.

Gradients and losses computed on the executors, where the pieces are; θ is broadcast.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast, InheritableThread, StorageLevel

from nonconvex.distributed.network.shards import Piece, Pieces, Reading
from nonconvex.numerics.network.backprop import (
    LANES,
    Evaluation,
    Examples,
    LocalGradients,
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
from nonconvex.numerics.network.model import Network
from nonconvex.numerics.network.training import Gradients

__all__ = [
    "CHUNK_BYTES",
    "MEMORY_BYTES",
    "Choice",
    "ExecutorGradients",
    "Place",
    "Sizes",
    "StreamedGradients",
    "Validation",
    "choose",
    "decide",
    "fetch_examples",
    "open_gradients",
]

CHUNK_BYTES = 64 << 20
"""What is fetched at a time, at most, unless one piece is larger."""

Array = NDArray[np.floating]
_T = TypeVar("_T")


def fetch_examples(pieces: Pieces, reading: Reading, chunk_bytes: int = CHUNK_BYTES) -> Examples:
    """Bring all examples to the driver, one piece after another, as they are trained on.

    Parameters
    ----------
    pieces : Pieces
        Small enough: see `nonconvex.distributed.network.gradients`.
    reading : Reading
    chunk_bytes : int
        What is fetched at a time.
    """
    rows = sum(pieces.sizes)
    x = np.empty((rows, len(reading.standardization.mean)), reading.dtype)
    y: list[NDArray[Any]] = []
    weights: list[NDArray[np.float64]] = []
    broadcast = pieces.rdd.context.broadcast(reading)
    start = 0
    try:
        for chunk in pieces.bounded(reading.row_bytes(), chunk_bytes, range(len(pieces.sizes))):
            for part in pieces.run(_read(broadcast), chunk).values():
                x[start : start + len(part.x)] = part.x
                start += len(part.x)
                y.append(part.y)
                if part.weight is not None:
                    weights.append(part.weight)
    finally:
        broadcast.destroy()
    return Examples(x, np.concatenate(y), np.concatenate(weights) if weights else None)


class StreamedGradients:
    """A `nonconvex.numerics.network.training.Gradients` for more examples than the driver can hold.

    A thread fetches the pieces of an epoch in its order and stays one chunk ahead, so that about
    four chunks are in memory at a time.  The bits are those of
    `nonconvex.numerics.network.backprop.LocalGradients`.  A context manager: at its end the
    threads have ended and nothing is left on the executors.

    Parameters
    ----------
    network : Network
    pieces : Pieces
    reading : Reading
    batch_size : int
    seed : int
    threads : int
        How many lanes of a minibatch to compute at a time.
    chunk_bytes : int
        What is fetched at a time.
    """

    def __init__(
        self,
        network: Network,
        pieces: Pieces,
        reading: Reading,
        batch_size: int,
        seed: int,
        threads: int = 1,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._network, self._pieces, self._reading = network, pieces, reading
        self._batch_size, self._seed, self._chunk_bytes = batch_size, seed, chunk_bytes
        self._threads = threads
        self._ahead: _Ahead[dict[int, Examples]] | None = None

    def __enter__(self) -> StreamedGradients:
        """Start the threads."""
        self._broadcast = self._pieces.rdd.context.broadcast(self._reading)
        self._pool = ThreadPoolExecutor(self._threads)
        return self

    def __exit__(self, *exception: object) -> None:
        """End the threads, and release what the executors have."""
        if self._ahead is not None:
            self._ahead.close()
        self._pool.shutdown()
        self._broadcast.destroy()

    def epoch(self, number: int) -> Iterator[Callable[[Array], Sums]]:
        """Yield for each minibatch of an epoch what maps θ of shape (R, p) to its sums."""
        sizes = self._pieces.sizes
        order = [piece for piece in piece_order(len(sizes), self._seed, number) if sizes[piece]]
        chunks = self._pieces.bounded(self._reading.row_bytes(), self._chunk_bytes, order)
        task = _read(self._broadcast)
        held: dict[int, Examples] = {}
        last = -1
        with closing(_Ahead(partial(self._pieces.run, task), chunks)) as ahead:
            self._ahead = ahead
            for batch in epoch_rows(sizes, self._batch_size, self._seed, number):
                parts: list[tuple[Examples, NDArray[np.int64]]] = []
                for piece, rows in batch:
                    if piece != last:  # an epoch visits each piece once: the last one is done
                        held.pop(last, None)
                        last = piece
                    while piece not in held:
                        held |= next(ahead)
                    parts.append((held[piece], rows))
                yield partial(self._sums, *_joined(parts))

    def _sums(self, examples: Examples, rows: NDArray[np.int64] | None, theta: Array) -> Sums:
        return sums(self._network, theta, examples, rows, ordered_map=self._pool.map)


def _read(reading: Broadcast[Reading]) -> Callable[[int, Piece], Examples]:
    return lambda _, piece: reading.value(piece)


def _joined(
    parts: list[tuple[Examples, NDArray[np.int64]]],
) -> tuple[Examples, NDArray[np.int64] | None]:
    """Put the rows of a minibatch together, unless they are all of one piece."""
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
    """The results of `fetch` for each of `chunks` in order, made by a thread that stays ahead."""

    def __init__(self, fetch: Callable[[list[int]], _T], chunks: Iterable[list[int]]) -> None:
        self._fetch, self._chunks = fetch, chunks
        self._results: queue.Queue[_T | BaseException] = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        # Inherits the caller's job group and description, so that cancelling these cancels it.
        self._thread = InheritableThread(target=self._run, daemon=True)
        self._thread.start()

    def __next__(self) -> _T:
        """Wait for the next result; raise what kept it from being made."""
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """End the thread, which finishes the chunk that it is at."""
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
        except BaseException as error:  # whoever waits for the result is to see it
            self._results.put(error)


class ExecutorGradients:
    """`nonconvex.numerics.network.training.Gradients` whose steps are jobs on their pieces.

    Each task draws the order of the rows of its piece again, and returns the sums over those that
    are in the minibatch; the driver adds them in the order of the minibatch.  A context manager:
    at its end what it has cached and broadcast is released.

    Parameters
    ----------
    network : Network
    pieces : Pieces
        Cached for as long as it lasts, if they are not yet.
    reading : Reading
    batch_size : int
    seed : int
    """

    def __init__(
        self, network: Network, pieces: Pieces, reading: Reading, batch_size: int, seed: int
    ) -> None:
        self._network, self._pieces, self._reading = network, pieces, reading
        self._batch_size, self._seed = batch_size, seed

    def __enter__(self) -> ExecutorGradients:
        """Broadcast how to read a piece."""
        rdd = self._pieces.rdd
        self._broadcast = rdd.context.broadcast(self._reading)
        self._cached = None if rdd.is_cached else rdd.persist(StorageLevel.MEMORY_AND_DISK)
        return self

    def __exit__(self, *exception: object) -> None:
        """Release everything."""
        if self._cached is not None:
            self._cached.unpersist()
        self._broadcast.destroy()

    def epoch(self, number: int) -> Iterator[Callable[[Array], Sums]]:
        """Yield for each minibatch of an epoch what maps θ of shape (R, p) to its sums."""
        for batch in epoch_order(self._pieces.sizes, self._batch_size, self._seed, number):
            yield partial(self._sums, number, batch)

    def _sums(self, epoch: int, batch: list[Slice], theta: Array) -> Sums:
        broadcast = self._pieces.rdd.context.broadcast(theta)
        slices = {part.piece: part for part in batch}
        network, reading, seed = self._network, self._broadcast, self._seed

        def task(number: int, piece: Piece) -> Sums:
            _, start, stop = slices[number]
            rows = row_order(piece.rows, seed, epoch, number)[start:stop]
            return sums(network, broadcast.value, reading.value(piece, rows))

        try:
            return reduce(merge, self._pieces.run(task, slices).values())
        finally:
            broadcast.destroy()


class Validation:
    """Maps θ of shape (R, p) to its evaluation on pieces, as one job; a context manager.

    Parameters
    ----------
    network : Network
    pieces : Pieces
    reading : Reading
        The one of training: the features are standardized as those are.
    """

    def __init__(self, network: Network, pieces: Pieces, reading: Reading) -> None:
        self._network, self._pieces = network, pieces
        self._reading = reading

    def __enter__(self) -> Validation:
        """Broadcast how to read a piece."""
        self._broadcast: Broadcast[Reading] = self._pieces.rdd.context.broadcast(self._reading)
        return self

    def __exit__(self, *exception: object) -> None:
        """Release it."""
        self._broadcast.destroy()

    def __call__(self, theta: Array) -> Evaluation:
        """Evaluate every restart."""
        broadcast = self._pieces.rdd.context.broadcast(theta)
        network, reading = self._network, self._broadcast

        def task(_: int, piece: Piece) -> Evaluation:
            return evaluate(network, broadcast.value, reading.value(piece))

        try:
            return reduce(merge, self._pieces.run(task).values())
        finally:
            broadcast.destroy()


_log = logging.getLogger("nonconvex")

Place = Literal["driver", "executors"]

MEMORY_BYTES = 512 << 20
"""How many bytes of examples the driver keeps in memory, by default."""


# Measured on two cores with 784-128-10, in float32; only their proportions decide.
_JOB_SECONDS = 0.05  # of a job whose tasks do nothing, and a broadcast
_BYTES_PER_SECOND = 300e6  # through a socket, pickled
_FLOPS_PER_SECOND = 20e9  # of a core


@dataclass(frozen=True)
class Sizes:
    """What decides where gradients are computed.

    Parameters
    ----------
    rows, row_bytes : int
        Number of examples to train on, and bytes of the features of each.
    pieces : int
        Number of pieces that they are in.
    batch_size : int
    parameters : int
        R p, of all restarts.
    parameter_bytes : int
        Of one parameter.
    memory_bytes : int
        Of examples that the driver may keep.
    driver_cores, executor_cores : int
    """

    rows: int
    row_bytes: int
    pieces: int
    batch_size: int
    parameters: int
    parameter_bytes: int
    memory_bytes: int
    driver_cores: int
    executor_cores: int

    @property
    def bytes(self) -> int:
        """Of all features."""
        return self.rows * self.row_bytes

    @property
    def fits(self) -> bool:
        """Whether the driver may keep all examples."""
        return self.bytes <= self.memory_bytes

    def driver_seconds(self) -> float:
        """Estimate a step on the driver, which computes while it fetches what comes next."""
        fetching = 0.0 if self.fits else self._batch * self.row_bytes / _BYTES_PER_SECOND
        return max(self._arithmetic(min(self.driver_cores, LANES)), fetching)

    def executors_seconds(self) -> float:
        """Estimate a step on the executors: a job, whose tasks read a piece each."""
        tasks = min(self.pieces, 1 + self._batch * self.pieces // self.rows)
        parallel = min(tasks, self.executor_cores)
        moved = (1 + tasks) * self.parameters * self.parameter_bytes
        read = tasks / parallel * self.bytes / self.pieces
        return _JOB_SECONDS + (moved + read) / _BYTES_PER_SECOND + self._arithmetic(parallel)

    @property
    def _batch(self) -> int:
        return min(self.batch_size, self.rows)

    def _arithmetic(self, cores: int) -> float:
        # A multiplication and an addition forward, twice as many backward.
        return 6 * self._batch * self.parameters / (cores * _FLOPS_PER_SECOND)


@dataclass(frozen=True)
class Choice:
    """Where gradients are computed, and why.

    Parameters
    ----------
    place : "driver" or "executors"
    reason : str
        A sentence with the sizes that decided.
    """

    place: Place
    reason: str


def choose(sizes: Sizes) -> Choice:
    """Choose the place of the shorter step, by an estimate.

    Parameters
    ----------
    sizes : Sizes

    Returns
    -------
    Choice

    Examples
    --------
    >>> print(choose(Sizes(60_000, 3136, 45, 1024, 101_770, 4, 512 << 20, 2, 2)).reason)
    gradients on the driver: 188 MB of examples fit into the 537 MB that the driver may keep, and a
    step takes some 16 ms on the driver and 98 ms on the executors
    """
    here, there = sizes.driver_seconds(), sizes.executors_seconds()
    place: Place = "driver" if here <= there else "executors"
    return Choice(
        place,
        f"gradients on the {place}: {_round(sizes.bytes / 1e6)} MB of examples "
        f"{'fit' if sizes.fits else 'do not fit'} into the {_round(sizes.memory_bytes / 1e6)} MB "
        f"that the driver may keep, and a step takes some {_round(1e3 * here)} ms on the driver "
        f"and {_round(1e3 * there)} ms on the executors",
    )


def _round(value: float) -> str:
    """Return a number as it is read.

    Examples
    --------
    >>> _round(188.2), _round(0.319), _round(0.0)
    ('188', '0.32', '0')
    """
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def decide(
    network: Network,
    pieces: Pieces,
    reading: Reading,
    *,
    batch_size: int,
    restarts: int = 1,
    place: Place | Literal["auto"] = "auto",
    memory_bytes: int = MEMORY_BYTES,
) -> Choice:
    """Return where gradients are to be computed, and why; parameters as for `open_gradients`."""
    if place != "auto":
        return Choice(place, f"gradients on the {place}, as was asked for")
    choice = choose(_sizes(network, pieces, reading, batch_size, restarts, memory_bytes))
    _log.info("%s", choice.reason)
    return choice


def open_gradients(
    network: Network,
    pieces: Pieces,
    reading: Reading,
    *,
    batch_size: int,
    seed: int,
    restarts: int = 1,
    place: Place | Literal["auto"] = "auto",
    memory_bytes: int = MEMORY_BYTES,
) -> AbstractContextManager[Gradients]:
    """Return a place where gradients are computed, to be entered before they are.

    Whatever the place, minibatches have the same rows in the same order, and their sums differ by
    rounding only.  On the driver, they are the same to the bit whether all examples are kept there
    or only some at a time.

    Parameters
    ----------
    network : Network
    pieces : Pieces
        To train on.
    reading : Reading
    batch_size, seed : int
    restarts : int
        R.
    place : "auto", "driver" or "executors"
        "auto" is what `choose` says, and it says so in the log.
    memory_bytes : int
        Of the features of examples that the driver keeps; if there are more, it fetches them
        anew in every epoch, and keeps an eighth of this at a time, or 64 MB if that is less.
    """
    choice = decide(
        network,
        pieces,
        reading,
        batch_size=batch_size,
        restarts=restarts,
        place=place,
        memory_bytes=memory_bytes,
    )
    sizes = _sizes(network, pieces, reading, batch_size, restarts, memory_bytes)
    if choice.place == "executors":
        return ExecutorGradients(network, pieces, reading, batch_size, seed)
    threads = min(sizes.driver_cores, LANES)
    chunk_bytes = min(CHUNK_BYTES, memory_bytes // 8)
    if not sizes.fits:
        return StreamedGradients(network, pieces, reading, batch_size, seed, threads, chunk_bytes)
    examples = fetch_examples(pieces, reading, chunk_bytes)
    return LocalGradients(network, examples, pieces.sizes, batch_size, seed, threads)


def _sizes(
    network: Network,
    pieces: Pieces,
    reading: Reading,
    batch_size: int,
    restarts: int,
    memory_bytes: int,
) -> Sizes:
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Sizes(
        rows=sum(pieces.sizes),
        row_bytes=reading.row_bytes(),
        pieces=len(pieces.sizes),
        batch_size=batch_size,
        parameters=restarts * network.size,
        parameter_bytes=np.dtype(reading.dtype).itemsize,
        memory_bytes=memory_bytes,
        driver_cores=threads or 1,
        executor_cores=pieces.rdd.context.defaultParallelism,
    )
