"""The loss, its gradient and its bits, and the order of rows: every row once in an epoch."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import strategies as st

from nonconvex.numerics import deterministic as threads
from nonconvex.numerics.network import backprop
from nonconvex.numerics.network.backprop import Examples, evaluate, network_objective, sums
from nonconvex.numerics.network.model import Network, NetworkError, forward
from tests.numerics.factorization.problems import assert_same_bits, for_all
from tests.numerics.network import networks as twin
from tests.numerics.network.networks import LOSSES, SMOOTH, case

HIDDEN = [(), (4,), (4, 3), (3, 2, 4)]


def value(network, theta, examples):
    """f, without a gradient."""
    found = evaluate(network, theta, examples)
    return found.mean_loss() + network.reg / 2 * ((theta * network.is_weight) ** 2).sum(axis=-1)


@pytest.mark.parametrize("activation", SMOOTH)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_that_of_central_differences(loss, activation):
    for hidden, bias, weighted, reg in itertools.product(
        HIDDEN, (True, False), (True, False), (0.0, 0.3)
    ):
        network, theta, examples = case(
            loss, hidden, activation=activation, bias=bias, weighted=weighted, reg=reg, restarts=1
        )
        f, gradient = network_objective(network, theta, sums(network, theta, examples))
        step = 1e-5 * np.eye(network.size)  # every parameter in turn, as so many restarts
        ahead = value(network, theta + step, examples)
        behind = value(network, theta - step, examples)
        differences = (ahead - behind) / 2e-5
        error = np.abs(gradient[0] - differences).max() / np.abs(gradient).max()
        assert error < 1e-6, (hidden, bias, weighted, gradient[0], differences)
        assert f[0] == pytest.approx(value(network, theta, examples)[0], rel=1e-14)


@pytest.mark.parametrize("activation", [*SMOOTH, "step"])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_sums_are_those_of_loops_over_neurons(loss, activation):
    for hidden, bias, weighted in itertools.product(HIDDEN, (True, False), (True, False)):
        options = {"bias": bias, "weighted": weighted, "step_gradient": "straight-through"}
        network, theta, examples = case(loss, hidden, activation=activation, **options)
        found = sums(network, theta, examples)
        assert found.gradient.shape == theta.shape
        for row, parameters in enumerate(theta):
            wanted = twin.sums(network, parameters, examples)
            np.testing.assert_allclose(found.loss[row], wanted[0], rtol=1e-12)
            np.testing.assert_allclose(found.gradient[row], wanted[1], rtol=1e-10, atol=1e-12)
            assert found.weight == wanted[2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_logits_have_finite_losses(loss, extreme, dtype):
    network, theta, examples = case(loss, inputs=1, restarts=1, bias=False, dtype=dtype)
    theta = np.full_like(theta, extreme)
    theta[0, 1:] = -extreme  # the classes of a softmax at both ends
    found = sums(network, theta, examples._replace(x=np.ones_like(examples.x)))
    assert np.isfinite(found.loss).all()
    assert np.isfinite(found.gradient).all()


@pytest.mark.parametrize(("y", "loss"), [(1, 0.0), (0, 1e4)])
def test_cross_entropy_is_exact_where_the_probability_is_rounded(y, loss):
    examples = Examples(np.array([[1.0]]), np.array([y]))
    binary = Network((1, 1), (), "binary-cross-entropy", bias=False)
    assert sums(binary, np.array([[1e4]]), examples).loss == loss
    categorical = Network((1, 2), (), "categorical-cross-entropy", bias=False)
    assert sums(categorical, np.array([[0.0, 1e4]]), examples).loss == loss


def test_a_loss_beyond_all_numbers_is_infinite_and_silent():
    network, theta, examples = case("squared-error", dtype=np.float32)
    assert np.isposinf(sums(network, theta * np.float32(1e30), examples).loss).all()
    nan = sums(network, theta * np.nan, examples)
    assert np.isnan(nan.loss).all()
    assert np.isnan(nan.gradient).all()


@pytest.mark.parametrize("activation", [*SMOOTH, "step"])
def test_nan_goes_through_every_activation(activation):
    network, theta, examples = case("squared-error", (2,), activation=activation)
    assert np.isnan(forward(network, theta * np.nan, examples.x)[-1]).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_examples_may_be_in_any_number_of_parts(loss):
    network, theta, (x, y, weight) = case(loss, (4,), rows=20, weighted=True)
    whole = Examples(x, y, weight)
    for function in (sums, evaluate):
        parts = [
            function(network, theta, Examples(x[part], y[part], weight[part]))
            for part in (slice(0, 6), slice(6, 6), slice(6, 20))
        ]
        together = backprop.merge(backprop.merge(*parts[:2]), parts[2])
        for ours, wanted in zip(together, function(network, theta, whole), strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=1e-12)


def test_examples_without_weight_leave_the_penalty():
    network, theta, examples = case("squared-error", reg=0.5)
    nothing = sums(network, theta, examples._replace(weight=np.zeros(len(examples.x))))
    f, gradient = network_objective(network, theta, nothing)
    weights = theta * network.is_weight
    np.testing.assert_allclose(f, 0.25 * (weights**2).sum(axis=1))
    np.testing.assert_array_equal(gradient, 0.5 * weights)


def test_the_metric_is_accuracy_or_root_mean_squared_error():
    network, theta, examples = case("categorical-cross-entropy", weighted=True)
    found = evaluate(network, theta, examples)
    z = forward(network, theta, examples.x)[-1]
    right = z.argmax(axis=-1) == examples.y
    np.testing.assert_allclose(
        found.metric(network), (right * examples.weight).sum(axis=1) / examples.weight.sum()
    )
    network, theta, examples = case("squared-error")
    error = forward(network, theta, examples.x)[-1] - examples.y
    np.testing.assert_allclose(
        evaluate(network, theta, examples).metric(network),
        np.sqrt((error**2).sum(axis=-1).mean(axis=-1)),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("rows", [1, 3, 130, 257])
def test_a_restart_has_the_bits_it_has_alone(loss, rows, dtype):
    for hidden, activation in ([(), "relu"], [(1,), "tanh"], [(17, 5), "sigmoid"], [(33,), "relu"]):
        sizes = {"inputs": 19, "rows": rows, "restarts": 3}
        options = {"activation": activation, "weighted": True, "reg": 0.1, "dtype": dtype}
        network, theta, examples = case(loss, hidden, **sizes, **options)
        together = sums(network, theta, examples)
        f, gradient = network_objective(network, theta, together)
        right = evaluate(network, theta, examples)
        for row in range(3):
            alone = sums(network, theta[row : row + 1], examples)
            assert together.gradient[row].tobytes() == alone.gradient[0].tobytes()
            assert together.loss[row] == alone.loss[0]
            f_alone, gradient_alone = network_objective(network, theta[row : row + 1], alone)
            assert f[row] == f_alone[0]
            assert gradient[row].tobytes() == gradient_alone[0].tobytes()
            assert right.loss[row] == evaluate(network, theta[row : row + 1], examples).loss[0]


@pytest.mark.skipif(threads._get_threads is None, reason="numpy is not linked to an OpenBLAS")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bits_do_not_depend_on_the_threads_of_the_blas(dtype):
    get, set_ = threads._get_threads, threads._set_threads
    before, found = get(), []
    try:
        for number in (1, 2, 3):
            set_(number)
            bits = b""
            for loss, restarts in itertools.product(LOSSES, (1, 2)):
                network, theta, examples = case(
                    loss, (100, 37), inputs=300, rows=500, restarts=restarts, dtype=dtype
                )
                bits += sums(network, theta, examples).gradient.tobytes()
                bits += evaluate(network, theta, examples).loss.tobytes()
            found.append(bits)
            assert get() == number
    finally:
        set_(before)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("rows", [63, 64, 130, 300])
def test_the_bits_do_not_depend_on_who_computes_the_lanes(rows, monkeypatch):
    monkeypatch.setattr(backprop, "ROWS_AT_A_TIME", 50)
    network, theta, examples = case(LOSSES[2], (20,), rows=rows, weighted=True)
    alone = sums(network, theta, examples)
    np.testing.assert_allclose(alone.gradient[1], twin.sums(network, theta[1], examples)[1], 1e-9)
    with ThreadPoolExecutor(3) as pool:
        together = sums(network, theta, examples, ordered_map=pool.map)
        assert_same_bits(together, alone)
        evaluation = evaluate(network, theta, examples, ordered_map=pool.map)
        assert_same_bits(evaluation, evaluate(network, theta, examples))


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_are_examples_taken_in_that_order(weighted):
    network, theta, examples = case(LOSSES[2], (5,), rows=300, weighted=weighted)
    rows = np.random.default_rng(0).permutation(300)[:200]
    taken = Examples(*(None if part is None else part[rows] for part in examples))
    for function in (sums, evaluate):
        ours = function(network, theta, examples, rows)
        assert_same_bits(ours, function(network, theta, taken))


def test_float32_is_computed_in_float32():
    network, theta, examples = case(LOSSES[2], (4,), dtype=np.float32, weighted=True, reg=0.1)
    found = sums(network, theta, examples)
    assert found.gradient.dtype == np.float32
    assert found.loss.dtype == np.float64
    assert network_objective(network, theta, found)[1].dtype == np.float32
    double = sums(network, theta.astype(float), examples)
    np.testing.assert_allclose(found.gradient, double.gradient, rtol=1e-4, atol=1e-5)


def test_training_through_a_step_must_be_asked_for():
    network, theta, examples = case("squared-error", (4,), activation="step")
    with pytest.raises(
        NetworkError,
        match=r"^the derivative of the activation step is 0, so nothing is learned through it; "
        r'choose another activation, or set stepGradient="straight-through"$',
    ):
        sums(network, theta, examples)
    assert np.isfinite(evaluate(network, theta, examples).loss).all()


@pytest.mark.parametrize(
    ("loss", "changed", "message"),
    [
        (0, {"x": np.zeros((7, 4))}, r"^x must have 3 columns with layers=\(3, 2\), got .* \(7, 4"),
        (0, {"y": np.zeros((7, 3))}, r"^y must have shape \(7, 2\) for 7 rows, .* got \(7, 3\)$"),
        (2, {"y": np.zeros((7, 3))}, r"^y must have shape \(7,\) for 7 rows, .* got \(7, 3\)$"),
        (2, {"weight": np.ones(6)}, r"^weight must have shape \(7,\), as x has rows, got \(6,\)$"),
        (1, {"y": np.zeros(7)}, r"^classes must be integers from 0 on, got float64; index them$"),
        (1, {"y": np.full(7, 2)}, r"^classes must be 0 … 1, got 2; index them, or widen the outp"),
        (2, {"y": np.full(7, -1)}, r"^classes must be 0 … 2, got -1; index them, or widen the .*3"),
    ],
)
def test_examples_that_do_not_fit_are_refused(loss, changed, message):
    network, _, examples = case(LOSSES[loss])
    backprop.check(network, examples)
    with pytest.raises(NetworkError, match=message):
        backprop.check(network, examples._replace(**changed))


SIZES = st.lists(st.integers(0, 20), min_size=1, max_size=6)


@for_all(SIZES, st.integers(1, 25), st.integers(-5, 5), st.integers(1, 3))
def test_minibatches_are_cut_from_one_sequence_that_has_every_row_once(sizes, size, seed, epoch):
    def rows_of(piece):
        return backprop.row_order(sizes[piece], seed, epoch, piece).tolist()

    pieces = backprop.piece_order(len(sizes), seed, epoch)
    sequence = [(piece, row) for piece in pieces for row in rows_of(piece)]
    assert sorted(sequence) == [(piece, row) for piece, n in enumerate(sizes) for row in range(n)]
    wanted = [sequence[cut : cut + size] for cut in range(0, len(sequence), size)]
    assert len(wanted) == -(-sum(sizes) // size)
    batches = backprop.epoch_rows(sizes, size, seed, epoch)
    assert [[(p, int(row)) for p, part in batch for row in part] for batch in batches] == wanted
    slices = backprop.epoch_order(sizes, size, seed, epoch)
    assert wanted == [
        [(s.piece, row) for s in batch for row in rows_of(s.piece)[s.start : s.stop]]
        for batch in slices
    ]


def test_orders_differ_by_seed_epoch_and_piece():
    orders = [backprop.row_order(30, *key) for key in ((0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1))]
    assert len({order.tobytes() for order in orders}) == 4
    assert len({tuple(backprop.piece_order(30, *key)) for key in ((0, 1), (1, 1), (0, 2))}) == 3


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

    apart = [
        sums(network, theta, gathered(b)) for b in backprop.epoch_rows(sizes, 150, seed=5, epoch=2)
    ]
    for count in (1, 2):
        with backprop.LocalGradients(network, examples, sizes, 150, 5, count) as gradients:
            together = [minibatch(theta) for minibatch in gradients.epoch(2)]
        assert len(together) == len(apart) == 3
        for ours, wanted in zip(together, apart, strict=True):
            assert_same_bits(ours, wanted)


def test_a_minibatch_computed_late_has_its_own_rows():
    network, theta, examples = case(LOSSES[0], rows=40)
    gradients = backprop.LocalGradients(network, examples, [25, 15], 8, seed=1)
    late = [minibatch(theta) for minibatch in list(gradients.epoch(1))]
    soon = [minibatch(theta) for minibatch in gradients.epoch(1)]
    assert [s.loss.tolist() for s in late] == [s.loss.tolist() for s in soon]
    np.testing.assert_allclose(
        sum(s.loss for s in soon), sums(network, theta, examples).loss, rtol=1e-12
    )


def test_what_does_not_fit_is_refused():
    network, _, examples = case(LOSSES[2], rows=7)
    with pytest.raises(NetworkError, match=r"^sizes must add up to the 7 rows of x, got 6$"):
        backprop.LocalGradients(network, examples, [3, 3], 2, 0)
    with pytest.raises(NetworkError, match=r"^batch_size must be ≥ 1, got 0$"):
        backprop.LocalGradients(network, examples, [7], 0, 0)
    with pytest.raises(NetworkError, match=r"^classes must be 0 … 2, got [345]; "):
        backprop.LocalGradients(network, examples._replace(y=examples.y + 3), [7], 2, 0)
