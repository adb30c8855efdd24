"""Design rows z and targets y of many rows at once, padded to equal lengths.

Fixing one side, row u of the other predicts its ratings as α + β_i + z_i·x_u, where
z_i = (1, γ_i) are its design rows and y_i = R_ui − α − β_i its targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from nonconvex.numerics import Doubles, Floats, Ints, Longs
from nonconvex.numerics.factorization.blocks import Batch, Padded, RatingBlock, batches

# Padded ratings × unknowns gathered at a time: two megabytes of float32 stay in a core's cache
# between the gather, the product and the residual.
CACHE_ELEMENTS = 1 << 19

# A longer row is summed in segments of this many ratings, in float64: it need not fit in memory,
# and a float32 sum of very many terms would lose digits.
SEGMENT = 1 << 13

# From this many ratings on, numpy multiplies a matrix by its own transpose in two thirds of the
# time of a general product: it computes half of a symmetric matrix.
SYMMETRIC = 64


def designs(
    block: RatingBlock, fixed: Floats, alpha: float, *, biases: bool
) -> Iterator[tuple[Longs, Segments]]:
    """Cut a block into batches of rows of similar length.

    Yields positions (s,) in ``block.rows``, and the design of these rows in the dtype of the other
    side's rows (β, γ), which are `fixed` (m, 1 + K).
    """
    padded = block.with_padding().padded
    assert padded is not None
    table = _Table.of(fixed, alpha, biases=biases)
    for batch in batches(block.counts, CACHE_ELEMENTS // fixed.shape[1]):
        yield batch.members, Segments(padded, table, batch)


class _Table(NamedTuple):
    """Rows to gather for each rating; the last one is that of padding, 0."""

    z: Floats  # (m + 1, K + 2): z_i, and a place for y
    offset: Floats  # (m + 1,): α + β_i
    room: Floats  # a buffer

    @classmethod
    def of(cls, fixed: Floats, alpha: float, *, biases: bool) -> _Table:
        m, width = fixed.shape
        z, offset = np.zeros((m + 1, width + 1), fixed.dtype), np.zeros(m + 1, fixed.dtype)
        z[:m, 0] = biases
        z[:m, 1:width] = fixed[:, 1:]
        offset[:m] = fixed[:, 0] + fixed.dtype.type(alpha)
        return cls(z, offset, np.empty(2 * CACHE_ELEMENTS, fixed.dtype))

    def gather(self, columns: Ints) -> Floats:
        """Return the rows of columns of shape (s, L), in a reused buffer."""
        size = columns.size * self.z.shape[1]
        room = self.room[:size] if size <= len(self.room) else np.empty(size, self.z.dtype)
        shaped = room.reshape(*columns.shape, -1)
        np.take(self.z, columns, axis=0, out=shaped, mode="wrap")  # -1 is the last row
        return shaped


class Design(NamedTuple):
    """Padded design rows and targets of some rows; everything is 0 where it is padded."""

    zy: Floats  # (s, L, K + 2): z, then y
    w: Floats | None  # (s, L)

    @property
    def z(self) -> Floats:
        """The design rows, of shape (s, L, 1 + K)."""
        return self.zy[..., :-1]

    @property
    def y(self) -> Floats:
        """The targets, of shape (s, L)."""
        return self.zy[..., -1]

    def normal_equation(self) -> tuple[Floats, Floats]:
        """Σ w z zᵀ of shape (s, 1 + K, 1 + K) and Σ w z y of shape (s, 1 + K), in one product."""
        if self.w is None and self.zy.shape[1] >= SYMMETRIC:
            both = self.moments()[:, :-1]
        else:
            wz = self.z if self.w is None else self.z * self.w[..., None]
            both = np.matmul(wz.swapaxes(1, 2), self.zy)  # (s, 1 + K, K + 2)
        return both[..., :-1], both[..., -1]

    def moments(self) -> Floats:
        """Σ w (z, y) (z, y)ᵀ, of shape (s, K + 2, K + 2)."""
        wzy = self.zy if self.w is None else self.zy * self.w[..., None]
        moments: Floats = np.matmul(wzy.swapaxes(1, 2), self.zy)
        return moments

    def sums(self, x: Floats) -> tuple[Doubles, Doubles]:
        """Σ w e and Σ w e² where e = y − z·x, both of shape (s,) in float64."""
        e = self._errors(x)
        we = e if self.w is None else e * self.w
        squares = np.matmul(we[:, None], e[..., None])[:, 0, 0]
        return we.sum(axis=1).astype(np.float64), squares.astype(np.float64)

    def gradient_sums(self, x: Floats) -> Doubles:
        """Σ w e z where e = y − z·x, of shape (s, 1 + K) in float64."""
        e = self._errors(x)
        we = e if self.w is None else e * self.w
        sums: Doubles = np.matmul(we[:, None], self.z)[:, 0].astype(np.float64)
        return sums

    def products(self, p: Floats) -> Doubles:
        """Σ w (z·p) z, of shape (s, 1 + K) in float64."""
        along = np.matmul(self.z, p[..., None])[..., 0]
        weighted = along if self.w is None else along * self.w
        products: Doubles = np.matmul(weighted[:, None], self.z)[:, 0].astype(np.float64)
        return products

    def _errors(self, x: Floats) -> Floats:
        """Return e, of shape (s, L): the product of (z, y) and (−x, 1)."""
        both = np.empty((len(x), x.shape[1] + 1, 1), self.zy.dtype)
        np.negative(x, out=both[:, :-1, 0])
        both[:, -1] = 1
        with np.errstate(invalid="ignore"):  # by lanes of OpenBLAS beyond 5 numbers
            e: Floats = np.matmul(self.zy, both)[..., 0]
        return e


class Segments:
    """The design of one batch, in segments of at most ``SEGMENT`` ratings of each row."""

    def __init__(self, padded: Padded, table: _Table, batch: Batch) -> None:
        self._columns, self._ratings = batch.of(padded.columns), batch.of(padded.ratings)
        self._weights = None if padded.weights is None else batch.of(padded.weights)
        self._table, self.length = table, batch.length
        self._only: Design | None = None

    def __iter__(self) -> Iterator[Design]:
        """Yield the segments in order."""
        if self.length > SEGMENT:
            for first in range(0, self.length, SEGMENT):
                yield self._gather(first, first + SEGMENT)
        else:  # the usual case: gathered once, used for the equation and for the residuals
            if self._only is None:
                self._only = self._gather(0, self.length)
            yield self._only

    def _gather(self, first: int, last: int) -> Design:
        columns = self._columns[:, first:last]
        zy = self._table.gather(columns)
        offset = np.take(self._table.offset, columns, mode="wrap")
        np.subtract(self._ratings[:, first:last], offset, out=zy[..., -1])
        return Design(zy, None if self._weights is None else self._weights[:, first:last])

    def normal_equation(self) -> tuple[Floats, Floats]:
        """As `Design.normal_equation`, over all segments, in float64 if there are several."""
        parts = [design.normal_equation() for design in self]
        if len(parts) == 1:
            return parts[0]
        a, b = zip(*parts, strict=True)
        return np.sum(a, axis=0, dtype=np.float64), np.sum(b, axis=0, dtype=np.float64)

    def sums(self, x: Floats) -> tuple[Doubles, Doubles]:
        """As `Design.sums`, over all segments."""
        residual, squares = zip(*(design.sums(x) for design in self), strict=True)
        return np.sum(residual, axis=0), np.sum(squares, axis=0)

    def total_of(self, values: Floats) -> Doubles:
        """Σ w v of the columns of each row, of shape (s, p).

        `values` (m + 1, p) are v of each column, and 0 for padding.
        """
        rows, p = len(self._columns), values.shape[1]
        sums = np.zeros((rows, p))
        for first in range(0, self.length, SEGMENT):
            columns = self._columns[:, first : first + SEGMENT]
            ones = np.ones((1, 1, columns.shape[1]), values.dtype)
            step = max(1, CACHE_ELEMENTS // (columns.shape[1] * p))
            for start in range(0, rows, step):
                some = slice(start, start + step)
                w = ones
                if self._weights is not None:
                    w = self._weights[some, None, first : first + SEGMENT]
                gathered = np.take(values, columns[some], axis=0, mode="wrap")  # -1 is the last
                sums[some] += np.matmul(w, gathered)[:, 0]
        return sums

    def gradient_sums(self, x: Floats) -> Doubles:
        """As `Design.gradient_sums`, over all segments."""
        sums: Doubles = np.sum([design.gradient_sums(x) for design in self], axis=0)
        return sums

    def products(self, p: Floats) -> Doubles:
        """As `Design.products`, over all segments."""
        products: Doubles = np.sum([design.products(p) for design in self], axis=0)
        return products
