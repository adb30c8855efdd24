"""Learning-rate schedules: functions of the step.

A schedule η maps t, the number of updates already made (0 before the first), to the learning
rate of the next one.  It remembers nothing, so a resumed run finds its rate from t alone.  Every
schedule here is an initial rate η₀ times a shape, η(t) = η₀ s(t/T), where T is ``decay_steps``:

================  ==========================  ======================  ====================
name              s(x)                        setting                 function
================  ==========================  ======================  ====================
``constant``      1                                                   `constant`
``step``          r^⌊x⌋                       r = ``decay_rate``      `step_decay`
``exponential``   r^x                         r = ``decay_rate``      `exponential_decay`
``inverse-time``  1 / (1 + rx)                r = ``decay_rate``      `inverse_time_decay`
``cosine``        φ + (1−φ)(1 + cos πx)/2     φ = ``final_fraction``  `cosine_decay`
================  ==========================  ======================  ====================

`warm_up` puts a linear ramp before any of them; `make_schedule` chooses one by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from types import MappingProxyType

from nonconvex.numerics.choices import given_settings

__all__ = [
    "SCHEDULES",
    "Schedule",
    "ScheduleError",
    "constant",
    "cosine_decay",
    "exponential_decay",
    "inverse_time_decay",
    "make_schedule",
    "step_decay",
    "warm_up",
]

Schedule = Callable[[int], float]


class ScheduleError(ValueError):
    """A schedule is unknown, or one of its settings is missing, foreign to it or out of range."""


def constant(learning_rate: float) -> Schedule:
    """η(t) = η₀.

    Parameters
    ----------
    learning_rate : float
        η₀ > 0.

    Raises
    ------
    ScheduleError
        If a setting is out of range; so for every schedule.

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """
    return _scaled(learning_rate, 1, lambda x: 1.0)


def step_decay(learning_rate: float, decay_steps: int, *, decay_rate: float = 0.1) -> Schedule:
    """η(t) = η₀ r^⌊t/T⌋: the rate is multiplied by r every T steps.

    Parameters
    ----------
    learning_rate : float
        η₀ > 0.
    decay_steps : int
        T ≥ 1.
    decay_rate : float
        r in (0, 1].

    Examples
    --------
    >>> rate = step_decay(1.0, 10, decay_rate=0.5)
    >>> rate(0), rate(9), rate(10), rate(20)
    (1.0, 1.0, 0.5, 0.25)
    """
    _check("decay_rate", decay_rate, "in (0, 1]", lambda r: 0 < r <= 1)
    return _scaled(learning_rate, decay_steps, lambda x: decay_rate ** math.floor(x))


def exponential_decay(
    learning_rate: float, decay_steps: int, *, decay_rate: float = 0.5
) -> Schedule:
    """η(t) = η₀ r^(t/T): the decay of `step_decay`, spread evenly over the steps.

    Parameters
    ----------
    learning_rate : float
        η₀ > 0.
    decay_steps : int
        T ≥ 1.
    decay_rate : float
        r in (0, 1]; the default makes T the half-life.

    Examples
    --------
    >>> rate = exponential_decay(1.0, 10, decay_rate=0.25)
    >>> rate(0), rate(5), rate(10)
    (1.0, 0.5, 0.25)
    """
    _check("decay_rate", decay_rate, "in (0, 1]", lambda r: 0 < r <= 1)
    return _scaled(learning_rate, decay_steps, lambda x: decay_rate**x)


def inverse_time_decay(
    learning_rate: float, decay_steps: int, *, decay_rate: float = 1.0
) -> Schedule:
    """η(t) = η₀ / (1 + r t/T).

    Its sum diverges and the sum of its squares does not, which is what Robbins and Monro (1951)
    ask of the rates of a stochastic approximation.  No other schedule here satisfies both.

    Parameters
    ----------
    learning_rate : float
        η₀ > 0.
    decay_steps : int
        T ≥ 1.
    decay_rate : float
        r > 0; the default halves the rate after T steps.

    Examples
    --------
    >>> rate = inverse_time_decay(1.0, 10)
    >>> rate(0), rate(10), rate(30)
    (1.0, 0.5, 0.25)
    """
    _check("decay_rate", decay_rate, "finite and > 0", lambda r: 0 < r < math.inf)
    return _scaled(learning_rate, decay_steps, lambda x: 1 / (1 + decay_rate * x))


def cosine_decay(
    learning_rate: float, decay_steps: int, *, final_fraction: float = 0.0
) -> Schedule:
    """η(t) = η₀ [φ + (1 − φ)(1 + cos πt/T)/2] up to t = T, and η₀ φ from then on.

    One period of Loshchilov and Hutter (SGDR, 2017), without its restarts.

    Parameters
    ----------
    learning_rate : float
        η₀ > 0.
    decay_steps : int
        T ≥ 1, counted from the end of a warm-up.
    final_fraction : float
        φ in [0, 1].

    Examples
    --------
    >>> rate = cosine_decay(1.0, 10, final_fraction=0.1)
    >>> rate(0), rate(5), rate(10), rate(99)
    (1.0, 0.55, 0.1, 0.1)
    """
    _check("final_fraction", final_fraction, "in [0, 1]", lambda phi: 0 <= phi <= 1)

    def shape(x: float) -> float:
        wave = (1 + math.cos(math.pi * min(x, 1.0))) / 2
        return final_fraction + (1 - final_fraction) * wave

    return _scaled(learning_rate, decay_steps, shape)


def warm_up(schedule: Schedule, warmup_steps: int) -> Schedule:
    """η(0)·(t + 1)/(w + 1) for t < w, then η(t − w).

    The ramp rises by equal amounts to the schedule's first rate.  It starts at 1/(w + 1) of it,
    not at 0 as in optax: a step of length 0 is wasted, and a stopping rule takes it for
    convergence.

    Parameters
    ----------
    schedule : Schedule
        η, whose own step 0 follows the ramp.
    warmup_steps : int
        w ≥ 0; 0 is no ramp.

    Examples
    --------
    >>> rate = warm_up(constant(1.0), 3)
    >>> [rate(t) for t in range(5)]
    [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    _check("warmup_steps", warmup_steps, "an integer ≥ 0", _is_integer_from(0))

    def rate(t: int) -> float:
        if t < warmup_steps:
            return schedule(0) * (t + 1) / (warmup_steps + 1)
        return schedule(t - warmup_steps)

    return rate


SCHEDULES: Mapping[str, Callable[..., Schedule]] = MappingProxyType(
    {
        "constant": constant,
        "step": step_decay,
        "exponential": exponential_decay,
        "inverse-time": inverse_time_decay,
        "cosine": cosine_decay,
    }
)


def make_schedule(
    name: str, learning_rate: float, *, warmup_steps: int = 0, **settings: float | None
) -> Schedule:
    """Build a schedule from its name and settings.

    Parameters
    ----------
    name : str
        One of `SCHEDULES`.
    learning_rate : float
        η₀ > 0, the rate after any warm-up.
    warmup_steps : int
        Length of the ramp of `warm_up`.
    **settings
        Those of the schedule's own function: ``decay_steps``, ``decay_rate``, ``final_fraction``;
        None is its default.

    Raises
    ------
    ScheduleError
        If the name is unknown, or a setting is missing, out of range, or not one of this
        schedule's: nothing given is ignored.

    Examples
    --------
    >>> rate = make_schedule("cosine", 1.0, decay_steps=10, warmup_steps=1)
    >>> rate(0), rate(1), rate(6), rate(11)
    (0.5, 1.0, 0.5, 0.0)
    """
    given = given_settings("schedule", name, SCHEDULES, settings, ScheduleError)
    if SCHEDULES[name] is not constant and "decay_steps" not in given:
        raise ScheduleError(f"schedule {name!r} needs decay_steps; set it to an integer ≥ 1")
    return warm_up(SCHEDULES[name](learning_rate, **given), warmup_steps)


def _scaled(learning_rate: float, decay_steps: int, shape: Callable[[float], float]) -> Schedule:
    """η(t) = η₀ s(t/T)."""
    _check("learning_rate", learning_rate, "finite and > 0", lambda eta: 0 < eta < math.inf)
    _check("decay_steps", decay_steps, "an integer ≥ 1", _is_integer_from(1))
    return lambda t: float(learning_rate * shape(t / decay_steps))


def _is_integer_from(least: int) -> Callable[[float], bool]:
    return lambda value: isinstance(value, Integral) and int(value) >= least


def _check(name: str, value: float, allowed: str, holds: Callable[[float], bool]) -> None:
    if not (isinstance(value, Real) and holds(value)):
        raise ScheduleError(f"{name} must be {allowed}, got {value!r}")
