"""Counter-based random numbers: standard normal and uniform.

The numbers of a row depend on the stream and on the number of the row alone, so that any executor
can draw those of its own rows: a counter is hashed to 64 random bits, and two of these make two
normal numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stream", "normal_rows", "uniform_rows"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_ROW = np.uint64(0xD1342543DE82EF95)  # odd, so that distinct rows begin at distinct counters


class Stream(NamedTuple):
    """Two words of 64 bits that identify a stream of random numbers."""

    first: int
    second: int

    @classmethod
    def of(cls, seed: int, *key: int) -> Stream:
        """Return the stream of a seed and of integers ≥ 0 that identify its use.

        Examples
        --------
        >>> Stream.of(42, 0, 1) == Stream.of(42, 1, 0)
        False
        """
        first, second = _sequence(seed, key).generate_state(2, np.uint64).tolist()
        return cls(first, second)

    @staticmethod
    def generator(seed: int, *key: int) -> np.random.Generator:
        """Return a sequential generator of the same seed and integers."""
        return np.random.default_rng(_sequence(seed, key))


def normal_rows(stream: Stream, rows: NDArray[np.integer], width: int) -> NDArray[np.float64]:
    """Return `width` independent standard normal numbers for each row.

    Parameters
    ----------
    stream : Stream
    rows : int array of shape (r,)
        The number of each row, of up to 64 bits.
    width : int

    Returns
    -------
    float64 array of shape (r, width)
        Equal rows have equal numbers, whatever the other rows are.

    References
    ----------
    Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators; Box and Muller
    (1958), A note on the generation of random normal deviates.

    Examples
    --------
    >>> stream = Stream.of(42, 0)
    >>> both, one = normal_rows(stream, np.array([7, 9]), 3), normal_rows(stream, np.array([9]), 3)
    >>> bool(np.all(both[1] == one[0]))
    True
    """
    pairs = (width + 1) // 2
    bits = _bits(stream, rows, 2 * pairs)
    # 53 bits each: one in (0, 1], whose logarithm is finite, and one in [0, 1)
    radius = np.sqrt(-2 * np.log(((bits[:, :pairs] >> np.uint64(11)) + np.uint64(1)) * 2.0**-53))
    angle = 2 * np.pi * ((bits[:, pairs:] >> np.uint64(11)) * 2.0**-53)
    normals = np.hstack([radius * np.cos(angle), radius * np.sin(angle)])
    return np.ascontiguousarray(normals[:, :width])


def uniform_rows(stream: Stream, rows: NDArray[np.integer], width: int) -> NDArray[np.float64]:
    """Return `width` independent numbers for each row, uniform in [0, 1).

    Parameters
    ----------
    stream, rows, width
        As for `normal_rows`.

    Returns
    -------
    float64 array of shape (r, width)

    Examples
    --------
    >>> stream = Stream.of(42, 0)
    >>> both = uniform_rows(stream, np.array([7, 9]), 3)
    >>> bool(np.all(both[1] == uniform_rows(stream, np.array([9]), 3)[0]))
    True
    """
    whole = (_bits(stream, rows, width) >> np.uint64(11)).astype(np.float64)  # exact: 53 bits
    return whole * 2.0**-53


def _bits(stream: Stream, rows: NDArray[np.integer], width: int) -> NDArray[np.uint64]:
    """Return 64 random bits for each of `width` numbers of each row."""
    begin = _mix(rows.astype(np.uint64) * _ROW + np.uint64(stream.first))
    steps = np.arange(width, dtype=np.uint64) * _GOLDEN
    return _mix(_mix(begin[:, None] + steps) ^ np.uint64(stream.second))  # (r, width)


def _sequence(seed: int, key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed & (2**64 - 1), spawn_key=key)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits, one to one (the finalizer of SplitMix64)."""
    bits = (bits ^ (bits >> np.uint64(30))) * _MULTIPLIERS[0]
    bits = (bits ^ (bits >> np.uint64(27))) * _MULTIPLIERS[1]
    return bits ^ (bits >> np.uint64(31))
