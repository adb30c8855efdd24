"""Tables for a service: seen pairs, lists in buckets, and vectors for nearest-neighbour search."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.data.sources import refuse_empty_files
from nonconvex.distributed.files import FileSystem

MANIFEST = "serving.json"
"""The file that describes a directory of this job, and allows a later run to replace it."""


class ServingError(ValueError):
    """A table that cannot be read, or a place that cannot be written to."""

    exit_status = 3


def check_place(spark: SparkSession, path: str, *, overwrite: bool) -> None:
    """Raise ServingError if something at `path` must not be replaced."""
    files = FileSystem(spark, path)
    if not files.exists(path):
        return
    if not files.exists(f"{path}/{MANIFEST}"):
        raise ServingError(
            f"output.path: there is something at {path} that this job did not write, as it has no "
            f"{MANIFEST}; name another directory"
        )
    if not overwrite:
        raise ServingError(
            f"output.path: this job has written to {path} already; set "
            "output.overwrite=true, or name another directory"
        )


def read_named_table(spark: SparkSession, path: str, key: str) -> DataFrame:
    """Read Parquet that the configuration names as `key`."""
    refuse_empty_files(FileSystem(spark, path), path)
    try:
        return spark.read.parquet(path)
    except PySparkException as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ServingError(f"{key}: {path} cannot be read as Parquet: {reason}") from None


def seen_pairs(prepared: PreparedRatings, parts: Sequence[str], user: str, item: str) -> DataFrame:
    """Return the pairs in some parts of prepared ratings, by the ids that they came with."""
    tables = {
        "train": training_ratings(prepared),
        "validation": prepared.validation,
        "test": prepared.test,
    }
    return reduce(DataFrame.union, (tables[part].select("user", "item") for part in parts)).toDF(
        user, item
    )


def training_ratings(prepared: PreparedRatings) -> DataFrame:
    """Return ``user, item, rating``, and ``weight`` if there is one, by the ids they came with."""

    def ids(side: str) -> DataFrame:
        table = prepared.users if side == "user" else prepared.items
        return table.select(F.col("index").alias(f"{side}_index"), F.col("id").alias(side))

    weight = ["weight"] if "weight" in prepared.manifest.types else []
    named = prepared.by_user.join(ids("user"), on="user_index").join(ids("item"), on="item_index")
    return named.select("user", "item", "rating", *weight)


def write_lists(lists: DataFrame, path: str, buckets: int) -> None:
    """Write a row for each id, so that one is found by opening one small file.

    Parameters
    ----------
    path : str
        A directory with ``bucket=<b>/`` in it, where b is the CRC-32 of the id, written as text in
        UTF-8, modulo `buckets`.  A bucket is one file, sorted by id.
    """
    name = lists.columns[0]
    key = F.col("`" + name.replace("`", "``") + "`")
    bucket = F.crc32(key.cast("string").cast("binary")) % buckets
    placed = lists.withColumn("bucket", bucket.cast("int")).repartitionById(buckets, "bucket")
    placed.sortWithinPartitions("bucket", key).write.partitionBy("bucket").parquet(path)


def list_lengths(spark: SparkSession, path: str) -> dict[str, int]:
    """Return how many ``users`` have a row in `write_lists`, how many of them an ``empty`` list."""
    empty = F.count_if(F.size("recommendations") == 0)
    counts = spark.read.parquet(path).agg(F.count("*"), empty).first()
    assert counts is not None
    return {"users": counts[0], "empty": counts[1]}


def user_vectors(factors: DataFrame, alpha: float) -> DataFrame:
    """Return ``id, vector, offset`` with the vector (γ_u, 1) and the offset α + β_u.

    The prediction for a user and an item is the offset and the inner product of this vector and
    that of `item_vectors`.

    Parameters
    ----------
    factors : DataFrame
        ``id, bias, features``.
    """
    return factors.select(
        "id", _vector(F.lit(1.0)), (F.lit(alpha) + F.col("bias")).cast("double").alias("offset")
    )


def item_vectors(factors: DataFrame) -> DataFrame:
    """Return ``id, vector`` with the vector (γ_i, β_i); see `user_vectors`.

    Parameters
    ----------
    factors : DataFrame
        ``id, bias, features``.
    """
    return factors.select("id", _vector(F.col("bias")))


def _vector(last: Column) -> Column:
    joined = F.concat(F.col("features").cast("array<float>"), F.array(last.cast("float")))
    return joined.alias("vector")
