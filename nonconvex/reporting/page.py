"""The page of a run: one file of HTML that needs no network, and its figures as files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from nonconvex.reporting.palette import COLOURS
from nonconvex.reporting.pictures import Picture

__all__ = ["Fact", "Page", "Part", "Table", "render"]


@dataclass(frozen=True)
class Fact:
    """A number at the head of a page.

    Parameters
    ----------
    label, value : str
    note : str
        What it is compared with.
    """

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table, whose first column names its rows.

    Parameters
    ----------
    caption : str
    header : sequence of str
    rows : sequence of sequences of str
    words : bool
        Whether the other columns are words, and not numbers to be aligned to the right.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


@dataclass(frozen=True)
class Part:
    """A part of a page.

    Parameters
    ----------
    title, text : str
    pictures : list of Picture
    tables : list of Table
    code : str
        Shown as it is, folded away.
    """

    title: str
    text: str = ""
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    code: str = ""


@dataclass(frozen=True)
class Page:
    """A page.

    Parameters
    ----------
    title, lead : str
    facts : list of Fact
    parts : list of Part
    footer : str
    """

    title: str
    lead: str
    facts: list[Fact]
    parts: list[Part]
    footer: str

    def pictures(self) -> Iterator[Picture]:
        """Yield all pictures."""
        for part in self.parts:
            yield from part.pictures


def render(page: Page) -> str:
    """Return a page as HTML.

    Everything is in the file: style, figures, no script.  Text is escaped.

    Examples
    --------
    >>> html = render(Page("A run", "Of <films>", [Fact("RMSE", "0.9")], [], "by nonconvex"))
    >>> "Of &lt;films&gt;" in html, "<script" in html, "http" in html
    (True, False, False)
    """
    text = files("nonconvex.reporting").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(text).render(page=page, colours=COLOURS)
