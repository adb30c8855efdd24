"""The page of a run that trained a network: its data, from Spark, and its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from pyspark.ml.functions import vector_to_array
from pyspark.sql import functions as F

from nonconvex.distributed.data.examples import ExampleTable
from nonconvex.estimators.display import legible
from nonconvex.estimators.network.summary import NetworkSummary
from nonconvex.neural_network import (
    MultilayerPerceptronClassificationModel,
    MultilayerPerceptronRegressionModel,
)
from nonconvex.numerics import Doubles
from nonconvex.numerics.metrics import PredictedVsActual
from nonconvex.pipeline.network.results import CLASSIFICATION, REGRESSION, NetworkModel, label_text
from nonconvex.pipeline.runs import RunMetadata
from nonconvex.report import charts
from nonconvex.report.charts import Reliability, agreement, reliability
from nonconvex.report.page import (
    Fact,
    Page,
    Part,
    Picture,
    Table,
    comparison_table,
    format_number,
    run_page,
    table_of_restarts,
    training_facts,
)

_CLASSES_LISTED = 30  # with a row of their own
_CLASSES_WRITTEN = 15  # with numbers in the tiles
_TARGETS_DRAWN = 4  # with a figure each
_PREDICTION, _PROBABILITY = "nonconvex_prediction", "nonconvex_probability"


@dataclass(frozen=True)
class NetworkPageData:
    """The data of a page; nothing in it grows with the number of rows."""

    metadata: RunMetadata
    summary: NetworkSummary
    source: str  # path of the examples
    counts: Mapping[str, int]  # rows of each part
    reasons: Mapping[str, int]  # rejected rows by reason
    comparison: Mapping[str, Any] | None  # None without test rows
    calibration: Reliability | None  # of a classifier
    histograms: Sequence[tuple[str, PredictedVsActual]]  # of each target of a regression


def collect_network(
    model: NetworkModel,
    source: str,
    table: ExampleTable,
    comparison: Mapping[str, Any] | None,
    metadata: RunMetadata,
) -> NetworkPageData:
    """Collect the data of a page with Spark; see `NetworkPageData`."""
    calibration: Reliability | None = None
    histograms: list[tuple[str, PredictedVsActual]] = []
    labels, prediction = table.columns.label, F.col(_PREDICTION)
    if comparison is not None and isinstance(model, MultilayerPerceptronClassificationModel):
        columns: dict[Any, Any] = {model.predictionCol: "", model.predictedLabelCol: _PREDICTION}
        columns |= {model.probabilityCol: _PROBABILITY, model.rawPredictionCol: ""}
        predicted = model.copy(columns).transform(table.part("test"))
        confidence = F.array_max(vector_to_array(F.col(_PROBABILITY)))
        calibration = reliability(predicted, confidence, prediction == F.col(f"`{labels}`"))
    elif comparison is not None and isinstance(model, MultilayerPerceptronRegressionModel):
        predicted = model.copy({model.predictionCol: _PREDICTION}).transform(table.part("test"))
        names = [labels] if isinstance(labels, str) else list(labels)
        for place, name in enumerate(names[:_TARGETS_DRAWN]):
            actual = F.col(f"`{name}`").cast("double")
            of_name = prediction[place] if model.numTargets > 1 else prediction
            limits = predicted.agg(F.min(actual), F.max(actual)).collect()[0]
            histograms.append((name, agreement(predicted, actual, of_name, *limits)))
    return NetworkPageData(
        metadata=metadata,
        summary=model.summary,
        source=source,
        counts=table.counts,
        reasons=table.reasons,
        comparison=comparison,
        calibration=calibration,
        histograms=histograms,
    )


def network_page(data: NetworkPageData) -> Page:
    """Put a page together."""
    summary = data.summary
    lead = (
        f"A network of layers {'–'.join(map(str, summary.layers))} with {summary.parameters:,} "
        f"parameters, trained on {summary.training_rows:,} rows of {data.source}."
    )
    errors = [] if data.comparison is None else [_errors(data, data.comparison)]
    parts = [*errors, _training(summary), _data(data)]
    return run_page(data.metadata, lead, _facts(data), parts, _verdict(data.comparison))


def _verdict(comparison: Mapping[str, Any] | None) -> str:
    """Say whether the network is worth publishing: better than a constant prediction."""
    if comparison is None:
        return "Not measured: there are no test rows that the network could be judged by."
    model, baseline = comparison["model"], comparison["baseline"]
    name, title = next(iter(_metrics(model).items()))
    better = model[name] > baseline[name] if name == "accuracy" else model[name] < baseline[name]
    pair = f"{format_number(model[name])} against {format_number(baseline[name])}"
    verdict = "Worth publishing" if better else "Not worth publishing"
    return f"{verdict}: its test {title} is {pair} of the best constant prediction."


def _facts(data: NetworkPageData) -> list[Fact]:
    summary, facts = data.summary, []
    if data.comparison is not None:
        model, baseline = data.comparison["model"], data.comparison["baseline"]
        for name, title in _metrics(model).items():
            other = f"baseline {format_number(baseline[name])}"
            facts.append(Fact(f"Test {title}", format_number(model[name]), other))
    validation = summary.restarts[summary.best].validation_loss
    if validation is not None:
        facts.append(Fact("Validation loss", f"{validation:.4f}"))
    return [*facts, *training_facts(summary, "epochs", "restarts")]


def _errors(data: NetworkPageData, comparison: Mapping[str, Any]) -> Part:
    model = comparison["model"]
    classes, metrics = model.get("classes"), _metrics(model)
    text = f"Measured on {model['rows']:,} test rows."
    if model["unpredicted"]:
        text += f" {model['unpredicted']:,} more have no prediction."
    baseline = "mean" if classes is None else "share of each class"
    errors = [(baseline if name == "baseline" else name, of) for name, of in comparison.items()]
    tables = [_metric_table("Model and baseline", "", metrics, errors)]
    if classes is None:
        if model["targets"][1:]:
            targets = ((str(one["target"]), one) for one in model["targets"])
            tables.append(_metric_table("Targets", "target", metrics, targets))
        pictures = [
            charts.histogram_picture(
                f"predicted-actual-{place}",
                f"Predicted against actual: {name}",
                "value",
                f"Histogram of predicted against actual values of {name}, from "
                f"{histogram.actual[0]:.4g} to {histogram.actual[-1]:.4g}.",
                histogram,
            )
            for place, (name, histogram) in enumerate(data.histograms)
        ]
        return Part("Errors", text, pictures, tables)
    names = [label_text(one["label"]) for one in classes]
    pictures = [_confusion_picture(np.array(model["confusionMatrix"]), names)]
    if data.calibration is not None and len(data.calibration.rows):
        pictures.append(_calibration_picture(data.calibration))
    if len(classes) <= _CLASSES_LISTED:
        titles = {"precision": "precision", "recall": "recall", "f1": "F1"}
        rows = zip(names, classes, strict=True)
        tables.append(_metric_table("Classes", "class", titles, rows))
    return Part("Errors", text, pictures, tables)


def _training(summary: NetworkSummary) -> Part:
    best = summary.restarts[summary.best]
    reason = f"{summary.gradients_reason[:1].upper()}{summary.gradients_reason[1:]}"
    columns = {
        "epoch": ("epoch", "d"),
        "f": ("objective", ".6f"),
        "validation loss": ("validation_loss", ".4f"),
    }
    return Part(
        "Training",
        f"The model is epoch {best.epoch} of restart {best.restart} ({best.stop}). {reason}.",
        _training_pictures(summary),
        [table_of_restarts(summary.restarts, summary.best, columns)],
    )


def _data(data: NetworkPageData) -> Part:
    rows = [[part, f"{rows:,}"] for part, rows in data.counts.items()]
    rows += [[f"rejected: {reason}", f"{rows:,}"] for reason, rows in data.reasons.items()]
    summary, before = data.summary, data.metadata.previous.get("summary", {})
    layers = before.get("layers", [None])
    figures: dict[str, tuple[float, float | None]] = {
        "features": (summary.layers[0], layers[0]),
        "constant features": (summary.constant_features, before.get("constant_features")),
        "outputs": (summary.layers[-1], layers[-1]),
        "weight of the training rows": (summary.weight, before.get("weight")),
    }
    tables = [Table("Rows", ["", "rows"], rows), comparison_table(data.metadata, figures)]
    return Part("Data", "", [], tables)


def _training_pictures(summary: NetworkSummary) -> list[Picture]:
    """Draw the loss, the course of every restart, how far apart they ended, and the rates."""
    restarts, best = summary.restarts, summary.restarts[summary.best]

    def course(history: Sequence[Mapping[str, Any]], field: str) -> list[tuple[float, float]]:
        return [(epoch["epoch"], epoch[field]) for epoch in history if np.isfinite(epoch[field])]

    losses = {"training": course(best.history, "loss")}
    (start, first), (end, last) = losses["training"][0], losses["training"][-1]
    alt = f"The training loss goes from {first:.4g} in epoch {start} to {last:.4g} in epoch {end}."
    validated = best.history[-1]["validation_loss"] is not None
    if validated:
        losses["validation"] = course(best.history, "validation_loss")
        alt += f" The validation loss ends at {losses['validation'][-1][1]:.4g}."
    caption = (
        "Of the kept restart. The training loss is the mean over the minibatches of an epoch, each "
        "before its step."
    )
    plot = partial(charts.lines, series=losses, x="epoch", y="loss")
    pictures = [charts.picture("loss", "Loss", caption, alt, plot)]
    what = "validation loss" if validated else "f"
    if restarts[1:]:
        field = "validation_loss" if validated else "objective"
        curves = [course(restart.history, field) for restart in restarts]
        caption = f"The {what} of every restart, all on the same minibatches. The dot is the model."
        best_one, title, merits = summary.best, "All restarts", [one.merit for one in restarts]
        of_best = best_one, "epoch", what
        pictures += [
            charts.curves_picture("starts", title, caption, curves, *of_best, at=best.epoch),
            charts.spread_picture(restarts, merits, best_one, what),
        ]
    rates = [(epoch["epoch"], epoch["learning_rate"]) for epoch in best.history]

    def draw_rates(axes: Axes) -> None:
        charts.lines(axes, {"rate": rates}, "epoch", "η")
        axes.set_ylim(0, 1.15 * max(rate for _, rate in rates))

    alt = f"The learning rate goes from {rates[0][1]:.3g} to {rates[-1][1]:.3g}."
    caption = "At the last step of each epoch."
    pictures.append(charts.picture("learning-rate", "Learning rate", caption, alt, draw_rates))
    return pictures


@charts.drawn
def _calibration_picture(measured: Reliability) -> Picture:
    """Draw the share of correct predictions against their probability."""
    gap = np.abs(measured.accuracy - measured.confidence) @ measured.rows / measured.rows.sum()

    def draw(axes: Axes) -> None:
        x, y = measured.confidence, measured.accuracy
        sizes = 14 + 150 * np.sqrt(measured.rows / measured.rows.max())
        axes.plot([0, 1], [0, 1], "--", color=charts.colour("muted"), linewidth=1)
        axes.plot(x, y, color=charts.colour("blue"), linewidth=0.8, alpha=0.35)
        axes.scatter(x, y, s=sizes, color=charts.colour("blue"), alpha=0.75, linewidth=0, zorder=3)
        least = max(0.0, float(min(x.min(), y.min())) - 0.08)
        axes.set_xlim(least, 1.03)
        axes.set_ylim(least, 1.05)
        charts.axis_labels(axes, "probability of the predicted class", "share correct")

    return charts.picture(
        "calibration",
        "Calibration",
        "Test rows grouped by the probability of their predicted class; larger dots are more rows. "
        "On the dashed line, probabilities equal the shares that are correct.",
        f"The share of correct predictions differs from their probability by {gap:.3f} on average.",
        draw,
    )


@charts.drawn
def _confusion_picture(matrix: Doubles, names: Sequence[str]) -> Picture:
    """Draw test rows by class and predicted class; `matrix` has shape (classes, classes)."""
    size, totals = len(names), matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    wrong = matrix - np.diag(np.diag(matrix))
    most = "All rows are predicted correctly."
    if wrong.any():
        actual, predicted = divmod(int(wrong.argmax()), size)
        most = (
            f"Most frequent error: {names[actual]} predicted as {names[predicted]}, in "
            f"{wrong[actual, predicted]:g} of {totals[actual, 0]:g} rows."
        )

    def draw(axes: Axes) -> None:
        edges = np.arange(size + 1) - 0.5
        charts.tiles(axes, shares, edges, edges, "predicted class", "class")
        axes.set_ylim(size - 0.5, -0.5)
        places = range(0, size, max(1, -(-size // 20)))
        shown = [legible(name if len(name) <= 9 else name[:8] + "…") for name in names]
        ticks = [shown[place] for place in places]
        axes.set_xticks(places, ticks, rotation=0 if size <= 10 else 90)
        axes.set_yticks(places, ticks)
        axes.tick_params(length=0)
        for row, column in np.argwhere(matrix) if size <= _CLASSES_WRITTEN else ():
            tone = charts.colour("surface" if shares[row, column] > 0.35 else "ink")
            text = f"{matrix[row, column]:g}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=tone)

    return charts.picture(
        "confusion",
        "Confusion matrix",
        f"Test rows by class and predicted class; colours are shares of the class. {most}",
        most,
        draw,
        (charts.SIZE[0], 0.9 * charts.SIZE[0] if size > 3 else charts.SIZE[1]),
    )


def _metrics(errors: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the titles of the metrics by name, for classes or for a regression."""
    return CLASSIFICATION if "classes" in errors else REGRESSION


def _metric_table(
    caption: str,
    first: str,
    titles: Mapping[str, str],
    rows: Iterable[tuple[str, Mapping[str, Any]]],
) -> Table:
    cells = [[name, *(format_number(errors[metric]) for metric in titles)] for name, errors in rows]
    return Table(caption, [first, *titles.values()], cells)
