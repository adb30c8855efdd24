"""The benchmark of networks: the same layers and minibatches, trained by every contender."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pyspark.sql import SparkSession

from nonconvex.benchmark_data import BenchmarkTables
from nonconvex.benchmark_measurements import Clock, interleaved, per_step
from nonconvex.benchmark_turns import settled

__all__ = ["NetworkPlan", "Trainer", "epochs_to", "measure_networks", "train_once"]

_logger = logging.getLogger("nonconvex")


class Trainer(Protocol):
    """A contender.

    Attributes
    ----------
    name : str
    """

    @property
    def name(self) -> str:
        """What the tables call it."""

    def fit(self, path: str, epochs: int) -> Any:
        """Read the rows, learn their scales and train so many epochs, from a fresh start."""

    def accuracy(self, model: Any, path: str) -> float:
        """Read the rows, predict each, and return the share of right classes."""


@dataclass(frozen=True)
class NetworkPlan:
    """What to measure.

    Parameters
    ----------
    subject : str
        Layers and batch size, as the table calls them.
    epochs : (int, int)
        Of the two fits, the lesser first.
    accuracy : float or None
        That a fit is to reach on the test rows; None to leave that out.
    most_epochs : int
        With which it is given up.
    repeats : int
    """

    subject: str
    epochs: tuple[int, int]
    accuracy: float | None
    most_epochs: int
    repeats: int


def measure_networks(
    spark: SparkSession,
    clock: Clock,
    contenders: Sequence[Trainer],
    data: BenchmarkTables,
    plan: NetworkPlan,
) -> None:
    """Measure all contenders in turns, after fits of each that are not counted.

    Parameters
    ----------
    spark : SparkSession
    clock : Clock
        Takes the numbers.
    contenders : sequence of Trainer
        This project's first.
    data : BenchmarkTables
    plan : NetworkPlan
    """
    needed: dict[str, int | None] = {}
    for contender in contenders:
        _logger.info("warm-up: %s", contender.name)
        train_once(contender, data, plan)
        if plan.accuracy is not None:
            needed[contender.name] = epochs_to(contender, data, plan)
    for contender in settled(spark, interleaved(contenders, plan.repeats)):
        _logger.info("%s: %s", plan.subject, contender.name)
        _round(clock, contender, data, plan)
        if plan.accuracy is not None:
            _reach(clock, contender, data, plan, needed[contender.name])


def train_once(contender: Trainer, data: BenchmarkTables, plan: NetworkPlan) -> None:
    """Do everything once, with the lesser number of epochs."""
    contender.accuracy(contender.fit(data.train, plan.epochs[0]), data.train)


def epochs_to(contender: Trainer, data: BenchmarkTables, plan: NetworkPlan) -> int | None:
    """Return how many epochs reach the accuracy: 1, 2, 4 …, each fit from a fresh start.

    Returns
    -------
    int or None
        None if as many as ``plan.most_epochs`` do not.
    """
    assert plan.accuracy is not None
    epochs = 1
    while epochs <= plan.most_epochs:
        reached = contender.accuracy(contender.fit(data.train, epochs), data.test)
        _logger.info("%s: accuracy %.4f after %d epochs", contender.name, reached, epochs)
        if reached >= plan.accuracy:
            return epochs
        epochs *= 2
    return None


def _round(clock: Clock, contender: Trainer, data: BenchmarkTables, plan: NetworkPlan) -> None:
    short, long = plan.epochs
    contender.fit(data.train, short)  # not counted, see `measure_factorizations`
    _, of_short = clock.time(lambda: contender.fit(data.train, short))
    model, of_long = clock.time(lambda: contender.fit(data.train, long))
    epoch, load = per_step(plan.epochs, (of_short, of_long))
    predict = clock.time(lambda: contender.accuracy(model, data.train))[1]
    for work, value in {"load": load, "epoch": epoch, "predict all rows": predict}.items():
        clock.record(plan.subject, work, contender.name, value)
    reached = contender.accuracy(model, data.test)
    work = f"test accuracy, {long} epochs"
    clock.record(plan.subject, work, contender.name, reached, "", "more")


def _reach(
    clock: Clock,
    contender: Trainer,
    data: BenchmarkTables,
    plan: NetworkPlan,
    epochs: int | None,
) -> None:
    """Time a fit of the length that reached the accuracy, with all that comes before it."""
    seconds = None
    if epochs is not None:
        seconds = clock.time(lambda: contender.fit(data.train, epochs))[1]
    clock.record(plan.subject, f"reach {plan.accuracy:g}", contender.name, seconds)
    clock.record(plan.subject, f"epochs to {plan.accuracy:g}", contender.name, epochs, "")
