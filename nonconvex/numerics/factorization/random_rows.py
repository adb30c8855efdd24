"""The rows that a random start gives one side, which can be drawn wherever they are needed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization.model import initial_rows

__all__ = ["RandomRows"]


class RandomRows(NamedTuple):
    """β = 0 and γ ~ N(0, scale²), or |γ|, for every row of a side.

    The numbers depend on the seed, the restart, the side and the index of the row, so restart r of
    a run is the same whatever other restarts there are, and a row whoever draws it.

    Attributes
    ----------
    rows, rank : int
    scale : float
    seed, restart, side : int
        The side is 0 for users and 1 for items.
    dtype : float type
    nonnegative : bool
    """

    rows: int
    rank: int
    scale: float
    seed: int
    restart: int
    side: int
    dtype: type[np.floating]
    nonnegative: bool

    def between(self, first: int, stop: int) -> NDArray[np.floating]:
        """Draw the rows first, first + 1, …, stop − 1, of shape (stop − first, 1 + rank).

        The numbers of all rows before them are drawn, too, and not kept: some 15 ns each.

        Examples
        --------
        >>> rows = RandomRows(1000, 2, 0.1, 7, 0, 1, np.float32, False)
        >>> np.array_equal(rows.between(600, 700), rows.between(0, 1000)[600:700])
        True
        """
        key = (self.restart, self.side)
        generator = np.random.default_rng(
            np.random.SeedSequence(self.seed & (2**64 - 1), spawn_key=key)
        )
        drawn = initial_rows(stop, self.rank, self.scale, generator, first)
        return (np.abs(drawn) if self.nonnegative else drawn).astype(self.dtype)
