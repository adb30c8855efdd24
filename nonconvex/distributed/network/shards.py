"""Examples to packed pieces: sets of rows that the data alone determine.

A row is put into a piece, and in its place there, by a hash of its content.  So pieces are random
samples of the data, and neither the order of the rows nor the partitions they come in change a
bit.  Rows that are equal in everything share a piece.

Packed pieces of examples, and jobs on a few of them.

A piece is a set of rows that the data alone determine (`nonconvex.distributed.network.shards`): one
element in a partition of its own, so that a job touches the pieces it needs and no others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import RDD
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.data.examples import Outline, read_examples
from nonconvex.distributed.runtime import freeze_gc_once
from nonconvex.numerics.network.backprop import Examples
from nonconvex.numerics.network.standardize import Standardization

__all__ = ["SCHEMA", "Layout", "Piece", "Pieces", "Reading", "content_keys", "pack"]

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
            freeze_gc_once()
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


SCHEMA = "number int, rows int, kind string, features binary, targets binary, weights binary"
"""What pieces are as a dataframe."""

PIECE_BYTES = 4 << 20  # of its features in float32
MOST_PIECES = 4096  # each is a task in every pass: with more data than this the pieces are larger
_GATHERED_BYTES = 32 << 20

_Batches = Iterator[pa.RecordBatch]
_U64 = np.uint64


class Layout(NamedTuple):
    """Into how many pieces which examples are cut.

    Attributes
    ----------
    outline : Outline
    pieces, held_out : int
        The pieces 0 … pieces − 1 are to train on, and those after them to validate on.  One more
        tells what rows were refused.
    """

    outline: Outline
    pieces: int
    held_out: int

    @classmethod
    def of(cls, outline: Outline, piece_bytes: int = PIECE_BYTES) -> Layout:
        """Choose the numbers of pieces by the amount of data, and nothing else."""
        row = 4 * outline.features
        train, held = (
            min(ceil(rows * row / piece_bytes), MOST_PIECES)
            for rows in (outline.rows, outline.held_out)
        )
        return cls(outline, train, held)

    @property
    def total(self) -> int:
        """Number of partitions."""
        return self.pieces + self.held_out + 1


def pack(selected: DataFrame, layout: Layout) -> DataFrame:
    """Pack examples into pieces, each in the partition of its number.

    Only packed parts of pieces are shuffled, not rows.

    Parameters
    ----------
    selected : DataFrame
        From `nonconvex.distributed.data.examples.select_examples`.
    layout : Layout

    Returns
    -------
    DataFrame
        The fields of `Piece`; not cached.  Rows that cannot be used are in no piece, and are
        counted by reason in the last one, whose `features` are JSON.
    """
    parts = selected.mapInArrow(_cut(layout), SCHEMA)
    placed = parts.repartitionById(layout.total, F.col("number"))
    return placed.mapInArrow(_join(layout), SCHEMA)


def content_keys(columns: Sequence[NDArray[Any] | None]) -> tuple[NDArray[_U64], NDArray[_U64]]:
    """Return two 64-bit hashes of each row.

    Multilinear hashing (Lemire and Kaser, 2014): with the bits z_j of the entries of a row and
    random odd a_j it is Σ_j a_j z_j mod 2⁶⁴, whose bits are then mixed.

    Parameters
    ----------
    columns : sequence of arrays of shape (m,) or (m, d)
        What a row is made of; None is left out.

    Returns
    -------
    two uint64 arrays of shape (m,)
        Rows that agree in both are taken for equal.
    """
    matrices = [
        np.ascontiguousarray(values, np.float64).reshape(len(values), -1).view(_U64)
        for values in columns
        if values is not None
    ]
    sums = [np.zeros(len(matrices[0]), _U64) for _ in range(2)]
    at = 0
    for bits in matrices:
        places = np.arange(at, at + bits.shape[1], dtype=_U64)
        at += bits.shape[1]
        folded = bits ^ (bits >> _U64(32))  # the low bits of round numbers are zeros
        for number, total in enumerate(sums):
            odd = _mix(_U64(2) * places + _U64(number)) | _U64(1)
            total += np.einsum("ij,j->i", folded, odd)
    return _mix(sums[0]), _mix(sums[1])


def _mix(z: NDArray[_U64]) -> NDArray[_U64]:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014)."""
    z = z + _U64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> _U64(27))) * _U64(0x94D049BB133111EB)
    return z ^ (z >> _U64(31))


def _cut(layout: Layout) -> Callable[[_Batches], _Batches]:
    """Return what cuts the examples of a partition into parts of pieces."""
    refused = layout.total - 1

    def cut(batches: _Batches) -> _Batches:
        reasons: Counter[str] = Counter()
        for table in _gathered(batches):
            examples, refused_here = read_examples(table, layout.outline)
            reasons.update(refused_here)
            if not len(examples.x):
                continue
            keys, _ = content_keys(examples[:3])
            number = np.where(
                examples.held_out,
                layout.pieces + _scaled(keys, layout.held_out),
                _scaled(keys, layout.pieces),
            )
            order = np.argsort(number, kind="stable")
            starts = np.flatnonzero(np.diff(number[order])) + 1
            yield _rows(
                _piece(int(number[members[0]]), *examples.take(members)[:3])
                for members in np.split(order, starts)
            )
        if reasons:
            yield _rows([Piece(refused, 0, "json", json.dumps(reasons).encode(), b"", None)])

    return cut


def _join(layout: Layout) -> Callable[[_Batches], _Batches]:
    """Return what puts the parts of pieces in a partition together, piece by piece, in order."""
    classify = layout.outline.classes is not None

    def join(batches: _Batches) -> _Batches:
        parts: dict[int, list[Piece]] = {}
        for batch in batches:
            for row in batch.to_pylist():
                parts.setdefault(row["number"], []).append(Piece(**row))
        for number in sorted(parts):
            found = parts.pop(number)
            if number == layout.total - 1:
                yield _rows([_together(found)])
                continue
            columns = zip(*(part.arrays(classify) for part in found), strict=True)
            arrays = [None if column[0] is None else np.concatenate(column) for column in columns]
            order = np.lexsort(content_keys(arrays)[::-1])
            arrays = [None if values is None else values[order] for values in arrays]
            yield _rows([_piece(number, *arrays)])

    return join


def _together(parts: list[Piece]) -> Piece:
    reasons: Counter[str] = Counter()
    for part in parts:
        reasons.update(json.loads(part.features))
    return parts[0]._replace(features=json.dumps(reasons).encode())


def _gathered(batches: _Batches) -> Iterator[pa.Table]:
    """Put small batches together, so that a piece comes in few parts."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        if len(batch):
            held.append(batch)
        if sum(batch.nbytes for batch in held) >= _GATHERED_BYTES:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _piece(number: int, x: Any, y: Any, weight: Any) -> Piece:
    x = _narrowed(x)
    weights = None if weight is None else weight.tobytes()
    return Piece(number, len(x), x.dtype.name, x.tobytes(), y.tobytes(), weights)


def _narrowed(x: NDArray[Any]) -> NDArray[Any]:
    """Return the same numbers in the narrowest type that holds them exactly."""
    with np.errstate(invalid="ignore", over="ignore"):
        for dtype in (np.uint8, np.float32):
            narrow = x.astype(dtype)
            if (narrow == x).all():
                return narrow
    return x.astype(np.float64)


def _scaled(keys: NDArray[_U64], pieces: int) -> NDArray[np.int64]:
    """Return ⌊key · pieces / 2⁶⁴⌋, up to the lower half of the key."""
    scaled: NDArray[np.int64] = (((keys >> _U64(32)) * _U64(pieces)) >> _U64(32)).astype(np.int64)
    return scaled


def _rows(pieces: Iterable[Piece]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([piece._asdict() for piece in pieces], schema=_ARROW)


_ARROW = pa.schema(
    [("number", pa.int32()), ("rows", pa.int32()), ("kind", pa.string())]
    + [(name, pa.binary()) for name in ("features", "targets", "weights")]
)
