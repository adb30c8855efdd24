"""What kept samples know beyond the mean: how sure a prediction is, and the rows of new ids."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gibbs import Sample
from nonconvex.numerics.factorization.gibbs_ import Conditional
from nonconvex.numerics.factorization.hyperpriors import LevelPrior, RowDistribution
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.rng import Stream

__all__ = ["Posterior", "Spread", "fold_rows", "half_width"]

Array = NDArray[np.float64]

_ELEMENTS = 1 << 20  # pairs × samples × unknowns gathered at a time
_ROUNDS = 3  # in which folded rows and their ω come to agree
_FOLDING = 1 << 20  # a key of streams that no chain has as its number


class Spread(NamedTuple):
    """What tells the standard deviation of predictions, apart from the rows.

    Attributes
    ----------
    alphas, taus : float64 arrays of shape (S,)
        α and τ of each sample.
    user_covariances, item_covariances : float64 arrays of shape (S, 1 + K, 1 + K)
        Λ⁻¹ of each side: how far the row of an id that was never seen may be from 0.
    """

    alphas: Array
    taus: Array
    user_covariances: Array
    item_covariances: Array

    def deviations(
        self,
        users: NDArray[np.floating],
        items: NDArray[np.floating],
        steadiness: NDArray[np.floating] | None,
        user: NDArray[np.integer],
        item: NDArray[np.integer],
    ) -> Array:
        """Return the standard deviation of R̂_ui, or of R_ui, for pairs of dense indices.

        The variance of R̂_ui is that of the samples; that of a rating of weight 1 has the mean
        of 1/(τ ω_u) in addition.  An index of -1 is an id never seen, whose row is of N(0, Λ⁻¹).

        Parameters
        ----------
        users, items : float arrays of shape (m, S (1 + K))
            The rows of all samples side by side.
        steadiness : float array of shape (n_u, S), optional
            ω of the users in all samples, for the deviation of a rating; without, it is that of
            its mean.
        user, item : int arrays of shape (n,)

        Returns
        -------
        float64 array of shape (n,)
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
            if steadiness is not None:
                known = np.mean(1 / (self.taus * steadiness[user[part]]), axis=1)
                unknown = np.mean(1 / self.taus) * LevelPrior(0.0, 1.0).scatter
                variance += np.where(user[part] < 0, unknown, known)
            deviations[part] = np.sqrt(variance)
        return deviations

    def _unseen(
        self, user: NDArray[np.bool_], item: NDArray[np.bool_], x: Array, z: Array
    ) -> Array:
        """The variance of pairs with an id that was never seen, which the samples do not have."""
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
    """Kept samples of a fit.

    Attributes
    ----------
    alphas, taus : float64 arrays of shape (S,)
    users, items : float arrays of shape (m, S (1 + K))
        The rows (β, γ) of all samples side by side.
    steadiness : float array of shape (n_u, S)
        ω of all samples.
    user_rows, item_rows : list of RowDistribution
        What the rows of each sample are of, with μ = 0.
    seed : int
        Of the fit; folding in draws from it too.
    """

    alphas: Array
    taus: Array
    users: NDArray[np.floating]
    items: NDArray[np.floating]
    steadiness: NDArray[np.floating]
    user_rows: list[RowDistribution]
    item_rows: list[RowDistribution]
    seed: int

    @classmethod
    def of(cls, samples: Sequence[Sample], seed: int) -> Posterior:
        """Put samples side by side."""
        return cls(
            np.array([sample.factors.alpha for sample in samples]),
            np.array([sample.tau for sample in samples]),
            np.hstack([sample.factors.users for sample in samples]),
            np.hstack([sample.factors.items for sample in samples]),
            np.column_stack([sample.steadiness for sample in samples]).astype(
                samples[0].factors.users.dtype
            ),
            [sample.users for sample in samples],
            [sample.items for sample in samples],
            seed,
        )

    def sample(self, number: int) -> Sample:
        """Return one of the samples, counted from the end if `number` is negative."""
        number %= len(self.alphas)
        width = len(self.user_rows[0].mean)
        part = slice(number * width, (number + 1) * width)
        factors = Factors(float(self.alphas[number]), self.users[:, part], self.items[:, part])
        users, items = self.user_rows[number], self.item_rows[number]
        omega = self.steadiness[:, number].astype(np.float64)
        return Sample(factors, float(self.taus[number]), users, items, omega)

    def spread(self) -> Spread:
        """Return what tells the standard deviation of predictions, apart from the rows."""
        covariances = (
            np.array([np.linalg.inv(rows.precision) for rows in side])
            for side in (self.user_rows, self.item_rows)
        )
        return Spread(self.alphas, self.taus, *covariances)

    def projections(self, side: str, mean: Factors) -> Array:
        """Return what brings folded rows of each sample to the mean model, of shape (S, K, r).

        The γ of a sample predict Γ γ for the rows Γ of the other side; the row of the mean model
        that comes nearest is (FᵀF)⁻¹ Fᵀ Γ γ, with F the other side of the mean model.

        Parameters
        ----------
        side : {"users", "items"}
            What is folded in.
        mean : Factors
            The mean model.
        """
        other = "items" if side == "users" else "users"
        f = getattr(mean, other)[:, 1:].astype(np.float64)
        gammas = [
            getattr(self.sample(s).factors, other)[:, 1:].astype(np.float64)
            for s in range(len(self.alphas))
        ]
        inverse = np.linalg.pinv(f.T @ f, hermitian=True)
        return np.array([gamma.T @ f @ inverse for gamma in gammas])

    def given(self, side: str) -> list[Conditional]:
        """Return what rows of a side are drawn by in each sample, when they are folded in."""
        own = 0 if side == "users" else 1
        return [
            Conditional(
                float(self.alphas[s]),
                float(self.taus[s]),
                rows,
                Stream.of(self.seed, _FOLDING, s, own),
                None if side == "users" else self.steadiness[:, s].astype(np.float64),
                of_rows=side == "users",
            )
            for s, rows in enumerate(self.user_rows if side == "users" else self.item_rows)
        ]


def fold_rows(
    block: RatingBlock,
    fixed: NDArray[np.floating],
    given: Sequence[Conditional],
    projections: Array,
    keys: NDArray[np.integer],
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Draw the rows of a block in every sample.

    Parameters
    ----------
    block : RatingBlock
    fixed : float array of shape (m, S (1 + K))
        The other side in all samples.
    given, projections
        From `Posterior.given` and `Posterior.projections`.
    keys : int array of shape (r,)
        What the random numbers of each row depend on.

    Returns
    -------
    float array of shape (r, 1 + rank of the mean model)
        The rows of the mean model, from the mean of each conditional distribution.
    float array of shape (r, S (1 + K))
        The draws.
    float array of shape (r, S)
        ω of the rows where they are users, or else 1.  Given the draw of one sample it is set to
        its mean, and the next sample takes it from there.
    """
    width, level = fixed.shape[1] // len(given), LevelPrior(0.0, 1.0)
    omega = np.ones(len(block.rows))
    mean = np.zeros((len(block.rows), 1 + projections.shape[2]))
    draws, omegas = [], []
    for s, conditional in [(0, given[0])] * _ROUNDS + list(enumerate(given)):
        other = np.ascontiguousarray(fixed[:, s * width : (s + 1) * width])
        if conditional.of_rows:
            # Rows are numbered from 0 on here, so ω is by the number of the row.
            conditional = conditional._replace(steadiness=omega)
        drawn = conditional.draw(block, other, keys)
        expected = conditional._replace(stream=None).draw(block, other).x.astype(np.float64)
        if conditional.of_rows:
            omega = level.steadiness(
                conditional.tau, drawn.squares / omega, block.degrees, generator=None
            )
        draws.append(drawn.x)
        omegas.append(omega.astype(fixed.dtype))
        if len(draws) > _ROUNDS:
            mean[:, 0] += expected[:, 0] / len(given)
            mean[:, 1:] += np.einsum("rk,kl->rl", expected[:, 1:], projections[s]) / len(given)
    kept = slice(_ROUNDS, None)
    return mean.astype(fixed.dtype), np.hstack(draws[kept]), np.column_stack(omegas[kept])


def half_width(level: float) -> float:
    """Return how many standard deviations on both sides of the mean a normal is in with so much.

    Examples
    --------
    >>> round(half_width(0.95), 2)
    1.96
    """
    return NormalDist().inv_cdf((1 + level) / 2)


def _gather(rows: NDArray[np.floating], index: NDArray[np.integer], samples: int) -> Array:
    """Rows of all samples at dense indices, 0 for -1, of shape (n, S, 1 + K)."""
    gathered = np.where(index[:, None] >= 0, rows[index], 0).astype(np.float64)
    return gathered.reshape(len(index), samples, -1)
