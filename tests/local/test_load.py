"""Models read without Spark: the numbers of the same model on Spark, and what is refused."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import functions as F

from nonconvex.local import load
from nonconvex.local.model_tables import ModelError
from nonconvex.neural_network import MultilayerPerceptronClassifier, MultilayerPerceptronRegressor
from nonconvex.numerics.factorization.blocks import RatingsError
from nonconvex.numerics.network.model import NetworkError
from nonconvex.pipeline.runs import new_run, publish_run
from nonconvex.recommendation import MatrixFactorization
from tests.factories import flowers
from tests.jobs.cluster import ROOT
from tests.processes import completed

INTERVALS = {"predictionStdCol": "std", "predictionIntervalCol": "interval"}
KINDS = {
    "als": {"rank": 3, "maxIter": 4, "weightCol": "weight", "clipPredictions": True, **INTERVALS},
    "gibbs": {"solver": "gibbs", "rank": 2, "numBurnIn": 2, "numSamples": 6} | INTERVALS,
    "vb": {"solver": "vb", "rank": 2, "maxIter": 3, **INTERVALS},
    "implicit": {"implicitPrefs": True, "rank": 3, "maxIter": 2, "nonnegative": True},
    "strict": {"rank": 0, "coldStartStrategy": "nan", "predictionInterval": 0.5, **INTERVALS},
}
# (user, item) pairs: known, an unknown user, an unknown item, neither known
PAIRS = [(1, 2), (3, 4), (999, 2), (1, 999), (999, 999)]


@pytest.fixture(scope="module", params=KINDS)
def both(request, ratings, tmp_path_factory):
    """A model on Spark, and the same one read without."""
    model = MatrixFactorization(**KINDS[request.param]).fit(ratings)
    path = tmp_path_factory.mktemp("models") / request.param
    model.write().save(str(path))
    return model, load(path)


def test_predictions_deviations_and_intervals(both, spark):
    model, local = both
    frame = spark.createDataFrame(PAIRS, "user long, item long")
    told = model.transform(frame).toPandas()
    users, items = zip(*PAIRS, strict=True)
    assert told["prediction"].to_numpy().tobytes() == local.predict(users, items).tobytes()
    if "std" not in told:
        with pytest.raises(ModelError, match="not for this model, which was trained with"):
            local.deviations(users, items)
        return
    assert told["std"].to_numpy().tobytes() == local.deviations(users, items).tobytes()
    ends = np.array([[row["lower"], row["upper"]] for row in told["interval"]])
    assert ends.tobytes() == local.intervals(users, items).tobytes()
    assert (np.diff(local.intervals(1, 2, 0.99)) >= np.diff(local.intervals(1, 2, 0.5))).all()


def test_lists(both, spark):
    model, local = both
    asked = spark.createDataFrame([(user,) for user in (1, 7, 999)], "user long")
    seen = spark.createDataFrame([(1, 2), (1, 5), (7, 5)], "user long, item long")
    rows = model.recommendForUserSubset(asked, 4, exclude=seen).collect()
    found = {row["user"]: [tuple(one) for one in row["recommendations"]] for row in rows}
    for user, unwanted in ((1, [2, 5, 777]), (7, [5]), (999, [])):
        assert local.recommend(user, 4, exclude=unwanted) == found.get(user, [])
    assert [item for item, _ in local.recommend(1, 4, candidates=[3, 777, 8])] in ([3, 8], [8, 3])


def test_errors_and_metrics(both, ratings):
    model, local = both
    held, seen = (ratings.where(F.col("held") == one) for one in (True, False))
    held = held.withColumn("item", F.when(F.col("item") == 3, 999).otherwise(F.col("item")))
    for threshold in (None, 3.0):
        on_spark = model.evaluate(held, k=5, threshold=threshold, exclude=seen)
        table, pairs = held.toArrow(), seen.toPandas()
        assert local.evaluate(table, k=5, threshold=threshold, exclude=pairs) == on_spark


def test_rows_that_are_folded_in(both, spark):
    model, local = both
    rows = [(1000, 1, 4.0, 1.0), (1000, 2, 1.0, 2.0), (2, 3, 5.0, 1.0), (2, 999, 5.0, 1.0)]
    frame = spark.createDataFrame(rows, "user long, item long, rating double, weight double")
    for name, ids, ratings in (
        ("Users", [1000, 2], frame),
        ("Items", [999, 3], frame.where("user != 1000")),
    ):
        folded = getattr(model, f"foldIn{name}")(ratings)
        again = getattr(local, f"fold_in_{name.lower()}")(ratings.toArrow())
        assert again.parts.factors.users.tobytes() == folded.factors.users.tobytes()
        assert again.parts.factors.items.tobytes() == folded.factors.items.tobytes()
        pairs = (ids, [1, 2]) if name == "Users" else ([1, 2], ids)
        table = spark.createDataFrame(list(zip(*pairs, strict=True)), "user long, item long")
        told = folded.transform(table).toPandas()
        if "std" in told:
            assert told["std"].to_numpy().tobytes() == again.deviations(*pairs).tobytes()


def test_reasons(both, ratings):
    model, local = both
    history = ratings.toPandas()
    for user, item in ((1, 2), (1, 999), (999, 2)):
        assert local.explain(user, item, history) == model.explain(user, item)


def test_a_table_of_the_wrong_kind_is_refused_in_one_sentence(both):
    _, local = both
    with pytest.raises(RatingsError, match=r"users must be ids .* of type int64, got \['ann'\]"):
        local.predict("ann", 3)
    with pytest.raises(RatingsError, match=r"items must be ids .* of type int64, got \[9\.5\]"):
        local.recommend(1, 3, exclude=[9.5])
    with pytest.raises(RatingsError, match="users and items must be as many, got 2 and 1"):
        local.predict([1, 2], 3)
    with pytest.raises(RatingsError, match=r"there is no column 'rating' for ratingCol: .*user"):
        local.fold_in_users({"user": [1], "item": [2]})
    rows = {"user": [1, 1], "item": [1, 2], "rating": [1.0, None], "weight": [1.0, 1.0]}
    with pytest.raises(RatingsError, match=r"1 of the 2 ratings to fold in have a null id"):
        local.fold_in_users(rows)
    with pytest.raises(RatingsError, match=r"1 of the 2 ratings to evaluate with are null"):
        local.evaluate(rows)
    with pytest.raises(RatingsError, match=r"none of the 1 ratings .* one of the items"):
        local.fold_in_users({"user": [1], "item": [999], "rating": [1.0], "weight": [1.0]})


@pytest.fixture(scope="module")
def networks(spark, tmp_path_factory):
    table = flowers(150)
    table["size"] = 2 * table["a"] - table["b"]
    frame, root = spark.createDataFrame(table), tmp_path_factory.mktemp("networks")
    names = {"featuresCol": ["a", "b", "c"], "maxIter": 5, "layers": [4]}
    classifier = MultilayerPerceptronClassifier(labelCol="kind", thresholds=[1, 2, 3], **names)
    regressor = MultilayerPerceptronRegressor(labelCol="size", **names)
    found = {}
    for name, estimator in (("classifier", classifier), ("regressor", regressor)):
        model = estimator.fit(frame)
        model.write().save(str(root / name))
        found[name] = model, load(root / name)
    return table, frame, found


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_networks(networks, kind):
    table, frame, found = networks
    model, local = found[kind]
    told = model.transform(frame).toPandas()
    x = table[["a", "b", "c"]].to_numpy()
    label, predicted = "size", "prediction"
    if kind == "classifier":  # its labels, which a dataframe has beside their numbers
        label, predicted = "kind", "predictedLabel"
    for given in (table, x):
        assert (local.predict(given) == told[predicted].to_numpy()).all()
    expected = model.evaluate(frame)
    del expected["unpredicted"]
    assert local.evaluate(x, table[label].to_list()) == expected
    if kind == "classifier":
        assert local.labels == ["iris", "lily", "rose"]
        rows = np.array([row.toArray() for row in told["probability"]])
        assert local.probabilities(x).tobytes() == rows.tobytes()
        with pytest.raises(NetworkError, match="none of the model's 3 labels in 1 of 2 rows"):
            local.evaluate(x[:2], ["iris", "oak"])
    else:
        with pytest.raises(NetworkError, match="call predict"):
            local.probabilities(x)
    with pytest.raises(NetworkError, match=r"of shape \(m, 3\), got \(150, 2\)"):
        local.predict(x[:, :2])
    with pytest.raises(NetworkError, match="NaN or infinite in 1 of 150 rows"):
        local.predict(np.where(x == x[0, 0], np.nan, x))
    with pytest.raises(NetworkError, match="there is no column 'b' of featuresCol"):
        local.predict({"a": [1.0], "c": [2.0]})


@pytest.fixture(scope="module")
def runs(spark, ratings, tmp_path_factory):
    """A directory of runs, whose users are strings."""
    root = tmp_path_factory.mktemp("runs")
    named = ratings.withColumn("user", F.concat(F.lit("ü"), "user"))
    model = MatrixFactorization(rank=3, maxIter=2).fit(named)
    with new_run(spark, str(root)) as this:
        model.write().save(this.model)
    publish_run(spark, str(root), this, after=None)
    return root, Path(this.model)


@pytest.fixture
def saved(runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "model")
    return tmp_path / "model"


def test_what_is_not_a_whole_model_is_refused(saved, tmp_path):
    [table] = (saved / "itemFactors").glob("*.parquet")
    content = table.read_bytes()
    (table.parent / "_x.parquet").write_bytes(b"which has no checksum, nor does Spark read it")
    load(saved)
    for change, message in (
        (lambda: table.write_bytes(content[:-9] + b"x" + content[-8:]), "its checksum differs"),
        (lambda: table.write_bytes(content[:-1]), "it has [0-9,]+ bytes, not"),
        (table.unlink, "lacks itemFactors/part"),
        ((saved / "checksums.json").unlink, "has no readable checksums.json"),
        (lambda: os.mkfifo(saved / "checksums.json"), "has no readable checksums.json"),
    ):
        change()
        with pytest.raises(ModelError, match=message):
            load(saved)
    with pytest.raises(ModelError, match="is not there; give the directory"):
        load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="does not hold a model; give the directory"):
        load(tmp_path / "empty")
    (tmp_path / "published.json").write_text('{"run_id": "../x"}')
    with pytest.raises(ModelError, match=r"published\.json is damaged"):
        load(tmp_path)


def test_the_published_run_is_found(runs):
    root, model = runs
    for path in (root, model.parent, model):
        assert repr(load(path)) == "LocalFactorization(users=40, items=25, rank=3)"
    assert load(root.as_uri()).predict("ü3", 5) == load(str(root)).predict(["ü3"], [5])


ALONE = """
import json, sys, time

class Hidden:  # old versions of pyarrow import pandas where it is
    def find_spec(self, name, path=None, target=None):
        if name == "pandas":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
started = time.perf_counter()
from nonconvex.local import load
films = load(sys.argv[1])
answer = films.recommend("ü3", 2)
seconds = time.perf_counter() - started
print(json.dumps([answer, seconds, sorted(sys.modules)]))
"""


def test_a_process_without_java_answers_and_imports_no_spark(runs, tmp_path):
    alone = {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = completed(sys.executable, "-c", ALONE, runs[0], env=alone)
    answer, _, modules = json.loads(done.stdout)
    assert [tuple(one) for one in answer] == load(runs[0]).recommend("ü3", 2)
    assert not {name.partition(".")[0] for name in modules} & {"pyspark", "py4j", "pandas"}
