"""Recommend items to users with a published model, for a service to read.

Writes a row with the ranked items for each user, without what was rated already, and vectors of
users and items for an index of nearest neighbours. The directory appears, or is replaced, at once.
"""

import json
import sys
from typing import Any

from pyspark.sql import SparkSession

from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.files.atomic import publish
from nonconvex.distributed.files.hadoop import FileSystem
from nonconvex.distributed.publication import find_model
from nonconvex.distributed.serving import (
    MANIFEST,
    check_place,
    item_vectors,
    list_lengths,
    read_table,
    seen_pairs,
    user_vectors,
    write_lists,
)
from nonconvex.job import run
from nonconvex.recommendation import MatrixFactorizationModel
from nonconvex.serving_sections import ServingConfig


def main(spark: SparkSession, config: ServingConfig) -> dict[str, Any]:
    """Rank, write and report."""
    asked, seen, output = config.recommendations, config.seen, config.output
    check_place(spark, output.path, overwrite=output.overwrite)
    path = find_model(spark, config.model.path)
    model = MatrixFactorizationModel.load(path)
    exclude = candidates = None
    if seen.prepared is not None and seen.parts:
        prepared = PreparedRatings.open(spark, seen.prepared)
        names = model.getOrDefault("userCol"), model.getOrDefault("itemCol")
        exclude = seen_pairs(prepared, seen.parts, *names)
    if asked.candidates is not None:
        candidates = read_table(spark, asked.candidates, "recommendations.candidates")
    if asked.users is None:
        lists = model.recommendForAllUsers(asked.n, exclude, candidates)
    else:
        users = read_table(spark, asked.users, "recommendations.users")
        lists = model.recommendForUserSubset(users, asked.n, exclude, candidates)
    with publish(spark, output.path, replace=output.overwrite) as directory:
        write_lists(lists, f"{directory}/recommendations", asked.buckets)
        lengths = list_lengths(spark, f"{directory}/recommendations")
        if output.vectors:
            vectors = user_vectors(model.userFactors, model.globalBias)
            vectors.write.parquet(f"{directory}/user_vectors")
            item_vectors(model.itemFactors).write.parquet(f"{directory}/item_vectors")
        manifest = {"model": path, "n": asked.n, "buckets": asked.buckets, **lengths}
        if output.vectors:
            manifest |= {"dimension": model.rank + 1, "similarity": "inner product"}
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        FileSystem(spark, directory).write_text(f"{directory}/{MANIFEST}", text)
    return {"path": output.path, **manifest}


if __name__ == "__main__":
    sys.exit(run(main, ServingConfig, description=__doc__))
