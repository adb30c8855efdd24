"""Predictions of a saved model of any kind for a table in files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StringType

from nonconvex.distributed.columns import ColumnError
from nonconvex.distributed.data.sources import Source
from nonconvex.models import AnyModel
from nonconvex.recommendation import MatrixFactorizationModel

__all__ = ["predict_table"]


def predict_table(model: AnyModel, source: Source, keep: Sequence[str] | None) -> DataFrame:
    """Predict every row of a table.

    Parameters
    ----------
    model : model
    source : Source
        With the columns of training; those of a text format become what the model takes.
    keep : sequence of str, optional
        The columns to return beside predictions; by default all.

    Returns
    -------
    DataFrame

    Raises
    ------
    ColumnError
        If a column is missing or of a wrong type.
    """
    rows = source.rows if source.malformed is None else source.rows.drop(source.malformed)
    for name in keep or ():
        if name not in rows.columns:
            raise ColumnError(
                f"there is no column {name!r} in {source.path}; there are "
                f"{', '.join(map(repr, rows.columns))}"
            )
    if source.text:
        taken = {name: kind for name, kind in _inputs(model).items() if name in rows.columns}
        rows = rows.withColumns({name: _cast(rows, name, kind) for name, kind in taken.items()})
    predicted = model.transform(rows)
    if keep is None:
        return predicted
    added = [name for name in predicted.columns if name not in rows.columns]
    return predicted.select(*(_quoted(name) for name in (*keep, *added)))


def _inputs(model: AnyModel) -> dict[str, Any]:
    """Return the type of each column that the model reads."""
    get = model.getOrDefault
    if isinstance(model, MatrixFactorizationModel):
        sides = {"userCol": model.userFactors, "itemCol": model.itemFactors}
        return {get(name): side.schema["id"].dataType for name, side in sides.items()}
    features = get("featuresCol")
    return dict.fromkeys([features] if isinstance(features, str) else features, "double")


def _cast(rows: DataFrame, name: str, kind: Any) -> Column:
    found, column = rows.schema[name].dataType, _quoted(name)
    if isinstance(found, ArrayType):
        return F.transform(column, lambda value: value.try_cast(kind))
    return column.try_cast(kind) if isinstance(found, StringType) else column


def _quoted(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")
