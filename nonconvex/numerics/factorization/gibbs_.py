"""Gibbs sampling of the latent factor model: every row drawn from its conditional distribution.

The ratings are R_ui ~ N(α + β_u + β_i + γ_u·γ_i, 1/(τ ω_u w_ui)), as some users rate more steadily
than others, and the rows of a side x = (β, γ) ~ N(μ, Λ⁻¹), with a μ that may grow with the number
of ratings of the row.  Fixing all else, the row of user u is normal, with the precision and the
mean of a ridge regression, whose design rows are z_i = (1, γ_i) and whose targets are
y_i = R_ui − α − β_i:

    x_u ~ N(A⁻¹ b, A⁻¹),   A = τ Σ ω_u w z_i z_iᵀ + Λ,   b = τ Σ ω_u w z_i y_i + Λ μ

The item side is the same with u ↔ i: one function, called once for each side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization.als import RowUpdate
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.design import designs
from nonconvex.numerics.factorization.hyperpriors import RowDistribution
from nonconvex.numerics.factorization.quadratic import minimize
from nonconvex.numerics.rng import Stream, normal_rows

__all__ = ["Conditional", "draw_normals"]


class Conditional(NamedTuple):
    """What the rows of a side are drawn given, apart from their ratings and the other side.

    Attributes
    ----------
    alpha : float
        α.
    tau : float
        τ > 0, the precision of a rating of weight 1 by a user with ω = 1.
    rows : RowDistribution
        μ and Λ.
    stream : Stream or None
        Where the random numbers come from; without, rows are not drawn but set to their mean.
    steadiness : float64 array, optional
        ω of all users, by dense index; by default 1.
    of_rows : bool
        Whether users are the rows of the blocks, or else the columns.
    """

    alpha: float
    tau: float
    rows: RowDistribution
    stream: Stream | None
    steadiness: NDArray[np.float64] | None = None
    of_rows: bool = True

    def draw(
        self,
        block: RatingBlock,
        fixed: NDArray[np.floating],
        keys: NDArray[np.integer] | None = None,
    ) -> RowUpdate:
        """Draw every row of a block.

        Parameters
        ----------
        block : RatingBlock
        fixed : float array of shape (m, 1 + K)
            The other side's rows (β, γ), whose dtype is that of the arithmetic.
        keys : int array of shape (r,), optional
            What the random numbers of each row depend on; by default ``block.rows``.

        Returns
        -------
        RowUpdate
            The penalty of a row is (x − μ)ᵀ Λ (x − μ), with its own μ; ω counts as part of the
            weights.

        Examples
        --------
        One user who rated one item 5, with z = (1, 2) and y = 5 − 3 − 0.5, and a τ so large that
        the rating is met exactly, whatever was drawn.

        >>> block = RatingBlock.from_triples([0], [0], [5.0])
        >>> rows = RowDistribution(np.zeros(2), np.zeros(2), np.eye(2), least=1.0)
        >>> given = Conditional(3.0, 1e12, rows, Stream.of(42, 0))
        >>> update = given.draw(block, np.array([[0.5, 2.0]]))
        >>> float((update.x @ [1, 2])[0].round(3))
        1.5
        """
        dtype, width = fixed.dtype, fixed.shape[1]
        size, omega = len(block.rows), np.ones(len(block.rows))
        if self.steadiness is not None and self.of_rows:
            omega = self.steadiness[block.rows]  # (r,), the same for all ratings of a row
        elif self.steadiness is not None:
            block = _weighted(block, self.steadiness)
        normals = np.zeros((size, width))
        if self.stream is not None:
            normals = normal_rows(self.stream, block.rows if keys is None else keys, width)
        x, residual, squares = np.zeros((size, width), dtype), np.zeros(size), np.zeros(size)
        tau = (self.tau * omega).astype(dtype)
        precision = self.rows.precision.astype(dtype)
        means = self.rows.means(block.degrees)
        pull = np.einsum("rk,kl->rl", means, self.rows.precision).astype(dtype)
        for members, segments in designs(block, fixed, self.alpha, biases=True):
            a, b = segments.normal_equation()
            own = tau[members, None]
            a, b = own[..., None] * a + precision, own * b + pull[members]
            x[members] = draw_normals(a, b, normals[members])
            residual[members], squares[members] = segments.sums(x[members])
        penalty = self.rows.penalty(x, block.degrees)
        return RowUpdate(
            x, omega * residual, omega * squares, penalty, omega * block.total_weights()
        )


def _weighted(block: RatingBlock, omega: NDArray[np.float64]) -> RatingBlock:
    """Multiply the weight of each rating by ω of its column; the degrees stay what they are."""
    block = block.with_padding()
    padded, dtype = block.padded, block.ratings.dtype
    assert padded is not None
    of_all = np.append(omega, 0).astype(dtype)  # padding weighs nothing
    weights, with_padding = of_all[block.columns], np.take(of_all, padded.columns, mode="wrap")
    if block.weights is not None and padded.weights is not None:
        weights, with_padding = weights * block.weights, with_padding * padded.weights
    return block._replace(weights=weights, padded=padded._replace(weights=with_padding))


def draw_normals(
    a: NDArray[np.floating], b: NDArray[np.floating], normals: NDArray[np.float64]
) -> NDArray[np.floating]:
    """Draw from N(A⁻¹ b, A⁻¹) for each of s symmetric positive definite A.

    With A = L Lᵀ and standard normal ε, the minimum of ½ xᵀA x − (b + L ε)ᵀx is such a draw: its
    mean is A⁻¹ b, and its covariance A⁻¹ L Lᵀ A⁻¹ = A⁻¹.

    Parameters
    ----------
    a : float array of shape (s, k, k)
    b : float array of shape (s, k)
    normals : float64 array of shape (s, k)
        ε.

    Returns
    -------
    float array of shape (s, k)
        The bits of a draw depend on its own A, b and ε only.
    """
    try:
        root = np.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        # One matrix that rounding made indefinite stops the whole stack: go through it one by one.
        root = np.stack([_root(a_s) for a_s in a])
    return minimize(a, b + np.matmul(root, normals[..., None].astype(a.dtype))[..., 0])


def _root(a: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return L with L Lᵀ = A, but for what rounding has put below 0."""
    try:
        root: NDArray[np.floating] = np.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(a)
        root = vectors * np.sqrt(np.maximum(values, 0))
    return root
