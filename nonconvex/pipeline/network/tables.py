"""Tables, metrics and figures of the data that the training of a network reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from nonconvex import __version__
from nonconvex.distributed.data.examples import ExampleTable
from nonconvex.estimators.display import text_table
from nonconvex.estimators.network.summary import NetworkSummary
from nonconvex.numerics.network.model import Standardization
from nonconvex.pipeline.network.baselines import NetworkModel
from nonconvex.pipeline.runs import Run
from nonconvex.pipeline.text import decimals, strict_json

_CLASSIFICATION = {"accuracy": "accuracy", "logLoss": "log loss"}
_REGRESSION = {"rmse": "RMSE", "mae": "MAE", "r2": "R²"}
_SHOWN = 5  # features


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
    names = _REGRESSION if classes is None else _CLASSIFICATION
    constant = "mean" if classes is None else "share of each class"
    rows = [
        [constant if title == "baseline" else title, *(decimals(errors[name]) for name in names)]
        for title, errors in comparison.items()
    ]
    table = text_table(["", *names.values()], rows)
    blocks = [f"{table}\non {model['rows']:,} {part} rows"]
    if classes is not None:
        of_classes = [
            [_label(one["label"]), *(decimals(one[name]) for name in ("precision", "recall", "f1"))]
            for one in classes
        ]
        blocks.append(text_table(["class", "precision", "recall", "F1"], of_classes))
    elif model["targets"][1:]:
        of_targets = [
            [one["target"], *(decimals(one[name]) for name in _REGRESSION)]
            for one in model["targets"]
        ]
        blocks.append(text_table(["target", *_REGRESSION.values()], of_targets))
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

    Examples
    --------
    >>> old = Standardization(np.array([0.0, 5.0]), np.array([1.0, 2.0]))
    >>> new = Standardization(np.array([0.0, 8.0]), np.array([1.0, 2.0]))
    >>> feature_shift(old, new)
    {1: 1.5}
    """
    shift = np.abs(now.mean - before.mean) / before.scale
    order = np.argsort(-shift, kind="stable")
    return {int(index): float(shift[index]) for index in order if shift[index] > 0}


def _label(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"
