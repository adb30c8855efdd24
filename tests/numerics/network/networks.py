"""Random networks with data for them, and their slow twin: loops over single neurons, in float64.

The twin imports nothing from the code under test; parameters are read off the flat vector here.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from nonconvex.numerics.network.backprop import Examples
from nonconvex.numerics.network.model import Network

LOSSES = ("squared-error", "binary-cross-entropy", "categorical-cross-entropy")
SMOOTH = ("identity", "sigmoid", "tanh", "relu")


class Case(NamedTuple):
    network: Network
    theta: np.ndarray
    examples: Examples


def case(
    loss,
    hidden=(),
    *,
    activation="tanh",
    inputs=3,
    rows=7,
    restarts=2,
    weighted=False,
    dtype=np.float64,
    **settings,
):
    """Normal data, parameters of normal size in biases too, and weights of which some are 0."""
    generator = np.random.default_rng([0, rows, len(hidden)])
    outputs = {"squared-error": 2, "binary-cross-entropy": 1, "categorical-cross-entropy": 3}[loss]
    layers = (inputs, *hidden, outputs)
    network = Network(layers, (activation,) * len(hidden), loss, **settings)
    if loss == "squared-error":
        y = generator.normal(size=(rows, outputs))
    else:
        y = generator.integers(0, max(2, outputs), rows)
    weight = generator.choice([0.0, 0.5, 1.0, 3.0], rows) if weighted else None
    theta = generator.normal(0, 0.7, (restarts, network.size)).astype(dtype)
    return Case(
        network, theta, Examples(generator.normal(size=(rows, inputs)).astype(dtype), y, weight)
    )


def sigma(name, z):
    return {
        "identity": lambda: z,
        "step": lambda: 1.0 if z >= 0 else 0.0,
        "sigmoid": lambda: 1 / (1 + math.exp(-z)),
        "tanh": lambda: math.tanh(z),
        "relu": lambda: max(z, 0.0),
    }[name]()


def slope(name, z):
    """σ'(z); of the step, what the straight-through estimator takes for it."""
    return {
        "identity": lambda: 1.0,
        "step": lambda: 1.0,
        "sigmoid": lambda: sigma(name, z) * (1 - sigma(name, z)),
        "tanh": lambda: 1 - math.tanh(z) ** 2,
        "relu": lambda: 1.0 if z > 0 else 0.0,
    }[name]()


def parameters(layers, bias, theta):
    """Return W[l][i][j], from neuron i to neuron j, and b[l][j], read in the order of θ."""
    values = iter(theta.tolist())
    weights, biases = [], []
    for below, above in itertools.pairwise(layers):
        weights.append([[next(values) for _ in range(above)] for _ in range(below)])
        biases.append([next(values) if bias else 0.0 for _ in range(above)])
    assert next(values, None) is None
    return weights, biases


def run(network, theta, x):
    """Return every z and h of one row, layer by layer, h[0] being x."""
    weights, biases = parameters(network.layers, network.bias, theta)
    h, zs = [list(map(float, x))], []
    for number, (w, b) in enumerate(zip(weights, biases, strict=True)):
        z = [b[j] + sum(h[-1][i] * w[i][j] for i in range(len(h[-1]))) for j in range(len(b))]
        zs.append(z)
        if number < len(weights) - 1:
            h.append([sigma(network.activations[number], value) for value in z])
    return zs, h


def output(loss, z):
    if loss == "squared-error":
        return z
    if loss == "binary-cross-entropy":
        return [sigma("sigmoid", z[0])]
    powers = [math.exp(value) for value in z]
    return [power / sum(powers) for power in powers]


def loss_of(loss, z, y):
    """ℓ by its definition, from ŷ."""
    predicted = output(loss, z)
    if loss == "squared-error":
        return sum((p - float(t)) ** 2 for p, t in zip(predicted, y, strict=True))
    if loss == "binary-cross-entropy":
        return -math.log(predicted[0] if y == 1 else 1 - predicted[0])
    return -math.log(predicted[y])


def sums(network, theta, examples):
    """Σ w ℓ, its gradient in the order of θ, and Σ w, for one θ."""
    weights, _ = parameters(network.layers, network.bias, theta)
    total, weight_sum = 0.0, 0.0
    by_layer = [np.zeros((len(w) + network.bias, len(w[0]))) for w in weights]
    for row, x in enumerate(examples.x):
        weight = 1.0 if examples.weight is None else float(examples.weight[row])
        y = examples.y[row]
        zs, h = run(network, theta, x)
        total += weight * loss_of(network.loss, zs[-1], y)
        weight_sum += weight
        predicted = output(network.loss, zs[-1])
        if network.loss == "squared-error":
            delta = [2 * weight * (p - float(t)) for p, t in zip(predicted, y, strict=True)]
        elif network.loss == "binary-cross-entropy":
            delta = [weight * (predicted[0] - int(y))]
        else:
            delta = [weight * (p - (c == y)) for c, p in enumerate(predicted)]
        for number in reversed(range(len(weights))):
            for j, d in enumerate(delta):
                for i, value in enumerate(h[number]):
                    by_layer[number][i, j] += value * d
                if network.bias:
                    by_layer[number][-1, j] += d
            if number > 0:
                name = network.activations[number - 1]
                delta = [
                    sum(weights[number][i][j] * d for j, d in enumerate(delta))
                    * slope(name, zs[number - 1][i])
                    for i in range(len(h[number]))
                ]
    return total, np.concatenate([part.ravel() for part in by_layer]), weight_sum
