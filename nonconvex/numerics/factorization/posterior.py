"""Posterior samples: their mean as one model, the uncertainty of predictions, and new ids.

Each sample predicts α + β_u + β_i + γ_u·γ_i; the best prediction is the mean of these.  The mean of
the matrices Γ_U Γ_Iᵀ of S samples has rank S K, but nearly all of it lies in few directions, since
samples disagree in the others and average out.  `LowRankMean` keeps two linear sketches of it, so
that samples are added one by one and discarded.  `effective_size` and `split_r_hat` are diagnostics
of the chains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics import Bools, Doubles, Floats, Ints
from nonconvex.numerics.deterministic import CHUNK, OrderedMap, Stream
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gibbs import (
    USER_FREEDOM,
    Conditional,
    NoisePrior,
    RowDistribution,
    Sample,
)
from nonconvex.numerics.factorization.model import Factors, Side

_ELEMENTS = 1 << 20  # pairs × samples × unknowns gathered at a time
_ROUNDS = 3  # until folded rows and their ω agree
_FOLDING = 1 << 20  # a key of streams that is no number of a chain


class Spread(NamedTuple):
    """Parameters of the standard deviation of predictions, apart from the rows."""

    # of shapes (S,): α and τ of each sample
    alphas: Doubles
    taus: Doubles
    # of shapes (S, 1 + K, 1 + K): the covariance of the row of an unknown id of each side, Λ⁻¹ for
    # items and, as an unknown user has an unknown ω, Λ⁻¹ times `scatter` for users
    user_covariances: Doubles
    item_covariances: Doubles
    scatter: float  # the mean of 1/ω under its prior

    def deviations(
        self, users: Floats, items: Floats, user_precision: Floats | None, user: Ints, item: Ints
    ) -> Doubles:
        """Return the standard deviation of R̂_ui, or of R_ui, for pairs (n,) of dense indices.

        The variance of R̂_ui is that of the samples; a rating of weight 1 adds the mean of
        1/(τ ω_u).  An index of -1 is an unknown id, whose row has N(0, (ω Λ)⁻¹).  `users` and
        `items` (m, S (1 + K)) are the rows of all samples side by side.  `user_precision` (n_u, S)
        is ω in all samples, for the deviation of a rating; without, it is that of its mean.
        """
        samples, width = self.user_covariances.shape[:2]
        deviations = np.empty(len(user))
        step = max(1, _ELEMENTS // (samples * width))
        for first in range(0, len(user), step):
            part = slice(first, first + step)
            x = _gather(users, user[part], samples)  # (n, S, 1 + K)
            z = _gather(items, item[part], samples)
            products = np.einsum("nsk,nsk->ns", x[:, :, 1:], z[:, :, 1:])
            drawn = self.alphas + x[:, :, 0] + z[:, :, 0] + products
            variance = drawn.var(axis=1, ddof=1)
            variance += self._unseen(user[part] < 0, item[part] < 0, x, z)
            if user_precision is not None:
                known = np.mean(1 / (self.taus * user_precision[user[part]]), axis=1)
                unknown = np.mean(1 / self.taus) * self.scatter
                variance += np.where(user[part] < 0, unknown, known)
            deviations[part] = np.sqrt(variance)
        return deviations

    def _unseen(self, user: Bools, item: Bools, x: Doubles, z: Doubles) -> Doubles:
        """Return the variance that an unknown id adds to each pair, of shape (n,)."""
        variance = np.zeros(len(x))
        sides = ((user, z, self.user_covariances), (item, x, self.item_covariances))
        for unseen, other, covariances in sides:
            design = other[unseen]
            design[:, :, 0] = 1.0
            part = np.einsum("nsk,skl,nsl->n", design, covariances, design)
            variance[unseen] += part / len(covariances)
        product = self.user_covariances[:, 1:, 1:] * self.item_covariances[:, 1:, 1:]
        variance[user & item] += product.sum() / len(product)
        return variance


class Posterior(NamedTuple):
    """Kept samples of a fit."""

    # of shapes (S,)
    alphas: Doubles
    taus: Doubles
    # of shapes (m, S (1 + K)): The rows (β, γ) of all samples side by side
    users: Floats
    items: Floats
    user_precision: Floats  # (n_u, S): ω of all samples
    # distributions of the rows of each sample, with μ = 0
    user_rows: list[RowDistribution]
    item_rows: list[RowDistribution]
    seed: int  # seed of the fit; folding in draws from it, too
    user_freedom: float = USER_FREEDOM  # κ of the prior of ω; ∞ where ω is off

    @classmethod
    def of(
        cls, samples: Sequence[Sample], seed: int, user_freedom: float = USER_FREEDOM
    ) -> Posterior:
        """Put samples side by side."""
        return cls(
            np.array([sample.factors.alpha for sample in samples]),
            np.array([sample.tau for sample in samples]),
            np.hstack([sample.factors.users for sample in samples]),
            np.hstack([sample.factors.items for sample in samples]),
            np.column_stack([sample.user_precision for sample in samples]).astype(
                samples[0].factors.users.dtype
            ),
            [sample.users for sample in samples],
            [sample.items for sample in samples],
            seed,
            user_freedom,
        )

    def sample(self, number: int) -> Sample:
        """Return a sample; a negative number counts from the end."""
        number %= len(self.alphas)
        width = len(self.user_rows[0].mean)
        part = slice(number * width, (number + 1) * width)
        factors = Factors(float(self.alphas[number]), self.users[:, part], self.items[:, part])
        users, items = self.user_rows[number], self.item_rows[number]
        omega = self.user_precision[:, number].astype(np.float64)
        return Sample(factors, float(self.taus[number]), users, items, omega)

    def spread(self) -> Spread:
        """Return the parameters of the standard deviation of predictions."""
        users, items = (
            np.array([np.linalg.inv(rows.precision) for rows in side])
            for side in (self.user_rows, self.item_rows)
        )
        scatter = NoisePrior(0.0, 1.0, user_freedom=self.user_freedom).scatter
        return Spread(self.alphas, self.taus, scatter * users, items, scatter)

    def projections(self, side: Side, mean: Factors) -> Doubles:
        """Return the maps of folded rows of each sample to the mean model, of shape (S, K, r).

        The γ of a sample predicts Γ γ for the rows Γ of the other side; the nearest row of the mean
        model is (FᵀF)⁻¹ Fᵀ Γ γ, with F its other side.  `side` is the one that is folded in.
        """
        f = getattr(mean, side.other)[:, 1:].astype(np.float64)
        gammas = [
            getattr(self.sample(s).factors, side.other)[:, 1:].astype(np.float64)
            for s in range(len(self.alphas))
        ]
        inverse = np.linalg.pinv(f.T @ f, hermitian=True)
        return np.array([gamma.T @ f @ inverse for gamma in gammas])

    def conditionals(self, side: Side) -> list[Conditional]:
        """Return the conditions of folded rows of a side in each sample."""
        return [
            Conditional(
                float(self.alphas[s]),
                float(self.taus[s]),
                rows,
                Stream.of(self.seed, _FOLDING, s, side.number),
                None if side == Side.USERS else self.user_precision[:, s].astype(np.float64),
                of_rows=side == Side.USERS,
            )
            for s, rows in enumerate(self.user_rows if side == Side.USERS else self.item_rows)
        ]


def fold_rows(
    block: RatingBlock,
    fixed: Floats,
    given: list[Conditional],
    projections: Doubles,
    keys: Ints,
    user_freedom: float = USER_FREEDOM,
) -> tuple[Floats, Floats, Floats]:
    """Draw the rows of a block in every sample, given the other side in all, (m, S (1 + K)).

    `given` and `projections` are from `Posterior.conditionals` and `Posterior.projections`, `keys`
    (r,) are those of the random numbers of each row, and `user_freedom` is κ.  Returns

    * the rows (r, 1 + rank) of the mean model, from the mean of each conditional distribution,
    * the draws (r, S (1 + K)),
    * and ω of users, 1 for items, (r, S): set to its mean given the draw of a sample, and passed on
      to the next sample.
    """
    width, level = fixed.shape[1] // len(given), NoisePrior(0.0, 1.0, user_freedom=user_freedom)
    omega = np.ones(len(block.rows))
    mean = np.zeros((len(block.rows), 1 + projections.shape[2]))
    draws, omegas = [], []
    for s, conditional in [(0, given[0])] * _ROUNDS + list(enumerate(given)):
        other = np.ascontiguousarray(fixed[:, s * width : (s + 1) * width])
        if conditional.of_rows:
            # ω is indexed by the number of the row in the block.
            conditional = conditional._replace(user_precision=omega)
        drawn = conditional.draw(block, other, keys)
        expected = conditional._replace(stream=None).draw(block, other).x.astype(np.float64)
        if conditional.of_rows:
            scatter = (conditional.tau * drawn.squares + drawn.penalty) / omega
            omega = level.user_precision(scatter, block.degrees + width, generator=None)
        draws.append(drawn.x)
        omegas.append(omega.astype(fixed.dtype))
        if len(draws) > _ROUNDS:
            mean[:, 0] += expected[:, 0] / len(given)
            mean[:, 1:] += np.einsum("rk,kl->rl", expected[:, 1:], projections[s]) / len(given)
    kept = slice(_ROUNDS, None)
    return mean.astype(fixed.dtype), np.hstack(draws[kept]), np.column_stack(omegas[kept])


def half_width(level: float) -> float:
    """Return the half-width in standard deviations of a central interval of a normal."""
    return NormalDist().inv_cdf((1 + level) / 2)


def _gather(rows: Floats, index: Ints, samples: int) -> Doubles:
    """Rows of all samples at dense indices, 0 for -1, of shape (n, S, 1 + K)."""
    gathered = np.where(index[:, None] >= 0, rows[index], 0).astype(np.float64)
    return gathered.reshape(len(index), samples, -1)


class LowRankMean:
    """The mean of samples, to a rank r.

    With P the mean of Γ_U Γ_Iᵀ, the sketches are Y = P Ω and W = Ψ P, with Ω of ℓ columns and Ψ of
    2ℓ + 1 rows, ℓ = 2 r + 1.  If Q is an orthonormal basis of Y, then P ≈ Q (ΨQ)⁺ W, which is cut
    to rank r by its singular values.  Half of Ω spans what the `first` samples predict, which are
    of the same users and items, and are not added; the rest and Ψ are random.

    References
    ----------
    Tropp, Yurtsever, Udell and Cevher (2017), Practical sketching algorithms for low-rank matrix
    approximation.
    """

    def __init__(self, first: Sequence[Factors], rank: int, generator: np.random.Generator) -> None:
        users, items = len(first[0].users), len(first[0].items)
        self.rank = min(rank, users, items) if first[0].users.shape[1] > 1 else 0
        width = min(2 * self.rank + 1, users, items)
        omega = generator.standard_normal((items, width))
        guided = width // 2
        omega[:, :guided] = 0
        pull = generator.standard_normal((users, guided))
        for sample in first:
            x, z = (side[:, 1:].astype(np.float64) for side in sample[1:])
            omega[:, :guided] += z @ (x.T @ pull)
        psi = generator.standard_normal((users, min(2 * width + 1, users)))
        dtype = first[0].users.dtype  # of the products of each sample; sums are in float64
        self._omega, self._psi = np.linalg.qr(omega)[0].astype(dtype), psi.astype(dtype)  # Ψᵀ
        self._y = np.zeros((users, width))
        self._w = np.zeros((items, psi.shape[1]))  # Wᵀ
        self._biases = np.zeros(users), np.zeros(items)
        self._alpha, self.samples = 0.0, 0

    def add(self, sample: Factors, ordered_map: OrderedMap = map) -> None:
        """Add a sample; `ordered_map` may use several threads."""

        def project(pair: tuple[Floats, Floats]) -> Floats:
            rows, sketch = pair
            return rows.T @ sketch

        def accumulate(part: tuple[Doubles, Floats, Floats]) -> None:
            total, rows, projected = part
            total += rows @ projected

        self._alpha += sample.alpha
        for total, side in zip(self._biases, (sample.users, sample.items), strict=True):
            total += side[:, 0]
        x, z = sample.users[:, 1:], sample.items[:, 1:]
        projected = ordered_map(project, ((z, self._omega), (x, self._psi)))
        parts = [
            (total[first : first + CHUNK], rows[first : first + CHUNK], product)
            for total, rows, product in zip((self._y, self._w), (x, z), projected, strict=True)
            for first in range(0, len(rows), CHUNK)
        ]
        list(ordered_map(accumulate, parts))
        self.samples += 1

    def result(self) -> Factors:
        """Return the mean of the samples that were added, with γ of rank r, in float64."""
        basis = np.linalg.qr(self._y)[0]
        # Q (ΨQ)⁺ W, from its transpose: columns of M are directions of the items
        m = np.linalg.lstsq(self._psi.T @ basis, self._w.T / self.samples, rcond=None)[0]
        left, values, right = np.linalg.svd(m, full_matrices=False)
        root = np.sqrt(values[: self.rank])
        gammas = basis @ left[:, : self.rank] * root, right[: self.rank].T * root
        x, z = (
            np.column_stack([total / self.samples, gamma])
            for total, gamma in zip(self._biases, gammas, strict=True)
        )
        return Factors(self._alpha / self.samples, x, z)

    def save(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the state, as arrays and as JSON values."""
        users, items = self._biases
        arrays = {"omega": self._omega, "psi": self._psi, "y": self._y, "w": self._w}
        arrays |= {"user biases": users, "item biases": items}
        return arrays, {"alpha": self._alpha, "samples": self.samples, "rank": self.rank}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> LowRankMean:
        """Return the state that `save` told of."""
        mean = cls.__new__(cls)
        mean._omega, mean._psi = arrays["omega"], arrays["psi"]
        mean._y, mean._w = arrays["y"], arrays["w"]
        mean._biases = arrays["user biases"], arrays["item biases"]
        mean._alpha, mean.samples, mean.rank = values["alpha"], values["samples"], values["rank"]
        return mean


def split_r_hat(draws: Doubles) -> float:
    """R̂ of the halves of all chains: near 1 if they cannot be told apart.

    With W the mean of the variances within the 2 m halves of length n, and B/n the variance of
    their means,

        R̂ = √( ((n − 1)/n W + B/n) / W )

    The draws (m, length) are what m chains drew of one quantity.

    References
    ----------
    Gelman et al. (2013), Bayesian Data Analysis, third edition, section 11.4.
    """
    halves = _halves(draws)
    n = halves.shape[1]
    if n < 2:
        return float("nan")
    within = halves.var(axis=1, ddof=1).mean()
    if not within > 0:  # nothing moves
        return 1.0 if np.ptp(halves) == 0 else float("inf")
    between = halves.mean(axis=1).var(ddof=1)
    return float(np.sqrt((n - 1) / n + between / within))


def effective_size(draws: Doubles) -> float:
    """Number of independent draws that estimate the mean equally well.

    m n / (1 + 2 Σ_t ρ_t) over the halves of all chains, where the sum of the autocorrelations ρ_t
    is cut where a pair of neighbours is no longer positive (Geyer, 1992); at most m n log₁₀(m n).
    It is NaN if a chain has fewer than four of the draws (m, length).
    """
    halves = _halves(draws)
    m, n = halves.shape
    if n < 2:
        return float("nan")
    within = halves.var(axis=1, ddof=1).mean()
    if not within > 0:
        return float(m * n) if np.ptp(halves) == 0 else float(m)
    pooled = (n - 1) / n * within + halves.mean(axis=1).var(ddof=1)
    apart = halves - halves.mean(axis=1, keepdims=True)
    padded = np.fft.rfft(apart, 2 * n, axis=1)
    covariance = np.fft.irfft(np.abs(padded) ** 2, axis=1)[:, :n].mean(axis=0) / n
    rho = 1 - (within * (n - 1) / n - covariance) / pooled
    rho[0] = 1.0
    pairs = rho[: 2 * (n // 2)].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    kept = np.minimum.accumulate(pairs[: ends[0] if len(ends) else len(pairs)])
    time = max(2 * kept.sum() - 1, 1 / np.log10(max(m * n, 10)))
    return float(m * n / time)


def _halves(draws: Doubles) -> Doubles:
    """Cut each chain in two, without its middle draw if the number is odd."""
    half = draws.shape[1] // 2
    return np.vstack([draws[:, :half], draws[:, draws.shape[1] - half :]])
