"""The package that measures this library beside its peers: data, turns, scores, memory."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nonconvex.benchmark import measure, run
from nonconvex.benchmark.contenders import Contender
from nonconvex.benchmark.data import BenchmarkTables, planted_examples, planted_ratings
from nonconvex.distributed.files import FileSystem
from nonconvex.numerics.synthetic import PlantedExamples, PlantedRatings
from nonconvex.report.run import write_figures

NO_DATA = BenchmarkTables("", "", "", {})


def contender(name="learner", **works):
    return Contender(name, **{"predict": lambda model, path: None, **works})


def plan(repeats=1, **settings):
    return measure.BenchmarkPlan("a", "iteration", (1, 2), repeats, "test RMSE", "less", **settings)


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


def test_an_accuracy_that_is_not_reached_has_no_ratio():
    learner = contender(fit=lambda path, epochs: epochs, score=lambda model, path: model / 10)
    assert measure.steps_to_target(learner, NO_DATA, plan(target=0.35, most_steps=8)) == 4
    assert measure.steps_to_target(learner, NO_DATA, plan(target=0.35, most_steps=3)) is None
    assert measure.steps_to_target(learner, NO_DATA, plan()) is None
    both = [
        measure.Measurement("network", "a", "reach", name, "s", "less", values)
        for name, values in {"ours": (1.0, 2.0), "peer": (None, None)}.items()
    ]
    assert run.benchmark_table(both).splitlines()[1].split("  ")[-1] == "not reached"


def test_contenders_take_turns_and_do_what_they_can(spark, tmp_path):
    done = []

    def work(name):
        return lambda *given: done.append((name, *given)) or 0.5

    lists = {"save": work("save"), "recommend": work("recommend")}
    ours = contender("ours", fit=work("fit ours"), score=work("score"), **lists)
    peer = contender("peer", fit=work("fit peer"), score=work("score"))
    clock = measure.Clock("factorization")
    subject = (plan(repeats=2, top=3), [ours, peer])
    measure.measure_contenders(spark, clock, [subject], NO_DATA, str(tmp_path))
    fits = [one[0][-4:] + f" {one[2]}" for one in done if one[0].startswith("fit")]
    turn = [f"{name} {steps}" for name in ("ours", "peer") for steps in (1, 1, 2)]
    assert fits == ["ours 1", "peer 1", *turn, *turn], "a warm-up, and a first fit not counted"
    works = {(one.work, one.contender): one for one in clock.measurements}
    assert all(len(one.values) == 2 for one in works.values())
    alike = ["load", "iteration", "predict all rows", "test RMSE"]
    own = ["Parquet to saved model, 2 iterations", "top-3 for all users"]
    assert {work for work, name in works if name == "peer"} == {*alike}
    assert {work for work, name in works if name == "ours"} == {*alike, *own}
    assert works["test RMSE", "peer"].median == 0.5
    assert ("save", 0.5, f"{tmp_path}/model") in done


class Mean:
    """What cmfrec has of a model, with the mean for every prediction."""

    A_ = B_ = user_bias_ = item_bias_ = np.zeros(2)

    def __init__(self, **settings):
        self.settings = settings

    def fit(self, table):
        assert [*table.columns] == ["UserId", "ItemId", "Rating"]
        self.mean = table["Rating"].mean()
        return self

    def predict(self, users, items):
        return np.full(len(users), self.mean)


def test_pipelines_take_turns_from_parquet_to_a_saved_model(spark, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cmfrec", SimpleNamespace(CMF=Mean))
    monkeypatch.setattr("nonconvex.benchmark.run.has_cmfrec", lambda: True)
    section = run.PipelineBenchmarkSection(ratings=600, rank=2, iterations=1, repeats=1)
    assert not section.remarks()[1:]
    clock, data = measure.Clock("pipeline"), section.tables(spark, str(tmp_path))
    pipelines, group = section.pipelines(spark), spark.sparkContext.getLocalProperty
    scratch, before = str(tmp_path / "scratch"), group("spark.jobGroup.id")
    measure.measure_pipelines(spark, clock, "rank 2", pipelines, data.path, scratch, 1)
    assert group("spark.jobGroup.id") == before
    found = {(one.work, one.contender): one.values for one in clock.measurements}
    works = ["prepare", "load and fit", "evaluate", "write the model", "Parquet to saved model"]
    assert [*dict(found)] == [
        (work, one.name) for one in pipelines for work in [*works, "Spark jobs", "test RMSE"]
    ]
    assert all(len(values) == 1 for values in found.values()), "the first round is not counted"
    ours, mllib, theirs = (found["Spark jobs", one.name][0] for one in pipelines)
    assert (ours < mllib, theirs) == (True, 0)
    for one in pipelines:
        assert 0.3 < found["test RMSE", one.name][0] < 4
    assert Path(scratch, "model", "stages").is_dir(), "MLlib was the last to replace it"
    assert sorted(np.load(f"{scratch}/model.npz")) == ["item_bias", "items", "user_bias", "users"]
    monkeypatch.setattr("nonconvex.benchmark.run.has_cmfrec", lambda: False)
    assert "cmfrec is not installed" in section.remarks()[1]
    assert [one.name for one in section.pipelines(spark)] == ["nonconvex", "MLlib"]


def test_cmfrec_is_a_contender_by_cholesky_and_by_conjugate_gradients(spark, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cmfrec", SimpleNamespace(CMF=Mean))
    monkeypatch.setattr("nonconvex.benchmark.run.has_cmfrec", lambda: True)
    section = run.FactorizationBenchmarkSection(ratings=600, peers=["cmfrec"])
    data = section.tables(spark, str(tmp_path))
    _, *theirs = section.contenders(spark, (3,))
    assert [one.name for one in theirs] == ["cmfrec (Cholesky)", "cmfrec (CG)"]
    for one, cg in zip(theirs, [False, True], strict=True):
        model = one.fit(data.train, 2)
        asked = {"k": 3, "niter": 2, "use_cg": cg, "finalize_chol": False}
        assert asked.items() <= model.settings.items()
        one.predict(model, data.train)
        assert 0.3 < one.score(model, data.test) < 4
    assert len(section.remarks()) == 1
    monkeypatch.setattr("nonconvex.benchmark.run.has_cmfrec", lambda: False)
    assert "cmfrec is not installed" in section.remarks()[1]
    assert len(section.contenders(spark, (3,))) == 1


def test_kernels_take_turns_and_iterations_are_drawn_against_rank_and_ratings(
    spark, tmp_path, monkeypatch
):
    output, kernels = {"path": str(tmp_path)}, ("compiled", "numpy")
    sizes = {"ratings": 400, "ranks": (1, 2), "growth": (300, 600), "iterations": (1, 2)}
    given = {**sizes, "kernels": kernels, "peers": (), "repeats": 1, "memory": False}
    config = run.BenchmarkConfig(factorization={**given, "pictures": True}, output=output)
    monkeypatch.setattr(measure, "per_step", lambda lengths, seconds: (sum(seconds), 0.0))
    found = run.run_benchmark(spark, config, str(tmp_path / "scratch"))
    names = [f"nonconvex ({kernel})" for kernel in kernels]
    turns = [(one.subject, one.contender) for one in found.all if one.work == "iteration"]
    subjects = "rank 1", "rank 2", "300 ratings, rank 1", "600 ratings, rank 1"
    assert turns == [(subject, name) for subject in subjects for name in names]
    works = {one.work for one in found.all if one.subject == subjects[2]}
    assert works == {"load", "iteration"}, "and no predictions"
    assert {x for curve in found.costs["rank"].values() for x, _ in curve} == {1, 2}
    rows = [found.data[subject]["rows"] for subject in subjects[2:]]
    curve = found.costs["ratings"][names[1]]
    assert [x for x, _ in curve] == [of_parts["train"] for of_parts in rows]
    assert [sum(of_parts.values()) for of_parts in rows] == [300, 600]
    pictures = run.draw_costs(found)
    assert [one.name for one in pictures] == ["iteration-by-rank", "iteration-by-ratings"]
    assert f"{names[1]} takes {curve[0][1]:.3g} s at {curve[0][0]}" in pictures[1].alt
    assert all(b"PNG" in one.png and names[0] in one.svg for one in pictures)
    write_figures(FileSystem(spark, str(tmp_path)), str(tmp_path), pictures)
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert written >= {f"{one.name}.{kind}" for one in pictures for kind in ("svg", "png")}
    monkeypatch.setattr("nonconvex.estimators.display.find_spec", lambda name: None)
    assert run.draw_costs(found) == []
    alone = config.factorization.model_copy(update={"growth": ()})
    run._measure_growth(spark, alone, measure.Clock("factorization"), "", "", found)
    advice = "matplotlib is not installed: pip install 'nonconvex[report]'"
    assert found.remarks[-1] == f"there are no pictures, as {advice}"


def test_without_psutil_the_remarks_say_so(spark, monkeypatch):
    monkeypatch.setattr("nonconvex.benchmark.run.has_psutil", lambda: False)
    found = run.Benchmark()
    assert not run._can_measure_memory(spark, "network", found)
    assert "psutil is not installed" in found.remarks[0]


def test_a_process_for_memory_has_a_session_like_this_one(spark):
    settings = run._session_settings(spark)
    assert settings["spark.master"] == spark.conf.get("spark.master")
    assert not [key for key in settings if key.startswith("spark.app.")]
    assert "PYSPARK_GATEWAY_PORT" not in run._environment({"PYSPARK_GATEWAY_PORT": "1"})


def test_absent_peers_are_named(monkeypatch):
    monkeypatch.setattr("nonconvex.benchmark.run.has_sklearn", lambda: False)
    section = run.NetworkBenchmarkSection(peers=("sklearn",))
    assert any("scikit-learn is not installed" in remark for remark in section.remarks())
    assert [one.name for one in section.contenders(None, [3, 4, 3])] == ["nonconvex (driver)"]


def test_memory_is_that_of_a_process_and_its_children():
    hungry = "import time; x = b'1' * 150_000_000; time.sleep(0.4)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hungry!r}])"
    assert 150 < measure.peak_memory([sys.executable, "-c", child], os.environ) < 400
    assert measure.resident(os.getpid()) > 10e6
    with pytest.raises(measure.CommandError, match=r"ended with 1: (?s:.*)ValueError: no"):
        measure.peak_memory([sys.executable, "-c", "raise ValueError(input())"], os.environ, "no")
