"""Problems under way, as the driver sees them, and what of them all tasks read.

What is minimized, over which ratings, and what came of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from nonconvex.distributed.factorization.execution import BlockStore, Value
from nonconvex.distributed.factorization.steps import Step, update_side, validation_rmse
from nonconvex.distributed.rows import CachedRows, ShardedFactors, ShardedRows
from nonconvex.distributed.runtime import Progress, describe, description, report
from nonconvex.numerics.convergence import HalfStep, Stop, stop_after
from nonconvex.numerics.deterministic import squared_moves, total
from nonconvex.numerics.factorization.als import RowUpdate
from nonconvex.numerics.factorization.model import Background, Factors, Ridge

__all__ = [
    "SIDES",
    "Blocks",
    "Broadcast",
    "FitState",
    "HasRows",
    "Moved",
    "Problem",
    "Result",
    "unfinished",
]

SIDES = ("users", "items")


class Blocks(NamedTuple):
    """The ratings of a fit, packed by `nonconvex.distributed.factorization.packing`.

    Attributes
    ----------
    users, items : BlockStore
        The same ratings twice, with users as the rows of the blocks and with items.
    validation : BlockStore or None
        Ratings to validate with, packed by users.
    user_degrees, item_degrees : float64 arrays of shape (n_u,) and (n_i,)
        The degrees in the blocks, in the order of the indices.
    dtype : float type
        Of everything in the blocks, of the factors, and of the arithmetic.
    """

    users: BlockStore
    items: BlockStore
    validation: BlockStore | None
    user_degrees: NDArray[np.float64]
    item_degrees: NDArray[np.float64]
    dtype: type[np.floating]


@dataclass(frozen=True)
class Problem:
    """What is to be minimized, and from where.

    Parameters
    ----------
    start : Factors or ShardedFactors
        The first α, and a row for every user and every item.  Where the solver is "als" the
        items are solved from the users before they are ever used.
    user_ridge, item_ridge : Ridge
    solver : {"als", "als-coordinate", "gd"}
    intercept, biases, nonnegative : bool
        Whether α is updated, whether β is, and whether γ ≥ 0 is demanded.
    implicit : bool
        Whether all pairs count; the blocks then hold
        `nonconvex.numerics.factorization.model.preferences`.
    name : str
        Says in the log which problem it is; may be empty.
    """

    start: Factors | ShardedFactors
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


class Result(NamedTuple):
    """Where a fit of one problem ended.

    Attributes
    ----------
    factors : Factors, or ShardedFactors if rows were exchanged by shuffle
        Of the best iteration: by validation RMSE where `patience` was given, else the last.
    history : list of HalfStep
    iteration : int
        The iteration that `factors` are of.
    stop : Stop
    squares : float64 array of shape (n_u,), optional
        Σ w (R̂ − R)² of each user, if `factors` were reached by an update of the users.
    """

    factors: Factors | ShardedFactors
    history: list[HalfStep]
    iteration: int
    stop: Stop
    squares: NDArray[np.float64] | None = None

    @property
    def end(self) -> HalfStep:
        """The half-step that `factors` are of."""
        return [step for step in self.history if step.iteration <= self.iteration][-1]

    @property
    def objective(self) -> float:
        """The value f of `factors`."""
        return self.end.objective

    @property
    def validation_rmse(self) -> float | None:
        """The validation RMSE of `factors`."""
        return self.end.validation_rmse


class Moved(NamedTuple):
    """What one half-step has come to, over all rows of a side.

    Attributes
    ----------
    x : float array of shape (m, 1 + K), or ShardedRows
        The new rows.
    residual, squares, penalty, weight : float
        The totals of `RowUpdate`.
    distance : float
        Σ ‖x − x_before‖².
    row_squares : float64 array of shape (m,), optional
        Σ w e² of each row; None where it stays on the executors.
    """

    x: NDArray[np.floating] | ShardedRows
    residual: float
    squares: float
    penalty: float
    weight: float
    distance: float
    row_squares: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, update: RowUpdate, before: NDArray[np.floating]) -> Moved:
        """Add up an update of all rows, which were `before`."""
        return cls(
            update.x,
            residual=total(update.residual),
            squares=total(update.squares),
            penalty=total(update.penalty),
            weight=total(update.weight),
            distance=total(squared_moves(update.x, before)),
            row_squares=update.squares,
        )


class FitState:
    """One problem under way.

    Attributes
    ----------
    problem : Problem
    alpha : float
    rows : dict
        The rows of ``users`` and of ``items`` as they are now: arrays, or where they are exchanged
        by shuffle `ShardedRows`.
    penalty : dict
        What they pay for regularization; empty as long as distant ones have not been asked.
    history : list of HalfStep
    stop : Stop or None
        Why it has ended, if it has.
    """

    def __init__(self, problem: Problem, blocks: Blocks) -> None:
        self.problem = problem
        self.alpha = problem.start.alpha
        self.rows: dict[str, Any] = {"users": problem.start.users, "items": problem.start.items}
        self.penalty: dict[str, float] = {}
        if isinstance(problem.start, Factors):
            degrees = {"users": blocks.user_degrees, "items": blocks.item_degrees}
            self.penalty = {
                side: total(problem.ridge(side).penalty(degrees[side], self.rows[side]))
                for side in SIDES
            }
        self._drift = 0.0  # mean residual: what α should still move by
        self.history: list[HalfStep] = []
        self.stop: Stop | None = None
        self._best: Result | None = None
        self._squares: NDArray[np.float64] | None = None  # of each user, as it is now

    @property
    def factors(self) -> Factors:
        """All parameters as they are now, where rows are arrays."""
        return Factors(self.alpha, self.rows["users"], self.rows["items"])

    def reached(self) -> Factors | ShardedFactors:
        """Return all parameters as they are now, wherever the rows are."""
        return _factors(self.alpha, self.rows)

    def center(self) -> None:
        """Update α in closed form.

        α = (1/n) Σ w (R − β_u − β_i − γ_u·γ_i) is the old α and the mean of the residuals.
        """
        if self.problem.intercept:
            self.alpha += self._drift

    def step(self, side: str) -> Step:
        """Say how the rows of a side are to be updated."""
        problem = self.problem
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

    def replace(self, side: str, moved: Moved, iteration: int, seconds: float) -> None:
        """Take in what all rows of a side have become."""
        self.rows[side] = moved.x
        self._squares = moved.row_squares if side == "users" else None
        self.penalty[side] = moved.penalty
        self._drift = moved.residual / moved.weight
        self.record(
            iteration,
            side,
            moved.squares,
            moved.weight,
            sum(self.penalty.values()),
            float(np.sqrt(moved.distance)),
            None,
            seconds,
        )

    def record(
        self,
        iteration: int,
        side: str,
        squares: float,
        weight: float,
        penalty: float,
        step_norm: float,
        gradient_norm: float | None,
        seconds: float,
    ) -> None:
        """Add to the history what the parameters have reached."""
        value = (squares + penalty) / self.problem.user_ridge.total
        rmse = float(np.sqrt(max(squares, 0.0) / weight))
        self.history.append(
            HalfStep(
                iteration,
                side,
                value,
                self.alpha,
                rmse,
                None,
                step_norm,
                gradient_norm,
                seconds,
            )
        )
        if not np.isfinite(value):
            self.stop = Stop.NONFINITE

    def validate(self, rmse: float) -> None:
        """Add the validation RMSE to the last half-step."""
        self.history[-1] = self.history[-1]._replace(validation_rmse=rmse)

    def end_iteration(
        self, *, max_iter: int, tol: float, patience: int | None, gradient_tol: float
    ) -> None:
        """Decide whether to stop, and keep the best so far."""
        self.stop = stop_after(
            self.history, max_iter=max_iter, tol=tol, patience=patience, gradient_tol=gradient_tol
        )
        iteration = self.history[-1].iteration
        stop = self.stop or Stop.MAX_ITER
        fitted = Result(self.reached(), self.history, iteration, stop, self._squares)
        best = self._best
        if patience is None or best is None or _rmse(fitted) < _rmse(best):
            self._best = fitted
        steps = [step for step in self.history if step.iteration == iteration]
        report(_progress(self.problem.name, steps, max_iter, self.stop))

    def report_end(self, iteration: int, max_iter: int) -> None:
        """Report that it ended within an iteration."""
        stop = None if self.stop is None else self.stop.value
        report(Progress(self.problem.name, "iteration", iteration, max_iter, {}, 0.0, stop))

    def best_rows(self) -> list[Any]:
        """Return the rows of the best iteration so far, of both sides, if there is one."""
        return [] if self._best is None else [self._best.factors.users, self._best.factors.items]

    def relocate(self, place: Callable[[str, Any], ShardedRows]) -> None:
        """Have the rows of a side as they are now, and those of the best iteration, elsewhere."""
        best = dict(zip(SIDES, self.best_rows(), strict=False))
        for side, rows in best.items():
            if rows is not self.rows[side]:
                best[side] = place(side, rows)
        for side in SIDES:
            before, self.rows[side] = self.rows[side], place(side, self.rows[side])
            if best.get(side) is before:
                best[side] = self.rows[side]
        if self._best is not None:
            factors = _factors(self._best.factors.alpha, best)
            self._best = self._best._replace(factors=factors)

    def save(self) -> tuple[dict[str, NDArray[Any] | ShardedRows], dict[str, Any]]:
        """Return all that `restore` needs, as arrays and as what JSON can hold."""
        arrays: dict[str, Any] = dict(self.rows)
        best = self._best
        squares = None if best is None else _squares_of(best)
        if squares is not None:
            arrays["best.squares"] = squares
        if best is not None and best.iteration != self.history[-1].iteration:
            arrays |= {f"best.{side}": getattr(best.factors, side) for side in SIDES}
        return arrays, {
            "alpha": self.alpha,
            "drift": self._drift,
            "penalty": self.penalty,
            "history": [list(step) for step in self.history],
            "stop": None if self.stop is None else self.stop.name,
            "best": None if best is None else [best.factors.alpha, best.iteration],
        }

    def restore(self, arrays: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Go back to what `save` returned."""
        self.rows = {side: arrays[side] for side in SIDES}
        self.alpha, self._drift = values["alpha"], values["drift"]
        self.penalty = dict(values["penalty"])
        self.history = [HalfStep(*step) for step in values["history"]]
        self.stop = None if values["stop"] is None else Stop[values["stop"]]
        if values["best"] is not None:
            alpha, iteration = values["best"]
            rows = {side: arrays.get(f"best.{side}", self.rows[side]) for side in SIDES}
            stop = self.stop or Stop.MAX_ITER
            squares = arrays.get("best.squares")
            self._best = Result(_factors(alpha, rows), self.history, iteration, stop, squares)

    def result(self) -> Result:
        """Return the best iteration, with all of the history."""
        stop = self.stop or Stop.MAX_ITER
        if self._best is None:  # non-finite before the end of the first iteration
            return Result(self.reached(), self.history, 1, stop)
        return self._best._replace(stop=stop, squares=_squares_of(self._best))

    def complaint(self) -> str:
        """Say why there is no model, and what to do."""
        problem, step = self.problem, self.history[-1]
        where = f"the {step.side} of " if step.side in SIDES else ""
        remedy = "lower learningRate, " if problem.solver == "gd" else ""
        return (
            f"the objective became {step.objective} at {where}iteration {step.iteration}: "
            f"{remedy}raise regUser (now {problem.user_ridge.reg:.3g}) and regItem "
            f"(now {problem.item_ridge.reg:.3g}), or check that ratings are on a moderate scale "
            f"(the mean is {problem.start.alpha:.3g})"
        )


def unfinished(runs: list[FitState]) -> list[FitState]:
    """Return the runs that have not ended."""
    return [run for run in runs if run.stop is None]


def _factors(alpha: float, rows: Mapping[str, Any]) -> Factors | ShardedFactors:
    users, items = (rows[side] for side in SIDES)
    if isinstance(users, np.ndarray):
        return Factors(alpha, users, items)
    return ShardedFactors(alpha, users, items)


def _squares_of(fitted: Result) -> NDArray[np.float64] | None:
    """Return Σ w e² of each user, from the executors if rows are kept there."""
    users = fitted.factors.users
    if fitted.squares is None and isinstance(users, CachedRows):
        return users.squares()
    return fitted.squares


def _rmse(fitted: Result) -> float:
    rmse = fitted.validation_rmse
    return float("inf") if rmse is None else rmse


def _progress(name: str, steps: list[HalfStep], most: int, stop: Stop | None) -> Progress:
    step = steps[-1]
    figures = {"f": f"{step.objective:.6f}", "train RMSE": f"{step.train_rmse:.4f}"}
    if step.validation_rmse is not None:
        figures["validation RMSE"] = f"{step.validation_rmse:.4f}"
    seconds = sum(step.seconds for step in steps)
    return Progress(
        name, "iteration", step.iteration, most, figures, seconds, stop.value if stop else None
    )


class HasRows(Protocol):
    """A problem, or a chain, under way."""

    rows: dict[str, NDArray[np.floating]]


class Broadcast:
    """What the tasks of a fit read: for each side, the rows in all active problems; and the like.

    A context manager: what it has shared is destroyed at the end, whatever happens.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks, self._packed = blocks, blocks.users
        self._context = blocks.users.session.sparkContext
        self._held: dict[str, tuple[Sequence[HasRows], Value[list[NDArray[Any]]]]] = {}

    def __enter__(self) -> Broadcast:
        """Remember the caller's job description."""
        self._description = description(self._context)
        return self

    def __exit__(self, *exception: object) -> None:
        """Release everything."""
        for _, values in self._held.values():
            values.destroy()
        describe(self._context, self._description)

    def describe(self, text: str) -> None:
        """Name the jobs that follow, for the reader of Spark's web page."""
        describe(self._context, text)

    def put(self, active: Sequence[HasRows], changed: Sequence[str] = ()) -> None:
        """Share the sides that changed, and all if the active problems did."""
        for side in SIDES:
            before = self._held.get(side)
            if active and (side in changed or before is None or before[0] != active):
                self.replace(side, [run.rows[side] for run in active], active)

    def update(self, side: str, active: Sequence[FitState]) -> list[Moved]:
        """Update the rows of a side in all active problems from those of the other side."""
        updates = update_side(
            self._blocks.users if side == "users" else self._blocks.items,
            [run.step(side) for run in active],
            self["items" if side == "users" else "users"],
            self[side],
            self._blocks.dtype,
        )
        return [
            Moved.of(update, run.rows[side]) for run, update in zip(active, updates, strict=True)
        ]

    def validate(self, active: Sequence[FitState]) -> list[float]:
        """Return the validation RMSE of each active problem; there are validation ratings."""
        blocks, alphas = self._blocks, [run.alpha for run in active]
        assert blocks.validation is not None
        return validation_rmse(
            blocks.validation, alphas, self["users"], self["items"], blocks.dtype
        )

    def detach(self) -> None:
        """Let the rows that the runs have come to outlive this; here the runs have them."""

    def replace(
        self, name: str, values: list[NDArray[Any]], active: Sequence[HasRows] = ()
    ) -> None:
        """Share arrays, in the place of what had that name."""
        before = self._held.get(name)
        self._held[name] = (active, self._packed.share(values))
        if before is not None:
            before[1].destroy()

    def __getitem__(self, name: str) -> Value[list[NDArray[Any]]]:
        """Return what has that name: for a side its rows, in the order of the active problems."""
        return self._held[name][1]
