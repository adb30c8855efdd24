"""Rows with very many ratings: their equations are sums over parts, which several tasks may add up.

Where a long row is cut depends on the indices of its columns and on nothing else, so it has the
same parts and the same sums whoever adds them up.  All that a row says of its parts is

    M = Σ w m mᵀ  with  m = (1, γ_i, y_i)  and  y_i = R_ui − α − β_i

which holds its normal equation, and its sums of errors for any solution x = (β, γ):

    Σ w e = M_1y − M_1z·x,   Σ w e² = M_yy − 2 M_zy·x + xᵀ M_zz x
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.design import designs
from nonconvex.numerics.factorization.model import Ridge
from nonconvex.numerics.factorization.quadratic import minimize

__all__ = ["Solved", "part_moments", "row_moments", "solve_moments"]

_Array = NDArray[np.float64]


class Solved(NamedTuple):
    """Solutions of q rows.

    Attributes
    ----------
    x : float array of shape (q, 1 + K)
    residual, squares, weight : float64 arrays of shape (q,)
        Σ w e, Σ w e² and Σ w.
    """

    x: NDArray[np.floating]
    residual: _Array
    squares: _Array
    weight: _Array


def part_moments(block: RatingBlock, fixed: NDArray[np.floating], alpha: float) -> _Array:
    """Return M of each part, of shape (p, K + 2, K + 2).

    Parameters
    ----------
    block : RatingBlock
        Whose rows are parts of rows.
    fixed : float array of shape (m, 1 + K)
        The rows (β, γ) of the other side.
    alpha : float

    Examples
    --------
    One rating of 5, with m = (1, 2, 5 − 3 − 0.5).

    >>> block = RatingBlock.from_triples([0], [0], [5.0])
    >>> part_moments(block, np.array([[0.5, 2.0]]), 3.0)[0]
    array([[1.  , 2.  , 1.5 ],
           [2.  , 4.  , 3.  ],
           [1.5 , 3.  , 2.25]])
    """
    size = fixed.shape[1] + 1
    moments = np.zeros((len(block.rows), size, size))
    for members, segments in designs(block, fixed, alpha, biases=True):
        for design in segments:
            moments[members] += design.moments()
    return moments


def row_moments(parts: _Array, row_of_part: NDArray[np.integer], rows: int) -> _Array:
    """Add up the parts of each row, in their order.

    Parameters
    ----------
    parts : float64 array of shape (p, K + 2, K + 2)
    row_of_part : int array of shape (p,)
    rows : int
        q.

    Examples
    --------
    >>> row_moments(np.ones((3, 1, 1)), np.array([0, 0, 1]), 2).ravel()
    array([2., 1.])
    """
    moments = np.zeros((rows, *parts.shape[1:]))
    for row, of_part in zip(row_of_part, parts, strict=True):
        moments[row] += of_part
    return moments


def solve_moments(
    moments: _Array,
    degrees: _Array,
    ridge: Ridge,
    *,
    dtype: type[np.floating],
    biases: bool = True,
    nonnegative: bool = False,
) -> Solved:
    """Minimize f over each of q rows, given all that their ratings say.

    Parameters
    ----------
    moments : float64 array of shape (q, K + 2, K + 2)
    degrees : float64 array of shape (q,)
    ridge, biases, nonnegative
        As for `nonconvex.numerics.factorization.als.solve_rows`.
    dtype : float type
        Of the solutions; the arithmetic is in float64.

    Examples
    --------
    (zzᵀ + I) x = z y with z = (1, 2) and y = 1.5, so that e = 1.5 − (1, 2)·x = 0.25.

    >>> m = np.array([1.0, 2.0, 1.5])
    >>> ridge = Ridge(1.0, 0.0, 1, 1.0)
    >>> solve_moments(np.outer(m, m)[None], np.ones(1), ridge, dtype=np.float64)
    Solved(x=array([[0.25, 0.5 ]]), residual=array([0.25]), squares=array([0.0625]), \
weight=array([1.]))
    """
    used = np.ones(moments.shape[1] - 1)
    used[0] = biases
    a = moments[:, :-1, :-1] * np.outer(used, used)
    b = moments[:, :-1, -1] * used
    curvature = np.einsum("qkk->qk", a)  # (q, 1 + K), the diagonal itself
    rounding = len(used) * np.finfo(np.float64).eps * curvature.max(axis=1, keepdims=True)
    curvature += np.maximum(ridge.diagonal(degrees, len(used)), rounding)
    x = minimize(a, b, nonnegative=nonnegative).astype(dtype)
    error = np.concatenate([-x.astype(np.float64) * used, np.ones((len(x), 1))], axis=1)
    of_error = np.einsum("qkl,ql->qk", moments, error)  # (q, K + 2): Σ w m e
    squares = np.einsum("qk,qk->q", error, of_error)
    return Solved(x, of_error[:, 0], np.maximum(squares, 0), moments[:, 0, 0].copy())
