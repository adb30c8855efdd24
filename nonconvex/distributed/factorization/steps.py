"""One half-step of alternating minimization as one pass over packed blocks.

Each block is read once and updates its rows in every problem against the shared other side.
What the rows report is put in the order of their indices before it is added up, so that no bit
depends on how blocks, tasks or cores divided the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nonconvex.distributed.factorization.execution import BlockStore, Value
from nonconvex.distributed.factorization.packing import unpack
from nonconvex.numerics.deterministic import one_thread_per_product, total
from nonconvex.numerics.factorization.als import (
    RowUpdate,
    part_moments,
    row_moments,
    solve_moments,
    solve_rows,
    sweep_rows,
)
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gibbs import Conditional
from nonconvex.numerics.factorization.gradient import gradient_sums, sample_ratings
from nonconvex.numerics.factorization.model import Background, Factors, Ridge, squared_errors

__all__ = ["Draw", "Rows", "Step", "UserSample", "update_side", "user_squares", "validation_rmse"]

Rows = Value[list[NDArray[np.floating]]]
"""The rows of one side in every problem, each of shape (m, 1 + K)."""

_Batches = Iterator[pa.RecordBatch]
_Task = Callable[[_Batches], _Batches]

_ERRORS = ("squares", "weight")


class UserSample(NamedTuple):
    """The users of a step of stochastic gradient descent.

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
    them, see `nonconvex.numerics.factorization.gradient`.
    """

    solver: str
    alpha: float
    ridge: Ridge
    biases: bool
    nonnegative: bool
    background: Background | None
    sample: UserSample | None = None

    def __call__(
        self, block: RatingBlock, fixed: NDArray[np.floating], own: NDArray[np.floating]
    ) -> RowUpdate:
        """Update the rows of a block, which are ``own[block.rows]`` before."""
        settings: dict[str, Any] = {"biases": self.biases, "background": self.background}
        with np.errstate(over="ignore", invalid="ignore"):  # the driver looks at what came of it
            if self.solver == "gd":
                rows = own[block.rows]
                return gradient_sums(block, fixed, self.alpha, self.ridge, rows, **settings)
            settings["nonnegative"] = self.nonnegative
            if self.solver == "als":
                return solve_rows(block, fixed, self.alpha, self.ridge, **settings)
            start = own[block.rows]
            return sweep_rows(block, fixed, self.alpha, self.ridge, start, **settings)

    def solve(
        self, moments: NDArray[np.float64], degrees: NDArray[np.float64], dtype: type[np.floating]
    ) -> RowUpdate:
        """Update long rows, from what all of their parts have come to."""
        solved = solve_moments(
            moments,
            degrees,
            self.ridge,
            dtype=dtype,
            biases=self.biases,
            nonnegative=self.nonnegative,
        )
        penalty = self.ridge.penalty(degrees, solved.x)
        return RowUpdate(solved.x, solved.residual, solved.squares, penalty, solved.weight)


class Draw(NamedTuple):
    """How the rows of one side are drawn in one chain; travels to the executors.

    Attributes
    ----------
    conditional : Conditional
        Without ω, which is as long as there are users and would travel with every task.
    user_precision : shared list of float64 arrays
        ω in every chain.
    number : int
        Which chain this is.
    """

    conditional: Conditional
    user_precision: Value[list[NDArray[np.float64]]]
    number: int
    sample: None = None

    def __call__(
        self, block: RatingBlock, fixed: NDArray[np.floating], own: NDArray[np.floating]
    ) -> RowUpdate:
        """Draw the rows of a block, which depend on nothing of what they were."""
        del own
        omega = self.user_precision.value[self.number]
        return self.conditional._replace(user_precision=omega).draw(block, fixed)


def update_side(
    packed: BlockStore,
    steps: Sequence[Step | Draw],
    fixed: Rows,
    own: Rows,
    dtype: type[np.floating],
) -> list[RowUpdate]:
    """Update the rows of all blocks in every problem.

    Parameters
    ----------
    packed : BlockStore
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
    table = packed.run(_update(steps, fixed, own, dtype, packed.whole))
    return [
        _assemble(table, number, rows, step)
        for number, (rows, step) in enumerate(zip(own.value, steps, strict=True))
    ]


def validation_rmse(
    packed: BlockStore, alphas: list[float], users: Rows, items: Rows, dtype: type[np.floating]
) -> list[float]:
    """Compute √(Σ w (R̂ − R)² / Σ w) over the ratings of all blocks in every problem."""
    table = packed.run(_squared_errors(alphas, users, items, dtype))
    return [_rmse(table, number, len(rows)) for number, rows in enumerate(users.value)]


def user_squares(
    packed: BlockStore, factors: Factors, dtype: type[np.floating]
) -> NDArray[np.float64]:
    """Sum w (R̂ − R)² over the ratings of each user, in blocks whose rows are users.

    Parameters
    ----------
    packed : BlockStore
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
        squares[np.frombuffer(part["rows"], np.int32)] += np.frombuffer(part["squares"])
    return squares


def _update(
    steps: Sequence[Step | Draw],
    fixed: Rows,
    own: Rows,
    dtype: type[np.floating],
    whole: int | None,
) -> _Task:
    def update(batches: _Batches) -> _Batches:
        for batch in batches:
            numbers = batch.column("block").to_pylist()
            for place, block in zip(numbers, unpack(batch, dtype), strict=True):
                if whole is not None and place >= whole:
                    yield from _moments(place, block, steps, fixed)
                    continue
                if len(steps) > 1:
                    block = block.with_padding()  # once for all problems
                for number, step in enumerate(steps):
                    part = block
                    if step.sample is not None:
                        chosen = step.sample.draw()
                        part = sample_ratings(block, chosen, rows=step.sample.rows)
                    result = step(part, fixed.value[number], own.value[number])
                    yield _report(number, names, (part.rows, *result))

    names = ("rows", *RowUpdate._fields)
    return update


def _moments(place: int, block: RatingBlock, steps: Sequence[Step | Draw], fixed: Rows) -> _Batches:
    """Report what a part of a long row comes to in every problem."""
    for number, step in enumerate(steps):
        assert isinstance(step, Step)
        sums: dict[str, NDArray[np.generic]] = {
            "rows": block.rows,
            "x": part_moments(block, fixed.value[number], step.alpha),
            "weight": block.degrees,
        }
        names = ("rows", *RowUpdate._fields)
        yield _report(number, names, tuple(sums.get(name) for name in names), place)


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
    problem: int,
    names: tuple[str, ...],
    arrays: tuple[NDArray[np.generic] | None, ...],
    part: int | None = None,
) -> pa.RecordBatch:
    columns = [pa.array([problem], pa.int32()), pa.array([part], pa.int32())]
    buffers = [None if values is None else values.tobytes() for values in arrays]
    columns += [pa.array([buffer], pa.binary()) for buffer in buffers]
    return pa.RecordBatch.from_arrays(columns, ["problem", "part", *names])


def _parts(table: pa.Table, problem: int) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = table.filter(pc.field("problem") == problem).to_pylist()
    return parts


def _assemble(
    table: pa.Table, problem: int, before: NDArray[np.floating], step: Step | Draw
) -> RowUpdate:
    """Put the rows of all blocks in the order of their indices."""
    rows, width = before.shape
    sums = RowUpdate._fields[1:]
    reported = _parts(table, problem)
    parts = [part for part in reported if part["part"] is None]
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
    of_long = [part for part in reported if part["part"] is not None]
    if of_long:
        assert isinstance(step, Step)
        index, update = _solve_long(of_long, width, step, before.dtype.type)
        for values, of_rows in zip(whole, update, strict=True):
            values[index] = of_rows
    return whole


def _solve_long(
    parts: list[dict[str, Any]], width: int, step: Step, dtype: type[np.floating]
) -> tuple[NDArray[np.int32], RowUpdate]:
    """Update long rows, from the moments of their parts."""
    parts = sorted(parts, key=itemgetter("part"))
    rows = np.concatenate([np.frombuffer(part["rows"], np.int32) for part in parts])
    index, row_of_part = np.unique(rows, return_inverse=True)
    moments = np.stack([np.frombuffer(part["x"]).reshape(width + 1, -1) for part in parts])
    degrees = np.zeros(len(index))
    np.add.at(degrees, row_of_part, [np.frombuffer(part["weight"])[0] for part in parts])
    with one_thread_per_product():
        whole = row_moments(moments, row_of_part, len(index))
        return index, step.solve(whole, degrees, dtype)


def _rmse(table: pa.Table, problem: int, rows: int) -> float:
    """Add up in the order of the rows, behind which is what training does not know."""
    sums = {name: np.zeros(rows + 1) for name in _ERRORS}
    for part in _parts(table, problem):
        for name in _ERRORS:
            sums[name][np.frombuffer(part["rows"], np.int32)] = np.frombuffer(part[name])
    squares, weight = (total(of_rows) for of_rows in sums.values())
    return float(np.sqrt(squares / weight))
