"""The latent factor model R̂_ui = α + β_u + β_i + γ_u·γ_i: its predictions and its objective.

This is the definition of the objective; every solver is tested against it.  A fit gets f from the
sums that its half-steps return, see `nonconvex.distributed.factorization.state.FitState`.

In implicit feedback every pair counts, the observed ones more (Hu, Koren and Volinsky, 2008).  With
confidence κ, preference p_ui = 1 where R_ui > 0 and else 0, and c_ui = 1 + κ |R_ui|,

    f = (1/n) [ Σ_{all u, i} c_ui (p_ui − R̂_ui)² + Σ_u ridge_u ‖x_u‖² + Σ_i ridge_i ‖x_i‖² ]

where n is the number of positive ratings and ridge counts positive ratings.  Nothing here visits
all pairs.  With a = c − 1 and R' = c p / a, for each observed pair

    c (p − R̂)² = R̂² + a (R' − R̂)² − R'

so f is a *background* Σ_{all} R̂², which needs only sums over the columns, plus an explicit problem
with ratings R' and weights a, less a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from nonconvex.numerics import Doubles, Floats, Ints
from nonconvex.numerics.deterministic import Kernel, Stream, require
from nonconvex.numerics.factorization.blocks import RatingBlock

# Numbers gathered of one side at a time: with their doubles, they stay in a core's cache.
_CACHE_ELEMENTS = 1 << 17


class Side(StrEnum):
    """A side of the ratings: functions are written once for a side, and called for both."""

    USERS = "users"
    ITEMS = "items"

    @property
    def other(self) -> Side:
        """The other side."""
        return Side.ITEMS if self == Side.USERS else Side.USERS

    @property
    def number(self) -> int:
        """0 for users, 1 for items: a key of random numbers."""
        return int(self is Side.ITEMS)

    @property
    def singular(self) -> str:
        """``user`` or ``item``: the name of a column."""
        return self.value[:-1]


SIDE_ORDER = (Side.ITEMS, Side.USERS)
"""The order of an iteration: users last, so that folding a user in gives its own row."""


class Factors(NamedTuple):
    """All parameters of the model."""

    alpha: float  # the global bias α
    users: Floats  # (n_u, 1 + K): row u is x_u = (β_u, γ_u)
    items: Floats  # (n_i, 1 + K): row i is x_i = (β_i, γ_i)


class Ridge(NamedTuple):
    """The regularization of one side: row r with d_r ratings pays n λ (d_r / d̄)^ν (ρ β² + ‖γ‖²).

    ν = 0 and ρ = 1 is the plain λ Σ (β² + ‖γ‖²) without growth.  ν = 1 grows with the
    number of ratings, as in MLlib's ALS, where λ_MLlib = λ · (number of rows).
    """

    reg: float  # λ₁ for users, λ₂ for items, ≥ 0
    exponent: float  # ν
    total: float  # n, the number of ratings (or the sum of their weights)
    mean_degree: float  # d̄ = n / (number of rows)
    bias_ratio: float = 1.0  # ρ, the regularization of β relative to that of γ

    def diagonal(self, degrees: Doubles, width: int) -> Doubles:
        """Diagonal added to each row's normal equation, of shape (r, width)."""
        rows = self.total * self.reg * (degrees / self.mean_degree) ** self.exponent  # (r,)
        return np.outer(rows, np.append(self.bias_ratio, np.ones(width - 1)))

    def penalty(self, degrees: Doubles, x: Floats) -> Doubles:
        """n λ (d / d̄)^ν (ρ β² + ‖γ‖²) of each row, of shape (r,)."""
        squares = x.astype(np.float64) ** 2
        total: Doubles = np.sum(self.diagonal(degrees, x.shape[1]) * squares, axis=1)
        return total


def predict(factors: Factors, users: Ints, items: Ints, *, kernel: Kernel = "numpy") -> Doubles:
    """R̂_ui = α + β_u + β_i + γ_u·γ_i for pairs of dense indices, in float64.

    An index of -1 is an id never seen: it contributes β = 0 and γ = 0.  The bits of a prediction
    depend on the kernel and on the two rows alone.

    Examples
    --------
    >>> rows = np.array([[0.5, 1.0, 2.0]])  # β = 0.5, γ = (1, 2)
    >>> predict(Factors(3.0, rows, rows), np.array([0, 0]), np.array([0, -1]))
    array([9. , 3.5])
    """
    if kernel == "compiled":
        require(kernel)
        from nonconvex.numerics.compiled.ranking import predict_pairs

        return predict_pairs(*factors, users, items)
    predictions = np.empty(len(users))
    gather_x, gather_z = _Gather(factors.users), _Gather(factors.items)
    for first in range(0, len(users), gather_x.most):
        pairs = slice(first, first + gather_x.most)
        x, z = gather_x(users[pairs]), gather_z(items[pairs])  # (n, 1 + K)
        products = np.einsum("nk,nk->n", x[:, 1:], z[:, 1:])  # (n,)
        predictions[pairs] = factors.alpha + x[:, 0] + z[:, 0] + products
    return predictions


class _Gather:
    """Rows of one side in float64, in a reused buffer."""

    def __init__(self, rows: Floats) -> None:
        width = rows.shape[1]
        self.most = max(1, _CACHE_ELEMENTS // width)
        self._rows = rows
        self._room = np.empty((self.most, width), rows.dtype)
        self._doubles = np.empty((self.most, width))

    def __call__(self, index: Ints) -> Doubles:
        """Return the rows at at most `most` indices, zeros where one is -1."""
        room, doubles = self._room[: len(index)], self._doubles[: len(index)]
        # -1 takes the last row at first; mode "raise" would copy the buffer
        doubles[:] = np.take(self._rows, index, axis=0, out=room, mode="wrap")
        unseen = index < 0
        if unseen.any():
            doubles[unseen] = 0
        return doubles


def ensemble(members: Sequence[Factors]) -> Factors:
    """Return the model that predicts the mean of the predictions of R models.

    It is a factor model itself: α and β are means, and its γ of rank R K is the concatenation of
    all γ / √R, since Σ_r (γ_ur / √R) · (γ_ir / √R) = (1/R) Σ_r γ_ur · γ_ir.  All members are of
    the same users and items.
    """
    share = 1 / np.sqrt(len(members))
    users, items = (
        np.hstack(
            [
                np.mean([x[:, :1] for x in side], axis=0),
                *(x[:, 1:] * x.dtype.type(share) for x in side),
            ]
        )
        for side in ([m.users for m in members], [m.items for m in members])
    )
    return Factors(float(np.mean([m.alpha for m in members])), users, items)


def squared_errors(factors: Factors, block: RatingBlock, *, kernel: Kernel = "numpy") -> Doubles:
    """Σ w (R̂ − R)² of each row of a block whose rows are users, of shape (r,)."""
    users = np.repeat(block.rows, block.counts)
    squares = (predict(factors, users, block.columns, kernel=kernel) - block.ratings) ** 2
    return block.over_rows(squares if block.weights is None else block.weights * squares)


def objective(
    factors: Factors,
    users: Ints,
    items: Ints,
    ratings: Floats,
    user_ridge: Ridge,
    item_ridge: Ridge,
    weights: Floats | None = None,
) -> float:
    """f = (1/n) [ Σ w (R̂_ui − R_ui)² + Σ_u penalty_u + Σ_i penalty_i ], as `Ridge` defines them.

    With ν = 0, ρ = 1 and no weights this is

        (1/n) Σ (α + β_u + β_i + γ_u·γ_i − R_ui)² + λ₁ Σ_u (β_u² + ‖γ_u‖²) + λ₂ Σ_i (β_i² + ‖γ_i‖²)

    where n is the number of ratings (the sum of the weights if there are any).  α is free.  The
    observed pairs (n,) are given by dense indices.

    Examples
    --------
    One rating of 3, predicted as 1 + 0.5 + 0.5 = 2: (3 − 2)² + 0.1 · 0.5² + 0.1 · 0.5².

    >>> half, ridge = np.array([[0.5]]), Ridge(0.1, 0.0, 1, 1.0)
    >>> zero = np.array([0])
    >>> round(objective(Factors(1.0, half, half), zero, zero, np.array([3.0]), ridge, ridge), 12)
    1.05
    """
    w = np.ones(len(ratings)) if weights is None else weights.astype(np.float64)
    error = predict(factors, users, items) - ratings
    penalty = 0.0
    for x, ridge, index in ((factors.users, user_ridge, users), (factors.items, item_ridge, items)):
        degrees = np.bincount(index, w, minlength=len(x)).astype(np.float64)  # (rows,)
        penalty += float(ridge.penalty(degrees, x).sum())
    return (float(w @ error**2) + penalty) / float(w.sum())


def default_reg(total: float, deviation: float) -> tuple[float, float]:
    """Return λ and the bias ratio ρ that predict well on real ratings without tuning.

    The best ridge n λ hardly depends on the number of ratings, so λ is a constant over n.  The
    ridge of β is a ratio of two variances and has no unit; that of γ has the unit of ratings, as
    γ_u·γ_i is a rating, so it is proportional to their standard deviation:

        n λ = 16 sd(R),   n λ ρ = 3

    `total` is n, the number of ratings or the sum of their weights, and `deviation` is sd(R).
    """
    factor_ridge = 16.0 * deviation if deviation > 0 else 16.0
    return factor_ridge / total, 3.0 / factor_ridge


def initial_rows(
    rows: int, rank: int, scale: float, generator: np.random.Generator, first: int = 0
) -> Doubles:
    """Return initial rows of a fit, (rows − first, 1 + rank): β = 0 and γ ~ N(0, scale²).

    γ = 0 on both sides would be a stationary point of f that no solver here could leave, so
    ``scale`` must be positive.  The rows before `first` are drawn and discarded.

    Examples
    --------
    >>> x = initial_rows(5, 3, 0.1, np.random.default_rng(0))
    >>> x.shape
    (5, 4)
    >>> np.array_equal(x[3:], initial_rows(5, 3, 0.1, np.random.default_rng(0), first=3))
    True
    """
    if not scale > 0:
        raise ValueError(
            f"initial γ = 0 is a stationary point of the objective, where no solver can move; "
            f"the scale of the initial factors must be > 0, got {scale}"
        )
    for place in range(0, first * rank, _CACHE_ELEMENTS):
        generator.standard_normal(min(_CACHE_ELEMENTS, first * rank - place))
    x = np.zeros((rows - first, 1 + rank))
    x[:, 1:] = scale * generator.standard_normal((rows - first, rank))
    return x


def preference_block(block: RatingBlock, confidence: float) -> RatingBlock:
    """Return the block of R' = c p / a with weights a = κ |R|, see this module.

    Ratings of 0 have weight 0.  A row's degree is its number of positive ratings.  With κ = 0, R'
    would be infinite: a = 2⁻²² stands for 0, which is less than rounding, and has an exact R'.
    """
    strength = block.ratings
    weights = confidence * np.abs(strength)
    positive = strength > 0
    if confidence == 0:
        weights = np.where(positive, 2.0**-22, 0.0).astype(strength.dtype)
    ratings = np.divide(1 + weights, weights, out=np.zeros_like(weights), where=positive)
    degrees = block.over_rows(positive.astype(np.float64))
    return block._replace(ratings=ratings, weights=weights, degrees=degrees, padded=None)


def default_implicit_reg(total: float, mean_weight: float) -> tuple[float, float]:
    """Return λ and ρ that rank well on real data untuned: n λ = 5 · mean of κ |R|, and ρ = 30."""
    return 5.0 * mean_weight / total, 30.0


class Background(NamedTuple):
    """Σ_j (o_j + z_jᵀx)² over all columns j, where o_j = α + β_j and z_j = (1, γ_j)."""

    gram: Doubles  # (1 + K, 1 + K): Σ z zᵀ
    rhs: Doubles  # (1 + K,): −Σ o z
    sums: Doubles  # (1 + K,): Σ z
    # Σ o and Σ o²
    total: float
    square: float
    columns: int  # number of columns

    @classmethod
    def of(cls, fixed: Floats, alpha: float, *, biases: bool) -> Background:
        """Sum over the columns, of shape (m, 1 + K)."""
        z = fixed.astype(np.float64)
        offset = alpha + z[:, 0]
        z[:, 0] = 1.0 if biases else 0.0
        return cls(
            z.T @ z, -(z.T @ offset), z.sum(0), float(offset.sum()), float(offset @ offset), len(z)
        )

    def residual(self, x: Floats) -> Doubles:
        """Σ_j (0 − R̂_j) of each row, of shape (r,)."""
        products: Doubles = np.einsum("rk,k->r", x.astype(np.float64), self.sums)
        return -(self.total + products)

    def squares(self, x: Floats) -> Doubles:
        """Σ_j R̂_j² of each row, of shape (r,)."""
        x64 = x.astype(np.float64)
        curved: Doubles = np.einsum("rk,kl,rl->r", x64, self.gram, x64)
        linear: Doubles = np.einsum("rk,k->r", x64, self.rhs)
        return curved - 2 * linear + self.square


class InitialRows(NamedTuple):
    """β = 0 and γ ~ N(0, scale²), or |γ|, for every row of a side.

    The numbers depend on the seed, the restart, the side and the index of the row alone, not on
    other restarts or on the process that draws them.
    """

    rows: int
    rank: int
    scale: float
    seed: int
    restart: int
    side: Side
    dtype: type[np.floating]
    nonnegative: bool
    more: tuple[float, ...] = ()  # further columns, equal in all rows

    def between(self, first: int, stop: int) -> Floats:
        """Draw the rows first, first + 1, …, stop − 1, of shape (stop − first, 1 + rank + m).

        The numbers of all rows before them are drawn, too, and discarded: some 15 ns each.
        """
        generator = Stream.generator(self.seed, self.restart, self.side.number)
        drawn = initial_rows(stop, self.rank, self.scale, generator, first)
        if self.more:
            drawn = np.hstack([drawn, np.tile(self.more, (len(drawn), 1))])
        return (np.abs(drawn) if self.nonnegative else drawn).astype(self.dtype)
