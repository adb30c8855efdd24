"""The figures of a network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from nonconvex.distributed.calibration import Agreement, Reliability
from nonconvex.estimators.network.summary import NetworkSummary
from nonconvex.reporting import charts
from nonconvex.reporting.pictures import SIZE, Picture, colour, picture

__all__ = [
    "confusion_picture",
    "course_pictures",
    "reliability_picture",
    "target_picture",
]

_WRITTEN = 15  # classes whose numbers of rows find room in the tiles


def course_pictures(summary: NetworkSummary) -> list[Picture]:
    """Draw what the restarts went through, and how far apart they ended."""
    best = summary.restarts[summary.best]
    series = {"training": [(epoch["epoch"], epoch["loss"]) for epoch in best.history]}
    validated = best.history[-1]["validation_loss"] is not None
    if validated:
        series["validation"] = [(e["epoch"], e["validation_loss"]) for e in best.history]
    series = {
        name: [point for point in course if np.isfinite(point[1])]
        for name, course in series.items()
    }
    first, last = series["training"][0], series["training"][-1]
    drawn = [
        picture(
            "loss",
            "Loss",
            "Of the kept start. In training, the mean over the minibatches of an epoch, before "
            "their steps.",
            f"The training loss goes from {first[1]:.4g} in epoch {first[0]} to {last[1]:.4g} in "
            f"epoch {last[0]}."
            + (
                f" The validation loss ends at {series['validation'][-1][1]:.4g}."
                if validated
                else ""
            ),
            partial(charts.lines, series=series, x="epoch", y="loss"),
        )
    ]
    if summary.restarts[1:]:
        drawn += [_starts(summary, validated), _spread(summary)]
    rates = [(epoch["epoch"], epoch["learning_rate"]) for epoch in best.history]
    drawn.append(
        picture(
            "learning-rate",
            "Learning rate",
            "At the last step of every epoch.",
            f"The learning rate goes from {rates[0][1]:.3g} to {rates[-1][1]:.3g}.",
            partial(_from_zero, course=rates),
        )
    )
    return drawn


def reliability_picture(measured: Reliability) -> Picture:
    """Draw how many predictions are right, by how sure they are."""
    total = measured.rows.sum()
    gap = float(np.abs(measured.accuracy - measured.confidence) @ measured.rows / total)
    return picture(
        "calibration",
        "Calibration",
        "Of test rows whose predicted class is about as probable, the share that is of this class; "
        "larger dots are more rows. On the dashed line probabilities mean what they say.",
        f"Shares that are right differ from the probabilities by {gap:.3f} on average.",
        partial(_reliability, measured=measured),
    )


def confusion_picture(matrix: NDArray[np.float64], names: Sequence[str]) -> Picture:
    """Draw rows of test by class and by predicted class."""
    totals = matrix.sum(axis=1)
    wrong = matrix - np.diag(np.diag(matrix))
    actual, taken = divmod(int(wrong.argmax()), len(wrong))
    most = (
        f"Most often {names[actual]} is taken for {names[taken]}, in {wrong[actual, taken]:g} of "
        f"{totals[actual]:g} rows."
        if wrong.any()
        else "No row is taken for another class."
    )
    height = SIZE[0] * 0.9 if len(names) > 3 else SIZE[1]
    return picture(
        "confusion",
        "Confusion matrix",
        f"Test rows by class and predicted class; each row of tiles adds up to its class. {most}",
        most,
        partial(_confusion, matrix=matrix, names=names),
        (SIZE[0], height),
    )


def target_picture(name: str, number: int, agreed: Agreement) -> Picture:
    """Draw predictions of a target against what it was."""
    return picture(
        f"predicted-actual-{number}",
        f"Predicted against actual: {name}",
        "Test rows; the stronger a tile, the more of them. On the dashed line predictions are "
        "right.",
        f"Tiles of predictions by actual values of {name}, from {agreed.actual[0]:.4g} to "
        f"{agreed.actual[-1]:.4g}.",
        partial(
            charts.tiles,
            counts=agreed.counts,
            columns=agreed.predicted,
            rows=agreed.actual,
            x="prediction",
            y="actual value",
        ),
    )


def _starts(summary: NetworkSummary, validated: bool) -> Picture:
    field = "validation_loss" if validated else "objective"
    courses = [
        [(epoch["epoch"], epoch[field]) for epoch in restart.history if np.isfinite(epoch[field])]
        for restart in summary.restarts
    ]
    what = "validation loss" if validated else "f"
    return picture(
        "starts",
        "All random starts",
        f"The {what} of each, on the same minibatches.",
        f"{len(courses)} random starts; the kept one ends at {courses[summary.best][-1][1]:.4g}.",
        partial(charts.courses, of_restarts=courses, best=summary.best, x="epoch", y=what),
    )


def _spread(summary: NetworkSummary) -> Picture:
    finite = [place for place, one in enumerate(summary.restarts) if np.isfinite(one.merit)]
    values = [summary.restarts[place].merit for place in finite]
    validated = summary.restarts[summary.best].validation_loss is not None
    what = "validation loss" if validated else "f"
    return picture(
        "spread",
        "Spread of the starts",
        f"Where each random start ended, by what they are chosen by: {what}.",
        f"{len(values)} starts ended between {min(values):.4g} and {max(values):.4g} in {what}; "
        "the least is kept.",
        partial(
            charts.dots,
            values=values,
            names=[f"start {summary.restarts[place].restart}" for place in finite],
            best=finite.index(summary.best),
            x=what,
        ),
        (SIZE[0], max(1.9, 0.9 + 0.22 * min(30, len(values)))),
    )


def _from_zero(axes: Axes, course: Sequence[tuple[float, float]]) -> None:
    charts.lines(axes, {"rate": course}, "epoch", "η")
    axes.set_ylim(0, 1.15 * max(rate for _, rate in course))


def _reliability(axes: Axes, measured: Reliability) -> None:
    axes.plot([0, 1], [0, 1], "--", color=colour("muted"), linewidth=1)
    sizes = 14 + 150 * np.sqrt(measured.rows / measured.rows.max())
    axes.plot(measured.confidence, measured.accuracy, color=colour("blue"), linewidth=1.2)
    axes.scatter(
        measured.confidence,
        measured.accuracy,
        s=sizes,
        color=colour("blue"),
        alpha=0.75,
        linewidth=0,
    )
    least = max(0.0, float(min(measured.confidence.min(), measured.accuracy.min())) - 0.08)
    axes.set_xlim(least, 1.03)
    axes.set_ylim(least, 1.05)
    charts.labels(axes, "probability of the predicted class", "share that is right")


def _confusion(axes: Axes, matrix: NDArray[np.float64], names: Sequence[str]) -> None:
    totals = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
    size = len(names)
    edges = np.arange(size + 1) - 0.5
    charts.tiles(axes, shares, edges, edges, "predicted class", "class", diagonal=False)
    axes.set_ylim(size - 0.5, -0.5)
    shown = [name if len(name) <= 9 else name[:8] + "…" for name in names]
    step = max(1, -(-size // 20))
    places = np.arange(0, size, step)
    axes.set_xticks(places, [shown[place] for place in places], rotation=0 if size <= 10 else 90)
    axes.set_yticks(places, [shown[place] for place in places])
    axes.tick_params(length=0)
    if size > _WRITTEN:
        return
    for row, column in np.argwhere(matrix):
        strong = shares[row, column] > 0.35
        axes.text(
            column, row, f"{matrix[row, column]:g}", ha="center", va="center", fontsize=7.5,
            color=colour("surface" if strong else "ink"),
        )  # fmt: skip
