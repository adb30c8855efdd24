"""Check, split and index ratings, and write them as Parquet that training reads without a shuffle.

Reads Parquet, CSV or JSON lines. Rows that are no ratings are kept in rejected/ with the reason.
If the same ratings are there already, prepared in the same way, they are left as they are.
"""

import sys
from typing import Any

from pyspark.sql import SparkSession

from nonconvex.pipeline.factorization.config import PreparationConfig
from nonconvex.pipeline.runner import run


def main(spark: SparkSession, config: PreparationConfig) -> dict[str, Any]:
    """Prepare the ratings, and report what there is."""
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


if __name__ == "__main__":
    sys.exit(run(main, PreparationConfig, description=__doc__))
