"""The job of a network: train."""

from typing import Any

from pyspark.sql import SparkSession

from nonconvex.pipeline.network.config import NetworkConfig
from nonconvex.pipeline.network.results import (
    compare_network,
    comparison_report,
    feature_drift,
    network_metrics,
    overall,
    write_rejected,
)
from nonconvex.pipeline.release import Release
from nonconvex.pipeline.runs import METRICS
from nonconvex.pipeline.text import restart_table
from nonconvex.report.run import network_report, start_report


def train_network_job(spark: SparkSession, config: NetworkConfig) -> dict[str, Any]:
    """Train a network on examples, measure it on the test examples, and publish it.

    The run writes the model, the resolved configuration, its metrics and the rows that could not be
    used to a directory of its own under output.path; the published model is replaced last.
    """
    source = config.examples.path
    if config.report.write:
        start_report()
    with Release(spark, config.output, config.gate, config.day) as release:
        with release.stages("read the examples"):
            table = config.table(spark)
        release.require(table.counts["test"], source)
        with release.stages("train"):
            model = release.start(config.estimator(table), config.start).fit(table.training)
        comparison = None
        if table.counts["test"]:
            with release.stages("evaluate"):
                comparison = compare_network(model, table, "test", others=release.rivals)
        errors = {name: overall(one) for name, one in (comparison or {}).items()}
        drift = release.drift(model, table.counts, feature_drift)
        with release.write(model, config.resolved(), table.counts, drift) as metadata:
            this, unused = metadata.run, write_rejected(table, metadata.run)
            metrics = network_metrics(this.id, source, table, model.summary, comparison)
            release.files.write_text(f"{this.path}/{METRICS}", metrics)
            page = network_report(spark, config, metadata, model, table, comparison)
        tables = restart_table(model.summary), comparison_report(comparison, "test"), unused
        release.show(this, page, drift, *tables)
        release.publish(this, errors, ["baseline"])
        return release.outcome(this, page, drift, model.summary) | {
            "rows": table.counts,
            "metrics": errors or None,
            "epochs": model.summary.totalIterations,
        }
