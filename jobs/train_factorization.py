"""Train a factorization on ratings, measure it on the test ratings, and publish it.

Prepares the ratings unless that is done. The run writes the model, the resolved configuration and
its metrics to a directory of its own under output.path; the published model is replaced last.
"""

import sys
from dataclasses import asdict
from typing import Any

from pyspark.sql import SparkSession

from nonconvex.baselines import BASELINES, compare
from nonconvex.config import dump
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.drift import DATA, drift_report, ratings_drift, ratings_figures
from nonconvex.factorization_sections import FactorizationConfig
from nonconvex.job import run
from nonconvex.numerics.metrics import Evaluation
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel
from nonconvex.releases import Release
from nonconvex.report.page import RunMetadata
from nonconvex.report.run import Stages, factorization_report
from nonconvex.reports import (
    METRICS,
    chain_table,
    evaluation_report,
    metrics_json,
    restart_table,
    strict_json,
)


def main(spark: SparkSession, config: FactorizationConfig) -> dict[str, Any]:
    """Prepare, train, evaluate and publish; print what came of it."""
    stages, names = Stages(), config.report.table(spark)
    release = Release(spark, config.output, config.gate, config.day)
    with stages("prepare the ratings"):
        prepared = config.prepare(spark)
    release.require(prepared.manifest.counts["test"], prepared.path)
    estimator = release.start(config.estimator(), config.start)
    if estimator.getOrDefault("ensemble"):
        estimator.setParams(keepRestarts=True)  # to measure the best start beside their mean
    with stages("train"):
        model = estimator.fitPrepared(prepared)
    with stages("evaluate"):
        evaluation = _evaluate(estimator, model, prepared, release.rivals)
    figures, before = ratings_figures(prepared.manifest), release.predecessor(model)
    drift = None
    if before is not None:
        drift = ratings_drift(release.earlier(DATA), figures, before, model)
    with release.run() as this:
        with stages("write the model"):
            model.write().save(this.model)
        files = release.files
        files.write_text(f"{this.path}/config.toml", dump(config.resolved()))
        metrics = metrics_json(this.id, prepared, model, evaluation)
        files.write_text(f"{this.path}/{METRICS}", metrics)
        metadata = RunMetadata(
            this, dump(config.resolved()), stages.seconds, release.earlier(METRICS), drift or {}
        )
        report = factorization_report(spark, config, metadata, model, prepared, evaluation, names)
        files.write_text(f"{this.path}/{DATA}", strict_json(figures))
    if model.summary.sampling is not None:
        print(chain_table(model.summary), end="\n\n")
    elif model.summary.restarts[1:]:
        print(restart_table(model.summary), end="\n\n")
    if evaluation is not None:
        clipped = model.getOrDefault("clipPredictions")
        print(evaluation_report(evaluation, "test", clipped=clipped))
    if drift is not None:
        print(f"\n{drift_report(drift)}\n")
    print(f"model: {this.model}")
    if report is not None:
        print(f"report: {report}")
    release.publish(this, {} if evaluation is None else evaluation.overall.by_predictor, BASELINES)
    return {
        "run_id": this.id,
        "model": this.model,
        "report": report,
        "published": config.output.path,
        "metrics": None if evaluation is None else asdict(evaluation.overall),
        "drift": drift,
        "objective": model.summary.objective,
        "iterations": model.summary.totalIterations,
        "seconds": model.summary.seconds,
    }


def _evaluate(
    estimator: MatrixFactorization,
    model: MatrixFactorizationModel,
    prepared: PreparedRatings,
    rivals: dict[str, MatrixFactorizationModel],
) -> Evaluation | None:
    """Measure the model where that means anything, and the best start beside an ensemble."""
    if estimator.getOrDefault("implicitPrefs") or not prepared.manifest.counts["test"]:
        return None
    averaged = estimator.getOrDefault("ensemble") and model.restarts[1:]
    best = {"best_start": model.restarts[model.summary.best]} if averaged else {}
    return compare(model, prepared, others=best | rivals)


if __name__ == "__main__":
    sys.exit(run(main, FactorizationConfig, description=__doc__))
