"""Tables of examples: reading, validation, splits, and features as Arrow vectors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DecimalType, NumericType, StringType

from nonconvex.distributed.columns import (
    ColumnError,
    boolean_column,
    free_name,
    named_column,
    number_column,
    parsed_column,
    resolved,
)
from nonconvex.distributed.data.sources import (
    Source,
    Window,
    is_nested,
    is_undecodable,
    read_source,
)
from nonconvex.distributed.data.splits import Split, part_by_hash
from nonconvex.distributed.data.validation import PARTS
from nonconvex.numerics import Bools, Doubles, Longs
from nonconvex.numerics.network.model import Classes

MOST_CLASSES = 10_000
"""Most classes; more different labels are numbers for a regression."""

_NAMED = 3  # features or reasons that a message names

BUNDLED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
"""Data sets that come with scikit-learn; ``sklearn:<name>`` is a path to one."""

_SCHEME = "sklearn:"
_PART = "nonconvex_part"  # no feature has this name
_INVALID = ("error", "reject")


class ExamplesError(ValueError):
    """Examples that no network can be trained on; the message names the cause and the remedy."""

    exit_status = 3


@dataclass(frozen=True)
class ExampleColumns:
    """Names of the columns of examples."""

    # one column of ml vectors or arrays, or a sequence of columns of numbers
    features: str | Sequence[str]
    # for a classification, a column of strings or whole numbers. For a regression, a column of
    # numbers, ml vectors or arrays, or a sequence of columns of numbers.
    label: str | Sequence[str]
    weight: str | None = None  # a column of numbers ≥ 0
    held_out: str | None = None  # a boolean column, true for the validation rows

    def feature_name(self, index: int) -> str:
        """Return the name of a feature, for messages."""
        one = isinstance(self.features, str)
        return f"{self.features}[{index}]" if one else repr(self.features[index])


class ExampleSchema(NamedTuple):
    """Numbers of rows, features and outputs, and the classes; None for a regression."""

    rows: int  # to train on
    held_out: int  # to validate on
    features: int
    targets: int  # numbers or classes to predict
    classes: Classes | None


def select_examples(frame: DataFrame, columns: ExampleColumns, *, classify: bool) -> DataFrame:
    """Return the columns ``features, label, weight double, held_out boolean``, if they are given.

    Features and labels are as `read_vectors` takes them; classes are strings or doubles.  Raises
    ColumnError if a column is missing or of a wrong type.
    """
    selected = {"features": select_vectors(frame, columns.features, "featuresCol")}
    if classify:
        selected["label"] = _class_column(frame, columns.label)
    elif isinstance(columns.label, str) and _is_number(frame, columns.label):
        selected["label"] = number_column(frame, columns.label, "labelCol")
    else:
        selected["label"] = select_vectors(frame, columns.label, "labelCol")
    if columns.weight is not None:
        selected["weight"] = number_column(frame, columns.weight, "weightCol")
    if columns.held_out is not None:
        selected["held_out"] = boolean_column(frame, columns.held_out, "validationIndicatorCol")
    return frame.select(*(column.alias(name) for name, column in selected.items()))


def select_vectors(frame: DataFrame, names: str | Sequence[str], role: str) -> Column:
    """Return a column of vectors, as `read_vectors` takes them, of one column or of several.

    Raises ColumnError, with the Param `role`, if a column is missing or of a wrong type.
    """
    if not isinstance(names, str):
        if not names:
            raise ColumnError(f"{role}=[]: at least one column is needed; name it")
        return F.array(*(number_column(frame, name, role) for name in names))
    column, kind = resolved(frame, names, role)
    if isinstance(kind, VectorUDT):
        return F.unwrap_udt(column)
    if isinstance(kind, ArrayType) and isinstance(kind.elementType, NumericType):
        exact = isinstance(kind.elementType, DecimalType)
        return column.cast("array<double>") if exact else column
    number = "a number, " if role == "labelCol" else ""
    raise ColumnError(
        f"{role}={names!r}: the column is {kind.simpleString()} and must be {number}a vector or an "
        "array of numbers; assemble or cast it, or give a list of columns of numbers"
    )


def infer_schema(selected: DataFrame, columns: ExampleColumns, *, classify: bool) -> ExampleSchema:
    """Count the rows and their classes, and measure the first row.

    The classes are all that occur, ascending.  Raises ExamplesError if there are no rows to train
    on or a single class, or if labels are no classes.
    """
    held_out = F.col("held_out") if "held_out" in selected.columns else F.lit(False)
    keys = [held_out.alias("held_out"), *([F.col("label")] if classify else [])]
    counts = selected.groupBy(*keys).agg(F.count("*").alias("rows")).limit(2 * MOST_CLASSES + 3)
    groups = counts.collect()
    unknown = sum(group.rows for group in groups if group.held_out is None)
    if unknown:
        raise ExamplesError(
            f"validationIndicatorCol={columns.held_out!r} is null in {unknown:,} rows; "
            "it must be true or false: fill it before fit"
        )
    rows, held = (
        sum(group.rows for group in groups if group.held_out is held) for held in (False, True)
    )
    if not rows:
        but = " that are not held out for validation" if held else ""
        raise ExamplesError(f"there are no examples to train on{but}; at least one is needed")
    classes = _classes(groups, columns.label) if classify else None
    features = _width(selected, "features", columns.features, "featuresCol")
    if classes is None:
        targets = _width(selected, "label", columns.label, "labelCol")
    else:
        targets = len(classes.values)
    return ExampleSchema(rows, held, features, targets, classes)


def _classes(groups: list[Row], label: str | Sequence[str]) -> Classes:
    name = f"labelCol={label!r}"
    missing = sum(group.rows for group in groups if _is_missing(group.label))
    if missing:
        raise ExamplesError(
            f"{name} has {missing:,} null, NaN or infinite labels in "
            f"{sum(group.rows for group in groups):,} rows; drop or fill them before fit"
        )
    values = sorted({group.label for group in groups})
    kind = "string" if isinstance(values[0], str) else "double"
    if kind == "double":
        values = sorted(value + 0.0 for value in values)
        for value in values:
            if value != math.floor(value):
                raise ExamplesError(
                    f"{name} has the value {value:g}, and classes are whole numbers or strings; "
                    "cast the labels, or use the regressor"
                )
    if len(values) > MOST_CLASSES:
        raise ExamplesError(
            f"{name} has more than {MOST_CLASSES:,} different labels, the maximum; "
            "group them, or use the regressor"
        )
    trained = {group.label for group in groups if not group.held_out}
    if len(trained) == 1:
        raise ExamplesError(
            f"{name} has a single class in the rows to train on, {_shown(trained.pop())}, and two "
            "are needed; check the labels"
        )
    return Classes(kind, tuple(values))


def _is_missing(label: Any) -> bool:
    return label is None or (isinstance(label, float) and not math.isfinite(label))


def _shown(label: Any) -> str:
    return f"{label:g}" if isinstance(label, float) else repr(label)


def _width(selected: DataFrame, column: str, names: str | Sequence[str], role: str) -> int:
    """Return the length of the first vector that is not null."""
    if not isinstance(names, str):
        return len(names)
    kind = selected.schema[column].dataType
    if isinstance(kind, NumericType):
        return 1
    size = F.size(column)
    if not isinstance(kind, ArrayType):
        size = F.coalesce(F.col(column).getField("size"), F.size(F.col(column).getField("values")))
    first = selected.where(F.col(column).isNotNull()).select(size.alias("size")).first()
    if first is None:
        raise ExamplesError(f"{role}={names!r} is null in all rows; fill it before fit")
    if not first.size:
        raise ExamplesError(f"{role}={names!r} has vectors without entries; at least one is needed")
    return int(first.size)


def _class_column(frame: DataFrame, label: str | Sequence[str]) -> Column:
    if not isinstance(label, str):
        raise ColumnError(f"labelCol={list(label)!r}: classes are in one column; name one")
    column, kind = resolved(frame, label, "labelCol")
    if isinstance(kind, StringType):
        return column.cast("string")  # without a collation: classes differ by their bytes
    if not isinstance(kind, NumericType):
        raise ColumnError(
            f"labelCol={label!r}: the column is {kind.simpleString()} and must be a string or a "
            "number; cast it"
        )
    return number_column(frame, label, "labelCol") + 0.0  # −0 is 0


def _is_number(frame: DataFrame, name: str) -> bool:
    return isinstance(resolved(frame, name, "labelCol")[1], NumericType)


class Vectors(NamedTuple):
    """Vectors of a column; null entries, and rows that are null or too short or long, are NaN."""

    values: Doubles  # (m, width)
    lengths: Longs  # (m,), −1 for null

    @property
    def finite(self) -> Bools:
        """Mask of the rows of the right length without NaN or infinity; shape (m,)."""
        return np.asarray(np.isfinite(self.values).all(axis=1))


def read_vectors(column: pa.Array, width: int) -> Vectors:
    """Read a column of vectors that should have `width` entries each; a zero has no sign.

    The column has lists of numbers, or the structs (type, size, indices, values) of ml vectors, or
    numbers, which are vectors of one entry.
    """
    if pa.types.is_struct(column.type):
        return _structs(column, width)
    if pa.types.is_list(column.type):
        return _lists(column, width)
    return Vectors(_numbers(column)[:, None], np.ones(len(column), np.int64))


def _lists(column: Any, width: int) -> Vectors:
    lengths = _lengths(column)
    flat = _numbers(column.flatten())
    right = lengths == width
    if right.all():
        return Vectors(flat.reshape(-1, width), lengths)
    matrix = np.full((len(lengths), width), np.nan)
    matrix[right] = flat[np.repeat(right, np.maximum(lengths, 0))].reshape(-1, width)
    return Vectors(matrix, lengths)


def _structs(column: Any, width: int) -> Vectors:
    kind, size, indices, values = column.flatten()
    sparse = kind.fill_null(1).to_numpy(zero_copy_only=False) == 0
    if not sparse.any():
        return _lists(values, width)
    counts = _lengths(values)
    given = np.maximum(counts, 0)
    lengths = np.where(sparse, size.fill_null(-1).to_numpy(zero_copy_only=False), counts)
    flat = _numbers(values.flatten())
    rows = np.repeat(np.arange(len(lengths)), given)
    places = np.arange(len(flat)) - np.repeat(np.cumsum(given) - given, given)
    places[sparse[rows]] = indices.flatten().to_numpy()
    right = lengths == width
    matrix = np.full((len(lengths), width), np.nan)
    matrix[right & sparse] = 0.0
    kept = right[rows]
    matrix[rows[kept], places[kept]] = flat[kept]
    return Vectors(matrix, lengths.astype(np.int64))


def _lengths(lists: Any) -> Longs:
    lengths: Longs = lists.value_lengths().fill_null(-1).to_numpy().astype(np.int64)
    return lengths


def _numbers(column: Any) -> Doubles:
    """Return numbers as doubles; a null becomes NaN, and −0, whose bits are others, becomes 0."""
    numbers: Doubles = column.to_numpy(zero_copy_only=False).astype(np.float64) + 0.0
    return numbers


class Accepted(NamedTuple):
    """The usable rows of a table."""

    x: Doubles  # (m, d)
    y: NDArray[Any]  # (m, k), or int32 indices of classes (m,)
    weight: Doubles | None  # (m,)
    held_out: Bools  # (m,)

    def take(self, rows: NDArray[Any]) -> Accepted:
        """Return some of the rows, by number or by a mask."""
        weight = None if self.weight is None else self.weight[rows]
        return Accepted(self.x[rows], self.y[rows], weight, self.held_out[rows])


def read_examples(table: pa.Table, schema: ExampleSchema) -> tuple[Accepted, Counter[str]]:
    """Read a table from `select_examples`; count the rejected rows by reason."""
    features = read_vectors(_chunk(table, "features"), schema.features)
    reasons = _complaints("features", features, schema.features)
    good = features.finite
    y: NDArray[Any]
    if schema.classes is None:
        labels = read_vectors(_chunk(table, "label"), schema.targets)
        reasons.update(_complaints("label", labels, schema.targets))
        y, right = labels.values, labels.finite
    else:
        kind = pa.string() if schema.classes.kind == "string" else pa.float64()
        index = pc.index_in(_chunk(table, "label"), pa.array(schema.classes.values, kind))
        y = index.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        right = y >= 0
        reasons["changed"] = int((~right).sum())
    good &= right
    weight = None
    if "weight" in table.column_names:
        weight = read_vectors(_chunk(table, "weight"), 1).values[:, 0]
        right = np.isfinite(weight) & (weight >= 0)
        reasons["weight"] = int((~right).sum())
        good &= right
    held_out = np.zeros(len(table), bool)
    if "held_out" in table.column_names:
        held_out = _chunk(table, "held_out").to_numpy(zero_copy_only=False).astype(bool)
    accepted = Accepted(features.values, y, weight, held_out)
    return (accepted if good.all() else accepted.take(good)), +reasons


def raise_rejected(
    reasons: Mapping[str, int], columns: ExampleColumns, schema: ExampleSchema, before: str = "fit"
) -> None:
    """Raise ExamplesError with the reasons counted by `read_examples`, if there are any."""
    found = []
    for what, names, width in (
        ("features", columns.features, schema.features),
        ("label", columns.label, schema.targets),
    ):
        role = f"{what}Col={names!r}" if isinstance(names, str) else f"{what}Col"
        if count := reasons.get(f"{what}.null"):
            found.append(f"{role} is null in {count:,} rows")
        if count := reasons.get(f"{what}.finite"):
            where = _where(reasons, what, columns) if what == "features" else ""
            found.append(f"{role} is null, NaN or infinite in {count:,} rows{where}")
        lengths = sorted(
            int(key.rpartition(".")[2]) for key in reasons if key.startswith(f"{what}.length.")
        )
        if lengths:
            count = sum(reasons[f"{what}.length.{length}"] for length in lengths)
            shown = ", ".join(map(str, lengths[:_NAMED])) + (", …" if lengths[_NAMED:] else "")
            found.append(f"{role} has {shown} entries in {count:,} rows and {width} in others")
    if count := reasons.get("weight"):
        found.append(
            f"weightCol={columns.weight!r} is null, NaN, infinite or negative in {count:,} rows"
        )
    if found:
        raise ExamplesError(
            f"{' and '.join(found)}, of {schema.rows + schema.held_out:,} in all; "
            f"drop or fill them before {before}"
        )
    if count := reasons.get("changed"):
        raise ExamplesError(
            f"labelCol={columns.label!r} has new labels in {count:,} rows since they were counted: "
            "the dataframe gives other rows each time; cache it, or write it to Parquet"
        )


def _where(reasons: Mapping[str, int], what: str, columns: ExampleColumns) -> str:
    prefix = f"{what}.finite."
    counts = {int(k.removeprefix(prefix)): n for k, n in reasons.items() if k.startswith(prefix)}
    if isinstance(columns.features, str) and len(counts) > 10 * _NAMED:
        return ""  # whole vectors are missing, no single feature
    worst: Sequence[int] = sorted(counts, key=lambda index: (-counts[index], index))
    named = [f"{columns.feature_name(index)} in {counts[index]:,}" for index in worst[:_NAMED]]
    return f" ({', '.join(named)}{', …' if worst[_NAMED:] else ''})"


def _complaints(what: str, vectors: Vectors, width: int) -> Counter[str]:
    """Count what is wrong with vectors: ``<what>.null``, ``.length.<n>``, ``.finite[.<j>]``."""
    found: Counter[str] = Counter()
    right = vectors.lengths == width
    if vectors.finite.all():
        return found
    for length, count in zip(*np.unique(vectors.lengths[~right], return_counts=True), strict=True):
        found[f"{what}.null" if length < 0 else f"{what}.length.{length}"] = int(count)
    infinite = ~np.isfinite(vectors.values[right])
    found[f"{what}.finite"] = int(infinite.any(axis=1).sum())
    for index in np.flatnonzero(infinite.any(axis=0)):
        found[f"{what}.finite.{index}"] = int(infinite[:, index].sum())
    return found


def _chunk(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


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
    has no part.  So is a class that is a string with bytes that are not UTF-8, or in JSON an object
    or a list.  In a text format columns become numbers; classes too, if all are numbers.
    Raises ColumnError if a column is missing, and ExamplesError if there are no usable rows, or
    rows to reject that the policy does not allow.
    """
    table = source.rows
    groups = [
        [names] if isinstance(names, str) else list(names)
        for names in (columns.features, columns.label, columns.weight or [])
    ]
    used = list(dict.fromkeys(chain(*groups)))
    split = [] if policy.split.column is None else [policy.split.column]
    for name in (*used, *split):
        if name not in table.columns:
            raise ColumnError(
                f"there is no column {name!r} in {source.path}; there are "
                f"{', '.join(map(repr, table.columns))}"
            )
    numbers = partial(parsed_column, table, kind="double") if source.text else named_column
    values = {name: numbers(name) for name in used}
    reasons = [_reason(table, name, values[name]) for name in used]
    if classify:
        assert isinstance(columns.label, str)
        label = _class(source, columns.label, values[columns.label])
        reasons[used.index(columns.label)] = F.coalesce(
            _missing(columns.label, label.isNull()), *_unreadable(source, columns.label)
        )
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
        vectors = {name for name in used if isinstance(table.schema[name].dataType, VectorUDT)}
        hashed = (F.unwrap_udt(v) if name in vectors else v for name, v in values.items())
        part = part_by_hash(policy.split, *hashed)
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
    kept = judged.where(usable).select(*(values[name].alias(name) for name in used), _PART)
    rejected = judged.where(~usable).drop(_PART)
    return ExampleTable(kept, rejected, columns, counts, by_reason)


def _check(
    source: Source, counts: dict[str, int], by_reason: dict[str, int], policy: InvalidRowPolicy
) -> None:
    rejected, rows = counts["rejected"], sum(counts.values())
    if not rows:
        raise ExamplesError(f"{source.path} has no rows: give examples to train on")
    worst = sorted(by_reason, key=lambda reason: (-by_reason[reason], reason))
    shown = "; ".join(f"{reason} in {by_reason[reason]:,}" for reason in worst[:_NAMED])
    shown += "; …" if worst[_NAMED:] else ""
    if rejected and policy.invalid == "error":
        raise ExamplesError(
            f"{rejected:,} of the {rows:,} rows of {source.path} cannot be used ({shown}); correct "
            'them, or set invalid="reject" to train without them'
        )
    if rejected == rows:
        raise ExamplesError(f"none of the {rows:,} rows of {source.path} can be used ({shown})")


def _class(source: Source, name: str, number: Column) -> Column:
    """Return classes: numbers, if those of a text format are all numbers, and else strings."""
    column = named_column(name)
    if not source.text:
        kind = source.rows.schema[name].dataType
        return F.when(~_infinite(column), column) if isinstance(kind, NumericType) else column
    text = source.rows.where(column.isNotNull() & (F.trim(column) != ""))
    words = text.where(number.isNull() | _infinite(number)).limit(1).count()
    return F.when(F.trim(column) != "", column) if words else number


def _unreadable(source: Source, name: str) -> list[Column]:
    """Return the reasons to reject a class that is a string, and would be taken for another."""
    if not isinstance(source.rows.schema[name].dataType, StringType):
        return []
    column = named_column(name).cast("string")
    reasons = [F.when(is_undecodable(column), f"{name} has bytes that are not UTF-8")]
    if source.format == "json":
        reasons.append(F.when(is_nested(column), f"{name} is an object or a list"))
    return reasons


def _reason(table: DataFrame, name: str, value: Column) -> Column:
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
