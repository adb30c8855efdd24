"""The job that measures this project beside its peers: tables, JSON, refusals."""

import json
from functools import partial
from pathlib import Path

import pytest

from nonconvex.benchmark.run import BenchmarkConfig
from nonconvex.commands.benchmark import benchmark_job
from nonconvex.pipeline.config import load
from tests.factories import flowers
from tests.jobs.cluster import ROOT

CONFIG = """
output.path = "{root}/out"
[factorization]
ratings = 400
ranks = [2]
iterations = [1, 2]
top = 3
repeats = 1
memory = false
mllib = {{numUserBlocks = 1, numItemBlocks = 1}}
[network]
layers = [4]
batch_size = 32
epochs = [1, 2]
accuracy = 0.2
most_epochs = 1
repeats = 1
memory = false
peers = ["mllib"]
examples = {{path = "{root}/flowers.parquet", task = "classification", label = "kind"}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmark")
    flowers(200).to_parquet(root / "flowers.parquet")
    (root / "benchmark.toml").write_text(CONFIG.format(root=root))
    return root


@pytest.fixture(scope="module")
def job(run_job, root):
    return partial(run_job, benchmark_job, BenchmarkConfig, root / "benchmark.toml")


@pytest.fixture(scope="module")
def measured(job):
    status, printed, outcome, _ = job()
    assert status == 0, outcome
    return printed, outcome


@pytest.mark.thorough
def test_the_table_has_every_work_of_every_contender(measured):
    printed, outcome = measured
    assert printed[0].split() == ["nonconvex", "MLlib", "than", "MLlib"]
    works = ["load", "iteration", "Parquet to saved model", "predict all rows", "top-3", "test"]
    for line, work in zip(printed[1:7], works, strict=True):
        assert line.startswith(f"rank 2  {work}")
    assert any(line.startswith("3-4-3, batch 32  epoch") for line in printed)
    assert "an epoch of MLlib is an iteration of L-BFGS" in "\n".join(printed)
    assert printed[-1] == f"all numbers: {outcome['numbers']}"
    rows = outcome["data"]["factorization"]["rows"]
    assert rows["train"] + rows["test"] == 400
    assert outcome["data"]["network"]["rows"].keys() == {"train", "test"}


@pytest.mark.thorough
def test_the_json_has_all_numbers_and_what_they_depend_on(measured):
    numbers = json.loads(Path(measured[1]["numbers"]).read_text())
    found = {(one["work"], one["contender"]): one for one in numbers["measurements"]}
    rmse = [found["test RMSE", name]["median"] for name in ("nonconvex", "MLlib")]
    assert all(0.3 < value < 4 for value in rmse)
    [ratio] = [one["value"] for one in numbers["ratios"] if one["work"] == "test RMSE"]
    assert ratio == pytest.approx(rmse[1] / rmse[0])
    saved = found["Parquet to saved model, 2 iterations", "MLlib"]
    assert saved["unit"] == "s"
    assert len(saved["values"]) == 1
    assert saved["values"][0] > 0
    assert found["test accuracy, 2 epochs", "nonconvex (driver)"]["better"] == "more"
    assert found["reach 0.2", "nonconvex (driver)"]["median"] > 0
    assert numbers["environment"]["parallelism"] == 2
    assert numbers["environment"]["scikit-learn"]
    assert numbers["configuration"]["factorization"]["seed"] == 0
    assert not (Path(measured[1]["numbers"]).parent / "scratch").exists()


@pytest.mark.thorough
def test_a_later_run_uses_the_planted_data_again_and_measures_memory(measured, job, root):
    del measured
    status, printed, outcome, _ = job("network.enabled=false", "factorization.memory=true")
    assert status == 0, outcome
    [line] = [line for line in printed if line.startswith("rank 2  peak memory, MB")]
    assert line.endswith("×")
    assert any(remark.startswith("peak memory is that of") for remark in outcome["remarks"])
    assert len(list((root / "out" / "data").glob("ratings-*"))) == 1, "planted once"


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        (["factorization.iterations=[3, 3]"], 2, "iterations must be two numbers, the lesser"),
        (["factorization.items=5"], 2, "of the 400 ratings, and there are 5 items; plan"),
        (
            ["factorization.kernels=['numpy']", "factorization.params.kernel=numpy"],
            2,
            "kernels and params.kernel are two choices of one: leave one out",
        ),
        (["factorization.params.rnk=3"], 2, "factorization: unknown key params.rnk"),
        (["factorization.mllib.regParm=3"], 2, "did you mean mllib.regParam?"),
        (["network.params.maxIter=3"], 2, "network: unknown key params.maxIter"),
        (["network.peers=['torch']"], 2, "must be 'mllib' or 'sklearn', got \"torch\""),
        (["network.examples.task=regression"], 2, "examples.task must be classification"),
        (
            ["network.enabled=false", "factorization.enabled=false"],
            2,
            "nothing to measure: enable [pipeline], [factorization] or [network]",
        ),
        (["factorization.prepared=no/such"], 3, "there are no prepared ratings at no/such"),
    ],
)
def test_what_cannot_be_measured_is_refused(job, overrides, status, message):
    job(*overrides).refused(status, message)


def test_the_shipped_configuration_is_valid():
    config = load(BenchmarkConfig, ROOT / "conf" / "benchmark.toml")
    assert config.factorization.law().ratings == 100_000
    assert config.network.plan([64, 128, 10]).subject == "64-128-10, batch 256"
