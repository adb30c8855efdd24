"""Factors as tables: dataframes of ``id, bias, features``, and Parquet that is read back whole.

What is written is what executors keep, or what the driver has; a model is read by the driver.

Parameters of networks as Parquet: a row for the weights that leave a unit, or for biases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.rows import (
    CachedRows,
    Element,
    Rows,
    ShardedRows,
    group_by_type,
    scatter,
    zip_partitions,
)
from nonconvex.distributed.runtime import freeze_gc_once, from_bytes, to_bytes
from nonconvex.numerics.network.model import Network
from nonconvex.numerics.network.standardize import Standardization

__all__ = [
    "ModelError",
    "factor_table",
    "read_factors",
    "read_parameters",
    "read_rows",
    "read_standardization",
    "reason_of",
    "write_factors",
    "write_parameters",
    "write_standardization",
]

_BATCH = 1 << 16  # rows of a table that an executor makes at a time
_TYPES = {
    "index": "int",
    "id": "",
    "bias": "float double",
    "features": "array<float> array<double>",
}


class ModelError(ValueError):
    """A directory that does not hold a whole model."""

    exit_status = 3


def factor_table(
    spark: SparkSession, ids: pa.ChunkedArray, x: NDArray[np.floating] | ShardedRows
) -> DataFrame:
    """Return ``id, bias, features`` of one side.

    Parameters
    ----------
    spark : SparkSession
    ids : pyarrow array of m ids
    x : float array of shape (m, 1 + K), or ShardedRows
        Rows (β, γ), in the order of the ids; those that executors keep stay there.
    """
    return _table(spark, ids, x, {}).drop("index")


def write_factors(
    spark: SparkSession,
    path: str,
    ids: pa.ChunkedArray,
    x: NDArray[np.floating] | ShardedRows,
    more: Mapping[str, NDArray[np.floating]] | None = None,
) -> None:
    """Write one side as Parquet: ``index, id, bias, features``, and more columns of numbers."""
    _table(spark, ids, x, more or {}).write.parquet(path)


def read_factors(
    spark: SparkSession, path: str, rows: int, more: Sequence[str] = ()
) -> tuple[pa.ChunkedArray, NDArray[np.floating], dict[str, NDArray[np.floating]]]:
    """Read what `write_factors` wrote: ids, rows of shape (m, 1 + K), and more columns.

    Parameters
    ----------
    spark : SparkSession
    path : str
    rows : int
        The number m of rows that were written.
    more : sequence of str
        Names of the other columns.

    Raises
    ------
    ModelError
        If the files are not there, not such a table, or not all of it.
    """
    table = read_rows(spark, path, {**_TYPES, **dict.fromkeys(more, "float double")})
    features = table["features"].combine_chunks()
    values = features.flatten().to_numpy()
    index = table["index"].to_numpy()
    if len(values) % rows or not np.array_equal(index, np.arange(rows)):
        raise ModelError(
            f"{path} holds {len(table):,} rows of factors and not the {rows:,} of the model; "
            "save the model again, or train it"
        )
    x = np.empty((rows, 1 + len(values) // rows), values.dtype)
    x[:, 0] = table["bias"].to_numpy()
    x[:, 1:] = values.reshape(rows, -1)
    return table["id"], x, {name: table[name].to_numpy() for name in more}


def read_rows(spark: SparkSession, path: str, types: Mapping[str, str]) -> pa.Table:
    """Read a table of a model in the order of its column ``index``.

    Parameters
    ----------
    spark : SparkSession
    path : str
    types : mapping of str to str
        For each column the types of Spark that it may have, with spaces between; any if empty.

    Raises
    ------
    ModelError
        If the files are not there, or not such a table.
    """
    try:
        frame = spark.read.parquet(path).select(*types)
        for field in frame.schema:
            kind, allowed = field.dataType.simpleString(), types[field.name].split()
            if allowed and kind not in allowed:
                raise ModelError(
                    f"{path} has {field.name} as {kind} and not as {' or '.join(allowed)}; "
                    "save the model again, or train it"
                )
        return frame.orderBy("index").toArrow()
    except (PySparkException, Py4JJavaError) as error:
        raise ModelError(f"{path} cannot be read as part of a model: {reason_of(error)}") from None


def reason_of(error: Exception) -> str:
    """Return one line that says what went wrong."""
    cause: Any = error
    if isinstance(error, Py4JJavaError):
        cause = error.java_exception
        while "awaitResult" in str(cause) and cause.getCause() is not None:  # it says nothing else
            cause = cause.getCause()
    return (str(cause).splitlines() or [type(error).__name__])[0]


def _table(
    spark: SparkSession,
    ids: pa.ChunkedArray,
    x: NDArray[np.floating] | ShardedRows,
    more: Mapping[str, NDArray[np.floating]],
) -> DataFrame:
    index = pa.array(np.arange(len(ids), dtype=np.int32))
    beside = pa.table([index, ids, *map(pa.array, more.values())], ["index", "id", *more])
    if isinstance(x, CachedRows):
        return _kept_table(spark, beside, x)
    return spark.createDataFrame(_arrow(beside, x if isinstance(x, np.ndarray) else x.gather()))


def _kept_table(spark: SparkSession, beside: pa.Table, kept: CachedRows) -> DataFrame:
    """Send each block what stands beside its rows, and make it a table there."""
    parts = [to_bytes(beside[place.start : place.stop]) for place in kept.slices]

    def tables(elements: Iterable[Element]) -> Iterator[tuple[bytes]]:
        freeze_gc_once()
        for [content], of_block in group_by_type(elements, bytes, Rows).values():
            table = from_bytes(content)
            for rows in of_block:  # none, if the block is of no rows
                for first in range(0, len(table), _BATCH):
                    some = slice(first, first + _BATCH)
                    yield (to_bytes(_arrow(table[some], rows.x[some])),)

    def decoded(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for content in batch.column("table"):
                yield from from_bytes(content.as_buffer()).to_batches()

    sent = scatter(SparkSession.active(), parts)
    encoded: Any = zip_partitions(kept.elements, sent).mapPartitions(tables)
    frame = spark.createDataFrame(encoded, "table binary", verifySchema=False)
    empty = _arrow(beside[:0], np.empty((0, kept.shape[1]), kept.dtype))
    return frame.mapInArrow(decoded, spark.createDataFrame(empty).schema)


def _arrow(beside: pa.Table, x: NDArray[np.floating]) -> pa.Table:
    """Put rows into a table, behind the columns ``index`` and ``id``."""
    rows, width = x.shape
    values = pa.array(np.ascontiguousarray(x[:, 1:]).ravel())
    offsets = np.arange(rows + 1, dtype=np.int64) * (width - 1)
    if rows * (width - 1) < 2**31:
        features = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
    else:
        features = pa.LargeListArray.from_arrays(pa.array(offsets), values)
    table = beside.add_column(2, "bias", pa.array(x[:, 0]))
    return table.add_column(3, "features", features)


_PARAMETERS = {
    "index": "int",
    "layer": "int",
    "unit": "int",
    "weights": "array<float> array<double>",
}
_STANDARDIZATION = {"index": "int", "mean": "double", "scale": "double"}


def write_parameters(
    spark: SparkSession, path: str, network: Network, theta: NDArray[np.floating]
) -> None:
    """Write θ as rows ``index, layer, unit, weights``.

    Row by row they are W_1 by the units it comes from, b_1, W_2, …, with ``unit`` null for b.
    """
    layers, units, lengths = [], [], []
    for number, (weights, bias) in enumerate(network.views(theta), start=1):
        below, above = weights.shape
        rows = below + (bias is not None)
        layers += [number] * rows
        units += [*range(below), *([None] if bias is not None else [])]
        lengths += [above] * rows
    offsets = np.cumsum([0, *lengths])
    values = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(theta))
    index = pa.array(np.arange(len(layers)), pa.int32())
    columns = [index, pa.array(layers, pa.int32()), pa.array(units, pa.int32()), values]
    table = pa.table(columns, names=["index", "layer", "unit", "weights"])
    spark.createDataFrame(table).write.parquet(path)


def read_parameters(
    spark: SparkSession, path: str, network: Network, dtype: str
) -> NDArray[np.floating]:
    """Read what `write_parameters` wrote.

    Raises
    ------
    ModelError
        If the files are not there, not such a table, or not all of it.
    """
    table = read_rows(spark, path, _PARAMETERS)
    values = table["weights"].combine_chunks()
    theta: NDArray[np.floating] = values.flatten().to_numpy()
    if len(theta) != network.size or theta.dtype != dtype:
        raise ModelError(
            f"{path} holds {len(theta):,} parameters of {theta.dtype} and not the "
            f"{network.size:,} of {dtype} of the model; save the model again, or train it"
        )
    return theta


def write_standardization(spark: SparkSession, path: str, of: Standardization) -> None:
    """Write what features or targets are standardized with as rows ``index, mean, scale``."""
    index = pa.array(np.arange(len(of.mean)), pa.int32())
    table = pa.table([index, pa.array(of.mean), pa.array(of.scale)], ["index", "mean", "scale"])
    spark.createDataFrame(table).write.parquet(path)


def read_standardization(spark: SparkSession, path: str, width: int) -> Standardization:
    """Read what `write_standardization` wrote; errors are those of `read_parameters`."""
    table = read_rows(spark, path, _STANDARDIZATION)
    if len(table) != width:
        raise ModelError(
            f"{path} holds {len(table):,} rows and not the {width:,} of the model; "
            "save the model again, or train it"
        )
    return Standardization(table["mean"].to_numpy(), table["scale"].to_numpy())
