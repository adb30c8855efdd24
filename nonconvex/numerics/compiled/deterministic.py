"""Normal random numbers: the compiled twin of `nonconvex.numerics.deterministic.normal_rows`."""

from __future__ import annotations

from math import factorial

import numpy as np

from nonconvex.numerics import Doubles, Ints
from nonconvex.numerics.compiled.lanes import compiled, frozen, inner
from nonconvex.numerics.deterministic import GOLDEN, MULTIPLIERS, ROW, Stream

_PAIRS = 512  # pairs of numbers that are made together

_ROOT_HALF = np.int64(0x3FE6A09E667F3BCD)  # the bits of √½
_LN2 = float.fromhex("0x1.62e42fefap-1"), float.fromhex("0x1.cf79abc9e3b39p-40")  # their sum
_TURN = 2 * np.pi * 2.0**-53
_LOG = tuple(2 / (2 * k + 3) for k in range(10))
_SIN = tuple((-1) ** k / factorial(2 * k + 1) for k in range(1, 9))
_COS = tuple((-1) ** k / factorial(2 * k) for k in range(2, 10))


@inner
def _scrambled(bits):
    bits = (bits ^ (bits >> np.uint64(30))) * MULTIPLIERS[0]
    bits = (bits ^ (bits >> np.uint64(27))) * MULTIPLIERS[1]
    return bits ^ (bits >> np.uint64(31))


@inner
def _series(z, terms):
    """Return Σ_k terms_k z^k by Horner's rule."""
    p = terms[-1]
    for k in range(len(terms) - 2, -1, -1):
        p = p * z + terms[k]
    return p


@inner
def _radii(x):
    """Turn whole numbers 1 ≤ x ≤ 2⁵³ into √(−2 log(x 2⁻⁵³)).

    With x = 2ᵉ m for √½ ≤ m < √2, s = f/(2 + f) and f = m − 1: log m = 2 s (1 + s²/3 + s⁴/5 + …).
    """
    bits = x.view(np.int64)
    for k in range(len(x)):
        above = bits[k] - _ROOT_HALF
        e = np.float64((above >> 52) - 53)
        bits[k] = (above & np.int64((1 << 52) - 1)) + _ROOT_HALF
        f = x[k] - 1.0
        s = f / (f + 2.0)
        z = s * s
        half = 0.5 * f * f
        tail = (half - (s * (half + z * _series(z, _LOG)) + e * _LN2[1])) - f
        x[k] = np.sqrt(-2.0 * (e * _LN2[0] - tail))


@inner
def _turn(steps, cosines, sines):
    """Write cos and sin of 2π k 2⁻⁵³ for integers 0 ≤ k < 2⁵³; the quarter turn is exact."""
    for k in range(len(steps)):
        quarter = (steps[k] + np.int64(1 << 50)) >> 51
        y = np.float64(steps[k] - (quarter << 51)) * _TURN
        z = y * y
        sine = y + y * (z * _series(z, _SIN))
        cosine = 1.0 - (0.5 * z - z * z * _series(z, _COS))
        odd = (quarter & 1) == 1
        one, other = (sine, cosine) if odd else (cosine, sine)
        cosines[k] = -one if ((quarter + 1) & 2) == 2 else one
        sines[k] = -other if (quarter & 2) == 2 else other


@compiled
def _fill_normals(first, second, rows, width, spaces, normals):
    radii, steps, cosines, sines = spaces
    pairs = (width + 1) // 2
    most = len(radii) // pairs
    for begin in range(0, len(rows), most):
        n = min(most, len(rows) - begin)
        for k in range(n):
            start = _scrambled(np.uint64(rows[begin + k]) * ROW + first)
            for j in range(pairs):
                bits = _scrambled(_scrambled(start + np.uint64(j) * GOLDEN) ^ second)
                radii[k * pairs + j] = np.float64(np.int64(bits >> np.uint64(11)) + 1)
                of_angle = start + np.uint64(j + pairs) * GOLDEN
                bits = _scrambled(_scrambled(of_angle) ^ second)
                steps[k * pairs + j] = np.int64(bits >> np.uint64(11))
        _radii(radii[: n * pairs])
        _turn(steps[: n * pairs], cosines, sines)
        for k in range(n):
            for j in range(pairs):
                normals[begin + k, j] = radii[k * pairs + j] * cosines[k * pairs + j]
            for j in range(width - pairs):
                normals[begin + k, pairs + j] = radii[k * pairs + j] * sines[k * pairs + j]


def fill_normals(stream: Stream, rows: Ints, width: int) -> Doubles:
    """Return `nonconvex.numerics.deterministic.normal_rows` to within a few units of rounding.

    Its bits are the same on every processor: logarithm, sine and cosine are series of sums and
    products in a fixed order, where numpy takes those of the processor.
    """
    normals = np.empty((len(rows), width))
    size = max(_PAIRS // ((width + 1) // 2), 1) * ((width + 1) // 2)
    spaces = np.zeros(size), np.zeros(size, np.int64), np.zeros(size), np.zeros(size)
    words = np.uint64(stream.first), np.uint64(stream.second)
    _fill_normals(*words, frozen(rows, np.int64), width, spaces, normals)
    return normals
