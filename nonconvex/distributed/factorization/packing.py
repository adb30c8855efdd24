"""Ratings to packed blocks: a dataframe row for each block, with its arrays as binary columns.

A row for each rating would be converted to Arrow, and back to arrays, in every half-step; a Python
worker reads the few buffers of a packed block in place.  So ratings are converted once, for both
sides, into cached chunks of a few buffers, in which each id occurs once.  All ids are then given
dense indices and blocks in memory: a fit holds a row for each anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from nonconvex.distributed.data.ids import IdIndex, default_blocks, index_ids
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.execution import BlockStore, LocalValue, Value
from nonconvex.distributed.runtime import (
    Batches,
    Task,
    binary_row,
    combined,
    from_bytes,
    map_in_threads,
    to_bytes,
    with_frozen_gc,
)
from nonconvex.numerics import Floats, Ints, Longs
from nonconvex.numerics.factorization.blocks import SPAN, RatingBlock, counting_order, parts_of

_CHUNK = 1 << 20  # ratings
_CHUNK_BYTES = 1 << 28  # of a table that is gathered, should its ids be long

_PROBLEMS = (
    "null user ids",
    "null item ids",
    "null ratings",
    "ratings that are not finite",
    "null weights",
    "weights that are not finite numbers ≥ 0",
    "null validation indicators",
)
_BINARY = ("user_ids", "item_ids", "user", "item", "ratings", "weights")
_SCHEMA = pa.schema(
    [
        ("held_out", pa.bool_()),
        ("rows", pa.int64()),
        ("minimum", pa.float64()),
        ("maximum", pa.float64()),
        ("problems", pa.list_(pa.int64())),
    ]
    + [(name, pa.binary()) for name in _BINARY]
)
REPORT = _SCHEMA.names[:5]
"""The columns of a chunk that say whether its ratings can be used."""


class Checked(NamedTuple):
    """Number and range of checked ratings."""

    rows: int  # number of ratings
    # range of the training ratings
    minimum: float
    maximum: float


class Chunk(NamedTuple):
    """Some ratings, in the order in which they were read."""

    # for ``"user"`` and ``"item"``: ``id, count``, each id of the chunk and its ratings
    ids: dict[str, pa.Table]
    places: dict[str, Ints]  # (n,): place of the id of each rating in these
    ratings: Floats  # (n,)
    weights: Floats | None  # (n,)

    @classmethod
    def read(cls, batch: pa.RecordBatch, index: int, dtype: type[np.floating]) -> Chunk:
        """Read a row of a batch in place."""
        buffers = {name: batch.column(name)[index].as_buffer() for name in _BINARY}
        weights = buffers["weights"]
        return cls(
            {side: from_bytes(buffers[f"{side}_ids"]) for side in ("user", "item")},
            {side: np.frombuffer(buffers[side], np.int32) for side in ("user", "item")},
            np.frombuffer(buffers["ratings"], dtype),
            None if weights is None else np.frombuffer(weights, dtype),
        )


def read_chunks(ratings: DataFrame, dtype: type[np.floating]) -> DataFrame:
    """Encode ``user, item, rating double[, weight double][, held_out boolean]`` as cached chunks.

    The first job over them reads the ratings.
    """
    schema = from_arrow_schema(_SCHEMA)
    return ratings.mapInArrow(with_frozen_gc(encode(dtype)), schema).persist()


def encode_on_driver(ratings: pa.Table, dtype: type[np.floating]) -> pa.Table:
    """Encode ratings that are in memory, in threads."""
    task = encode(dtype)
    parts = (ratings.slice(first, _CHUNK) for first in range(0, len(ratings), _CHUNK))
    chunks = map_in_threads(lambda part: list(task(iter(part.to_batches()))), parts)
    return pa.Table.from_batches([chunk for part in chunks for chunk in part], _SCHEMA)


def check_chunks(reports: pa.Table, dtype: type[np.floating], *, has_validation: bool) -> Checked:
    """Raise `RatingsError` if there is a value that cannot be used, or nothing to train on.

    Takes at least the columns `REPORT` of chunks.
    """
    rows = int(pc.sum(reports["rows"]).as_py() or 0)
    counts = np.zeros(len(_PROBLEMS), np.int64)
    for problems in reports["problems"].to_pylist():
        counts += problems
    found = [f"{n:,} {name}" for n, name in zip(counts.tolist(), _PROBLEMS, strict=True) if n]
    if found:
        raise RatingsError(
            f"the ratings have {' and '.join(found)} in {rows:,} rows; drop or fill them before fit"
        )
    train = reports.filter(pc.invert(reports["held_out"]))
    if not len(train):
        held = " that are not held out for validation" if rows else ""
        raise RatingsError(f"there are no ratings to train on{held}; at least one is needed")
    if has_validation and len(train) == len(reports):
        raise RatingsError(
            f"the column of validationIndicatorCol is false in all {rows:,} rows; hold "
            "some ratings out for validation, or unset it"
        )
    least, most = pc.min(train["minimum"]).as_py(), pc.max(train["maximum"]).as_py()
    return check_range(Checked(rows, least, most), dtype)


def check_range(checked: Checked, dtype: type[np.floating]) -> Checked:
    """Refuse ratings whose sums of squares could overflow in the type of the factors."""
    great, most = max(map(abs, checked[1:])), float(np.finfo(dtype).max) ** 0.4
    if great > most:
        raise RatingsError(
            f"ratings reach {great:.3g} in size, and sums of their squares would overflow in "
            f"{np.dtype(dtype)}, which takes ratings up to {most:.0e}: divide them, or refuse "
            "such rows (ratings.minimum and ratings.maximum)"
        )
    return checked


def ids_of(side: str) -> Task:
    """Return a task that yields ``id, count`` of each chunk."""

    def ids(batches: Batches) -> Batches:
        for batch in batches:
            for buffer in batch.column(f"{side}_ids"):
                yield from from_bytes(buffer.as_buffer()).to_batches()

    return ids


def encode(dtype: type[np.floating]) -> Task:
    """Return a task that encodes ratings as chunks."""

    def task(batches: Batches) -> Batches:
        for table in combined(batches, _CHUNK_BYTES, _CHUNK):
            problems = _problems(table)
            if any(problems):  # these end the fit
                yield _record(rows=len(table), held_out=False, problems=problems)
                continue
            parts = {False: table}
            if "held_out" in table.column_names:
                chosen = table["held_out"]
                parts = {False: table.filter(pc.invert(chosen)), True: table.filter(chosen)}
            for held_out, part in parts.items():
                if len(part):
                    chunk = _chunk(part, dtype)
                    yield _record(rows=len(part), held_out=held_out, problems=problems, **chunk)

    return task


def _record(**fields: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([fields], _SCHEMA)


def _problems(table: pa.Table) -> list[int]:
    """Count unusable values, in the order of `_PROBLEMS`."""
    nulls = {name: table[name].null_count for name in table.column_names}
    rating = table["rating"].to_numpy()  # in which a null is a NaN
    counts = [nulls["user"], nulls["item"], nulls["rating"]]
    counts.append(int(np.count_nonzero(~np.isfinite(rating))) - nulls["rating"])
    weights = [0, 0]
    if "weight" in nulls:
        weight = table["weight"].to_numpy()
        usable = np.isfinite(weight) & (weight >= 0)
        weights = [nulls["weight"], int(np.count_nonzero(~usable)) - nulls["weight"]]
    return [*counts, *weights, nulls.get("held_out", 0)]


def _chunk(table: pa.Table, dtype: type[np.floating]) -> dict[str, Any]:
    ratings = table["rating"].to_numpy()
    fields: dict[str, Any] = {"minimum": ratings.min(), "maximum": ratings.max()}
    with np.errstate(over="ignore"):  # the range check refuses ratings too large for the type
        fields["ratings"] = ratings.astype(dtype).tobytes()
        if "weight" in table.column_names:
            fields["weights"] = table["weight"].to_numpy().astype(dtype).tobytes()
    for side in ("user", "item"):
        encoded = table[side].combine_chunks().dictionary_encode()
        places, ids = encoded.indices.to_numpy(), encoded.dictionary
        counts = np.bincount(places, minlength=len(ids))
        fields[side] = places.astype(np.int32, copy=False).tobytes()
        fields[f"{side}_ids"] = to_bytes(pa.table({"id": ids, "count": counts.astype(np.int64)}))
    return fields


def collect_ids(chunks: DataFrame, side: str, kind: str, blocks: int | None = None) -> IdIndex:
    """Index the ids of training ratings, in one job."""
    train, schema = chunks.where("not held_out"), f"id {kind}, count bigint"
    ids = train.mapInArrow(with_frozen_gc(ids_of(side)), schema)
    return index_chunk_ids(
        chunks.sparkSession, ids.groupBy("id").agg(F.sum("count").alias("count")).toArrow(), blocks
    )


def index_chunk_ids(spark: SparkSession, counted: pa.Table, blocks: int | None) -> IdIndex:
    """Index ids with their ``count``, in the default number of blocks unless another is given."""
    return index_ids(counted, blocks or default_blocks(spark, pc.sum(counted["count"]).as_py()))


Lookups = Value[Mapping[str, IdIndex]]
"""The indices and blocks of the ids in each of two columns."""
_Transform = Callable[[RatingBlock], RatingBlock]


# Some ratings of a block, a place in each array for every rating.
_PIECE = ("rows", "columns", "ratings", "weights")

_BLOCK = tuple(name for name in RatingBlock._fields if name != "padded")
_TYPES = {"rows": np.int32, "offsets": np.int64, "columns": np.int32, "degrees": np.float64}


class PackingSide(NamedTuple):
    """The rows of the blocks, and the columns that name them."""

    # names of the columns with the dense index of the side itself and of the other side, or with
    # their ids
    row: str
    column: str
    block: str | None  # name of the column with the block; None where the others hold ids
    blocks: int  # number of blocks
    parts: int = 0  # additional blocks of each long row, for its parts; 0 leaves it in one block
    long: int = 0  # number of long rows
    first: int = 0  # number of the first block


def pack_blocks(
    ratings: DataFrame,
    side: PackingSide,
    dtype: type[np.floating],
    transform: _Transform | None = None,
    lookups: Lookups | None = None,
) -> DataFrame:
    """Pack ratings into blocks, each on a partition of its own.

    Takes chunks of ratings with their lookups, or else what `triples` takes.  Only packed pieces
    are shuffled, which takes a third of the time that ratings would.  Returns ``block int`` and the
    fields of `RatingBlock` as binary columns, not cached.  The bytes of a block depend on its
    ratings only, and not on the partitions of `ratings`.
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
    long: Longs,
    columns: int,
    dtype: type[np.floating],
    transform: _Transform | None = None,
) -> DataFrame:
    """Pack ratings as `pack_in_place` does, but the parts of long rows into blocks of their own."""
    parts = parts_of(columns)
    place = F.array_position(F.array(*map(F.lit, long.tolist())), F.col(side.row).cast("long")) - 1
    others = pack_in_place(ratings.where(place < 0), side, dtype, transform)
    block = side.blocks + place * parts + F.floor(F.col(side.column) / SPAN)
    divided = ratings.where(place >= 0).withColumn("block", block)
    of_parts = PackingSide(side.row, side.column, "block", len(long) * parts, first=side.blocks)
    return others.union(pack_blocks(divided, of_parts, dtype, transform))


def pack_locally(
    ratings: Iterable[pa.RecordBatch],
    side: PackingSide,
    dtype: type[np.floating],
    transform: _Transform | None = None,
    lookups: Mapping[str, IdIndex] | None = None,
) -> list[pa.RecordBatch]:
    """Pack ratings that are in memory, in threads, into the bytes that `pack_blocks` makes."""
    cut = _cut(dtype, side, None if lookups is None else LocalValue(lookups))
    join = _join(dtype, transform)
    pieces: dict[int, list[pa.RecordBatch]] = {}
    for part in map_in_threads(lambda batch: list(cut(iter([batch]))), ratings):
        for piece in part:
            pieces.setdefault(piece["block"][0].as_py(), []).append(piece)
    blocks = map_in_threads(lambda block: list(join(iter(pieces.pop(block)))), sorted(pieces))
    return [block for of_task in blocks for block in of_task]


def unpack(batch: pa.RecordBatch, dtype: type[np.floating]) -> Iterator[RatingBlock]:
    """Read the blocks of a batch in place."""
    for index in range(len(batch)):
        yield RatingBlock(*_arrays(batch, index, _BLOCK, dtype))


def triples(ratings: DataFrame, side: PackingSide) -> DataFrame:
    """Choose ``block, rows, columns, ratings double, weights double``.

    Rows and columns are ids if the side has no blocks yet.  A null index is an id that training
    does not know: it becomes -1.
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


def triples_batch(ratings: pa.Table, side: PackingSide) -> pa.RecordBatch:
    """Choose what `triples` does, of ratings in memory with the block of each."""
    n = len(ratings)
    weights = ratings["weight"] if "weight" in ratings.column_names else pa.nulls(n, pa.float64())
    chosen = {
        "block": pc.fill_null(ratings["block"], 0),
        "rows": pc.fill_null(ratings[side.row], -1),
        "columns": pc.fill_null(ratings[side.column], -1),
        "ratings": ratings["rating"],
        "weights": weights,
    }
    [batch] = pa.table(chosen).combine_chunks().to_batches()
    return batch


def _cut(dtype: type[np.floating], side: PackingSide, lookups: Lookups | None = None) -> Task:
    """Return a task that cuts the ratings of a partition into pieces of one block each."""

    def cut(batches: Batches) -> Batches:
        if lookups is None:
            parts = _indexed(batches, dtype)
        else:
            parts = _found(batches, dtype, side, lookups)
        for block, *arrays in parts:
            if block[0] == block[-1] and (block == block[0]).all():  # of one file, say
                yield binary_row({"block": int(block[0])}, dict(zip(_PIECE, arrays, strict=True)))
                continue
            order = counting_order(block)
            starts = np.flatnonzero(np.append(True, np.diff(block[order])))
            for members in np.split(order, starts[1:]):
                taken = [None if values is None else values[members] for values in arrays]
                number = int(block[members[0]])
                yield binary_row({"block": number}, dict(zip(_PIECE, taken, strict=True)))

    return cut


def _indexed(batches: Batches, dtype: type[np.floating]) -> Iterator[Sequence[Any]]:
    """Yield block, row, column, rating and weight of what `triples` has chosen."""
    for table in combined(batches, _CHUNK_BYTES, _CHUNK):
        weights = table["weights"]
        yield (
            *(table[name].to_numpy() for name in ("block", "rows", "columns")),
            table["ratings"].to_numpy().astype(dtype),
            None if weights.null_count else weights.to_numpy().astype(dtype),
        )


def _found(
    batches: Batches, dtype: type[np.floating], side: PackingSide, lookups: Lookups
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


def _join(dtype: type[np.floating], transform: _Transform | None) -> Task:
    """Return a task that joins the pieces of a partition into sorted blocks."""

    def join(batches: Batches) -> Batches:
        pieces: dict[int, list[list[NDArray[Any]]]] = {}
        for batch in batches:
            for index, block in enumerate(batch.column("block").to_pylist()):
                pieces.setdefault(block, []).append(_arrays(batch, index, _PIECE, dtype))
        for number in sorted(pieces):
            parts = zip(*pieces.pop(number), strict=True)
            whole: list[Any] = [None if of[0] is None else np.concatenate(of) for of in parts]
            block = RatingBlock.from_triples(*whole, dtype=dtype)
            block = transform(block) if transform else block
            yield binary_row({"block": number}, {name: getattr(block, name) for name in _BLOCK})

    return join


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


_SUMS = ("degrees", "weights", "sums", "squares")


def row_sums(packed: BlockStore, rows: int, dtype: type[np.floating]) -> dict[str, Any]:
    """Add up the ratings of each row, in a first pass over the blocks, which fills the cache.

    Returns `_SUMS`, float64 arrays of shape (m,) in the order of the indices, the last two of w R
    and w R², and ``counts`` and ``duplicates``, the numbers of ratings and of repeated pairs.
    """
    parts = packed.run(_sums(dtype)).to_pylist()
    seen = [part["block"] for part in parts]
    if len(set(seen)) < len(seen):
        raise RatingsError(
            "a block of the prepared ratings is in several files or row groups; "
            "prepare the ratings again"
        )
    whole: dict[str, Any] = {name: np.zeros(rows) for name in _SUMS}
    for part in sorted(parts, key=itemgetter("block")):
        index = np.frombuffer(part["rows"], np.int32)
        for name in _SUMS:
            whole[name][index] += np.frombuffer(part[name])  # parts of a long row, in order
    for name in ("counts", "duplicates"):
        whole[name] = sum(part[name] for part in parts)
    return whole


def _sums(dtype: type[np.floating]) -> Task:
    def sums(batches: Batches) -> Batches:
        for batch in batches:
            numbers = batch.column("block").to_pylist()
            for number, block in zip(numbers, unpack(batch, dtype), strict=True):
                ones = np.ones(len(block.ratings)) if block.weights is None else block.weights
                arrays: dict[str, NDArray[Any]] = {
                    "rows": block.rows,
                    "degrees": block.degrees,
                    "weights": block.total_weights(),
                    "sums": block.over_rows(ones * block.ratings),
                    "squares": block.over_rows(ones * block.ratings.astype(np.float64) ** 2),
                }
                counts = {"counts": len(ones), "duplicates": block.duplicates}
                yield binary_row({"block": number, **counts}, arrays)

    return sums
