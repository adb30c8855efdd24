"""How far chains of samples can be trusted: effective sample size, and agreement of the chains."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["effective_size", "split_r_hat"]

Array = NDArray[np.float64]


def split_r_hat(draws: Array) -> float:
    """R̂ of the halves of all chains: near 1 if they cannot be told apart.

    With W the mean of the variances within the 2 m halves of length n, and B/n the variance of
    their means,

        R̂ = √( ((n − 1)/n W + B/n) / W )

    Parameters
    ----------
    draws : float64 array of shape (m, length)
        What m chains drew of one quantity.

    Returns
    -------
    float
        NaN if a chain has fewer than four draws.

    References
    ----------
    Gelman et al. (2013), Bayesian Data Analysis, third edition, section 11.4.

    Examples
    --------
    >>> apart = np.array([[0.0, 1.0] * 10, [5.0, 6.0] * 10])
    >>> split_r_hat(apart) > 3, split_r_hat(apart[:1]) < 1.01
    (True, True)
    """
    halves = _halves(draws)
    n = halves.shape[1]
    if n < 2:
        return float("nan")
    within = halves.var(axis=1, ddof=1).mean()
    if not within > 0:  # nothing moves
        return 1.0 if np.ptp(halves) == 0 else float("inf")
    between = halves.mean(axis=1).var(ddof=1)
    return float(np.sqrt((n - 1) / n + between / within))


def effective_size(draws: Array) -> float:
    """How many independent draws would tell the mean as well.

    m n / (1 + 2 Σ_t ρ_t) over the halves of all chains, where the sum of the autocorrelations ρ_t
    is cut where a pair of neighbours is no longer positive (Geyer, 1992); at most m n log₁₀(m n).

    Parameters
    ----------
    draws : float64 array of shape (m, length)

    Returns
    -------
    float
        NaN if a chain has fewer than four draws.

    Examples
    --------
    >>> independent = np.random.default_rng(0).standard_normal((2, 500))
    >>> 800 < effective_size(independent) < 1300
    True
    >>> effective_size(np.cumsum(independent, axis=1)) < 30
    True
    """
    halves = _halves(draws)
    m, n = halves.shape
    if n < 2:
        return float("nan")
    within = halves.var(axis=1, ddof=1).mean()
    if not within > 0:
        return float(m * n) if np.ptp(halves) == 0 else float(m)
    pooled = (n - 1) / n * within + halves.mean(axis=1).var(ddof=1)
    apart = halves - halves.mean(axis=1, keepdims=True)
    padded = np.fft.rfft(apart, 2 * n, axis=1)
    covariance = np.fft.irfft(np.abs(padded) ** 2, axis=1)[:, :n].mean(axis=0) / n
    rho = 1 - (within * (n - 1) / n - covariance) / pooled
    rho[0] = 1.0
    pairs = rho[: 2 * (n // 2)].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    kept = np.minimum.accumulate(pairs[: ends[0] if len(ends) else len(pairs)])
    time = max(2 * kept.sum() - 1, 1 / np.log10(max(m * n, 10)))
    return float(m * n / time)


def _halves(draws: Array) -> Array:
    """Cut each chain in two, without its middle draw if their number is odd."""
    half = draws.shape[1] // 2
    return np.vstack([draws[:, :half], draws[:, draws.shape[1] - half :]])
