"""The step of gradient descent: θ ← θ − η(d + wθ), with a direction d made from gradients.

What all optimizers have in common is here: their state, the learning rate and its sign, decoupled
weight decay, and clipping.  What sets them apart, the rule from gradients to d, is in `optimizers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.schedules import Schedule, constant

__all__ = ["Optimizer", "OptimizerError", "OptimizerState", "Rule", "clip_by_norm", "descent"]

Array = NDArray[np.floating]

Rule = Callable[[Array, Array, Array, int], tuple[Array, Array, Array]]
"""``rule(g, first, second, t)``: the direction of update t = 1, 2, …, and the new memory."""


class OptimizerError(ValueError):
    """An optimizer is unknown, or was given a setting or an array it cannot work with."""


class OptimizerState(NamedTuple):
    """What an optimizer remembers between updates: three arrays, whichever the optimizer.

    ``state._asdict()`` is all there is to store, and ``OptimizerState(**stored)`` goes on from
    there to the same bits.

    Attributes
    ----------
    updates : int64 array of shape ()
        Updates made so far.
    first : array like θ, or of shape (0,) in an optimizer without
        The decaying sum or mean of the gradients.
    second : array like θ, or of shape (0,) in an optimizer without
        The decaying mean of the squared gradients.
    """

    updates: NDArray[np.int64]
    first: Array
    second: Array


class Optimizer(NamedTuple):
    """The functions of an optimizer; none changes its arguments.

    Attributes
    ----------
    init : Callable
        ``init(theta)`` is the state before the first update.
    update : Callable
        ``update(gradient, state, theta)`` is the step to add to θ, of its shape and dtype, and the
        next state.  A gradient that is not finite gives a step that is not.
    learning_rate : Schedule
        η as a function of the number of updates already made.
    """

    init: Callable[[Array], OptimizerState]
    update: Callable[[Array, OptimizerState, Array], tuple[Array, OptimizerState]]
    learning_rate: Schedule


def descent(
    learning_rate: float | Schedule,
    rule: Rule,
    *,
    first: bool = False,
    second: bool = False,
    weight_decay: float | Array = 0.0,
) -> Optimizer:
    """Make an optimizer of a rule; the only place of the learning rate and the minus sign.

    Parameters
    ----------
    learning_rate : float or Schedule
        η > 0, or a function of the number of updates already made.
    rule : Rule
        From the gradient and the memory to the direction d and the next memory.
    first, second : bool
        Which memory the rule has; it starts at 0.  The other comes and goes empty.
    weight_decay : float, or array that broadcasts to the shape of θ
        w ≥ 0.

    Raises
    ------
    ScheduleError, OptimizerError
        If a setting is out of range.  ``init`` and ``update`` raise OptimizerError for arrays that
        do not fit θ, and ``update`` for a schedule's rate that is negative or not finite.

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

    def init(theta: Array) -> OptimizerState:
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
        gradient: Array, state: OptimizerState, theta: Array
    ) -> tuple[Array, OptimizerState]:
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


def clip_by_norm(
    optimizer: Optimizer, clip_norm: float, *, axis: int | tuple[int, ...] | None = None
) -> Optimizer:
    """Scale gradients down to a Euclidean norm before an optimizer sees them: g · min(1, c/‖g‖).

    Pascanu et al. (2013), in the variant of optax: nothing is added to ‖g‖, so a gradient within
    the bound keeps its bits.  ‖g‖ is summed in float64.  Where it is infinite the clipped gradient
    is NaN: divergence must be seen, not scaled to a step of 0.

    Parameters
    ----------
    optimizer : Optimizer
        Its ``init`` and state stay as they are.
    clip_norm : float
        c > 0.
    axis : int or tuple of int, optional
        The axes over which one gradient extends, each gradient having a norm of its own: −1 for R
        restarts stacked as (R, p).  By default the whole array is one gradient.

    Raises
    ------
    OptimizerError
        If ``clip_norm`` is out of range.

    Examples
    --------
    >>> identity = descent(1.0, lambda g, first, second, t: (g, first, second))
    >>> theta, gradient = np.zeros((2, 2)), np.array([[3.0, 4.0], [0.3, 0.4]])
    >>> optimizer = clip_by_norm(identity, 1.0, axis=-1)
    >>> step, state = optimizer.update(gradient, optimizer.init(theta), theta)
    >>> step
    array([[-0.6, -0.8],
           [-0.3, -0.4]])
    """
    if not (isinstance(clip_norm, Real) and 0 < clip_norm < math.inf):
        raise OptimizerError(f"clip_norm must be finite and > 0, got {clip_norm!r}")

    def update(
        gradient: Array, state: OptimizerState, theta: Array
    ) -> tuple[Array, OptimizerState]:
        squares = np.square(gradient, dtype=np.float64)
        norm = np.sqrt(np.sum(squares, axis=axis, keepdims=True))
        scale = np.where(np.isinf(norm), np.nan, clip_norm / np.maximum(norm, clip_norm))
        return optimizer.update(gradient * scale, state, theta)

    return Optimizer(optimizer.init, update, optimizer.learning_rate)


def _check_like(name: str, array: Array, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if (array.shape, array.dtype) != (shape, dtype):
        raise OptimizerError(
            f"{name} must be {dtype} of shape {shape} to fit theta, "
            f"got {array.dtype} of shape {array.shape}"
        )
