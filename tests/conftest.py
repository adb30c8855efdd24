"""Fixtures shared by all tests. Nothing here imports pyspark until a test asks for a session."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# A test is over before the optimizing compiler of Java pays: the session's and those of the jobs
# that tests start as processes.
for variable in ("SPARK_SUBMIT_OPTS", "SPARK_LAUNCHER_OPTS"):
    os.environ.setdefault(variable, "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[SparkSession]":
    """The one Spark session of the test run: two cores, two shuffle partitions."""
    from nonconvex.session import get_session

    patch = pytest.MonkeyPatch()
    patch.setenv("PYSPARK_PYTHON", sys.executable)
    session = get_session(
        "tests",
        {
            "spark.master": "local[2]",
            "spark.driver.memory": "2g",
            # The jobs of tests are tiny: planning and compiling them is most of the time.
            "spark.sql.codegen.wholeStage": "false",
            "spark.sql.codegen.factoryMode": "NO_CODEGEN",
            "spark.sql.adaptive.enabled": "false",
            "spark.sql.shuffle.partitions": "2",
            "spark.default.parallelism": "2",
            "spark.sql.warehouse.dir": str(tmp_path_factory.mktemp("warehouse")),
        },
        conf_dir=Path(__file__).parent.parent / "conf",
    )
    yield session
    session.stop()
    patch.undo()
