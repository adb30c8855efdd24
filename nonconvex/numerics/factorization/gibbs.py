"""Gibbs sampling of the latent factor model: every unknown from its conditional distribution.

Ratings are R_ui ~ N(α + β_u + β_i + γ_u·γ_i, 1/(τ ω_u w_ui)): ω_u is the precision of user u
relative to all.  Rows of users are x = (β, γ) ~ N(μ + h ξ, (ω_u Λ)⁻¹), where h grows with the
number of ratings of the row; items have no ω.  Given all else, the row of user u has the precision
and the mean of a ridge regression with design rows z_i = (1, γ_i) and targets y_i = R_ui − α − β_i:

    x_u ~ N(A⁻¹ b, A⁻¹),  A = ω_u (τ Σ w z_i z_iᵀ + Λ),  b = ω_u (τ Σ w z_i y_i + Λ (μ + h ξ))

ω_u is in the prior of the row, too, so that the row of a steady user is shrunk like any other: its
mean does not depend on ω_u.  The item side is the same with u ↔ i, where ω_u is a weight of the
ratings: `Conditional.draw` is called once for each side, block by block.  A sweep draws, for the
items and then for the users, μ, ξ and Λ of the side, its rows, α and τ; and at the end ω.  Nothing
is tuned: every prior weighs as much as one row or a few ratings.

The unit of ratings is s, their standard deviation.  β has the unit s and γ, as γ_u·γ_i is a rating,
√s; priors are stated in these units, so that rescaled ratings give the rescaled model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics import Doubles, Floats, Ints
from nonconvex.numerics.deterministic import Kernel, Stream, normal_rows, require
from nonconvex.numerics.factorization.als import (
    RowUpdate,
    arrays_of,
    compiled_twin,
    solve_quadratics,
)
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.design import designs
from nonconvex.numerics.factorization.model import Factors, Side


class RowDistribution(NamedTuple):
    """N(μ + h ξ, Λ⁻¹), the distribution of the rows of a side.

    Heavy raters and popular items behave differently, so the prior mean depends on the number d of
    ratings: h = log((1 + d)/(1 + d₀)), where d₀ is the least d of the side.
    """

    mean: Doubles  # (1 + K,): μ, the mean of a row with d₀ ratings
    slope: Doubles  # (1 + K,): ξ
    precision: Doubles  # (1 + K, 1 + K): Λ
    least: float  # d₀ ≥ 0

    @classmethod
    def centered(cls, slope: Doubles, precision: Doubles, least: float) -> RowDistribution:
        """Return the distribution with μ = 0."""
        return cls(np.zeros(len(slope)), slope, precision, least)

    def means(self, degrees: Doubles) -> Doubles:
        """Return μ + h ξ of rows with d ratings each, of shape (r, 1 + K)."""
        return self.mean + _activity(degrees, self.least)[:, None] * self.slope

    def penalty(self, x: Floats, degrees: Doubles) -> Doubles:
        """Compute (x − μ − h ξ)ᵀ Λ (x − μ − h ξ) of each row, of shape (r,)."""
        apart = x.astype(np.float64) - self.means(degrees)
        penalty: Doubles = np.einsum("rk,rk->r", self.turned(apart), apart)
        return penalty

    def turned(self, rows: Doubles) -> Doubles:
        """Multiply rows by Λ, which is diagonal while it is sampled."""
        diagonal = np.diagonal(self.precision)
        if np.array_equal(self.precision, np.diag(diagonal)):
            return rows * diagonal
        products: Doubles = np.einsum("rk,kl->rl", rows, self.precision)
        return products


class RowPrior(NamedTuple):
    """The prior of μ, ξ and Λ of a side: Normal–Gamma, coordinate by coordinate.

        λ_k ~ Gamma(ν/2, ν u_k²/2) (shape and rate),   μ_k, ξ_k ~ N(0, 1/(b λ_k)),   Λ = diag(λ)

    A full Λ with a Normal–Wishart prior, as in Salakhutdinov and Mnih (2008), predicted no better
    on real ratings: test RMSE at rank 10 was 0.8067 against 0.8050 on ml-latest-small, and 1.4889
    against 1.4865 on MovieTweetings.
    """

    units: Doubles  # (1 + K,): u
    freedom: float = 1.0  # ν > 0, the weight of the prior of λ in rows
    rows: float = 1.0  # b > 0, the weight of the prior of μ in rows

    @classmethod
    def of(cls, deviation: float, rank: int) -> RowPrior:
        """Return the prior for ratings of a standard deviation s: u is s for β and √s for γ."""
        return cls(np.append(deviation, np.full(rank, np.sqrt(deviation))))

    def draw(
        self, x: Floats, degrees: Doubles, omega: Doubles, generator: np.random.Generator
    ) -> RowDistribution:
        """Draw μ, ξ and Λ given the n rows of a side.

        This is the regression of x_k on H = (1, h), weighted by W = diag(ω): with P = HᵀWH + b I
        and m_k = P⁻¹ HᵀW x_k,

            λ_k ~ Gamma((ν + n)/2, ½ (ν u_k² + Σ_r ω_r (x_rk − H_r m_k)² + b ‖m_k‖²))
            (μ_k, ξ_k) ~ N(m_k, P⁻¹/λ_k)

        Takes the rows (n, 1 + K), and d (n,) and ω (n,) of each, which is 1 for items.
        """
        n, width = x.shape
        least = float(degrees.min())
        rows, h = x.astype(np.float64), _activity(degrees, least)
        weighted = omega * h
        cross = weighted.sum()
        p = np.array([[omega.sum() + self.rows, cross], [cross, (weighted * h).sum() + self.rows]])
        # No matrix product over the rows: the order of its additions is the library's.
        sums = [np.einsum("n,nk->k", of_rows, rows) for of_rows in (omega, weighted)]
        m = np.linalg.solve(p, np.stack(sums))
        rows -= m[0]
        rows -= h[:, None] * m[1]
        rows *= rows
        spread = np.einsum("n,nk->k", omega, rows) + self.rows * (m**2).sum(axis=0)
        rate = (self.freedom * self.units**2 + spread) / 2
        precision = generator.standard_gamma((self.freedom + n) / 2, size=width) / rate
        wobble = np.linalg.solve(np.linalg.cholesky(p).T, generator.standard_normal((2, width)))
        mean, slope = m + wobble / np.sqrt(precision)
        return RowDistribution(mean, slope, np.diag(precision), least)


def _activity(degrees: Doubles, least: float) -> Doubles:
    """Return h = log((1 + d)/(1 + d₀)) of each row, of shape (r,)."""
    h: Doubles = np.log1p(degrees) - np.log1p(least)
    return h


USER_FREEDOM = 5.0
"""κ of `NoisePrior`, unless ω is off."""


class NoisePrior(NamedTuple):
    """The prior of the intercept α and of the noise of ratings.

    α ~ N(c, s²),   τ ~ Gamma(ν/2, ν s²/2),   ω_u ~ Gamma(κ/2, κ/2)
    """

    center: float  # c
    unit: float  # s > 0
    freedom: float = 1.0  # ν > 0, the weight of the prior of τ in ratings
    # κ > 2, the weight of the prior of ω_u in ratings of the user; with ∞, every ω_u is 1
    user_freedom: float = USER_FREEDOM

    def draw(
        self,
        alpha: float,
        tau: float,
        sums: tuple[float, float, float],
        count: float,
        generator: np.random.Generator,
    ) -> tuple[float, float]:
        """Draw α given τ, and then τ given that α.

        α ~ N((τ Σ ω w (e + α) + c/s²) / p, 1/p) with p = τ Σ ω w + 1/s²
        τ ~ Gamma((ν + n)/2, ½ (ν s² + Σ ω w e²))
        """
        residual, squares, weight = sums
        precision = tau * weight + self.unit**-2
        mean = (tau * (residual + weight * alpha) + self.center * self.unit**-2) / precision
        drawn = mean + generator.standard_normal() / np.sqrt(precision)
        step = drawn - alpha
        after = max(squares - 2 * step * residual + step**2 * weight, 0.0)  # Σ ω w (e − step)²
        rate = (self.freedom * self.unit**2 + after) / 2
        return float(drawn), float(generator.standard_gamma((self.freedom + count) / 2) / rate)

    @property
    def scatter(self) -> float:
        """The mean of 1/ω under the prior: κ/(κ − 2)."""
        return 1 / (1 - 2 / self.user_freedom)

    def user_precision(
        self, scatter: Doubles, known: Doubles, generator: np.random.Generator | None
    ) -> Doubles:
        """Draw ω_u ~ Gamma((κ + k_u)/2, ½ (κ + q_u)) of users (n_u,), or return its mean.

        `scatter` (n_u,) is q_u = τ Σ w e² + (x_u − μ − h ξ)ᵀ Λ (x_u − μ − h ξ) of each user, and
        `known` (n_u,) is k_u, the number of terms in it: the sum of the w of the user, and 1 + K.
        """
        if self.user_freedom == np.inf:
            return np.ones(len(scatter))
        shape = (self.user_freedom + known) / 2
        rate = (self.user_freedom + scatter) / 2
        return (shape if generator is None else generator.standard_gamma(shape)) / rate


class Conditional(NamedTuple):
    """The conditions of a draw of rows, apart from their ratings and the other side."""

    alpha: float  # α
    tau: float  # τ > 0, the precision of a rating of weight 1 by a user with ω = 1
    rows: RowDistribution  # μ, ξ and Λ
    stream: Stream | None  # random numbers; without, rows are set to their mean
    # ω of all users, by dense index; by default 1
    user_precision: Doubles | None = None
    of_rows: bool = True  # whether users are the rows of the blocks, not the columns
    kernel: Kernel = "numpy"

    def draw(self, block: RatingBlock, fixed: Floats, keys: Ints | None = None) -> RowUpdate:
        """Draw every row of a block, given the other side's rows (β, γ), `fixed` (m, 1 + K).

        Their dtype is that of the arithmetic.  `keys` (r,), by default ``block.rows``, are those of
        the random numbers of each row.
        """
        own_type, width, size = fixed.dtype, fixed.shape[1], len(block.rows)
        if not 1 / _MODERATE < self.tau < _MODERATE:  # τ of ratings of 1e-30 is no float32
            fixed = fixed.astype(np.float64)
        omega = np.ones(size)
        if self.user_precision is not None and self.of_rows:
            omega = self.user_precision[block.rows]  # (r,), the same for all ratings of a row
        elif self.user_precision is not None:
            block = weighted(block, self.user_precision, padded=self.kernel == "numpy")
        normals = np.zeros((size, width))
        if self.stream is not None:
            normals = self._normals(self.stream, block.rows if keys is None else keys, width)
        means = self.rows.means(block.degrees)
        rhs = self.rows.turned(means)
        if self.kernel == "compiled":
            solved = self._draw_compiled(block, fixed, rhs, normals, omega)
        else:
            solved = self._draw_numpy(block, fixed, rhs, normals, omega)
        x, residual, squares = solved
        sums = residual, squares, self.rows.penalty(x, block.degrees), block.total_weights()
        return RowUpdate(x.astype(own_type), *(omega * of_rows for of_rows in sums))

    def _normals(self, stream: Stream, keys: Ints, width: int) -> Doubles:
        if self.kernel == "numpy":
            return normal_rows(stream, keys, width)
        require("compiled")
        from nonconvex.numerics.compiled.deterministic import fill_normals

        return fill_normals(stream, keys, width)

    def _draw_numpy(
        self, block: RatingBlock, fixed: Floats, rhs: Doubles, normals: Doubles, omega: Doubles
    ) -> tuple[Floats, Doubles, Doubles]:
        dtype, width = fixed.dtype, fixed.shape[1]
        size = len(block.rows)
        x, residual, squares = np.zeros((size, width), dtype), np.zeros(size), np.zeros(size)
        tau, own = dtype.type(self.tau), omega.astype(dtype)
        precision, rhs = self.rows.precision.astype(dtype), rhs.astype(dtype)
        for members, segments in designs(block, fixed, self.alpha, biases=True):
            a, b = segments.normal_equation()
            a, b = tau * a + precision, tau * b + rhs[members]
            steady = own[members, None]
            x[members] = draw_normals(steady[..., None] * a, steady * b, normals[members])
            residual[members], squares[members] = segments.sums(x[members])
        return x, residual, squares

    def _draw_compiled(
        self, block: RatingBlock, fixed: Floats, rhs: Doubles, normals: Doubles, omega: Doubles
    ) -> tuple[Floats, Doubles, Doubles]:
        """Draw with one elimination for each row; τ ω scales the noise alone."""
        noise = normals / np.sqrt(self.tau * omega)[:, None]
        prior = self.rows.precision / self.tau, rhs / self.tau
        given = arrays_of(block), fixed, self.alpha
        x, sums, failed = compiled_twin().draw_rows(*given, *prior, noise)
        if failed.any():
            some, _ = block.divided(~failed)
            again = self._draw_numpy(some, fixed, rhs[failed], normals[failed], omega[failed])
            x[failed], sums[:, failed] = again[0], again[1:]
        return x, *sums


def weighted(block: RatingBlock, omega: Doubles, *, padded: bool = True) -> RatingBlock:
    """Multiply the weight of each rating by ω of its column; the degrees stay what they are."""
    if not padded:
        own = omega.astype(block.ratings.dtype)[block.columns]
        weights = own if block.weights is None else own * block.weights
        return block._replace(weights=weights, padded=None)
    block = block.with_padding()
    spread, dtype = block.padded, block.ratings.dtype
    assert spread is not None
    of_all = np.append(omega, 0).astype(dtype)  # padding weighs nothing
    weights, with_padding = of_all[block.columns], np.take(of_all, spread.columns, mode="wrap")
    if block.weights is not None and spread.weights is not None:
        weights, with_padding = weights * block.weights, with_padding * spread.weights
    return block._replace(weights=weights, padded=spread._replace(weights=with_padding))


def draw_normals(a: Floats, b: Floats, normals: Doubles) -> Floats:
    """Draw from N(A⁻¹ b, A⁻¹) for each of s symmetric positive definite A.

    With A = L Lᵀ and standard normal ε, the minimum of ½ xᵀA x − (b + L ε)ᵀx is such a draw: its
    mean is A⁻¹ b, and its covariance A⁻¹ L Lᵀ A⁻¹ = A⁻¹.  Takes A (s, k, k), b (s, k) and ε (s, k);
    the bits of a draw (k,) depend on its own A, b and ε only.
    """
    try:
        root = np.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        # One matrix that rounding made indefinite stops the whole stack: factor them one by one.
        root = np.stack([_root(a_s) for a_s in a])
    return solve_quadratics(a, b + np.matmul(root, normals[..., None].astype(a.dtype))[..., 0])


def _root(a: Floats) -> Floats:
    """Return L with L Lᵀ = A, with eigenvalues that rounding made negative set to 0."""
    try:
        root: Floats = np.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(a)
        root = vectors * np.sqrt(np.maximum(values, 0))
    return root


_MODERATE = 1e25

HELD = 5
"""Sweeps at the start in which Λ is fixed."""

_ROWS, _OTHERS = 0, 1  # uses of random numbers


class Sample(NamedTuple):
    """One draw of all unknowns, in the coordinates in which the rows have mean 0.

    With δ = γ − μ_γ for each side, α + β_u + β_i + γ_u·γ_i is again of this form:

        α' = α + μ_βu + μ_βi + μ_γu·μ_γi
        β_u' = β_u − μ_βu + δ_u·μ_γi,   β_i' = β_i − μ_βi + μ_γu·δ_i,   γ' = δ

    so an unknown id, whose best guess is the mean μ of the rows with fewest ratings, contributes 0.
    """

    factors: Factors
    tau: float  # τ
    # the distribution of the rows of each side, with μ = 0
    users: RowDistribution
    items: RowDistribution
    user_precision: Doubles  # (n_u,): ω

    @classmethod
    def of(
        cls,
        factors: Factors,
        tau: float,
        users: RowDistribution,
        items: RowDistribution,
        user_precision: Doubles,
    ) -> Sample:
        """Change the coordinates of a draw."""
        alpha, x, z = factors
        intercept = _intercept(alpha, users, items)
        own = [
            _centered(side, rows, other)
            for side, rows, other in ((x, users, items), (z, items, users))
        ]
        (x, user_rows), (z, item_rows) = own
        return cls(Factors(intercept, x, z), tau, user_rows, item_rows, user_precision)


def _intercept(alpha: float, users: RowDistribution, items: RowDistribution) -> float:
    """Return α' = α + μ_βu + μ_βi + μ_γu·μ_γi."""
    return float(alpha + users.mean[0] + items.mean[0] + users.mean[1:] @ items.mean[1:])


def _centered(
    x: Floats, rows: RowDistribution, other: RowDistribution
) -> tuple[Floats, RowDistribution]:
    """Return M (x − μ) with M = [[1, μ_γᵀ of the other side], [0, I]], and its distribution."""
    change = np.eye(len(rows.mean))
    change[0, 1:] = other.mean[1:]
    back = 2 * np.eye(len(rows.mean)) - change  # M⁻¹
    apart = x.astype(np.float64) - rows.mean
    apart[:, 0] += np.einsum("rk,k->r", apart[:, 1:], other.mean[1:])
    slope, precision = change @ rows.slope, back.T @ rows.precision @ back
    return apart.astype(x.dtype), RowDistribution.centered(slope, precision, rows.least)


class Chain:
    """The current unknowns of one chain.

    Of `start` only the users matter, as the items are drawn first; `tau` is the first τ, and
    `degrees` are d of the rows of both sides.  In the first `HELD` sweeps Λ has the diagonals
    `precisions`, and μ = ξ = 0: drawn from random initial rows, Λ would shrink γ to 0 for hundreds
    of sweeps.  The priors are those of α, τ and ω, and of μ, ξ and Λ of both sides.  Random numbers
    depend on the seed, the number of the chain and the sweep.
    """

    def __init__(
        self,
        start: Factors,
        tau: float,
        degrees: Mapping[Side, Doubles],
        precisions: Mapping[Side, Doubles],
        *,
        noise_prior: NoisePrior,
        row_prior: RowPrior,
        seed: int,
        number: int = 0,
    ) -> None:
        self.alpha, self.tau = start.alpha, tau
        self.rows = {Side.USERS: start.users, Side.ITEMS: start.items}
        self.distributions: dict[Side, RowDistribution] = {}  # once drawn
        self._degrees, self._precisions = degrees, precisions
        self._noise_prior, self._row_prior = noise_prior, row_prior
        self._seed, self._number = seed, number
        self.user_precision = np.ones(len(start.users))  # ω
        self._total = float(degrees[Side.USERS].sum())
        self._penalty: dict[Side, float] = {}
        self._squares = self._plain = 0.0  # Σ ω w e² and Σ w e²

    def conditional(self, side: Side, sweep: int) -> Conditional:
        """Draw μ, ξ and Λ of a side, and return the conditions of its rows."""
        key = (self._number, sweep, side.number)
        stream, rows = Stream.of(self._seed, *key, _ROWS), self.rows[side]
        if sweep <= HELD:
            slope, least = np.zeros(rows.shape[1]), float(self._degrees[side].min())
            drawn = RowDistribution.centered(slope, np.diag(self._precisions[side]), least)
        else:
            generator = Stream.generator(self._seed, *key, _OTHERS)
            omega = self.user_precision if side == Side.USERS else np.ones(len(rows))
            drawn = self._row_prior.draw(rows, self._degrees[side], omega, generator)
        self.distributions[side] = drawn
        of_rows = side == Side.USERS
        return Conditional(self.alpha, self.tau, drawn, stream, self.user_precision, of_rows)

    def replace(self, side: Side, update: RowUpdate, sweep: int) -> None:
        """Replace the rows of a side by those drawn, and draw α and τ, and after users ω."""
        self.rows[side] = update.x
        penalty = update.penalty
        sums = float(update.residual.sum()), float(update.squares.sum()), float(update.weight.sum())
        generator = Stream.generator(self._seed, self._number, sweep, side.number, _OTHERS, 1)
        before = self.alpha
        self.alpha, self.tau = self._noise_prior.draw(
            before, self.tau, sums, self._total, generator
        )
        if side == Side.USERS:
            step = self.alpha - before
            squares = update.squares - 2 * step * update.residual + step**2 * update.weight
            plain = np.maximum(squares / self.user_precision, 0)  # Σ w e² of each user
            apart = penalty / self.user_precision
            self.user_precision = self._noise_prior.user_precision(
                self.tau * plain + apart,
                self._degrees[Side.USERS] + self.rows[Side.USERS].shape[1],
                generator,
            )
            self._plain = float(plain.sum())
            self._squares = float((self.user_precision * plain).sum())
            penalty = self.user_precision * apart
        self._penalty[side] = float(penalty.sum())

    @property
    def train_rmse(self) -> float:
        """√(Σ w e² / Σ w) of the draw over the training ratings."""
        return float(np.sqrt(self._plain / self._total))

    @property
    def objective(self) -> float:
        """(1/n) [ Σ ω w e² + (1/τ) Σ ω (x − μ)ᵀ Λ (x − μ) ]: f, with weights and ridge as drawn."""
        return (self._squares + sum(self._penalty.values()) / self.tau) / self._total

    @property
    def intercept(self) -> float:
        """α in the coordinates of `Sample`: the prediction for an unknown pair."""
        return _intercept(self.alpha, *(self.distributions[side] for side in Side))

    def sample(self) -> Sample:
        """Return the draw of a sweep that is complete."""
        factors = Factors(self.alpha, *(self.rows[side] for side in Side))
        users, items = (self.distributions[side] for side in Side)
        return Sample.of(factors, self.tau, users, items, self.user_precision)

    def save(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the state of the chain, as arrays and as JSON values."""
        return {
            **{str(side): x for side, x in self.rows.items()},
            "user_precision": self.user_precision,
        }, {"alpha": self.alpha, "tau": self.tau}

    def restore(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Restore the state that `save` returned, at the end of a sweep."""
        self.rows = {side: arrays[side] for side in Side}
        self.user_precision = arrays["user_precision"]
        self.alpha, self.tau = values["alpha"], values["tau"]
