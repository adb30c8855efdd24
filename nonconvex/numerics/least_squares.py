"""Alternating least squares: the exact solution of every row while the other side stands still.

Fixing α and the item side, f is a separate ridge regression for each user u, with unknowns
x_u = (β_u, γ_u), design rows z_i = (1, γ_i) and targets R_ui − α − β_i:

    (Σ_{i ∈ I_u} w z_i z_iᵀ + n λ₁ I) x_u = Σ_{i ∈ I_u} w z_i (R_ui − α − β_i)

The item side is the same with u ↔ i and λ₂: one function, called once for each side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.blocks import Batch, RatingBlock, batches
from nonconvex.numerics.factorization import Ridge
from nonconvex.numerics.implicit import Background
from nonconvex.numerics.quadratic import minimize

__all__ = ["RowUpdate", "solve_rows"]

# Padded ratings × unknowns gathered at a time: two megabytes of float32 stay in a core's cache
# between the gather, the two products and the residual.
CACHE_ELEMENTS = 1 << 19

# A longer row is summed in segments of this many ratings, in float64: it need not fit in memory
# at once, and a float32 sum of very many terms would lose digits.
SEGMENT = 1 << 13


class RowUpdate(NamedTuple):
    """What one half-step says of the rows of a block, after the update.

    The sums are over the ratings of the row; they are all that is needed for f and α.

    Attributes
    ----------
    x : float array of shape (r, 1 + K)
        The new rows (β, γ).
    residual : float64 array of shape (r,)
        Σ w (R − R̂).
    squares : float64 array of shape (r,)
        Σ w (R − R̂)².
    penalty : float64 array of shape (r,)
        What the rows pay for regularization, see `Ridge.penalty`.
    weight : float64 array of shape (r,)
        Σ w, so that Σ residual / Σ weight is what α should still move by.
    """

    x: NDArray[np.floating]
    residual: NDArray[np.float64]
    squares: NDArray[np.float64]
    penalty: NDArray[np.float64]
    weight: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        block: RatingBlock,
        x: NDArray[np.floating],
        residual: NDArray[np.float64],
        squares: NDArray[np.float64],
        ridge: Ridge,
        background: Background | None,
    ) -> RowUpdate:
        """Complete the sums over the observed ratings by the penalty and the background."""
        weight = block.total_weights()
        if background is not None:
            residual = residual + background.residual(x)
            squares = squares + background.squares(x) - block.over_rows(block.ratings)
            weight = weight + background.columns
        return cls(x, residual, squares, ridge.penalty(block.degrees, x), weight)


def solve_rows(
    block: RatingBlock,
    fixed: NDArray[np.floating],
    alpha: float,
    ridge: Ridge,
    *,
    biases: bool = True,
    nonnegative: bool = False,
    background: Background | None = None,
) -> RowUpdate:
    """Minimize f over every row of a block, exactly.

    Parameters
    ----------
    block : RatingBlock
    fixed : float array of shape (m, 1 + K)
        The other side's rows (β, γ).  Its dtype is the dtype of the arithmetic: float32 halves
        the time, float64 is exact to rounding.
    alpha : float
    ridge : Ridge
    biases : bool
        Without, β = 0 is kept: the design rows are (0, γ_i).
    nonnegative : bool
        Keep γ ≥ 0.
    background : Background, optional
        What the pairs that were not observed add to every row (implicit feedback).

    Returns
    -------
    RowUpdate
        A row without any weight solves to x = 0.

    Examples
    --------
    One user who rated one item 5, with z = (1, 2): (zzᵀ + I) x = z (5 − 3 − 0.5).

    >>> block = RatingBlock.from_triples([0], [0], [5.0])
    >>> fixed = np.array([[0.5, 2.0]])
    >>> solve_rows(block, fixed, 3.0, Ridge(1.0, 0.0, 1, 1.0)).x
    array([[0.25, 0.5 ]])
    """
    dtype, width = fixed.dtype, fixed.shape[1]
    columns = np.vstack([fixed, np.zeros((1, width), dtype)])  # the last row pads
    diagonal = ridge.diagonal(block.degrees, width)
    rows = len(block.rows)
    x, residual, squares = np.zeros((rows, width), dtype), np.zeros(rows), np.zeros(rows)
    for batch in batches(block.counts, CACHE_ELEMENTS // width):
        segments = _Segments(block, columns, dtype.type(alpha), batch, biases)
        a, b = segments.normal_equation()
        if background is not None:
            a, b = a + background.gram, b + background.pull
        curvature = np.einsum("skk->sk", a)  # (s, 1 + K), the diagonal itself
        # Below the rounding of A, a ridge could not keep a row with fewer ratings than unknowns
        # from an arbitrary and enormous solution.
        rounding = width * np.finfo(a.dtype).eps * curvature.max(axis=1, keepdims=True)
        curvature += np.maximum(diagonal[batch.members], rounding)
        x[batch.members] = minimize(a, b, nonnegative=nonnegative)
        residual[batch.members], squares[batch.members] = segments.sums(x[batch.members])
    return RowUpdate.of(block, x, residual, squares, ridge, background)


class _Design(NamedTuple):
    """Padded design rows and targets of some rows; everything is 0 where it is padded."""

    z: NDArray[np.floating]  # (s, L, 1 + K)
    y: NDArray[np.floating]  # (s, L)
    w: NDArray[np.floating] | None  # (s, L)

    def normal_equation(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Σ w z zᵀ of shape (s, 1 + K, 1 + K) and Σ w z y of shape (s, 1 + K)."""
        wz = self.z if self.w is None else self.z * self.w[..., None]
        return np.matmul(wz.swapaxes(1, 2), self.z), np.matmul(self.y[:, None], wz)[:, 0]

    def sums(self, x: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Σ w e and Σ w e² where e = y − z·x, both of shape (s,) in float64."""
        e = (self.y - np.matmul(self.z, x[..., None])[..., 0]).astype(np.float64)
        we = e if self.w is None else e * self.w
        return we.sum(axis=1), np.einsum("sl,sl->s", we, e)


class _Segments:
    """The design of one batch, in segments of at most ``SEGMENT`` ratings of each row."""

    def __init__(
        self,
        block: RatingBlock,
        columns: NDArray[np.floating],
        alpha: np.floating,
        batch: Batch,
        biases: bool,
    ) -> None:
        self._arguments = (block, columns, alpha, biases)
        self._batch = batch
        self._only: _Design | None = None

    def __iter__(self) -> Iterator[_Design]:
        if self._batch.length > SEGMENT:
            for first in range(0, self._batch.length, SEGMENT):
                yield self._gather(first, min(SEGMENT, self._batch.length - first))
        else:  # the usual case: gathered once, used for the equation and for the residuals
            if self._only is None:
                self._only = self._gather(0, self._batch.length)
            yield self._only

    def _gather(self, first: int, length: int) -> _Design:
        block, columns, alpha, biases = self._arguments
        place, real = self._batch.positions(block.offsets, first, length)  # (s, L)
        z = np.take(columns, np.where(real, block.columns[place], len(columns) - 1), axis=0)
        y = np.where(real, block.ratings[place] - alpha - z[:, :, 0], 0)
        z[:, :, 0] = real if biases else 0
        w = None if block.weights is None else np.where(real, block.weights[place], 0)
        return _Design(z, y.astype(z.dtype, copy=False), w)

    def normal_equation(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        parts = [design.normal_equation() for design in self]
        if len(parts) == 1:
            return parts[0]
        return (
            np.sum([a for a, _ in parts], axis=0, dtype=np.float64),
            np.sum([b for _, b in parts], axis=0, dtype=np.float64),
        )

    def sums(self, x: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        parts = [design.sums(x) for design in self]
        return (
            np.sum([residual for residual, _ in parts], axis=0),
            np.sum([squares for _, squares in parts], axis=0),
        )
