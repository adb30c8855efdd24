"""Validation ratings on the driver, which follows what the mean of many samples predicts for them.

Executors keep nothing between jobs, so each sample's predictions come to the driver: 8 bytes for
each rating and chain.  Of very many ratings it follows about a million, chosen by hashing, whose
RMSE is that of all to some 0.1 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nonconvex.distributed.factorization.execution import Packed
from nonconvex.distributed.factorization.packing import unpack
from nonconvex.distributed.factorization.steps import Rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Factors, predict
from nonconvex.numerics.rng import Stream, uniform_rows
from nonconvex.numerics.summation import add_exactly, fractions_of

__all__ = ["HeldOut"]

MOST = 1 << 20
"""About how many ratings are followed at most."""

_Batches = Iterator[pa.RecordBatch]
_Arrays = Callable[[RatingBlock], dict[str, NDArray[Any]]]

_RATINGS = ("rows", "columns", "ratings", "weights")


class HeldOut:
    """Validation ratings in an order that does not depend on their blocks.

    Parameters
    ----------
    packed : Packed
        Ratings packed by users; -1 is an id that training does not know.
    dtype : float type
    most : int
        About how many of them are followed at most.
    """

    def __init__(self, packed: Packed, dtype: type[np.floating], most: int = MOST) -> None:
        self._packed, self._dtype = packed, dtype
        self._share = 1.0
        counts = _concatenated(self._collect(["count"], _count), "count", np.int64)
        self._share = min(1.0, most / max(1, int(counts.sum())))
        table = self._collect(_RATINGS, _ratings)
        rows, columns = (_concatenated(table, name, np.int32) for name in _RATINGS[:2])
        ratings, weights = (_concatenated(table, name, np.float64) for name in _RATINGS[2:])
        # Equal pairs have equal predictions, so their order does not matter.
        self._order = np.lexsort((columns, rows))
        self._ratings, self._weights = ratings[self._order], weights[self._order]

    def __len__(self) -> int:
        """Return the number of ratings that are followed."""
        return len(self._ratings)

    def predictions(
        self,
        alphas: Sequence[float],
        means: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
        users: Rows,
        items: Rows,
    ) -> list[NDArray[np.float64]]:
        """Predict the ratings in every chain.

        Parameters
        ----------
        alphas : sequence of float
        means : sequence of two float64 arrays of shape (1 + K,)
            The rows of a user and of an item that training does not know.
        users, items : shared lists of float arrays
        """

        def predicted(block: RatingBlock) -> dict[str, NDArray[Any]]:
            rows = np.repeat(block.rows, block.counts)
            found = {}
            for number, (alpha, unknown) in enumerate(zip(alphas, means, strict=True)):
                sides = (side.value[number] for side in (users, items))
                # The last row is the one that an index of -1 finds.
                x, z = (np.vstack([side, row]) for side, row in zip(sides, unknown, strict=True))
                pairs = rows % len(x), block.columns % len(z)
                found[f"chain{number}"] = predict(Factors(alpha, x, z), *pairs)
            return found

        names = [f"chain{number}" for number in range(len(alphas))]
        table = self._collect(names, predicted)
        return [_concatenated(table, name, np.float64)[self._order] for name in names]

    def rmse(self, predicted: NDArray[np.float64]) -> float:
        """Compute √(Σ w (R̂ − R)² / Σ w)."""
        errors = self._weights * (predicted - self._ratings) ** 2
        groups = np.repeat([0, 1], len(errors))
        sums = fractions_of(add_exactly({}, groups, np.concatenate([errors, self._weights])))
        return float(np.sqrt(float(sums[0] / sums[1]))) if sums[1] else float("nan")

    def _collect(self, names: Sequence[str], arrays: _Arrays) -> pa.Table:
        dtype, share = self._dtype, self._share

        def task(batches: _Batches) -> _Batches:
            for batch in batches:
                numbers = batch.column("block").to_pylist()
                for number, block in zip(numbers, unpack(batch, dtype), strict=True):
                    chosen = _choose(block, share)
                    found = {name: found[chosen] for name, found in arrays(block).items()}
                    columns = [pa.array([number], pa.int32())]
                    columns += [pa.array([found[name].tobytes()], pa.binary()) for name in names]
                    yield pa.RecordBatch.from_arrays(columns, ["block", *names])

        table = self._packed.run(task)
        return table.take(pc.sort_indices(table["block"]))


def _count(block: RatingBlock) -> dict[str, NDArray[Any]]:
    return {"count": np.array([len(block.ratings)])}


def _choose(block: RatingBlock, share: float) -> NDArray[np.bool_] | slice:
    """Choose about a share of the ratings, the same in whatever blocks they lie."""
    if share >= 1:
        return slice(None)
    pairs = (np.repeat(block.rows, block.counts).astype(np.int64) << 32) ^ block.columns
    keys = pairs ^ block.ratings.astype(np.float64).view(np.int64)
    return uniform_rows(Stream.of(0), keys, 1)[:, 0] < share


def _ratings(block: RatingBlock) -> dict[str, NDArray[Any]]:
    weights = np.ones(len(block.ratings)) if block.weights is None else block.weights
    return {
        "rows": np.repeat(block.rows, block.counts),
        "columns": block.columns,
        "ratings": block.ratings.astype(np.float64),
        "weights": weights.astype(np.float64),
    }


def _concatenated(table: pa.Table, name: str, kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.frombuffer(part, kind) for part in table[name].to_pylist()])
