"""Train a factorization on ratings, measure it on the test ratings, and publish it.

Prepares the ratings, or uses prepared ratings of the same content. The run writes the model, the
resolved configuration and its metrics to a directory of its own under output.path; the published
model is replaced last.
"""

import sys
from dataclasses import asdict
from typing import Any

from pyspark.sql import SparkSession

from nonconvex.pipeline.factorization.config import FactorizationConfig
from nonconvex.pipeline.factorization.results import (
    BASELINES,
    compare_trained,
    evaluation_report,
    metrics_json,
    model_id_changes,
    ratings_figures,
)
from nonconvex.pipeline.release import Release
from nonconvex.pipeline.runner import run
from nonconvex.pipeline.runs import METRICS
from nonconvex.pipeline.text import restart_table
from nonconvex.report.run import factorization_report


def main(spark: SparkSession, config: FactorizationConfig) -> dict[str, Any]:
    """Prepare, train, evaluate and publish; print the results."""
    names = config.report.table(spark)
    release = Release(spark, config.output, config.gate, config.day)
    with release.stages("prepare the ratings"):
        prepared = config.prepare(spark)
    release.require(prepared.manifest.counts["test"], prepared.path)
    estimator = release.start(config.estimator(), config.start)
    with release.stages("train"):
        model, baselines = estimator.fitBesideBaselines(prepared)
    with release.stages("evaluate"):
        measured = compare_trained(model, prepared, baselines, release.rivals)
    errors = None if measured is None else measured.errors
    figures = ratings_figures(prepared.manifest)
    drift = release.drift(model, figures, model_id_changes)
    with release.write(model, config.resolved(), figures, drift) as metadata:
        this = metadata.run
        metrics = metrics_json(this.id, prepared, model, errors)
        release.files.write_text(f"{this.path}/{METRICS}", metrics)
        page = factorization_report(
            spark, config, metadata, model, prepared, measured, baselines, names
        )
    table = evaluation_report(errors, "test", clipped=model.getOrDefault("clipPredictions"))
    release.show(this, page, drift, restart_table(model.summary), table)
    release.publish(this, {} if errors is None else errors.overall.by_predictor, BASELINES)
    return release.outcome(this, page, drift, model.summary) | {
        "metrics": None if errors is None else asdict(errors.overall),
        "iterations": model.summary.totalIterations,
    }


if __name__ == "__main__":
    sys.exit(run(main, FactorizationConfig, description=__doc__))
