"""Examples: what is refused, and the shards that they become."""

import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pyspark import StorageLevel
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import functions as F

from nonconvex.distributed.columns import ColumnError
from nonconvex.distributed.data.examples import (
    Classes,
    ExampleColumns,
    ExampleSchema,
    ExamplesError,
    raise_rejected,
    read_examples,
)
from nonconvex.distributed.network.dataset import shard_examples
from nonconvex.distributed.network.gradients import _storage_level
from nonconvex.distributed.network.shards import ShardLayout, content_keys
from nonconvex.numerics.network.model import Moments

COLUMNS = ExampleColumns(("a", "b", "c"), "label", "weight", "held")
CLASSES = ("cat", "dog", "eel")
SHARD = 4 * 3 * 50  # bytes of some fifty examples


def rows(n=300):
    """Examples of three features, some of them equal, as tuples."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n, 3)).round(1)
    x[:, 2] = 7.0
    y = generator.choice(CLASSES, n)
    w = generator.integers(0, 3, n).astype(float)
    held = generator.random(n) < 0.25
    columns = (values.tolist() for values in (x, y, w, held))
    return [(*a, b, c, d) for a, b, c, d in zip(*columns, strict=True)]


def shards(examples):
    """All shards, as bytes."""
    parts = examples.train, examples.validation
    return [part.run(lambda _, shard: tuple(shard)) for part in parts]


@pytest.fixture(scope="module")
def frame(spark):
    schema = "a double, b double, c double, label string, weight double, held boolean"
    data = spark.createDataFrame(rows(), schema).cache()
    yield data
    data.unpersist()


@pytest.fixture(scope="module")
def packed(frame):
    examples = shard_examples(frame, COLUMNS, classify=True, shard_bytes=SHARD)
    yield examples
    examples.release()


def test_shards_hold_every_example_once_in_a_random_place(packed):
    sizes = packed.train.sizes, packed.validation.sizes
    assert all(20 < size < 90 for part in sizes for size in part)
    assert [len(part) for part in sizes] == [5, 2]
    found = []
    for part, held in zip(shards(packed), (False, True), strict=True):
        for number, shard in part.items():
            x = np.frombuffer(shard[3], shard[2]).reshape(shard[1], 3)
            y, w = np.frombuffer(shard[4], np.int32), np.frombuffer(shard[5])
            first, second = content_keys([x, y, w])
            assert (np.lexsort((second, first)) == np.arange(len(x))).all(), "sorted by content"
            shards_of_part = 5 if not held else 2
            assert ((first >> np.uint64(32)).astype(int) * shards_of_part >> 32 == number).all()
            found += [
                (*map(float, a), CLASSES[b], float(c), held)
                for a, b, c in zip(x, y, w, strict=True)
            ]
    assert sorted(found) == sorted(rows())


def test_order_partitions_and_the_type_of_the_column_change_no_bit(frame, packed):
    before = frame.sparkSession.sparkContext._jsc.sc().getPersistentRDDs().size()
    sparse = F.udf(
        lambda v: Vectors.sparse(3, {j: float(x) for j, x in enumerate(v) if x}), VectorUDT()
    )
    array = F.array("a", "b", "c")
    shuffled = frame.orderBy(F.rand(1)).repartition(3)
    for vector in (array, F.when(F.col("a") > 0, sparse(array)).otherwise(array_to_vector(array))):
        columns = ExampleColumns("x", "label", "weight", "held")
        same = shard_examples(
            shuffled.withColumn("x", vector), columns, classify=True, shard_bytes=SHARD
        )
        assert shards(same) == shards(packed)
        assert same.fingerprint == packed.fingerprint
        same.release()
    assert frame.sparkSession.sparkContext._jsc.sc().getPersistentRDDs().size() == before


def test_moments_classes_and_weights(packed, caplog):
    data = [row for row in rows() if not row[-1]]
    x, w = np.array([row[:3] for row in data]), np.array([row[4] for row in data])
    expected = Moments.of(x, w)
    for found, wanted in zip(packed.stats.moments, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    y = np.array([CLASSES.index(row[3]) for row in data])
    np.testing.assert_allclose(packed.stats.class_weights, np.bincount(y, w, 3))
    assert packed.schema.classes == Classes("string", CLASSES)
    assert (packed.schema.rows, packed.schema.held_out) == (len(data), 300 - len(data))
    with caplog.at_level(logging.WARNING, logger="nonconvex"):
        decoder = packed.decoder(class_weights=[1.0, 2.0, 3.0])
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 3 features are constant and carry no information: 'c'; leave them out"
    ]
    great = packed.stats._replace(moments=Moments.of(x * [1, 1e200, 1], w))
    with pytest.raises(
        ExamplesError, match=r"^'b' has values up to .*e\+200, whose squares overflow"
    ):
        replace(packed, stats=great).decoder()
    read = packed.train.run(lambda _, shard: decoder(shard)).values()
    z, labels, weights = (np.concatenate(column) for column in zip(*read, strict=True))
    assert z.dtype == np.float32
    assert (z[:, 2] == 0).all()
    plain = weights / (1 + labels)
    np.testing.assert_allclose(np.average(z, axis=0, weights=plain), 0, atol=1e-6)
    assert weights.sum() == pytest.approx(float(w @ (1 + y)))


def test_targets_of_a_regression_and_empty_shards(spark):
    data = spark.createDataFrame(
        [([1, 2], [0.5, 1.5]), ([3, 4], [2.5, 3.5])], "x array<int>, y array<double>"
    )
    examples = shard_examples(data, ExampleColumns("x", "y"), classify=False, shard_bytes=4)
    assert examples.schema == ExampleSchema(2, 0, 2, 2, None)
    assert sum(examples.train.sizes) == 2
    assert len(examples.train.sizes) == 4
    decoder = examples.decoder(standardize=False, dtype="float64")
    found = [examples.train.run(lambda _, shard: decoder(shard), [q]) for q in range(4)]
    read = sorted(
        (part.x.tolist(), part.y.tolist()) for by_number in found for part in by_number.values()
    )
    expected = [([1, 2], [0.5, 1.5]), ([3, 4], [2.5, 3.5])]
    assert [row for part in read for row in zip(*part, strict=True)] == expected
    examples.release()


@pytest.mark.parametrize(
    ("values", "classify", "message"),
    [
        ("array(1D), 'a'", False, "labelCol='y': the column is string and must be a number"),
        ("'a', 1D", True, "featuresCol='x': the column is string and must be a vector or an"),
        ("array(1D), true", True, "labelCol='y': the column is boolean and must be a string or"),
        ("array(1D), 0.5D", True, "labelCol='y' has the value 0.5, .* whole numbers or"),
        ("array(1D), double('NaN')", True, "labelCol='y' has 2 null, NaN or infinite labels in 2"),
        ("array(1D), 'cat'", True, "labelCol='y' has a single class .*, 'cat', and two are"),
        ("cast(null as array<double>), id", True, "featuresCol='x' is null in all rows"),
        ("array(1D, id / 0D), id, 1D", True, r"'x' is null, NaN .* 2 rows \(x\[1\] in 2\), of 2"),
        ("array(1D), id, 0D", True, "weightCol='w' is 0 in all rows to train on; at least one"),
    ],
)  # fmt: skip
def test_what_is_refused(spark, configure, values, classify, message):
    configure({"spark.sql.ansi.enabled": "false"})
    given = spark.range(2).selectExpr(f"inline(array(struct({values})))").coalesce(1)
    given = given.toDF(*"xyw"[: len(given.columns)])
    columns = ExampleColumns("x", "y", "w" if "w" in given.columns else None)
    error = ColumnError if "the column is" in message else ExamplesError
    with pytest.raises(error, match=message):
        shard_examples(given, columns, classify=classify)


def test_a_missing_column_is_named(spark):
    with pytest.raises(ColumnError, match="featuresCol='x': there is no such column; there are id"):
        shard_examples(spark.range(2), ExampleColumns("x", "y"), classify=True)


def test_no_rows_to_train_on(frame):
    with pytest.raises(ExamplesError, match="no examples to train on; at least one"):
        shard_examples(frame.where("false"), COLUMNS, classify=True)
    with pytest.raises(ExamplesError, match="to train on that are not held out for validation"):
        shard_examples(frame.where("held"), COLUMNS, classify=True)
    unknown = frame.withColumn("held", F.expr("if(a > 0, held, null)"))
    with pytest.raises(ExamplesError, match=r"validationIndicatorCol='held' is null in .* rows"):
        shard_examples(unknown, COLUMNS, classify=True)


def test_every_complaint_is_one_sentence():
    nan, inf = np.nan, np.inf
    table = pa.table(
        {
            "features": [[1.0, nan], [1.0, 2.0], None, [1.0], [1.0, 2.0], [inf, nan], [3.0, 4.0]],
            "label": [1.0, nan, 1.0, 1.0, 2.0, 3.0, 4.0],
            "weight": [1.0, 1.0, 1.0, 1.0, -1.0, None, 2.0],
            "held_out": [False] * 6 + [True],
        }
    )
    about = ExampleSchema(5, 2, 2, 1, None)
    accepted, reasons = read_examples(table, about)
    assert accepted.x.tolist() == [[3.0, 4.0]]
    assert accepted.y.tolist() == [[4.0]]
    assert accepted.held_out.tolist() == [True]
    columns = ExampleColumns(("age", "height"), "y", "w")
    with pytest.raises(ExamplesError) as raised:
        raise_rejected(reasons, columns, about)
    assert str(raised.value) == (
        "featuresCol is null in 1 rows and "
        "featuresCol is null, NaN or infinite in 2 rows ('height' in 2, 'age' in 1) and "
        "featuresCol has 1 entries in 1 rows and 2 in others and "
        "labelCol='y' is null, NaN or infinite in 1 rows and "
        "weightCol='w' is null, NaN, infinite or negative in 2 rows, "
        "of 7 in all; drop or fill them before fit"
    )
    classes = about._replace(classes=Classes("double", (1.0, 2.0, 3.0)))
    _, reasons = read_examples(table.slice(6), classes)
    with pytest.raises(ExamplesError, match=r"new labels in 1 rows since .* cache it"):
        raise_rejected(reasons, columns, classes)


def test_keys_depend_on_every_entry_and_numbers_of_shards_on_size_alone():
    x = np.random.default_rng(0).integers(0, 3, (500, 8)).astype(float)  # few significant bits
    distinct = len(np.unique(x, axis=0))
    first, second = content_keys([x, None, x[:, 0]])
    assert len(np.unique(first)) == len(np.unique(second)) == distinct
    assert (content_keys([x[:9], x[:9, 0]])[0] == first[:9]).all()
    share = np.bincount((first >> np.uint64(61)).astype(int), minlength=8) / len(first)
    assert share.min() > 0.07, "spread over shards"
    schema = ExampleSchema(60_000, 10_000, 784, 10, None)
    assert ShardLayout.of(schema)[1:] == (45, 8)
    assert ShardLayout.of(schema._replace(rows=10**9, held_out=0))[1:] == (4096, 0)


def test_shards_are_kept_on_disk_if_they_would_fill_the_memory(spark, caplog):
    assert _storage_level(spark, 21_210) == StorageLevel.MEMORY_AND_DISK
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        assert _storage_level(spark, 21 * 10**9) == StorageLevel.DISK_ONLY
    assert "are kept on the executors' disks" in caplog.text
