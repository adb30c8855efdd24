"""Sums over the ratings of each row: what an objective needs to know of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from nonconvex.distributed.data.ratings import RatingsError
from nonconvex.distributed.factorization.execution import Packed
from nonconvex.distributed.factorization.packing import unpack

__all__ = ["row_sums"]

_Batches = Iterator[pa.RecordBatch]

_SUMS = ("rows", "degrees", "weights", "sums", "squares")


def row_sums(packed: Packed, rows: int, dtype: type[np.floating]) -> dict[str, Any]:
    """Add up the ratings of each row, in a first pass over the blocks, which fills the cache.

    Parameters
    ----------
    packed : Packed
    rows : int
        Number m of rows in all blocks.
    dtype : float type
        Of the blocks.

    Returns
    -------
    dict
        ``degrees, weights, sums, squares``: float64 arrays of shape (m,) in the order of the
        indices, the last two of w R and w R²; ``counts`` and ``duplicates``, the numbers of
        ratings and of repeated pairs in all.

    Raises
    ------
    RatingsError
        If a block is there twice.

    Examples
    --------
    >>> from nonconvex.distributed.factorization.dataset import load_prepared
    >>> training = load_prepared(prepared, dtype=np.float32, place="driver")
    >>> sums = row_sums(training.blocks.users, 40, np.float32)
    >>> sums["counts"], int(sums["degrees"].max())
    (490, 17)
    """
    parts = packed.run(_sums(dtype)).to_pylist()
    seen = [part["block"] for part in parts]
    if len(set(seen)) < len(seen):
        raise RatingsError(
            "a block of the prepared ratings lies in several files or row groups; "
            "prepare the ratings again"
        )
    whole: dict[str, Any] = {name: np.zeros(rows) for name in _SUMS[1:]}
    for part in sorted(parts, key=itemgetter("block")):
        index = np.frombuffer(part["rows"], np.int32)
        for name in _SUMS[1:]:
            whole[name][index] += np.frombuffer(part[name])  # the parts of a long row, in order
    for name in ("counts", "duplicates"):
        whole[name] = sum(part[name] for part in parts)
    return whole


def _sums(dtype: type[np.floating]) -> Callable[[_Batches], _Batches]:
    def sums(batches: _Batches) -> _Batches:
        for batch in batches:
            numbers = batch.column("block").to_pylist()
            for number, block in zip(numbers, unpack(batch, dtype), strict=True):
                ones = np.ones(len(block.ratings)) if block.weights is None else block.weights
                arrays = (
                    block.rows,
                    block.degrees,
                    block.total_weights(),
                    block.over_rows(ones * block.ratings),
                    block.over_rows(ones * block.ratings.astype(np.float64) ** 2),
                )
                columns = [
                    pa.array([number], pa.int32()),
                    pa.array([len(ones)]),
                    pa.array([block.duplicates]),
                    *(pa.array([values.tobytes()], pa.binary()) for values in arrays),
                ]
                names = ["block", "counts", "duplicates", *_SUMS]
                yield pa.RecordBatch.from_arrays(columns, names)

    return sums
