"""What a network has to beat: the best prediction that looks at no feature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from nonconvex.distributed.data.example_tables import ExampleTable
from nonconvex.distributed.network.evaluate import evaluate_network
from nonconvex.distributed.network.predict import Scorer
from nonconvex.neural_network import (
    MultilayerPerceptronClassificationModel,
    MultilayerPerceptronRegressionModel,
)
from nonconvex.numerics.network.model import Network
from nonconvex.numerics.network.standardize import Standardization

__all__ = ["NetworkModel", "compare_network", "constant_predictor"]

NetworkModel = MultilayerPerceptronClassificationModel | MultilayerPerceptronRegressionModel


def compare_network(
    model: NetworkModel,
    table: ExampleTable,
    part: str,
    *,
    others: Mapping[str, NetworkModel] | None = None,
) -> dict[str, Any]:
    """Evaluate a model on a part of a table, beside a constant fitted on the training rows.

    Parameters
    ----------
    model : model of a network
    table : ExampleTable
    part : {"validation", "test"}
    others : mapping of str to model of a network, optional
        More models to evaluate on the same rows, by name.

    Returns
    -------
    dict
        ``model``, `others` and ``baseline``, each of what ``model.evaluate`` returns.

    Raises
    ------
    EvaluationError
        If the part has no rows, or none has a weight.
    """
    frame = table.part(part)
    constant = constant_predictor(model, table)
    models = {"model": model, **(others or {})}
    evaluated = {name: one.evaluate(frame) for name, one in models.items()}
    return {**evaluated, "baseline": _evaluate(constant, frame, table)}


def constant_predictor(model: NetworkModel, table: ExampleTable) -> Scorer:
    """Return the network without weights that fits the training rows of a table best.

    Its outputs are its biases: ȳ = Σ w y / Σ w for numbers, and for classes log p_c with
    p_c = (1 + Σ_{y = c} w) / (k + Σ w), so that no class has probability 0.

    Parameters
    ----------
    model : model of a network
        Whose outputs and classes to have.
    table : ExampleTable
    """
    of = model.scorer
    features, outputs = of.network.layers[0], of.network.layers[-1]
    network = Network((features, outputs), (), of.network.loss)
    empty = Scorer(network, np.zeros(network.size), Standardization.none(features), of.classes)
    about = _evaluate(empty, table.part("train"), table)
    [(_, bias)] = network.views(empty.theta)
    assert bias is not None
    bias[:] = _biases(about, outputs)
    return empty


def _biases(about: dict[str, Any], outputs: int) -> NDArray[np.float64]:
    if "classes" not in about:
        return np.array([target["mean"] for target in about["targets"]])
    logs = np.log([1 + one["weight"] for one in about["classes"]])
    logs -= np.log(len(logs) + about["weight"])
    return logs if outputs > 1 else logs[1:] - logs[:1]


def _evaluate(scorer: Scorer, frame: DataFrame, table: ExampleTable) -> dict[str, Any]:
    shared = frame.sparkSession.sparkContext.broadcast(scorer)
    try:
        return evaluate_network(frame, table.columns, shared)
    finally:
        shared.destroy()
