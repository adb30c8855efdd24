"""Measure a published model on held-out ratings, beside three baselines.

Takes the configuration that the model was trained with: the model is the one published in
output.path unless evaluation.model names another, and the ratings are those in prepared.path.
"""

import logging
import sys
from dataclasses import asdict
from typing import Any

from pyspark.sql import SparkSession

from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.files import FileSystem
from nonconvex.pipeline.factorization.config import FactorizationConfig
from nonconvex.pipeline.factorization.results import compare, evaluation_report, trained_on
from nonconvex.pipeline.runner import run
from nonconvex.pipeline.runs import find_model
from nonconvex.pipeline.text import strict_json
from nonconvex.recommendation import MatrixFactorizationModel

_logger = logging.getLogger("nonconvex")


def main(spark: SparkSession, config: FactorizationConfig) -> dict[str, Any]:
    """Evaluate, and print the errors overall and by the number of training ratings."""
    prepared = PreparedRatings.open(spark, config.prepared.path)
    path = find_model(spark, config.evaluation.model or config.output.path)
    model = MatrixFactorizationModel.load(path)
    if trained_on(spark, path) not in (None, prepared.manifest.fingerprint):
        _logger.warning(
            "the model was trained on other ratings or another split than %s has, "
            "and may have seen the ratings that it is measured on",
            prepared.path,
        )
    part, report = config.evaluation.part, config.evaluation.report
    evaluation = compare(model, prepared, part).errors
    if report is not None:
        FileSystem(spark, report).write_text(report, strict_json(asdict(evaluation)))
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


if __name__ == "__main__":
    sys.exit(run(main, FactorizationConfig, description=__doc__))
