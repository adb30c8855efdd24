"""No other user of the machine reaches the sockets between Java and Python."""

import json
import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pyspark import SparkContext

from nonconvex import session
from nonconvex.session import get_session
from tests.jobs.cluster import ROOT, SPARK_HOME

as_another = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")

ATTACK = """
import json, os, socket, sys
os.setgroups([])  # but that of the job, as colleagues have
os.setuid(65534)
reached = []
for path in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(path)
        except PermissionError:
            continue
        reached.append(path)
print(json.dumps([os.geteuid(), reached]))
"""

# Prints where its sockets are, and the umask of its tasks; waits for a file.
SESSION = """
import json, os, sys, time
sys.path.insert(0, sys.argv[1])
from nonconvex.session import get_session

def task(batches):
    import pyarrow as pa
    mask = os.umask(0)
    os.umask(mask)
    for _ in batches:
        yield pa.RecordBatch.from_pydict({"mask": [mask]})

spark = get_session("attacked")
mask = spark.range(1, numPartitions=1).mapInArrow(task, "mask long").first().mask
print(json.dumps([mask, spark.conf.get("spark.python.unix.domain.socket.dir")]), flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
spark.stop()
"""


def attack(paths):
    """Try to connect as another user of the same group; return what could be connected to."""
    assert paths
    command = [sys.executable, "-c", ATTACK, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    user, reached = json.loads(done.stdout)
    assert user != os.geteuid()
    return reached


@pytest.fixture
def open_place(monkeypatch):
    """A temporary directory in which everyone may do everything, as /tmp is."""
    with tempfile.TemporaryDirectory(prefix="nc", dir="/tmp", ignore_cleanup_errors=True) as place:
        os.chmod(place, 0o1777)
        monkeypatch.setenv("TMPDIR", place)
        monkeypatch.setenv("JAVA_TOOL_OPTIONS", f"-Djava.io.tmpdir={place}")
        yield Path(place)


def sockets_in(place):
    """Sockets of the file system that a process has bound there."""
    found = re.findall(rf"{place}/\S+", Path("/proc/net/unix").read_text())
    return sorted(path for path in found if os.path.exists(path))


@as_another
@pytest.mark.parametrize("mask", ["000", "002", "022"])
def test_the_daemon_of_workers(open_place, mask):
    """In a session of the user's own, and on executors: wherever the socket is."""
    command = [sys.executable, "-m", "nonconvex.distributed.worker_daemon"]
    environment = {"PYTHON_UNIX_DOMAIN_ENABLED": "true", "PYTHONPATH": str(ROOT)}
    environment |= {"PYTHON_WORKER_FACTORY_SOCK_DIR": str(open_place)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "umask": int(mask, 8)}
    with subprocess.Popen(command, env=os.environ | environment, **pipes) as daemon:
        length = int.from_bytes(daemon.stdout.read(4), "big")
        path = daemon.stdout.read(length).decode()
        assert sockets_in(open_place) == [path]
        assert attack([path]) == []
        daemon.stdin.close()


@as_another
@pytest.mark.parametrize(
    ("mask", "submit"),
    [
        ("000", False),
        *(
            pytest.param(mask, submit, marks=pytest.mark.thorough)
            for mask, submit in [("002", False), ("022", False), ("000", True), ("002", True)]
        ),
    ],
)
def test_a_session(open_place, tmp_path, mask, submit):
    script = tmp_path / "session.py"
    script.write_text(SESSION)
    command = [sys.executable]
    if submit:
        command = [str(SPARK_HOME / "bin/spark-submit"), "--master", "local[1]"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "umask": int(mask, 8)}
    environment = os.environ | {"PYSPARK_DRIVER_PYTHON": sys.executable}
    command += [str(script), str(ROOT), str(tmp_path / "seen")]
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        try:
            found, place = json.loads(next(one for one in process.stdout if one[0] == "["))
            assert found == int(mask, 8), "the files of tasks are as open as they were"
            assert stat.S_IMODE(os.stat(place).st_mode) == 0o700
            bound = sockets_in(open_place)
            assert {os.path.dirname(path) for path in bound} == {place}
            assert attack(bound) == []
        finally:
            (tmp_path / "seen").touch()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert not os.path.exists(place)


class TestWhereTheyAreUsed:
    """The choice, as a session is made."""

    def test_local_mode_alone(self, monkeypatch):
        monkeypatch.setattr(SparkContext, "_active_spark_context", None)
        wants, name = session._wants_sockets, "spark.python.unix.domain.socket"
        assert wants("local[*]", {})
        assert wants("local-cluster[1,1,1024]", {})
        assert not wants("spark://host:7077", {})
        assert not wants("yarn", {f"{name}.enabled": "true"})
        assert not wants("local", {f"{name}.enabled": "false"})
        assert not wants("local", {f"{name}.dir": "/mine"})

    def test_not_where_their_paths_would_be_too_long(self, monkeypatch, tmp_path):
        place = tmp_path / ("x" * 60)
        place.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        assert session._private_directory() is None
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
        assert session._private_directory() is None

    def test_a_session_that_is_there_keeps_its_own(self, spark):
        assert get_session("other") is spark
        directory = Path(spark.conf.get("spark.python.unix.domain.socket.dir"))
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
