"""The steps around training: the published model, a new run beside it, the gate, publication."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date
from functools import cached_property
from typing import Any, NamedTuple, Self, TypeVar

from pyspark.ml import Model
from pyspark.sql import SparkSession

from nonconvex.distributed.checkpoints import CheckpointError, is_saved
from nonconvex.distributed.files import FileSystem, read_verified
from nonconvex.local.files import ChecksumError
from nonconvex.local.model_tables import ModelError
from nonconvex.pipeline.config import ConfigError, Section, dump
from nonconvex.pipeline.models import load_model
from nonconvex.pipeline.runs import (
    DATA,
    METRICS,
    Run,
    RunMetadata,
    find_model,
    find_run,
    new_run,
    publish_run,
    published_run,
    recover,
    remove_old_runs,
)
from nonconvex.pipeline.sections import (
    PUBLISHED,
    GateError,
    GateSection,
    OutputSection,
    StartSection,
)
from nonconvex.pipeline.text import Drift, compare_figures, drift_report, strict_json

EstimatorT = TypeVar("EstimatorT", bound=Any)
ModelT = TypeVar("ModelT", bound=Any)

_LINEAGE = "lineage.json"

_logger = logging.getLogger("nonconvex")


class LineageError(ValueError):
    """A day that cannot be repeated, as the run that came before it is not kept."""

    exit_status = 2


class RunLineage(NamedTuple):
    """The day of a run, if it has one, and the id of the run that it follows, if there was one."""

    day: date | None
    after: str | None


def write_lineage(spark: SparkSession, run: Run, lineage: RunLineage) -> None:
    """Write the lineage of a run beside its model."""
    day = None if lineage.day is None else lineage.day.isoformat()
    text = json.dumps({"day": day, "after": lineage.after}) + "\n"
    FileSystem(spark, run.path).write_text(f"{run.path}/{_LINEAGE}", text)


def predecessor(
    spark: SparkSession, path: str, published: Run | None, day: date | None
) -> Run | None:
    """Return the run that a run of a day follows: the last published one of an older day.

    This is the published run, unless that is of this day or a later one; then the run that it
    followed, and so on.  Runs without a day are older than any; without `day`, it is the published
    run.
    """
    run = published
    while run is not None and day is not None:
        lineage = _lineage(spark, run)
        if lineage.day is None or lineage.day < day:
            break
        if lineage.after is None:
            return None
        earlier = find_run(spark, path, lineage.after)
        if earlier is None:
            raise LineageError(
                f"{day} cannot be repeated from where it began, as {lineage.after}, which "
                f"{run.id} of {lineage.day} followed, is not kept any more: set start.model to a "
                "model to begin at, and keep more runs by output.keep"
            )
        run = earlier
    return run


def _lineage(spark: SparkSession, run: Run) -> RunLineage:
    """Return the lineage of a run, without a day if it is not known."""
    if not FileSystem(spark, run.path).exists(f"{run.path}/{_LINEAGE}"):  # of an earlier version
        return RunLineage(None, None)
    try:
        said = json.loads(read_verified(spark, run.path, _LINEAGE))
        day = None if said["day"] is None else date.fromisoformat(said["day"])
        return RunLineage(day, None if said["after"] is None else str(said["after"]))
    except (ChecksumError, ValueError, TypeError, KeyError) as error:
        _logger.warning("the day of %s is not known: %s", run.id, error)
        return RunLineage(None, None)


class Release:
    """The steps of a training job around its training, in the order of the methods.

    When it is made, the remains of killed runs are finished or removed, and what could not be
    written at the end is refused.  If `day`, or a later day, has been published already, the run
    follows the same run as the first one of that day.  The checkpoint of the training is removed
    when its model is published, or kept unpublished for good; an error that leaves the block before
    that says where the checkpoint is.

    Examples
    --------
    >>> gate = GateSection(metric="rmse")
    >>> with Release(spark, OutputSection(path="runs/nightly"), gate) as release:
    ...     with release.run() as run:
    ...         model.write().save(run.model)
    ...     release.publish(run, {"model": {"rmse": 1.5}, "biases": {"rmse": 1.6}}, ["biases"])
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
        self._spark, self._output, self._gate, self._day = spark, output, gate, day
        self.seconds: dict[str, float] = {}  # of each stage
        self._estimator: Any = None
        self._model: Any = None
        self.files.check_writable(output.path)
        recover(spark, output.path)
        self._published_run = self.predecessor_run = published_run(spark, output.path)
        self._lost: LineageError | None = None
        try:
            self.predecessor_run = predecessor(spark, output.path, self._published_run, day)
        except LineageError as error:
            self._lost = error  # which matters to a run that is to begin there
        if self.predecessor_run != self._published_run:
            begins = "nothing" if self.predecessor_run is None else self.predecessor_run.id
            _logger.info("%s has been published before: this run follows %s again", day, begins)

    def __enter__(self) -> Self:
        """Begin the block of a run."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Add to an error that what was trained is kept, if it is."""
        if error is None or self._estimator is None or isinstance(error, CheckpointError):
            return
        path = self._estimator.getOrDefault("checkpointPath")
        with suppress(Exception):  # of a session that has ended
            if path is not None and path not in str(error) and is_saved(self._spark, path):
                error.add_note(
                    f"what was trained is kept in {path}: start the job again to go on from there"
                )

    @contextmanager
    def stages(self, name: str) -> Iterator[None]:
        """Measure a block: ``with release.stages("train"): …`` adds to `seconds`."""
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started

    @property
    def files(self) -> FileSystem:
        """The file system of the runs."""
        return FileSystem(self._spark, self._output.path)

    @cached_property
    def predecessor_model(self) -> Model | None:
        """The model of the run that this one follows, if there is one."""
        run = self.predecessor_run
        return None if run is None else load_model(self._spark, run.model)

    def require(self, rows: int, source: str) -> None:
        """Refuse, before training, a gate that would have no test rows to measure on."""
        if self._gate is not None and not rows:
            raise ConfigError(
                f"[gate] measures on test rows, and {source} has none: hold some out by "
                "split.test, or leave out [gate]"
            )

    def start(self, estimator: EstimatorT, start: StartSection) -> EstimatorT:
        """Give an estimator its initial model, if it has one."""
        self._estimator = estimator
        if start.model is None:
            return estimator
        if start.model != PUBLISHED:
            initial = load_model(self._spark, find_model(self._spark, start.model))
        elif self._lost is not None:
            raise self._lost
        elif self.predecessor_model is None:
            _logger.info("no model is published yet: starting from random numbers")
            return estimator
        else:
            initial = self.predecessor_model
        try:
            estimator.setInitialModel(initial)
        except ValueError as error:
            raise ConfigError(f"start.model={start.model!r}: {error}") from None
        return estimator

    @property
    def rivals(self) -> dict[str, Any]:
        """The models to measure beside the new one, for the gate."""
        if self._gate is None or self._gate.published is None or self.predecessor_model is None:
            return {}
        return {PUBLISHED: self.predecessor_model}

    def drift(
        self,
        model: ModelT,
        figures: Mapping[str, float],
        changes: Callable[[ModelT, ModelT], Mapping[str, float]],
    ) -> Drift | None:
        """Compare the data with those of the run that this one follows.

        `figures` are compared one by one, and `changes` compares the earlier model with the new
        one.  None if there is no earlier model of the same kind that can be read.
        """
        try:
            earlier = self.predecessor_model
        except ModelError as error:
            _logger.warning("the published model cannot be compared with: %s", error)
            return None
        if not isinstance(earlier, type(model)):
            return None
        compared = compare_figures(self.earlier(DATA), figures)
        return compared | compare_figures({}, changes(earlier, model))

    def earlier(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the run that this one follows, empty if it cannot be read."""
        before = self.predecessor_run
        if before is None or not self.files.exists(f"{before.path}/{name}"):
            return {}
        try:
            said = json.loads(read_verified(self._spark, before.path, name))
        except (ChecksumError, json.JSONDecodeError) as error:
            _logger.warning("this run cannot be compared with the earlier one: %s", error)
            return {}
        return said if isinstance(said, dict) else {}

    @contextmanager
    def run(self) -> Iterator[Run]:
        """Make the directory of the run, and remove it again if the block raises."""
        after = None if self.predecessor_run is None else self.predecessor_run.id
        with new_run(self._spark, self._output.path) as run:
            write_lineage(self._spark, run, RunLineage(self._day, after))
            yield run

    @contextmanager
    def write(
        self, model: Any, config: Section, figures: Mapping[str, float], drift: Drift | None
    ) -> Iterator[RunMetadata]:
        """Write a run: the model, its configuration, the files of the block, the figures."""
        text, self._model = dump(config), model
        with self.run() as run:
            with self.stages("write the model"):
                model.write().option("clearCheckpoint", False).save(run.model)
            self.files.write_text(f"{run.path}/config.toml", text)
            yield RunMetadata(run, text, self.seconds, self.earlier(METRICS), drift or {})
            self.files.write_text(f"{run.path}/{DATA}", strict_json(figures))

    def show(self, run: Run, report: str | None, drift: Drift | None, *tables: str | None) -> None:
        """Print tables, the changes of the data, and where the model and its page are."""
        blocks = [*tables, None if drift is None else f"{drift_report(drift)}\n"]
        places = f"model: {run.model}", None if report is None else f"report: {report}"
        with suppress(BrokenPipeError):  # the model is published, also when nobody reads this
            print("\n".join(filter(None, ["\n\n".join(filter(None, blocks)), *places])))

    def publish(
        self, run: Run, figures: Mapping[str, Mapping[str, float]], baselines: Collection[str]
    ) -> None:
        """Publish a complete run if it passes the gate, and remove runs that are no longer kept.

        `figures` has the metrics of ``"model"``, of `rivals` and of `baselines`, on the same rows.
        """
        if self._gate is not None:
            metric = self._gate.metric
            values = {name: metrics[metric] for name, metrics in figures.items()}
            complaints = self._gate.complaints(values, baselines)
            if complaints:
                self._clear_checkpoint()
                raise GateError(
                    f"{' and '.join(complaints)}: the run is not published, and kept in {run.path}",
                    {"run_id": run.id, "model": run.model, "metrics": figures},
                )
        publish_run(self._spark, self._output.path, run, after=self._published_run)
        self._clear_checkpoint()
        if self._output.keep is not None:
            # to repeat the day from there
            spared = None if self._day is None else self.predecessor_run
            remove_old_runs(self._spark, self._output.path, self._output.keep, spared)

    def _clear_checkpoint(self) -> None:
        if self._model is not None:
            self._model.clearCheckpoint()

    def outcome(
        self, run: Run, report: str | None, drift: Drift | None, summary: Any
    ) -> dict[str, Any]:
        """Return what a training job reports of a published run."""
        return {
            "run_id": run.id,
            "model": run.model,
            "report": report,
            "published": self._output.path,
            "drift": drift,
            "objective": summary.objective,
            "seconds": summary.seconds,
        }
