"""Linear regression in closed form: the network without a hidden layer, of the squared error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nonconvex.numerics import Doubles
from nonconvex.numerics.convergence import FitError
from nonconvex.numerics.deterministic import one_thread_per_product
from nonconvex.numerics.network.backprop import ROWS_AT_A_TIME, Examples
from nonconvex.numerics.network.model import Network

MAX_FEATURES = 1000
"""Most features that are solved for exactly: a shard then sends 8 megabytes."""


class NormalSums(NamedTuple):
    """Σ w a aᵀ and Σ w a yᵀ over examples, a = (x, 1) or without biases x; two can be merged."""

    weight: float  # Σ w
    left: Doubles  # (d, d), d = d_0 + 1, or d_0 without biases
    right: Doubles  # (d, k)

    @classmethod
    def of(cls, network: Network, examples: Examples) -> NormalSums:
        """Sum over examples, in float64."""
        d = network.layers[0] + network.bias
        left, right = np.zeros((d, d)), np.zeros((d, network.layers[-1]))
        weight = 0.0
        with one_thread_per_product():
            for start in range(0, len(examples.x), ROWS_AT_A_TIME):
                rows = slice(start, start + ROWS_AT_A_TIME)
                a = examples.x[rows].astype(np.float64)
                if network.bias:
                    a = np.column_stack([a, np.ones(len(a))])
                given = examples.weight
                w = np.ones(len(a)) if given is None else given[rows].astype(np.float64)
                weighted = (a * w[:, None]).T
                left += weighted @ a
                right += weighted @ examples.y[rows].astype(np.float64)
                weight += float(w.sum())
        return cls(weight, left, right)

    def merge(self, other: NormalSums) -> NormalSums:
        """Return the sums over both sets of examples."""
        left, right = self.left + other.left, self.right + other.right
        return NormalSums(self.weight + other.weight, left, right)


def solve_least_squares(network: Network, sums: NormalSums) -> Doubles:
    """Return θ (p,) that minimizes f = Σ w ‖xW + b − y‖² / Σ w + (λ/2) ‖W‖², exactly.

    Its derivative is 0 where (Σ w a aᵀ / Σ w + (λ/2) I) θ = Σ w a yᵀ / Σ w, with no λ for b.  Of
    several minima, as with columns that depend on each other, the shortest is returned.  Raises
    FitError if sums overflow.

    Examples
    --------
    y = 1 + 2x:

    >>> network = Network((1, 1), (), "squared-error")
    >>> examples = Examples(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]]))
    >>> solve_least_squares(network, NormalSums.of(network, examples)).round(9)
    array([2., 1.])
    """
    if not (np.isfinite(sums.left).all() and np.isfinite(sums.right).all()):
        raise FitError(
            "the squares of features or targets overflow; standardize them, or divide them by a "
            "power of ten"
        )
    left = sums.left / sums.weight
    free = network.layers[0]
    left[range(free), range(free)] += network.reg / 2
    with one_thread_per_product():
        values, vectors = np.linalg.eigh(left)
        # Below the rounding of the sums an eigenvalue is 0.
        kept = values > len(values) * np.finfo(np.float32).eps * max(values[-1], 0)
        inverse = vectors[:, kept] / values[kept] @ vectors[:, kept].T
        solution: Doubles = (inverse @ (sums.right / sums.weight)).ravel()
    return solution
