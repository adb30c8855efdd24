"""The loop of every fit: iterate, validate, stop; by alternating updates or gradient descent."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nonconvex.distributed.checkpoints import Checkpoints, Interruption, State
from nonconvex.distributed.factorization.state import (
    Blocks,
    Broadcast,
    FitState,
    Problem,
    Result,
    RowExchange,
    VariationalState,
    unfinished,
)
from nonconvex.distributed.factorization.steps import AnyStep, Step, UserSample, update_side
from nonconvex.numerics import Doubles
from nonconvex.numerics.convergence import FitError, Stationarity, Stop, StoppingRule
from nonconvex.numerics.deterministic import total
from nonconvex.numerics.factorization.als import RowUpdate
from nonconvex.numerics.factorization.gradient import Gradient, gradient
from nonconvex.numerics.factorization.model import SIDE_ORDER, Factors, Side
from nonconvex.numerics.optim import Optimizer, OptimizerState

_log = logging.getLogger("nonconvex")


@dataclass(frozen=True)
class DescentOptions:
    """Options of the solver "gd"."""

    optimizer: Optimizer  # of all parameters of a problem as one flat vector
    # share of the users in a step, in (0, 1]; below 1 an iteration is ⌈1/fraction⌉ steps
    fraction: float = 1.0
    seed: int = 0  # the users of a step depend on it and on the step alone


class Descent:
    """Iterations of gradient descent, with the state of the optimizer between them."""

    def __init__(self, blocks: Blocks, settings: DescentOptions) -> None:
        self._blocks = blocks
        self._settings = settings
        self._steps = math.ceil(1 / settings.fraction)
        self._states: dict[int, OptimizerState] = {}
        self._gradients: dict[int, Gradient] = {}

    def iterate(
        self, active: list[FitState], iteration: int, exchange: RowExchange
    ) -> list[FitState]:
        """Take the steps of an iteration, then evaluate f and its gradient; see `alternate`.

        Iteration 0 has no steps: it evaluates the start.
        """
        assert isinstance(exchange, Broadcast)
        started = time.perf_counter()
        steps = self._steps if iteration else 0
        unknown = any(id(state) not in self._gradients for state in active)
        if steps == 1 and unknown:  # at first, or after a resume
            exchange.describe("gradient at the start")
            self._evaluate(active, exchange)
        before = [_flat(state.factors) for state in active]
        for number in range(steps):
            exchange.describe(f"iteration {iteration} · step {number + 1}")
            gradients = self._gradients
            if steps > 1:
                step, of = (iteration - 1) * steps + number, len(self._blocks.user_degrees)
                options = self._settings
                sample = UserSample(options.seed, step, options.fraction, of, rows=True)
                gradients = self._gradients_of(active, self._both(active, exchange, sample))
            for state in active:
                self._descend(state, gradients[id(state)])
            exchange.put(active, tuple(Side))
        exchange.describe(f"iteration {iteration} · gradient")
        sums = self._evaluate(active, exchange)
        seconds = time.perf_counter() - started
        for state, theta, (users, items) in zip(active, before, sums, strict=True):
            penalty = total(users.penalty) + total(items.penalty)
            step_norm = float(np.linalg.norm(_flat(state.factors) - theta))
            norm = float(np.linalg.norm(_flat(self._gradients[id(state)])))
            squares, weight = total(users.squares), total(users.weight)
            state.record(iteration, "both", squares, weight, penalty, step_norm, norm, seconds)
        active = unfinished(active)
        exchange.put(active)
        return active

    def save(self, state: FitState) -> dict[str, NDArray[Any]]:
        """Return the state of a problem's optimizer."""
        optimizer_state = self._states.get(id(state))
        return {} if optimizer_state is None else optimizer_state._asdict()

    def restore(self, state: FitState, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore the state that `save` returned."""
        if arrays:
            self._states[id(state)] = OptimizerState(**arrays)

    def _evaluate(
        self, active: list[FitState], exchange: Broadcast
    ) -> list[tuple[RowUpdate, RowUpdate]]:
        found = self._both(active, exchange)
        self._gradients |= self._gradients_of(active, found)
        return found

    def _both(
        self, active: list[FitState], exchange: Broadcast, sample: UserSample | None = None
    ) -> list[tuple[RowUpdate, RowUpdate]]:
        users, items = (_sums(self._blocks, side, active, exchange, sample) for side in Side)
        return list(zip(users, items, strict=True))

    def _gradients_of(
        self, active: list[FitState], sums: list[tuple[RowUpdate, RowUpdate]]
    ) -> dict[int, Gradient]:
        sides = zip(active, sums, strict=True)
        return {id(state): _gradient(self._blocks, state, *of_state) for state, of_state in sides}

    def _descend(self, state: FitState, slope: Gradient) -> None:
        """Take one step."""
        optimizer = self._settings.optimizer
        theta = _flat(state.factors)
        optimizer_state = self._states.get(id(state)) or optimizer.init(theta)
        with np.errstate(all="ignore"):  # the objective shows a step that is not finite
            step, self._states[id(state)] = optimizer.update(_flat(slope), optimizer_state, theta)
        factors = _unflat(theta + step, state.factors)
        state.alpha = factors.alpha
        for side in Side:
            rows = getattr(factors, side)
            if state.problem.nonnegative:
                rows[:, 1:] = np.maximum(rows[:, 1:], 0)
            state.rows[side] = rows


def _certified(
    blocks: Blocks, problems: Sequence[Problem], results: list[Result], exchange: Broadcast
) -> list[Result]:
    """Measure ∇f at the end of every fit that minimizes f.

    The last half-step of "als" is that of the users, whose gradient is then zero to rounding: one
    pass by items is enough.
    """
    ends = {
        number: FitState(replace(problem, start=result.factors, solver="gd"))
        for number, (problem, result) in enumerate(zip(problems, results, strict=True))
        if problem.solver != "vb" and result.stop is not Stop.NONFINITE
    }
    states, certified = list(ends.values()), list(results)
    exchange.put(states, tuple(Side))
    exact = {problems[number].solver for number in ends} <= {"als"}
    by_items = _sums(blocks, Side.ITEMS, states, exchange) if ends else []
    by_users = [None] * len(ends) if exact else _sums(blocks, Side.USERS, states, exchange)
    for number, users, items in zip(ends, by_users, by_items, strict=True):
        slope, theta = _gradient(blocks, ends[number], users, items), ends[number].factors
        nonnegative, f = problems[number].nonnegative, results[number].objective
        found = Stationarity.of(slope, theta, f, nonnegative=nonnegative)
        certified[number] = results[number]._replace(stationarity=found)
    return certified


def _sums(
    blocks: Blocks,
    side: Side,
    states: Sequence[FitState],
    exchange: Broadcast,
    sample: UserSample | None = None,
) -> list[Any]:
    """Return the sums of gradients over the rows of a side, in every problem."""
    part = None if sample is None else sample._replace(rows=side == Side.USERS)
    steps = [_with_sample(state.step(side), part) for state in states]
    rows = exchange[side.other], exchange[side]
    return update_side(blocks.by(side), steps, *rows, blocks.dtype)


def _gradient(
    blocks: Blocks, state: FitState, users: RowUpdate | None, items: RowUpdate
) -> Gradient:
    problem = state.problem
    width, total_ratings = state.rows[Side.ITEMS].shape[1], problem.user_ridge.total
    of_users = problem.user_ridge.diagonal(blocks.user_degrees, width)
    of_items = problem.item_ridge.diagonal(blocks.item_degrees, width)
    found = gradient(state.factors, users, items, of_users, of_items, total_ratings)
    return found if problem.intercept else found._replace(alpha=0.0)


def _with_sample(step: AnyStep, sample: UserSample | None) -> Step:
    assert isinstance(step, Step)
    return step._replace(sample=sample)


def _flat(parameters: Factors | Gradient) -> Doubles:
    """One vector (α, users, items) of a problem's parameters, or of their derivatives."""
    alpha, users, items = parameters
    return np.concatenate([[alpha], users.ravel(), items.ravel()]).astype(np.float64)


def _unflat(theta: Doubles, like: Factors) -> Factors:
    """Undo `_flat`; α stays in float64, the rows get their own type back."""
    users, items = np.split(theta[1:], [like.users.size])
    return Factors(
        float(theta[0]),
        users.reshape(like.users.shape).astype(like.users.dtype),
        items.reshape(like.items.shape).astype(like.items.dtype),
    )


def alternate(active: list[FitState], iteration: int, exchange: RowExchange) -> list[FitState]:
    """One iteration, α, items, α, users, each from the latest values, so that f never rises.

    Takes the active states, with their rows in `exchange`, and returns those that are still finite.
    """
    for side in SIDE_ORDER:
        if not active:
            break
        started = time.perf_counter()
        exchange.describe(f"iteration {iteration} · {side}")
        for state in active:
            state.update_intercept()
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
    exchange_type: type[RowExchange] = Broadcast,
) -> list[Result]:
    """Minimize every problem; each pass over the ratings serves all of them.

    A problem that becomes non-finite is dropped, and reported as such.  The last checkpoint is that
    of the complete fit, which the caller clears.  With `descent`, ``max_iter=0``
    evaluates the start.
    """
    states = [
        VariationalState(problem, blocks) if problem.solver == "vb" else FitState(problem)
        for problem in problems
    ]
    descending = None if descent is None else Descent(blocks, descent)
    iterate = alternate if descending is None else descending.iterate
    exchange = exchange_type(blocks)
    done, restore = 0, partial(_restore, states, descending)
    if checkpoints is not None:
        done = checkpoints.resume("iteration", restore, sharded=exchange.sharded)
    active = unfinished(states)
    with Interruption() as interruption, exchange:
        for state in states:
            state.begin(exchange)
        exchange.put(active)
        for iteration in range(done + 1 if rule.max_iter else 0, rule.max_iter + 1):
            if not active:
                break
            tried, active = active, iterate(active, iteration, exchange)
            for state in tried:
                if state.stop is Stop.NONFINITE:
                    state.report_end(iteration, rule.max_iter)
            if active and blocks.validation is not None:
                exchange.describe(f"iteration {iteration} · validation")
                for state, error in zip(active, exchange.validate(active), strict=True):
                    state.validate(error)
            for state in active:
                state.end_iteration(rule)
            active = unfinished(active)
            exchange.put(active)
            if _diverged(states):
                break
            ending = interruption.asked is not None or not active
            if checkpoints is not None and checkpoints.due(iteration, ending):
                exchange.describe(f"iteration {iteration} · checkpoint")
                saved = _saved(iteration, states, descending)
                interruption.attempt(partial(checkpoints.save, saved))
            if interruption.asked is not None:
                path = None if checkpoints is None else checkpoints.path
                interruption.end(f"iteration {iteration}", path)
        exchange.detach([kept for state in states for kept in state.best_rows()])
        results = [state.result() for state in states]
        if isinstance(exchange, Broadcast):
            exchange.describe("gradient at the end")
            results = _certified(blocks, problems, results, exchange)
    if _diverged(states):
        if checkpoints is not None:
            checkpoints.clear(running=True)
        raise FitError(states[0].complaint())
    return results


def _diverged(states: Sequence[FitState]) -> bool:
    return all(state.stop is Stop.NONFINITE for state in states)


def _saved(iteration: int, states: list[FitState], descent: Descent | None) -> State:
    arrays: dict[str, Any] = {}
    values: list[dict[str, Any]] = []
    for number, state in enumerate(states):
        arrays[str(number)], value = state.save()
        if descent is not None:
            arrays[str(number)]["optimizer"] = descent.save(state)
        values.append(value)
    return State(iteration, arrays, {"states": values}, complete=not unfinished(states))


def _restore(states: Sequence[FitState], descent: Descent | None, saved: State) -> None:
    for number, state in enumerate(states):
        arrays = saved.arrays[str(number)]
        state.restore(arrays, saved.values["states"][number])
        if descent is not None:
            descent.restore(state, arrays.get("optimizer", {}))
