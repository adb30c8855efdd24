"""Variational inference of the latent factor model: a normal distribution of every row.

The model is that of `nonconvex.numerics.factorization.gibbs`, with variances of each coordinate:

    R_ui ~ N(α + β_u + β_i + γ_u·γ_i, 1/(τ ω_u w_ui)),   ω_u ~ Gamma(κ/2, κ/2)
    x_u ~ N(h_u ξ, (ω_u Λ)⁻¹),   x_i ~ N(h_i ξ', Λ'⁻¹)

with Λ diagonal.  Its posterior is approximated by a product over rows,

    q = Π_u q(ω_u) q(x_u | ω_u) Π_i q(x_i),   x_u | ω_u ~ N(m_u, V_u/ω_u),   x_i ~ N(m_i, V_i),

that minimizes the free energy F, an upper bound of −log p(R).  A half-step sets the rows of one
side to its minimum given the other.  With design rows z_i = (1, γ_i), it is the normal equation of
`als.solve_rows` with the covariances of the other side added:

    A_u = Σ w (z_i z_iᵀ + V_i) + Λ/τ,   V_u = A_u⁻¹/τ
    A_u m_u = Σ w (z_i y_i − c_i) + (Λ/τ) h_u ξ

where y_i = R_ui − α − β_i, V_i is that of z_i (0 for its constant), and c_i the covariance of β_i
and z_i.  Items see a user with E ω_u z zᵀ = ω̄_u z zᵀ + V_u, where ω̄_u is the mean of

    q(ω_u) = Gamma((κ + d_u)/2, ½ (κ + τ q_u + (m_u − h_u ξ)ᵀ Λ (m_u − h_u ξ)))

and q_u = E Σ w e² over the items, at m_u.  Λ, ξ and τ then move to their minimum, or beyond it by
no more than keeps F from rising; λ of γ stays at most what it is at the start.  Without this limit
λ grows until factors die that hold little of each row, as q takes them for noise, and predictions
get worse: the test RMSE on goodbooks-10k was 0.832, and is 0.819.

Without covariances and with Λ/τ = n λ, a half-step is that of "als", bit for bit.

The covariance of a row is the whole matrix (`FULL`), or only its diagonal: then q(x_u | ω_u) is a
product over coordinates too, and V_uk = 1/(τ A_ukk).  Rows travel with their covariances as one
array of shape (m, `Layout`): m_k, the entries of V on and above the diagonal, ω̄ and E 1/ω.

References
----------
Lim and Teh (2007), Variational Bayesian approach to movie rating prediction.
Raiko, Ilin and Karhunen (2007), Principal component analysis for large scale problems with lots of
missing values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nonconvex.numerics import Doubles, Floats, Ints, Longs
from nonconvex.numerics.deterministic import Kernel
from nonconvex.numerics.factorization.als import arrays_of, compiled_twin, solve_equations
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.design import designs
from nonconvex.numerics.factorization.gibbs import USER_FREEDOM, NoisePrior, weighted
from nonconvex.numerics.factorization.model import Side

FULL = 32
"""Greatest rank at which a row has its whole covariance; above, it has its diagonal."""

_ELEMENTS = 1 << 19  # pairs × numbers of a row gathered at a time


class Layout(NamedTuple):
    """The columns of a row of rank K: its mean, its covariance, ω̄ and E 1/ω.

    Examples
    --------
    >>> Layout(1).width, Layout(100).width
    (7, 204)
    """

    rank: int

    @property
    def unknowns(self) -> int:
        """1 + K."""
        return 1 + self.rank

    @property
    def full(self) -> bool:
        """Tell whether a row has its whole covariance."""
        return self.rank <= FULL

    @property
    def entries(self) -> tuple[Longs, Longs]:
        """Rows and columns of the entries of V that are kept, the diagonal first."""
        diagonal = np.arange(self.unknowns)
        if not self.full:
            return diagonal, diagonal
        upper = np.triu_indices(self.unknowns, 1)
        return np.append(diagonal, upper[0]), np.append(diagonal, upper[1])

    @property
    def width(self) -> int:
        """Numbers of a row."""
        return self.unknowns + len(self.entries[0]) + 2

    def mean(self, rows: Floats) -> Floats:
        """Return m, of shape (r, 1 + K)."""
        return rows[:, : self.unknowns]

    def kept(self, rows: Floats) -> Floats:
        """Return the kept entries of V, of shape (r, e)."""
        return rows[:, self.unknowns : -2]

    def covariances(self, kept: Floats) -> Doubles:
        """Return V of shape (r, 1 + K, 1 + K), from its kept entries."""
        one, other = self.entries
        v = np.zeros((len(kept), self.unknowns, self.unknowns))
        v[:, one, other] = kept
        v[:, other, one] = kept
        return v

    def start(self, x: Floats, variance: float) -> Floats:
        """Return rows with means x, of shape (m, 1 + K), to start from.

        V = v I and ω = 1.
        """
        return np.hstack([x, np.tile(np.array(self.start_columns(variance), x.dtype), (len(x), 1))])

    def start_columns(self, variance: float) -> tuple[float, ...]:
        """Return what `start` adds to every row."""
        off_diagonal = len(self.entries[0]) - self.unknowns
        return (*[variance] * self.unknowns, *[0.0] * off_diagonal, 1.0, 1.0)


class Prior(NamedTuple):
    """N(h ξ, Λ⁻¹) of the rows of a side, with h = log((1 + d)/(1 + d₀)) of a row of d ratings."""

    precision: Doubles  # (1 + K,): the diagonal of Λ
    slope: Doubles  # (1 + K,): ξ
    least: float  # d₀, the least d of the side

    @property
    def layout(self) -> Layout:
        """The columns of the rows."""
        return Layout(len(self.precision) - 1)

    def activity(self, degrees: Doubles) -> Doubles:
        """Return h of each row, of shape (r,)."""
        h: Doubles = np.log1p(degrees) - np.log1p(self.least)
        return h

    def save(self) -> list[Any]:
        """Return JSON values."""
        return [self.precision.tolist(), self.slope.tolist(), self.least]

    @classmethod
    def start(cls, precision: Doubles, degrees: Doubles) -> Prior:
        """Return a prior with ξ = 0 of rows with these d."""
        return cls(precision, np.zeros(len(precision)), float(degrees.min()))

    @classmethod
    def restore(cls, values: Sequence[Any]) -> Prior:
        """Return what `save` told of."""
        return cls(np.array(values[0]), np.array(values[1]), values[2])


class RowSums(NamedTuple):
    """Sums over rows, from which Λ, ξ and τ are learned."""

    errors: Any  # E Σ ω w e²
    weight: Any  # Σ ω w
    activity: Any  # Σ ω h²
    slopes: Any  # (1 + K,): Σ ω h m
    squares: Any  # (1 + K,): E Σ ω x²

    @classmethod
    def of(cls, values: Sequence[float]) -> RowSums:
        """Name the sums over the columns of ``InferredUpdate.more``."""
        unknowns = (len(values) - 3) // 2
        slopes, squares = np.split(np.asarray(values[3:], np.float64), [unknowns])
        return cls(values[0], values[1], values[2], slopes, squares)


class InferredUpdate(NamedTuple):
    """New rows of a block, and sums over their ratings."""

    x: Floats  # (r, w): the new rows, in the columns of `Layout`
    residual: Doubles  # (r,): Σ ω̄ w e at the means
    squares: Doubles  # (r,): Σ w e² at the means
    penalty: Doubles  # (r,): the part of F without Λ, ξ and τ
    weight: Doubles  # (r,): Σ w
    more: Doubles  # (r, c): `RowSums` of each row


class _Solved(NamedTuple):
    """The means of rows, and what their equations A x = b tell of their distributions."""

    x: Floats  # (r, 1 + K)
    residual: Doubles  # (r,): Σ ω̄ w e at the means
    weighed: Doubles  # (r,): Σ ω̄ w e² at the means
    squares: Doubles  # (r,): Σ w e² at the means
    more: Doubles  # (r,): what the covariances of the other side add to Σ ω̄ w e²
    kept: Floats  # (r, e): the kept entries of V
    variances: Doubles  # (r, 1 + K): the diagonal of V
    roots: Doubles  # (r, 1 + K): numbers whose squares have the product det A⁻¹

    @classmethod
    def empty(cls, rows: int, layout: Layout, dtype: Any) -> _Solved:
        """Return values of rows without ratings."""
        x = np.zeros((rows, layout.unknowns), dtype)
        sums, roots = np.zeros((4, rows)), np.ones((rows, layout.unknowns))
        kept = np.zeros((rows, len(layout.entries[0])), dtype)
        return cls(x, sums[0], sums[1], sums[2], sums[3], kept, np.zeros_like(roots), roots)


def _inverses(a: Doubles) -> tuple[Doubles, Doubles]:
    """Return A⁻¹ and the roots of its pivots, of shapes (s, k, k) and (s, k).

    All rows of a batch take a step of Gauss and Jordan's elimination at a time.
    """
    k = a.shape[1]
    v = np.ascontiguousarray(np.moveaxis(a, 0, -1))  # (k, k, s)
    pivots = np.empty((k, len(a)))
    for j in range(k):
        pivots[j] = 1 / v[j, j]
        row = v[j] * pivots[j]
        row[j] = pivots[j]
        column = v[:, j].copy()
        column[j] = 0
        v[:, j] = 0
        v[j] = row
        v -= column[:, None] * row
    return np.moveaxis(v, -1, 0), np.sqrt(pivots.T)


class Given(NamedTuple):
    """The conditions of an update of rows, apart from their ratings and the other side."""

    alpha: float  # α
    tau: float  # τ
    prior: Prior
    of_users: bool  # whether the rows are users, which have an ω
    user_freedom: float = USER_FREEDOM  # κ; ∞ if ω is 1
    kernel: Kernel = "numpy"

    def update(self, block: RatingBlock, fixed: Floats) -> InferredUpdate:
        """Set the distribution of every row of a block to the minimum of F.

        Parameters
        ----------
        fixed : float array of shape (m, w)
            The rows of the other side, in the columns of `Layout`.
        """
        layout, width = self.prior.layout, self.prior.layout.unknowns
        block = block if self.kernel == "compiled" else block.with_padding()
        seen = block
        if not self.of_users and self.user_freedom < np.inf:
            of_columns = fixed[:, -2].astype(np.float64)
            seen = weighted(block, of_columns, padded=self.kernel == "numpy")
        h = self.prior.activity(block.degrees)
        center, ridge = h[:, None] * self.prior.slope, self.prior.precision / self.tau
        solve = self._solve_compiled if self.kernel == "compiled" else self._solve_numpy
        solved = solve(block, seen, fixed, ridge, ridge * center)
        x = np.empty((len(block.rows), layout.width), fixed.dtype)
        x[:, :width], x[:, width:-2], x[:, -2:] = solved.x, solved.kept, 1.0
        m, v = solved.x.astype(np.float64), solved.variances
        errors = solved.weighed + solved.more
        spread = width / self.tau - (ridge * v).sum(axis=1)  # tr (A − Λ/τ) V
        precision = np.ones(len(x))
        penalty = width * np.log(self.tau) / 2 - np.log(solved.roots).sum(axis=1)  # −½ log det V
        if self.of_users and self.user_freedom < np.inf:
            distance = ((m - center) ** 2 * self.prior.precision).sum(axis=1)
            q = UserPrecision.of(self.tau * errors + distance, block.degrees, self.user_freedom)
            x[:, -2], x[:, -1] = q.mean, q.inverse
            precision = x[:, -2].astype(np.float64)
            penalty += q.cost(block.degrees)
        of_one = precision * errors + spread, precision * block.degrees, precision * h**2
        slopes, second = (precision * h)[:, None] * m, precision[:, None] * m**2 + v
        more = np.hstack([np.column_stack(of_one), slopes, second])
        sums = precision * solved.residual, solved.squares, penalty, block.total_weights()
        return InferredUpdate(x, *sums, more)

    def _solve_numpy(
        self, block: RatingBlock, seen: RatingBlock, fixed: Floats, ridge: Doubles, rhs: Doubles
    ) -> _Solved:
        layout, dtype = self.prior.layout, fixed.dtype
        one, other = layout.entries
        z = np.ascontiguousarray(layout.mean(fixed))
        kept = np.concatenate([layout.kept(fixed), np.zeros((1, len(one)), dtype)])
        solved = _Solved.empty(len(block.rows), layout, dtype)
        pairs = zip(
            designs(seen, z, self.alpha, biases=True),
            designs(block, z, self.alpha, biases=True),
            strict=True,
        )
        for (members, segments), (_, plain) in pairs:
            a, b = segments.normal_equation()
            of_others = layout.covariances(plain.total_of(kept))  # Σ w V
            of_bias, shared = of_others[:, 0, 0].copy(), of_others[:, 0].copy()
            shared[:, 0] = of_others[:, 0] = of_others[:, :, 0] = 0
            a = a + of_others.astype(a.dtype)
            b = b + (rhs[members] - shared).astype(b.dtype)
            whole = a.astype(np.float64) + np.diag(ridge)
            x = solve_equations(a, b, ridge, segments.length)
            residual, weighed = segments.sums(x)
            squares = weighed if seen is block else plain.sums(x)[1]
            m = x.astype(np.float64)
            apart = 2 * np.einsum("sk,sk->s", shared, m)
            apart += np.einsum("sk,skl,sl->s", m, of_others, m)
            if layout.full:
                inverse, roots = _inverses(whole)
                inverse = inverse[:, one, other]
            else:
                inverse = 1 / np.einsum("skk->sk", whole)
                roots = np.sqrt(inverse)
            v = inverse / self.tau
            more = of_bias + apart
            values = x, residual, weighed, squares, more, v, v[:, : layout.unknowns], roots
            for of_all, of_these in zip(solved, values, strict=True):
                of_all[members] = of_these
        return solved

    def _solve_compiled(
        self, block: RatingBlock, seen: RatingBlock, fixed: Floats, ridge: Doubles, rhs: Doubles
    ) -> _Solved:
        layout, plain = self.prior.layout, None
        if seen is not block:
            ones = np.ones(len(block.ratings), fixed.dtype)
            plain = ones if block.weights is None else block.weights
        conditions = self.alpha, self.tau, ridge, rhs, layout.entries
        x, sums, failed, kept, variances, roots, more = compiled_twin().infer_rows(
            *(arrays_of(seen), plain, layout.mean(fixed), fixed), *conditions, whole=layout.full
        )
        solved = _Solved(x, sums[0], sums[1], more[0], more[1], kept, variances, roots)
        if failed.any():
            own = block.divided(~failed)[0].with_padding()
            other = own if seen is block else seen.divided(~failed)[0].with_padding()
            again = self._solve_numpy(own, other, fixed, ridge, rhs[failed])
            for of_all, of_these in zip(solved, again, strict=True):
                of_all[failed] = of_these
        return solved

    def penalty(self, degrees: Doubles, x: Floats) -> Doubles:
        """Return what rows to start from contribute to F, of shape (r,), with q(ω) the prior."""
        layout = self.prior.layout
        v = layout.kept(x)[:, : layout.unknowns].astype(np.float64)
        p, m = self.prior.precision, layout.mean(x).astype(np.float64)
        apart = m - self.prior.activity(degrees)[:, None] * self.prior.slope
        cost: Doubles = (p * (apart**2 + v) - np.log(p * v) - 1).sum(axis=1) / 2
        if self.of_users and self.user_freedom < np.inf:
            half = np.full(len(x), self.user_freedom / 2)
            start = UserPrecision(half, half, self.user_freedom)
            cost += start.cost(degrees)
        return cost


class UserPrecision(NamedTuple):
    """q(ω_u) = Gamma(a, b) of users, whose prior is Gamma(κ/2, κ/2)."""

    a: Doubles  # (r,)
    b: Doubles  # (r,)
    freedom: float  # κ > 2

    @classmethod
    def of(cls, scatter: Doubles, degrees: Doubles, freedom: float) -> UserPrecision:
        """Return a = (κ + d)/2 and b = ½ (κ + scatter), with what ω multiplies in −2 log p."""
        return cls((freedom + degrees) / 2, (freedom + scatter) / 2, freedom)

    @property
    def mean(self) -> Doubles:
        """ω̄ = a/b."""
        return self.a / self.b

    @property
    def inverse(self) -> Doubles:
        """E 1/ω = b/(a − 1)."""
        return self.b / (self.a - 1)

    def cost(self, degrees: Doubles) -> Doubles:
        """Return KL(q(ω), p(ω)) − ½ d E log ω, of shape (r,)."""
        a, b, half = self.a, self.b, np.array([self.freedom / 2])
        log_gamma, digamma = _gamma(a)
        log = digamma - np.log(b)  # E log ω
        kl = a * np.log(b) - log_gamma - half * np.log(half) + _gamma(half)[0]
        kl += (a - half) * log - (b - half) * self.mean
        cost: Doubles = kl - degrees * log / 2
        return cost


def _gamma(x: Doubles) -> tuple[Doubles, Doubles]:
    """Return log Γ(x) and its derivative, from their asymptotic series at x + 8."""
    y, log, slope = x + 8, np.zeros_like(x), np.zeros_like(x)
    for k in range(8):
        log -= np.log(x + k)
        slope -= 1 / (x + k)
    i = 1 / y**2
    log += (y - 0.5) * np.log(y) - y + 0.5 * np.log(2 * np.pi)
    log += (1 / 12 - i * (1 / 360 - i * (1 / 1260 - i / 1680))) / y
    slope += np.log(y) - 0.5 / y - i * (1 / 12 - i * (1 / 120 - i * (1 / 252 - i / 240)))
    return log, slope


HELD = 2
"""Iterations at the start in which Λ and ξ are fixed."""

START_VARIANCE = 0.01
"""Variance of the rows that a fit starts from."""

WIDER = 0.7
"""Λ of γ at the start, relative to the ridge that "als" has by default."""

_BEYOND = 0.8


def _beyond(before: Any, best: Any) -> Any:
    """Go on from the minimum of p b⁻¹ − log p at b, by a share of the way there in log p.

    The function has its minimum at b, and at p = b (b/p₀)^η it is still at most what it was at the
    start p₀, so F does not rise, and falls in fewer iterations.
    """
    ratio = best / before
    beyond = best * ratio**_BEYOND
    return np.where(beyond / best - np.log(beyond) <= before / best - np.log(before), beyond, best)


class Hyperparameters:
    """τ, Λ and ξ of both sides, and F.

    Parameters
    ----------
    tau : float
        τ to start from.
    priors, rows : mapping
        Priors to start from, and the number of rows, of the sides.
    total : float
        n, the sum of all weights.
    user_freedom : float
        κ; ∞ for ω = 1.
    """

    def __init__(
        self,
        tau: float,
        priors: Mapping[Side, Prior],
        rows: Mapping[Side, int],
        total: float,
        user_freedom: float = USER_FREEDOM,
    ) -> None:
        self.tau, self._total, self._user_freedom = tau, total, user_freedom
        self._rows, self.priors = dict(rows), dict(priors)
        self._most = {side: float(p.precision[1:].max(initial=0)) for side, p in priors.items()}
        self._errors = 0.0  # E Σ ω w e²
        self.weight = total  # Σ ω w

    def given(self, side: Side, alpha: float) -> Given:
        """Return the conditions of an update of the rows of a side."""
        return Given(alpha, self.tau, self.priors[side], side == Side.USERS, self._user_freedom)

    def learn(self, side: Side, penalty: float, sums: RowSums, *, held: bool) -> float:
        """Set Λ, within its limit, and ξ of a side, unless they are held, and τ so that F falls.

            ξ_k = Σ ω h m_k / Σ ω h²,   1/λ_k = mean of E ω (x_k − h ξ_k)²,   1/τ = E Σ ω w e² / n

        Returns
        -------
        float
            What the rows of the side contribute to F.
        """
        prior, rows = self.priors[side], self._rows[side]
        slope = prior.slope
        if not held and sums.activity > 0:
            slope = sums.slopes / sums.activity
        scatter = sums.squares - 2 * slope * sums.slopes + slope**2 * sums.activity
        if not held:
            precision = _beyond(prior.precision, rows / scatter)
            precision[1:] = np.minimum(precision[1:], self._most[side])
            self.priors[side] = prior = Prior(precision, slope, prior.least)
        p = prior.precision
        self._errors = sums.errors
        if side == Side.USERS:
            self.weight = sums.weight
        self.tau = float(_beyond(self.tau, self._total / sums.errors))
        return penalty + float((p * scatter - rows * np.log(p) - rows).sum()) / 2

    def free_energy(self, costs: float) -> float:
        """F/n = [½ n log(2π/τ) + ½ τ E Σ ω w e² − ½ Σ d E log ω + Σ KL] / n."""
        n = self._total
        level = n * np.log(2 * np.pi / self.tau) + self.tau * self._errors
        return float(level / 2 + costs) / n

    def save(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        kappa = self._user_freedom
        return {
            "tau": self.tau,
            "weight": self.weight,
            "priors": {str(side): prior.save() for side, prior in self.priors.items()},
            "rows": {str(side): rows for side, rows in self._rows.items()},
            "most": {str(side): most for side, most in self._most.items()},
            "total": self._total,
            "userFreedom": kappa if np.isfinite(kappa) else None,  # JSON has no ∞
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Hyperparameters:
        """Return the state that `save` told of."""
        priors = {Side(side): Prior.restore(of) for side, of in values["priors"].items()}
        rows = {Side(side): count for side, count in values["rows"].items()}
        kappa = values["userFreedom"]
        freedom = np.inf if kappa is None else kappa
        level = cls(values["tau"], priors, rows, values["total"], freedom)
        level.weight = values["weight"]
        level._most = {Side(side): most for side, most in values["most"].items()}
        return level

    @property
    def layout(self) -> Layout:
        """The columns of the rows."""
        return self.priors[Side.USERS].layout

    def posterior(self, users: Floats, items: Floats) -> VariationalPosterior:
        """Return the posterior of rows of shape (m, w), in the columns of `Layout`."""
        own = self.layout.unknowns
        covariances = Covariances(*(x[:, own:].copy() for x in (users, items)))
        users_prior, items_prior = (self.priors[side] for side in Side)
        kappa = self._user_freedom
        return VariationalPosterior(covariances, self.tau, users_prior, items_prior, kappa)


class Covariances(NamedTuple):
    """The rows of both sides without their means, in the columns of `Layout`."""

    users: Floats
    items: Floats


class VariationalSpread(NamedTuple):
    """Parameters of the standard deviation of predictions, apart from the rows."""

    tau: float
    user_prior: Prior
    item_prior: Prior
    scatter: float  # the mean of 1/ω under its prior
    of_ratings: bool  # whether deviations are those of ratings, not of their mean R̂

    def deviations(
        self, users: Floats, items: Floats, measured: Covariances, user: Ints, item: Ints
    ) -> Doubles:
        """Return the standard deviation of R̂_ui, or of R_ui, for pairs of dense indices.

        With x̃ = (1, γ_u) and z̃ = (1, γ_i), and the parts Γ of V that belong to γ,

            Var R̂_ui = z̃ᵀ V_u z̃ + x̃ᵀ V_i x̃ + tr(Γ_u Γ_i),   V_u ← V_u E 1/ω_u

        and a rating of weight 1 adds E 1/(τ ω_u).

        Parameters
        ----------
        users, items : float arrays of shape (m, 1 + K)
        user, item : int arrays of shape (n,)
            -1 is an unknown id, whose row has its prior.

        Returns
        -------
        float64 array of shape (n,)
        """
        layout = Layout(users.shape[1] - 1)
        deviations = np.empty(len(user))
        step = max(1, _ELEMENTS // layout.unknowns**2)
        for first in range(0, len(user), step):
            part = slice(first, first + step)
            x, v, noise = self._row(users, measured.users, self.user_prior, user[part], layout)
            z, w, _ = self._row(items, measured.items, self.item_prior, item[part], layout)
            variance = np.einsum("nk,nkl,nl->n", z, v, z) + np.einsum("nk,nkl,nl->n", x, w, x)
            variance += np.einsum("nkl,nlk->n", v[:, 1:, 1:], w[:, 1:, 1:])
            deviations[part] = np.sqrt(variance + noise / self.tau * self.of_ratings)
        return deviations

    def _row(
        self, means: Floats, more: Floats, prior: Prior, index: Ints, layout: Layout
    ) -> tuple[Doubles, Doubles, Doubles]:
        """Return (1, γ), V and E 1/ω of rows at dense indices."""
        known = index >= 0
        design = np.where(known[:, None], means[index], 0).astype(np.float64)
        design[:, 0] = 1.0
        inverse = np.where(known, more[index, -1], self.scatter).astype(np.float64)
        v = layout.covariances(more[index, :-2])
        v[~known] = np.diag(1 / prior.precision)
        if prior is self.item_prior:
            inverse[~known] = 1.0
        return design, inverse[:, None, None] * v, inverse


class VariationalPosterior(NamedTuple):
    """The distribution of all rows, beside their means, which are the factors of the model."""

    measured: Covariances
    tau: float
    user_prior: Prior
    item_prior: Prior
    user_freedom: float  # κ; ∞ for ω = 1

    def spread(self, factors: Any = None, *, of_ratings: bool = True) -> VariationalSpread:
        """Return the parameters of the standard deviation of predictions."""
        del factors
        scatter = NoisePrior(0.0, 1.0, user_freedom=self.user_freedom).scatter
        priors = self.user_prior, self.item_prior
        return VariationalSpread(self.tau, *priors, scatter, of_ratings)

    def given(self, side: Side, alpha: float) -> Given:
        """Return the conditions of folded rows of a side."""
        prior = self.user_prior if side == Side.USERS else self.item_prior
        return Given(alpha, self.tau, prior, side == Side.USERS, self.user_freedom)

    def penalty(self, block: RatingBlock) -> Doubles:
        """Return Σ w V_i + Λ/τ of a user, the part of A_u that the factors do not give.

        Parameters
        ----------
        block : RatingBlock
            The ratings of the user, as a block of one row.

        Returns
        -------
        float64 array of shape (1 + K, 1 + K)
            V_i without the row and the column of β_i, as in the equation of a user.
        """
        layout = self.user_prior.layout
        v = layout.covariances(self.measured.items[block.columns, :-2])
        v[:, 0] = v[:, :, 0] = 0
        w = np.ones(len(v)) if block.weights is None else block.weights.astype(np.float64)
        sums: Doubles = np.einsum("n,nkl->kl", w, v) + np.diag(self.user_prior.precision / self.tau)
        return sums

    def save(self) -> dict[str, Any]:
        """Return all but the rows, as JSON values, which have no ∞."""
        kappa = self.user_freedom
        return {
            "tau": self.tau,
            "userFreedom": kappa if np.isfinite(kappa) else None,
            "priors": [prior.save() for prior in (self.user_prior, self.item_prior)],
        }

    @classmethod
    def restore(cls, measured: Covariances, values: Mapping[str, Any]) -> VariationalPosterior:
        """Return what `save` told of."""
        kappa = values["userFreedom"]
        users, items = (Prior.restore(prior) for prior in values["priors"])
        return cls(measured, values["tau"], users, items, np.inf if kappa is None else kappa)
