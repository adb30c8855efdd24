"""When a fit stops, why it stopped, and what it reached on the way."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["FitError", "HalfStep", "Stop", "stop_after"]


class Stop(Enum):
    """Why a fit ended; the value says it in words."""

    TOLERANCE = "converged: the objective fell by less than tol in an iteration"
    MAX_ITER = "reached maxIter"
    PATIENCE = "the validation RMSE did not improve for patience iterations"
    NONFINITE = "diverged: the objective is not finite"


class FitError(ArithmeticError):
    """A fit from which no model can be made; the message names the cause and the remedy."""


class HalfStep(NamedTuple):
    """What was reached after one side was updated.

    Attributes
    ----------
    iteration : int
        From 1 on.
    side : str
        "items" or "users": the side that was updated.
    objective : float
        f after the update, exactly.
    alpha : float
        The global bias that the update was made with.
    train_rmse : float
        Root mean squared error over the training ratings, weighted as they are.
    validation_rmse : float or None
        The same over the validation ratings, where there are any: known at the end of an
        iteration, which is the update of the users.
    seconds : float
        Wall-clock time of the half-step.
    """

    iteration: int
    side: str
    objective: float
    alpha: float
    train_rmse: float
    validation_rmse: float | None
    seconds: float


def stop_after(
    history: list[HalfStep], *, max_iter: int, tol: float, patience: int | None
) -> Stop | None:
    """Return why to stop after the iterations in `history`, or None to go on.

    Parameters
    ----------
    history : list of HalfStep
        Ends with the update of the users.
    max_iter : int
        Most iterations.
    tol : float
        Stop when an iteration lowers f by less than ``tol`` times f; 0 asks for ``max_iter``.
    patience : int, optional
        Stop when the validation RMSE has not improved for this many iterations.

    Examples
    --------
    >>> step = HalfStep(1, "users", 2.0, 0.0, 1.0, None, 0.1)
    >>> after = step._replace(iteration=2, objective=1.9999)
    >>> stop_after([step, after], max_iter=10, tol=1e-3, patience=None).name
    'TOLERANCE'
    """
    ends = [step for step in history if step.side == "users"]
    validation = [step.validation_rmse for step in ends if step.validation_rmse is not None]
    if patience is not None and validation:
        best = validation.index(min(validation))
        if len(validation) - 1 - best >= patience:
            return Stop.PATIENCE
    if len(ends) >= 2 and ends[-2].objective - ends[-1].objective < tol * ends[-2].objective:
        return Stop.TOLERANCE
    return Stop.MAX_ITER if len(ends) >= max_iter else None
