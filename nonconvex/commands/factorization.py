"""Jobs of a factorization: prepare, train, evaluate, recommend."""

import logging
from dataclasses import asdict
from typing import Any

from pyspark.sql import SparkSession

from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.factorization.top_n import list_lengths, write_lists
from nonconvex.distributed.files import FileSystem, publish
from nonconvex.pipeline.factorization.config import (
    FactorizationConfig,
    PreparationConfig,
    ServingConfig,
)
from nonconvex.pipeline.factorization.results import (
    BASELINES,
    compare,
    compare_trained,
    evaluation_report,
    id_changes,
    measure_lists,
    metrics_json,
    ratings_figures,
    trained_on,
)
from nonconvex.pipeline.models import OUTPUT_MANIFEST, check_place
from nonconvex.pipeline.release import Release
from nonconvex.pipeline.runs import METRICS, find_model
from nonconvex.pipeline.text import restart_table, strict_json
from nonconvex.recommendation import MatrixFactorizationModel
from nonconvex.report.run import factorization_report, start_report

_logger = logging.getLogger("nonconvex")


def prepare_job(spark: SparkSession, config: PreparationConfig) -> dict[str, Any]:
    """Check, split and index ratings, and write them as Parquet for training without a shuffle.

    Reads Parquet, CSV or JSON lines. Rows that are no ratings are kept in rejected/ with the
    reason. If the same ratings are there already, prepared in the same way, they are
    left as they are.
    """
    prepared = config.prepare(spark)
    manifest = prepared.manifest
    return {
        "path": prepared.path,
        "reused": prepared.reused,
        "counts": manifest.counts,
        "users": manifest.users,
        "items": manifest.items,
        "mean": manifest.mean,
        "fingerprint": manifest.fingerprint,
    }


def train_job(spark: SparkSession, config: FactorizationConfig) -> dict[str, Any]:
    """Train a factorization on ratings, measure it on the test ratings, and publish it.

    Prepares the ratings, or uses prepared ratings of the same content. The run writes the model,
    the resolved configuration and its metrics to a directory of its own under output.path; the
    published model is replaced last.
    """
    if config.report.write:
        start_report()
    names = config.report.table(spark)
    with Release(spark, config.output, config.gate, config.day) as release:
        with release.stages("prepare the ratings"):
            prepared = config.prepare(spark)
        release.require(prepared.manifest.counts["test"], prepared.path)
        estimator = release.start(config.estimator(), config.start)
        with release.stages("train"):
            model, baselines = estimator.fitBesideBaselines(prepared)
        with release.stages("evaluate"):
            measured = compare_trained(model, prepared, baselines, release.rivals)
            lists = measure_lists(model, prepared, baselines)
        errors = None if measured is None else measured.errors
        figures = ratings_figures(prepared.manifest)
        drift = release.drift(model, figures, id_changes)
        with release.write(model, config.resolved(), figures, drift) as metadata:
            this = metadata.run
            metrics = metrics_json(this.id, prepared, model, errors, lists)
            release.files.write_text(f"{this.path}/{METRICS}", metrics)
            page = factorization_report(
                spark, config, metadata, model, prepared, measured, baselines, names, lists
            )
        table = evaluation_report(errors, "test", clipped=model.getOrDefault("clipPredictions"))
        release.show(this, page, drift, restart_table(model.summary), table)
        release.publish(this, {} if errors is None else errors.overall.by_predictor, BASELINES)
        return release.outcome(this, page, drift, model.summary) | {
            "metrics": None if errors is None else asdict(errors.overall),
            "lists": lists,
            "iterations": model.summary.totalIterations,
        }


def evaluate_job(spark: SparkSession, config: FactorizationConfig) -> dict[str, Any]:
    """Measure a published model on held-out ratings, beside three baselines.

    Takes the configuration that the model was trained with: the model is the one published in
    output.path unless evaluation.model names another, and the ratings are those in prepared.path.
    """
    part, report = config.evaluation.part, config.evaluation.report
    if report is not None:
        files = FileSystem(spark, report)
        files.check_writable(files.parent(report)[0])
    prepared = PreparedRatings.open(spark, config.prepared.path)
    path = find_model(spark, config.evaluation.model or config.output.path)
    model = MatrixFactorizationModel.load(path)
    if trained_on(spark, path) not in (None, prepared.manifest.fingerprint):
        _logger.warning(
            "the model was trained on other ratings or another split than %s has, "
            "and may have seen the ratings that it is measured on",
            prepared.path,
        )
    evaluation = compare(model, prepared, part).errors
    if report is not None:
        files.write_text(report, strict_json(asdict(evaluation)))
    clipped = model.getOrDefault("clipPredictions")
    print(evaluation_report(evaluation, part, clipped=clipped, by_count=True))
    print(f"model: {path}")
    return {
        "model": path,
        "part": part,
        "metrics": asdict(evaluation.overall),
        "unpredicted": evaluation.unpredicted,
        "report": report,
    }


def recommend_job(spark: SparkSession, config: ServingConfig) -> dict[str, Any]:
    """Recommend items to users with a published model, for a service to read.

    Writes a row with the ranked items for each user, without what was rated already, and vectors
    of users and items for an index of nearest neighbours. The directory appears, or is replaced,
    at once.
    """
    asked, output = config.recommendations, config.output
    check_place(spark, output.path, overwrite=output.overwrite)
    path = find_model(spark, config.model.path)
    model = MatrixFactorizationModel.load(path)
    lists = asked.lists(spark, model, config.seen.pairs(spark, model))
    with publish(spark, output.path, replace=output.overwrite) as directory:
        write_lists(lists, f"{directory}/recommendations", asked.buckets)
        lengths = list_lengths(spark, f"{directory}/recommendations")
        manifest = {"model": path, "n": asked.n, "buckets": asked.buckets, **lengths}
        manifest |= output.write_vectors(model, directory)
        FileSystem(spark, directory).write_text(
            f"{directory}/{OUTPUT_MANIFEST}", strict_json(manifest)
        )
    print(f"lists: {output.path}/recommendations, of {lengths['users']:,} users")
    return {"path": output.path, **manifest}
