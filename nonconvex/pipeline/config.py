"""Configuration of the jobs: TOML files read into typed, frozen models."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, TypeVar, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

_RUN_DATE = "{run_date}"


class ConfigError(ValueError):
    """A configuration that cannot be read, or has a key or value that is not allowed."""

    exit_status = 2


class Section(BaseModel):
    """A table of a configuration file: unknown keys are refused, and values never change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="constants",  # TOML has inf and nan
    )


SectionT = TypeVar("SectionT", bound=Section)


def load(
    model_type: type[SectionT],
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    run_date: date | None = None,
) -> SectionT:
    """Read a TOML file into a model, with some of its values replaced.

    Values keep the type they have in TOML: ``"5"`` is not a number, ``1`` is not true, and
    ``5.0`` is not an integer.  `overrides` are ``section.key=value``, applied in order; a value
    that is not TOML is taken as a string, so a path needs no quotes.  `run_date` replaces
    ``{run_date}`` in texts, as YYYY-MM-DD.
    """
    values = read_toml(path)
    for override in overrides:
        _merge(values, _parse_override(override))
    values = _dated(values, os.fspath(path), run_date)
    try:
        # TOML and JSON hold the same values, and the strict reading of JSON is the one we want:
        # no number out of a string, but a tuple out of a list and a path out of a string.
        return model_type.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        source = f"{os.fspath(path)} with --set" if overrides else os.fspath(path)
        raise ConfigError(f"{source}: {_explain(error, model_type, values)}") from None


def dump(config: BaseModel) -> str:
    """Write a configuration, defaults included, as TOML text that loads back equal.

    TOML has no null: what is ``None`` is left out, so a field that may be ``None`` should have
    ``None`` as its default.
    """
    return tomli_w.dumps(_without_null(config.model_dump(mode="json")))


def check_keys(where: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise if a table of free keys, such as the Params of an estimator, has an unknown one."""
    allowed = list(allowed)
    unknown = [key for key in given if key not in allowed]
    if unknown:
        raise ConfigError(_unknown_keys([where], unknown, allowed))


def parse_date(text: str | None) -> date | None:
    """Read the value of ``--run-date``."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--run-date takes YYYY-MM-DD, got {text!r}") from None


# Reading and writing


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the tables of a TOML file."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot read the configuration {os.fspath(path)}: {reason}") from None
    except (ValueError, RecursionError) as error:  # of syntax, depth, or bytes that are not UTF-8
        raise ConfigError(f"{os.fspath(path)} is not valid TOML: {error}") from None


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    quoted = tomli_w.dumps({"v": value.strip()}).removeprefix("v = ")
    for literal in (value, quoted) if equals else ():
        try:
            return tomllib.loads(f"{key} = {literal}")
        except tomllib.TOMLDecodeError:
            continue
    raise ConfigError(f"--set takes section.key=value, got {text!r}")


def _dated(values: dict[str, Any], source: str, run_date: date | None) -> dict[str, Any]:
    """Replace ``{run_date}`` wherever it occurs."""
    places: list[str] = []

    def fill(value: Any, place: str) -> Any:
        match value:
            case dict():
                return {key: fill(one, f"{place}.{_key(key)}") for key, one in value.items()}
            case list():
                return [fill(one, place) for one in value]
            case str() if _RUN_DATE in value:
                places.append(place[1:])
                return value.replace(_RUN_DATE, "" if run_date is None else run_date.isoformat())
        return value

    filled: dict[str, Any] = fill(values, "")
    if run_date is None and places:
        raise ConfigError(
            f"{source} has {_RUN_DATE} in {', '.join(places)}: give --run-date YYYY-MM-DD"
        )
    if run_date is not None and not places:
        raise ConfigError(
            f"--run-date is given, and {source} says {_RUN_DATE} nowhere: say where it belongs, "
            "such as ratings.until"
        )
    return filled


def _merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(key), dict):
            _merge(values[key], change)
        else:
            values[key] = change


def _without_null(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_null(one) for key, one in value.items() if one is not None}
        case list():
            return [_without_null(one) for one in value]
        case None:
            raise ConfigError("TOML has no way to write None inside a list; leave it out")
    return value


# Explaining


def _explain(error: ValidationError, model_type: type[BaseModel], values: dict[str, Any]) -> str:
    """Turn pydantic's errors into one clause for each key; a union gives several errors for one."""
    by_location: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        by_location.setdefault(_location(details, values), []).append(details)
    unknown: dict[tuple[str, ...], list[str]] = {}
    clauses = []
    for location, errors in by_location.items():
        if errors[0]["type"] == "extra_forbidden":
            unknown.setdefault(location[:-1], []).append(location[-1])
        else:
            clauses.append(_clause(location, errors))
    tables = [
        _unknown_keys(table, keys, _field_names(model_type, table))
        for table, keys in unknown.items()
    ]
    return "; ".join(clauses + tables)


def _location(details: ErrorDetails, values: Any) -> tuple[str, ...]:
    """Return the keys that lead to the error: pydantic's location without its names of types."""
    location = []
    for part in details["loc"]:
        if part in values if isinstance(values, dict) else isinstance(values, list):
            values = values[part]
            location.append(str(part))
    if details["type"] == "missing":
        location.append(str(details["loc"][-1]))
    return tuple(location)


def _clause(location: tuple[str, ...], errors: list[ErrorDetails]) -> str:
    key = ".".join(map(_key, location))
    error = errors[0]
    if error["type"] == "missing":
        return f"{key} is required and not given"
    if error["type"] == "value_error":  # a validator's own words
        return ": ".join(filter(None, [key, str(error["ctx"]["error"])]))
    messages = (one["msg"].removeprefix("Input should be ") for one in errors)
    allowed = " or ".join(dict.fromkeys(messages)).replace("a valid ", "a ")
    allowed = allowed.replace("a integer", "an integer").replace("an object", "a table")
    given = "a table" if isinstance(error["input"], dict) else quoted(error["input"])
    return f"{key} must be {allowed}, got {given}"


def _field_names(model_type: type[BaseModel], table: Sequence[str]) -> list[str]:
    """Return the keys that the table may have."""
    models = [model_type]
    for part in table:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:  # else an index into a list of the models
            models = [model for field in fields for model in _models(field.annotation)]
    return [name for model in models for name in model.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _unknown_keys(table: Sequence[str], keys: Sequence[str], allowed: Sequence[str]) -> str:
    """Name near known keys for each unknown one; where there is none, list the allowed ones."""
    by_lower_case = {name.lower(): name for name in allowed}

    def dotted(key: str) -> str:
        return ".".join(map(_key, [*table, key]))

    clauses, strange = [], []
    for key in keys:
        near = difflib.get_close_matches(key.lower(), by_lower_case)
        if near:
            names = " or ".join(dotted(by_lower_case[name]) for name in near)
            clauses.append(f"unknown key {dotted(key)}; did you mean {names}?")
        else:
            strange.append(dotted(key))
    if strange:
        plural = "s" if len(strange) > 1 else ""
        known = ", ".join(allowed)
        clauses.append(f"unknown key{plural} {', '.join(strange)}; allowed: {known}")
    return "; ".join(clauses)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else quoted(key)


def quoted(value: Any) -> str:
    """Return a value as TOML and JSON write it."""
    return json.dumps(value, ensure_ascii=False)
