"""Results of training a network: the baseline, tables, metrics, figures of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from pyspark.sql import DataFrame

from nonconvex import __version__
from nonconvex.distributed.data.examples import ExampleTable
from nonconvex.distributed.network.predict import evaluate_network
from nonconvex.distributed.runtime import broadcasting
from nonconvex.estimators.display import text_table
from nonconvex.estimators.network.summary import NetworkSummary
from nonconvex.neural_network import (
    MultilayerPerceptronClassificationModel,
    MultilayerPerceptronRegressionModel,
)
from nonconvex.numerics import Doubles
from nonconvex.numerics.network.model import Network, Scorer, Standardization
from nonconvex.pipeline.runs import Run
from nonconvex.pipeline.text import decimals, strict_json

NetworkModel = MultilayerPerceptronClassificationModel | MultilayerPerceptronRegressionModel

CLASSIFICATION = {"accuracy": "accuracy", "logLoss": "log loss"}
REGRESSION = {"rmse": "RMSE", "mae": "MAE", "r2": "R²"}
"""The titles of the metrics by name."""

_SHOWN = 5  # features


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


def _biases(statistics: dict[str, Any], outputs: int) -> Doubles:
    if "classes" not in statistics:
        return np.array([target["mean"] for target in statistics["targets"]])
    logs = np.log([1 + one["weight"] for one in statistics["classes"]])
    logs -= np.log(len(logs) + statistics["weight"])
    return logs if outputs > 1 else logs[1:] - logs[:1]


def _evaluate(scorer: Scorer, frame: DataFrame, table: ExampleTable) -> dict[str, Any]:
    with broadcasting(frame.sparkSession) as share:
        return evaluate_network(frame, table.columns, share(scorer))


def overall(errors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of an evaluation that are of all rows."""
    return {name: value for name, value in errors.items() if not isinstance(value, list)}


def comparison_report(comparison: Mapping[str, Mapping[str, Any]] | None, part: str) -> str | None:
    """Show the errors of a model and the baseline on the rows of a part, if there are any.

    Examples
    --------
    >>> model = {"rmse": 1.0, "mae": 0.5, "r2": 0.75, "rows": 20, "targets": [{}]}
    >>> baseline = {"rmse": 2.0, "mae": 1.5, "r2": -0.001, "rows": 20, "targets": [{}]}
    >>> print(comparison_report({"model": model, "baseline": baseline}, "test"))
             RMSE     MAE       R²
    model  1.0000  0.5000   0.7500
    mean   2.0000  1.5000  -0.0010
    on 20 test rows
    """
    if comparison is None:
        return None
    model = comparison["model"]
    classes = model.get("classes")
    names = REGRESSION if classes is None else CLASSIFICATION
    constant = "mean" if classes is None else "share of each class"
    rows = [
        [constant if title == "baseline" else title, *(decimals(errors[name]) for name in names)]
        for title, errors in comparison.items()
    ]
    table = text_table(["", *names.values()], rows)
    blocks = [f"{table}\non {model['rows']:,} {part} rows"]
    if classes is not None:
        kinds = ("precision", "recall", "f1")
        of_classes = [
            [label_text(one["label"]), *(decimals(one[kind]) for kind in kinds)] for one in classes
        ]
        blocks.append(text_table(["class", "precision", "recall", "F1"], of_classes))
    elif model["targets"][1:]:
        of_targets = [
            [one["target"], *(decimals(one[name]) for name in REGRESSION)]
            for one in model["targets"]
        ]
        blocks.append(text_table(["target", *REGRESSION.values()], of_targets))
    return "\n\n".join(blocks)


def network_metrics(
    run_id: str,
    source: str,
    table: ExampleTable,
    summary: NetworkSummary,
    comparison: Mapping[str, Any] | None,
) -> str:
    """Return all numbers of a run as JSON: the data, the fit, the errors."""
    return strict_json(
        {
            "run_id": run_id,
            "nonconvex": __version__,
            "examples": {"path": source, "counts": table.counts, "rejected": table.reasons},
            "evaluation": comparison,
            "summary": asdict(summary),
        }
    )


def write_rejected(table: ExampleTable, run: Run) -> str | None:
    """Write the rows that could not be used beside the model; return a line on them, if any."""
    if not table.counts["rejected"]:
        return None
    table.rejected.write.parquet(f"{run.path}/rejected")
    return f"{table.counts['rejected']:,} rows could not be used: {run.path}/rejected"


def feature_drift(before: NetworkModel, now: NetworkModel) -> dict[str, float]:
    """Return the greatest `feature_shift` between two models that standardize their features."""
    old, new = before.scorer.standardization, now.scorer.standardization
    if len(old.mean) != len(new.mean):
        return {}
    shifts = list(feature_shift(old, new).items())[:_SHOWN]
    return {f"shift of feature {number}": shift for number, shift in shifts}


def feature_shift(before: Standardization, now: Standardization) -> dict[int, float]:
    """Return |m − m₀| / s₀ of each feature whose mean m has moved, the greatest first.

    s₀ is the earlier standard deviation; features are numbered from 0.
    """
    shift = np.abs(now.mean - before.mean) / before.scale
    order = np.argsort(-shift, kind="stable")
    return {int(index): float(shift[index]) for index in order if shift[index] > 0}


def label_text(value: str | float) -> str:
    """Return the label of a class to read."""
    return value if isinstance(value, str) else f"{value:g}"
