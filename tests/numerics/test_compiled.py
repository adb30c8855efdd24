"""Compiled kernels beside their twins in numpy, over random shapes; and what only they promise."""

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nonconvex.numerics import deterministic
from nonconvex.numerics.compiled import lanes
from nonconvex.numerics.compiled.blocks import sort_triples
from nonconvex.numerics.compiled.deterministic import _radii, _turn, fill_normals
from nonconvex.numerics.deterministic import Stream, normal_rows
from nonconvex.numerics.factorization import als, gibbs, model
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gradient import gradient_sums
from nonconvex.numerics.factorization.model import Background, Factors, Ridge
from nonconvex.numerics.ranking import Lists, top_n

RANKS = (0, 1, 3, 8, 13, 14, 15, 16, 31, 64, 70)


def random_block(seed, dtype=np.float32, *, rows=30, columns=20, ratings=500, weighted=False):
    """Rows of every length from none to all, some with the same column twice."""
    generator = np.random.default_rng(seed)
    row = np.minimum(generator.geometric(0.1, ratings), rows) - 1
    row[0] = rows - 1
    column = generator.integers(0, columns, ratings)
    weights = generator.random(ratings) if weighted else None
    return RatingBlock.from_triples(
        row, column, generator.integers(1, 11, ratings), weights, dtype=dtype
    )


def random_rows(seed, rows, rank, dtype=np.float32):
    return (np.random.default_rng(seed).standard_normal((rows, 1 + rank)) * 0.5).astype(dtype)


def in_double(block):
    weights = None if block.weights is None else block.weights.astype(float)
    return block._replace(ratings=block.ratings.astype(float), weights=weights)


THOROUGH = pytest.mark.thorough  # code for another type of numbers or processor takes seconds


@lanes.compiled
def radii_of(x):
    _radii(x)


@lanes.compiled
def turn_of(steps, cosines, sines):
    _turn(steps, cosines, sines)


def close(update, twin, tolerance):
    for of, expected in zip(update, twin, strict=True):
        size = max(1.0, float(np.abs(expected).max(initial=0)))
        np.testing.assert_allclose(of, expected, atol=tolerance * size)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-4), (np.float64, 1e-11)])
@pytest.mark.parametrize("rank", RANKS)
def test_rows_are_those_of_numpy(rank, dtype, tolerance):
    for seed, (weighted, biases, exponent, implicit) in enumerate(
        [(0, 1, 0, 0), (1, 1, 1, 0), (1, 0, 0.5, 0), (0, 0, 1, 1), (1, 1, 0, 1)]
    ):
        block = random_block(seed, dtype, weighted=bool(weighted))
        fixed, ridge = random_rows(seed, 20, rank, dtype), Ridge(0.01, exponent, 500, 20.0, 0.3)
        given = {"biases": bool(biases), "background": None}
        exact, double = dict(given), fixed.astype(float)
        if implicit:
            given["background"] = Background.of(fixed, 5.5, biases=bool(biases))
            exact["background"] = Background.of(double, 5.5, biases=bool(biases))
        update = als.solve_rows(block, fixed, 5.5, ridge, kernel="compiled", **given)
        close(update, als.solve_rows(in_double(block), double, 5.5, ridge, **exact), tolerance)
        assert update.x.dtype == dtype


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, 2e-3), pytest.param(np.float64, 1e-10, marks=THOROUGH)]
)
@pytest.mark.parametrize("rank", [0, 1, 8, 15, 40])
def test_nonnegative_rows_are_those_of_numpy_and_no_unknown_can_be_improved(rank, dtype, tolerance):
    for seed, (weighted, biases, implicit) in enumerate([(0, 1, 0), (1, 0, 0), (0, 1, 1)]):
        block, fixed = (
            random_block(seed, dtype, weighted=weighted),
            random_rows(seed, 20, rank, dtype),
        )
        ridge, double = Ridge(0.01, 0.5, 500, 20.0, 0.3), fixed.astype(float)
        given = {"biases": bool(biases), "nonnegative": True}
        of = [Background.of(fixed, 5.5, biases=bool(biases)) if implicit else None] * 2
        update = als.solve_rows(
            block, fixed, 5.5, ridge, kernel="compiled", background=of[0], **given
        )
        twin = als.solve_rows(in_double(block), double, 5.5, ridge, background=of[1], **given)
        close(update, twin, tolerance)
        assert update.x.dtype == dtype
        assert (update.x[:, 1:] >= 0).all()
        assert rank < 8 or 0.2 < (update.x[:, 1:] == 0).mean() < 0.8
        if implicit:
            continue
        for number, row in enumerate(update.x.astype(float)):
            own = slice(*block.offsets[number : number + 2])
            z = double[block.columns[own]]
            w = 1.0 if block.weights is None else block.weights[own].astype(float)
            e = block.ratings[own] - 5.5 - z[:, 0] - row[0] - z[:, 1:] @ row[1:]
            slope = (w * e) @ z[:, 1:] - ridge.diagonal(block.degrees, 1 + rank)[number, 1:] * row[
                1:
            ]
            size = 1 + np.abs(block.ratings[own]).sum()
            assert (slope <= tolerance * size).all()
            assert (np.abs(slope[row[1:] > 0]) <= tolerance * size).all()


@pytest.mark.parametrize("seed", range(30))
def test_sorted_triples_have_the_bytes_of_numpy(seed, monkeypatch):
    monkeypatch.setattr("nonconvex.numerics.factorization.blocks._MANY", 0)
    generator = np.random.default_rng(seed)
    n = int(generator.integers(0, 3000))
    row = generator.integers(-1, int(generator.integers(1, 300)), n) + 7 * (seed % 3)
    column = generator.integers(-1, int(generator.integers(1, 300)), n)
    rating, weights = generator.integers(1, 4, n), generator.integers(1, 3, n) if seed % 2 else None
    if seed % 5 == 0:
        row *= 1000  # too many rows to be counted
    if seed % 7 == 0:
        row, column = np.divmod(np.arange(n), 30)  # in order
    twin = RatingBlock.from_triples(row, column, rating, weights, dtype=np.float32)
    order = generator.permutation(n)
    again = None if weights is None else weights[order]
    triples = row[order], column[order], rating[order], again
    for given in ((row, column, rating, weights), triples):
        block = RatingBlock.from_triples(*given, dtype=np.float32, kernel="compiled")
        for of, expected in zip(block[:-1], twin[:-1], strict=True):
            assert of is expected is None or of.tobytes() == expected.tobytes()
            assert of is None or of.dtype == expected.dtype


def test_many_triples_are_sorted_by_compiled_code():
    row, column = np.arange(600) % 20, np.arange(600) % 30
    arrays = row.astype(np.int32), column.astype(np.int32), np.ones(600, np.float32), None
    assert sort_triples(*arrays).rows.tolist() == list(range(20))
    assert sort_triples(arrays[0] * 1000, *arrays[1:]) is None


def test_a_row_has_the_same_bits_in_every_block_and_order():
    block, fixed, ridge = random_block(3), random_rows(3, 20, 37), Ridge(0.01, 0.0, 500, 20.0)
    whole = als.solve_rows(block, fixed, 5.5, ridge, kernel="compiled")
    for row in range(len(block.rows)):
        own = slice(*block.offsets[row : row + 2])
        order = np.random.default_rng(row).permutation(block.counts[row])
        same = np.zeros(len(order))
        alone = RatingBlock.from_triples(
            same, block.columns[own][order], block.ratings[own][order], dtype=np.float32
        )
        update = als.solve_rows(alone, fixed, 5.5, ridge, kernel="compiled")
        assert update.x.tobytes() == whole.x[row].tobytes()
        assert update.squares[0] == whole.squares[row]


def test_a_row_without_ratings_or_without_weight_is_0():
    empty = RatingBlock(
        np.array([0, 1], np.int32),
        np.array([0, 0, 1]),
        np.zeros(1, np.int32),
        np.ones(1, np.float32),
        np.zeros(1, np.float32),
        np.zeros(2),
    )
    for reg in (0.0, 1.0):
        ridge = Ridge(reg, 0.0, 1, 1.0)
        update = als.solve_rows(empty, random_rows(0, 1, 5), 0.0, ridge, kernel="compiled")
        assert not update.x.any()


@pytest.mark.parametrize("count", [1, 5, 40])
def test_without_a_ridge_rows_with_fewer_ratings_than_unknowns_are_still_solved(count):
    columns, fixed = np.arange(count), random_rows(1, 40, 60)
    block = RatingBlock.from_triples(0 * columns, columns, columns % 5, dtype=np.float32)
    update = als.solve_rows(block, fixed, 2.0, Ridge(0.0, 0.0, count, count), kernel="compiled")
    assert np.isfinite(update.x).all()
    assert update.squares[0] < 1e-4 * count
    flat = np.zeros_like(fixed)  # every pivot after the first is 0: numpy solves for the least norm
    flat[:, 1] = 1
    update = als.solve_rows(block, flat, 2.0, Ridge(0.0, 0.0, count, count), kernel="compiled")
    assert np.isfinite(update.x).all()


def test_long_rows_are_summed_in_segments_and_in_parts(monkeypatch):
    generator = np.random.default_rng(5)
    columns = generator.integers(0, 30_000, 20_000)
    ratings = generator.random(20_000) + 3 * (columns % 2)
    fixed, ridge = random_rows(5, 30_000, 3), Ridge(1e-5, 0.0, 20_000, 20_000.0)
    block = RatingBlock.from_triples(0 * columns, columns, ratings, dtype=np.float32)
    exact = als.solve_rows(in_double(block), fixed.astype(float), 2.0, ridge)
    close(als.solve_rows(block, fixed, 2.0, ridge, kernel="compiled"), exact, 1e-5)
    monkeypatch.setattr(als, "LONG", 10_000)
    monkeypatch.setattr("nonconvex.numerics.factorization.blocks.SPAN", 9_000)
    close(als.solve_rows(block, fixed, 2.0, ridge, kernel="compiled"), exact, 1e-5)
    _, parts = block.divided(np.array([True]))
    assert len(parts.rows) == 4
    close(
        als.part_moments(parts, fixed, 2.0, kernel="compiled"),
        als.part_moments(in_double(parts), fixed.astype(float), 2.0),
        3e-6,
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float32, 1e-3), pytest.param(np.float64, 1e-10, marks=THOROUGH)]
)
@pytest.mark.parametrize(("rank", "biases"), [(0, True), (5, False), (15, True), (40, True)])
def test_steps_of_conjugate_gradients_are_those_of_numpy_and_lower_f(
    rank, biases, dtype, tolerance
):
    block, fixed = random_block(6, dtype, weighted=rank == 5), random_rows(6, 20, rank, dtype)
    start, ridge = random_rows(7, len(block.rows), rank, dtype), Ridge(0.01, 1.0, 500, 20.0, 0.3)
    if not biases:
        start[:, 0] = 0
    given = {"biases": biases}
    update = als.step_rows(block, fixed, 5.5, ridge, start, kernel="compiled", **given)
    double = in_double(block), fixed.astype(float), 5.5, ridge
    slope = gradient_sums(block, fixed, 5.5, ridge, start, kernel="compiled", **given)
    close(slope, gradient_sums(*double, start.astype(float), **given), tolerance)
    close(update, als.step_rows(*double, start.astype(float), **given), tolerance)
    least = als.solve_rows(*double, **given)
    lowest = least.squares + least.penalty
    values = []
    for _ in range(60):
        values.append(update.squares + update.penalty)
        update = als.step_rows(block, fixed, 5.5, ridge, update.x, kernel="compiled", **given)
    steps = np.diff(np.array(values), axis=0)
    assert (steps <= 1e-5 * values[0]).all()
    assert (values[-1] <= lowest * (1 + 1e-3)).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-4), (np.float64, 1e-11)])
@pytest.mark.parametrize("users", [True, False])
def test_draws_are_those_of_numpy_in_the_order_of_the_unknowns(users, dtype, tolerance):
    generator = np.random.default_rng(8)
    block, fixed = random_block(8, dtype, weighted=users), random_rows(8, 20, 9, dtype)
    scatter = generator.standard_normal((10, 30))
    rows = gibbs.RowDistribution(*generator.standard_normal((2, 10)), scatter @ scatter.T, 1.0)
    omega = generator.gamma(2.0, 0.5, 30)
    given = gibbs.Conditional(5.5, 1.5, rows, Stream.of(1, 2), omega, users, "compiled")
    found = given.draw(block, fixed)
    twin = given._replace(kernel="numpy")
    mean, expected = given._replace(stream=None), twin._replace(stream=None)
    close(mean.draw(block, fixed), expected.draw(in_double(block), fixed.astype(float)), tolerance)
    normals = normal_rows(given.stream, block.rows, 10)
    order = np.append(np.arange(1, 10), 0)
    for number, row in enumerate(block.rows):
        own = slice(*block.offsets[number : number + 2])
        w = np.ones(block.counts[number]) if block.weights is None else block.weights[own]
        z = np.column_stack([np.ones(len(w)), fixed[block.columns[own], 1:]])
        w = w * (omega[row] if users else omega[block.columns[own]])
        a = 1.5 * (z.T * w) @ z + (omega[row] if users else 1.0) * rows.precision
        noise = np.zeros(10)
        noise[order] = np.linalg.solve(
            np.linalg.cholesky(a[np.ix_(order, order)]).T, normals[number, order]
        )
        centre = expected.draw(in_double(block), fixed.astype(float)).x[number]
        np.testing.assert_allclose(found.x[number], centre + noise, atol=10 * tolerance)


@pytest.mark.parametrize("width", [1, 2, 11, 65, 1500])
def test_normal_numbers_are_those_of_numpy_but_for_rounding(width):
    stream, rows = Stream.of(3, width), np.arange(900) * (1 << 20)
    found, expected = fill_normals(stream, rows, width), normal_rows(stream, rows, width)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    assert fill_normals(stream, rows[700:], width).tobytes() == found[700:].tobytes()
    assert len(fill_normals(stream, rows[:0], width)) == 0


def test_normal_numbers_at_the_ends_of_logarithm_and_turn():
    whole = np.array([1, 2, 3, 2**52, 2**53 - 1, 2**53], float)
    whole = np.append(whole, np.rint(2.0**53 * np.sqrt(0.5)) + np.arange(-2.0, 3.0))
    radii = whole.copy()
    radii_of(radii)
    np.testing.assert_allclose(radii, np.sqrt(-2 * np.log(whole * 2.0**-53)), rtol=1e-15)
    eighths = np.arange(0, 2**53, 2**50)
    steps = np.unique(np.add.outer(eighths, [-1, 0, 1]).clip(0, 2**53 - 1))
    cosines, sines = np.zeros((2, len(steps)))
    turn_of(steps, cosines, sines)
    angle = steps * (2 * np.pi * 2.0**-53)
    np.testing.assert_allclose(cosines, np.cos(angle), atol=1e-15)
    np.testing.assert_allclose(sines, np.sin(angle), atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rank", RANKS)
def test_predictions_are_those_of_numpy(rank, dtype):
    generator = np.random.default_rng(rank)
    factors = Factors(2.5, random_rows(1, 50, rank, dtype), random_rows(2, 40, rank, dtype))
    users, items = generator.integers(-1, 50, 300), generator.integers(-1, 40, 300)
    found = model.predict(factors, users, items, kernel="compiled")
    np.testing.assert_allclose(found, model.predict(factors, users, items), atol=1e-12)
    again = model.predict(factors, users[7:9], items[7:9], kernel="compiled")
    assert again.tobytes() == found[7:9].tobytes()
    assert len(model.predict(factors, users[:0], items[:0], kernel="compiled")) == 0


@pytest.mark.parametrize("seed", range(40))
def test_lists_are_those_of_sorting_all_predictions(seed):
    generator = np.random.default_rng(seed)
    rank, n, many = generator.integers(0, 40), int(generator.integers(1, 30)), 3000 * (seed == 0)
    x = generator.integers(-2, 3, (50, 1 + rank)).astype(np.float32)  # with many ties
    z = generator.integers(-2, 3, (generator.integers(1, 90) + many, 1 + rank)).astype(np.float32)
    if seed % 2:
        x += random_rows(seed, *x.shape)[:, 1:] * 0.01
    factors, rows = Factors(0.5, x, z), generator.integers(-1, 50, generator.integers(0, 200))
    columns = generator.permutation(len(z))[: generator.integers(0, len(z) + 1)]
    lengths = generator.integers(0, len(z), len(rows))
    excluded = Lists(np.append(0, np.cumsum(lengths)), generator.integers(0, len(z), lengths.sum()))
    allowed = columns if seed % 3 else np.arange(len(z))
    found = top_n(factors, rows, n, columns=allowed, excluded=excluded, kernel="compiled")
    for number, row in enumerate(rows):
        own = np.setdiff1d(allowed, excluded.of_rows(number, number + 1).columns)
        scores = model.predict(factors, np.full(len(own), row), own, kernel="compiled")
        best = np.lexsort((own, -scores))[:n]
        place = slice(*found.offsets[number : number + 2])
        assert np.array_equal(found.columns[place], own[best])
        assert found.scores[place].tobytes() == scores[best].tobytes()


def digest(*, everything=True):
    """The bits of rows, sums, normal numbers, predictions and lists; or of the latter three."""
    fixed = random_rows(9, 20, 21)
    x, arrays = random_rows(10, 30, 21), []
    if everything:
        block, ridge = random_block(9), Ridge(0.01, 0.5, 500, 20.0)
        bound = als.solve_rows(block, fixed, 5.5, ridge, nonnegative=True, kernel="compiled")
        update = als.solve_rows(block, fixed, 5.5, ridge, kernel="compiled")
        x, arrays = update.x, [*update, *bound]
    factors = Factors(5.5, x, fixed)
    predicted = model.predict(factors, np.arange(20) % 7, np.arange(20), kernel="compiled")
    normals = fill_normals(Stream.of(4), np.arange(300), 22)
    arrays += [normals, predicted, *top_n(factors, np.arange(7), 5, kernel="compiled")]
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


@pytest.mark.parametrize(
    ("name", "features", "everything"),
    [
        ("nehalem", "", False),  # no AVX, no fused products
        pytest.param("nehalem", "", True, marks=THOROUGH),
        pytest.param("haswell", "+avx2,+fma", True, marks=THOROUGH),
    ],
)
def test_every_processor_gives_the_same_bits(name, features, everything):
    script = "from tests.numerics.test_compiled import digest\n"
    script += f"print(digest(everything={everything}))"
    own = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, **HERE}
    run = subprocess.run([sys.executable, "-c", script], env=os.environ | own, **TEXT, check=True)
    assert run.stdout.strip() == digest(everything=everything)


HERE = {"PYTHONPATH": str(Path(__file__).parents[2])}
TEXT = {"capture_output": True, "text": True}

WITHOUT = """
import sys
sys.modules["numba"] = None
from nonconvex.numerics.deterministic import choose_kernel
print(choose_kernel("auto"))
choose_kernel("compiled")
"""


def test_without_numba_auto_is_numpy_and_compiled_says_what_to_install():
    env = os.environ | HERE
    run = subprocess.run([sys.executable, "-c", WITHOUT], env=env, **TEXT, check=False)
    assert run.stdout == "numpy\n"
    last = run.stderr.strip().splitlines()[-1]
    assert "install nonconvex[fast] there, or set kernel='numpy'" in last


def test_the_choice():
    assert (
        deterministic.choose_kernel("auto") == deterministic.choose_kernel("compiled") == "compiled"
    )
    assert deterministic.choose_kernel("numpy") == "numpy"
    assert deterministic.core_of("compiled") == "any"
    assert deterministic.core_of("numpy") not in ("", "any")


def test_where_nothing_can_be_written_loops_are_compiled_in_memory(tmp_path):
    nowhere = tmp_path / "a file"
    nowhere.touch()
    script = "from tests.numerics.test_compiled import model, random_rows, np\n"
    script += "import logging; logging.basicConfig(level='INFO')\n"
    script += "x = random_rows(0, 5, 3); f = model.Factors(0.5, x, x)\n"
    script += "print(model.predict(f, np.arange(5), np.arange(5), kernel='compiled').shape)"
    own = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere), "NUMBA_CACHE_DIR": "", **HERE}
    run = subprocess.run([sys.executable, "-c", script], env=os.environ | own, **TEXT, check=True)
    assert run.stdout == "(5,)\n"
    assert [line[:30] for line in run.stderr.splitlines()] == ["INFO:nonconvex:compiling kerne"]


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022])
def test_code_is_kept_where_no_one_else_writes(tmp_path, umask):
    before = os.umask(umask)
    try:
        made = lanes.private(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert made is not None
    assert [one.stat().st_mode & 0o777 for one in (made, made.parent)] == [0o700] * 2
    for one, shared in itertools.product((made, made.parent), (0o770, 0o707)):
        one.chmod(shared)  # of the parent, too, as its writers may put another in its place
        assert lanes.private(made) is None
        one.chmod(0o700)
    made.parent.chmod(0o1777)  # where they may not, as in /tmp
    assert lanes.private(made) == made
    made.chmod(0o555)
    assert lanes.private(made) == made  # a read-only installation, filled before
    (tmp_path / "file").touch()
    assert lanes.private(tmp_path / "file" / "c") is None
