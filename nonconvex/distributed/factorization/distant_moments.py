"""Second moments of rows that executors keep, to the bits of those of arrays on the driver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nonconvex.distributed.alignment import Element, by_number, scattered, together, united
from nonconvex.distributed.rows import DistantFactors, DistantRows, KeptRows
from nonconvex.distributed.workers import settle
from nonconvex.numerics.factorization.ridge_posterior import (
    MOMENT_ROWS,
    Moments,
    degree_shares,
    moment_of,
)

__all__ = ["moments"]


def moments(
    factors: DistantFactors, degrees: Sequence[NDArray[np.floating]], *, biases: bool
) -> Moments:
    """Do what `Moments.of` does; what comes to the driver is a matrix for each `MOMENT_ROWS` rows.

    Parameters
    ----------
    factors : DistantFactors
        Of rows that executors keep.
    degrees : (float array of shape (n_u,), float array of shape (n_i,))
    biases : bool
    """
    users, items = (
        _moment(rows, of_side, biases)
        for rows, of_side in zip((factors.users, factors.items), degrees, strict=True)
    )
    return Moments(users, items, factors.users.dtype)


def _moment(kept: DistantRows, degrees: NDArray[np.floating], biases: bool) -> NDArray[np.float64]:
    assert isinstance(kept, KeptRows)
    firsts = [place.start for place in kept.slices]
    shares = [share for _, share in degree_shares(degrees)]

    def cut(element: Element) -> Iterator[Element]:
        number, rows = element
        first = firsts[number]
        while first < firsts[number] + len(rows.x):
            chunk = first // MOMENT_ROWS
            start = first - firsts[number]
            stop = (chunk + 1) * MOMENT_ROWS - firsts[number]
            yield chunk, (first, rows.x[start:stop])
            first = (chunk + 1) * MOMENT_ROWS

    def square(elements: Iterable[Element]) -> Iterator[Element]:
        settle()
        for number, (parts, [share]) in together(elements, tuple, np.ndarray).items():
            x = np.concatenate([rows for _, rows in sorted(parts, key=_first)])
            yield number, moment_of(x, share, biases=biases)

    chunks = kept.rdd.flatMap(cut).partitionBy(len(shares), by_number)
    standing = united(chunks, scattered(kept.rdd.context, shares))
    found = dict(standing.mapPartitions(square).collect())
    moment: NDArray[np.float64] = np.asarray(sum(found[number] for number in range(len(shares))))
    return moment


def _first(part: tuple[int, Any]) -> int:
    return part[0]
