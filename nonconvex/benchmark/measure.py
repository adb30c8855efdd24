"""Measurements of contenders: seconds, scores, ratios and peak memory."""

from __future__ import annotations

import gc
import logging
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from statistics import median
from typing import Any, Literal, NamedTuple, TypeVar

from pyspark.sql import SparkSession

from nonconvex.benchmark.contenders import Contender, Pipeline
from nonconvex.benchmark.data import BenchmarkTables
from nonconvex.distributed.runtime import collect_garbage, counted_jobs

_logger = logging.getLogger("nonconvex")

_INTERVAL = 0.1  # seconds between two looks at the memory
_SHOWN = 2000  # characters of the output of a command that failed

ResultT = TypeVar("ResultT")
_Better = Literal["less", "more"]
_Key = tuple[str, str, str]  # subject, work, contender


@dataclass(frozen=True)
class Measurement:
    """One work of one contender, measured several times."""

    section: str  # "factorization" or "network"
    subject: str  # such as "rank 10"
    work: str  # such as "iteration"
    contender: str
    unit: str  # such as "s"; empty for a number without one
    better: _Better
    values: tuple[float | None, ...]  # one for each repeat; None if the target was not reached

    @property
    def median(self) -> float | None:
        """The median of the values; None if one is None."""
        known = [value for value in self.values if value is not None]
        return median(known) if known and len(known) == len(self.values) else None


class Ratio(NamedTuple):
    """The factor by which the first contender is better than a peer: below 1, it is worse.

    `value` is the peer's median over ours where less is better, and the inverse where more is; None
    if either is unknown.
    """

    section: str
    subject: str
    work: str
    peer: str
    value: float | None


@dataclass
class Clock:
    """A stopwatch and a record of values, in the order in which they were first recorded."""

    section: str
    now: Callable[[], float] = time.perf_counter
    _values: dict[_Key, tuple[str, _Better, list[float | None]]] = field(default_factory=dict)

    def time(self, work: Callable[[], ResultT]) -> tuple[ResultT, float]:
        """Return the result of `work` and the seconds that it took."""
        started = self.now()
        result = work()
        return result, self.now() - started

    def record(
        self,
        subject: str,
        work: str,
        contender: str,
        value: float | None,
        unit: str = "s",
        better: _Better = "less",
    ) -> None:
        """Add one value to those of a work of a contender."""
        self._values.setdefault((subject, work, contender), (unit, better, []))[2].append(value)

    @property
    def measurements(self) -> list[Measurement]:
        """All measurements."""
        return [
            Measurement(self.section, subject, work, contender, unit, better, tuple(values))
            for (subject, work, contender), (unit, better, values) in self._values.items()
        ]


def per_step(lengths: tuple[int, int], seconds: tuple[float, float]) -> tuple[float, float]:
    """Return the seconds of a step, b, and of the rest, a, from fits of two lengths.

    A fit of n steps takes a + b n seconds: b is the difference of the two fits over that of their
    lengths, and a is the rest of the longer one.  No contender has to report anything.
    """
    slope = (seconds[1] - seconds[0]) / (lengths[1] - lengths[0])
    return slope, seconds[1] - lengths[1] * slope


def ratios(measurements: Sequence[Measurement]) -> list[Ratio]:
    """Return the ratios of the first contender of each work to all others."""
    first: dict[tuple[str, str, str], Measurement] = {}
    found = []
    for one in measurements:
        ours = first.setdefault((one.section, one.subject, one.work), one)
        if one is not ours:
            value = _ratio(ours.median, one.median, one.better)
            found.append(Ratio(one.section, one.subject, one.work, one.contender, value))
    return found


def _ratio(ours: float | None, peer: float | None, better: _Better) -> float | None:
    if ours is None or peer is None:
        return None
    above, below = (peer, ours) if better == "less" else (ours, peer)
    return above / below if below > 0 and above > 0 else None


@dataclass(frozen=True)
class BenchmarkPlan:
    """Settings of the measurement of one subject."""

    subject: str
    step: str  # "iteration" or "epoch"
    lengths: tuple[int, int]  # steps of the two fits, the lesser first
    repeats: int
    score: str  # the name of the score on the test rows
    better: _Better
    top: int = 0  # the length of the lists
    target: float | None = None  # the score to reach on the test rows, where more is better
    most_steps: int = 0  # the longest fit that is tried for it
    steps_only: bool = False  # measure fits, and nothing else


def measure_contenders(
    spark: SparkSession,
    clock: Clock,
    subjects: Sequence[tuple[BenchmarkPlan, Sequence[Contender]]],
    data: BenchmarkTables,
    scratch: str,
) -> None:
    """Measure all contenders of each subject in turns, after a round that is not counted.

    This library's contenders come first; `scratch` is a directory for models.
    """
    plan, contenders = subjects[0]
    for contender in contenders:
        _logger.info("warm-up: %s", contender.name)
        perform_once(contender, data, plan)
    for plan, contenders in subjects:
        needed = {one.name: steps_to_target(one, data, plan) for one in contenders}
        for contender in [*contenders] * plan.repeats:  # in turns: all see the same machine
            # No contender is to pay for the caches and the garbage of the one before.
            spark.catalog.clearCache()
            gc.collect()
            collect_garbage(spark)
            _logger.info("%s: %s", plan.subject, contender.name)
            _round(clock, contender, data, plan, scratch, needed[contender.name])


def measure_pipelines(
    spark: SparkSession,
    clock: Clock,
    subject: str,
    pipelines: Sequence[Pipeline],
    path: str,
    scratch: str,
    repeats: int,
) -> None:
    """Measure all pipelines in turns, after a round that is not counted."""
    for number in range(repeats + 1):
        for one in pipelines:
            spark.catalog.clearCache()
            gc.collect()
            collect_garbage(spark)
            _logger.info("%s: %s", subject, one.name if number else f"warm-up: {one.name}")
            of_round = Clock(clock.section, clock.now)
            _walk(spark, of_round if not number else clock, subject, one, path, scratch)


def _walk(
    spark: SparkSession, clock: Clock, subject: str, one: Pipeline, path: str, scratch: str
) -> None:
    """Measure the steps of a pipeline once."""
    whole = 0.0

    def step(work: str, run: Callable[[], ResultT]) -> ResultT:
        nonlocal whole
        result, seconds = clock.time(run)
        clock.record(subject, work, one.name, seconds)
        whole += seconds
        return result

    with counted_jobs(spark) as jobs:
        ratings = step("prepare", lambda: one.prepare(path, scratch))
        model = step("load and fit", lambda: one.fit(ratings))
        error = step("evaluate", lambda: one.evaluate(ratings, model))
        step("write the model", lambda: one.write(ratings, model, f"{scratch}/model"))
        clock.record(subject, "Parquet to saved model", one.name, whole)
        clock.record(subject, "Spark jobs", one.name, jobs(), "")
    clock.record(subject, "test RMSE", one.name, error, "")


def perform_once(contender: Contender, data: BenchmarkTables, plan: BenchmarkPlan) -> None:
    """Fit, with the lesser number of steps, predict all rows, and recommend."""
    model = contender.fit(data.train, plan.lengths[0])
    if plan.steps_only:
        return
    contender.predict(model, data.train)
    if contender.recommend is not None:
        contender.recommend(model, plan.top)


def steps_to_target(contender: Contender, data: BenchmarkTables, plan: BenchmarkPlan) -> int | None:
    """Return the steps that reach the target: 1, 2, 4 …, each fit from a fresh start.

    It is None if there is no target, or if `most_steps` do not reach it.
    """
    steps = 1
    while plan.target is not None and steps <= plan.most_steps:
        reached = contender.score(contender.fit(data.train, steps), data.test)
        _logger.info("%s: %.4f after %d %ss", contender.name, reached, steps, plan.step)
        if reached >= plan.target:
            return steps
        steps *= 2
    return None


def _round(
    clock: Clock,
    contender: Contender,
    data: BenchmarkTables,
    plan: BenchmarkPlan,
    scratch: str,
    needed: int | None,
) -> None:
    """Measure every work once; `needed` steps reach the target, if there is one.

    The first fit is not counted: another contender has taken memory and workers, and getting them
    back takes longer than an iteration at ten million ratings.
    """

    def record(work: str, value: float | None, unit: str = "s", better: _Better = "less") -> None:
        clock.record(plan.subject, work, contender.name, value, unit, better)

    def fit(steps: int) -> tuple[Any, float]:
        return clock.time(lambda: contender.fit(data.train, steps))

    short, long = plan.lengths
    fit(short)  # not counted
    _, of_short = fit(short)
    model, of_long = fit(long)
    step, load = per_step(plan.lengths, (of_short, of_long))
    record("load", load)
    record(plan.step, step)
    if plan.steps_only:
        return
    if (save := contender.save) is not None:
        _, seconds = clock.time(lambda: save(model, f"{scratch}/model"))
        record(f"Parquet to saved model, {long} {plan.step}s", of_long + seconds)
    record("predict all rows", clock.time(lambda: contender.predict(model, data.train))[1])
    if (recommend := contender.recommend) is not None:
        _, seconds = clock.time(lambda: recommend(model, plan.top))
        record(f"top-{plan.top} for all users", seconds)
    record(plan.score, contender.score(model, data.test), "", plan.better)
    if plan.target is not None:  # reading and scaling are part of it
        record(f"reach {plan.target:g}", None if needed is None else fit(needed)[1])
        record(f"{plan.step}s to {plan.target:g}", needed, "")


class CommandError(RuntimeError):
    """A command failed, so that its memory means nothing; the message ends with its output."""


def has_psutil() -> bool:
    """Tell whether psutil is installed, which `peak_memory` needs."""
    return find_spec("psutil") is not None


def peak_memory(command: Sequence[str], environment: Mapping[str, str], text: str = "") -> float:
    """Run a command on `text` as its input; return the peak memory of its processes in MB.

    Pages that processes share count once for each of them, so this is an upper bound.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as given:
        given.write(text.encode())
        given.seek(0)
        process = subprocess.Popen(
            command, env=dict(environment), stdin=given, stdout=said, stderr=said
        )
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, resident(process.pid))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_INTERVAL)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode:
            said.seek(0)
            end = said.read().decode(errors="replace").strip()[-_SHOWN:]
            raise CommandError(f"{' '.join(command)} ended with {process.returncode}: {end}")
    return peak / 1e6


def resident(root: int) -> int:
    """Return the bytes that a process and its descendants have in memory now."""
    import psutil

    total = 0
    with suppress(psutil.Error):  # it has just ended
        process = psutil.Process(root)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                total += one.memory_info().rss
    return total
