"""Ratings read once: checked, and cut into chunks of a few buffers, in which an id stands once.

To turn the rows of a table into Arrow takes longer than anything that packing does with them, so
it is done once, for both sides; what is cached is a third of the table's size.

Ids to dense indices in memory: for a fit, which holds all ids and a row for each anyway.

`nonconvex.distributed.data.ids` does the same for ratings that are prepared once, on no single
machine, by shuffles and joins; these take a second even of a thousand ratings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.data.ids import default_blocks
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.runtime import from_bytes, to_bytes, with_frozen_gc
from nonconvex.numerics.factorization.blocks import LONG, part_of

__all__ = [
    "Checked",
    "Chunk",
    "IdLookup",
    "check_chunks",
    "collect_ids",
    "count_ids",
    "encode",
    "gathered",
    "ids_of",
    "look_up",
    "read_chunks",
]

_Batches = Iterator[pa.RecordBatch]

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
_SQL = (
    "held_out boolean, rows bigint, minimum double, maximum double, problems array<bigint>, "
    + ", ".join(f"{name} binary" for name in _BINARY)
)


class Checked(NamedTuple):
    """What was seen of the ratings.

    Attributes
    ----------
    rows : int
        Number of ratings.
    minimum, maximum : float
        Of those to train on.
    """

    rows: int
    minimum: float
    maximum: float


class Chunk(NamedTuple):
    """Some ratings, in the order in which they were read.

    Attributes
    ----------
    ids : dict of str to Arrow table
        For ``"user"`` and ``"item"``: ``id, count``, each id that is there and its ratings.
    places : dict of str to int32 array of shape (n,)
        Where the id of each rating stands in these.
    ratings : float array of shape (n,)
    weights : float array of shape (n,) or None
    """

    ids: dict[str, pa.Table]
    places: dict[str, NDArray[np.int32]]
    ratings: NDArray[np.floating]
    weights: NDArray[np.floating] | None

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
    """Cut ratings into chunks, which are cached; the first job over them reads the ratings.

    Parameters
    ----------
    ratings : DataFrame
        ``user``, ``item``, ``rating double``, and where there are any ``weight double`` and
        ``held_out boolean``, which says what is not to train on.
    dtype : float type
        Of ratings and weights in the chunks.

    Returns
    -------
    DataFrame
        A row for each chunk, whose ratings are either all to train on or all held out; for
        `Chunk.read` once `check_chunks` has found nothing.
    """
    return ratings.mapInArrow(with_frozen_gc(encode(dtype)), _SQL).persist()


def check_chunks(chunks: DataFrame, *, validated: bool) -> Checked:
    """Raise `RatingsError` if there is a value that cannot be used, or nothing to train on.

    Parameters
    ----------
    chunks : DataFrame
    validated : bool
        Whether some ratings are to be held out.
    """
    reports = chunks.select(_SCHEMA.names[:5]).toArrow()
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
    if validated and len(train) == len(reports):
        raise RatingsError(
            f"the column of validationIndicatorCol is false in all {rows:,} rows; hold "
            "some ratings out for validation, or unset it"
        )
    return Checked(rows, pc.min(train["minimum"]).as_py(), pc.max(train["maximum"]).as_py())


def count_ids(chunks: DataFrame, side: str, kind: str) -> pa.Table:
    """Count the ratings of each id, over all chunks to train on.

    Parameters
    ----------
    chunks : DataFrame
    side : {"user", "item"}
    kind : str
        The SQL type of the ids.

    Returns
    -------
    Arrow table
        ``id, count``, in any order.
    """
    ids = chunks.where("not held_out").mapInArrow(
        with_frozen_gc(ids_of(side)), f"id {kind}, count bigint"
    )
    return ids.groupBy("id").agg(F.sum("count").alias("count")).toArrow()


def ids_of(side: str) -> Callable[[_Batches], _Batches]:
    """Return what yields ``id, count`` of each chunk."""

    def ids(batches: _Batches) -> _Batches:
        for batch in batches:
            for buffer in batch.column(f"{side}_ids"):
                yield from from_bytes(buffer.as_buffer()).to_batches()

    return ids


def gathered(batches: _Batches, rows: int = _CHUNK) -> Iterator[pa.Table]:
    """Put batches together until they have that many rows, or are very large."""
    held: list[pa.RecordBatch] = []
    length = size = 0
    for batch in batches:
        if not len(batch):
            continue
        held.append(batch)
        length, size = length + len(batch), size + batch.nbytes
        if length >= rows or size >= _CHUNK_BYTES:
            yield pa.Table.from_batches(held)
            held, length, size = [], 0, 0
    if held:
        yield pa.Table.from_batches(held)


def encode(dtype: type[np.floating]) -> Callable[[_Batches], _Batches]:
    """Return what cuts ratings, as for `read_chunks`, into the rows that a chunk is."""

    def task(batches: _Batches) -> _Batches:
        for table in gathered(batches):
            problems = _problems(table)
            if any(problems):  # which end the fit, whatever else there is
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
    """Count what cannot be used, in the order of the names."""
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
    with np.errstate(over="ignore"):  # ratings too great for the type are refused by the range
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


class IdLookup(NamedTuple):
    """The ids of one side in the order of their dense indices.

    Attributes
    ----------
    ids : Arrow array of shape (m,)
        In ascending order.
    block : int32 array of shape (m,)
        The block of each id.
    blocks : int
        Number of blocks, some of which may be empty.
    long : int64 array
        The indices of ids with more ratings than `numerics.factorization.blocks.LONG`, ascending.
    """

    ids: pa.ChunkedArray
    block: NDArray[np.int32]
    blocks: int
    long: NDArray[np.int64]

    def indices_of(self, ids: pa.ChunkedArray) -> NDArray[np.int32]:
        """Return the dense index of each id, -1 for one that is not there."""
        found = pc.index_in(ids, value_set=self.ids.cast(ids.type))
        return np.asarray(pc.fill_null(found, -1), np.int32)

    def blocks_of(self, index: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the block of each dense index, 0 for -1."""
        return np.where(index < 0, np.int32(0), self.block[index])

    def divided_blocks_of(
        self, index: NDArray[np.int32], column: NDArray[np.int32], parts: int
    ) -> NDArray[np.int32]:
        """Return the block of each rating, where each part of a long row has a block of its own.

        Parameters
        ----------
        index, column : int32 arrays of shape (n,)
            Dense indices of this side and of the other.
        parts : int
            How many parts each long row has; their blocks come behind all others.
        """
        block = self.blocks_of(index)
        if not len(self.long):
            return block
        place = np.minimum(np.searchsorted(self.long, index), len(self.long) - 1)
        of_part = self.blocks + place.astype(np.int32) * np.int32(parts) + part_of(column)
        return np.where(self.long[place] == index, of_part, block)


def collect_ids(chunks: DataFrame, side: str, kind: str, blocks: int | None = None) -> IdLookup:
    """Give every id the index and the block that `index_ids` gives it, in one job.

    Parameters
    ----------
    chunks : DataFrame
        From `read_chunks`, with at least one rating to train on.
    side : {"user", "item"}
    kind : str
        The SQL type of the ids.
    blocks : int, optional
        Number of blocks, at least 1; by default `default_blocks`.

    Examples
    --------
    >>> from nonconvex.distributed.factorization.encoding import read_chunks
    >>> chunks = read_chunks(ratings, np.float32)
    >>> items = collect_ids(chunks, "item", "string")
    >>> items.indices_of(pa.chunked_array([["Argo", "Alien"]]))
    array([ 0, -1], dtype=int32)
    >>> chunks = chunks.unpersist()
    """
    counted = count_ids(chunks, side, kind)
    rows = int(pc.sum(counted["count"]).as_py())
    return look_up(counted["id"], counted["count"], blocks or default_blocks(chunks, rows))


def look_up(ids: pa.ChunkedArray, counts: pa.ChunkedArray, blocks: int) -> IdLookup:
    """Give every id the index and the block that `index_ids` gives it.

    Parameters
    ----------
    ids : Arrow array of shape (m,)
        Distinct, in any order.
    counts : Arrow array of shape (m,)
        Number of ratings of each.
    blocks : int

    Examples
    --------
    >>> look_up(pa.chunked_array([["bob", "ann"]]), pa.chunked_array([[1, 3]]), 2).block
    array([0, 1], dtype=int32)
    """
    order = pc.sort_indices(ids)
    of_id = counts.take(order).to_numpy()
    rows = int(of_id.sum())
    before = np.cumsum(of_id) - of_id
    sorted_ids = pa.chunked_array([ids.take(order).combine_chunks()])
    block = (before * blocks // rows).astype(np.int32)
    return IdLookup(sorted_ids, block, blocks, np.flatnonzero(of_id > LONG))
