"""Runs of the training jobs in MLflow: model, metrics, Params and page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from pyspark.sql import SparkSession

from nonconvex import __version__
from nonconvex.distributed.files import FileSystem
from nonconvex.pipeline.models import load_model
from nonconvex.pipeline.runs import METRICS, REPORT, find_model

_FILES = (REPORT, METRICS, "config.toml")
_LONGEST = 500  # characters of a Param that MLflow takes everywhere


class TrackingError(ValueError):
    """MLflow is not installed."""

    exit_status = 2


def log_run(spark: SparkSession, path: str) -> str:
    """Log a run of a training job to the active run of MLflow, or to a new one; return its id.

    The model is logged as `mlflow.spark.log_model` does it, with its Params, every number of
    ``metrics.json`` that is not in a list, and ``report.html, metrics.json, config.toml``.
    `path` is a run, or the directory of runs of which the published one is logged.

    Examples
    --------
    This one does not run as a test, for which MLflow need not be installed::

        with mlflow.start_run(run_name="films"):
            log_run(spark, "output/movietweetings/runs")
    """
    if find_spec("mlflow") is None:
        raise TrackingError(
            "there is no MLflow to log to: install it with pip install 'nonconvex[mlflow]'"
        )
    import mlflow
    import mlflow.spark

    place = find_model(spark, path)
    model = load_model(spark, place)
    directory = place.rstrip("/").rpartition("/")[0]
    files = FileSystem(spark, directory)
    run = mlflow.active_run() or mlflow.start_run()
    values = {param.name: model.getOrDefault(param) for param in model.params}
    mlflow.log_params({name: str(value)[:_LONGEST] for name, value in values.items()})
    for name in _FILES:
        if files.exists(f"{directory}/{name}"):
            mlflow.log_text(files.read_text(f"{directory}/{name}"), name)
    if files.exists(f"{directory}/{METRICS}"):
        numbers = json.loads(files.read_text(f"{directory}/{METRICS}"))
        mlflow.log_metrics(dict(_numbers(numbers)))
    # What has a local version, after a "+", is in no index.
    own = "nonconvex" if "+" in __version__ else f"nonconvex=={__version__}"
    requirements = [own, f"pyspark=={version('pyspark')}"]
    mlflow.spark.log_model(model, "model", pip_requirements=requirements)
    run_id: str = run.info.run_id
    return run_id


def _numbers(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of nested mappings by names that MLflow takes."""
    for key, value in values.items():
        name = before + re.sub(r"[^\w\-. /]", "_", key, flags=re.ASCII)
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)
