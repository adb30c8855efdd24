"""The jobs of a night, day after day, as the command line and the example of a DAG start them."""

import json
import runpy
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nonconvex.commands import nightly
from tests.jobs.cluster import ROOT, model_bits


def write_day(root, day, users):
    directory = root / f"data/ratings/date={day}"
    directory.mkdir(parents=True)
    rows = [(f"u{u}", i, 1.0 + (u * i + u) % 5, u + i) for u in users for i in range(8)]
    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    table = pa.table(dict(zip(("user", "item", "rating", "timestamp"), columns, strict=True)))
    pq.write_table(table, directory / "part.parquet")


@pytest.fixture(scope="module")
def home(spark, tmp_path_factory):
    del spark  # the jobs find it
    home = tmp_path_factory.mktemp("nightly")
    (home / "conf").mkdir()
    for name in ("nightly.toml", "nightly_recommend.toml"):
        text = (ROOT / "conf" / name).read_text()  # Spark's own directory does not change here
        text = text.replace('"data/', f'"{home}/data/').replace('"output/', f'"{home}/output/')
        (home / "conf" / name).write_text(text)
    write_day(home, "2026-11-24", range(8))
    write_day(home, "2026-11-25", range(2, 10))
    patch = pytest.MonkeyPatch()
    patch.chdir(home)
    yield home
    patch.undo()


def start(job, day, *more):
    """Start a job of the chain as its command does, in this process."""
    patch, out, log = pytest.MonkeyPatch(), StringIO(), StringIO()
    script = str(ROOT / "jobs" / f"{nightly.script(job)}.py")
    patch.setattr(sys, "argv", [script, *nightly.arguments(job, day), *more])
    with redirect_stdout(out), redirect_stderr(log), pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    patch.undo()
    outcome = json.loads(out.getvalue().splitlines()[-1])
    assert ended.value.code == outcome["exit"]
    return outcome, out.getvalue(), log.getvalue()


@pytest.mark.thorough
def test_the_chain_runs_night_after_night_and_tells_what_has_changed(home):
    first, out, _ = start("train", "2026-11-24", "--set", "gate=0")
    assert (first["exit"], "gate" in first["error"]) == (2, True)  # what is wrong starts nothing
    arguments = ["--set", "factorization.rank=1", "--set", "gate.published=9", "--set"]
    arguments += ["gate.baseline=9", "--log-format", "json"]
    first, out, _ = start("train", "2026-11-24", *arguments)
    assert (first["exit"], first.get("drift")) == (0, None), first
    second, out, log = start("train", "2026-11-25", *arguments)
    assert second["exit"] == 0, second
    drift = second["drift"]
    assert drift["read"] == {"before": 64, "now": 128}
    assert drift["new users"] == {"before": None, "now": 2}
    assert drift["users gone"] == {"before": None, "now": 0}
    assert drift["mean"]["before"] != drift["mean"]["now"]
    assert "since the published run" in out
    said = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert {line["job"] for line in said} == {"train_factorization"}
    assert any(line["message"].endswith("2 of 30 days") for line in said)
    for job in ("evaluate", "recommend"):
        outcome, _, log = start(job, "2026-11-25")
        assert outcome["exit"] == 0, (outcome, log)


@pytest.mark.thorough
def test_a_day_that_is_run_again_comes_to_the_same_model(home, monkeypatch):
    arguments = [f"output.path={home}/output/again", "factorization.rank=2", "gate.published=9"]
    arguments = [word for one in [*arguments, "gate.baseline=9"] for word in ("--set", one)]

    def train(day):
        outcome, _, log = start("train", day, *arguments)
        assert outcome["exit"] == 0, (outcome, log)
        return outcome, model_bits(outcome["model"])

    _, first_bits = train("2026-11-24")
    second, bits = train("2026-11-25")
    again, again_bits = train("2026-11-25")
    assert again["run_id"] != second["run_id"]
    assert again_bits == bits
    assert again["drift"] == second["drift"]
    assert again["metrics"] == second["metrics"]

    def die(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # once it is published
        patch.setattr("nonconvex.pipeline.release.remove_old_runs", die)
        outcome, _, _ = start("train", "2026-11-25", *arguments)
    assert outcome["exit"] == 130
    pointer = home / "output/again/published.json"
    assert json.loads(pointer.read_text())["run_id"] not in (second["run_id"], again["run_id"])
    assert train("2026-11-25")[1] == bits
    assert train("2026-11-24")[1] == first_bits
    last, last_bits = train("2026-11-25")  # after the run of the day before that came last
    assert last_bits == bits

    for run in (home / "output/again").glob("run_id=*"):
        if run.name != f"run_id={last['run_id']}":
            shutil.rmtree(run)
    outcome, _, log = start("train", "2026-11-25", *arguments)
    assert outcome["exit"] == 2
    assert "2026-11-25 cannot be repeated from where it began" in outcome["error"]
    assert "Traceback" not in log


def test_a_day_that_is_not_there_is_waited_for(home):
    outcome, _, _ = start("train", "2026-11-26")
    assert outcome["exit"] == 3
    assert "has no date=2026-11-26, the last one is date=2026-11-25" in outcome["error"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--run-date", "tomorrow"], "--run-date takes YYYY-MM-DD, got 'tomorrow'"),
        (["--set", "ratings.until=2026-11-25"], "says {run_date} nowhere"),
        (["--set", "ratings.partition=''"], "ratings.partition"),
        (["--set", "ratings.days=0"], "ratings.days"),
        (["--set", "ratings.days=999999"], "ratings.days"),
    ],
)
def test_days_that_cannot_be(home, more, message):
    outcome, _, _ = start("train", "2026-11-25", *more)
    assert outcome["exit"] == 2
    assert message in outcome["error"]


def test_the_command_stops_at_the_first_job_that_fails(monkeypatch, capsys):
    started = []

    class Job:
        def __init__(self, command):
            started.append(command)

        def wait(self):
            return 4 * (len(started) == 2)

    monkeypatch.setattr(nightly.subprocess, "Popen", Job)
    assert nightly.run_night(["2026-11-25"]) == 4
    assert [command[3] for command in started] == ["train", "evaluate"]
    assert started[0][4:] == ["--config", "conf/nightly.toml", "--run-date", "2026-11-25"]
    assert nightly.run_night([]) == 2
    assert "usage" in capsys.readouterr().err


def test_a_signal_reaches_the_job_that_runs_and_no_other_starts(monkeypatch):
    signals = []

    class Job:
        def __init__(self, command):
            assert not signals, command

        def wait(self):
            signal.raise_signal(signal.SIGTERM)
            assert signals == [signal.SIGTERM]
            return -signal.SIGTERM if raised else 0

        def terminate(self):
            signals.append(signal.SIGTERM)

    monkeypatch.setattr(nightly.subprocess, "Popen", Job)
    for raised in (True, False):  # noqa: B007  # it died of it before it could tell, or was done
        signals.clear()
        assert nightly.run_night(["2026-11-25"]) == 143
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_dag_submits_the_same_chain(monkeypatch):
    tasks, edges = [], []

    class Dag:
        def __init__(self, name, **settings):
            assert settings["max_active_runs"] == 1

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    class Task:
        def __init__(self, **settings):
            self.settings = settings
            tasks.append(self)

        def __rshift__(self, other):
            edges.append((self.settings["task_id"], other.settings["task_id"]))

    operators = "airflow.providers.apache.spark.operators.spark_submit"
    parts = operators.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["airflow"].DAG = Dag
    sys.modules[operators].SparkSubmitOperator = Task
    runpy.run_path(str(ROOT / "jobs/nightly_dag.py"))
    assert [task.settings["task_id"] for task in tasks] == list(nightly.CHAIN)
    assert edges == [("train", "evaluate"), ("evaluate", "recommend")]
    for task in tasks:
        name = task.settings["task_id"]
        assert task.settings["application"].endswith(f"/jobs/{nightly.script(name)}.py")
        assert task.settings["application_args"] == nightly.arguments(name, "{{ ds }}")
