"""Dense indices 0 … m−1 of ids, in ascending order, and blocks with about as many ratings each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from operator import itemgetter

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.runtime import parallelism

RATINGS_PER_BLOCK = 1_000_000
"""Default number of ratings in a block: some 20 MB, read and solved by a task in a second."""

_MOST_IDS = 2**31 - 1  # an index is of 32 bits

_Batches = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class SortedCounts:
    """Distinct values of a column, ascending: ``id, index long, count long, before long``.

    ``before`` is the number of rows with smaller values.
    """

    table: DataFrame
    size: int
    rows: int
    _cached: DataFrame

    def unpersist(self) -> None:
        """Release the cache; `table` must not be used afterwards."""
        self._cached.unpersist()


@dataclass(frozen=True)
class IdIndex:
    """The ids of one side with their dense indices and blocks."""

    # ``id, index int, count long, block int``, one row for each id, in ascending order
    table: DataFrame
    size: int  # number m of ids
    blocks: int  # number of blocks, some of which may be empty
    _counts: SortedCounts

    def unpersist(self) -> None:
        """Release the cache; `table` must not be used afterwards."""
        self._counts.unpersist()


def sorted_counts(frame: DataFrame, column: str) -> SortedCounts:
    """Count the values of a column without nulls, in ascending order, on no single machine.

    Two shuffles of the distinct values, which are then cached: the caller calls
    `SortedCounts.unpersist`.  The driver sees three numbers for each partition.
    """
    counts = frame.groupBy(F.col(column).alias("id")).agg(F.count("*").alias("count"))
    # As many partitions as cores: Spark does not coalesce cached partitions.
    cores = parallelism(frame.sparkSession)
    cached = counts.repartitionByRange(cores, "id").sortWithinPartitions("id").persist()
    partitions = (
        cached.groupBy(F.spark_partition_id())
        .agg(F.min("id").alias("first"), F.count("*").alias("ids"), F.sum("count").alias("rows"))
        .collect()
    )
    starts = {}
    size = rows = 0
    for partition in sorted(partitions, key=itemgetter("first")):
        starts[partition["first"]] = (size, rows)
        size += partition["ids"]
        rows += partition["rows"]
    id_type = counts.schema["id"].dataType.simpleString()
    schema = f"id {id_type}, index bigint, count bigint, before bigint"
    return SortedCounts(cached.mapInArrow(_accumulate(starts), schema), size, rows, cached)


def index_ids(ratings: DataFrame, column: str, blocks: int | None = None) -> IdIndex:
    """Give every id a dense index and a block, which depend on the ratings alone.

    With n ratings and B blocks, an id with c ratings of smaller ids is in block ⌊c B / n⌋: blocks
    are ranges of indices with n / B ratings each, up to those of one id.  The result is cached;
    the caller calls `IdIndex.unpersist`.
    """
    if blocks is not None and blocks < 1:
        raise ValueError(f"the number of blocks must be at least 1, got {blocks}")
    counts = sorted_counts(ratings, column)
    if counts.size > _MOST_IDS:
        counts.unpersist()
        raise RatingsError(
            f"column {column!r} has {counts.size:,} different ids, and at most {_MOST_IDS:,} can "
            "be indexed: drop ids with few ratings"
        )
    blocks = blocks or default_blocks(ratings.sparkSession, counts.rows)
    share = F.col("before") * F.lit(blocks).cast("long")
    block = F.call_function("div", share, F.lit(max(counts.rows, 1)).cast("long"))
    table = counts.table.select(
        "id", F.col("index").cast("int"), "count", block.cast("int").alias("block")
    )
    return IdIndex(table, counts.size, blocks, counts)


def default_blocks(spark: SparkSession, rows: int) -> int:
    """Return a number of blocks with `RATINGS_PER_BLOCK` each, at least one for each core."""
    return max(ceil(rows / RATINGS_PER_BLOCK), parallelism(spark))


def attach_indices(ratings: DataFrame, users: IdIndex, items: IdIndex) -> DataFrame:
    """Add ``user_index, user_block, item_index, item_block`` to ratings, null for unknown ids."""
    for side, index in (("user", users), ("item", items)):
        columns = {"id": side, "index": f"{side}_index", "block": f"{side}_block"}
        table = index.table.select(*(F.col(name).alias(new) for name, new in columns.items()))
        ratings = ratings.join(table, on=side, how="left")
    return ratings


def _accumulate(starts: dict[object, tuple[int, int]]) -> Callable[[_Batches], _Batches]:
    """Return a function that numbers the sorted ids of a partition.

    `starts` maps the first id of each partition to the number of ids and of rows before it.  If
    Spark partitions anew, an unknown first id is an error, never a wrong index.
    """

    def number(batches: _Batches) -> _Batches:
        index = before = None
        for batch in batches:
            if batch.num_rows == 0:
                continue
            if index is None:
                index, before = starts[batch.column("id")[0].as_py()]
            counts = batch.column("count").to_numpy()
            ends = before + np.cumsum(counts)
            indices = np.arange(index, index + len(counts))
            yield pa.record_batch(
                [
                    batch.column("id"),
                    pa.array(indices),
                    batch.column("count"),
                    pa.array(ends - counts),
                ],
                names=["id", "index", "count", "before"],
            )
            index, before = index + len(counts), ends[-1]

    return number
