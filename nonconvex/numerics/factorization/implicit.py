"""Implicit feedback: every pair counts, the observed ones more (Hu, Koren and Volinsky, 2008).

With confidence κ, preference p_ui = 1 where R_ui > 0 and else 0, and c_ui = 1 + κ |R_ui|,

    f = (1/n) [ Σ_{all u, i} c_ui (p_ui − R̂_ui)² + Σ_u ridge_u ‖x_u‖² + Σ_i ridge_i ‖x_i‖² ]

where n is the number of positive ratings and ridge counts positive ratings.  Nothing here visits
all pairs.  With a = c − 1 and R' = c p / a, for each observed pair

    c (p − R̂)² = R̂² + a (R' − R̂)² − R'

so f is a *background* Σ_{all} R̂², which needs only sums over the columns, plus an explicit problem
with ratings R' and weights a, less a constant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization.blocks import RatingBlock

__all__ = ["Background", "default_implicit_reg", "preferences"]


def preferences(block: RatingBlock, confidence: float) -> RatingBlock:
    """Return the explicit problem that the observed pairs of implicit feedback amount to.

    Ratings of 0 say nothing and weigh nothing.  A row's degree is its number of positive ratings.

    Examples
    --------
    κ = 1 and R = 1 give c = 2, a = 1 and R' = 2.

    >>> block = preferences(RatingBlock.from_triples([0], [0], [1.0]), 1.0)
    >>> block.ratings, block.weights
    (array([2.]), array([1.]))
    """
    strength = block.ratings
    weights = confidence * np.abs(strength)
    positive = strength > 0
    ratings = np.divide(1 + weights, weights, out=np.zeros_like(weights), where=positive)
    degrees = block.over_rows(positive.astype(np.float64))
    return block._replace(ratings=ratings, weights=weights, degrees=degrees, padded=None)


def default_implicit_reg(total: float, mean_weight: float) -> float:
    """Return the λ that ranks well on real data when nothing is known: n λ = 5 · mean of κ |R|.

    Parameters
    ----------
    total : float
        n, the number of positive ratings.
    mean_weight : float
        Mean of κ |R_ui| over them.

    Examples
    --------
    >>> default_implicit_reg(100_000, 2.0)
    0.0001
    """
    return 5.0 * mean_weight / total


class Background(NamedTuple):
    """Σ_j (o_j + z_jᵀx)² over all columns j, where o_j = α + β_j and z_j = (1, γ_j).

    Attributes
    ----------
    gram : float64 array of shape (1 + K, 1 + K)
        Σ z zᵀ.
    pull : float64 array of shape (1 + K,)
        −Σ o z.
    sums : float64 array of shape (1 + K,)
        Σ z.
    total, square : float
        Σ o and Σ o².
    columns : int
        Number of columns.
    """

    gram: NDArray[np.float64]
    pull: NDArray[np.float64]
    sums: NDArray[np.float64]
    total: float
    square: float
    columns: int

    @classmethod
    def of(cls, fixed: NDArray[np.floating], alpha: float, *, biases: bool) -> Background:
        """Sum over the columns, of shape (m, 1 + K)."""
        z = fixed.astype(np.float64)
        offset = alpha + z[:, 0]
        z[:, 0] = 1.0 if biases else 0.0
        return cls(
            z.T @ z, -(z.T @ offset), z.sum(0), float(offset.sum()), float(offset @ offset), len(z)
        )

    def residual(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Σ_j (0 − R̂_j) of each row, of shape (r,)."""
        products: NDArray[np.float64] = np.einsum("rk,k->r", x.astype(np.float64), self.sums)
        return -(self.total + products)

    def squares(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Σ_j R̂_j² of each row, of shape (r,)."""
        x64 = x.astype(np.float64)
        curved: NDArray[np.float64] = np.einsum("rk,kl,rl->r", x64, self.gram, x64)
        linear: NDArray[np.float64] = np.einsum("rk,k->r", x64, self.pull)
        return curved - 2 * linear + self.square
