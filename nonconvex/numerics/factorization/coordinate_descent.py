"""Coordinate descent: one sweep over β and γ_1 … γ_K of every row, each from the latest values.

With e_ui = R_ui − R̂_ui, setting one partial derivative of f at a time to zero gives

    β_u  = Σ_{i ∈ I_u} w (e_ui + β_u)            / (Σ w + n λ₁)
    γ_uk = Σ_{i ∈ I_u} w γ_ik (e_ui + γ_uk γ_ik) / (Σ w γ_ik² + n λ₁)

and both are the same formula with z_i0 = 1 and z_ik = γ_ik.  A sweep costs O(n K), against
O(n K² + (|U| + |I|) K³) of an exact solve.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization.als import RowUpdate
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.implicit import Background
from nonconvex.numerics.factorization.model import Ridge

__all__ = ["sweep_rows"]


def sweep_rows(
    block: RatingBlock,
    fixed: NDArray[np.floating],
    alpha: float,
    ridge: Ridge,
    start: NDArray[np.floating],
    *,
    biases: bool = True,
    nonnegative: bool = False,
    background: Background | None = None,
) -> RowUpdate:
    """Minimize f over each coordinate of every row of a block in turn.

    Parameters
    ----------
    block, fixed, alpha, ridge, biases, nonnegative, background
        As for :func:`nonconvex.numerics.factorization.als.solve_rows`.
    start : float array of shape (r, 1 + K)
        The rows before the sweep.

    Returns
    -------
    RowUpdate

    Examples
    --------
    One user who rated one item 5, with z = (1, 2): first β = 1.5 / 2, then γ = 2 · 0.75 / 5.

    >>> block = RatingBlock.from_triples([0], [0], [5.0])
    >>> fixed, start = np.array([[0.5, 2.0]]), np.zeros((1, 2))
    >>> sweep_rows(block, fixed, 3.0, Ridge(1.0, 0.0, 1, 1.0), start).x
    array([[0.75, 0.3 ]])
    """
    diagonal = ridge.diagonal(block.degrees, fixed.shape[1])
    row = block.row_of_rating()  # (n,)
    z = np.ascontiguousarray(fixed.T)  # (1 + K, m)
    x = start.astype(np.float64)  # (r, 1 + K)
    w = None if block.weights is None else block.weights.astype(np.float64)

    def column(k: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = z[k].astype(np.float64)[block.columns]  # (n,)
        return values

    def over_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return block.over_rows(values if w is None else w * values)  # (r,)

    e = block.ratings.astype(np.float64) - alpha - column(0) - x[row, 0]
    for k in range(1, len(z)):
        e -= x[row, k] * column(k)
    for k in range(0 if biases else 1, len(z)):
        z_k = column(k) if k else np.ones(len(e))
        curvature = over_rows(z_k * z_k)
        pull = over_rows(z_k * e) + curvature * x[:, k]
        if background is not None:
            gram = background.gram[k]
            curvature += gram[k]
            pull += background.pull[k] - np.einsum("rk,k->r", x, gram) + gram[k] * x[:, k]
        curvature += diagonal[:, k]
        new = np.divide(pull, curvature, out=x[:, k].copy(), where=curvature > 0)
        if nonnegative and k:
            np.maximum(new, 0, out=new)
        new = new.astype(fixed.dtype).astype(np.float64)  # e follows what is kept, to the bit
        e -= z_k * (new - x[:, k])[row]
        x[:, k] = new
    return RowUpdate.of(
        block, x.astype(fixed.dtype), over_rows(e), over_rows(e * e), ridge, background
    )
