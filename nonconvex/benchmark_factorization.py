"""The benchmark of factorizations: the same fits, predictions and lists by every contender."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.ml import Estimator
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.benchmark_data import BenchmarkTables
from nonconvex.benchmark_measurements import Clock, interleaved, per_step
from nonconvex.benchmark_turns import settled
from nonconvex.recommendation import MatrixFactorization

__all__ = [
    "FactorizationPlan",
    "Factorizer",
    "measure_factorizations",
    "mllib",
    "ours",
    "work_once",
]

_logger = logging.getLogger("nonconvex")


@dataclass(frozen=True)
class Factorizer:
    """A contender: its estimator, by rank and number of iterations.

    Parameters
    ----------
    name : str
    make : callable
        Takes both, and returns an estimator of ``user, item, rating`` that makes exactly as many
        iterations, and whose model has the methods of MLlib's.
    """

    name: str
    make: Callable[[int, int], Estimator[Any]]


@dataclass(frozen=True)
class FactorizationPlan:
    """What to measure.

    Parameters
    ----------
    ranks : sequence of int
    iterations : (int, int)
        Of the two fits, the lesser first.
    top : int
        Length of the lists.
    repeats : int
    """

    ranks: Sequence[int]
    iterations: tuple[int, int]
    top: int
    repeats: int


def ours(**params: Any) -> Factorizer:
    """Return this project's contender; with tol=0, no fit ends early."""

    def make(rank: int, iterations: int) -> MatrixFactorization:
        return MatrixFactorization(**{"tol": 0.0, **params}, rank=rank, maxIter=iterations)

    return Factorizer("nonconvex", make)


def mllib(**params: Any) -> Factorizer:
    """Return MLlib's contender."""
    from pyspark.ml.recommendation import ALS

    def make(rank: int, iterations: int) -> ALS:
        return ALS(**{"seed": 1, **params}, rank=rank, maxIter=iterations)

    return Factorizer("MLlib", make)


def measure_factorizations(
    spark: SparkSession,
    clock: Clock,
    contenders: Sequence[Factorizer],
    data: BenchmarkTables,
    plan: FactorizationPlan,
    scratch: str,
) -> None:
    """Measure all contenders in turns, after a round of each that is not counted.

    Nor is the first fit of a turn: what another has left is memory and workers to be had again,
    which at ten million ratings takes longer than an iteration.

    Parameters
    ----------
    spark : SparkSession
    clock : Clock
        Takes the numbers.
    contenders : sequence of Factorizer
        This project's first.
    data : BenchmarkTables
    plan : FactorizationPlan
    scratch : str
        A directory for models.
    """
    _write_known(spark, data, f"{scratch}/test")
    for contender in contenders:
        _logger.info("warm-up: %s", contender.name)
        work_once(spark, contender, data, plan, plan.ranks[0])
    for rank in plan.ranks:
        for contender in settled(spark, interleaved(contenders, plan.repeats)):
            _logger.info("rank %d: %s", rank, contender.name)
            _round(spark, clock, contender, data, plan, rank, scratch)


def work_once(
    spark: SparkSession,
    contender: Factorizer,
    data: BenchmarkTables,
    plan: FactorizationPlan,
    rank: int,
) -> None:
    """Do everything once, with the lesser number of iterations."""
    model = contender.make(rank, plan.iterations[0]).fit(spark.read.parquet(data.train))
    _predict_all(spark, model, data.train)
    _compute(model.recommendForAllUsers(plan.top))


def _round(
    spark: SparkSession,
    clock: Clock,
    contender: Factorizer,
    data: BenchmarkTables,
    plan: FactorizationPlan,
    rank: int,
    scratch: str,
) -> None:
    def record(work: str, value: float, unit: str = "s") -> None:
        clock.record(f"rank {rank}", work, contender.name, value, unit)

    def fit(iterations: int) -> tuple[Any, float]:
        estimator = contender.make(rank, iterations)
        return clock.time(lambda: estimator.fit(spark.read.parquet(data.train)))

    short, long = plan.iterations
    fit(short)  # not counted
    _, of_short = fit(short)
    model, of_long = fit(long)
    iteration, load = per_step(plan.iterations, (of_short, of_long))
    record("load", load)
    record("iteration", iteration)
    _, save = clock.time(lambda: model.write().overwrite().save(f"{scratch}/model"))
    record(f"Parquet to saved model, {long} iterations", of_long + save)
    record("predict all rows", clock.time(lambda: _predict_all(spark, model, data.train))[1])
    lists = clock.time(lambda: _compute(model.recommendForAllUsers(plan.top)))
    record(f"top-{plan.top} for all users", lists[1])
    record("test RMSE", _rmse(spark, model, f"{scratch}/test"), "")


def _predict_all(spark: SparkSession, model: Any, path: str) -> None:
    """Sum the predictions, so that none of them is pruned away."""
    model.transform(spark.read.parquet(path)).agg(F.sum("prediction")).collect()


def _compute(rows: DataFrame) -> None:
    """Compute every row and column, and write them nowhere."""
    rows.write.format("noop").mode("overwrite").save()


def _write_known(spark: SparkSession, data: BenchmarkTables, path: str) -> None:
    """Write the test ratings whose user and item are in training, as MLlib predicts no others."""
    train, rows = (spark.read.parquet(part) for part in (data.train, data.test))
    for side in ("user", "item"):
        rows = rows.join(train.select(side).distinct(), side, "left_semi")
    rows.write.mode("overwrite").parquet(path)


def _rmse(spark: SparkSession, model: Any, path: str) -> float:
    """Return √(mean (R̂ − R)²)."""
    error = F.col("prediction") - F.col("rating")
    predictions = model.transform(spark.read.parquet(path))
    return float(predictions.agg(F.sqrt(F.avg(error * error))).collect()[0][0])
