"""Colours of pages and figures, for light and for dark surroundings."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["COLOURS", "SERIES", "Colour", "contrast"]


class Colour(NamedTuple):
    """A colour in light and in dark surroundings, as ``#rrggbb``."""

    light: str
    dark: str


COLOURS = {
    "surface": Colour("#ffffff", "#15191f"),
    "raised": Colour("#f6f7f9", "#1d232b"),
    "ink": Colour("#1a1e23", "#e8ebef"),
    "muted": Colour("#57606b", "#a3adb8"),
    "line": Colour("#d8dde3", "#343c46"),
    "quiet": Colour("#8a94a0", "#77828f"),
    "blue": Colour("#1f5fa8", "#74b3f2"),
    "orange": Colour("#b4500b", "#f2a35e"),
    "teal": Colour("#0d6f68", "#55cfc2"),
    "purple": Colour("#6d3fc4", "#b9a0f5"),
}
"""By name. Figures are drawn in the light ones, which no two names share, and a page puts the dark
ones in their place."""

SERIES = ("blue", "orange", "teal", "purple")
"""Names of the colours of data, in the order in which they are used."""


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, from 1 to 21, as WCAG 2 defines it.

    Examples
    --------
    >>> contrast("#000000", "#ffffff")
    21.0
    """
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
