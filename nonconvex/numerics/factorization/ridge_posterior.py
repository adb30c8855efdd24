"""Uncertainty at a minimum: the posterior of each row, whose mode is the ridge regression.

Given the items, the row x_u = (β_u, γ_u) that minimizes f is the mean of a normal distribution,
where ratings scatter with variance s² about R̂ and rows are a priori of N(0, s² P⁻¹), with P the
diagonal n λ₁ (d_u/d̄)^ν (ρ, 1, …, 1) (Bishop 2006, 3.3):

    x_u ~ N(x̂_u, s² A_u⁻¹),   A_u = Σ_{i ∈ I_u} z_i z_iᵀ + P,   z_i = (1, γ_i)

and likewise x_i given the users.  With both taken as independent, a held-out rating has

    Var R_ui = s_u² (1 + v_ui),
    v_ui = z_iᵀ A_u⁻¹ z_i + x̃_uᵀ A_i⁻¹ x̃_u + tr(Γ_u Γ_i),   x̃_u = (1, γ_u)

with Γ the part of A⁻¹ that belongs to γ.  An unknown id has no ratings: A = P.

A matrix for each row would be (1 + K)/2 times as large as the model.  Instead, the items of each
user are assumed to be distributed as those of all n ratings: A_u ≈ d_u M + P with
M = Σ_i d_i z_i z_iᵀ / n, which leaves one number for each row, d.

s_u² is the noise of user u, shrunk to that of all users as by κ = 5 ratings (the prior of
`gibbs.NoisePrior`).  Squared residuals of ratings that the rows were fitted to are divided by the
remaining degrees of freedom:

    s² = Σ_u q_u / (n − p),   s_u² = (κ s² + q_u) / (κ + d_u − p_u),   q_u = Σ_{i ∈ I_u} w e_ui²

where p, of all rows, is Σ tr(d M A⁻¹), and p_u is that of user u and, of the items, a share d_u/n.
An unknown user has the mean of that prior, s² κ/(κ − 2).

For the user of one training rating and the item of another one, independent of it,

    Var R̂ = Var_u(β_u + γ_u·m_i) + Var_i(β_i + γ_i·m_u) + tr(C_u C_i)

where m and C are the mean and the covariance of γ of a side.  Means of users and items explain the
first two terms, factors the last one.  The eigenvalues of C_u C_i are its parts by axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from nonconvex.numerics import Doubles, Floats, Ints
from nonconvex.numerics.deterministic import one_thread_per_product
from nonconvex.numerics.factorization.gibbs import NoisePrior
from nonconvex.numerics.factorization.model import Factors, Ridge

_ELEMENTS = 1 << 20  # pairs × unknowns gathered at a time
MOMENT_ROWS = 1 << 16
"""Rows of a chunk of M, which is the sum of chunks in order."""

_LEAST_LEFT = 0.05  # least degrees of freedom as a share of a user's ratings
_PRIOR = NoisePrior(0.0, 1.0)


class ResidualStats(NamedTuple):
    """Degrees and noise of each row."""

    # of shapes (n_u,) and (n_i,): d, the sum of the weights of each row
    user_degrees: Floats
    item_degrees: Floats
    noise: Floats  # (n_u,): s_u² of a rating of weight 1


class DesignMoments(NamedTuple):
    """M = Σ_r d_r z_r z_rᵀ / n of both sides, with z_r = (1, γ_r), or (0, γ_r) without biases."""

    # of shapes (1 + K, 1 + K)
    users: Doubles
    items: Doubles
    dtype: np.dtype[Any]  # dtype of the factors

    @classmethod
    def of(cls, factors: Factors, degrees: Sequence[Floats], *, biases: bool) -> DesignMoments:
        """Add up the moments of all rows."""
        users, items = (
            moments_here(x, of_side, partial(moment_of, biases=biases))
            for x, of_side in zip(factors[1:], degrees, strict=True)
        )
        return cls(users, items, factors.users.dtype)


def degree_shares(degrees: Floats) -> Iterator[tuple[int, Doubles]]:
    """Yield, for `MOMENT_ROWS` rows at a time, the index of the first and d/n of all."""
    share = degrees / np.sum(degrees, dtype=np.float64)
    for first in range(0, len(share), MOMENT_ROWS):
        yield first, share[first : first + MOMENT_ROWS]


def moments_here(
    rows: Floats, degrees: Floats, moment: Callable[[Floats, Doubles], Doubles]
) -> Doubles:
    """Add up a moment of all rows, of `MOMENT_ROWS` rows at a time."""
    parts = (
        moment(rows[first : first + MOMENT_ROWS], share) for first, share in degree_shares(degrees)
    )
    return np.asarray(sum(parts))


def moment_of(rows: Floats, share: Doubles, *, biases: bool) -> Doubles:
    """Return Σ_r share_r z_r z_rᵀ (1 + K, 1 + K) of rows (r, 1 + K) and their shares (r,)."""
    z = rows.astype(np.float64)
    z[:, 0] = 1.0 if biases else 0.0
    with one_thread_per_product():
        moment: Doubles = (share[:, None] * z).T @ z
    return moment


class FactorVariance(NamedTuple):
    """Variance of predictions, and the part explained by factors beyond biases."""

    total: float  # Var R̂
    axes: Doubles  # (K,): the eigenvalues of C_u C_i, the greatest first

    @classmethod
    def of(cls, users: Doubles, items: Doubles) -> FactorVariance:
        """Take both from moments of shape (2 + K, 2 + K), as `row_moment` adds them up."""
        means = [moment[0, 1:] for moment in (users, items)]
        covariances = [
            moment[1:, 1:] - np.outer(mean, mean)
            for moment, mean in zip((users, items), means, strict=True)
        ]
        total = 0.0
        for covariance, other in zip(covariances, reversed(means), strict=True):
            effect = np.append(1.0, other[1:])  # of (β, γ)
            total += float(effect @ covariance @ effect)
        with one_thread_per_product():
            values, vectors = np.linalg.eigh(covariances[0][1:, 1:])
            root = vectors * np.sqrt(np.maximum(values, 0.0))
            axes = np.linalg.eigvalsh(root.T @ covariances[1][1:, 1:] @ root)[::-1]
        axes = np.maximum(axes, 0.0)
        return cls(max(total, 0.0) + float(axes.sum()), axes)

    @property
    def share(self) -> float:
        """tr(C_u C_i) / Var R̂, or 0 if all predictions are equal."""
        return float(self.axes.sum()) / self.total if self.total > 0 else 0.0

    def effective_rank(self, noise: float) -> int:
        """Return the least rank of axes that leave out too little of γ_u·γ_i to matter.

        That is at most 0.001 noise², or a millionth of Var R̂: many small axes may matter together.
        """
        left_out = np.cumsum(self.axes[::-1])[::-1]  # by the axes before each
        return int(np.count_nonzero(left_out > max(1e-3 * noise**2, 1e-6 * self.total)))


def row_moment(rows: Floats, share: Doubles) -> Doubles:
    """Return Σ_r share_r y_r y_rᵀ with y_r = (1, β_r, γ_r), of shape (2 + K, 2 + K).

    `share` (r,) is the part of all ratings, d/n, that each of the rows (r, 1 + K) has.
    """
    y = np.column_stack([np.ones(len(rows)), rows.astype(np.float64)])
    with one_thread_per_product():
        moment: Doubles = (share[:, None] * y).T @ y
    return moment


class SideSpread(NamedTuple):
    """A⁻¹ of all rows of a side: V diag(1/(d m_k + c_d)) Vᵀ with c_d = (d/d̄)^ν."""

    # (1 + K, 1 + K): V, with Vᵀ P₀ V = I and Vᵀ M V = diag(m), where P₀ is P of a row with d = d̄
    vectors: Doubles
    moments: Doubles  # (1 + K,): m ≥ 0
    # ν, d̄, and the least d > 0 of a row, whose P an unknown id has
    exponent: float
    mean_degree: float
    least: float

    @classmethod
    def of(cls, moment: Doubles, degrees: Floats, ridge: Ridge, *, biases: bool) -> SideSpread:
        """Find V and m for the rows of one side; `moment` (1 + K, 1 + K) is M of the other."""
        root = np.sqrt(ridge.diagonal(np.array([ridge.mean_degree]), len(moment))[0])
        if not biases:
            root[0] = 1.0  # an unknown that no design has
        with one_thread_per_product():
            m, q = np.linalg.eigh(moment / np.outer(root, root))
        least = float(np.min(degrees[degrees > 0]))
        vectors = q / root[:, None]
        return cls(vectors, np.maximum(m, 0.0), ridge.exponent, ridge.mean_degree, least)

    def inverse(self, degrees: Doubles) -> Doubles:
        """Return 1/(d m_k + c_d) of rows with these d, of shape (r, 1 + K)."""
        ridge = (np.where(degrees > 0, degrees, self.least) / self.mean_degree) ** self.exponent
        return 1 / (degrees[:, None] * self.moments + ridge[:, None])

    def unknowns(self, degrees: Doubles) -> Doubles:
        """Return tr(d M A⁻¹) of rows with these d, their effective unknowns, of shape (r,)."""
        unknowns = np.empty(len(degrees))
        step = max(1, _ELEMENTS // len(self.moments))
        for first in range(0, len(degrees), step):
            d = degrees[first : first + step]
            unknowns[first : first + step] = (d[:, None] * self.moments * self.inverse(d)).sum(
                axis=1
            )
        return unknowns


class RidgeSpread(NamedTuple):
    """Parameters of the standard deviation of predictions, apart from the rows."""

    users: SideSpread
    items: SideSpread
    noise: float  # s²
    share: float  # effective unknowns of items per rating
    of_ratings: bool  # whether deviations are those of ratings, not of their mean R̂
    biases: bool  # whether there are β

    def levels(self, degrees: Doubles, squares: Doubles) -> Doubles:
        """Return s_u² of users with d ratings each and q_u = squares, of shape (r,)."""
        kappa = _PRIOR.user_freedom
        left = degrees * (1 - self.share) - self.users.unknowns(degrees)
        left = np.maximum(left, _LEAST_LEFT * degrees)
        return (kappa * self.noise + squares) / (kappa + left)

    def deviations(
        self, users: Floats, items: Floats, measured: ResidualStats, user: Ints, item: Ints
    ) -> Doubles:
        """Return √(s_u² (1 + v_ui)), or √(s_u² v_ui), for pairs (n,) of dense indices.

        `users` and `items` are the rows (m, 1 + K); an index of -1 is an unknown id.
        """
        cross = (self.users.vectors[1:].T @ self.items.vectors[1:]) ** 2  # (1 + K, 1 + K)
        deviations = np.empty(len(user))
        step = max(1, _ELEMENTS // users.shape[1])
        for first in range(0, len(user), step):
            u, i = user[first : first + step], item[first : first + step]
            a = self.users.inverse(_at(measured.user_degrees, u, 0.0))  # (n, 1 + K)
            b = self.items.inverse(_at(measured.item_degrees, i, 0.0))  # (n, 1 + K)
            v = np.sum(self._turned(items, i, self.users) ** 2 * a, axis=1)
            v += np.sum(self._turned(users, u, self.items) ** 2 * b, axis=1)
            v += np.einsum("nk,kl,nl->n", a, cross, b)
            noise = _at(measured.noise, u, self.noise * _PRIOR.scatter)
            deviations[first : first + step] = np.sqrt(noise * (v + self.of_ratings))
        return deviations

    def _turned(self, rows: Floats, index: Ints, side: SideSpread) -> Doubles:
        """Return (1, γ) V of rows at dense indices, of shape (n, 1 + K)."""
        design = np.where(index[:, None] >= 0, rows[index], 0).astype(np.float64)
        design[:, 0] = 1.0 if self.biases else 0.0
        # Not a BLAS product, whose bits may depend on the number of rows.
        turned: Doubles = np.einsum("nk,kl->nl", design, side.vectors)
        return turned


class RidgePosterior(NamedTuple):
    """Laplace approximation of the posterior at a minimum."""

    measured: ResidualStats
    noise: float  # s² over all users
    # ridges of training, with λ > 0 and ρ > 0
    user_ridge: Ridge
    item_ridge: Ridge
    biases: bool  # whether there are β

    @classmethod
    def of(
        cls,
        factors: Factors | DesignMoments,
        degrees: tuple[Floats, Floats],
        squares: Doubles,
        ridges: tuple[Ridge, Ridge],
        *,
        biases: bool,
    ) -> RidgePosterior:
        """Measure the noise of a minimum of f, with degrees (n_u,) and (n_i,).

        `squares` (n_u,) are q_u = Σ w e² over the training ratings of each user.
        """
        users, items = (np.asarray(side, np.float64) for side in degrees)
        posterior = cls(ResidualStats(users, items, np.ones(len(users))), 1.0, *ridges, biases)
        moments = posterior._moments(factors)
        spread, total = posterior.spread(moments), users.sum()
        left = total * (1 - spread.share) - spread.users.unknowns(users).sum()
        noise = float(squares.sum() / max(left, _LEAST_LEFT * total))
        own = spread._replace(noise=noise).levels(users, squares)
        kept = (side.astype(moments.dtype) for side in (users, items, own))
        return posterior._replace(measured=ResidualStats(*kept), noise=noise)

    def spread(self, factors: Factors | DesignMoments, *, of_ratings: bool = True) -> RidgeSpread:
        """Return the parameters of the standard deviation of predictions."""
        d, moments = self.measured, self._moments(factors)
        users = SideSpread.of(moments.items, d.user_degrees, self.user_ridge, biases=self.biases)
        items = SideSpread.of(moments.users, d.item_degrees, self.item_ridge, biases=self.biases)
        of_items = np.asarray(d.item_degrees, np.float64)
        share = float(items.unknowns(of_items).sum() / of_items.sum())
        return RidgeSpread(users, items, self.noise, share, of_ratings, self.biases)

    def _moments(self, factors: Factors | DesignMoments) -> DesignMoments:
        if isinstance(factors, DesignMoments):
            return factors
        return DesignMoments.of(factors, self.measured[:2], biases=self.biases)


def _at(values: Floats, index: Ints, unseen: float) -> Doubles:
    return np.where(index >= 0, values[index], unseen).astype(np.float64)
