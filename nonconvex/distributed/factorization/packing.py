"""Ratings to packed blocks: a dataframe row for each block, with its arrays as binary columns.

A row for each rating would be turned into Arrow, and back into arrays, in every half-step; a
packed block is a few buffers that a Python worker reads in place.

Sums over the ratings of each row: what an objective needs to know of its blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.encoding import Chunk, IdLookup, gathered
from nonconvex.distributed.factorization.execution import BlockStore, LocalValue, Value
from nonconvex.distributed.runtime import with_frozen_gc
from nonconvex.numerics.factorization.blocks import SPAN, RatingBlock, parts_of

__all__ = [
    "Lookups",
    "PackingSide",
    "pack_blocks",
    "pack_divided",
    "pack_in_place",
    "pack_locally",
    "row_sums",
    "triples",
    "unpack",
]

Lookups = Value[Mapping[str, IdLookup]]
"""The indices and blocks of the ids in each of two columns."""

_Batches = Iterator[pa.RecordBatch]
_Transform = Callable[[RatingBlock], RatingBlock]


# Some ratings of a block, a place in each array for every rating.
_PIECE = ("rows", "columns", "ratings", "weights")

_BLOCK = tuple(name for name in RatingBlock._fields if name != "padded")
_TYPES = {"rows": np.int32, "offsets": np.int64, "columns": np.int32, "degrees": np.float64}


class PackingSide(NamedTuple):
    """What the rows of the blocks are.

    Attributes
    ----------
    row, column : str
        Names of the columns with the dense index of the side itself and of the other side, or
        with their ids.
    block : str or None
        Name of the column with the block; None where the others hold ids.
    blocks : int
        Number of blocks.
    parts : int
        How many blocks more each long row has, for its parts; 0 leaves it in one block.
    long : int
        Number of long rows.
    first : int
        Number of the first block.
    """

    row: str
    column: str
    block: str | None
    blocks: int
    parts: int = 0
    long: int = 0
    first: int = 0


def pack_blocks(
    ratings: DataFrame,
    side: PackingSide,
    dtype: type[np.floating],
    transform: _Transform | None = None,
    lookups: Lookups | None = None,
) -> DataFrame:
    """Pack ratings into blocks, each on a partition of its own.

    Only packed pieces are shuffled, which takes a third of the time that ratings would.

    Parameters
    ----------
    ratings : DataFrame
        Chunks of ratings, or the columns of `side`, ``rating``, and ``weight`` where there are
        weights.  A null index is an id that training does not know: it becomes -1.
    side : PackingSide
    dtype : float type
        Of the ratings and weights in the blocks.
    transform : callable, optional
        Applied to each block.
    lookups : broadcast dict of str to IdLookup, optional
        Of chunks: the indices and blocks of the ids of each side, to be kept for as long as the
        result.

    Returns
    -------
    DataFrame
        ``block int`` and the fields of `RatingBlock` as binary columns; not cached.  The bytes of
        a block depend on its ratings only, and not on the partitions of `ratings`.
    """
    source = triples(ratings, side) if lookups is None else ratings
    pieces = source.mapInArrow(with_frozen_gc(_cut(dtype, side, lookups)), _sql(_PIECE))
    partitions = side.blocks + side.parts * side.long
    placed = pieces.repartitionById(partitions, F.col("block") - side.first)
    return placed.mapInArrow(with_frozen_gc(_join(dtype, transform)), _sql(_BLOCK))


def pack_in_place(
    ratings: DataFrame,
    side: PackingSide,
    dtype: type[np.floating],
    transform: _Transform | None = None,
) -> DataFrame:
    """Pack ratings whose blocks already lie each within one partition; nothing is shuffled.

    Parameters and result are those of `pack_blocks`.  A block that lies in several partitions would
    come out in several rows: the caller checks that.
    """
    cut, join = _cut(dtype, side), _join(dtype, transform)
    task = with_frozen_gc(lambda batches: join(cut(batches)))
    return triples(ratings, side).mapInArrow(task, _sql(_BLOCK))


def pack_divided(
    ratings: DataFrame,
    side: PackingSide,
    long: NDArray[np.int64],
    columns: int,
    dtype: type[np.floating],
    transform: _Transform | None = None,
) -> DataFrame:
    """Pack ratings as `pack_in_place` does, but the parts of long rows into blocks of their own.

    Parameters
    ----------
    ratings, side, dtype, transform
        As for `pack_in_place`.
    long : int64 array
        The indices of the long rows.
    columns : int
        Number of rows of the other side.
    """
    parts = parts_of(columns)
    place = F.array_position(F.array(*map(F.lit, long.tolist())), F.col(side.row).cast("long")) - 1
    others = pack_in_place(ratings.where(place < 0), side, dtype, transform)
    block = side.blocks + place * parts + F.floor(F.col(side.column) / SPAN)
    divided = ratings.where(place >= 0).withColumn("block", block)
    of_parts = PackingSide(side.row, side.column, "block", len(long) * parts, first=side.blocks)
    return others.union(pack_blocks(divided, of_parts, dtype, transform))


def pack_locally(
    ratings: pa.Table,
    side: PackingSide,
    dtype: type[np.floating],
    transform: _Transform | None = None,
    lookups: Mapping[str, IdLookup] | None = None,
) -> list[pa.RecordBatch]:
    """Pack ratings that are in memory, into the bytes that `pack_blocks` makes of them.

    Parameters
    ----------
    ratings : Arrow table
        The columns of `triples`, or chunks.
    side, dtype, transform
        As for `pack_blocks`.
    lookups : mapping of str to IdLookup, optional
        As for `pack_blocks`, but not broadcast.

    Returns
    -------
    list of Arrow batches
        One for each block.
    """
    cut = _cut(dtype, side, None if lookups is None else LocalValue(lookups))
    return list(_join(dtype, transform)(cut(iter(ratings.to_batches()))))


def unpack(batch: pa.RecordBatch, dtype: type[np.floating]) -> Iterator[RatingBlock]:
    """Read the blocks of a batch in place."""
    for index in range(len(batch)):
        yield RatingBlock(*_arrays(batch, index, _BLOCK, dtype))


def triples(ratings: DataFrame, side: PackingSide) -> DataFrame:
    """Choose the columns to pack; rows and columns are ids if the side has no blocks yet.

    Returns
    -------
    DataFrame
        ``block, rows, columns, ratings double, weights double``.
    """
    block, row, column = F.lit(0), F.col(side.row), F.col(side.column)
    if side.block is not None:
        block = F.coalesce(side.block, block).cast("int")
        row, column = (F.coalesce(index, F.lit(-1)).cast("int") for index in (row, column))
    weight = F.col("weight") if "weight" in ratings.columns else F.lit(None)
    return ratings.select(
        block.alias("block"),
        row.alias("rows"),
        column.alias("columns"),
        F.col("rating").cast("double").alias("ratings"),
        weight.cast("double").alias("weights"),
    )


def _cut(
    dtype: type[np.floating], side: PackingSide, lookups: Lookups | None = None
) -> Callable[[_Batches], _Batches]:
    """Return what cuts the ratings of a partition into pieces of a block each."""

    def cut(batches: _Batches) -> _Batches:
        if lookups is None:
            parts = _indexed(batches, dtype)
        else:
            parts = _found(batches, dtype, side, lookups)
        for block, *arrays in parts:
            # numpy sorts numbers of 16 bits by counting
            few = block.max() <= np.iinfo(np.uint16).max
            order = np.argsort(block.astype(np.uint16) if few else block, kind="stable")
            starts = np.flatnonzero(np.append(True, np.diff(block[order])))
            for members in np.split(order, starts[1:]):
                taken = [None if values is None else values[members] for values in arrays]
                yield _row(int(block[members[0]]), _PIECE, taken)

    return cut


def _indexed(batches: _Batches, dtype: type[np.floating]) -> Iterator[Sequence[Any]]:
    """Yield block, row, column, rating and weight of what `triples` has chosen."""
    for table in gathered(batches):
        weights = table["weights"]
        yield (
            *(table[name].to_numpy() for name in ("block", "rows", "columns")),
            table["ratings"].to_numpy().astype(dtype),
            None if weights.null_count else weights.to_numpy().astype(dtype),
        )


def _found(
    batches: _Batches, dtype: type[np.floating], side: PackingSide, lookups: Lookups
) -> Iterator[Sequence[Any]]:
    """Yield block, row, column, rating and weight of chunks."""
    own, other = lookups.value[side.row], lookups.value[side.column]
    for batch in batches:
        for index in range(len(batch)):
            chunk = Chunk.read(batch, index, dtype)
            rows, columns = (
                lookup.indices_of(chunk.ids[name]["id"])[chunk.places[name]]
                for name, lookup in ((side.row, own), (side.column, other))
            )
            if side.parts:
                block = own.divided_blocks_of(rows, columns, side.parts)
            else:
                block = own.blocks_of(rows)
            yield block, rows, columns, chunk.ratings, chunk.weights


def _join(dtype: type[np.floating], transform: _Transform | None) -> Callable[[_Batches], _Batches]:
    """Return what puts the pieces of a partition together, block by block, sorted."""

    def join(batches: _Batches) -> _Batches:
        pieces: dict[int, list[list[NDArray[Any]]]] = {}
        for batch in batches:
            for index, block in enumerate(batch.column("block").to_pylist()):
                pieces.setdefault(block, []).append(_arrays(batch, index, _PIECE, dtype))
        for number in sorted(pieces):
            rows, columns, ratings, weights = zip(*pieces.pop(number), strict=True)
            block = RatingBlock.from_triples(
                np.concatenate(rows),
                np.concatenate(columns),
                np.concatenate(ratings),
                None if weights[0] is None else np.concatenate(weights),
                dtype=dtype,
            )
            block = transform(block) if transform else block
            yield _row(number, _BLOCK, [getattr(block, name) for name in _BLOCK])

    return join


def _row(
    block: int, names: tuple[str, ...], arrays: Sequence[NDArray[np.generic] | None]
) -> pa.RecordBatch:
    buffers = [None if values is None else values.tobytes() for values in arrays]
    columns = [pa.array([block], pa.int32())]
    columns += [pa.array([buffer], pa.binary()) for buffer in buffers]
    return pa.RecordBatch.from_arrays(columns, ["block", *names])


def _arrays(
    batch: pa.RecordBatch, index: int, names: tuple[str, ...], dtype: type[np.floating]
) -> list[Any]:
    buffers = (batch.column(name)[index].as_buffer() for name in names)
    return [
        None if buffer is None else np.frombuffer(buffer, _TYPES.get(name, dtype))
        for name, buffer in zip(names, buffers, strict=True)
    ]


def _sql(names: tuple[str, ...]) -> str:
    return ", ".join(["block int", *(f"{name} binary" for name in names)])


_SUMS = ("rows", "degrees", "weights", "sums", "squares")


def row_sums(packed: BlockStore, rows: int, dtype: type[np.floating]) -> dict[str, Any]:
    """Add up the ratings of each row, in a first pass over the blocks, which fills the cache.

    Parameters
    ----------
    packed : BlockStore
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
