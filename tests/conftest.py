"""Fixtures shared by all tests. Nothing here imports pyspark until a test asks for a session."""

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

# For the session and for the jobs that tests start as processes, all of them short: a test is over
# before the optimizing compiler of Java pays, but not before the little room for code that Java
# has without it is full; and nothing is gained by verifying the classes of Spark.
_JAVA_OPTIONS = (
    "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC "
    "-XX:+IgnoreUnrecognizedVMOptions -XX:+UnlockDiagnosticVMOptions "
    "-XX:-BytecodeVerificationRemote"
)


def pytest_configure(config: pytest.Config) -> None:
    """Start Java quickly; let the garbage collector close sockets, as pyspark 4.1 does."""
    for variable in ("SPARK_SUBMIT_OPTS", "SPARK_LAUNCHER_OPTS"):
        os.environ.setdefault(variable, _JAVA_OPTIONS)
    if version("pyspark").startswith("4.1."):
        config.addinivalue_line("filterwarnings", "ignore:unclosed <socket.socket:ResourceWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest test, which would leave the other process idle at the end."""
    items.sort(key=lambda item: "test_same_bits" not in item.nodeid)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[SparkSession]":
    """The one Spark session of the test run: two cores, two shuffle partitions.

    With SPARK_REMOTE=local[2] in the environment it is one of Spark Connect: see test_connect.py.
    """
    from py4j.java_gateway import JavaPackage, JVMView

    from nonconvex.session import get_session

    patch = pytest.MonkeyPatch()
    patch.setenv("PYSPARK_PYTHON", sys.executable)
    for names in (JVMView, JavaPackage):
        patch.setattr(names, "__getattr__", _remembering(names.__getattr__))
    settings = {
        "spark.driver.memory": "2g",
        # The jobs of tests are tiny: planning and compiling them is most of the time.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.ui.explainMode": "simple",
        "spark.sql.shuffle.partitions": "2",
        "spark.default.parallelism": "2",
        "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
    }
    if "SPARK_REMOTE" in os.environ:
        session = _remote_session(settings)
    else:
        session = get_session("tests", {"spark.master": "local[2]", **settings})
    yield session
    session.stop()
    patch.undo()


def _remote_session(settings: dict[str, str]) -> "SparkSession":
    """Start a server of Spark Connect with these settings, as SPARK_REMOTE says."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder
    settings |= {
        "spark.python.daemon.module": "nonconvex.distributed.worker_daemon",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are of the server, which has them by then
        return builder.getOrCreate()


def _remembering(look_up: Any) -> Any:
    """Keep what a name of Java means, which py4j looks for in all jars each time it is used."""

    def remember(self: Any, name: str) -> Any:
        found = look_up(self, name)
        if not name.startswith("__"):
            self.__dict__[name] = found
        return found

    return remember


@pytest.fixture
def configure(spark: "SparkSession") -> "Iterator[Callable[[dict[str, str]], None]]":
    """Change settings of the session for one test."""
    before: dict[str, str | None] = {}

    def change(settings: dict[str, str]) -> None:
        for name, value in settings.items():
            before.setdefault(name, spark.conf.get(name, None))
            spark.conf.set(name, value)

    yield change
    for name, value in before.items():
        if value is None:
            spark.conf.unset(name)
        else:
            spark.conf.set(name, value)


@pytest.fixture(scope="session")
def ratings(spark: "SparkSession") -> "DataFrame":
    """Some 300 ratings of 40 users and 25 items, with ``weight`` and ``held``."""
    import numpy as np

    from tests.factories import frame, triples

    generator = np.random.default_rng(0)
    users, items, values = triples()
    weight = generator.integers(1, 4, len(values)).astype(float)
    held = generator.random(len(values)) < 0.2
    data = frame(spark, users, items, values, weight=weight, held=held)
    return data.repartition(2, "user").cache()


@pytest.fixture(scope="session")
def planted_ratings(spark: "SparkSession") -> "DataFrame":
    """Ratings of `planted_table`, of 60 users and 40 items."""
    from tests.factories import planted_table

    return spark.createDataFrame(planted_table()).cache()
