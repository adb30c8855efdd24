"""One half-step of alternating minimization as one pass over packed blocks.

Each block is read once and updates its rows in every problem against the shared other side.
Results are summed in the order of the indices of rows, so that no bit depends on blocks, tasks or
cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from nonconvex.distributed.factorization.execution import BlockStore
from nonconvex.distributed.factorization.packing import unpack
from nonconvex.distributed.runtime import Batches, Task, Value, binary_row
from nonconvex.numerics import Bools, Doubles, Floats, Ints
from nonconvex.numerics.deterministic import Kernel, Stream, one_thread_per_product, total
from nonconvex.numerics.factorization.als import (
    RowUpdate,
    part_moments,
    row_moments,
    solve_moments,
    solve_rows,
    step_rows,
    sweep_rows,
)
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gibbs import Conditional
from nonconvex.numerics.factorization.gradient import gradient_sums, sample_ratings
from nonconvex.numerics.factorization.model import Background, Factors, Ridge, squared_errors
from nonconvex.numerics.factorization.vb import Given, InferredUpdate

SharedRows = Value[list[Floats]]
"""The rows of one side in every problem, each of shape (m, 1 + K)."""

_ERRORS = ("squares", "weight")


class UserSample(NamedTuple):
    """The users of a step of stochastic gradient descent."""

    seed: int
    step: int
    fraction: float  # the share of the users, in (0, 1)
    users: int  # number of users
    rows: bool  # whether they are the rows of the blocks, not the columns

    def draw(self) -> Bools:
        """Return for every user whether it is in the sample, the same on every executor."""
        generator = Stream.generator(self.seed, self.step)
        chosen = np.zeros(self.users, bool)
        size = max(1, round(self.fraction * self.users))
        chosen[generator.permutation(self.users)[:size]] = True
        return chosen


class Step(NamedTuple):
    """Update of the rows of one side in one problem; sent to the executors.

    With the solver "gd" the result has sums of gradients in the place of rows, see
    `nonconvex.numerics.factorization.gradient`.
    """

    solver: str
    alpha: float
    ridge: Ridge
    biases: bool
    nonnegative: bool
    background: Background | None
    sample: UserSample | None = None
    kernel: Kernel = "numpy"

    def dtype(self, rows: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the result: that of the rows, float64 for sums of gradients."""
        return np.dtype(np.float64) if self.solver == "gd" else rows

    def __call__(self, block: RatingBlock, fixed: Floats, own: Floats) -> RowUpdate:
        """Update the rows of a block, which are ``own[block.rows]`` before."""
        settings: dict[str, Any] = {"biases": self.biases, "background": self.background}
        with np.errstate(over="ignore", invalid="ignore"):  # the driver checks the result
            if self.solver == "gd":
                given = block, fixed, self.alpha, self.ridge, own[block.rows]
                return gradient_sums(*given, kernel=self.kernel, **settings)
            settings["nonnegative"] = self.nonnegative
            if self.solver == "als":
                settings["kernel"] = self.kernel
                return solve_rows(block, fixed, self.alpha, self.ridge, **settings)
            start = own[block.rows]
            if self.solver == "als-cg":
                more: dict[str, Any] = {"biases": self.biases, "kernel": self.kernel}
                return step_rows(block, fixed, self.alpha, self.ridge, start, **more)
            return sweep_rows(block, fixed, self.alpha, self.ridge, start, **settings)

    def solve(self, moments: Doubles, degrees: Doubles, dtype: type[np.floating]) -> RowUpdate:
        """Update long rows from the moments of all of their parts."""
        settings: dict[str, Any] = {"biases": self.biases, "nonnegative": self.nonnegative}
        settings["kernel"] = self.kernel
        return solve_moments(moments, degrees, self.ridge, dtype=dtype, **settings)


class Draw(NamedTuple):
    """Draw of the rows of one side in one chain; sent to the executors."""

    conditional: Conditional  # without ω, which would be sent with every task
    user_precision: Value[list[Doubles]]  # ω in every chain
    number: int  # number of the chain
    sample: None = None

    def dtype(self, rows: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the rows."""
        return rows

    def __call__(self, block: RatingBlock, fixed: Floats, own: Floats) -> RowUpdate:
        """Draw the rows of a block, independently of their values before."""
        del own
        omega = self.user_precision.value[self.number]
        return self.conditional._replace(user_precision=omega).draw(block, fixed)


class Infer(NamedTuple):
    """Update of the distributions of the rows of one side; sent to the executors."""

    given: Given
    sample: None = None

    def dtype(self, rows: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype of the rows."""
        return rows

    def __call__(self, block: RatingBlock, fixed: Floats, own: Floats) -> InferredUpdate:
        """Update the rows of a block, independently of their values before."""
        del own
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self.given.update(block, fixed)


AnyStep = Step | Draw | Infer
AnyUpdate = RowUpdate | InferredUpdate


def update_side(
    packed: BlockStore,
    steps: Sequence[AnyStep],
    fixed: SharedRows,
    own: SharedRows,
    dtype: type[np.floating],
) -> list[AnyUpdate]:
    """Update the rows of all blocks in every problem."""
    table = packed.run(_update(steps, fixed, own, dtype, packed.first_part))
    return [
        _assemble(table, number, rows, step)
        for number, (rows, step) in enumerate(zip(own.value, steps, strict=True))
    ]


def validation_rmse(
    packed: BlockStore,
    alphas: list[float],
    users: SharedRows,
    items: SharedRows,
    dtype: type[np.floating],
    unknowns: Sequence[int | None],
    kernel: Kernel = "numpy",
) -> list[float]:
    """Compute √(Σ w (R̂ − R)² / Σ w) over the ratings of all blocks in every problem.

    The means of the rows are their first `unknowns` columns, or all.
    """
    table = packed.run(_squared_errors(alphas, users, items, dtype, unknowns, kernel))
    return [_rmse(table, number, len(rows)) for number, rows in enumerate(users.value)]


def user_squares(
    packed: BlockStore, factors: Factors, dtype: type[np.floating], kernel: Kernel = "numpy"
) -> Doubles:
    """Sum w (R̂ − R)² over the ratings of each user (n_u,), in blocks whose rows are users."""
    users, items = packed.share([factors.users]), packed.share([factors.items])
    try:
        task = _squared_errors([factors.alpha], users, items, dtype, [None], kernel)
        parts = _parts(packed.run(task), 0)
    finally:
        users.destroy()
        items.destroy()
    squares = np.zeros(len(factors.users))
    for part in parts:
        squares[np.frombuffer(part["rows"], np.int32)] += np.frombuffer(part["squares"])
    return squares


def _update(
    steps: Sequence[AnyStep],
    fixed: SharedRows,
    own: SharedRows,
    dtype: type[np.floating],
    first_part: int | None,
) -> Task:
    read = any(isinstance(step, Step) and step.solver != "als" for step in steps)
    before = own if read else fixed  # what no step reads is not sent

    def update(batches: Batches) -> Batches:
        for place, block in unpack(batches, dtype):
            if first_part is not None and place >= first_part:
                yield from _moments(place, block, steps, fixed)
                continue
            if len(steps) > 1:
                block = block.with_padding()  # once for all problems
            for number, step in enumerate(steps):
                part = block
                if step.sample is not None:
                    chosen = step.sample.draw()
                    part = sample_ratings(block, chosen, rows=step.sample.rows)
                result = step(part, fixed.value[number], before.value[number])
                columns = dict.fromkeys(InferredUpdate._fields)
                arrays = {"rows": part.rows, **columns, **result._asdict()}
                yield binary_row({"problem": number, "part": None}, arrays)

    return update


def _moments(
    place: int, block: RatingBlock, steps: Sequence[AnyStep], fixed: SharedRows
) -> Batches:
    """Return the moments of a part of a long row in every problem."""
    for number, step in enumerate(steps):
        assert isinstance(step, Step)
        arrays = {
            "rows": block.rows,
            **dict.fromkeys(InferredUpdate._fields),
            "x": part_moments(block, fixed.value[number], step.alpha, kernel=step.kernel),
            "weight": block.degrees,
        }
        yield binary_row({"problem": number, "part": place}, arrays)


def _squared_errors(
    alphas: list[float],
    users: SharedRows,
    items: SharedRows,
    dtype: type[np.floating],
    unknowns: Sequence[int | None],
    kernel: Kernel,
) -> Task:
    def errors(batches: Batches) -> Batches:
        for _, block in unpack(batches, dtype):
            for number, (alpha, of_row) in enumerate(zip(alphas, unknowns, strict=True)):
                rows = (side.value[number][:, :of_row] for side in (users, items))
                factors = Factors(alpha, *map(np.ascontiguousarray, rows))
                squares = squared_errors(factors, block, kernel=kernel)
                of_rows = (block.rows, squares, block.total_weights())
                arrays = dict(zip(("rows", *_ERRORS), of_rows, strict=True))
                yield binary_row({"problem": number, "part": None}, arrays)

    return errors


def _parts(table: pa.Table, problem: int) -> list[dict[str, Any]]:
    """Return the rows of a problem, with arrays as buffers of the table."""
    numbers = table["problem"].to_pylist()
    return [
        {name: _value(table[name][place]) for name in table.column_names}
        for place, number in enumerate(numbers)
        if number == problem
    ]


def _value(scalar: pa.Scalar) -> Any:
    return scalar.as_buffer() if isinstance(scalar, pa.BinaryScalar) else scalar.as_py()


def _assemble(table: pa.Table, problem: int, before: Floats, step: AnyStep) -> AnyUpdate:
    """Put the rows of all blocks in the order of their indices."""
    rows, width = before.shape
    sums = RowUpdate._fields[1:]
    reported = _parts(table, problem)
    more: Doubles | None = None
    x = np.zeros(before.shape, step.dtype(before.dtype))
    whole = RowUpdate(x, *(np.zeros(rows) for _ in sums))
    for part in (part for part in reported if part["part"] is None):
        index = np.frombuffer(part["rows"], np.int32)
        whole.x[index] = np.frombuffer(part["x"], x.dtype).reshape(-1, width)
        for name in sums:
            getattr(whole, name)[index] = np.frombuffer(part[name])
        if part["more"] is not None:
            of_part = np.frombuffer(part["more"]).reshape(len(index), -1)
            more = np.zeros((rows, of_part.shape[1])) if more is None else more
            more[index] = of_part
    of_long = [part for part in reported if part["part"] is not None]
    if of_long:
        assert isinstance(step, Step)
        long, update = _solve_long(of_long, width, step, before.dtype.type)
        for values, of_rows in zip(whole, update, strict=True):
            values[long] = of_rows
    return whole if more is None else InferredUpdate(*whole, more)


def _solve_long(
    parts: list[dict[str, Any]], width: int, step: Step, dtype: type[np.floating]
) -> tuple[Ints, RowUpdate]:
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
    """Sum in the order of the rows, with unknown rows last."""
    sums = {name: np.zeros(rows + 1) for name in _ERRORS}
    for part in _parts(table, problem):
        for name in _ERRORS:
            sums[name][np.frombuffer(part["rows"], np.int32)] = np.frombuffer(part[name])
    squares, weight = (total(of_rows) for of_rows in sums.values())
    return float(np.sqrt(squares / weight))
