"""Tables of text and JSON that the jobs print and write."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "Drift",
    "compare_figures",
    "decimals",
    "drift_report",
    "json_values",
    "restart_table",
    "strict_json",
    "text_table",
]

Drift = dict[str, dict[str, float | None]]
"""By name of a figure, its value ``before`` and ``now``; None where it is not known."""


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align rows under a header: the first column to the left, the others to the right.

    Examples
    --------
    >>> print(text_table(["", "RMSE"], [["model", "1.52"], ["user mean", "10.73"]]))
                RMSE
    model       1.52
    user mean  10.73
    """
    lines = [header, *rows]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        "  ".join([line[0].ljust(first), *map(str.rjust, line[1:], others)]).rstrip()
        for line in lines
    )


def restart_table(header: Sequence[str], rows: Sequence[Sequence[str]], summary: Any) -> str:
    """Show a row for each random start of a fit, with a star at the best one.

    `summary` is that of the fit; `rows` have what `header` names, for each of its restarts.
    """
    named = [
        [
            f"{one.restart} *" if number == summary.best else f"{one.restart}",
            *row,
            one.stop.partition(":")[0],
        ]
        for number, (one, row) in enumerate(zip(summary.restarts, rows, strict=True))
    ]
    return text_table(["restart", *header, "stopped"], named)


def decimals(value: float | None) -> str:
    """Return a number for a table, empty for None."""
    return "" if value is None else f"{value:.4f}"


def compare_figures(earlier: Mapping[str, float], figures: Mapping[str, float]) -> Drift:
    """Pair each figure with its earlier value, None if there is none."""
    return {name: {"before": earlier.get(name), "now": value} for name, value in figures.items()}


def drift_report(drift: Drift) -> str:
    """Show the changes of the data since the published run."""
    rows = [[name, _number(one["before"]), _number(one["now"])] for name, one in drift.items()]
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


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
