"""The one seeded order of rows: epochs, cut into minibatches.

Data are held in P pieces, which the data alone determine.  Epoch e visits the pieces in an order
drawn for (seed, e), and the rows of piece q in an order drawn for (seed, e, q); minibatches are
cut from that one sequence.  So which rows a step sees, and in which order, depends neither on
where the pieces are held nor on how many cores there are; and whoever holds a piece can draw the
order of its rows again, without being sent it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Slice", "epoch_order", "epoch_rows", "piece_order", "row_order", "steps_per_epoch"]

_PIECES, _ROWS = 1, 2  # the purposes of these random numbers, beside that of `network`


class Slice(NamedTuple):
    """A run of the shuffled rows of one piece.

    Attributes
    ----------
    piece : int
    start, stop : int
        The rows are ``row_order(size, seed, epoch, piece)[start:stop]``.
    """

    piece: int
    start: int
    stop: int


def epoch_order(
    sizes: Sequence[int], batch_size: int, seed: int, epoch: int
) -> Iterator[list[Slice]]:
    """Yield the minibatches of an epoch, each a list of slices to be put one after another.

    Every row occurs exactly once; the last minibatch may be short.

    Parameters
    ----------
    sizes : sequence of int
        The number of rows of each piece.
    batch_size : int
        B ≥ 1.
    seed, epoch : int

    Examples
    --------
    >>> list(epoch_order([3, 2], 4, seed=0, epoch=1))
    [[Slice(piece=1, start=0, stop=2), Slice(piece=0, start=0, stop=2)], ...]
    """
    batch: list[Slice] = []
    room = batch_size
    for piece in piece_order(len(sizes), seed, epoch):
        start = 0
        while start < sizes[piece]:
            stop = min(start + room, sizes[piece])
            batch.append(Slice(piece, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield batch
                batch, room = [], batch_size
    if batch:
        yield batch


def epoch_rows(
    sizes: Sequence[int], batch_size: int, seed: int, epoch: int
) -> Iterator[list[tuple[int, NDArray[np.int64]]]]:
    """Yield what `epoch_order` does as pairs of a piece and the positions of rows within it.

    Examples
    --------
    >>> list(epoch_rows([3, 2], 4, seed=0, epoch=1))
    [[(1, array([0, 1])), (0, array([2, 0]))], [(0, array([1]))]]
    """
    held, rows = -1, np.empty(0, np.int64)
    for batch in epoch_order(sizes, batch_size, seed, epoch):
        positions = []
        for piece, start, stop in batch:
            if piece != held:  # an epoch visits each piece once
                held, rows = piece, row_order(sizes[piece], seed, epoch, piece)
            positions.append((piece, rows[start:stop]))
        yield positions


def piece_order(pieces: int, seed: int, epoch: int) -> list[int]:
    """Return the order in which an epoch visits the pieces."""
    return [int(piece) for piece in _generator(seed, _PIECES, epoch).permutation(pieces)]


def row_order(size: int, seed: int, epoch: int, piece: int) -> NDArray[np.int64]:
    """Return the order in which an epoch visits the rows of a piece, of shape (size,)."""
    return _generator(seed, _ROWS, epoch, piece).permutation(size)


def steps_per_epoch(sizes: Sequence[int], batch_size: int) -> int:
    """Return the number of minibatches of an epoch, ⌈n / B⌉."""
    return -(-sum(sizes) // batch_size)


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed & (2**64 - 1), spawn_key=key))
