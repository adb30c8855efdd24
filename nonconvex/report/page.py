"""The page of a run: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

from nonconvex.estimators.display import legible
from nonconvex.pipeline.runs import RunMetadata

COLOURS = {
    "surface": ("#ffffff", "#15191f"),
    "raised": ("#f6f7f9", "#1d232b"),
    "ink": ("#1a1e23", "#e8ebef"),
    "muted": ("#57606b", "#a3adb8"),
    "line": ("#d8dde3", "#343c46"),
    "quiet": ("#8a94a0", "#77828f"),
    "blue": ("#1f5fa8", "#74b3f2"),
    "orange": ("#b4500b", "#f2a35e"),
}
"""Colours of pages and figures in light and in dark mode; the light ones are all different."""


class Fact(NamedTuple):
    """A number at the head of a page, with a note to compare it with."""

    label: str
    value: str
    note: str = ""


class Picture(NamedTuple):
    """A figure of a page, and its files."""

    name: str  # stem of the file names
    title: str
    caption: str
    alt: str  # for readers who do not see it, with the main numbers
    # the same in the page and as a file; adapts to light and dark mode; empty if drawing failed
    svg: str
    png: bytes  # in light mode
    wide: bool = False  # over both columns


class Table(NamedTuple):
    """A table, whose first column names its rows; `words` aligns the other columns to the left."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False


@dataclass(frozen=True)
class Part:
    """A section of a page; `code` is shown verbatim, folded."""

    title: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    code: str = ""


@dataclass(frozen=True)
class Page:
    """A page, with facts at its head."""

    title: str
    lead: str
    facts: Sequence[Fact]
    parts: Sequence[Part]
    footer: str
    verdict: str = ""  # one sentence at the top

    def pictures(self) -> Iterator[Picture]:
        """Yield all figures."""
        for part in self.parts:
            yield from part.pictures


def render(page: Page) -> str:
    """Return a page as HTML: style and figures inside, no script, all text escaped."""
    from jinja2 import Environment, StrictUndefined

    text = files("nonconvex.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return legible(environment.from_string(text).render(page=page, colours=COLOURS))


def run_page(
    metadata: RunMetadata,
    lead: str,
    facts: Sequence[Fact],
    parts: Sequence[Part],
    verdict: str = "",
) -> Page:
    """Make the page of a run: the given parts, then configuration, versions and times."""
    times = [[stage, duration(spent)] for stage, spent in metadata.seconds.items()]
    times.append(["total", duration(sum(metadata.seconds.values()))])
    versions = [[name, version] for name, version in metadata.versions.items()]
    common = [
        Part(
            "Configuration",
            "The resolved settings, defaults included. They are also in config.toml beside this "
            "page; a job with that file repeats the run.",
            code=metadata.configuration,
        ),
        Part(
            "Versions and times",
            tables=[
                Table("Versions", ["", "version"], versions, words=True),
                Table("Times", ["stage", "time"], times),
            ],
        ),
    ]
    made_by = f"nonconvex {metadata.versions.get('nonconvex', '')}".strip()
    footer = f"Run {metadata.run.id}, made by {made_by}."
    return Page(f"Run {metadata.run.id}", lead, facts, [*parts, *common], footer, verdict)


def training_facts(summary: Any, unit: str, several: str) -> list[Fact]:
    """Return the facts about a fit: f and why it stopped (not for samples), and its duration."""
    facts = []
    if getattr(summary, "sampling", None) is None:
        stop = summary.restarts[summary.best].stop.partition(":")[0]
        facts.append(Fact("Objective f", f"{summary.objective:.4f}", stop))
    note = f"{summary.totalIterations} {unit}"
    if summary.restarts[1:]:
        note += f", {len(summary.restarts)} {several}"
    return [*facts, Fact("Training time", duration(summary.seconds), note)]


def table_of_restarts(
    restarts: Sequence[Any], best: int, columns: Mapping[str, tuple[str, str]]
) -> Table:
    """Show where each restart ended; `columns` has attribute and format by title."""
    rows = [
        [
            f"{restart.restart}{' (kept)' if place == best else ''}",
            *(format_number(getattr(restart, field), form) for field, form in columns.values()),
            restart.stop.partition(":")[0],
        ]
        for place, restart in enumerate(restarts)
    ]
    return Table("Restarts", ["restart", *columns, "stopped"], rows)


def comparison_table(
    metadata: RunMetadata,
    figures: Mapping[str, tuple[float, float | None]],
    known: Sequence[str] = (),
) -> Table:
    """Show figures of the data, now and before, then the drift except what is `known` from them."""
    if not metadata.previous:
        rows = [[name, _figure(name, now)] for name, (now, _) in figures.items()]
        return Table("Training data", ["", "this run"], rows)
    drift = {
        name: (values["now"], values["before"])
        for name, values in metadata.drift.items()
        if name not in known
    }
    rows = []
    for name, (now, before) in {**figures, **drift}.items():
        change = ""
        if now is not None and before:
            change = "0%" if now == before else f"{(now - before) / abs(before):+.1%}"
        rows.append([name, _figure(name, now), _figure(name, before), change])
    header = ["", "this run", "before", "change"]
    return Table(f"Changes since run {metadata.previous.get('run_id')}", header, rows)


def format_number(value: float | None, form: str = ".4f") -> str:
    """Format a number; a dash stands for None."""
    return "–" if value is None else format(value, form)


def duration(seconds: float) -> str:
    """Return a duration to read."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name == "density" or name.startswith("unknown"):
        return f"{value:.2%}"
    whole = isinstance(value, int) or abs(value) >= 1e4
    return f"{value:,.0f}" if whole else f"{value:,.4g}"
