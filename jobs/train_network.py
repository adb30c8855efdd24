"""Train a network on examples, measure it on the test examples, and publish it.

The run writes the model, the resolved configuration, its metrics and the rows that could not be
used to a directory of its own under output.path; the published model is replaced last.
"""

import sys
from typing import Any

from pyspark.sql import SparkSession

from nonconvex.config import dump
from nonconvex.drift import DATA, drift_report, network_drift, network_figures
from nonconvex.job import run
from nonconvex.network_baselines import compare_network
from nonconvex.network_reports import comparison_report, network_metrics, network_restarts, overall
from nonconvex.network_sections import NetworkConfig
from nonconvex.releases import Release
from nonconvex.report.page import RunMetadata
from nonconvex.report.run import Stages, network_report
from nonconvex.reports import METRICS, strict_json


def main(spark: SparkSession, config: NetworkConfig) -> dict[str, Any]:
    """Read, train, evaluate and publish; print what came of it."""
    stages, release = Stages(), Release(spark, config.output, config.gate, config.day)
    with stages("read the examples"):
        table = config.table(spark)
    release.require(table.counts["test"], config.examples.path)
    with stages("train"):
        model = release.start(config.estimator(table), config.start).fit(table.training)
    comparison = None
    if table.counts["test"]:
        with stages("evaluate"):
            comparison = compare_network(model, table, "test", others=release.rivals)
    figures, before = network_figures(table), release.predecessor(model)
    drift = None
    if before is not None:
        drift = network_drift(release.earlier(DATA), figures, before.scorer, model.scorer)
    with release.run() as this:
        with stages("write the model"):
            model.write().save(this.model)
        if table.counts["rejected"]:
            table.rejected.write.parquet(f"{this.path}/rejected")
        files = release.files
        files.write_text(f"{this.path}/config.toml", dump(config.resolved()))
        metrics = network_metrics(this.id, config.examples.path, table, model.summary, comparison)
        files.write_text(f"{this.path}/{METRICS}", metrics)
        metadata = RunMetadata(
            this, dump(config.resolved()), stages.seconds, release.earlier(METRICS), drift or {}
        )
        report = network_report(spark, config, metadata, model, table, comparison)
        files.write_text(f"{this.path}/{DATA}", strict_json(figures))
    if model.summary.restarts[1:]:
        print(network_restarts(model.summary), end="\n\n")
    if comparison is not None:
        print(comparison_report(comparison, "test"))
    if table.counts["rejected"]:
        print(f"{table.counts['rejected']:,} rows could not be used: {this.path}/rejected")
    if drift is not None:
        print(f"\n{drift_report(drift)}\n")
    print(f"model: {this.model}")
    if report is not None:
        print(f"report: {report}")
    errors = {name: overall(one) for name, one in (comparison or {}).items()}
    release.publish(this, errors, ["baseline"])
    return {
        "run_id": this.id,
        "model": this.model,
        "report": report,
        "published": config.output.path,
        "rows": table.counts,
        "metrics": errors or None,
        "drift": drift,
        "objective": model.summary.objective,
        "epochs": model.summary.totalIterations,
        "seconds": model.summary.seconds,
    }


if __name__ == "__main__":
    sys.exit(run(main, NetworkConfig, description=__doc__))
