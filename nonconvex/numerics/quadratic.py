"""Minimization of many small convex quadratics ½ xᵀA x − bᵀx at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["minimize"]

NONNEGATIVE_SWEEPS = 1000
NONNEGATIVE_TOLERANCE = 1e-7  # largest change of a coordinate, relative to the largest coordinate


def minimize(
    a: NDArray[np.floating], b: NDArray[np.floating], *, nonnegative: bool = False
) -> NDArray[np.floating]:
    """argmin ½ xᵀA x − bᵀx for each of s symmetric positive semidefinite A.

    Parameters
    ----------
    a : float array of shape (s, k, k)
    b : float array of shape (s, k)
    nonnegative : bool
        Demand x_k ≥ 0 of every unknown but the first, which is the bias.

    Returns
    -------
    float array of shape (s, k)
        Where A is singular, the solution of least norm.  The bits of a solution depend on its
        own A and b only.

    Examples
    --------
    >>> minimize(np.array([[[2.0, 0.0], [0.0, 4.0]]]), np.array([[2.0, -4.0]]))
    array([[ 1., -1.]])
    >>> minimize(np.array([[[2.0, 0.0], [0.0, 4.0]]]), np.array([[2.0, -4.0]]), nonnegative=True)
    array([[1., 0.]])
    """
    if nonnegative:
        return _minimize_nonnegative(a.astype(np.float64), b.astype(np.float64))
    try:
        return np.linalg.solve(a, b[..., None])[..., 0]
    except np.linalg.LinAlgError:
        # One matrix without a pivot stops the whole stack: solve it again one by one.
        return np.stack([_minimize_one(a_s, b_s) for a_s, b_s in zip(a, b, strict=True)])


def _minimize_one(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    try:
        x: NDArray[np.floating] = np.linalg.solve(a, b)
    except np.linalg.LinAlgError:
        x = np.linalg.lstsq(a, b, rcond=None)[0]
    return x


def _minimize_nonnegative(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cyclic coordinate descent with projection: each step is exact, so the value never rises.

    Each system stops when its own largest step is small, so that its bits do not depend on the
    systems that are solved beside it.
    """
    x = np.zeros_like(b)
    active = np.arange(len(b))
    for _ in range(NONNEGATIVE_SWEEPS):
        before = x[active]
        after = _sweep(a[active], b[active], before.copy())
        x[active] = after
        moved = np.abs(after - before).max(axis=1)
        active = active[moved > NONNEGATIVE_TOLERANCE * np.abs(after).max(axis=1)]
        if not len(active):
            break
    return x


def _sweep(
    a: NDArray[np.float64], b: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    for k in range(x.shape[1]):
        curvature = a[:, k, k]
        slope = b[:, k] - np.einsum("sk,sk->s", a[:, k], x)  # −∂/∂x_k
        step = np.divide(slope, curvature, out=np.zeros_like(slope), where=curvature > 0)
        x[:, k] += step
        if k > 0:
            np.maximum(x[:, k], 0, out=x[:, k])
    return x
