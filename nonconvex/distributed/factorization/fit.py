"""The loop of every fit: iterate, validate, stop; for several problems on the same ratings."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from nonconvex.distributed.checkpoints import Checkpoints, Interruption, State
from nonconvex.distributed.factorization.gradient_descent import Descent, DescentOptions
from nonconvex.distributed.factorization.runs import (
    Blocks,
    Broadcast,
    FitState,
    Problem,
    Result,
    RowExchange,
    unfinished,
)
from nonconvex.numerics.convergence import FitError, Stop, StoppingRule
from nonconvex.numerics.factorization.model import Side

__all__ = ["alternate", "fit_loop"]

_log = logging.getLogger("nonconvex")

# Users last, so that folding a user in gives its own row.
_ORDER = (Side.ITEMS, Side.USERS)


def alternate(active: list[FitState], iteration: int, exchange: RowExchange) -> list[FitState]:
    """One iteration, α, items, α, users, each from the latest values, so that f never rises.

    Takes the active states, with their rows in `exchange`, and returns those that are still finite.
    """
    for side in _ORDER:
        if not active:
            break
        started = time.perf_counter()
        exchange.describe(f"iteration {iteration} · {side}")
        for state in active:
            state.center()
        updates = exchange.update(side, active)
        seconds = time.perf_counter() - started
        for state, update in zip(active, updates, strict=True):
            state.replace(side, update, iteration, seconds)
        active = unfinished(active)
        exchange.put(active, (side,))
    return active


def fit_loop(
    blocks: Blocks,
    problems: Sequence[Problem],
    rule: StoppingRule,
    *,
    descent: DescentOptions | None = None,
    checkpoints: Checkpoints | None = None,
    exchange: type[RowExchange] = Broadcast,
) -> list[Result]:
    """Minimize every problem; each pass over the ratings serves all of them.

    A problem that becomes non-finite is dropped, and reported as such.

    Parameters
    ----------
    blocks : Blocks
    problems : sequence of Problem
    rule : StoppingRule
    descent : DescentOptions, optional
        For problems whose solver is "gd": all of them, or none.
    checkpoints : Checkpoints, optional
        An interrupted fit continues from the newest one, to the same bits; they are removed when
        the fit is complete.
    exchange : type of RowExchange
        `Broadcast`, or `nonconvex.distributed.factorization.shuffle.Shuffle` for one problem of
        explicit ratings whose solver is not "gd", and blocks on executors.

    Returns
    -------
    list of Result
        One for each problem, in their order.

    Raises
    ------
    FitError
        If no problem stays finite.
    Interrupted
        After Ctrl-C, at the end of the iteration, which is saved if there are checkpoints.
    """
    states = [FitState(problem) for problem in problems]
    descending = None if descent is None else Descent(blocks, descent)
    iterate = alternate if descending is None else descending.iterate
    rows = exchange(blocks)
    done = 0
    if checkpoints is not None:
        done = _resume(checkpoints, states, descending, sharded=rows.sharded)
    active = unfinished(states)
    with Interruption() as interruption, rows:
        for state in states:
            state.begin(rows)
        rows.put(active)
        for iteration in range(done + 1, rule.max_iter + 1):
            if not active:
                break
            tried, active = active, iterate(active, iteration, rows)
            for state in tried:
                if state.stop is Stop.NONFINITE:
                    state.report_end(iteration, rule.max_iter)
            if active and blocks.validation is not None:
                rows.describe(f"iteration {iteration} · validation")
                for state, error in zip(active, rows.validate(active), strict=True):
                    state.validate(error)
            for state in active:
                state.end_iteration(rule)
            active = unfinished(active)
            rows.put(active)
            ending = interruption.asked and bool(active)
            if checkpoints is not None and active and checkpoints.due(iteration, ending):
                rows.describe(f"iteration {iteration} · checkpoint")
                checkpoints.save(_saved(iteration, states, descending))
            if ending:
                interruption.end(f"iteration {iteration}", checkpoints)
        rows.detach([kept for state in states for kept in state.best_rows()])
        results = [state.result() for state in states]
    if checkpoints is not None:
        checkpoints.clear()
    if all(state.stop is Stop.NONFINITE for state in states):
        raise FitError(states[0].complaint())
    return results


def _saved(iteration: int, states: Sequence[FitState], descent: Descent | None) -> State:
    arrays: dict[str, Any] = {}
    values: list[dict[str, Any]] = []
    for number, state in enumerate(states):
        arrays[str(number)], value = state.save()
        if descent is not None:
            arrays[str(number)]["optimizer"] = descent.save(state)
        values.append(value)
    return State(iteration, arrays, {"runs": values})


def _resume(
    checkpoints: Checkpoints, states: Sequence[FitState], descent: Descent | None, *, sharded: bool
) -> int:
    """Restore the newest checkpoint, if there is one; return its iteration."""
    saved = checkpoints.load(sharded=sharded)
    if saved is None:
        return 0
    for number, state in enumerate(states):
        arrays = saved.arrays[str(number)]
        state.restore(arrays, saved.values["runs"][number])
        if descent is not None:
            descent.restore(state, arrays.get("optimizer", {}))
    _log.info("continuing after iteration %d, from %s", saved.iteration, checkpoints.path)
    return saved.iteration
