"""Columns of dataframes: names, types, exact sums, and one sentence when one cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import shorten
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    AtomicType,
    BooleanType,
    DataType,
    DecimalType,
    IntegralType,
    NumericType,
    StringType,
)

from nonconvex.numerics.deterministic import Totals


class ColumnError(ValueError):
    """A column that is missing or of a wrong type; the message names it and the remedy."""

    exit_status = 3


def check_frame(name: str, value: Any, allowed: str = "a DataFrame") -> None:
    """Raise `ColumnError` for the argument `name` if it is not a dataframe that can be used."""
    if not isinstance(value, DataFrame):
        if type(value).__name__ == "DataFrame":  # whose repr is the table
            library = type(value).__module__.partition(".")[0]
            raise ColumnError(
                f"{name} must be {allowed} of Spark, got one of {library}; give "
                f"spark.createDataFrame({name})"
            )
        raise ColumnError(f"{name} must be {allowed}, got {shorten(repr(value), 80)}")
    if type(value).__module__.startswith("pyspark.sql.connect."):
        raise ColumnError(
            f"{name} is a DataFrame of Spark Connect, which has no broadcast variables; make it by "
            "a session whose driver is this process, without remote()"
        )


def check_new(frame: DataFrame, name: str, role: str) -> None:
    """Raise `ColumnError` if the column that a Param says to add is there already."""
    if name.lower() in map(str.lower, frame.columns):  # which are one column to Spark
        raise ColumnError(
            f"{role}={name!r}: there is such a column already; drop it, or name another"
        )


def id_column(frame: DataFrame, name: str, role: str, like: DataType | None = None) -> Column:
    """Return a column of ids, cast to the type `like` if given."""
    kind = _type(frame, name, role)
    if not isinstance(kind, (StringType, IntegralType, DecimalType)):
        raise ColumnError(_wrong(name, role, kind, "string, integer or decimal"))
    if like is None:
        return named_column(name)
    if isinstance(kind, StringType) != isinstance(like, StringType):
        raise ColumnError(_wrong(name, role, kind, f"{like.simpleString()}, as in training"))
    if kind == like:
        return named_column(name)
    # A number that the type of training cannot hold, such as 1.5 if that is an integer, is an id
    # that training has not seen.
    cast = named_column(name).try_cast(like)
    return F.when(cast == named_column(name), cast)


def number_column(frame: DataFrame, name: str, role: str) -> Column:
    """Return a column of numbers as doubles; errors are those of `id_column`."""
    return _column(frame, name, role, NumericType, "a number").cast("double")


def boolean_column(frame: DataFrame, name: str, role: str) -> Column:
    """Return a column of booleans; errors are those of `id_column`."""
    return _column(frame, name, role, BooleanType, "boolean")


def text_column(frame: DataFrame, name: str, role: str) -> Column:
    """Return a column of any simple type as text; errors are those of `id_column`."""
    return _column(frame, name, role, AtomicType, "text or a number").cast("string")


def id_type(frame: DataFrame, column: str) -> DataType:
    """Return the type of a column that is known to be there."""
    return frame.schema[column].dataType


def named_column(name: str) -> Column:
    """Return the column of exactly this name, which may have dots, spaces or backticks."""
    return F.col("`" + name.replace("`", "``") + "`")


def free_name(name: str, taken: Iterable[str]) -> str:
    """Return `name`, with underscores until no column has it in any case."""
    lower = {column.lower() for column in taken}
    while name.lower() in lower:
        name += "_"
    return name


def _type(frame: DataFrame, name: str, role: str) -> DataType:
    if name not in frame.columns:
        raise ColumnError(
            f"{role}={name!r}: there is no such column; there are {', '.join(frame.columns)}"
        )
    if frame.columns.count(name) > 1:
        raise ColumnError(f"{role}={name!r}: there are several such columns; rename all but one")
    return frame.schema[name].dataType


def _column(frame: DataFrame, name: str, role: str, kind: type, allowed: str) -> Column:
    found = _type(frame, name, role)
    if not isinstance(found, kind):
        raise ColumnError(_wrong(name, role, found, allowed))
    return named_column(name)


def _wrong(name: str, role: str, kind: DataType, allowed: str) -> str:
    return f"{role}={name!r}: the column is {kind.simpleString()} and must be {allowed}; cast it"


TOTALS = "group bigint, exponent int, high bigint, low bigint"
"""The columns of totals on their way from a task to the driver."""

_LOW_BITS = 62  # of a total, which may have more bits than a long


def batch_of(totals: Totals) -> pa.RecordBatch:
    """Return the totals of a task as a batch with the columns of `TOTALS`."""
    low = 2**_LOW_BITS - 1
    rows = [(*key, q >> _LOW_BITS, q & low) for key, q in totals.items()]
    columns = list(zip(*rows, strict=True)) or [()] * 4
    types = (pa.int64(), pa.int32(), pa.int64(), pa.int64())
    arrays = [pa.array(column, of) for column, of in zip(columns, types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, ["group", "exponent", "high", "low"])


def totals_in(collected: pa.Table) -> Totals:
    """Put the totals of all tasks together."""
    totals: Totals = {}
    for row in collected.to_pylist():
        key = row["group"], row["exponent"]
        totals[key] = totals.get(key, 0) + (row["high"] << _LOW_BITS) + row["low"]
    return totals
