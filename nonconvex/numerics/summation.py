"""Sums of doubles without rounding, which no order and no division of the work can change.

A double x = m 2ᵉ with 1/2 ≤ |m| < 1 is q 2^(e−53) with an integer q of at most 53 bits.  The
integers of one exponent are added as integers; there are at most some 2,100 exponents, so what is
left to add up is little, and Python's fractions do it.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

__all__ = ["Totals", "add_exactly", "fractions_of"]

Totals = dict[tuple[int, int], int]
"""Σ q by group and exponent e."""

_LOW_BITS = 28  # of q, so that floats hold sums of its halves exactly, up to 2²⁵ values
_MOST = 1 << 25
_EXPONENTS = 1 << 12  # of doubles, from −1073 to 1024, with room


def add_exactly(totals: Totals, groups: NDArray[np.integer], values: NDArray[np.float64]) -> Totals:
    """Add values to the totals of their groups, and return the totals.

    Parameters
    ----------
    totals : dict
        Changed in place; ``{}`` to begin with.
    groups : int array of shape (n,)
        0 ≤ group < 2⁵⁰.
    values : float64 array of shape (n,)
        Finite.

    Examples
    --------
    >>> totals = add_exactly({}, np.zeros(3, int), np.array([1e300, 0.5, -1e300]))
    >>> float(fractions_of(totals)[0])
    0.5
    """
    for start in range(0, len(values), _MOST):
        part = slice(start, start + _MOST)
        mantissa, exponent = np.frexp(values[part])
        whole = np.ldexp(mantissa, 53).astype(np.int64)
        keys = groups[part].astype(np.int64) * _EXPONENTS + (exponent + _EXPONENTS // 2)
        distinct, place = np.unique(keys, return_inverse=True)
        high = np.bincount(place, whole >> _LOW_BITS)
        low = np.bincount(place, whole & (2**_LOW_BITS - 1))
        for key, *halves in zip(distinct.tolist(), high.tolist(), low.tolist(), strict=True):
            group, exponent_of = divmod(key, _EXPONENTS)
            place_of = group, exponent_of - _EXPONENTS // 2
            q = (int(halves[0]) << _LOW_BITS) + int(halves[1])
            totals[place_of] = totals.get(place_of, 0) + q
    return totals


def fractions_of(totals: Mapping[tuple[int, int], int]) -> dict[int, Fraction]:
    """Return the sum of each group; ``float`` of it is the double nearest to it.

    Examples
    --------
    >>> tenths = add_exactly({}, np.zeros(10, int), np.full(10, 0.1))
    >>> float(fractions_of(tenths)[0])
    1.0
    """
    sums: dict[int, Fraction] = {}
    for (group, exponent), q in totals.items():
        sums[group] = sums.get(group, Fraction()) + q * Fraction(2) ** (exponent - 53)
    return sums
