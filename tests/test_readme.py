"""What the README says runs as it says."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent.joinpath("README.md").read_text(encoding="utf-8")


def test_the_python_example_runs(spark, tmp_path, monkeypatch):
    example = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
    assert '"output/model"' in example
    example = example.replace('"output/model"', repr(str(tmp_path / "model")))
    monkeypatch.chdir(Path(__file__).parent.parent)
    exec(compile(example, "README.md", "exec"), {"spark": spark})
    assert (tmp_path / "model" / "metadata").is_dir()


def test_the_example_of_a_network_runs(spark, tmp_path, capsys):
    pytest.importorskip("sklearn")
    [example] = re.findall(r"```python\n(from sklearn.*?)```", README, flags=re.DOTALL)
    example = example.replace('"output/network"', repr(str(tmp_path / "network")))
    exec(compile(example, "README.md", "exec"), {"spark": spark})
    [accuracy] = re.findall(r"^0\.\d+$", capsys.readouterr().out, flags=re.MULTILINE)
    assert float(accuracy) > 0.95
    assert (tmp_path / "network" / "metadata").is_dir()


def test_every_param_of_als_is_accounted_for():
    from pyspark.ml.recommendation import ALS

    from nonconvex.recommendation import MatrixFactorization

    [table] = re.findall(r"### Coming from ALS\n\n(.*?)\n\n", README, flags=re.DOTALL)
    named = set(re.findall(r"\w+", table))
    ours = {param.name for param in MatrixFactorization().params}
    theirs = set(ALS.__init__.__wrapped__.__kwdefaults__)
    assert {"rank", "regParam", "alpha"} <= theirs
    assert theirs <= named | ours, theirs - named - ours


def test_every_param_of_mllibs_network_is_accounted_for():
    from pyspark.ml.classification import MultilayerPerceptronClassifier

    title = "### Coming from MultilayerPerceptronClassifier"
    [table] = re.findall(rf"{title}\n\n(.*?)\n\n", README, flags=re.DOTALL)
    theirs = set(MultilayerPerceptronClassifier.__init__.__wrapped__.__kwdefaults__)
    assert {"blockSize", "solver", "initialWeights"} <= theirs
    assert theirs <= set(re.findall(r"\w+", table))
