"""Runs after training: compared with each other, and asked for a list, without Spark."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from nonconvex import __version__
from nonconvex.commands.configuration import in_one_sentence, kind_of, look_at
from nonconvex.estimators.display import lacking, legible, text_table
from nonconvex.local import load as load_model
from nonconvex.local.factorization import LocalFactorization
from nonconvex.local.files import ChecksumError, Directory, checksums_of, parse_json
from nonconvex.local.model_tables import ModelError, find_ids
from nonconvex.pipeline.config import ConfigError, load
from nonconvex.pipeline.text import cell

_RUN = re.compile(r"run_id=[\w-]+")
_FILES = ("metrics.json", "config.toml", "data.json")


class FinishedRun(NamedTuple):
    """A complete run, as its files describe it."""

    name: str
    metrics: dict[str, Any]
    settings: dict[str, Any]  # by dotted name
    figures: dict[str, Any]  # of the data


def compare_runs(argv: Sequence[str] | None = None) -> int:
    """Show the metrics of several runs, the settings that differ, and the changes of the data."""
    parser = argparse.ArgumentParser(prog="nonconvex compare", description=compare_runs.__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run, or a directory of runs")
    parser.add_argument("--page", metavar="FILE", help="write the tables as a page, too")
    given = parser.parse_args(argv)
    with in_one_sentence():
        runs = [read_run(path) for one in given.runs for path in run_paths(one)]
        if len(runs) < 2:
            raise ConfigError(f"{given.runs[0]} is one run: give two or more, or their directory")
        tables = list(comparison(runs))
        if given.page is not None:
            write_comparison(given.page, tables)
    for title, header, rows in tables:
        print(f"{title}\n{text_table(header, rows)}\n")
    if given.page is not None:
        print(f"page: {given.page}")
    return 0


_Table = tuple[str, list[str], list[list[str]]]


def write_comparison(path: str, tables: Sequence[_Table]) -> None:
    """Write the tables of `comparison` as one HTML file that needs no network."""
    if missing := lacking("jinja2"):
        raise ConfigError(f"--page {path} cannot be written, as {missing}")
    from nonconvex.report.page import Page, Part, Table, render  # which imports Spark's Python

    parts = [Part(name.capitalize(), "", [], [Table("", top, rows)]) for name, top, rows in tables]
    lead = f"{len(tables[0][1]) - 1} runs, a column for each. A star marks the best of a row."
    try:
        page = Page("Comparison of runs", lead, [], parts, f"Made by nonconvex {__version__}.")
        Path(path).write_text(render(page), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--page {path} cannot be written: {error.strerror}") from None


def run_paths(path: str) -> list[Path]:
    """Return the complete runs of a directory of runs, the oldest first, or a run itself."""
    place = Path(path)
    if not place.is_dir():
        raise ModelError(f"there is no directory {path}: give that of a run, or of runs")
    if (place / _FILES[0]).is_file():
        return [place]
    inside = sorted(one for one in place.iterdir() if _RUN.fullmatch(one.name))
    runs = [one for one in inside if (one / _FILES[0]).is_file()]
    if not runs:
        raise ModelError(f"{path} has no complete runs: give the directory of a run, or of runs")
    return runs


def read_run(path: Path) -> FinishedRun:
    """Read the small files of a run, and compare them with its checksums."""
    files = Directory.at(str(path))
    try:
        expected = checksums_of(files, files.path)
        for name in _FILES:
            if files.sha256(f"{path}/{name}") != expected[name]["sha256"]:
                raise ChecksumError(f"{name} is damaged: its checksum differs")
        texts = [(path / name).read_text(encoding="utf-8") for name in _FILES]
        metrics, figures = parse_json(texts[0]), parse_json(texts[2])
        settings = dict(_flat(tomllib.loads(texts[1])))
    except (KeyError, OSError, ValueError) as error:
        raise ModelError(f"{path} is no whole run of training: {error}") from None
    return FinishedRun(path.name.removeprefix("run_id="), metrics, settings, figures)


def comparison(runs: Sequence[FinishedRun]) -> Iterator[_Table]:
    """Yield the title, header and rows of each table; a star is at the best of a row."""
    names = ["", *(run.name for run in runs)]
    scores = [{title: one for title, *one in _scores(run.metrics)} for run in runs]
    rows = []
    for title, (_, best) in {title: one for of in scores for title, one in of.items()}.items():
        values = [of.get(title, [None])[0] for of in scores]
        numbers = {value for value in values if value is not None}
        first = {best(numbers)} if best and len(numbers) > 1 else ()
        rows.append([title, *(cell(v) + (" *" if v in first else "") for v in values)])
    prints = {(run.metrics.get("prepared") or {}).get("fingerprint") for run in runs}
    same = len(prints) == 1 and None not in prints
    where = "the same test rows" if same else "test rows that may differ: errors do not compare"
    yield f"metrics, on {where}", names, rows
    for title, tables in (
        ("settings that differ", [run.settings for run in runs]),
        ("data that differ", [run.figures for run in runs]),
    ):
        keys = dict.fromkeys(key for table in tables for key in table)
        rows = [[key, *(cell(table.get(key)) for table in tables)] for key in keys]
        if differ := [row for row in rows if len({*row[1:]}) > 1]:
            yield title, names, differ


# Titles of metrics of which less is better, and more.
_LESS = {"rmse": "RMSE", "mae": "MAE", "logLoss": "log loss"}
_MORE = {"accuracy": "accuracy", "r2": "R²", "ndcgAtK": "NDCG@{}", "recallAtK": "recall@{}"}
_MORE |= {"coverageAtK": "coverage@{}"}
_PREDICTORS = {"model": "the model", "biases": "α + biases", "baseline": "the baseline"}
_OF_FITS = {"iteration": "kept iteration", "epoch": "kept epoch", "objective": "objective f"}
_OF_FITS |= {"validation_rmse": "validation RMSE", "validation_loss": "validation loss"}


def _scores(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield title, value and what is best, or None, of the numbers that are worth a row."""
    summary, lists = metrics.get("summary") or {}, metrics.get("lists") or {}
    evaluation = metrics.get("evaluation") or {}
    if overall := evaluation.get("overall"):  # of a factorization
        kinds = ("rmse", "mae")
        evaluation = {of: {kind: overall[kind][of] for kind in kinds} for of in overall["rmse"]}
        yield "test ratings", overall["ratings"], None
    for table, (titles, best) in product((evaluation, lists), ((_LESS, min), (_MORE, max))):
        for metric, title in titles.items():
            for predictor, of in _PREDICTORS.items():
                if metric in (table.get(predictor) or {}):
                    value = table[predictor][metric]
                    yield f"{title.format(table.get('k'))} of {of}", value, best
    if restarts := summary.get("restarts"):
        chosen = restarts[summary.get("best", 0)]
        for name, title in _OF_FITS.items():
            if chosen.get(name) is not None:
                yield title, chosen[name], None
        yield "stopped", chosen["stop"].partition(":")[0], None
    if "seconds" in summary:
        yield "training time", f"{summary['seconds']:,.1f} s", None


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# A list


def top(argv: Sequence[str] | None = None) -> int:
    """Print the best items for a user, with titles, intervals and reasons for the first."""
    parser = argparse.ArgumentParser(prog="nonconvex top", description=top.__doc__)
    parser.add_argument("config", metavar="CONFIG", help="the configuration of the training")
    parser.add_argument("user", metavar="USER", help="the id of a user")
    parser.add_argument("-n", type=int, default=10, metavar="N", help="how many; by default 10")
    parser.add_argument(
        "--least", type=int, default=0, metavar="COUNT", help="fewest ratings of an item"
    )
    given = parser.parse_args(argv)
    with in_one_sentence():
        command, kind = kind_of(given.config)
        if command != "train" or given.n < 1:
            raise ConfigError(
                f"top takes the configuration of a factorization and a length ≥ 1, got "
                f"{given.config}, which is for {command!r}, and -n {given.n}"
            )
        config: Any = load(kind, given.config)
        if not Path(config.output.path).exists():
            raise ConfigError(
                f"there is no model in {config.output.path}: "
                f"nonconvex train --config {given.config} makes one"
            )
        model = load_model(config.output.path)
        assert isinstance(model, LocalFactorization)
        ids = model.parts.ids[0].type
        try:
            user = pa.scalar(given.user).cast(ids).as_py()
        except pa.ArrowInvalid:
            raise ConfigError(f"USER must be an id of type {ids}, got {given.user!r}") from None
        prepared = Directory.at(config.prepared.path)
        history, counts = _history(prepared, user)
        titles = _titles(config.report)
        rated = history["item"].to_pylist()
        chosen = None
        if given.least:
            chosen = counts.filter(pc.greater_equal(counts["count"], given.least))["id"]
        found = model.recommend(user, given.n, exclude=rated, candidates=chosen)
        names = {one: legible(titles.get(str(one)) or str(one)) for one in [*rated, *dict(found)]}
        items = [item for item, _ in found]
        rows = [[names[item], f"{rating:.2f}"] for item, rating in found]
        header = ["", "prediction"]
        if items and (model.parts.posterior or model.parts.ridge_posterior):
            ends = model.intervals([user] * len(items), items)
            for row, (low, high) in zip(rows, ends, strict=True):
                row.append(f"{low:.1f} to {high:.1f}")
            header.append("interval")
        known = find_ids(pa.array([user], ids), model.parts.ids[0])[0] >= 0
    said = f"{len(rated):,} rated" if known else "unknown to the model, so by the biases of items"
    print(f"for {user} ({said})\n{text_table(header, rows)}")
    if items and known and not model.params["ensemble"]:
        users = {"user": [user] * len(history)}
        columns = {name: history[name] for name in history.column_names}
        why = model.explain(user, items[0], {**users, **columns})
        print(f"\nwhy the first:\n{why.text(names=names)}")
    return 0


def _history(prepared: Directory, user: Any) -> tuple[pa.Table, pa.Table]:
    """Return ``item, rating[, weight]`` of a user in prepared ratings, and the table of items."""
    try:
        items = prepared.read_table("items").sort_by("index")
        users = prepared.read_table("users")
        parts = [prepared.read_table(name) for name in ("validation", "test")]
        columns = ["item", "rating", *({"weight"} & {*parts[0].column_names})]
        tables = [part.filter(pc.equal(part["user"], user)).select(columns) for part in parts]
        for row in users.filter(pc.equal(users["id"], user)).to_pylist():
            block = prepared.read_table(f"by_user/block={row['block']}")
            block = block.filter(pc.equal(block["user_index"], row["index"]))
            rated = items["id"].take(block["item_index"])
            tables.append(block.append_column("item", rated).select(columns))
        return pa.concat_tables(tables), items
    except (OSError, KeyError, pa.ArrowException) as error:  # damaged, or of another model
        raise ModelError(
            f"{prepared.path} is not whole prepared ratings: {error}; train again"
        ) from None


def _titles(report: Any) -> dict[Any, str]:
    """Return the titles of items by their ids as text, of the table that a report names."""
    if report.names is None:
        return {}
    look = look_at(report.names, report.format, report.separator)
    look.require("report.id", report.id)
    look.require("report.name", report.name)
    ids, titles = (look.sample[name].cast(pa.string()) for name in (report.id, report.name))
    return dict(zip(ids.to_pylist(), titles.to_pylist(), strict=True))
