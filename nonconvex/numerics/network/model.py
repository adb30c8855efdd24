"""Feed-forward neural networks: shape, parameters, standardization and forward pass.

With the rows of a minibatch as the rows of matrices, h⁽⁰⁾ = x and

    z⁽ˡ⁾ = h⁽ˡ⁻¹⁾ W_l + b_l,   h⁽ˡ⁾ = σ_l(z⁽ˡ⁾)   for l = 1, …, L,   ŷ = h⁽ᴸ⁾

so W_l has the shape (d_{l−1}, d_l): it is the transpose of the matrix that multiplies
columns.  All W_l and b_l are views of one flat vector θ = (W_1, b_1, W_2, b_2, …).  Arrays with a
leading axis of R restarts go through the same lines: R networks, one x.

============  ======================  ======================================
activation    σ(z)                    σ'(z), from h = σ(z)
============  ======================  ======================================
``identity``  z                       1
``step``      1 if z ≥ 0, else 0      1, see below
``sigmoid``   1 / (1 + e⁻ᶻ)           h (1 − h)
``tanh``      tanh z                  1 − h²
``relu``      max(z, 0)               1 if h > 0, else 0
============  ======================  ======================================

The derivative of ``step`` is 0 wherever it exists, so nothing could be learned through it.  The
straight-through estimator (Bengio, Léonard and Courville, 2013) uses that of the identity instead;
a `Network` has to ask for it by name.

Each loss ℓ(ŷ, y) of a row has its output activation.  ŷ = σ_L(z) is never formed in a loss: from
the *logits* z, both cross-entropies are exact where ŷ would have been rounded to 0 or 1.

=============================  =========  ====================================  ==============
loss                           σ_L        ℓ                                     ∂ℓ/∂z
=============================  =========  ====================================  ==============
``squared-error``              identity   ‖ŷ − y‖² = Σ_j (z_j − y_j)²           2 (ŷ − y)
``binary-cross-entropy``       sigmoid    −y log ŷ − (1−y) log(1−ŷ)             ŷ − y
                                          = log(1 + eᶻ) − y z
``categorical-cross-entropy``  softmax    −log ŷ_y = log Σ_c e^z_c − z_y        ŷ − 1{c = y}
=============================  =========  ====================================  ==============

The squared error is without ½, and summed, not averaged, over the targets.

Features are standardized by mean and variance: with weights w_i and W = Σ w_i, m = Σ w_i x_i / W
and Σ w_i (x_i − m)² / W, that of these examples and not an estimate: there is no n − 1.
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
from numpy.typing import DTypeLike, NDArray

from nonconvex.numerics import Bools, Doubles, Floats
from nonconvex.numerics.deterministic import Stream, one_thread_per_product

SCHEMES = ("glorot-uniform", "glorot-normal", "he-uniform", "he-normal")

_INITIALIZATION = 0  # a use of random numbers, beside those of `backprop`
_ROWS_OF_A_PRODUCT = 64  # few, so that one row is predicted soon, and enough for BLAS to be fast


class Activation(NamedTuple):
    """Both directions of an activation, which may overwrite their first argument; NaN stays NaN.

    Examples
    --------
    >>> h = ACTIVATIONS["relu"].forward(np.array([-1.0, 2.0]))
    >>> h, ACTIVATIONS["relu"].backward(np.array([5.0, 5.0]), h)
    (array([0., 2.]), array([0., 5.]))
    """

    forward: Callable[[Floats], Floats]  # ``forward(z)`` is h = σ(z)
    backward: Callable[[Floats, Floats], Floats]  # ``backward(delta, h)`` is δ σ'(z); h = σ(z)


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + e⁻ᶻ), where no power overflows and small values keep their relative precision."""
    h: Floats = np.exp(np.minimum(z, 0))
    h /= 1 + np.exp(-np.abs(z))
    return h


def softmax(z: Floats) -> Floats:
    """e^z_c / Σ_c' e^z_c' over the last axis."""
    h: Floats = np.exp(z - z.max(axis=-1, keepdims=True))
    h /= h.sum(axis=-1, keepdims=True)
    return h


def _sigmoid_backward(delta: Floats, h: Floats) -> Floats:
    delta *= h
    delta *= 1 - h
    return delta


def _tanh_backward(delta: Floats, h: Floats) -> Floats:
    delta *= 1 - h * h
    return delta


def _relu_backward(delta: Floats, h: Floats) -> Floats:
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
    """A loss with its output activation.

    Examples
    --------
    >>> value, slope = LOSSES["binary-cross-entropy"].evaluate(np.array([[-1e4]]), np.array([1]))
    >>> value, slope
    (array([10000.]), array([[-1.]]))
    """

    activation: str  # the name of σ_L
    output: Callable[[Floats], Floats]  # ``output(z)`` is ŷ, of the shape (…, m, k) of z
    # ``evaluate(z, y)`` is ℓ of shape (…, m), in float64, and ∂ℓ/∂z of shape (…, m, k), in the
    # dtype of z. y is a float array of shape (m, k) for the squared error, and an integer array
    # (m,) of classes for the cross-entropies: 0 or 1 for the binary one, which has k = 1, and 0, …,
    # k − 1 for the categorical one.
    evaluate: Callable[[Floats, NDArray[Any]], tuple[Doubles, Floats]]


def _squared_error(z: Floats, y: NDArray[Any]) -> tuple[Doubles, Floats]:
    error = z - y.astype(z.dtype, copy=False)
    value = np.square(error).sum(axis=-1).astype(np.float64)
    error *= 2
    return value, error


def _binary_cross_entropy(z: Floats, y: NDArray[Any]) -> tuple[Doubles, Floats]:
    logit, positive = z[..., 0], y.astype(z.dtype)
    # log(1 + eᶻ) = max(z, 0) + log(1 + e^−|z|), whose power cannot overflow
    value = np.maximum(logit, 0) + np.log1p(np.exp(-np.abs(logit))) - positive * logit
    return value.astype(np.float64), sigmoid(z) - positive[:, None]


def _categorical_cross_entropy(z: Floats, y: NDArray[Any]) -> tuple[Doubles, Floats]:
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


class NetworkError(ValueError):
    """An impossible network, or data that do not fit it."""

    exit_status = 2


class Layer(NamedTuple):
    """The parameters of a layer, or their derivatives: views of a flat array."""

    weights: Floats  # (…, d_{l−1}, d_l): W_l
    bias: Floats | None  # (…, d_l): b_l


@dataclass(frozen=True)
class Network:
    """A network without its parameters.

    Raises
    ------
    NetworkError
        If a part is unknown, out of range, or does not fit the others.

    Examples
    --------
    >>> Network((784, 128, 10), ("relu",), "categorical-cross-entropy").size
    101770
    """

    # (d_0, …, d_L), from the inputs to the outputs; L = 1 is a network without hidden layer
    layers: tuple[int, ...]
    # σ_1, …, σ_{L−1} of the hidden layers, from `ACTIVATIONS`; σ_L follows from the loss
    activations: tuple[str, ...]
    loss: str  # one of `LOSSES`
    bias: bool = True  # without, b = 0
    # "straight-through" permits training through the activation "step"
    step_gradient: str | None = None
    reg: float = 0.0  # λ ≥ 0 of the penalty (λ/2) Σ_l ‖W_l‖²; biases are free

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
        """Number of classes; None for the squared error."""
        if self.loss == "squared-error":
            return None
        return max(2, self.layers[-1])

    @property
    def output(self) -> Loss:
        """The loss, with ``output.output(z)`` that makes ŷ of the last z."""
        return LOSSES[self.loss]

    def check_features(self, x: Floats) -> None:
        """Refuse an array that is not of shape (m, d_0)."""
        if x.ndim != 2 or x.shape[1] != self.layers[0]:
            raise NetworkError(
                f"x must have {self.layers[0]} columns with layers={self.layers}, got an array "
                f"of shape {x.shape}"
            )

    def probabilities(self, z: Floats) -> Floats:
        """Return the probability of each class, of shape (…, m, k), from logits (…, m, d_L)."""
        p = self.output.output(z)
        return np.concatenate([1 - p, p], axis=-1) if self.layers[-1] == 1 else p

    def predicted(self, z: Floats, thresholds: Sequence[float] | None = None) -> NDArray[np.intp]:
        """Return the most probable class of each row (…, m) of logits (…, m, d_L).

        It is the first if several are.
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
    def is_weight(self) -> Bools:
        """Mask of weights in θ, of shape (p,); the others are biases."""
        mask = np.ones(self.size)
        for layer in self.views(mask):
            if layer.bias is not None:
                layer.bias[...] = 0
        return mask > 0

    def views(self, theta: Floats) -> list[Layer]:
        """Show a flat array (…, p) as W_1, b_1, …, W_L, b_L, without a copy."""
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
) -> Floats:
    """Draw the parameters that training starts from; biases are 0.

    The weights of a layer are uniform or normal, of mean 0 and variance 2 / (d_{l−1} + d_l) (Glorot
    and Bengio, 2010), which suits sigmoid and tanh, or 2 / d_{l−1} (He et al., 2015), which suits
    ReLU.  The numbers depend on the seed, the restart and the layer, so a restart is the same
    whatever others there are, and in float32 the same as in float64, rounded.

    Parameters
    ----------
    scheme : str
        One of `SCHEMES`.

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
        generator = Stream.generator(seed, _INITIALIZATION, restart, number)
        below, above = weights.shape
        variance = 2 / (below + above) if scheme.startswith("glorot") else 2 / below
        if scheme.endswith("uniform"):
            limit = math.sqrt(3 * variance)
            weights[...] = generator.uniform(-limit, limit, weights.shape)
        else:
            weights[...] = generator.normal(0, math.sqrt(variance), weights.shape)
    return theta


def forward(network: Network, theta: Floats, x: Floats) -> list[Floats]:
    """Compute every layer of the network, and keep it for the way back.

    Parameters
    ----------
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
    network.check_features(x)
    h: list[Floats] = [x.astype(theta.dtype, copy=False)]
    for number, (weights, bias) in enumerate(network.views(theta)):
        z: Floats = h[-1] @ weights
        if bias is not None:
            z += bias[..., None, :]
        if number < network.depth - 1:
            z = ACTIVATIONS[network.activations[number]].forward(z)
        h.append(z)
    return h


def _check_name(what: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise NetworkError(f"{what} must be one of {', '.join(allowed)}, got {given!r}")


class Moments(NamedTuple):
    """Moments of the features of examples; two can be merged."""

    weight: float  # W, the sum of the weights
    mean: Doubles  # (d,): m
    squares: Doubles  # (d,): Σ w_i (x_i − m)²
    # of shapes (d,): Over all examples, whatever they weigh
    minimum: Doubles
    maximum: Doubles

    @classmethod
    def of(cls, x: NDArray[Any], weight: Doubles | None = None) -> Moments:
        """Compute the moments of at least one example (m, d), of any numeric type.

        The weights (m,) are at least 0 each; all 1 by default.
        """
        values = x.astype(np.float64)
        w = np.ones((len(values), 1)) if weight is None else weight[:, None]
        total = float(w.sum())
        # Not a matrix product, whose order of additions may change.
        mean = (w * values).sum(axis=0) / total if total > 0 else np.zeros(values.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            squares = (w * (values - mean) ** 2).sum(axis=0)
        return cls(total, mean, squares, values.min(axis=0), values.max(axis=0))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of examples together.

        References
        ----------
        Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance.
        """
        total = self.weight + other.weight
        share = other.weight / total if total > 0 else 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            apart = other.mean - self.mean
            mean = self.mean + share * apart
            squares = self.squares + other.squares + share * self.weight * apart**2
        minimum = np.minimum(self.minimum, other.minimum)
        maximum = np.maximum(self.maximum, other.maximum)
        return Moments(total, mean, squares, minimum, maximum)

    def constant(self) -> Bools:
        """Return the mask of constant features, of shape (d,)."""
        same: Bools = self.minimum == self.maximum
        return same

    def overflowed(self) -> Bools:
        """Return the mask of features whose sums of squares overflow, of shape (d,)."""
        return ~np.isfinite(self.squares)

    def standardization(self, still: float = np.inf, reach: float = 20.0) -> Standardization:
        """Return the map of every feature to mean 0 and variance 1, and of a constant one to 0.

        A feature that is nearly constant, such as a pixel that is dark in all images but one of a
        thousand, is divided by a twentieth (1/`reach`) of its range, which is more than its
        deviation: otherwise its few values would lie far from all others.
        `still` is the scale of a constant feature.  By default also new values of it become 0, as
        its weights are random.
        """
        deviation = np.sqrt(self.squares / self.weight)
        # A feature that is constant where weights are positive has no spread either.
        without = self.constant() | (deviation == 0)
        mean = np.where(self.constant(), self.minimum, self.mean)  # so that 0 is exact
        with np.errstate(over="ignore"):
            spread = np.maximum(deviation, (self.maximum - self.minimum) / reach)
        return Standardization(mean, np.where(without, still, spread))


class Standardization(NamedTuple):
    """x ↦ (x − mean) / scale, feature by feature."""

    # of shapes (d,)
    mean: Doubles
    scale: Doubles

    @classmethod
    def none(cls, features: int) -> Standardization:
        """Return the identity."""
        return cls(np.zeros(features), np.ones(features))

    def apply(self, x: NDArray[Any], dtype: DTypeLike) -> Floats:
        """Standardize in float64, then round to `dtype`; shape (m, d)."""
        standardized: Doubles = (x - self.mean) / self.scale
        return standardized.astype(dtype)

    def invert(self, standardized: Doubles) -> Doubles:
        """Undo `apply`, in float64."""
        return standardized * self.scale + self.mean


class Classes(NamedTuple):
    """The classes of a classification, ascending, in the order of the outputs."""

    kind: str  # "string", or "double" for whole numbers
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Scorer:
    """A trained network with all that its predictions need; broadcast it once for many uses."""

    network: Network
    theta: Floats  # (p,), in the dtype of the arithmetic
    standardization: Standardization
    classes: Classes | None = None  # None for a regression
    targets: Standardization | None = None  # of the targets of a regression in training

    def logits(self, x: Doubles) -> Doubles:
        """Return z⁽ᴸ⁾ of shape (m, d_L), in the units of the targets, of raw features (m, d_0).

        With θ in float32, the bits of a row do not depend on the rows beside it.  BLAS adds up in
        an order that depends on the number of rows and, on some processors, on the place of a row.
        So every product has as many rows, in float64, and z is rounded to the dtype of θ.
        """
        theta = self.theta.astype(np.float64)
        z = np.empty((len(x), self.network.layers[-1]))
        rows = np.zeros((_ROWS_OF_A_PRODUCT, self.network.layers[0]))
        with one_thread_per_product(), np.errstate(over="ignore"):
            for start in range(0, len(x), _ROWS_OF_A_PRODUCT):
                part = x[start : start + _ROWS_OF_A_PRODUCT]
                rows[: len(part)] = self.standardization.apply(part, rows.dtype)
                z[start : start + len(part)] = forward(self.network, theta, rows)[-1][: len(part)]
            z = z.astype(self.theta.dtype).astype(np.float64)
        return z if self.targets is None else self.targets.invert(z)


def raw_predictions(z: Doubles) -> Doubles:
    """Return an entry for each class: logits of shape (m, d_L), (−z, z) of a single one."""
    return np.hstack([-z, z]) if z.shape[1] == 1 else z
