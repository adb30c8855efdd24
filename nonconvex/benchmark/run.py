"""A whole benchmark: its configuration, its run, its tables and its JSON.

``python -m nonconvex.benchmark.run`` puts one contender to work in a process of its own, for its
peak memory: it reads a `MemoryTask` as JSON from standard input.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import metadata
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pyspark.ml.classification import MultilayerPerceptronClassifier as MLlibClassifier
from pyspark.ml.recommendation import ALS
from pyspark.sql import SparkSession

from nonconvex import __version__
from nonconvex.benchmark.contenders import (
    Contender,
    Pipeline,
    cmfrec_factorization,
    cmfrec_pipeline,
    has_cmfrec,
    has_sklearn,
    mllib_factorization,
    mllib_network,
    mllib_pipeline,
    our_factorization,
    our_network,
    our_pipeline,
    sklearn_network,
)
from nonconvex.benchmark.data import (
    BenchmarkTables,
    example_tables,
    planted_examples,
    planted_ratings,
    prepared_tables,
    without_unknown_ids,
    write_tables,
)
from nonconvex.benchmark.measure import (
    BenchmarkPlan,
    Clock,
    Measurement,
    has_psutil,
    measure_contenders,
    measure_pipelines,
    peak_memory,
    perform_once,
    ratios,
)
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.runtime import java_version, parallelism
from nonconvex.estimators.display import lacking, text_table
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
from nonconvex.pipeline.text import strict_json
from nonconvex.recommendation import MatrixFactorization
from nonconvex.report.page import Picture
from nonconvex.session import get_session

_LAYOUT = 1  # of the JSON
_PACKAGES = ("pyspark", "numpy", "pyarrow", "scikit-learn", "cmfrec")

# Session settings that a process for memory copies.
_COPIED = ("spark.master", "spark.driver.memory", "spark.driver.extraJavaOptions")
_COPIED_GROUPS = (
    *("spark.sql.", "spark.python.", "spark.executorEnv.", "spark.default."),
    *("spark.memory.", "spark.serializer", "spark.shuffle.", "spark.hadoop."),
)
# By these variables pyspark would connect to the JVM of the parent process.
_FOREIGN = ("PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET", "PYSPARK_SUBMIT_ARGS")

_STEPS = (
    "an iteration or epoch is the difference of fits of {0} and {1} of them over {2}; load is the "
    "rest of the longer fit: reading, checking, packing, starting, collecting"
)
_TOO_SHORT = (
    "{0} of {1}: fits of two lengths took the same time, so there is no ratio; take longer fits "
    "or more data"
)
_LBFGS = "an epoch of MLlib is an iteration of L-BFGS over all rows, however many times it passes"
_REACH = (
    "to reach an accuracy, fits of 1, 2, 4 … epochs are tried; timed is the last one alone, from "
    "a fresh start, with reading and scaling"
)
_PEAK = (
    "peak memory is that of driver, JVM and Python workers in a process of their own, which makes "
    "the shorter fit, then predicts all rows{0}; pages that processes share count for each"
)
_REMOTE = (
    "peak memory is not measured: the processes of {0} are not all on this machine; Spark's web "
    "page of executors shows theirs"
)
_NO_PSUTIL = "peak memory is not measured: psutil is not installed: pip install psutil"
_PIPELINE = (
    "to prepare is to check, index and write here, to index and cache in MLlib, and to read in "
    "cmfrec; the two check nothing. Each has a regularization of its own"
)
_NO_CMFREC = "cmfrec is not installed, so it is not measured: pip install cmfrec"
_NO_SKLEARN = "scikit-learn is not installed, so it is not measured: pip install scikit-learn"

_Text = Annotated[str, Field(min_length=1)]
_Fraction = Annotated[float, Field(gt=0, lt=1)]
_Seed = Annotated[int, Field(ge=0, lt=2**63)]
_Lengths = tuple[PositiveInt, PositiveInt]

# Params that other keys of the section set, or that must be the same for all contenders.
_OF_FACTORIZATION = {"rank", "maxIter", "userCol", "itemCol", "ratingCol", "weightCol"}
_OF_FACTORIZATION |= {"predictionCol", "validationIndicatorCol"}
_OF_NETWORK = {"layers", "batchSize", "blockSize", "maxIter", "maxSteps", "gradients"}
_OF_NETWORK |= {"learningRate", "stepSize", "featuresCol", "labelCol", "weightCol"}
_OF_NETWORK |= {"predictionCol", "validationIndicatorCol"}
_OF_MLLIB = {"layers", "maxIter", "featuresCol", "labelCol", "predictionCol"}


class _RatingsSection(Section):
    """Ratings to measure with."""

    ratings: PositiveInt = 100_000
    """Number of ratings to plant, unless there are others to use."""
    users: PositiveInt | None = None
    """Number of users to plant; by default seven for a thousand ratings."""
    items: PositiveInt | None = None
    """Number of items to plant; by default 3.5 times the square root of the ratings, or
    twice as many as the most active user has."""
    seed: _Seed = 0
    """Seed of the planted ratings."""
    test: _Fraction = 0.1
    """Fraction of the planted ratings that is held out."""
    prepared: _Text | None = None
    """A directory of prepared ratings, to use instead of planted ones."""
    source: RatingsSection | None = None
    """Files of ratings, to use instead of planted ones."""
    split: SplitSection = SplitSection(test=0.1)
    """Ratings of `source` to hold out."""

    def law(self) -> PlantedRatings:
        """Return the law of the planted ratings."""
        return PlantedRatings.of_size(self.ratings, self.users, self.items, self.seed)

    def tables(self, spark: SparkSession, path: str) -> BenchmarkTables:
        """Write the ratings that all contenders read, or find the planted ones there."""
        if self.prepared is None and self.source is None:
            law = self.law()
            name = f"ratings-{law.ratings}-{law.users}-{law.items}-{law.seed}-{self.test:g}"
            make = partial(planted_ratings, spark, law, self.test)
            return write_tables(spark, f"{path}/{name}", make, reuse=True)
        if self.source is None:
            prepared = PreparedRatings.open(spark, str(self.prepared))
        else:
            where = PreparedSection(path=f"{path}/prepared", overwrite=True)
            prepared = PreparationConfig(
                ratings=self.source, split=self.split, prepared=where
            ).prepare(spark)
        return write_tables(spark, f"{path}/ratings", lambda: prepared_tables(prepared))

    @model_validator(mode="after")
    def _check_ratings(self) -> Self:
        if self.prepared is not None and self.source is not None:
            raise ValueError("prepared and source are two sources of ratings: leave one out")
        self.law()
        return self


class PipelineBenchmarkSection(_RatingsSection):
    """``[pipeline]``: from Parquet to a saved model, beside MLlib and cmfrec."""

    enabled: bool = True
    """Measure pipelines."""
    rank: PositiveInt = 10
    """Rank of all models."""
    iterations: PositiveInt = 10
    """Iterations of all fits."""
    repeats: PositiveInt = 3
    """Rounds of measurements; the tables show medians."""
    peers: tuple[Literal["mllib", "cmfrec"], ...] = ("mllib", "cmfrec")
    """Libraries to compare with, where they are installed."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Params of `MatrixFactorization`, by name."""
    mllib: dict[str, Any] = Field(default_factory=dict)
    """Params of MLlib's ``ALS``, by name."""

    def pipelines(self, spark: SparkSession) -> list[Pipeline]:
        """Return this library's pipeline, and those of the installed peers."""
        size = (spark, self.rank, self.iterations)
        found = [our_pipeline(*size, self.params)]
        if "mllib" in self.peers:
            found.append(mllib_pipeline(*size, self.mllib))
        if "cmfrec" in self.peers and has_cmfrec():
            found.append(cmfrec_pipeline(*size))
        return found

    def remarks(self) -> list[str]:
        """Return remarks on the tables, and on peers that are not installed."""
        missing = "cmfrec" in self.peers and not has_cmfrec()
        return [_PIPELINE, *([_NO_CMFREC] if missing else [])]

    @model_validator(mode="after")
    def _check(self) -> Self:
        ParamTable(MatrixFactorization, "params", _OF_FACTORIZATION).make(self.params)
        check_keys("mllib", self.mllib, _named(ALS) - _OF_FACTORIZATION)
        return self


class FactorizationBenchmarkSection(_RatingsSection):
    """``[factorization]``: `MatrixFactorization` beside MLlib's ``ALS`` and cmfrec."""

    enabled: bool = True
    """Measure factorizations."""
    ranks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (10, 32, 64, 128)
    """The ranks to measure."""
    growth: tuple[PositiveInt, ...] = ()
    """Other numbers of ratings to plant, and to measure iterations of the first rank on."""
    pictures: bool = False
    """Draw the seconds of an iteration against the rank, and against the ratings of `growth`;
    needs matplotlib."""
    kernels: tuple[Literal["compiled", "numpy"], ...] = ()
    """Kernels of this library; each is a contender. By default it is one, with its Params."""
    iterations: _Lengths = (2, 10)
    """Lengths of the two fits whose difference gives the seconds of an iteration."""
    top: PositiveInt = 10
    """Length of the lists of every user."""
    repeats: PositiveInt = 3
    """Rounds of measurements; the tables show medians."""
    memory: bool = True
    """Measure peak memory, in processes of their own; only with a local master and psutil."""
    peers: tuple[Literal["mllib", "cmfrec"], ...] = ("mllib", "cmfrec")
    """Libraries to compare with, where they are installed; cmfrec is measured by Cholesky and by
    conjugate gradients."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Params of `MatrixFactorization`, by name."""
    mllib: dict[str, Any] = Field(default_factory=dict)
    """Params of MLlib's ``ALS``, by name."""

    def sizes(self, spark: SparkSession, data: BenchmarkTables) -> list[tuple[int, ...]]:
        """Return the ranks to measure, each as a tuple."""
        del spark, data
        return [(rank,) for rank in self.ranks]

    def growing(self) -> Iterator[tuple[str, FactorizationBenchmarkSection, BenchmarkPlan]]:
        """Yield a subject, a section that plants its ratings, and a plan, for each of `growth`."""
        for number in self.growth:
            subject = f"{number:,} ratings, rank {self.ranks[0]}"
            planted = {"ratings": number, "users": None, "items": None}
            planted |= {"prepared": None, "source": None}
            plan = replace(self.plan(self.ranks), subject=subject, steps_only=True)
            yield subject, self.model_copy(update=planted), plan

    def plan(self, size: Sequence[int]) -> BenchmarkPlan:
        """Return the plan for a rank."""
        subject, score = f"rank {size[0]}", "test RMSE"
        return BenchmarkPlan(
            subject, "iteration", self.iterations, self.repeats, score, "less", top=self.top
        )

    def contenders(self, spark: SparkSession, size: Sequence[int]) -> list[Contender]:
        """Return this library's contender for a rank, and the peers."""
        kernels = self.kernels or (None,)
        ours = [our_factorization(spark, size[0], self.params, kernel) for kernel in kernels]
        if "mllib" in self.peers:
            ours.append(mllib_factorization(spark, size[0], self.mllib))
        if "cmfrec" in self.peers and has_cmfrec():
            ours += [cmfrec_factorization(spark, size[0], cg=cg) for cg in (False, True)]
        return ours

    def remarks(self) -> list[str]:
        """Return remarks on the tables, and on peers that are not installed."""
        missing = "cmfrec" in self.peers and not has_cmfrec()
        steps = _STEPS.format(*self.iterations, self.iterations[1] - self.iterations[0])
        return [steps, *([_NO_CMFREC] if missing else [])]

    @model_validator(mode="after")
    def _check(self) -> Self:
        _rising("iterations", self.iterations)
        if self.kernels and "kernel" in self.params:
            raise ValueError("kernels and params.kernel are two choices of one: leave one out")
        for _, planted, _ in self.growing():
            planted.law()
        ParamTable(MatrixFactorization, "params", _OF_FACTORIZATION).make(self.params)
        check_keys("mllib", self.mllib, _named(ALS) - _OF_FACTORIZATION)
        return self


class NetworkBenchmarkSection(Section):
    """``[network]``: `MultilayerPerceptronClassifier` beside MLlib's and scikit-learn's."""

    enabled: bool = True
    """Measure networks."""
    rows: PositiveInt = 10_000
    """Number of examples to plant, unless there are others to use."""
    features: PositiveInt = 64
    """Number of features of the planted examples."""
    classes: Annotated[int, Field(ge=2)] = 10
    """Number of classes of the planted examples."""
    seed: _Seed = 0
    """Seed of the planted examples."""
    test: _Fraction = 0.2
    """Fraction of the planted examples that is held out."""
    examples: ExamplesSection | None = None
    """A table of examples of classes, to use instead of planted ones."""
    split: ExampleSplitSection = ExampleSplitSection(test=0.2)
    """Rows of `examples` to hold out."""
    layers: tuple[PositiveInt, ...] = (128,)
    """The hidden layers of all contenders."""
    batch_size: PositiveInt = 1024
    """Size of the minibatches of all contenders but MLlib, which has none."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of Adam, for all contenders but MLlib."""
    epochs: _Lengths = (2, 6)
    """Lengths of the two fits whose difference gives the seconds of an epoch."""
    accuracy: _Fraction | None = 0.86
    """Accuracy that a fit is to reach on the test rows."""
    most_epochs: PositiveInt = 256
    """Longest fit that is tried for it; fits of 1, 2, 4 … epochs are."""
    repeats: PositiveInt = 3
    """Rounds of measurements; the tables show medians."""
    memory: bool = True
    """Measure peak memory, in processes of their own; only with a local master and psutil."""
    gradients: Annotated[tuple[Literal["driver", "executors"], ...], Field(min_length=1)] = (
        "driver",
    )
    """Places where this library computes gradients; each is a contender."""
    peers: tuple[Literal["mllib", "sklearn"], ...] = ("mllib", "sklearn")
    """Libraries to compare with, where they are installed."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Params of `MultilayerPerceptronClassifier` of this library, by name."""
    mllib: dict[str, Any] = Field(default_factory=dict)
    """Params of MLlib's, by name."""

    def sizes(self, spark: SparkSession, data: BenchmarkTables) -> list[tuple[int, ...]]:
        """Return the one list of layers to measure, from the features to the classes."""
        rows = spark.read.parquet(data.train)
        features = len(rows.first()["features"])  # type: ignore[index]  # there are rows
        return [(features, *self.layers, rows.select("label").distinct().count())]

    def plan(self, size: Sequence[int]) -> BenchmarkPlan:
        """Return the plan for all the layers."""
        subject = f"{'-'.join(map(str, size))}, batch {self.batch_size}"
        score = f"test accuracy, {self.epochs[1]} epochs"
        common = BenchmarkPlan(subject, "epoch", self.epochs, self.repeats, score, "more")
        return replace(common, target=self.accuracy, most_steps=self.most_epochs)

    def contenders(self, spark: SparkSession, size: Sequence[int]) -> list[Contender]:
        """Return this library's contenders for all the layers, and the installed peers."""
        batch, rate = self.batch_size, self.learning_rate
        found = [
            our_network(spark, self.layers, batch, rate, place, self.params)
            for place in self.gradients
        ]
        if "mllib" in self.peers:
            found.append(mllib_network(spark, size, self.mllib))
        if "sklearn" in self.peers and has_sklearn():
            found.append(sklearn_network(spark, self.layers, batch, rate))
        return found

    def remarks(self) -> list[str]:
        """Return remarks on the tables, and on peers that are not installed."""
        found = [_STEPS.format(*self.epochs, self.epochs[1] - self.epochs[0])]
        if "sklearn" in self.peers and not has_sklearn():
            found.append(_NO_SKLEARN)
        if "mllib" in self.peers:
            found.append(_LBFGS)
        if self.accuracy is not None:
            found.append(_REACH)
        return found

    def tables(self, spark: SparkSession, path: str) -> BenchmarkTables:
        """Write the examples that all contenders read, or find the planted ones there."""
        if self.examples is not None:
            table = self.examples.table(spark, self.split)
            return write_tables(spark, f"{path}/examples", lambda: example_tables(table))
        law = PlantedExamples(self.features, self.classes, self.seed)
        name = f"examples-{self.rows}-{law.features}-{law.classes}-{law.seed}-{self.test:g}"
        make = partial(planted_examples, spark, law, self.rows, self.test)
        return write_tables(spark, f"{path}/{name}", make, reuse=True)

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
    """``[output]``: the place of the numbers."""

    path: _Text
    """The directory of all benchmarks, and of the planted data."""


class BenchmarkConfig(Section):
    """Configuration of a benchmark."""

    pipeline: PipelineBenchmarkSection | None = None
    """By default pipelines are not measured."""
    factorization: FactorizationBenchmarkSection | None = None
    """By default factorizations are not measured."""
    network: NetworkBenchmarkSection | None = None
    """By default networks are not measured."""
    output: BenchmarkOutputSection

    def sections(self) -> dict[str, FactorizationBenchmarkSection | NetworkBenchmarkSection]:
        """Return the sections to measure, by name."""
        both = {"factorization": self.factorization, "network": self.network}
        return {name: one for name, one in both.items() if one is not None and one.enabled}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.sections() and not (self.pipeline is not None and self.pipeline.enabled):
            raise ValueError(
                "there is nothing to measure: enable [pipeline], [factorization] or [network]"
            )
        return self


def _rising(name: str, lengths: tuple[int, int]) -> None:
    if lengths[0] >= lengths[1]:
        raise ValueError(f"{name} must be two numbers, the lesser first, got {list(lengths)}")


def _named(estimator: type[Any]) -> set[str]:
    """Return the Params that an estimator of MLlib takes by name."""
    return set(signature(estimator).parameters) - {"self"}


@dataclass
class Benchmark:
    """Measurements and data by section, and remarks for the reader of the tables."""

    measurements: dict[str, list[Measurement]] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    # seconds of an iteration of each contender, by "rank" and by "ratings"
    costs: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)

    @property
    def all(self) -> list[Measurement]:
        """The measurements of all sections."""
        return [one for measurements in self.measurements.values() for one in measurements]

    def remark(self, *remarks: str) -> None:
        """Add remarks that are not there yet."""
        self.remarks += [one for one in remarks if one not in self.remarks]


def run_benchmark(spark: SparkSession, config: BenchmarkConfig, scratch: str) -> Benchmark:
    """Measure all sections that are enabled; `scratch` is a directory for temporary files."""
    found, path = Benchmark(), f"{config.output.path}/data"
    if config.pipeline is not None and config.pipeline.enabled:
        pipeline = config.pipeline
        data, clock = pipeline.tables(spark, path), Clock("pipeline")
        found.data["pipeline"] = {"path": data.path, "rows": data.counts}
        subject = f"rank {pipeline.rank}, {pipeline.iterations} iterations"
        ways, repeats = pipeline.pipelines(spark), pipeline.repeats
        measure_pipelines(spark, clock, subject, ways, data.path, scratch, repeats)
        found.measurements["pipeline"] = clock.measurements
        found.remark(*pipeline.remarks())
    for name, section in config.sections().items():
        data = section.tables(spark, path)
        found.data[name] = {"path": data.path, "rows": data.counts}
        sizes = section.sizes(spark, data)
        subjects = [(section.plan(size), section.contenders(spark, size)) for size in sizes]
        memory, clock = Clock(name), Clock(name)
        if section.memory and _can_measure_memory(spark, name, found):
            tasks = MemoryTask(
                settings=_session_settings(spark), config=config, section=name, data=data
            )
            command = [sys.executable, "-m", "nonconvex.benchmark.run"]
            environment = _environment(os.environ)
            for size, (plan, contenders) in zip(sizes, subjects, strict=True):
                for one in contenders:
                    task = tasks.model_copy(update={"size": size, "contender": one.name})
                    peak = peak_memory(command, environment, task.model_dump_json())
                    memory.record(plan.subject, "peak memory", one.name, peak, "MB")
        if name == "factorization":
            data = without_unknown_ids(spark, data, f"{scratch}/test")
        measure_contenders(spark, clock, subjects, data, scratch)
        if isinstance(section, FactorizationBenchmarkSection):
            _measure_growth(spark, section, clock, path, scratch, found)
        found.measurements[name] = clock.measurements + memory.measurements
        found.remark(*section.remarks())
        for timed in clock.measurements:
            if timed.unit == "s" and timed.median is not None and timed.median <= 0:
                work = f"{timed.subject}, {timed.work}"
                found.remark(_TOO_SHORT.format(work, timed.contender))
    return found


def _measure_growth(
    spark: SparkSession,
    section: FactorizationBenchmarkSection,
    clock: Clock,
    path: str,
    scratch: str,
    found: Benchmark,
) -> None:
    """Measure iterations on other numbers of ratings, and gather what the pictures show."""
    place: dict[str, tuple[str, float]] = {f"rank {k}": ("rank", k) for k in section.ranks}
    for subject, planted, plan in section.growing():
        data = planted.tables(spark, path)
        found.data[subject] = {"path": data.path, "rows": data.counts}
        place[subject] = "ratings", data.counts["train"]
        contenders = planted.contenders(spark, section.ranks)
        measure_contenders(spark, clock, [(plan, contenders)], data, scratch)
    for one in clock.measurements:
        if one.work == "iteration" and one.median is not None and one.median > 0:
            what, x = place[one.subject]
            of_all = found.costs.setdefault(what, {})
            of_all.setdefault(one.contender, []).append((x, one.median))
    if section.pictures and (missing := lacking("matplotlib")):
        found.remark(f"there are no pictures, as {missing}")


def draw_costs(found: Benchmark) -> list[Picture]:
    """Draw the seconds of an iteration against the rank and the ratings, where two are known."""
    if lacking("matplotlib"):
        return []
    from nonconvex.report.charts import costs_picture

    curves = {
        what: {name: sorted(curve) for name, curve in of_all.items() if len(curve) > 1}
        for what, of_all in found.costs.items()
    }
    return [costs_picture(what, of_all) for what, of_all in curves.items() if of_all]


class MemoryTask(Section):
    """Work of one contender in a process of its own."""

    settings: dict[str, str]
    """Settings of the session."""
    config: BenchmarkConfig
    section: str
    data: BenchmarkTables
    size: tuple[int, ...] = ()
    """The rank, or the layers from the features to the classes."""
    contender: str = ""


def _can_measure_memory(spark: SparkSession, section: str, found: Benchmark) -> bool:
    """Tell whether all processes of the session are on this machine and visible; remark it."""
    master = spark.conf.get("spark.master") or ""
    if not master.startswith("local"):
        found.remark(_REMOTE.format(master))
    elif not has_psutil():
        found.remark(_NO_PSUTIL)
    else:
        found.remark(_PEAK.format(" and makes the lists" if section == "factorization" else ""))
        return True
    return False


def _session_settings(spark: SparkSession) -> dict[str, str]:
    """Return the settings of a session like this one."""
    return {
        key: value
        for key, value in spark.conf.getAll.items()
        if key in _COPIED or key.startswith(_COPIED_GROUPS)
    }


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that starts a session, and finds this package."""
    kept = {name: value for name, value in given.items() if name not in _FOREIGN}
    here = str(Path(__file__).resolve().parent.parent.parent)
    paths = filter(None, [here, kept.get("PYTHONPATH")])
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


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
        times = (ratio.get((subject, work, name)) for name in names[1:])
        shown = ("" if one is None else f"{one:.2f} ×" for one in times)
        rows.append([title, *map(_value, of), *shown])
    return text_table(["", *names, *(f"than {name}" for name in names[1:])], rows)


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


def benchmark_json(
    spark: SparkSession, run_id: str, config: BenchmarkConfig, found: Benchmark
) -> str:
    """Return all numbers of a benchmark, and everything that they depend on, as JSON."""
    return strict_json(
        {
            "benchmark": _LAYOUT,
            "run_id": run_id,
            "environment": {
                "nonconvex": __version__,
                "python": platform.python_version(),
                "java": java_version(spark),
                **{name: _version(name) for name in _PACKAGES},
                "machine": f"{platform.system()} {platform.machine()}",
                "processor": _processor(),
                "cores_of_driver": os.cpu_count(),
                "master": spark.conf.get("spark.master"),
                "parallelism": parallelism(spark),
                "driver_memory": spark.conf.get("spark.driver.memory", None),
                "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE"),
            },
            "data": found.data,
            "remarks": found.remarks,
            "configuration": config.model_dump(mode="json"),
            "measurements": [{**asdict(one), "median": one.median} for one in found.all],
            "ratios": [one._asdict() for one in ratios(found.all)],
        }
    )


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


def perform_task() -> None:
    """Do once all that the contender in the task on standard input is measured at."""
    task = MemoryTask.model_validate_json(sys.stdin.read())
    spark = get_session("benchmark", task.settings)
    try:
        section = task.config.sections()[task.section]
        contenders = {one.name: one for one in section.contenders(spark, task.size)}
        perform_once(contenders[task.contender], task.data, section.plan(task.size))
    finally:
        spark.stop()


if __name__ == "__main__":
    perform_task()
