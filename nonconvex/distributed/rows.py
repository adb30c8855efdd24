"""The rows of a side where the driver does not have them: drawn, kept by executors, or saved.

RDDs of numbered elements that are cut alike, so that what is of one block stays in one place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD, SparkContext, StorageLevel
from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.runtime import freeze_gc_once
from nonconvex.numerics.deterministic import PartialSums
from nonconvex.numerics.factorization.model import Factors, InitialRows

__all__ = [
    "PIECES",
    "CachedRows",
    "CheckpointedRows",
    "Element",
    "RandomRows",
    "Rows",
    "ShardedFactors",
    "ShardedRows",
    "by_number",
    "gather_factors",
    "group_by_type",
    "joined",
    "scatter",
    "zip_partitions",
]

Element = tuple[int, Any]
"""The number of a block, and something of it."""


def by_number(number: int) -> int:
    """Return the partition of a block: RDDs that are cut by this function stay side by side."""
    return number


def zip_partitions(*rdds: RDD[Element]) -> RDD[Element]:
    """Put the elements of each partition of several RDDs into one partition, where they are.

    Parameters
    ----------
    *rdds : RDD
        All cut by `by_number` into as many partitions.
    """
    context: Any = rdds[0].context
    # All hold pickled lists, of whatever lengths, so that nothing need be written anew.
    serializer = context.serializer
    joined: RDD[Element] = context.union([RDD(rdd._jrdd, context, serializer) for rdd in rdds])
    return joined


def scatter(context: SparkContext, values: Sequence[Any]) -> RDD[Element]:
    """Send each value to the partition of its number.

    Examples
    --------
    >>> scatter(spark.sparkContext, ["a", "b"]).glom().collect()
    [[(0, 'a')], [(1, 'b')]]
    """
    numbered: list[Element] = list(enumerate(values))
    return context.parallelize(numbered, len(numbered)).partitionBy(len(numbered), by_number)


def group_by_type(elements: Iterable[Element], *kinds: type) -> dict[int, list[list[Any]]]:
    """Put together what is of one block, by kind.

    Examples
    --------
    >>> group_by_type([(0, "a"), (3, 2.5), (0, 1.5), (0, "b")], str, float)
    {0: [['a', 'b'], [1.5]], 3: [[], [2.5]]}
    """
    found: dict[int, list[list[Any]]] = {}
    for number, value in elements:
        found.setdefault(number, [[] for _ in kinds])[kinds.index(type(value))].append(value)
    return found


PIECES = ("name", "offset", "bytes")
"""The columns of arrays in a checkpoint: where in the array some bytes are."""

_Elements = Iterable[Element]

_log = logging.getLogger("nonconvex")


class Rows(NamedTuple):
    """The rows of a block, and what the update that they come from summed, in all and by row."""

    x: NDArray[np.floating]
    sums: PartialSums | None
    squares: NDArray[np.float64] | None


class ShardedRows(Protocol):
    """The rows of one side.

    Attributes
    ----------
    shape : (int, int)
        Number of rows, and 1 + K.
    dtype : float type
    """

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and 1 + K."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of their numbers."""

    def placed(self, context: SparkContext, slices: Sequence[slice]) -> RDD[Element]:
        """Return an element of `Rows` for each slice, in the partition of its number."""

    def gather(self) -> NDArray[np.floating]:
        """Bring all of them to the driver."""


@dataclass(frozen=True)
class RandomRows:
    """Random rows, which are drawn where they are needed."""

    random: InitialRows

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and 1 + K."""
        return self.random.rows, 1 + self.random.rank

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of their numbers."""
        return np.dtype(self.random.dtype)

    def placed(self, context: SparkContext, slices: Sequence[slice]) -> RDD[Element]:
        """Return an element of `Rows` for each slice, in the partition of its number."""
        random = self.random

        def draw(elements: _Elements) -> Iterator[Element]:
            freeze_gc_once()
            for number, (first, stop) in elements:
                yield number, Rows(random.between(first, stop), None, None)

        bounds = [(place.start, place.stop) for place in slices]
        return scatter(context, bounds).mapPartitions(draw, True)

    def gather(self) -> NDArray[np.floating]:
        """Draw all of them on the driver."""
        return self.random.between(0, self.random.rows)


class CachedRows:
    """Rows that executors keep, in the blocks that they were updated in.

    Parameters
    ----------
    rdd : RDD of (int, Rows)
        Persisted, with a partition for each block.
    slices : sequence of slice
        The rows of each block.
    width : int
        1 + K.
    dtype : numpy dtype
    """

    def __init__(
        self, rdd: RDD[Element], slices: Sequence[slice], width: int, dtype: np.dtype[Any]
    ) -> None:
        self.rdd, self.slices = rdd, slices
        self.shape, self.dtype = (slices[-1].stop, width), dtype

    def placed(self, context: SparkContext, slices: Sequence[slice]) -> RDD[Element]:
        """Return the elements as they are; `slices` are those of these rows."""
        return self.rdd

    def gather(self) -> NDArray[np.floating]:
        """Bring all of them to the driver, block by block."""
        x = np.empty(self.shape, self.dtype)
        for number, of_block in self.rdd.toLocalIterator():
            x[self.slices[number]] = of_block.x
        return x

    def squares(self) -> NDArray[np.float64] | None:
        """Return Σ w e² of each row, if an update has made these rows."""
        found = dict(self.rdd.mapValues(lambda rows: rows.squares).collect())
        parts = [found[number] for number in sorted(found)]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    def pieces(self, spark: SparkSession, name: str) -> DataFrame:
        """Return their bytes as rows of ``name, offset, bytes``, each with a block."""
        offsets = [place.start * self.shape[1] * self.dtype.itemsize for place in self.slices]

        def piece(element: Element) -> tuple[str, int, bytes]:
            number, rows = element
            return name, offsets[number], rows.x.tobytes()

        pieces: Any = self.rdd.map(piece)
        types = zip(PIECES, ("string", "bigint", "binary"), strict=True)
        schema = ", ".join(f"{column} {kind}" for column, kind in types)
        return spark.createDataFrame(pieces, schema, verifySchema=False)

    def release(self) -> None:
        """Let the executors forget them."""
        self.rdd.unpersist()


@dataclass(frozen=True)
class CheckpointedRows:
    """Rows of a checkpoint; held until `release`.

    Parameters
    ----------
    pieces : DataFrame
        Their bytes, in the columns of `PIECES`.
    shape : (int, int)
    dtype : numpy dtype
    """

    pieces: DataFrame
    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @classmethod
    def read(
        cls, pieces: DataFrame, shape: tuple[int, int], dtype: np.dtype[Any]
    ) -> CheckpointedRows:
        """Have executors read the rows now: another process may remove them before long."""
        pieces.persist(StorageLevel.MEMORY_AND_DISK)
        pieces.count()
        return cls(pieces, shape, dtype)

    def release(self) -> None:
        """Let the executors forget them."""
        self.pieces.unpersist()

    def placed(self, context: SparkContext, slices: Sequence[slice]) -> RDD[Element]:
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
            freeze_gc_once()
            for number, [pieces] in group_by_type(elements, tuple).items():
                content = b"".join(content for _, content in sorted(pieces))
                x = np.frombuffer(content, dtype).reshape(-1, width)
                yield number, Rows(x, None, None)

        rows = self.pieces.rdd.flatMap(cut).partitionBy(len(bounds), by_number)
        return rows.mapPartitions(join, True)

    def gather(self) -> NDArray[np.floating]:
        """Read all of them on the driver."""
        return joined(self.pieces.toArrow().to_pylist(), self.shape, self.dtype)


def joined(
    pieces: Iterable[dict[str, Any]], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Put an array together from rows of `PIECES`, in any order."""
    ordered = sorted(pieces, key=lambda piece: piece["offset"])
    content = b"".join(piece["bytes"] for piece in ordered)
    return np.frombuffer(content, dtype).reshape(shape).copy()


class ShardedFactors:
    """What `nonconvex.numerics.factorization.model.Factors` is, of distant rows.

    Parameters
    ----------
    alpha : float
    users, items : ShardedRows
    """

    def __init__(self, alpha: float, users: ShardedRows, items: ShardedRows) -> None:
        self.alpha, self.users, self.items = alpha, users, items
        self._gathered: Factors | None = None

    def gather(self) -> Factors:
        """Bring all rows to the driver; they stay where they are, too."""
        if self._gathered is None:
            sides = (self.users, self.items)
            size = sum(rows.shape[0] * rows.shape[1] * rows.dtype.itemsize for rows in sides)
            counts = [rows.shape[0] for rows in sides]
            _log.info(
                "bringing the factors of %s users and %s items to the driver, %s bytes",
                *(f"{number:,}" for number in (*counts, size)),
            )
            self._gathered = Factors(self.alpha, *(rows.gather() for rows in sides))
        return self._gathered


def gather_factors(factors: Factors | ShardedFactors) -> Factors:
    """Return factors as arrays on the driver."""
    return factors.gather() if isinstance(factors, ShardedFactors) else factors
