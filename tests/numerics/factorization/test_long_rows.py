"""Rows with many ratings, whose equations are sums over parts."""

import numpy as np
import pytest

from nonconvex.numerics.factorization import als, blocks
from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Ridge
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import assert_same_bits

ROWS, COLUMNS, WIDTH = 6, 90, 4


@pytest.fixture(autouse=True)
def long_rows_are_short(monkeypatch):
    monkeypatch.setattr(blocks, "LONG", 20)
    monkeypatch.setattr(als, "LONG", 20)
    monkeypatch.setattr(blocks, "SPAN", 16)


def block(dtype, *, weighted):
    """Rows of 5, 10, 80, 20, 21 and 90 ratings, the last with a pair twice."""
    generator = np.random.default_rng(0)
    row, column = [], []
    for number, count in enumerate([5, 10, 80, 20, 21, 90]):
        row += [number] * count
        column += sorted(generator.choice(COLUMNS, count, replace=False))
    row, column = [*row, ROWS - 1], [*column, column[-1]]
    weights = generator.uniform(0.1, 2, len(row)) if weighted else None
    return RatingBlock.from_triples(
        row, column, generator.normal(size=len(row)), weights, dtype=dtype
    )


def fixed_rows(dtype):
    return np.random.default_rng(1).normal(size=(COLUMNS, WIDTH)).astype(dtype)


@pytest.mark.parametrize(("weighted", "biases"), [(False, True), (True, True), (True, False)])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-9), (np.float32, 2e-4)])
def test_long_rows_are_solved_as_any_row(dtype, rtol, weighted, biases):
    whole, fixed = block(dtype, weighted=weighted), fixed_rows(dtype)
    ridge = Ridge(0.01, 0.5, 200, 30.0, 0.5)
    update = solve_rows(whole, fixed, 0.5, ridge, biases=biases)
    of_rating = np.repeat(whole.rows, whole.counts)
    rows = twins.group(of_rating, whole.columns, whole.ratings, whole.weights)
    for number, rated in rows.items():
        diagonal = twins.ridges(ridge, whole.degrees[number], WIDTH)
        x = twins.solve_row(rated, fixed, 0.5, diagonal, biases)
        residual, squares = twins.sums(rated, fixed, 0.5, x)
        np.testing.assert_allclose(update.x[number], x, rtol=rtol, atol=rtol)
        assert update.residual[number] == pytest.approx(residual, rel=rtol, abs=20 * rtol)
        assert update.squares[number] == pytest.approx(squares, rel=rtol)
    np.testing.assert_allclose(update.weight, whole.total_weights(), rtol=1e-6)
    np.testing.assert_array_equal(update.penalty, ridge.penalty(whole.degrees, update.x))


def test_parts_add_up_to_the_same_bits_wherever_they_are_added_up():
    whole, fixed = block(np.float32, weighted=True), fixed_rows(np.float32)
    ridge = Ridge(0.01, 0.5, 200, 30.0, 0.5)
    update = solve_rows(whole, fixed, 0.5, ridge)
    long = whole.counts > blocks.LONG
    assert long.tolist() == [False, False, True, False, True, True]
    others, parts = whole.divided(long)
    assert np.diff(parts.offsets).max() <= blocks.SPAN + 1, "a part has no more columns"
    alone = solve_rows(others, fixed, 0.5, ridge)
    moments, degrees = [], np.zeros(3)
    of_rows, row_of_part = np.unique(parts.rows, return_inverse=True)
    assert of_rows.tolist() == [2, 4, 5]
    for number, row in enumerate(row_of_part):  # each by itself, as a task would
        place = slice(parts.offsets[number], parts.offsets[number + 1])
        count = place.stop - place.start
        of_part = RatingBlock.from_triples(
            np.zeros(count), parts.columns[place], parts.ratings[place], parts.weights[place],
            dtype=np.float32,
        )  # fmt: skip
        moments.append(als.part_moments(of_part, fixed, 0.5)[0])
        degrees[row] += of_part.degrees[0]
    assert degrees.tobytes() == whole.degrees[long].tobytes()
    solved = als.solve_moments(
        als.row_moments(np.stack(moments), row_of_part, 3), degrees, ridge, dtype=np.float32
    )
    for found, rows in ((solved, long), (alone, ~long)):
        assert_same_bits(found, type(update)(*(values[rows] for values in update)))


def test_rows_that_are_all_long_or_nonnegative():
    whole, fixed = block(np.float64, weighted=False), fixed_rows(np.float64)
    long = whole.counts > blocks.LONG
    others, _ = whole.divided(~long)
    ridge = Ridge(0.01, 0.5, 200, 30.0, 0.5)
    update = solve_rows(others, fixed, 0.5, ridge)
    assert update.x.tobytes() == solve_rows(whole, fixed, 0.5, ridge).x[long].tobytes()
    bounded = solve_rows(whole, fixed, 0.5, ridge, nonnegative=True)
    assert (bounded.x[:, 1:] >= 0).all()
    assert (bounded.squares >= solve_rows(whole, fixed, 0.5, ridge).squares - 1e-9).any()
