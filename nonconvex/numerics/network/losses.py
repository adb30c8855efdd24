"""Loss functions ℓ(ŷ, y) of a row, with the output activation that belongs to each.

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

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.network.activations import sigmoid, softmax

__all__ = ["LOSSES", "Loss"]

Array = NDArray[np.floating]


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
