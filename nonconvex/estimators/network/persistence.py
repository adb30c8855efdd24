"""Networks on disk: Parquet for the parameters, JSON for the rest."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from nonconvex.distributed.data.examples import Classes
from nonconvex.distributed.model_tables import ModelError, read_rows, write_table
from nonconvex.distributed.network.predict import Scorer
from nonconvex.estimators.network.summary import NetworkSummary
from nonconvex.estimators.persistence import ModelReader, ModelWriter
from nonconvex.numerics import Floats
from nonconvex.numerics.network.model import Network, Standardization

_PARAMETERS = {
    "index": "int",
    "layer": "int",
    "unit": "int",
    "weights": "array<float> array<double>",
}
_STANDARDIZATION = {"index": "int", "mean": "double", "scale": "double"}

ModelT = TypeVar("ModelT", bound=Any)  # a model of a network, whose module imports this one


class NetworkWriter(ModelWriter[ModelT]):
    """Writer of ``weights/``, ``standardization/``, ``targets/`` if standardized, ``metadata/``."""

    def _write(self, path: str) -> dict[str, Any]:
        model, spark = self._model, self.sparkSession
        scorer: Scorer = model.scorer
        network = scorer.network
        _write_parameters(spark, f"{path}/weights", network, scorer.theta)
        _write_standardization(spark, f"{path}/standardization", scorer.standardization)
        if scorer.targets is not None:
            _write_standardization(spark, f"{path}/targets", scorer.targets)
        return {
            "network": {
                "layers": list(network.layers),
                "activations": list(network.activations),
                "loss": network.loss,
                "bias": network.bias,
                "step_gradient": network.step_gradient,
                "reg": network.reg,
            },
            "precision": scorer.theta.dtype.name,
            "classes": None if scorer.classes is None else scorer.classes._asdict(),
            "targets": scorer.targets is not None,
            "summary": json.loads(model.summary.to_json()),
        }


class NetworkReader(ModelReader[ModelT]):
    """Reader of what `NetworkWriter` wrote."""

    def _make(self, path: str, metadata: dict[str, Any]) -> ModelT:
        about: dict[str, Any] = dict(metadata["network"])
        about |= {name: tuple(about[name]) for name in ("layers", "activations")}
        network = Network(**about)
        classes = metadata["classes"]
        if (classes is None) != (network.classes is None):
            raise KeyError("classes")
        if classes is not None:
            classes = Classes(classes["kind"], tuple(classes["values"]))
            if len(classes.values) != network.classes:
                raise KeyError("classes")
        summary = NetworkSummary.from_json(json.dumps(metadata["summary"]))
        spark, precision = self.sparkSession, metadata["precision"]
        theta = _read_parameters(spark, f"{path}/weights", network, precision)
        of = _read_standardization(spark, f"{path}/standardization", network.layers[0])
        targets = None
        if metadata["targets"]:
            targets = _read_standardization(spark, f"{path}/targets", network.layers[-1])
        model: ModelT = self._cls(Scorer(network, theta, of, classes, targets), summary)
        return model


def _write_parameters(spark: SparkSession, path: str, network: Network, theta: Floats) -> None:
    """Write θ as rows ``index, layer, unit, weights``.

    The rows are W_1 by the units that it leads from, b_1, W_2, …, with ``unit`` null for b.
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
    write_table(spark, path, table)


def _read_parameters(spark: SparkSession, path: str, network: Network, dtype: str) -> Floats:
    """Read the θ of `_write_parameters`; raise `ModelError` if it is not complete."""
    table = read_rows(spark, path, _PARAMETERS)
    values = table["weights"].combine_chunks()
    theta: Floats = values.flatten().to_numpy()
    if len(theta) != network.size or theta.dtype != dtype:
        raise ModelError(
            f"{path} holds {len(theta):,} parameters of {theta.dtype} and not the "
            f"{network.size:,} of {dtype} of the model; save the model again, or train it"
        )
    return theta


def _write_standardization(spark: SparkSession, path: str, of: Standardization) -> None:
    """Write means and scales of features or targets as rows ``index, mean, scale``."""
    index = pa.array(np.arange(len(of.mean)), pa.int32())
    table = pa.table([index, pa.array(of.mean), pa.array(of.scale)], ["index", "mean", "scale"])
    write_table(spark, path, table)


def _read_standardization(spark: SparkSession, path: str, width: int) -> Standardization:
    """Read a table of `_write_standardization`; errors are those of `_read_parameters`."""
    table = read_rows(spark, path, _STANDARDIZATION)
    if len(table) != width:
        raise ModelError(
            f"{path} holds {len(table):,} rows and not the {width:,} of the model; "
            "save the model again, or train it"
        )
    return Standardization(table["mean"].to_numpy(), table["scale"].to_numpy())
