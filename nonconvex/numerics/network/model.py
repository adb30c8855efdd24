"""Feed-forward neural networks: their shape, their parameters and the forward pass.

With the rows of a minibatch as the rows of matrices, h⁽⁰⁾ = x and

    z⁽ˡ⁾ = h⁽ˡ⁻¹⁾ W_l + b_l,   h⁽ˡ⁾ = σ_l(z⁽ˡ⁾)   for l = 1, …, L,   ŷ = h⁽ᴸ⁾

so W_l has the shape (d_{l−1}, d_l): it is the transpose of the lecture's, which multiplies
columns.  All W_l and b_l are views of one flat vector θ = (W_1, b_1, W_2, b_2, …).  Arrays with a
leading axis of R restarts go through the same lines: R networks, one x.

Activation functions of a layer: h = σ(z), entry by entry, and the way back through them.

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
it; a `Network` has to ask for it by name.

`softmax` mixes the entries of a row; it belongs to the output and to its loss, see `losses`.

Loss functions ℓ(ŷ, y) of a row, with the output activation that belongs to each.

The output ŷ = σ_L(z) is never formed where the loss is: from z itself, the *logits*, both
cross-entropies are exact where ŷ would have been rounded to 0 or 1, and σ' cancels.

=============================  =========  ====================================  ==============
name                           σ_L        ℓ                                     ∂ℓ/∂z
=============================  =========  ====================================  ==============
``squared-error``              identity   ‖ŷ − y‖² = Σ_j (z_j − y_j)²           2 (ŷ − y)
``binary-cross-entropy``       sigmoid    −y log ŷ − (1−y) log(1−ŷ)             ŷ − y
                                          = log(1 + eᶻ) − y z
``categorical-cross-entropy``  softmax    −log ŷ_y = log Σ_c e^z_c − z_y        ŷ − 1{c = y}
=============================  =========  ====================================  ==============

The squared error is the lecture's, without ½ and summed, not averaged, over the targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "SCHEMES",
    "Activation",
    "Layer",
    "Loss",
    "Network",
    "NetworkError",
    "forward",
    "initialize",
    "sigmoid",
    "softmax",
]

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


class Loss(NamedTuple):
    """A loss, its derivative, and the output that it is a loss of.

    Attributes
    ----------
    activation : str
        The name of σ_L.
    output : Callable
        ``output(z)`` is ŷ, of the shape (…, m, k) of z.
    evaluate : Callable
        ``evaluate(z, y)`` is ℓ of shape (…, m), in float64, and ∂ℓ/∂z of shape (…, m, k), in the
        dtype of z.  y is a float array of shape (m, k) for the squared error, and an integer
        array (m,) of classes for the cross-entropies: 0 or 1 for the binary one, which has k = 1,
        and 0, …, k − 1 for the categorical one.

    Examples
    --------
    >>> value, slope = LOSSES["binary-cross-entropy"].evaluate(np.array([[-1e4]]), np.array([1]))
    >>> value, slope
    (array([10000.]), array([[-1.]]))
    """

    activation: str
    output: Callable[[Array], Array]
    evaluate: Callable[[Array, NDArray[Any]], tuple[NDArray[np.float64], Array]]


def _squared_error(z: Array, y: NDArray[Any]) -> tuple[NDArray[np.float64], Array]:
    error = z - y.astype(z.dtype, copy=False)
    value = np.square(error).sum(axis=-1).astype(np.float64)
    error *= 2
    return value, error


def _binary_cross_entropy(z: Array, y: NDArray[Any]) -> tuple[NDArray[np.float64], Array]:
    logit, positive = z[..., 0], y.astype(z.dtype)
    # log(1 + eᶻ) = max(z, 0) + log(1 + e^−|z|), whose power cannot overflow
    value = np.maximum(logit, 0) + np.log1p(np.exp(-np.abs(logit))) - positive * logit
    return value.astype(np.float64), sigmoid(z) - positive[:, None]


def _categorical_cross_entropy(z: Array, y: NDArray[Any]) -> tuple[NDArray[np.float64], Array]:
    rows = np.arange(len(y))
    shifted = z - z.max(axis=-1, keepdims=True)  # the greatest is 0: no power overflows
    power = np.exp(shifted)
    total = power.sum(axis=-1)
    value = np.log(total).astype(np.float64) - shifted[..., rows, y]
    power /= total[..., None]
    power[..., rows, y] -= 1
    return value, power


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "squared-error": Loss("identity", lambda z: z, _squared_error),
        "binary-cross-entropy": Loss("sigmoid", sigmoid, _binary_cross_entropy),
        "categorical-cross-entropy": Loss("softmax", softmax, _categorical_cross_entropy),
    }
)

SCHEMES = ("glorot-uniform", "glorot-normal", "he-uniform", "he-normal")

_INITIALIZATION = 0  # the purpose of these random numbers, beside those of `minibatches`


class NetworkError(ValueError):
    """A network that cannot be, or data that do not fit it."""

    exit_status = 2


class Layer(NamedTuple):
    """The parameters of a layer, or their derivatives: views of a flat array.

    Attributes
    ----------
    weights : float array of shape (…, d_{l−1}, d_l)
        W_l.
    bias : float array of shape (…, d_l), or None in a network without
        b_l.
    """

    weights: Array
    bias: Array | None


@dataclass(frozen=True)
class Network:
    """What a network is, apart from its parameters.

    Parameters
    ----------
    layers : tuple of int
        (d_0, …, d_L), from the inputs to the outputs; L = 1 is a network without hidden layer.
    activations : tuple of str
        σ_1, …, σ_{L−1} of the hidden layers, from `ACTIVATIONS`; σ_L follows from the loss.
    loss : str
        One of `LOSSES`.
    bias : bool
        Without, b = 0: the lecture's networks.
    step_gradient : str, optional
        "straight-through" allows to train through the activation "step", see `activations`.
    reg : float
        λ ≥ 0 of the penalty (λ/2) Σ_l ‖W_l‖²; biases are free.

    Raises
    ------
    NetworkError
        If a part is unknown, out of range, or does not fit the others.

    Examples
    --------
    >>> Network((784, 128, 10), ("relu",), "categorical-cross-entropy").size
    101770
    """

    layers: tuple[int, ...]
    activations: tuple[str, ...]
    loss: str
    bias: bool = True
    step_gradient: str | None = None
    reg: float = 0.0

    def __post_init__(self) -> None:
        """Check the parts."""
        if len(self.layers) < 2 or min(self.layers) < 1:
            raise NetworkError(
                f"layers must be at least the inputs and the outputs, each ≥ 1, got {self.layers}"
            )
        hidden = len(self.layers) - 2
        if len(self.activations) != hidden:
            raise NetworkError(
                f"activations must be one for each hidden layer, {hidden} with "
                f"layers={self.layers}, got {self.activations}"
            )
        for activation in self.activations:
            _check_name("activation", activation, tuple(ACTIVATIONS))
        _check_name("loss", self.loss, tuple(LOSSES))
        if self.loss == "binary-cross-entropy" and self.layers[-1] != 1:
            raise NetworkError(
                "binary-cross-entropy needs an output layer of size 1, the probability of class "
                f"1, got {self.layers[-1]}; use categorical-cross-entropy for more outputs"
            )
        if self.loss == "categorical-cross-entropy" and self.layers[-1] < 2:
            raise NetworkError(
                "categorical-cross-entropy needs an output for each class, at least 2, got 1; "
                "use binary-cross-entropy for one output"
            )
        if self.step_gradient is not None:
            _check_name("step_gradient", self.step_gradient, ("straight-through",))
        if not 0 <= self.reg < math.inf:
            raise NetworkError(f"reg must be finite and ≥ 0, got {self.reg}")

    @property
    def depth(self) -> int:
        """L, the number of layers with parameters."""
        return len(self.layers) - 1

    @property
    def classes(self) -> int | None:
        """How many classes there are; None for the squared error."""
        if self.loss == "squared-error":
            return None
        return max(2, self.layers[-1])

    @property
    def output(self) -> Loss:
        """The loss, with ``output.output(z)`` that makes ŷ of the last z."""
        return LOSSES[self.loss]

    def probabilities(self, z: Array) -> Array:
        """Return the probability of each class, of shape (…, m, k), from logits (…, m, d_L)."""
        p = self.output.output(z)
        return np.concatenate([1 - p, p], axis=-1) if self.layers[-1] == 1 else p

    def predicted(self, z: Array, thresholds: Sequence[float] | None = None) -> NDArray[np.intp]:
        """Return the most probable class of each row, of shape (…, m); the first if several are.

        Parameters
        ----------
        z : float array of shape (…, m, d_L)
            The logits.
        thresholds : sequence of float, optional
            t_c ≥ 0 of each class: the class of the greatest p_c / t_c is taken instead.  One of
            them may be 0; its class is taken wherever it has any probability.

        Examples
        --------
        >>> network = Network((1, 1), (), "binary-cross-entropy")
        >>> network.predicted(np.array([[0.5]])), network.predicted(np.array([[0.5]]), (0.1, 0.9))
        (array([1]), array([0]))
        """
        if thresholds is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                scaled = self.probabilities(z) / np.asarray(thresholds)
            best: NDArray[np.intp] = np.where(np.isnan(scaled), -1, scaled).argmax(axis=-1)
            return best
        if self.layers[-1] == 1:
            return (z[..., 0] > 0).astype(np.intp)
        classes: NDArray[np.intp] = z.argmax(axis=-1)
        return classes

    @cached_property
    def size(self) -> int:
        """p, the number of parameters."""
        pairs = pairwise(self.layers)
        return sum(above * (below + self.bias) for below, above in pairs)

    @cached_property
    def is_weight(self) -> NDArray[np.bool_]:
        """Which entries of θ are weights, of shape (p,); the others are biases."""
        mask = np.ones(self.size)
        for layer in self.views(mask):
            if layer.bias is not None:
                layer.bias[...] = 0
        return mask > 0

    def views(self, theta: Array) -> list[Layer]:
        """Show a flat array (…, p) as W_1, b_1, …, W_L, b_L, without a copy.

        Raises
        ------
        NetworkError
            If its last axis is not p long.

        Examples
        --------
        >>> network = Network((2, 1), (), "squared-error")
        >>> network.views(np.array([1.0, 2.0, 3.0]))
        [Layer(weights=array([[1.],
               [2.]]), bias=array([3.]))]
        """
        if theta.shape[-1:] != (self.size,):
            raise NetworkError(
                f"theta must have {self.size} parameters with layers={self.layers}, got an array "
                f"of shape {theta.shape}"
            )
        views, start = [], 0
        for below, above in pairwise(self.layers):
            stop = start + below * above
            weights = theta[..., start:stop].reshape(*theta.shape[:-1], below, above)
            start = stop + above * self.bias
            views.append(Layer(weights, theta[..., stop:start] if self.bias else None))
        return views


def initialize(
    network: Network,
    scheme: str,
    seed: int,
    restart: int = 0,
    dtype: type[np.floating] = np.float32,
) -> Array:
    """Draw the parameters that training starts from; biases are 0.

    The weights of a layer are uniform or normal, of mean 0 and variance 2 / (d_{l−1} + d_l) (Glorot
    and Bengio, 2010), which suits sigmoid and tanh, or 2 / d_{l−1} (He et al., 2015), which suits
    ReLU.  The numbers depend on the seed, the restart and the layer, so a restart is the same
    whatever others there are, and in float32 the same as in float64, rounded.

    Parameters
    ----------
    network : Network
    scheme : str
        One of `SCHEMES`.
    seed, restart : int
    dtype : numpy float type

    Returns
    -------
    float array of shape (p,)

    Raises
    ------
    NetworkError
        If the scheme is unknown.

    Examples
    --------
    >>> network = Network((100, 50), (), "squared-error")
    >>> weights = initialize(network, "he-normal", seed=1)[:5000]
    >>> round(float(weights.var()), 3)
    0.02
    """
    _check_name("initialization", scheme, SCHEMES)
    theta = np.zeros(network.size, dtype)
    for number, (weights, _) in enumerate(network.views(theta)):
        sequence = np.random.SeedSequence(
            seed & (2**64 - 1), spawn_key=(_INITIALIZATION, restart, number)
        )
        generator = np.random.default_rng(sequence)
        below, above = weights.shape
        variance = 2 / (below + above) if scheme.startswith("glorot") else 2 / below
        if scheme.endswith("uniform"):
            limit = math.sqrt(3 * variance)
            weights[...] = generator.uniform(-limit, limit, weights.shape)
        else:
            weights[...] = generator.normal(0, math.sqrt(variance), weights.shape)
    return theta


def forward(network: Network, theta: Array, x: Array) -> list[Array]:
    """Compute every layer of the network, and keep it for the way back.

    Parameters
    ----------
    network : Network
    theta : float array of shape (R, p) or (p,)
        Its dtype is the dtype of the arithmetic.
    x : float array of shape (m, d_0)

    Returns
    -------
    list of L + 1 arrays
        h⁽⁰⁾ = x, then h⁽ˡ⁾ of shape (R, m, d_l) or (m, d_l), and last z⁽ᴸ⁾, the logits;
        ``network.output.output`` makes ŷ of them.

    Raises
    ------
    NetworkError
        If x or θ does not fit the network.

    Examples
    --------
    >>> network = Network((2, 1), (), "binary-cross-entropy")
    >>> *_, z = forward(network, np.array([1.0, 2.0, 3.0]), np.array([[1.0, -2.0]]))
    >>> z, network.output.output(z)
    (array([[0.]]), array([[0.5]]))
    """
    if x.ndim != 2 or x.shape[1] != network.layers[0]:
        raise NetworkError(
            f"x must have {network.layers[0]} columns with layers={network.layers}, got an array "
            f"of shape {x.shape}"
        )
    h: list[Array] = [x.astype(theta.dtype, copy=False)]
    for number, (weights, bias) in enumerate(network.views(theta)):
        z: Array = h[-1] @ weights
        if bias is not None:
            z += bias[..., None, :]
        if number < network.depth - 1:
            z = ACTIVATIONS[network.activations[number]].forward(z)
        h.append(z)
    return h


def _check_name(what: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise NetworkError(f"{what} must be one of {', '.join(allowed)}, got {given!r}")
