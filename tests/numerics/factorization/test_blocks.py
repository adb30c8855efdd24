"""Blocks of ratings: the same from triples in any order, cut to batches, padded, by themselves."""

import numpy as np
import pytest
from hypothesis import strategies as st

from nonconvex.numerics.factorization import blocks
from nonconvex.numerics.factorization.als import solve_rows, sweep_rows
from nonconvex.numerics.factorization.model import Factors, Ridge, squared_errors
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import assert_same_bits, for_all

# Few rows, columns and values, so that pairs, and pairs with their rating, come more than once.
TRIPLES = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.integers(0, 3),
        st.sampled_from([-1.5, 0.0, 2.0]),
        st.sampled_from([0.0, 0.25, 3.0]),
    )
)


def from_triples(triples, *, weighted=True, dtype=np.float64):
    columns = list(zip(*triples, strict=True)) or [()] * 4
    return blocks.RatingBlock.from_triples(*columns[: 4 if weighted else 3], dtype=dtype)


@for_all(TRIPLES, st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_a_block_is_the_ratings_grouped_by_row(triples, weighted, dtype):
    block = from_triples(triples, weighted=weighted, dtype=dtype)
    expected = twins.group(*np.reshape(triples, (-1, 4)).T[: 4 if weighted else 3])
    assert (block.weights is not None) == weighted
    weights = np.ones(len(triples)) if block.weights is None else block.weights
    assert block.rows.tolist() == list(expected)
    assert block.offsets[0] == 0
    of_rating = [j for j, rated in enumerate(expected.values()) for _ in rated]
    assert block.row_of_rating().tolist() == of_rating
    assert block.duplicates == len(triples) - len({triple[:2] for triple in triples})
    for row, start, stop in zip(block.rows, block.offsets, block.offsets[1:], strict=False):
        part = slice(start, stop)
        found = zip(block.columns[part], block.ratings[part], weights[part], strict=True)
        assert list(found) == expected[row]
    assert block.degrees.tolist() == [twins.degree(rated) for rated in expected.values()]
    assert block.total_weights().tolist() == block.degrees.tolist()
    sums = [sum(r.rating for r in rated) for rated in expected.values()]
    assert block.over_rows(block.ratings).tolist() == sums
    assert [a.dtype for a in block[:3]] == [np.int32, np.int64, np.int32]
    assert block.ratings.dtype == weights.dtype == dtype or not weighted
    assert block.degrees.dtype == np.float64


@for_all(TRIPLES, st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_triples_does_not_matter(triples, random, weighted):
    block = from_triples(triples, weighted=weighted)
    random.shuffle(triples)
    assert_same_bits(from_triples(triples, weighted=weighted), block)


def test_large_indices_keep_their_order():
    last = 2**31 - 1
    block = blocks.RatingBlock.from_triples([last, 0, last], [last, last, -1], [1, 2, 3])
    assert block.rows.tolist() == [0, last]
    assert block.columns.tolist() == [last, -1, last]
    assert block.ratings.tolist() == [2, 3, 1]


COUNTS = st.lists(st.integers(0, 60), max_size=30).map(lambda counts: np.array(counts, int))


@for_all(COUNTS, st.integers(1, 200))
def test_every_row_with_ratings_is_in_one_batch_within_the_budget(counts, budget):
    cut = list(blocks.batches(counts, budget))
    members = [int(member) for batch in cut for member in batch.members]
    assert sorted(members) == np.flatnonzero(counts).tolist()
    for batch in cut:
        assert len(batch.members) == 1 or len(batch.members) * batch.length <= budget
        assert np.all(counts[batch.members] <= batch.length)
        assert np.all(counts[batch.members] > batch.length / 1.25 - 1)
        for member in batch.members:  # its length depends on its own count alone
            (alone,) = blocks.batches(counts[member : member + 1], 100)
            assert alone.length == batch.length


@for_all(COUNTS, st.integers(1, 200), st.booleans())
def test_every_rating_is_read_once_and_in_order_and_all_else_is_padding(counts, budget, weighted):
    offsets, n = np.append(0, np.cumsum(counts)), int(counts.sum())
    columns, ratings = np.arange(n, dtype=np.int32), np.arange(1.0, n + 1)
    padded = blocks.pad(offsets, columns, ratings, ratings + 0.5 if weighted else None)
    assert (padded.weights is not None) == weighted
    size = 0
    for batch in blocks.batches(counts, budget):
        assert batch.start == size
        size += len(batch.members) * batch.length
        for row, member in enumerate(batch.members):
            whole, count = slice(offsets[member], offsets[member + 1]), counts[member]
            expected = [(padded.columns, columns, blocks.PADDING), (padded.ratings, ratings, 0)]
            expected += [(padded.weights, ratings + 0.5, 0)] if weighted else []
            for array, values, padding in expected:
                found = batch.of(array)[row]
                assert found[:count].tolist() == values[whole].tolist()
                assert np.all(found[count:] == padding)
    assert len(padded.columns) == len(padded.ratings) == size


@pytest.mark.parametrize("longest", [1, 2, 7, 100, 10_000])
def test_padding_costs_at_most_a_quarter(longest):
    (batch,) = blocks.batches(np.array([longest]), 1)
    assert longest <= batch.length <= max(longest, 1.25 * longest)


USERS, ITEMS, FIRST = 30, 200, 7


def block():
    generator = np.random.default_rng(0)
    pairs = generator.choice(USERS * ITEMS, 400, replace=False)
    pairs = np.union1d(pairs, np.arange(USERS) * ITEMS)  # no user is left out
    rows, columns = pairs // ITEMS + FIRST, pairs % ITEMS
    return blocks.RatingBlock.from_triples(
        rows, columns, generator.normal(size=len(pairs)), dtype=np.float32
    )


def test_a_block_by_itself_solves_to_the_same_bits():
    whole = block()
    needs = blocks.in_block_of(whole)
    assert needs.columns.tolist() == sorted(set(whole.columns.tolist()))
    fixed, own = np.random.default_rng(1).normal(size=(2, ITEMS, 4)).astype(np.float32)
    ridge = Ridge(0.1, 0.0, 400, 10.0)
    for solver, more in ((solve_rows, ()), (sweep_rows, (own[:USERS],))):
        here = solver(whole, fixed, 1.0, ridge, *more)
        assert_same_bits(here, solver(needs.block, fixed[needs.columns], 1.0, ridge, *more))


@pytest.mark.parametrize("firsts", [[0], [0, 50, 50, 120], [0, 0, 199]])
def test_shares_are_all_columns_in_their_order(firsts):
    columns = blocks.in_block_of(block()).columns
    shares = blocks.out_block_parts(columns, np.array(firsts))
    found = [firsts[share.block] + share.positions for share in shares]
    assert np.concatenate(found).tolist() == columns.tolist()
    ends = [*firsts[1:], ITEMS]
    for share, of_block in zip(shares, found, strict=True):
        assert len(of_block)
        assert of_block.max() < ends[share.block]


def test_a_block_with_a_gap_is_refused():
    with pytest.raises(ValueError, match="the 2 rows of a block are not all those from 3 on"):
        blocks.in_block_of(blocks.RatingBlock.from_triples([3, 5], [0, 0], [1.0, 2.0]))


def test_errors_of_held_out_ratings_are_the_same_bits():
    generator = np.random.default_rng(2)
    rows, columns = generator.integers(-1, USERS, 300), generator.integers(-1, ITEMS, 300)
    rows[rows >= 0] += FIRST
    whole = blocks.RatingBlock.from_triples(
        rows, columns, generator.normal(size=300), dtype=np.float32
    )
    needs = blocks.held_out_in_block_of(whole, FIRST)
    x = generator.normal(size=(FIRST + USERS, 4)).astype(np.float32)
    z = generator.normal(size=(ITEMS, 4)).astype(np.float32)
    here = squared_errors(Factors(1.0, x, z), whole)
    there = squared_errors(Factors(1.0, x[FIRST:], z[needs.columns]), needs.block)
    assert here.tobytes() == there.tobytes()
    known = whole.rows >= 0
    assert (needs.block.rows[known] + FIRST == whole.rows[known]).all()
    assert (needs.block.rows[~known] == -1).all()
