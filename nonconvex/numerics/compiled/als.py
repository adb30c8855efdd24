"""The half-step of alternating least squares, sampling and variational inference, row by row.

The unknowns of a row are ordered (γ, β), and one matrix T holds its normal equation and the
right-hand side: the upper triangle of the moments Σ w m mᵀ of m = (γ_i, 1, y), in rows of P
numbers, whole vectors.  It is added up in tiles of four rows by one vector, from some ratings at a
time, whose √w γ_i are copied into the nearest cache.  Elimination by the same tiles, A = UᵀU, turns
its last column into U⁻ᵀ b; below the diagonal T has no meaning.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from nonconvex.numerics import Bools, Doubles, Floats, Ints
from nonconvex.numerics.compiled.lanes import (
    BYTES,
    add_four,
    add_one,
    add_rows,
    add_two,
    compiled,
    dot,
    frozen,
    gather,
    inner,
    prefetch,
    room,
    scale,
    subtract_four,
    subtract_one,
)

Block: TypeAlias = tuple[Any, ...]
"""Arrays of a `RatingBlock`: offsets, columns, ratings, and weights or None."""

SEGMENT = 1 << 13  # ratings of a row that are summed in the type of the rows, the rest in float64

_CHUNK_BYTES = 1 << 14  # of γ_i copied at a time: half of the nearest cache
_LEAST_CHUNK, _MOST_CHUNK = 16, 256  # ratings
_BATCH = 1 << 12  # segments whose Σ w V are added together
_TILE_ROWS = 1 << 11  # rows of the other side in a tile, of 4 lines of cache each
_LEAST_RATINGS = 16  # of a row in a tile, for which it is worth its copy
_AHEAD = 8  # ratings whose γ_i are asked for before they are copied


def _whole(size: int, multiple: int) -> int:
    """Round up to a multiple."""
    return (size + multiple - 1) // multiple * multiple


_up = inner(_whole)


@inner
def _place(flat, columns, k, stop, width):
    """Return the place of the kth column's row, and ask for one that comes soon."""
    prefetch(flat, columns[min(k + _AHEAD, stop - 1)] * width, width)
    return columns[k] * width


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
            at = _place(flat, columns, first + k, len(columns), width)
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
def _ridge(t, ridge, row, width):
    """Add the ridge to the diagonal of T, or the rounding of T if that is more."""
    of_row, of_unknown = ridge
    p = _up(width + 1, BYTES // t.itemsize)
    greatest = t.dtype.type(0)
    for k in range(width):
        greatest = max(greatest, t[k * p + k])
    rounding = width * np.finfo(t.dtype).eps * greatest
    for k in range(width):
        t[k * p + k] += max(of_unknown[k] * of_row[row], rounding)


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
        at = _place(flat, columns, k, len(columns), width)
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


@inner
def _ratings_of(block, row):
    """Return the columns, ratings and weights of a row."""
    offsets, columns, ratings, weights = block
    of = slice(offsets[row], offsets[row + 1])
    return columns[of], ratings[of], weights[of] if len(weights) else weights


@compiled
def _all_moments(block, fixed, alpha, biases, spaces, moments):
    t, room_of, _, whole, _ = spaces
    width = fixed.shape[1]
    q = _up(width + 1, BYTES // 8)
    for row in range(len(block[0]) - 1):
        whole[:] = 0
        c, r, w = _ratings_of(block, row)
        _sum_moments(whole, t, room_of, c, r, w, fixed, alpha, biases)
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


@inner
def _sum_row(spaces, prior, ratings_of, fixed, alpha, biases, double):
    """Turn one of both T into the prior one plus the moments of a row."""
    t, room_of, _, t64, _ = spaces
    c, r, w = ratings_of
    if double:
        for k in range(len(t64)):
            t64[k] = prior[1][k]
        _sum_moments(t64, t, room_of, c, r, w, fixed, alpha, biases)
    else:
        for k in range(len(t)):
            t[k] = prior[0][k]
        _add_moments(t, room_of, c, r, w, fixed, alpha, biases)


@inner
def _solve_row(t, x, row, ridge, drawn, width):
    """Solve T for the minimum of a row, or for a draw; tell whether all pivots are positive."""
    p = _up(width + 1, BYTES // t.itemsize)
    rhs, noise = drawn
    if len(ridge[0]):
        _ridge(t, ridge, row, width)
    if len(rhs):
        for k in range(width):
            t[k * p + width] += t.dtype.type(rhs[row, k])
    positive = _eliminate(t, width)
    if len(noise):
        for k in range(width):
            t[k * p + width] += t.dtype.type(noise[row, k])
    _substitute(t, x, width)
    return positive


@inner
def _keep_row(found, row, own, ratings_of, fixed, alpha, biases):
    """Write a row in the order (β, γ), and the sums over its ratings."""
    x, sums, _ = found
    width = fixed.shape[1]
    c, r, w = ratings_of
    x[row, 0] = own[width - 1]
    for k in range(1, width):
        x[row, k] = own[k - 1]
    sums[0, row], sums[1, row] = _residuals(own, c, r, w, fixed, alpha, biases)


@inner
def _copy_tile(near, v, v_at, step, of, n):
    """Copy n numbers of some rows, at most four vectors, next to each other."""
    lanes, one = BYTES // v.itemsize, v.dtype.type(1)
    for k in range(len(of)):
        prefetch(v, of[min(k + _AHEAD, len(of) - 1)] * step + v_at, n)
        for lane in range(0, 4 * lanes, lanes):
            gather(near, 4 * lanes * k + lane, v, of[k] * step + v_at + lane, max(n - lane, 0), one)


@inner
def _sum_covariances(sums, block, weights, first, rows, unknowns, e):
    """Add up Σ w V of a batch of rows, segment by segment.

    Return the row after the batch, and the number of segments.

    A tile is the same numbers of some rows of the other side, four vectors of each, copied into a
    near cache.  Where rows have many ratings, it is of rows in their order, and meets all ratings
    of the batch before the next one comes; else it is of the ratings of a segment.
    """
    totals, near, bounds, order, many = sums
    offsets, columns, w_step = block[0], block[1], 1 if len(weights) > 1 else 0
    wide, v, step = 4 * BYTES // rows.itemsize, rows.reshape(-1), rows.shape[1]
    size, last = 0, first
    while last < len(offsets) - 1:
        begin, end = offsets[last], offsets[last + 1]
        if size + (end - begin + SEGMENT - 1) // SEGMENT > bounds.shape[1]:
            break
        for start in range(begin, end, SEGMENT):
            bounds[1, size], bounds[2, size] = start, min(start + SEGMENT, end)
            size += 1
        last += 1
    totals[: size * _up(e, wide)] = 0
    for base in range(0, len(rows) if many else 1, _TILE_ROWS):
        of = order[base : min(base + _TILE_ROWS, len(rows))]
        for k in range(size):
            at, stop = bounds[1, k], bounds[2, k]
            bounds[0, k] = at
            while at < stop and (not many or columns[at] < base + _TILE_ROWS):
                at += 1
            bounds[1, k] = at
        for tile in range(0, e, wide):
            v_at, n = unknowns + tile, e - tile
            if many:
                _copy_tile(near, v, v_at, step, of, n)
            for k in range(size):
                to, begin, end = tile * size + k * wide, bounds[0, k], bounds[1, k]
                if many:
                    z_at = -base * wide
                    add_rows(totals, to, weights, 0, w_step, near, z_at, columns, begin, end)
                    continue
                for start in range(begin, end, _TILE_ROWS):
                    some = columns[start : min(start + _TILE_ROWS, end)]
                    _copy_tile(near, v, v_at, step, some, n)
                    w_at = start * w_step
                    add_rows(totals, to, weights, w_at, w_step, near, 0, order, 0, len(some))
    return last, size


@inner
def _row_sum(total, totals, size, segment, segments, wide):
    """Add the segments of a row in float64."""
    total[:] = 0
    for one in range(segment, segment + segments):
        for tile in range(0, len(total), wide):
            at = tile * size + one * wide
            for k in range(min(wide, len(total) - tile)):
                total[tile + k] += totals[at + k]


@inner
def _add_covariances(t, u, total, entries, ridges, width):
    """Add Σ w V to T, and copy A with its ridge to U; the entries of the constant go to b."""
    p, q = _up(width + 1, BYTES // t.itemsize), _up(width + 1, BYTES // 8)
    one, other = entries
    for k in range(len(one)):
        if other[k] < width - 1:
            t[one[k] * p + other[k]] += t.dtype.type(total[k])
        elif one[k] < width - 1:
            t[one[k] * p + width] -= t.dtype.type(total[k])
    for k in range(width):
        for lane in range(k, q):
            u[k * q + lane] = t[k * p + lane] if lane < width else 0
        u[k * q + k] += ridges[k]


@inner
def _more_squares(x, total, entries, width):
    """Return E Σ w e² less that at the means x: mᵀ (Σ w V) m with m = (γ, 1) of the row."""
    one, other = entries
    squares = 0.0
    for k in range(len(one)):
        factor = 1.0 if one[k] == other[k] else 2.0
        if other[k] < width - 1:
            factor *= x[other[k]]
        if one[k] < width - 1:
            factor *= x[one[k]]
        squares += factor * total[k]
    return squares


@inner
def _invert(u, y, v, width):
    """Turn U, which `_eliminate` left, into V = A⁻¹ = YᵀY with Y = U⁻ᵀ."""
    lanes = BYTES // 8
    q = _up(width + 1, lanes)
    y[:] = 0
    v[:] = 0
    for row in range(width):
        y[row * q + row] = 1
        for lane in range(0, row + 1, lanes):
            subtract_one(y, row * q + lane, q, u, row, q, y, lane, q, row)
            scale(y, row * q + lane, u[row * q + row])
    for row in range(0, width, 4):
        for lane in range(row // lanes * lanes, q, lanes):
            of_row = row * q
            add_four(v, of_row + lane, q, y, of_row + row, q, y, of_row + lane, q, width - row)


@compiled
def _infer_rows(block, plain, fixed, rows, alpha, tau, given, entries, whole, spaces, more, found):
    t, _, own, t64, x64 = spaces
    sums, (u, y, v) = more
    prior, ridge, rhs = given
    solved, (kept, variances, roots, squares) = found
    width, failed, drawn = fixed.shape[1], solved[2], (rhs, rhs[:0])
    q = _up(width + 1, BYTES // 8)
    e, wide, last, size, segment = len(entries[0]), 4 * BYTES // rows.itemsize, 0, 0, 0
    total, of_batch = sums
    for row in range(len(block[0]) - 1):
        if row == last:
            last, size = _sum_covariances(of_batch, block, plain[0], row, rows, width, e)
            segment = 0
        rated, n = _ratings_of(block, row), block[0][row + 1] - block[0][row]
        if not n:
            continue
        _sum_row(spaces, prior, rated, fixed, alpha, True, n > SEGMENT)
        segments = (n + SEGMENT - 1) // SEGMENT
        _row_sum(total, of_batch[0], size, segment, segments, wide)
        segment += segments
        if n > SEGMENT:
            _add_covariances(t64, u, total, entries, ridge[1], width)
            failed[row] = not _solve_row(t64, x64, row, ridge, drawn, width)
            for k in range(width):
                own[k] = x64[k]
        else:
            _add_covariances(t, u, total, entries, ridge[1], width)
            failed[row] = not _solve_row(t, own, row, ridge, drawn, width)
        _keep_row(solved, row, own, rated, fixed, alpha, True)
        squares[0, row] = solved[1][1, row]
        if plain[1]:
            w = plain[0][block[0][row] : block[0][row + 1]]
            squares[0, row] = _residuals(own, rated[0], rated[1], w, fixed, alpha, True)[1]
        squares[1, row] = _more_squares(own, total, entries, width)
        if whole:
            failed[row] |= not _eliminate(u, width)
            _invert(u, y, v, width)
        for k in range(width):
            roots[row, k] = u[k * q + k] if whole else 1 / np.sqrt(u[k * q + k])
        for k in range(e):
            one, other = entries[0][k], entries[1][k]
            entry = (v[one * q + other] if whole else roots[row, one] ** 2) / tau
            kept[row, k] = entry
            if k < width:
                variances[row, k] = entry


@inner
def _free_unknowns(t, u, free, places, width):
    """Copy the rows and columns of T of the free unknowns to U; return their number."""
    q, n = _up(width + 1, BYTES // 8), 0
    for k in range(width):
        if free[k]:
            places[n] = k
            n += 1
    places[n] = width
    p = _up(n + 1, BYTES // 8)
    for row in range(n):
        at = places[row] * q
        for lane in range(row, n + 1):
            u[row * p + lane] = t[at + places[lane]]
        for lane in range(n + 1, p):
            u[row * p + lane] = 0
    return n


@inner
def _descends(t, x, k, places, n, width):
    """Tell whether a rise of x_k, which is 0, lowers the value of x by more than rounding."""
    q = _up(width + 1, BYTES // 8)
    descent = t[k * q + width]
    size = abs(descent)
    for lane in range(n):
        j = places[lane]
        product = t[min(j, k) * q + max(j, k)] * x[j]
        descent -= product
        size += abs(product)
    return descent > width * np.finfo(np.float64).eps * size


@inner
def _solve_nonnegative(t, x, active, width):
    """Turn x into the minimum of T with γ ≥ 0, by the active sets of the numpy twin."""
    u, goal, free, places, rounds = active
    for k in range(width):
        x[k], free[k] = 0, True
    for _ in range(rounds * width):
        n = _free_unknowns(t, u, free, places, width)
        if not _eliminate(u, n):
            return False
        _substitute(u, goal, n)
        step = 1.0
        stopped = False
        for lane in range(n):
            k = places[lane]
            if k < width - 1 and goal[lane] < 0:
                stopped = True
                step = min(step, x[k] / (x[k] - goal[lane]))
        for lane in range(n):
            k = places[lane]
            before = x[k]
            x[k] = before + step * (goal[lane] - before) if step < 1 else goal[lane]
            if k < width - 1 and goal[lane] < 0 and before / (before - goal[lane]) <= step:
                x[k], free[k] = 0, False
        if stopped:
            continue
        done = True
        for k in range(width):
            if not free[k] and _descends(t, x, k, places, n, width):
                free[k], done = True, False
        if done:
            break
    return True


@compiled
def _update_rows(block, fixed, alpha, biases, prior, exact, ridge, drawn, active, spaces, found):
    """Minimize over every row, or draw it; with γ ≥ 0 where there is room for `active` sets."""
    t, _, own, t64, x64 = spaces
    failed = found[2]
    width = fixed.shape[1]
    p, q = _up(width + 1, BYTES // t.itemsize), _up(width + 1, BYTES // 8)
    for row in range(len(block[0]) - 1):
        ratings_of = _ratings_of(block, row)
        n = len(ratings_of[0])
        if not n:
            continue
        double = exact or n > SEGMENT
        _sum_row(spaces, prior, ratings_of, fixed, alpha, biases, double)
        if active is not None and not double:
            for k in range(width):
                for j in range(k, width + 1):
                    t64[k * q + j] = t[k * p + j]
        if active is not None:
            _ridge(t64, ridge, row, width)
            failed[row] = not _solve_nonnegative(t64, x64, active, width)
        elif double:
            failed[row] = not _solve_row(t64, x64, row, ridge, drawn, width)
        else:
            failed[row] = not _solve_row(t, own, row, ridge, drawn, width)
        if double or active is not None:
            for k in range(width):
                own[k] = x64[k]
        _keep_row(found, row, own, ratings_of, fixed, alpha, biases)


@inner
def _gather_chunk(z, block, first, n, fixed, one):
    """Copy (γ_i, 1) of some ratings, in whole vectors."""
    width = fixed.shape[1]
    flat, lanes = fixed.reshape(-1), BYTES // fixed.itemsize
    wide, factor = _up(width, lanes), fixed.dtype.type(1)
    for k in range(n):
        at = _place(flat, block[1], first + k, first + n, width)
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


@inner
def _slope_of_row(z, d, own, r, block, rows, fixed, alpha, one, x):
    """Copy the ratings of a row and its x to z and own, and Σ w e z to r; return Σ w e, Σ w e²."""
    width = fixed.shape[1]
    if rows[1] - rows[0] <= len(d):
        _gather_chunk(z, block, rows[0], rows[1] - rows[0], fixed, one)
    own[:] = 0
    own[width - 1] = x[0]
    for k in range(1, width):
        own[k - 1] = x[k]
    r[:] = 0
    return _add_products(r, z, d, own, block, rows, fixed, alpha, one, True)


@compiled
def _sum_gradients(block, fixed, alpha, biases, spaces, x, sums):
    z, d, own, r = spaces
    offsets, width = block[0], fixed.shape[1]
    one = fixed.dtype.type(1 if biases else 0)
    for row in range(len(offsets) - 1):
        rows = offsets[row], offsets[row + 1]
        sums[0, row], sums[1, row] = _slope_of_row(
            z, d, own, r, block, rows, fixed, alpha, one, x[row]
        )
        x[row, 0] = r[width - 1]
        for k in range(1, width):
            x[row, k] = r[k - 1]


@compiled
def _descend_rows(block, fixed, alpha, diagonals, ratio, biases, steps, spaces, x, sums):
    z, d, own, r, p, q = spaces
    offsets = block[0]
    width = fixed.shape[1]
    wide = len(q)
    one = fixed.dtype.type(1 if biases else 0)
    for row in range(len(offsets) - 1):
        rows = offsets[row], offsets[row + 1]
        _slope_of_row(z, d, own, r, block, rows, fixed, alpha, one, x[row])
        gamma = fixed.dtype.type(diagonals[row])
        beta = fixed.dtype.type(ratio * diagonals[row])
        for k in range(width):
            r[k] -= (gamma if k < width - 1 else beta) * own[k]
        for k in range(wide):
            p[k] = r[k]
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
    bound: int = 0,
) -> tuple[Floats, Doubles, Bools]:
    """Minimize f over every row of a block; see `nonconvex.numerics.factorization.als.solve_rows`.

    Parameters
    ----------
    block : tuple of arrays
        Offsets, columns, ratings and weights or None, as in `RatingBlock`.
    diagonal : float64 array of shape (r,)
        The ridge of γ of each row; that of β is `ratio` times as much.
    background : pair of float64 arrays of shapes (1 + K, 1 + K) and (1 + K,), optional
        Terms that are added to A and b.
    bound : int
        The most rounds of active sets for each unknown, with γ ≥ 0; without, of any sign.

    Returns
    -------
    float array of shape (r, 1 + K)
        The rows.
    float64 array of shape (2, r)
        Σ w e and Σ w e².
    bool array of shape (r,)
        Rows whose elimination met a pivot that is not positive: the others are solved.
    """
    width, spaces = fixed.shape[1], _spaces(fixed.shape[1], fixed.dtype)
    prior = None
    if background is not None:
        prior = np.column_stack([*background])
    ridge = frozen(diagonal, np.float64), _ordered(np.append(ratio, np.ones(width - 1)))
    given = *_inputs(block, fixed), fixed.dtype.type(alpha), biases, _prior(prior, spaces)
    exact, found = background is not None, _results(len(block[0]) - 1, fixed)
    none, active = frozen(np.zeros((0, 0)), np.float64), None
    if bound:
        size = room(len(spaces[3]), spaces[3].dtype), room(len(spaces[4]), spaces[3].dtype)
        active = *size, np.zeros(width, bool), np.zeros(width + 1, np.int64), bound
    _update_rows(*given, exact, ridge, (none, none), active, spaces, found)
    return found


def _ordered(values: Doubles) -> Doubles:
    """Turn the order (β, γ) of the last axis into (γ, β)."""
    return frozen(np.roll(values, -1, axis=-1), np.float64)


def _prior(precision: Doubles | None, spaces: tuple[Any, ...]) -> tuple[Floats, Floats]:
    """Return T of both types before any rating, from A or (A, b) in the order (β, γ)."""
    prior = []
    for of in (spaces[0], spaces[3]):
        whole = np.zeros(len(of))
        if precision is not None:
            width = len(precision)
            order = np.append(np.arange(1, width), 0)
            turned = precision[order][:, [*order, *range(width, precision.shape[1])]]
            square = whole.reshape(-1, _whole(width + 1, BYTES // of.itemsize))
            square[:width, : turned.shape[1]] = turned
        prior.append(frozen(whole, of.dtype))
    return prior[0], prior[1]


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
    spaces, x, sums = _from_rows(fixed, start, 4)
    given = fixed.dtype.type(alpha), frozen(diagonal, np.float64), float(ratio), biases, steps
    _descend_rows(arrays, fixed, *given, spaces, x, sums)
    return x, sums


def sum_gradients(
    block: Block, fixed: Floats, alpha: float, at: Floats, *, biases: bool
) -> tuple[Floats, Doubles]:
    """Return Σ w e z at the rows `at`, and Σ w e and Σ w e² of each row, (2, r)."""
    arrays, fixed = _inputs(block, fixed)
    spaces, x, sums = _from_rows(fixed, at, 2)
    _sum_gradients(arrays, fixed, fixed.dtype.type(alpha), biases, spaces, x, sums)
    return x, sums


def _from_rows(
    fixed: Floats, rows: Floats, vectors: int
) -> tuple[tuple[Any, ...], Floats, Doubles]:
    """Return space for the ratings of a row and for vectors, a copy of the rows, and their sums."""
    dtype = fixed.dtype
    wide = _whole(fixed.shape[1], BYTES // dtype.itemsize)
    chunk = max(_LEAST_CHUNK, 16 * _CHUNK_BYTES // (wide * dtype.itemsize))
    spaces = tuple(room(size, dtype) for size in (chunk * wide, chunk, *[wide] * vectors))
    x, sums, _ = _results(len(rows), fixed)
    x[:] = rows
    return spaces, x, sums


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
    spaces = _spaces(fixed.shape[1], fixed.dtype)
    drawn = _ordered(rhs), _ordered(noise)
    given = *_inputs(block, fixed), fixed.dtype.type(alpha), True, _prior(precision, spaces)
    ridge, found = [frozen(np.zeros(0), np.float64)] * 2, _results(len(block[0]) - 1, fixed)
    _update_rows(*given, False, tuple(ridge), drawn, None, spaces, found)
    return found


def sum_moments(block: Block, fixed: Floats, alpha: float) -> Doubles:
    """Return Σ w m mᵀ of each row with m = (1, γ_i, y), of shape (r, K + 2, K + 2)."""
    arrays, fixed = _inputs(block, fixed)
    width = fixed.shape[1]
    moments = np.empty((len(arrays[0]) - 1, width + 1, width + 1))
    given = arrays, fixed, fixed.dtype.type(alpha), True
    _all_moments(*given, _spaces(width, fixed.dtype), moments)
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


def infer_rows(
    block: Block,
    plain: Floats | None,
    fixed: Floats,
    rows: Floats,
    alpha: float,
    tau: float,
    ridge: Doubles,
    rhs: Doubles,
    entries: tuple[Ints, Ints],
    *,
    whole: bool,
) -> tuple[Any, ...]:
    """Set the distribution of every row of a block; see `nonconvex.numerics.factorization.vb`.

    Parameters
    ----------
    block, fixed, alpha
        As for `minimize_rows`, with weights that have ω.
    plain : float array, optional
        The weights of the ratings without ω, if these are others.
    rows : float array of shape (m, w)
        The other side's rows, whose covariances follow their means.
    ridge, rhs : float64 arrays of shapes (1 + K,) and (r, 1 + K)
        Λ/τ, and Λ/τ times the mean of each row under the prior.
    entries : pair of int arrays of shape (e,)
        Rows and columns of the entries of covariances.
    whole : bool
        Whether covariances are the entries of A⁻¹, or of its diagonal alone.

    Returns
    -------
    Means, sums of shape (2, r) and failures, as of `minimize_rows`; entries of V = A⁻¹/τ, (r, e),
    and its diagonal in float64, (r, 1 + K); roots of the inverse pivots of A, (r, 1 + K);
    Σ w e² without ω and what covariances add, (2, r).
    """
    arrays, fixed = _inputs(block, fixed)
    (r, width), dtype, spaces = rhs.shape, fixed.dtype, _spaces(fixed.shape[1], fixed.dtype)
    own = arrays[3] if plain is None else frozen(plain, dtype)
    own = own if len(own) else frozen(np.ones(1), dtype)
    both = np.array([(np.asarray(of) - 1) % width for of in entries])
    kinds = frozen(both.min(axis=0), np.int64), frozen(both.max(axis=0), np.int64)
    e, double = len(kinds[0]), np.dtype(np.float64)
    segments = -(-np.diff(arrays[0]) // SEGMENT)
    ranges, wide = -(-len(rows) // _TILE_ROWS), 4 * BYTES // dtype.itemsize
    many = len(arrays[1]) >= ranges * max(_LEAST_RATINGS * r, 4 * _TILE_ROWS)
    batch = max(min(_BATCH, segments.sum()) if many else 1, segments.max(initial=1))
    order = np.arange(max(len(rows), _TILE_ROWS), dtype=np.int32)
    spaces_of = room(batch * _whole(e, wide), dtype), room(_TILE_ROWS * wide, dtype)
    of_batch = *spaces_of, np.zeros((3, batch), np.int64), frozen(order, np.int32), many
    more = (np.zeros(e), of_batch), tuple(room(len(spaces[3]), double) for _ in range(3))
    ridges = np.ones(r), _ordered(ridge)
    given = _prior(None, spaces), tuple(frozen(of, double) for of in ridges), _ordered(rhs)
    roots, squares = np.ones((r, width)), np.zeros((2, r))
    solved, inferred = _results(r, fixed), (np.zeros((r, e), dtype), 0 * roots, roots, squares)
    _infer_rows(
        *(arrays, (own, plain is not None), fixed, frozen(rows, dtype), dtype.type(alpha)),
        *(float(tau), given, kinds, whole, spaces, more, (solved, inferred)),
    )
    return *solved, *inferred
