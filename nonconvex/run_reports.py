"""The page that a run leaves beside its model, if what makes it is installed."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession

from nonconvex import __version__
from nonconvex.distributed.data.example_tables import ExampleTable
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.files.atomic import ChecksumError, read_verified
from nonconvex.distributed.files.hadoop import FileSystem
from nonconvex.distributed.publication import Run
from nonconvex.factorization_sections import FactorizationConfig
from nonconvex.network_baselines import NetworkModel
from nonconvex.network_sections import NetworkConfig
from nonconvex.numerics.metrics import Evaluation
from nonconvex.recommendation import MatrixFactorizationModel
from nonconvex.reports import METRICS

if TYPE_CHECKING:
    from nonconvex.reporting.circumstances import Circumstances
    from nonconvex.reporting.page import Page

__all__ = ["FIGURES", "REPORT", "About", "Stages", "factorization_report", "network_report"]

REPORT = "report.html"
"""The file in the directory of a run that is its page."""

FIGURES = "figures"
"""The directory beside it that has every figure as SVG and as PNG."""

_log = logging.getLogger("nonconvex")

_PACKAGES = ("jinja2", "matplotlib")


class Stages:
    """How long each stage of a run takes.

    Examples
    --------
    >>> stages = Stages()
    >>> with stages("train"):
    ...     pass
    >>> list(stages.seconds)
    ['train']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure a block."""
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


class About(NamedTuple):
    """What a page says of a run, whatever it trained.

    Attributes
    ----------
    run : Run
        Not published yet.
    before : Run or None
        The one that is: the page compares the data with its.
    configuration : str
        As it was resolved, in TOML.
    seconds : mapping of str to float
        What each stage took.
    """

    run: Run
    before: Run | None
    configuration: str
    seconds: Mapping[str, float]


def factorization_report(
    spark: SparkSession,
    config: FactorizationConfig,
    about: About,
    model: MatrixFactorizationModel,
    prepared: PreparedRatings,
    evaluation: Evaluation | None,
    names: DataFrame | None,
) -> str | None:
    """Write the page of a run that trained a factorization.

    Training counts more than its page: where a package is missing, or something goes wrong, that
    is logged and the run goes on.

    Parameters
    ----------
    spark : SparkSession
    config : FactorizationConfig
    about : About
    model : MatrixFactorizationModel
    prepared : PreparedRatings
    evaluation : Evaluation or None
    names : DataFrame or None
        From ``config.report.table``.

    Returns
    -------
    str or None
        Where the page is, None if there is none.
    """

    def page() -> Page:
        from nonconvex.factorization_report import gather
        from nonconvex.reporting.factorization import factorization_page

        circumstances = _circumstances(spark, about)
        solver = config.estimator().getOrDefault("solver")
        return factorization_page(gather(model, prepared, evaluation, circumstances, names, solver))

    return _write(spark, about.run, page) if config.report.write else None


def network_report(
    spark: SparkSession,
    config: NetworkConfig,
    about: About,
    model: NetworkModel,
    table: ExampleTable,
    comparison: Mapping[str, Any] | None,
) -> str | None:
    """Write the page of a run that trained a network; see `factorization_report`.

    Parameters
    ----------
    spark, config, about
        As there.
    model : model of a network
    table : ExampleTable
    comparison : mapping or None
        From `nonconvex.network_baselines.compare_network`.

    Returns
    -------
    str or None
    """

    def page() -> Page:
        from nonconvex.network_report import gather_network
        from nonconvex.reporting.network import network_page

        circumstances = _circumstances(spark, about)
        path = config.examples.path
        return network_page(gather_network(model, path, table, comparison, circumstances))

    return _write(spark, about.run, page) if config.report.write else None


def _write(spark: SparkSession, run: Run, make: Callable[[], Page]) -> str | None:
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        _log.warning(
            "there is no %s, as it needs %s: pip install 'nonconvex[report]'",
            REPORT,
            " and ".join(missing),
        )
        return None
    try:
        from nonconvex.reporting.page import render

        page = make()
        files = FileSystem(spark, run.path)
        for picture in page.pictures():
            files.write_text(f"{run.path}/{FIGURES}/{picture.name}.svg", picture.svg)
            files.write_bytes(f"{run.path}/{FIGURES}/{picture.name}.png", picture.png)
        files.write_text(f"{run.path}/{REPORT}", render(page))
    except Exception:
        _log.exception("the report could not be made, and the run goes on without")
        return None
    return f"{run.path}/{REPORT}"


def _circumstances(spark: SparkSession, about: About) -> Circumstances:
    from nonconvex.reporting.circumstances import Circumstances

    context: Any = spark.sparkContext
    java = context._jvm.java.lang.System.getProperty("java.version")
    versions = {"nonconvex": __version__, "Python": platform.python_version()}
    versions |= {name: version(name) for name in ("numpy", "pyarrow")}
    versions |= {"Spark": spark.version, "Java": java, "cores": str(context.defaultParallelism)}
    return Circumstances(
        about.run.id,
        about.configuration,
        versions,
        dict(about.seconds),
        None if about.before is None else _metrics(spark, about.before),
    )


def _metrics(spark: SparkSession, run: Run) -> dict[str, Any] | None:
    """Return the metrics of a run, None if it has none."""
    try:
        metrics: dict[str, Any] = json.loads(read_verified(spark, run.path, METRICS))
    except (ChecksumError, json.JSONDecodeError):
        return None
    return metrics
