"""Figures that are drawn once, for a page in light or dark and for files of their own."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nonconvex.reporting.palette import COLOURS

__all__ = ["Picture", "colour", "picture"]

SIZE = (4.8, 3.1)  # inches: of a page's column, so that text is legible on a phone, too
_DOTS = 150  # per inch of a PNG


class Picture(NamedTuple):
    """A figure of a page.

    Attributes
    ----------
    name : str
        Of its files, without an extension.
    title, caption : str
        What stands above it, and what it says to who looks at it.
    alt : str
        What it says to who does not see it, with its numbers.
    inline : str
        SVG whose colours are variables of the page.
    svg : str
        SVG with colours of its own.
    png : bytes
    wide : bool
        Whether it is shown wider than a column.
    """

    name: str
    title: str
    caption: str
    alt: str
    inline: str
    svg: str
    png: bytes
    wide: bool = False


def colour(name: str) -> str:
    """Return a colour to draw with.

    Examples
    --------
    >>> colour("blue")
    '#1f5fa8'
    """
    return COLOURS[name].light


def picture(
    name: str,
    title: str,
    caption: str,
    alt: str,
    draw: Callable[[Axes], None],
    size: tuple[float, float] = SIZE,
) -> Picture:
    """Draw a figure of one pair of axes.

    The same drawing gives the same bytes.

    Parameters
    ----------
    name, title, caption, alt
        See `Picture`.
    draw : callable
        Is given the axes.
    size : (float, float)
        Width and height in inches.

    Examples
    --------
    >>> drawn = picture("f", "f", "", "f falls from 2 to 1.", lambda axes: axes.plot([2, 1]))
    >>> "var(--muted)" in drawn.inline, "var(--muted)" in drawn.svg, drawn.png[1:4]
    (True, False, b'PNG')
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=True, axis="y")
        axes.set_axisbelow(True)
        draw(axes)
        svg, png = _files(figure)
    return Picture(name, title, caption, alt, _inline(svg, name, alt), svg, png)


def _files(figure: Figure) -> tuple[str, bytes]:
    """Return a figure as SVG and as PNG."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # which has done its work
    text, dots = io.StringIO(), io.BytesIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(dots, format="png", dpi=_DOTS, metadata={"Software": None})
    return text.getvalue(), dots.getvalue()


def _inline(svg: str, name: str, alt: str) -> str:
    """Return SVG to stand in a page among others: in its colours, and with ids of its own."""
    start = svg.index("<svg")
    drawn = re.sub(r"<metadata>.*?</metadata>", "", svg[start:], flags=re.DOTALL)
    for key, value in COLOURS.items():
        drawn = drawn.replace(value.light, f"var(--{key})")
    drawn = re.sub(r'\bid="', f'id="{name}-', drawn)
    drawn = re.sub(r"url\(#", f"url(#{name}-", drawn)
    drawn = re.sub(r'href="#', f'href="#{name}-', drawn)
    drawn = re.sub(r'<svg(?: (?:width|height)="[^"]*")+', "<svg", drawn)
    drawn = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", drawn)
    drawn = re.sub(r'(<svg[^>]*?) (?:width|height)="[\d.]+pt"', r"\1", drawn)
    quoted = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return drawn.replace("<svg", f'<svg role="img" aria-label="{quoted}"', 1)


_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text is text, in the font of the page
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
    "savefig.facecolor": colour("surface"),
    "mathtext.default": "regular",
}
