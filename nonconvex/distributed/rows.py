"""Rows of a side that the driver does not have: random, cached by executors, or checkpointed.

They are elements of RDDs, numbered by block and partitioned alike, so that everything of one block
is in one place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.runtime import begin_task, partitions, rows_of
from nonconvex.numerics import Doubles, Floats
from nonconvex.numerics.deterministic import PartialSums

if TYPE_CHECKING:
    from pyspark import RDD

Element = tuple[int, Any]
"""The number of a block, and a value that belongs to it."""

PIECES = ("name", "offset", "bytes")
"""The columns of arrays in a checkpoint: bytes, and their offset in the array."""
_Elements = Iterable[Element]

_log = logging.getLogger("nonconvex")


def by_number(number: int) -> int:
    """Return the partition of a block, the same in all RDDs."""
    return number


def zip_partitions(*rdds: RDD[Element]) -> RDD[Element]:
    """Unite the partitions of several RDDs that `by_number` has partitioned alike, in place."""
    from pyspark import RDD

    context: Any = rdds[0].context
    # All hold pickled lists, so that nothing is serialized again.
    serializer = context.serializer
    joined: RDD[Element] = context.union([RDD(rdd._jrdd, context, serializer) for rdd in rdds])
    return joined


def scatter(spark: SparkSession, values: Sequence[Any]) -> RDD[Element]:
    """Send each value to the partition of its number."""
    numbered: list[Element] = list(enumerate(values))
    return partitions(spark, numbered).partitionBy(len(numbered), by_number)


def group_by_type(elements: Iterable[Element], *kinds: type) -> dict[int, list[list[Any]]]:
    """Group the values of each block by their types."""
    found: dict[int, list[list[Any]]] = {}
    for number, value in elements:
        found.setdefault(number, [[] for _ in kinds])[kinds.index(type(value))].append(value)
    return found


class Rows(NamedTuple):
    """The rows of a block, with the sums of the update that made them, in all and by row."""

    x: Floats
    sums: PartialSums | None
    squares: Doubles | None


class ShardedRows(Protocol):
    """The rows of one side."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and 1 + K."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the rows."""

    def placed(self, spark: SparkSession, slices: Sequence[slice]) -> RDD[Element]:
        """Return an element of `Rows` for each slice, in the partition of its number."""

    def gather(self) -> Floats:
        """Return all rows as an array on the driver."""


class CachedRows:
    """Rows in the cache of executors, in the blocks of their update.

    The RDD `elements` of (int, Rows) is persisted, with a partition for each block; `slices` are
    the rows of each block, and `width` is 1 + K.
    """

    def __init__(
        self, elements: RDD[Element], slices: Sequence[slice], width: int, dtype: np.dtype[Any]
    ) -> None:
        self.elements, self.slices = elements, slices
        self.shape, self.dtype = (slices[-1].stop, width), dtype

    def placed(self, spark: SparkSession, slices: Sequence[slice]) -> RDD[Element]:
        """Return the elements as they are; `slices` are those of these rows."""
        return self.elements

    def gather(self) -> Floats:
        """Return all rows as an array on the driver, fetched block by block."""
        x = np.empty(self.shape, self.dtype)
        for number, of_block in self.elements.toLocalIterator():
            x[self.slices[number]] = of_block.x
        return x

    def squares(self) -> Doubles | None:
        """Return Σ w e² of each row, if these rows come from an update."""
        found = dict(self.elements.mapValues(lambda rows: rows.squares).collect())
        parts = [found[number] for number in sorted(found)]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    def pieces(self, spark: SparkSession, name: str) -> DataFrame:
        """Return their bytes as rows of ``name, offset, bytes``, each with a block."""
        offsets = [place.start * self.shape[1] * self.dtype.itemsize for place in self.slices]

        def piece(element: Element) -> tuple[str, int, bytes]:
            number, rows = element
            return name, offsets[number], rows.x.tobytes()

        pieces: Any = self.elements.map(piece)
        schema = "name string, offset bigint, bytes binary"
        return spark.createDataFrame(pieces, schema, verifySchema=False)

    def release(self) -> None:
        """Remove them from the cache."""
        self.elements.unpersist()


@dataclass(frozen=True)
class CheckpointedRows:
    """Rows of a checkpoint, cached until `release`."""

    pieces: DataFrame  # their bytes, in the columns of `PIECES`
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @classmethod
    def read(
        cls, pieces: DataFrame, shape: tuple[int, int], dtype: np.dtype[Any]
    ) -> CheckpointedRows:
        """Cache the rows now: another process may remove the files soon."""
        pieces.persist(StorageLevel.MEMORY_AND_DISK)
        pieces.count()
        return cls(pieces, shape, dtype)

    def release(self) -> None:
        """Remove them from the cache."""
        self.pieces.unpersist()

    def placed(self, spark: SparkSession, slices: Sequence[slice]) -> RDD[Element]:
        """Return an element of `Rows` for each slice, in the partition of its number."""
        width, dtype = self.shape[1], self.dtype
        size = width * dtype.itemsize
        bounds = [(place.start * size, place.stop * size) for place in slices]
        starts = np.array([start for start, _ in bounds])

        def cut(row: Any) -> Iterator[Element]:
            first, content = row.offset, bytes(row.bytes)
            number = int(np.searchsorted(starts, first, side="right")) - 1
            while number < len(bounds) and bounds[number][0] < first + len(content):
                start, stop = (max(bound - first, 0) for bound in bounds[number])
                yield number, (first + start, content[start:stop])
                number += 1

        def join(elements: _Elements) -> Iterator[Element]:
            begin_task()
            for number, [pieces] in group_by_type(elements, tuple).items():
                content = b"".join(content for _, content in sorted(pieces))
                x = np.frombuffer(content, dtype).reshape(-1, width)
                yield number, Rows(x, None, None)

        rows = rows_of(self.pieces).flatMap(cut).partitionBy(len(bounds), by_number)
        return rows.mapPartitions(join, True)

    def gather(self) -> Floats:
        """Return all rows, read on the driver."""
        return joined(self.pieces.toArrow().to_pylist(), self.shape, self.dtype)


def joined(
    pieces: Iterable[dict[str, Any]], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Return the array whose `PIECES` these are, in any order."""
    ordered = sorted(pieces, key=lambda piece: piece["offset"])
    content = b"".join(piece["bytes"] for piece in ordered)
    return np.frombuffer(content, dtype).reshape(shape).copy()
