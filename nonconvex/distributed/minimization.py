"""The loop of every fit: iterate, validate, stop; for several problems on the same ratings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from nonconvex.distributed.alternating import alternate
from nonconvex.distributed.gradient_descent import Descent, DescentSettings
from nonconvex.distributed.half_steps import validation_rmse
from nonconvex.distributed.problems import Blocks, Fitted, Problem
from nonconvex.distributed.runs import Run, Shared, going
from nonconvex.numerics.convergence import FitError, Stop

__all__ = ["minimize"]


def minimize(
    blocks: Blocks,
    problems: Sequence[Problem],
    *,
    max_iter: int,
    tol: float,
    patience: int | None = None,
    gradient_tol: float = 0.0,
    descent: DescentSettings | None = None,
) -> list[Fitted]:
    """Minimize every problem; each pass over the ratings serves all of them.

    A problem that becomes non-finite is dropped, and reported as such.

    Parameters
    ----------
    blocks : Blocks
    problems : sequence of Problem
    max_iter, tol, patience, gradient_tol
        See `nonconvex.numerics.convergence.stop_after`.
    descent : DescentSettings, optional
        For problems whose solver is "gd": all of them, or none.

    Returns
    -------
    list of Fitted
        One for each problem, in their order.

    Raises
    ------
    FitError
        If no problem stays finite.
    """
    runs = [Run(problem, blocks) for problem in problems]
    iterate = partial(alternate, blocks) if descent is None else Descent(blocks, descent).iterate
    active = runs
    with Shared(blocks.users.sparkSession.sparkContext) as shared:
        shared.put(active)
        for iteration in range(1, max_iter + 1):
            active = iterate(active, iteration, shared)
            if active and blocks.validation is not None:
                shared.describe(f"iteration {iteration} · validation")
                alphas = [run.alpha for run in active]
                errors = validation_rmse(
                    blocks.validation, alphas, shared["users"], shared["items"], blocks.dtype
                )
                for run, error in zip(active, errors, strict=True):
                    run.validate(error)
            for run in active:
                run.end_iteration(
                    max_iter=max_iter, tol=tol, patience=patience, gradient_tol=gradient_tol
                )
            active = going(active)
            if not active:
                break
            shared.put(active)
    if all(run.stop is Stop.NONFINITE for run in runs):
        raise FitError(runs[0].complaint())
    return [run.result() for run in runs]
