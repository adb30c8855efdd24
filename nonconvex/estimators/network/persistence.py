"""Networks on disk: Parquet for the parameters, JSON for the rest."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from nonconvex.distributed.data.examples import Classes
from nonconvex.distributed.model_tables import (
    read_parameters,
    read_standardization,
    write_parameters,
    write_standardization,
)
from nonconvex.distributed.network.predict import Scorer
from nonconvex.estimators.network.summary import NetworkSummary
from nonconvex.estimators.persistence import ModelReader, ModelWriter
from nonconvex.numerics.network.model import Network

__all__ = ["NetworkReader", "NetworkWriter"]

ModelT = TypeVar("ModelT", bound=Any)  # a model of a network, whose module imports this one


class NetworkWriter(ModelWriter[ModelT]):
    """Writer of ``weights/``, ``standardization/``, ``targets/`` if standardized, ``metadata/``."""

    def _write(self, path: str) -> dict[str, Any]:
        model, spark = self._model, self.sparkSession
        scorer: Scorer = model.scorer
        network = scorer.network
        write_parameters(spark, f"{path}/weights", network, scorer.theta)
        write_standardization(spark, f"{path}/standardization", scorer.standardization)
        if scorer.targets is not None:
            write_standardization(spark, f"{path}/targets", scorer.targets)
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
        theta = read_parameters(spark, f"{path}/weights", network, precision)
        of = read_standardization(spark, f"{path}/standardization", network.layers[0])
        targets = None
        if metadata["targets"]:
            targets = read_standardization(spark, f"{path}/targets", network.layers[-1])
        model: ModelT = self._cls(Scorer(network, theta, of, classes, targets), summary)
        return model
