"""Figures with matplotlib, an SVG for light and dark mode and a PNG, and the counts they show.

Rows are counted on Spark, in one pass, however many there are.
"""

from __future__ import annotations

import io
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.runtime import DISK_FULL
from nonconvex.estimators.display import legible
from nonconvex.numerics import Doubles, Longs
from nonconvex.numerics.metrics import LEVELS, PredictedVsActual
from nonconvex.report.page import COLOURS, Picture

Array = NDArray[Any]
Curve = Sequence[tuple[float, float]]
_P = ParamSpec("_P")
_log = logging.getLogger("nonconvex")

SIZE = (4.4, 2.9)
"""Width and height in inches: small, so that text is legible on a phone, too."""

_DOTS_PER_INCH = 160  # of a PNG
_SHOWN = 30  # restarts in the figure of their spread
_FEW = 2  # points that a name may cover
# Where a name may be: its distance from the point in points, and its alignment.
_BESIDE: tuple[tuple[tuple[int, int], Any, Any], ...] = (
    ((0, 5), "center", "bottom"),
    ((0, -6), "center", "top"),
    ((7, 0), "left", "center"),
    ((-7, 0), "right", "center"),
)


class Reliability(NamedTuple):
    """Mean confidence and accuracy of predictions, in bins of confidence."""

    rows: Longs  # (b,)
    # of shapes (b,): means over the rows of each bin
    confidence: Doubles
    accuracy: Doubles


def agreement(
    frame: DataFrame, actual: Column, predicted: Column, least: float, most: float
) -> PredictedVsActual:
    """Count predictions by actual value and by prediction.

    Examples
    --------
    >>> predicted = spark.createDataFrame(
    ...     [(1.0, 1.2), (5.0, 4.1), (5.0, 4.9)], ["rating", "prediction"]
    ... )
    >>> met = agreement(predicted, F.col("rating"), F.col("prediction"), 1.0, 5.0)
    >>> met.counts.sum(axis=1)  # of ratings of 1 and of 5
    array([1, 2])
    """
    (levels, columns), span = LEVELS, (most - least) or 1.0
    fine = _bin((actual - least) / span * (levels - 1) + F.lit(0.5), levels)
    coarse = _bin((predicted - least) / span * columns, columns)
    finite = predicted.isNotNull() & ~F.isnan(predicted) & actual.isNotNull()
    rows = (
        frame.where(finite)
        .groupBy(fine.alias("actual"), coarse.alias("predicted"))
        .agg(F.count("*").alias("rows"))
        .collect()
    )
    counts = np.zeros(LEVELS, np.int64)
    for row in rows:
        counts[row.actual, row.predicted] = row.rows
    return PredictedVsActual.of(counts, least, most)


def reliability(frame: DataFrame, confidence: Column, right: Column, bins: int = 10) -> Reliability:
    """Compare how sure predictions are with how many of them are right."""
    place = _bin(confidence * bins, bins)
    found = (
        frame.where(confidence.isNotNull())
        .groupBy(place.alias("bin"))
        .agg(
            F.count("*").alias("rows"),
            F.avg(confidence).alias("confidence"),
            F.avg(right.cast("double")).alias("accuracy"),
        )
        .orderBy("bin")
        .toArrow()
    )
    return Reliability(*(found[name].to_numpy() for name in Reliability._fields))


def _bin(place: Column, bins: int) -> Column:
    return F.greatest(F.lit(0), F.least(F.lit(bins - 1), F.floor(place))).cast("int")


def colour(name: str) -> str:
    """Return the light one of two `COLOURS`, to draw with."""
    return COLOURS[name][0]


def drawn(make: Callable[_P, Picture]) -> Callable[_P, Picture]:
    """Decorate a function that draws: if it fails, the figure is empty and says so."""

    @wraps(make)
    def attempt(*args: _P.args, **more: _P.kwargs) -> Picture:
        try:
            return make(*args, **more)
        except Exception as error:
            if DISK_FULL in str(error):  # nor can the page be written
                raise
            what = make.__name__.strip("_").removesuffix("_picture").replace("_", " ")
            title = args[1] if what == "picture" else what.capitalize()
            _log.exception("the figure %r could not be drawn, and the page is without it", title)
            why = f"This figure could not be drawn ({type(error).__name__}). The log has the cause."
            return Picture("", str(title), why, why, "", b"")

    return attempt


@drawn
def picture(
    name: str,
    title: str,
    caption: str,
    alt: str,
    draw: Callable[[Axes], None],
    size: tuple[float, float] = SIZE,
) -> Picture:
    """Draw a figure with one pair of axes, in colours of `colour`, to the same bytes each time."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=True, axis="y")
        axes.set_axisbelow(True)
        draw(axes)
        svg, png = _files(figure)
    return Picture(name, title, caption, alt, _adapted(svg, name, alt), png)


def _files(figure: Figure) -> tuple[str, bytes]:
    """Return a figure as SVG and as PNG, in light colours."""
    vector, pixels = cast(Any, FigureCanvasSVG(figure)), cast(Any, FigureCanvasAgg(figure))
    cast(Any, figure.get_layout_engine()).execute(figure)
    figure.set_layout_engine("none")  # keep the layout that was just computed
    text, dots = io.StringIO(), io.BytesIO()
    # `savefig` would draw each of them twice.
    vector.print_svg(text, metadata={"Date": None, "Creator": None})
    figure.dpi = _DOTS_PER_INCH
    pixels.print_png(dots, metadata={"Software": None})
    return text.getvalue(), dots.getvalue()


def _adapted(svg: str, name: str, alt: str) -> str:
    """Return SVG for pages and files: described, with unique ids, and with rules for dark mode.

    Elements keep their light colours, so that programs without style sheets show them as well.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace('<style type="text/css">', f'<style type="text/css">{_DARK_MODE}', 1)
    quoted = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return legible(svg.replace("<svg", f'<svg role="img" aria-label="{quoted}"', 1))


@drawn
def curves_picture(
    name: str,
    title: str,
    caption: str,
    curves: Sequence[Curve],
    best: int,
    x: str,
    y: str,
    *,
    front: str = "kept restart",
    at: int | None = None,
) -> Picture:
    """Draw finite points of a curve for each restart; the best, `front`, has a dot `at` an x."""
    finite = [[point for point in curve if np.isfinite(point[1])] for curve in curves]
    kept = finite[best]

    def draw(axes: Axes) -> None:
        for place, curve in enumerate(finite):
            if place != best and curve:
                xs, ys = zip(*curve, strict=True)
                axes.plot(xs, ys, color=colour("quiet"), linewidth=1.0, alpha=0.75)
        (line,) = axes.plot(*zip(*kept, strict=True), color=colour("blue"), linewidth=2.2)
        dot = next((point for point in kept if point[0] == at), kept[-1])
        axes.plot(*dot, "o", color=colour("blue"), markersize=5)
        values = np.array([value for curve in finite for _, value in curve])
        if values.min() > 0 and values.max() > 20 * values.min():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
        if curves[1:]:
            (other,) = axes.plot([], [], color=colour("quiet"), linewidth=1.0)
            axes.legend([line, other], [front, "others"], loc="best")
        _whole_numbers(axes, x, y)

    (start, first), (end, last) = kept[0], kept[-1]
    others = f", beside {len(curves) - 1} others" if curves[1:] else ""
    alt = (
        f"{front.capitalize() if others else title} goes from {first:.4g} at {x} {start} to "
        f"{last:.4g} at {x} {end}{others}."
    )
    return picture(name, title, caption, alt, draw)


@drawn
def costs_picture(what: str, series: Mapping[str, Curve]) -> Picture:
    """Draw the seconds of an iteration of a benchmark on two logarithmic axes."""
    tones = itertools.cycle((("blue", "o-"), ("orange", "s--"), ("quiet", "^:")))

    def draw(axes: Axes) -> None:
        for (name, curve), (tone, style) in zip(series.items(), tones, strict=False):
            xs, ys = zip(*curve, strict=True)
            axes.loglog(xs, ys, style, color=colour(tone), label=name, markersize=4)
        if what == "rank":
            axes.set_xticks(sorted({x for curve in series.values() for x, _ in curve}))
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda seconds, _: f"{seconds:g}")
        axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
        axes.legend(loc="best")
        axis_labels(axes, what, "seconds an iteration")

    ends = [
        f"{name} takes {curve[0][1]:.3g} s at {curve[0][0]:,g} and {curve[-1][1]:.3g} s at "
        f"{curve[-1][0]:,g}"
        for name, curve in series.items()
    ]
    title = f"An iteration against the {what}"
    return picture(f"iteration-by-{what}", title, title, f"{title}: {'; '.join(ends)}.", draw)


@drawn
def spread_picture(
    restarts: Sequence[Any], values: Sequence[float], best: int, what: str
) -> Picture:
    """Draw the final value of every restart that stayed finite on one scale, the best on top."""
    order = sorted(np.flatnonzero(np.isfinite(values)).tolist(), key=lambda place: values[place])

    def draw(axes: Axes) -> None:
        shown = order[:_SHOWN]
        for height, place in enumerate(shown):
            tone = "blue" if place == best else "quiet"
            axes.plot(values[place], height, "o", color=colour(tone), markersize=7)
        axes.set_yticks(range(len(shown)), [f"restart {restarts[at].restart}" for at in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.ticklabel_format(axis="x", useOffset=False)
        axis_labels(axes, what, "")

    return picture(
        "spread",
        "Spread of the restarts",
        f"Final {what} of every restart; the lowest is kept.",
        f"{len(order)} restarts ended between {values[order[0]]:.4g} and {values[order[-1]]:.4g} "
        f"in {what}; the lowest is kept.",
        draw,
        (SIZE[0], max(1.9, 0.9 + 0.22 * min(_SHOWN, len(order)))),
    )


@drawn
def histogram_picture(
    name: str, title: str, what: str, alt: str, histogram: PredictedVsActual
) -> Picture:
    """Draw the 2-D histogram of predicted against actual values, which are called `what`."""

    def draw(axes: Axes) -> None:
        rows, columns = histogram.actual, histogram.predicted
        tiles(axes, histogram.counts, columns, rows, "prediction", f"actual {what}")
        ends = (max(columns[0], rows[0]), min(columns[-1], rows[-1]))
        axes.plot(ends, ends, "--", color=colour("muted"), linewidth=1)

    caption = (
        "Test data; the stronger the colour, the more predictions. Predictions on the dashed line "
        "are exact."
    )
    return picture(name, title, caption, alt, draw)


def lines(axes: Axes, series: Mapping[str, Curve], x: str, y: str) -> None:
    """Draw one or two named lines, which differ in colour and in style."""
    tones = (("blue", "-"), ("orange", "--"))
    for (name, curve), (tone, style) in zip(series.items(), tones, strict=False):
        axes.plot(*zip(*curve, strict=True), style, color=colour(tone), label=name)
    if len(series) > 1:
        axes.legend(loc="best")
    _whole_numbers(axes, x, y)


def bins(axes: Axes, series: Mapping[str, Sequence[float]], ticks: Sequence[str], y: str) -> None:
    """Draw two named series over bins with names, side by side so that neither hides the other."""
    places = np.arange(len(ticks))
    tones = (("blue", "o", -0.08), ("orange", "D", 0.08))
    for (name, values), (tone, shape, shift) in zip(series.items(), tones, strict=True):
        axes.plot(
            places + shift, values, f"{shape}-", color=colour(tone), label=name, markersize=5.5,
            linewidth=0.9, alpha=0.95,
        )  # fmt: skip
    axes.set_xticks(places, ticks)
    axes.tick_params(axis="x", labelsize=7)
    axes.legend(loc="best")
    axes.margins(x=0.06)
    axis_labels(axes, "", y)


def densities(axes: Axes, series: Mapping[str, Array], edges: Array, x: str) -> None:
    """Draw two named histograms over each other, as shares of their totals, given their counts."""
    for (name, counts), tone in zip(series.items(), ("blue", "orange"), strict=True):
        shares = counts / counts.sum()
        axes.stairs(shares, edges, fill=True, color=colour(tone), alpha=0.28)
        axes.stairs(shares, edges, color=colour(tone), linewidth=1.6, label=name)
    axes.legend(loc="best")
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    axis_labels(axes, x, "share")


def bands(axes: Axes, series: Mapping[str, tuple[Array, Array]], x: str, y: str) -> None:
    """Draw two series of x (b,) and of percentiles 10, 50, 90 (b, 3) as lines with bands."""
    for (name, (places, values)), tone in zip(series.items(), ("blue", "orange"), strict=True):
        axes.fill_between(
            places, values[:, 0], values[:, 2], color=colour(tone), alpha=0.2, linewidth=0
        )
        axes.plot(places, values[:, 1], "-o", color=colour(tone), label=name, markersize=3.5)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda count, _: f"{count:g}")
    axes.legend(loc="best")
    axis_labels(axes, x, y)


def tiles(axes: Axes, counts: Array, columns: Array, rows: Array, x: str, y: str) -> None:
    """Draw counts (rows, columns) as tiles of 12 strengths, given the edges of both."""
    places = np.argwhere(counts)
    strengths = np.ceil(12 * np.sqrt(counts[tuple(places.T)] / counts.max()))
    widths, heights = np.diff(columns), np.diff(rows)
    for strength in np.unique(strengths):
        alike = places[strengths == strength]
        patches = [Rectangle((columns[j], rows[i]), widths[j], heights[i]) for i, j in alike]
        axes.add_collection(
            PatchCollection(patches, facecolor=colour("blue"), alpha=strength / 12, linewidth=0)
        )
    axes.set_xlim(columns[0], columns[-1])
    axes.set_ylim(rows[0], rows[-1])
    axes.grid(visible=False)
    axis_labels(axes, x, y)


def item_map(axes: Axes, points: Array, names: Mapping[int, str]) -> None:
    """Draw points of shape (m, 2), from large to small, and as many of the names as find room.

    A name is above, below, or beside its point, where it touches no other name, and covers no point
    that has one and few others; the font of a page may be wider than that it is measured in.
    """
    sizes = np.linspace(90, 12, 8)  # few, as the SVG holds each size once
    for size, part in zip(sizes, np.array_split(points, len(sizes)), strict=True):
        axes.scatter(part[:, 0], part[:, 1], s=size, color=colour("blue"), alpha=0.35, linewidth=0)
    axes.axhline(0, color=colour("line"), linewidth=0.8, zorder=0)
    axes.axvline(0, color=colour("line"), linewidth=0.8, zorder=0)
    axes.grid(visible=False)
    axes.margins(0.14)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines["bottom"].set_visible(False)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # so that text is measured in the final layout
    taken: list[Any] = []
    frame = axes.get_window_extent()
    dots = axes.transData.transform(points)
    for place, name in names.items():
        line = " ".join(legible(name).split())
        text = axes.annotate(
            line, points[place], xytext=(0, 0), textcoords="offset points", fontsize=7.5,
            color=colour("ink"), in_layout=False,
        )  # fmt: skip
        for text.xyann, across, along in _BESIDE:
            text.set(ha=across, va=along)
            box = text.get_window_extent().expanded(1.12, 1.3)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside &= frame.y0 <= box.y0 and box.y1 <= frame.y1
            within = np.all((dots > box.min) & (dots < box.max), axis=1)
            covers = {*np.flatnonzero(within).tolist()} - {place}
            free = len(covers) <= _FEW and covers.isdisjoint(names)
            if inside and free and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                axes.plot(*points[place], "o", color=colour("orange"), markersize=3.2)
                break
        else:
            text.remove()


def axis_labels(axes: Axes, x: str, y: str) -> None:
    """Label both axes: y above its upper end, where it is read without tilting the head."""
    if x:
        axes.set_xlabel(x)
    if y:
        axes.set_title(y, loc="left", fontsize=9, color=colour("muted"), pad=8)


def _whole_numbers(axes: Axes, x: str, y: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axis_labels(axes, x, y)


_RULES = (
    f'[style*="{what}: {light}"] {{{what}: {dark} !important}}'
    for light, dark in COLOURS.values()
    for what in ("fill", "stroke")
)
_DARK_MODE = f"@media (prefers-color-scheme: dark) {{{' '.join(_RULES)}}} "

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "svg.hashsalt": "nonconvex",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": colour("ink"),
    "axes.labelcolor": colour("muted"),
    "axes.labelsize": 9,
    "axes.edgecolor": colour("line"),
    "axes.facecolor": colour("surface"),
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": colour("muted"),
    "ytick.color": colour("muted"),
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3,
    "xtick.major.width": 0.8,
    "ytick.major.size": 0,
    "grid.color": colour("line"),
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": colour("surface"),
    "text.parse_math": False,  # a title with two dollars is no formula
}
