"""Validation ratings whose predictions come to the driver: which, and in whatever blocks."""

import numpy as np
import pyarrow as pa
import pytest

from nonconvex.distributed.connect import LocalValue
from nonconvex.distributed.data.ids import IdIndex
from nonconvex.distributed.factorization.execution import LocalBlocks
from nonconvex.distributed.factorization.gibbs import HeldOut
from nonconvex.distributed.factorization.packing import PackingSide, pack_locally

USERS, ITEMS, RATINGS = 90, 40, 2000
SIDE = PackingSide("user", "item", 4)


def held_out(blocks, **settings):
    """Of ratings with repeated pairs, and some of ids that training does not know."""
    generator = np.random.default_rng(5)
    rows = generator.integers(-1, USERS, RATINGS).astype(np.int32)
    table = pa.table(
        {
            "user_index": rows,
            "item_index": generator.integers(-1, ITEMS, RATINGS).astype(np.int32),
            "rating": generator.integers(1, 6, RATINGS).astype(np.float64),
        }
    )
    users = pa.table({"block": (np.arange(USERS) % blocks).astype(np.int32)})
    lookups = {"user": IdIndex(users, blocks)}
    batches = pack_locally(table.to_batches(), SIDE, np.float64, lookups)
    return HeldOut(LocalBlocks(None, batches), np.float64, **settings)


def rmse(ratings):
    generator = np.random.default_rng(6)
    sides = (generator.normal(0, 0.1, (size, 3)) for size in (USERS, ITEMS))
    shared = [LocalValue([side]) for side in sides]
    [predicted] = ratings.predictions([3.0], [(np.zeros(3), np.zeros(3))], *shared)
    assert len(predicted) == len(ratings)
    return ratings.rmse(predicted)


def test_all_are_followed_where_they_are_few():
    assert len(held_out(3)) == len(held_out(3, most=RATINGS)) == RATINGS


def test_of_many_a_share_is_followed_the_same_in_any_blocks():
    one, other = held_out(1, most=500), held_out(4, most=500)
    assert len(one) == len(other) == pytest.approx(500, abs=60)
    assert rmse(one) == rmse(other) == pytest.approx(rmse(held_out(4)), rel=0.08)
