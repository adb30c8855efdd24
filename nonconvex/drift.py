"""What has changed in the data since the model that is published was trained."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nonconvex.distributed.data.example_tables import ExampleTable
from nonconvex.distributed.data.prepared import Manifest
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.network.predict import Scorer
from nonconvex.numerics.network.standardize import Standardization
from nonconvex.recommendation import MatrixFactorizationModel
from nonconvex.reports import text_table

__all__ = [
    "DATA",
    "Drift",
    "drift_report",
    "feature_shift",
    "id_changes",
    "network_drift",
    "network_figures",
    "ratings_drift",
    "ratings_figures",
]

DATA = "data.json"
"""The file in the directory of a run that has the figures of its data."""

_SHOWN = 5

Drift = dict[str, dict[str, float | None]]
"""By name of a figure, its value ``before`` and ``now``; None where it is not known."""


def ratings_figures(manifest: Manifest) -> dict[str, float]:
    """Return the figures of prepared ratings that drift is told by.

    Examples
    --------
    >>> round(ratings_figures(prepared.manifest)["mean"], 2)
    7.41
    """
    counts = manifest.counts
    figures = {
        "read": counts["read"],
        "rejected": counts["read"] - counts["accepted"],
        "train": counts["train"],
        "users": manifest.users,
        "items": manifest.items,
        "mean": manifest.mean,
        "minimum": manifest.minimum,
        "maximum": manifest.maximum,
    }
    if counts["test"]:
        for side, rows in manifest.unknown["test"].items():
            figures[f"unknown {side} in test"] = rows / counts["test"]
    return figures


def id_changes(before: Ids, now: Ids) -> dict[str, float]:
    """Return how many users and items are new, and how many are gone.

    Examples
    --------
    >>> ids = Ids(pa.chunked_array([["ann", "bob"]]), pa.chunked_array([[1, 2]]))
    >>> later = Ids(pa.chunked_array([["bob", "cid"]]), pa.chunked_array([[1, 2, 3]]))
    >>> id_changes(ids, later)
    {'new users': 1, 'users gone': 1, 'new items': 1, 'items gone': 0}
    """
    changes: dict[str, float] = {}
    for side in ("users", "items"):
        old, new = getattr(before, side), getattr(now, side)
        if old.type != new.type:  # such as integers that are text now: none is the same
            old, new = old.cast(pa.string()), new.cast(pa.string())
        known = int(pc.sum(pc.is_in(new, value_set=old)).as_py() or 0)
        changes |= {f"new {side}": len(new) - known, f"{side} gone": len(old) - known}
    return changes


def ratings_drift(
    earlier: Mapping[str, float],
    figures: Mapping[str, float],
    published: MatrixFactorizationModel,
    model: MatrixFactorizationModel,
) -> Drift:
    """Compare the ratings of a run with those of the run that is published.

    Parameters
    ----------
    earlier, figures : mapping of str to float
        From `ratings_figures`, then and now; what is not known is left out.
    published, model : MatrixFactorizationModel
        Then and now.
    """
    drift = _compared(earlier, figures)
    for name, count in id_changes(published._ids, model._ids).items():
        drift[name] = {"before": None, "now": count}
    return drift


def network_figures(table: ExampleTable) -> dict[str, float]:
    """Return the figures of a table of examples that drift is told by.

    Examples
    --------
    >>> network_figures(examples)
    {'train': 111, 'validation': 0, 'test': 39, 'rejected': 0}
    """
    return dict(table.counts)


def network_drift(
    earlier: Mapping[str, float],
    figures: Mapping[str, float],
    published: Scorer,
    now: Scorer,
) -> Drift:
    """Compare the examples of a run with those of the run that is published.

    Parameters
    ----------
    earlier, figures : mapping of str to float
        From `network_figures`, then and now; what is not known is left out.
    published, now : Scorer
        Of the models; with standardization, they know how features were distributed.
    """
    drift = _compared(earlier, figures)
    old, new = published.standardization, now.standardization
    if len(old.mean) == len(new.mean):
        for number, shift in list(feature_shift(old, new).items())[:_SHOWN]:
            drift[f"shift of feature {number}"] = {"before": None, "now": shift}
    return drift


def feature_shift(before: Standardization, now: Standardization) -> dict[int, float]:
    """Return how far the mean of each feature has moved, the furthest first.

    In units of its standard deviation before, |m − m₀| / s₀; only features that have moved, by
    their numbers, which begin at 0.

    Parameters
    ----------
    before, now : Standardization
        Of as many features.

    Examples
    --------
    >>> old = Standardization(np.array([0.0, 5.0]), np.array([1.0, 2.0]))
    >>> new = Standardization(np.array([0.0, 8.0]), np.array([1.0, 2.0]))
    >>> feature_shift(old, new)
    {1: 1.5}
    """
    shift = np.abs(now.mean - before.mean) / before.scale
    order = np.argsort(-shift, kind="stable")
    return {int(index): float(shift[index]) for index in order if shift[index] > 0}


def drift_report(drift: Drift) -> str:
    """Show what has changed.

    Examples
    --------
    >>> print(drift_report({"users": {"before": 9999, "now": 10000}}))
    since the published run  before     now
    users                     9,999  10,000
    """
    rows = [[name, _number(one["before"]), _number(one["now"])] for name, one in drift.items()]
    return text_table(["since the published run", "before", "now"], rows)


def _compared(earlier: Mapping[str, float], figures: Mapping[str, float]) -> Drift:
    return {name: {"before": earlier.get(name), "now": value} for name, value in figures.items()}


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"
