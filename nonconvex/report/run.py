"""Write the page of a run beside its model, if the packages that draw it are installed."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from threading import Thread
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession

from nonconvex import __version__
from nonconvex.distributed.files import FileSystem
from nonconvex.distributed.runtime import DISK_FULL, java_version, parallelism
from nonconvex.estimators.display import lacking
from nonconvex.pipeline.runs import REPORT, RunMetadata
from nonconvex.report.page import Page, Picture, render

if TYPE_CHECKING:
    from nonconvex.distributed.data.examples import ExampleTable
    from nonconvex.distributed.data.prepared import PreparedRatings
    from nonconvex.distributed.factorization.evaluate import Baselines, Comparison
    from nonconvex.pipeline.factorization.config import FactorizationConfig
    from nonconvex.pipeline.network.config import NetworkConfig
    from nonconvex.pipeline.network.results import NetworkModel
    from nonconvex.recommendation import MatrixFactorizationModel

FIGURES = "figures"  # the directory beside it that has every figure as SVG and as PNG
_log = logging.getLogger("nonconvex")


def start_report() -> None:
    """Begin to import what draws figures, in a thread, while Spark is busy with a first query."""

    def load() -> None:
        with suppress(ImportError):  # the report says so
            import nonconvex.report.charts  # noqa: F401

    Thread(target=load, daemon=True).start()


def factorization_report(
    spark: SparkSession,
    config: FactorizationConfig,
    metadata: RunMetadata,
    model: MatrixFactorizationModel,
    prepared: PreparedRatings,
    measured: Comparison | None,
    baselines: Baselines | None,
    names: DataFrame | None,
    lists: Mapping[str, Any] | None,
) -> str | None:
    """Write the page of a run that trained a factorization.

    Returns its path, or None if there is no page.  Training matters more than its page: a missing
    package or any other failure but a full disk is logged, and the run goes on.
    """

    def page(metadata: RunMetadata) -> Page:
        from nonconvex.report.factorization import collect_factorization, factorization_page

        solver = config.estimator().chosen_solver
        of_run = model, prepared, measured, baselines, metadata, names, lists, solver
        # Spark looks for names while the first figures are drawn.
        with ThreadPoolExecutor(1) as pool:
            return factorization_page(collect_factorization(*of_run, pool))

    return _write(spark, metadata, page) if config.report.write else None


def network_report(
    spark: SparkSession,
    config: NetworkConfig,
    metadata: RunMetadata,
    model: NetworkModel,
    table: ExampleTable,
    comparison: Mapping[str, Any] | None,
) -> str | None:
    """Write the page of a run that trained a network; see `factorization_report`."""

    def page(metadata: RunMetadata) -> Page:
        from nonconvex.report.network import collect_network, network_page

        source = config.examples.path
        return network_page(collect_network(model, source, table, comparison, metadata))

    return _write(spark, metadata, page) if config.report.write else None


def _write(
    spark: SparkSession, metadata: RunMetadata, make: Callable[[RunMetadata], Page]
) -> str | None:
    if missing := lacking("jinja2", "matplotlib"):
        _log.warning("there is no %s, as %s", REPORT, missing)
        return None
    directory = metadata.run.path
    try:
        versions = {
            "nonconvex": __version__,
            "Python": platform.python_version(),
            "numpy": version("numpy"),
            "pyarrow": version("pyarrow"),
            "Spark": spark.version,
            "Java": java_version(spark),
            "cores": str(parallelism(spark)),
        }
        page = make(replace(metadata, versions=versions))
        files = FileSystem(spark, directory)
        write_figures(files, directory, page.pictures())
        files.write_text(f"{directory}/{REPORT}", render(page))
    except Exception as error:
        if DISK_FULL in str(error):  # nor can the rest of the run be written
            raise
        _log.exception("the report could not be written, and the run goes on without it")
        return None
    return f"{directory}/{REPORT}"


def write_figures(files: FileSystem, directory: str, pictures: Iterable[Picture]) -> None:
    """Write pictures that could be drawn, each as SVG and as PNG."""
    for picture in pictures:
        if picture.svg:
            files.write_text(f"{directory}/{FIGURES}/{picture.name}.svg", picture.svg)
            files.write_bytes(f"{directory}/{FIGURES}/{picture.name}.png", picture.png)
