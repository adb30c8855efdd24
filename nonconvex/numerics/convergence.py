"""Stopping rules and histories of fits: half-steps of factorizations, epochs of networks."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = [
    "Epoch",
    "FitError",
    "HalfStep",
    "Limits",
    "Stop",
    "TrainingStop",
    "best_epoch",
    "stop_after",
]


class Stop(Enum):
    """The reason why a fit of factors ended; the value says it in words."""

    TOLERANCE = "converged: the objective changed by less than tol in an iteration"
    GRADIENT = "converged: the norm of the gradient fell below gradientTol"
    MAX_ITER = "reached maxIter"
    PATIENCE = "the validation RMSE did not improve for patience iterations"
    SAMPLED = "drew all samples"
    NONFINITE = "diverged: the objective is not finite"


class FitError(ArithmeticError):
    """A fit without a model; the message names the cause and the remedy."""

    exit_status = 1


class HalfStep(NamedTuple):
    """Result of the update of one side.

    Attributes
    ----------
    iteration : int
        From 1 on.
    side : str
        "items" or "users", the side that was updated, or "both".
    objective : float
        f after the update, exactly.
    alpha : float
        The global bias that the update was made with.
    train_rmse : float
        Root mean squared error over the training ratings, weighted as they are.
    validation_rmse : float or None
        The same over the validation ratings, where there are any: known at the end of an
        iteration, which is the update of the users.
    step_norm : float
        Euclidean norm of the change of all rows that were updated.
    gradient_norm : float or None
        Euclidean norm of the gradient of f, where the solver knows it.
    seconds : float
        Wall-clock time of the half-step.
    tau : float or None
        With the solver "gibbs", the precision of ratings that was drawn.  A half-step is then a
        whole sweep, f has the ridge that was drawn, and the validation RMSE is that of the mean of
        all samples so far.
    """

    iteration: int
    side: str
    objective: float
    alpha: float
    train_rmse: float
    validation_rmse: float | None
    step_norm: float
    gradient_norm: float | None
    seconds: float
    tau: float | None = None


def stop_after(
    history: list[HalfStep],
    *,
    max_iter: int,
    tol: float,
    patience: int | None,
    gradient_tol: float = 0.0,
) -> Stop | None:
    """Return why to stop after the iterations in `history`, or None to go on.

    Parameters
    ----------
    history : list of HalfStep
        Ends with the end of an iteration.
    max_iter : int
        Most iterations.
    tol : float
        Stop when an iteration changes f by less than ``tol`` times f; 0 asks for ``max_iter``.
    patience : int, optional
        Stop when the validation RMSE has not improved for this many iterations.
    gradient_tol : float
        Stop when the norm of the gradient is at most this.

    Examples
    --------
    >>> step = HalfStep(1, "users", 2.0, 0.0, 1.0, None, 0.5, None, 0.1)
    >>> after = step._replace(iteration=2, objective=1.9999)
    >>> stop_after([step, after], max_iter=10, tol=1e-3, patience=None).name
    'TOLERANCE'
    """
    ends = [step for step in history if step.side != "items"]
    validation = [step.validation_rmse for step in ends if step.validation_rmse is not None]
    if patience is not None and validation:
        best = validation.index(min(validation))
        if len(validation) - 1 - best >= patience:
            return Stop.PATIENCE
    norm = ends[-1].gradient_norm
    if norm is not None and norm <= gradient_tol:
        return Stop.GRADIENT
    if len(ends) >= 2 and abs(ends[-2].objective - ends[-1].objective) < tol * ends[-2].objective:
        return Stop.TOLERANCE
    return Stop.MAX_ITER if len(ends) >= max_iter else None


class TrainingStop(Enum):
    """The reason why the training of a restart ended; the value says it in words."""

    TOLERANCE = "converged: the objective changed by less than tol in an epoch"
    PATIENCE = "the validation loss did not improve for patience epochs"
    MAX_EPOCHS = "reached maxIter"
    MAX_STEPS = "reached maxSteps"
    NONFINITE = "diverged: the objective is not finite"


class Epoch(NamedTuple):
    """Result of an epoch of a restart.

    Loss and objective are those of the minibatches before their steps: no extra pass over the data.

    Attributes
    ----------
    epoch : int
        From 1 on.
    steps : int
        Made so far, in all epochs.
    loss : float
        Σ w ℓ / Σ w over the rows of the epoch, without the penalty.
    objective : float
        The mean of f over its minibatches, by their weight: the loss and the penalty.
    learning_rate : float
        Of the last step.
    gradient_norm : float
        Euclidean norm of the gradient of f at the last minibatch, before any clipping.
    validation_loss : float or None
        Σ w ℓ / Σ w over the validation rows, with the parameters at the end of the epoch.
    validation_metric : float or None
        Their `Evaluation.metric`.
    seconds : float
        Wall-clock time of the epoch, shared by all restarts.
    """

    epoch: int
    steps: int
    loss: float
    objective: float
    learning_rate: float
    gradient_norm: float
    validation_loss: float | None
    validation_metric: float | None
    seconds: float


class Limits(NamedTuple):
    """When to stop.

    Attributes
    ----------
    max_epochs : int
        Most epochs.
    max_steps : int, optional
        Most steps; the last epoch may be cut short.
    tol : float
        Stop when an epoch changes the objective by less than ``tol`` times the objective; 0 asks
        for all epochs.
    patience : int, optional
        Stop when the validation loss has not improved for this many epochs.

    Examples
    --------
    >>> first = Epoch(1, 10, 0.5, 0.5, 0.1, 1.0, None, None, 0.1)
    >>> second = first._replace(epoch=2, steps=20, objective=0.4999)
    >>> Limits(max_epochs=9, tol=1e-3).reached([first, second]).name
    'TOLERANCE'
    """

    max_epochs: int
    max_steps: int | None = None
    tol: float = 0.0
    patience: int | None = None

    def reached(self, history: list[Epoch]) -> TrainingStop | None:
        """Return why to stop after these epochs, or None to go on."""
        last = history[-1]
        if self.patience is not None and last.epoch - best_epoch(history) >= self.patience:
            return TrainingStop.PATIENCE
        if len(history) >= 2:
            before = history[-2].objective
            if abs(before - last.objective) < self.tol * abs(before):
                return TrainingStop.TOLERANCE
        if self.max_steps is not None and last.steps >= self.max_steps:
            return TrainingStop.MAX_STEPS
        return TrainingStop.MAX_EPOCHS if last.epoch >= self.max_epochs else None


def best_epoch(history: list[Epoch]) -> int:
    """Return the number of the epoch of the least validation loss; the last one without any."""
    losses = [epoch.validation_loss for epoch in history]
    known = [loss for loss in losses if loss is not None]
    return losses.index(min(known)) + 1 if known else history[-1].epoch
