"""Explanations: the contribution of each rating to a prediction, and the principal axes of items.

Given the items, the row of user u is x_u = A⁻¹ Σ_j w_j z_j y_j, where z_j = (1, γ_j) are the design
rows of the rated items, y_j = R_uj − α − β_j the targets and A = Σ_j w_j z_j z_jᵀ + P.  It is
linear in the ratings, so for any t, such as (0, γ_i),

    tᵀx_u = Σ_j c_j,   c_j = w_j y_j z_jᵀ A⁻¹ t

and c_j is the contribution of the rating of item j to γ_u·γ_i.

γ_u·γ_i is the same for Γ_u Q and Γ_i Q⁻ᵀ with any Q, so a single factor has no meaning.  The
singular value decomposition Γ_u Γ_iᵀ = U S Vᵀ does not depend on Q: its axes are unique as long as
their singular values differ.
"""

from __future__ import annotations

import numpy as np

from nonconvex.numerics import Bools, Doubles, Floats
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Background


def contributions(
    block: RatingBlock,
    fixed: Floats,
    alpha: float,
    penalty: Doubles,
    target: Doubles,
    *,
    biases: bool = True,
    free: Bools | None = None,
    background: Background | None = None,
) -> Doubles:
    """Return c_j of every rating of a row.

    Parameters
    ----------
    block : RatingBlock
        Of one row, with n ratings.
    fixed : float array of shape (m, 1 + K)
        The other side's rows (β, γ).
    penalty : float64 array of shape (1 + K, 1 + K)
        P, of the regularization.
    target : float64 array of shape (1 + K,)
        t.
    biases : bool
        Without, the design rows are (0, γ_j).
    free : bool array of shape (1 + K,), optional
        The unknowns that a constraint such as γ ≥ 0 does not fix at 0; by default all.
    background : Background, optional
        The terms of unobserved pairs (implicit feedback).  Their own contribution is not in
        Σ_j c_j.

    Returns
    -------
    float64 array of shape (n,)
        In the units of ratings, in the order of ``block.columns``.

    Examples
    --------
    Two ratings of items with z = (1, 1) and (1, −1), and A = 2 I + I.

    >>> block = RatingBlock.from_triples([0, 0], [0, 1], [6.0, 3.0])
    >>> fixed = np.array([[0.0, 1.0], [0.0, -1.0]])
    >>> contributions(block, fixed, 3.0, np.eye(2), np.array([0.0, 1.0]))
    array([ 1., -0.])
    """
    z = fixed[block.columns].astype(np.float64)  # (n, 1 + K)
    y = block.ratings - alpha - z[:, 0]  # (n,)
    z[:, 0] = 1.0 if biases else 0.0
    w = np.ones(len(y)) if block.weights is None else block.weights.astype(np.float64)
    a = z.T @ (w[:, None] * z) + penalty
    if background is not None:
        a = a + background.gram
    used = np.flatnonzero(np.ones(len(a), bool) if free is None else free)
    solution = np.zeros(len(a))
    # Of least norm where A is singular but for rounding, as with a ridge of 0.
    solution[used] = np.linalg.lstsq(a[np.ix_(used, used)], target[used], rcond=None)[0]
    return w * y * (z @ solution)


def principal_axes(users: Floats, items: Floats) -> tuple[Doubles, Doubles]:
    """Return the coordinates of items on the axes, and the share of each axis in all γ_u·γ_i.

    With Γ_uᵀ Γ_u = C and the eigenvectors W of C^½ Γ_iᵀ Γ_i C^½, the coordinates of items are
    Γ_i C^½ W / √n_u = V S / √n_u: the root mean square, over the users, of what the axis adds to
    γ_u·γ_i, with a sign.

    Parameters
    ----------
    users, items : float arrays of shape (n_u, K) and (n_i, K)
        γ of each.

    Returns
    -------
    float64 array of shape (n_i, K)
        In the units of ratings, the greatest axis first; the item that is farthest out on an axis
        is at its positive end.
    float64 array of shape (K,)
        S² / Σ S², of each axis.
    """
    gram = users.T.astype(np.float64) @ users
    values, vectors = np.linalg.eigh(gram)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    weighted = items @ root  # (n_i, K)
    squares, axes = np.linalg.eigh(weighted.T @ weighted)
    coordinates = weighted @ axes[:, ::-1] / np.sqrt(len(users))
    farthest = np.abs(coordinates).argmax(axis=0)
    signs = np.sign(coordinates[farthest, np.arange(coordinates.shape[1])])
    squares = np.maximum(squares[::-1], 0)
    total = squares.sum()
    shares: Doubles = squares / total if total > 0 else squares
    return coordinates * np.where(signs == 0, 1, signs), shares
