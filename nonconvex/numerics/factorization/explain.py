"""Explanations: the contribution of each rating to a prediction, and the principal axes of items.

Given the items, the row of user u is x_u = A⁻¹ Σ_j w_j z_j y_j, where z_j = (1, γ_j) are the design
rows of the rated items, y_j = R_uj − α − β_j the targets and A = Σ_j w_j z_j z_jᵀ + P.  It is
linear in the ratings, so for any t, such as (0, γ_i),

    tᵀx_u = Σ_j c_j,   c_j = w_j y_j z_jᵀ A⁻¹ t

and c_j is the contribution of the rating of item j to γ_u·γ_i.

γ_u·γ_i is the same for Γ_u Q and Γ_i Q⁻ᵀ with any Q, so a single factor has no meaning.  The
singular value decomposition Γ_u Γ_iᵀ = U S Vᵀ does not depend on Q: its axes are unique as long as
their singular values differ.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nonconvex.numerics import Bools, Doubles, Floats
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.fold_in import Equation, Uncertainty
from nonconvex.numerics.factorization.model import Background, Factors, preference_block
from nonconvex.numerics.factorization.posterior import Posterior
from nonconvex.numerics.factorization.vb import VariationalPosterior


def contributions(
    block: RatingBlock,
    fixed: Floats,
    alpha: float,
    penalty: Doubles,
    target: Doubles,
    *,
    biases: bool = True,
    free: Bools | None = None,
    background: Background | None = None,
) -> Doubles:
    """Return c_j (n,) of the n ratings of a row, in the order of ``block.columns``.

    They are in the units of ratings.  `block` has this row alone, `fixed` (m, 1 + K) are the other
    side's rows (β, γ), `penalty` (1 + K, 1 + K) is P, of the regularization, and `target` (1 + K,)
    is t.  Without `biases`, the design rows are (0, γ_j).  `free` (1 + K,) marks the unknowns that
    a constraint such as γ ≥ 0 does not fix at 0; by default all.  A `background` has the terms of
    unobserved pairs (implicit feedback), whose own contribution is not in Σ_j c_j.

    Examples
    --------
    Two ratings of items with z = (1, 1) and (1, −1), and A = 2 I + I.

    >>> block = RatingBlock.from_triples([0, 0], [0, 1], [6.0, 3.0])
    >>> fixed = np.array([[0.0, 1.0], [0.0, -1.0]])
    >>> contributions(block, fixed, 3.0, np.eye(2), np.array([0.0, 1.0]))
    array([ 1., -0.])
    """
    z = fixed[block.columns].astype(np.float64)  # (n, 1 + K)
    y = block.ratings - alpha - z[:, 0]  # (n,)
    z[:, 0] = 1.0 if biases else 0.0
    w = np.ones(len(y)) if block.weights is None else block.weights.astype(np.float64)
    a = z.T @ (w[:, None] * z) + penalty
    if background is not None:
        a = a + background.gram
    used = np.flatnonzero(np.ones(len(a), bool) if free is None else free)
    solution = np.zeros(len(a))
    # Of least norm where A is singular but for rounding, as with a ridge of 0.
    solution[used] = np.linalg.lstsq(a[np.ix_(used, used)], target[used], rcond=None)[0]
    return w * y * (z @ solution)


def principal_axes(users: Floats, items: Floats) -> tuple[Doubles, Doubles]:
    """Return the coordinates of items on the axes, and the share of each axis in all γ_u·γ_i.

    With Γ_uᵀ Γ_u = C and the eigenvectors W of C^½ Γ_iᵀ Γ_i C^½, the coordinates of items are
    Γ_i C^½ W / √n_u = V S / √n_u: the root mean square, over the users, of what the axis adds to
    γ_u·γ_i, with a sign.

    Takes γ of users (n_u, K) and of items (n_i, K).  The coordinates (n_i, K) are in the units of
    ratings, the greatest axis first, and the item that is farthest out on an axis is at its
    positive end.  The shares (K,) are S² / Σ S².
    """
    gram = users.T.astype(np.float64) @ users
    values, vectors = np.linalg.eigh(gram)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    weighted = items @ root  # (n_i, K)
    squares, axes = np.linalg.eigh(weighted.T @ weighted)
    coordinates = weighted @ axes[:, ::-1] / np.sqrt(len(users))
    farthest = np.abs(coordinates).argmax(axis=0)
    signs = np.sign(coordinates[farthest, np.arange(coordinates.shape[1])])
    squares = np.maximum(squares[::-1], 0)
    total = squares.sum()
    shares: Doubles = squares / total if total > 0 else squares
    return coordinates * np.where(signs == 0, 1, signs), shares


@dataclass(frozen=True)
class Reason:
    """One rating of the user, and what it adds to γ_u·γ_i."""

    item: Any
    rating: float
    contribution: float  # in the units of ratings; above 0 if it raises the prediction


@dataclass(frozen=True)
class Explanation:
    """R̂_ui = α + β_u + β_i + γ_u·γ_i, term by term."""

    user: Any
    item: Any
    prediction: float  # the sum of the four terms, not clipped
    # α, β_u and β_i; the bias of an id that is not in the training data is 0
    global_bias: float
    user_bias: float
    item_bias: float
    interaction: float  # γ_u·γ_i
    reasons: tuple[Reason, ...]  # every rating of the user, by falling size of its contribution
    # the interaction minus all contributions: about 0 if the row of the user is at its minimum, as
    # after "als"; with ``implicitPrefs`` the contribution of all items without feedback; for a
    # sampled model the difference between all samples and the kept ones
    rest: float

    def text(self, n: int = 5, names: Mapping[Any, str] | None = None) -> str:
        """Return lines of text, with the `n` ratings that contribute most.

        Examples
        --------
        >>> reasons = (Reason(7, 9.0, 0.5), Reason(8, 3.0, -0.125), Reason(9, 6.0, 0.025))
        >>> why = Explanation("ann", 5, 8.0, 7.0, 0.25, 0.35, 0.4, reasons, 0.0)
        >>> print(why.text(2, {5: "Alien", 7: "Aliens"}))
        Alien for ann: 8.00
          7.00  α, the mean level of ratings
         +0.25  β_u, the bias of ann
         +0.35  β_i, the bias of Alien
         +0.40  γ_u·γ_i, the interaction, from
                  +0.50  Aliens, rated 9
                  -0.12  8, rated 3
                  +0.03  1 other rating
        """
        called = names or {}
        item = called.get(self.item, self.item)
        parts = [
            (one.contribution, f"{called.get(one.item, one.item)}, rated {one.rating:g}")
            for one in self.reasons[:n]
        ]
        others = [reason.contribution for reason in self.reasons[n:]]
        if others:
            parts.append((sum(others), f"{len(others)} other rating{'s'[: len(others) - 1]}"))
        if abs(self.rest) >= 0.005:
            parts.append((self.rest, "not from single ratings"))
        lines = [
            f"{item} for {self.user}: {self.prediction:.2f}",
            f"{self.global_bias:6.2f}  α, the mean level of ratings",
            f"{self.user_bias:+6.2f}  β_u, the bias of {self.user}",
            f"{self.item_bias:+6.2f}  β_i, the bias of {item}",
            f"{self.interaction:+6.2f}  γ_u·γ_i, the interaction{', from' if parts else ''}",
            *(f"{'':8}{amount:+6.2f}  {source}".rstrip() for amount, source in parts),
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return `text` with its defaults."""
        return self.text()

    def _repr_html_(self) -> str:
        """Return the text for a notebook."""
        return f"<pre>{html.escape(self.text())}</pre>"


def explain_row(
    names: tuple[Any, Any],
    places: tuple[int, int],
    factors: Factors,
    posterior: Posterior | Uncertainty | None,
    equation: Equation,
    items: Sequence[Any],
    block: RatingBlock | None,
) -> Explanation:
    """Split a prediction into its terms.

    `names` and `places` are the ids and the indices of the user and of the item; -1 is an unknown
    id, with β = 0 and γ = 0.  The priors of samples and of the solver "vb" take the place of the
    ridge.  `items` are those that the user has rated, in the order of `block`, which has these
    ratings in one row; it is None without any.
    """
    alpha, *sides = factors
    x, z = (
        side[place].astype(np.float64) if place >= 0 else np.zeros(side.shape[1])
        for side, place in zip(sides, places, strict=True)
    )
    interaction = float(x[1:] @ z[1:])
    carried = np.zeros(len(items))
    if block is not None and places[1] >= 0:
        carried = _carried(factors, posterior, equation, block, *places)
    ratings = [] if block is None else block.ratings.tolist()
    reasons = list(map(Reason, items, ratings, carried.tolist()))
    reasons.sort(key=lambda reason: (-abs(reason.contribution), str(reason.item)))
    beta_u, beta_i = float(x[0]), float(z[0])
    return Explanation(
        user=names[0],
        item=names[1],
        prediction=alpha + beta_u + beta_i + interaction,
        global_bias=float(alpha),
        user_bias=beta_u,
        item_bias=beta_i,
        interaction=interaction,
        reasons=tuple(reasons),
        rest=interaction - float(carried.sum()),
    )


def _carried(
    factors: Factors,
    posterior: Posterior | Uncertainty | None,
    equation: Equation,
    block: RatingBlock,
    user: int,
    item: int,
) -> Doubles:
    """Return what each rating adds to γ_u·γ_i."""
    if isinstance(posterior, Posterior):
        parts = []
        for number in range(len(posterior.taus)):
            sample = posterior.sample(number)
            alpha, _, items = sample.factors
            precision = sample.tau * sample.user_precision[user]
            penalty = sample.users.precision / precision
            parts.append(contributions(block, items, alpha, penalty, _target(items[item])))
        mean: Doubles = np.mean(parts, axis=0)
        return mean
    alpha, users, items = factors
    biases, background, free = equation.biases, None, None
    if equation.confidence is not None:
        block = preference_block(block, equation.confidence)
        background = Background.of(items, alpha, biases=biases)
    if equation.nonnegative:
        free = users[user] > 0
        free[0] = True
    if isinstance(posterior, VariationalPosterior):
        penalty = posterior.penalty(block)
    else:
        penalty = np.diag(equation.ridge.diagonal(block.degrees, items.shape[1])[0])
    options: dict[str, Any] = {"biases": biases, "free": free, "background": background}
    return contributions(block, items, alpha, penalty, _target(items[item]), **options)


def _target(row: Floats) -> Doubles:
    """Return (0, γ) of the row (β, γ)."""
    target = row.astype(np.float64)
    target[0] = 0.0
    return target
