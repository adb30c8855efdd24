"""Configurations before a run: written for a table, and checked, both without Spark."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from nonconvex.estimators.display import lacking, legible
from nonconvex.pipeline.config import ConfigError, Section, load, parse_date, quoted, read_toml

_SAMPLE = 2_000_000  # most rows of a table that are looked at
_BLOCK = 1 << 24  # bytes of a text file that are looked at
_FORMATS = {"parquet": "parquet", "csv": "csv", "tsv": "csv", "json": "json", "jsonl": "json"}
_DAILY = re.compile(r"(\w+)=\d{4}-\d\d-\d\d")
_REMOTE = re.compile(r"^(?!file:)[a-z][a-z0-9+.-]*://")

# The names that columns have in public tables, the likeliest first.
_GUESSES = {
    "user": ("user", "userid", "uid", "customer", "customerid", "member", "account", "reader"),
    "item": (
        *("item", "itemid", "movie", "movieid", "film", "product", "productid", "book", "isbn"),
        *("asin", "song", "track", "artist", "game", "business", "iid", "article"),
    ),
    "rating": ("rating", "ratings", "score", "stars", "value", "overall", "rate", "grade"),
    "timestamp": ("timestamp", "time", "ts", "date", "datetime", "created", "createdat", "when"),
    "weight": ("weight", "weights"),
}
_TITLES = ("title", "name", "label", "movie", "item")


class TableError(ValueError):
    """A table that cannot be read, or is not one of ratings."""

    exit_status = 3


@dataclass(frozen=True)
class Look:
    """A table as far as it was looked at."""

    path: str
    format: str
    sample: pa.Table  # its first rows; in the text formats, types are as they look
    rows: int | None  # None if nobody has counted
    partition: str | None = None  # the column of its directories of days, of which one was read
    separator: str | None = None

    @property
    def names(self) -> list[str]:
        """The names of its columns."""
        return list(self.sample.column_names)

    def require(self, role: str, column: str | None, *, number: bool = False) -> None:
        """Raise unless a column is there, and if needed a number."""
        if column is None:
            return
        if column not in self.names:
            near = ", ".join(map(repr, self.names))
            raise TableError(f"{self.path} has no column {column!r} for {role}: it has {near}")
        kind = self.sample.schema.field(column).type
        numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if number and not (numeric or pa.types.is_decimal(kind)):
            raise TableError(f"{self.path}: {role}={column!r} must be numbers, got {kind}")


def look_at(path: str, format: str | None = None, separator: str | None = None) -> Look:
    """Read the first rows of Parquet, CSV or JSON lines on a local disk, without Spark."""
    place = Path(path.removeprefix("file://"))
    files, partition = [place], None
    if place.is_dir():
        days = sorted(one.name for one in place.iterdir() if _DAILY.fullmatch(one.name))
        if days:
            partition, place = days[-1].partition("=")[0], place / days[-1]
        files = sorted(
            one
            for one in place.rglob("*")
            if one.is_file() and not any(part[0] in "_." for part in one.relative_to(place).parts)
        )
    elif not place.exists():
        files = sorted(Path().glob(path)) if not place.is_absolute() else []
        if not files:
            raise TableError(f"there is nothing at {path}: no such file or directory")
    if not files:
        raise TableError(f"{path} has no files: name another directory")
    found = next((format_of(one.name) for one in files if format_of(one.name)), None)
    kind = format or found
    if kind is None:
        raise TableError(
            f"the format of {path} cannot be told from its name: call it .parquet, .csv or .json"
        )
    mine = [one for one in files if format or format_of(one.name) == kind]
    if separator is None and kind == "csv":
        separator = _separator(mine[0])
    try:
        sample, rows = _read(mine, kind, separator)
    except (pa.ArrowException, OSError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise TableError(f"{path} cannot be read as {kind}: {said}") from None
    return Look(path, kind, sample, rows if partition is None else None, partition, separator)


def format_of(name: str) -> str | None:
    """Return the format of a file by its name, None if that does not tell."""
    parts = name.lower().split(".")[1:]
    if parts and parts[-1] in ("gz", "bz2", "zst", "lz4", "snappy"):
        parts.pop()
    return _FORMATS.get(parts[-1]) if parts else None


def _separator(file: Path) -> str:
    if format_of(file.name) == "csv" and ".tsv" in file.name.lower():
        return "\t"
    with pa.input_stream(str(file)) as stream:
        line = stream.read(1 << 16).decode("utf-8", "replace").partition("\n")[0]
    return max(",;\t|", key=line.count)


def _read(files: Sequence[Path], kind: str, separator: str | None) -> tuple[pa.Table, int | None]:
    if kind == "parquet":
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        batches = pq.ParquetFile(files[0]).iter_batches(batch_size=1 << 16)
        first = [batch for _, batch in zip(range(_SAMPLE >> 16), batches, strict=False)]
        schema = pq.read_schema(files[0]).remove_metadata()
        return pa.Table.from_batches(first, schema=schema if not first else None), rows
    whole = len(files) == 1 and files[0].stat().st_size < _BLOCK
    with pa.input_stream(str(files[0])) as stream:
        content = stream.read(_BLOCK)
    whole = whole and len(content) < _BLOCK
    if not whole:
        content = content[: content.rfind(b"\n") + 1]
    source = pa.BufferReader(content)
    if kind == "json":
        table = pa_json.read_json(source)
    else:
        options = pa_csv.ParseOptions(delimiter=separator or ",")
        table = pa_csv.read_csv(source, parse_options=options)
    return table, len(table) if whole else None


# Writing one


_TEMPLATE = """\
# Written by `nonconvex init` for {path}: {about}.
#   nonconvex check {config}
#   nonconvex train --config {config}
#   nonconvex top {config} USER
# All keys with their values, defaults included, are in config.toml beside a trained model.

[ratings]
path = {path_text}
{columns}{range}{duplicates}{days}
[split]
method = "random"  # {time}
validation = 0.1  # by which training stops
test = 0.1  # which the model is measured on
seed = 1

[prepared]
path = {prepared}
overwrite = true

# Params of MatrixFactorization; those that are not here have their defaults.
[factorization]
rank = 10  # compare with 0, which is α + biases
clipPredictions = true  # to the range of the training ratings
predictionIntervalCol = "interval"  # that holds 90 % of ratings

# Publish no model that predicts worse than the published one, or than the best baseline:
# [gate]
# metric = "rmse"

[output]
path = {runs}
keep = 7

{report}"""

_SERVING = """\
# Lists of the ten best items for every user, of the model that {config} trains.
#   nonconvex recommend --config {own}

[model]
path = {runs}

# What a user has rated is not recommended.
[seen]
prepared = {prepared}

[recommendations]
n = 10

[output]
path = {lists}
overwrite = true
"""


def init(argv: Sequence[str] | None = None) -> int:
    """Look at a table of ratings, and write configurations that train on it and recommend."""
    parser = argparse.ArgumentParser(
        prog="nonconvex init",
        description=f"{init.__doc__} Columns are guessed by their names and types; say which if a "
        "guess is wrong.",
    )
    parser.add_argument("table", metavar="TABLE", help="Parquet, CSV or JSON lines of ratings")
    parser.add_argument("--names", metavar="TABLE", help="a table of the titles of items")
    parser.add_argument("--output", metavar="FILE", help="the configuration; by default NAME.toml")
    parser.add_argument("--force", action="store_true", help="replace configurations")
    for role in _GUESSES:
        parser.add_argument(f"--{role}", metavar="COLUMN", help=f"the column of the {role}s")
    given = parser.parse_args(argv)
    with in_one_sentence():
        look = look_at(given.table)
        roles = guess(look, {role: getattr(given, role) for role in _GUESSES})
        name = re.sub(r"\W+", "_", Path(look.path.rstrip("/*")).name.partition(".")[0]) or "ratings"
        config = Path(given.output or f"{name}.toml")
        serving = config.with_name(f"{config.stem}_recommend.toml")
        there = [str(file) for file in (config, serving) if file.exists()]
        if there and not given.force:
            raise ConfigError(f"{there[0]} is there already: give --force, or another --output")
        titles = _names(given.names)
        text, served = _texts(look, roles, config, serving, titles)
        config.write_text(text, encoding="utf-8")
        serving.write_text(served, encoding="utf-8")
    print(legible(text))
    print(f"written: {config}, which trains, and {serving}, which recommends")
    return 0


def guess(look: Look, given: Mapping[str, str | None]) -> dict[str, str]:
    """Return the column of each role that one was found for; raise without user, item, rating."""
    plain = {re.sub(r"[^a-z]", "", name.lower()): name for name in reversed(look.names)}
    found: dict[str, str] = {}
    for role, names in _GUESSES.items():
        if given.get(role) is not None:
            look.require(f"--{role}", given[role])
            found[role] = str(given[role])
            continue
        exact = [plain[name] for name in names if name in plain]
        part = [plain[name] for name in plain if len(names[0]) > 2 and names[0] in name]
        free = [name for name in exact + part if name not in found.values()]
        if free:
            found[role] = free[0]
    missing = [role for role in ("user", "item", "rating") if role not in found]
    if missing:
        raise TableError(
            f"no column of {look.path} looks like the {missing[0]}s: it has "
            f"{', '.join(look.names)}; say which one by --{missing[0]}"
        )
    look.require("rating", found["rating"], number=True)
    return found


def _names(path: str | None) -> tuple[str, str, str] | None:
    """Return the path of a table of titles, its column of ids and that of titles."""
    if path is None:
        return None
    look = look_at(path)
    plain = {name: re.sub(r"[^a-z]", "", name.lower()) for name in look.names}
    title = next((n for key in _TITLES for n, p in plain.items() if p.startswith(key)), None)
    others = [name for name in look.names if name != title]
    ids = next((n for key in _GUESSES["item"] for n in others if plain[n] == key), None)
    ids = ids or next((name for name in others if plain[name].endswith("id")), None)
    if title is None or not others:
        raise TableError(f"no column of {path} looks like a title: it has {', '.join(look.names)}")
    return path, ids or others[0], title


def _texts(
    look: Look,
    roles: Mapping[str, str],
    config: Path,
    serving: Path,
    titles: tuple[str, str, str] | None,
) -> tuple[str, str]:
    sample, whole = look.sample, look.rows is not None and look.rows == len(look.sample)
    seen = "all" if whole else f"the first {len(sample):,}"
    optional = ("timestamp", "weight")
    named = {role: name for role, name in roles.items() if name != role or role in optional}
    columns = [f"{role} = {quoted(name)}" for role, name in named.items()]
    if look.separator not in (None, ","):
        columns.append(f"separator = {quoted(str(look.separator))}")
    values = pc.min_max(sample[roles["rating"]]).as_py() if len(sample) else {}
    limits, hidden = "", "" if whole else "# "
    if values.get("min") is not None:
        for key, side in (("minimum", "below"), ("maximum", "above")):
            limits += f"{hidden}{key} = {float(values[key[:3]]):g}  # of {seen} rows; "
            limits += f"ratings {side} it are rejected\n"
    pairs = sample.select([roles["user"], roles["item"]])
    distinct = len(pairs.group_by(pairs.column_names).aggregate([])) if len(pairs) else 0
    again, duplicates = len(pairs) - distinct, ""
    if again:
        kept = "last" if "timestamp" in roles else "mean"
        duplicates = f'duplicates = "{kept}"  # {again:,} rows of {seen} repeat a pair\n'
    days = ""
    if look.partition is not None:
        days = f'# partition = "{look.partition}"  # to read the last days only:\n'
        days += '# until = "{run_date}"  # the value of --run-date\n# days = 30\n'
    users, items = (len(pc.unique(sample[roles[side]])) for side in ("user", "item"))
    counted = "rows not counted" if look.rows is None else f"{look.rows:,} rows"
    about = f"{counted}, {users:,} users and {items:,} items in {seen}"
    time = 'or "last", the last ratings of each user'
    if "timestamp" in roles:
        time = 'or "time", the latest ratings; or "last", those of each user'
    report = "# Titles of items for the page: a table with their ids.\n# [report]\n# names = "
    report += '"titles.csv"\n# id = "item"\n# name = "title"\n'
    if titles is not None:
        keys = zip(("names", "id", "name"), titles, strict=True)
        report = "[report]\n" + "".join(f"{key} = {quoted(value)}\n" for key, value in keys)
    output = f"output/{config.stem}"
    places = {name: quoted(f"{output}/{name}") for name in ("prepared", "runs", "lists")}
    text = _TEMPLATE.format(
        path=quoted(look.path),
        about=about,
        config=config,
        path_text=quoted(look.path),
        columns="".join(f"{line}\n" for line in columns),
        range=limits,
        duplicates=duplicates,
        days=days,
        time=time,
        report=report,
        **places,
    )
    return text, _SERVING.format(config=config, own=serving, **places)


# Checking one


def check_configuration(argv: Sequence[str] | None = None) -> int:
    """Say what a run with a configuration would do, and what is wrong, without Spark.

    Tables are looked at where they are on a local disk. The exit status is that which the run
    would end with: 2 for the configuration, 3 for the data.
    """
    parser = argparse.ArgumentParser(
        prog="nonconvex check", description=check_configuration.__doc__
    )
    parser.add_argument("config", metavar="CONFIG", help="configuration, in TOML")
    parser.add_argument("--set", metavar="SECTION.KEY=VALUE", action="append", default=[])
    parser.add_argument("--run-date", metavar="YYYY-MM-DD")
    given = parser.parse_args(argv)
    from nonconvex.session import check_java  # which imports Spark's Python

    with in_one_sentence():
        command, kind = kind_of(given.config)
        config = load(kind, given.config, given.set, run_date=parse_date(given.run_date))
    report = _Report()
    report.say(f"nonconvex {command} --config {given.config} would")
    with report.looking():
        _PLANS[command](config, report)
    with report.looking():
        check_java()
    print(legible("\n".join(report.lines)))
    status = max((status for status, _ in report.problems), default=0)
    outcome = {"status": "error" if status else "ok", "command": command}
    problems = [problem for _, problem in report.problems]
    print(json.dumps({**outcome, "problems": problems, "exit": status}))
    return status


def kind_of(path: str) -> tuple[str, type[Section]]:
    """Return the command that a configuration is for, and its type, by its sections."""
    sections = set(read_toml(path))
    if "examples" in sections:
        from nonconvex.pipeline.network.config import NetworkConfig

        return "train-network", NetworkConfig
    if "table" in sections:
        from nonconvex.pipeline.sections import PredictionConfig

        return "predict", PredictionConfig
    from nonconvex.pipeline.factorization.config import (
        FactorizationConfig,
        PreparationConfig,
        ServingConfig,
    )

    if sections & {"seen", "recommendations"}:
        return "recommend", ServingConfig
    if "output" in sections or "ratings" not in sections:
        return "train", FactorizationConfig
    return "prepare", PreparationConfig


class _Report:
    """Lines of what would be done, and problems with the exit status that each would cause."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.problems: list[tuple[int, str]] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def wrong(self, status: int, problem: str) -> None:
        self.problems.append((status, problem))
        self.lines.append(f"  WRONG: {problem}")

    @contextmanager
    def looking(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            self.wrong(getattr(type(error), "exit_status", 2), str(error))


def _look(report: _Report, role: str, section: Any) -> Look | None:
    """Look at the table of a section, if it is on a local disk."""
    path = section.path
    if _REMOTE.match(path) or path.startswith("sklearn:"):
        report.say(f"  read {role} from {path}, which was not looked at")
        return None
    look = None
    with report.looking():
        look = look_at(path, section.format, section.separator)
        window = section.window()
        if window is not None:
            names = [one.name for one in Path(path).iterdir()]
            found = window.directories(path, names)
            report.say(f"  read {len(found)} of {window.days} days until {window.until} of {path}")
        rows = "an unknown number of" if look.rows is None else f"{look.rows:,}"
        report.say(f"  read {rows} rows of {role} from {path} ({look.format})")
    return look


def _plan_prepare(config: Any, report: _Report) -> None:
    ratings, prepared = config.ratings, config.prepared
    if ratings is None:
        where = Path(prepared.path)
        if not _REMOTE.match(prepared.path) and not (where / "manifest.json").is_file():
            report.wrong(
                3, f"there are no prepared ratings at {where}: prepare them, or say [ratings]"
            )
        report.say(f"  use the prepared ratings in {prepared.path}")
        return
    look = _look(report, "ratings", ratings)
    for role in ("user", "item", "rating", "weight", "timestamp"):
        with report.looking():
            if look is not None:
                number = role in ("rating", "weight")
                look.require(f"ratings.{role}", getattr(ratings, role), number=number)
    split = config.split
    if split.validation or split.test:
        report.say(
            f"  hold out {split.validation:g} for validation and {split.test:g} for the test, "
            f"by the method {split.method!r}"
        )
    if not split.test:
        report.say("  measure nothing, as [split] holds out no test ratings")
    _writes(report, "prepared ratings", prepared.path, overwrite=prepared.overwrite, same=True)


def _plan_train(config: Any, report: _Report) -> None:
    _plan_prepare(config, report)
    estimator = config.estimator()
    get, solver = estimator.getOrDefault, estimator.chosen_solver
    starts = f", {get('numRestarts')} starts" if get("numRestarts") > 1 else ""
    steps = f"at most {get('maxIter')} iterations"
    if solver == "gibbs":
        steps = f"{get('numBurnIn') + get('numSamples') * get('thinning')} sweeps"
    report.say(f"  fit a MatrixFactorization of rank {get('rank')} by {solver!r}, {steps}{starts}")
    _plan_run(config, report)
    names = config.report.names
    if config.report.write and names is not None and not _REMOTE.match(names):
        with report.looking():
            look = look_at(names, config.report.format, config.report.separator)
            look.require("report.id", config.report.id)
            look.require("report.name", config.report.name)


def _plan_network(config: Any, report: _Report) -> None:
    examples = config.examples
    look = _look(report, "examples", examples)
    if look is not None:
        label, features = examples.label, examples.features
        for role, names in (("label", label), ("features", features), ("weight", examples.weight)):
            for name in [names] if isinstance(names, str) else names or ():
                with report.looking():
                    look.require(f"examples.{role}", name)
    estimator = config.params().make(config.network)
    layers = estimator.getOrDefault("layers") if estimator.isDefined("layers") else None
    report.say(f"  fit a {type(estimator).__name__} with layers {layers} for a {examples.task}")
    _plan_run(config, report)


def _plan_run(config: Any, report: _Report) -> None:
    if config.start.model is not None:
        report.say(f"  start at the model {config.start.model}")
    gate = config.gate
    if gate is not None:
        report.say(f"  publish if {gate.metric} is within the margins of [gate]")
        if not config.split.test and getattr(config, "ratings", config) is not None:
            report.wrong(2, "[gate] compares on test rows, and [split] holds none out: set test")
    _writes(report, "a run", config.output.path, overwrite=True)
    if config.report.write:
        missing = lacking("jinja2", "matplotlib")
        report.say(f"  write no page, as {missing}" if missing else "  write its page, report.html")


def _plan_recommend(config: Any, report: _Report) -> None:
    _finds_model(report, config.model.path)
    asked = config.recommendations
    for role in ("users", "candidates"):
        path = getattr(asked, role)
        if path is not None and not _REMOTE.match(path):
            with report.looking():
                look_at(path, "parquet")
    seen = config.seen.prepared
    if seen is not None:
        report.say(f"  leave out what is seen in {seen}")
        if not _REMOTE.match(seen) and not (Path(seen) / "manifest.json").is_file():
            report.wrong(3, f"there are no prepared ratings at {seen}: prepare them first")
    whom = "every user" if asked.users is None else f"the users in {asked.users}"
    report.say(f"  rank {asked.n} items for {whom}")
    _writes(report, "lists", config.output.path, overwrite=config.output.overwrite)


def _plan_predict(config: Any, report: _Report) -> None:
    _finds_model(report, config.model.path)
    look = _look(report, "the table", config.table)
    if look is not None:
        for name in config.predictions.keep or ():
            with report.looking():
                look.require("predictions.keep", name)
    _writes(report, "predictions", config.output.path, overwrite=config.output.overwrite)


_PLANS = {
    "prepare": _plan_prepare,
    "train": _plan_train,
    "train-network": _plan_network,
    "recommend": _plan_recommend,
    "predict": _plan_predict,
}


def _finds_model(report: _Report, path: str) -> None:
    if _REMOTE.match(path):
        report.say(f"  use the model in {path}, which was not looked at")
        return
    from nonconvex.local.files import Directory
    from nonconvex.local.model_tables import saved_model

    with report.looking():
        found, metadata = saved_model(Directory.at(path))
        report.say(f"  use the {metadata['class'].rpartition('.')[2]} in {found.path}")


def _writes(report: _Report, what: str, path: str, *, overwrite: bool, same: bool = False) -> None:
    """Say where something is written, and complain if it cannot be."""
    if _REMOTE.match(path):
        report.say(f"  write {what} to {path}, which was not looked at")
        return
    place = Path(path.removeprefix("file://"))
    nearest = next(one for one in (place.absolute(), *place.absolute().parents) if one.exists())
    report.say(f"  write {what} to {path}")
    if not nearest.is_dir():
        report.wrong(1, f"{nearest} is a file, and {path} is to be a directory: name another")
    elif not os.access(nearest, os.W_OK):
        report.wrong(1, f"{nearest} cannot be written to: change its rights, or name another")
    elif place.exists() and any(place.iterdir()) and not overwrite and not same:
        report.wrong(2, f"{path} is there already: name another, or set overwrite = true")
    free = shutil.disk_usage(nearest).free
    if free < 1 << 28:
        report.say(f"  (only {free >> 20:,} MB are free there)")


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """End with one sentence and the status of an error of the user, as the jobs do."""
    try:
        yield
    except ValueError as error:
        status = getattr(type(error), "exit_status", None)
        if status is None:
            raise
        print(legible(f"nonconvex: {error}"), file=sys.stderr)
        print(json.dumps({"status": "error", "error": str(error), "exit": status}))
        raise SystemExit(status) from None
