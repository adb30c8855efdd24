"""Sections of configurations that factorizations and networks share, and the quality gate."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from datetime import date
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import Field, FiniteFloat, PositiveInt, model_validator
from pyspark.sql import SparkSession

from nonconvex.distributed.data.examples import read_example_table
from nonconvex.distributed.data.sources import Source, Window, read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.estimators.params import GridEstimator
from nonconvex.pipeline.config import ConfigError, Section, check_keys

Text = Annotated[str, Field(min_length=1)]
"""A string that is not empty."""

PUBLISHED = "published"
"""The name of the published model among those that are measured."""

EstimatorT = TypeVar("EstimatorT", bound=GridEstimator[Any])

_GREATER_IS_BETTER = ("accuracy", "r2")


def check_apart(written: Mapping[str, str | None], read: Mapping[str, str | None]) -> None:
    """Raise `ValueError` if a place that is written is, or lies in, one that is read.

    The next reader of that directory would find other files in it.  Places have the names of their
    settings; one that is None is not used.

    >>> check_apart({"output.path": "films/runs"}, {"ratings.path": "films"})
    Traceback (most recent call last):
    ValueError: output.path=films/runs lies in ratings.path=films, whose files are read: name ano...
    """
    for name, path in written.items():
        for other, source in read.items():
            if path is None or source is None:
                continue
            place, pattern = _place(path), str(_place(source))
            if any(fnmatchcase(str(one), pattern) for one in (place, *place.parents)):
                raise ValueError(
                    f"{name}={path} lies in {other}={source}, whose files are read: name another "
                    "directory"
                )


def _place(path: str) -> PurePosixPath:
    """Return a path without links and dots, below its file system if it names another one."""
    system, separator, inner = path.partition("://")
    if separator and system != "file":
        return PurePosixPath(f"/{system}:", os.path.normpath(inner))
    return PurePosixPath(os.path.realpath(inner if separator else path.removeprefix("file:")))


class FilesSection(Section):
    """A table in files, of which the last days are read if `partition` names a column of days."""

    partition: Text | None = None
    """The table has directories ``<partition>=<YYYY-MM-DD>``."""
    until: date | None = None
    """The last day, which must be there: ``"{run_date}"`` for the value of ``--run-date``."""
    days: Annotated[int, Field(gt=0, le=36_525)] | None = None
    """The number of days, the last one among them; by default that one alone."""
    path: Text
    """A file, a directory or a pattern with wildcards."""
    format: Literal["parquet", "csv", "json"] | None = None
    """By default, what the extension says; in "json", every line is one object."""
    separator: Text | None = None
    """Of the fields of CSV: by default a tab for .tsv, else a comma."""

    def window(self) -> Window | None:
        """Return the days, None for the whole table."""
        if self.partition is None or self.until is None:
            return None
        return Window(self.partition, self.until, self.days or 1)

    @model_validator(mode="after")
    def _check_days(self) -> Self:
        together = (self.partition is None, self.until is None)
        if any(together) and not (all(together) and self.days is None):
            raise ValueError(
                "partition and until are given together, and days with them: "
                f"got partition={self.partition!r}, until={str(self.until)!r}, days={self.days!r}"
            )
        return self

    def read(self, spark: SparkSession) -> Source:
        """Open the files, without reading their rows yet."""
        return read_source(spark, self.path, **self._files())

    def _files(self) -> dict[str, Any]:
        return {"format": self.format, "separator": self.separator, "window": self.window()}


class TableSection(FilesSection):
    """A table in files, or one that comes with scikit-learn."""

    path: Text
    """A file, a directory or a pattern with wildcards; or ``sklearn:digits``, and others that
    `nonconvex.distributed.data.examples.BUNDLED` names."""

    def read(self, spark: SparkSession) -> Source:
        """Open the table, without reading its rows yet."""
        return read_example_table(spark, self.path, **self._files())


class SplitSection(Section):
    """``[split]``: the rows that are held out; by default none."""

    method: Literal["random", "time", "last", "column"] = "random"
    """By hash, by time, the last of each user, or by the values of a column."""
    validation: int | float = 0
    """Fraction of the rows, or their number per user for method "last"."""
    test: int | float = 0
    """Likewise."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    """Of method "random"."""
    column: Text | None = None
    """Of method "column": it has the values train, validation and test."""

    def split(self) -> Split:
        """Return the split."""
        return Split(self.method, self.validation, self.test, self.seed, self.column)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.split()
        return self


class OutputSection(Section):
    """``[output]``: where runs are written and published."""

    path: Text
    """The directory of all runs, each of which gets one of its own in it."""
    keep: PositiveInt | None = None
    """The number of runs to keep, the published one among them; older ones are removed after a new
    one is published.  By default all are kept."""
    day: date | None = None
    """The day of a run, such as ``"{run_date}"``; by default the last day that it reads, if it
    reads days.  A day that has been published is repeated from where it began at first."""


class GateError(ValueError):
    """A model that is not good enough to be published; `details` are reported beside it."""

    exit_status = 4

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = dict(details or {})


class GateSection(Section):
    """``[gate]``: the conditions on the test rows under which a model is published.

    A model with error e passes if e ≤ e_published + `published` and e ≤ e_baseline + `baseline`,
    with the best of the baselines; with the signs the other way round for accuracy and R², of
    which more is better.  A number that is not finite never passes.
    """

    metric: Literal["rmse", "mae", "r2", "accuracy", "logLoss"]
    """The metric that is compared."""
    published: FiniteFloat | None = 0.0
    """Margin by which it may be worse than the published model, in the units of the metric; it
    must be better if this is negative, and is not compared if it is None."""
    baseline: FiniteFloat | None = 0.0
    """Likewise to the best baseline."""

    def complaints(self, figures: Mapping[str, float], baselines: Collection[str]) -> list[str]:
        """Return the conditions that a model misses, none if it passes.

        `figures` has the metric of ``"model"``, of `baselines` and, if any, of ``"published"``.
        """
        best = max if self.metric in _GREATER_IS_BETTER else min
        rivals = []
        if self.published is not None and PUBLISHED in figures:
            rivals.append((self.published, figures[PUBLISHED], "the published model"))
        if self.baseline is not None:
            name = best(baselines, key=figures.__getitem__)
            title = f"the baseline {name.replace('_', ' ')}"
            rivals.append((self.baseline, figures[name], title))
        sign = -1 if self.metric in _GREATER_IS_BETTER else 1
        return [
            f"{self.metric} {figures['model']:.6g} is not within {margin:g} of {value:.6g}, "
            f"that of {title}"
            for margin, value, title in rivals
            if not sign * (figures["model"] - value) <= margin  # or if it is no number
        ]


class StartSection(Section):
    """``[start]``: the model that training begins at; by default random numbers."""

    model: Text | None = None
    """``published``, which is random while no model is published; or a model, a run, or a
    directory of runs."""


class ReportSection(Section):
    """``[report]``: the page of a run."""

    write: bool = True
    """Write ``report.html`` and ``figures/`` beside the model."""


class ParamTable(Generic[EstimatorT]):
    """The Params of an estimator that a table of a configuration may set.

    `section` is the dotted name of the table, and `without` has the Params that other tables set.
    """

    def __init__(self, estimator: type[EstimatorT], section: str, without: Collection[str]) -> None:
        self._estimator, self._section = estimator, section
        default = estimator()
        self._defaults = {
            param.name: default.getOrDefault(param)
            for param in default.params
            if param.name not in without
        }

    def make(self, given: Mapping[str, Any], **others: Any) -> EstimatorT:
        """Return the estimator with the Params of this table, and those of other tables."""
        check_keys(self._section, given, self._defaults)
        try:
            self._estimator(**given)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self._section}: {error}") from None
        # A resolved configuration has all defaults, and must not count as setting those Params.
        changed = {name: v for name, v in given.items() if v != self._defaults[name]}
        return self._estimator(**changed, **others)

    def resolved(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return every Param that has a value, defaults included, under each of its names."""
        params = {**self._defaults, **self._estimator().with_aliases(given)}
        return {name: value for name, value in params.items() if value is not None}


class ModelSection(Section):
    """``[model]``: the model that recommends or predicts."""

    path: Text
    """A model, a run, or a directory of runs of which one is published."""


class PredictionsSection(Section):
    """``[predictions]``: the columns that are written for each row."""

    keep: tuple[Text, ...] | None = None
    """Columns of the table to write beside the predictions; by default all."""
    invalid: Literal["error", "skip", "keep"] | None = None
    """For a network: what happens to a row whose features are null, NaN or infinite.  Nothing is
    written, or all but this row, or it has no prediction; by default, as the model was made."""


class PredictionOutputSection(Section):
    """``[output]`` of predictions and recommendations, as Parquet."""

    path: Text
    """The directory, which appears or changes at once."""
    overwrite: bool = False
    """Permission to replace earlier output of this job."""


class PredictionConfig(Section):
    """Configuration of `jobs/predict.py`."""

    model: ModelSection
    table: TableSection
    """The rows to predict."""
    predictions: PredictionsSection = PredictionsSection()
    output: PredictionOutputSection

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_apart({"output.path": self.output.path}, {"table.path": self.table.path})
        return self
