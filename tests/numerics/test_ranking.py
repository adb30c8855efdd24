"""Top-n against sorting all predictions, to the bit, and metrics against loops over places."""

import math

import numpy as np
import pytest

from nonconvex.numerics import ranking
from nonconvex.numerics.factorization.model import Factors, predict


def sorted_predictions(factors, row, n, allowed, excluded=()):
    """Predict every column that may be found, and sort: what `top_n` must come to."""
    columns = np.setdiff1d(allowed, excluded)
    scores = predict(factors, np.full(len(columns), row), columns)
    order = np.lexsort((columns, -scores))[:n]
    return columns[order].tolist(), scores[order].tolist()


def found(ranked, j):
    part = slice(*ranked.offsets[j : j + 2])
    return ranked.columns[part].tolist(), ranked.scores[part].tolist()


def make_lists(members):
    lengths = [len(list_) for list_ in members]
    columns = np.concatenate([np.zeros(0), *members]).astype(np.int32)
    return ranking.Lists(np.append(0, np.cumsum(lengths)), columns)


def random_factors(rng, users, items, rank, dtype=np.float32):
    sides = (rng.normal(0, 0.5, (rows, 1 + rank)).astype(dtype) for rows in (users, items))
    return Factors(3.5, *sides)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(ranking, "ROWS", 7)
    monkeypatch.setattr(ranking, "COLUMNS", 32)
    monkeypatch.setattr(ranking, "GROUP", 4)


@pytest.mark.parametrize("rank", [0, 1, 10, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 10, 40, 500])
@pytest.mark.usefixtures("small_tiles")
def test_top_n_is_the_head_of_all_predictions(rank, dtype, n):
    rng = np.random.default_rng([rank, n])
    factors = random_factors(rng, 30, 150, rank, dtype)
    rows = rng.permutation(np.append(np.arange(30), -1))
    excluded = [rng.choice(150, rng.integers(0, 60), replace=False) for _ in rows]
    columns = rng.choice(150, 110, replace=False)
    for allowed in (None, columns):
        for barred in (None, excluded):
            ranked = ranking.top_n(
                factors, rows, n, columns=allowed, excluded=barred and make_lists(barred)
            )
            within = np.arange(150) if allowed is None else allowed
            for j, row in enumerate(rows):
                without = barred[j] if barred else ()
                assert found(ranked, j) == sorted_predictions(factors, row, n, within, without)


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.usefixtures("small_tiles")
def test_scores_are_told_apart_as_float64_tells_them_apart(equal):
    rng = np.random.default_rng(2)
    if equal:  # so great an α that float64 rounds the differences away, and float32 does not
        factors = Factors(1e9, np.zeros((20, 2)), 1e-2 + 1e-7 * rng.random((200, 2)))
    else:
        alike = np.tile(rng.normal(0, 1, 9), (200, 1)) * (1 + 1e-9 * rng.permutation(200)[:, None])
        factors = Factors(1000.0, rng.normal(0, 1, (20, 9)), alike)
    ranked = ranking.top_n(factors, np.arange(20), 5)
    for row in range(20):
        assert found(ranked, row) == sorted_predictions(factors, row, 5, np.arange(200))


@pytest.mark.usefixtures("small_tiles")
def test_equal_scores_come_in_the_order_of_columns():
    factors = Factors(3.0, np.ones((2, 3)), np.ones((100, 3)))
    seen = make_lists([[0, 2], []])
    ranked = ranking.top_n(factors, np.array([0, 1]), 4, excluded=seen)
    assert ranked.columns.tolist() == [1, 3, 4, 5, 0, 1, 2, 3]


@pytest.mark.parametrize("size", [1, 3, 128, 200, 1000])
def test_a_row_gets_the_same_bits_in_any_batch(size):
    rng = np.random.default_rng(3)
    columns = 2 * ranking.COLUMNS + 5
    factors = random_factors(rng, 1000, columns, 17)
    whole = ranking.top_n(factors, np.arange(1000), 10)  # in tiles of the usual size
    for row in (0, 127, 128, 999):
        assert found(whole, row) == sorted_predictions(factors, row, 10, np.arange(columns))
    order = rng.permutation(1000)
    for first in range(0, 1000, size):
        rows = order[first : first + size]
        ranked = ranking.top_n(factors, rows, 10)
        expected = np.concatenate([np.arange(10 * row, 10 * row + 10) for row in rows])
        np.testing.assert_array_equal(ranked.columns, whole.columns[expected])
        assert ranked.scores.tobytes() == whole.scores[expected].tobytes()


def test_lists_are_as_short_as_what_is_left_and_may_be_of_candidates():
    factors = random_factors(np.random.default_rng(4), 3, 4, 2)
    seen = make_lists([[0, 1, 2, 3], [3, 1], []])
    ranked = ranking.top_n(factors, np.arange(3), 3, excluded=seen)
    assert ranked.lists.lengths.tolist() == [0, 2, 3]
    nothing = ranking.top_n(factors, np.arange(3), 3, columns=np.zeros(0, int))
    assert nothing.lists.lengths.tolist() == [0, 0, 0]
    nobody = ranking.top_n(factors, np.zeros(0, int), 3)
    assert len(nobody.lists.lengths) == len(nobody.columns) == 0
    # lists of candidates
    rng = np.random.default_rng(5)
    factors = random_factors(rng, 20, 50, 6)
    members = [rng.choice(50, rng.integers(0, 12), replace=False) for _ in range(21)]
    rows = np.append(np.arange(20), -1)
    ranked = ranking.rank_lists(factors, rows, 4, make_lists(members))
    for j, row in enumerate(rows):
        assert found(ranked, j) == sorted_predictions(factors, row, 4, members[j])


def test_directions_predict_cosines():
    rng = np.random.default_rng(6)
    x = rng.normal(0, 2, (30, 6)).astype(np.float32)
    x[4, 1:] = 0
    unit = ranking.directions(x)
    gamma = x[:, 1:].astype(np.float64)
    cosine = gamma[0] @ gamma[7] / np.linalg.norm(gamma[0]) / np.linalg.norm(gamma[7])
    predicted = predict(Factors(0.0, unit, unit), np.array([0, 4]), np.array([7, 7]))
    np.testing.assert_allclose(predicted, [cosine, 0.0], rtol=1e-14)


def by_the_book(ranked, relevant, k):
    """Järvelin and Kekäläinen; Manning, Raghavan and Schütze: with sets and loops."""
    found = [item in relevant for item in ranked[:k]]
    gain = sum(1 / math.log2(r + 2) for r, hit in enumerate(found) if hit)
    best = sum(1 / math.log2(r + 2) for r in range(min(k, len(relevant))))
    at_hits = [sum(found[: r + 1]) / (r + 1) for r, hit in enumerate(found) if hit]
    average = sum(at_hits) / min(k, len(relevant))
    return gain / best, sum(found) / len(relevant), sum(found) / k, average


@pytest.mark.parametrize("k", [1, 5, 10, 30])
def test_metrics_are_those_of_the_books(k):
    rng = np.random.default_rng(k)
    ranked = [rng.choice(40, rng.integers(0, 21), replace=False) for _ in range(50)]
    relevant = [rng.choice(40, rng.integers(1, 15), replace=False) for _ in range(50)]
    ranked_lists, relevant_lists = make_lists(ranked), make_lists(relevant)
    found = ranking.hits(ranked_lists, relevant_lists, k)
    total = relevant_lists.lengths
    measured = [
        metric(found, total) for metric in (ranking.ndcg, ranking.recall, ranking.average_precision)
    ]
    measured.insert(2, ranking.precision(found))
    pairs = zip(ranked, relevant, strict=True)
    expected = [by_the_book(a.tolist(), set(b.tolist()), k) for a, b in pairs]
    np.testing.assert_allclose(np.transpose(measured), expected, rtol=1e-13)
