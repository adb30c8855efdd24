"""Dense indices 0 … m−1 of ids, in ascending order, and blocks with about as many ratings each."""

from collections.abc import Iterator, Mapping
from math import ceil
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.runtime import parallelism
from nonconvex.numerics import Ints, Longs
from nonconvex.numerics.factorization.blocks import LONG, part_of

RATINGS_PER_BLOCK = 2_000_000
"""Most ratings of a block by default: some 20 MB, read and solved by a task in a second."""

_MOST_IDS = 2**31 - 1  # an index is of 32 bits


class IdIndex(NamedTuple):
    """The ids of one side, with their dense indices and blocks."""

    # ``id, index int, count long, block int``, one row for each id, in ascending order
    table: pa.Table
    blocks: int  # number of blocks, some of which may be empty

    @property
    def ids(self) -> pa.ChunkedArray:
        """The ids, in ascending order."""
        return self.table["id"]

    @property
    def long(self) -> Longs:
        """The indices of ids with more ratings than `LONG`, ascending."""
        return np.flatnonzero(self.table["count"].to_numpy() > LONG)

    def indices_of(self, ids: pa.Array | pa.ChunkedArray) -> Ints:
        """Return the dense index of each id, -1 for one that is not there."""
        found = pc.index_in(ids, value_set=self.ids.cast(ids.type))
        return np.asarray(pc.fill_null(found, -1), np.int32)

    def blocks_of(self, index: Ints) -> Ints:
        """Return the block of each dense index, 0 for -1."""
        return np.where(index < 0, np.int32(0), self.table["block"].to_numpy()[index])

    def divided_blocks_of(self, index: Ints, column: Ints, parts: int) -> Ints:
        """Return the block of each rating (n,), with a block of its own for a part of a long row.

        Takes the dense indices of this side and of the other.
        """
        block = self.blocks_of(index)
        long = self.long if parts else ()
        if not len(long):
            return block
        place = np.minimum(np.searchsorted(long, index), len(long) - 1)
        of_part = self.blocks + place.astype(np.int32) * np.int32(parts) + part_of(column)
        return np.where(long[place] == index, of_part, block)

    def cut(self, rows: Longs) -> Iterator[tuple[int, Longs]]:
        """Cut the rows of all ratings, in the order of the indices, into those of each block."""
        counts, block = self.table["count"].to_numpy(), self.table["block"].to_numpy()
        first = np.flatnonzero(np.diff(block, prepend=-1))
        before = (np.cumsum(counts) - counts)[first]
        return zip(block[first].tolist(), np.split(rows, before[1:]), strict=True)


def index_ids(counted: pa.Table, blocks: int, column: str = "id") -> IdIndex:
    """Give every id a dense index and a block, which depend on the ratings alone.

    Takes ``id, count`` of the training ratings.  With n ratings and B blocks, an id with c ratings
    of smaller ids is in block ⌊c B / n⌋: blocks are ranges of indices with n / B ratings each, up
    to those of one id.
    """
    if blocks < 1:
        raise ValueError(f"the number of blocks must be at least 1, got {blocks}")
    if len(counted) > _MOST_IDS:
        raise RatingsError(
            f"column {column!r} has {len(counted):,} different ids, and at most {_MOST_IDS:,} can "
            "be indexed: drop ids with few ratings"
        )
    counted = counted.take(pc.sort_indices(counted["id"]))
    counts = counted["count"].to_numpy()
    before = np.cumsum(counts) - counts
    columns = {
        "id": pa.chunked_array([counted["id"].combine_chunks()], counted["id"].type),
        "index": np.arange(len(counts), dtype=np.int32),
        "count": counted["count"],
        "block": (before * blocks // max(counts.sum(), 1)).astype(np.int32),
    }
    return IdIndex(pa.table(columns), blocks)


def default_blocks(spark: SparkSession, rows: int) -> int:
    """Return a number of blocks of at most `RATINGS_PER_BLOCK` each, as many for every core."""
    cores = parallelism(spark)
    return cores * max(ceil(rows / (RATINGS_PER_BLOCK * cores)), 1)


def attach_indices(ratings: DataFrame, indices: Mapping[str, IdIndex]) -> DataFrame:
    """Add ``user_index, user_block, item_index, item_block`` to ratings, null for unknown ids."""
    for side, index in indices.items():
        names = {"id": side, "index": f"{side}_index", "block": f"{side}_block"}
        table = index.table.select(list(names)).rename_columns(list(names.values()))
        known = ratings.sparkSession.createDataFrame(table)
        ratings = ratings.join(known, on=side, how="left")
    return ratings


def encode_ids(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """Return the distinct ids, ascending, and the place of the id of each row among them."""
    encoded = column.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    place = np.empty(len(order), np.int32)
    place[order.to_numpy()] = np.arange(len(order))
    return encoded.dictionary.take(order), place[encoded.indices.to_numpy()]
