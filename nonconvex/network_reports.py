"""What the jobs report of networks: tables of text to read, and the metrics of a run as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nonconvex import __version__
from nonconvex.distributed.data.example_tables import ExampleTable
from nonconvex.estimators.network.summary import NetworkRestart, NetworkSummary
from nonconvex.reports import strict_json, text_table

__all__ = ["comparison_report", "network_metrics", "network_restarts", "overall"]

_CLASSIFICATION = {"accuracy": "accuracy", "logLoss": "log loss"}
_REGRESSION = {"rmse": "RMSE", "mae": "MAE", "r2": "R²"}


def overall(errors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of an evaluation that are of all rows.

    Examples
    --------
    >>> overall({"accuracy": 0.5, "logLoss": 0.7, "rows": 2, "classes": []})
    {'accuracy': 0.5, 'logLoss': 0.7, 'rows': 2}
    """
    return {name: value for name, value in errors.items() if not isinstance(value, list)}


def comparison_report(comparison: Mapping[str, Mapping[str, Any]], part: str) -> str:
    """Show the errors of a model and the baseline, and what they are errors of.

    Parameters
    ----------
    comparison : mapping
        From `nonconvex.network_baselines.compare_network`.
    part : str
        The rows it is of.

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
    model = comparison["model"]
    classes = model.get("classes")
    names = _REGRESSION if classes is None else _CLASSIFICATION
    constant = "mean" if classes is None else "share of each class"
    rows = [
        [constant if title == "baseline" else title, *(_number(errors[name]) for name in names)]
        for title, errors in comparison.items()
    ]
    table = text_table(["", *names.values()], rows)
    blocks = [f"{table}\non {model['rows']:,} {part} rows"]
    if classes is not None:
        of_classes = [
            [_label(one["label"]), *(_number(one[name]) for name in ("precision", "recall", "f1"))]
            for one in classes
        ]
        blocks.append(text_table(["class", "precision", "recall", "F1"], of_classes))
    elif model["targets"][1:]:
        of_targets = [
            [one["target"], *(_number(one[name]) for name in _REGRESSION)]
            for one in model["targets"]
        ]
        blocks.append(text_table(["target", *_REGRESSION.values()], of_targets))
    return "\n\n".join(blocks)


def network_restarts(summary: NetworkSummary) -> str:
    """Show what each random start reached, with a star at the one that the model is of.

    Examples
    --------
    >>> print(network_restarts(classifier.summary))
    restart  epoch         f  validation loss          stopped
    0           20  0.24...                     reached maxIter
    1 *         20  0.22...                     reached maxIter
    """
    rows = [
        _restart_row(restart, kept=number == summary.best)
        for number, restart in enumerate(summary.restarts)
    ]
    return text_table(["restart", "epoch", "f", "validation loss", "stopped"], rows)


def network_metrics(
    run_id: str,
    source: str,
    table: ExampleTable,
    summary: NetworkSummary,
    comparison: Mapping[str, Any] | None,
) -> str:
    """Return all numbers of a run as JSON: the data, the fit, the errors.

    Examples
    --------
    >>> import json
    >>> text = network_metrics("a", "flowers.parquet", examples, classifier.summary, None)
    >>> json.loads(text)["examples"]["counts"]
    {'train': 111, 'validation': 0, 'test': 39, 'rejected': 0}
    """
    return strict_json(
        {
            "run_id": run_id,
            "nonconvex": __version__,
            "examples": {"path": source, "counts": table.counts, "rejected": table.reasons},
            "evaluation": comparison,
            "summary": asdict(summary),
        }
    )


def _restart_row(restart: NetworkRestart, *, kept: bool) -> list[str]:
    return [
        f"{restart.restart} *" if kept else f"{restart.restart}",
        f"{restart.epoch}",
        f"{restart.objective:.6f}",
        "" if restart.validation_loss is None else f"{restart.validation_loss:.4f}",
        restart.stop.partition(":")[0],
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _label(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"
