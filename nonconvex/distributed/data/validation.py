"""Validation of raw ratings: columns, rules, and a reason for each rejected row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ByteType,
    DataType,
    DateType,
    DecimalType,
    IntegerType,
    LongType,
    NumericType,
    ShortType,
    StringType,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from nonconvex.distributed.columns import named_column
from nonconvex.distributed.data.sources import is_nested, is_undecodable
from nonconvex.numerics.factorization.blocks import RatingsError as RatingsError

ID_TYPES = ("auto", "string", "long")
"""Types that ids can be converted to."""

DUPLICATES = ("error", "first", "last", "mean")
"""Policies for several ratings of one item by one user."""

PARTS = ("train", "validation", "test")
"""The parts of a split, and the values of a column of parts."""

_ID = (StringType, ByteType, ShortType, IntegerType, LongType, DecimalType)
_DATE_TIME = (TimestampType, TimestampNTZType, DateType)
_ALLOWED: dict[str, tuple[tuple[type[DataType], ...], str]] = {
    "user": (_ID, "a string, an integer or a decimal"),
    "item": (_ID, "a string, an integer or a decimal"),
    "rating": ((NumericType,), "a number"),
    "weight": ((NumericType,), "a number"),
    "timestamp": ((NumericType, *_DATE_TIME), "a number, a timestamp or a date"),
    "split": ((StringType,), "a string"),
}
# Spark's own cast also takes Java's "5d" and "0x1p3".  No part of the pattern can take over what
# another one has matched, so the time is linear in the length of a field.
_NUMBER = (
    r"(?i)^\s*+(?:[+-]?+(?:\d++(?:\.\d*+)?+|\.\d++)(?:e[+-]?+\d++)?+|[+-]?+inf(?:inity)?+|nan)\s*+$"
)
_LONGEST = 1_000  # characters of a number or a time
_SHOWN = 100  # characters of a value that a reason quotes
_Check = tuple[Column, Column]  # condition of rejection, and reason


@dataclass(frozen=True)
class Columns:
    """Names of the columns of raw ratings.

    A name is that of a column, whatever its characters, or else a path with dots into structs.
    """

    # ids: strings, integers or decimals
    user: str = "user"
    item: str = "item"
    rating: str = "rating"  # the rating, a number
    weight: str | None = None  # weight of the rating, a finite number ≥ 0
    # time of the rating: a number in any unit, or a timestamp or date, taken as Unix seconds
    timestamp: str | None = None

    def named(self) -> dict[str, str]:
        """Return the name of the column of each role that has one."""
        names = {field.name: getattr(self, field.name) for field in fields(self)}
        return {role: name for role, name in names.items() if name is not None}


@dataclass(frozen=True)
class Rules:
    """Rules of validation."""

    # the type of ids. "auto" keeps the type of a typed column; ids from text are strings unless
    # every accepted one is an integer, written without leading zeros, of 64 bits.
    ids: str = "auto"
    # the least and the greatest valid rating
    minimum: float | None = None
    maximum: float | None = None
    # for several ratings of one item by one user: raise, keep the first in the order of the files,
    # keep the one with the latest timestamp, or take their mean
    duplicates: str = "error"

    def __post_init__(self) -> None:
        """Refuse unknown choices."""
        for name, value, choices in (
            ("ids", self.ids, ID_TYPES),
            ("duplicates", self.duplicates, DUPLICATES),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        low, high = self.minimum, self.maximum
        if low is not None and high is not None and low > high:
            raise ValueError(f"minimum must be ≤ maximum, got {low} and {high}")


class ValidationReport(NamedTuple):
    """Counts of rows read, accepted and rejected."""

    read: int
    accepted: int
    rejected: dict[str, int]  # number of rows by reason, without values
    # those of "user" and "item" that are integers in text in every accepted row
    integers: frozenset[str]
    id_bytes: int  # length of the ids of the accepted rows that are strings


def label_ratings(
    rows: DataFrame,
    columns: Columns,
    rules: Rules,
    *,
    text: bool = False,
    nested: bool = False,
    malformed: str | None = None,
    split: str | None = None,
    timestamp_required: bool = False,
    extra: Mapping[str, Column] | None = None,
) -> DataFrame:
    """Return every row as a rating, with the reason of its rejection, or null.

    The reason is the first of these: the line is malformed; the user is null, has bytes that are
    not UTF-8, is an object or a list (if values may be `nested`), or is not an integer (if
    ``rules.ids`` is "long"); the item likewise; the rating is null, has more than 1,000 characters,
    is not a number, NaN, infinite, below the minimum or above the maximum; the weight likewise, or
    is negative; the timestamp is too long or neither number nor date-time, or is null though
    required; the split is none of `PARTS`.  In a reason, the value follows ": ".

    The columns are ``user, item, rating double, [weight double], [timestamp long], [split string],
    reason`` and the extra ones.
    """
    names = columns.named() | ({} if split is None else {"split": split})
    _refuse_shared_columns(names)
    schema = StructType([field for field in rows.schema if field.name != malformed])
    found = {role: _find(schema, role, name, text) for role, name in names.items()}
    ratings: dict[str, Column] = {}
    checks: list[_Check] = []
    if malformed is not None:
        checks.append((named_column(malformed).isNotNull(), F.lit("line is malformed")))
    for role, (value, data_type) in found.items():
        if role in ("user", "item"):
            ratings[role], refused = _read_id(role, value, data_type, rules.ids, nested)
        elif role == "timestamp":
            ratings[role], refused = _read_timestamp(value, data_type, timestamp_required)
        elif role == "split":
            other = ~F.coalesce(value.isin(*PARTS), F.lit(False))
            refused = [(other, _got(f"split is none of {', '.join(PARTS)}", value))]
            ratings[role] = value
        else:
            bounds = (rules.minimum, rules.maximum) if role == "rating" else (0.0, None)
            ratings[role], refused = _read_number(role, value, data_type, *bounds)
        checks += refused
    reason = F.coalesce(*(F.when(refuse, why) for refuse, why in checks))
    wanted = {**ratings, "reason": reason, **(extra or {})}
    return rows.select(*(column.alias(name) for name, column in wanted.items()))


def count_reasons(
    labelled: DataFrame, name: str = "the ratings", *, integers: bool = False
) -> ValidationReport:
    """Count accepted and rejected rows of `label_ratings` in one pass; raise if none is accepted.

    `name` is what messages call the data; `integers` asks which ids are integers in text.
    """
    whole = {
        side: _is_integer(F.col(side)) if integers else F.lit(False) for side in ("user", "item")
    }
    lengths = [
        F.octet_length(side) for side in whole if labelled.schema[side].dataType == StringType()
    ]
    counts = (
        labelled.groupBy(reason_without_value().alias("reason"))
        .agg(
            F.count("*").alias("rows"),
            F.sum(reduce(add, lengths, F.lit(0))).alias("bytes"),
            *(F.bool_and(w).alias(s) for s, w in whole.items()),
        )
        .collect()
    )
    return _report(counts, name)


def reason_without_value() -> Column:
    """Return the kind of the reason, which many rows share."""
    return F.substring_index("reason", ": ", 1)


def integers_in_text() -> dict[str, Column]:
    """Return whether each id is an integer in text, as columns of `count_collected`."""
    return {f"{side}_is_integer": _is_integer(F.col(side)) for side in ("user", "item")}


def count_collected(labelled: pa.Table, name: str) -> ValidationReport:
    """Count as `count_reasons` does, rows that are in memory, with `reason_without_value`.

    Which ids are integers in text is asked if there are the columns of `integers_in_text`.
    """
    counts = []
    for reason in labelled["reason"].unique():
        same = pc.equal(labelled["reason"], reason)
        rows = labelled.filter(pc.is_null(labelled["reason"]) if not reason.is_valid else same)
        texts = [rows[side] for side in ("user", "item") if rows[side].type == pa.string()]
        counts.append(
            Row(
                reason=reason.as_py(),
                rows=len(rows),
                bytes=sum(pc.sum(pc.binary_length(text)).as_py() or 0 for text in texts),
                **{
                    side: column in rows.column_names and pc.all(rows[column]).as_py()
                    for side, column in zip(("user", "item"), integers_in_text(), strict=True)
                },
            )
        )
    return _report(counts, name)


def _report(counts: Sequence[Row], name: str) -> ValidationReport:
    """Make a report of ``reason, rows, bytes, user, item``; raise if no row is accepted."""
    rejected = {row.reason: row.rows for row in counts if row.reason is not None}
    read = sum(row.rows for row in counts)
    if read == 0:
        raise RatingsError(f"{name} has no rows: give ratings to prepare")
    accepted = [row for row in counts if row.reason is None]
    if not accepted:
        reasons = ", ".join(f"{reason} ({rows:,})" for reason, rows in sorted(rejected.items()))
        raise RatingsError(
            f"none of the {read:,} rows of {name} is a usable rating: {reasons}; "
            "check the names of the columns and the range"
        )
    return ValidationReport(
        read=read,
        accepted=accepted[0].rows,
        rejected=dict(sorted(rejected.items())),
        integers=frozenset(side for side in ("user", "item") if accepted[0][side]),
        id_bytes=accepted[0].bytes,
    )


def accepted_ratings(labelled: DataFrame, integers: frozenset[str] = frozenset()) -> DataFrame:
    """Return the rows without a reason, with the sides in `integers` cast to 64-bit integers."""
    accepted = labelled.where(F.col("reason").isNull()).drop("reason")
    return accepted.withColumns({side: F.col(side).cast("long") for side in sorted(integers)})


def _find(schema: StructType, role: str, name: str, text: bool) -> tuple[Column, DataType]:
    """Return the column called `name`, or at that path, and its type; refuse a wrong one."""
    first, *rest = [name] if name in schema.names else name.split(".")
    column = named_column(first)
    found: DataType = schema
    for part in (first, *rest):
        if not isinstance(found, StructType) or part not in found.names:
            there = ", ".join(map(repr, schema.names)) or "none"
            raise RatingsError(
                f"there is no column {name!r} for the {role}: the columns are {there}"
            )
        found = found[part].dataType
    for part in rest:
        column = column.getField(part)
    allowed, meaning = _ALLOWED[role]
    if not isinstance(found, (*allowed, StringType) if text else allowed):
        raise RatingsError(
            f"column {name!r} for the {role} is of type {found.simpleString()}, "
            f"and must be {meaning}: cast it, or name another column"
        )
    # Ids are compared by bytes, never by a collation.
    return (column.cast("string") if isinstance(found, StringType) else column), found


def _refuse_shared_columns(names: Mapping[str, str]) -> None:
    roles: dict[str, str] = {}
    for role, name in names.items():
        if name in roles:
            raise RatingsError(
                f"column {name!r} is named for both the {roles[name]} and the {role}: "
                "name one column for each"
            )
        roles[name] = role


def _got(reason: str, value: Column) -> Column:
    text = F.coalesce(value.cast("string"), F.lit("null"))
    start = F.concat(F.substring(text, 1, _SHOWN), F.lit("…"))
    return F.concat(F.lit(f"{reason}: "), F.when(F.length(text) > _SHOWN, start).otherwise(text))


def _too_long(role: str, value: Column) -> _Check:
    why = _got(f"{role} has more than {_LONGEST:,} characters", value)
    return F.length(value) > _LONGEST, why


def _is_integer(text: Column) -> Column:
    """Hold where the string is the canonical form of a 64-bit integer, so casting loses nothing."""
    return F.coalesce(text.try_cast("long").cast("string") == text, F.lit(False))


def _read_id(
    side: str, value: Column, data_type: DataType, ids: str, nested: bool
) -> tuple[Column, list[_Check]]:
    text = value.cast("string")
    checks = [(value.isNull(), F.lit(f"{side} is null"))]
    if isinstance(data_type, StringType):
        valid = F.make_valid_utf8(text)
        checks.append((is_undecodable(text), _got(f"{side} has bytes that are not UTF-8", valid)))
    if nested:
        checks.append((is_nested(text), _got(f"{side} is an object or a list", text)))
    if ids == "long":
        checks.append((~_is_integer(text), _got(f"{side} is not an integer", value)))
    return (value if ids == "auto" else value.try_cast(ids)), checks


def _read_number(
    role: str, value: Column, data_type: DataType, minimum: float | None, maximum: float | None
) -> tuple[Column, list[_Check]]:
    number = value.try_cast("double") + 0.0  # so that −0, whose bits are others, becomes 0
    checks = [(value.isNull(), F.lit(f"{role} is null"))]
    if isinstance(data_type, StringType):
        checks.append(_too_long(role, value))
        quoted = F.concat(F.lit("'"), value, F.lit("'"))
        checks.append((~value.rlike(_NUMBER), _got(f"{role} is not a number", quoted)))
    checks.append((F.isnan(number), F.lit(f"{role} is NaN")))
    checks.append((F.abs(number) == float("inf"), F.lit(f"{role} is infinite")))
    if minimum is not None:
        checks.append((number < minimum, _got(f"{role} is below {minimum:g}", number)))
    if maximum is not None:
        checks.append((number > maximum, _got(f"{role} is above {maximum:g}", number)))
    return number, checks


def _read_timestamp(
    value: Column, data_type: DataType, required: bool
) -> tuple[Column, list[_Check]]:
    if isinstance(data_type, _DATE_TIME):
        seconds = F.unix_seconds(value.cast("timestamp"))
    elif isinstance(data_type, StringType):
        seconds = F.coalesce(
            value.try_cast("long"),
            value.try_cast("double").try_cast("long"),
            F.unix_seconds(value.try_cast("timestamp")),
        )
    else:
        seconds = value.try_cast("long")
    checks = [_too_long("timestamp", value)] if isinstance(data_type, StringType) else []
    unread = seconds.isNull() & value.isNotNull()
    checks.append((unread, _got("timestamp is neither a number nor a date-time", value)))
    if required:
        checks.append((value.isNull(), F.lit("timestamp is null")))
    return seconds, checks
