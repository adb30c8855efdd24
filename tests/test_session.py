"""The session: which settings take effect, who wins, how quiet it is, and what is said of Java."""

import json
import os
import stat
import sys
from pathlib import Path

import pyspark
import pytest
from pyspark.sql import SparkSession

from nonconvex import __version__, session
from nonconvex.distributed.worker_daemon import SHARED
from nonconvex.session import JavaError, _archive, get_session, read_defaults
from tests.processes import completed

REPOSITORY = Path(__file__).parent.parent
SETTINGS = REPOSITORY / "nonconvex" / "conf"

# Runs in a process of its own and prints, as JSON, what a session and its Python workers look like.
PROBE = f"""
import json, os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from nonconvex.session import get_session


def worker(batches):
    import pyarrow as pa

    for _ in batches:
        pass
    shown = [sys.executable, *map(os.environ.get, ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"])]
    yield pa.RecordBatch.from_pydict({{"shown": [json.dumps(shown)]}})


def endless(batches):
    import pyarrow as pa

    for batch in batches:
        yield from [batch] * 1000


spark = get_session("probe", {{"spark.sql.shuffle.partitions": "3"}}, conf_dir=sys.argv[1])
jvm = spark.sparkContext._jvm
print(json.dumps({{
    "conf": dict(spark.sparkContext.getConf().getAll()),
    "time zone": spark.conf.get("spark.sql.session.timeZone"),
    "memory": jvm.java.lang.Runtime.getRuntime().maxMemory(),
    "worker": json.loads(spark.range(1).mapInArrow(worker, "shown string").collect()[0].shown),
    "imported": spark.sparkContext.range(1).map(lambda _: list(sys.modules)).collect()[0],
    "own python": sys.executable,
}}))
spark.range(100_000).mapInArrow(endless, "id long").first()  # hangs up on a worker that writes
spark.stop()
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "probe.py"
    path.write_text(PROBE, encoding="utf-8")
    return path


def environment(**changes):
    """The environment of a shell in which nobody has set anything of Spark's."""
    ours = ("PYSPARK_PYTHON", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "SPARK_CONF_DIR")
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    return kept | changes


def observed(*command, **changes):
    """What the probe prints, and the lines of its standard error."""
    done = completed(*command, env=environment(**changes))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr.splitlines()


@pytest.fixture(scope="module")
def plain(probe):
    """The session of a plain python process, where python3 on the PATH is another Python."""
    return observed(sys.executable, probe, SETTINGS, PATH="/usr/bin:/bin")


@pytest.fixture(scope="module")
def submitted(probe):
    """The session of a process under spark-submit, with flags."""
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    flags = ["--master", "local[1]", "--name", "mine", "--driver-memory", "600m"]
    settings = "spark.sql.session.timeZone=Europe/Oslo", "spark.sql.shuffle.partitions=5"
    flags += [f"--conf={setting}" for setting in (*settings, "spark.ui.enabled=false")]
    command = [submit, *flags, probe, SETTINGS]
    return observed(*command, PYSPARK_DRIVER_PYTHON=sys.executable, PATH="/usr/bin:/bin")


class TestPlainPython:
    def test_it_is_local_and_has_the_memory_and_settings_of_file_and_argument(self, plain):
        conf = plain[0]["conf"]
        assert plain[0]["memory"] > 3.5 * 2**30
        assert (conf["spark.master"], conf["spark.app.name"]) == ("local[*]", "probe")
        assert conf["spark.python.unix.domain.socket.enabled"] == "true"
        assert not Path(conf["spark.python.unix.domain.socket.dir"]).exists(), "it is over"
        assert conf["spark.sql.shuffle.partitions"] == "3"
        assert plain[0]["time zone"] == "UTC"
        assert {*session._COMPILER} < {*conf["spark.driver.extraJavaOptions"].split()}

    def test_workers_run_this_python_with_one_thread_and_what_tasks_import(self, plain):
        assert plain[0]["worker"] == [plain[0]["own python"], "1", "1"]
        assert {module.__name__ for module in SHARED} | {"numpy"} <= set(plain[0]["imported"])

    def test_standard_error_is_quiet(self, plain):
        # No traceback of the pipe that a query with rows enough has broken.  The one line is Java's
        # own, from before any logging: Spark's launcher asks for the module.
        assert plain[1] == ["WARNING: Using incubator modules: jdk.incubator.vector"]


class TestSparkSubmit:
    def test_a_flag_wins_and_the_rest_comes_from_the_file(self, submitted):
        conf = submitted[0]["conf"]
        assert conf["spark.python.unix.domain.socket.enabled"] == "true"
        assert submitted[0]["worker"] == [sys.executable, "1", "1"]
        assert (conf["spark.master"], conf["spark.app.name"]) == ("local[1]", "mine")
        assert conf["spark.driver.memory"] == "600m"
        assert conf["spark.sql.shuffle.partitions"] == "5"
        assert submitted[0]["time zone"] == "Europe/Oslo"
        assert conf["spark.driver.host"] != "127.0.0.1", "nothing of one machine is added"
        assert "pandas" not in submitted[0]["imported"], "the daemon of workers is Spark's own"


def test_an_active_session_comes_back_as_it_is(spark):
    assert get_session("other", {"spark.sql.session.timeZone": "Asia/Tokyo"}) is not None
    assert SparkSession.getActiveSession().sparkContext.appName == "tests"
    assert spark.conf.get("spark.sql.session.timeZone") == "UTC"


class TestReadDefaults:
    def test_the_forms_of_a_line(self, tmp_path):
        (tmp_path / "spark-defaults.conf").write_text(
            "# comment\n\n spark.a   1\nspark.b=two words \nspark.c : x=y\nspark.d\t4\nspark.e\n"
        )
        values = {"a": "1", "b": "two words", "c": "x=y", "d": "4", "e": ""}
        assert read_defaults(tmp_path) == {f"spark.{key}": v for key, v in values.items()}
        assert read_defaults(tmp_path / "absent") == {}


class TestJava:
    """`get_session` where Java is not what Spark needs; a shell script plays Java."""

    @pytest.fixture(autouse=True)
    def _no_session(self, monkeypatch):
        monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
        monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)

    @pytest.fixture
    def java_home(self, tmp_path, monkeypatch):
        """Make a JAVA_HOME whose java runs a line of shell."""

        def make(line):
            program = tmp_path / "bin" / "java"
            program.parent.mkdir()
            program.write_text(f"#!/bin/sh\n{line}\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
            monkeypatch.setenv("JAVA_HOME", str(tmp_path))
            return program

        return make

    def test_none_on_the_path(self, monkeypatch, tmp_path):
        monkeypatch.delenv("JAVA_HOME", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(
            JavaError,
            match=r"^Spark needs Java, and there is none in JAVA_HOME or on the PATH: "
            r"install a JDK 17 or later \(on Debian: openjdk-17-jdk\)$",
        ):
            get_session("test")

    def test_none_in_java_home(self, monkeypatch, tmp_path):
        monkeypatch.setenv("JAVA_HOME", str(tmp_path))
        with pytest.raises(JavaError, match=rf"there is none in JAVA_HOME \({tmp_path}\)"):
            get_session("test")

    @pytest.mark.parametrize(
        ("shown", "version"), [("1.8.0_412", 8), ("11.0.23", 11), ("16", 16), ("9-ea", 9)]
    )
    def test_too_old(self, java_home, shown, version):
        java = java_home(f"echo 'openjdk version \"{shown}\" 2024-04-16' >&2")
        with pytest.raises(JavaError, match=rf"not run on Java {version} \({java}\): install"):
            get_session("test")

    @pytest.mark.parametrize("content", [b"#!/bin/sh\necho hello >&2\n", b"\x7fELF not really"])
    def test_not_java(self, java_home, content):
        java = java_home("")
        java.write_bytes(content)
        with pytest.raises(JavaError, match=rf"Spark needs Java, and {java} does not run as one"):
            get_session("test")

    def test_cut_down(self, java_home):
        java_home(
            'case "$1" in --add-modules=*) echo "Error occurred" >&2; exit 1;; esac\n'
            "echo 'openjdk version \"21.0.1\"' >&2"
        )
        with pytest.raises(JavaError, match=r"lacks the module jdk\.incubator\.vector"):
            get_session("test")

    def test_without_the_options(self, java_home):
        java_home("case $* in *-XX*) exit 1;; esac\necho 'openjdk version \"99\"' >&2")
        assert not session._compiler_options()


INTERRUPTED = """
import os, time
from nonconvex.session import get_session
wait, times, me = time.sleep, iter([0.1] * 5), os.getpid()
time.sleep = lambda _: wait(next(times, 0) or os.kill(me, 2))  # as pyspark waits for Java
try:
    get_session("test")
except KeyboardInterrupt:
    os.wait()
"""


def test_java_does_not_outlive_a_signal_while_it_starts():
    """It is a child, which is waited for: it could not tell its port any more, nor would it end."""
    assert completed(sys.executable, "-c", INTERRUPTED, timeout=30).returncode == 0


def test_a_shipped_package_knows_its_version():
    """A server of Spark Connect without the package is asked for the version that it was sent."""
    ask = f"import sys; sys.path[:0] = [{str(_archive())!r}]; import nonconvex as n"
    said = completed(sys.executable, "-I", "-S", "-c", f"{ask}; print(n.__version__, n.__file__)")
    assert said.stdout.split() == [__version__, f"{_archive()}/nonconvex/__init__.py"]
