"""Packed pieces of examples, and jobs on a few of them.

A piece is a set of rows that the data alone determine (`nonconvex.distributed.network.shards`): one
element in a partition of its own, so that a job touches the pieces it needs and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD

from nonconvex.distributed.workers import settle
from nonconvex.numerics.network.backprop import Examples
from nonconvex.numerics.network.standardize import Standardization

__all__ = ["Piece", "Pieces", "Reading"]

_T = TypeVar("_T")


class Piece(NamedTuple):
    """Some examples, as an element of an RDD.

    Attributes
    ----------
    number : int
    rows : int
        How many they are.
    kind : str
        The type of the features in `features`: the narrowest that holds them all exactly.
    features : bytes
        A matrix of shape (rows, d).
    targets : bytes
        A float64 matrix of shape (rows, k), or for classes the int32 indices of shape (rows,).
    weights : bytes or None
        Of float64; None if all are 1.
    """

    number: int
    rows: int
    kind: str
    features: bytes
    targets: bytes
    weights: bytes | None

    def arrays(
        self, classify: bool
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64] | None]:
        """Return features, targets and weights, in place."""
        x = np.frombuffer(self.features, self.kind).reshape(self.rows, -1)
        weight = None if self.weights is None else np.frombuffer(self.weights)
        if classify:
            return x, np.frombuffer(self.targets, np.int32), weight
        return x, np.frombuffer(self.targets).reshape(self.rows, -1), weight


class Reading(NamedTuple):
    """How a piece becomes examples to train on; the same wherever it is read.

    Attributes
    ----------
    standardization : Standardization
    dtype : str
        "float32" or "float64", of the features and of the numbers to predict.
    classify : bool
    class_weights : float64 array of shape (k,), optional
        What the weights of the examples of each class are multiplied by.
    targets : Standardization, optional
        What the numbers to predict are standardized with.
    """

    standardization: Standardization
    dtype: str
    classify: bool
    class_weights: NDArray[np.float64] | None = None
    targets: Standardization | None = None

    def __call__(self, piece: Piece, rows: NDArray[np.int64] | None = None) -> Examples:
        """Read a piece, or some of its rows in this order."""
        x, y, weight = piece.arrays(self.classify)
        if rows is not None:
            x, y = x.take(rows, axis=0), y.take(rows, axis=0)
            weight = None if weight is None else weight.take(rows)
        if self.class_weights is not None:
            weight = self.class_weights[y] * (1.0 if weight is None else weight)
        if self.targets is not None:
            y = self.targets.apply(y, np.float64)
        return Examples(self.standardization.apply(x, np.dtype(self.dtype)), y, weight)

    def row_bytes(self) -> int:
        """Return how many bytes the features of an example have once they are read."""
        return len(self.standardization.mean) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Pieces:
    """The pieces to train on, or those to validate on.

    Parameters
    ----------
    rdd : RDD of Piece-like rows
        At most one in a partition.
    first : int
        The number of the first piece; from here on pieces count from 0.
    partitions : tuple of int
        Where each piece lies; None is nowhere, it has no rows.
    sizes : tuple of int
        How many rows each piece has; empty if that is not known yet.
    """

    rdd: RDD[Any]
    first: int
    partitions: tuple[int | None, ...]
    sizes: tuple[int, ...] = ()

    def run(
        self, task: Callable[[int, Piece], _T], pieces: Iterable[int] | None = None
    ) -> dict[int, _T]:
        """Do a task on some pieces where they lie, as one job.

        Parameters
        ----------
        task : callable
            Of the number of a piece and the piece.
        pieces : iterable of int, optional
            Which ones; all by default.

        Returns
        -------
        dict
            The results by the number of the piece, in the order of `pieces`; a piece without rows
            has none.

        Raises
        ------
        RuntimeError
            If a piece is not where it was.
        """
        wanted = list(range(len(self.partitions)) if pieces is None else pieces)
        places = {piece: self.partitions[piece] for piece in wanted}
        first = self.first

        def on_partition(rows: Iterable[Any]) -> list[tuple[int, _T]]:
            settle()
            found = (Piece(*row) for row in rows)
            return [(piece.number - first, task(piece.number - first, piece)) for piece in found]

        partitions = [place for place in places.values() if place is not None]
        if not partitions:
            return {}
        done = dict(self.rdd.context.runJob(self.rdd, on_partition, partitions))
        lost = [piece for piece in wanted if piece not in done and self.sizes and self.sizes[piece]]
        if lost:
            raise RuntimeError(
                f"{len(lost)} pieces of the examples are not where they were: the files or the "
                "dataframe have changed under way; start anew"
            )
        return {piece: done[piece] for piece in wanted if piece in done}

    def bounded(self, row_bytes: int, bound: int, order: Iterable[int]) -> Iterator[list[int]]:
        """Yield pieces in this order, as many at a time as have at most `bound` bytes, or one."""
        chunk: list[int] = []
        size = 0
        for piece in order:
            more = self.sizes[piece] * row_bytes
            if chunk and size + more > bound:
                yield chunk
                chunk, size = [], 0
            chunk.append(piece)
            size += more
        if chunk:
            yield chunk
