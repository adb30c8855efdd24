"""Small random problems, and one half-step of each solver on the user side of one."""

from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nonconvex.numerics.factorization.als import solve_rows, sweep_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Factors, Ridge, initial_rows, objective
from tests.numerics.factorization import twins

# The same examples on every run: a failure is always a change of the code.
_SETTINGS = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def for_all(*strategies, **by_name):
    """Run a test for values that are drawn."""
    return lambda test: _SETTINGS(given(*strategies, **by_name)(test))


class Problem(NamedTuple):
    """Ratings, and a point at which to take the next half-step."""

    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    weights: np.ndarray | None
    factors: Factors
    user_ridge: Ridge
    item_ridge: Ridge
    biases: bool

    @property
    def block(self):
        """The ratings by user, in the precision of the factors."""
        dtype = self.factors.items.dtype.type
        return RatingBlock.from_triples(
            self.users, self.items, self.ratings, self.weights, dtype=dtype
        )

    @property
    def total(self):
        return self.user_ridge.total

    @property
    def rows(self):
        return twins.group(self.users, self.items, self.ratings, self.weights)

    @property
    def transposed(self):
        """The same problem with users and items swapped."""
        alpha, users, items = self.factors
        return self._replace(
            users=self.items,
            items=self.users,
            factors=Factors(alpha, items, users),
            user_ridge=self.item_ridge,
            item_ridge=self.user_ridge,
        )

    def astype(self, dtype):
        alpha, users, items = self.factors
        return self._replace(factors=Factors(alpha, users.astype(dtype), items.astype(dtype)))

    def part(self, chosen):
        """The problem of some of the ratings."""
        columns = self.users, self.items, self.ratings, self.weights
        return Problem(*(None if c is None else c[chosen] for c in columns), *self[4:])

    def objective(self):
        ridges = self.user_ridge, self.item_ridge
        return objective(self.factors, self.users, self.items, self.ratings, *ridges, self.weights)

    def central_difference(self, user, k):
        """∂f/∂x_k of a user; as f is a parabola along x_k, a step of 1 is as exact as any."""
        values = []
        for step in (1.0, -1.0):
            moved = self.factors.users[user].copy()
            moved[k] += step
            values.append(self.with_users(moved, user).objective())
        return (values[0] - values[1]) / 2

    def with_users(self, x, rows=slice(None)):
        users = self.factors.users.copy()
        users[rows] = x
        return self._replace(factors=self.factors._replace(users=users))

    def with_alpha(self, alpha):
        return self._replace(factors=self.factors._replace(alpha=alpha))


def assert_same_bits(found, expected):
    """Assert that the arrays of two named tuples are equal to the bit, or lacking in both."""
    for name, a, b in zip(found._fields, found, expected, strict=True):
        assert (a is None) == (b is None), name
        one, other = np.asarray(a), np.asarray(b)
        assert a is None or (one.dtype, one.tobytes()) == (other.dtype, other.tobytes()), name


def solve(problem, block=None, **options):
    """One half-step of ``als`` on the user side."""
    block = problem.block if block is None else block
    alpha, _, items = problem.factors
    options = {"biases": problem.biases} | options
    return solve_rows(block, items, alpha, problem.user_ridge, **options)


def sweep(problem, block=None, **options):
    """One half-step of ``als-coordinate`` on the user side."""
    block = problem.block if block is None else block
    alpha, users, items = problem.factors
    options = {"biases": problem.biases} | options
    return sweep_rows(block, items, alpha, problem.user_ridge, users[block.rows], **options)


SOLVERS = [solve, sweep]


def half_steps(problem, solver, rounds, *, intercept=True, **options):
    """Alternate users, items and α; after each half-step yield the problem and the solver's f.

    The users of the problem that is yielded are the side that was updated.
    """
    for _ in range(rounds):
        for _ in range(2):
            update = solver(problem, **options)
            problem = problem.with_users(update.x, problem.block.rows)
            fixed = problem.transposed
            fixed_penalty = twins.penalty(fixed.factors.users, fixed.rows, fixed.user_ridge)
            f = (update.squares.sum() + update.penalty.sum() + fixed_penalty) / problem.total
            yield problem, f
            problem = fixed
        if intercept:
            step = update.residual.sum() / update.weight.sum()
            problem = problem.with_alpha(problem.factors.alpha + step)


def fit(problem, solver, rounds, *, intercept=True):
    """Alternate, and return the problem at the point that was reached."""
    for _ in range(rounds):
        for _ in range(2):
            update = solver(problem)
            problem = problem.with_users(update.x, problem.block.rows).transposed
        if intercept:
            step = update.residual.sum() / update.weight.sum()
            problem = problem.with_alpha(problem.factors.alpha + step)
    return problem


def ridges(reg, total, users, items):
    """The plain ridge of the lecture, for both sides."""
    return Ridge(reg, 0.0, total, total / users), Ridge(reg, 0.0, total, total / items)


def random_problem(
    generator,
    users,
    items,
    rank,
    *,
    density=0.5,
    weighted=False,
    reg=0.01,
    exponent=0.0,
    bias_ratio=1.0,
    biases=True,
):
    """Random pairs of random sign and size; a row that nobody rated starts, and stays, at 0."""
    observed = generator.random((users, items)) < density
    observed[generator.integers(users), generator.integers(items)] = True
    u, i = np.nonzero(observed)
    order = generator.permutation(len(u))
    u, i = u[order], i[order]
    ratings = generator.normal(3, 2, len(u))
    weights = None
    if weighted:
        weights = np.where(generator.random(len(u)) < 0.25, 0.0, generator.random(len(u)) * 3)
        weights[0] = 1.0
    total = float(len(u) if weights is None else weights.sum())
    x, z = generator.normal(0, 1, (users, 1 + rank)), generator.normal(0, 1, (items, 1 + rank))
    x[~observed.any(axis=1)] = 0
    z[~observed.any(axis=0)] = 0
    if not biases:
        x[:, 0] = z[:, 0] = 0
    return Problem(
        u,
        i,
        ratings,
        weights,
        Factors(float(generator.normal(3, 1)), x, z),
        Ridge(reg, exponent, total, total / users, bias_ratio),
        Ridge(reg * 1.5, exponent, total, total / items, bias_ratio),
        biases,
    )


def lecture(seed, reg, scale=0.5):
    """The slides' example, from a random start with K = 2: no intercept, no biases.

    Users 1–3 and items 1–3 are one group, users and items 4–5 the other; who rated, rated 1.
    """
    observed = ["1.1..", "111..", ".11..", "...11", "...1."]
    users, items = np.nonzero([[cell == "1" for cell in row] for row in observed])
    n, generator = len(users), np.random.default_rng(seed)
    x, z = initial_rows(5, 2, scale, generator), initial_rows(5, 2, scale, generator)
    start = Factors(0.0, x, z)
    return Problem(users, items, np.ones(n), None, start, *ridges(reg, n, 5, 5), biases=False)


@st.composite
def problems(draw, regs=(1e-3, 0.01, 0.3)):
    """Up to 6 × 12 with rank 0 to 4: one rating, padded rows, K > n and rows without weight."""
    return random_problem(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        draw(st.integers(1, 6)),
        draw(st.integers(1, 12)),
        draw(st.integers(0, 4)),
        density=draw(st.sampled_from([0.1, 0.5, 0.9])),
        weighted=draw(st.booleans()),
        reg=draw(st.sampled_from(regs)),
        exponent=draw(st.sampled_from([0.0, 0.5, 1.0])),
        bias_ratio=draw(st.sampled_from([1.0, 0.2, 0.0])),
        biases=draw(st.booleans()),
    )
