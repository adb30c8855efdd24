"""The loop of Gibbs sampling: sweeps of all chains of all fits, in the same passes.

The driver follows the mean prediction of all samples for the validation ratings.  Executors keep
nothing between jobs, so each sample sends it 8 bytes per rating and chain.  Of very many ratings
about a million are followed, chosen by hashing; their RMSE is that of all to some 0.1 %.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nonconvex.distributed.checkpoints import Checkpoints, Interrupted, Interruption, State
from nonconvex.distributed.factorization.execution import BlockStore
from nonconvex.distributed.factorization.fit import fit_loop
from nonconvex.distributed.factorization.packing import unpack
from nonconvex.distributed.factorization.state import (
    Blocks,
    Broadcast,
    Problem,
    Result,
    gather_factors,
)
from nonconvex.distributed.factorization.steps import Draw, SharedRows, update_side
from nonconvex.distributed.runtime import Batches, Progress, binary_row, map_in_threads, report
from nonconvex.numerics import Bools, Doubles
from nonconvex.numerics.convergence import FitError, HalfStep, Stop, StoppingRule
from nonconvex.numerics.deterministic import (
    Kernel,
    Stream,
    add_exactly,
    fractions_of,
    one_thread_per_product,
    uniform_rows,
)
from nonconvex.numerics.factorization.als import RowUpdate
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gibbs import (
    USER_FREEDOM,
    Chain,
    NoisePrior,
    RowDistribution,
    RowPrior,
    Sample,
)
from nonconvex.numerics.factorization.model import SIDE_ORDER, Factors, Side, predict
from nonconvex.numerics.factorization.posterior import LowRankMean, Posterior

MOST = 1 << 20
"""Approximate number of validation ratings that are followed at most."""

_Arrays = Callable[[RatingBlock], dict[str, NDArray[Any]]]

_RATINGS = ("rows", "columns", "ratings", "weights")
_SKETCHES = 1 << 21  # a key of random numbers that is no number of a chain
_START = 5  # iterations of alternating least squares that a chain starts from

_log = logging.getLogger("nonconvex")


class HeldOut:
    """Validation ratings in an order that does not depend on their blocks.

    They are packed by users, and -1 is an id that training does not know; about `most` of them are
    followed.
    """

    def __init__(self, packed: BlockStore, dtype: type[np.floating], most: int = MOST) -> None:
        self._packed, self._dtype = packed, dtype
        self._share = 1.0
        counted = self._collect(["n"], lambda block: {"n": np.array([len(block.ratings)])})
        counts = _concatenated(counted, "n", np.int64)
        self._share = min(1.0, most / max(1, int(counts.sum())))
        table = self._collect(_RATINGS, _ratings)
        rows, columns = (_concatenated(table, name, np.int32) for name in _RATINGS[:2])
        ratings, weights = (_concatenated(table, name, np.float64) for name in _RATINGS[2:])
        # Equal pairs have equal predictions, so their order does not matter.
        self._order = np.lexsort((columns, rows))
        self._ratings, self._weights = ratings[self._order], weights[self._order]

    def __len__(self) -> int:
        """Return the number of ratings that are followed."""
        return len(self._ratings)

    def predictions(
        self,
        alphas: Sequence[float],
        means: Sequence[tuple[Doubles, Doubles]],
        users: SharedRows,
        items: SharedRows,
        kernel: Kernel = "numpy",
    ) -> list[Doubles]:
        """Predict the ratings in every chain.

        `means` are the rows (1 + K,) of a user and of an item that training does not know.
        """

        def predicted(block: RatingBlock) -> dict[str, NDArray[Any]]:
            rows = np.repeat(block.rows, block.counts)
            found = {}
            for number, (alpha, unknown) in enumerate(zip(alphas, means, strict=True)):
                sides = (side.value[number] for side in (users, items))
                # An index of -1 takes the last row.
                x, z = (np.vstack([side, row]) for side, row in zip(sides, unknown, strict=True))
                pairs = rows % len(x), block.columns % len(z)
                found[f"chain{number}"] = predict(Factors(alpha, x, z), *pairs, kernel=kernel)
            return found

        names = [f"chain{number}" for number in range(len(alphas))]
        table = self._collect(names, predicted)
        return [_concatenated(table, name, np.float64)[self._order] for name in names]

    def rmse(self, predicted: Doubles) -> float:
        """Compute √(Σ w (R̂ − R)² / Σ w)."""
        errors = self._weights * (predicted - self._ratings) ** 2
        groups = np.repeat([0, 1], len(errors))
        sums = fractions_of(add_exactly({}, groups, np.concatenate([errors, self._weights])))
        return float(np.sqrt(float(sums[0] / sums[1]))) if sums[1] else float("nan")

    def _collect(self, names: Sequence[str], arrays: _Arrays) -> pa.Table:
        dtype, share = self._dtype, self._share

        def task(batches: Batches) -> Batches:
            for number, block in unpack(batches, dtype):
                chosen, found = _choose(block, share), arrays(block)
                yield binary_row({"block": number}, {n: found[n][chosen] for n in names})

        table = self._packed.run(task)
        return table.take(pc.sort_indices(table["block"]))


def _choose(block: RatingBlock, share: float) -> Bools | slice:
    """Choose about a share of the ratings, independently of their blocks."""
    if share >= 1:
        return slice(None)
    pairs = (np.repeat(block.rows, block.counts).astype(np.int64) << 32) ^ block.columns
    keys = pairs ^ block.ratings.astype(np.float64).view(np.int64)
    return uniform_rows(Stream.of(0), keys, 1)[:, 0] < share


def _ratings(block: RatingBlock) -> dict[str, NDArray[Any]]:
    weights = np.ones(len(block.ratings)) if block.weights is None else block.weights
    return {
        "rows": np.repeat(block.rows, block.counts),
        "columns": block.columns,
        "ratings": block.ratings.astype(np.float64),
        "weights": weights.astype(np.float64),
    }


def _concatenated(table: pa.Table, name: str, kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.frombuffer(part, kind) for part in table[name].to_pylist()])


class SamplingOptions(NamedTuple):
    """Lengths of chains."""

    burn_in: int  # discarded sweeps
    samples: int  # samples of each chain in the mean
    thinning: int  # sweeps per sample
    kept: int  # samples that are kept whole, over all chains of a fit

    @property
    def sweeps(self) -> int:
        """Number of sweeps of a chain."""
        return self.burn_in + self.samples * self.thinning

    def sample_of(self, sweep: int) -> int | None:
        """Return the number of the sample at the end of a sweep, from 0; None between samples."""
        number, left = divmod(sweep - self.burn_in, self.thinning)
        return None if number < 1 or left else number - 1

    def keeps(self, chains: int) -> set[int]:
        """Return the numbers of the kept samples, evenly spread, chain after chain."""
        total = chains * self.samples
        kept = min(self.kept, total)
        return {(number + 1) * total // kept - 1 for number in range(kept)}


@dataclass(frozen=True)
class SamplingTask:
    """A fit to sample."""

    starts: list[Problem]  # the problem that each chain minimizes first
    numbers: list[int]  # the number of each chain
    # mean and standard deviation of the ratings
    center: float
    deviation: float
    seed: int
    mean_rank: int  # rank of the mean model
    user_freedom: float = USER_FREEDOM  # κ of the prior of ω; ∞ without ω


class SamplingResult(NamedTuple):
    """Result of a sampled fit."""

    factors: Factors  # the mean of all samples
    posterior: Posterior  # the kept samples
    chains: list[Result]  # the history of each chain


class ChainGroup:
    """The running chains of one fit, and their kept samples."""

    def __init__(self, task: SamplingTask, blocks: Blocks, settings: SamplingOptions) -> None:
        self.task, self._settings = task, settings
        self._degrees = blocks.degrees
        self._dtype = blocks.dtype
        self._keeps = settings.keeps(len(task.starts))
        self.kept: dict[int, Sample] = {}
        self.mean: LowRankMean | None = None
        self.predicted: Doubles | None = None
        self.history: list[list[HalfStep]] = [[] for _ in task.starts]
        self.chains: list[Chain] = []
        self._taus: list[float] = []  # the first of each chain, which Λ follows for `HELD` sweeps

    def begin(self, starts: Sequence[tuple[Factors, float]]) -> None:
        """Make the chains, from factors and the first τ of each."""
        task, self._taus = self.task, [tau for _, tau in starts]
        self.chains = [
            Chain(
                factors,
                tau,
                self._degrees,
                {side: _precision(problem, side, tau) for side in Side},
                noise_prior=NoisePrior(task.center, task.deviation, user_freedom=task.user_freedom),
                row_prior=RowPrior.of(task.deviation, factors.users.shape[1] - 1),
                seed=task.seed,
                number=number,
            )
            for number, problem, (factors, tau) in zip(
                task.numbers, task.starts, starts, strict=True
            )
        ]

    def take(self, sweep: int, held_out: Sequence[Doubles] | None) -> None:
        """Add the samples of a sweep, if it ends with samples."""
        settings = self._settings
        number = settings.sample_of(sweep)
        if sweep == settings.burn_in or (self.mean is None and number is not None):
            key = (_SKETCHES, self.task.numbers[0])
            self.mean = LowRankMean(
                [chain.sample().factors for chain in self.chains],
                self.task.mean_rank,
                Stream.generator(self.task.seed, *key),
            )
        if number is None or self.mean is None:
            return
        for place, chain in enumerate(self.chains):
            drawn = chain.sample()
            self.mean.add(drawn.factors, map_in_threads)
            position = place * settings.samples + number
            if position in self._keeps:
                self.kept[position] = drawn
        if held_out is not None:
            total = np.sum(held_out, axis=0)
            self.predicted = total if self.predicted is None else self.predicted + total

    def record(self, sweep: int, seconds: float, held_out: HeldOut | None) -> None:
        """Add a sweep to the history of every chain."""
        rmse = None
        if held_out is not None and self.predicted is not None and self.mean is not None:
            rmse = held_out.rmse(self.predicted / self.mean.samples)
        for number, chain, history in zip(
            self.task.numbers, self.chains, self.history, strict=True
        ):
            if not (np.isfinite(chain.alpha) and np.isfinite(chain.tau)):
                raise FitError(
                    f"chain {number} became non-finite in sweep {sweep}; check that ratings are on "
                    f"a moderate scale (the mean is {self.task.center:.3g})"
                )
            step = HalfStep(
                iteration=sweep,
                side="both",
                objective=chain.objective,
                alpha=chain.intercept,
                train_rmse=chain.train_rmse,
                validation_rmse=rmse,
                step_norm=0.0,
                gradient_norm=None,
                seconds=seconds,
                tau=chain.tau,
            )
            history.append(step)
            figures = {"τ": f"{chain.tau:.4f}", "train RMSE": f"{chain.train_rmse:.4f}"}
            if rmse is not None:
                figures["validation RMSE of the mean"] = f"{rmse:.4f}"
            most = self._settings.sweeps
            stop = Stop.SAMPLED.value if sweep == most else None
            report(Progress(f"chain {number}", "sweep", sweep, most, figures, seconds, stop))

    def result(self) -> SamplingResult:
        """Return the mean model, the kept samples and the histories."""
        assert self.mean is not None
        alpha, x, z = self.mean.result()
        factors = Factors(alpha, x.astype(self._dtype), z.astype(self._dtype))
        samples = [self.kept[position] for position in sorted(self.kept)]
        chains = [
            Result(factors, history, history[-1].iteration, Stop.SAMPLED)
            for history in self.history
        ]
        posterior = Posterior.of(samples, self.task.seed, self.task.user_freedom)
        return SamplingResult(factors, posterior, chains)

    def save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the state, as nested arrays and as JSON values."""
        arrays: dict[str, Any] = {"chains": {}, "kept": {}}
        values: dict[str, Any] = {
            "history": [[list(step) for step in history] for history in self.history],
            "chains": [],
            "taus": self._taus,
            "kept": {},
        }
        for number, chain in enumerate(self.chains):
            arrays["chains"][str(number)], value = chain.save()
            values["chains"].append(value)
        if self.mean is not None:
            arrays["mean"], values["mean"] = self.mean.save()
        if self.predicted is not None:
            arrays["predicted"] = self.predicted
        for position, kept in sorted(self.kept.items()):
            alpha, x, z = kept.factors
            arrays["kept"][str(position)] = {
                "rows": {"users": x, "items": z},
                "slope": {"users": kept.users.slope, "items": kept.items.slope},
                "precision": {"users": kept.users.precision, "items": kept.items.precision},
                "user_precision": kept.user_precision,
            }
            values["kept"][str(position)] = [alpha, kept.tau, kept.users.least, kept.items.least]
        return arrays, values

    def restore(self, arrays: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Restore the state that `save` returned."""
        self.history = [[HalfStep(*step) for step in history] for history in values["history"]]
        chains = [arrays["chains"][str(number)] for number in range(len(self.task.starts))]
        starts = (Factors(0.0, rows["users"], rows["items"]) for rows in chains)
        self.begin(list(zip(starts, values["taus"], strict=True)))
        for chain, rows, value in zip(self.chains, chains, values["chains"], strict=True):
            chain.restore(rows, value)
        if "mean" in values:
            self.mean = LowRankMean.restore(arrays["mean"], values["mean"])
        self.predicted = arrays.get("predicted")
        for position, (alpha, tau, *least) in values["kept"].items():
            kept = arrays["kept"][position]
            users, items = (
                RowDistribution.centered(kept["slope"][side], kept["precision"][side], d)
                for side, d in zip(Side, least, strict=True)
            )
            factors = Factors(alpha, kept["rows"]["users"], kept["rows"]["items"])
            self.kept[int(position)] = Sample(factors, tau, users, items, kept["user_precision"])


def _precision(problem: Problem, side: Side, tau: float) -> Doubles:
    """Return the diagonal Λ that makes the minimum the mode: τ n λ."""
    ridge = problem.ridge(side)
    width = problem.start.users.shape[1]
    diagonal: Doubles = ridge.diagonal(np.array([ridge.mean_degree]), width)[0]
    return tau * diagonal


def sample(
    blocks: Blocks,
    fits: Sequence[SamplingTask],
    settings: SamplingOptions,
    checkpoints: Checkpoints | None = None,
) -> list[SamplingResult]:
    """Sample every fit; each pass over the ratings serves all chains of all of them.

    The last checkpoint is that of the complete fit, which the caller clears.
    """
    groups = [ChainGroup(task, blocks, settings) for task in fits]
    restore = partial(_restore, groups)
    done = 0 if checkpoints is None else checkpoints.resume("sweep", restore)
    if not done:
        _begin(blocks, groups)
    chains = [chain for group in groups for chain in group.chains]
    kernel = fits[0].starts[0].kernel
    held_out = None if blocks.validation is None else HeldOut(blocks.validation, blocks.dtype)
    with Interruption() as interruption, Broadcast(blocks) as shared, one_thread_per_product():
        shared.put(chains)
        shared.share("user_precision", [chain.user_precision for chain in chains])
        for sweep in range(done + 1, settings.sweeps + 1):
            started = time.perf_counter()
            _sweep(blocks, chains, sweep, shared, kernel)
            predicted = None
            if held_out is not None and settings.sample_of(sweep) is not None:
                shared.describe(f"sweep {sweep} · validation")
                predicted = iter(_predict(held_out, chains, shared, kernel))
            for group in groups:
                own = None if predicted is None else [next(predicted) for _ in group.chains]
                group.take(sweep, own)
                group.record(sweep, time.perf_counter() - started, held_out)
            ending = interruption.asked is not None or sweep == settings.sweeps
            if checkpoints is not None and checkpoints.due(sweep, ending):
                shared.describe(f"sweep {sweep} · checkpoint")
                saved = _saved(sweep, groups, complete=sweep == settings.sweeps)
                interruption.attempt(partial(checkpoints.save, saved))
            if interruption.asked is not None:
                path = None if checkpoints is None else checkpoints.path
                interruption.end(f"sweep {sweep}", path)
        return [group.result() for group in groups]


def _sweep(
    blocks: Blocks, chains: Sequence[Chain], sweep: int, shared: Broadcast, kernel: Kernel
) -> None:
    for side in SIDE_ORDER:
        shared.describe(f"sweep {sweep} · {side}")
        omega = shared["user_precision"]
        draws = [
            Draw(
                chain.conditional(side, sweep)._replace(user_precision=None, kernel=kernel),
                omega,
                number,
            )
            for number, chain in enumerate(chains)
        ]
        fixed, own = shared[side.other], shared[side]
        updates = update_side(blocks.by(side), draws, fixed, own, blocks.dtype)
        for chain, update in zip(chains, updates, strict=True):
            assert isinstance(update, RowUpdate)
            chain.replace(side, update, sweep)
        shared.put(chains, (side,))
    # ω is drawn after the users.
    shared.share("user_precision", [chain.user_precision for chain in chains])


def _predict(
    held_out: HeldOut, chains: Sequence[Chain], shared: Broadcast, kernel: Kernel
) -> list[Doubles]:
    means = [
        (chain.distributions[Side.USERS].mean, chain.distributions[Side.ITEMS].mean)
        for chain in chains
    ]
    alphas = [chain.alpha for chain in chains]
    rows = shared[Side.USERS], shared[Side.ITEMS]
    return held_out.predictions(alphas, means, *rows, kernel)


def _begin(blocks: Blocks, groups: Sequence[ChainGroup]) -> None:
    """Start the chains from a few iterations of alternating least squares."""
    problems = [problem for group in groups for problem in group.task.starts]
    try:
        ended = iter(fit_loop(blocks, problems, StoppingRule(_START)))
    except Interrupted as interrupt:
        raise Interrupted(
            "interrupted before the first sweep, and nothing is saved yet; the same fit, run "
            "again, begins anew",
            interrupt.number,
        ) from None
    for group in groups:
        starts = []
        for number in group.task.numbers:
            fitted = next(ended)
            if fitted.stop is Stop.NONFINITE:
                raise FitError(
                    f"the start of chain {number} became non-finite; check that ratings are on a "
                    "moderate scale"
                )
            unit = group.task.deviation
            starts.append(
                (gather_factors(fitted.factors), 1 / max(fitted.end.train_rmse, 0.01 * unit) ** 2)
            )
        group.begin(starts)


def _saved(sweep: int, groups: Sequence[ChainGroup], *, complete: bool) -> State:
    saved = [group.save() for group in groups]
    arrays = {str(number): of_group for number, (of_group, _) in enumerate(saved)}
    return State(sweep, arrays, {"groups": [values for _, values in saved]}, complete)


def _restore(groups: Sequence[ChainGroup], state: State) -> None:
    for number, group in enumerate(groups):
        group.restore(state.arrays[str(number)], state.values["groups"][number])
