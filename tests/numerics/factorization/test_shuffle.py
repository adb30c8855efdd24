"""Blocks by themselves: the same sums from the rows they need alone."""

import numpy as np
import pytest

from nonconvex.numerics.factorization.als import solve_rows, sweep_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Factors, Ridge, squared_errors
from nonconvex.numerics.factorization.shuffle import (
    held_out_in_block_of,
    in_block_of,
    out_block_parts,
)

USERS, ITEMS, FIRST = 30, 200, 7


def block():
    generator = np.random.default_rng(0)
    pairs = generator.choice(USERS * ITEMS, 400, replace=False)
    pairs = np.union1d(pairs, np.arange(USERS) * ITEMS)  # no user is left out
    rows, columns = pairs // ITEMS + FIRST, pairs % ITEMS
    return RatingBlock.from_triples(
        rows, columns, generator.normal(size=len(pairs)), dtype=np.float32
    )


def test_a_block_by_itself_solves_to_the_same_bits():
    whole = block()
    needs = in_block_of(whole)
    assert needs.columns.tolist() == sorted(set(whole.columns.tolist()))
    fixed, own = np.random.default_rng(1).normal(size=(2, ITEMS, 4)).astype(np.float32)
    ridge = Ridge(0.1, 0.0, 400, 10.0)
    for here, there in (
        (
            solve_rows(whole, fixed, 1.0, ridge),
            solve_rows(needs.block, fixed[needs.columns], 1.0, ridge),
        ),
        (
            sweep_rows(whole, fixed, 1.0, ridge, own[:USERS]),
            sweep_rows(needs.block, fixed[needs.columns], 1.0, ridge, own[:USERS]),
        ),
    ):
        for ours, theirs in zip(here, there, strict=True):
            assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("firsts", [[0], [0, 50, 50, 120], [0, 0, 199]])
def test_shares_are_all_columns_in_their_order(firsts):
    columns = in_block_of(block()).columns
    shares = out_block_parts(columns, np.array(firsts))
    found = [firsts[share.block] + share.positions for share in shares]
    assert np.concatenate(found).tolist() == columns.tolist()
    ends = [*firsts[1:], ITEMS]
    for share, of_block in zip(shares, found, strict=True):
        assert len(of_block)
        assert of_block.max() < ends[share.block]


def test_a_block_with_a_gap_is_refused():
    with pytest.raises(ValueError, match="the 2 rows of a block are not all those from 3 on"):
        in_block_of(RatingBlock.from_triples([3, 5], [0, 0], [1.0, 2.0]))


def test_errors_of_held_out_ratings_are_the_same_bits():
    generator = np.random.default_rng(2)
    rows, columns = generator.integers(-1, USERS, 300), generator.integers(-1, ITEMS, 300)
    rows[rows >= 0] += FIRST
    whole = RatingBlock.from_triples(rows, columns, generator.normal(size=300), dtype=np.float32)
    needs = held_out_in_block_of(whole, FIRST)
    x = generator.normal(size=(FIRST + USERS, 4)).astype(np.float32)
    z = generator.normal(size=(ITEMS, 4)).astype(np.float32)
    here = squared_errors(Factors(1.0, x, z), whole)
    there = squared_errors(Factors(1.0, x[FIRST:], z[needs.columns]), needs.block)
    assert here.tobytes() == there.tobytes()
    known = whole.rows >= 0
    assert (needs.block.rows[known] + FIRST == whole.rows[known]).all()
    assert (needs.block.rows[~known] == -1).all()
