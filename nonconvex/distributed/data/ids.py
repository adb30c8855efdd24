"""Dense indices 0 … m−1 of ids, in ascending order, and blocks with about as many ratings each."""

from collections.abc import Iterator, Mapping
from math import ceil
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.runtime import parallelism

RATINGS_PER_BLOCK = 1_000_000
"""Default number of ratings in a block: some 20 MB, read and solved by a task in a second."""

_MOST_IDS = 2**31 - 1  # an index is of 32 bits


class IdIndex(NamedTuple):
    """The ids of one side, with their dense indices and blocks."""

    # ``id, index int, count long, block int``, one row for each id, in ascending order
    table: pa.Table
    blocks: int  # number of blocks, some of which may be empty

    def indices_of(self, ids: pa.Array) -> NDArray[np.int32]:
        """Return the dense index of each id, -1 for one that is not there."""
        return np.asarray(pc.fill_null(pc.index_in(ids, value_set=self.table["id"]), -1), np.int32)

    def cut(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Cut the rows of all ratings, in the order of the indices, into those of each block."""
        counts, block = self.table["count"].to_numpy(), self.table["block"].to_numpy()
        first = np.flatnonzero(np.diff(block, prepend=-1))
        before = (np.cumsum(counts) - counts)[first]
        return zip(block[first].tolist(), np.split(rows, before[1:]), strict=True)


def index_ids(counted: pa.Table, column: str, blocks: int) -> IdIndex:
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
        "id": counted["id"],
        "index": np.arange(len(counts), dtype=np.int32),
        "count": counted["count"],
        "block": (before * blocks // max(counts.sum(), 1)).astype(np.int32),
    }
    return IdIndex(pa.table(columns), blocks)


def default_blocks(ratings: DataFrame, rows: int) -> int:
    """Return a number of blocks with `RATINGS_PER_BLOCK` each, at least one for each core."""
    cores = parallelism(ratings.sparkSession)
    return max(ceil(rows / RATINGS_PER_BLOCK), cores)


def attach_indices(ratings: DataFrame, indices: Mapping[str, IdIndex]) -> DataFrame:
    """Add ``user_index, user_block, item_index, item_block`` to ratings, null for unknown ids."""
    for side, index in indices.items():
        names = {"id": side, "index": f"{side}_index", "block": f"{side}_block"}
        table = index.table.select(list(names)).rename_columns(list(names.values()))
        known = ratings.sparkSession.createDataFrame(table)
        ratings = ratings.join(known, on=side, how="left")
    return ratings


def encode_ids(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int32]]:
    """Return the distinct ids, ascending, and the place of the id of each row among them."""
    encoded = column.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    place = np.empty(len(order), np.int32)
    place[order.to_numpy()] = np.arange(len(order))
    return encoded.dictionary.take(order), place[encoded.indices.to_numpy()]


def counting_order(*keys: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the order of rows by the last of some keys ≥ 0, then by the one before, and so on.

    numpy sorts 16-bit numbers by counting, and leaves equal ones in their order.
    """
    order = np.arange(len(keys[0]))
    for key in keys:
        for shift in range(0, int(key.max(initial=1)).bit_length(), 16):
            digits = (key >> shift).astype(np.uint16)
            order = order[np.argsort(digits[order], kind="stable")]
    return order
