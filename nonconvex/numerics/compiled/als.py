"""The half-step of alternating least squares and of Gibbs sampling, row by row.

The unknowns of a row are ordered (γ, β), and one matrix T holds its normal equation and the
right-hand side: the upper triangle of the moments Σ w m mᵀ of m = (γ_i, 1, y), in rows of P
numbers, whole vectors.  It is added up in tiles of four rows by one vector, from some ratings at a
time, whose √w γ_i are copied into the nearest cache.  Elimination by the same tiles, A = UᵀU, turns
its last column into U⁻ᵀ b; below the diagonal T has no meaning.
"""

from __future__ import annotations

from math import factorial
from typing import Any, TypeAlias

import numpy as np

from nonconvex.numerics import Bools, Doubles, Floats, Ints
from nonconvex.numerics.compiled.lanes import (
    BYTES,
    add_four,
    add_one,
    add_two,
    compiled,
    dot,
    frozen,
    gather,
    inner,
    room,
    scale,
    subtract_four,
    subtract_one,
)
from nonconvex.numerics.deterministic import GOLDEN, MULTIPLIERS, ROW, Stream

Block: TypeAlias = tuple[Any, ...]
"""Arrays of a `RatingBlock`: offsets, columns, ratings, and weights or None."""

SEGMENT = 1 << 13  # ratings of a row that are summed in the type of the rows, the rest in float64

_CHUNK_BYTES = 1 << 14  # of γ_i copied at a time: half of the nearest cache
_LEAST_CHUNK, _MOST_CHUNK = 16, 256  # ratings
_PAIRS = 512  # pairs of normal numbers that are made together

_ROOT_HALF = np.int64(0x3FE6A09E667F3BCD)  # the bits of √½
_LN2 = float.fromhex("0x1.62e42fefap-1"), float.fromhex("0x1.cf79abc9e3b39p-40")  # their sum
_TURN = 2 * np.pi * 2.0**-53
_LOG = tuple(2 / (2 * k + 3) for k in range(10))
_SIN = tuple((-1) ** k / factorial(2 * k + 1) for k in range(1, 9))
_COS = tuple((-1) ** k / factorial(2 * k) for k in range(2, 10))


def _whole(size: int, multiple: int) -> int:
    """Round up to a multiple."""
    return (size + multiple - 1) // multiple * multiple


_up = inner(_whole)


@inner
def _add_moments(t, room_of, columns, ratings, weights, fixed, alpha, biases):
    """T ← T + Σ w m mᵀ over some ratings of a row."""
    e, z, m = room_of
    width = fixed.shape[1]
    rank = width - 1
    flat = fixed.reshape(-1)
    lanes = BYTES // fixed.itemsize
    wide, p = _up(rank, lanes), _up(rank + 2, lanes)
    chunk = len(m) // 2
    weighted = len(weights) > 0
    e[:] = 0
    ones = sum_y = squares = 0.0
    for first in range(0, len(columns), chunk):
        n = min(chunk, len(columns) - first)
        for k in range(n):
            at = columns[first + k] * width
            w = weights[first + k] if weighted else fixed.dtype.type(1)
            root = np.sqrt(w)
            for lane in range(0, wide, lanes):
                gather(z, k * wide + lane, flat, at + 1 + lane, rank - lane, root)
            y = ratings[first + k] - (flat[at] + alpha)
            m[2 * k], m[2 * k + 1] = root, root * y
            ones += w
            sum_y += w * y
            squares += np.float64(w * y) * y
        for row in range(0, rank, 4):
            for lane in range(row // lanes * lanes, wide, lanes):
                add_four(t, row * p + lane, p, z, row, wide, z, lane, wide, n)
        for lane in range(0, wide, lanes):
            add_two(e, lane, wide, m, 0, 2, z, lane, wide, n)
    for k in range(rank):
        t[k * p + rank] += e[k] if biases else 0
        t[k * p + rank + 1] += e[wide + k]
    t[rank * p + rank] += ones if biases else 0
    t[rank * p + rank + 1] += sum_y if biases else 0
    t[(rank + 1) * p + rank + 1] += squares


@inner
def _sum_moments(whole, t, room_of, columns, ratings, weights, fixed, alpha, biases):
    """Add the moments of a row of any length in float64, segment by segment, to another T."""
    width = fixed.shape[1]
    p, q = _up(width + 1, BYTES // fixed.itemsize), _up(width + 1, BYTES // whole.itemsize)
    none = weights[:0]
    for first in range(0, len(columns), SEGMENT):
        of = slice(first, first + SEGMENT)
        t[:] = 0
        own = weights[of] if len(weights) else none
        _add_moments(t, room_of, columns[of], ratings[of], own, fixed, alpha, biases)
        for row in range(width + 1):
            for lane in range(row, width + 1):
                whole[row * q + lane] += t[row * p + lane]


@inner
def _ridge(t, diagonal, ratio, width):
    """Add the ridge to the diagonal of T, or the rounding of T if that is more."""
    p = _up(width + 1, BYTES // t.itemsize)
    greatest = t.dtype.type(0)
    for k in range(width):
        greatest = max(greatest, t[k * p + k])
    rounding = width * np.finfo(t.dtype).eps * greatest
    for k in range(width):
        own = diagonal if k < width - 1 else ratio * diagonal
        t[k * p + k] += max(own, rounding)


@inner
def _eliminate(t, unknowns):
    """Turn T into U, with the inverses of its diagonal; return whether all pivots are positive."""
    lanes = BYTES // t.itemsize
    p = _up(unknowns + 1, lanes)
    for first in range(0, unknowns, 4):
        begin = first // lanes * lanes
        for lane in range(begin, p, lanes):
            subtract_four(t, first * p + lane, p, t, first, p, t, lane, p, first)
        for row in range(first, min(first + 4, unknowns)):
            for lane in range(begin, p, lanes):
                at = first * p
                subtract_one(t, row * p + lane, p, t, at + row, p, t, at + lane, p, row - first)
            pivot = t[row * p + row]
            if not pivot > 0:
                return False
            inverse = 1 / np.sqrt(pivot)
            for lane in range(begin, p, lanes):
                scale(t, row * p + lane, inverse)
            t[row * p + row] = inverse
    return True


@inner
def _substitute(t, x, unknowns):
    """Solve U x = c, the last column, for x of P numbers."""
    lanes = BYTES // t.itemsize
    p = _up(unknowns + 1, lanes)
    x[:] = 0
    x[unknowns] = -1
    for row in range(unknowns - 1, -1, -1):
        begin = row // lanes * lanes
        x[row] = 0
        x[row] = -dot(t, row * p + begin, p - begin, x, begin) * t[row * p + row]
    x[unknowns] = 0


@inner
def _residuals(x, columns, ratings, weights, fixed, alpha, biases):
    """Return Σ w e and Σ w e² of a row, in float64."""
    width = fixed.shape[1]
    flat, beta = fixed.reshape(-1), x[width - 1] if biases else fixed.dtype.type(0)
    residual = squares = 0.0
    for k in range(len(columns)):
        at = columns[k] * width
        y = ratings[k] - (flat[at] + alpha)
        e = np.float64(y - (dot(flat, at + 1, width - 1, x, 0) + beta))
        w = weights[k] if len(weights) else 1.0
        residual += w * e
        squares += w * e * e
    return residual, squares


@inner
def _unknown(k, width):
    """Return the place in (γ, β, y) of the kth of (β, γ, y)."""
    return width - 1 if k == 0 else k - 1 if k < width else k


@compiled
def _all_moments(block, fixed, alpha, spaces, moments):
    offsets, columns, ratings, weights = block
    t, room_of, _, whole, _ = spaces
    width = fixed.shape[1]
    q = _up(width + 1, BYTES // 8)
    for row in range(len(offsets) - 1):
        of = slice(offsets[row], offsets[row + 1])
        w = weights[of] if len(weights) else weights
        whole[:] = 0
        _sum_moments(whole, t, room_of, columns[of], ratings[of], w, fixed, alpha, True)
        for k in range(width + 1):
            for j in range(width + 1):
                one, other = _unknown(k, width), _unknown(j, width)
                moments[row, k, j] = whole[min(one, other) * q + max(one, other)]


@compiled
def _solve_each(a, b, t, own, x, failed):
    width = b.shape[1]
    q = _up(width + 1, BYTES // 8)
    for row in range(len(b)):
        for k in range(width):
            for j in range(k, width):
                t[k * q + j] = a[row, k, j]
            t[k * q + width] = b[row, k]
        failed[row] = not _eliminate(t, width)
        _substitute(t, own, width)
        x[row] = own[:width]


@compiled
def _solve_rows(block, fixed, alpha, diagonals, ratio, biases, background, spaces, x, sums, failed):
    offsets, columns, ratings, weights = block
    t, room_of, own, t64, x64 = spaces
    width = fixed.shape[1]
    q = _up(width + 1, BYTES // 8)
    for row in range(len(offsets) - 1):
        of = slice(offsets[row], offsets[row + 1])
        c, r, w = columns[of], ratings[of], weights[of] if len(weights) else weights
        if not len(c):
            continue
        if len(c) <= SEGMENT and not len(background):
            t[:] = 0
            _add_moments(t, room_of, c, r, w, fixed, alpha, biases)
            _ridge(t, diagonals[row], ratio, width)
            failed[row] = not _eliminate(t, width)
            _substitute(t, own, width)
        else:
            t64[:] = 0
            _sum_moments(t64, t, room_of, c, r, w, fixed, alpha, biases)
            for k in range(len(background)):
                t64[k // (width + 1) * q + k % (width + 1)] += background[k]
            _ridge(t64, diagonals[row], ratio, width)
            failed[row] = not _eliminate(t64, width)
            _substitute(t64, x64, width)
            for k in range(width):
                own[k] = x64[k]
        x[row, 0] = own[width - 1]
        for k in range(1, width):
            x[row, k] = own[k - 1]
        sums[0, row], sums[1, row] = _residuals(own, c, r, w, fixed, alpha, biases)


@compiled
def _draw_rows(block, fixed, alpha, prior, rhs, noise, spaces, x, sums, failed):
    offsets, columns, ratings, weights = block
    t, room_of, own, t64, x64 = spaces
    of_single, of_double = prior
    width = fixed.shape[1]
    p, q = _up(width + 1, BYTES // t.itemsize), _up(width + 1, BYTES // 8)
    for row in range(len(offsets) - 1):
        of = slice(offsets[row], offsets[row + 1])
        c, r, w = columns[of], ratings[of], weights[of] if len(weights) else weights
        if not len(c):
            continue
        if len(c) <= SEGMENT:
            t[:] = of_single
            _add_moments(t, room_of, c, r, w, fixed, alpha, True)
            for k in range(width):
                t[k * p + width] += t.dtype.type(rhs[row, k])
            failed[row] = not _eliminate(t, width)
            for k in range(width):
                t[k * p + width] += t.dtype.type(noise[row, k])
            _substitute(t, own, width)
        else:
            t64[:] = of_double
            _sum_moments(t64, t, room_of, c, r, w, fixed, alpha, True)
            for k in range(width):
                t64[k * q + width] += rhs[row, k]
            failed[row] = not _eliminate(t64, width)
            for k in range(width):
                t64[k * q + width] += noise[row, k]
            _substitute(t64, x64, width)
            for k in range(width):
                own[k] = x64[k]
        x[row, 0] = own[width - 1]
        for k in range(1, width):
            x[row, k] = own[k - 1]
        sums[0, row], sums[1, row] = _residuals(own, c, r, w, fixed, alpha, True)


@inner
def _gather_chunk(z, block, first, n, fixed, one):
    """Copy (γ_i, 1) of some ratings, in whole vectors."""
    width = fixed.shape[1]
    flat, lanes = fixed.reshape(-1), BYTES // fixed.itemsize
    wide, factor = _up(width, lanes), fixed.dtype.type(1)
    for k in range(n):
        at = block[1][first + k] * width
        for lane in range(0, wide, lanes):
            left = max(width - 1 - lane, 0)
            gather(z, k * wide + lane, flat, at + 1 + lane, left, factor)
        z[k * wide + width - 1] = one


@inner
def _add_products(q, z, d, p, block, rows, fixed, alpha, one, targets):
    """Add Σ w (z·p) z over the ratings of a row to q, or Σ w (y − z·p) z; return Σ w e, Σ w e²."""
    first, stop = rows
    width = fixed.shape[1]
    lanes = BYTES // fixed.itemsize
    wide = _up(width, lanes)
    chunk, whole = len(d), stop - first <= len(d)
    residual = squares = 0.0
    for begin in range(first, stop, chunk):
        n = min(chunk, stop - begin)
        if not whole:
            _gather_chunk(z, block, begin, n, fixed, one)
        for k in range(n):
            e = dot(z, k * wide, wide, p, 0)
            w = block[3][begin + k] if len(block[3]) else fixed.dtype.type(1)
            if targets:
                column = block[1][begin + k]
                e = block[2][begin + k] - (fixed[column, 0] + alpha) - e
                residual += np.float64(w) * e
                squares += np.float64(w) * e * e
            d[k] = w * e
        for lane in range(0, wide, lanes):
            add_one(q, lane, wide, d, 0, 1, z, lane, wide, n)
    return residual, squares


@compiled
def _descend_rows(block, fixed, alpha, diagonals, ratio, biases, steps, spaces, x, sums):
    z, d, own, p, q, r = spaces
    offsets = block[0]
    width = fixed.shape[1]
    wide = len(q)
    one = fixed.dtype.type(1 if biases else 0)
    for row in range(len(offsets) - 1):
        rows = offsets[row], offsets[row + 1]
        n = rows[1] - rows[0]
        if n <= len(d):
            _gather_chunk(z, block, rows[0], n, fixed, one)
        own[:] = 0
        own[width - 1] = x[row, 0]
        for k in range(1, width):
            own[k - 1] = x[row, k]
        gamma = fixed.dtype.type(diagonals[row])
        beta = fixed.dtype.type(ratio * diagonals[row])
        r[:] = 0
        _add_products(r, z, d, own, block, rows, fixed, alpha, one, True)
        for k in range(width):
            r[k] -= (gamma if k < width - 1 else beta) * own[k]
        p[:] = r
        size = dot(r, 0, wide, r, 0)
        for _ in range(steps):
            q[:] = 0
            _add_products(q, z, d, p, block, rows, fixed, alpha, one, False)
            for k in range(width):
                q[k] += (gamma if k < width - 1 else beta) * p[k]
            curvature = dot(p, 0, wide, q, 0)
            if not (size > 0 and curvature > 0):
                break
            length = size / curvature
            for k in range(wide):
                own[k] += length * p[k]
                r[k] -= length * q[k]
            after = dot(r, 0, wide, r, 0)
            for k in range(wide):
                p[k] = r[k] + after / size * p[k]
            size = after
        q[:] = 0
        sums[0, row], sums[1, row] = _add_products(
            q, z, d, own, block, rows, fixed, alpha, one, True
        )
        x[row, 0] = own[width - 1]
        for k in range(1, width):
            x[row, k] = own[k - 1]


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


def _spaces(width: int, dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Return the working memory of one thread."""
    lanes, double = BYTES // dtype.itemsize, np.dtype(np.float64)
    wide, p, rows = _whole(width - 1, lanes), _whole(width + 1, lanes), _whole(width + 1, 4)
    chunk = min(max(_CHUNK_BYTES // max(wide * dtype.itemsize, 1), _LEAST_CHUNK), _MOST_CHUNK)
    q = _whole(width + 1, BYTES // 8)
    return (
        room(rows * p, dtype),
        tuple(room(size, dtype) for size in (2 * wide, chunk * wide, 2 * chunk)),
        room(p, dtype),
        room(rows * q, double),
        room(q, double),
    )


def _inputs(block: Block, fixed: Floats) -> tuple[Block, Floats]:
    """Return the same arrays in the types that the loops are compiled for."""
    offsets, columns, ratings, weights = block
    dtype = fixed.dtype
    weights = np.zeros(0, dtype) if weights is None else weights
    typed = (offsets, np.int64), (columns, np.int32), (ratings, dtype), (weights, dtype)
    return tuple(frozen(array, kind) for array, kind in typed), frozen(fixed, dtype)


def _results(rows: int, fixed: Floats) -> tuple[Floats, Doubles, Bools]:
    x = np.zeros((rows, fixed.shape[1]), fixed.dtype)
    return x, np.zeros((2, rows)), np.zeros(rows, bool)


def minimize_rows(
    block: Block,
    fixed: Floats,
    alpha: float,
    diagonal: Doubles,
    ratio: float,
    *,
    biases: bool,
    background: tuple[Doubles, Doubles] | None,
) -> tuple[Floats, Doubles, Bools]:
    """Minimize f over every row of a block; see `nonconvex.numerics.factorization.als.solve_rows`.

    Parameters
    ----------
    block : tuple of arrays
        Offsets, columns, ratings and weights or None, as in `RatingBlock`.
    diagonal : float64 array of shape (r,)
        The ridge of γ of each row; that of β is `ratio` times as much.
    background : pair of float64 arrays of shapes (1 + K, 1 + K) and (1 + K,), optional
        What is added to A and b.

    Returns
    -------
    float array of shape (r, 1 + K)
        The rows.
    float64 array of shape (2, r)
        Σ w e and Σ w e².
    bool array of shape (r,)
        Rows whose elimination met a pivot that is not positive: the others are solved.
    """
    arrays, fixed = _inputs(block, fixed)
    rows, width = len(arrays[0]) - 1, fixed.shape[1]
    more = np.zeros(0)
    if background is not None:
        order = np.append(np.arange(1, width), 0)
        gram, rhs = background
        more = np.column_stack([gram[np.ix_(order, order)], rhs[order]]).ravel()
    x, sums, failed = _results(rows, fixed)
    own = fixed.dtype.type(alpha), frozen(diagonal, np.float64), float(ratio), biases
    spaces = _spaces(width, fixed.dtype)
    _solve_rows(arrays, fixed, *own, frozen(more, np.float64), spaces, x, sums, failed)
    return x, sums, failed


def descend_rows(
    block: Block,
    fixed: Floats,
    alpha: float,
    diagonal: Doubles,
    ratio: float,
    start: Floats,
    *,
    biases: bool,
    steps: int,
) -> tuple[Floats, Doubles]:
    """Take steps of conjugate gradients from the rows `start`; see `minimize_rows`."""
    arrays, fixed = _inputs(block, fixed)
    dtype, lanes = fixed.dtype, BYTES // fixed.dtype.itemsize
    wide = _whole(fixed.shape[1], lanes)
    chunk = max(_LEAST_CHUNK, 16 * _CHUNK_BYTES // (wide * dtype.itemsize))
    spaces = tuple(room(size, dtype) for size in (chunk * wide, chunk, *[wide] * 4))
    x, sums, _ = _results(len(arrays[0]) - 1, fixed)
    x[:] = start
    given = dtype.type(alpha), frozen(diagonal, np.float64), float(ratio), biases, steps
    _descend_rows(arrays, fixed, *given, spaces, x, sums)
    return x, sums


def draw_rows(
    block: Block, fixed: Floats, alpha: float, precision: Doubles, rhs: Doubles, noise: Doubles
) -> tuple[Floats, Doubles, Bools]:
    """Draw every row of a block; see `nonconvex.numerics.factorization.gibbs.Conditional`.

    With A = Σ w z zᵀ + Λ/τ = UᵀU in the order (γ, β), x = U⁻¹ (U⁻ᵀ b + ε) has the mean A⁻¹ b, and
    the covariance A⁻¹ times the variance of ε.

    Parameters
    ----------
    precision : float64 array of shape (1 + K, 1 + K)
        Λ/τ.
    rhs, noise : float64 arrays of shape (r, 1 + K)
        Λ/τ times the mean of each row, and ε.

    Returns
    -------
    As `minimize_rows`.
    """
    arrays, fixed = _inputs(block, fixed)
    rows, width = len(arrays[0]) - 1, fixed.shape[1]
    spaces = _spaces(width, fixed.dtype)
    order = np.append(np.arange(1, width), 0)
    prior = []
    for of in (spaces[0], spaces[3]):
        whole = np.zeros(len(of)).reshape(-1, _whole(width + 1, BYTES // of.itemsize))
        whole[:width, :width] = precision[np.ix_(order, order)]
        prior.append(frozen(whole.ravel(), of.dtype))
    turned = tuple(frozen(array[:, order], np.float64) for array in (rhs, noise))
    x, sums, failed = _results(rows, fixed)
    own = fixed, fixed.dtype.type(alpha), tuple(prior)
    _draw_rows(arrays, *own, *turned, spaces, x, sums, failed)
    return x, sums, failed


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


def sum_moments(block: Block, fixed: Floats, alpha: float) -> Doubles:
    """Return Σ w m mᵀ of each row with m = (1, γ_i, y), of shape (r, K + 2, K + 2)."""
    arrays, fixed = _inputs(block, fixed)
    width = fixed.shape[1]
    moments = np.empty((len(arrays[0]) - 1, width + 1, width + 1))
    _all_moments(arrays, fixed, fixed.dtype.type(alpha), _spaces(width, fixed.dtype), moments)
    return moments


def solve_positive(a: Doubles, b: Doubles) -> tuple[Doubles, Bools]:
    """Solve A x = b for each of s positive definite A; tell where a pivot was not positive."""
    x, failed = np.empty_like(b), np.zeros(len(b), bool)
    width = b.shape[1]
    q = _whole(width + 1, BYTES // 8)
    double = np.dtype(np.float64)
    t, own = room(_whole(width, 4) * q, double), room(q, double)
    _solve_each(frozen(a, np.float64), frozen(b, np.float64), t, own, x, failed)
    return x, failed
