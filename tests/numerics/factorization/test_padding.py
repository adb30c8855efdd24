"""Padded ratings: what is in which batch, and that nothing is lost or made up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.factorization.padding import PADDING, batches, pad
from tests.numerics.factorization.problems import PROPERTY

COUNTS = st.lists(st.integers(0, 60), max_size=30).map(lambda counts: np.array(counts, int))


@PROPERTY
@given(COUNTS, st.integers(1, 200))
def test_every_row_with_ratings_is_in_one_batch_within_the_budget(counts, budget):
    cut = list(batches(counts, budget))
    members = [int(member) for batch in cut for member in batch.members]
    assert sorted(members) == np.flatnonzero(counts).tolist()
    for batch in cut:
        assert len(batch.members) == 1 or len(batch.members) * batch.length <= budget
        assert np.all(counts[batch.members] <= batch.length)
        assert np.all(counts[batch.members] > batch.length / 1.25 - 1)


@PROPERTY
@given(COUNTS, st.integers(1, 200))
def test_the_padded_length_of_a_row_depends_on_its_own_count_alone(counts, budget):
    for batch in batches(counts, budget):
        for member in batch.members:
            (alone,) = batches(counts[member : member + 1], 100)
            assert alone.length == batch.length


@PROPERTY
@given(COUNTS, st.integers(1, 200), st.booleans())
def test_every_rating_is_read_once_and_in_order_and_all_else_is_padding(counts, budget, weighted):
    offsets, n = np.append(0, np.cumsum(counts)), int(counts.sum())
    columns, ratings = np.arange(n, dtype=np.int32), np.arange(1.0, n + 1)
    padded = pad(offsets, columns, ratings, ratings + 0.5 if weighted else None)
    assert (padded.weights is not None) == weighted
    size = 0
    for batch in batches(counts, budget):
        assert batch.start == size
        size += len(batch.members) * batch.length
        for row, member in enumerate(batch.members):
            whole = slice(offsets[member], offsets[member + 1])
            assert (
                batch.of(padded.columns)[row, : counts[member]].tolist() == columns[whole].tolist()
            )
            assert (
                batch.of(padded.ratings)[row, : counts[member]].tolist() == ratings[whole].tolist()
            )
            assert np.all(batch.of(padded.columns)[row, counts[member] :] == PADDING)
            assert not batch.of(padded.ratings)[row, counts[member] :].any()
            if weighted:
                weights = batch.of(padded.weights)[row]
                assert weights[: counts[member]].tolist() == (ratings[whole] + 0.5).tolist()
                assert not weights[counts[member] :].any()
    assert len(padded.columns) == len(padded.ratings) == size


@pytest.mark.parametrize("longest", [1, 2, 7, 100, 10_000])
def test_padding_costs_at_most_a_quarter(longest):
    (batch,) = batches(np.array([longest]), 1)
    assert longest <= batch.length <= max(longest, 1.25 * longest)


def test_nothing_is_in_no_batch():
    nothing = np.zeros(0, np.int32)
    assert list(batches(np.zeros(0, int), 100)) == []
    assert pad(np.array([0]), nothing, np.zeros(0), None).columns.tolist() == []
