"""First-order optimizers, each a pair of pure functions from gradients to steps.

An optimizer remembers nothing itself::

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
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.choices import given_settings
from nonconvex.numerics.descent import Optimizer, OptimizerError, clip_by_norm, descent
from nonconvex.numerics.schedules import Schedule

__all__ = [
    "OPTIMIZERS",
    "WEIGHT_DECAY",
    "adam",
    "adamw",
    "gradient_descent",
    "make_optimizer",
    "momentum",
    "nesterov",
    "rmsprop",
]

Array = NDArray[np.floating]
Directed = tuple[Array, Array, Array]

WEIGHT_DECAY = 0.01
"""The default of AdamW, PyTorch's."""


def gradient_descent(learning_rate: float | Schedule) -> Optimizer:
    """Gradient descent: θ ← θ − ηg.

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0, or a function of the number of updates already made.

    Raises
    ------
    ScheduleError, OptimizerError
        If the learning rate or another setting is out of range; so for every optimizer.

    Examples
    --------
    >>> theta = np.array([1.0, -2.0])
    >>> optimizer = gradient_descent(0.25)
    >>> step, state = optimizer.update(2 * theta, optimizer.init(theta), theta)
    >>> theta + step
    array([ 0.5, -1. ])
    """

    def rule(g: Array, first: Array, second: Array, t: int) -> Directed:
        return g, first, second

    return descent(learning_rate, rule)


def momentum(learning_rate: float | Schedule, *, momentum: float = 0.9) -> Optimizer:
    """Momentum (Polyak, 1964): v ← μv + g, θ ← θ − ηv.

    The variant of optax and PyTorch: g enters v whole, not times 1 − μ, and η multiplies v when it
    is used.  Sutskever et al. (2013) put η inside, v ← μv − ηg, the same only while η is constant.

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0.  Under a constant gradient the steps grow to η/(1 − μ) times it.
    momentum : float
        μ in [0, 1).

    Examples
    --------
    >>> theta, optimizer = np.zeros(1), momentum(1.0, momentum=0.5)
    >>> step, state = optimizer.update(np.ones(1), optimizer.init(theta), theta)
    >>> step, state = optimizer.update(np.ones(1), state, theta + step)
    >>> step
    array([-1.5])
    """
    _check_decay("momentum", momentum)

    def rule(g: Array, v: Array, second: Array, t: int) -> Directed:
        v = momentum * v + g
        return v, v, second

    return descent(learning_rate, rule, first=True)


def nesterov(learning_rate: float | Schedule, *, momentum: float = 0.9) -> Optimizer:
    """Nesterov's momentum (1983): v ← μv + g, θ ← θ − η(g + μv).

    The variant of optax and PyTorch, after Sutskever et al. (2013): g is the gradient at θ itself,
    because θ here stands for the point that the original looks ahead to.

    Parameters
    ----------
    learning_rate, momentum
        As in `momentum`.

    Examples
    --------
    >>> theta, optimizer = np.zeros(1), nesterov(1.0, momentum=0.5)
    >>> step, state = optimizer.update(np.ones(1), optimizer.init(theta), theta)
    >>> step
    array([-1.5])
    """
    _check_decay("momentum", momentum)

    def rule(g: Array, v: Array, second: Array, t: int) -> Directed:
        v = momentum * v + g
        return g + momentum * v, v, second

    return descent(learning_rate, rule, first=True)


def rmsprop(
    learning_rate: float | Schedule, *, decay: float = 0.99, epsilon: float = 1e-8
) -> Optimizer:
    """RMSProp (Tieleman and Hinton, 2012): s ← ρs + (1 − ρ)g², θ ← θ − ηg / (√s + ε).

    The variant of PyTorch: ε outside the root (optax has it inside), not centered, no momentum.
    The start s = 0 is not corrected for, so the first step is η/√(1 − ρ) in every entry: ten times
    η at the default.

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0.
    decay : float
        ρ in [0, 1), PyTorch's alpha.
    epsilon : float
        ε > 0.

    Examples
    --------
    >>> theta, optimizer = np.zeros(2), rmsprop(0.1, decay=0.75)
    >>> step, state = optimizer.update(np.array([3.0, -0.1]), optimizer.init(theta), theta)
    >>> step.round(4)
    array([-0.2,  0.2])
    """
    _check_decay("decay", decay)
    _check_positive("epsilon", epsilon)

    def rule(g: Array, first: Array, s: Array, t: int) -> Directed:
        s = decay * s + (1 - decay) * g**2
        return g / (np.sqrt(s) + epsilon), first, s

    return descent(learning_rate, rule, second=True)


def adam(
    learning_rate: float | Schedule,
    *,
    momentum: float = 0.9,
    decay: float = 0.999,
    epsilon: float = 1e-8,
) -> Optimizer:
    """Adam (Kingma and Ba, 2015): θ ← θ − ηm̂ / (√ŝ + ε), with the means m̂ of g and ŝ of g².

    The variant of the paper's Algorithm 1, optax and PyTorch: ε is added to the corrected root.
    scikit-learn adds it to √s, the paper's shortcut, so its ε is larger in the first steps.

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0, about the largest change of an entry in one step.
    momentum : float
        μ in [0, 1), the paper's β₁.
    decay : float
        ρ in [0, 1), the paper's β₂.
    epsilon : float
        ε > 0.

    Examples
    --------
    >>> theta, optimizer = np.zeros(2), adam(0.1)
    >>> step, state = optimizer.update(np.array([3.0, -0.1]), optimizer.init(theta), theta)
    >>> step.round(4)
    array([-0.1,  0.1])
    """
    return adamw(learning_rate, momentum=momentum, decay=decay, epsilon=epsilon, weight_decay=0.0)


def adamw(
    learning_rate: float | Schedule,
    *,
    momentum: float = 0.9,
    decay: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: float | Array = WEIGHT_DECAY,
) -> Optimizer:
    """AdamW (Loshchilov and Hutter, 2019): θ ← θ − η(m̂ / (√ŝ + ε) + wθ), m̂ and ŝ as in `adam`.

    The decay is decoupled: it enters neither m nor s, so it is not the gradient of a penalty.  The
    variant of optax and PyTorch, in which η multiplies w too; the default w is PyTorch's.

    Parameters
    ----------
    learning_rate, momentum, decay, epsilon
        As in `adam`.
    weight_decay : float, or array that broadcasts to the shape of θ
        w ≥ 0.  An array says which entries decay; the others, biases say, have 0.

    Examples
    --------
    >>> theta = np.array([10.0, 10.0])
    >>> optimizer = adamw(0.1, weight_decay=np.array([0.5, 0.0]))
    >>> step, state = optimizer.update(np.zeros(2), optimizer.init(theta), theta)
    >>> theta + step
    array([ 9.5, 10. ])
    """
    _check_decay("momentum", momentum)
    _check_decay("decay", decay)
    _check_positive("epsilon", epsilon)

    def rule(g: Array, m: Array, s: Array, t: int) -> Directed:
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
    learning_rate: float | Schedule,
    *,
    clip_norm: float | None = None,
    axis: int | tuple[int, ...] | None = None,
    **settings: float | Array | None,
) -> Optimizer:
    """Build an optimizer from its name and settings.

    Parameters
    ----------
    name : str
        One of `OPTIMIZERS`.
    learning_rate : float or Schedule
        η > 0, or what `make_schedule` returns.
    clip_norm, axis : optional
        As in `clip_by_norm`; None is no clipping.
    **settings
        As in the optimizer's own function: ``momentum``, ``decay``, ``epsilon``,
        ``weight_decay``; None is its default.

    Raises
    ------
    OptimizerError
        If the name is unknown, or a setting is out of range or not one of this optimizer's:
        nothing given is ignored.

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
