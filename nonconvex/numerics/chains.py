"""A chain of Gibbs sampling: all unknowns of the model, and how each is drawn in turn.

A sweep is, for the items and then for the users: μ, ξ and Λ of the side, its rows, α, τ.  The rows
are drawn elsewhere, block by block, by the `Conditional` that the chain gives out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization import Factors
from nonconvex.numerics.gibbs import Conditional
from nonconvex.numerics.hyperpriors import LevelPrior, RowDistribution, RowPrior
from nonconvex.numerics.least_squares import RowUpdate
from nonconvex.numerics.normals import Stream

__all__ = ["SWEEP", "Chain", "Sample"]

SWEEP = ("items", "users")
"""The order of a sweep."""

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
    """

    factors: Factors
    tau: float
    users: RowDistribution
    items: RowDistribution

    @classmethod
    def of(
        cls, factors: Factors, tau: float, users: RowDistribution, items: RowDistribution
    ) -> Sample:
        """Change the coordinates of a draw.

        Examples
        --------
        >>> factors = Factors(3.0, np.array([[0.5, 1.0]]), np.array([[0.5, 2.0]]))  # predicts 6
        >>> rows = RowDistribution(np.array([0.25, 1.0]), np.zeros(2), np.eye(2), least=1.0)
        >>> Sample.of(factors, 1.0, rows, rows).factors
        Factors(alpha=4.5, users=array([[0.25, 0.  ]]), items=array([[1.25, 1.  ]]))
        """
        alpha, x, z = factors
        level = alpha + users.mean[0] + items.mean[0] + users.mean[1:] @ items.mean[1:]
        own = [
            _centered(side, rows, other)
            for side, rows, other in ((x, users, items), (z, items, users))
        ]
        (x, user_rows), (z, item_rows) = own
        return cls(Factors(float(level), x, z), tau, user_rows, item_rows)


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
    level, row_prior
        Priors of α and τ, and of μ, ξ and Λ of both sides.
    seed, number : int
        The seed, and the number of the chain: random numbers depend on them and on the sweep.

    Attributes
    ----------
    alpha, tau : float
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
        *,
        level: LevelPrior,
        row_prior: RowPrior,
        seed: int,
        number: int = 0,
    ) -> None:
        self.alpha, self.tau = start.alpha, tau
        self.rows = {"users": start.users, "items": start.items}
        self.distributions: dict[str, RowDistribution] = {}
        self._degrees = degrees
        self._level, self._row_prior = level, row_prior
        self._seed, self._number = seed, number
        self._penalty: dict[str, float] = {}
        self.squares = 0.0
        self.weight = 1.0

    def conditional(self, side: str, sweep: int) -> Conditional:
        """Draw μ, ξ and Λ of a side, and return what its rows are to be drawn by.

        Parameters
        ----------
        side : {"users", "items"}
        sweep : int
            From 1 on.
        """
        key = (self._number, sweep, _NUMBERS[side])
        generator = Stream.generator(self._seed, *key, _OTHERS)
        self.distributions[side] = self._row_prior.draw(
            self.rows[side], self._degrees[side], generator
        )
        stream = Stream.of(self._seed, *key, _ROWS)
        return Conditional(self.alpha, self.tau, self.distributions[side], stream)

    def replace(self, side: str, update: RowUpdate, sweep: int) -> None:
        """Take in all rows of a side as they were drawn, and draw α and τ."""
        self.rows[side] = update.x
        self._penalty[side] = float(update.penalty.sum())
        residual, squares = float(update.residual.sum()), float(update.squares.sum())
        self.weight = float(update.weight.sum())
        generator = Stream.generator(self._seed, self._number, sweep, _NUMBERS[side], _OTHERS, 1)
        before = self.alpha
        self.alpha, self.tau = self._level.draw(
            before, self.tau, (residual, squares, self.weight), generator
        )
        step = self.alpha - before
        self.squares = max(squares - 2 * step * residual + step**2 * self.weight, 0.0)

    @property
    def train_rmse(self) -> float:
        """√(Σ w e² / Σ w) of the draw over the training ratings."""
        return float(np.sqrt(self.squares / self.weight))

    @property
    def objective(self) -> float:
        """(1/n) [ Σ w e² + (1/τ) Σ (x − μ)ᵀ Λ (x − μ) ]: f, with the ridge that was drawn."""
        return (self.squares + sum(self._penalty.values()) / self.tau) / self.weight

    def sample(self) -> Sample:
        """Return the draw of a sweep that is complete."""
        factors = Factors(self.alpha, self.rows["users"], self.rows["items"])
        users, items = (self.distributions[side] for side in ("users", "items"))
        return Sample.of(factors, self.tau, users, items)

    def save(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return what the chain goes on from, as arrays and as what JSON can hold."""
        return dict(self.rows), {"alpha": self.alpha, "tau": self.tau}

    def restore(self, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> None:
        """Go back to what `save` returned, at the end of a sweep."""
        self.rows = {side: arrays[side] for side in _NUMBERS}
        self.alpha, self.tau = values["alpha"], values["tau"]
