"""What a benchmark reports: tables with ratios, JSON, and what has changed since an earlier one."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from pyspark.sql import SparkSession

from nonconvex import __version__
from nonconvex.benchmark_measurements import Measurement, Ratio, ratios
from nonconvex.distributed.files.hadoop import FileSystem
from nonconvex.estimators.display import text_table
from nonconvex.pipeline.text import strict_json

__all__ = [
    "BenchmarkError",
    "benchmark_json",
    "benchmark_table",
    "change_table",
    "environment",
    "read_ratios",
]

_LAYOUT = 1
_PACKAGES = ("pyspark", "numpy", "pyarrow", "scikit-learn")


class BenchmarkError(ValueError):
    """A file that is not the JSON of a benchmark; the message says why."""

    exit_status = 3


def benchmark_table(measurements: Sequence[Measurement]) -> str:
    """Show the medians, and how many times better than each peer the first contender is.

    Examples
    --------
    >>> both = [
    ...     Measurement("network", "4-8-3", "epoch", name, "s", "less", (value,))
    ...     for name, value in {"ours": 2.0, "peer": 3.0}.items()
    ... ]
    >>> print(benchmark_table(both))
                     ours   peer  than peer
    4-8-3  epoch, s  2.00   3.00     1.50 ×
    """
    names = list(dict.fromkeys(one.contender for one in measurements))
    found = {(one.subject, one.work, one.contender): one for one in measurements}
    ratio = {(one.subject, one.work, one.peer): one.value for one in ratios(measurements)}
    rows = []
    subjects = list(dict.fromkeys(one.subject for one in measurements))
    works = dict.fromkeys((one.subject, one.work) for one in measurements)
    for subject, work in sorted(works, key=lambda key: subjects.index(key[0])):
        of = [found.get((subject, work, name)) for name in names]
        unit = next(one.unit for one in of if one is not None)
        title = f"{subject}  {work}" + (f", {unit}" if unit else "")
        times = [_times(ratio.get((subject, work, name))) for name in names[1:]]
        rows.append([title, *map(_value, of), *times])
    return text_table(["", *names, *(f"than {name}" for name in names[1:])], rows)


def benchmark_json(
    run_id: str,
    configuration: Mapping[str, Any],
    about: Mapping[str, Any],
    measurements: Sequence[Measurement],
) -> str:
    """Return all numbers of a benchmark as JSON, for `read_ratios` and others to read.

    Parameters
    ----------
    run_id : str
    configuration : mapping
        All of it, defaults included.
    about : mapping
        The environment, the data and the remarks.
    measurements : sequence of Measurement
    """
    return strict_json(
        {
            "benchmark": _LAYOUT,
            "run_id": run_id,
            **about,
            "configuration": configuration,
            "measurements": [one.to_dict() for one in measurements],
            "ratios": [one._asdict() for one in ratios(measurements)],
        }
    )


def read_ratios(spark: SparkSession, path: str) -> list[Ratio]:
    """Read the ratios of a file that `benchmark_json` is the text of.

    Parameters
    ----------
    spark : SparkSession
    path : str

    Raises
    ------
    BenchmarkError
        If there is none, or something else.

    Examples
    --------
    >>> both = [
    ...     Measurement("network", "4-8-3", "epoch", name, "s", "less", (value,))
    ...     for name, value in {"ours": 2.0, "peer": 3.0}.items()
    ... ]
    >>> FileSystem(spark, ".").write_text("metrics.json", benchmark_json("a", {}, {}, both))
    >>> read_ratios(spark, "metrics.json")
    [Ratio(section='network', subject='4-8-3', work='epoch', peer='peer', value=1.5)]
    """
    files = FileSystem(spark, path)
    if not files.exists(path):
        raise BenchmarkError(f"there is nothing at {path}: name a file that this job has written")
    try:
        values = json.loads(files.read_text(path))
        if values["benchmark"] != _LAYOUT:
            raise KeyError("benchmark")
        return [Ratio(**one) for one in values["ratios"]]
    except (ValueError, KeyError, TypeError):
        raise BenchmarkError(
            f"{path} is not the JSON of a benchmark: name a file that this job has written, of "
            f"layout {_LAYOUT}"
        ) from None


def change_table(before: Sequence[Ratio], now: Sequence[Ratio]) -> str:
    """Show how ratios have changed; a change above 1 is a gain, whatever the machine.

    Works and peers that only one of the benchmarks has are shown without a change.

    Examples
    --------
    >>> before = [Ratio("network", "4-8-3", "epoch", "peer", 1.5)]
    >>> print(change_table(before, [before[0]._replace(value=3.0)]))
                             before     now  change
    4-8-3  epoch  than peer  1.50 ×  3.00 ×  2.00 ×
    """
    old, new = ({one[:4]: one.value for one in some} for some in (before, now))
    rows = []
    for key in {**new, **old}:
        was, is_ = old.get(key), new.get(key)
        change = is_ / was if is_ is not None and was is not None else None
        _, subject, work, peer = key
        rows.append([f"{subject}  {work}  than {peer}", *map(_times, (was, is_, change))])
    return text_table(["", "before", "now", "change"], rows)


def environment(spark: SparkSession) -> dict[str, Any]:
    """Return what the numbers depend on besides the configuration."""
    context = spark.sparkContext
    assert context._jvm is not None
    return {
        "nonconvex": __version__,
        "python": platform.python_version(),
        "java": context._jvm.System.getProperty("java.version"),
        **{name: _version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores_of_driver": os.cpu_count(),
        "master": context.master,
        "parallelism": context.defaultParallelism,
        "driver_memory": context.getConf().get("spark.driver.memory"),
        "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        return None
    return lines[0].partition(":")[2].strip() if lines else None


def _value(one: Measurement | None) -> str:
    if one is None:
        return ""
    if one.median is None:
        return "not reached"
    if one.unit:
        digits = 0 if abs(one.median) >= 1000 else 3 if abs(one.median) < 0.1 else 2
    else:
        digits = 4 if one.median % 1 else 0
    return f"{one.median:,.{digits}f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f} ×"
