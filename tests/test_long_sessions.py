"""Sessions that live long, of Spark Connect with SPARK_REMOTE=local[2]: models release all."""

import gc
import os
import time
from typing import NamedTuple

import psutil
import pytest
from pyspark.ml.evaluation import Evaluator
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder
from pyspark.sql import functions as F

from nonconvex.distributed.runtime import remove_unowned, running_context
from nonconvex.neural_network import MultilayerPerceptronClassifier
from nonconvex.recommendation import MatrixFactorization
from tests.factories import flowers, frame, triples


class Held(NamedTuple):
    """What a session holds, after Python and Java have collected their garbage."""

    files: int  # of the driver's broadcasts, and of sessions of Spark Connect
    cached: int  # tables
    storage: int  # bytes of Spark's storage memory, which has broadcasts and their pages
    java: int  # bytes of the heap
    python: int  # bytes of this process
    server: int  # bytes of the process of Java

    @classmethod
    def of(cls, spark):
        context = running_context()
        java = context._jvm.java.lang
        for _ in range(3):  # what Python holds, Java cannot collect; a thread tells it
            gc.collect()
            time.sleep(0.5)
            java.System.gc()
        remove_unowned(spark)
        runtime = java.Runtime.getRuntime()
        status = context._jsc.sc().getExecutorMemoryStatus().values().head()
        spark_files = context._jvm.org.apache.spark.SparkFiles.getRootDirectory()
        artifacts = java.Class.forName("org.apache.spark.sql.artifact.ArtifactManager$")
        artifact_root = artifacts.getField("MODULE$").get(None).artifactRootDirectory()
        directories = context._temp_dir, spark_files, artifact_root.toString()
        return cls(
            sum(len(files) for of in directories for _, _, files in os.walk(of)),
            context._jsc.getPersistentRDDs().size(),
            status._1() - status._2(),
            runtime.totalMemory() - runtime.freeMemory(),
            psutil.Process().memory_info().rss,
            psutil.Process(java.ProcessHandle.current().pid()).memory_info().rss,
        )


@pytest.fixture(scope="module")
def tables(spark):
    """Ratings with numbers and with names as ids, and examples."""
    users, items, ratings = triples()
    numbers = frame(spark, users, items, ratings).cache()
    names = numbers.withColumn("user", F.concat(F.lit("u"), "user")).cache()
    examples = spark.createDataFrame(flowers(60)).cache()
    assert min(table.count() for table in (numbers, names, examples)) == 60
    return numbers, names, examples


def fit_and_score(number, tables):
    """Fit a model and read what it predicts; what there is of it is then garbage."""
    numbers, names, examples = tables
    if number % 3 == 2:
        network = MultilayerPerceptronClassifier(
            featuresCol=["a", "b", "c"], labelCol="kind", layers=[3, 4, 3], maxIter=1
        )
        rows, model = examples, network.fit(examples)
    else:
        rows = (numbers, names)[number % 3]
        cold = "drop" if number % 2 else "nan"
        params = {"coldStartStrategy": cold, "updates": "auto" if number % 4 else "executors"}
        model = MatrixFactorization(rank=2, maxIter=1, **params).fit(rows)
    assert model.transform(rows).agg(F.count("prediction")).collect()[0][0] == rows.count()
    if number % 3 == 1:
        assert model.recommendForAllUsers(2).count() == 40


def flat(spark, tables, times, warm, memory):
    """Fit and score so many times; assert that what is held after `warm` times stays."""
    for number in range(warm):
        fit_and_score(number, tables)
    before = Held.of(spark)
    for number in range(warm, times):
        fit_and_score(number, tables)
        if number % 50 == 0:
            print(number, Held.of(spark), flush=True)
    for _ in range(10):  # on a busy machine Java hears late of what Python no longer holds
        after = Held.of(spark)
        if after.java <= before.java + memory:
            break
    print(before, after)
    assert after.files <= before.files
    assert after.cached <= before.cached
    assert after.storage <= before.storage + (1 << 20)
    assert after.java <= before.java + memory
    assert after.python <= before.python + memory


def test_twenty_fits_hold_no_more_than_ten(spark, tables):
    flat(spark, tables, 21, 10, 64 << 20)


@pytest.mark.thorough
def test_five_hundred_fits_hold_no_more_than_fifty(spark, tables):
    """The history that Spark keeps of its last thousand jobs and stages is full after fifty."""
    flat(spark, tables, 500, 50, 64 << 20)


@pytest.mark.skipif("SPARK_REMOTE" not in os.environ, reason="for Spark Connect")
@pytest.mark.thorough
def test_two_hundred_fits_over_connect(spark, tables):
    flat(spark, tables, 200, 10, 64 << 20)


def test_a_dataframe_outlives_its_model(spark, tables):
    numbers, names, _ = tables
    before = Held.of(spark).files
    scored = [
        MatrixFactorization(rank=2, maxIter=1).fit(rows).transform(rows)
        for rows in (numbers, names)
    ]
    assert Held.of(spark).files > before
    first, second = (one.agg(F.sum("prediction")).collect()[0][0] for one in scored)
    assert first == pytest.approx(second, rel=1e-3)
    del scored
    assert Held.of(spark).files == before


class SquaredError(Evaluator):
    """Of a dataframe: Spark 4.3 never forgets jobs of RDDs in several threads, as pyspark's are."""

    def _evaluate(self, dataset):
        return dataset.agg(F.avg((F.col("rating") - F.col("prediction")) ** 2)).first()[0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of its thread pool
@pytest.mark.thorough
def test_cross_validation_holds_nothing_but_its_model(spark, tables):
    _, names, _ = tables
    estimator = MatrixFactorization(maxIter=1, coldStartStrategy="drop")
    grid = ParamGridBuilder().addGrid(estimator.rank, [1, 2]).build()
    judge = SquaredError()
    before = None
    for _ in range(4):
        CrossValidator(
            estimator=estimator, estimatorParamMaps=grid, evaluator=judge, numFolds=2, seed=1,
            parallelism=2,
        ).fit(names)  # fmt: skip
        before = before or Held.of(spark)
    after = Held.of(spark)
    print(before, after)
    assert (after.files, after.cached) == (before.files, before.cached)
    assert after.storage <= before.storage + (1 << 20)
    assert after.java <= before.java + (32 << 20)
