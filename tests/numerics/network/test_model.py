"""Networks: their parameters, the forward pass, what is refused; moments of merged pieces."""

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics import deterministic as threads
from nonconvex.numerics.deterministic import one_thread_per_product
from nonconvex.numerics.network.model import (
    ACTIVATIONS,
    SCHEMES,
    Moments,
    Network,
    NetworkError,
    Scorer,
    Standardization,
    forward,
    initialize,
    sigmoid,
    softmax,
)
from tests.numerics.network import networks as twin
from tests.numerics.network.networks import LOSSES, SMOOTH, case


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", [*SMOOTH, "step"])
def test_every_layer_is_that_of_loops_over_neurons(activation, loss, bias):
    network, theta, examples = case(loss, (4, 3), activation=activation, bias=bias)
    layers = forward(network, theta, examples.x)
    for restart, parameters in enumerate(theta):
        alone = forward(network, parameters, examples.x)  # one flat vector
        for one, together in zip(alone[1:], layers[1:], strict=True):
            np.testing.assert_array_equal(one, together[restart])
        for row, x in enumerate(examples.x):
            zs, h = twin.run(network, parameters, x)
            np.testing.assert_array_equal(layers[0][row], h[0])
            for ours, wanted in zip(layers[1:], [*h[1:], zs[-1]], strict=True):
                np.testing.assert_allclose(ours[restart, row], wanted, rtol=1e-12)
            predicted = network.output.output(layers[-1])[restart, row]
            np.testing.assert_allclose(predicted, twin.output(loss, zs[-1]), rtol=1e-12)


def test_the_parameters_are_views_of_a_flat_vector():
    network = Network((2, 3, 1), ("tanh",), "squared-error")
    theta = np.arange(13.0)
    first, second = network.views(theta)
    assert first.weights.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert first.bias.tolist() == [6, 7, 8]
    assert second.weights.tolist() == [[9], [10], [11]]
    assert second.bias.tolist() == [12]
    first.weights[1, 2] = -1
    assert theta[5] == -1
    assert np.flatnonzero(~network.is_weight).tolist() == [6, 7, 8, 12]
    many = np.zeros((4, 13))
    network.views(many)[1].bias[...] = 7
    assert many[:, 12].tolist() == [7] * 4
    network = Network((2, 3, 1), ("tanh",), "squared-error", bias=False)
    assert network.size == 9
    assert [layer.bias for layer in network.views(np.zeros(9))] == [None, None]
    assert network.is_weight.all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_has_its_variance(scheme):
    variance = 2 / 500 if scheme.startswith("glorot") else 2 / 300
    network = Network((300, 200), (), "squared-error")
    [(weights, bias)] = network.views(initialize(network, scheme, seed=3, dtype=np.float64))
    assert not bias.any()
    assert weights.mean() == pytest.approx(0, abs=4 * math.sqrt(variance / weights.size))
    assert weights.var() == pytest.approx(variance, rel=0.03)
    limit = math.sqrt(3 * variance)
    assert (np.abs(weights).max() < limit) == scheme.endswith("uniform")


def test_the_numbers_depend_on_the_seed_the_restart_and_the_layer_alone():
    network = Network((5, 5, 5), ("tanh",), "squared-error")

    def draw(*arguments, **options):
        return initialize(network, "glorot-normal", *arguments, **options)

    assert draw(1, 2).tobytes() == draw(1, 2).tobytes()
    assert draw(1, 2).dtype == np.float32
    np.testing.assert_array_equal(draw(1, 2), draw(1, 2, np.float64).astype(np.float32))
    assert initialize(network, "glorot-normal", -1).any()  # a seed may be negative
    different = [draw(1, 2), draw(1, 3), draw(2, 2)]
    assert len({theta.tobytes() for theta in different}) == 3
    first, second = network.views(draw(1, 2))
    assert not np.array_equal(first.weights, second.weights)


def test_activations_at_a_glance():
    z = np.array([-2.0, -0.0, 0.0, 2.0])
    half = 1 / (1 + math.exp(2))
    wanted = {
        "identity": [-2, 0, 0, 2],
        "step": [0, 1, 1, 1],
        "sigmoid": [half, 0.5, 0.5, 1 - half],
        "tanh": [-math.tanh(2), 0, 0, math.tanh(2)],
        "relu": [0, 0, 0, 2],
    }
    assert set(wanted) == set(ACTIVATIONS)
    for name, values in wanted.items():
        np.testing.assert_allclose(ACTIVATIONS[name].forward(z.copy()), values, rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_probabilities_keep_their_precision(dtype):
    tiny = sigmoid(np.array([-40.0], dtype))
    assert tiny.dtype == dtype
    assert tiny[0] == pytest.approx(math.exp(-40), rel=1e-6)
    assert softmax(np.array([0.0, -40.0], dtype))[1] == pytest.approx(math.exp(-40), rel=1e-6)


def test_the_predicted_class_is_the_most_probable():
    binary = Network((1, 1), (), "binary-cross-entropy")
    assert binary.predicted(np.array([[-0.1], [0.0], [0.1]])).tolist() == [0, 0, 1]
    categorical = Network((1, 3), (), "categorical-cross-entropy")
    assert categorical.predicted(np.array([[[0, 2, 1], [3, 3, 0]]])).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3,), (), LOSSES[0]), r"^layers must be at least the inputs and the outputs, each ≥ 1, "),
        (((3, 0, 1), ("relu",), LOSSES[0]), r"each ≥ 1, got \(3, 0, 1\)$"),
        (((3, 2, 1), (), LOSSES[0]), r"^activations must be one for each hidden layer, 1 with .*"),
        (((3, 2, 1), ("elu",), LOSSES[0]), r"^activation must be one of identity, .*got 'elu'$"),
        (((3, 2, 1), ("softmax",), LOSSES[0]), r"^activation must be one of .*, got 'softmax'$"),
        (((3, 1), (), "hinge"), r"^loss must be one of squared-error, .*, got 'hinge'$"),
        (((3, 2), (), LOSSES[1]), r"^binary-cross-entropy needs an output .* of size 1, .*got 2"),
        (((3, 1), (), LOSSES[2]), r"^categorical-cross-entropy needs an output for each .* got 1;"),
        (((3, 1), (), LOSSES[0], True, "sign"), r"^step_gradient must be .*straight-through, "),
        (((3, 1), (), LOSSES[0], True, None, -1.0), r"^reg must be finite and ≥ 0, got -1.0$"),
    ],
)
def test_a_network_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(NetworkError, match=message):
        Network(*arguments)


def test_arrays_that_do_not_fit_are_refused():
    network = Network((3, 2), (), "squared-error")
    with pytest.raises(NetworkError, match=r"^theta must have 8 parameters with .* \(2, 7\)$"):
        forward(network, np.zeros((2, 7)), np.zeros((4, 3)))
    with pytest.raises(NetworkError, match=r"^x must have 3 columns with .* shape \(4, 2\)$"):
        forward(network, np.zeros((2, 8)), np.zeros((4, 2)))
    with pytest.raises(NetworkError, match=rf"^init.* one of {', '.join(SCHEMES)}, got 'zeros'$"):
        initialize(network, "zeros", 1)


@pytest.mark.parametrize("layers", [(3, 6, 3), (100, 10), (64, 100, 50, 1), (784, 100, 10)])
def test_a_row_has_the_same_prediction_whatever_rows_are_beside_it(layers):
    draw = np.random.default_rng(0)
    network = Network(layers, ("relu",) * (len(layers) - 2), "squared-error")
    theta = initialize(network, "he-uniform", seed=1)
    scorer = Scorer(network, theta, Standardization.none(layers[0]))
    x = draw.standard_normal((300, layers[0]))
    z = scorer.logits(x)
    for rows in (draw.permutation(300), np.arange(1, 300), [7], [0, 299, 150], np.arange(64, 129)):
        np.testing.assert_array_equal(scorer.logits(x[rows]), z[rows])
    np.testing.assert_allclose(z, forward(network, theta, x.astype(np.float32))[-1], 1e-4, 1e-5)


@pytest.mark.skipif(threads._get_threads is None, reason="numpy is not linked to an OpenBLAS")
def test_products_have_their_threads_back_when_the_last_context_ends():
    get, set_ = threads._get_threads, threads._set_threads
    before, entered, leave = get(), threading.Event(), threading.Event()

    def other():
        with one_thread_per_product():
            entered.set()
            leave.wait(10)

    try:
        set_(2)
        thread = threading.Thread(target=other)
        with one_thread_per_product():
            thread.start()
            assert entered.wait(10)
            with pytest.raises(ZeroDivisionError), one_thread_per_product():
                raise ZeroDivisionError
            assert get() == 1
        assert get() == 1  # the other thread is still inside
        leave.set()
        thread.join()
        assert get() == 2
    finally:
        set_(before)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.booleans(), st.integers(0, 99))
def test_merged_pieces_equal_the_whole(sizes, weighted, seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(1e3, 2.0, (sum(sizes), 3))
    w = generator.integers(0, 3, len(x)).astype(float) if weighted else np.ones(len(x))
    w[0] = 1.0
    cuts = np.cumsum(sizes)[:-1]
    parts = [Moments.of(*part) for part in zip(np.split(x, cuts), np.split(w, cuts), strict=True)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    mean = np.average(x, axis=0, weights=w)
    np.testing.assert_allclose(merged.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(merged.squares, w @ (x - mean) ** 2, rtol=1e-8, atol=1e-8)
    assert merged.weight == w.sum()
    assert (merged.minimum == x.min(axis=0)).all()
    assert (merged.maximum == x.max(axis=0)).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_standardized_features_have_mean_0_and_variance_1_and_constants_are_0(dtype):
    x = np.random.default_rng(0).integers(0, 200, (50, 3)).astype(dtype)
    x[:, 1] = 0.1 if dtype != np.uint8 else 7
    found = Moments.of(x)
    assert found.constant().tolist() == [False, True, False]
    z = found.standardization().apply(x, np.float64)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(z.std(axis=0), [1, 0, 1], rtol=1e-12)
    assert (z[:, 1] == 0).all()
    # Nothing was learned of it, so another value than that of training says nothing either.
    assert (found.standardization().apply(x + 9, np.float64)[:, 1] == 0).all()
    targets = found.standardization(still=1.0)
    np.testing.assert_allclose(targets.invert(targets.apply(x, np.float64)), x, rtol=1e-12)


@pytest.mark.parametrize("cut", [1, 2])
def test_squares_beyond_all_numbers_are_told_and_nothing_is_printed(cut):
    x = np.array([[1.0, 2e200], [2.0, 0.0], [4.0, -2e200]])
    found = Moments.of(x[:cut]).merge(Moments.of(x[cut:]))
    assert found.overflowed().tolist() == [False, True]
    assert Moments.of(x * [[1.0, 1e-100]]).overflowed().tolist() == [False, False]


def test_a_large_mean_is_subtracted_before_rounding():
    x = 1.7e9 + np.arange(4.0)[:, None]
    z = Moments.of(x).standardization().apply(x, np.float32)
    assert z.dtype == np.float32
    np.testing.assert_allclose(np.diff(z[:, 0]), 1 / np.std(x), rtol=1e-6)


def test_pieces_of_no_weight_and_the_standardization_that_does_nothing():
    light = Moments.of(np.array([[5.0]]), np.array([0.0]))
    heavy = Moments.of(np.array([[1.0], [3.0]]))
    for merged in (light.merge(heavy), heavy.merge(light)):
        assert (merged.weight, merged.mean[0], merged.squares[0]) == (2.0, 2.0, 2.0)
    assert light.merge(light).weight == 0
    # Constant where it counts, and not elsewhere.
    still = Moments.of(np.array([[5.0], [2.0]]), np.array([0.0, 1.0]))
    assert still.standardization().scale[0] == np.inf
    x = np.array([[1.0, -2.5]])
    assert (Standardization.none(2).apply(x, np.float64) == x).all()


def test_a_nearly_constant_feature_is_divided_by_a_twentieth_of_its_range():
    rare = np.zeros((1000, 2))
    rare[7] = 255.0, 4.0
    rare[500:, 1] = 4.0
    m = Moments.of(rare)
    assert m.standardization().scale[0] == 255 / 20
    assert m.standardization().scale[1] == np.sqrt(m.squares[1] / 1000)
    assert m.standardization(reach=np.inf).scale[0] == pytest.approx(255 / np.sqrt(1000), rel=1e-3)
    assert np.abs(m.standardization().apply(rare, float)).max() <= 20
