"""Top-N lists, and tables of them and of vectors for a service.

Rows of one side are streamed past the broadcast rows of the other side.

A task holds the factors of both sides, one Arrow batch of rows, and one tile of scores; see
`nonconvex.numerics.ranking.top_n`.  Excluded or candidate columns of a row are a list, made by one
shuffle of pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_type
from pyspark.sql.types import ArrayType, DataType, FloatType, StructField, StructType

from nonconvex.distributed.columns import id_column, named_column
from nonconvex.distributed.factorization.predict import index_table, with_index
from nonconvex.distributed.runtime import Batches, Value, begin_task, parallelism
from nonconvex.numerics import Floats, Ints
from nonconvex.numerics.deterministic import Kernel
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.ranking import Lists, Ranked, directions, rank_lists, top_n

_Rank = Callable[[pa.RecordBatch], Ranked]

_EXCLUDED, _CANDIDATES = "excluded", "candidates"

# Recommendations of an output batch.
_AT_A_TIME = 1 << 18

# Tasks per core, so that no core waits long for another.
_TASKS = 2


class ModelSide(NamedTuple):
    """One side of a model, with its ids and factors as broadcasts."""

    # the Param of the column of ids, and its value
    role: str
    column: str
    ids: pa.ChunkedArray  # (m,): In the order of their indices
    shared_ids: Value[pa.ChunkedArray]  # the same ids
    rows: Value[Floats]  # (m, 1 + K): rows (β, γ)

    @property
    def type(self) -> DataType:
        """Spark's type of the ids."""
        return from_arrow_type(self.ids.type)

    def column_of(self, frame: DataFrame, argument: str = "") -> Column:
        """Return the ids in a dataframe, given as `argument`, in the type of training."""
        role = f"{argument}: {self.role}" if argument else self.role
        return id_column(frame, self.column, role, self.type)


class Ranker(NamedTuple):
    """Ranking of columns for batches of `requests`; sent to the executors."""

    alpha: float
    # of shapes (m, 1 + K)
    rows: Value[Floats]
    columns: Value[Floats]
    n: int
    allowed: Ints | None  # indices of the allowed columns; by default all
    kernel: Kernel = "numpy"

    def __call__(self, batch: pa.RecordBatch) -> Ranked:
        """Return the n best columns of each row."""
        factors = Factors(self.alpha, self.rows.value, self.columns.value)
        index = batch.column("index").fill_null(-1).to_numpy()
        if _CANDIDATES in batch.schema.names:
            lists = lists_of(batch, _CANDIDATES)
            return rank_lists(factors, index, self.n, lists, kernel=self.kernel)
        excluded = lists_of(batch, _EXCLUDED) if _EXCLUDED in batch.schema.names else None
        among = self.allowed
        return top_n(factors, index, self.n, columns=among, excluded=excluded, kernel=self.kernel)


def keys(
    spark: SparkSession, side: ModelSide, subset: DataFrame | None, *, unknown: bool
) -> DataFrame:
    """Return ``id, index`` of the requested ids of a side, each once; by default all indices."""
    if subset is None:
        return spark.range(len(side.ids)).select(F.col("id").cast("int").alias("index"))
    ids = subset.select(side.column_of(subset).alias("id"))
    indices = index_table(subset, side.ids)
    found = with_index(ids.where("id is not null").distinct(), F.col("id"), indices, "index")
    return found if unknown else found.where("index is not null")


def pairs(frame: DataFrame, argument: str, rows: ModelSide, columns: ModelSide) -> DataFrame:
    """Return ``id, column`` of pairs of a row and a column: the id of one, the index of the other.

    Pairs with a null id or an unknown column are left out.
    """
    named = frame.select(
        rows.column_of(frame, argument).alias("id"),
        columns.column_of(frame, argument).alias("other"),
    )
    indexed = with_index(named, F.col("other"), index_table(frame, columns.ids), "column")
    return indexed.where("id is not null and column is not null").select("id", "column")


def collected(pairs: DataFrame, name: str) -> DataFrame:
    """Return ``id`` and its columns as a list `name`, each column once."""
    placed = pairs.repartition(tasks(pairs), "id")
    return placed.groupBy("id").agg(F.collect_set("column").alias(name))


def requests(
    keys: DataFrame,
    ranker: Ranker,
    rows: ModelSide,
    columns: ModelSide,
    *,
    exclude: DataFrame | None = None,
    candidates: DataFrame | None = None,
) -> tuple[DataFrame, Ranker]:
    """Add the excluded or the candidate columns to each of the `keys`."""
    excluded = None if exclude is None else pairs(exclude, "exclude", rows, columns)
    if candidates is not None and rows.column in candidates.columns:
        allowed = pairs(candidates, "candidates", rows, columns)
        if excluded is not None:
            allowed = allowed.join(excluded, on=["id", "column"], how="left_anti")
        return _with_list(keys, rows, collected(allowed, _CANDIDATES)), ranker
    if candidates is not None:
        ids = candidates.select(columns.column_of(candidates, "candidates").alias("id"))
        known = with_index(ids.distinct(), F.col("id"), index_table(ids, columns.ids), "index")
        found = known.where("index is not null").select("index").toArrow()
        ranker = ranker._replace(allowed=np.sort(found.column("index").to_numpy()))
    if excluded is not None:
        keys = _with_list(keys, rows, collected(excluded, _EXCLUDED))
    return keys, ranker


def recommendations(
    requests: DataFrame,
    ranker: Ranker,
    rows: ModelSide,
    columns: ModelSide,
    limits: tuple[float, float] | None,
) -> DataFrame:
    """Return the ids of the rows, and as ``recommendations`` the n best columns of each.

    These are an array of structs of the id of a column and its ``rating``, a float.
    """

    def rank(batch: pa.RecordBatch) -> Ranked:
        ranked = ranker(batch)
        return ranked if limits is None else ranked._replace(scores=ranked.scores.clip(*limits))

    return _listed(requests, lambda: rank, ranker.n, rows, columns, "recommendations", "rating")


def neighbours(keys: DataFrame, side: ModelSide, n: int, kernel: Kernel = "numpy") -> DataFrame:
    """Return the ids, and as ``similar`` the n ids of the same side that are most so.

    These are an array of structs of an id and its ``similarity``, a float: the cosine of γ.  A row
    with γ = 0 is similar to none.
    """
    rows = side.rows

    def start() -> _Rank:
        unit = directions(rows.value)
        directed = np.any(unit, axis=1)
        factors, columns = Factors(0.0, unit, unit), np.flatnonzero(directed)

        def rank(batch: pa.RecordBatch) -> Ranked:
            index = batch.column("index").to_numpy()
            asked = directed[index]
            itself = Lists(np.arange(asked.sum() + 1), index[asked])
            found = top_n(factors, index[asked], n, columns=columns, excluded=itself, kernel=kernel)
            lengths = np.zeros(len(index), np.int64)
            lengths[asked] = found.lists.lengths
            return found._replace(offsets=np.append(0, np.cumsum(lengths)))

        return rank

    return _listed(keys, start, n, side, side, "similar", "similarity")


def lists_of(batch: pa.RecordBatch, name: str) -> Lists:
    """Read a column of lists of indices; null is an empty one."""
    lists = batch.column(name)
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
    return Lists(np.append(0, np.cumsum(lengths, dtype=np.int64)), lists.flatten().to_numpy())


def _with_list(keys: DataFrame, rows: ModelSide, lists: DataFrame) -> DataFrame:
    """Join lists to the keys, with about as many keys in each task."""
    if "id" not in keys.columns:
        index = pa.array(np.arange(len(rows.ids), dtype=np.int32))
        keys = keys.sparkSession.createDataFrame(pa.table({"id": rows.ids, "index": index}))
    return keys.repartition(tasks(keys), "id").join(lists, on="id", how="left")


def tasks(frame: DataFrame) -> int:
    """Return the number of tasks for ranking shuffled rows."""
    return _TASKS * parallelism(frame.sparkSession)


def _listed(
    requests: DataFrame,
    start: Callable[[], _Rank],
    n: int,
    rows: ModelSide,
    columns: ModelSide,
    name: str,
    score: str,
) -> DataFrame:
    """Rank all rows by the function that `start` returns in each task, and return ids."""
    row_ids, column_ids = rows.shared_ids, columns.shared_ids
    row_name, column_name = rows.column, columns.column
    step = max(1, _AT_A_TIME // n)

    def taken(ids: Value[pa.ChunkedArray], indices: pa.Array) -> pa.Array:
        return ids.value.take(indices).combine_chunks()

    def task(batches: Batches) -> Batches:
        begin_task()
        rank = start()
        for batch in batches:
            for first in range(0, len(batch), step):
                part = batch.slice(first, step)
                ranked = rank(part)
                all_rows = "id" not in part.schema.names  # in the order of their indices
                own = taken(row_ids, part["index"]) if all_rows else part["id"]
                ids = taken(column_ids, pa.array(ranked.columns))
                scores = pa.array(ranked.scores.astype(np.float32))
                members = pa.StructArray.from_arrays([ids, scores], [column_name, score])
                lists = pa.ListArray.from_arrays(ranked.offsets.astype(np.int32), members)
                yield pa.RecordBatch.from_arrays([own, lists], [row_name, name])

    member = StructType([StructField(column_name, columns.type), StructField(score, FloatType())])
    schema = StructType([StructField(row_name, rows.type), StructField(name, ArrayType(member))])
    return requests.mapInArrow(task, schema)


def write_lists(lists: DataFrame, path: str, buckets: int) -> None:
    """Write a row for each id, so that one is found by opening one small file.

    The directory `path` has ``bucket=<b>/`` in it, where b is the CRC-32 of the id, written as text
    in UTF-8, modulo `buckets`.  A bucket is one file, sorted by id.
    """
    name = lists.columns[0]
    key = named_column(name)
    bucket = F.crc32(key.cast("string").cast("binary")) % buckets
    placed = lists.withColumn("bucket", bucket.cast("int")).repartitionById(buckets, "bucket")
    placed.sortWithinPartitions("bucket", key).write.partitionBy("bucket").parquet(path)


def list_lengths(spark: SparkSession, path: str) -> dict[str, int]:
    """Return how many ``users`` have a row in `write_lists`, how many of them an ``empty`` list."""
    empty = F.count_if(F.size("recommendations") == 0)
    counts = spark.read.parquet(path).agg(F.count("*"), empty).collect()[0]
    return {"users": counts[0], "empty": counts[1]}


def user_vectors(factors: DataFrame, alpha: float) -> DataFrame:
    """Return ``id, vector, offset`` with the vector (γ_u, 1) and the offset α + β_u.

    The prediction for a user and an item is the offset and the inner product of this vector and
    that of `item_vectors`.  The columns of `factors` are ``id, bias, features``.
    """
    return factors.select(
        "id", _vector(F.lit(1.0)), (F.lit(alpha) + F.col("bias")).cast("double").alias("offset")
    )


def item_vectors(factors: DataFrame) -> DataFrame:
    """Return ``id, vector`` with the vector (γ_i, β_i); see `user_vectors`."""
    return factors.select("id", _vector(F.col("bias")))


def _vector(last: Column) -> Column:
    joined = F.concat(F.col("features").cast("array<float>"), F.array(last.cast("float")))
    return joined.alias("vector")
