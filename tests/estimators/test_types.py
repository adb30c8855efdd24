"""Types that editors and mypy see: accessors of Params, and chains that keep their class.

``accessors.pyi`` is written by ``WRITE=1 pytest tests/estimators/test_types.py``.
"""

import inspect
import os
import sys
from pathlib import Path

from pyspark.ml.param import Param

from nonconvex import neural_network, recommendation
from nonconvex.estimators import params
from tests.processes import completed

ROOT = Path(__file__).parents[2]
STUB = Path(params.__file__).with_name("accessors.pyi")
HEAD = '''"""Accessors of Params, as `with_accessors` makes them; test_types.py writes this file."""

from collections.abc import Sequence
from typing import Self'''
SCRIPT = """
from pyspark.sql import DataFrame
from nonconvex.neural_network import MultilayerPerceptronClassifier, MultilayerPerceptronRegressor
from nonconvex.recommendation import ALS, ALSModel, MatrixFactorization, MatrixFactorizationModel

def train(ratings: DataFrame) -> DataFrame:
    estimator: MatrixFactorization = MatrixFactorization(rank=3).setMaxIter(4).setUserCol("who")
    rank: int = estimator.getRank()
    numbers: list[float] = [estimator.getMaxIter(), ALS().getRegParam()]
    model: MatrixFactorizationModel = estimator.setParams(tol=0.1).copy().fit(ratings)
    clipped: MatrixFactorizationModel = model.setClipPredictions(True).setColdStartStrategy("nan")
    als: ALS = ALS().setRegParam(0.1).setAlpha(2.0).setNumBlocks(rank).setRank(5)
    of_als: ALSModel = als.fit(ratings)
    loaded: MatrixFactorizationModel = MatrixFactorizationModel.load("model")
    print(of_als.rank, loaded.summary.objective, clipped.getItemCol().upper())
    return of_als.setPredictionCol("p").recommendForAllUsers(numItems=3)

def network(examples: DataFrame) -> list[float]:
    layers: list[int] = MultilayerPerceptronRegressor().setLayers([3]).fit(examples).layers
    mlp: MultilayerPerceptronClassifier = MultilayerPerceptronClassifier(layers=layers)
    return list(mlp.setStepSize(0.1).setSeed(3).fit(examples).predictProbability([1.0]))

MatrixFactorization().setRank("three")  # E
"""


def stub():
    matrix, network = recommendation, neural_network
    kinds = [
        ("MatrixFactorization", matrix.MatrixFactorization, ()),
        ("ALS", matrix.ALS, (matrix.MatrixFactorization,)),
        ("MatrixFactorizationModel", matrix.MatrixFactorizationModel, ()),
        ("ALSModel", matrix.ALSModel, (matrix.MatrixFactorizationModel,)),
        ("Regressor", network.MultilayerPerceptronRegressor, ()),
        ("Classifier", network.MultilayerPerceptronClassifier, ()),
        ("RegressionModel", network.MultilayerPerceptronRegressionModel, ()),
        ("ClassificationModel", network.MultilayerPerceptronClassificationModel, ()),
    ]
    lines, types = [HEAD], {}
    for name, cls, bases in kinds:  # a model has the Params of the estimator before it
        signature = inspect.signature(cls.__init__).parameters
        types |= {param: one.annotation for param, one in signature.items()}
        types |= {"labelCol": "str | Sequence[str]", "solver": "str", "seed": "int"}
        lines.append(f"\nclass {name}Accessors:")
        for param in dir(cls):
            if not isinstance(getattr(cls, param), Param) or any(hasattr(b, param) for b in bases):
                continue
            title = param[0].upper() + param[1:]
            by_pyspark = [
                base for base in cls.__mro__
                if base.__module__.startswith("pyspark") and f"get{title}" in vars(base)
            ]  # fmt: skip
            if not by_pyspark:
                lines.append(f"    def get{title}(self) -> {types[param]}: ...")
            lines.append(f"    def set{title}(self, value: {types[param]}) -> Self: ...")
    return "\n".join(lines) + "\n"


def test_the_accessors_are_declared():
    if os.environ.get("WRITE"):
        STUB.write_text(stub())
    written, wanted = (
        [line for line in text.splitlines() if line] for text in (STUB.read_text(), stub())
    )
    assert written == wanted, "run WRITE=1 pytest tests/estimators/test_types.py"


def test_a_script_of_a_user_has_the_types_it_says(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += ["--ignore-missing-imports", f"--cache-dir={tmp_path}", f"{tmp_path}/script.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = completed(*command, cwd=tmp_path, env=environment)
    wrong = SCRIPT.splitlines().index('MatrixFactorization().setRank("three")  # E') + 1
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(found) == 1, done.stdout + done.stderr
    assert f"script.py:{wrong}: error: Argument 1 to" in found[0]
    assert (ROOT / "nonconvex" / "py.typed").exists()
