"""Arrow columns of vectors to matrices: ml vectors, dense or sparse, and arrays of numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["Vectors", "read_vectors"]


class Vectors(NamedTuple):
    """The vectors of a column.

    Attributes
    ----------
    values : float64 array of shape (m, width)
        A null entry is NaN, and so are all entries of a row that is null or of another length.
    lengths : int64 array of shape (m,)
        -1 for null.
    """

    values: NDArray[np.float64]
    lengths: NDArray[np.int64]

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Tell of each row whether it is of the right length and all of it finite."""
        return np.asarray(np.isfinite(self.values).all(axis=1))


def read_vectors(column: pa.Array, width: int) -> Vectors:
    """Read a column of vectors that should have `width` entries each.

    Parameters
    ----------
    column : pyarrow.Array
        Lists of numbers, or the structs (type, size, indices, values) that ml vectors are made
        of, or numbers, which are vectors of one entry.
    width : int

    Returns
    -------
    Vectors
        A zero has no sign.

    Examples
    --------
    >>> read_vectors(pa.array([[1, 2], None, [3]]), 2)
    Vectors(values=array([[ 1.,  2.],
           [nan, nan],
           [nan, nan]]), lengths=array([ 2, -1,  1]))
    """
    if pa.types.is_struct(column.type):
        return _structs(column, width)
    if pa.types.is_list(column.type):
        return _lists(column, width)
    return Vectors(_numbers(column)[:, None], np.ones(len(column), np.int64))


def _lists(column: Any, width: int) -> Vectors:
    lengths = _lengths(column)
    flat = _numbers(column.flatten())
    right = lengths == width
    if right.all():
        return Vectors(flat.reshape(-1, width), lengths)
    matrix = np.full((len(lengths), width), np.nan)
    matrix[right] = flat[np.repeat(right, np.maximum(lengths, 0))].reshape(-1, width)
    return Vectors(matrix, lengths)


def _structs(column: Any, width: int) -> Vectors:
    kind, size, indices, values = column.flatten()
    sparse = kind.fill_null(1).to_numpy(zero_copy_only=False) == 0
    if not sparse.any():
        return _lists(values, width)
    counts = _lengths(values)
    given = np.maximum(counts, 0)
    lengths = np.where(sparse, size.fill_null(-1).to_numpy(zero_copy_only=False), counts)
    flat = _numbers(values.flatten())
    rows = np.repeat(np.arange(len(lengths)), given)
    places = np.arange(len(flat)) - np.repeat(np.cumsum(given) - given, given)
    places[sparse[rows]] = indices.flatten().to_numpy()
    right = lengths == width
    matrix = np.full((len(lengths), width), np.nan)
    matrix[right & sparse] = 0.0
    kept = right[rows]
    matrix[rows[kept], places[kept]] = flat[kept]
    return Vectors(matrix, lengths.astype(np.int64))


def _lengths(lists: Any) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = lists.value_lengths().fill_null(-1).to_numpy().astype(np.int64)
    return lengths


def _numbers(column: Any) -> NDArray[np.float64]:
    """Return numbers as doubles; a null becomes NaN, and −0, whose bits are others, becomes 0."""
    numbers: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64) + 0.0
    return numbers
