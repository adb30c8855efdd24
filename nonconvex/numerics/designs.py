"""Design rows z and targets y of many rows at once, padded to equal lengths.

Fixing one side, row u of the other predicts its ratings as α + β_i + z_i·x_u, where
z_i = (1, γ_i) are its design rows and y_i = R_ui − α − β_i its targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.blocks import Batch, RatingBlock, batches

__all__ = ["Design", "Segments", "designs"]

# Padded ratings × unknowns gathered at a time: two megabytes of float32 stay in a core's cache
# between the gather, the two products and the residual.
CACHE_ELEMENTS = 1 << 19

# A longer row is summed in segments of this many ratings, in float64: it need not fit in memory
# at once, and a float32 sum of very many terms would lose digits.
SEGMENT = 1 << 13


def designs(
    block: RatingBlock, fixed: NDArray[np.floating], alpha: float, *, biases: bool
) -> Iterator[tuple[NDArray[np.int64], Segments]]:
    """Cut a block into batches of rows of similar length.

    Parameters
    ----------
    block : RatingBlock
    fixed : float array of shape (m, 1 + K)
        The other side's rows (β, γ), whose dtype all of the design has.
    alpha : float
    biases : bool
        Without, the design rows are (0, γ_i), so that β = 0 stays.

    Yields
    ------
    int64 array of shape (s,)
        Positions in ``block.rows``.
    Segments
        Their designs.
    """
    width = fixed.shape[1]
    columns = np.vstack([fixed, np.zeros((1, width), fixed.dtype)])  # the last row pads
    for batch in batches(block.counts, CACHE_ELEMENTS // width):
        yield batch.members, Segments(block, columns, fixed.dtype.type(alpha), batch, biases)


class Design(NamedTuple):
    """Padded design rows and targets of some rows; everything is 0 where it is padded."""

    z: NDArray[np.floating]  # (s, L, 1 + K)
    y: NDArray[np.floating]  # (s, L)
    w: NDArray[np.floating] | None  # (s, L)

    def normal_equation(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Σ w z zᵀ of shape (s, 1 + K, 1 + K) and Σ w z y of shape (s, 1 + K)."""
        wz = self.z if self.w is None else self.z * self.w[..., None]
        return np.matmul(wz.swapaxes(1, 2), self.z), np.matmul(self.y[:, None], wz)[:, 0]

    def sums(self, x: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Σ w e and Σ w e² where e = y − z·x, both of shape (s,) in float64."""
        e = (self.y - np.matmul(self.z, x[..., None])[..., 0]).astype(np.float64)
        we = e if self.w is None else e * self.w
        return we.sum(axis=1), np.einsum("sl,sl->s", we, e)

    def pull(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """Σ w e z where e = y − z·x, of shape (s, 1 + K) in float64."""
        e = self.y - np.matmul(self.z, x[..., None])[..., 0]
        we = e if self.w is None else e * self.w
        pull: NDArray[np.float64] = np.matmul(we[:, None], self.z)[:, 0].astype(np.float64)
        return pull


class Segments:
    """The design of one batch, in segments of at most ``SEGMENT`` ratings of each row."""

    def __init__(
        self,
        block: RatingBlock,
        columns: NDArray[np.floating],
        alpha: np.floating,
        batch: Batch,
        biases: bool,
    ) -> None:
        self._arguments = (block, columns, alpha, biases)
        self._batch = batch
        self._only: Design | None = None

    def __iter__(self) -> Iterator[Design]:
        """Yield the segments in order."""
        if self._batch.length > SEGMENT:
            for first in range(0, self._batch.length, SEGMENT):
                yield self._gather(first, min(SEGMENT, self._batch.length - first))
        else:  # the usual case: gathered once, used for the equation and for the residuals
            if self._only is None:
                self._only = self._gather(0, self._batch.length)
            yield self._only

    def _gather(self, first: int, length: int) -> Design:
        block, columns, alpha, biases = self._arguments
        place, real = self._batch.positions(block.offsets, first, length)  # (s, L)
        z = np.take(columns, np.where(real, block.columns[place], len(columns) - 1), axis=0)
        y = np.where(real, block.ratings[place] - alpha - z[:, :, 0], 0)
        z[:, :, 0] = real if biases else 0
        w = None if block.weights is None else np.where(real, block.weights[place], 0)
        return Design(z, y.astype(z.dtype, copy=False), w)

    def normal_equation(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """As `Design.normal_equation`, over all segments, in float64 if there are several."""
        parts = [design.normal_equation() for design in self]
        if len(parts) == 1:
            return parts[0]
        return (
            np.sum([a for a, _ in parts], axis=0, dtype=np.float64),
            np.sum([b for _, b in parts], axis=0, dtype=np.float64),
        )

    def sums(self, x: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As `Design.sums`, over all segments."""
        parts = [design.sums(x) for design in self]
        return (
            np.sum([residual for residual, _ in parts], axis=0),
            np.sum([squares for _, squares in parts], axis=0),
        )

    def pull(self, x: NDArray[np.floating]) -> NDArray[np.float64]:
        """As `Design.pull`, over all segments."""
        pull: NDArray[np.float64] = np.sum([design.pull(x) for design in self], axis=0)
        return pull
