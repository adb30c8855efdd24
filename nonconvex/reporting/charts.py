"""The kinds of charts that reports are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from nonconvex.reporting.pictures import colour

__all__ = [
    "bands",
    "bars",
    "courses",
    "densities",
    "dots",
    "ends",
    "labels",
    "lines",
    "tiles",
]

Array = NDArray[Any]

Course = Sequence[tuple[float, float]]


def courses(axes: Axes, of_restarts: Sequence[Course], best: int, x: str, y: str) -> None:
    """Draw what every restart went through, the best of them in front.

    Parameters
    ----------
    of_restarts : sequence of sequences of (float, float)
        Abscissas and ordinates of each.
    best : int
        Which of them is drawn in colour.
    x, y : str
        What they are.
    """
    for number, course in enumerate(of_restarts):
        if number != best and course:
            axes.plot(*zip(*course, strict=True), color=colour("quiet"), linewidth=1.0, alpha=0.75)
    front = of_restarts[best]
    axes.plot(*zip(*front, strict=True), color=colour("blue"), linewidth=2.2)
    axes.plot(*front[-1], "o", color=colour("blue"), markersize=5)
    values = np.array([value for course in of_restarts for _, value in course])
    if values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")
    if len(of_restarts) > 1:
        handles = [
            axes.plot([], [], color=colour("blue"), linewidth=2.2)[0],
            axes.plot([], [], color=colour("quiet"), linewidth=1.0)[0],
        ]
        axes.legend(handles, ["kept", "other starts"], loc="upper right")
    labels(axes, x, y)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def lines(axes: Axes, series: Mapping[str, Course], x: str, y: str) -> None:
    """Draw a few named lines, the second one dashed so that colour is not all that tells."""
    for (name, course), tone, style in zip(
        series.items(), ("blue", "orange", "teal", "purple"), ("-", "--", "-.", ":"), strict=False
    ):
        axes.plot(*zip(*course, strict=True), style, color=colour(tone), label=name)
    if len(series) > 1:
        axes.legend(loc="best")
    labels(axes, x, y)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def dots(axes: Axes, values: Sequence[float], names: Sequence[str], best: int, x: str) -> None:
    """Draw a number of each restart on one scale, from the least down."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    shown = order[:30]
    for height, place in enumerate(shown):
        tone = "blue" if place == best else "quiet"
        axes.plot(values[place], height, "o", color=colour(tone), markersize=7)
    axes.set_yticks(range(len(shown)), [names[place] for place in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.ticklabel_format(axis="x", useOffset=False)
    labels(axes, x, "")


def bars(axes: Axes, series: Mapping[str, Sequence[float]], ticks: Sequence[str], y: str) -> None:
    """Draw groups of dots over named places: what differs stands apart, and 0 need not be there."""
    shapes = ("o", "D", "s", "^")
    width = 0.16 * (len(series) - 1)
    shifts = np.linspace(-width / 2, width / 2, len(series))
    places = np.arange(len(ticks))
    tones = ("blue", "orange", "quiet", "quiet")
    for (name, values), tone, shape, shift in zip(
        series.items(), tones, shapes, shifts, strict=False
    ):
        axes.plot(
            places + shift, values, shape, color=colour(tone), label=name, markersize=5.5,
            linestyle="-", linewidth=0.9, alpha=0.95,
        )  # fmt: skip
    axes.set_xticks(places, ticks)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.legend(loc="best")
    axes.margins(x=0.06)
    labels(axes, "", y)


def densities(axes: Axes, series: Mapping[str, tuple[Array, Array]], x: str) -> None:
    """Draw histograms over each other: of each its counts and its edges, as shares of the whole."""
    for (name, (counts, edges)), tone in zip(series.items(), ("blue", "orange"), strict=False):
        shares = counts / counts.sum()
        axes.stairs(shares, edges, fill=True, color=colour(tone), alpha=0.28)
        axes.stairs(shares, edges, color=colour(tone), linewidth=1.6, label=name)
    axes.legend(loc="best")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    labels(axes, x, "share")


def bands(axes: Axes, series: Mapping[str, tuple[Array, Array]], x: str, y: str) -> None:
    """Draw medians with bands about them, on a logarithmic abscissa.

    Parameters
    ----------
    series : mapping of str to (array of shape (b,), array of shape (b, 3))
        Abscissas, and the 10th, 50th and 90th percentile at each.
    """
    for (name, (places, values)), tone in zip(series.items(), ("blue", "orange"), strict=False):
        axes.fill_between(
            places, values[:, 0], values[:, 2], color=colour(tone), alpha=0.2, linewidth=0
        )
        axes.plot(places, values[:, 1], "-o", color=colour(tone), label=name, markersize=3.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda count, _: f"{count:g}")
    axes.legend(loc="best")
    labels(axes, x, y)


def tiles(
    axes: Axes,
    counts: Array,
    columns: Array,
    rows: Array,
    x: str,
    y: str,
    *,
    diagonal: bool = True,
) -> None:
    """Draw counts of shape (rows, columns) as tiles, the darker the more, between edges."""
    most = counts.max()
    places = np.argwhere(counts)
    patches = [
        Rectangle(
            (columns[column], rows[row]),
            columns[column + 1] - columns[column],
            rows[row + 1] - rows[row],
        )
        for row, column in places
    ]
    strengths = np.sqrt([counts[row, column] / most for row, column in places])
    for strength in np.unique(np.ceil(strengths * 12)):
        members = [
            patch
            for patch, own in zip(patches, np.ceil(strengths * 12), strict=True)
            if own == strength
        ]
        axes.add_collection(
            PatchCollection(members, facecolor=colour("blue"), alpha=strength / 12, linewidth=0)
        )
    axes.set_xlim(columns[0], columns[-1])
    axes.set_ylim(rows[0], rows[-1])
    axes.grid(visible=False)
    if diagonal:
        ends = (max(columns[0], rows[0]), min(columns[-1], rows[-1]))
        axes.plot(ends, ends, "--", color=colour("muted"), linewidth=1)
    labels(axes, x, y)


def ends(axes: Axes, points: Array, sizes: Array, names: Mapping[int, str]) -> None:
    """Draw a map of points, some of them with names that do not lie over each other."""
    axes.scatter(points[:, 0], points[:, 1], s=sizes, color=colour("blue"), alpha=0.35, linewidth=0)
    axes.axhline(0, color=colour("line"), linewidth=0.8, zorder=0)
    axes.axvline(0, color=colour("line"), linewidth=0.8, zorder=0)
    axes.grid(visible=False)
    axes.margins(0.14)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # so that what follows is measured in the final layout
    taken: list[Any] = []
    frame = axes.get_window_extent()
    for place, name in names.items():
        text = axes.annotate(
            name, points[place], xytext=(0, 4), textcoords="offset points", ha="center",
            fontsize=7.5, color=colour("ink"), in_layout=False,
        )  # fmt: skip
        box = text.get_window_extent().expanded(1.04, 1.15)
        inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and box.y1 <= frame.y1
        if not inside or any(box.overlaps(other) for other in taken):
            text.remove()
            continue
        taken.append(box)
        axes.plot(*points[place], "o", color=colour("orange"), markersize=3.2)
    axes.tick_params(length=0)


def labels(axes: Axes, x: str, y: str) -> None:
    """Name both axes: the upright one over its upper end, where it is read without tilting."""
    if x:
        axes.set_xlabel(x)
    if y:
        axes.set_title(y, loc="left", fontsize=9, color=colour("muted"), pad=8)
