"""Jobs on a standalone cluster: submitted with a zip and a packed environment, and shot at."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nonconvex.benchmark.measure import resident
from tests.jobs.cluster import ROOT, Cluster, model_bits

pytestmark = pytest.mark.thorough

JOB = ROOT / "jobs/train_factorization.py"
_NEEDED = ("numpy", "pyarrow", "pandas", "python-dateutil", "pytz", "six", "tzdata")

CONFIG = """
ratings.path = "{ratings}"
prepared = {{ path = "{root}/prepared", user_blocks = 4, item_blocks = 4 }}
factorization = {{ rank = 8, maxIter = 12, tol = 0.0, updates = "executors" }}
output.path = "{root}/runs"
report.write = false
"""


NETWORK = """
examples = {{ path = "{root}/examples.parquet", task = "classification" }}
split = {{ validation = 0.2, test = 0.2 }}
network = {{ layers = [8], batchSize = 128, maxIter = 3, numRestarts = 2 }}
output.path = "{root}/networks"
report.write = false
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The zip that docs/clusters.md makes."""
    path = tmp_path_factory.mktemp("package") / "nonconvex.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((ROOT / "nonconvex").rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, file.relative_to(ROOT))
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp("jobs")
    ratings = ROOT / "tests/data/movietweetings/ratings.parquet"
    path = root / "config.toml"
    path.write_text(CONFIG.format(ratings=ratings, root=root))
    return path


@pytest.fixture(scope="module")
def bits(config):
    """The model as one machine without a cluster makes it."""
    return model_bits(run_here(JOB, "--config", config)["model"])


def run_here(job, *arguments):
    """Run a job without a cluster; return the last line that it printed."""
    command = [sys.executable, *map(str, (job, *arguments))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["exit"] == 0, done.stderr[-4000:]
    return outcome


def network_bits(path):
    """All parameters of a network, read without Spark."""
    return pq.read_table(Path(path) / "weights").sort_by("index").to_pydict()


def installed(package):
    """Settings for executors that use what is installed here."""
    python = {"spark.pyspark.python": sys.executable, "spark.pyspark.driver.python": sys.executable}
    return python | {"--py-files": package}


def files_of(name):
    try:
        return distribution(name).files or []
    except PackageNotFoundError:  # not every version of pandas needs all
        return []


def packed_environment(directory):
    """Return the archive of an environment with what executors need, made without a network."""
    home = directory / "environment"
    venv.create(home, symlinks=False)
    site = next((home / "lib").glob("python*/site-packages"))
    archive = directory / "environment.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        packed.add(home, ".")
        files = [file for name in _NEEDED for file in files_of(name)]
        for file in files:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                packed.add(file.locate(), site.relative_to(home) / file)
    return archive


def descriptions(log):
    """The descriptions of all Spark jobs of an application, in their order."""
    (file,) = (path for path in log.rglob("*") if path.is_file() and path.name.startswith("events"))
    events = map(json.loads, file.read_text().splitlines())
    return [
        event["Properties"].get("spark.job.description")
        for event in events
        if event["Event"] == "SparkListenerJobStart"
    ]


def test_a_packed_environment_and_a_zip_are_all_that_executors_need(
    cluster, package, config, bits, tmp_path
):
    archive = packed_environment(tmp_path)
    (tmp_path / "events").mkdir()
    settings = {
        "--py-files": package,
        "--archives": f"{archive}#environment",
        "spark.pyspark.python": "./environment/bin/python",
        "spark.pyspark.driver.python": sys.executable,
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": (tmp_path / "events").as_uri(),
    }
    process = cluster.submit(JOB, "--config", config, settings=settings)
    cluster.wait_for(process, "iteration   1")
    commands = cluster.python_workers().values()
    assert commands
    assert all(one.startswith("./environment/bin/python") for one in commands)
    outcome = cluster.outcome(process)
    assert outcome["exit"] == 0, outcome
    assert model_bits(outcome["model"]) == bits
    named = descriptions(tmp_path / "events")
    assert "iteration 3 · users" in named
    assert all(named), "a job that Spark's page would show without a description"


@pytest.mark.parametrize("place", ["driver", "executors"])
def test_a_network_has_the_bits_of_one_machine(cluster, package, tmp_path, place):
    draw = np.random.default_rng(3)
    features = draw.normal(size=(4000, 5))
    columns = {f"x{number}": column for number, column in enumerate(features.T)}
    columns["label"] = (features @ [1, -1, 2, 0, 1] + draw.normal(size=4000) > 0).astype(int)
    pq.write_table(pa.table(columns), tmp_path / "examples.parquet")
    (tmp_path / "network.toml").write_text(NETWORK.format(root=tmp_path))
    job = ROOT / "jobs/train_network.py"
    arguments = ["--config", tmp_path / "network.toml", "--set", f"network.gradients={place}"]
    outcome = cluster.outcome(cluster.submit(job, *arguments, settings=installed(package)))
    assert outcome["exit"] == 0, outcome
    alone = run_here(job, *arguments)
    assert network_bits(outcome["model"]) == network_bits(alone["model"])
    assert outcome["metrics"] == alone["metrics"]


def test_the_driver_needs_less_memory_than_the_examples(cluster, package, tmp_path):
    """Train on 10 GB of features, 3.2 million rows; the driver's Python and Java take 1.5 GB."""
    rows, width, copies = 50_000, 784, 64
    draw = np.random.default_rng(4)
    values = pa.array(draw.random(rows * width, dtype=np.float32))
    columns = {
        "features": pa.FixedSizeListArray.from_arrays(values, width),
        "label": draw.integers(10, size=rows),
    }
    table = tmp_path / "examples.parquet"
    table.mkdir()
    pq.write_table(pa.table(columns), table / "0.parquet", row_group_size=5_000)
    for copy in range(1, copies):
        (table / f"{copy}.parquet").hardlink_to(table / "0.parquet")
    (tmp_path / "network.toml").write_text(NETWORK.format(root=tmp_path))
    network = {"gradients": "driver", "batchSize": 4096, "maxIter": 1, "numRestarts": 1}
    changes = {f"network.{name}": value for name, value in network.items()}
    changes |= {"split.validation": 0.01, "split.test": 0.01}
    arguments = ["--config", tmp_path / "network.toml"]
    for key, value in changes.items():
        arguments += ["--set", f"{key}={value}"]
    settings = installed(package) | {"spark.driver.memory": "700m"}
    driver = cluster.submit(ROOT / "jobs/train_network.py", *arguments, settings=settings)
    peak = 0
    while driver.poll() is None:
        peak = max(peak, resident(driver.pid))
        time.sleep(0.2)
    outcome = cluster.outcome(driver)
    assert outcome["exit"] == 0, outcome
    assert sum(outcome["rows"].values()) == rows * copies
    print(f"{peak / 1e9:.2f} GB")
    assert peak < 1.5e9


def test_a_killed_worker_and_killed_python_workers_change_no_bit(cluster, package, config, bits):
    process = cluster.submit(JOB, "--config", config, settings=installed(package))
    cluster.wait_for(process, "iteration   2")
    killed = 0
    for iteration in (3, 4):
        for worker in cluster.python_workers():
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
                killed += 1
        cluster.wait_for(process, f"iteration   {iteration}")
    assert killed
    cluster.kill_worker()
    outcome = cluster.outcome(process)
    assert outcome["exit"] == 0, outcome
    assert model_bits(outcome["model"]) == bits
    end = time.monotonic() + 90  # a worker that says nothing is missed after a minute
    while cluster.workers() != 1:
        assert time.monotonic() < end
        time.sleep(1)
