"""One iteration of alternating minimization: α, the items, α, the users."""

from __future__ import annotations

import time

from nonconvex.distributed.factorization.runs import Run, Shared, going

__all__ = ["alternate"]

_ORDER = ("items", "users")  # ends with the users, so that folding a user in gives its own row


def alternate(active: list[Run], iteration: int, shared: Shared) -> list[Run]:
    """Update everything once, each from the latest values, so that f never rises.

    Parameters
    ----------
    active : list of Run
        All of the same kind of solver, with their rows in `shared`.
    iteration : int
        From 1 on.
    shared : Shared

    Returns
    -------
    list of Run
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
        active = going(active)
        shared.put(active, (side,))
    return active
