"""The page of a run that trained a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nonconvex.distributed.calibration import Agreement, Reliability
from nonconvex.estimators.network.summary import NetworkSummary
from nonconvex.reporting.circumstances import Circumstances, parts_of_every_run, seconds
from nonconvex.reporting.network_pictures import (
    confusion_picture,
    course_pictures,
    reliability_picture,
    target_picture,
)
from nonconvex.reporting.page import Fact, Page, Part, Table

__all__ = ["NetworkRun", "network_page"]

_CLASSIFICATION = {"accuracy": "accuracy", "logLoss": "log loss"}
_REGRESSION = {"rmse": "RMSE", "mae": "MAE", "r2": "R²"}
_LISTED = 30  # classes that have a row of their own


@dataclass(frozen=True)
class NetworkRun:
    """What a page shows of a run; nothing in it grows with the rows.

    Parameters
    ----------
    summary : NetworkSummary
    source : str
        What the examples were read from.
    counts, reasons : mapping of str to int
        See `nonconvex.distributed.data.example_tables.ExampleTable`.
    comparison : mapping or None
        From `nonconvex.network_baselines.compare_network`, None if there are no test rows.
    reliability : Reliability or None
        Of classes.
    agreements : list of (str, Agreement)
        Of each target of a regression.
    circumstances : Circumstances
    """

    summary: NetworkSummary
    source: str
    counts: Mapping[str, int]
    reasons: Mapping[str, int]
    comparison: Mapping[str, Any] | None
    reliability: Reliability | None
    agreements: Sequence[tuple[str, Agreement]]
    circumstances: Circumstances


def network_page(run: NetworkRun) -> Page:
    """Put a page together.

    Examples
    --------
    >>> from nonconvex.network_report import gather_network
    >>> about = Circumstances("a", "", {"nonconvex": "1.0"}, {"train": 2.5}, None)
    >>> page = network_page(gather_network(classifier, "flowers.parquet", examples, None, about))
    >>> page.lead
    'A network of layers 4–8–3 with 67 parameters, trained on 111 rows of flowers.parquet.'
    """
    summary = run.summary
    layers = "–".join(map(str, summary.layers))
    lead = (
        f"A network of layers {layers} with {summary.parameters:,} parameters, trained on "
        f"{summary.training_rows:,} rows of {run.source}."
    )
    parts = [
        *([_errors(run, run.comparison)] if run.comparison is not None else []),
        _training(summary),
        _data(run),
        *parts_of_every_run(run.circumstances),
    ]
    return Page(
        f"Run {run.circumstances.run_id}", lead, _facts(run), parts, run.circumstances.footer()
    )


def _facts(run: NetworkRun) -> list[Fact]:
    summary, facts = run.summary, []
    best = summary.restarts[summary.best]
    if run.comparison is not None:
        model, constant = run.comparison["model"], run.comparison["baseline"]
        names = _CLASSIFICATION if "classes" in model else _REGRESSION
        facts += [
            Fact(f"Test {title}", _number(model[name]), f"baseline {_number(constant[name])}")
            for name, title in names.items()
        ]
    if best.validation_loss is not None:
        facts.append(Fact("Validation loss", f"{best.validation_loss:.4f}"))
    facts.append(Fact("Objective f", f"{summary.objective:.4f}", best.stop.partition(":")[0]))
    starts = len(summary.restarts)
    of = f" of {starts} starts" if starts > 1 else ""
    facts.append(
        Fact("Training took", seconds(summary.seconds), f"{summary.totalIterations} epochs{of}")
    )
    return facts


def _errors(run: NetworkRun, comparison: Mapping[str, Any]) -> Part:
    model = comparison["model"]
    classes = model.get("classes")
    names = _REGRESSION if classes is None else _CLASSIFICATION
    constant = "mean" if classes is None else "share of each class"
    rows = [
        [title, *(_number(errors[name]) for name in names)]
        for title, errors in (("model", model), (constant, comparison["baseline"]))
    ]
    tables = [Table("Model and baseline", ["", *names.values()], rows)]
    text = f"On {model['rows']:,} test rows."
    if model["unpredicted"]:
        text += f" {model['unpredicted']:,} more have no prediction."
    if classes is None:
        if model["targets"][1:]:
            of_targets = [
                [str(one["target"]), *(_number(one[name]) for name in _REGRESSION)]
                for one in model["targets"]
            ]
            tables.append(Table("Targets", ["target", *_REGRESSION.values()], of_targets))
        pictures = [
            target_picture(name, number, agreed)
            for number, (name, agreed) in enumerate(run.agreements)
        ]
        return Part("Errors", text, pictures, tables)
    labels = [_label(one["label"]) for one in classes]
    pictures = [confusion_picture(np.array(model["confusionMatrix"]), labels)]
    if run.reliability is not None and len(run.reliability.rows):
        pictures.append(reliability_picture(run.reliability))
    if len(classes) <= _LISTED:
        of_classes = [
            [_label(one["label"]), *(_number(one[name]) for name in ("precision", "recall", "f1"))]
            for one in classes
        ]
        tables.append(Table("Classes", ["class", "precision", "recall", "F1"], of_classes))
    return Part("Errors", text, pictures, tables)


def _training(summary: NetworkSummary) -> Part:
    best = summary.restarts[summary.best]
    text = f"The kept parameters are those of epoch {best.epoch} ({best.stop}). "
    text += f"{summary.gradients_reason[:1].upper()}{summary.gradients_reason[1:]}."
    rows = [
        [
            f"{restart.restart}{' (kept)' if place == summary.best else ''}",
            f"{restart.epoch}",
            f"{restart.objective:.6f}",
            "–" if restart.validation_loss is None else f"{restart.validation_loss:.4f}",
            restart.stop.partition(":")[0],
        ]
        for place, restart in enumerate(summary.restarts)
    ]
    header = ["start", "epoch", "f", "validation loss", "stopped"]
    return Part("Training", text, course_pictures(summary), [Table("Random starts", header, rows)])


def _data(run: NetworkRun) -> Part:
    rows = [[part, f"{number:,}"] for part, number in run.counts.items()]
    rows += [[f"rejected: {reason}", f"{number:,}"] for reason, number in run.reasons.items()]
    summary = run.summary
    shape = [
        ["features", f"{summary.layers[0]:,}"],
        ["of them constant", f"{summary.constant_features:,}"],
        ["outputs", f"{summary.layers[-1]:,}"],
        ["weight of the training rows", f"{summary.weight:,.6g}"],
    ]
    return Part("Data", "", [], [Table("Rows", ["", "rows"], rows), _shape(run, shape)])


def _shape(run: NetworkRun, rows: list[list[str]]) -> Table:
    """Show what the data are like, beside those of the run published before."""
    before = (run.circumstances.previous or {}).get("summary") or {}
    old_layers = before.get("layers")
    if not old_layers:
        return Table("What was trained on", ["", "this run"], rows)
    old = [old_layers[0], before["constant_features"], old_layers[-1], before["weight"]]
    beside = [[*row, f"{value:,.6g}"] for row, value in zip(rows, old, strict=True)]
    caption = f"Drift since {(run.circumstances.previous or {}).get('run_id')}"
    return Table(caption, ["", "this run", "before"], beside)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _label(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"
