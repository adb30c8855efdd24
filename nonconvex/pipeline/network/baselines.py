"""The baseline of a network: the best prediction that ignores all features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from nonconvex.distributed.data.example_tables import ExampleTable
from nonconvex.distributed.network.evaluate import evaluate_network
from nonconvex.distributed.network.predict import Scorer
from nonconvex.distributed.runtime import broadcasting
from nonconvex.neural_network import (
    MultilayerPerceptronClassificationModel,
    MultilayerPerceptronRegressionModel,
)
from nonconvex.numerics.network.model import Network
from nonconvex.numerics.network.standardize import Standardization

NetworkModel = MultilayerPerceptronClassificationModel | MultilayerPerceptronRegressionModel


def compare_network(
    model: NetworkModel,
    table: ExampleTable,
    part: str,
    *,
    others: Mapping[str, NetworkModel] | None = None,
) -> dict[str, Any]:
    """Evaluate a model on a part of a table, beside a constant fitted on the training rows.

    Returns ``model``, `others` and ``baseline``, each with the result of ``model.evaluate``.
    """
    frame = table.part(part)
    constant = constant_predictor(model, table)
    models = {"model": model, **(others or {})}
    evaluated = {name: one.evaluate(frame) for name, one in models.items()}
    return {**evaluated, "baseline": _evaluate(constant, frame, table)}


def constant_predictor(model: NetworkModel, table: ExampleTable) -> Scorer:
    """Return the network without weights that fits the training rows of a table best.

    It has the outputs and classes of `model`.  Its outputs are its biases: ȳ = Σ w y / Σ w for
    numbers, and for classes log p_c with p_c = (1 + Σ_{y = c} w) / (k + Σ w), so that no class has
    probability 0.
    """
    trained = model.scorer
    features, outputs = trained.network.layers[0], trained.network.layers[-1]
    network = Network((features, outputs), (), trained.network.loss)
    none = Standardization.none(features)
    empty = Scorer(network, np.zeros(network.size), none, trained.classes)
    statistics = _evaluate(empty, table.part("train"), table)
    [(_, bias)] = network.views(empty.theta)
    assert bias is not None
    bias[:] = _biases(statistics, outputs)
    return empty


def _biases(statistics: dict[str, Any], outputs: int) -> NDArray[np.float64]:
    if "classes" not in statistics:
        return np.array([target["mean"] for target in statistics["targets"]])
    logs = np.log([1 + one["weight"] for one in statistics["classes"]])
    logs -= np.log(len(logs) + statistics["weight"])
    return logs if outputs > 1 else logs[1:] - logs[:1]


def _evaluate(scorer: Scorer, frame: DataFrame, table: ExampleTable) -> dict[str, Any]:
    with broadcasting(frame.sparkSession) as share:
        return evaluate_network(frame, table.columns, share(scorer))
