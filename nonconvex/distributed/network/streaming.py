"""Gradients computed on the driver from examples that it fetches: all at once, or as it goes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast, InheritableThread

from nonconvex.distributed.network.pieces import Piece, Pieces, Reading
from nonconvex.numerics.network.backprop import Examples, Sums, sums
from nonconvex.numerics.network.minibatches import epoch_rows, piece_order
from nonconvex.numerics.network.model import Network

__all__ = ["CHUNK_BYTES", "StreamedGradients", "fetch_examples"]

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
    `nonconvex.numerics.network.local_gradients.LocalGradients`.  A context manager: at its end the
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
