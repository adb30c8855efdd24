"""The loop of every fit: iterate, validate, stop; for several problems on the same ratings.

One iteration of alternating minimization: α, the items, α, the users.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

from nonconvex.distributed.checkpoints import Checkpoints, Interruption, State
from nonconvex.distributed.factorization.gradient_descent import Descent, DescentOptions
from nonconvex.distributed.factorization.runs import (
    Blocks,
    Broadcast,
    FitState,
    Problem,
    Result,
    unfinished,
)
from nonconvex.distributed.factorization.shuffle import Shuffle
from nonconvex.numerics.convergence import FitError, Stop

__all__ = ["alternate", "fit_loop"]

_ORDER = ("items", "users")  # ends with the users, so that folding a user in gives its own row


def alternate(active: list[FitState], iteration: int, shared: Broadcast) -> list[FitState]:
    """Update everything once, each from the latest values, so that f never rises.

    Parameters
    ----------
    active : list of FitState
        All of the same kind of solver, with their rows in `shared`.
    iteration : int
        From 1 on.
    shared : Broadcast

    Returns
    -------
    list of FitState
        Those whose objective is still finite, with their rows in `shared`.
    """
    for side in _ORDER:
        if not active:
            break
        started = time.perf_counter()
        shared.describe(f"iteration {iteration} · {side}")
        for run in active:
            run.center()
        moved = shared.update(side, active)
        seconds = time.perf_counter() - started
        for run, of_run in zip(active, moved, strict=True):
            run.replace(side, of_run, iteration, seconds)
        active = unfinished(active)
        shared.put(active, (side,))
    return active


_log = logging.getLogger("nonconvex")


def fit_loop(
    blocks: Blocks,
    problems: Sequence[Problem],
    *,
    max_iter: int,
    tol: float,
    patience: int | None = None,
    gradient_tol: float = 0.0,
    descent: DescentOptions | None = None,
    checkpoints: Checkpoints | None = None,
    exchange: Literal["broadcast", "shuffle"] = "broadcast",
) -> list[Result]:
    """Minimize every problem; each pass over the ratings serves all of them.

    A problem that becomes non-finite is dropped, and reported as such.

    Parameters
    ----------
    blocks : Blocks
    problems : sequence of Problem
    max_iter, tol, patience, gradient_tol
        See `nonconvex.numerics.convergence.stop_after`.
    descent : DescentOptions, optional
        For problems whose solver is "gd": all of them, or none.
    checkpoints : Checkpoints, optional
        Where the state is saved, and from where an interrupted fit goes on, to the same bits.
        When the fit is complete they are removed.
    exchange : {"broadcast", "shuffle"}
        How the rows of one side come to the ratings of the other.  By shuffle, for one problem
        of explicit ratings whose solver is not "gd", and blocks on executors.

    Returns
    -------
    list of Result
        One for each problem, in their order.

    Raises
    ------
    FitError
        If no problem stays finite.
    Interrupted
        After Ctrl-C, at the end of the iteration, which is saved where there are checkpoints.
    """
    runs = [FitState(problem, blocks) for problem in problems]
    descending = None if descent is None else Descent(blocks, descent)
    iterate = alternate if descending is None else descending.iterate
    done = 0
    if checkpoints is not None:
        done = _resume(checkpoints, runs, descending, distant=exchange == "shuffle")
    active = unfinished(runs)
    sharing = Broadcast(blocks) if exchange == "broadcast" else Shuffle(blocks, runs[0])
    with Interruption() as interruption, sharing as shared:
        shared.put(active)
        for iteration in range(done + 1, max_iter + 1):
            if not active:
                break
            tried, active = active, iterate(active, iteration, shared)
            for run in tried:
                if run.stop is Stop.NONFINITE:
                    run.report_end(iteration, max_iter)
            if active and blocks.validation is not None:
                shared.describe(f"iteration {iteration} · validation")
                for run, error in zip(active, shared.validate(active), strict=True):
                    run.validate(error)
            for run in active:
                run.end_iteration(
                    max_iter=max_iter, tol=tol, patience=patience, gradient_tol=gradient_tol
                )
            active = unfinished(active)
            shared.put(active)
            ending = interruption.asked and bool(active)
            if checkpoints is not None and active and checkpoints.due(iteration, ending):
                shared.describe(f"iteration {iteration} · checkpoint")
                checkpoints.save(_state(iteration, runs, descending))
            if ending:
                interruption.end(f"iteration {iteration}", checkpoints)
        shared.detach()
        results = [run.result() for run in runs]
    if checkpoints is not None:
        checkpoints.clear()
    if all(run.stop is Stop.NONFINITE for run in runs):
        raise FitError(runs[0].complaint())
    return results


def _state(iteration: int, runs: Sequence[FitState], descent: Descent | None) -> State:
    arrays: dict[str, Any] = {}
    values: list[dict[str, Any]] = []
    for number, run in enumerate(runs):
        of_run, value = run.save()
        if descent is not None:
            of_run |= descent.save(run)
        arrays |= {f"{number}.{name}": array for name, array in of_run.items()}
        values.append(value)
    return State(iteration, arrays, {"runs": values})


def _resume(
    checkpoints: Checkpoints, runs: Sequence[FitState], descent: Descent | None, *, distant: bool
) -> int:
    """Put the runs back to the newest checkpoint, if there is one; return its iteration."""
    state = checkpoints.load(distant=distant)
    if state is None:
        return 0
    for number, run in enumerate(runs):
        prefix = f"{number}."
        arrays = {
            name.removeprefix(prefix): array
            for name, array in state.arrays.items()
            if name.startswith(prefix)
        }
        run.restore(arrays, state.values["runs"][number])
        if descent is not None:
            descent.restore(run, arrays)
    _log.info("unfinished on after iteration %d, from %s", state.iteration, checkpoints.path)
    return state.iteration
