"""Where rows are updated: the driver and the executors come to the same bits."""

import logging
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import functions as F

from nonconvex.distributed import runtime
from nonconvex.distributed.data.prepare import prepare_ratings
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.distributed.data.validation import Columns, RatingsError, Rules
from nonconvex.distributed.factorization import execution, packing
from nonconvex.distributed.factorization.packing import PackingSide, read_chunks, survey_chunks
from nonconvex.numerics.deterministic import KernelError
from nonconvex.recommendation import MatrixFactorization
from tests.factories import frame, same_bits, triples

HELD = {"validationIndicatorCol": "held"}
FITS = {
    "als": {"numRestarts": 2, "weightCol": "weight", "patience": 2, **HELD},
    "als-cg": {"weightCol": "weight", **HELD},
    "als-coordinate": {"precision": "float64"},
    "gd": {"miniBatchFraction": 0.5},
    "gibbs": {"numBurnIn": 1, "numSamples": 2, "numKept": 2, **HELD},
}


@pytest.mark.parametrize("solver", FITS)
def test_the_driver_and_the_executors_come_to_the_same_bits(ratings, solver):
    estimator = MatrixFactorization(rank=2, numUserBlocks=3, solver=solver, **FITS[solver])
    if solver != "gibbs":
        estimator.setMaxIter(2)
    here = estimator.setUpdates("driver").fit(ratings)
    there = estimator.setUpdates("executors").fit(ratings)
    same_bits(here.factors, there.factors)
    ours, theirs = (
        [[step | {"seconds": 0} for step in one.history] for one in model.summary.restarts]
        for model in (here, there)
    )
    assert ours == theirs


@pytest.mark.parametrize("more", [{}, {"implicitPrefs": True}, {"nonnegative": True}])
def test_both_kernels_come_to_one_model(spark, more):
    data = frame(spark, *triples())
    estimator = MatrixFactorization(rank=3, maxIter=4, tol=0.0, **more)
    models = [estimator.setKernel(kernel).fit(data) for kernel in ("numpy", "compiled", "auto")]
    objectives = [model.summary.objectiveHistory for model in models]
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-4)
    assert [model.summary.kernel for model in models] == ["numpy", "compiled", "compiled"]
    assert models[1].summary.core == "any" != models[0].summary.core
    same_bits(models[1].factors, models[2].factors)
    scores = [
        [row.prediction for row in model.transform(data).orderBy("user", "item").collect()]
        for model in models
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    lists = [model.recommendForAllUsers(5).orderBy("user").collect() for model in models]
    assert lists[1] == lists[2]


class Workers:
    """An RDD whose elements are what executors answer."""

    def __init__(self, *answers):
        self.answers = answers

    def map(self, _):
        return self

    def collect(self):
        return self.answers


def test_executors_without_numba_or_of_another_type_are_named(spark, monkeypatch, caplog):
    runtime._warn_of_cores.cache_clear()
    monkeypatch.setattr(runtime, "executors", lambda _: 2)
    workers = Workers("any", KernelError("compiled kernels need numba"))
    monkeypatch.setattr(runtime, "partitions", lambda *_: workers)
    with pytest.raises(KernelError, match="need numba"):
        runtime.worker_core(spark, "compiled")
    workers.answers = "Prescott", "Nehalem", "Prescott"
    for _ in range(2):
        assert runtime.worker_core(spark, "numpy") == "Nehalem, Prescott"
    assert len(caplog.records) == 1
    assert "several types of processors" in caplog.text


def test_every_way_in_comes_to_the_same_bits(spark, tmp_path):
    users, items, ratings = triples()
    collected = frame(spark, users, items, ratings)  # of a size that Spark does not know
    path = str(tmp_path / "ratings.parquet")
    collected.repartition(3).write.parquet(path)
    plain = spark.read.parquet(path)
    chosen = {"validation": 0.0, "test": 0.0}
    prepared = [
        prepare_ratings(
            read_source(spark, path), f"{tmp_path}/prepared/{blocks}", columns=Columns(),
            rules=Rules(), split=Split(**chosen), user_blocks=blocks, item_blocks=2)
        for blocks in (1, 16)
    ]  # fmt: skip
    settings = {"rank": 3, "maxIter": 2, "seed": 3}
    expected = MatrixFactorization(**settings, updates="executors", numUserBlocks=3).fit(collected)
    for blocks in (1, 3, 16):
        for updates, exchange in (("auto", "auto"), ("executors", "auto"), ("auto", "shuffle")):
            places = {"updates": updates, "exchange": exchange, "numUserBlocks": blocks}
            tables = collected, plain, plain.where("rating > -100")
            for ratings in tables if blocks == 3 else [plain]:
                model = MatrixFactorization(**settings, **places).fit(ratings)
                same_bits(model.factors, expected.factors)
    for ratings in prepared:
        for updates in ("auto", "executors"):
            model = MatrixFactorization(**settings, updates=updates).fitPrepared(ratings)
            same_bits(model.factors, expected.factors)


@pytest.mark.parametrize(
    ("ratings", "unknowns", "cores", "memory", "expected", "reason"),
    [
        # Executors with more cores: one rating or one start more, and a job is worth its planning.
        (1 << 18, 16, 64, 1 << 40, True, "262,144 ratings × 16 unknowns take less time than plan"),
        (1 << 18, 17, 64, 1 << 40, False, "executors: of 262,144 ratings, as they have more cores"),
        ((1 << 18) + 1, 1, 64, 1 << 40, False, "as they have more cores"),
        (10**9, 33, 1, 1 << 40, True, "it has all cores, and 1,000,000,000 ratings fit its memory"),
        (10**9, 33, 1, 1 << 32, False, "as the memory of the driver is for 33,554,432"),
    ],
)
def test_the_place_of_updates_and_its_reason(
    spark, monkeypatch, caplog, ratings, unknowns, cores, memory, expected, reason
):
    for name, value in (("executors", 1), ("parallelism", cores)):
        monkeypatch.setattr(runtime, name, lambda spark, value=value: value)
    monkeypatch.setattr(spark.sparkContext, "master", "yarn")
    monkeypatch.setattr(execution, "driver_memory", lambda: memory)
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        assert execution.use_driver(spark, "auto", ratings, unknowns) == expected
    assert reason in caplog.text


def test_files_are_read_in_place_only_where_spark_would_read_the_same(spark, tmp_path):
    path = str(tmp_path / "ratings")
    ratings = spark.range(50).selectExpr("id AS user", "int(id % 7) AS item", "float(id) AS rating")
    ratings.repartition(3).write.option("parquet.page.size", 64).parquet(path)
    (tmp_path / "ratings" / "empty.parquet").touch()
    read = spark.read.parquet(path)
    plain = read.select(F.col("user").alias("u"), "item", F.col("rating").cast("double"))
    assert runtime._plain_scan(plain) is not None
    expected = plain.toArrow()
    found = runtime.collect_table(plain, 50)
    assert found.schema.types == expected.schema.types
    assert found.sort_by("u").equals(expected.sort_by("u").cast(found.schema))
    assert runtime.collect_table(plain, 2) is None
    assert runtime.collect_table(plain, 0) is None
    for other in (
        read.where("item > 2"),
        read.select("user", F.col("rating").cast("int")),
        read.select("user", (F.col("item") + 1).alias("item")),
        spark.read.option("mergeSchema", True).parquet(path),
        spark.read.schema("user int").parquet(path),  # which Spark refuses
        ratings,
    ):
        assert runtime._read_scan(other, 100) is None
    next(Path(path).glob("part-*")).unlink()
    assert runtime._read_scan(plain, 50) is None  # Spark says that it is gone


def test_tasks_read_whole_files_only_where_spark_would_read_the_same(spark, tmp_path, monkeypatch):
    path = str(tmp_path / "ratings")
    ratings = spark.range(50).selectExpr("id AS user", "int(id % 7) AS item", "float(id) AS rating")
    days = ratings.withColumn("day", F.col("item") % 2)
    days.repartition(3).write.partitionBy("day").parquet(path)
    next(Path(path).glob("day=*")).joinpath("empty.parquet").touch()
    read = spark.read.parquet(path)
    plain = read.select(F.col("user").alias("u"), "item", F.col("rating").cast("double"))

    assert runtime._whole_files(plain)[0].count() == 6  # Spark leaves the empty one out
    same = runtime.map_batches(plain, lambda batches: batches, plain.schema)
    assert sorted(same.collect()) == sorted(plain.collect())
    for other in (read.select("user", "day"), read.select("user"), read.where("item > 2"), ratings):
        assert runtime._whole_files(other) is None
    monkeypatch.setattr(runtime, "_MOST_FILE", 100)
    assert runtime._whole_files(plain) is None


def test_a_file_that_a_task_cannot_read_is_left_to_spark(spark, tmp_path):
    users, items, ratings = triples()
    path = str(tmp_path / "ratings")
    found = frame(spark, users, items, ratings)
    found.where("user % 2 = 0").write.parquet(path)
    # a narrower type, that Spark widens
    odd = found.where("user % 2 = 1").withColumn("user", F.col("user").cast("int"))
    odd.write.mode("append").parquet(path)
    wide = spark.read.schema(found.schema).parquet(path)
    assert survey_chunks(read_chunks(wide, np.float32)) is None
    estimator = MatrixFactorization(rank=2, maxIter=1, seed=1, updates="executors")
    same_bits(estimator.fit(wide).factors, estimator.fit(found).factors)


def test_a_file_that_changes_during_the_fit_ends_it():
    side, changed = PackingSide("user", "item", 1), packing._record(held_out=False, rows=0)
    with pytest.raises(RatingsError, match="changed during the fit: fit again"):
        list(packing._chunk_triples(iter([changed]), side, np.float32, None, False))


def test_ids_of_many_are_added_up_by_executors(spark, monkeypatch):
    ratings = frame(spark, *triples()).repartition(3)
    estimator = MatrixFactorization(rank=2, maxIter=1, seed=1, updates="executors")
    expected = estimator.fit(ratings)
    monkeypatch.setattr(packing, "collectable_bytes", lambda spark: 0)
    assert survey_chunks(read_chunks(ratings, np.float32)).ids is None
    same_bits(estimator.fit(ratings).factors, expected.factors)


def test_a_fit_on_executors_takes_three_jobs_before_its_first_iteration(spark, tmp_path):
    path = str(tmp_path / "ratings")
    frame(spark, *triples()).repartition(3).write.parquet(path)
    ratings, tracker = spark.read.parquet(path), spark.sparkContext.statusTracker()
    estimator = MatrixFactorization(solver="als", rank=2, maxIter=1, updates="executors")
    for group, rows in (("files", ratings), ("rows", ratings.where("user >= 0"))):
        spark.sparkContext.setJobGroup(group, "")
        estimator.fit(rows)
        # Of the last three, two update, and one measures the gradient at the end.
    assert len(tracker.getJobIdsForGroup(group)) == 6
    spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
    runtime.describe_jobs(spark, None)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not wait")
def test_a_task_acknowledges_at_once_what_java_sends():
    option, java = (socket.IPPROTO_TCP, socket.TCP_QUICKACK), socket.create_server(("127.0.0.1", 0))
    with java, socket.create_connection(java.getsockname()) as worker, java.accept()[0]:
        worker.setsockopt(*option, 0)
        runtime._tcp_sockets.cache_clear()
        runtime.begin_task()
        assert worker.getsockopt(*option)
