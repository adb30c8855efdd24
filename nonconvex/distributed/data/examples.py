"""Examples at the door: which columns they are in, and what those hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DecimalType, NumericType, StringType

from nonconvex.distributed.columns import ColumnError, boolean_column, number_column

__all__ = [
    "MOST_CLASSES",
    "Classes",
    "ExampleColumns",
    "ExamplesError",
    "Outline",
    "outline",
    "select_examples",
    "select_vectors",
]

MOST_CLASSES = 10_000
"""More different labels than this are taken for numbers that a regression should predict."""


class ExamplesError(ValueError):
    """Examples that no network can be trained on; the message says why, and what to do."""

    exit_status = 3


@dataclass(frozen=True)
class ExampleColumns:
    """Where a dataframe has its examples.

    Parameters
    ----------
    features : str or sequence of str
        One column of ml vectors or arrays, or a sequence of columns of numbers.
    label : str or sequence of str
        For a classification, a column of strings or whole numbers.  For a regression, a column
        of numbers, ml vectors or arrays, or a sequence of columns of numbers.
    weight : str, optional
        A column of numbers that are at least 0.
    held_out : str, optional
        A boolean column that is true for the rows that validation is done on.
    """

    features: str | Sequence[str]
    label: str | Sequence[str]
    weight: str | None = None
    held_out: str | None = None

    def feature_name(self, index: int) -> str:
        """Return what to call a feature in a message."""
        one = isinstance(self.features, str)
        return f"{self.features}[{index}]" if one else repr(self.features[index])


class Classes(NamedTuple):
    """The classes of a classification, in the order of the outputs.

    Attributes
    ----------
    kind : str
        "string", or "double" for whole numbers.
    values : tuple of str or tuple of float
        In ascending order.
    """

    kind: str
    values: tuple[Any, ...]


class Outline(NamedTuple):
    """What is known of examples before they are read.

    Attributes
    ----------
    rows, held_out : int
        Number of examples to train on, and to validate on.
    features, targets : int
        Number of features, and of numbers or classes to predict.
    classes : Classes or None
        None for a regression.
    """

    rows: int
    held_out: int
    features: int
    targets: int
    classes: Classes | None


def select_examples(frame: DataFrame, columns: ExampleColumns, *, classify: bool) -> DataFrame:
    """Return the columns of examples under names and in types of their own.

    Parameters
    ----------
    frame : DataFrame
    columns : ExampleColumns
    classify : bool
        Whether the labels are classes.

    Returns
    -------
    DataFrame
        ``features, label, weight double, held_out boolean``, the last two only if there are any.
        Features and labels are as `nonconvex.distributed.data.vectors.read_vectors` takes them, and
        classes are strings or doubles.

    Raises
    ------
    ColumnError
        If a column is missing or of a wrong type.
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
    """Return one column of vectors, as `nonconvex.distributed.data.vectors.read_vectors` takes them.

    Parameters
    ----------
    frame : DataFrame
    names : str or sequence of str
        One column of ml vectors or arrays of numbers, or a sequence of columns of numbers.
    role : str
        The Param that names them, for the message.

    Raises
    ------
    ColumnError
        If a column is missing or of a wrong type, or there is none.
    """
    if not isinstance(names, str):
        if not names:
            raise ColumnError(f"{role}=[]: at least one column is needed; name it")
        return F.array(*(number_column(frame, name, role) for name in names))
    if names not in frame.columns:
        number_column(frame, names, role)  # which says what columns there are
    kind, column = frame.schema[names].dataType, _column(names)
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


def outline(
    selected: DataFrame,
    columns: ExampleColumns,
    *,
    classify: bool,
    features: int | None = None,
    targets: int | None = None,
) -> Outline:
    """Count the examples and their classes, and measure the first of them.

    Parameters
    ----------
    selected : DataFrame
        From `select_examples`.
    columns : ExampleColumns
        What they are called, for messages.
    classify : bool
    features, targets : int, optional
        What the first and the last entry of ``layers`` ask for, where they are given.

    Returns
    -------
    Outline
        The classes are all there are in ascending order; where `targets` is given and they are
        numbers, 0 … targets − 1.

    Raises
    ------
    ExamplesError
        If there are no examples to train on, or a single class; if labels are no classes; if
        `features` or `targets` are other numbers than those of the data.
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
    classes = _classes(groups, columns.label, targets) if classify else None
    found = _width(selected, "features", columns.features, "featuresCol")
    _agree("begins", features, found, "features", columns.features)
    if classes is None:
        outputs = _width(selected, "label", columns.label, "labelCol")
        _agree("ends", targets, outputs, "targets", columns.label)
    else:
        outputs = len(classes.values)
    return Outline(rows, held, found, outputs, classes)


def _classes(groups: list[Row], label: str | Sequence[str], targets: int | None) -> Classes:
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
            f"{name} has more than {MOST_CLASSES:,} different labels, which is the most; "
            "group them, or use the regressor"
        )
    trained = {group.label for group in groups if not group.held_out}
    if len(trained) == 1:
        raise ExamplesError(
            f"{name} has a single class in the rows to train on, {_shown(trained.pop())}, and two "
            "are needed; check the labels"
        )
    if targets is not None and kind == "double":
        outside = [value for value in values if not 0 <= value < targets]
        if outside:
            raise ExamplesError(
                f"{name} has the label {_shown(outside[0])}, and with {targets} outputs in layers "
                f"labels are 0 … {targets - 1}; relabel, or change the last entry of layers"
            )
        values = [float(number) for number in range(targets)]
    _agree("ends", targets, len(values), "classes", label)
    return Classes(kind, tuple(values))


def _is_missing(label: Any) -> bool:
    return label is None or (isinstance(label, float) and not math.isfinite(label))


def _shown(label: Any) -> str:
    return f"{label:g}" if isinstance(label, float) else repr(label)


def _width(selected: DataFrame, column: str, names: str | Sequence[str], role: str) -> int:
    """Return how many entries the first vector has that is not null."""
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


def _agree(at: str, given: int | None, found: int, what: str, names: str | Sequence[str]) -> None:
    if given is not None and given != found:
        shown = repr(names) if isinstance(names, str) else f"{len(names)} columns"
        raise ExamplesError(
            f"layers {at} with {given}, and there are {found} {what} in {shown}; "
            f"put {found} there, or leave that entry out"
        )


def _class_column(frame: DataFrame, label: str | Sequence[str]) -> Column:
    if not isinstance(label, str):
        raise ColumnError(f"labelCol={list(label)!r}: classes are in one column; name one")
    if label in frame.columns and isinstance(frame.schema[label].dataType, StringType):
        return _column(label).cast("string")  # without a collation: classes differ by their bytes
    if label in frame.columns and not _is_number(frame, label):
        kind = frame.schema[label].dataType.simpleString()
        raise ColumnError(
            f"labelCol={label!r}: the column is {kind} and must be a string or a number; cast it"
        )
    return number_column(frame, label, "labelCol") + 0.0  # −0 is 0


def _is_number(frame: DataFrame, name: str) -> bool:
    return name not in frame.columns or isinstance(frame.schema[name].dataType, NumericType)


def _column(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")
