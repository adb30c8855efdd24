"""Columns of dataframes: names, types, exact sums, and one sentence when one cannot be used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from textwrap import shorten
from typing import Any

import pyarrow as pa
from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    AtomicType,
    BinaryType,
    BooleanType,
    DataType,
    DateType,
    DecimalType,
    FractionalType,
    IntegralType,
    NumericType,
    StringType,
)

from nonconvex.distributed.runtime import use_this_python
from nonconvex.numerics.deterministic import Totals

_IDS = (StringType, IntegralType, FractionalType, DateType, BinaryType)  # decimals are fractional
_FEW_COLUMNS = 8  # which a message shows all

TOTALS = "group bigint, exponent int, high bigint, low bigint"
"""The columns of totals on their way from a task to the driver."""

_LOW_BITS = 62  # of a total, which may have more bits than a long


class ColumnError(ValueError):
    """A column that is missing or of a wrong type; the message names it and the remedy."""

    exit_status = 3


def check_frame(
    name: str, value: Any, allowed: str = "a DataFrame", *, batch: bool = False
) -> None:
    """Raise `ColumnError` for the argument `name` if it is not a dataframe that can be used.

    With `batch` it may not be a stream.
    """
    if not isinstance(value, DataFrame):
        if type(value).__name__ == "DataFrame":  # whose repr is the table
            library = type(value).__module__.partition(".")[0]
            raise ColumnError(
                f"{name} must be {allowed} of Spark, got one of {library}; give "
                f"spark.createDataFrame({name})"
            )
        raise ColumnError(f"{name} must be {allowed}, got {shorten(repr(value), 80)}")
    if value.sparkSession is not None:
        use_this_python(value.sparkSession)
    if batch and value.isStreaming:
        raise ColumnError(
            f"{name} is a stream, and a fit reads all rows several times; write the stream to "
            "files and fit those, or use foreachBatch"
        )


def check_new(frame: DataFrame, name: str, role: str) -> None:
    """Raise `ColumnError` if the column that a Param says to add is there already."""
    if name.lower() in map(str.lower, frame.columns):  # which are one column to Spark
        raise ColumnError(
            f"{role}={name!r}: there is such a column already; drop it, or name another"
        )


def id_column(frame: DataFrame, name: str, role: str, like: DataType | None = None) -> Column:
    """Return a column of ids, cast to the type `like` if given.

    Doubles and floats are ids if they are integers, as those of a StringIndexer are, and become
    longs; without `like` they are looked through for others, in a job.
    """
    column, kind = resolved(frame, name, role)
    if not isinstance(kind, _IDS):
        raise ColumnError(_wrong(name, role, kind, "string, integer, decimal, date or binary"))
    if like is None:
        floating = isinstance(kind, FractionalType) and not isinstance(kind, DecimalType)
        return _whole(frame, column, name, role) if floating else column
    if _family(kind) != _family(like):
        raise ColumnError(_wrong(name, role, kind, f"{like.simpleString()}, as in training"))
    if kind == like:
        return column
    # A number that the type of training cannot hold, such as 1.5 if that is an integer, is an id
    # that training has not seen.
    cast = column.try_cast(like)
    return F.when(cast == column, cast)


def _family(kind: DataType) -> type:
    """Return the kinds of ids that can be equal; all numbers are one."""
    families = (StringType, NumericType, DateType, BinaryType)
    return next(family for family in families if isinstance(kind, family))


def _whole(frame: DataFrame, column: Column, name: str, role: str) -> Column:
    """Return ids that are doubles as longs; raise if one is no integer."""
    broken = (column != F.floor(column)) | F.isnan(column) | (F.abs(column) > 2.0**53)
    first = None if frame.isStreaming else frame.where(broken).select(column).first()
    if first is not None:
        raise ColumnError(
            f"{role}={name!r}: the column has {first[0]!r}, and numbers that are ids must be "
            "integers of at most 2⁵³; cast it to string, or round it"
        )
    return column.cast("bigint")


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


def parsed_column(frame: DataFrame, name: str, kind: Any) -> Column:
    """Return a column of a text format, strings or arrays of them, cast as far as they can be."""
    found, column = frame.schema[name].dataType, named_column(name)
    if isinstance(found, ArrayType):
        return F.transform(column, lambda value: value.try_cast(kind))
    return column.try_cast(kind) if isinstance(found, StringType) else column


def free_name(name: str, taken: Iterable[str]) -> str:
    """Return `name`, with underscores until no column has it in any case."""
    lower = {column.lower() for column in taken}
    while name.lower() in lower:
        name += "_"
    return name


def resolved(frame: DataFrame, name: str, role: str) -> tuple[Column, DataType]:
    """Return a column and its type: the one of exactly this name, or what Spark takes it for.

    That is another case unless ``spark.sql.caseSensitive`` is set, backticks, and fields of structs
    after a dot.  Raises ColumnError, with the nearest names, if there is none or several.
    """
    exact = frame.columns.count(name)
    if exact == 1:
        return named_column(name), frame.schema[name].dataType
    if exact == 0:
        with suppress(AnalysisException, ValueError):  # or it is no one column, such as "*"
            column = F.col(name)
            [field] = frame.select(column).schema
            # "user" without such a column is a function to Spark: the name of who runs it.
            if name.replace("`", "").lower().endswith(field.name.lower()):
                return column, field.dataType
    same = [each for each in frame.columns if each.lower() == name.lower()]
    if exact or len(same) > 1:
        raise ColumnError(f"{role}={name!r}: there are several such columns; rename all but one")
    raise ColumnError(f"{role}={name!r}: there is no such column; {_nearest(name, frame.columns)}")


def _nearest(name: str, columns: Sequence[str]) -> str:
    """Return the names of few columns, or of many those that are most like a name."""
    if len(columns) <= _FEW_COLUMNS:
        return f"there are {', '.join(columns)}"
    lower = {column.lower(): column for column in columns}
    close = [lower[each] for each in get_close_matches(name.lower(), lower, n=3, cutoff=0.0)]
    return f"the nearest of the {len(columns)} columns are {', '.join(close)}"


def _column(frame: DataFrame, name: str, role: str, kind: type, allowed: str) -> Column:
    column, found = resolved(frame, name, role)
    if not isinstance(found, kind):
        raise ColumnError(_wrong(name, role, found, allowed))
    return column


def _wrong(name: str, role: str, kind: DataType, allowed: str) -> str:
    return f"{role}={name!r}: the column is {kind.simpleString()} and must be {allowed}; cast it"


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
