"""Ids to dense indices in memory: for a fit, which holds all ids and a row for each anyway.

`nonconvex.distributed.data.ids` does the same for ratings that are prepared once, on no single
machine, by shuffles and joins; these take a second even of a thousand ratings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from nonconvex.distributed.data.ids import default_blocks
from nonconvex.distributed.factorization.encoding import count_ids
from nonconvex.numerics.factorization.blocks import LONG, part_of

__all__ = ["IdLookup", "collect_ids", "look_up"]


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
        The indices of ids with more than `nonconvex.numerics.factorization.blocks.LONG` ratings, ascending.
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
        From `nonconvex.distributed.factorization.encoding.read_chunks`, with at least one rating to train on.
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
