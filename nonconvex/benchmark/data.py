"""Data of a benchmark: Parquet files that all contenders read, planted or a user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.data.examples import ExampleTable
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.data.splits import Split, part_by_hash
from nonconvex.distributed.data.validation import PARTS
from nonconvex.distributed.files import FileSystem, publish
from nonconvex.distributed.runtime import Batches
from nonconvex.numerics import Longs
from nonconvex.numerics.synthetic import PlantedExamples, PlantedRatings

_TRAIN, _VALIDATION, _TEST = PARTS
_AT_ONCE = 1000  # users or examples whose rows are made together


@dataclass(frozen=True)
class BenchmarkTables:
    """A directory, its rows to train and to test on, and the number of rows of each part."""

    path: str
    train: str
    test: str
    counts: dict[str, int]


def planted_ratings(
    spark: SparkSession, law: PlantedRatings, test: float, partitions: int | None = None
) -> DataFrame:
    """Make ratings on the executors: the same, whatever the partitions.

    Returns ``user int, item int, rating float, part string``; the hash of a rating holds out the
    fraction `test`.
    """

    def make(users: Longs) -> dict[str, Any]:
        return dict(zip(("user", "item", "rating"), law.of_users(users), strict=True))

    users = spark.range(0, law.users, numPartitions=partitions)
    ratings = users.mapInArrow(_in_pieces(make), "user int, item int, rating float")
    return ratings.withColumn("part", _part(test, law.seed, F.col("user"), F.col("item")))


def planted_examples(
    spark: SparkSession, law: PlantedExamples, rows: int, test: float, partitions: int | None = None
) -> DataFrame:
    """Make examples on the executors: the same, whatever the partitions.

    Returns ``row long, features array<float>, label int, part string``; the hash of a row number
    holds out the fraction `test`.
    """

    def make(numbers: Longs) -> dict[str, Any]:
        features, label = law.examples(numbers)
        ends = np.arange(0, features.size + 1, law.features, dtype=np.int32)
        arrays = pa.ListArray.from_arrays(ends, features.ravel())
        return {"row": numbers, "features": arrays, "label": label}

    numbers = spark.range(0, rows, numPartitions=partitions)
    schema = "row long, features array<float>, label int"
    examples = numbers.mapInArrow(_in_pieces(make), schema)
    return examples.withColumn("part", _part(test, law.seed, F.col("row")))


def prepared_tables(prepared: PreparedRatings) -> DataFrame:
    """Return prepared ratings as `planted_ratings` does, under the dense indices of their ids.

    Indices are integers, as MLlib demands. Test ratings whose user or item is not in training are
    left out, since MLlib cannot predict them.
    """

    def named(rows: DataFrame, part: str) -> DataFrame:
        return rows.select(
            F.col("user_index").alias("user"),
            F.col("item_index").alias("item"),
            F.col("rating").cast("float"),
            F.lit(part).alias("part"),
        )

    known = prepared.test.where("user_index is not null and item_index is not null")
    return named(prepared.by_user, _TRAIN).unionByName(named(known, _TEST))


def example_tables(table: ExampleTable) -> DataFrame:
    """Return examples as `planted_examples` does, without ``row``; classes count from 0.

    Rows for validation are left out, since the contenders use them differently.
    """
    columns = table.columns
    assert isinstance(columns.label, str)
    label = F.col(f"`{columns.label}`")
    classes = [row[0] for row in table.part(_TRAIN).select(label).distinct().collect()]
    pairs = [(F.lit(name), F.lit(number)) for number, name in enumerate(sorted(classes))]
    numbers = F.create_map(*(column for pair in pairs for column in pair))
    parts = [table.part(part).withColumn("part", F.lit(part)) for part in (_TRAIN, _TEST)]
    rows = parts[0].unionByName(parts[1])
    return rows.select(
        _features(rows, columns.features).alias("features"), numbers[label].alias("label"), "part"
    ).where(F.col("label").isNotNull())


def write_tables(
    spark: SparkSession, path: str, make: Callable[[], DataFrame], *, reuse: bool = False
) -> BenchmarkTables:
    """Write the rows of `make`, which have a column ``part``, and count them.

    With `reuse`, a directory that is there already is taken for the result of `make`; else it is
    replaced.
    """
    if not (reuse and FileSystem(spark, path).exists(path)):
        with publish(spark, path) as directory:
            make().write.mode("overwrite").partitionBy("part").parquet(directory)
    counted = spark.read.parquet(path).groupBy("part").count().collect()
    counts = {_TRAIN: 0, _TEST: 0} | {row["part"]: row["count"] for row in counted}
    return BenchmarkTables(path, f"{path}/part={_TRAIN}", f"{path}/part={_TEST}", counts)


def without_unknown_ids(spark: SparkSession, data: BenchmarkTables, path: str) -> BenchmarkTables:
    """Write the test ratings of known users and items to `path`: MLlib predicts no others."""
    train, rows = (spark.read.parquet(part) for part in (data.train, data.test))
    for side in ("user", "item"):
        rows = rows.join(train.select(side).distinct(), side, "left_semi")
    rows.write.mode("overwrite").parquet(path)
    return replace(data, test=path)


def _in_pieces(make: Callable[[Longs], dict[str, Any]]) -> Any:
    def pieces(batches: Batches) -> Batches:
        for batch in batches:
            numbers = batch.column(0).to_numpy()
            for start in range(0, len(numbers), _AT_ONCE):
                yield pa.RecordBatch.from_pydict(make(numbers[start : start + _AT_ONCE]))

    return pieces


def _part(test: float, seed: int, *columns: Column) -> Column:
    return part_by_hash(Split("random", test=test, seed=seed), *columns)


def _features(rows: DataFrame, names: str | Sequence[str]) -> Column:
    if not isinstance(names, str):
        return F.array(*(F.col(f"`{name}`").cast("float") for name in names))
    column = F.col(f"`{names}`")
    if isinstance(rows.schema[names].dataType, VectorUDT):
        return vector_to_array(column, "float32")
    return column.cast("array<float>")
