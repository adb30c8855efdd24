"""Driver-side state of running fits, their factors, and the exchange of rows with their tasks."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from nonconvex.distributed.factorization.execution import BlockStore
from nonconvex.distributed.factorization.steps import (
    AnyStep,
    AnyUpdate,
    Infer,
    Step,
    update_side,
    validation_rmse,
)
from nonconvex.distributed.rows import CachedRows, Element, Rows, ShardedRows, scatter
from nonconvex.distributed.runtime import (
    Progress,
    Value,
    begin_task,
    describe_jobs,
    job_description,
    report,
)
from nonconvex.numerics import Doubles, Floats
from nonconvex.numerics.convergence import HalfStep, Stationarity, Stop, StoppingRule
from nonconvex.numerics.deterministic import Kernel, squared_moves, total
from nonconvex.numerics.factorization.gibbs import USER_FREEDOM
from nonconvex.numerics.factorization.model import Background, Factors, InitialRows, Ridge, Side
from nonconvex.numerics.factorization.vb import (
    HELD,
    Given,
    Hyperparameters,
    InferredUpdate,
    Prior,
    RowSums,
)

if TYPE_CHECKING:
    from pyspark import RDD

_log = logging.getLogger("nonconvex")


@dataclass(frozen=True)
class RandomRows:
    """Random rows that executors draw."""

    random: InitialRows

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and 1 + K."""
        return self.random.rows, 1 + self.random.rank + len(self.random.more)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the rows."""
        return np.dtype(self.random.dtype)

    def placed(self, spark: SparkSession, slices: Sequence[slice]) -> RDD[Element]:
        """Return an element of `Rows` for each slice, in the partition of its number."""
        random = self.random

        def draw(elements: Iterable[Element]) -> Iterator[Element]:
            begin_task()
            for number, (first, stop) in elements:
                yield number, Rows(random.between(first, stop), None, None)

        bounds = [(place.start, place.stop) for place in slices]
        return scatter(spark, bounds).mapPartitions(draw, True)

    def gather(self) -> Floats:
        """Return all rows, drawn on the driver."""
        return self.random.between(0, self.random.rows)


class ShardedFactors:
    """All parameters of the model, with sharded rows."""

    def __init__(self, alpha: float, users: ShardedRows, items: ShardedRows) -> None:
        self.alpha, self.users, self.items = alpha, users, items
        self._gathered: Factors | None = None

    def gather(self) -> Factors:
        """Return all parameters as arrays on the driver; they stay on the executors, too."""
        if self._gathered is None:
            sides = (self.users, self.items)
            size = sum(rows.shape[0] * rows.shape[1] * rows.dtype.itemsize for rows in sides)
            counts = [rows.shape[0] for rows in sides]
            _log.info(
                "collecting the factors of %s users and %s items on the driver, %s bytes",
                *(f"{number:,}" for number in (*counts, size)),
            )
            self._gathered = Factors(self.alpha, *(rows.gather() for rows in sides))
        return self._gathered


AnyFactors = Factors | ShardedFactors
"""All parameters of the model, wherever its rows are."""


def factors_of(alpha: float, users: Any, items: Any) -> AnyFactors:
    """Return the parameters with these rows, arrays or sharded ones."""
    if isinstance(users, np.ndarray):
        return Factors(alpha, users, items)
    return ShardedFactors(alpha, users, items)


def gather_factors(factors: AnyFactors) -> Factors:
    """Return factors as arrays on the driver."""
    return factors.gather() if isinstance(factors, ShardedFactors) else factors


class Blocks(NamedTuple):
    """The ratings of a fit, packed by `nonconvex.distributed.factorization.packing`."""

    # the same ratings twice, with users and with items as the rows of the blocks
    users: BlockStore
    items: BlockStore
    validation: BlockStore | None  # validation ratings, packed by users
    # of shapes (n_u,) and (n_i,): The degrees in the blocks, in the order of the indices
    user_degrees: Doubles
    item_degrees: Doubles
    dtype: type[np.floating]  # of the blocks, the factors and the arithmetic

    def by(self, side: Side) -> BlockStore:
        """Return the blocks whose rows are of a side."""
        return self.users if side == Side.USERS else self.items

    @property
    def degrees(self) -> dict[Side, Doubles]:
        """The degrees of both sides."""
        return {Side.USERS: self.user_degrees, Side.ITEMS: self.item_degrees}


@dataclass(frozen=True)
class Problem:
    """One objective, and the factors to start from."""

    # the first α, and a row for every user and item. The solver "als" solves for the items before
    # it uses them.
    start: AnyFactors
    user_ridge: Ridge
    item_ridge: Ridge
    solver: str = "als"
    # whether α is updated, whether β is, and whether γ ≥ 0 is required
    intercept: bool = True
    biases: bool = True
    nonnegative: bool = False
    # whether all pairs count; the blocks then hold
    # `nonconvex.numerics.factorization.model.preference_block`
    implicit: bool = False
    kernel: Kernel = "numpy"
    name: str = ""  # name in the log; may be empty
    rule: StoppingRule | None = None  # where it differs from that of the other problems
    # with the solver "vb": K, τ to start from, and κ of the precisions of users
    rank: int = 0
    tau: float = 1.0
    user_freedom: float = USER_FREEDOM

    def ridge(self, side: Side) -> Ridge:
        """Return the ridge of one side."""
        return self.user_ridge if side == Side.USERS else self.item_ridge


class Result(NamedTuple):
    """The best iteration of a fit of one problem."""

    # of the best iteration: by validation RMSE if there is patience, else the last
    factors: AnyFactors
    history: list[HalfStep]
    iteration: int  # the iteration of `factors`
    stop: Stop
    # (n_u,): Σ w (R̂ − R)² of each user, if `factors` came from an update of the users
    squares: Doubles | None = None
    level: dict[str, Any] | None = None  # with the solver "vb", what `Hyperparameters` saves
    stationarity: Stationarity | None = None  # of `factors`, where it was measured

    @property
    def end(self) -> HalfStep:
        """The half-step of `factors`."""
        return [step for step in self.history if step.iteration <= self.iteration][-1]

    @property
    def objective(self) -> float:
        """The value f of `factors`."""
        return self.end.objective

    @property
    def validation_rmse(self) -> float | None:
        """The validation RMSE of `factors`."""
        return self.end.validation_rmse


def _row_squares(squares: Doubles | None, rows: Any) -> Doubles | None:
    """Return Σ w e² of each row, from the executors if the rows are there."""
    return rows.squares() if squares is None and isinstance(rows, CachedRows) else squares


class SideUpdate(NamedTuple):
    """New rows of a side, and the totals of `RowUpdate` over them."""

    x: Any  # (m, 1 + K)
    residual: float
    squares: float
    penalty: float
    weight: float
    distance: float  # Σ ‖x − x_before‖²
    # (m,): Σ w e² of each row; None if it stays on the executors
    row_squares: Doubles | None = None
    more: Sequence[float] = ()  # the sums of ``InferredUpdate.more``

    @classmethod
    def of(cls, update: AnyUpdate, before: Floats) -> SideUpdate:
        """Add up an update of all rows, which were `before`."""
        return cls(
            update.x,
            residual=total(update.residual),
            squares=total(update.squares),
            penalty=total(update.penalty),
            weight=total(update.weight),
            distance=total(squared_moves(update.x, before)),
            row_squares=update.squares,
            more=[total(of) for of in update.more.T] if isinstance(update, InferredUpdate) else (),
        )


class FitState:
    """The current state of one problem."""

    unknowns: int | None = None  # columns of a row that are its mean; None if all are

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.alpha = problem.start.alpha
        # arrays, or ShardedRows if they are exchanged by shuffle
        self.rows: dict[Side, Any] = {side: getattr(problem.start, side) for side in Side}
        self.penalty: dict[Side, float] = {}  # regularization of the rows; empty before `begin`
        self._mean_residual = 0.0  # mean residual: the next change of α
        self.history: list[HalfStep] = []
        self.stop: Stop | None = None  # the reason why it ended, if it has
        self._best: Result | None = None
        self._squares: Doubles | None = None  # of each user, for the current rows

    @property
    def factors(self) -> Any:
        """The current parameters, an `AnyFactors`."""
        return factors_of(self.alpha, *(self.rows[side] for side in Side))

    def begin(self, exchange: RowExchange) -> None:
        """Hand the current and the best rows to an exchange."""
        best = dict(zip(Side, self.best_rows(), strict=False))
        for side, rows in best.items():
            if rows is not self.rows[side]:
                best[side] = exchange.place(side, rows)
        for side in Side:
            before, self.rows[side] = self.rows[side], exchange.place(side, self.rows[side])
            if best.get(side) is before:
                best[side] = self.rows[side]
        if self._best is not None:
            factors = factors_of(self._best.factors.alpha, *(best[side] for side in Side))
            self._best = self._best._replace(factors=factors)
        if not self.penalty:
            self.penalty = {
                side: exchange.penalty(side, self.ridge(side), self.rows[side]) for side in Side
            }

    def ridge(self, side: Side) -> Penalty:
        """Return the regularization of the rows of a side that a fit starts from."""
        return self.problem.ridge(side)

    def update_intercept(self) -> None:
        """Update α in closed form.

        α = (1/n) Σ w (R − β_u − β_i − γ_u·γ_i) is the old α plus the mean of the residuals.
        """
        if self.problem.intercept:
            self.alpha += self._mean_residual

    def step(self, side: Side) -> AnyStep:
        """Return the update of the rows of a side."""
        problem, background = self.problem, None
        ridge, biases, nonnegative = problem.ridge(side), problem.biases, problem.nonnegative
        if problem.implicit:
            background = Background.of(self.rows[side.other], self.alpha, biases=biases)
        step = Step(problem.solver, self.alpha, ridge, biases, nonnegative, background)
        return step._replace(kernel=problem.kernel)

    def replace(self, side: Side, update: SideUpdate, iteration: int, seconds: float) -> None:
        """Replace the rows of a side, and add the half-step to the history."""
        self.rows[side] = update.x
        self._squares = update.row_squares if side == Side.USERS else None
        self.penalty[side] = update.penalty
        self._mean_residual = update.residual / update.weight
        penalty, norm = sum(self.penalty.values()), float(np.sqrt(update.distance))
        self.record(iteration, side, update.squares, update.weight, penalty, norm, None, seconds)

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
        """Add a half-step to the history, and stop if f is not finite."""
        f = self.objective(squares, penalty)
        rmse = float(np.sqrt(max(squares, 0.0) / weight))
        step = HalfStep(
            iteration, str(side), f, self.alpha, rmse, None, step_norm, gradient_norm, seconds
        )
        self.history.append(step)
        if not np.isfinite(f):
            self.stop = Stop.NONFINITE

    def objective(self, squares: float, penalty: float) -> float:
        """Return f."""
        return (squares + penalty) / self.problem.user_ridge.total

    def level(self) -> dict[str, Any] | None:
        """Return the current value of ``Result.level``."""
        return None

    def validate(self, rmse: float) -> None:
        """Add the validation RMSE to the last half-step."""
        self.history[-1] = self.history[-1]._replace(validation_rmse=rmse)

    def end_iteration(self, rule: StoppingRule) -> None:
        """Apply the stopping rule, keep the best iteration, and report."""
        rule = self.problem.rule or rule
        self.stop = rule.reached(self.history)
        iteration = self.history[-1].iteration
        stop = self.stop or Stop.MAX_ITER
        level = self.level()
        result = Result(self.factors, self.history, iteration, stop, self._squares, level)
        if rule.patience is None or self._best is None or _rmse(result) < _rmse(self._best):
            self._best = result
        steps = [step for step in self.history if step.iteration == iteration]
        report(_progress(self.problem.name, steps, rule.max_iter, self.stop))

    def report_end(self, iteration: int, max_iter: int) -> None:
        """Report that it ended within an iteration."""
        stop = None if self.stop is None else self.stop.value
        report(Progress(self.problem.name, "iteration", iteration, max_iter, {}, 0.0, stop))

    def best_rows(self) -> list[Any]:
        """Return the rows of both sides at the best iteration, if there is one."""
        return [] if self._best is None else [self._best.factors.users, self._best.factors.items]

    def save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the state, as nested arrays and as JSON values."""
        arrays: dict[str, Any] = {str(side): rows for side, rows in self.rows.items()}
        best = self._best
        if best is not None:
            kept: dict[str, Any] = {}
            squares = _row_squares(best.squares, best.factors.users)
            if squares is not None:
                kept["squares"] = squares
            if best.iteration != self.history[-1].iteration:
                kept |= {str(side): getattr(best.factors, side) for side in Side}
            arrays["best"] = kept
        return arrays, {
            "alpha": self.alpha,
            "mean_residual": self._mean_residual,
            "penalty": self.penalty,
            "history": [list(step) for step in self.history],
            "stop": None if self.stop is None else self.stop.name,
            "best": None if best is None else [best.factors.alpha, best.iteration, best.level],
        }

    def restore(self, arrays: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Restore the state that `save` returned."""
        self.rows = {side: arrays[side] for side in Side}
        self.alpha, self._mean_residual = values["alpha"], values["mean_residual"]
        self.penalty = {Side(side): penalty for side, penalty in values["penalty"].items()}
        self.history = [HalfStep(*step) for step in values["history"]]
        self.stop = None if values["stop"] is None else Stop[values["stop"]]
        if values["best"] is not None:
            alpha, iteration, level = values["best"]
            kept = arrays.get("best", {})
            factors = factors_of(alpha, *(kept.get(side, self.rows[side]) for side in Side))
            stop = self.stop or Stop.MAX_ITER
            squares = kept.get("squares")
            self._best = Result(factors, self.history, iteration, stop, squares, level)

    def result(self) -> Result:
        """Return the best iteration, with the whole history."""
        stop = self.stop or Stop.MAX_ITER
        if self._best is None:  # non-finite before the end of the first iteration
            return Result(self.factors, self.history, 1, stop)
        squares = _row_squares(self._best.squares, self._best.factors.users)
        return self._best._replace(stop=stop, squares=squares)

    def complaint(self) -> str:
        """Return one sentence that says why there is no model, and what to do."""
        problem, step = self.problem, self.history[-1]
        where = "" if step.side == "both" else f"the {step.side} of "
        remedy = "lower learningRate, " if problem.solver == "gd" else ""
        return (
            f"the objective became {step.objective} at {where}iteration {step.iteration}: "
            f"{remedy}raise regUser (now {problem.user_ridge.reg:.3g}) and regItem "
            f"(now {problem.item_ridge.reg:.3g}), or check that ratings are on a moderate scale "
            f"(the mean is {problem.start.alpha:.3g})"
        )


class VariationalState(FitState):
    """The current state of one problem: f is the free energy per rating.

    Rows have the columns of `Layout`, so that exchanges and checkpoints take them as any others.
    """

    def __init__(self, problem: Problem, blocks: Blocks) -> None:
        super().__init__(problem)
        self.unknowns = 1 + problem.rank
        priors, rows = {}, {}
        for side, degrees in blocks.degrees.items():
            ridge, rows[side] = problem.ridge(side), len(degrees)
            diagonal = ridge.diagonal(np.array([ridge.mean_degree]), self.unknowns)[0]
            priors[side] = Prior.start(problem.tau * diagonal, degrees)  # the mode is the minimum
        total = problem.user_ridge.total
        self._level = Hyperparameters(problem.tau, priors, rows, total, problem.user_freedom)

    def ridge(self, side: Side) -> Given:
        """Return what the rows of a side that a fit starts from contribute to F."""
        return self._level.given(side, self.alpha)

    def step(self, side: Side) -> Infer:
        """Return the update of the rows of a side."""
        given = self._level.given(side, self.alpha)
        return Infer(given._replace(kernel=self.problem.kernel))

    def replace(self, side: Side, update: SideUpdate, iteration: int, seconds: float) -> None:
        """Replace the rows of a side, learn from them, and add the half-step to the history."""
        self.rows[side] = update.x
        sums = RowSums.of(update.more)
        held = iteration <= HELD
        self.penalty[side] = self._level.learn(side, update.penalty, sums, held=held)
        self._mean_residual = update.residual / self._level.weight
        penalty, norm = sum(self.penalty.values()), float(np.sqrt(update.distance))
        self.record(iteration, side, update.squares, update.weight, penalty, norm, None, seconds)
        self.history[-1] = self.history[-1]._replace(tau=self._level.tau)

    def objective(self, squares: float, penalty: float) -> float:
        """Return the free energy per rating."""
        del squares
        return self._level.free_energy(penalty)

    def level(self) -> dict[str, Any]:
        """Return τ, Λ and ξ."""
        return self._level.save()

    def save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the state, as nested arrays and as JSON values."""
        arrays, values = super().save()
        return arrays, {**values, "level": self._level.save()}

    def restore(self, arrays: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Restore the state that `save` returned."""
        super().restore(arrays, values)
        self._level = Hyperparameters.of(values["level"])


def unfinished(states: list[FitState]) -> list[FitState]:
    """Return the states that have not stopped."""
    return [state for state in states if state.stop is None]


def _rmse(result: Result) -> float:
    rmse = result.validation_rmse
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


class Penalty(Protocol):
    """Something that says what rows contribute to f."""

    def penalty(self, degrees: Doubles, x: Floats) -> Doubles:
        """Return the contribution of each row, of shape (r,)."""


class HasRows(Protocol):
    """The current state of a problem, or of a chain."""

    rows: dict[Side, Any]


class RowExchange(ABC):
    """Delivery of the rows of one side to the ratings of the other, in the passes of a fit.

    A context manager that releases everything at the end.  It never changes the states it serves.
    """

    sharded = False  # whether rows stay on the executors

    def __init__(self, blocks: Blocks) -> None:
        self._blocks, self._session = blocks, blocks.users.session

    def __enter__(self) -> Self:
        """Remember the caller's job description."""
        self._description = job_description(self._session)
        return self

    def __exit__(self, *exception: object) -> None:
        """Release everything."""
        describe_jobs(self._session, self._description)

    def describe(self, text: str) -> None:
        """Name the jobs that follow, for Spark's web page."""
        describe_jobs(self._session, text)

    @staticmethod
    @abstractmethod
    def initial(alpha: float, users: InitialRows, items: InitialRows) -> AnyFactors:
        """Return random factors to start from, drawn where the exchange has the rows."""

    @abstractmethod
    def place(self, side: Side, rows: Any) -> Any:
        """Return rows where the exchange needs them."""

    @abstractmethod
    def penalty(self, side: Side, ridge: Penalty, rows: Any) -> float:
        """Return the regularization of all rows of a side, placed before."""

    @abstractmethod
    def put(self, states: Sequence[HasRows], changed: Sequence[Side] = ()) -> None:
        """Publish the changed sides of the active states, or all if other states are active."""

    @abstractmethod
    def update(self, side: Side, states: Sequence[FitState]) -> list[SideUpdate]:
        """Compute the update of the rows of a side in all active states."""

    @abstractmethod
    def validate(self, states: Sequence[FitState]) -> list[float]:
        """Return the validation RMSE of each active state."""

    @abstractmethod
    def detach(self, rows: Sequence[Any]) -> None:
        """Transfer the ownership of rows to the caller."""


class Broadcast(RowExchange):
    """Exchange by the driver: it holds all rows, and shares them with every task.

    Other arrays can be shared by name beside the sides.
    """

    def __init__(self, blocks: Blocks) -> None:
        super().__init__(blocks)
        self._shared: dict[str, tuple[Sequence[HasRows], Value[list[NDArray[Any]]]]] = {}

    def __exit__(self, *exception: object) -> None:
        """Release everything."""
        for _, values in self._shared.values():
            values.destroy()
        super().__exit__(*exception)

    @staticmethod
    def initial(alpha: float, users: InitialRows, items: InitialRows) -> AnyFactors:
        """Draw the rows on the driver."""
        return Factors(alpha, *(side.between(0, side.rows) for side in (users, items)))

    def place(self, side: Side, rows: Any) -> Any:
        """Return the rows as they are."""
        return rows

    def penalty(self, side: Side, ridge: Penalty, rows: Any) -> float:
        """Return the regularization of all rows of a side."""
        return total(ridge.penalty(self._blocks.degrees[side], rows))

    def put(self, states: Sequence[HasRows], changed: Sequence[Side] = ()) -> None:
        """Share the changed sides, or all if other states are active."""
        for side in Side:
            before = self._shared.get(side)
            if states and (side in changed or before is None or before[0] != states):
                self.share(side, [state.rows[side] for state in states], states)

    def update(self, side: Side, states: Sequence[FitState]) -> list[SideUpdate]:
        """Compute the update of the rows of a side in all active states."""
        blocks, steps = self._blocks, [state.step(side) for state in states]
        updates = update_side(blocks.by(side), steps, self[side.other], self[side], blocks.dtype)
        return [
            SideUpdate.of(update, state.rows[side])
            for state, update in zip(states, updates, strict=True)
        ]

    def validate(self, states: Sequence[FitState]) -> list[float]:
        """Return the validation RMSE of each active state."""
        blocks, alphas = self._blocks, [state.alpha for state in states]
        assert blocks.validation is not None
        rows, unknowns = (self[Side.USERS], self[Side.ITEMS]), [each.unknowns for each in states]
        kernel = states[0].problem.kernel
        return validation_rmse(blocks.validation, alphas, *rows, blocks.dtype, unknowns, kernel)

    def detach(self, rows: Sequence[Any]) -> None:
        """Do nothing: the caller has the arrays."""

    def share(self, name: str, values: list[NDArray[Any]], states: Sequence[HasRows] = ()) -> None:
        """Share arrays, in place of those of the same name."""
        before = self._shared.get(name)
        self._shared[name] = (states, self._blocks.users.share(values))
        if before is not None:
            before[1].destroy()

    def __getitem__(self, name: str) -> Value[list[NDArray[Any]]]:
        """Return shared arrays by name: for a side its rows, in the order of the states."""
        return self._shared[name][1]
