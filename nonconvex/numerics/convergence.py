"""When a fit stops, why it stopped, and what it reached on the way."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["FitError", "HalfStep", "Stop", "stop_after"]


class Stop(Enum):
    """Why a fit ended; the value says it in words."""

    TOLERANCE = "converged: the objective changed by less than tol in an iteration"
    GRADIENT = "converged: the norm of the gradient fell below gradientTol"
    MAX_ITER = "reached maxIter"
    PATIENCE = "the validation RMSE did not improve for patience iterations"
    SAMPLED = "drew all samples"
    NONFINITE = "diverged: the objective is not finite"


class FitError(ArithmeticError):
    """A fit from which no model can be made; the message names the cause and the remedy."""

    exit_status = 1


class HalfStep(NamedTuple):
    """What was reached after one side was updated.

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
