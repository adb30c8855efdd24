"""The gradient of f with respect to the rows of one side, and to α.

With e_ui = R_ui − R̂_ui and the rows z_i = (1, γ_i) of `nonconvex.numerics.factorization.design`,

    ∂f/∂x_u = (2/n) ( ridge_u ∘ x_u − Σ_{i ∈ I_u} w e_ui z_i ),   ∂f/∂α = −(2/n) Σ w e_ui

and the same for items.  Here are the sums over the ratings, for the rows of a block: the rest
needs no ratings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nonconvex.numerics import Bools, Doubles, Floats
from nonconvex.numerics.deterministic import Kernel
from nonconvex.numerics.factorization.als import RowUpdate, arrays_of, compiled_twin
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.design import designs
from nonconvex.numerics.factorization.model import Background, Factors, Ridge


def gradient_sums(
    block: RatingBlock,
    fixed: Floats,
    alpha: float,
    ridge: Ridge,
    rows: Floats,
    *,
    biases: bool = True,
    background: Background | None = None,
    kernel: Kernel = "numpy",
) -> RowUpdate:
    """Sum w e z over the ratings of every row of a block, at given rows x (r, 1 + K).

    The ``x`` of the result holds Σ w e z; its other sums are those of the given rows.  All else is
    as for :func:`nonconvex.numerics.factorization.als.solve_rows`.
    """
    sums = np.zeros(rows.shape)
    residual, squares = np.zeros((2, len(rows)))
    if kernel == "compiled":
        found = compiled_twin().sum_gradients(arrays_of(block), fixed, alpha, rows, biases=biases)
        sums[:], (residual, squares) = found
    else:
        for members, segments in designs(block, fixed, alpha, biases=biases):
            sums[members] = segments.gradient_sums(rows[members])
            residual[members], squares[members] = segments.sums(rows[members])
    if background is not None:
        sums += background.rhs - rows.astype(np.float64) @ background.gram
    update = RowUpdate.of(block, rows, residual, squares, ridge, background)
    return update._replace(x=sums)


class Gradient(NamedTuple):
    """∂f/∂α, and ∂f/∂x of every user and item; shapes are those of `Factors`."""

    alpha: float
    users: Doubles
    items: Doubles


def gradient(
    factors: Factors,
    user_sums: RowUpdate | None,
    item_sums: RowUpdate,
    user_diagonal: Doubles,
    item_diagonal: Doubles,
    total: float,
) -> Gradient:
    """Put together the sums over all ratings, from `gradient_sums` at `factors`.

    Those of the users are None if their rows minimize f, so that their gradient is zero.  The
    diagonals (n_u, 1 + K) and (n_i, 1 + K) are from `Ridge.diagonal`, and `total` is n.
    """
    users = np.zeros(factors.users.shape)
    if user_sums is not None:
        users = 2 / total * (user_diagonal * factors.users - user_sums.x)
    items = 2 / total * (item_diagonal * factors.items - item_sums.x)
    residual = (item_sums if user_sums is None else user_sums).residual
    return Gradient(-2 / total * float(residual.sum()), users, items)


def sample_ratings(block: RatingBlock, sampled: Bools, *, rows: bool) -> RatingBlock:
    """Keep the ratings of the sampled rows, or else of the sampled columns, of a block.

    Weights are raised so that the sums over the sample estimate those over all ratings; degrees
    stay those of all ratings.  `sampled` (m,) is by the dense index of the rows or the columns.
    """
    keep = sampled[np.repeat(block.rows, block.counts) if rows else block.columns]
    scale = len(sampled) / max(1, int(sampled.sum()))
    weights = np.ones(len(keep), block.ratings.dtype) if block.weights is None else block.weights
    counts = np.add.reduceat(keep.astype(np.int64), block.offsets[:-1])
    left = counts > 0
    return RatingBlock(
        block.rows[left],
        np.append(0, np.cumsum(counts[left])),
        block.columns[keep],
        block.ratings[keep],
        weights[keep] * block.ratings.dtype.type(scale),
        block.degrees[left],
    )
