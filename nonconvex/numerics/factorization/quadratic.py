"""Minimization of many small convex quadratics ½ xᵀA x − bᵀx at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["minimize"]

ROUNDS_PER_UNKNOWN = 10  # far more than active sets take, so that rounding cannot make them cycle


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
        Where elimination meets a pivot of 0, the solution of least norm.  The bits of a solution
        depend on its own A and b only.

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
    """Active sets (Lawson and Hanson, 1974), with many unknowns entering or leaving at a time.

    x goes towards the minimum over its free unknowns as far as all stay ≥ 0; the unknowns that
    stop it are bound to 0.  Where nothing stops it, those bound unknowns are freed along which
    the value falls.  So the value never rises, and no set of free unknowns comes twice.
    """
    x = np.zeros_like(b)
    free = np.ones(b.shape, dtype=bool)
    todo = np.arange(len(b))
    for _ in range(ROUNDS_PER_UNKNOWN * b.shape[1]):
        if not len(todo):
            break
        a_t, b_t, x_t, free_t = a[todo], b[todo], x[todo], free[todo]
        goal = _minimize_over(free_t, a_t, b_t)
        falling = free_t & (goal < 0)
        falling[:, 0] = False
        reach = np.divide(x_t, x_t - goal, out=np.ones_like(x_t), where=falling)
        step = reach.min(axis=1, keepdims=True)
        x_t = np.where(step < 1, x_t + step * (goal - x_t), goal)
        bound = ~free_t | (falling & (reach <= step))
        x_t[bound] = 0
        descent, rounding = _descent(a_t, b_t, x_t)
        stopped = np.any(falling, axis=1)
        entering = ~stopped[:, None] & bound & (descent > rounding)
        x[todo], free[todo] = x_t, ~bound | entering
        todo = todo[stopped | np.any(entering, axis=1)]
    return x


def _minimize_over(
    free: NDArray[np.bool_], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Minimize over the free unknowns; the others are 0."""
    among_free = free[:, :, None] & free[:, None, :]
    identity = np.eye(b.shape[1])
    goal = minimize(np.where(among_free, a, identity), np.where(free, b, 0))
    return np.where(free, goal, 0)


def _descent(
    a: NDArray[np.float64], b: NDArray[np.float64], x: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """b − A x, how fast the value falls along each unknown, and how much of it may be rounding."""
    size = np.abs(b) + np.einsum("skl,sl->sk", np.abs(a), np.abs(x))
    rounding = b.shape[1] * np.finfo(np.float64).eps * size
    return b - np.einsum("skl,sl->sk", a, x), rounding
