"""First-order optimizers, each a pair of pure functions from gradients to steps.

An optimizer has no state of its own::

    state = optimizer.init(theta)
    step, state = optimizer.update(gradient, state, theta)
    theta = theta + step

θ is one array of float32 or float64, of any shape, and the arithmetic is done in its dtype.  Every
rule works entry by entry (clipping by whole gradients, see its ``axis``), so R independent
problems stacked as an (R, p) array take the same steps, to the bit, as each of them alone.

With g the gradient, η the learning rate (a number or a schedule), μ = ``momentum``,
ρ = ``decay``, ε = ``epsilon`` and w = ``weight_decay``:

====================  ======================================  ===========================
name                  memory, from 0                          step
====================  ======================================  ===========================
``gradient-descent``                                          −η g
``momentum``          v ← μv + g                              −η v
``nesterov``          v ← μv + g                              −η (g + μv)
``rmsprop``           s ← ρs + (1−ρ)g²                        −η g / (√s + ε)
``adam``              m ← μm + (1−μ)g,  s ← ρs + (1−ρ)g²      −η m̂ / (√ŝ + ε)
``adamw``             as Adam                                 −η (m̂ / (√ŝ + ε) + wθ)
====================  ======================================  ===========================

where m̂ = m / (1 − μᵗ) and ŝ = s / (1 − ρᵗ) undo the start from 0, at updates t = 1, 2, …

η may be a *schedule*, which maps t, the number of updates already made, to the learning rate of the
next one: it has no state, so a resumed run continues with the right rate.  Each is an initial rate
η₀ > 0 times a shape, η(t) = η₀ s(t/T), where T ≥ 1 is ``decay_steps``:

================  ==========================  ======================  ====================
name              s(x)                        setting                 function
================  ==========================  ======================  ====================
``constant``      1                                                   `constant`
``step``          r^⌊x⌋                       r = ``decay_rate``      `step_decay`
``exponential``   r^x                         r = ``decay_rate``      `exponential_decay`
``inverse-time``  1 / (1 + rx)                r = ``decay_rate``      `inverse_time_decay`
``cosine``        φ + (1−φ)(1 + cos πx)/2     φ = ``final_fraction``  `cosine_decay`
================  ==========================  ======================  ====================

`warm_up` puts a linear ramp before any of them.  `make_schedule` and `make_optimizer` choose by
name and refuse settings that would be ignored; every setting out of range raises ScheduleError or
OptimizerError.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np

from nonconvex.numerics import Floats, Longs

SettingT = TypeVar("SettingT")
Schedule = Callable[[int], float]
Rate = float | Schedule
Axis = int | tuple[int, ...] | None
Directed = tuple[Floats, Floats, Floats]

Rule = Callable[[Floats, Floats, Floats, int], Directed]
"""``rule(g, first, second, t)``: the direction of update t = 1, 2, …, and the new memory."""

WEIGHT_DECAY = 0.01
"""PyTorch's default of AdamW."""


def given_settings(
    kind: str,
    name: str,
    members: Mapping[str, Callable[..., object]],
    settings: Mapping[str, SettingT | None],
    error: type[Exception],
) -> dict[str, SettingT]:
    """Return the settings that are not None; raise `error` if `members[name]` does not take one.

    Examples
    --------
    >>> members = {"constant": lambda rate: rate, "step": lambda rate, steps=1: rate / steps}
    >>> given_settings("schedule", "step", members, {"steps": 3, "fraction": None}, ValueError)
    {'steps': 3}
    """
    if name not in members:
        raise error(f"{kind} must be one of {', '.join(members)}, got {name!r}")
    given = {setting: value for setting, value in settings.items() if value is not None}
    _, *taken = inspect.signature(members[name]).parameters
    for setting, value in given.items():
        if setting not in taken:
            raise error(
                f"{kind} {name!r} takes {', '.join(taken) or 'no settings'}, "
                f"got {setting}={value!r}; leave it unset"
            )
    return given


class ScheduleError(ValueError):
    """An unknown schedule, or a setting that is missing, not its own or out of range."""


def constant(learning_rate: float) -> Schedule:
    """η(t) = η₀."""
    return _scaled(learning_rate, 1, lambda x: 1.0)


def step_decay(learning_rate: float, decay_steps: int, *, decay_rate: float = 0.1) -> Schedule:
    """η(t) = η₀ r^⌊t/T⌋: multiplied by r in (0, 1] every T steps."""
    _check("decay_rate", decay_rate, "in (0, 1]", lambda r: 0 < r <= 1)
    return _scaled(learning_rate, decay_steps, lambda x: decay_rate ** math.floor(x))


def exponential_decay(
    learning_rate: float, decay_steps: int, *, decay_rate: float = 0.5
) -> Schedule:
    """η(t) = η₀ r^(t/T), with r in (0, 1]; the default makes T the half-life."""
    _check("decay_rate", decay_rate, "in (0, 1]", lambda r: 0 < r <= 1)
    return _scaled(learning_rate, decay_steps, lambda x: decay_rate**x)


def inverse_time_decay(
    learning_rate: float, decay_steps: int, *, decay_rate: float = 1.0
) -> Schedule:
    """η(t) = η₀ / (1 + r t/T), with r > 0; the default halves the rate after T steps.

    Its sum diverges and the sum of its squares does not, the conditions of Robbins and Monro (1951)
    on the rates of a stochastic approximation.  No other schedule here satisfies both.
    """
    _check("decay_rate", decay_rate, "finite and > 0", lambda r: 0 < r < math.inf)
    return _scaled(learning_rate, decay_steps, lambda x: 1 / (1 + decay_rate * x))


def cosine_decay(
    learning_rate: float, decay_steps: int, *, final_fraction: float = 0.0
) -> Schedule:
    """η(t) = η₀ [φ + (1 − φ)(1 + cos πt/T)/2] up to t = T, then η₀ φ, with φ in [0, 1].

    One period of Loshchilov and Hutter (SGDR, 2017), without its restarts; T counts from the end of
    a warm-up.
    """
    _check("final_fraction", final_fraction, "in [0, 1]", lambda phi: 0 <= phi <= 1)

    def shape(x: float) -> float:
        wave = (1 + math.cos(math.pi * min(x, 1.0))) / 2
        return final_fraction + (1 - final_fraction) * wave

    return _scaled(learning_rate, decay_steps, shape)


def warm_up(schedule: Schedule, warmup_steps: int) -> Schedule:
    """η(0)·(t + 1)/(w + 1) for t < w = ``warmup_steps``, then η(t − w).

    The ramp starts at 1/(w + 1) of the first rate, not at 0 as in optax: a step of length 0 is
    wasted, and a stopping rule takes it for convergence.
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
    """Build a schedule of `SCHEDULES` by name; a setting of None is its default.

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


class OptimizerError(ValueError):
    """An unknown optimizer, or a setting or an array that it cannot use."""


class OptimizerState(NamedTuple):
    """Memory of an optimizer between updates; an array it does not use has shape (0,)."""

    updates: Longs  # (): Updates made so far
    first: Floats  # the decaying sum or mean of the gradients
    second: Floats  # the decaying mean of the squared gradients


class Optimizer(NamedTuple):
    """The functions of an optimizer; none changes its arguments."""

    init: Callable[[Floats], OptimizerState]  # ``init(theta)`` is the state before the first update
    # ``update(gradient, state, theta)`` is the step to add to θ, of its shape and dtype, and the
    # next state. A gradient that is not finite gives a step that is not finite.
    update: Callable[[Floats, OptimizerState, Floats], tuple[Floats, OptimizerState]]
    learning_rate: Schedule


def descent(
    learning_rate: Rate,
    rule: Rule,
    *,
    first: bool = False,
    second: bool = False,
    weight_decay: float | Floats = 0.0,
) -> Optimizer:
    """Make an optimizer of a rule; the only place of the learning rate and the minus sign.

    `first` and `second` tell which memory the rule has; it starts at 0.  `weight_decay` is w ≥ 0,
    or an array that broadcasts to the shape of θ.

    Examples
    --------
    Descent by the signs of the gradient alone:

    >>> signs = descent(0.5, lambda g, first, second, t: (np.sign(g), first, second))
    >>> theta = np.zeros(2)
    >>> step, state = signs.update(np.array([3.0, -0.1]), signs.init(theta), theta)
    >>> step
    array([-0.5,  0.5])
    """
    schedule = learning_rate if callable(learning_rate) else constant(learning_rate)
    decay = np.asarray(weight_decay)
    if not np.all(np.isfinite(decay) & (decay >= 0)):
        raise OptimizerError(f"weight_decay must be finite and ≥ 0, got {weight_decay!r}")

    def init(theta: Floats) -> OptimizerState:
        if theta.dtype not in (np.float32, np.float64):
            raise OptimizerError(f"theta must be float32 or float64, got {theta.dtype}; cast it")
        try:
            np.broadcast_to(decay, theta.shape)
        except ValueError as error:
            raise OptimizerError(
                f"weight_decay must broadcast to the shape of theta, {theta.shape}, "
                f"got {decay.shape}"
            ) from error
        memory = (np.zeros(theta.shape if kept else 0, theta.dtype) for kept in (first, second))
        return OptimizerState(np.zeros((), np.int64), *memory)

    def update(
        gradient: Floats, state: OptimizerState, theta: Floats
    ) -> tuple[Floats, OptimizerState]:
        gradient = gradient.astype(theta.dtype, copy=False)
        _check_like("gradient", gradient, theta.shape, theta.dtype)
        _check_like("state.first", state.first, theta.shape if first else (0,), theta.dtype)
        _check_like("state.second", state.second, theta.shape if second else (0,), theta.dtype)
        t = int(state.updates)
        rate = float(schedule(t))  # a numpy scalar would promote float32
        if not 0 <= rate < math.inf:
            raise OptimizerError(
                f"a schedule's rates must be finite and ≥ 0, got {rate} at step {t}"
            )
        direction, *memory = rule(gradient, state.first, state.second, t + 1)
        if decay.any():
            direction = direction + decay.astype(theta.dtype) * theta
        return -rate * direction, OptimizerState(np.asarray(state.updates + 1), *memory)

    return Optimizer(init, update, schedule)


def clip_by_norm(optimizer: Optimizer, clip_norm: float, *, axis: Axis = None) -> Optimizer:
    """Scale gradients down to a Euclidean norm before an optimizer sees them: g · min(1, c/‖g‖).

    Pascanu et al. (2013), in the variant of optax: nothing is added to ‖g‖, so a gradient within
    the bound c = ``clip_norm`` > 0 keeps its bits.  ‖g‖ is summed in float64 over `axis`: −1 for R
    restarts stacked as (R, p), by default the whole array.  Where it is infinite the clipped
    gradient is NaN: divergence must be seen, not scaled to a step of 0.
    """
    _check_positive("clip_norm", clip_norm)

    def update(
        gradient: Floats, state: OptimizerState, theta: Floats
    ) -> tuple[Floats, OptimizerState]:
        squares = np.square(gradient, dtype=np.float64)
        norm = np.sqrt(np.sum(squares, axis=axis, keepdims=True))
        scale = np.where(np.isinf(norm), np.nan, clip_norm / np.maximum(norm, clip_norm))
        return optimizer.update(gradient * scale, state, theta)

    return Optimizer(optimizer.init, update, optimizer.learning_rate)


def _check_like(name: str, array: Floats, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if (array.shape, array.dtype) != (shape, dtype):
        raise OptimizerError(
            f"{name} must be {dtype} of shape {shape} to fit theta, "
            f"got {array.dtype} of shape {array.shape}"
        )


def gradient_descent(learning_rate: Rate) -> Optimizer:
    """Gradient descent: θ ← θ − ηg."""

    def rule(g: Floats, first: Floats, second: Floats, t: int) -> Directed:
        return g, first, second

    return descent(learning_rate, rule)


def momentum(learning_rate: Rate, *, momentum: float = 0.9) -> Optimizer:
    """Momentum (Polyak, 1964): v ← μv + g, θ ← θ − ηv, with μ in [0, 1).

    The variant of optax and PyTorch: g enters v whole, not times 1 − μ, and η multiplies v when it
    is used; under a constant gradient the steps grow to η/(1 − μ) times it.  Sutskever et al.
    (2013) put η inside, v ← μv − ηg, the same only while η is constant.
    """
    _check_decay("momentum", momentum)

    def rule(g: Floats, v: Floats, second: Floats, t: int) -> Directed:
        v = momentum * v + g
        return v, v, second

    return descent(learning_rate, rule, first=True)


def nesterov(learning_rate: Rate, *, momentum: float = 0.9) -> Optimizer:
    """Nesterov's momentum (1983): v ← μv + g, θ ← θ − η(g + μv), with μ in [0, 1).

    The variant of optax and PyTorch, after Sutskever et al. (2013): g is the gradient at θ itself,
    because θ here is the point that the original looks ahead to.
    """
    _check_decay("momentum", momentum)

    def rule(g: Floats, v: Floats, second: Floats, t: int) -> Directed:
        v = momentum * v + g
        return g + momentum * v, v, second

    return descent(learning_rate, rule, first=True)


def rmsprop(learning_rate: Rate, *, decay: float = 0.99, epsilon: float = 1e-8) -> Optimizer:
    """RMSProp (Tieleman and Hinton, 2012): s ← ρs + (1 − ρ)g², θ ← θ − ηg / (√s + ε).

    The variant of PyTorch, whose alpha is ρ in [0, 1): ε > 0 outside the root (optax has it
    inside), not centered, no momentum.  The start s = 0 is not corrected for, so the first step is
    η/√(1 − ρ) in every entry: ten times η at the default.
    """
    _check_decay("decay", decay)
    _check_positive("epsilon", epsilon)

    def rule(g: Floats, first: Floats, s: Floats, t: int) -> Directed:
        s = decay * s + (1 - decay) * g**2
        return g / (np.sqrt(s) + epsilon), first, s

    return descent(learning_rate, rule, second=True)


def adam(
    learning_rate: Rate, *, momentum: float = 0.9, decay: float = 0.999, epsilon: float = 1e-8
) -> Optimizer:
    """Adam (Kingma and Ba, 2015): θ ← θ − ηm̂ / (√ŝ + ε), with the means m̂ of g and ŝ of g².

    μ in [0, 1) is the paper's β₁, ρ in [0, 1) its β₂; η is about the largest change of an entry in
    a step.  The variant of Algorithm 1, optax and PyTorch: ε > 0 is added to the corrected root.
    scikit-learn adds it to √s, the paper's shortcut, so its ε is larger in the first steps.

    Examples
    --------
    >>> theta, optimizer = np.zeros(2), adam(0.1)
    >>> step, state = optimizer.update(np.array([3.0, -0.1]), optimizer.init(theta), theta)
    >>> step.round(4)
    array([-0.1,  0.1])
    """
    return adamw(learning_rate, momentum=momentum, decay=decay, epsilon=epsilon, weight_decay=0.0)


def adamw(
    learning_rate: Rate,
    *,
    momentum: float = 0.9,
    decay: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float | Floats = WEIGHT_DECAY,
) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019): θ ← θ − η(m̂ / (√ŝ + ε) + wθ), m̂ and ŝ as in `adam`.

    The decay w ≥ 0 is decoupled: it enters neither m nor s, so it is not the gradient of a penalty.
    An array that broadcasts to θ chooses the entries that decay, such as weights but not biases.
    The variant of optax and PyTorch, in which η multiplies w too.
    """
    _check_decay("momentum", momentum)
    _check_decay("decay", decay)
    _check_positive("epsilon", epsilon)

    def rule(g: Floats, m: Floats, s: Floats, t: int) -> Directed:
        m = momentum * m + (1 - momentum) * g
        s = decay * s + (1 - decay) * g**2
        m_hat, s_hat = m / (1 - momentum**t), s / (1 - decay**t)
        return m_hat / (np.sqrt(s_hat) + epsilon), m, s

    return descent(learning_rate, rule, first=True, second=True, weight_decay=weight_decay)


OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = MappingProxyType(
    {
        "gradient-descent": gradient_descent,
        "momentum": momentum,
        "nesterov": nesterov,
        "rmsprop": rmsprop,
        "adam": adam,
        "adamw": adamw,
    }
)


def make_optimizer(
    name: str,
    learning_rate: Rate,
    *,
    clip_norm: float | None = None,
    axis: Axis = None,
    **settings: float | Floats | None,
) -> Optimizer:
    """Build an optimizer of `OPTIMIZERS` by name; a setting of None is its default.

    `clip_norm` and `axis` are those of `clip_by_norm`; without, gradients are not clipped.

    Examples
    --------
    >>> make_optimizer("adam", 0.1, decay=0.99, clip_norm=5.0).init(np.zeros(2))
    OptimizerState(updates=array(0), first=array([0., 0.]), second=array([0., 0.]))
    """
    given = given_settings("optimizer", name, OPTIMIZERS, settings, OptimizerError)
    optimizer = OPTIMIZERS[name](learning_rate, **given)
    return optimizer if clip_norm is None else clip_by_norm(optimizer, clip_norm, axis=axis)


def _check_decay(name: str, value: float) -> None:
    if not (isinstance(value, Real) and 0 <= value < 1):
        raise OptimizerError(f"{name} must be in [0, 1), got {value!r}")


def _check_positive(name: str, value: float) -> None:
    if not (isinstance(value, Real) and 0 < value < math.inf):
        raise OptimizerError(f"{name} must be finite and > 0, got {value!r}")
