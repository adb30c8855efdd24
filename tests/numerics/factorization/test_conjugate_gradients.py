"""Conjugate gradients on stacks of systems: against a slow twin, and one system at a time."""

import numpy as np
import pytest

from nonconvex.numerics.factorization import als as least_squares
from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.conjugate_gradients import TOLERANCE, conjugate_gradients
from nonconvex.numerics.factorization.model import Ridge


def stack(seed, size, width, ridge=5.0, count=100):
    """Return A = ZᵀZ + ridge I and b = Zᵀy, in float32, of `count` ratings each."""
    generator = np.random.default_rng(seed)
    z = generator.normal(0.2, 0.5, size=(size, count, width)).astype(np.float32)
    y = generator.normal(size=(size, count, 1)).astype(np.float32)
    a = z.swapaxes(1, 2) @ z + np.float32(ridge) * np.eye(width, dtype=np.float32)
    return a, (z.swapaxes(1, 2) @ y)[..., 0]


def twin(a, b, steps):
    """The textbook, one system at a time, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    x, r, p = np.zeros(len(b)), b, b
    for _ in range(steps):
        if np.linalg.norm(r) <= TOLERANCE * np.linalg.norm(b):
            break
        length = r @ r / (p @ a @ p)
        x, before = x + length * p, r @ r
        r = r - length * (a @ p)
        p = r + r @ r / before * p
    return x


def test_it_takes_the_steps_of_the_textbook():
    a, b = stack(0, 7, 12)
    for steps in (1, 2, 5):
        for a_s, b_s, x_s in zip(a, b, conjugate_gradients(a, b, steps)[0], strict=True):
            expected = twin(a_s, b_s, steps)
            np.testing.assert_allclose(x_s, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("width", [33, 65, 129])
def test_it_converges_to_the_solution_and_says_so(width):
    a, b = stack(1, 20, width)
    x, converged = conjugate_gradients(a, b, 40)
    assert converged.all()
    assert x.dtype == np.float32
    exact = np.linalg.solve(a.astype(np.float64), b.astype(np.float64)[..., None])[..., 0]
    np.testing.assert_allclose(x, exact, rtol=0, atol=2e-5 * np.abs(exact).max())


def test_every_step_lowers_the_value():
    a, b = stack(2, 10, 20, ridge=0.5)
    values = []
    for steps in range(12):
        x = conjugate_gradients(a, b, steps)[0].astype(np.float64)
        values.append(np.einsum("sk,skl,sl->s", x, a, x) / 2 - np.einsum("sk,sk->s", b, x))
    assert np.all(np.diff(values, axis=0) < 0)


@pytest.mark.parametrize("width", [11, 33, 65, 129])
def test_the_bits_of_a_solution_depend_on_its_own_system_alone(width):
    a, b = stack(3, 24, width)
    a[5:9] += 20 * np.eye(width, dtype=np.float32)  # these converge sooner than the others
    together, _ = conjugate_gradients(a, b, 40)
    order = np.random.default_rng(0).permutation(24)
    assert conjugate_gradients(a[order], b[order], 40)[0].tobytes() == together[order].tobytes()
    for s in range(24):
        assert conjugate_gradients(a[s : s + 1], b[s : s + 1], 40)[0].tobytes() == (
            together[s].tobytes()
        )


def test_what_cannot_converge_is_told_and_touches_nothing():
    a, b = stack(4, 6, 12)
    alone, _ = conjugate_gradients(a, b, 40)
    a[1], b[2], a[3] = 0, 0, np.nan
    x, converged = conjugate_gradients(a, b, 40)
    assert converged.tolist() == [True, False, True, False, True, True]
    assert not x[[1, 2]].any()
    assert x[[0, 4, 5]].tobytes() == alone[[0, 4, 5]].tobytes()


def long_rows(rank=32, rows=30, seed=5):
    generator = np.random.default_rng(seed)
    z = generator.normal(0, 0.5, size=(400, 1 + rank)).astype(np.float32)
    counts = np.repeat([20, 90, 390], rows // 3)
    columns = np.concatenate([generator.permutation(400)[:count] for count in counts])
    ratings = generator.normal(3, 1, size=len(columns))
    block = RatingBlock.from_triples(
        np.repeat(np.arange(rows), counts), columns, ratings, dtype=np.float32
    )
    return block, z


def test_rows_in_float32_solve_their_equation_as_exactly_as_by_elimination(monkeypatch):
    block, z = long_rows()
    ridge = Ridge(20 / len(block.ratings), 0.0, len(block.ratings), 10.0, 0.2)
    solved = []
    monkeypatch.setattr(
        least_squares,
        "conjugate_gradients",
        lambda a, b, steps: solved.append(len(a)) or conjugate_gradients(a, b, steps),
    )
    found = solve_rows(block, z, 3.0, ridge)
    assert sum(solved) == 20  # the longest rows are eliminated
    exact = solve_rows(block, z.astype(np.float64), 3.0, ridge)
    assert sum(solved) == 20  # and so is everything in float64
    np.testing.assert_allclose(found.x, exact.x, rtol=0, atol=2e-5 * np.abs(exact.x).max())
    f, least = ((update.squares + update.penalty).sum() for update in (found, exact))
    assert f == pytest.approx(least, rel=1e-6)


def test_rows_that_do_not_converge_are_eliminated(monkeypatch):
    block, z = long_rows()
    ridge = Ridge(1e-6, 0.0, len(block.ratings), 10.0)
    monkeypatch.setattr(least_squares, "MOST_STEPS", 2)
    hasty = solve_rows(block, z, 3.0, ridge).x
    monkeypatch.setattr(least_squares, "LEAST_UNKNOWNS", 1000)
    assert hasty.tobytes() == solve_rows(block, z, 3.0, ridge).x.tobytes()
