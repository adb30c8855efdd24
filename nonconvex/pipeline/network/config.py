"""Configuration of the job that trains networks."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pyspark.sql import SparkSession

from nonconvex.distributed.data.examples import (
    ExampleColumns,
    ExampleTable,
    InvalidRowPolicy,
    feature_columns,
    take_examples,
)
from nonconvex.estimators.network.params import check_network
from nonconvex.neural_network import MultilayerPerceptronClassifier, MultilayerPerceptronRegressor
from nonconvex.pipeline.config import Section
from nonconvex.pipeline.sections import (
    PUBLISHED,
    GateSection,
    OutputSection,
    ParamTable,
    ReportSection,
    SplitSection,
    StartSection,
    TableSection,
    Text,
    check_apart,
)

NetworkEstimator = MultilayerPerceptronClassifier | MultilayerPerceptronRegressor

_Texts = Annotated[tuple[Text, ...], Field(min_length=1)]

# Params that the sections of the examples and their split set.
_EXAMPLES = {"featuresCol", "labelCol", "weightCol", "validationIndicatorCol"}


class ExampleSplitSection(SplitSection):
    """``[split]`` of examples, of which fractions are held out; by default none."""

    method: Literal["random", "column"] = "random"
    """By a hash of all that is used of a row, or by the values of a column."""
    validation: float = 0
    """Fraction of the examples."""
    test: float = 0
    """Likewise."""


class ExamplesSection(TableSection):
    """``[examples]``: the table of examples, and the columns that are used."""

    task: Literal["classification", "regression"]
    """Predict classes or numbers."""
    features: Text | _Texts | None = None
    """A column of vectors or arrays, or a list of columns of numbers; by default all columns that
    nothing else names."""
    label: Text | _Texts = "label"
    """Column of the classes or numbers to predict; for several numbers, a list of columns."""
    weight: Text | None = None
    """Column of the weights, if there is one."""
    invalid: Literal["error", "reject"] = "error"
    """Rows that cannot be used prevent training, or are kept with the run instead."""

    def table(self, spark: SparkSession, split: SplitSection) -> ExampleTable:
        """Read the examples and split them."""
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
    """Configuration of the job that trains, evaluates and publishes a network."""

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
        """The day of the run, if it has one."""
        return self.output.day or self.examples.until

    @property
    def classify(self) -> bool:
        """True for classes, False for numbers."""
        return self.examples.task == "classification"

    def params(self) -> ParamTable[Any]:
        """Return the Params that the section ``[network]`` may have."""
        estimator = (
            MultilayerPerceptronClassifier if self.classify else MultilayerPerceptronRegressor
        )
        return ParamTable(estimator, "network", _EXAMPLES)

    def table(self, spark: SparkSession) -> ExampleTable:
        """Read the examples and split them, as `ExamplesSection.table` does."""
        return self.examples.table(spark, self.split)

    def estimator(self, table: ExampleTable) -> NetworkEstimator:
        """Return the estimator for the columns of a table of examples."""
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
        held_out = self.split.method == "column" or self.split.validation > 0
        warm = self.start.model not in (None, PUBLISHED)
        check_network(self.params().make(self.network), has_validation=held_out, warm=warm)
        checkpoint = self.network.get("checkpointPath")
        written = {"output.path": self.output.path, "network.checkpointPath": checkpoint}
        check_apart(written, {"examples.path": self.examples.path})
        metrics = ("accuracy", "logLoss") if self.classify else ("rmse", "mae", "r2")
        if self.gate is not None and self.gate.metric not in metrics:
            raise ValueError(
                f"gate.metric must be {' or '.join(metrics)} for a {self.examples.task}, "
                f"got {self.gate.metric}"
            )
        return self
