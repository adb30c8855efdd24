"""A standalone cluster on this machine: a master and two workers of one core each."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq
import pyspark

ROOT = Path(__file__).parents[2]
SPARK_HOME = Path(pyspark.__file__).parent


class Cluster:
    """Processes that run until `stop`; all they write is under one directory."""

    def __init__(self, directory, memory="1g", **environment):
        self.directory, self.memory, self._more = directory, memory, environment
        self._page = _free_port()
        self.master = f"spark://127.0.0.1:{_free_port()}"
        port = self.master.rpartition(":")[2]
        self._workers = []
        self._master = self._start("master.Master", "--port", port, "--webui-port", self._page)
        self._wait(lambda: self.workers() == 0)
        self._workers = [self._worker(number) for number in range(2)]
        self._wait(lambda: self.workers() == 2)

    def environment(self):
        """What processes of Spark are started with."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYSPARK")}
        kept.pop("PYTHONPATH", None)
        own = {
            "SPARK_HOME": str(SPARK_HOME),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(self.directory / "local"),
        }
        return kept | self._more | own

    def workers(self):
        """Return how many workers the master has, None if it does not answer yet."""
        with suppress(OSError, json.JSONDecodeError):  # at first its page is empty
            page = f"http://127.0.0.1:{self._page}/json/"
            with urllib.request.urlopen(page, timeout=5) as answer:
                return json.load(answer)["aliveworkers"]
        return None

    def submit(self, script, *arguments, settings, name="driver"):
        """Start spark-submit; return its process, which writes output.txt, and Java log.txt."""
        command = [SPARK_HOME / "bin/spark-submit", "--master", self.master]
        own = {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.memory": "1g",
            "spark.executor.memory": self.memory,
            "spark.ui.enabled": "false",
        }
        for key, value in (own | settings).items():
            command += [key, value] if key.startswith("--") else ["--conf", f"{key}={value}"]
        place = self.directory / name
        place.mkdir(exist_ok=True)
        with (place / "output.txt").open("w") as out, (place / "log.txt").open("w") as log:
            return subprocess.Popen(
                [*map(str, command), str(script), *map(str, arguments)],
                cwd=place,
                stdout=out,
                stderr=log,
                start_new_session=name != "driver",
                env=self.environment() | {"PYSPARK_DRIVER_PYTHON": sys.executable},
            )

    def wait_for(self, process, text, seconds=180):
        """Wait until the log of a driver says something."""
        log = self.directory / "driver/output.txt"  # spark-submit puts both there
        end = time.monotonic() + seconds
        while text not in log.read_text():
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < end, log.read_text()[-4000:]
            time.sleep(0.05)

    def outcome(self, process, seconds=300):
        """Wait for the end of a driver; return the last line that it printed."""
        process.wait(seconds)
        place = self.directory / "driver"
        lines = (place / "output.txt").read_text().splitlines()
        assert lines, (place / "log.txt").read_text()[-4000:]
        return json.loads(lines[-1])

    def kill_worker(self):
        """Kill one of the workers, and with it its executor."""
        os.kill(self._workers[0].pid, signal.SIGKILL)
        self._workers[0].wait()

    def restore(self):
        """Start a worker in the place of one that was killed."""
        if self._workers[0].poll() is not None:
            self._workers[0] = self._worker(0)
            self._wait(lambda: (self.workers() or 0) >= 2)

    def executors(self):
        """Return the ids of the processes of executors."""
        found = self._in_work_of("", "CoarseGrainedExecutorBackend", java=True)
        return sorted(found)

    def python_workers(self):
        """Return the commands of Python workers by the ids of their processes."""
        return self._in_work_of("", "pyspark") | self._in_work_of("", "worker_daemon")

    def stop(self):
        """End all processes, and wait for them."""
        for process in (*self._workers, self._master):
            process.terminate()
        for process in (*self._workers, self._master):
            process.wait(60)

    def _in_work_of(self, number, text, *, java=False):
        found = {}
        work = str(self.directory / f"work{number}")
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdecimal() and os.readlink(entry / "cwd").startswith(work):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if text in command and ("java" in command.split(" ")[0]) == java:
                        found[int(entry.name)] = command
        return found

    def _worker(self, number):
        work = self.directory / f"work{number}"
        size = ("--cores", 1, "--memory", self.memory, "--webui-port", 0, "--work-dir", work)
        return self._start("worker.Worker", *size, self.master)

    def _start(self, name, *arguments):
        command = [SPARK_HOME / "bin/spark-class", f"org.apache.spark.deploy.{name}"]
        command += ["--host", "127.0.0.1", *arguments]
        with (self.directory / f"{name}.{len(arguments)}.log").open("ab") as log:
            return subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=log, env=self.environment()
            )

    def _wait(self, met, seconds=180):
        end = time.monotonic() + seconds
        while not met():
            if time.monotonic() > end:
                self.stop()
                raise TimeoutError(f"the cluster in {self.directory} did not start")
            time.sleep(0.2)


def main():
    """Run a script with its arguments on a cluster, and print all that it prints."""
    with tempfile.TemporaryDirectory() as directory:
        cluster = Cluster(Path(directory), "3g")
        try:
            settings = {"spark.driver.memory": "6g"}
            cluster.submit(*sys.argv[1:], settings=settings).wait()
            print((cluster.directory / "driver/output.txt").read_text())
        finally:
            cluster.stop()


def model_bits(path):
    """All numbers of a factorization, read without Spark."""
    sides = []
    for side in ("userFactors", "itemFactors"):
        table = pq.read_table(Path(path) / side).sort_by("index").combine_chunks()
        sides.append(table.to_pydict())
    metadata = json.loads(next((Path(path) / "metadata").glob("part-*")).read_text())
    return metadata["globalBias"], *sides


def _free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":
    main()
