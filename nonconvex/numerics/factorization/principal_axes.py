"""The axes along which items differ most in what users make of them.

γ_u·γ_i is the same for Γ_u Q and Γ_i Q⁻ᵀ with any Q, so a single factor of a fit means nothing.
The singular value decomposition Γ_u Γ_iᵀ = U S Vᵀ does not depend on Q: its axes are unique as
long as their singular values differ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["principal_axes"]

Array = NDArray[np.float64]


def principal_axes(users: NDArray[np.floating], items: NDArray[np.floating]) -> tuple[Array, Array]:
    """Return where items lie along the axes, and how much each axis is of all γ_u·γ_i.

    With Γ_uᵀ Γ_u = C and the eigenvectors W of C^½ Γ_iᵀ Γ_i C^½, the coordinates of items are
    Γ_i C^½ W / √n_u = V S / √n_u: the root mean square, over the users, of what the axis adds to
    γ_u·γ_i, with a sign.

    Parameters
    ----------
    users, items : float arrays of shape (n_u, K) and (n_i, K)
        γ of each.

    Returns
    -------
    float64 array of shape (n_i, K)
        In the units of ratings, the greatest axis first; the item that is farthest out on an axis
        is at its positive end.
    float64 array of shape (K,)
        S² / Σ S², of each axis.

    Examples
    --------
    >>> coordinates, shares = principal_axes(np.array([[2.0], [2.0]]), np.array([[1.0], [-3.0]]))
    >>> coordinates.ravel(), shares
    (array([-2.,  6.]), array([1.]))
    """
    gram = users.T.astype(np.float64) @ users
    values, vectors = np.linalg.eigh(gram)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    weighted = items @ root  # (n_i, K)
    squares, axes = np.linalg.eigh(weighted.T @ weighted)
    coordinates = weighted @ axes[:, ::-1] / np.sqrt(len(users))
    farthest = np.abs(coordinates).argmax(axis=0)
    signs = np.sign(coordinates[farthest, np.arange(coordinates.shape[1])])
    squares = np.maximum(squares[::-1], 0)
    total = squares.sum()
    shares: Array = squares / total if total > 0 else squares
    return coordinates * np.where(signs == 0, 1, signs), shares
