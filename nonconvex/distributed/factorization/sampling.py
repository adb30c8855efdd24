"""The loop of Gibbs sampling: sweeps of all chains of all fits, in the same passes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nonconvex.distributed.checkpoints import Checkpoints, State
from nonconvex.distributed.factorization.fit import minimize
from nonconvex.distributed.factorization.gibbs import Course, Posed, Sampled, SamplingSettings
from nonconvex.distributed.factorization.held_out import HeldOut
from nonconvex.distributed.factorization.problems import Blocks
from nonconvex.distributed.factorization.runs import Shared
from nonconvex.distributed.factorization.steps import Draw, update_side
from nonconvex.distributed.interruption import Interrupted, Interruption
from nonconvex.distributed.rows import gathered
from nonconvex.numerics.convergence import FitError, Stop
from nonconvex.numerics.factorization.gibbs import SWEEP, Chain
from nonconvex.numerics.threads import one_thread_per_product

__all__ = ["sample"]

_log = logging.getLogger("nonconvex")

_START = 5  # iterations of alternating least squares that a chain starts from


def sample(
    blocks: Blocks,
    fits: Sequence[Posed],
    settings: SamplingSettings,
    checkpoints: Checkpoints | None = None,
) -> list[Sampled]:
    """Sample every fit; each pass over the ratings serves all chains of all of them.

    Parameters
    ----------
    blocks : Blocks
    fits : sequence of Posed
    settings : SamplingSettings
    checkpoints : Checkpoints, optional
        Where the state is saved, and from where an interrupted fit goes on, to the same bits.

    Returns
    -------
    list of Sampled
        One for each fit, in their order.

    Raises
    ------
    FitError
        If a chain becomes non-finite.
    Interrupted
        After Ctrl-C, at the end of the sweep, which is saved where there are checkpoints.  What
        comes before the first sweep is not.
    """
    courses = [Course(posed, blocks, settings) for posed in fits]
    done = 0 if checkpoints is None else _resume(checkpoints, courses)
    if not done:
        _begin(blocks, courses)
    chains = [chain for course in courses for chain in course.chains]
    held_out = None if blocks.validation is None else HeldOut(blocks.validation, blocks.dtype)
    with (
        Interruption() as interruption,
        Shared(blocks) as shared,
        one_thread_per_product(),
    ):
        shared.put(chains)
        shared.replace("steadiness", [chain.steadiness for chain in chains])
        for sweep in range(done + 1, settings.sweeps + 1):
            started = time.perf_counter()
            _sweep(blocks, chains, sweep, shared)
            predicted = None
            if held_out is not None and settings.sample_of(sweep) is not None:
                shared.describe(f"sweep {sweep} · validation")
                predicted = iter(_predict(held_out, chains, shared))
            for course in courses:
                own = None if predicted is None else [next(predicted) for _ in course.chains]
                course.take(sweep, own)
                course.record(sweep, time.perf_counter() - started, held_out)
            ending = interruption.asked and sweep < settings.sweeps
            if checkpoints is not None and checkpoints.due(sweep, ending):
                shared.describe(f"sweep {sweep} · checkpoint")
                checkpoints.save(_state(sweep, courses))
            if ending:
                interruption.end(f"sweep {sweep}", checkpoints)
        results = [course.result() for course in courses]
    if checkpoints is not None:
        checkpoints.clear()
    return results


def _sweep(blocks: Blocks, chains: Sequence[Chain], sweep: int, shared: Shared) -> None:
    for side in SWEEP:
        shared.describe(f"sweep {sweep} · {side}")
        omega = shared["steadiness"]
        updates = update_side(
            blocks.users if side == "users" else blocks.items,
            [
                Draw(chain.conditional(side, sweep)._replace(steadiness=None), omega, number)
                for number, chain in enumerate(chains)
            ],
            shared["items" if side == "users" else "users"],
            shared[side],
            blocks.dtype,
        )
        for chain, update in zip(chains, updates, strict=True):
            chain.replace(side, update, sweep)
        shared.put(chains, (side,))
    shared.replace("steadiness", [chain.steadiness for chain in chains])  # drawn after the users


def _predict(
    held_out: HeldOut, chains: Sequence[Chain], shared: Shared
) -> list[NDArray[np.float64]]:
    means = [
        (chain.distributions["users"].mean, chain.distributions["items"].mean) for chain in chains
    ]
    alphas = [chain.alpha for chain in chains]
    return held_out.predictions(alphas, means, shared["users"], shared["items"])


def _begin(blocks: Blocks, courses: Sequence[Course]) -> None:
    """Start the chains where a few iterations of alternating least squares end."""
    problems = [problem for course in courses for problem in course.posed.starts]
    try:
        ended = iter(minimize(blocks, problems, max_iter=_START, tol=0.0))
    except Interrupted:
        raise Interrupted(
            "interrupted before the first sweep, and nothing is saved yet; the same fit, run "
            "again, begins anew"
        ) from None
    for course in courses:
        starts = []
        for number in course.posed.numbers:
            fitted = next(ended)
            if fitted.stop is Stop.NONFINITE:
                raise FitError(
                    f"the start of chain {number} became non-finite; check that ratings are on a "
                    "moderate scale"
                )
            unit = course.posed.deviation
            starts.append(
                (gathered(fitted.factors), 1 / max(fitted.end.train_rmse, 0.01 * unit) ** 2)
            )
        course.begin(starts)


def _state(sweep: int, courses: Sequence[Course]) -> State:
    arrays: dict[str, NDArray[Any]] = {}
    values = []
    for number, course in enumerate(courses):
        of_course, value = course.save()
        arrays |= {f"{number}/{name}": array for name, array in of_course.items()}
        values.append(value)
    return State(sweep, arrays, {"courses": values})


def _resume(checkpoints: Checkpoints, courses: Sequence[Course]) -> int:
    """Put the courses back to the newest checkpoint, if there is one; return its sweep."""
    state = checkpoints.load()
    if state is None:
        return 0
    for number, course in enumerate(courses):
        prefix = f"{number}/"
        arrays = {
            name.removeprefix(prefix): array
            for name, array in state.arrays.items()
            if name.startswith(prefix)
        }
        course.restore(arrays, state.values["courses"][number])
    _log.info("going on after sweep %d, from %s", state.iteration, checkpoints.path)
    return state.iteration
