"""A chain of Gibbs sampling: all unknowns of the model, and how each is drawn in turn.

A sweep is, for the items and then for the users: μ, ξ and Λ of the side, its rows, α and τ; and at
the end ω.  The rows are drawn elsewhere, block by block, by the `Conditional` that the chain gives
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization.als import RowUpdate
from nonconvex.numerics.factorization.gibbs_ import Conditional
from nonconvex.numerics.factorization.hyperpriors import LevelPrior, RowDistribution, RowPrior
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.rng import Stream

__all__ = ["HELD", "SWEEP", "Chain", "Sample"]

SWEEP = ("items", "users")
"""The order of a sweep."""

HELD = 5
"""Sweeps in which Λ is held still."""

_NUMBERS = {"users": 0, "items": 1}
_ROWS, _OTHERS = 0, 1  # what random numbers are for


class Sample(NamedTuple):
    """One draw of all unknowns, in the coordinates in which the rows have mean 0.

    With δ = γ − μ_γ for each side, α + β_u + β_i + γ_u·γ_i is again of this form:

        α' = α + μ_βu + μ_βi + μ_γu·μ_γi
        β_u' = β_u − μ_βu + δ_u·μ_γi,   β_i' = β_i − μ_βi + μ_γu·δ_i,   γ' = δ

    so an id that was never seen, whose row is best guessed by the mean μ of those that were seen
    least, contributes 0.

    Attributes
    ----------
    factors : Factors
    tau : float
        τ.
    users, items : RowDistribution
        What the rows of each side are of, with μ = 0.
    steadiness : float64 array of shape (n_u,)
        ω.
    """

    factors: Factors
    tau: float
    users: RowDistribution
    items: RowDistribution
    steadiness: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        factors: Factors,
        tau: float,
        users: RowDistribution,
        items: RowDistribution,
        steadiness: NDArray[np.float64],
    ) -> Sample:
        """Change the coordinates of a draw.

        Examples
        --------
        >>> factors = Factors(3.0, np.array([[0.5, 1.0]]), np.array([[0.5, 2.0]]))  # predicts 6
        >>> rows = RowDistribution(np.array([0.25, 1.0]), np.zeros(2), np.eye(2), least=1.0)
        >>> Sample.of(factors, 1.0, rows, rows, np.ones(1)).factors
        Factors(alpha=4.5, users=array([[0.25, 0.  ]]), items=array([[1.25, 1.  ]]))
        """
        alpha, x, z = factors
        level = _level(alpha, users, items)
        own = [
            _centered(side, rows, other)
            for side, rows, other in ((x, users, items), (z, items, users))
        ]
        (x, user_rows), (z, item_rows) = own
        return cls(Factors(level, x, z), tau, user_rows, item_rows, steadiness)


def _level(alpha: float, users: RowDistribution, items: RowDistribution) -> float:
    """Return α' = α + μ_βu + μ_βi + μ_γu·μ_γi."""
    return float(alpha + users.mean[0] + items.mean[0] + users.mean[1:] @ items.mean[1:])


def _centered(
    x: NDArray[np.floating], rows: RowDistribution, other: RowDistribution
) -> tuple[NDArray[np.floating], RowDistribution]:
    """Return M (x − μ) with M = [[1, μ_γᵀ of the other side], [0, I]], and what it is of."""
    change = np.eye(len(rows.mean))
    change[0, 1:] = other.mean[1:]
    back = 2 * np.eye(len(rows.mean)) - change  # M⁻¹
    apart = x.astype(np.float64) - rows.mean
    apart[:, 0] += (apart[:, 1:] * other.mean[1:]).sum(axis=1)
    distribution = RowDistribution(
        np.zeros_like(rows.mean), change @ rows.slope, back.T @ rows.precision @ back, rows.least
    )
    return apart.astype(x.dtype), distribution


class Chain:
    """The unknowns of one chain as they are now.

    Parameters
    ----------
    start : Factors
        Where the chain begins; what counts are the users, from which the items are drawn.
    tau : float
        The first τ.
    degrees : mapping
        d of the rows of ``users`` and of ``items``.
    precisions : mapping
        Λ of ``users`` and of ``items``, a diagonal each, that the first `HELD` sweeps hold still,
        with μ = ξ = 0.  Drawn from the start, which is of no spread as samples have, they would
        shrink γ to nothing, and hundreds of sweeps would not undo that.
    level, row_prior
        Priors of α, τ and ω, and of μ, ξ and Λ of both sides.
    seed, number : int
        The seed, and the number of the chain: random numbers depend on them and on the sweep.

    Attributes
    ----------
    alpha, tau : float
    steadiness : float64 array of shape (n_u,)
        ω of the users; 1 at first.
    rows : dict
        The rows of ``users`` and of ``items``.
    distributions : dict
        μ, ξ and Λ of ``users`` and of ``items``, once they have been drawn.
    """

    def __init__(
        self,
        start: Factors,
        tau: float,
        degrees: Mapping[str, NDArray[np.float64]],
        precisions: Mapping[str, NDArray[np.float64]],
        *,
        level: LevelPrior,
        row_prior: RowPrior,
        seed: int,
        number: int = 0,
    ) -> None:
        self.alpha, self.tau = start.alpha, tau
        self.rows = {"users": start.users, "items": start.items}
        self.distributions: dict[str, RowDistribution] = {}
        self._degrees, self._precisions = degrees, precisions
        self._level, self._row_prior = level, row_prior
        self._seed, self._number = seed, number
        self.steadiness = np.ones(len(start.users))
        self._total = float(degrees["users"].sum())
        self._penalty: dict[str, float] = {}
        self._squares = self._plain = 0.0  # Σ ω w e² and Σ w e²

    def conditional(self, side: str, sweep: int) -> Conditional:
        """Draw μ, ξ and Λ of a side, and return what its rows are to be drawn by.

        Parameters
        ----------
        side : {"users", "items"}
        sweep : int
            From 1 on.
        """
        key = (self._number, sweep, _NUMBERS[side])
        stream, rows = Stream.of(self._seed, *key, _ROWS), self.rows[side]
        if sweep <= HELD:
            zero = np.zeros(rows.shape[1])
            least = float(self._degrees[side].min())
            drawn = RowDistribution(zero, zero, np.diag(self._precisions[side]), least)
        else:
            generator = Stream.generator(self._seed, *key, _OTHERS)
            drawn = self._row_prior.draw(rows, self._degrees[side], generator)
        self.distributions[side] = drawn
        of_rows = side == "users"
        return Conditional(self.alpha, self.tau, drawn, stream, self.steadiness, of_rows)

    def replace(self, side: str, update: RowUpdate, sweep: int) -> None:
        """Take in all rows of a side as they were drawn, and draw α and τ, and ω after users."""
        self.rows[side] = update.x
        self._penalty[side] = float(update.penalty.sum())
        sums = (update.residual.sum(), update.squares.sum(), update.weight.sum())
        generator = Stream.generator(self._seed, self._number, sweep, _NUMBERS[side], _OTHERS, 1)
        before = self.alpha
        self.alpha, self.tau = self._level.draw(
            before,
            self.tau,
            (float(sums[0]), float(sums[1]), float(sums[2])),
            self._total,
            generator,
        )
        if side == "users":
            step = self.alpha - before
            squares = update.squares - 2 * step * update.residual + step**2 * update.weight
            plain = np.maximum(squares / self.steadiness, 0)  # Σ w e² of each user
            self.steadiness = self._level.steadiness(
                self.tau, plain, self._degrees["users"], generator
            )
            self._plain = float(plain.sum())
            self._squares = float((self.steadiness * plain).sum())

    @property
    def train_rmse(self) -> float:
        """√(Σ w e² / Σ w) of the draw over the training ratings."""
        return float(np.sqrt(self._plain / self._total))

    @property
    def objective(self) -> float:
        """(1/n) [ Σ ω w e² + (1/τ) Σ (x − μ)ᵀ Λ (x − μ) ]: f, with weights and ridge as drawn."""
        return (self._squares + sum(self._penalty.values()) / self.tau) / self._total

    @property
    def level(self) -> float:
        """α in the coordinates of `Sample`: what an unknown pair is predicted to be."""
        return _level(self.alpha, self.distributions["users"], self.distributions["items"])

    def sample(self) -> Sample:
        """Return the draw of a sweep that is complete."""
        factors = Factors(self.alpha, self.rows["users"], self.rows["items"])
        users, items = (self.distributions[side] for side in ("users", "items"))
        return Sample.of(factors, self.tau, users, items, self.steadiness)

    def save(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return what the chain goes on from, as arrays and as what JSON can hold."""
        return {**self.rows, "steadiness": self.steadiness}, {"alpha": self.alpha, "tau": self.tau}

    def restore(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Go back to what `save` returned, at the end of a sweep."""
        self.rows = {side: arrays[side] for side in _NUMBERS}
        self.steadiness = arrays["steadiness"]
        self.alpha, self.tau = values["alpha"], values["tau"]
