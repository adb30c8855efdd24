"""Blocks of ratings: the same from triples in any order, cut to batches."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.factorization.blocks import RatingBlock
from tests.numerics.factorization import twins
from tests.numerics.factorization.problems import PROPERTY

EMPTY = RatingBlock.from_triples([], [], [])

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
    return RatingBlock.from_triples(*columns[: 4 if weighted else 3], dtype=dtype)


def assert_same_bits(block, other):
    for name, one, two in zip(block._fields, block, other, strict=True):
        if one is None or two is None:
            assert one is two, name
        else:
            assert one.dtype == two.dtype, name
            assert one.tobytes() == two.tobytes(), name


def test_the_matrix_of_the_docstring():
    block = RatingBlock.from_triples([2, 0, 2, 0], [3, 0, 1, 2], [1, 5, 4, 3])
    assert block.rows.tolist() == [0, 2]
    assert block.offsets.tolist() == [0, 2, 4]
    assert block.columns.tolist() == [0, 2, 1, 3]
    assert block.ratings.tolist() == [5, 3, 4, 1]
    assert block.weights is None
    assert block.degrees.tolist() == [2, 2]
    assert block.counts.tolist() == [2, 2]
    assert block.row_of_rating().tolist() == [0, 0, 1, 1]


@PROPERTY
@given(TRIPLES, st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_a_block_is_the_ratings_grouped_by_row(triples, weighted, dtype):
    block = from_triples(triples, weighted=weighted, dtype=dtype)
    expected = twins.group(*np.reshape(triples, (-1, 4)).T[: 4 if weighted else 3])
    weights = np.ones(len(triples)) if block.weights is None else block.weights
    assert block.rows.tolist() == list(expected)
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


@PROPERTY
@given(TRIPLES, st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_the_triples_does_not_matter(triples, random, weighted):
    block = from_triples(triples, weighted=weighted)
    random.shuffle(triples)
    assert_same_bits(from_triples(triples, weighted=weighted), block)


def test_the_weights_of_a_pair_that_repeats_stay_with_its_ratings():
    block = RatingBlock.from_triples([0, 0, 0], [1, 1, 1], [5.0, 2.0, 5.0], [3.0, 9.0, 1.0])
    assert block.ratings.tolist() == [2.0, 5.0, 5.0]
    assert block.weights.tolist() == [9.0, 1.0, 3.0]


@PROPERTY
@given(TRIPLES)
def test_duplicates_are_pairs_that_repeat(triples):
    pairs = [triple[:2] for triple in triples]
    assert from_triples(triples).duplicates == len(pairs) - len(set(pairs))


def test_a_column_that_ends_a_row_and_begins_the_next_is_no_duplicate():
    assert RatingBlock.from_triples([0, 1, 1, 2], [3, 3, 4, 4], [1, 1, 1, 1]).duplicates == 0


def test_an_empty_block():
    assert EMPTY.rows.tolist() == EMPTY.columns.tolist() == EMPTY.degrees.tolist() == []
    assert EMPTY.offsets.tolist() == [0]
    assert EMPTY.duplicates == 0
    assert EMPTY.row_of_rating().tolist() == EMPTY.total_weights().tolist() == []


def test_large_indices_keep_their_order():
    last = 2**31 - 1
    block = RatingBlock.from_triples([last, 0, last], [last, last, 0], [1, 2, 3])
    assert block.rows.tolist() == [0, last]
    assert block.columns.tolist() == [last, 0, last]
    assert block.ratings.tolist() == [2, 3, 1]
