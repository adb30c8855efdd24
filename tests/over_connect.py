"""What a session of Spark Connect is compared with a classic one in; test_connect.py runs both."""

import hashlib
import json
import os
import re
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyspark
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import functions as F

from nonconvex.distributed import checkpoints, connect, files, runtime
from nonconvex.distributed.connect import ConnectError
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.runtime import persisted
from nonconvex.neural_network import MultilayerPerceptronRegressionModel
from nonconvex.neural_network import MultilayerPerceptronRegressor as Regressor
from nonconvex.recommendation import ALSModel, MatrixFactorization, MatrixFactorizationModel
from tests.factories import planted_table
from tests.processes import completed

NETWORK = {"featuresCol": ["user", "item"], "labelCol": "rating", "layers": [4], "maxIter": 3}
HELD_OUT = {"validationIndicatorCol": "held_out"}
PLAIN = {"rank": 2, "maxIter": 3, "regUser": 0.5}
FITS = {
    "als": {**PLAIN, **HELD_OUT, "predictionStdCol": "std", "numRestarts": 2},
    "executors": {**PLAIN, **HELD_OUT, "predictionStdCol": "std", "updates": "executors"},
    "coordinate": {**PLAIN, "solver": "als-coordinate", "nonnegative": True},
    "implicit": {**PLAIN, "implicitPrefs": True, "updates": "executors"},
    "gd": {**PLAIN, "solver": "gd", "learningRate": 0.1},
    "compiled": {**PLAIN, "solver": "als-cg", "updates": "executors", "kernel": "compiled"},
    "vb": {"rank": 2, "maxIter": 3, "solver": "vb", "updates": "executors"},
    "gibbs": {"rank": 2, "solver": "gibbs", "numBurnIn": 3, "numSamples": 4, "numKept": 4},
    "network": {**NETWORK, "gradients": "driver"},
    "shards": {**NETWORK, **HELD_OUT, "gradients": "executors"},
}
ASKED = ("als",)
NETWORKS = ("network", "shards")
NOT_HERE = ("gibbs", "network")  # whose checkpoints are of the client
remote = pytest.mark.skipif("SPARK_REMOTE" not in os.environ, reason="for Spark Connect")
THOROUGH = ("coordinate", "implicit", "gd", "network")
every = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.thorough] * (n in THOROUGH)) for n in FITS]
)


def estimator(name, **more):
    return (Regressor if name in NETWORKS else MatrixFactorization)(**FITS[name] | more)


def loaded(name, path):
    of = MultilayerPerceptronRegressionModel if name in NETWORKS else MatrixFactorizationModel
    return of.load(str(path))


def digest(model):
    """A hash of all parameters."""
    scorer = getattr(model, "scorer", None)
    arrays = [scorer.theta] if scorer else [np.float64(model.globalBias), *model.factors[1:]]
    return hashlib.sha256(b"".join(np.asarray(array).tobytes() for array in arrays)).hexdigest()


def answers(name, model, data):
    """What a model says, as JSON holds it; of some all that can be asked."""
    said = {"parameters": digest(model)}
    told = model.transform(data).orderBy("user", "item").toArrow()
    said["transform"] = {name: told[name].to_pylist() for name in told.column_names}
    if name not in ASKED:
        return json.loads(json.dumps(said))
    few = data.where("user < 5")
    for of, frame in {
        "items": model.recommendForAllUsers(3, exclude="train"),
        "users": model.recommendForItemSubset(few, 3, candidates=few),
        "similar": model.similarItems(3),
    }.items():
        said[of] = [row.asDict(recursive=True) for row in frame.orderBy(frame.columns[0]).collect()]
    said["folded"] = digest(model.foldInUsers(few.withColumn("user", F.col("user") + 1000)))
    said["evaluated"] = model.evaluate(data.where("held_out"), 3)
    said["explained"] = model.explain(1, 2).text()
    return json.loads(json.dumps(said))


def train(name, spark, **more):
    return estimator(name, **more).fit(spark.createDataFrame(planted_table()))


def fit_prepared(spark, path, **more):
    ratings = PreparedRatings.open(spark, f"{path}/prepared")
    return MatrixFactorization(**PLAIN, **more).fitPrepared(ratings)


@pytest.fixture(scope="module")
def classic():
    """The directory of the classic session: its models and what they said."""
    return Path(os.environ["NONCONVEX_CLASSIC"])


@remote
@every
def test_the_bits_are_those_of_a_classic_session(spark, classic, name):
    data = spark.createDataFrame(planted_table())
    model = train(name, spark)
    expected = json.loads((classic / f"{name}.json").read_text())
    found = answers(name, model, data)
    for what, value in expected.items():
        assert found[what] == value, what
    model.write().overwrite().save(str(classic / "connect" / name))
    for of in ("connect", "classic"):
        again = loaded(name, classic / of / name)
        assert digest(again) == expected["parameters"]


@remote
@pytest.mark.parametrize("updates", ["driver", "executors"])
def test_ratings_that_a_classic_session_has_prepared(spark, classic, updates):
    model = fit_prepared(spark, classic, updates=updates)
    assert digest(model) == json.loads((classic / "prepared.json").read_text())
    assert model.evaluate(PreparedRatings.open(spark, f"{classic}/prepared").validation)["users"]


@remote
def test_files_are_read_by_tasks_where_the_words_of_a_plan_are_those_of_a_scan(
    spark, tmp_path, monkeypatch
):
    path = str(tmp_path / "the ratings")
    rows = spark.range(50).selectExpr("id AS user", "int(id % 7) AS item", "float(id) AS rating")
    rows.withColumn("text", F.col("user").cast("string")).repartition(3).write.parquet(path)
    read = spark.read.parquet(path)
    plain = read.select(F.col("user").alias("u"), "item", F.col("rating").cast("double"))
    for frame in (plain, read, read.select("rating", "text")):
        assert runtime._files_on_server(frame)[0].count() == 3
        same = runtime.map_batches(frame, lambda batches: batches, frame.schema)
        assert sorted(same.collect()) == sorted(frame.collect())
    whole = (read.where("item > 2"), read.limit(7), read.distinct(), read.join(rows, "user"), rows)
    parts = ("user; int(rating)", "user; double(text)", "user; nvl(user, item)", "item + 1; 1D")
    for other in (*whole, *(read.selectExpr(*part.split(";")) for part in (*parts, "user"))):
        assert runtime._files_on_server(other) is None
    with persisted(read):
        assert runtime._files_on_server(plain) is None
    monkeypatch.setattr(runtime, "_MOST_FILE", 100)
    assert runtime._files_on_server(plain) is None


@remote
@pytest.mark.parametrize(
    "name", ["executors", *(pytest.param(n, marks=pytest.mark.thorough) for n in NOT_HERE)]
)
def test_a_killed_fit_goes_on_to_the_same_bits(spark, classic, name, tmp_path, monkeypatch):
    more = {"checkpointPath": str(tmp_path / "fit"), "checkpointInterval": 1}
    save, saved = checkpoints.Checkpoints.save, []

    def killed(self, state):
        if len(saved) == 1:  # in the middle of the second checkpoint, whose sums are missing
            monkeypatch.setattr(checkpoints, "write_checksums", lambda *_: 1 / 0)
        saved.append(state.iteration)
        save(self, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", killed)
        with pytest.raises(ZeroDivisionError):
            train(name, spark, **more)
    monkeypatch.undo()
    assert len(saved) == 2
    expected = json.loads((classic / f"{name}.json").read_text())
    model = train(name, spark, **more)
    assert digest(model) == expected["parameters"]
    model.clearCheckpoint()
    assert not files.FileSystem(spark, more["checkpointPath"]).exists(more["checkpointPath"])


@remote
def test_nothing_stays_on_the_server(spark):
    from pyspark import SparkContext

    context = SparkContext._active_spark_context  # of the server, which this process has started
    before = context._jsc.getPersistentRDDs().size()
    for name in ("executors", "shards"):
        train(name, spark)
    assert context._jsc.getPersistentRDDs().size() == before


@remote
def test_a_value_that_is_too_large_for_a_closure_travels_as_a_file(spark, classic, monkeypatch):
    monkeypatch.setattr(connect, "CLOSURE_BYTES", 1000)
    expected = json.loads((classic / "als.json").read_text())
    model = loaded("als", classic / "classic" / "als")
    data = spark.createDataFrame(planted_table())
    told = model.transform(data).orderBy("user", "item").toArrow()
    assert told["prediction"].to_pylist() == expected["transform"]["prediction"]
    assert (
        digest(train("executors", spark))
        == json.loads((classic / "executors.json").read_text())["parameters"]
    )


@remote
def test_what_is_not_there_is_one_sentence(spark, classic, monkeypatch, tmp_path):
    from pyspark.sql.connect.dataframe import DataFrame

    def refused(frame):
        raise PySparkException("[NOT_SUPPORTED_WITH_SERVERLESS]")

    data = spark.createDataFrame(planted_table())
    with pytest.raises(ConnectError, match=r"^exchange='shuffle' .*RDDs.*set exchange='auto'; Spa"):
        train("als", spark, exchange="shuffle", numRestarts=1)
    system = files.FileSystem(spark, str(tmp_path))
    with pytest.raises(ConnectError, match=r"^preparing and publishing need files that are renam"):
        system.replace_text(str(tmp_path / "published.json"), "")
    with monkeypatch.context() as patch:
        patch.setattr(DataFrame, "persist", refused)
        with pytest.raises(ConnectError, match=r"^the server keeps no dataframes, .*'driver'"):
            train("executors", spark)
        assert loaded("als", classic / "classic" / "als").evaluate(data, 3, exclude=None)["users"]
    monkeypatch.setattr(connect, "__version__", "9.9")
    connect._checked.pop(spark)
    with pytest.raises(
        ConnectError, match=r"workers .* have nonconvex \d.* has 9.9: call nonconvex.s"
    ):
        train("executors", spark)


ENDINGS = {
    "DataFrame.toArrow": {},
    "DataFrameWriter.parquet": {"checkpointInterval": 1},
    "DataFrameReader.parquet": {"checkpointInterval": 3},  # of what a fit has saved
    "DataFrame.persist": {},
    "DataFrame.unpersist": {},
    "SparkSession.addArtifacts": {},
}


@remote
@pytest.mark.parametrize(
    "call", [pytest.param(n, marks=[pytest.mark.thorough] * (not ENDINGS[n])) for n in ENDINGS]
)
def test_a_server_that_ends_is_one_sentence(spark, classic, monkeypatch, tmp_path, call):
    from pyspark import SparkContext
    from pyspark.errors.exceptions.connect import SparkConnectGrpcException
    from pyspark.sql.connect import dataframe, readwriter, session

    context, cached, calls = SparkContext._active_spark_context, [], []
    more = {"checkpointPath": str(tmp_path / "fit"), **ENDINGS[call]} if ENDINGS[call] else {}
    if "Reader" in call:
        train("executors", spark, **more)
    kind, method = call.split(".")
    frame = dataframe.DataFrame
    of = next(getattr(m, kind) for m in (dataframe, readwriter, session) if hasattr(m, kind))
    original, persist, unpersist = getattr(of, method), frame.persist, frame.unpersist

    def after(one):
        calls.extend(calls)
        return unpersist(one)

    def dead(*args, **more):
        if not cached and "Artifacts" not in call:
            return original(*args, **more)
        calls.append(call)
        error = SparkConnectGrpcException("failed to connect to all addresses")
        error._grpc_status_code = "StatusCode.UNAVAILABLE"
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(connect, "CLOSURE_BYTES", 100)
        patch.setattr(frame, "persist", lambda one: cached.append(one) or persist(one))
        patch.setattr(frame, "unpersist", after)
        if call == "DataFrame.persist":
            cached.append(None)
        patch.setattr(of, method, dead)
        with pytest.raises(ConnectError, match=r"^the server of .* its last checkpoint$") as raised:
            train("executors", spark, **more)
    assert calls == [call], "each one to a server that is gone takes ten minutes"
    spark.catalog.clearCache()
    try:
        raise raised.value
    except ConnectError:  # where another fit begins
        model = train("executors", spark, **more)
    assert digest(model) == json.loads((classic / "executors.json").read_text())["parameters"]
    assert context._jsc.getPersistentRDDs().size() == 0


@remote
@pytest.mark.thorough
def test_a_model_of_a_session_that_has_ended_says_one_sentence(spark, classic, tmp_path):
    from pyspark.sql.connect.client.retries import DefaultPolicy
    from pyspark.sql.connect.session import SparkSession

    other = SparkSession.builder.remote(f"sc://{spark.client._builder.endpoint}").create()
    data, here = other.createDataFrame(planted_table()), spark.createDataFrame(planted_table())
    paths = {name: str(classic / "classic" / name) for name in ("als", "network")}
    factors, network = models = [loaded(name, path) for name, path in paths.items()]
    other.client.set_retry_policies([DefaultPolicy(max_retries=0)])
    other.client.release_session()
    for ask in (
        *(partial(model.transform, data) for model in models),
        *(partial(model.evaluate, data) for model in models),
        *(partial(model.write().session(other).save, str(tmp_path / "new")) for model in models),
        *(
            partial(type(model).read().session(other).load, path)
            for model, path in zip(models, paths.values(), strict=True)
        ),
        partial(estimator("als").write().session(other).save, str(tmp_path / "new")),
        partial(MatrixFactorization.read().session(other).load, paths["als"]),
        partial(ALSModel.read().session(other).load, paths["als"]),
        partial(factors.recommendForUserSubset, data, 3),
        partial(factors.similarItems, 3, data),
        partial(factors.foldInUsers, data),
        partial(factors.explain, 1, 2, data),
    ):
        with pytest.raises(ConnectError, match=r"^the server of .* its last checkpoint$"):
            ask()
    assert network.evaluate(here)["rows"]


@remote
def test_persisted_rows_of_a_server_that_ends(spark, monkeypatch):
    def refused(code):
        raise type("SparkConnectGrpcException", (PySparkException,), {})(code)

    frame, entered = spark.range(1), []
    for code in ("UNIMPLEMENTED", "UNAVAILABLE"):
        monkeypatch.setattr(frame, "persist", partial(refused, code))
        with suppress(PySparkException), persisted(frame):
            entered.append(code)
    assert entered == ["UNIMPLEMENTED"]


KILLED = """
import os, sys, threading, time
from pathlib import Path
import psutil
from nonconvex.distributed.connect import ConnectError
from pyspark.sql import SparkSession
from pyspark.sql.connect.client.retries import DefaultPolicy
from tests.over_connect import digest, train

spark = SparkSession.builder.config("spark.ui.enabled", "false").getOrCreate()
spark.client.set_retry_policies([DefaultPolicy(max_retries=2)])
path = Path(sys.argv[1])

def kill():
    while not list(path.glob("iteration=1/checksums.json/_SUCCESS")):
        time.sleep(0.01)
    next(one for one in psutil.Process().children(True) if one.name() == "java").kill()

if sys.argv[2] == "kill":
    threading.Thread(target=kill, daemon=True).start()
try:
    model = train("executors", spark, checkpointPath=str(path), checkpointInterval=1)
    print("digest", digest(model))
except ConnectError as error:
    print("sentence", error)
sys.stdout.flush()
os._exit(0)  # pyspark would wait for the server
"""


@remote
@pytest.mark.thorough
def test_a_fit_whose_server_is_killed_goes_on_with_the_next_one(classic, tmp_path):
    def run(what):
        environment = os.environ | {"PYSPARK_PYTHON": sys.executable}
        done = completed(sys.executable, "-c", KILLED, tmp_path / "fit", what, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    told = run("kill")
    assert re.search(r"^sentence the server of Spark Connect has ended .*checkpoint$", told, re.M)
    assert list((tmp_path / "fit").glob("iteration=[12]"))
    expected = json.loads((classic / "executors.json").read_text())["parameters"]
    assert f"digest {expected}" in run("")


READING = re.compile(r"lines = spark.read.text.*createDataFrame\(ratingsRDD\)", re.DOTALL)
AS_DATAFRAME = """ratings = spark.read.csv("data/mllib/als/sample_movielens_ratings.txt", sep="::",
        schema="userId int, movieId int, rating double, timestamp bigint")"""


@remote
@pytest.mark.parametrize("name", ["als_example", "multilayer_perceptron_classification"])
def test_a_script_of_the_documentation_runs_with_its_import_changed(spark, name, capsys):
    """Only rows that it reads by an RDD, which no session of Spark Connect has, come otherwise."""
    root = Path(pyspark.__file__).parent
    text = (root / f"examples/src/main/python/ml/{name}.py").read_text()
    text = READING.sub(AS_DATAFRAME, text).replace('"data/mllib', f'"{root}/data/mllib')
    text = text.replace("pyspark.ml.recommendation", "nonconvex.recommendation")
    text = text.replace("pyspark.ml.classification", "nonconvex.neural_network")
    exec(compile(text.replace("spark.stop()", ""), name, "exec"), {"__name__": "__main__"})
    told = capsys.readouterr().out
    assert re.search(r"error = [01]\.\d" if name == "als_example" else r"accuracy = 0\.[89]", told)


ENDING = """
import os, signal, sys
from pyspark.sql import SparkSession
from nonconvex.distributed.factorization.state import Broadcast
from tests.over_connect import train

spark = SparkSession.builder.getOrCreate()
update, number = Broadcast.update, []
def ended(self, *args):
    number.append(1)
    if len(number) == 3:
        assert sys.argv[1] != "exit" or sys.exit(3)
        os.kill(os.getpid(), signal.SIGINT)
    return update(self, *args)
Broadcast.update = ended
train("executors", spark)
"""


@remote
@pytest.mark.parametrize("how", ["exit", "interrupt"])
@pytest.mark.thorough
def test_a_client_that_ends_leaves_nothing_cached(spark, how):
    from pyspark import SparkContext

    context = SparkContext._active_spark_context  # of the server
    url = f"sc://{spark.client._builder.endpoint}"
    before = context._jsc.getPersistentRDDs().size()
    done = completed(sys.executable, "-c", ENDING, how, env=os.environ | {"SPARK_REMOTE": url})
    assert done.returncode, done.stderr
    assert ("Interrupted" in done.stderr) == (how == "interrupt"), done.stderr
    assert context._jsc.getPersistentRDDs().size() == before
