"""Configuration of the job that measures this project beside its peers."""

from __future__ import annotations

from inspect import signature
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pyspark.ml.classification import MultilayerPerceptronClassifier as MLlibClassifier
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession

from nonconvex.benchmark_data import (
    BenchmarkTables,
    example_tables,
    planted_examples,
    planted_ratings,
    prepared_tables,
    write_tables,
)
from nonconvex.benchmark_factorization import FactorizationPlan, Factorizer, mllib, ours
from nonconvex.benchmark_network import NetworkPlan, Trainer
from nonconvex.benchmark_trainers import MLlibTrainer, OurTrainer, SklearnTrainer, has_sklearn
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.neural_network import MultilayerPerceptronClassifier
from nonconvex.numerics.synthetic import PlantedExamples, PlantedRatings
from nonconvex.pipeline.config import Section, check_keys
from nonconvex.pipeline.factorization.config import (
    PreparationConfig,
    PreparedSection,
    RatingsSection,
)
from nonconvex.pipeline.network.config import ExampleSplitSection, ExamplesSection
from nonconvex.pipeline.sections import ParamTable, SplitSection
from nonconvex.recommendation import MatrixFactorization

__all__ = [
    "BenchmarkConfig",
    "BenchmarkOutputSection",
    "FactorizationBenchmarkSection",
    "NetworkBenchmarkSection",
]

_Text = Annotated[str, Field(min_length=1)]
_Fraction = Annotated[float, Field(gt=0, lt=1)]
_Seed = Annotated[int, Field(ge=0, lt=2**63)]
_Lengths = tuple[PositiveInt, PositiveInt]

# Params that other keys of the section say, or that all contenders must have alike.
_OF_FACTORIZATION = {"rank", "maxIter", "userCol", "itemCol", "ratingCol", "weightCol"}
_OF_FACTORIZATION |= {"predictionCol", "validationIndicatorCol"}
_OF_NETWORK = {"layers", "batchSize", "blockSize", "maxIter", "maxSteps", "gradients"}
_OF_NETWORK |= {"learningRate", "stepSize", "featuresCol", "labelCol", "weightCol"}
_OF_NETWORK |= {"predictionCol", "validationIndicatorCol"}
_OF_MLLIB = {"layers", "maxIter", "featuresCol", "labelCol", "predictionCol"}


class FactorizationBenchmarkSection(Section):
    """``[factorization]``: `MatrixFactorization` beside MLlib's ``ALS``.

    Examples
    --------
    >>> FactorizationBenchmarkSection(ratings=10_000_000).law().users
    70000
    """

    enabled: bool = True
    """Whether factorizations are measured."""
    ratings: PositiveInt = 100_000
    """How many ratings to plant, unless there are others to use."""
    users: PositiveInt | None = None
    """How many users to plant; by default seven for a thousand ratings."""
    items: PositiveInt | None = None
    """How many items to plant; by default 3.5 times the square root of the ratings, or
    twice as many as the most active user has."""
    seed: _Seed = 0
    """Of the planted ratings."""
    test: _Fraction = 0.1
    """Fraction of the planted ratings that is held out."""
    prepared: _Text | None = None
    """A directory of prepared ratings, to use instead of planted ones."""
    source: RatingsSection | None = None
    """Files of ratings, to use instead of planted ones."""
    split: SplitSection = SplitSection(test=0.1)
    """Which ratings of `source` are held out."""
    ranks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (10, 32, 64, 128)
    """The ranks to measure."""
    iterations: _Lengths = (2, 10)
    """Of the two fits whose difference tells the seconds of an iteration."""
    top: PositiveInt = 10
    """Length of the lists of every user."""
    repeats: PositiveInt = 3
    """How often everything is measured; the tables show medians."""
    memory: bool = True
    """Whether to measure peak memory, in processes of their own; only with a local master."""
    peers: tuple[Literal["mllib"], ...] = ("mllib",)
    """What to compare with."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Params of `MatrixFactorization`, by name."""
    mllib: dict[str, Any] = Field(default_factory=dict)
    """Params of MLlib's ``ALS``, by name."""

    def law(self) -> PlantedRatings:
        """Return what ratings to plant."""
        return PlantedRatings.of_size(self.ratings, self.users, self.items, self.seed)

    def plan(self) -> FactorizationPlan:
        """Return what to measure."""
        return FactorizationPlan(self.ranks, self.iterations, self.top, self.repeats)

    def contenders(self) -> list[Factorizer]:
        """Return this project's and the peers."""
        return [ours(**self.params), *(mllib(**self.mllib) for _ in self.peers)]

    def tables(self, spark: SparkSession, path: str) -> BenchmarkTables:
        """Write the ratings that all contenders read, or find the planted ones there.

        Raises
        ------
        SourceError, RatingsError, PreparedError
            As preparing the ratings, or opening prepared ones, says.
        """
        if self.prepared is None and self.source is None:
            law = self.law()
            name = f"ratings-{law.ratings}-{law.users}-{law.items}-{law.seed}-{self.test:g}"
            return write_tables(
                spark, f"{path}/{name}", lambda: planted_ratings(spark, law, self.test), reuse=True
            )
        if self.source is None:
            prepared = PreparedRatings.open(spark, str(self.prepared))
        else:
            where = PreparedSection(path=f"{path}/prepared", overwrite=True)
            prepared = PreparationConfig(
                ratings=self.source, split=self.split, prepared=where
            ).prepare(spark)
        return write_tables(
            spark, f"{path}/ratings", lambda: prepared_tables(prepared), reuse=False
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _rising("iterations", self.iterations)
        if self.prepared is not None and self.source is not None:
            raise ValueError("prepared and source are two sources of ratings: leave one out")
        self.law()
        ParamTable(MatrixFactorization, "params", _OF_FACTORIZATION).make(self.params)
        check_keys("mllib", self.mllib, _named(ALS) - _OF_FACTORIZATION)
        return self


class NetworkBenchmarkSection(Section):
    """``[network]``: `MultilayerPerceptronClassifier` beside MLlib's and scikit-learn's.

    Examples
    --------
    >>> NetworkBenchmarkSection(features=20, classes=3, layers=(8,)).plan([20, 8, 3]).subject
    '20-8-3, batch 1024'
    """

    enabled: bool = True
    """Whether networks are measured."""
    rows: PositiveInt = 10_000
    """How many examples to plant, unless there are others to use."""
    features: PositiveInt = 64
    """Of the planted examples."""
    classes: Annotated[int, Field(ge=2)] = 10
    """Likewise."""
    seed: _Seed = 0
    """Likewise."""
    test: _Fraction = 0.2
    """Fraction of the planted examples that is held out."""
    examples: ExamplesSection | None = None
    """A table of examples of classes, to use instead of planted ones."""
    split: ExampleSplitSection = ExampleSplitSection(test=0.2)
    """Which rows of `examples` are held out."""
    layers: tuple[PositiveInt, ...] = (128,)
    """The hidden layers of all contenders."""
    batch_size: PositiveInt = 1024
    """Of the minibatches of all contenders but MLlib, which has none."""
    learning_rate: PositiveFloat = 1e-3
    """Of Adam, of all contenders but MLlib."""
    epochs: _Lengths = (2, 6)
    """Of the two fits whose difference tells the seconds of an epoch."""
    accuracy: _Fraction | None = 0.86
    """That a fit is to reach on the test rows; it is given up if `most_epochs` do not."""
    most_epochs: PositiveInt = 256
    """Likewise; fits of 1, 2, 4 … epochs are tried."""
    repeats: PositiveInt = 3
    """How often everything is measured; the tables show medians."""
    memory: bool = True
    """Whether to measure peak memory, in processes of their own; only with a local master."""
    gradients: Annotated[tuple[Literal["driver", "executors"], ...], Field(min_length=1)] = (
        "driver",
    )
    """Where this project computes gradients; each is a contender."""
    peers: tuple[Literal["mllib", "sklearn"], ...] = ("mllib", "sklearn")
    """What to compare with, where it is installed."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Params of `MultilayerPerceptronClassifier` of this project, by name."""
    mllib: dict[str, Any] = Field(default_factory=dict)
    """Params of MLlib's."""

    def absent(self) -> list[str]:
        """Return what is to be said of peers that are not installed."""
        if "sklearn" not in self.peers or has_sklearn():
            return []
        return ["scikit-learn is not installed, so it is not measured: pip install scikit-learn"]

    def plan(self, layers: list[int]) -> NetworkPlan:
        """Return what to measure, given all the layers."""
        subject = f"{'-'.join(map(str, layers))}, batch {self.batch_size}"
        return NetworkPlan(subject, self.epochs, self.accuracy, self.most_epochs, self.repeats)

    def all_layers(self, spark: SparkSession, data: BenchmarkTables) -> list[int]:
        """Return the layers from the features to the classes."""
        rows = spark.read.parquet(data.train)
        features = len(rows.first()["features"])  # type: ignore[index]  # there are rows
        return [features, *self.layers, rows.select("label").distinct().count()]

    def contenders(self, spark: SparkSession, layers: list[int]) -> list[Trainer]:
        """Return this project's and those peers that are installed."""
        batch, rate = self.batch_size, self.learning_rate
        found: list[Trainer] = [
            OurTrainer(spark, self.layers, batch, rate, place, self.params)
            for place in self.gradients
        ]
        if "mllib" in self.peers:
            found.append(MLlibTrainer(spark, layers, self.mllib))
        if "sklearn" in self.peers and has_sklearn():
            found.append(SklearnTrainer(spark, self.layers, batch, rate))
        return found

    def tables(self, spark: SparkSession, path: str) -> BenchmarkTables:
        """Write the examples that all contenders read, or find the planted ones there.

        Raises
        ------
        SourceError, ColumnError, ExamplesError
            As `ExamplesSection.table` says.
        """
        if self.examples is not None:
            table = self.examples.table(spark, self.split)
            return write_tables(
                spark, f"{path}/examples", lambda: example_tables(table), reuse=False
            )
        law = PlantedExamples(self.features, self.classes, self.seed)
        name = f"examples-{self.rows}-{law.features}-{law.classes}-{law.seed}-{self.test:g}"
        return write_tables(
            spark,
            f"{path}/{name}",
            lambda: planted_examples(spark, law, self.rows, self.test),
            reuse=True,
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _rising("epochs", self.epochs)
        if self.examples is not None:
            if self.examples.task != "classification":
                raise ValueError("examples.task must be classification: MLlib has no regression")
            if self.examples.weight is not None:
                raise ValueError("examples.weight must be left out: MLlib takes no weights")
            if not isinstance(self.examples.label, str):
                raise ValueError("examples.label must be one column")
        ours = ParamTable(MultilayerPerceptronClassifier, "params", _OF_NETWORK)
        ours.make(self.params)
        check_keys("mllib", self.mllib, _named(MLlibClassifier) - _OF_MLLIB)
        return self


class BenchmarkOutputSection(Section):
    """``[output]``: where the numbers go, and what they are compared with.

    Examples
    --------
    >>> BenchmarkOutputSection(path="output/benchmark").compare is None
    True
    """

    path: _Text
    """The directory of all benchmarks, and of the planted data."""
    compare: _Text | None = None
    """The JSON file of an earlier benchmark, to show how the ratios have changed since."""


class BenchmarkConfig(Section):
    """All it takes to measure.

    Examples
    --------
    >>> output = BenchmarkOutputSection(path="output/benchmark")
    >>> BenchmarkConfig(network=NetworkBenchmarkSection(), output=output).factorization is None
    True
    """

    factorization: FactorizationBenchmarkSection | None = None
    """By default factorizations are not measured."""
    network: NetworkBenchmarkSection | None = None
    """By default networks are not measured."""
    output: BenchmarkOutputSection

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(one is not None and one.enabled for one in (self.factorization, self.network)):
            raise ValueError("there is nothing to measure: enable [factorization] or [network]")
        return self


def _rising(name: str, lengths: tuple[int, int]) -> None:
    if lengths[0] >= lengths[1]:
        raise ValueError(f"{name} must be two numbers, the lesser first, got {list(lengths)}")


def _named(estimator: type[Any]) -> set[str]:
    """Return the Params that an estimator of MLlib takes by name."""
    return set(signature(estimator).parameters) - {"self"}
