"""The job that measures this project beside its peers: tables, JSON, comparisons, refusals."""

import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs import benchmark
from nonconvex.benchmark_data import planted_examples, planted_ratings
from nonconvex.benchmark_measurements import Measurement
from nonconvex.benchmark_memory import CommandError, can_measure, peak_memory, resident
from nonconvex.benchmark_network import NetworkPlan, epochs_to
from nonconvex.benchmark_reports import benchmark_table
from nonconvex.benchmark_sections import BenchmarkConfig
from nonconvex.numerics.synthetic import PlantedExamples, PlantedRatings
from nonconvex.pipeline.config import load
from nonconvex.pipeline.runner import run

REPOSITORY = Path(__file__).parent.parent.parent
CONFIG = """
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

[network.examples]
path = "{root}/flowers.parquet"
task = "classification"
label = "kind"

[output]
path = "{root}/out"
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmark")
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 200)
    table = pd.DataFrame(rng.normal(3 * kind[:, None], 1, (200, 3)), columns=["a", "b", "c"])
    table["kind"] = np.array(["iris", "lily", "rose"])[kind]
    table.to_parquet(root / "flowers.parquet")
    (root / "benchmark.toml").write_text(CONFIG.format(root=root))
    return root


@pytest.fixture(scope="module")
def job(spark, root):
    """Run the job; return its exit status, what it printed, the last line of it, and its log."""
    del spark  # the job finds it

    def job(*overrides):
        sets = [word for override in overrides for word in ("--set", override)]
        out, log = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(log):
            arguments = ["--config", str(root / "benchmark.toml"), *sets]
            status = run(benchmark.main, BenchmarkConfig, description="", argv=arguments)
        *printed, last = out.getvalue().splitlines()
        outcome = json.loads(last)
        assert outcome["exit"] == status
        return status, printed, outcome, log.getvalue()

    return job


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
def test_a_later_run_shows_how_the_ratios_have_changed(measured, job, root):
    earlier = json.loads(Path(measured[1]["numbers"]).read_text())
    for one in earlier["ratios"]:
        one["value"] = 2.0
    (root / "earlier.json").write_text(json.dumps(earlier))
    status, printed, outcome, _ = job(
        "network.enabled=false", "factorization.seed=0", f'output.compare="{root}/earlier.json"'
    )
    assert status == 0, outcome
    [rmse] = [one["value"] for one in outcome["ratios"] if one["work"] == "test RMSE"]
    [line] = [line for line in printed if line.startswith("rank 2  test RMSE  than MLlib")]
    assert line.split()[-6:] == ["2.00", "×", f"{rmse:.2f}", "×", f"{rmse / 2:.2f}", "×"]
    [gone] = [line for line in printed if line.startswith("3-4-3, batch 32  reach")]
    assert gone.endswith("2.00 ×"), "there before, and not measured now"
    assert printed[-2] == f"compared with {root}/earlier.json"
    assert len(list((root / "out" / "data").glob("ratings-*"))) == 1, "planted once"


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        (["factorization.iterations=[3, 3]"], 2, "iterations must be two numbers, the lesser"),
        (["factorization.items=5"], 2, "of the 400 ratings, and there are 5 items; plan"),
        (["factorization.params.rnk=3"], 2, "factorization: unknown key params.rnk"),
        (["factorization.mllib.regParm=3"], 2, "did you mean mllib.regParam?"),
        (["network.params.maxIter=3"], 2, "network: unknown key params.maxIter"),
        (["network.peers=['torch']"], 2, "must be 'mllib' or 'sklearn', got \"torch\""),
        (["network.examples.task=regression"], 2, "examples.task must be classification"),
        (
            ["network.enabled=false", "factorization.enabled=false"],
            2,
            "nothing to measure: enable [factorization] or [network]",
        ),
        (["factorization.prepared=no/such"], 3, "there are no prepared ratings at no/such"),
        (['output.compare="{root}/benchmark.toml"'], 3, "is not the JSON of a benchmark"),
        (['output.compare="{root}/none.json"'], 3, "there is nothing at "),
    ],
)
def test_what_cannot_be_measured_is_refused(job, root, overrides, status, message):
    found, printed, outcome, log = job(*(override.format(root=root) for override in overrides))
    assert message in outcome["error"]
    assert found == status
    assert printed == []
    assert "Traceback" not in log


def test_planted_tables_do_not_depend_on_partitions(spark):
    law, examples = PlantedRatings.of_size(300), PlantedExamples(3, 2, 5)
    for make in (
        lambda parts: planted_ratings(spark, law, 0.3, parts),
        lambda parts: planted_examples(spark, examples, 50, 0.3, parts).drop("row"),
    ):
        one, many = (sorted(map(str, make(parts).collect())) for parts in (1, 3))
        assert one == many
        assert len(one) in (300, 50)
        assert {"train", "test"} == {row.part for row in make(2).select("part").collect()}


def test_the_shipped_configuration_is_valid():
    config = load(BenchmarkConfig, REPOSITORY / "conf" / "benchmark.toml")
    assert config.factorization.law().ratings == 100_000
    assert config.network.plan([64, 128, 10]).subject == "64-128-10, batch 256"


def test_an_accuracy_that_is_not_reached_has_no_ratio():
    class Learner:
        name = "learner"

        def fit(self, path, epochs):
            return epochs

        def accuracy(self, model, path):
            return model / 10

    class Data:
        train = test = ""

    plan = NetworkPlan("a", (1, 2), 0.35, 8, 1)
    assert epochs_to(Learner(), Data(), plan) == 4
    assert epochs_to(Learner(), Data(), NetworkPlan("a", (1, 2), 0.35, 3, 1)) is None
    both = [
        Measurement("network", "a", "reach", name, "s", "less", values)
        for name, values in {"ours": (1.0, 2.0), "peer": (None, None)}.items()
    ]
    assert benchmark_table(both).splitlines()[1].split("  ")[-1] == "not reached"


def test_absent_peers_are_named(monkeypatch, root):
    monkeypatch.setattr("nonconvex.benchmark_sections.has_sklearn", lambda: False)
    section = load(BenchmarkConfig, root / "benchmark.toml", ['network.peers=["sklearn"]']).network
    assert "scikit-learn is not installed" in section.absent()[0]
    assert [one.name for one in section.contenders(None, [3, 4, 3])] == ["nonconvex (driver)"]


@pytest.mark.skipif(not can_measure("local"), reason="there is no /proc")
def test_memory_is_that_of_a_process_and_its_children():
    hungry = "import time; x = b'1' * 150_000_000; time.sleep(0.4)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hungry!r}])"
    assert 150 < peak_memory([sys.executable, "-c", child], os.environ) < 400
    assert resident(os.getpid()) > 10e6
    with pytest.raises(CommandError, match=r"ended with 1: (?s:.*)ValueError: no"):
        peak_memory([sys.executable, "-c", "raise ValueError(input())"], os.environ, "no")
