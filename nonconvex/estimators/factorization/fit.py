"""Fits of ratings made ready: from settings to problems, and from their ends to results.

Several fits of the same ratings, such as the points of a regularization path, and several random
starts of each, are one list of problems that share every pass over the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from nonconvex.distributed.checkpoints import Checkpoints
from nonconvex.distributed.factorization.dataset import TrainingSet
from nonconvex.distributed.factorization.distant_moments import moments
from nonconvex.distributed.factorization.fit import minimize
from nonconvex.distributed.factorization.gibbs import Posed, SamplingSettings
from nonconvex.distributed.factorization.gradient_descent import DescentSettings
from nonconvex.distributed.factorization.problems import Fitted, Problem
from nonconvex.distributed.factorization.sampling import sample
from nonconvex.distributed.factorization.steps import user_squares
from nonconvex.distributed.rows import DistantFactors, gathered
from nonconvex.estimators.factorization.starts import random_start
from nonconvex.estimators.factorization.summary import (
    RestartSummary,
    TrainingSummary,
    sampling_summary,
)
from nonconvex.numerics.convergence import FitError, Stop
from nonconvex.numerics.factorization.implicit import default_implicit_reg
from nonconvex.numerics.factorization.model import Factors, Ridge, default_reg, ensemble
from nonconvex.numerics.factorization.posterior import Posterior
from nonconvex.numerics.factorization.ridge_posterior import Moments, RidgePosterior

__all__ = ["FitResult", "FitSettings", "LoopSettings", "fit_together"]


@dataclass(frozen=True)
class LoopSettings:
    """What fits must have in common to share the passes over the data.

    Parameters
    ----------
    max_iter, tol, patience, gradient_tol
        See `nonconvex.numerics.convergence.stop_after`.
    descent : DescentSettings or None
        Given if and only if the solver is "gd".
    checkpoint_path : str or None
        Where to save the state of the fit, if anywhere.
    checkpoint_interval : int
        How many iterations apart.
    sampling : SamplingSettings or None
        Given if and only if the solver is "gibbs".
    exchange : {"broadcast", "shuffle"}
        How rows come to the ratings of the other side, see
        `nonconvex.distributed.factorization.fit.minimize`.
    """

    max_iter: int
    tol: float
    patience: int | None
    gradient_tol: float
    descent: DescentSettings | None
    checkpoint_path: str | None = None
    checkpoint_interval: int = 10
    sampling: SamplingSettings | None = None
    exchange: Literal["broadcast", "shuffle"] = "broadcast"

    def checkpoints(self, training: TrainingSet, identity: Mapping[str, Any]) -> Checkpoints | None:
        """Return where the state is to be saved; what a fit is of includes its ratings."""
        if self.checkpoint_path is None:
            return None
        return Checkpoints(
            training.blocks.users.session,
            self.checkpoint_path,
            self.checkpoint_interval,
            {**identity, "ratings": training.fingerprint()},
        )


@dataclass(frozen=True)
class FitSettings:
    """One fit: the Params of `nonconvex.recommendation.MatrixFactorization`, by our names."""

    rank: int
    reg_user: float | None
    reg_item: float | None
    bias_ratio: float | None
    exponent: float
    solver: str
    intercept: bool
    biases: bool
    nonnegative: bool
    implicit: bool
    scale: float
    seed: int
    first_restart: int
    restarts: int
    ensemble: bool
    mean_rank: int | None = None
    initial: tuple[Factors, dict[str, dict[str, int]]] | None = None

    def ridges(self, training: TrainingSet) -> tuple[Ridge, Ridge]:
        """Return the ridge of users and of items; what is not given follows a rule."""
        if self.implicit:
            mean_weight = training.weight / training.total
            reg, ratio = default_implicit_reg(training.total, mean_weight), 1.0
        else:
            reg, ratio = default_reg(training.total, training.deviation)
        if self.reg_user is not None or self.reg_item is not None:
            ratio = 1.0
        if self.bias_ratio is not None:
            ratio = self.bias_ratio

        def ridge(given: float | None, rows: int) -> Ridge:
            value = reg if given is None else given
            return Ridge(value, self.exponent, training.total, training.total / rows, ratio)

        users, items = (len(members) for members in training.ids)
        return ridge(self.reg_user, users), ridge(self.reg_item, items)

    def has_posterior(self, *ridges: Ridge) -> bool:
        """Tell whether the rows of a minimum are normal, given the other side."""
        regularized = all(
            ridge.reg > 0 and (ridge.bias_ratio > 0 or not self.biases) for ridge in ridges
        )
        special = self.implicit or self.nonnegative or self.ensemble
        return regularized and not special and self.solver != "gibbs"

    def starts(
        self, training: TrainingSet, exchange: Literal["broadcast", "shuffle"]
    ) -> list[tuple[int, Factors | DistantFactors]]:
        """Return the number of each start, and the factors it begins with."""
        if self.initial is not None:
            return [(self.first_restart, self.initial[0])]
        # α of implicit feedback is a mean over all pairs, which the first update finds.
        alpha = training.mean if self.intercept and not self.implicit else 0.0
        return [
            (
                restart,
                random_start(
                    training.ids,
                    self.rank,
                    alpha=alpha,
                    scale=self.scale,
                    seed=self.seed,
                    restart=restart,
                    dtype=training.blocks.dtype,
                    nonnegative=self.nonnegative,
                    exchange=exchange,
                ),
            )
            for restart in range(self.first_restart, self.first_restart + self.restarts)
        ]


class FitResult(NamedTuple):
    """What a fit came to.

    Attributes
    ----------
    factors : Factors, or DistantFactors if rows were exchanged by shuffle
        Of the best restart, or of the ensemble.
    restarts : list of Factors or DistantFactors
        Of every restart.
    summary : TrainingSummary
    posterior : Posterior or None
        The samples that were kept, if it was sampled.
    ridge : RidgePosterior or None
        How sure a minimum is, if that is known.
    """

    factors: Factors | DistantFactors
    restarts: list[Factors | DistantFactors]
    summary: TrainingSummary
    posterior: Posterior | None = None
    ridge: RidgePosterior | None = None


def fit_together(
    training: TrainingSet,
    fits: Sequence[FitSettings],
    loop: LoopSettings,
    identity: Mapping[str, Any],
) -> list[FitResult]:
    """Minimize from every start of every fit, and choose the best start of each.

    Parameters
    ----------
    training : TrainingSet
    fits : sequence of FitSettings
    loop : LoopSettings
    identity : mapping
        What a checkpoint must be of for these fits to go on from it, as JSON can hold it.

    Returns
    -------
    list of FitResult
        One for each fit, in their order; ``summary.seconds`` is left at 0.

    Raises
    ------
    FitError
        If every start of a fit becomes non-finite.
    """
    problems: list[Problem] = []
    numbers: list[list[int]] = []
    for index, settings in enumerate(fits):
        starts = settings.starts(training, loop.exchange)
        numbers.append([restart for restart, _ in starts])
        for restart, start in starts:
            labels = [f"fit {index}"] if len(fits) > 1 else []
            labels += [f"restart {restart}"] if len(starts) > 1 else []
            problems.append(_problem(settings, training, start, " · ".join(labels)))
    if loop.sampling is not None:
        return _sampled(training, fits, problems, numbers, loop, loop.sampling, identity)
    ended = iter(
        minimize(
            training.blocks,
            problems,
            max_iter=loop.max_iter,
            tol=loop.tol,
            patience=loop.patience,
            gradient_tol=loop.gradient_tol,
            descent=loop.descent,
            checkpoints=loop.checkpoints(training, identity),
            exchange=loop.exchange,
        )
    )
    return [
        _result(settings, training, restarts, [next(ended) for _ in restarts])
        for settings, restarts in zip(fits, numbers, strict=True)
    ]


def _sampled(
    training: TrainingSet,
    fits: Sequence[FitSettings],
    problems: Sequence[Problem],
    numbers: Sequence[list[int]],
    loop: LoopSettings,
    settings: SamplingSettings,
    identity: Mapping[str, Any],
) -> list[FitResult]:
    """Sample from every start of every fit, and take the mean of all samples of each."""
    starts = iter(problems)
    posed = [
        Posed(
            [replace(next(starts), solver="als") for _ in of_fit],
            of_fit,
            training.mean,
            training.deviation if training.deviation > 0 else 1.0,
            fit.seed,
            2 * fit.rank + 10 if fit.mean_rank is None else fit.mean_rank,
        )
        for fit, of_fit in zip(fits, numbers, strict=True)
    ]
    checkpoints = loop.checkpoints(training, identity)
    results = []
    for fit, of_fit, sampled in zip(
        fits, numbers, sample(training.blocks, posed, settings, checkpoints), strict=True
    ):
        result = _result(fit, training, of_fit, sampled.chains)
        kept = len(sampled.posterior.taus)
        sampling = sampling_summary(result.summary.restarts, settings, kept)
        summary = replace(result.summary, sampling=sampling)
        results.append(FitResult(sampled.factors, [], summary, sampled.posterior))
    return results


def _problem(
    settings: FitSettings, training: TrainingSet, start: Factors | DistantFactors, name: str
) -> Problem:
    user_ridge, item_ridge = settings.ridges(training)
    return Problem(
        start=start,
        user_ridge=user_ridge,
        item_ridge=item_ridge,
        solver=settings.solver,
        intercept=settings.intercept,
        biases=settings.biases,
        nonnegative=settings.nonnegative,
        implicit=settings.implicit,
        name=name,
    )


def _result(
    settings: FitSettings, training: TrainingSet, numbers: list[int], ended: list[Fitted]
) -> FitResult:
    best = min(range(len(ended)), key=lambda position: _merit(ended[position]))
    finite = [fit for fit in ended if fit.stop is not Stop.NONFINITE]
    if not finite:
        raise FitError(
            f"every start of the fit with rank={settings.rank}, regUser={settings.reg_user}, "
            f"regItem={settings.reg_item} became non-finite; raise regUser and regItem"
        )
    user_ridge, item_ridge = settings.ridges(training)
    summary = TrainingSummary(
        ratings=training.ratings,
        total=training.total,
        users=len(training.ids.users),
        items=len(training.ids.items),
        duplicates=training.duplicates,
        mean=training.mean,
        deviation=training.deviation,
        minimum=training.minimum,
        maximum=training.maximum,
        reg_user=user_ridge.reg,
        reg_item=item_ridge.reg,
        bias_reg_ratio=user_ridge.bias_ratio,
        reg_exponent=user_ridge.exponent,
        best=best,
        restarts=[
            RestartSummary.of(number, fit) for number, fit in zip(numbers, ended, strict=True)
        ],
        warm_start=None if settings.initial is None else settings.initial[1],
        seconds=0.0,
    )
    factors = ended[best].factors
    if settings.ensemble:
        factors = ensemble([gathered(fit.factors) for fit in finite])
    ridge = None
    if settings.has_posterior(user_ridge, item_ridge):
        ridge = _posterior(settings, training, ended[best])
    return FitResult(factors, [fit.factors for fit in ended], summary, ridge=ridge)


def _posterior(settings: FitSettings, training: TrainingSet, fitted: Fitted) -> RidgePosterior:
    blocks, squares, factors = training.blocks, fitted.squares, fitted.factors
    degrees, biases = (blocks.user_degrees, blocks.item_degrees), settings.biases
    if squares is None:
        squares = user_squares(blocks.users, gathered(factors), blocks.dtype)
    ridges = settings.ridges(training)
    known: Factors | Moments = (
        moments(factors, degrees, biases=biases) if isinstance(factors, DistantFactors) else factors
    )
    return RidgePosterior.of(known, degrees, squares, ridges, biases=biases)


def _merit(fit: Fitted) -> tuple[bool, float]:
    """What to choose restarts by, the less the better: validation RMSE, or else f."""
    value = fit.objective if fit.validation_rmse is None else fit.validation_rmse
    return fit.stop is Stop.NONFINITE, value
