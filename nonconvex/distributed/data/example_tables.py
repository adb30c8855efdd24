"""Tables of examples: read, validated row by row, and split into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import ClassVar

import pyarrow as pa
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, NumericType, StringType

from nonconvex.distributed.columns import ColumnError, free_name, named_column
from nonconvex.distributed.data.examples import ExampleColumns, ExamplesError
from nonconvex.distributed.data.sources import Source, Window, read_source
from nonconvex.distributed.data.splits import Split, part_by_hash
from nonconvex.distributed.data.validation import PARTS

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
"""Data sets that come with scikit-learn; ``sklearn:<name>`` is a path to one."""

_SCHEME = "sklearn:"
_PART = "nonconvex_part"  # no feature has this name
_INVALID = ("error", "reject")
_SHOWN = 3


@dataclass(frozen=True)
class InvalidRowPolicy:
    """The split of a table, and the treatment of rows that no network can be trained on.

    `split` has method "random", by a hash of all that is used of a row, so that equal rows stay
    together, or "column".  With `invalid` "error" one such row raises; with "reject" it is left
    out.  Other values raise ValueError.
    """

    split: Split = field(default_factory=Split)
    invalid: str = "error"

    def __post_init__(self) -> None:
        """Check both."""
        if self.split.method not in ("random", "column"):
            raise ValueError(f"method must be random or column, got {self.split.method!r}")
        if self.invalid not in _INVALID:
            raise ValueError(f"invalid must be error or reject, got {self.invalid!r}")


@dataclass(frozen=True)
class ExampleTable:
    """Rows to train on, to validate on and to test on."""

    rows: DataFrame  # the used columns, and one with the part of `PARTS`
    rejected: DataFrame  # all columns of the rows that cannot be used, and ``reason``
    columns: ExampleColumns  # of `rows`
    counts: dict[str, int]  # rows of each part, and ``rejected``
    reasons: dict[str, int]  # rejected rows by reason

    HELD_OUT: ClassVar[str] = "nonconvex_held_out"
    """The column of `training` that marks the validation rows."""

    @property
    def training(self) -> DataFrame:
        """The rows to train and to validate on, with `HELD_OUT` if there are any of the latter."""
        _, validation, test = PARTS
        rows = self.rows.where(F.col(_PART) != test)
        if self.counts[validation]:
            rows = rows.withColumn(self.HELD_OUT, F.col(_PART) == validation)
        return rows.drop(_PART)

    def part(self, name: str) -> DataFrame:
        """Return the rows of one part."""
        return self.rows.where(F.col(_PART) == name).drop(_PART)


def read_example_table(
    spark: SparkSession,
    path: str,
    *,
    format: str | None = None,
    separator: str | None = None,
    window: Window | None = None,
) -> Source:
    """Read a table, as `read_source` does, or a data set of `BUNDLED` from ``sklearn:<name>``.

    The latter have columns ``features``, an array, and ``label``, a number or the number of a
    class; ExamplesError says that scikit-learn has no such data set, or is not installed.
    """
    if not path.startswith(_SCHEME):
        return read_source(spark, path, format=format, separator=separator, window=window)
    name = path.removeprefix(_SCHEME)
    if name not in BUNDLED:
        raise ExamplesError(f"{path}: the data sets of scikit-learn are {', '.join(BUNDLED)}")
    try:
        from sklearn import datasets
    except ImportError:
        raise ExamplesError(
            f"{path} needs scikit-learn: pip install scikit-learn, or name other data"
        ) from None
    bunch = getattr(datasets, f"load_{name}")()
    table = pa.table({"features": list(bunch.data.astype(float)), "label": bunch.target})
    return Source(spark.createDataFrame(table), path, name)


def feature_columns(source: Source, others: Sequence[str]) -> list[str]:
    """Return the columns that are not among `others`; raise ColumnError if there are none."""
    names = [name for name in source.rows.columns if name not in (*others, source.malformed)]
    if not names:
        raise ColumnError(f"{source.path} has no columns besides {', '.join(others)}: add features")
    return names


def take_examples(
    source: Source, columns: ExampleColumns, policy: InvalidRowPolicy, *, classify: bool
) -> ExampleTable:
    """Separate usable rows from the others, and split them.

    A row is rejected if its line is malformed, a feature, a target or the weight is null, NaN,
    infinite or no number, the weight is negative, the class is null, or the column that splits
    has no part.  In a text format columns become numbers; classes too, if all are numbers.
    Raises ColumnError if a column is missing, and ExamplesError if there are no usable rows, or
    rows to reject that the policy does not allow.
    """
    table = source.rows
    used = _used(columns)
    split = [] if policy.split.column is None else [policy.split.column]
    for name in (*used, *split):
        if name not in table.columns:
            raise ColumnError(
                f"there is no column {name!r} in {source.path}; there are "
                f"{', '.join(map(repr, table.columns))}"
            )
    values = {name: _value(table, name, text=source.text) for name in used}
    reasons = [_reason(table, source, name, values[name]) for name in used]
    if classify:
        assert isinstance(columns.label, str)
        label = _class(source, columns.label, values[columns.label])
        reasons[used.index(columns.label)] = _missing(columns.label, label.isNull())
        values[columns.label] = label
    if columns.weight is not None:
        reasons.append(F.when(values[columns.weight] < 0, f"{columns.weight} is negative"))
    if source.malformed is not None:
        reasons.insert(
            0, F.when(named_column(source.malformed).isNotNull(), "the line is malformed")
        )
    if policy.split.column is not None:
        part = named_column(policy.split.column).cast("string")
        allowed = ", ".join(PARTS)
        known = F.coalesce(part.isin(*PARTS), F.lit(False))
        reasons.append(F.when(~known, f"{policy.split.column} is none of {allowed}"))
    else:
        part = part_by_hash(policy.split, *(_hashed(table, name, values[name]) for name in used))
    reason = free_name("reason", table.columns)
    judged = table.withColumns({_PART: part, reason: F.coalesce(*reasons)})
    counted = judged.groupBy(_PART, reason).count().collect()
    counts = dict.fromkeys(PARTS, 0) | {"rejected": 0}
    by_reason: dict[str, int] = {}
    for part_name, why, count in sorted(counted, key=lambda row: str(row[1])):
        counts[part_name if why is None else "rejected"] += count
        if why is not None:
            by_reason[why] = by_reason.get(why, 0) + count
    _check(source, counts, by_reason, policy)
    usable = F.col(reason).isNull()
    kept = (values[name].alias(name) for name in used)
    return ExampleTable(
        judged.where(usable).select(*kept, _PART),
        judged.where(~usable).drop(_PART),
        columns,
        counts,
        by_reason,
    )


def _check(
    source: Source, counts: dict[str, int], by_reason: dict[str, int], policy: InvalidRowPolicy
) -> None:
    rejected, rows = counts["rejected"], sum(counts.values())
    if not rows:
        raise ExamplesError(f"{source.path} has no rows: give examples to train on")
    worst = sorted(by_reason, key=lambda reason: (-by_reason[reason], reason))
    shown = "; ".join(f"{reason} in {by_reason[reason]:,}" for reason in worst[:_SHOWN])
    shown += "; …" if worst[_SHOWN:] else ""
    if rejected and policy.invalid == "error":
        raise ExamplesError(
            f"{rejected:,} of the {rows:,} rows of {source.path} cannot be used ({shown}); correct "
            'them, or set invalid="reject" to train without them'
        )
    if rejected == rows:
        raise ExamplesError(f"none of the {rows:,} rows of {source.path} can be used ({shown})")


def _used(columns: ExampleColumns) -> list[str]:
    groups = [
        [names] if isinstance(names, str) else list(names)
        for names in (columns.features, columns.label, columns.weight or [])
    ]
    return list(dict.fromkeys(chain(*groups)))


def _value(table: DataFrame, name: str, *, text: bool) -> Column:
    """Return a column of numbers; in the text formats numbers are strings."""
    kind, column = table.schema[name].dataType, named_column(name)
    if not text:
        return column
    if isinstance(kind, ArrayType):
        return F.transform(column, lambda value: value.try_cast("double"))
    return column.try_cast("double") if isinstance(kind, StringType) else column


def _class(source: Source, name: str, number: Column) -> Column:
    """Return classes: numbers, if those of a text format are all numbers, and else strings."""
    column = named_column(name)
    if not source.text:
        kind = source.rows.schema[name].dataType
        return F.when(~_infinite(column), column) if isinstance(kind, NumericType) else column
    text = source.rows.where(column.isNotNull() & (F.trim(column) != ""))
    words = text.where(number.isNull() | _infinite(number)).limit(1).count()
    return F.when(F.trim(column) != "", column) if words else number


def _reason(table: DataFrame, source: Source, name: str, value: Column) -> Column:
    kind = table.schema[name].dataType
    if isinstance(kind, VectorUDT):
        numbers = F.unwrap_udt(value).getField("values")
        bad = value.isNull() | F.exists(numbers, _infinite)
    elif isinstance(kind, ArrayType):
        bad = value.isNull() | F.exists(value, lambda entry: entry.isNull() | _infinite(entry))
    else:
        bad = value.isNull() | _infinite(value)
    return _missing(name, bad)


def _missing(name: str, bad: Column) -> Column:
    return F.when(bad, f"{name} is null, NaN, infinite or no number")


def _infinite(value: Column) -> Column:
    number = value.cast("double")
    return F.isnan(number) | (F.abs(number) == float("inf"))


def _hashed(table: DataFrame, name: str, value: Column) -> Column:
    return F.unwrap_udt(value) if isinstance(table.schema[name].dataType, VectorUDT) else value
