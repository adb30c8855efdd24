"""One half-step of alternating minimization as one pass over packed blocks.

Each block is read once and updates its rows in every problem against the shared other side.
What the rows report is put in the order of their indices before it is added up, so that no bit
depends on how blocks, tasks or cores divided the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nonconvex.distributed.blocking import unpack
from nonconvex.distributed.passes import Packed, Value
from nonconvex.numerics.blocks import RatingBlock
from nonconvex.numerics.coordinate_descent import sweep_rows
from nonconvex.numerics.factorization import Factors, Ridge, squared_errors
from nonconvex.numerics.gibbs import Conditional
from nonconvex.numerics.gradient import pull_rows, sample_ratings
from nonconvex.numerics.implicit import Background
from nonconvex.numerics.least_squares import RowUpdate, solve_rows

__all__ = ["Draw", "Rows", "Sample", "Step", "update_side", "user_squares", "validation_rmse"]

Rows = Value[list[NDArray[np.floating]]]
"""The rows of one side in every problem, each of shape (m, 1 + K)."""

_Batches = Iterator[pa.RecordBatch]
_Task = Callable[[_Batches], _Batches]

_ERRORS = ("squares", "weight")


class Sample(NamedTuple):
    """Which users a step of stochastic gradient descent looks at.

    Attributes
    ----------
    seed, step : int
    fraction : float
        The share of the users, in (0, 1).
    users : int
        How many there are.
    rows : bool
        Whether they are the rows of the blocks, or else the columns.
    """

    seed: int
    step: int
    fraction: float
    users: int
    rows: bool

    def draw(self) -> NDArray[np.bool_]:
        """Tell for every user whether it is in the sample: the same on every executor."""
        sequence = np.random.SeedSequence(self.seed & (2**64 - 1), spawn_key=(self.step,))
        chosen = np.zeros(self.users, bool)
        size = max(1, round(self.fraction * self.users))
        chosen[np.random.default_rng(sequence).permutation(self.users)[:size]] = True
        return chosen


class Step(NamedTuple):
    """How the rows of one side are updated in one problem; travels to the executors.

    With the solver "gd" they are not updated: their place is taken by what the ratings pull at
    them, see `nonconvex.numerics.gradient`.
    """

    solver: str
    alpha: float
    ridge: Ridge
    biases: bool
    nonnegative: bool
    background: Background | None
    sample: Sample | None = None

    def __call__(
        self, block: RatingBlock, fixed: NDArray[np.floating], own: NDArray[np.floating]
    ) -> RowUpdate:
        """Update the rows of a block, which are ``own[block.rows]`` before."""
        settings: dict[str, Any] = {"biases": self.biases, "background": self.background}
        with np.errstate(over="ignore", invalid="ignore"):  # the driver looks at what came of it
            if self.solver == "gd":
                rows = own[block.rows]
                return pull_rows(block, fixed, self.alpha, self.ridge, rows, **settings)
            settings["nonnegative"] = self.nonnegative
            if self.solver == "als":
                return solve_rows(block, fixed, self.alpha, self.ridge, **settings)
            start = own[block.rows]
            return sweep_rows(block, fixed, self.alpha, self.ridge, start, **settings)


class Draw(NamedTuple):
    """How the rows of one side are drawn in one chain; travels to the executors.

    Attributes
    ----------
    conditional : Conditional
        Without ω, which is as long as there are users and would travel with every task.
    steadiness : shared list of float64 arrays
        ω in every chain.
    number : int
        Which chain this is.
    """

    conditional: Conditional
    steadiness: Value[list[NDArray[np.float64]]]
    number: int
    sample: None = None

    def __call__(
        self, block: RatingBlock, fixed: NDArray[np.floating], own: NDArray[np.floating]
    ) -> RowUpdate:
        """Draw the rows of a block, which depend on nothing of what they were."""
        del own
        omega = self.steadiness.value[self.number]
        return self.conditional._replace(steadiness=omega).draw(block, fixed)


def update_side(
    packed: Packed,
    steps: Sequence[Step | Draw],
    fixed: Rows,
    own: Rows,
    dtype: type[np.floating],
) -> list[RowUpdate]:
    """Update the rows of all blocks in every problem.

    Parameters
    ----------
    packed : Packed
    steps : sequence of Step or Draw
        One for each problem.
    fixed, own : shared lists of float arrays
        The rows of the other side, and of this side before the update, in every problem.
    dtype : float type

    Returns
    -------
    list of RowUpdate
        One for each problem, of all rows in the order of their indices.
    """
    table = packed.run(_update(steps, fixed, own, dtype))
    return [_assemble(table, number, rows) for number, rows in enumerate(own.value)]


def validation_rmse(
    packed: Packed, alphas: list[float], users: Rows, items: Rows, dtype: type[np.floating]
) -> list[float]:
    """Compute √(Σ w (R̂ − R)² / Σ w) over the ratings of all blocks in every problem."""
    table = packed.run(_squared_errors(alphas, users, items, dtype))
    return [_rmse(table, number) for number in range(len(alphas))]


def user_squares(packed: Packed, factors: Factors, dtype: type[np.floating]) -> NDArray[np.float64]:
    """Sum w (R̂ − R)² over the ratings of each user, in blocks whose rows are users.

    Parameters
    ----------
    packed : Packed
    factors : Factors
    dtype : float type

    Returns
    -------
    float64 array of shape (n_u,)
    """
    users, items = packed.share([factors.users]), packed.share([factors.items])
    try:
        task = _squared_errors([factors.alpha], users, items, dtype)
        parts = _parts(packed.run(task), 0)
    finally:
        users.destroy()
        items.destroy()
    squares = np.zeros(len(factors.users))
    for part in parts:
        squares[np.frombuffer(part["rows"], np.int32)] = np.frombuffer(part["squares"])
    return squares


def _update(
    steps: Sequence[Step | Draw], fixed: Rows, own: Rows, dtype: type[np.floating]
) -> _Task:
    def update(batches: _Batches) -> _Batches:
        for batch in batches:
            for block in unpack(batch, dtype):
                if len(steps) > 1:
                    block = block.with_padding()  # once for all problems
                for number, step in enumerate(steps):
                    part = block
                    if step.sample is not None:
                        chosen = step.sample.draw()
                        part = sample_ratings(block, chosen, rows=step.sample.rows)
                    result = step(part, fixed.value[number], own.value[number])
                    yield _report(number, ("rows", *RowUpdate._fields), (part.rows, *result))

    return update


def _squared_errors(
    alphas: list[float], users: Rows, items: Rows, dtype: type[np.floating]
) -> _Task:
    def errors(batches: _Batches) -> _Batches:
        for batch in batches:
            for block in unpack(batch, dtype):
                for number, alpha in enumerate(alphas):
                    factors = Factors(alpha, users.value[number], items.value[number])
                    sums = (squared_errors(factors, block), block.total_weights())
                    yield _report(number, ("rows", *_ERRORS), (block.rows, *sums))

    return errors


def _report(
    problem: int, names: tuple[str, ...], arrays: tuple[NDArray[np.generic], ...]
) -> pa.RecordBatch:
    columns = [pa.array([problem], pa.int32())]
    columns += [pa.array([values.tobytes()], pa.binary()) for values in arrays]
    return pa.RecordBatch.from_arrays(columns, ["problem", *names])


def _parts(table: pa.Table, problem: int) -> list[dict[str, bytes]]:
    parts: list[dict[str, bytes]] = table.filter(pc.field("problem") == problem).to_pylist()
    return parts


def _assemble(table: pa.Table, problem: int, before: NDArray[np.floating]) -> RowUpdate:
    """Put the rows of all blocks in the order of their indices."""
    rows, width = before.shape
    sums = RowUpdate._fields[1:]
    parts = _parts(table, problem)
    # Updated rows have the type of the rows before; what pulls at them is in float64.
    doubled = sum(len(part["x"]) for part in parts) > before.itemsize * width * sum(
        len(part["rows"]) // 4 for part in parts
    )
    x = np.zeros(before.shape, np.float64 if doubled else before.dtype)
    whole = RowUpdate(x, *(np.zeros(rows) for _ in sums))
    for part in parts:
        index = np.frombuffer(part["rows"], np.int32)
        whole.x[index] = np.frombuffer(part["x"], x.dtype).reshape(-1, width)
        for name in sums:
            getattr(whole, name)[index] = np.frombuffer(part[name])
    return whole


def _rmse(table: pa.Table, problem: int) -> float:
    parts = _parts(table, problem)
    order = np.argsort(np.concatenate([np.frombuffer(part["rows"], np.int32) for part in parts]))
    squares, weight = (
        np.concatenate([np.frombuffer(part[name]) for part in parts])[order].sum()
        for name in _ERRORS
    )
    return float(np.sqrt(squares / weight))
