"""Fits of ratings made ready: from settings to problems, and from their ends to results.

Several fits of the same ratings, such as the points of a regularization path, and several random
starts of each, are one list of problems that share every pass over the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nonconvex.distributed.checkpoints import Checkpoints
from nonconvex.distributed.gradient_descent import DescentSettings
from nonconvex.distributed.minimization import minimize
from nonconvex.distributed.problems import Fitted, Problem
from nonconvex.distributed.training import TrainingSet
from nonconvex.numerics.convergence import FitError, Stop
from nonconvex.numerics.factorization import Factors, Ridge, default_reg, ensemble
from nonconvex.numerics.implicit import default_implicit_reg
from nonconvex.starts import random_start
from nonconvex.summary import RestartSummary, TrainingSummary

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
    """

    max_iter: int
    tol: float
    patience: int | None
    gradient_tol: float
    descent: DescentSettings | None
    checkpoint_path: str | None = None
    checkpoint_interval: int = 10

    def checkpoints(self, training: TrainingSet, identity: Mapping[str, Any]) -> Checkpoints | None:
        """Return where the state is to be saved; what a fit is of includes its ratings."""
        if self.checkpoint_path is None:
            return None
        return Checkpoints(
            training.blocks.users.sparkSession,
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

    def starts(self, training: TrainingSet) -> list[tuple[int, Factors]]:
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
                ),
            )
            for restart in range(self.first_restart, self.first_restart + self.restarts)
        ]


class FitResult(NamedTuple):
    """What a fit came to.

    Attributes
    ----------
    factors : Factors
        Of the best restart, or of the ensemble.
    restarts : list of Factors
        Of every restart.
    summary : TrainingSummary
    """

    factors: Factors
    restarts: list[Factors]
    summary: TrainingSummary


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
        starts = settings.starts(training)
        numbers.append([restart for restart, _ in starts])
        for restart, start in starts:
            labels = [f"fit {index}"] if len(fits) > 1 else []
            labels += [f"restart {restart}"] if len(starts) > 1 else []
            problems.append(_problem(settings, training, start, " · ".join(labels)))
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
        )
    )
    return [
        _result(settings, training, restarts, [next(ended) for _ in restarts])
        for settings, restarts in zip(fits, numbers, strict=True)
    ]


def _problem(settings: FitSettings, training: TrainingSet, start: Factors, name: str) -> Problem:
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
    finite = [fit.factors for fit in ended if fit.stop is not Stop.NONFINITE]
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
    factors = ensemble(finite) if settings.ensemble else ended[best].factors
    return FitResult(factors, [fit.factors for fit in ended], summary)


def _merit(fit: Fitted) -> tuple[bool, float]:
    """What to choose restarts by, the less the better: validation RMSE, or else f."""
    value = fit.objective if fit.validation_rmse is None else fit.validation_rmse
    return fit.stop is Stop.NONFINITE, value
