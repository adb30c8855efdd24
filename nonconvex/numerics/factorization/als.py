"""Alternating least squares: the exact solution of every row while the other side stands still.

Fixing α and the item side, f is a separate ridge regression for each user u, with unknowns
x_u = (β_u, γ_u), design rows z_i = (1, γ_i) and targets R_ui − α − β_i:

    (Σ_{i ∈ I_u} w z_i z_iᵀ + n λ₁ I) x_u = Σ_{i ∈ I_u} w z_i (R_ui − α − β_i)

The item side is the same with u ↔ i and λ₂: one function, called once for each side.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization.blocks import LONG, RatingBlock
from nonconvex.numerics.factorization.conjugate_gradients import conjugate_gradients
from nonconvex.numerics.factorization.design import designs
from nonconvex.numerics.factorization.implicit import Background
from nonconvex.numerics.factorization.long_rows import part_moments, row_moments, solve_moments
from nonconvex.numerics.factorization.model import Ridge
from nonconvex.numerics.factorization.quadratic import minimize

__all__ = ["RowUpdate", "solve_rows"]

# With fewer unknowns elimination is as fast, and the products of longer rows leave it little to
# save: these are solved exactly, as is everything in float64.
LEAST_UNKNOWNS = 24
MOST_RATINGS_PER_UNKNOWN = 8
MOST_STEPS = 40  # what has not converged by then is eliminated


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
    """Minimize f over every row of a block, to rounding.

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
    settings: dict[str, Any] = {"biases": biases, "nonnegative": nonnegative}
    long = block.counts > LONG
    if background is None and long.any():
        return _solve_with_long_rows(block, long, fixed, alpha, ridge, settings)
    diagonal = ridge.diagonal(block.degrees, width)
    rows = len(block.rows)
    x, residual, squares = np.zeros((rows, width), dtype), np.zeros(rows), np.zeros(rows)
    for members, segments in designs(block, fixed, alpha, biases=biases):
        a, b = segments.normal_equation()
        if background is not None:
            a, b = a + background.gram, b + background.pull
        curvature = np.einsum("skk->sk", a)  # (s, 1 + K), the diagonal itself
        # Below the rounding of A, a ridge could not keep a row with fewer ratings than unknowns
        # from an arbitrary and enormous solution.
        rounding = width * np.finfo(a.dtype).eps * curvature.max(axis=1, keepdims=True)
        curvature += np.maximum(diagonal[members], rounding)
        if nonnegative or background is not None or not _iterates(a, segments.length):
            x[members] = minimize(a, b, nonnegative=nonnegative)
        else:
            x[members] = _solve(a, b)
        residual[members], squares[members] = segments.sums(x[members])
    return RowUpdate.of(block, x, residual, squares, ridge, background)


def _solve_with_long_rows(
    block: RatingBlock,
    long: NDArray[np.bool_],
    fixed: NDArray[np.floating],
    alpha: float,
    ridge: Ridge,
    settings: dict[str, Any],
) -> RowUpdate:
    others, parts = block.divided(long)
    indices, row_of_part = np.unique(parts.rows, return_inverse=True)
    moments = row_moments(part_moments(parts, fixed, alpha), row_of_part, len(indices))
    degrees = block.degrees[long]
    solved = solve_moments(moments, degrees, ridge, dtype=fixed.dtype.type, **settings)
    update = solve_rows(others, fixed, alpha, ridge, **settings)
    whole = RowUpdate(np.empty((len(long), fixed.shape[1]), fixed.dtype), *np.empty((4, len(long))))
    of_long = RowUpdate(
        solved.x, solved.residual, solved.squares, ridge.penalty(degrees, solved.x), solved.weight
    )
    for values, of_others, of_these in zip(whole, update, of_long, strict=True):
        values[~long], values[long] = of_others, of_these
    return whole


def _iterates(a: NDArray[np.floating], length: int) -> bool:
    """Tell by the shape of a row alone how it is solved."""
    width = a.shape[-1]
    return (
        a.dtype == np.float32
        and width >= LEAST_UNKNOWNS
        and length <= MOST_RATINGS_PER_UNKNOWN * width
    )


def _solve(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    """Solve A x = b to the rounding of A, from 0: what came before leaves no trace in a row."""
    x, converged = conjugate_gradients(a, b, MOST_STEPS)
    if not converged.all():
        x[~converged] = minimize(a[~converged], b[~converged])
    return x
