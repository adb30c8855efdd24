"""Stopping rules and histories of fits: half-steps of factorizations, epochs of networks."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np

from nonconvex.numerics import Doubles, Floats
from nonconvex.numerics.deterministic import total


class Stop(Enum):
    """The reason why a fit ended; the value says it in words."""

    TOLERANCE = "converged: the objective changed by less than tol"
    GRADIENT = "converged: the norm of the gradient fell below gradientTol"
    MAX_ITER = "reached maxIter"
    MAX_STEPS = "reached maxSteps"
    PATIENCE = "stopped early: the validation error did not improve for patience iterations"
    EXACT = "solved: a linear regression has a closed form"
    SAMPLED = "drew all samples"
    NONFINITE = "diverged: the objective is not finite"


class FitError(ArithmeticError):
    """A fit without a model; the message names the cause and the remedy."""

    exit_status = 1


class HalfStep(NamedTuple):
    """Result of the update of one side."""

    iteration: int  # from 1 on; 0 is the start of a fit without iterations
    side: str  # "items" or "users", the side that was updated, or "both"
    objective: float  # f after the update, exactly
    alpha: float  # the global bias that the update was made with
    train_rmse: float  # root mean squared error over the training ratings, weighted as they are
    # the same over the validation ratings, where there are any: known at the end of an iteration,
    # which is the update of the users
    validation_rmse: float | None
    step_norm: float  # euclidean norm of the change of all rows that were updated
    gradient_norm: float | None  # euclidean norm of the gradient of f, where the solver knows it
    seconds: float  # wall-clock time of the half-step
    # with the solvers "gibbs" and "vb", the precision of ratings that was drawn or learned. With
    # "gibbs" a half-step is a whole sweep, f has the ridge that was drawn, and the validation RMSE
    # is that of the mean of all samples so far. With "vb" f is the free energy per rating.
    tau: float | None = None

    @property
    def ends_iteration(self) -> bool:
        """True for the last update of an iteration."""
        return self.side != "items"

    @property
    def validation_error(self) -> float | None:
        """The error that `StoppingRule.patience` looks at."""
        return self.validation_rmse


class Epoch(NamedTuple):
    """Result of an epoch of a restart.

    Loss and objective are those of the minibatches before their steps: no extra pass over the data.
    """

    epoch: int  # from 1 on
    steps: int  # made so far, in all epochs
    loss: float  # Σ w ℓ / Σ w over the rows of the epoch, without the penalty
    # the mean of f over its minibatches, by their weight: the loss and the penalty
    objective: float
    learning_rate: float  # of the last step
    # euclidean norm of the gradient of f at the last minibatch, before any clipping
    gradient_norm: float
    # Σ w ℓ / Σ w over the validation rows, with the parameters at the end of the epoch
    validation_loss: float | None
    validation_metric: float | None  # their `Evaluation.metric`
    seconds: float  # wall-clock time of the epoch, shared by all restarts

    @property
    def ends_iteration(self) -> bool:
        """An epoch is an iteration."""
        return True

    @property
    def validation_error(self) -> float | None:
        """The error that `StoppingRule.patience` looks at."""
        return self.validation_loss


class StoppingRule(NamedTuple):
    """The conditions under which a fit ends, of factors as of networks.

    Examples
    --------
    >>> step = HalfStep(1, "users", 2.0, 0.0, 1.0, None, 0.5, None, 0.1)
    >>> after = step._replace(iteration=2, objective=1.9999)
    >>> StoppingRule(max_iter=10, tol=1e-3).reached([step, after]).name
    'TOLERANCE'
    """

    max_iter: int  # most iterations, or epochs
    max_steps: int | None = None  # most steps of the optimizer; the last epoch may be cut short
    # stop when an iteration changes the objective by less than ``tol`` times the objective; 0 asks
    # for all iterations
    tol: float = 0.0
    # stop when the validation error has not improved for this many iterations
    patience: int | None = None
    gradient_tol: float | None = None  # stop when the norm of the gradient is at most this

    def reached(self, history: Sequence[HalfStep] | Sequence[Epoch]) -> Stop | None:
        """Return why to stop after these iterations, or None to continue."""
        ends = [step for step in history if step.ends_iteration]
        last = ends[-1]
        errors = [end.validation_error for end in ends]
        known = [error for error in errors if error is not None]
        if self.patience is not None and known:
            without = len(errors) - 1 - errors.index(min(known))
            if without >= self.patience:
                return Stop.PATIENCE
        norm = last.gradient_norm
        if self.gradient_tol is not None and norm is not None and norm <= self.gradient_tol:
            return Stop.GRADIENT
        if len(ends) >= 2:
            before = ends[-2].objective
            if abs(before - last.objective) < self.tol * abs(before):
                return Stop.TOLERANCE
        if self.max_steps is not None and isinstance(last, Epoch) and last.steps >= self.max_steps:
            return Stop.MAX_STEPS
        return Stop.MAX_ITER if len(ends) >= self.max_iter else None


def best_epoch(history: list[Epoch]) -> int:
    """Return the number of the epoch of the least validation loss; the last one without any."""
    losses = [epoch.validation_loss for epoch in history]
    known = [loss for loss in losses if loss is not None]
    return losses.index(min(known)) + 1 if known else history[-1].epoch


class Stationarity(NamedTuple):
    """Distance of parameters θ = (α, users, items) from a stationary point of f."""

    gradient_norm: float  # ‖∇f‖, euclidean, over α and the rows of both sides
    # ‖∇f‖ ‖θ‖ / f: to first order, f falls by at most this share times ‖Δθ‖ / ‖θ‖
    relative_gradient: float

    @classmethod
    def of(
        cls,
        slope: tuple[float, Doubles, Doubles],
        theta: tuple[float, Floats, Floats],
        objective: float,
        *,
        nonnegative: bool = False,
    ) -> Stationarity:
        """Measure the gradient of f, which is `objective`, at `theta`.

        Where γ ≥ 0 is required, a coordinate at 0 counts only if f falls as it grows.
        """
        squares, size = slope[0] ** 2, theta[0] ** 2
        for side, rows in zip(slope[1:], theta[1:], strict=True):
            x = rows.astype(np.float64)
            if nonnegative:
                held = (x <= 0) & (side > 0)
                held[:, 0] = False
                side = np.where(held, 0.0, side)
            squares += total((side * side).sum(axis=1))
            size += total((x * x).sum(axis=1))
        norm = float(np.sqrt(squares))
        return cls(norm, norm * float(np.sqrt(size)) / objective if objective > 0 else norm)
