"""What the jobs report: tables of text to read, and the metrics of a run as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pyspark.sql import SparkSession

from nonconvex import __version__
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.files.atomic import read_verified
from nonconvex.distributed.files.hadoop import FileSystem
from nonconvex.estimators.factorization.summary import RestartSummary, TrainingSummary
from nonconvex.numerics.metrics import Evaluation, Scores
from nonconvex.recommendation import MatrixFactorizationModel

__all__ = [
    "METRICS",
    "chain_table",
    "evaluation_json",
    "evaluation_report",
    "metrics_json",
    "restart_table",
    "strict_json",
    "text_table",
    "trained_on",
]

METRICS = "metrics.json"
"""The file in the directory of a run that has its numbers."""


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


def evaluation_report(
    evaluation: Evaluation, part: str, *, clipped: bool, by_count: bool = False
) -> str:
    """Show the errors of a model and the baselines, and what they are errors of.

    Parameters
    ----------
    evaluation : Evaluation
        From `nonconvex.baselines.compare`.
    part : {"test", "validation"}
        The ratings it is of.
    clipped : bool
        Whether predictions were clipped.
    by_count : bool
        Whether to show, too, the RMSE by how many training ratings the user and the item have.

    Examples
    --------
    >>> scores = Scores(2, {"model": 1.25, "biases": 1.5}, {"model": 1.0, "biases": 1.125})
    >>> print(evaluation_report(Evaluation(scores, {}, {}, 1), "test", clipped=False))
                  RMSE     MAE
    model       1.2500  1.0000
    α + biases  1.5000  1.1250
    on 2 test ratings, predictions not clipped; 1 more left out, which the model cannot predict
    """
    overall = evaluation.overall
    rows = [
        [_title(name), f"{rmse:.4f}", f"{overall.mae[name]:.4f}"]
        for name, rmse in overall.rmse.items()
    ]
    clipping = "clipped to the range of training" if clipped else "not clipped"
    of_what = f"on {overall.ratings:,} {part} ratings, predictions {clipping}"
    if evaluation.unpredicted:
        of_what += f"; {evaluation.unpredicted:,} more left out, which the model cannot predict"
    blocks = [text_table(["", "RMSE", "MAE"], rows) + f"\n{of_what}"]
    if by_count:
        sides = {"user": evaluation.by_user, "item": evaluation.by_item}
        blocks += [_count_table(side, bins) for side, bins in sides.items()]
    return "\n\n".join(blocks)


def restart_table(summary: TrainingSummary) -> str:
    """Show what each random start reached, with a star at the one that the model is of.

    Examples
    --------
    >>> print(restart_table(model.summary))
    restart  iteration         f  train RMSE  validation RMSE          stopped
    0 *              8  1.348...     0.99...          1.72...  reached maxIter
    1                8  1.334...     0.97...          1.74...  reached maxIter
    """
    header = ["restart", "iteration", "f", "train RMSE", "validation RMSE", "stopped"]
    rows = [
        _restart_row(restart, kept=number == summary.best)
        for number, restart in enumerate(summary.restarts)
    ]
    return text_table(header, rows)


def chain_table(summary: TrainingSummary) -> str:
    """Show where each chain of Gibbs sampling ended, and how far their samples can be trusted.

    Examples
    --------
    >>> from nonconvex.recommendation import MatrixFactorization
    >>> sampler = MatrixFactorization(
    ...     solver="gibbs", rank=1, numRestarts=2, numBurnIn=5, numSamples=20
    ... )
    >>> print(chain_table(sampler.fitPrepared(prepared).summary))
    chain  sweeps       τ  train RMSE  validation RMSE of the mean
    0          25  1.15...      1.13...                      1.71...
    1          25  1.24...      1.09...                      1.71...
    20 of 40 samples kept; of τ R̂ 1.85 and 3 effective samples
    """
    header = ["chain", "sweeps", "τ", "train RMSE", "validation RMSE of the mean"]
    rows = []
    for chain in summary.restarts:
        validation = chain.validation_rmse
        rows.append(
            [
                f"{chain.restart}",
                f"{chain.iteration}",
                f"{chain.history[-1]['tau']:.4f}",
                f"{chain.train_rmse:.4f}",
                "" if validation is None else f"{validation:.4f}",
            ]
        )
    sampling = summary.sampling
    assert sampling is not None
    trust = f"{sampling['kept']} of {len(rows) * sampling['samples']} samples kept"
    agreement, size = sampling["rHat"]["tau"], sampling["effectiveSize"]["tau"]
    if agreement is not None and size is not None:
        trust += f"; of τ R̂ {agreement:.2f} and {size:.0f} effective samples"
    return f"{text_table(header, rows)}\n{trust}"


def evaluation_json(evaluation: Evaluation) -> str:
    """Return all numbers of an evaluation as JSON.

    Examples
    --------
    >>> scores = Scores(1, {"model": 0.5}, {"model": 0.5})
    >>> json.loads(evaluation_json(Evaluation(scores, {}, {}, 0)))["overall"]
    {'ratings': 1, 'rmse': {'model': 0.5}, 'mae': {'model': 0.5}}
    """
    return strict_json(asdict(evaluation))


def metrics_json(
    run_id: str,
    prepared: PreparedRatings,
    model: MatrixFactorizationModel,
    evaluation: Evaluation | None,
) -> str:
    """Return all numbers of a run as JSON: the data, the fit, the errors.

    Numbers that are not finite, which JSON lacks, are null.

    Examples
    --------
    >>> json.loads(metrics_json("a", prepared, model, None))["prepared"]["path"]
    'prepared/films'
    """
    manifest = prepared.manifest
    metrics = {
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
    return strict_json(metrics)


def trained_on(spark: SparkSession, model_path: str) -> str | None:
    """Return the fingerprint of the ratings that the model of a run was trained on.

    It is in the metrics of the run; None if the model is not in the directory of a run.

    Raises
    ------
    ChecksumError
        If the metrics are not as they were written.

    Examples
    --------
    >>> from nonconvex.distributed.publication import find_model
    >>> trained_on(spark, find_model(spark, "runs/films")) == prepared.manifest.fingerprint
    True
    """
    run = model_path.rstrip("/").rpartition("/")[0]
    if not FileSystem(spark, model_path).exists(f"{run}/{METRICS}"):
        return None
    fingerprint: str = json.loads(read_verified(spark, run, METRICS))["prepared"]["fingerprint"]
    return fingerprint


def strict_json(value: Any) -> str:
    """Return JSON to read; numbers that are not finite, which JSON lacks, are null.

    Examples
    --------
    >>> print(strict_json({"f": float("nan")}), end="")
    {
      "f": null
    }
    """
    strict = json.loads(json.dumps(value), parse_constant=lambda name: None)
    return json.dumps(strict, indent=2, ensure_ascii=False) + "\n"


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


def _restart_row(restart: RestartSummary, *, kept: bool) -> list[str]:
    validation = restart.validation_rmse
    return [
        f"{restart.restart} *" if kept else f"{restart.restart}",
        f"{restart.iteration}",
        f"{restart.objective:.6f}",
        f"{restart.train_rmse:.4f}",
        "" if validation is None else f"{validation:.4f}",
        restart.stop.partition(":")[0],
    ]
