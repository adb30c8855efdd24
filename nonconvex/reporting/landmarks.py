"""Which items of a model a report shows: those at the ends of its axes, and those of its map."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization.explain import principal_axes
from nonconvex.numerics.factorization.model import Factors

__all__ = ["Landmarks", "landmarks"]

_AXES = 5
_ENDS = 4
_MAPPED = 250
_NAMED = 60  # of which a map shows those that do not lie over each other
_KNOWN = 1000  # the most rated items, among which ends are looked for


class Landmarks(NamedTuple):
    """Items to show, as dense indices.

    Attributes
    ----------
    shares : float64 array of shape (K,)
        How much each axis is of all γ_u·γ_i.
    low, high : int arrays of shape (axes, e)
        The items at the ends of the first axes, the farthest out first.
    mapped : int array of shape (m,)
        The most rated items, the most rated first.
    places : float64 array of shape (m, 2)
        Where they lie along the first two axes, 0 where there is no second.
    """

    shares: NDArray[np.float64]
    low: NDArray[np.intp]
    high: NDArray[np.intp]
    mapped: NDArray[np.intp]
    places: NDArray[np.float64]

    def items(self) -> list[int]:
        """Return all that may be named, each once."""
        named = [self.low.ravel(), self.high.ravel(), self.mapped[self.named()]]
        return sorted({int(index) for part in named for index in part})

    def named(self) -> NDArray[np.intp]:
        """Return the positions in `mapped` of what a map may name, the farthest out first."""
        reach = np.abs(self.places).max(axis=0)
        scaled = self.places / np.where(reach > 0, reach, 1.0)  # as the map is drawn
        return np.argsort(-np.hypot(scaled[:, 0], scaled[:, 1]), kind="stable")[:_NAMED]


def landmarks(factors: Factors, counts: NDArray[np.integer]) -> Landmarks | None:
    """Choose the items to show; None for a model without factors.

    Only the thousand most rated items are looked at for the ends of axes: what few have rated
    lies far out by chance, or hardly at all.

    Parameters
    ----------
    factors : Factors
    counts : int array of shape (n_i,)
        Training ratings of each item.
    """
    if factors.items.shape[1] < 2:
        return None
    coordinates, shares = principal_axes(factors.users[:, 1:], factors.items[:, 1:])
    if not shares.any():
        return None
    most = np.argsort(-counts, kind="stable")
    known = most[:_KNOWN]
    number = min(_AXES, coordinates.shape[1])
    size = min(_ENDS, max(1, len(known) // 2))
    order = [known[np.argsort(coordinates[known, axis], kind="stable")] for axis in range(number)]
    mapped = most[:_MAPPED]
    places = np.zeros((len(mapped), 2))
    width = min(2, coordinates.shape[1])
    places[:, :width] = coordinates[mapped, :width]
    return Landmarks(
        shares,
        np.array([one[:size] for one in order]),
        np.array([one[::-1][:size] for one in order]),
        mapped,
        places,
    )
