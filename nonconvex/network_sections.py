"""Configuration of the jobs that train networks and predict with models."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pyspark.sql import SparkSession

from nonconvex.config import Section
from nonconvex.distributed.data.example_tables import (
    ExampleTable,
    InvalidRowPolicy,
    feature_columns,
    read_example_table,
    take_examples,
)
from nonconvex.distributed.data.examples import ExampleColumns
from nonconvex.distributed.data.sources import Source
from nonconvex.distributed.data.splits import Split
from nonconvex.estimator_sections import GateSection, OutputSection, ParamTable, StartSection
from nonconvex.neural_network import MultilayerPerceptronClassifier, MultilayerPerceptronRegressor
from nonconvex.report_sections import ReportSection
from nonconvex.window_sections import DailySection

__all__ = [
    "ExampleSplitSection",
    "ExamplesSection",
    "NetworkConfig",
    "NetworkEstimator",
    "TableSection",
]

NetworkEstimator = MultilayerPerceptronClassifier | MultilayerPerceptronRegressor

_Text = Annotated[str, Field(min_length=1)]
_Texts = Annotated[tuple[_Text, ...], Field(min_length=1)]

# Params that the sections of the examples and their split say.
_SAID = {"featuresCol", "labelCol", "weightCol", "validationIndicatorCol"}


class TableSection(DailySection):
    """A table in files, or one that comes with scikit-learn.

    Examples
    --------
    >>> TableSection(path="sklearn:digits").format is None
    True
    """

    path: _Text
    """A file, a directory or a pattern with wildcards; or ``sklearn:digits``, and others that
    `nonconvex.distributed.data.example_tables.BUNDLED` names."""
    format: Literal["parquet", "csv", "json"] | None = None
    """By default, what the extension says; in "json", every line is one object."""
    separator: _Text | None = None
    """Of the fields of CSV: by default a tab for .tsv, else a comma."""

    def read(self, spark: SparkSession) -> Source:
        """Read the table, without looking at its rows yet.

        Raises
        ------
        SourceError, ExamplesError, WindowError
            As `read_example_table` says.
        """
        return read_example_table(
            spark,
            self.path,
            format=self.format,
            separator=self.separator,
            window=self.window(),
        )


class ExampleSplitSection(Section):
    """``[split]``: which examples are held out; by default none.

    Examples
    --------
    >>> ExampleSplitSection(test=0.2).split().test
    0.2
    """

    method: Literal["random", "column"] = "random"
    """By a hash of all that is used of a row, or as a column says."""
    validation: float = 0
    """Fraction of the examples."""
    test: float = 0
    """Likewise."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    """Of method "random"."""
    column: _Text | None = None
    """Of method "column": it has the values train, validation and test."""

    def split(self) -> Split:
        """Return the split."""
        return Split(self.method, self.validation, self.test, self.seed, self.column)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.split()
        return self


class ExamplesSection(TableSection):
    """``[examples]``: the table of examples, and what is used of it.

    Examples
    --------
    >>> ExamplesSection(path="houses.csv", task="regression", label="price").features is None
    True
    """

    task: Literal["classification", "regression"]
    """What is predicted: classes or numbers."""
    features: _Text | _Texts | None = None
    """A column of vectors or arrays, or a list of columns of numbers; by default all columns that
    nothing else names."""
    label: _Text | _Texts = "label"
    """Column of the classes or numbers to predict; for several numbers, a list of columns."""
    weight: _Text | None = None
    """Column of the weights, if there is one."""
    invalid: Literal["error", "reject"] = "error"
    """What becomes of rows that cannot be used: no training, or training without them; they are
    then kept with the run."""

    def table(self, spark: SparkSession, split: ExampleSplitSection) -> ExampleTable:
        """Read the examples and split them.

        Raises
        ------
        SourceError, ColumnError, ExamplesError
            As `read_example_table` and `take_examples` say.
        """
        source = self.read(spark)
        label = self.label if isinstance(self.label, str) else list(self.label)
        features = self.features
        if features is None:
            named = [label] if isinstance(label, str) else label
            others = [*named, *filter(None, (self.weight, split.column))]
            names = feature_columns(source, others)
            features = names[0] if names == ["features"] else tuple(names)
        columns = ExampleColumns(
            features if isinstance(features, str) else list(features), label, self.weight
        )
        policy = InvalidRowPolicy(split.split(), self.invalid)
        return take_examples(source, columns, policy, classify=self.task == "classification")


class NetworkConfig(Section):
    """All it takes to train, evaluate and publish a network.

    Examples
    --------
    >>> config = NetworkConfig(
    ...     examples=ExamplesSection(path="sklearn:digits", task="classification"),
    ...     network={"layers": [64]},
    ...     output=OutputSection(path="runs/digits"),
    ... )
    >>> config.params().make(config.network).getLayers()
    [64]
    """

    examples: ExamplesSection
    split: ExampleSplitSection = ExampleSplitSection()
    network: dict[str, Any] = Field(default_factory=dict)
    """Params of `MultilayerPerceptronClassifier` or `MultilayerPerceptronRegressor`, by name."""
    start: StartSection = StartSection()
    output: OutputSection
    gate: GateSection | None = None
    """By default, a model is published however good it is."""
    report: ReportSection = ReportSection()

    @property
    def day(self) -> date | None:
        """The day that a run is of, if it is of one."""
        return self.output.day or self.examples.until

    @property
    def classify(self) -> bool:
        """Whether classes are predicted."""
        return self.examples.task == "classification"

    def params(self) -> ParamTable[Any]:
        """Return the Params that the section ``[network]`` may have."""
        estimator = (
            MultilayerPerceptronClassifier if self.classify else MultilayerPerceptronRegressor
        )
        return ParamTable(estimator, "network", _SAID)

    def table(self, spark: SparkSession) -> ExampleTable:
        """Read the examples and split them.

        Raises
        ------
        SourceError, ColumnError, ExamplesError
            As `ExamplesSection.table` says.
        """
        return self.examples.table(spark, self.split)

    def estimator(self, table: ExampleTable) -> NetworkEstimator:
        """Return the estimator of a table of examples.

        Parameters
        ----------
        table : ExampleTable
            What `table` returned.
        """
        columns = table.columns
        others = {"featuresCol": columns.features, "labelCol": columns.label}
        if columns.weight is not None:
            others["weightCol"] = columns.weight
        if table.counts["validation"]:
            others["validationIndicatorCol"] = table.HELD_OUT
        estimator: NetworkEstimator = self.params().make(self.network, **others)
        return estimator

    def resolved(self) -> Self:
        """Return the configuration with every Param that has a value, defaults included."""
        return self.model_copy(update={"network": self.params().resolved(self.network)})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.classify and not isinstance(self.examples.label, str):
            raise ValueError("examples.label must be one column for a classification")
        self.params().make(self.network)
        metrics = ("accuracy", "logLoss") if self.classify else ("rmse", "mae", "r2")
        if self.gate is not None and self.gate.metric not in metrics:
            raise ValueError(
                f"gate.metric must be {' or '.join(metrics)} for a {self.examples.task}, "
                f"got {self.gate.metric}"
            )
        return self
