"""Predictions of every kind against the network itself, and rows that cannot be predicted."""

import numpy as np
import pytest
from pyspark.errors import PySparkException
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql.types import ArrayType, DoubleType, StructType

from nonconvex.distributed.columns import ColumnError
from nonconvex.distributed.network.predict import OutputColumns, score
from nonconvex.numerics.network.model import Classes, Network, Scorer, Standardization, initialize

STANDARDIZATION = Standardization(np.array([1.0, -2.0]), np.array([2.0, 0.5]))
X = np.random.default_rng(0).normal(0, 3, (40, 2))
ALL = OutputColumns("prediction", "label", "probability", "raw")


def scorer(outputs, loss, classes=None):
    network = Network((2, 5, outputs), ("relu",), loss)
    theta = initialize(network, "he-normal", 2, dtype=np.float64)
    return Scorer(network, theta, STANDARDIZATION, classes)


@pytest.fixture(scope="module")
def frame(spark):
    rows = [
        (i, Vectors.dense(x) if i % 2 else Vectors.sparse(2, [0, 1], x), x.tolist(), *x.tolist())
        for i, x in enumerate(X)
    ]
    schema = StructType.fromDDL("id long")
    schema = schema.add("v", VectorUDT()).add("l", ArrayType(DoubleType())).add("a", "double")
    data = spark.createDataFrame(rows, schema.add("b", "double")).repartition(3).cache()
    yield data
    data.unpersist()


def logits(of):
    z = (X - STANDARDIZATION.mean) / STANDARDIZATION.scale
    (w1, b1), (w2, b2) = of.network.views(of.theta)
    return np.maximum(z @ w1 + b1, 0) @ w2 + b2


@pytest.mark.parametrize(
    ("features", "outputs", "loss", "classes"),
    [
        ("v", 3, "categorical-cross-entropy", Classes("string", ("cat", "dog", "eel"))),
        (("a", "b"), 1, "binary-cross-entropy", Classes("double", (-1.0, 1.0))),
        ("l", 1, "squared-error", None),
        ("v", 2, "squared-error", None),
    ],
)
def test_predictions_are_those_of_the_network(spark, frame, features, outputs, loss, classes):
    of = scorer(outputs, loss, classes)
    broadcast = spark.sparkContext.broadcast(of)
    table = score(frame, features, broadcast, ALL)
    assert table.columns[:5] == frame.columns
    rows = sorted(table.collect(), key=lambda row: row.id)
    broadcast.destroy()
    z = logits(of)
    if classes is None:
        assert table.columns[5:] == ["prediction"]
        found = np.array([row.prediction for row in rows]).reshape(len(X), -1)
        np.testing.assert_allclose(found, z, rtol=1e-12)
        kind = "double" if outputs == 1 else "array<double>"
        assert table.schema["prediction"].dataType.simpleString() == kind
        return
    if outputs == 1:
        z = np.hstack([-z, z])
        probability = 1 / (1 + np.exp(-z))
    else:
        probability = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose([row.raw.toArray() for row in rows], z, rtol=1e-12)
    np.testing.assert_allclose([row.probability.toArray() for row in rows], probability, rtol=1e-9)
    expected = [classes.values[index] for index in z.argmax(axis=1)]
    assert [row.label for row in rows] == expected
    number = classes.values.index if classes.kind == "string" else float
    assert [row.prediction for row in rows] == list(map(number, expected))
    assert table.schema["prediction"].dataType.simpleString() == "double"
    assert len(set(expected)) == len(classes.values), "every class is predicted"


def test_rows_that_cannot_be_predicted(spark, frame):
    of = scorer(2, "categorical-cross-entropy", Classes("double", (0.0, 1.0)))
    broadcast = spark.sparkContext.broadcast(of)
    bad = frame.selectExpr(
        "id", "array(a, if(id = 3, double('NaN'), if(id = 4, null, b))) as x"
    ).selectExpr("id", "if(id = 5, null, x) as x")
    for settings in ({}, {"handle_invalid": "error"}):
        with pytest.raises(PySparkException, match=r"'x' is null, NaN or infinite in some") as told:
            score(bad, "x", broadcast, ALL, **settings).collect()
        assert len(str(told.value).splitlines()) == 1, "no traceback, of Python or of Java"
    skipped = score(bad, "x", broadcast, ALL, handle_invalid="skip")
    assert {row.id for row in skipped.collect()} == set(range(40)) - {3, 4, 5}
    plan = skipped._jdf.queryExecution().executedPlan().toString()
    assert plan.count("ArrowEvalPython") == 1, "predictions are made once"
    kept = score(bad, "x", broadcast, ALL, handle_invalid="keep").collect()
    assert len(kept) == 40
    for row in kept:
        missing = [row[name] is None for name in ALL]
        assert missing == [row.id in (3, 4, 5)] * 4
    short = frame.selectExpr("array(a) as x")
    with pytest.raises(PySparkException, match=r"has 1 features in some rows, and the model was"):
        score(short, "x", broadcast, ALL, handle_invalid="keep").collect()
    with pytest.raises(ColumnError, match="featuresCol='y': there is no such column"):
        score(frame, "y", broadcast, ALL)
    only = score(frame, "v", broadcast, OutputColumns("", "", "p"))
    assert only.columns == [*frame.columns, "p"]
    broadcast.destroy()
