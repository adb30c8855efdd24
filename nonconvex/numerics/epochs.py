"""What the training of a network reaches, epoch by epoch, and when it stops."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["Epoch", "Limits", "TrainingStop", "best_epoch"]


class TrainingStop(Enum):
    """Why the training of a restart ended; the value says it in words."""

    TOLERANCE = "converged: the objective changed by less than tol in an epoch"
    PATIENCE = "the validation loss did not improve for patience epochs"
    MAX_EPOCHS = "reached maxIter"
    MAX_STEPS = "reached maxSteps"
    NONFINITE = "diverged: the objective is not finite"


class Epoch(NamedTuple):
    """What a restart reached in an epoch.

    The loss and the objective are those that its minibatches had before their steps, so they lag
    behind, and are no pass over the data of their own.

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
