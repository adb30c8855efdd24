"""Networks whose minima are known: the linear models, and XOR from many starts."""

import numpy as np
import pytest

from nonconvex.numerics.epochs import Limits
from nonconvex.numerics.network.backprop import Examples, evaluate, objective, sums
from nonconvex.numerics.network.local_gradients import LocalGradients
from nonconvex.numerics.network.model import Network, initialize
from nonconvex.numerics.network.training import train
from nonconvex.numerics.optim import adam, nesterov


def minimum(network, examples, learning_rate=0.3):
    """Descend on all rows at once until the gradient is as good as 0; return W and b."""
    theta = initialize(network, "glorot-normal", seed=1, dtype=np.float64)[None]
    rows = len(examples.x)
    gradients = LocalGradients(network, examples, [rows], rows, seed=1)
    [end] = train(network, theta, gradients, nesterov(learning_rate), Limits(1000))
    assert end.history[-1].gradient_norm < 1e-9
    [layer] = network.views(end.theta)
    return layer


@pytest.mark.parametrize("weighted", [False, True])
def test_no_hidden_layer_and_squared_error_is_least_squares(weighted):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 3)), generator.normal(size=(60, 2))
    weight = generator.choice([0.0, 1.0, 2.0], 60) if weighted else None
    examples = Examples(x, y, weight)
    weights, bias = minimum(Network((3, 2), (), "squared-error"), examples, 0.05)
    root = np.sqrt(np.ones(60) if weight is None else weight)[:, None]
    design = np.column_stack([x, np.ones(60)])
    wanted = np.linalg.lstsq(root * design, root * y, rcond=None)[0]
    np.testing.assert_allclose(weights, wanted[:3], atol=1e-9)
    np.testing.assert_allclose(bias, wanted[3], atol=1e-9)


def test_the_penalty_is_that_of_ridge_regression():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 3)), generator.normal(size=(60, 1))
    network = Network((3, 1), (), "squared-error", reg=0.5)
    weights, _ = minimum(network, Examples(x, y), 0.05)
    # f = ‖Xw + b − y‖²/n + (λ/2) ‖w‖², b free: the normal equations of centered data
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    wanted = np.linalg.solve(x.T @ x / 60 + 0.25 * np.eye(3), x.T @ y / 60)
    np.testing.assert_allclose(weights, wanted, atol=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_no_hidden_layer_and_cross_entropy_is_logistic_regression(classes):
    linear_model = pytest.importorskip("sklearn.linear_model")
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(80, 3)), generator.integers(0, classes, 80)
    weight, reg = generator.choice([0.5, 1.0, 2.0], 80), 0.1
    if classes == 2:
        network = Network((3, 1), (), "binary-cross-entropy", reg=reg)
    else:
        network = Network((3, 4), (), "categorical-cross-entropy", reg=reg)
    weights, bias = minimum(network, Examples(x, y, weight))
    # theirs is C Σ w ℓ + ½ ‖W‖²
    theirs = linear_model.LogisticRegression(C=1 / (reg * weight.sum()), tol=1e-10, max_iter=999)
    theirs.fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(weights, theirs.coef_.T, atol=1e-6)
    # a softmax is the same with a constant added to every logit
    shift = 0 if classes == 2 else bias.mean() - theirs.intercept_.mean()
    np.testing.assert_allclose(bias - shift, theirs.intercept_, atol=1e-6)


XOR = Examples(np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0]))


def test_xor_succeeds_from_some_starts_and_from_the_best_of_ten_always(capsys):
    network = Network((2, 2, 1), ("sigmoid",), "binary-cross-entropy")
    starts = [initialize(network, "glorot-normal", 7, r, np.float64) for r in range(50)]
    gradients = LocalGradients(network, XOR, [4], 4, seed=1)
    ends = train(network, np.stack(starts), gradients, adam(0.1), Limits(800))
    theta = np.stack([end.theta for end in ends])
    found = evaluate(network, theta, XOR)
    succeeded = found.correct == 4
    with capsys.disabled():
        print(f"\nXOR, 2-2-1 sigmoid: {succeeded.mean():.0%} of 50 starts succeed")
    assert 0.4 <= succeeded.mean() <= 0.8
    # the others rest at local minima: flat, and at ½ log 2 or more
    f, gradient = objective(network, theta, sums(network, theta, XOR))
    assert f[succeeded].max() < 0.01
    assert f[~succeeded].min() > 0.34
    assert np.abs(gradient[~succeeded]).max() < 1e-3
    for first in range(0, 50, 10):
        chosen = first + f[first : first + 10].argmin()
        assert succeeded[chosen]


def test_one_hidden_layer_is_needed_for_xor():
    network = Network((2, 1), (), "binary-cross-entropy")
    weights, bias = minimum(network, XOR)
    np.testing.assert_allclose([*weights.ravel(), *bias], 0, atol=1e-8)  # ŷ = ½ everywhere


def test_a_hidden_step_learns_by_the_straight_through_estimator():
    network = Network(
        (2, 8, 1), ("step",), "binary-cross-entropy", step_gradient="straight-through"
    )
    starts = np.stack([initialize(network, "glorot-uniform", 7, r, np.float64) for r in range(10)])
    gradients = LocalGradients(network, XOR, [4], 4, seed=1)
    ends = train(network, starts, gradients, adam(0.05), Limits(300))
    found = evaluate(network, np.stack([end.theta for end in ends]), XOR)
    assert found.correct.max() == 4
