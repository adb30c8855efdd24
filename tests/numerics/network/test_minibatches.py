"""The order of rows: every row once in an epoch, whoever holds the pieces."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.network.backprop import Examples, sums
from nonconvex.numerics.network.local_gradients import LocalGradients
from nonconvex.numerics.network.minibatches import (
    epoch_order,
    epoch_rows,
    piece_order,
    row_order,
    steps_per_epoch,
)
from nonconvex.numerics.network.model import NetworkError
from tests.numerics.factorization.problems import PROPERTY
from tests.numerics.network.networks import LOSSES, case

SIZES = st.lists(st.integers(0, 20), min_size=1, max_size=6)


@PROPERTY
@given(SIZES, st.integers(1, 25), st.integers(-5, 5), st.integers(1, 3))
def test_an_epoch_has_every_row_once_in_minibatches_of_the_size(sizes, batch_size, seed, epoch):
    batches = list(epoch_rows(sizes, batch_size, seed, epoch))
    rows = [(piece, int(row)) for batch in batches for piece, part in batch for row in part]
    assert sorted(rows) == [(piece, row) for piece, n in enumerate(sizes) for row in range(n)]
    lengths = [sum(len(part) for _, part in batch) for batch in batches]
    assert all(length == batch_size for length in lengths[:-1])
    assert len(lengths) == steps_per_epoch(sizes, batch_size)
    assert not lengths or 1 <= lengths[-1] <= batch_size


@PROPERTY
@given(SIZES, st.integers(1, 25), st.integers(0, 5))
def test_minibatches_are_cut_from_one_sequence(sizes, batch_size, seed):
    sequence = [
        (piece, int(row))
        for piece in piece_order(len(sizes), seed, 1)
        for row in row_order(sizes[piece], seed, 1, piece)
    ]
    batches = [
        [(piece, int(row)) for piece, part in batch for row in part]
        for batch in epoch_rows(sizes, batch_size, seed, 1)
    ]
    cuts = range(0, len(sequence), batch_size)
    assert batches == [sequence[cut : cut + batch_size] for cut in cuts]
    slices = [
        [
            (s.piece, int(row))
            for s in batch
            for row in row_order(sizes[s.piece], seed, 1, s.piece)[s.start : s.stop]
        ]
        for batch in epoch_order(sizes, batch_size, seed, 1)
    ]
    assert slices == batches


def test_orders_differ_by_seed_epoch_and_piece():
    orders = [row_order(30, *key) for key in ((0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1))]
    assert len({order.tobytes() for order in orders}) == 4
    assert len({tuple(piece_order(30, *key)) for key in ((0, 1), (1, 1), (0, 2))}) == 3


def test_gradients_do_not_depend_on_how_pieces_are_held():
    network, theta, examples = case(LOSSES[2], (5,), rows=330, weighted=True)
    sizes = [100, 200, 30]
    cuts = np.cumsum(sizes)[:-1]
    pieces = [
        Examples(*parts) for parts in zip(*(np.split(p, cuts) for p in examples), strict=True)
    ]

    def gathered(batch):
        """The rows of a minibatch, brought from piece after piece."""
        return Examples(
            *(np.concatenate([pieces[p][part][rows] for p, rows in batch]) for part in range(3))
        )

    apart = [sums(network, theta, gathered(b)) for b in epoch_rows(sizes, 150, seed=5, epoch=2)]
    for threads in (1, 2):
        with LocalGradients(network, examples, sizes, 150, 5, threads) as gradients:
            together = [minibatch(theta) for minibatch in gradients.epoch(2)]
        assert len(together) == len(apart) == 3
        for ours, wanted in zip(together, apart, strict=True):
            assert ours.gradient.tobytes() == wanted.gradient.tobytes()
            assert ours.loss.tobytes() == wanted.loss.tobytes()
            assert ours.weight == wanted.weight


def test_a_minibatch_computed_late_has_its_own_rows():
    network, theta, examples = case(LOSSES[0], rows=40)
    gradients = LocalGradients(network, examples, [25, 15], 8, seed=1)
    late = [minibatch(theta) for minibatch in list(gradients.epoch(1))]
    soon = [minibatch(theta) for minibatch in gradients.epoch(1)]
    assert [s.loss.tolist() for s in late] == [s.loss.tolist() for s in soon]
    np.testing.assert_allclose(
        sum(s.loss for s in soon), sums(network, theta, examples).loss, rtol=1e-12
    )


def test_what_does_not_fit_is_refused():
    network, _, examples = case(LOSSES[2], rows=7)
    with pytest.raises(NetworkError, match=r"^sizes must add up to the 7 rows of x, got 6$"):
        LocalGradients(network, examples, [3, 3], 2, 0)
    with pytest.raises(NetworkError, match=r"^batch_size must be ≥ 1, got 0$"):
        LocalGradients(network, examples, [7], 0, 0)
    with pytest.raises(NetworkError, match=r"^classes must be 0 … 2, got [345]; "):
        LocalGradients(network, examples._replace(y=examples.y + 3), [7], 2, 0)
