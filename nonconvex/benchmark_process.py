"""One contender at work in a process of its own, so that its peak memory is nobody else's.

``python -m nonconvex.benchmark_process`` reads a `Task` as JSON from standard input.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pyspark.sql import SparkSession

from nonconvex.benchmark_data import BenchmarkTables
from nonconvex.benchmark_factorization import work_once
from nonconvex.benchmark_memory import peak_memory
from nonconvex.benchmark_network import train_once
from nonconvex.benchmark_sections import FactorizationBenchmarkSection, NetworkBenchmarkSection
from nonconvex.pipeline.config import Section
from nonconvex.session import get_session

__all__ = ["Task", "peak_of", "perform", "session_settings"]

# Settings of the session that another one of its kind needs.
_COPIED = ("spark.master", "spark.driver.memory", "spark.driver.extraJavaOptions")
_COPIED_GROUPS = (
    *("spark.sql.", "spark.python.", "spark.executorEnv.", "spark.default."),
    *("spark.memory.", "spark.serializer", "spark.shuffle.", "spark.hadoop."),
)
# By these pyspark would take the JVM of the process that started this one for its own.
_FOREIGN = ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET", "PYSPARK_SUBMIT_ARGS")


class Task(Section):
    """What the process is to do.

    Examples
    --------
    >>> Task(settings={}, path="ratings", contender="MLlib", rank=3).network is None
    True
    """

    settings: dict[str, str]
    """Of the session."""
    path: str
    """The directory with the rows to train on."""
    contender: str
    """Its name."""
    factorization: FactorizationBenchmarkSection | None = None
    """If it is a factorization."""
    rank: int = 0
    """Of the factorization."""
    network: NetworkBenchmarkSection | None = None
    """If it is a network."""
    layers: tuple[int, ...] = ()
    """Of the network, from the features to the classes."""


def session_settings(spark: SparkSession) -> dict[str, str]:
    """Return the settings of a session like this one."""
    settings = dict(spark.sparkContext.getConf().getAll())
    return {
        key: value
        for key, value in settings.items()
        if key in _COPIED or key.startswith(_COPIED_GROUPS)
    }


def perform(spark: SparkSession, task: Task) -> None:
    """Do all that the contender is measured at, once, with the lesser number of steps."""
    data = BenchmarkTables(task.path, {})
    if task.factorization is not None:
        factorizers = {one.name: one for one in task.factorization.contenders()}
        plan = task.factorization.plan()
        work_once(spark, factorizers[task.contender], data, plan, task.rank)
    if task.network is not None:
        trainers = {one.name: one for one in task.network.contenders(spark, list(task.layers))}
        train_once(trainers[task.contender], data, task.network.plan(list(task.layers)))


def peak_of(task: Task) -> float:
    """Perform a task in a process of its own, and return the peak memory in MB.

    It is that of the process, its JVM and its Python workers together, at one moment.

    Raises
    ------
    CommandError
        If the process fails.
    """
    command = [sys.executable, "-m", "nonconvex.benchmark_process"]
    return peak_memory(command, _environment(os.environ), task.model_dump_json())


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that starts a session, and finds this package."""
    kept = {name: value for name, value in given.items() if name not in _FOREIGN}
    here = str(Path(__file__).resolve().parent.parent)
    paths = filter(None, [here, kept.get("PYTHONPATH")])
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def main() -> None:
    """Perform the task on standard input."""
    task = Task.model_validate_json(sys.stdin.read())
    spark = get_session("benchmark", task.settings)
    try:
        perform(spark, task)
    finally:
        spark.stop()


if __name__ == "__main__":
    main()
