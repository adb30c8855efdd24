"""The mean of many samples as one model of low rank, in one pass and little memory.

Each sample predicts α + β_u + β_i + γ_u·γ_i, and what predicts best is the mean of that.  The means
of α and β are simple; the mean of the matrices Γ_U Γ_Iᵀ is of rank S K for S samples, but nearly
all of it lies in few directions, since what samples do not agree on averages out.  It is caught by
two sketches that are linear in it, so that samples are added one by one and forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.factorization.model import Factors

__all__ = ["MeanModel"]

Array = NDArray[np.float64]


class MeanModel:
    """The mean of samples, to a rank r.

    With P the mean of Γ_U Γ_Iᵀ, the sketches are Y = P Ω and W = Ψ P, with Ω of ℓ columns and Ψ of
    2ℓ + 1 rows, ℓ = 2 r + 1.  If Q is an orthonormal basis of Y, then P ≈ Q (ΨQ)⁺ W, which is cut
    to rank r by its singular values.  Half of Ω spans what the first samples predict, the rest
    and Ψ are random.

    Parameters
    ----------
    first : sequence of Factors
        Samples of the same users and items, which are not added.
    rank : int
        r.
    generator : numpy.random.Generator

    References
    ----------
    Tropp, Yurtsever, Udell and Cevher (2017), Practical sketching algorithms for low-rank matrix
    approximation.

    Examples
    --------
    >>> generator = np.random.default_rng(0)
    >>> samples = [
    ...     Factors(1.0, generator.normal(size=(20, 3)), generator.normal(size=(15, 3)))
    ...     for _ in range(2)
    ... ]
    >>> mean = MeanModel(samples[:1], 4, generator)
    >>> for sample in samples:
    ...     mean.add(sample)
    >>> _, x, z = mean.result()
    >>> exact = sum(s.users[:, 1:] @ s.items[:, 1:].T for s in samples) / 2
    >>> bool(np.allclose(x[:, 1:] @ z[:, 1:].T, exact))
    True
    """

    def __init__(self, first: Sequence[Factors], rank: int, generator: np.random.Generator) -> None:
        users, items = len(first[0].users), len(first[0].items)
        self.rank = min(rank, users, items) if first[0].users.shape[1] > 1 else 0
        width = min(2 * self.rank + 1, users, items)
        omega = generator.standard_normal((items, width))
        guided = width // 2
        pull = generator.standard_normal((users, guided))
        omega[:, :guided] = sum(_times(s.items, _times_transposed(s.users, pull)) for s in first)
        self._omega = np.linalg.qr(omega)[0]
        self._psi = generator.standard_normal((users, min(2 * width + 1, users)))  # Ψᵀ
        self._y = np.zeros((users, width))
        self._w = np.zeros((items, self._psi.shape[1]))  # Wᵀ
        self._biases = np.zeros(users), np.zeros(items)
        self._alpha, self.samples = 0.0, 0

    def add(self, sample: Factors) -> None:
        """Add a sample."""
        alpha, x, z = sample
        self._alpha += alpha
        for total, side in zip(self._biases, (x, z), strict=True):
            total += side[:, 0]
        self._y += _times(x, _times_transposed(z, self._omega))
        self._w += _times(z, _times_transposed(x, self._psi))
        self.samples += 1

    def result(self) -> Factors:
        """Return the mean of the samples that were added, with γ of rank r, in float64."""
        basis = np.linalg.qr(self._y)[0]
        # Q (ΨQ)⁺ W, from its transpose: columns of M are directions of the items
        m = np.linalg.lstsq(self._psi.T @ basis, self._w.T / self.samples, rcond=None)[0]
        left, values, right = np.linalg.svd(m, full_matrices=False)
        root = np.sqrt(values[: self.rank])
        gammas = basis @ left[:, : self.rank] * root, right[: self.rank].T * root
        x, z = (
            np.column_stack([total / self.samples, gamma])
            for total, gamma in zip(self._biases, gammas, strict=True)
        )
        return Factors(self._alpha / self.samples, x, z)

    def save(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return what `restore` needs, as arrays and as what JSON can hold."""
        users, items = self._biases
        arrays = {"omega": self._omega, "psi": self._psi, "y": self._y, "w": self._w}
        arrays |= {"user biases": users, "item biases": items}
        return arrays, {"alpha": self._alpha, "samples": self.samples, "rank": self.rank}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], values: Mapping[str, Any]) -> MeanModel:
        """Return the state that `save` told of."""
        mean = cls.__new__(cls)
        mean._omega, mean._psi = arrays["omega"], arrays["psi"]
        mean._y, mean._w = arrays["y"], arrays["w"]
        mean._biases = arrays["user biases"], arrays["item biases"]
        mean._alpha, mean.samples, mean.rank = values["alpha"], values["samples"], values["rank"]
        return mean


def _times(rows: NDArray[np.floating], right: Array) -> Array:
    """Γ times a matrix, in float64."""
    product: Array = rows[:, 1:].astype(np.float64) @ right
    return product


def _times_transposed(rows: NDArray[np.floating], right: Array) -> Array:
    """Γᵀ times a matrix, in float64."""
    product: Array = rows[:, 1:].T.astype(np.float64) @ right
    return product
