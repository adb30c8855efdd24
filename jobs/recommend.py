"""Recommend items to users with a published model, for a service to read.

Writes a row with the ranked items for each user, without what was rated already, and vectors of
users and items for an index of nearest neighbours. The directory appears, or is replaced, at once.
"""

import sys
from typing import Any

from pyspark.sql import SparkSession

from nonconvex.distributed.factorization.top_n import list_lengths, write_lists
from nonconvex.distributed.files import FileSystem, publish
from nonconvex.pipeline.factorization.config import ServingConfig
from nonconvex.pipeline.models import OUTPUT_MANIFEST, check_place
from nonconvex.pipeline.runner import run
from nonconvex.pipeline.runs import find_model
from nonconvex.pipeline.text import strict_json
from nonconvex.recommendation import MatrixFactorizationModel


def main(spark: SparkSession, config: ServingConfig) -> dict[str, Any]:
    """Rank, write and report."""
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
    return {"path": output.path, **manifest}


if __name__ == "__main__":
    sys.exit(run(main, ServingConfig, description=__doc__))
