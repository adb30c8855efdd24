"""Ratings to packed blocks: a batch of one row for each block, with its arrays as binary columns.

A row for each rating would be converted to Arrow, and back to arrays, in every half-step; a Python
worker reads the few buffers of a packed block in place.  So ratings are converted once, for both
sides, into cached chunks of a few buffers, in which each id occurs once.  All ids are then given
dense indices and blocks in memory: a fit holds a row for each anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from nonconvex.distributed.connect import LocalValue
from nonconvex.distributed.data.ids import IdIndex, default_blocks, index_ids
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.execution import (
    BlockStore,
    Elements,
    batches_of,
    cache_blocks,
    frame_of,
    map_elements,
    number_of_tasks,
    shuffle_pieces,
)
from nonconvex.distributed.runtime import (
    Batches,
    Task,
    UnreadableError,
    Value,
    begun,
    binary_row,
    collectable_bytes,
    combined,
    from_bytes,
    map_batches,
    map_in_threads,
    to_bytes,
)
from nonconvex.numerics import Floats, Ints
from nonconvex.numerics.deterministic import Kernel, choose_kernel
from nonconvex.numerics.factorization.blocks import RatingBlock, counting_order

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

# Some ratings of a block, a place in each array for every rating.
_PIECE = ("rows", "columns", "ratings", "weights")
_BLOCK = tuple(name for name in RatingBlock._fields if name != "padded")
_TYPES = {"rows": np.int32, "offsets": np.int64, "columns": np.int32, "degrees": np.float64}

Lookups = Value[Mapping[str, IdIndex]]
"""The indices and blocks of the ids in each of two columns."""
_Transform = Callable[[RatingBlock], RatingBlock]
_Kept = Literal["all", "whole rows", "parts of rows"]

_SUMS = ("degrees", "weights", "sums", "squares")


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


def read_chunks(
    ratings: DataFrame, dtype: type[np.floating], *, in_files: bool = True
) -> BlockStore:
    """Encode ``user, item, rating double[, weight double][, held_out boolean]`` as cached chunks.

    The first job over them reads the ratings.  If a task cannot read a file, `survey_chunks` says
    so, and the caller reads again, not `in_files`.
    """

    def task(batches: Batches) -> Batches:
        try:
            yield from encode(dtype)(batches)
        except UnreadableError:
            yield _record(held_out=False, rows=0)

    frame = map_batches(ratings, task, from_arrow_schema(_SCHEMA), in_files=in_files)
    return cache_blocks(ratings.sparkSession, batches_of(frame, _SCHEMA))


class Survey(NamedTuple):
    """Reports on chunks, and the ids of the training ratings."""

    reports: pa.Table  # the columns `REPORT` of each chunk
    # for ``"user"`` and ``"item"``: ``id, count``, an id several times; None if they are too many
    ids: dict[str, pa.Table] | None


def survey_chunks(chunks: BlockStore) -> Survey | None:
    """Collect reports and ids in one job; None if a task could not read a file."""
    most = collectable_bytes(chunks.session) // number_of_tasks(chunks.batches)
    found = chunks.run(_survey(most))
    of_chunk = pc.is_valid(found["held_out"])
    reports = found.filter(of_chunk).select(REPORT)
    if reports["problems"].null_count:
        return None
    ids = {}
    for side in ("user", "item"):
        of_tasks = found.filter(pc.invert(of_chunk))[f"{side}_ids"]
        if of_tasks.null_count:
            return Survey(reports, None)
        tables = [from_bytes(content.as_buffer()) for content in of_tasks]
        ids[side] = pa.concat_tables(tables) if tables else pa.table({"id": [], "count": []})
    return Survey(reports, ids)


def _survey(most: int) -> Task:
    """Return a task that yields reports, and then its ids unless they take too many bytes."""

    def survey(batches: Batches) -> Batches:
        held: dict[str, list[pa.Table]] = {"user": [], "item": []}
        for batch in batches:
            yield batch.select([*REPORT, "user_ids", "item_ids"])
            train = batch.filter(pc.invert(batch["held_out"]))
            for side, tables in held.items():
                tables += map(from_bytes, _buffers(train[f"{side}_ids"].drop_null()))
        merged = {side: to_bytes(sum_counts(tables)) for side, tables in held.items() if tables}
        if merged:
            few = sum(map(len, merged.values())) <= most
            fields = {f"{side}_ids": ids if few else None for side, ids in merged.items()}
            yield _record(**fields).select([*REPORT, "user_ids", "item_ids"])

    return survey


def sum_counts(tables: Sequence[pa.Table]) -> pa.Table:
    """Return ``id, count`` of tables of these, each id once."""
    grouped = pa.concat_tables(tables).group_by("id").aggregate([("count", "sum")])
    return grouped.rename_columns(["id", "count"])


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


def collect_ids(chunks: BlockStore, side: str, kind: str) -> pa.Table:
    """Return ``id, count`` of training ratings, each id once; the executors add them up."""

    def ids(batches: Batches) -> Batches:
        for batch in batches:
            for buffer in _buffers(batch.filter(pc.invert(batch["held_out"]))["ids"]):
                yield from from_bytes(buffer).to_batches()

    columns = ["held_out", f"{side}_ids"]
    encoded = frame_of(chunks.session, chunks.batches, columns, "held_out boolean, ids binary")
    counted = encoded.mapInArrow(begun(ids), f"id {kind}, count bigint")
    return counted.groupBy("id").agg(F.sum("count").alias("count")).toArrow()


def index_chunk_ids(spark: SparkSession, counted: pa.Table, blocks: int | None) -> IdIndex:
    """Index ids with their ``count``, in the default number of blocks unless another is given."""
    return index_ids(counted, blocks or default_blocks(spark, pc.sum(counted["count"]).as_py()))


def _buffers(column: pa.Array) -> Iterator[pa.Buffer]:
    return (value.as_buffer() for value in column)


class PackingSide(NamedTuple):
    """The rows of the blocks, and the columns that name them."""

    # names of the lookups of the side itself and of the other side
    row: str
    column: str
    blocks: int  # number of blocks
    parts: int = 0  # additional blocks of each long row, for its parts; 0 leaves it in one block
    long: int = 0  # number of long rows
    kernel: Kernel = "numpy"  # the one that sorts ratings; blocks have the same bytes

    @property
    def partitions(self) -> int:
        """Number of blocks, those of parts included."""
        return self.blocks + self.parts * self.long


def pack_blocks(
    chunks: BlockStore,
    side: PackingSide,
    dtype: type[np.floating],
    lookups: Lookups,
    transform: _Transform | None = None,
    *,
    held_out: bool = False,
) -> BlockStore:
    """Pack chunks of ratings into blocks, each on a partition of its own.

    Only packed pieces are shuffled, which takes a third of the time that ratings would.  A block
    has its number and the fields of `RatingBlock` as binary columns.  Its bytes depend on its
    ratings only, and not on the partitions of `chunks`.
    """
    pieces = map_elements(chunks.batches, _cut_chunks(dtype, side, lookups, held_out))
    joined = shuffle_pieces(pieces, _join(dtype, transform, side.kernel), side.partitions)
    return cache_blocks(chunks.session, joined, side.blocks if side.parts else None)


def pack_in_place(
    ratings: DataFrame,
    side: PackingSide,
    dtype: type[np.floating],
    lookups: Lookups,
    transform: _Transform | None = None,
) -> BlockStore:
    """Pack ratings whose blocks already lie each within one partition; nothing is shuffled.

    Takes what `triples` takes, and returns what `pack_blocks` does, but for the parts of long rows,
    which are shuffled to blocks of their own.  A block that lies in several partitions would come
    out in several batches: the caller checks that.
    """
    kept: _Kept = "whole rows" if side.parts else "all"
    cut, join = _cut_triples(dtype, side, lookups, kept), _join(dtype, transform, side.kernel)
    frame = map_batches(ratings, lambda batches: join(cut(batches)), _sql(_BLOCK))
    batches = batches_of(frame, _fields(_BLOCK))
    if side.parts:
        parts = _pieces(ratings, side, dtype, lookups, "parts of rows")
        number = side.partitions - side.blocks
        batches = batches.union(shuffle_pieces(parts, join, number, first=side.blocks))
    return cache_blocks(ratings.sparkSession, batches, side.blocks if side.parts else None)


def pack_triples(
    ratings: DataFrame, side: PackingSide, dtype: type[np.floating], lookups: Lookups
) -> BlockStore:
    """Pack what `triples` takes into blocks, wherever the ratings are."""
    pieces = _pieces(ratings, side, dtype, lookups)
    joined = shuffle_pieces(pieces, _join(dtype, None, side.kernel), side.blocks)
    return cache_blocks(ratings.sparkSession, joined)


def _pieces(
    ratings: DataFrame,
    side: PackingSide,
    dtype: type[np.floating],
    lookups: Lookups,
    kept: _Kept = "all",
) -> Elements:
    cut = _cut_triples(dtype, side, lookups, kept)
    return batches_of(map_batches(ratings, cut, _sql(_PIECE)), _fields(_PIECE))


def pack_locally(
    ratings: Iterable[pa.RecordBatch],
    side: PackingSide,
    dtype: type[np.floating],
    lookups: Mapping[str, IdIndex],
    transform: _Transform | None = None,
    *,
    held_out: bool | None = None,
) -> list[pa.RecordBatch]:
    """Pack ratings that are in memory, in threads, into the bytes that executors make.

    Takes batches of chunks, training or `held_out` ones, or else of what `triples` takes.
    """
    shared = LocalValue(lookups)
    if held_out is None:
        cut = _cut_triples(dtype, side, shared)
    else:
        cut = _cut_chunks(dtype, side, shared, held_out)
    join = _join(dtype, transform, side.kernel)
    pieces: dict[int, list[pa.RecordBatch]] = {}
    for part in map_in_threads(lambda batch: list(cut(iter([batch]))), ratings):
        for piece in part:
            pieces.setdefault(piece["block"][0].as_py(), []).append(piece)
    blocks = map_in_threads(lambda block: list(join(iter(pieces.pop(block)))), sorted(pieces))
    return [block for of_task in blocks for block in of_task]


def unpack(batches: Batches, dtype: type[np.floating]) -> Iterator[tuple[int, RatingBlock]]:
    """Read the blocks of batches in place, each with its number."""
    for batch in batches:
        for index, number in enumerate(batch.column("block").to_pylist()):
            yield number, RatingBlock(*_arrays(batch, index, _BLOCK, dtype))


class _Triples(NamedTuple):
    """Some ratings by their dense indices, -1 for an id that training does not know."""

    rows: Ints
    columns: Ints
    ratings: Floats
    weights: Floats | None


def triples(batches: Batches, side: PackingSide, dtype: type[np.floating]) -> Iterator[_Triples]:
    """Read ratings with ``user_index int, item_index int, rating double[, weight double]``."""
    for table in combined(batches, _CHUNK_BYTES, _CHUNK):
        rows, columns = (
            pc.fill_null(table[f"{name}_index"], -1).to_numpy() for name in (side.row, side.column)
        )
        weighted = "weight" in table.column_names
        weights = table["weight"].to_numpy().astype(dtype) if weighted else None
        yield _Triples(rows, columns, table["rating"].to_numpy().astype(dtype), weights)


def _chunk_triples(
    batches: Batches, side: PackingSide, dtype: type[np.floating], lookups: Lookups, held_out: bool
) -> Iterator[_Triples]:
    """Look up the ids of chunks, of training or held-out ratings."""
    for batch in batches:
        for index, held in enumerate(batch["held_out"].to_pylist()):
            if batch["problems"][index].as_py() is None:  # read anew, after an executor was lost
                raise RatingsError("a file of the ratings has changed during the fit: fit again")
            if held != held_out:
                continue
            chunk = Chunk.read(batch, index, dtype)
            rows, columns = (
                lookups.value[name].indices_of(chunk.ids[name]["id"])[chunk.places[name]]
                for name in (side.row, side.column)
            )
            yield _Triples(rows, columns, chunk.ratings, chunk.weights)


def _cut_triples(
    dtype: type[np.floating], side: PackingSide, lookups: Lookups, kept: _Kept = "all"
) -> Task:
    """Return a task that cuts what `triples` takes into pieces of one block each."""
    return lambda batches: _cut(triples(batches, side, dtype), side, lookups.value, kept)


def _cut_chunks(
    dtype: type[np.floating], side: PackingSide, lookups: Lookups, held_out: bool
) -> Task:
    """Return a task that cuts chunks into pieces of one block each."""
    return lambda batches: _cut(
        _chunk_triples(batches, side, dtype, lookups, held_out), side, lookups.value
    )


def _cut(
    found: Iterable[_Triples],
    side: PackingSide,
    lookups: Mapping[str, IdIndex],
    kept: _Kept = "all",
) -> Batches:
    """Yield pieces of one block each."""
    own = lookups[side.row]
    for arrays in found:
        block = own.divided_blocks_of(arrays.rows, arrays.columns, side.parts)
        some: Sequence[Any] = arrays
        if kept != "all":
            chosen = (block >= side.blocks) == (kept == "parts of rows")
            block, some = block[chosen], [None if of is None else of[chosen] for of in arrays]
        if not len(block):
            continue
        if block[0] == block[-1] and (block == block[0]).all():  # of one file, say
            yield binary_row({"block": int(block[0])}, dict(zip(_PIECE, some, strict=True)))
            continue
        order = counting_order(block)
        starts = np.flatnonzero(np.append(True, np.diff(block[order])))
        for members in np.split(order, starts[1:]):
            taken = [None if values is None else values[members] for values in some]
            number = int(block[members[0]])
            yield binary_row({"block": number}, dict(zip(_PIECE, taken, strict=True)))


def _join(dtype: type[np.floating], transform: _Transform | None, kernel: Kernel) -> Task:
    """Return a task that joins the pieces of a partition into sorted blocks."""

    def join(batches: Batches) -> Batches:
        # An executor without numba packs the same bytes; the fit refuses it afterwards.
        own = choose_kernel("auto") if kernel == "compiled" else kernel
        pieces: dict[int, list[list[NDArray[Any]]]] = {}
        for batch in batches:
            for index, block in enumerate(batch.column("block").to_pylist()):
                pieces.setdefault(block, []).append(_arrays(batch, index, _PIECE, dtype))
        for number in sorted(pieces):
            parts = zip(*pieces.pop(number), strict=True)
            whole: list[Any] = [None if of[0] is None else np.concatenate(of) for of in parts]
            block = RatingBlock.from_triples(*whole, dtype=dtype, kernel=own)
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


def _fields(names: tuple[str, ...]) -> pa.Schema:
    return pa.schema([("block", pa.int32()), *((name, pa.binary()) for name in names)])


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
        for number, block in unpack(batches, dtype):
            ones = np.ones(len(block.ratings)) if block.weights is None else block.weights
            with np.errstate(over="ignore", invalid="ignore"):  # of weights, refused later
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
