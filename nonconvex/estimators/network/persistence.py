"""Networks on disk: Parquet for the parameters, JSON for the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pyspark.sql import SparkSession

from nonconvex.distributed.model_tables import read_rows, write_table
from nonconvex.estimators.network.summary import NetworkRestart, NetworkSummary
from nonconvex.estimators.persistence import ModelMetadata, ModelReader, ModelWriter, summary_schema
from nonconvex.local.network import scorer_of
from nonconvex.numerics import Floats
from nonconvex.numerics.convergence import Epoch
from nonconvex.numerics.network.model import Network, Scorer, Standardization

ModelT = TypeVar("ModelT", bound=Any)  # a model of a network, whose module imports this one
_Width = Annotated[int, Field(ge=1, lt=2**31)]


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


class _Shape(BaseModel):
    """A network."""

    model_config = ConfigDict(strict=True)

    layers: Annotated[list[_Width], Field(min_length=2)]
    activations: list[str]
    loss: str
    bias: bool
    step_gradient: str | None
    reg: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Classes(BaseModel):
    """The classes of a classification."""

    model_config = ConfigDict(strict=True)

    kind: Literal["string", "double"]
    values: list[str] | list[Annotated[float, Field(allow_inf_nan=False)]]

    @model_validator(mode="after")
    def _check(self) -> Self:
        kind = str if self.kind == "string" else float
        if not all(isinstance(value, kind) for value in self.values):
            raise ValueError(f"the values are no {self.kind}s")
        if len(set(self.values)) != len(self.values):
            raise ValueError("a class is there twice")
        return self


class _Saved(ModelMetadata):
    """The metadata of a network."""

    network: _Shape
    precision: Literal["float32", "float64"]
    classes: _Classes | None
    targets: bool


class NetworkReader(ModelReader[ModelT]):
    """Reader of what `NetworkWriter` wrote."""

    _schema = _Saved
    _summary = summary_schema(NetworkSummary, NetworkRestart, Epoch)

    def _make(self, path: str, metadata: dict[str, Any]) -> ModelT:
        def read(name: str, types: Mapping[str, str], rows: int) -> pa.Table:
            return read_rows(self.sparkSession, f"{path}/{name}", types, rows)

        scorer = scorer_of(metadata, path, read)
        summary = NetworkSummary.from_json(json.dumps(metadata["summary"]))
        model: ModelT = self._cls(scorer, summary)
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


def _write_standardization(spark: SparkSession, path: str, of: Standardization) -> None:
    """Write means and scales of features or targets as rows ``index, mean, scale``."""
    index = pa.array(np.arange(len(of.mean)), pa.int32())
    table = pa.table([index, pa.array(of.mean), pa.array(of.scale)], ["index", "mean", "scale"])
    write_table(spark, path, table)
