"""Tables of text and JSON that the jobs print and write."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from nonconvex.estimators.display import text_table

Drift = dict[str, dict[str, float | None]]
"""By name of a figure, its value ``before`` and ``now``; None where it is not known."""


def restart_table(summary: Any) -> str | None:
    """Show the random starts or the chains of a fit; None if there was one start alone."""
    return str(summary) if summary.restarts[1:] or getattr(summary, "sampling", None) else None


def decimals(value: float | None) -> str:
    """Return a number for a table, empty for None."""
    return "" if value is None else f"{value:.4f}"


def compare_figures(earlier: Mapping[str, float], figures: Mapping[str, float]) -> Drift:
    """Pair each figure with its earlier value, None if there is none."""
    return {name: {"before": earlier.get(name), "now": value} for name, value in figures.items()}


def drift_report(drift: Drift) -> str:
    """Show the changes of the data since the published run."""
    rows = [[name, cell(one["before"]), cell(one["now"])] for name, one in drift.items()]
    return text_table(["since the published run", "before", "now"], rows)


def json_values(value: Any) -> Any:
    """Return `value` in terms of JSON; numbers that are not finite, which JSON lacks, are None.

    Examples
    --------
    >>> json_values({"f": float("nan"), 3: ("é", True)})
    {'f': None, '3': ['é', True]}
    """
    if hasattr(value, "item"):  # a scalar of numpy
        value = value.item()
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): json_values(inner) for key, inner in value.items()}
        case list() | tuple():
            return [json_values(inner) for inner in value]
        case _:
            return str(value)


def strict_json(value: Any) -> str:
    """Return the `json_values` of a value as indented JSON that ends in a newline."""
    return json.dumps(json_values(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def cell(value: Any) -> str:
    """Return a value for a table, empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
