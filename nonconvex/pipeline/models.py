"""Saved models of any kind, the tables they predict, and the directories they predict into.

A class is found by its name in a table and imported when a model of it is asked for: a program
that uses factorizations imports no network, and the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from pyspark.errors import PySparkException
from pyspark.ml import Model
from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.columns import ColumnError, named_column, parsed_column
from nonconvex.distributed.data.sources import Source, refuse_empty_files
from nonconvex.distributed.files import FileSystem
from nonconvex.estimators.params import ParamError
from nonconvex.estimators.persistence import read_metadata
from nonconvex.local.model_tables import ModelError

# A name in a file chooses among these, and imports nothing else.
_MODULES = {
    "MatrixFactorizationModel": "nonconvex.recommendation",
    "MultilayerPerceptronClassificationModel": "nonconvex.neural_network",
    "MultilayerPerceptronRegressionModel": "nonconvex.neural_network",
}

OUTPUT_MANIFEST = "serving.json"
"""The file that describes a directory of this job, and allows a later run to replace it."""


class ServingError(ValueError):
    """A table that cannot be read, or a place that cannot be written to."""

    exit_status = 3


def load_model(spark: SparkSession, path: str, *, handle_invalid: str | None = None) -> Model:
    """Load a model of the kind that its metadata name.

    `handle_invalid` is the new value of ``handleInvalid`` of a network, if it is given.
    """
    name = read_metadata(spark, path)["class"]
    kind = name.rpartition(".")[2]
    if not name.startswith("nonconvex.") or kind not in _MODULES:
        raise ModelError(f"{path} holds a {name}; models of {', '.join(_MODULES)} can be loaded")
    model: Model = getattr(import_module(_MODULES[kind]), kind).load(path)
    if handle_invalid is not None:
        if not model.hasParam("handleInvalid"):
            raise ParamError(
                f"invalid={handle_invalid!r} is about the features of a network, and {path} is a "
                "factorization; leave it out"
            )
        model.set(model.getParam("handleInvalid"), handle_invalid)
    return model


def predict_table(model: Model, source: Source, keep: Sequence[str] | None) -> DataFrame:
    """Predict every row of a table with the columns of training.

    Columns of a text format are cast to the types of the model.  The columns in `keep` are
    returned beside the predictions, by default all.
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
        cast = {name: parsed_column(rows, name, kind) for name, kind in taken.items()}
        rows = rows.withColumns(cast)
    predicted = model.transform(rows)
    if keep is None:
        return predicted
    added = [name for name in predicted.columns if name not in rows.columns]
    return predicted.select(*(named_column(name) for name in (*keep, *added)))


def _inputs(model: Any) -> dict[str, Any]:
    """Return the type of each column that the model reads."""
    get = model.getOrDefault
    if model.hasParam("userCol"):
        sides = {"userCol": model.userFactors, "itemCol": model.itemFactors}
        return {get(name): side.schema["id"].dataType for name, side in sides.items()}
    features = get("featuresCol")
    return dict.fromkeys([features] if isinstance(features, str) else features, "double")


def check_place(spark: SparkSession, path: str, *, overwrite: bool) -> None:
    """Raise ServingError if something at `path` must not be replaced, or cannot be written."""
    files = FileSystem(spark, path)
    files.check_writable(files.parent(path)[0])
    if not files.exists(path):
        return
    if not files.exists(f"{path}/{OUTPUT_MANIFEST}"):
        raise ServingError(
            f"output.path: there is something at {path} that this job did not write, as it has no "
            f"{OUTPUT_MANIFEST}; name another directory"
        )
    if not overwrite:
        raise ServingError(
            f"output.path: this job has written to {path} already; set "
            "output.overwrite=true, or name another directory"
        )


def read_named_table(spark: SparkSession, path: str, key: str) -> DataFrame:
    """Read Parquet that the configuration names as `key`."""
    refuse_empty_files(FileSystem(spark, path), path)
    try:
        return spark.read.parquet(path)
    except PySparkException as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ServingError(f"{key}: {path} cannot be read as Parquet: {reason}") from None
