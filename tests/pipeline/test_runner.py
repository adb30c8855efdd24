"""The runner: the JSON line, the exit status and the one sentence, for everything a job can do."""

import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from pydantic import Field
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.runtime import StoppedError
from nonconvex.distributed.termination import Terminated
from nonconvex.pipeline.config import ConfigError, Section
from nonconvex.pipeline.runner import run
from tests.processes import completed


class Training(Section):
    rank: int = Field(default=10, ge=1)


class Config(Section):
    training: Training = Training()


class GateError(ValueError):
    exit_status = 4


@pytest.fixture
def job(spark, tmp_path, capsys):
    """Run a job on an empty configuration; return its exit status, last line and log."""

    def run_job(function, *arguments):
        path = tmp_path / "job.toml"
        path.touch()
        argv = ["--config", str(path), *arguments]
        status = run(function, Config, description="Test.", argv=argv)
        printed = capsys.readouterr()
        outcome = json.loads(printed.out.splitlines()[-1], parse_constant=pytest.fail)
        assert outcome["exit"] == status
        return status, outcome, printed.err

    return run_job


def test_what_a_job_returns_is_reported_and_the_session_of_the_caller_stays(job, spark):
    def main(spark, config):
        print("not the last line")
        return {"rows": spark.range(3).count(), "rank": config.training.rank}

    status, outcome, log = job(main, "--set", "training.rank=3")
    assert status == 0
    assert outcome == {"status": "ok", "rows": 3, "rank": 3, "exit": 0}
    assert log == ""
    assert spark.range(2).count() == 2


def test_the_line_is_strict_json(job):
    numbers = {"int": np.int64(3), "float": np.float32(0.5), "bool": np.bool_(True)}
    result = {"nan": float("nan"), "infinite": [np.float64("inf"), 1.5], "numpy": numbers}
    result |= {"path": Path("a/b"), "none": None, 3: ("é", True)}
    expected = {"nan": None, "infinite": [None, 1.5], "path": "a/b", "none": None}
    expected |= {"numpy": {"int": 3, "float": 0.5, "bool": True}, "3": ["é", True]}
    assert job(lambda spark, config: result)[1] == {"status": "ok", "exit": 0} | expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [([], "note warn"), (["--quiet"], "warn"), (["--verbose"], "fine note warn")],
)
def test_how_much_is_logged_and_that_logging_is_left_as_it_was(job, flags, expected):
    log = logging.getLogger("nonconvex")

    def state():
        return log.level, log.propagate, list(log.handlers), list(logging.root.filters)

    def main(spark, config):
        for level, text in (("DEBUG", "fine"), ("INFO", "note"), ("WARNING", "warn")):
            log.getChild("anything").log(logging.getLevelName(level), text)
        return {}

    before = state()
    logged = job(main, *flags)[2]
    assert [line.split()[-1] for line in logged.splitlines()] == expected.split()
    assert state() == before


def fail(error):
    """A job that raises."""

    def main(spark, config):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status"),
    [(GateError("RMSE 0.9 is above 0.8"), 4), (ConfigError("a.b"), 2), (GateError("100%s %d"), 4)],
)
def test_an_expected_error_is_one_sentence(job, error, status):
    code, outcome, log = job(fail(error))
    assert code == status
    assert outcome == {"status": "error", "error": str(error), "exit": status}
    assert log.rstrip().endswith(f" ERROR {error}")
    assert len(log.splitlines()) == 1


def test_what_spark_says_after_a_signal_is_not_the_reason(job, caplog):
    def main(spark, config):
        logging.getLogger("py4j.clientserver").error("Exception while shutting down connection")
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        raise StoppedError("the session was stopped")

    status, outcome, _ = job(main)
    assert (status, outcome["error"], caplog.text) == (143, "terminated", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_not_lost_in_a_finalizer_nor_behind_what_a_cleanup_raises(job, number):
    class Garbage:
        def __del__(self):
            os.kill(os.getpid(), number)
            [None for _ in range(1000)]  # the handler runs in here

    def main(spark, config):
        try:
            Garbage()
            time.sleep(20)
        finally:
            spark.sql("SELECT raise_error('broken pipe')").collect()

    expected = {signal.SIGTERM: (143, "terminated"), signal.SIGINT: (130, "interrupted")}
    status, outcome, log = job(main)
    assert (status, outcome["error"], "Traceback" in log) == (*expected[number], False)


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [(ConfigError("no x; drop"), 2, "no x; drop"), (KeyError("x"), 1, "KeyError: 'x'")],
)
def test_an_error_in_a_worker(job, error, status, told):
    def work(batches):
        raise error

    def main(spark, config):
        return {"rows": spark.range(2).mapInArrow(work, "id long").collect()}

    code, outcome, log = job(main)
    assert (code, outcome["error"]) == (status, told)
    assert ("Traceback" in log) == (status == 1)  # of a defect


def test_a_check_in_a_plan(job, tmp_path):
    def main(spark, config):
        sentence = F.lit("column 'stars' is not a number; declare its type")
        checked = spark.range(2).select(F.raise_error(sentence).cast("string").alias("x"))
        checked.write.parquet(str(tmp_path / "out"))
        return {}

    status, outcome, log = job(main)
    assert status == 3
    assert outcome["error"] == "column 'stars' is not a number; declare its type"
    assert len(log.splitlines()) == 1


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        ([], "^one of the arguments FILE --config is required$"),
        (["no/such.toml"], "^cannot read the configuration no/such.toml: No such file"),
        (["--config", "x.toml", "--fast"], "unrecognized arguments: --fast"),
        (["--config", "x.toml", "--set"], "expected one argument"),
        (["--config", "no/such.toml"], "^cannot read the configuration"),
        (["--config", "job.toml", "--set", "training.rank=0"], "rank must be .* to 1, got 0$"),
    ],
)
def test_wrong_usage_does_not_get_as_far_as_a_session(capsys, tmp_path, monkeypatch, argv, error):
    monkeypatch.chdir(tmp_path)
    Path("job.toml").write_text("[training]\nrank = 3")
    assert run(pytest.fail, Config, description="Test.", argv=argv) == 2
    printed = capsys.readouterr()
    assert re.search(error, json.loads(printed.out.splitlines()[-1])["error"])
    assert "Traceback" not in printed.err
    if "arg" in error:
        assert printed.err.startswith("usage: ")
    else:
        assert len(printed.err.splitlines()) == 1


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        run(pytest.fail, Config, description="Prepare.\n\nTwice.", argv=["--help"])
    assert stop.value.code == 0
    assert "Prepare.\n\nTwice." in capsys.readouterr().out


SCRIPT = """
import logging, os, signal, sys, threading, time
from nonconvex.pipeline.config import Section
from nonconvex.pipeline.runner import run


class Config(Section):
    rows: int = 3
    wait: bool = False


def sleep(batches):
    time.sleep(60)
    yield from batches


def main(spark, config):
    if config.wait:
        threading.Timer(3, os.kill, (os.getpid(), signal.SIGINT)).start()
        spark.range(1).mapInArrow(sleep, "id long").collect()
    logging.getLogger("nonconvex").info("counting")
    conf = spark.sparkContext.getConf()
    assert config.rows, "no rows"
    return {"rows": spark.range(config.rows).count(), "mark": conf.get("spark.mark"),
            "name": conf.get("spark.app.name")}


if __name__ == "__main__":
    sys.exit(run(main, Config, description=__doc__))
"""


@pytest.fixture
def script(tmp_path):
    """A job in a repository of its own: jobs/count_rows.py beside conf/."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "conf").mkdir()
    (tmp_path / "jobs" / "count_rows.py").write_text(SCRIPT)
    (tmp_path / "conf" / "job.toml").write_text("rows = 4")
    (tmp_path / "conf" / "spark-defaults.conf").write_text("spark.mark  here\n")
    quiet = Path(__file__).parents[2] / "nonconvex" / "conf" / "log4j2.properties"
    (tmp_path / "conf" / "log4j2.properties").write_bytes(quiet.read_bytes())

    def call(*arguments, **environment):
        command = sys.executable, "jobs/count_rows.py", "--config", "conf/job.toml", *arguments
        package = {"PYTHONPATH": str(Path(__file__).parents[2])}
        return completed(*command, cwd=tmp_path, env=os.environ | package | environment)

    return call


def test_a_plain_run(script):
    done = script()
    assert done.returncode == 0, done.stderr
    outcome = {"status": "ok", "rows": 4, "mark": "here", "name": "count_rows", "exit": 0}
    assert [json.loads(line) for line in done.stdout.splitlines()] == [outcome]
    logged = [line for line in done.stderr.splitlines() if "incubator" not in line]
    assert [line.split(maxsplit=2)[2] for line in logged] == ["INFO counting"]


def test_a_defect_leaves_its_traceback(script):
    done = script("--set", "rows=0")
    outcome = {"status": "error", "error": "AssertionError: no rows", "exit": 1}
    assert json.loads(done.stdout) == outcome
    assert re.search(r" ERROR the job failed\nTraceback \(most recent call last\)", done.stderr)


@pytest.mark.thorough
def test_an_interrupt_is_one_sentence(script):
    done = script("--set", "wait=true")
    assert done.returncode == 130
    assert json.loads(done.stdout)["error"] == "interrupted"
    assert done.stderr.count("ERROR") == done.stderr.count("ERROR interrupted") == 1
    assert "Traceback" not in done.stderr, done.stderr


def test_without_java(script, tmp_path):
    done = script(JAVA_HOME=str(tmp_path / "absent"))
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"].startswith("Spark needs Java, and there is none")
    assert len(done.stderr.splitlines()) == 1


def test_a_session_of_its_own_is_stopped_and_has_settings_beside_it(monkeypatch, job, tmp_path):
    given, beside, script = [], tmp_path / "conf", tmp_path / "conf/job.py"
    session = MagicMock()
    session.stop.side_effect = ConnectionRefusedError("Java has ended")
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    name = "nonconvex.pipeline.runner.get_session"
    monkeypatch.setattr(name, lambda _, conf_dir: given.append(conf_dir) or session)
    job(lambda spark, config: {})
    monkeypatch.setattr("nonconvex.pipeline.runner._script", lambda job: script)
    beside.mkdir()
    script.touch()
    assert job(fail(GateError("no")))[0] == GateError.exit_status
    if os.getuid() == 0:  # who can give directories away
        os.chown(beside, 12345, 12345)
        job(lambda spark, config: {})
    assert (session.stop.call_count, given) == (len(given), [None, beside, None][: len(given)])
