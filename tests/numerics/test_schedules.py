"""Schedules against values worked out by hand and against PyTorch's."""

import doctest
import json
import math
from pathlib import Path

import numpy as np
import pytest

from nonconvex.numerics import schedules
from nonconvex.numerics.schedules import (
    SCHEDULES,
    ScheduleError,
    constant,
    cosine_decay,
    exponential_decay,
    inverse_time_decay,
    make_schedule,
    step_decay,
    warm_up,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "optimizers.json").read_text())

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
        (constant(0.3), {0: 0.3, 1: 0.3, 10**9: 0.3}),
        (step_decay(8.0, 3), {0: 8.0, 2: 8.0, 3: 0.8, 5: 0.8, 6: 0.08}),
        (step_decay(8.0, 3, decay_rate=0.25), {2: 8.0, 3: 2.0, 6: 0.5, 8: 0.5, 9: 0.125}),
        (exponential_decay(8.0, 4), {0: 8.0, 2: 8 / math.sqrt(2), 4: 4.0, 12: 1.0}),
        (exponential_decay(8.0, 4, decay_rate=0.0625), {1: 4.0, 2: 2.0, 3: 1.0, 4: 0.5}),
        (inverse_time_decay(6.0, 4), {0: 6.0, 4: 3.0, 8: 2.0, 20: 1.0}),
        (inverse_time_decay(6.0, 4, decay_rate=2.0), {2: 3.0, 4: 2.0, 10: 1.0}),
        (cosine_decay(4.0, 6), {0: 4.0, 2: 3.0, 3: 2.0, 4: 1.0, 6: 0.0, 7: 0.0, 100: 0.0}),
        (cosine_decay(4.0, 6, final_fraction=0.5), {0: 4.0, 2: 3.5, 3: 3.0, 6: 2.0, 7: 2.0}),
        (cosine_decay(4.0, 6, final_fraction=1.0), {0: 4.0, 3: 4.0, 6: 4.0}),
    ],
)
def test_rates_worked_out_by_hand(schedule, rates):
    assert {t: schedule(t) for t in rates} == pytest.approx(rates, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("name", GOLDEN["rates"])
def test_rates_of_pytorch(name):
    schedule = make_schedule(name, 0.1, **SETTINGS[name])
    expected = GOLDEN["rates"][name]
    assert [schedule(t) for t in range(len(expected))] == pytest.approx(expected, rel=1e-12)


def test_golden_rates_were_made_by_the_pinned_pytorch():
    assert GOLDEN["torch"].startswith("2.13.0")
    assert set(GOLDEN["rates"]) == {"step", "exponential", "cosine"}


def test_warm_up_rises_evenly_to_the_first_rate_and_shifts_the_rest():
    schedule = step_decay(5.0, 2, decay_rate=0.5)
    warmed = warm_up(schedule, 4)
    assert [warmed(t) for t in range(4)] == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert [warmed(t) for t in range(4, 10)] == [schedule(t) for t in range(6)]


def test_warm_up_never_starts_with_a_step_of_length_zero():
    assert warm_up(constant(1.0), 10**6)(0) > 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_by_name_is_its_function(name):
    direct = SCHEDULES[name](0.1, **SETTINGS[name])
    by_name = make_schedule(name, 0.1, **SETTINGS[name])
    warmed = make_schedule(name, 0.1, warmup_steps=3, **SETTINGS[name])
    assert [by_name(t) for t in range(20)] == [direct(t) for t in range(20)]
    assert [warmed(t) for t in range(20)] == [warm_up(direct, 3)(t) for t in range(20)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_none_means_the_default(name):
    steps = {} if name == "constant" else {"decay_steps": 5}
    unset = dict.fromkeys(("decay_rate", "final_fraction"))
    rate, default = make_schedule(name, 0.1, **steps, **unset), SCHEDULES[name](0.1, **steps)
    assert [rate(t) for t in range(20)] == [default(t) for t in range(20)]


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


def test_numpy_integers_are_steps():
    assert warm_up(step_decay(1.0, np.int32(2), decay_rate=0.5), np.int64(1))(3) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: constant(0.0), r"^learning_rate must be finite and > 0, got 0\.0$"),
        (lambda: constant(math.inf), r"^learning_rate must be finite and > 0, got inf$"),
        (lambda: constant(math.nan), r"^learning_rate must be finite and > 0, got nan$"),
        (lambda: constant("fast"), r"^learning_rate must be finite and > 0, got 'fast'$"),
        (lambda: step_decay(-1.0, 3), r"^learning_rate must be finite and > 0, got -1\.0$"),
        (lambda: step_decay(1.0, 0), r"^decay_steps must be an integer ≥ 1, got 0$"),
        (lambda: cosine_decay(1.0, 2.5), r"^decay_steps must be an integer ≥ 1, got 2\.5$"),
        (lambda: step_decay(1.0, 3, decay_rate=0), r"^decay_rate must be in \(0, 1\], got 0$"),
        (
            lambda: exponential_decay(1.0, 3, decay_rate=1.5),
            r"^decay_rate must be in \(0, 1\], got 1\.5$",
        ),
        (
            lambda: inverse_time_decay(1.0, 3, decay_rate=0.0),
            r"^decay_rate must be finite and > 0, got 0\.0$",
        ),
        (
            lambda: cosine_decay(1.0, 3, final_fraction=-0.1),
            r"^final_fraction must be in \[0, 1\], got -0\.1$",
        ),
        (lambda: warm_up(constant(1.0), -1), r"^warmup_steps must be an integer ≥ 0, got -1$"),
        (
            lambda: make_schedule("cosin", 1.0),
            r"^schedule must be one of constant, step, exponential, inverse-time, cosine, "
            r"got 'cosin'$",
        ),
        (
            lambda: make_schedule("cosine", 1.0),
            r"^schedule 'cosine' needs decay_steps; set it to an integer ≥ 1$",
        ),
        (
            lambda: make_schedule("constant", 1.0, decay_steps=3),
            r"^schedule 'constant' takes no settings, got decay_steps=3; leave it unset$",
        ),
        (
            lambda: make_schedule("step", 1.0, decay_steps=3, final_fraction=0.1),
            r"^schedule 'step' takes decay_steps, decay_rate, got final_fraction=0\.1; leave it "
            r"unset$",
        ),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(call, message):
    with pytest.raises(ScheduleError, match=message):
        call()


def test_examples_of_the_docstrings_run():
    result = doctest.testmod(schedules)
    assert result.attempted > 0
    assert result.failed == 0
