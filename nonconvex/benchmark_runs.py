"""A whole benchmark: what is measured on which data, and what has to be said about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import SparkSession

from nonconvex.benchmark_data import BenchmarkTables
from nonconvex.benchmark_factorization import measure_factorizations
from nonconvex.benchmark_measurements import Clock, Measurement
from nonconvex.benchmark_memory import can_measure
from nonconvex.benchmark_network import measure_networks
from nonconvex.benchmark_process import Task, peak_of, session_settings
from nonconvex.benchmark_sections import (
    BenchmarkConfig,
    FactorizationBenchmarkSection,
    NetworkBenchmarkSection,
)

__all__ = ["Benchmark", "run_benchmark"]

_MEMORY = "peak memory"
_STEPS = (
    "an iteration or epoch is the difference of fits of {0} and {1} of them over {2}; load is the "
    "rest of the longer fit: reading, checking, packing, starting, collecting"
)
_TOO_SHORT = (
    "{0} of {1}: fits of two lengths took the same, so there is no ratio; take more of them, or "
    "more data"
)
_LBFGS = "an epoch of MLlib is an iteration of L-BFGS over all rows, however many times it passes"
_REACH = (
    "to reach an accuracy, fits of 1, 2, 4 … epochs are tried; timed is the last one alone, from "
    "a fresh start, with reading and scaling"
)
_PEAK = (
    "peak memory is that of driver, JVM and Python workers in a process of their own, which makes "
    "the shorter fit, then predicts{0}; pages that processes share count for each"
)
_REMOTE = (
    "peak memory is not measured: the processes of {0} are not all on this machine; Spark's web "
    "page of executors shows theirs"
)


@dataclass
class Benchmark:
    """What came of a benchmark.

    Parameters
    ----------
    measurements : dict of str to list of Measurement
        By section.
    data : dict of str to dict
        Where the rows of each section are, and how many.
    remarks : list of str
        What a reader of the tables must know.
    """

    measurements: dict[str, list[Measurement]] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def all(self) -> list[Measurement]:
        """The measurements of all sections."""
        return [one for measurements in self.measurements.values() for one in measurements]

    def remark(self, *remarks: str) -> None:
        """Add what has not been said yet."""
        self.remarks += [one for one in remarks if one not in self.remarks]

    def took(self, section: str, data: BenchmarkTables) -> None:
        """Remember what a section was measured on."""
        self.data[section] = {"path": data.path, "rows": data.counts}


def run_benchmark(spark: SparkSession, config: BenchmarkConfig, path: str) -> Benchmark:
    """Measure all sections that are enabled.

    Parameters
    ----------
    spark : SparkSession
    config : BenchmarkConfig
    path : str
        A directory for what is only needed meanwhile.

    Returns
    -------
    Benchmark
    """
    found = Benchmark()
    if config.factorization is not None and config.factorization.enabled:
        _factorizations(spark, config, config.factorization, path, found)
    if config.network is not None and config.network.enabled:
        _networks(spark, config, config.network, path, found)
    return found


def _factorizations(
    spark: SparkSession,
    config: BenchmarkConfig,
    section: FactorizationBenchmarkSection,
    path: str,
    found: Benchmark,
) -> None:
    data = section.tables(spark, f"{config.output.path}/data")
    found.took("factorization", data)
    contenders, plan = section.contenders(), section.plan()
    settings, memory = session_settings(spark), Clock("factorization")
    if _measures_memory(spark, section.memory, " all rows and makes the lists", found):
        for rank in plan.ranks:
            for name in (one.name for one in contenders):
                task = Task(
                    settings=settings, path=data.path, contender=name, factorization=section,
                    rank=rank,
                )  # fmt: skip
                memory.record(f"rank {rank}", _MEMORY, name, peak_of(task), "MB")
    clock = Clock("factorization")
    measure_factorizations(spark, clock, contenders, data, plan, path)
    found.measurements["factorization"] = clock.measurements + memory.measurements
    found.remark(_steps(*section.iterations), *_too_short(clock.measurements))


def _networks(
    spark: SparkSession,
    config: BenchmarkConfig,
    section: NetworkBenchmarkSection,
    path: str,
    found: Benchmark,
) -> None:
    del path
    data = section.tables(spark, f"{config.output.path}/data")
    found.took("network", data)
    layers = section.all_layers(spark, data)
    contenders, plan = section.contenders(spark, layers), section.plan(layers)
    settings, memory = session_settings(spark), Clock("network")
    if _measures_memory(spark, section.memory, " all rows", found):
        for name in (one.name for one in contenders):
            task = Task(
                settings=settings,
                path=data.path,
                contender=name,
                network=section,
                layers=tuple(layers),
            )
            memory.record(plan.subject, _MEMORY, name, peak_of(task), "MB")
    clock = Clock("network")
    measure_networks(spark, clock, contenders, data, plan)
    found.measurements["network"] = clock.measurements + memory.measurements
    found.remark(_steps(*section.epochs), *section.absent(), *_too_short(clock.measurements))
    if "mllib" in section.peers:
        found.remark(_LBFGS)
    if section.accuracy is not None:
        found.remark(_REACH)


def _measures_memory(spark: SparkSession, wanted: bool, does: str, found: Benchmark) -> bool:
    master = spark.sparkContext.master or ""
    if wanted:
        found.remark(_PEAK.format(does) if can_measure(master) else _REMOTE.format(master))
    return wanted and can_measure(master)


def _too_short(measurements: list[Measurement]) -> list[str]:
    """Say which differences are lost in the noise of the machine."""
    return [
        _TOO_SHORT.format(f"{one.subject}, {one.work}", one.contender)
        for one in measurements
        if one.unit == "s" and one.median is not None and one.median <= 0
    ]


def _steps(short: int, long: int) -> str:
    return _STEPS.format(short, long, long - short)
