"""Folding in: the rows of one side that solve their equations, given the other side.

This says which rows are replaced and by which values; `nonconvex.distributed.factorization.fold_in`
and `nonconvex.local.factorization` bring the ratings of a row together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

import numpy as np

from nonconvex.numerics import Floats
from nonconvex.numerics.deterministic import Kernel, one_thread_per_product
from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import (
    Background,
    Factors,
    Ridge,
    Side,
    preference_block,
)
from nonconvex.numerics.factorization.posterior import Posterior, fold_rows
from nonconvex.numerics.factorization.ridge_posterior import RidgePosterior
from nonconvex.numerics.factorization.vb import VariationalPosterior

Uncertainty = RidgePosterior | VariationalPosterior
"""What a model knows of its rows, beside their means."""

Solve = Callable[[RatingBlock, Callable[[], Sequence[Any]]], Floats]
"""Rows of a block of ratings, which may ask for the ids of the rows."""


class FoldInParts(NamedTuple):
    """The parts of a model that folding in changes."""

    factors: Factors
    posterior: Posterior | None  # the kept samples, if there are any
    ridge_posterior: Uncertainty | None  # the uncertainty of rows, if it is known


class Shared(Protocol):
    """Something that has the rows of a side, such as a broadcast."""

    @property
    def value(self) -> Floats:
        """The rows, of shape (m, 1 + K)."""


class Equation(NamedTuple):
    """The normal equation of a row, apart from its ratings."""

    ridge: Ridge  # with n and the mean degree of training
    # whether there are β, and whether γ ≥ 0 is required
    biases: bool
    nonnegative: bool
    confidence: float | None  # κ of implicit feedback; None if ratings are explicit
    kernel: Kernel = "numpy"

    @classmethod
    def of(cls, ridge: Ridge, params: Callable[[str], Any], kernel: Kernel = "numpy") -> Equation:
        """Return that of a model with these Params."""
        confidence = params("confidence") if params("implicitPrefs") else None
        return cls(ridge, params("fitBiases"), params("nonnegative"), confidence, kernel)


def unfolded(
    side: Side, parts: FoldInParts, fixed: Shared, equation: Equation
) -> tuple[Floats, Solve]:
    """Return the rows of a side as they are, and what solves for others, given the other side.

    The columns are (β, γ), and with a ridge posterior the degree and, of users, the noise, or those
    of a row with its covariance.  With samples, the rows are those of the mean and of all samples,
    as are the `fixed` ones, and the others are drawn.
    """
    factors, posterior, ridge = parts
    if posterior is not None:
        return _unfolded_samples(side, factors, fixed, posterior, equation.kernel)
    if isinstance(ridge, VariationalPosterior):
        return _unfolded_distributions(side, factors, fixed, ridge, equation.kernel)
    own, background, rows = side.number, None, (factors.users, factors.items)
    if equation.confidence is not None:
        other = rows[1 - own]
        background = Background.of(other, factors.alpha, biases=equation.biases)
    spread = None if ridge is None else ridge.spread(factors)
    alpha = factors.alpha

    def solve(block: RatingBlock, ids: Callable[[], Sequence[Any]]) -> Floats:
        del ids
        if equation.confidence is not None:
            block = preference_block(block, equation.confidence)
        kept: dict[str, Any] = {"biases": equation.biases, "nonnegative": equation.nonnegative}
        kept["kernel"], x = equation.kernel, fixed.value
        update = solve_rows(block, x, alpha, equation.ridge, background=background, **kept)
        if spread is None:
            return update.x
        known = [block.degrees]
        if own == 0:
            known.append(spread.levels(block.degrees, update.squares))
        return np.column_stack([update.x, *known])

    before = [rows[own]]
    if ridge is not None:
        of_rows = (ridge.measured.user_degrees, ridge.measured.item_degrees)[own]
        before += [of_rows[:, None], *([ridge.measured.noise[:, None]] if not own else [])]
    return np.hstack(before), solve


def _unfolded_distributions(
    side: Side, factors: Factors, fixed: Shared, posterior: VariationalPosterior, kernel: Kernel
) -> tuple[Floats, Solve]:
    given = posterior.given(side, factors.alpha)._replace(kernel=kernel)
    known = posterior.measured
    more = getattr(known, side.other)

    def solve(block: RatingBlock, ids: Callable[[], Sequence[Any]]) -> Floats:
        del ids
        return given.update(block, np.hstack([fixed.value, more])).x

    return np.hstack([getattr(factors, side), getattr(known, side)]), solve


def _unfolded_samples(
    side: Side, factors: Factors, fixed: Shared, posterior: Posterior, kernel: Kernel
) -> tuple[Floats, Solve]:
    mean = getattr(factors, side)
    user_precision = posterior.user_precision
    if side == Side.ITEMS:  # items have no ω
        user_precision = np.ones((len(mean), len(posterior.taus)), mean.dtype)
    with one_thread_per_product():
        projections = posterior.projections(side, factors)
    given = [each._replace(kernel=kernel) for each in posterior.conditionals(side)]
    kappa = posterior.user_freedom

    def solve(block: RatingBlock, ids: Callable[[], Sequence[Any]]) -> Floats:
        # Row indices are local to a partition, so random numbers are keyed by the id.
        digests = (blake2b(str(value).encode(), digest_size=8) for value in ids())
        keys = np.array([int.from_bytes(digest.digest()) for digest in digests], np.uint64)
        keys = keys[block.rows]
        return np.hstack(fold_rows(block, fixed.value, given, projections, keys, kappa))

    return np.hstack([mean, getattr(posterior, side), user_precision]), solve


def folded(side: Side, parts: FoldInParts, whole: Floats) -> FoldInParts:
    """Replace a side by all its rows, in the columns of `unfolded`."""
    factors, posterior, ridge = parts
    x, known = np.split(whole, [getattr(factors, side).shape[1]], axis=1)
    changed: dict[str, Any] = {side.value: x}
    if posterior is not None:
        samples, user_precision = np.split(known, [getattr(posterior, side).shape[1]], axis=1)
        drawn: dict[str, Any] = {side.value: samples}
        if side == Side.USERS:
            drawn["user_precision"] = user_precision
        return FoldInParts(factors._replace(**changed), posterior._replace(**drawn), ridge)
    if isinstance(ridge, VariationalPosterior):
        measured = ridge.measured._replace(**{side.value: np.ascontiguousarray(known)})
        ridge = ridge._replace(measured=measured)
    elif ridge is not None:
        names = ("user_degrees", "noise") if side == Side.USERS else ("item_degrees",)
        columns = dict(zip(names, map(np.ascontiguousarray, known.T), strict=True))
        ridge = ridge._replace(measured=ridge.measured._replace(**columns))
    changed[side.value] = np.ascontiguousarray(x)
    return FoldInParts(factors._replace(**changed), None, ridge)
