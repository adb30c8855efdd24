"""Optimizers and schedules: by hand, against PyTorch's, in a valley, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from nonconvex.numerics import optim
from nonconvex.numerics.optim import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule

GOLDEN = json.loads((Path(__file__).parent / "golden" / "optimizers.json").read_text())


# One row per optimizer drives the tests of what all have in common: name → (learning rate in
# Rosenbrock's valley, settings that are not the defaults).
ADAM = {"momentum": 0.8, "decay": 0.99, "epsilon": 1e-4}
TABLE = {
    "gradient-descent": (1e-3, {}),
    "momentum": (1e-3, {"momentum": 0.8}),
    "nesterov": (1e-3, {"momentum": 0.8}),
    "rmsprop": (1e-3, {"decay": 0.9, "epsilon": 1e-4}),
    "adam": (0.05, ADAM),
    "adamw": (0.05, ADAM | {"weight_decay": 1e-6}),
}


def run(optimizer, theta, gradients, state=None):
    """θ after each update, and the last state; a gradient is an array or a function of θ."""
    state, thetas = optimizer.init(theta) if state is None else state, []
    for gradient in gradients:
        g = gradient(theta) if callable(gradient) else gradient
        step, state = optimizer.update(g, state, theta)
        thetas.append(theta := theta + step)
    return np.array(thetas), state


@pytest.mark.parametrize(
    ("optimizer", "thetas"),
    [
        # θ ← θ − 0.5 g
        (optim.gradient_descent(0.5), [0.5, 1.5, 1.25, -0.25, 0.25]),
        # v = 1, −1.5, −0.25, 2.875, 0.4375 and θ ← θ − 0.5 v
        (optim.momentum(0.5, momentum=0.5), [0.5, 1.25, 1.375, -0.0625, -0.28125]),
        # the same v; g + 0.5 v = 1.5, −2.75, 0.375, 4.4375, −0.78125 and θ ← θ − 0.5 (g + 0.5 v)
        (optim.nesterov(0.5, momentum=0.5), [0.25, 1.625, 1.4375, -0.78125, -0.390625]),
    ],
)
def test_steps_by_hand(optimizer, thetas):
    found, _ = run(optimizer, np.array([1.0]), np.array([[1.0], [-2.0], [0.5], [3.0], [-1.0]]))
    assert found[:, 0].tolist() == thetas


# PyTorch
PYTORCH = {
    "gradient-descent": optim.gradient_descent(0.1),
    "momentum": optim.momentum(0.1),
    "nesterov": optim.nesterov(0.1),
    "rmsprop": optim.rmsprop(0.1),
    "rmsprop, decay and epsilon": optim.rmsprop(0.1, decay=0.8, epsilon=0.01),
    "adam": optim.adam(0.1),
    "adam, momentum, decay and epsilon": optim.adam(0.1, momentum=0.7, decay=0.8, epsilon=0.01),
    "adamw": optim.adamw(0.1),
    "adamw, weight decay": optim.adamw(0.1, weight_decay=0.5),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 2e-6)])
@pytest.mark.parametrize("case", PYTORCH)
def test_trajectory_of_pytorch(case, dtype, tolerance):
    gradients = np.array(GOLDEN["gradients"], dtype)
    thetas, _ = run(PYTORCH[case], np.array(GOLDEN["start"], dtype), gradients)
    assert thetas.dtype == dtype
    np.testing.assert_allclose(thetas, GOLDEN[dtype][case], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("case", "optimizer", "tolerance"),
    [  # PyTorch divides by ‖g‖ + 1e-6, we by ‖g‖
        ("clipped to norm 1", make_optimizer("momentum", 0.1, clip_norm=1.0), 1e-5),
        ("adam with cosine", optim.adam(optim.cosine_decay(0.1, 10, final_fraction=0.1)), 1e-12),
    ],
)
def test_trajectory_of_pytorch_with_clipping_or_a_schedule(case, optimizer, tolerance):
    thetas, _ = run(optimizer, np.array(GOLDEN["start"]), np.array(GOLDEN["gradients"]))
    np.testing.assert_allclose(thetas, GOLDEN[case], rtol=tolerance, atol=tolerance)


def test_nothing_is_left_out_and_pytorch_is_the_pinned_one():
    assert TABLE.keys() == OPTIMIZERS.keys()
    assert PYTORCH.keys() == GOLDEN["float64"].keys() == GOLDEN["float32"].keys()
    assert set(GOLDEN["rates"]) == {"step", "exponential", "cosine"}
    assert GOLDEN["torch"].startswith("2.13.0")


@pytest.mark.parametrize("name", TABLE)
def test_follows_the_valley_of_rosenbrock(name):
    # f = (1 − x)² + 100 (y − x²)², f(−1.2, 1) = 24.2, bottom at (1, 1)
    def gradient(theta):
        x, y = theta
        return np.array([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])

    learning_rate, settings = TABLE[name]
    optimizer = make_optimizer(name, learning_rate, **settings)
    thetas, _ = run(optimizer, np.array([-1.2, 1.0]), [gradient] * 3000)
    x, y = thetas[-1]
    assert (1 - x) ** 2 + 100 * (y - x**2) ** 2 < 0.03


# What all have in common
@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 1, 2), (0,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TABLE)
def test_keeps_the_dtype_and_the_shape(name, dtype, shape):
    theta = np.ones(shape, dtype)
    optimizer = make_optimizer(name, lambda t: np.float64(0.1), clip_norm=1.0, **TABLE[name][1])
    thetas, state = run(optimizer, theta, [np.ones(shape)] * 2)  # float64 gradients
    assert (thetas.dtype, thetas.shape) == (dtype, (2, *shape))
    assert (state.updates.dtype, state.updates.shape, int(state.updates)) == (np.int64, (), 2)
    for memory in (state.first, state.second):
        assert isinstance(memory, np.ndarray)
        assert memory.dtype == dtype
        assert memory.shape in (shape, (0,))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [1, 7, 20_003])
@pytest.mark.parametrize("name", TABLE)
def test_stacked_problems_take_the_steps_of_each_alone(name, p, dtype):
    random = np.random.default_rng(0)
    scales = np.array([[0.01], [1.0], [100.0]]) / np.sqrt(p)  # some are clipped, some are not
    theta = random.normal(size=(3, p)).astype(dtype)
    gradients = (scales * random.normal(size=(4, 3, p))).astype(dtype)
    settings = TABLE[name][1]
    together = make_optimizer(name, 0.1, clip_norm=1.0, axis=-1, **settings)
    alone = make_optimizer(name, 0.1, clip_norm=1.0, **settings)
    stacked, _ = run(together, theta, gradients)
    for r in range(3):
        np.testing.assert_array_equal(run(alone, theta[r], gradients[:, r])[0], stacked[:, r])


@pytest.mark.parametrize("name", TABLE)
def test_stored_state_goes_on_to_the_same_bits(name, tmp_path):
    random = np.random.default_rng(1)
    theta, gradients = random.normal(size=6), random.normal(size=(9, 6))
    optimizer = make_optimizer(name, optim.cosine_decay(0.1, 9), **TABLE[name][1])
    whole, _ = run(optimizer, theta, gradients)

    half, state = run(optimizer, theta, gradients[:4])
    np.savez(tmp_path / "state.npz", **state._asdict())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as stored:
        state = type(state)(**stored)
    rest, _ = run(optimizer, half[-1], gradients[4:], state)
    np.testing.assert_array_equal([*half, *rest], whole)


@pytest.mark.parametrize("name", TABLE)
def test_changes_none_of_its_arguments(name):
    theta, gradient = np.array([1.0, -2.0]), np.array([30.0, -4.0])
    optimizer = make_optimizer(name, 0.1, clip_norm=1.0, **TABLE[name][1])
    _, state = optimizer.update(gradient, optimizer.init(theta), theta)
    before = [array.copy() for array in (theta, gradient, *state)]
    for array in (theta, gradient, *state):
        array.flags.writeable = False
    one, two = (optimizer.update(gradient, state, theta)[0] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    for array, copy in zip((theta, gradient, *state), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("name", TABLE)
def test_a_diverged_problem_is_seen_and_spoils_no_other(name):
    theta = np.array([[1.0, 2.0], [1.0, 2.0]])
    gradient = np.array([[np.nan, 1.0], [3.0, 1.0]])
    optimizer = make_optimizer(name, 0.1, clip_norm=1.0, axis=-1, **TABLE[name][1])
    step, _ = optimizer.update(gradient, optimizer.init(theta), theta)
    alone, _ = optimizer.update(gradient[1:], optimizer.init(theta[1:]), theta[1:])
    assert np.isnan(step[0]).all()
    np.testing.assert_array_equal(step[1:], alone)


# Names and settings
@pytest.mark.parametrize("name", TABLE)
def test_an_optimizer_by_name_is_its_function_and_none_means_the_default(name):
    gradients, settings = np.array(GOLDEN["gradients"]), TABLE[name][1]
    unset = dict.fromkeys(("momentum", "decay", "epsilon", "weight_decay"))
    for given, own in ((settings, settings), (unset, {})):
        by_name, _ = run(make_optimizer(name, 0.1, **given), np.ones(3), gradients)
        direct, _ = run(OPTIMIZERS[name](0.1, **own), np.ones(3), gradients)
        np.testing.assert_array_equal(by_name, direct)


@pytest.mark.parametrize(
    ("name", "setting"),
    [(name, setting) for name, row in TABLE.items() for setting in [*row[1], "clip_norm"]],
)
def test_every_setting_changes_the_steps(name, setting):
    gradients = np.array(GOLDEN["gradients"])
    settings = TABLE[name][1] | {"clip_norm": 1.0}
    changed = settings | {setting: settings[setting] / 2}
    one, _ = run(make_optimizer(name, 0.1, **settings), np.ones(3), gradients)
    other, _ = run(make_optimizer(name, 0.1, **changed), np.ones(3), gradients)
    assert not np.array_equal(one[-1], other[-1])


SETTINGS = {
    "constant": {},
    "step": {"decay_steps": 3, "decay_rate": 0.5},
    "exponential": {"decay_steps": 4, "decay_rate": 0.5},
    "inverse-time": {"decay_steps": 2, "decay_rate": 3.0},
    "cosine": {"decay_steps": 10, "final_fraction": 0.1},
}


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (optim.constant(0.3), {0: 0.3, 1: 0.3, 10**9: 0.3}),
        (optim.step_decay(8.0, 3), {0: 8.0, 2: 8.0, 3: 0.8, 5: 0.8, 6: 0.08}),
        (optim.step_decay(8.0, 3, decay_rate=0.25), {2: 8.0, 3: 2.0, 6: 0.5, 8: 0.5, 9: 0.125}),
        (optim.exponential_decay(8.0, 4), {0: 8.0, 2: 8 / math.sqrt(2), 4: 4.0, 12: 1.0}),
        (optim.exponential_decay(8.0, 4, decay_rate=0.0625), {1: 4.0, 2: 2.0, 3: 1.0, 4: 0.5}),
        (optim.inverse_time_decay(6.0, 4), {0: 6.0, 4: 3.0, 8: 2.0, 20: 1.0}),
        (optim.inverse_time_decay(6.0, 4, decay_rate=2.0), {2: 3.0, 4: 2.0, 10: 1.0}),
        (optim.cosine_decay(4.0, 6), {0: 4.0, 2: 3.0, 3: 2.0, 4: 1.0, 6: 0.0, 7: 0.0, 100: 0.0}),
        (optim.cosine_decay(4.0, 6, final_fraction=0.5), {0: 4.0, 2: 3.5, 3: 3.0, 6: 2.0, 7: 2.0}),
        (optim.cosine_decay(4.0, 6, final_fraction=1.0), {0: 4.0, 3: 4.0, 6: 4.0}),
    ],
)
def test_rates_worked_out_by_hand(schedule, rates):
    assert {t: schedule(t) for t in rates} == pytest.approx(rates, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("name", GOLDEN["rates"])
def test_rates_of_pytorch(name):
    schedule = make_schedule(name, 0.1, **SETTINGS[name])
    expected = GOLDEN["rates"][name]
    assert [schedule(t) for t in range(len(expected))] == pytest.approx(expected, rel=1e-12)


def test_warm_up_rises_evenly_to_the_first_rate_and_shifts_the_rest():
    schedule = optim.step_decay(5.0, np.int32(2), decay_rate=0.5)  # numpy's integers are steps, too
    warmed = optim.warm_up(schedule, np.int64(4))
    assert [warmed(t) for t in range(4)] == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert [warmed(t) for t in range(4, 10)] == [schedule(t) for t in range(6)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_by_name_is_its_function_and_none_means_the_default(name):
    def rates(schedule):
        return [schedule(t) for t in range(20)]

    settings = SETTINGS[name]
    direct = SCHEDULES[name](0.1, **settings)
    assert rates(make_schedule(name, 0.1, **settings)) == rates(direct)
    warmed = make_schedule(name, 0.1, warmup_steps=3, **settings)
    assert rates(warmed) == rates(optim.warm_up(direct, 3))
    steps = {} if name == "constant" else {"decay_steps": 5}
    unset = dict.fromkeys(("decay_rate", "final_fraction"))
    default = SCHEDULES[name](0.1, **steps)
    assert rates(make_schedule(name, 0.1, **steps, **unset)) == rates(default)


@pytest.mark.parametrize(
    ("name", "setting"),
    [(name, setting) for name, settings in SETTINGS.items() for setting in settings],
)
def test_every_setting_changes_the_rates(name, setting):
    changed = SETTINGS[name] | {setting: SETTINGS[name][setting] * 2}
    assert make_schedule(name, 0.1, **changed)(5) != make_schedule(name, 0.1, **SETTINGS[name])(5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_python_floats_that_never_rise_and_never_turn_negative(name):
    exact = {k: np.float32(v) if isinstance(v, float) else v for k, v in SETTINGS[name].items()}
    schedule = make_schedule(name, np.float32(0.5), **exact)
    rates = [schedule(t) for t in [*range(30), 10**4, 10**8]]
    assert all(type(rate) is float and rate >= 0 for rate in rates)
    assert rates == sorted(rates, reverse=True)


def identity(g, first, second, t):
    return g, first, second


def clip(gradient, clip_norm, axis=None):
    theta = np.zeros_like(gradient)
    optimizer = optim.clip_by_norm(optim.descent(1.0, identity), clip_norm, axis=axis)
    return -optimizer.update(gradient, optimizer.init(theta), theta)[0]


def test_a_schedule_is_asked_for_every_update_in_turn():
    asked = []

    def schedule(t):
        asked.append(t)
        return 2.0**-t

    thetas, _ = run(optim.descent(schedule, identity), np.zeros(1), np.ones((4, 1)))
    assert asked == [0, 1, 2, 3]
    assert thetas[:, 0].tolist() == [-1.0, -1.5, -1.75, -1.875]


def test_a_rule_gets_its_memory_and_the_number_of_the_update():
    seen = []

    def rule(g, first, second, t):
        seen.append((first.tolist(), second.shape, t))
        return g, first + t, second

    run(optim.descent(1.0, rule, first=True), np.zeros(2), np.ones((3, 2)))
    assert seen == [([0.0, 0.0], (0,), 1), ([1.0, 1.0], (0,), 2), ([3.0, 3.0], (0,), 3)]


def test_weight_decay_says_which_entries_decay():
    optimizer = optim.descent(0.5, identity, weight_decay=np.array([0.0, 0.25, 1.0]))
    thetas, _ = run(optimizer, np.full((2, 3), 8.0), np.zeros((1, 2, 3)))
    assert thetas[0].tolist() == [[8.0, 7.0, 4.0]] * 2


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
    assert clip(np.array([3e30, 4e30], np.float32), 1.0) == pytest.approx([0.6, 0.8])


def test_axis_says_what_is_one_gradient():
    gradient = np.arange(1.0, 25.0).reshape(2, 3, 4)
    each = clip(gradient, 1.0, axis=(1, 2))
    np.testing.assert_allclose(np.sqrt((each**2).sum(axis=(1, 2))), [1.0, 1.0])
    np.testing.assert_array_equal(each[1], clip(gradient[1], 1.0))
    assert np.linalg.norm(clip(gradient, 1.0)) == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan, 1e200])
def test_divergence_is_not_clipped_away(bad):
    with np.errstate(over="ignore"):  # 1e200² is infinite
        assert np.isnan(clip(np.array([bad, 1.0]), 1.0)).all()


# What is refused, and the start of the sentence about it.
PLAIN = optim.descent(1.0, identity)
HEAVY = optim.descent(1.0, identity, first=True)
SQUARED = optim.descent(1.0, identity, second=True)
DECAYING = optim.descent(0.5, identity, weight_decay=np.array([0.25, 1.0]))


def update(optimizer, gradient, theta, **state):
    return optimizer.update(gradient, optimizer.init(theta)._replace(**state), theta)


def state_of(name, other):
    """Go on with a state that is not of this θ."""
    optimizer = HEAVY if name == "first" else SQUARED
    return update(optimizer, np.ones(2), np.zeros(2, np.float32), **{name: other})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_optimizer("sgd", 0.1), r"optimizer must be .*, adam, adamw, got 'sgd'$"),
        (
            lambda: make_optimizer("rmsprop", 0.1, momentum=0.9),
            r"optimizer 'rmsprop' takes decay, epsilon, got momentum=0\.9; leave it unset$",
        ),
        (
            lambda: make_optimizer("gradient-descent", 0.1, decay=0.9),
            r"optimizer 'gradient-descent' takes no settings, got decay=0\.9; leave it unset$",
        ),
        (lambda: optim.momentum(0.1, momentum=1.0), r"momentum must be in \[0, 1\), got 1\.0$"),
        (lambda: optim.nesterov(0.1, momentum=-0.1), r"momentum must be in \[0, 1\), got -0\.1$"),
        (lambda: optim.rmsprop(0.1, decay=1.5), r"decay must be in \[0, 1\), got 1\.5$"),
        (lambda: optim.rmsprop(0.1, epsilon=0.0), r"epsilon must be finite and > 0, got 0\.0$"),
        (lambda: optim.adam(0.1, momentum=math.nan), r"momentum must be in \[0, 1\), got nan$"),
        (lambda: optim.adam(0.1, decay="slow"), r"decay must be in \[0, 1\), got 'slow'$"),
        (lambda: optim.adam(0.1, epsilon=math.inf), r"epsilon must be finite and > 0, got inf$"),
        (lambda: optim.adamw(0.1, weight_decay=-0.1), r"weight_decay must be .* ≥ 0, got -0\.1$"),
        (lambda: make_optimizer("adam", 0.1, clip_norm=0), r"clip_norm must be .* > 0, got 0$"),
        *[
            (lambda w=w: optim.descent(1.0, identity, weight_decay=w), r"weight_decay .* ≥ 0, got ")
            for w in (-0.5, math.nan, math.inf, np.array([0.1, -0.1]))
        ],
        (lambda: DECAYING.init(np.zeros(3)), r"weight_decay must .*theta, \(3,\), got \(2,\)"),
        (lambda: PLAIN.init(np.ones(2, int)), r"theta must be .* float64, got int64; cast it$"),
        (lambda: PLAIN.init(np.ones(2, bool)), r"theta must be .* float64, got bool; cast it$"),
        (lambda: PLAIN.init(np.ones(2, np.float16)), r"theta .* float64, got float16; cast it$"),
        (
            lambda: update(PLAIN, np.ones(3), np.zeros((2, 3))),
            r"gradient must be float64 of shape \(2, 3\) to fit .*, got float64 of shape \(3,\)$",
        ),
        (
            lambda: update(PLAIN, np.ones(2), np.zeros(2), first=np.zeros(2)),
            r"state\.first must be float64 of shape \(0,\)",
        ),
        (
            lambda: state_of("first", np.zeros(3, np.float32)),
            r"state\.first must be float32 of .*\(2,\) .*, got float32 of shape \(3,\)",
        ),
        (lambda: state_of("first", np.zeros(2)), r"state\.first .*, got float64 of shape"),
        (lambda: state_of("second", np.zeros(3, np.float32)), r"state\.second .*, got float32 of"),
        (lambda: state_of("second", np.zeros(2)), r"state\.second must .*, got float64 of shape"),
        *[
            (
                lambda rate=rate: update(
                    optim.descent(lambda t: rate, identity), np.ones(1), np.zeros(1)
                ),
                rf"a schedule's rates must be finite and ≥ 0, got {rate} at step 0$",
            )
            for rate in (math.nan, math.inf, -0.1)
        ],
    ],
)
def test_what_an_optimizer_cannot_use_is_refused_in_one_sentence(call, message):
    with pytest.raises(optim.OptimizerError, match=rf"^{message}"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *[
            (lambda name=name: make_optimizer(name, -0.1), r"learning_rate .* > 0, got -0\.1$")
            for name in TABLE
        ],
        *[
            (
                lambda rate=rate: optim.constant(rate),
                rf"learning_rate must be finite and > 0, got {rate!r}$",
            )
            for rate in (0.0, math.inf, math.nan, "fast")
        ],
        (lambda: optim.step_decay(-1.0, 3), r"learning_rate must be finite and > 0, got -1\.0$"),
        (lambda: optim.step_decay(1.0, 0), r"decay_steps must be an integer ≥ 1, got 0$"),
        (lambda: optim.cosine_decay(1.0, 2.5), r"decay_steps must be an integer ≥ 1, got 2\.5$"),
        (lambda: optim.step_decay(1.0, 3, decay_rate=0), r"decay_rate must be in \(0, 1\], got 0$"),
        (lambda: optim.exponential_decay(1.0, 3, decay_rate=1.5), r"decay_rate .*, 1\], got 1\.5$"),
        (lambda: optim.inverse_time_decay(1.0, 3, decay_rate=0.0), r"decay_rate .* > 0, got 0\.0$"),
        (lambda: optim.cosine_decay(1.0, 3, final_fraction=-1), r"final_fraction .*1\], got -1$"),
        (lambda: optim.warm_up(optim.constant(1.0), -1), r"warmup_steps must .* ≥ 0, got -1$"),
        (lambda: make_schedule("cosin", 1.0), r"schedule must be one of .*, cosine, got 'cosin'$"),
        (lambda: make_schedule("cosine", 1.0), r"schedule 'cosine' needs decay_steps; .* 1$"),
        (
            lambda: make_schedule("constant", 1.0, decay_steps=3),
            r"schedule .* no settings, got decay_steps=3",
        ),
        (
            lambda: make_schedule("step", 1.0, decay_steps=3, final_fraction=0.1),
            r"schedule 'step' takes decay_steps, decay_rate, got final_fraction=0\.1; leave it",
        ),
    ],
)
def test_what_a_schedule_cannot_use_is_refused_in_one_sentence(call, message):
    with pytest.raises(optim.ScheduleError, match=rf"^{message}"):
        call()
