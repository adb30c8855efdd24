"""The runner: the JSON line, the exit status and the one sentence, for everything a job can do."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import Field
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nonconvex.pipeline.config import ConfigError, Section
from nonconvex.pipeline.runner import run


class Training(Section):
    rank: int = Field(default=10, ge=1)


class Config(Section):
    training: Training = Training()


class GateError(ValueError):
    exit_status = 4


@pytest.fixture
def job(tmp_path, capsys):
    """Run a job on an empty configuration; return its exit status, last line and log."""

    def run_job(function, *arguments):
        path = tmp_path / "job.toml"
        path.touch()
        status = run(
            function, Config, description="Test.", argv=["--config", str(path), *arguments]
        )
        printed = capsys.readouterr()
        outcome = json.loads(printed.out.splitlines()[-1], parse_constant=pytest.fail)
        assert outcome["exit"] == status
        return status, outcome, printed.err

    return run_job


@pytest.mark.usefixtures("spark")
class TestDone:
    def test_what_a_job_returns_is_reported(self, job):
        def main(spark, config):
            print("not the last line")
            return {"rows": spark.range(3).count(), "rank": config.training.rank}

        status, outcome, log = job(main, "--set", "training.rank=3")
        assert status == 0
        assert outcome == {"status": "ok", "rows": 3, "rank": 3, "exit": 0}
        assert log == ""

    def test_the_line_is_strict_json(self, job):
        result = {
            "nan": float("nan"),
            "infinite": [np.float64("inf"), 1.5],
            "numpy": {"int": np.int64(3), "float": np.float32(0.5), "bool": np.bool_(True)},
            "path": Path("a/b"),
            "none": None,
            3: ("é", True),
        }
        _, outcome, _ = job(lambda spark, config: result)
        assert outcome == {
            "status": "ok",
            "nan": None,
            "infinite": [None, 1.5],
            "numpy": {"int": 3, "float": 0.5, "bool": True},
            "path": "a/b",
            "none": None,
            "3": ["é", True],
            "exit": 0,
        }

    def test_the_session_of_the_caller_stays(self, job, spark):
        job(lambda session, config: {})
        assert spark.range(2).count() == 2

    @pytest.mark.parametrize(
        ("flags", "expected"),
        [
            ([], ["note", "warn"]),
            (["--quiet"], ["warn"]),
            (["--verbose"], ["fine", "note", "warn"]),
        ],
    )
    def test_how_much_is_logged(self, job, flags, expected):
        def main(spark, config):
            log = logging.getLogger("nonconvex.anything")
            log.debug("fine")
            log.info("note")
            log.warning("warn")
            return {}

        _, _, log = job(main, *flags)
        assert [line.split()[-1] for line in log.splitlines()] == expected

    def test_logging_is_left_as_it_was(self, job):
        def state():
            log = logging.getLogger("nonconvex")
            return log.level, log.propagate, list(log.handlers), list(logging.root.filters)

        before = state()
        job(lambda spark, config: {}, "--verbose")
        assert state() == before


def fail(error):
    """A job that raises."""

    def main(spark, config):
        raise error

    return main


@pytest.mark.usefixtures("spark")
class TestFailed:
    @pytest.mark.parametrize(
        ("error", "status"), [(GateError("RMSE 0.9 is above 0.8"), 4), (ConfigError("a.b"), 2)]
    )
    def test_an_expected_error_is_one_sentence(self, job, error, status):
        code, outcome, log = job(fail(error))
        assert code == status
        assert outcome == {"status": "error", "error": str(error), "exit": status}
        assert log.rstrip().endswith(f" ERROR {error}")
        assert len(log.splitlines()) == 1

    def test_a_percent_sign_is_only_text(self, job):
        assert job(fail(GateError("100%s %d")))[2].rstrip().endswith("100%s %d")

    def test_a_defect_leaves_its_traceback(self, job):
        status, outcome, log = job(fail(KeyError("rank")))
        assert status == 1
        assert outcome["error"] == "KeyError: 'rank'"
        assert "Traceback (most recent call last)" in log
        assert "the job failed" in log

    def test_an_interrupt(self, job):
        status, outcome, log = job(fail(KeyboardInterrupt()))
        assert (status, outcome["error"]) == (130, "interrupted")
        assert "Traceback" not in log

    @pytest.mark.parametrize(
        ("error", "status", "told"),
        [
            (ConfigError("'stars' has 3 null values; drop"), 2, "'stars' has 3 null values; drop"),
            (ZeroDivisionError("by zero"), 1, "ZeroDivisionError: by zero"),
        ],
    )
    def test_an_error_in_a_worker(self, job, error, status, told):
        def work(batches):
            raise error

        def main(spark, config):
            return {"rows": spark.range(2).mapInArrow(work, "id long").collect()}

        code, outcome, log = job(main)
        assert (code, outcome["error"]) == (status, told)
        assert ("Traceback" in log) == (status == 1)  # of a defect

    def test_a_check_in_a_plan(self, job, tmp_path):
        def main(spark, config):
            sentence = F.lit("column 'stars' is not a number; declare its type")
            checked = spark.range(2).select(F.raise_error(sentence).cast("string").alias("x"))
            checked.write.parquet(str(tmp_path / "out"))
            return {}

        status, outcome, log = job(main)
        assert status == 3
        assert outcome["error"] == "column 'stars' is not a number; declare its type"
        assert len(log.splitlines()) == 1


class TestUsage:
    """Nothing here gets as far as a session."""

    def usage(self, capsys, *argv):
        status = run(pytest.fail, Config, description="Test.", argv=argv)
        printed = capsys.readouterr()
        return status, json.loads(printed.out.splitlines()[-1]), printed.err

    def test_no_configuration(self, capsys):
        status, outcome, log = self.usage(capsys)
        assert status == 2
        assert outcome["error"] == "the following arguments are required: --config"
        assert log.startswith("usage: ")
        assert "Traceback" not in log

    @pytest.mark.parametrize(
        ("argument", "words"),
        [("--fast", "unrecognized arguments: --fast"), ("--set", "expected one argument")],
    )
    def test_wrong_arguments(self, capsys, argument, words):
        status, outcome, _ = self.usage(capsys, "--config", "x.toml", argument)
        assert status == 2
        assert words in outcome["error"]

    def test_no_such_file(self, capsys, tmp_path):
        status, outcome, log = self.usage(capsys, "--config", str(tmp_path / "x.toml"))
        assert status == 2
        assert outcome["error"].startswith("cannot read the configuration")
        assert len(log.splitlines()) == 1

    def test_a_value_out_of_range(self, capsys, tmp_path):
        path = tmp_path / "job.toml"
        path.write_text("[training]\nrank = 3")
        _, outcome, _ = self.usage(capsys, "--config", str(path), "--set", "training.rank=0")
        assert outcome["error"].endswith("rank must be greater than or equal to 1, got 0")

    def test_help(self, capsys):
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
    quiet = Path(__file__).parents[2] / "conf" / "log4j2.properties"
    (tmp_path / "conf" / "log4j2.properties").write_bytes(quiet.read_bytes())

    def call(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "jobs/count_rows.py", "--config", "conf/job.toml", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


class TestProcess:
    def test_a_plain_run(self, script):
        done = script()
        assert done.returncode == 0, done.stderr
        outcome = {"status": "ok", "rows": 4, "mark": "here", "name": "count_rows", "exit": 0}
        assert [json.loads(line) for line in done.stdout.splitlines()] == [outcome]
        logged = [line for line in done.stderr.splitlines() if "incubator" not in line]
        assert [line.split(maxsplit=2)[2] for line in logged] == ["INFO counting"]

    @pytest.mark.thorough
    def test_an_interrupt_is_one_sentence(self, script):
        done = script("--set", "wait=true")
        assert done.returncode == 130
        assert json.loads(done.stdout)["error"] == "interrupted"
        assert done.stderr.count("ERROR") == done.stderr.count("ERROR interrupted") == 1
        assert "Traceback" not in done.stderr, done.stderr

    def test_without_java(self, script, tmp_path):
        done = script(JAVA_HOME=str(tmp_path / "absent"))
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"].startswith("Spark needs Java, and there is none")
        assert len(done.stderr.splitlines()) == 1


def test_a_session_of_its_own_is_stopped(monkeypatch, job):
    """The runner stops what it started, also when the job fails."""

    class Session:
        stopped = 0

        def stop(self):
            self.stopped += 1

    session = Session()
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.setattr("nonconvex.pipeline.runner.get_session", lambda *args, **kwargs: session)
    job(lambda spark, config: {})
    job(fail(GateError("no")))
    assert session.stopped == 2
