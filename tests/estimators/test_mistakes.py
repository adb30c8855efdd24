"""Forty mistakes that people make, and the sentence that each is answered with.

The sentences are in golden/mistakes.txt; ``WRITE=1 pytest`` writes them again, to be read.
"""

import os
import re
from pathlib import Path

import pytest

from nonconvex import neural_network, recommendation

GOLDEN = Path(__file__).parents[1] / "golden" / "mistakes.txt"
CLASSES = {
    **{name: getattr(recommendation, name) for name in recommendation.__all__},
    "Classifier": neural_network.MultilayerPerceptronClassifier,
    "Regressor": neural_network.MultilayerPerceptronRegressor,
}

MISTAKES = """
MatrixFactorization(rnk=3)
MatrixFactorization(Rank=3)
MatrixFactorization(3)
MatrixFactorization(regParam=0.1)
MatrixFactorization(alpha=40.0)
MatrixFactorization(n_factors=10)
MatrixFactorization(epochs=10)
MatrixFactorization().setParams(itemcol="film")
MatrixFactorization(rank="3")
MatrixFactorization(rank=-1)
MatrixFactorization(rank=2.5)
MatrixFactorization(regUser=-1.0)
MatrixFactorization(solver="sgd")
MatrixFactorization(coldStartStrategy="mean")
MatrixFactorization(fitBiases="yes")
MatrixFactorization(userCol="x", itemCol="x").fit(ratings)
MatrixFactorization(patience=3).fit(ratings)
MatrixFactorization(solver="gibbs", maxIter=20).fit(ratings)
MatrixFactorization(learningRate=0.1).fit(ratings)
MatrixFactorization(confidence=2.0).fit(ratings)
MatrixFactorization(rank=0, fitBiases=False, fitIntercept=False).fit(ratings)
MatrixFactorization(userCol="usr").fit(ratings)
MatrixFactorization(ratingCol="flag").fit(ratings)
MatrixFactorization(userCol="halves").fit(ratings)
MatrixFactorization(validationIndicatorCol="rating").fit(ratings)
MatrixFactorization().fit(ratings.toPandas())
MatrixFactorization().fit([(1, 2, 3.0)])
MatrixFactorization().fit(ratings.limit(0))
MatrixFactorization().setInitialModel("output/model")
MatrixFactorization(ensemble=True).fit(ratings)
MatrixFactorization(checkpointPath="/proc/none").fit(ratings)
MatrixFactorizationModel()
MatrixFactorizationModel.load("/tmp/there is no such model")
ALSModel.load("/tmp/there is no such model")
ALS(numBlocks=3)
ALS(regparam=0.1)
ALS(alpha=1.0, confidence=2.0)
model.recommendForAllUsers(0)
model.recommendForAllUsers()
model.recommendForAllUsers(2, exclude="test")
model.transform(ratings.drop("item"))
model.transform(ratings.withColumnRenamed("flag", "prediction"))
model.transform(ratings.selectExpr("string(user) AS user", "item"))
model.save(None)
model.save("")
Classifier(hidden_layer_sizes=[8])
Classifier(stepSize=0.1, learningRate=0.2)
Classifier(layers=8)
Classifier(activation="elu")
Classifier(featuresCol=["user"], labelCol="rating", schedule="step").fit(ratings)
Classifier(featuresCol="feature", labelCol="flag").fit(ratings)
Classifier(featuresCol=["user"], labelCol="one").fit(ratings)
Regressor(layers=[4], solver="exact", featuresCol=["user"], labelCol="rating").fit(ratings)
Regressor(featuresCol=["user"], labelCol="rating", patience=3).fit(ratings)
"""


@pytest.fixture(scope="module")
def known(spark):
    rows = [(u, i, float(1 + (u * i) % 5)) for u in range(12) for i in range(9)]
    plain = spark.createDataFrame(rows, "user int, item int, rating double")
    data = plain.selectExpr("*", "user > 5 AS flag", "user + 0.5D AS halves", "1 AS one")
    model = recommendation.MatrixFactorization(rank=1, maxIter=1).fit(data)
    return CLASSES | {"ratings": data, "model": model}


def answer(call, known):
    try:
        eval(call, known)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def test_each_is_answered_with_its_sentence(known):
    calls = MISTAKES.split("\n")[1:-1]
    assert len(calls) >= 40
    answers = [answer(call, known) for call in calls]
    text = "\n\n".join(f"{call}\n  {found}" for call, found in zip(calls, answers, strict=True))
    text = re.sub(r"DataFrame\[.*?\]", "DataFrame[…]", text) + "\n"
    text = re.sub(r"/proc/\.probe\S+", "/proc/.probe", text)
    if os.environ.get("WRITE"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
    for call, found in zip(calls, answers, strict=True):
        assert found != "no error", call
        assert "\n" not in found, call
        assert len(found) < 330, call
