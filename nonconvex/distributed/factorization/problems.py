"""What is minimized, over which ratings, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.distributed.factorization.execution import Packed
from nonconvex.distributed.rows import DistantFactors
from nonconvex.numerics.convergence import HalfStep, Stop
from nonconvex.numerics.factorization.model import Factors, Ridge

__all__ = ["SIDES", "Blocks", "Fitted", "Problem"]

SIDES = ("users", "items")


class Blocks(NamedTuple):
    """The ratings of a fit, packed by `nonconvex.distributed.factorization.packing`.

    Attributes
    ----------
    users, items : Packed
        The same ratings twice, with users as the rows of the blocks and with items.
    validation : Packed or None
        Ratings to validate with, packed by users.
    user_degrees, item_degrees : float64 arrays of shape (n_u,) and (n_i,)
        The degrees in the blocks, in the order of the indices.
    dtype : float type
        Of everything in the blocks, of the factors, and of the arithmetic.
    """

    users: Packed
    items: Packed
    validation: Packed | None
    user_degrees: NDArray[np.float64]
    item_degrees: NDArray[np.float64]
    dtype: type[np.floating]


@dataclass(frozen=True)
class Problem:
    """What is to be minimized, and from where.

    Parameters
    ----------
    start : Factors or DistantFactors
        The first α, and a row for every user and every item.  Where the solver is "als" the
        items are solved from the users before they are ever used.
    user_ridge, item_ridge : Ridge
    solver : {"als", "als-coordinate", "gd"}
    intercept, biases, nonnegative : bool
        Whether α is updated, whether β is, and whether γ ≥ 0 is demanded.
    implicit : bool
        Whether all pairs count; the blocks then hold `nonconvex.numerics.factorization.implicit.preferences`.
    name : str
        Says in the log which problem it is; may be empty.
    """

    start: Factors | DistantFactors
    user_ridge: Ridge
    item_ridge: Ridge
    solver: str = "als"
    intercept: bool = True
    biases: bool = True
    nonnegative: bool = False
    implicit: bool = False
    name: str = ""

    def ridge(self, side: str) -> Ridge:
        """Return the ridge of one side."""
        return self.user_ridge if side == "users" else self.item_ridge


class Fitted(NamedTuple):
    """Where a fit of one problem ended.

    Attributes
    ----------
    factors : Factors, or DistantFactors if rows were exchanged by shuffle
        Of the best iteration: by validation RMSE where `patience` was given, else the last.
    history : list of HalfStep
    iteration : int
        The iteration that `factors` are of.
    stop : Stop
    squares : float64 array of shape (n_u,), optional
        Σ w (R̂ − R)² of each user, if `factors` were reached by an update of the users.
    """

    factors: Factors | DistantFactors
    history: list[HalfStep]
    iteration: int
    stop: Stop
    squares: NDArray[np.float64] | None = None

    @property
    def end(self) -> HalfStep:
        """The half-step that `factors` are of."""
        return [step for step in self.history if step.iteration <= self.iteration][-1]

    @property
    def objective(self) -> float:
        """The value f of `factors`."""
        return self.end.objective

    @property
    def validation_rmse(self) -> float | None:
        """The validation RMSE of `factors`."""
        return self.end.validation_rmse
