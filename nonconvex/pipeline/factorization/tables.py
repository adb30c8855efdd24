"""Tables, metrics and figures of the data that the training of a factorization reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import SparkSession

from nonconvex import __version__
from nonconvex.distributed.data.prepared import Manifest, PreparedRatings
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.files.atomic import read_verified
from nonconvex.distributed.files.hadoop import FileSystem
from nonconvex.estimators.display import text_table
from nonconvex.numerics.metrics import Evaluation, Scores
from nonconvex.pipeline.runs import METRICS
from nonconvex.pipeline.text import strict_json
from nonconvex.recommendation import MatrixFactorizationModel


def evaluation_report(
    evaluation: Evaluation | None, part: str, *, clipped: bool, by_count: bool = False
) -> str | None:
    """Show the errors of a model and the baselines on a part of the ratings, if there are any.

    `clipped` tells whether predictions were clipped; `by_count` adds the RMSE by how many training
    ratings the user and the item have.

    Examples
    --------
    >>> scores = Scores(2, {"model": 1.25, "biases": 1.5}, {"model": 1.0, "biases": 1.125})
    >>> print(evaluation_report(Evaluation(scores, {}, {}, 1), "test", clipped=False))
                  RMSE     MAE
    model       1.2500  1.0000
    α + biases  1.5000  1.1250
    on 2 test ratings, predictions not clipped; 1 more left out, which the model cannot predict
    """
    if evaluation is None:
        return None
    overall = evaluation.overall
    rows = [
        [_title(name), f"{rmse:.4f}", f"{overall.mae[name]:.4f}"]
        for name, rmse in overall.rmse.items()
    ]
    clipping = "clipped to the range of training" if clipped else "not clipped"
    caption = f"on {overall.ratings:,} {part} ratings, predictions {clipping}"
    if evaluation.unpredicted:
        caption += f"; {evaluation.unpredicted:,} more left out, which the model cannot predict"
    blocks = [text_table(["", "RMSE", "MAE"], rows) + f"\n{caption}"]
    if by_count:
        sides = {"user": evaluation.by_user, "item": evaluation.by_item}
        blocks += [_count_table(side, bins) for side, bins in sides.items()]
    return "\n\n".join(blocks)


def metrics_json(
    run_id: str,
    prepared: PreparedRatings,
    model: MatrixFactorizationModel,
    evaluation: Evaluation | None,
) -> str:
    """Return all numbers of a run as JSON: the data, the fit, the errors."""
    manifest = prepared.manifest
    return strict_json(
        {
            "run_id": run_id,
            "nonconvex": __version__,
            "prepared": {
                "path": prepared.path,
                "fingerprint": manifest.fingerprint,
                "counts": manifest.counts,
            },
            "evaluation": evaluation and asdict(evaluation),
            "clipPredictions": model.getOrDefault("clipPredictions"),
            "summary": asdict(model.summary),
        }
    )


def trained_on(spark: SparkSession, model_path: str) -> str | None:
    """Return the fingerprint of the training ratings from the metrics of the model's run.

    None if the model is not in the directory of a run.
    """
    run = model_path.rstrip("/").rpartition("/")[0]
    if not FileSystem(spark, model_path).exists(f"{run}/{METRICS}"):
        return None
    fingerprint: str = json.loads(read_verified(spark, run, METRICS))["prepared"]["fingerprint"]
    return fingerprint


def ratings_figures(manifest: Manifest) -> dict[str, float]:
    """Return the figures of prepared ratings in which a later run looks for drift.

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


def model_id_changes(
    before: MatrixFactorizationModel, now: MatrixFactorizationModel
) -> dict[str, float]:
    """Return the `id_changes` between two models."""
    return id_changes(before._ids, now._ids)


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


def _title(predictor: str) -> str:
    return "α + biases" if predictor == "biases" else predictor.replace("_", " ")


def _count_table(side: str, bins: Mapping[str, Scores]) -> str:
    names = list(next(iter(bins.values())).rmse)
    rows = [
        [label, f"{scores.ratings:,}", *(f"{scores.rmse[name]:.4f}" for name in names)]
        for label, scores in bins.items()
    ]
    table = text_table(["", "ratings", *map(_title, names)], rows)
    return f"RMSE by the number of training ratings of the {side}\n{table}"
