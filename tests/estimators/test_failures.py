"""Failures that are not of the data or of a Param: one sentence each, with the right remedy."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql.classic.dataframe import DataFrame

from nonconvex.distributed.connect import ConnectError
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.files import FileSystem, _named
from nonconvex.distributed.runtime import InputError, StoppedError, explain, explained
from nonconvex.estimators.params import ParamError
from nonconvex.neural_network import MultilayerPerceptronRegressor
from nonconvex.recommendation import ALSModel, MatrixFactorization, MatrixFactorizationModel
from nonconvex.report.charts import drawn
from tests.factories import planted_table


def one_sentence(raised):
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 600, text
    assert raised.value.__suppress_context__
    return text


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("place", ["auto", "executors"])
def test_a_file_behind_a_dataframe(spark, tmp_path, how, place):
    path = tmp_path / "ratings.parquet"
    planted_table()[["user", "item", "rating"]].to_parquet(path)
    ratings = spark.read.parquet(str(path))
    if how == "missing":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[4:400] = bytes(396)
        path.write_bytes(content)
        (tmp_path / ".ratings.parquet.crc").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"ratings\.parquet.*: bring the file back, or") as raised:
        MatrixFactorization(rank=2, maxIter=2, updates=place).fit(ratings)
    one_sentence(raised)
    if place == "auto":
        network = MultilayerPerceptronRegressor(
            featuresCol=["user", "item"], labelCol="rating", layers=[2], maxIter=1
        )
        with pytest.raises(InputError, match=r"ratings\.parquet") as raised:
            network.fit(ratings)
        one_sentence(raised)


def test_jobs_that_are_cancelled(spark, planted_ratings):
    ended = threading.Event()

    def cancel():
        while not ended.wait(0.05):
            spark.sparkContext.cancelAllJobs()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        fit = MatrixFactorization(rank=2, maxIter=500, tol=0.0, updates="executors").fit
        with pytest.raises(StoppedError, match=r"the jobs of Spark were cancelled \(Job") as raised:
            fit(planted_ratings)
    finally:
        ended.set()
        thread.join()
    assert one_sentence(raised).endswith("cancellation of all jobs): begin again")


@pytest.mark.parametrize(
    "text",
    [
        "Job 18 cancelled because SparkContext was shut down",
        "java.lang.IllegalStateException: Cannot call methods on a stopped SparkContext.",
        'the return value of "org.apache.spark.SparkContext.dagScheduler()" is null',
    ],
)
def test_a_session_that_was_stopped(text, monkeypatch):
    assert str(explain(RuntimeError(text))) == (
        "the Spark session was stopped meanwhile: start one, and begin again"
    )
    monkeypatch.setattr(SparkContext, "_active_spark_context", None)
    with pytest.raises(StoppedError), explained():
        raise AttributeError("'NoneType' object has no attribute 'sc'")
    with pytest.raises(RatingsError), explained():  # says it by itself
        raise RatingsError("no ratings")
    monkeypatch.setenv("SPARK_CONNECT_MODE_ENABLED", "1")  # where there is no SparkContext
    with ThreadPoolExecutor() as pool:
        assert pool.submit(explain, KeyError("rank")).result() is None


class SparkConnectGrpcException(PySparkException):
    """As that of pyspark, which needs grpc."""

    _grpc_status_code = "StatusCode.UNAVAILABLE"


@pytest.mark.parametrize("of", [RatingsError, RuntimeError])
def test_a_server_that_has_ended_whatever_was_made_of_it(of):
    def fail():
        try:
            raise SparkConnectGrpcException("failed to connect to all addresses")
        except SparkConnectGrpcException:
            raise of("the checkpoint is damaged") from None

    with pytest.raises(ConnectError, match=r"^the server of .* has ended .*t$"), explained():
        fail()
    try:
        fail()
    except of:  # where a fit of another session begins
        with pytest.raises(StoppedError, match="memory"), explained():
            np.zeros(1 << 50)
    with pytest.raises(SparkConnectGrpcException), _named("reached", "fit"):
        raise SparkConnectGrpcException("failed to connect")


def test_a_server_that_has_ended_when_a_model_is_asked_for(spark, monkeypatch, planted_ratings):
    def fail(*_, **__):
        raise SparkConnectGrpcException("failed to connect to all addresses")

    model = MatrixFactorization(rank=1, maxIter=1).fit(planted_ratings)
    for name in ("exists", "sweep"):
        monkeypatch.setattr(FileSystem, name, fail)
    monkeypatch.setattr(DataFrame, "columns", property(fail))
    for ask in (
        lambda: MatrixFactorizationModel.load("model"),
        lambda: MatrixFactorization.load("model"),
        lambda: ALSModel.load("model"),
        lambda: model.save("model"),
        lambda: MatrixFactorization().write().overwrite().save("model"),
        lambda: model.transform(planted_ratings),
        lambda: model.evaluate(planted_ratings),
        lambda: model.foldInUsers(planted_ratings),
        lambda: model.recommendForUserSubset(planted_ratings, 2),
        lambda: model.similarItems(2, planted_ratings),
        lambda: model.explain(1, 2, planted_ratings),
    ):
        with pytest.raises(ConnectError, match=r"^the server of Spark Connect has ended "):
            ask()


@pytest.mark.parametrize("params", [{"rank": 10**9}, {"rank": 2, "numRestarts": 10**8}])
def test_memory_that_there_is_not(spark, planted_ratings, params):
    other = "solver='als'" if params["rank"] == 2 else "exchange='shuffle'"
    with pytest.raises(
        ParamError, match=rf"take [\d,.]+ GB, .* lower .*, or set {other}$"
    ) as raised:
        MatrixFactorization(**params).fit(planted_ratings)
    assert len(str(raised.value)) < 300
    with pytest.raises(StoppedError, match=r"lacks memory \(Unable to allocate"), explained():
        np.zeros(1 << 50)


def test_a_defect_is_not_explained():
    assert explain(KeyError("rank")) is None
    found = explain(OSError("ExecutorLostFailure: java.lang.OutOfMemoryError: Java heap space"))
    assert str(found).startswith("Java lacks memory: give it more by spark.driver.memory")
    assert explain(OSError("[FAILED_READ_FILE] x: No space left on device SQLSTATE")) is None
    found = explain(OSError("[PATH_NOT_FOUND] Path does not exist: file:/p/test. SQLSTATE: 42K03"))
    assert str(found).startswith("Path does not exist: file:/p/test: bring the file back")
    assert found.exit_status == 3


def test_weights_that_overflow_are_blamed(spark):
    table = planted_table()[["user", "item", "rating"]].assign(weight=1e300)
    frame = spark.createDataFrame(table)
    estimator = MatrixFactorization(rank=2, maxIter=2, weightCol="weight")
    with pytest.raises(RatingsError, match="sum of the weights is inf in float32: divide all weig"):
        estimator.fit(frame)
    estimator.setPrecision("float64").fit(frame)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_tiny_ratings_are_sampled(spark, precision):
    table = planted_table()[["user", "item", "rating"]]
    tiny = table.assign(rating=table["rating"] * 1e-30)
    model = MatrixFactorization(
        rank=2, solver="gibbs", numBurnIn=10, numSamples=10, numKept=2, precision=precision
    ).fit(spark.createDataFrame(tiny))
    asked = model.transform(spark.createDataFrame(tiny)).toPandas()
    error = np.sqrt(np.mean((asked["prediction"] / 1e-30 - asked["rating"] / 1e-30) ** 2))
    assert error < 0.9 * table["rating"].std()


def test_a_figure_on_a_full_disk_is_not_drawn_around():
    @drawn
    def _some_picture():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        _some_picture()
