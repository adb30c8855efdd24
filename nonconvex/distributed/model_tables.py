"""Tables of models: factors as dataframes and as Parquet, and Parquet that is read back.

Rows that executors hold are written there; a model is read by the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from nonconvex.distributed.connect import Py4JJavaError
from nonconvex.distributed.files import FileSystem, FileSystemError, temporary_directory
from nonconvex.distributed.rows import (
    CachedRows,
    Element,
    Rows,
    ShardedRows,
    group_by_type,
    scatter,
    zip_partitions,
)
from nonconvex.distributed.runtime import Batches, begin_task, from_bytes, to_bytes
from nonconvex.local.model_tables import (
    FACTOR_TYPES,
    ModelError,
    check_density,
    check_footers,
    factors_in,
    in_order,
)
from nonconvex.numerics import Floats

_BATCH = 1 << 16  # rows of a table that an executor writes at a time
_SMALL = 1 << 25  # bytes of a table that is read without a job, and of a row group


def factor_table(spark: SparkSession, ids: pa.ChunkedArray, x: Floats | ShardedRows) -> DataFrame:
    """Return ``id, bias, features`` of one side from its m ids and its rows (β, γ) (m, 1 + K)."""
    return _table(spark, ids, x, {}).drop("index")


def write_factors(
    spark: SparkSession,
    path: str,
    ids: pa.ChunkedArray,
    x: Floats | ShardedRows,
    more: Mapping[str, Floats] | None = None,
) -> None:
    """Write one side as Parquet: ``index, id, bias, features``, and more columns (m,)."""
    if isinstance(x, np.ndarray):
        write_table(spark, path, _arrow(_beside(ids, more or {}), x))
    else:
        _table(spark, ids, x, more or {}).write.parquet(path)


def write_table(spark: SparkSession, path: str, table: pa.Table) -> None:
    """Write a table as Parquet, as a file and without a job where that can be."""
    files = FileSystem(spark, path)
    if not files.renames:
        spark.createDataFrame(table).write.parquet(path)
        return
    group = max(1, len(table) * _SMALL // max(table.nbytes, 1))
    with temporary_directory() as local:
        name = f"{local}/part-00000.parquet"
        pq.write_table(table, name, group, store_schema=False, use_dictionary=False)
        files.make_directory(path)
        files.copy_in(local, path)


def read_factors(
    spark: SparkSession, path: str, rows: int, more: Sequence[str] = ()
) -> tuple[pa.ChunkedArray, Floats, dict[str, Floats]]:
    """Read a table of `write_factors`: ids (m,), rows (m, 1 + K), and more columns (m,).

    Raise `ModelError` if the files are missing, another table, or not `rows` rows.
    """
    types = {**FACTOR_TYPES, **dict.fromkeys(more, "float double")}
    return factors_in(read_rows(spark, path, types, rows), path, rows, more)


def read_rows(spark: SparkSession, path: str, types: Mapping[str, str], rows: int) -> pa.Table:
    """Read a table of a model of `rows` rows in the order of its column ``index``.

    `types` has, for each column, the types of Spark that it may have, separated by spaces; empty
    for any type.  Raise `ModelError` if the files are missing, or have other columns or rows; the
    footers tell how many rows there are, and how large they are, before any are read.
    """
    files = FileSystem(spark, path)

    def read_end(name: str, count: int) -> bytes:
        return files.read_end(f"{path}/{name}", count)

    try:
        sizes = files.sizes(path)
        long = check_footers(path, sizes, read_end, rows)
        if long is None and sum(sizes.values()) <= _SMALL:  # which takes no job
            names = [name for name in sizes if name[0] not in "_."]
            parts = (pq.ParquetFile(pa.BufferReader(read_end(one, sizes[one]))) for one in names)
            table = pa.concat_tables([part.read().select(list(types)) for part in parts])
        else:
            frame = spark.read.parquet(path).select(*types)
            fields = [one.name for one in frame.schema if isinstance(one.dataType, StringType)]
            if long is not None and fields:  # a string that is stored once may stand for many
                size = frame.agg(F.sum(F.octet_length(fields[0]))).collect()[0][0]
                check_density(path, size or 0, long)
            table = frame.toArrow()
    except (
        PySparkException, Py4JJavaError, FileSystemError, pa.ArrowException, OSError, KeyError
    ) as error:  # fmt: skip
        raise ModelError(f"{path} cannot be read as part of a model: {reason_of(error)}") from None
    return in_order(path, table, types, rows)


def read_mllib_factors(
    spark: SparkSession, path: str, rank: int | None
) -> tuple[pa.ChunkedArray, Floats]:
    """Read a table ``id, features`` of MLlib's ALSModel: ascending ids (m,), and rows (m, 1 + K).

    Biases are 0.  Raise `ModelError` if it cannot be read, or has another rank.
    """
    try:
        table = spark.read.parquet(path).select("id", "features").orderBy("id").toArrow()
        features = np.stack(table["features"].to_numpy(zero_copy_only=False))
    except (PySparkException, Py4JJavaError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read as factors of MLlib's ALSModel: {reason_of(error)}"
        ) from None
    if rank is not None and features.shape[1] != rank:
        raise ModelError(
            f"{path} has {features.shape[1]} factors a row and the metadata rank {rank}; save "
            "the model again"
        )
    return table["id"], np.column_stack([np.zeros(len(table), np.float32), features])


def reason_of(error: Exception) -> str:
    """Return the cause of an error of Spark, in one line."""
    cause: Any = error
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while "awaitResult" in str(cause) and cause.getCause() is not None:  # it says nothing else
            cause = cause.getCause()
    return (str(cause).splitlines() or [type(error).__name__])[0]


def _table(
    spark: SparkSession, ids: pa.ChunkedArray, x: Floats | ShardedRows, more: Mapping[str, Floats]
) -> DataFrame:
    beside = _beside(ids, more)
    if isinstance(x, CachedRows):
        return _kept_table(spark, beside, x)
    return spark.createDataFrame(_arrow(beside, x if isinstance(x, np.ndarray) else x.gather()))


def _beside(ids: pa.ChunkedArray, more: Mapping[str, Floats]) -> pa.Table:
    """Return the columns of a table that are not rows."""
    index = pa.array(np.arange(len(ids), dtype=np.int32))
    return pa.table([index, ids, *map(pa.array, more.values())], ["index", "id", *more])


def _kept_table(spark: SparkSession, beside: pa.Table, kept: CachedRows) -> DataFrame:
    """Make a table of each block of rows where it is, with its part of the other columns."""
    parts = [to_bytes(beside[place.start : place.stop]) for place in kept.slices]

    def tables(elements: Iterable[Element]) -> Iterator[tuple[bytes]]:
        begin_task()
        for [content], of_block in group_by_type(elements, bytes, Rows).values():
            table = from_bytes(content)
            for rows in of_block:  # none, if the block is of no rows
                for first in range(0, len(table), _BATCH):
                    some = slice(first, first + _BATCH)
                    yield (to_bytes(_arrow(table[some], rows.x[some])),)

    def decoded(batches: Batches) -> Batches:
        for batch in batches:
            for content in batch.column("table"):
                yield from from_bytes(content.as_buffer()).to_batches()

    sent = scatter(SparkSession.active(), parts)
    encoded: Any = zip_partitions(kept.elements, sent).mapPartitions(tables)
    frame = spark.createDataFrame(encoded, "table binary", verifySchema=False)
    empty = _arrow(beside[:0], np.empty((0, kept.shape[1]), kept.dtype))
    return frame.mapInArrow(decoded, spark.createDataFrame(empty).schema)


def _arrow(beside: pa.Table, x: Floats) -> pa.Table:
    """Add rows to a table, after its columns ``index`` and ``id``."""
    rows, width = x.shape
    values = pa.array(np.ascontiguousarray(x[:, 1:]).ravel())
    offsets = np.arange(rows + 1, dtype=np.int64) * (width - 1)
    if rows * (width - 1) < 2**31:
        features = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
    else:
        features = pa.LargeListArray.from_arrays(pa.array(offsets), values)
    table = beside.add_column(2, "bias", pa.array(x[:, 0]))
    return table.add_column(3, "features", features)
