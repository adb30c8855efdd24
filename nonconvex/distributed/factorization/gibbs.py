"""Fits under way by Gibbs sampling: their chains, and what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.distributed.factorization.held_out import HeldOut
from nonconvex.distributed.factorization.problems import SIDES, Blocks, Fitted, Problem
from nonconvex.distributed.runtime import Progress, report
from nonconvex.numerics.convergence import FitError, HalfStep, Stop
from nonconvex.numerics.factorization.averaging import MeanModel
from nonconvex.numerics.factorization.gibbs import Chain, Sample
from nonconvex.numerics.factorization.hyperpriors import LevelPrior, RowDistribution, RowPrior
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.factorization.posterior import Posterior
from nonconvex.numerics.rng import Stream

__all__ = ["Course", "Posed", "Sampled", "SamplingSettings"]

_SKETCHES = 1 << 21  # a key of random numbers that no chain has as its number


class SamplingSettings(NamedTuple):
    """How long chains are.

    Attributes
    ----------
    burn_in : int
        Sweeps that are forgotten.
    samples : int
        Samples of each chain that the mean is of.
    thinning : int
        Sweeps for a sample.
    kept : int
        Samples, of all chains of a fit together, that are kept whole.
    """

    burn_in: int
    samples: int
    thinning: int
    kept: int

    @property
    def sweeps(self) -> int:
        """Number of sweeps of a chain."""
        return self.burn_in + self.samples * self.thinning

    def sample_of(self, sweep: int) -> int | None:
        """Return the number of the sample that a sweep ends with, from 0 on."""
        number, left = divmod(sweep - self.burn_in, self.thinning)
        return None if number < 1 or left else number - 1

    def keeps(self, chains: int) -> set[int]:
        """Return which samples are kept, evenly spread, chain after chain."""
        total = chains * self.samples
        kept = min(self.kept, total)
        return {(number + 1) * total // kept - 1 for number in range(kept)}


@dataclass(frozen=True)
class Posed:
    """A fit to be sampled.

    Parameters
    ----------
    starts : list of Problem
        What each chain minimizes first, to start from.
    numbers : list of int
        The number of each chain.
    center, deviation : float
        Mean and standard deviation of the ratings.
    seed : int
    mean_rank : int
        Rank of the model that predicts.
    """

    starts: list[Problem]
    numbers: list[int]
    center: float
    deviation: float
    seed: int
    mean_rank: int


class Sampled(NamedTuple):
    """What came of a fit.

    Attributes
    ----------
    factors : Factors
        The mean of all samples.
    posterior : Posterior
        Those that were kept.
    chains : list of Fitted
        The history of each chain.
    """

    factors: Factors
    posterior: Posterior
    chains: list[Fitted]


class Course:
    """One fit under way."""

    def __init__(self, posed: Posed, blocks: Blocks, settings: SamplingSettings) -> None:
        self.posed, self._settings = posed, settings
        self._degrees = {"users": blocks.user_degrees, "items": blocks.item_degrees}
        self._dtype = blocks.dtype
        self._keeps = settings.keeps(len(posed.starts))
        self.kept: dict[int, Sample] = {}
        self.mean: MeanModel | None = None
        self.predicted: NDArray[np.float64] | None = None
        self.history: list[list[HalfStep]] = [[] for _ in posed.starts]
        self.chains: list[Chain] = []

    def begin(self, starts: Sequence[tuple[Factors, float]]) -> None:
        """Make the chains, from factors and the first τ of each."""
        posed = self.posed
        self.chains = [
            Chain(
                factors,
                tau,
                self._degrees,
                {side: _precision(problem, side, tau) for side in SIDES},
                level=LevelPrior(posed.center, posed.deviation),
                row_prior=RowPrior.of(posed.deviation, factors.users.shape[1] - 1),
                seed=posed.seed,
                number=number,
            )
            for number, problem, (factors, tau) in zip(
                posed.numbers, posed.starts, starts, strict=True
            )
        ]

    def take(self, sweep: int, held_out: Sequence[NDArray[np.float64]] | None) -> None:
        """Take in the samples that a sweep ends with, if it does."""
        settings = self._settings
        number = settings.sample_of(sweep)
        if sweep == settings.burn_in or (self.mean is None and number is not None):
            key = (_SKETCHES, self.posed.numbers[0])
            self.mean = MeanModel(
                [chain.sample().factors for chain in self.chains],
                self.posed.mean_rank,
                Stream.generator(self.posed.seed, *key),
            )
        if number is None or self.mean is None:
            return
        for place, chain in enumerate(self.chains):
            drawn = chain.sample()
            self.mean.add(drawn.factors)
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
            self.posed.numbers, self.chains, self.history, strict=True
        ):
            if not (np.isfinite(chain.alpha) and np.isfinite(chain.tau)):
                raise FitError(
                    f"chain {number} became non-finite in sweep {sweep}; check that ratings are on "
                    f"a moderate scale (the mean is {self.posed.center:.3g})"
                )
            step = HalfStep(
                iteration=sweep,
                side="both",
                objective=chain.objective,
                alpha=chain.level,
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

    def result(self) -> Sampled:
        """Return the mean model, the kept samples and the histories."""
        assert self.mean is not None
        alpha, x, z = self.mean.result()
        factors = Factors(alpha, x.astype(self._dtype), z.astype(self._dtype))
        samples = [self.kept[position] for position in sorted(self.kept)]
        chains = [
            Fitted(factors, history, history[-1].iteration, Stop.SAMPLED)
            for history in self.history
        ]
        return Sampled(factors, Posterior.of(samples, self.posed.seed), chains)

    def save(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return what the course goes on from."""
        arrays: dict[str, NDArray[Any]] = {}
        values: dict[str, Any] = {"history": [[list(s) for s in h] for h in self.history]}
        for number, chain in enumerate(self.chains):
            rows, values[f"chain {number}"] = chain.save()
            arrays |= {f"chain {number}.{name}": array for name, array in rows.items()}
        if self.mean is not None:
            sketches, values["mean"] = self.mean.save()
            arrays |= {f"mean.{name}": array for name, array in sketches.items()}
        if self.predicted is not None:
            arrays["predicted"] = self.predicted
        for position, kept in self.kept.items():
            alpha, x, z = kept.factors
            arrays |= {f"kept {position}.users": x, f"kept {position}.items": z}
            for side in SIDES:
                rows_of: RowDistribution = getattr(kept, side)
                arrays[f"kept {position}.{side}.slope"] = rows_of.slope
                arrays[f"kept {position}.{side}.precision"] = rows_of.precision
            arrays[f"kept {position}.steadiness"] = kept.steadiness
            least = [kept.users.least, kept.items.least]
            values[f"kept {position}"] = [alpha, kept.tau, *least]
        values["kept"] = sorted(self.kept)
        return arrays, values

    def restore(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Go back to what `save` returned."""
        self.history = [[HalfStep(*step) for step in history] for history in values["history"]]
        parts = [
            {
                name.partition(".")[2]: array
                for name, array in arrays.items()
                if name.startswith(f"chain {number}.")
            }
            for number in range(len(self.posed.starts))
        ]
        self.begin([(Factors(0.0, part["users"], part["items"]), 1.0) for part in parts])
        for number, (chain, part) in enumerate(zip(self.chains, parts, strict=True)):
            chain.restore(part, values[f"chain {number}"])
        if "mean" in values:
            sketches = {
                name.removeprefix("mean."): array
                for name, array in arrays.items()
                if name.startswith("mean.")
            }
            self.mean = MeanModel.restore(sketches, values["mean"])
        self.predicted = arrays.get("predicted")
        for position in values["kept"]:
            alpha, tau, *least = values[f"kept {position}"]
            users, items = (
                RowDistribution(
                    np.zeros_like(arrays[f"kept {position}.{side}.slope"]),
                    arrays[f"kept {position}.{side}.slope"],
                    arrays[f"kept {position}.{side}.precision"],
                    d,
                )
                for side, d in zip(SIDES, least, strict=True)
            )
            x, z = (arrays[f"kept {position}.{side}"] for side in SIDES)
            omega = arrays[f"kept {position}.steadiness"]
            self.kept[position] = Sample(Factors(alpha, x, z), tau, users, items, omega)


def _precision(problem: Problem, side: str, tau: float) -> NDArray[np.float64]:
    """Return the diagonal Λ whose rows minimization would take for the most probable: τ n λ."""
    ridge = problem.ridge(side)
    width = problem.start.users.shape[1]
    diagonal: NDArray[np.float64] = ridge.diagonal(np.array([ridge.mean_degree]), width)[0]
    return tau * diagonal
