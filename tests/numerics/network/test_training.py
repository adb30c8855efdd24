"""The loop: its end, a diverging restart, going on to equal bits, and minima that are known."""

import json
import math

import numpy as np
import pytest

from nonconvex.numerics import optim
from nonconvex.numerics.convergence import Epoch, FitError, Stop, StoppingRule, best_epoch
from nonconvex.numerics.network import backprop
from nonconvex.numerics.network.model import Network, NetworkError, initialize
from nonconvex.numerics.network.training import Saved, train
from tests.numerics.network.networks import LOSSES, case

SIZES, BATCH = [60, 40], 30  # 4 steps in an epoch


def problem(loss=LOSSES[2], *, restarts=3, dtype=np.float32, **options):
    network, theta, examples = case(
        loss, (6,), rows=100, restarts=restarts, weighted=True, dtype=dtype, reg=0.01, **options
    )
    gradients = backprop.LocalGradients(network, examples, SIZES, BATCH, seed=4)
    return network, theta, examples, gradients


def seconds_apart(history):
    return [epoch._replace(seconds=0.0) for epoch in history]


def assert_same(ours, wanted):
    assert ours.theta.tobytes() == wanted.theta.tobytes()
    assert (ours.epoch, ours.stop) == (wanted.epoch, wanted.stop)
    # NaN of one that diverged is not equal to itself
    assert repr(seconds_apart(ours.history)) == repr(seconds_apart(wanted.history))


def test_the_loop_is_the_one_written_out():
    network, theta, examples, gradients = problem(dtype=np.float64)
    optimizer = optim.adam(optim.exponential_decay(0.1, 5))
    ends = train(network, theta, gradients, optimizer, StoppingRule(2))
    state, t = optimizer.init(theta), 0
    for epoch in (1, 2):
        loss, value_sum, weight = np.zeros(3), np.zeros(3), 0.0
        for batch in backprop.epoch_rows(SIZES, BATCH, 4, epoch):
            rows = np.concatenate([[0, 60][piece] + part for piece, part in batch])
            found = backprop.sums(network, theta, examples, rows)
            value, gradient = backprop.network_objective(network, theta, found)
            step, state = optimizer.update(gradient, state, theta)
            theta, t = theta + step, t + 1
            loss, value_sum = loss + found.loss, value_sum + found.weight * value
            weight += found.weight
        for number, end in enumerate(ends):
            record = end.history[epoch - 1]
            assert (record.epoch, record.steps) == (epoch, t)
            assert record.loss == pytest.approx(loss[number] / weight, rel=1e-12)
            assert record.objective == pytest.approx(value_sum[number] / weight, rel=1e-12)
            assert record.learning_rate == pytest.approx(0.1 * 0.5 ** ((t - 1) / 5), rel=1e-12)
            norm = np.linalg.norm(gradient[number])
            assert record.gradient_norm == pytest.approx(norm, rel=1e-12)
            assert record.validation_loss is record.validation_metric is None
            assert record.seconds > 0
    for number, end in enumerate(ends):
        assert end.theta.tobytes() == theta[number].tobytes()
        assert (end.stop, end.epoch) == (Stop.MAX_ITER, 2)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_restarts_trained_together_have_the_bits_they_have_alone(name):
    network, theta, examples, gradients = problem()
    optimizer = optim.make_optimizer(name, 0.05, clip_norm=0.3, axis=-1)

    def run(start):
        def validate(theta):
            return backprop.evaluate(network, theta, examples)

        rule = StoppingRule(3, patience=2)
        return train(network, start, gradients, optimizer, rule, validate=validate)

    for number, end in enumerate(run(theta)):
        assert_same(end, run(theta[number : number + 1])[0])


def test_a_diverging_restart_leaves_the_others_their_bits():
    network, theta, _, gradients = problem(LOSSES[0], activation="relu")
    bad = theta.copy()
    bad[1] *= 100  # each step makes it greater, until it is not finite

    def run(start):
        return train(network, start, gradients, optim.momentum(0.001), StoppingRule(3))

    ends, alone = run(bad), run(theta[[0, 2]])
    assert [end.stop.name for end in ends] == ["MAX_ITER", "NONFINITE", "MAX_ITER"]
    *finite, last = [epoch.objective for epoch in ends[1].history]
    assert np.isfinite(finite).all()
    assert not np.isfinite(last)
    assert_same(ends[0], alone[0])
    assert_same(ends[2], alone[1])


def test_parameters_that_are_not_finite_are_seen_at_the_end_of_an_epoch():
    network, theta, examples, _ = problem(LOSSES[0], restarts=2, dtype=np.float64)
    gradients = backprop.LocalGradients(network, examples, [100], 100, seed=4)
    theta[1] *= 1e100  # f ≈ 1e200 is finite, and 1e250 times the gradient is not
    seen = []

    def validate(theta):
        seen.append(len(theta))
        return backprop.evaluate(network, theta, examples)

    optimizer = optim.gradient_descent(1e250)
    ends = train(network, theta, gradients, optimizer, StoppingRule(1), validate=validate)
    assert [end.stop.name for end in ends] == ["MAX_ITER", "NONFINITE"]
    assert seen == [1]
    assert ends[0].history[0].validation_loss == math.inf
    assert ends[1].history[0].validation_loss is None


def test_when_every_restart_diverges_the_message_says_what_to_do():
    network, theta, _, gradients = problem(LOSSES[0])
    with pytest.raises(
        FitError,
        match=r"^training diverged: the objective became (inf|nan) in epoch \d+ with learningRate "
        r"1e\+30; lower learningRate, set clipNorm, or check that features and targets are on a "
        r"moderate scale \(standardize\)$",
    ):
        train(network, theta, gradients, optim.gradient_descent(1e30), StoppingRule(9))


def scripted(losses):
    """A validation that finds these losses (for every restart, epoch by epoch)."""
    seen, steps = [], iter(losses)

    def validate(theta):
        seen.append(theta.copy())
        return backprop.EvaluationSums(np.array(next(steps)), np.zeros(len(theta)), 1.0)

    return seen, validate


def test_early_stopping_restores_the_best():
    network, theta, _, gradients = problem(restarts=2)
    # the first stops after epoch 4 with the best at 2; the second goes on alone, best at 5
    script = [[3.0, 3.0], [1.0, 2.0], [2.0, 4.0], [1.0, 1.5], [1.0], [2.0], [math.nan]]
    seen, validate = scripted(script)
    rule = StoppingRule(50, patience=2)
    ends = train(network, theta, gradients, optim.adam(0.01), rule, validate=validate)
    assert [(end.stop, end.epoch) for end in ends] == [(Stop.PATIENCE, 2), (Stop.PATIENCE, 5)]
    assert [len(end.history) for end in ends] == [4, 7]
    assert ends[0].theta.tobytes() == seen[1][0].tobytes()
    assert ends[1].theta.tobytes() == seen[4][0].tobytes()
    assert [epoch.validation_loss for epoch in ends[1].history] == [3, 2, 4, 1.5, 1, 2, math.inf]


@pytest.mark.parametrize(("patience", "kept"), [(9, 2), (None, 3)])
def test_the_best_is_restored_at_the_last_epoch_too_and_the_last_without_patience(patience, kept):
    network, theta, _, gradients = problem(restarts=1)
    seen, validate = scripted([[2.0], [1.0], [3.0]])
    rule = StoppingRule(3) if patience is None else StoppingRule(3, patience=patience)
    [end] = train(network, theta, gradients, optim.adam(0.01), rule, validate=validate)
    assert (end.stop, end.epoch) == (Stop.MAX_ITER, kept)
    assert end.theta.tobytes() == seen[kept - 1][0].tobytes()


def test_the_best_outlives_a_divergence():
    network, theta, _, gradients = problem(restarts=2)
    seen, validate = scripted([[1.0, 1.0], [2.0, 2.0], [3.0]])

    def minibatches(number):
        for minibatch in gradients.epoch(number):

            def computed(theta, minibatch=minibatch):
                found = minibatch(theta)
                if number == 3 and len(theta) == 2:
                    found.loss[0] = math.nan
                return found

            yield computed

    class Breaking:
        epoch = staticmethod(minibatches)

    rule = StoppingRule(3, patience=9)
    ends = train(network, theta, Breaking(), optim.adam(0.01), rule, validate=validate)
    assert [(end.stop.name, end.epoch) for end in ends] == [("NONFINITE", 1), ("MAX_ITER", 1)]
    assert ends[0].theta.tobytes() == seen[0][0].tobytes()


def test_max_steps_may_cut_an_epoch_short():
    network, theta, _, gradients = problem()
    ends = train(network, theta, gradients, optim.adam(0.01), StoppingRule(9, max_steps=6))
    for end in ends:
        assert end.stop is Stop.MAX_STEPS
        assert [epoch.steps for epoch in end.history] == [4, 6]


def history(*objectives):
    return [
        Epoch(number + 1, number + 1, f, f, 0.1, 1.0, None, None, 0.0)
        for number, f in enumerate(objectives)
    ]


def test_limits():
    assert StoppingRule(9, tol=0.1).reached(history(1.0)) is None
    assert StoppingRule(9, tol=0.1).reached(history(1.0, 0.89)) is None
    assert StoppingRule(9, tol=0.1).reached(history(1.0, 0.91)) is Stop.TOLERANCE
    assert StoppingRule(9, tol=0.1).reached(history(1.0, 1.05)) is Stop.TOLERANCE
    assert StoppingRule(9).reached(history(1.0, 1.0)) is None
    assert StoppingRule(2).reached(history(1.0, 1.0)) is Stop.MAX_ITER
    assert StoppingRule(9, max_steps=2).reached(history(1.0, 1.0)) is Stop.MAX_STEPS
    # the best epoch is the first of equals
    epochs = history(1.0, 1.0, 1.0)
    assert best_epoch(epochs) == 3  # nothing was validated
    losses = [epoch._replace(validation_loss=v) for epoch, v in zip(epochs, (2, 1, 1), strict=True)]
    assert best_epoch(losses) == 2


@pytest.mark.parametrize("name", ["gradient-descent", "adam"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_going_on_from_a_saved_state_gives_the_same_bits(name, at):
    network, theta, _, gradients = problem(restarts=3)
    theta[1, 0] = math.nan  # one has ended when the state is saved
    script = [[3.0, 3.0], [1.0, 2.0], [2.0, 1.0], [2.5, 3.0], [4.0]]
    optimizer = optim.make_optimizer(name, optim.exponential_decay(0.1, 10))
    saved = {}

    def keep(training):
        assert training.restarts[0].history[-1].epoch == min(training.epoch, 4)
        epoch, arrays, values = training.save()
        copied = {key: array.copy() for key, array in arrays.items()}
        saved[epoch] = Saved(epoch, copied, json.loads(json.dumps(values)))

    def run(script, **options):
        rule, validate = StoppingRule(5, patience=2), scripted(script)[1]
        return train(network, theta, gradients, optimizer, rule, validate=validate, **options)

    whole = run(script, on_epoch=keep)
    assert sorted(saved) == [1, 2, 3, 4, 5]
    for ours, wanted in zip(run(script[at:], saved=saved[at]), whole, strict=True):
        assert_same(ours, wanted)
    assert [end.stop.name for end in whole] == ["PATIENCE", "NONFINITE", "PATIENCE"]


def test_training_without_rows_or_patience_without_validation_is_refused():
    network, theta, examples, gradients = problem()
    with pytest.raises(NetworkError, match=r"^patience needs validation rows; leave it unset, or"):
        train(network, theta, gradients, optim.adam(0.1), StoppingRule(1, patience=1))
    empty = type(examples)(*(part[:0] for part in examples))
    gradients = backprop.LocalGradients(network, empty, [0, 0], 10, seed=1)
    with pytest.raises(FitError, match=r"^there is no row to train on; check the training data"):
        train(network, theta, gradients, optim.adam(0.1), StoppingRule(1))


def minimum(network, examples, learning_rate=0.3):
    """Descend on all rows at once until the gradient is as good as 0; return W and b."""
    theta = initialize(network, "glorot-normal", seed=1, dtype=np.float64)[None]
    rows = len(examples.x)
    gradients = backprop.LocalGradients(network, examples, [rows], rows, seed=1)
    [end] = train(network, theta, gradients, optim.nesterov(learning_rate), StoppingRule(1000))
    assert end.history[-1].gradient_norm < 1e-9
    [layer] = network.views(end.theta)
    return layer


@pytest.mark.parametrize("reg", [0.0, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_hidden_layer_and_squared_error_is_ridge_regression(weighted, reg):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(60, 3)), generator.normal(size=(60, 2))
    weight = generator.choice([0.0, 1.0, 2.0], 60) if weighted else None
    network = Network((3, 2), (), "squared-error", reg=reg)
    weights, bias = minimum(network, backprop.Examples(x, y, weight), 0.05)
    # f = Σ w ‖Wᵀx + b − y‖² / Σ w + (λ/2) ‖W‖², b free
    w, design = np.ones(60) if weight is None else weight, np.column_stack([x, np.ones(60)])
    a = (design.T * w) @ design + reg / 2 * w.sum() * np.diag([1, 1, 1, 0])
    wanted = np.linalg.solve(a, (design.T * w) @ y)
    np.testing.assert_allclose([*weights, bias], wanted, atol=1e-9)


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
    weights, bias = minimum(network, backprop.Examples(x, y, weight))
    # theirs is C Σ w ℓ + ½ ‖W‖²
    theirs = linear_model.LogisticRegression(C=1 / (reg * weight.sum()), tol=1e-10, max_iter=999)
    theirs.fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(weights, theirs.coef_.T, atol=1e-6)
    # a softmax is the same with a constant added to every logit
    shift = 0 if classes == 2 else bias.mean() - theirs.intercept_.mean()
    np.testing.assert_allclose(bias - shift, theirs.intercept_, atol=1e-6)


XOR = backprop.Examples(np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0]))


def test_xor_succeeds_from_some_starts_and_from_the_best_of_ten_always(capsys):
    network = Network((2, 2, 1), ("sigmoid",), "binary-cross-entropy")
    starts = [initialize(network, "glorot-normal", 7, r, np.float64) for r in range(50)]
    gradients = backprop.LocalGradients(network, XOR, [4], 4, seed=1)
    ends = train(network, np.stack(starts), gradients, optim.adam(0.2), StoppingRule(500))
    theta = np.stack([end.theta for end in ends])
    found = backprop.evaluate(network, theta, XOR)
    succeeded = found.correct == 4
    with capsys.disabled():
        print(f"\nXOR, 2-2-1 sigmoid: {succeeded.mean():.0%} of 50 starts succeed")
    assert 0.4 <= succeeded.mean() <= 0.8
    # the others rest at local minima: flat, and at ½ log 2 or more
    f, gradient = backprop.network_objective(network, theta, backprop.sums(network, theta, XOR))
    assert f[succeeded].max() < 0.01
    assert f[~succeeded].min() > 0.34
    assert np.abs(gradient[~succeeded]).max() < 1e-3
    for first in range(0, 50, 10):
        assert succeeded[first + f[first : first + 10].argmin()]
    # without a hidden layer, none does
    weights, bias = minimum(Network((2, 1), (), "binary-cross-entropy"), XOR)
    np.testing.assert_allclose([*weights.ravel(), *bias], 0, atol=1e-8)  # ŷ = ½ everywhere


def test_a_hidden_step_learns_by_the_straight_through_estimator():
    network = Network(
        (2, 8, 1), ("step",), "binary-cross-entropy", step_gradient="straight-through"
    )
    starts = np.stack([initialize(network, "glorot-uniform", 7, r, np.float64) for r in range(10)])
    gradients = backprop.LocalGradients(network, XOR, [4], 4, seed=1)
    ends = train(network, starts, gradients, optim.adam(0.05), StoppingRule(300))
    found = backprop.evaluate(network, np.stack([end.theta for end in ends]), XOR)
    assert found.correct.max() == 4
