"""The examples in pyspark's documentation of ALS, with the import and some Params renamed.

docs/factorization.md has a table of them.  What depends on the model is not compared in digits.
"""

import doctest
import inspect
import re
from pathlib import Path

import pyspark
import pytest
from pyspark.ml.recommendation import ALS

from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel

SPARK = Path(pyspark.__file__).parent


def renamed(text):
    """Replace the name of the estimator, and of the Params that have other names here."""
    text = re.sub(r"\bALS\b", "MatrixFactorization", text)
    return text.replace("RegParam", "RegUser").replace("regParam", "regUser")


def test_the_docstring(spark, tmp_path):
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(ALS))
    known = [example for example in examples if "getBlockSize" not in example.source]
    assert len(known) == len(examples) - 1 > 30
    for example in known:
        example.source = renamed(example.source)
        want = re.sub(r"\bALS(Model)?\b", "MatrixFactorization", example.want)
        want = want.replace("id=0, features", "id=0, bias=..., features")
        want = re.sub(r"-?\d+\.\d+\.\.\.", "...", want)  # predictions
        example.want = re.sub(r"\[\d, \d, \d\]", "[...]", want)  # what is recommended first
    names = {"spark": spark, "temp_path": str(tmp_path), "ALSModel": MatrixFactorizationModel}
    names["MatrixFactorization"] = MatrixFactorization
    test = doctest.DocTest(known, names, "ALS", None, 0, None)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test, clear_globs=False) == (0, len(known))
    assert all(0 < row.newPrediction < 6 for row in test.globs["predictions"])
    [first] = test.globs["user_recs"].where("user = 0").collect()
    ratings = [rating for _, rating in first.recommendations]
    assert ratings == sorted(ratings, reverse=True)
    assert {item for item, _ in first.recommendations} == {0, 1, 2}


def test_the_guide_to_collaborative_filtering(spark, capsys):
    source = renamed((SPARK / "examples/src/main/python/ml/als_example.py").read_text())
    source = source.replace("pyspark.ml.recommendation", "nonconvex.recommendation")
    for there, here in (
        # 30 users and 100 films: ALS's λ for both sides, as docs/factorization.md says
        ("regUser=0.01", "regUser=0.01 / 30, regItem=0.01 / 100, regExponent=1.0"),
        ("randomSplit([0.8, 0.2])", "randomSplit([0.8, 0.2], seed=1)"),
        ('"data/mllib', f'"{SPARK}/data/mllib'),
        ("spark.stop()", ""),
    ):
        assert source.count(there) == 1
        source = source.replace(there, here)
    exec(compile(source, "als_example.py", "exec"), {"__name__": "__main__", "spark": spark})
    printed = capsys.readouterr().out
    rmse = float(re.search(r"Root-mean-square error = ([\d.]+)", printed)[1])
    assert rmse == pytest.approx(1, abs=0.5)
    assert printed.count("|     recommendations|") == 4
