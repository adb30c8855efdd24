"""A training job around its training: what was published before, the new run, the quality gate."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import cached_property
from typing import Any, TypeVar

from pyspark.sql import SparkSession

from nonconvex.config import ConfigError
from nonconvex.distributed.files.atomic import ChecksumError, read_verified
from nonconvex.distributed.files.hadoop import FileSystem
from nonconvex.distributed.model_tables import ModelError
from nonconvex.distributed.publication import (
    Run,
    find_model,
    new_run,
    publish_run,
    published_run,
    recover,
    remove_old_runs,
)
from nonconvex.estimator_sections import GateSection, OutputSection, StartSection
from nonconvex.gates import PUBLISHED, GateError
from nonconvex.lineage import LineageError, Origin, run_before_day, write_origin
from nonconvex.models import AnyModel, load_model

__all__ = ["Release"]

EstimatorT = TypeVar("EstimatorT", bound=Any)
ModelT = TypeVar("ModelT")

_logger = logging.getLogger("nonconvex")


class Release:
    """A run from what was published before it to what is published after it.

    When it is made, what runs that were killed have left is finished or removed.

    Parameters
    ----------
    spark : SparkSession
    output : OutputSection
        Where runs are.
    gate : GateSection, optional
        What a model must reach to be published.
    day : date, optional
        The day that the run is of.  If that has been published already, or a later one, the run
        follows what was published before it, as the first run of that day did.

    Examples
    --------
    >>> release = Release(spark, OutputSection(path="runs/nightly"), GateSection(metric="rmse"))
    >>> with release.run() as run:
    ...     model.write().save(run.model)
    >>> release.publish(run, {"model": {"rmse": 1.5}, "biases": {"rmse": 1.6}}, ["biases"])
    >>> published_run(spark, "runs/nightly") == run
    True
    """

    def __init__(
        self,
        spark: SparkSession,
        output: OutputSection,
        gate: GateSection | None = None,
        day: date | None = None,
    ) -> None:
        self._spark, self._output, self._day = spark, output, day
        self._gate = None if gate is None else gate.gate()
        recover(spark, output.path)
        self._replaced = self.before = published_run(spark, output.path)
        self._lost: LineageError | None = None
        try:
            self.before = run_before_day(spark, output.path, self._replaced, day)
        except LineageError as error:
            self._lost = error  # which matters to a run that is to begin there
        if self.before != self._replaced:
            begins = "nothing" if self.before is None else self.before.id
            _logger.info("%s has been published before: this run follows %s again", day, begins)

    @cached_property
    def published(self) -> AnyModel | None:
        """The model of the run that this one follows, if there is one."""
        return None if self.before is None else load_model(self._spark, self.before.model)

    def predecessor(self, model: ModelT) -> ModelT | None:
        """Return the published model if it can be read and is of the kind of another one."""
        try:
            published = self.published
        except ModelError as error:
            _logger.warning("the published model cannot be compared with: %s", error)
            return None
        return published if isinstance(published, type(model)) else None

    def earlier(self, name: str) -> dict[str, Any]:
        """Return what a file in JSON of the run before this one says; empty if nothing."""
        if self.before is None:
            return {}
        if not self.files.exists(f"{self.before.path}/{name}"):
            return {}
        try:
            said = json.loads(read_verified(self._spark, self.before.path, name))
        except (ChecksumError, json.JSONDecodeError) as error:
            _logger.warning("what changed since is not told: %s", error)
            return {}
        return said if isinstance(said, dict) else {}

    @property
    def rivals(self) -> dict[str, Any]:
        """The models to measure beside the new one, for the gate."""
        if self._gate is None or self._gate.published is None or self.published is None:
            return {}
        return {PUBLISHED: self.published}

    def start(self, estimator: EstimatorT, start: StartSection) -> EstimatorT:
        """Let an estimator begin at an earlier model, if it is to.

        Raises
        ------
        ConfigError
            If that is a model of another kind.
        LineageError
            If it is to begin where a day began that is repeated, and that model is not kept.
        """
        if start.model is None:
            return estimator
        if start.model != PUBLISHED:
            initial = load_model(self._spark, find_model(self._spark, start.model))
        elif self._lost is not None:
            raise self._lost
        elif self.published is None:
            _logger.info("no model is published yet: starting from random numbers")
            return estimator
        else:
            initial = self.published
        try:
            estimator.setInitialModel(initial)
        except ValueError as error:
            raise ConfigError(f"start.model={start.model!r}: {error}") from None
        return estimator

    def require(self, rows: int, what: str) -> None:
        """Refuse, before it trains, a gate that would have no rows to measure on."""
        if self._gate is not None and not rows:
            raise ConfigError(
                f"[gate] measures on test rows, and {what} has none: hold some out by split.test, "
                "or leave out [gate]"
            )

    @contextmanager
    def run(self) -> Iterator[Run]:
        """Make the directory of the run, and remove it again if the block raises."""
        after = None if self.before is None else self.before.id
        with new_run(self._spark, self._output.path) as run:
            write_origin(self._spark, run, Origin(self._day, after))
            yield run

    def publish(
        self, run: Run, figures: Mapping[str, Mapping[str, float]], baselines: Collection[str]
    ) -> None:
        """Publish the run if it passes the gate, and remove runs that are no longer kept.

        Parameters
        ----------
        run : Run
            Complete.
        figures : mapping of str to mapping of str to float
            The metrics of ``"model"``, of `rivals` and of baselines, on the same rows.
        baselines : collection of str
            Which of them are baselines.

        Raises
        ------
        GateError
            If it does not pass; the run is kept.
        ConcurrencyError
            If another run has been published since this one began.
        """
        if self._gate is not None:
            metric = self._gate.metric
            values = {name: metrics[metric] for name, metrics in figures.items()}
            complaints = self._gate.complaints(values, baselines)
            if complaints:
                raise GateError(
                    f"{' and '.join(complaints)}: the run is not published, and kept in {run.path}",
                    {"run_id": run.id, "model": run.model, "metrics": figures},
                )
        publish_run(self._spark, self._output.path, run, after=self._replaced)
        if self._output.keep is not None:
            spared = None if self._day is None else self.before  # to repeat the day from there
            remove_old_runs(self._spark, self._output.path, self._output.keep, spared)

    @property
    def files(self) -> FileSystem:
        """The file system of the runs."""
        return FileSystem(self._spark, self._output.path)
