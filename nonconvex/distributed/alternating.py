"""The loop of alternating minimization, for several problems on the same ratings at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark import SparkContext
from pyspark.sql import DataFrame

from nonconvex.distributed.half_steps import Rows, Step, update_side, validation_rmse
from nonconvex.numerics.convergence import FitError, HalfStep, Stop, stop_after
from nonconvex.numerics.factorization import Factors, Ridge
from nonconvex.numerics.implicit import Background
from nonconvex.numerics.least_squares import RowUpdate

__all__ = ["Blocks", "Fitted", "Problem", "minimize"]

_log = logging.getLogger("nonconvex")

_SIDES = ("users", "items")
_ORDER = ("items", "users")  # ends with the users, so that folding a user in gives its own row


class Blocks(NamedTuple):
    """The ratings of a fit, packed by `nonconvex.distributed.blocking.pack` and cached.

    Attributes
    ----------
    users, items : DataFrame
        The same ratings twice, with users as the rows of the blocks and with items.
    validation : DataFrame or None
        Ratings to validate with, packed by users.
    user_degrees, item_degrees : float64 arrays of shape (n_u,) and (n_i,)
        The degrees in the blocks, in the order of the indices.
    dtype : float type
        Of everything in the blocks, of the factors, and of the arithmetic.
    """

    users: DataFrame
    items: DataFrame
    validation: DataFrame | None
    user_degrees: NDArray[np.float64]
    item_degrees: NDArray[np.float64]
    dtype: type[np.floating]


@dataclass(frozen=True)
class Problem:
    """What is to be minimized, and from where.

    Parameters
    ----------
    start : Factors
        The first α, and a row for every user and every item.  Where the solver is "als" the
        items are solved from the users before they are ever used.
    user_ridge, item_ridge : Ridge
    solver : {"als", "als-coordinate"}
    intercept, biases, nonnegative : bool
        Whether α is updated, whether β is, and whether γ ≥ 0 is demanded.
    implicit : bool
        Whether all pairs count; the blocks then hold `nonconvex.numerics.implicit.preferences`.
    name : str
        Says in the log which problem it is; may be empty.
    """

    start: Factors
    user_ridge: Ridge
    item_ridge: Ridge
    solver: str = "als"
    intercept: bool = True
    biases: bool = True
    nonnegative: bool = False
    implicit: bool = False
    name: str = ""

    def ridge(self, side: str) -> Ridge:
        """Return the ridge of one side."""
        return self.user_ridge if side == "users" else self.item_ridge


class Fitted(NamedTuple):
    """Where a fit of one problem ended.

    Attributes
    ----------
    factors : Factors
        Of the best iteration: by validation RMSE where `patience` was given, else the last.
    history : list of HalfStep
    iteration : int
        The iteration that `factors` are of.
    stop : Stop
    """

    factors: Factors
    history: list[HalfStep]
    iteration: int
    stop: Stop

    @property
    def objective(self) -> float:
        """The value f of `factors`."""
        return self.history[2 * self.iteration - 1].objective

    @property
    def validation_rmse(self) -> float | None:
        """The validation RMSE of `factors`."""
        return self.history[2 * self.iteration - 1].validation_rmse


def minimize(
    blocks: Blocks,
    problems: Sequence[Problem],
    *,
    max_iter: int,
    tol: float,
    patience: int | None = None,
) -> list[Fitted]:
    """Minimize every problem over the same ratings.

    Each iteration updates α, the items, α and the users, each from the latest values, so f never
    rises.  A problem that becomes non-finite is dropped and reported as such.

    Parameters
    ----------
    blocks : Blocks
    problems : sequence of Problem
    max_iter, tol, patience
        See `nonconvex.numerics.convergence.stop_after`.

    Returns
    -------
    list of Fitted
        One for each problem, in their order.

    Raises
    ------
    FitError
        If no problem stays finite.
    """
    runs = [_Run(problem, blocks) for problem in problems]
    active = runs
    with _Shared(blocks.users.sparkSession.sparkContext) as shared:
        shared.put(active, _SIDES)
        for iteration in range(1, max_iter + 1):
            for side in _ORDER:
                shared.describe(f"iteration {iteration} · {side}")
                started = time.perf_counter()
                updates = update_side(
                    blocks.users if side == "users" else blocks.items,
                    [run.step(side) for run in active],
                    shared["items" if side == "users" else "users"],
                    shared[side],
                    blocks.dtype,
                )
                seconds = time.perf_counter() - started
                for run, update in zip(active, updates, strict=True):
                    run.update(side, update, iteration, seconds)
                active = _going(active)
                if not active:
                    break
                shared.put(active, (side,))
            if active and blocks.validation is not None:
                shared.describe(f"iteration {iteration} · validation")
                errors = validation_rmse(
                    blocks.validation,
                    [run.alpha for run in active],
                    shared["users"],
                    shared["items"],
                    blocks.dtype,
                )
                for run, error in zip(active, errors, strict=True):
                    run.history[-1] = run.history[-1]._replace(validation_rmse=error)
            for run in active:
                run.end_iteration(max_iter, tol, patience)
            active = _going(active)
            if not active:
                break
            shared.put(active, ())
    if all(run.stop is Stop.NONFINITE for run in runs):
        raise FitError(runs[0].complaint())
    return [run.result() for run in runs]


class _Run:
    """One problem under way, as the driver sees it."""

    def __init__(self, problem: Problem, blocks: Blocks) -> None:
        self.problem = problem
        self.alpha = problem.start.alpha
        self.rows = {"users": problem.start.users, "items": problem.start.items}
        degrees = {"users": blocks.user_degrees, "items": blocks.item_degrees}
        self._penalty = {
            side: float(problem.ridge(side).penalty(degrees[side], self.rows[side]).sum())
            for side in _SIDES
        }
        self._drift = 0.0  # mean residual: what α should still move by
        self.history: list[HalfStep] = []
        self.stop: Stop | None = None
        self._best: Fitted | None = None

    def step(self, side: str) -> Step:
        """Update α in closed form, and say how the rows of a side are to be updated.

        α = (1/n) Σ w (R − β_u − β_i − γ_u·γ_i) is the old α and the mean of the residuals.
        """
        problem = self.problem
        if problem.intercept:
            self.alpha += self._drift
        background = None
        if problem.implicit:
            fixed = self.rows["items" if side == "users" else "users"]
            background = Background.of(fixed, self.alpha, biases=problem.biases)
        return Step(
            problem.solver,
            self.alpha,
            problem.ridge(side),
            problem.biases,
            problem.nonnegative,
            background,
        )

    def update(self, side: str, update: RowUpdate, iteration: int, seconds: float) -> None:
        """Take in what all rows of a side have become."""
        squares, weight = float(update.squares.sum()), float(update.weight.sum())
        self.rows[side] = update.x
        self._penalty[side] = float(update.penalty.sum())
        self._drift = float(update.residual.sum()) / weight
        value = (squares + sum(self._penalty.values())) / self.problem.user_ridge.total
        rmse = float(np.sqrt(squares / weight))
        self.history.append(HalfStep(iteration, side, value, self.alpha, rmse, None, seconds))
        if not np.isfinite(value):
            self.stop = Stop.NONFINITE

    def end_iteration(self, max_iter: int, tol: float, patience: int | None) -> None:
        """Decide whether to stop, and keep the best so far."""
        self.stop = stop_after(self.history, max_iter=max_iter, tol=tol, patience=patience)
        step = self.history[-1]
        factors = Factors(self.alpha, self.rows["users"], self.rows["items"])
        fitted = Fitted(factors, self.history, step.iteration, self.stop or Stop.MAX_ITER)
        best = self._best
        if patience is None or best is None or _rmse(fitted) < _rmse(best):
            self._best = fitted
        _log.info("%s", _line(self.problem.name, self.history[-2:], self.stop))

    def result(self) -> Fitted:
        """Return the best iteration, with all of the history."""
        assert self.stop is not None
        if self._best is None:  # non-finite before the end of the first iteration
            factors = Factors(self.alpha, self.rows["users"], self.rows["items"])
            return Fitted(factors, self.history, 1, self.stop)
        return self._best._replace(stop=self.stop)

    def complaint(self) -> str:
        """Say why there is no model, and what to do."""
        problem, step = self.problem, self.history[-1]
        return (
            f"the objective became {step.objective} at the {step.side} of iteration "
            f"{step.iteration}: raise regUser (now {problem.user_ridge.reg:.3g}) and regItem "
            f"(now {problem.item_ridge.reg:.3g}), or check that ratings are on a moderate scale "
            f"(the mean is {problem.start.alpha:.3g})"
        )


def _rmse(fitted: Fitted) -> float:
    rmse = fitted.validation_rmse
    return float("inf") if rmse is None else rmse


def _going(runs: list[_Run]) -> list[_Run]:
    return [run for run in runs if run.stop is None]


def _line(name: str, steps: list[HalfStep], stop: Stop | None) -> str:
    step = steps[-1]
    parts = [name] if name else []
    parts += [f"iteration {step.iteration:3d}", f"f {step.objective:.6f}"]
    parts += [f"train RMSE {step.train_rmse:.4f}"]
    if step.validation_rmse is not None:
        parts += [f"validation RMSE {step.validation_rmse:.4f}"]
    parts += [f"{sum(step.seconds for step in steps):.2f} s"]
    return "  ".join(parts) + (f"  {stop.value}" if stop else "")


class _Shared:
    """What is broadcast during a fit: for each side, the rows in all active problems."""

    def __init__(self, context: SparkContext) -> None:
        self._context = context
        self._held: dict[str, tuple[list[_Run], Rows]] = {}

    def __enter__(self) -> _Shared:
        self._description = self._context.getLocalProperty("spark.job.description") or ""
        return self

    def __exit__(self, *exception: object) -> None:
        for _, broadcast in self._held.values():
            broadcast.destroy()
        self._context.setLocalProperty("spark.job.description", self._description)

    def describe(self, text: str) -> None:
        """Name the jobs that follow, for the reader of Spark's web page."""
        self._context.setJobDescription(text)

    def put(self, active: list[_Run], changed: Sequence[str]) -> None:
        """Broadcast the sides that changed, and all if the active problems did."""
        for side in _SIDES:
            before = self._held.get(side)
            if active and (side in changed or before is None or before[0] != active):
                rows = [run.rows[side] for run in active]
                self._held[side] = (active, self._context.broadcast(rows))
                if before is not None:
                    before[1].destroy()

    def __getitem__(self, side: str) -> Rows:
        return self._held[side][1]
