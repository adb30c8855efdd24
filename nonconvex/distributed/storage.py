"""Factors as tables: dataframes of ``id, bias, features``, and Parquet that is read back whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

__all__ = ["ModelError", "factor_table", "read_factors", "read_rows", "reason_of", "write_factors"]

_COLUMNS = ("index", "id", "bias", "features")
_TYPES = {
    "index": "int",
    "id": "",
    "bias": "float double",
    "features": "array<float> array<double>",
}


class ModelError(ValueError):
    """A directory that does not hold a whole model."""

    exit_status = 3


def factor_table(spark: SparkSession, ids: pa.ChunkedArray, x: NDArray[np.floating]) -> DataFrame:
    """Return ``id, bias, features`` of one side.

    Parameters
    ----------
    spark : SparkSession
    ids : pyarrow array of m ids
    x : float array of shape (m, 1 + K)
        Rows (β, γ).
    """
    return spark.createDataFrame(_arrow(ids, x)).drop("index")


def write_factors(
    spark: SparkSession,
    path: str,
    ids: pa.ChunkedArray,
    x: NDArray[np.floating],
    more: Mapping[str, NDArray[np.floating]] | None = None,
) -> None:
    """Write one side as Parquet: ``index, id, bias, features``, and more columns of numbers."""
    table = _arrow(ids, x)
    for name, values in (more or {}).items():
        table = table.append_column(name, pa.array(values))
    spark.createDataFrame(table).write.parquet(path)


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


def _arrow(ids: pa.ChunkedArray, x: NDArray[np.floating]) -> pa.Table:
    rows, width = x.shape
    values = pa.array(np.ascontiguousarray(x[:, 1:]).ravel())
    offsets = np.arange(rows + 1, dtype=np.int64) * (width - 1)
    if rows * (width - 1) < 2**31:
        features = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)
    else:
        features = pa.LargeListArray.from_arrays(pa.array(offsets), values)
    index = pa.array(np.arange(rows, dtype=np.int32))
    return pa.table([index, ids, pa.array(x[:, 0]), features], names=list(_COLUMNS))
