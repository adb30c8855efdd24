"""The step that all optimizers share: learning rate, weight decay, clipping, refused arrays."""

import doctest
import math

import numpy as np
import pytest

from nonconvex.numerics import descent as module
from nonconvex.numerics.descent import OptimizerError, clip_by_norm, descent


def identity(g, first, second, t):
    return g, first, second


def clip(gradient, clip_norm, axis=None):
    theta = np.zeros_like(gradient)
    optimizer = clip_by_norm(descent(1.0, identity), clip_norm, axis=axis)
    return -optimizer.update(gradient, optimizer.init(theta), theta)[0]


def test_a_schedule_is_asked_for_every_update_in_turn():
    asked, theta = [], np.zeros(1)

    def schedule(t):
        asked.append(t)
        return 2.0**-t

    optimizer = descent(schedule, identity)
    state, steps = optimizer.init(theta), []
    for _ in range(4):
        step, state = optimizer.update(np.ones(1), state, theta)
        steps.append(step[0])
    assert asked == [0, 1, 2, 3]
    assert steps == [-1.0, -0.5, -0.25, -0.125]


def test_a_rule_gets_its_memory_and_the_number_of_the_update():
    seen = []

    def rule(g, first, second, t):
        seen.append((first.tolist(), second.shape, t))
        return g, first + t, second

    theta = np.zeros(2)
    optimizer = descent(1.0, rule, first=True)
    state = optimizer.init(theta)
    for _ in range(3):
        _, state = optimizer.update(np.ones(2), state, theta)
    assert seen == [([0.0, 0.0], (0,), 1), ([1.0, 1.0], (0,), 2), ([3.0, 3.0], (0,), 3)]


def test_weight_decay_says_which_entries_decay():
    theta = np.full((2, 3), 8.0)
    optimizer = descent(0.5, identity, weight_decay=np.array([0.0, 0.25, 1.0]))
    step, _ = optimizer.update(np.zeros((2, 3)), optimizer.init(theta), theta)
    assert (theta + step).tolist() == [[8.0, 7.0, 4.0]] * 2


def test_weight_decay_must_fit_theta():
    optimizer = descent(0.5, identity, weight_decay=np.array([0.25, 1.0]))
    with pytest.raises(
        OptimizerError,
        match=r"^weight_decay must broadcast to the shape of theta, \(3,\), got \(2,\)",
    ):
        optimizer.init(np.zeros(3))


def test_a_gradient_within_the_bound_keeps_its_bits():
    gradient = np.random.default_rng(0).normal(size=1000)
    np.testing.assert_array_equal(clip(gradient, 100.0), gradient)
    np.testing.assert_array_equal(clip(np.array([3.0, 4.0]), 5.0), [3.0, 4.0])
    np.testing.assert_array_equal(clip(np.zeros(3), 1.0), np.zeros(3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_gradient_beyond_the_bound_keeps_its_direction(dtype):
    gradient = np.random.default_rng(0).normal(size=1000).astype(dtype)
    clipped = clip(gradient, 2.5)
    assert clipped.dtype == dtype
    assert np.linalg.norm(clipped) == pytest.approx(2.5, rel=1e-6)
    np.testing.assert_allclose(clipped / gradient, clipped[0] / gradient[0], rtol=1e-6)


def test_axis_says_what_is_one_gradient():
    gradient = np.arange(1.0, 25.0).reshape(2, 3, 4)
    each = clip(gradient, 1.0, axis=(1, 2))
    np.testing.assert_allclose(np.sqrt((each**2).sum(axis=(1, 2))), [1.0, 1.0])
    np.testing.assert_array_equal(each[1], clip(gradient[1], 1.0))
    assert np.linalg.norm(clip(gradient, 1.0)) == pytest.approx(1.0)


def test_a_float32_norm_does_not_overflow():
    assert clip(np.array([3e30, 4e30], np.float32), 1.0) == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan, 1e200])
def test_divergence_is_not_clipped_away(bad):
    with np.errstate(over="ignore"):  # 1e200² is infinite
        assert np.isnan(clip(np.array([bad, 1.0]), 1.0)).all()


@pytest.mark.parametrize("rate", [math.nan, math.inf, -0.1])
def test_a_bad_rate_of_a_schedule_is_refused(rate):
    optimizer, theta = descent(lambda t: rate, identity), np.zeros(1)
    with pytest.raises(
        OptimizerError,
        match=rf"^a schedule's rates must be finite and ≥ 0, got {rate} at step 0$",
    ):
        optimizer.update(np.ones(1), optimizer.init(theta), theta)


@pytest.mark.parametrize("weight_decay", [-0.5, math.nan, math.inf, np.array([0.1, -0.1])])
def test_a_bad_weight_decay_is_refused(weight_decay):
    with pytest.raises(OptimizerError, match=r"^weight_decay must be finite and ≥ 0, got "):
        descent(1.0, identity, weight_decay=weight_decay)


@pytest.mark.parametrize("dtype", [np.int64, np.float16, bool])
def test_theta_must_be_of_single_or_double_precision(dtype):
    name = np.dtype(dtype).name
    with pytest.raises(
        OptimizerError, match=rf"^theta must be float32 or float64, got {name}; cast it$"
    ):
        descent(1.0, identity).init(np.ones(2, dtype))


def test_a_gradient_of_another_shape_is_refused():
    optimizer, theta = descent(1.0, identity), np.zeros((2, 3))
    with pytest.raises(
        OptimizerError,
        match=r"^gradient must be float64 of shape \(2, 3\) to fit theta, "
        r"got float64 of shape \(3,\)$",
    ):
        optimizer.update(np.ones(3), optimizer.init(theta), theta)


@pytest.mark.parametrize("kept", ["first", "second"])
@pytest.mark.parametrize(
    ("other", "got"),
    [(np.zeros(3, np.float32), r"float32 of shape \(3,\)"), (np.zeros(2), r"float64 of shape")],
)
def test_the_state_of_another_theta_is_refused(kept, other, got):
    optimizer, theta = descent(1.0, identity, **{kept: True}), np.zeros(2, np.float32)
    state = optimizer.init(theta)._replace(**{kept: other})
    with pytest.raises(
        OptimizerError,
        match=rf"^state\.{kept} must be float32 of shape \(2,\) to fit theta, got {got}",
    ):
        optimizer.update(np.ones(2), state, theta)


def test_the_state_of_another_optimizer_is_refused():
    theta = np.zeros(2)
    plain, heavy = descent(1.0, identity), descent(1.0, identity, first=True)
    with pytest.raises(OptimizerError, match=r"^state\.first must be float64 of shape \(0,\)"):
        plain.update(np.ones(2), heavy.init(theta), theta)


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
