"""Alternating least squares: the solution of every row while the other side is fixed.

Fixing α and the items, f is a separate ridge regression for each user u, with unknowns
x_u = (β_u, γ_u), design rows z_i = (1, γ_i) and targets y_i = R_ui − α − β_i:

    (Σ_{i ∈ I_u} w z_i z_iᵀ + n D_u) x_u = Σ_{i ∈ I_u} w z_i y_i

with the diagonal D_u of `Ridge`, which is λ₁ I where ρ = 1 and ν = 0.  Equations of short rows in
float32 with 24 unknowns or more are solved by conjugate gradients to the rounding of float32, all
others by elimination.

The item side is the same with u ↔ i and λ₂: `solve_rows` is called once for each side.  A long row
is cut by the indices of its columns alone, so its sums are the same whichever tasks add them up.
Its moments M = Σ w m mᵀ with m = (z_i, y_i) hold its normal equation, and its errors for any x:

    Σ w e = M_1y − M_1z·x,   Σ w e² = M_yy − 2 M_zy·x + xᵀ M_zz x

Coordinate descent, `sweep_rows`, sets one partial derivative of f at a time to zero.  With z_i0 = 1
and z_ik = γ_ik, β and γ have the same formula:

    x_uk = Σ_{i ∈ I_u} w z_ik (e_ui + x_uk z_ik) / (Σ w z_ik² + n D_uk)

A sweep costs O(n K), an exact solve O(n K² + (|U| + |I|) K³).
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from nonconvex.numerics import Bools, Doubles, Floats, Ints
from nonconvex.numerics.deterministic import Kernel, require
from nonconvex.numerics.factorization.blocks import LONG, RatingBlock
from nonconvex.numerics.factorization.design import designs
from nonconvex.numerics.factorization.model import Background, Ridge

ROUNDS_PER_UNKNOWN = 10  # far more than needed: rounding must not make active sets cycle


def solve_quadratics(a: Floats, b: Floats, *, nonnegative: bool = False) -> Floats:
    """argmin ½ xᵀA x − bᵀx for each of s symmetric positive semidefinite A (s, k, k) and b (s, k).

    If `nonnegative`, every unknown but the first, which is the bias, must be ≥ 0.  Where
    elimination meets a pivot of 0, the solution is that of least norm.  The bits of a solution
    (k,) depend on its own A and b only.
    """
    if nonnegative:
        return _solve_nonnegative(a.astype(np.float64), b.astype(np.float64))
    try:
        return np.linalg.solve(a, b[..., None])[..., 0]
    except np.linalg.LinAlgError:
        # One singular matrix stops the whole stack: solve them one by one.
        return np.stack([_solve_quadratic(a_s, b_s) for a_s, b_s in zip(a, b, strict=True)])


def _solve_quadratic(a: Floats, b: Floats) -> Floats:
    try:
        x: Floats = np.linalg.solve(a, b)
    except np.linalg.LinAlgError:
        x = np.linalg.lstsq(a, b, rcond=None)[0]
    return x


def _solve_nonnegative(a: Doubles, b: Doubles) -> Doubles:
    """Active sets (Lawson and Hanson, 1974), with many unknowns entering or leaving at a time.

    x moves towards the minimum over its free unknowns until one would become negative; such
    unknowns are bound to 0.  Where none is, bound unknowns along which the value falls are freed.
    So the value never rises, and no set of free unknowns occurs twice.
    """
    x = np.zeros_like(b)
    free = np.ones(b.shape, dtype=bool)
    todo = np.arange(len(b))
    for _ in range(ROUNDS_PER_UNKNOWN * b.shape[1]):
        if not len(todo):
            break
        a_t, b_t, x_t, free_t = a[todo], b[todo], x[todo], free[todo]
        goal = _solve_over(free_t, a_t, b_t)
        falling = free_t & (goal < 0)
        falling[:, 0] = False
        reach = np.divide(x_t, x_t - goal, out=np.ones_like(x_t), where=falling)
        step = reach.min(axis=1, keepdims=True)
        x_t = np.where(step < 1, x_t + step * (goal - x_t), goal)
        bound = ~free_t | (falling & (reach <= step))
        x_t[bound] = 0
        descent, rounding = _descent(a_t, b_t, x_t)
        stopped = np.any(falling, axis=1)
        entering = ~stopped[:, None] & bound & (descent > rounding)
        x[todo], free[todo] = x_t, ~bound | entering
        todo = todo[stopped | np.any(entering, axis=1)]
    return x


def _solve_over(free: Bools, a: Doubles, b: Doubles) -> Doubles:
    """Minimize over the free unknowns; the others are 0."""
    among_free = free[:, :, None] & free[:, None, :]
    identity = np.eye(b.shape[1])
    goal = solve_quadratics(np.where(among_free, a, identity), np.where(free, b, 0))
    return np.where(free, goal, 0)


def _descent(a: Doubles, b: Doubles, x: Doubles) -> tuple[Doubles, Doubles]:
    """Return the descent b − A x along each unknown, and a bound of its rounding, of (s, k)."""
    size = np.abs(b) + np.einsum("skl,sl->sk", np.abs(a), np.abs(x))
    rounding = b.shape[1] * np.finfo(np.float64).eps * size
    return b - np.einsum("skl,sl->sk", a, x), rounding


# ‖b − A x‖ / ‖b‖, near the rounding of float32 sums of some hundred terms
TOLERANCE = 2e-6


def conjugate_gradients(a: Floats, b: Floats, most_steps: int) -> tuple[Floats, Bools]:
    """Solve A x = b for each of s symmetric positive definite A, from x = 0 (Hestenes and Stiefel).

        r = b − A x,  p ← r + (‖r‖²/‖r_before‖²) p,  x ← x + (‖r‖²/pᵀA p) p

    A step costs one product A p, about a fiftieth of an elimination at 65 unknowns, and lowers
    ½ xᵀA x − bᵀx; a normal equation with a ridge converges in some 15.  A converged system is not
    touched again, so the bits of a solution depend on its own A and b only.

    Takes A (s, k, k) and b (s, k); returns x (s, k), and whether ‖r‖ ≤ `TOLERANCE` ‖b‖ (s,).
    """
    x, r, p = np.zeros_like(b), b.copy(), b.copy()
    square = _dot(r, r)
    goal = square * b.dtype.type(TOLERANCE) ** 2
    nothing = np.zeros_like(square)
    for _ in range(most_steps):
        going = square > goal  # false for NaN, too
        if not going.any():
            break
        ap = np.matmul(p[:, None], a)[:, 0]  # (s, k), as A is symmetric
        curvature = _dot(p, ap)
        going &= curvature > 0
        length = np.divide(square, curvature, out=nothing.copy(), where=going)[:, None]
        x += length * p
        r -= length * ap
        after = _dot(r, r)
        p *= np.divide(after, square, out=nothing.copy(), where=going)[:, None]
        p += r
        square = after
    return x, square <= goal


def _dot(one: Floats, other: Floats) -> Floats:
    """Return the products of the rows of two arrays of shape (s, k)."""
    products: Floats = np.matmul(one[:, None], other[..., None])[:, 0, 0]
    return products


class RowUpdate(NamedTuple):
    """New rows of a block, and the sums over their ratings that f and α need."""

    x: Floats  # (r, 1 + K): the new rows (β, γ)
    residual: Doubles  # (r,): Σ w (R − R̂)
    squares: Doubles  # (r,): Σ w (R − R̂)²
    penalty: Doubles  # (r,): See `Ridge.penalty`
    weight: Doubles  # (r,): Σ w, so that α's closed form adds Σ residual / Σ weight

    @classmethod
    def of(
        cls,
        block: RatingBlock,
        x: Floats,
        residual: Doubles,
        squares: Doubles,
        ridge: Ridge,
        background: Background | None,
    ) -> RowUpdate:
        """Complete the sums over the observed ratings by the penalty and the background."""
        weight = block.total_weights()
        if background is not None:
            residual = residual + background.residual(x)
            squares = squares + background.squares(x) - block.over_rows(block.ratings)
            weight = weight + background.columns
        return cls(x, residual, squares, ridge.penalty(block.degrees, x), weight)


def part_moments(
    block: RatingBlock, fixed: Floats, alpha: float, *, kernel: Kernel = "numpy"
) -> Doubles:
    """Return M of each part, (p, K + 2, K + 2), given the other side's rows (β, γ) (m, 1 + K)."""
    if kernel == "compiled":
        summed: Doubles = compiled_twin().sum_moments(arrays_of(block), fixed, alpha)
        return summed
    size = fixed.shape[1] + 1
    moments = np.zeros((len(block.rows), size, size))
    for members, segments in designs(block, fixed, alpha, biases=True):
        for design in segments:
            moments[members] += design.moments()
    return moments


def row_moments(parts: Doubles, row_of_part: Ints, rows: int) -> Doubles:
    """Add up the moments (p, K + 2, K + 2) of the parts of each row, in their order."""
    moments = np.zeros((rows, *parts.shape[1:]))
    for row, of_part in zip(row_of_part, parts, strict=True):
        moments[row] += of_part
    return moments


def solve_moments(
    moments: Doubles,
    degrees: Doubles,
    ridge: Ridge,
    *,
    dtype: type[np.floating],
    biases: bool = True,
    nonnegative: bool = False,
    kernel: Kernel = "numpy",
) -> RowUpdate:
    """Minimize f over each of q rows, given the moments (q, K + 2, K + 2) of their ratings.

    The arithmetic is in float64, and the solutions are of type `dtype`.  Degrees are of shape (q,),
    and the other options are those of `solve_rows`.
    """
    used = np.ones(moments.shape[1] - 1)
    used[0] = biases
    a = moments[:, :-1, :-1] * np.outer(used, used)
    b = moments[:, :-1, -1] * used
    curvature = np.einsum("qkk->qk", a)  # (q, 1 + K), the diagonal itself
    rounding = len(used) * np.finfo(np.float64).eps * curvature.max(axis=1, keepdims=True)
    curvature += np.maximum(ridge.diagonal(degrees, len(used)), rounding)
    if kernel == "compiled" and not nonnegative:
        solved, failed = compiled_twin().solve_positive(a, b)
        solved[failed] = solve_quadratics(a[failed], b[failed])
    else:
        solved = solve_quadratics(a, b, nonnegative=nonnegative)
    x = solved.astype(dtype)
    error = np.concatenate([-x.astype(np.float64) * used, np.ones((len(x), 1))], axis=1)
    of_error = np.einsum("qkl,ql->qk", moments, error)  # (q, K + 2): Σ w m e
    squares = np.maximum(np.einsum("qk,qk->q", error, of_error), 0)
    penalty = ridge.penalty(degrees, x)
    return RowUpdate(x, of_error[:, 0], squares, penalty, moments[:, 0, 0].copy())


# Fewer unknowns are eliminated as fast, and for longer rows the products dominate: these are solved
# by elimination, as is everything in float64.
LEAST_UNKNOWNS = 24
MOST_RATINGS_PER_UNKNOWN = 8
MOST_STEPS = 40  # then by elimination


def solve_rows(
    block: RatingBlock,
    fixed: Floats,
    alpha: float,
    ridge: Ridge,
    *,
    biases: bool = True,
    nonnegative: bool = False,
    background: Background | None = None,
    kernel: Kernel = "numpy",
) -> RowUpdate:
    """Minimize f over every row of a block, to rounding.

    Parameters
    ----------
    fixed : float array of shape (m, 1 + K)
        The other side's rows (β, γ).  Its dtype is the dtype of the arithmetic: float32 halves
        the time, float64 is exact to rounding.
    biases : bool
        Without, β = 0 is kept: the design rows are (0, γ_i).
    nonnegative : bool
        Keep γ ≥ 0.
    background : Background, optional
        Σ R̂² over all pairs, observed or not (implicit feedback).
    kernel : "numpy" or "compiled"
        See `nonconvex.numerics.deterministic`.

    Returns
    -------
    RowUpdate
        A row without any weight solves to x = 0.

    Examples
    --------
    One user who rated one item 5, with z = (1, 2): (zzᵀ + I) x = z (5 − 3 − 0.5).

    >>> block = RatingBlock.from_triples([0], [0], [5.0])
    >>> fixed = np.array([[0.5, 2.0]])
    >>> solve_rows(block, fixed, 3.0, Ridge(1.0, 0.0, 1, 1.0)).x
    array([[0.25, 0.5 ]])
    """
    settings: dict[str, Any] = {"biases": biases, "nonnegative": nonnegative}
    long = block.counts > LONG
    if background is None and long.any():
        return _solve_with_long_rows(block, long, fixed, alpha, ridge, kernel=kernel, **settings)
    solve = _solve_compiled if kernel == "compiled" else _solve_numpy
    solved = solve(block, fixed, alpha, ridge, background=background, **settings)
    return RowUpdate.of(block, *solved, ridge, background)


_Solved = tuple[Floats, Doubles, Doubles]  # rows, and Σ w e and Σ w e² of each


def _solve_numpy(
    block: RatingBlock,
    fixed: Floats,
    alpha: float,
    ridge: Ridge,
    *,
    biases: bool,
    nonnegative: bool,
    background: Background | None,
) -> _Solved:
    rows, width = len(block.rows), fixed.shape[1]
    x, residual, squares = np.zeros((rows, width), fixed.dtype), np.zeros(rows), np.zeros(rows)
    diagonal = ridge.diagonal(block.degrees, width)
    for members, segments in designs(block, fixed, alpha, biases=biases):
        a, b = segments.normal_equation()
        if background is not None:
            a, b = a + background.gram, b + background.rhs
        length = None if nonnegative or background is not None else segments.length
        x[members] = solve_equations(a, b, diagonal[members], length, nonnegative=nonnegative)
        residual[members], squares[members] = segments.sums(x[members])
    return x, residual, squares


def _solve_compiled(
    block: RatingBlock,
    fixed: Floats,
    alpha: float,
    ridge: Ridge,
    *,
    biases: bool,
    nonnegative: bool,
    background: Background | None,
) -> _Solved:
    diagonal = ridge.diagonal(block.degrees, 2)[:, 1]
    more = None if background is None else (background.gram, background.rhs)
    given = fixed, alpha, diagonal, ridge.bias_ratio
    bound = ROUNDS_PER_UNKNOWN if nonnegative else 0
    x, sums, failed = compiled_twin().minimize_rows(
        arrays_of(block), *given, biases=biases, background=more, bound=bound
    )
    if failed.any():
        some, _ = block.divided(~failed)
        settings: dict[str, Any] = {"biases": biases, "nonnegative": nonnegative}
        again = _solve_numpy(some, fixed, alpha, ridge, background=background, **settings)
        x[failed], sums[:, failed] = again[0], again[1:]
    return x, *sums


def compiled_twin() -> ModuleType:
    """Import the compiled twins, which takes half a second."""
    require("compiled")
    from nonconvex.numerics.compiled import als

    return als


def arrays_of(block: RatingBlock) -> tuple[Any, ...]:
    """Return the arrays of a block that compiled loops read."""
    return block.offsets, block.columns, block.ratings, block.weights


def _solve_with_long_rows(
    block: RatingBlock,
    long: Bools,
    fixed: Floats,
    alpha: float,
    ridge: Ridge,
    *,
    kernel: Kernel,
    **settings: Any,
) -> RowUpdate:
    others, parts = block.divided(long)
    indices, row_of_part = np.unique(parts.rows, return_inverse=True)
    moments = row_moments(
        part_moments(parts, fixed, alpha, kernel=kernel), row_of_part, len(indices)
    )
    settings["kernel"], dtype = kernel, fixed.dtype.type
    of_long = solve_moments(moments, block.degrees[long], ridge, dtype=dtype, **settings)
    update = solve_rows(others, fixed, alpha, ridge, **settings)
    whole = RowUpdate(np.empty((len(long), fixed.shape[1]), dtype), *np.empty((4, len(long))))
    for values, of_others, of_these in zip(whole, update, of_long, strict=True):
        values[~long], values[long] = of_others, of_these
    return whole


def solve_equations(
    a: Floats, b: Floats, diagonal: Doubles, length: int | None, *, nonnegative: bool = False
) -> Floats:
    """Solve (A + diag) x = b of rows of a padded length; adds the diagonal to A in place.

    The shape of a row alone tells how it is solved; with a length of None there is no iteration,
    which begins at 0: what came before leaves no trace in a row.
    """
    curvature = np.einsum("skk->sk", a)  # (s, 1 + K), the diagonal itself
    # Below the rounding of A, a ridge could not keep a row with fewer ratings than unknowns from an
    # arbitrary and enormous solution.
    rounding = a.shape[-1] * np.finfo(a.dtype).eps * curvature.max(axis=1, keepdims=True)
    curvature += np.maximum(diagonal, rounding)
    width = a.shape[-1]
    short = length is not None and length <= MOST_RATINGS_PER_UNKNOWN * width
    if not (short and width >= LEAST_UNKNOWNS and a.dtype == np.float32):
        return solve_quadratics(a, b, nonnegative=nonnegative)
    x, converged = conjugate_gradients(a, b, MOST_STEPS)
    if not converged.all():
        x[~converged] = solve_quadratics(a[~converged], b[~converged])
    return x


CG_STEPS = 3


def step_rows(
    block: RatingBlock,
    fixed: Floats,
    alpha: float,
    ridge: Ridge,
    start: Floats,
    *,
    biases: bool = True,
    kernel: Kernel = "numpy",
) -> RowUpdate:
    """Take `CG_STEPS` steps of conjugate gradients on f in every row of a block, from `start`.

    A step multiplies by A = Σ w z zᵀ + n D through the ratings, in O(n K) without forming A, and
    minimizes f along its direction, so that f never rises (to rounding).  `start` (r, 1 + K) are
    the rows before; all else is as for `solve_rows`.

    References
    ----------
    Takács, Pilászy and Tikk (2011), Applications of the conjugate gradient method for implicit
    feedback collaborative filtering.
    """
    diagonal = ridge.diagonal(block.degrees, fixed.shape[1])
    if kernel == "compiled":
        given = fixed, alpha, ridge.diagonal(block.degrees, 2)[:, 1], ridge.bias_ratio, start
        x, sums = compiled_twin().descend_rows(
            arrays_of(block), *given, biases=biases, steps=CG_STEPS
        )
        return RowUpdate.of(block, x, sums[0], sums[1], ridge, None)
    x = start.copy()
    residual, squares = np.zeros((2, len(x)))
    for members, segments in designs(block, fixed, alpha, biases=biases):
        own, ridges = x[members].astype(np.float64), diagonal[members]
        r = segments.gradient_sums(own.astype(x.dtype)) - ridges * own
        p, size = r.copy(), _dot(r, r)
        for _ in range(CG_STEPS):
            q = segments.products(p.astype(x.dtype)) + ridges * p
            curvature = _dot(p, q)
            going = (size > 0) & (curvature > 0)
            length = np.divide(size, curvature, out=np.zeros_like(size), where=going)
            own += length[:, None] * p
            r -= length[:, None] * q
            after = _dot(r, r)
            ahead = np.divide(after, size, out=np.zeros_like(size), where=going)
            p, size = r + ahead[:, None] * p, after
        x[members] = own
        residual[members], squares[members] = segments.sums(x[members])
    return RowUpdate.of(block, x, residual, squares, ridge, None)


def sweep_rows(
    block: RatingBlock,
    fixed: Floats,
    alpha: float,
    ridge: Ridge,
    start: Floats,
    *,
    biases: bool = True,
    nonnegative: bool = False,
    background: Background | None = None,
) -> RowUpdate:
    """Minimize f over each coordinate of every row of a block in turn.

    `start` (r, 1 + K) are the rows before; all else is as for `solve_rows`.
    """
    diagonal = ridge.diagonal(block.degrees, fixed.shape[1])
    row = block.row_of_rating()  # (n,)
    z = np.ascontiguousarray(fixed.T)  # (1 + K, m)
    x = start.astype(np.float64)  # (r, 1 + K)
    w = None if block.weights is None else block.weights.astype(np.float64)

    def column(k: int) -> Doubles:
        values: Doubles = z[k].astype(np.float64)[block.columns]  # (n,)
        return values

    def over_rows(values: Doubles) -> Doubles:
        return block.over_rows(values if w is None else w * values)  # (r,)

    e = block.ratings.astype(np.float64) - alpha - column(0) - x[row, 0]
    for k in range(1, len(z)):
        e -= x[row, k] * column(k)
    for k in range(0 if biases else 1, len(z)):
        z_k = column(k) if k else np.ones(len(e))
        curvature = over_rows(z_k * z_k)
        rhs = over_rows(z_k * e) + curvature * x[:, k]
        if background is not None:
            gram = background.gram[k]
            curvature += gram[k]
            rhs += background.rhs[k] - np.einsum("rk,k->r", x, gram) + gram[k] * x[:, k]
        curvature += diagonal[:, k]
        new = np.divide(rhs, curvature, out=x[:, k].copy(), where=curvature > 0)
        if nonnegative and k:
            np.maximum(new, 0, out=new)
        new = new.astype(fixed.dtype).astype(np.float64)  # e follows what is kept, to the bit
        e -= z_k * (new - x[:, k])[row]
        x[:, k] = new
    return RowUpdate.of(
        block, x.astype(fixed.dtype), over_rows(e), over_rows(e * e), ridge, background
    )
