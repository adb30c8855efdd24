"""Mean and spread of the features of examples, summed piece by piece, and standardization.

With weights w_i and W = Σ w_i, the mean is m = Σ w_i x_i / W and the variance Σ w_i (x_i − m)² / W,
which is that of these examples and not an estimate from a sample: there is no n − 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Moments", "Standardization"]

Array = NDArray[np.float64]


class Moments(NamedTuple):
    """What is known of the features of some examples; two of them can be merged.

    Attributes
    ----------
    weight : float
        W, the sum of the weights.
    mean : ndarray of shape (d,)
        m.
    squares : ndarray of shape (d,)
        Σ w_i (x_i − m)².
    minimum, maximum : ndarray of shape (d,)
        Over all examples, whatever they weigh.

    Examples
    --------
    >>> x = np.array([[1.0, 7.0], [2.0, 7.0], [6.0, 7.0]])
    >>> parts = Moments.of(x[:1]), Moments.of(x[1:])
    >>> parts[0].merge(parts[1]).mean
    array([3., 7.])
    >>> Moments.of(x).standardization().scale ** 2
    array([4.66666667,        inf])
    """

    weight: float
    mean: Array
    squares: Array
    minimum: Array
    maximum: Array

    @classmethod
    def of(cls, x: NDArray[Any], weight: Array | None = None) -> Moments:
        """Compute the moments of examples.

        Parameters
        ----------
        x : ndarray of shape (m, d)
            At least one example, of any numeric type.
        weight : ndarray of shape (m,), optional
            At least 0 each; all 1 by default.

        Returns
        -------
        Moments
            Without a warning where squares are too great to be numbers, see `overflowed`.
        """
        values = x.astype(np.float64)
        w = np.ones((len(values), 1)) if weight is None else weight[:, None]
        total = float(w.sum())
        # Not a matrix product: the order of its additions is the library's, and may change.
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
        return Moments(
            total,
            mean,
            squares,
            np.minimum(self.minimum, other.minimum),
            np.maximum(self.maximum, other.maximum),
        )

    def constant(self) -> NDArray[np.bool_]:
        """Tell of each feature whether it has the same value in all examples; shape (d,)."""
        same: NDArray[np.bool_] = self.minimum == self.maximum
        return same

    def overflowed(self) -> NDArray[np.bool_]:
        """Tell of each feature whether its squares are too great to be summed; shape (d,)."""
        return ~np.isfinite(self.squares)

    def standardization(self, still: float = np.inf) -> Standardization:
        """Return what gives every feature mean 0 and variance 1, and a constant one the value 0.

        Parameters
        ----------
        still : float
            The scale of a constant feature.  By default every value of it, also one that was not
            seen here, becomes 0: nothing was learned of it, and chance gave it weights.
        """
        deviation = np.sqrt(self.squares / self.weight)
        # A feature that is constant where the weights are positive has no spread either.
        without = self.constant() | (deviation == 0)
        mean = np.where(self.constant(), self.minimum, self.mean)  # exactly, so that 0 is exact
        return Standardization(mean, np.where(without, still, deviation))


class Standardization(NamedTuple):
    """x ↦ (x − mean) / scale, feature by feature.

    Attributes
    ----------
    mean, scale : ndarray of shape (d,)
    """

    mean: Array
    scale: Array

    @classmethod
    def none(cls, features: int) -> Standardization:
        """Return the one that changes nothing."""
        return cls(np.zeros(features), np.ones(features))

    def apply(self, x: NDArray[Any], dtype: DTypeLike) -> NDArray[np.floating]:
        """Standardize in float64, and only then round to `dtype`; shape (m, d)."""
        standardized: Array = (x - self.mean) / self.scale
        return standardized.astype(dtype)

    def invert(self, standardized: Array) -> Array:
        """Return what `apply` made these of, in float64.

        Examples
        --------
        >>> of = Standardization(np.array([3.0]), np.array([2.0]))
        >>> of.invert(of.apply(np.array([[7.0]]), np.float64))
        array([[7.]])
        """
        return standardized * self.scale + self.mean
