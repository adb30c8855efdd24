"""Activation functions of a layer: h = σ(z), entry by entry, and the way back through them.

============  ======================  ======================================
name          σ(z)                    σ'(z), from h = σ(z)
============  ======================  ======================================
``identity``  z                       1
``step``      1 if z ≥ 0, else 0      1, see below
``sigmoid``   1 / (1 + e⁻ᶻ)           h (1 − h)
``tanh``      tanh z                  1 − h²
``relu``      max(z, 0)               1 if h > 0, else 0
============  ======================  ======================================

The derivative of ``step`` is 0 wherever it exists, so nothing could be learned through it.  The
straight-through estimator (Bengio, Léonard and Courville, 2013) takes that of the identity for
it; a `nonconvex.numerics.network.model.Network` has to ask for it by name.

`softmax` mixes the entries of a row; it belongs to the output and to its loss, see `losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "Activation", "sigmoid", "softmax"]

Array = NDArray[np.floating]


class Activation(NamedTuple):
    """The two directions of an activation; each may overwrite its first argument, to spare a copy.

    NaN stays NaN in both, so that divergence is seen.

    Attributes
    ----------
    forward : Callable
        ``forward(z)`` is h = σ(z).
    backward : Callable
        ``backward(delta, h)`` is δ σ'(z), where h = σ(z).

    Examples
    --------
    >>> h = ACTIVATIONS["relu"].forward(np.array([-1.0, 2.0]))
    >>> h, ACTIVATIONS["relu"].backward(np.array([5.0, 5.0]), h)
    (array([0., 2.]), array([0., 5.]))
    """

    forward: Callable[[Array], Array]
    backward: Callable[[Array, Array], Array]


def sigmoid(z: Array) -> Array:
    """1 / (1 + e⁻ᶻ), where no power overflows and small values keep their relative precision.

    Examples
    --------
    >>> sigmoid(np.array([0.0, -1e4, 1e4]))
    array([0.5, 0. , 1. ])
    """
    h: Array = np.exp(np.minimum(z, 0))
    h /= 1 + np.exp(-np.abs(z))
    return h


def softmax(z: Array) -> Array:
    """e^z_c / Σ_c' e^z_c' over the last axis.

    Examples
    --------
    >>> softmax(np.array([1e4, 1e4, -1e4]))
    array([0.5, 0.5, 0. ])
    """
    h: Array = np.exp(z - z.max(axis=-1, keepdims=True))
    h /= h.sum(axis=-1, keepdims=True)
    return h


def _sigmoid_backward(delta: Array, h: Array) -> Array:
    delta *= h
    delta *= 1 - h
    return delta


def _tanh_backward(delta: Array, h: Array) -> Array:
    delta *= 1 - h * h
    return delta


def _relu_backward(delta: Array, h: Array) -> Array:
    delta *= h > 0
    return delta


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "identity": Activation(lambda z: z, lambda delta, h: delta),
        "step": Activation(lambda z: np.heaviside(z, 1, out=z), lambda delta, h: delta),
        "sigmoid": Activation(sigmoid, _sigmoid_backward),
        "tanh": Activation(lambda z: np.tanh(z, out=z), _tanh_backward),
        "relu": Activation(lambda z: np.maximum(z, 0, out=z), _relu_backward),
    }
)
