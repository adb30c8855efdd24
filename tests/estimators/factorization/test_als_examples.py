"""The examples in pyspark's documentation of ALS, with the import changed and nothing else.

What depends on the random start is not compared in digits.
"""

import doctest
import inspect
import re
from pathlib import Path

import numpy as np
import pyspark
import pytest
from pyspark.ml.recommendation import ALS as MLlib

from nonconvex.estimators.params import ParamError
from nonconvex.recommendation import ALS, ALSModel
from tests.factories import same_bits

SPARK = Path(pyspark.__file__).parent


def test_the_docstring(spark, tmp_path):
    known = doctest.DocTestParser().get_examples(inspect.getdoc(MLlib))
    for example in known:
        want = re.sub(r"-?\d+\.\d+\.\.\.", "...", example.want)  # predictions
        want = re.sub(r"rating=\[\.\.\., .*\]\)", "rating=[...])", want)
        example.want = re.sub(r"\[\d, \d, \d\]", "[...]", want)  # what is recommended first
    names = {"spark": spark, "temp_path": str(tmp_path), "ALS": ALS, "ALSModel": ALSModel}
    test = doctest.DocTest(known, names, "ALS", None, 0, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test, clear_globs=False) == (0, len(known))
    assert len(known) > 30
    assert all(0 < row.newPrediction < 6 for row in test.globs["predictions"])
    [first] = test.globs["user_recs"].where("user = 0").collect()
    ratings = [rating for _, rating in first.recommendations]
    assert ratings == sorted(ratings, reverse=True)
    assert {item for item, _ in first.recommendations} == {0, 1, 2}


def test_the_guide_to_collaborative_filtering(spark, capsys):
    source = (SPARK / "examples/src/main/python/ml/als_example.py").read_text()
    source = source.replace("pyspark.ml.recommendation", "nonconvex.recommendation")
    for there, here in (
        ("randomSplit([0.8, 0.2])", "randomSplit([0.8, 0.2], seed=1)"),
        ('"data/mllib', f'"{SPARK}/data/mllib'),
        ("spark.stop()", ""),
    ):
        assert source.count(there) == 1
        source = source.replace(there, here)
    exec(compile(source, "als_example.py", "exec"), {"__name__": "__main__", "spark": spark})
    rmse = float(re.search("Root-mean-square error = (.*)", capsys.readouterr().out)[1])
    assert 1 < rmse < 2.5


def planted(spark, implicit=False):
    generator = np.random.default_rng(4)
    x, z = generator.normal(0, 1, (80, 3)), generator.normal(0, 1, (50, 3))
    pairs = [(u, i) for u in range(80) for i in range(50) if (u * 7 + i * 3) % 5 < 3]
    noise = generator.normal(0, 0.3, len(pairs))
    values = [4 + float(x[u] @ z[i] + e) for (u, i), e in zip(pairs, noise, strict=True)]
    kept = [float(max(0, round(value - 4))) if implicit else value for value in values]
    rows = [(u, i, value) for (u, i), value in zip(pairs, kept, strict=True)]
    data = spark.createDataFrame(rows, "user int, item int, rating float").cache()
    return data.where("(user * 31 + item * 17) % 4 > 0"), data.where("(user*31 + item*17) % 4 = 0")


IMPLICIT = {"implicitPrefs": True, "alpha": 3.0}


@pytest.mark.parametrize("given", [{}, IMPLICIT, IMPLICIT | {"alpha": 0.0}, {"regParam": 0.02}])
def test_an_iteration_from_a_model_of_mllib_is_the_next_one_of_mllib(spark, tmp_path, given):
    train, test = planted(spark, implicit="implicitPrefs" in given)
    params = {"rank": 4, "seed": 1, "numUserBlocks": 2, "numItemBlocks": 2, **given}
    before, after = (MLlib(maxIter=number, **params).fit(train) for number in (2, 3))
    before.save(f"{tmp_path}/model")
    start = ALSModel.load(f"{tmp_path}/model")
    ours = ALS(maxIter=1, precision="float64", **params).setInitialModel(start).fit(train)
    a, b = (model.transform(test).orderBy("user", "item").toPandas() for model in (ours, after))
    np.testing.assert_allclose(a.prediction, b.prediction, rtol=2e-3, atol=2e-3)
    assert np.abs(a.prediction - start.transform(test).toPandas().prediction).max() > 0.02
    assert ours.transform(test).schema == after.transform(test).schema


def test_biases_are_one_step_away(spark):
    train, _ = planted(spark)
    better = ALS(rank=3, fitBiases=True).fit(train)
    assert better.globalBias > 3
    assert better.userFactors.columns == ["id", "bias", "features"]
    assert better.summary.reg_exponent == 0
    assert ALS(rank=3, fitBiases=True, regParam=0.1).fit(train).summary.reg_exponent == 1
    assert ALS(rank=3).fit(train).globalBias == 0


def test_a_model_that_mllib_wrote_is_read_and_starts_a_fit(spark, tmp_path):
    train, test = planted(spark)
    theirs = MLlib(rank=3, maxIter=4, seed=1, numUserBlocks=2, coldStartStrategy="drop").fit(train)
    theirs.save(f"{tmp_path}/model")
    ours = ALSModel.load(f"{tmp_path}/model")
    assert (ours.rank, ours.uid, ours.hasSummary) == (3, theirs.uid, False)
    assert "ALSModel" in repr(ours)
    assert "rank=3" in repr(ours)
    assert ours.getColdStartStrategy() == "drop"
    pairs = [model.transform(test).orderBy("user", "item").toPandas() for model in (ours, theirs)]
    np.testing.assert_allclose(pairs[0].prediction, pairs[1].prediction, rtol=1e-5)
    asked = (model.recommendForAllUsers(5).orderBy("user").collect() for model in (ours, theirs))
    for a, b in zip(*asked, strict=True):
        np.testing.assert_allclose([r.rating for r in a[1]], [r.rating for r in b[1]], rtol=1e-5)
    longs = train.withColumn("user", train.user.cast("bigint"))
    warm = ALS(rank=3, maxIter=1).setInitialModel(ours).fit(longs)
    assert warm.summary.warm_start["users"] == {"kept": 80, "new": 0, "gone": 0}
    ours.save(f"{tmp_path}/again")
    again = ALSModel.load(f"{tmp_path}/again")
    assert again.itemFactors.collect() == ours.itemFactors.collect()


@pytest.mark.parametrize("given", [{}, {"implicitPrefs": True, "alpha": 0.0}])
def test_without_iterations_a_model_is_its_start(spark, given):
    train, _ = planted(spark, implicit=bool(given))
    start = ALS(rank=4, maxIter=0, **given).fit(train)
    assert start.summary.totalIterations == 0
    assert np.isfinite(start.summary.objective)
    again = ALS(rank=4, maxIter=0, **given).setInitialModel(start).fit(train)
    same_bits(again.factors, start.factors)
    once = ALS(rank=4, maxIter=1, **given)
    same_bits(once.copy().setInitialModel(start).fit(train).factors, once.fit(train).factors)
    with pytest.raises(ParamError, match="maxIter=0 does not go with solver='vb'; set maxIter ≥ 1"):
        ALS(maxIter=0, solver="vb", regUser=None).fit(train)
    with pytest.raises(ParamError, match="alpha=0 with fitBiases=True has no default λ; set reg"):
        ALS(implicitPrefs=True, alpha=0.0, fitBiases=True).fit(train)
