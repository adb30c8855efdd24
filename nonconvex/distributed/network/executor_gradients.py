"""Gradients and losses computed on the executors, where the pieces are; θ is broadcast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, reduce

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast, StorageLevel

from nonconvex.distributed.network.pieces import Piece, Pieces, Reading
from nonconvex.numerics.network.backprop import Evaluation, Sums, evaluate, merge, sums
from nonconvex.numerics.network.minibatches import Slice, epoch_order, row_order
from nonconvex.numerics.network.model import Network

__all__ = ["ExecutorGradients", "Validation"]

Array = NDArray[np.floating]


class ExecutorGradients:
    """A `nonconvex.numerics.network.training.Gradients` whose steps are jobs on the pieces they need.

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
