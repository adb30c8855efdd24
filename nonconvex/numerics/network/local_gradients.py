"""Gradients of minibatches computed in this process, from examples held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nonconvex.numerics.network.backprop import Examples, OrderedMap, Sums, check, sums
from nonconvex.numerics.network.minibatches import epoch_rows
from nonconvex.numerics.network.model import Network, NetworkError

__all__ = ["LocalGradients"]

Array = NDArray[np.floating]


class LocalGradients:
    """A `nonconvex.numerics.network.training.Gradients`; as a context manager it ends its threads.

    Parameters
    ----------
    network : Network
    examples : Examples
        The pieces one after another.
    sizes : sequence of int
        The number of rows of each piece; how the data are cut decides the order of rows.
    batch_size : int
        B ≥ 1.
    seed : int
    threads : int
        How many lanes to compute at a time; as many as there are cores.  The bits are the same.

    Raises
    ------
    NetworkError
        If the examples do not fit the network or the sizes, or the batch size is not ≥ 1.
    """

    def __init__(
        self,
        network: Network,
        examples: Examples,
        sizes: Sequence[int],
        batch_size: int,
        seed: int,
        threads: int = 1,
    ) -> None:
        check(network, examples)
        if sum(sizes) != len(examples.x):
            raise NetworkError(
                f"sizes must add up to the {len(examples.x)} rows of x, got {sum(sizes)}"
            )
        if batch_size < 1:
            raise NetworkError(f"batch_size must be ≥ 1, got {batch_size}")
        self._network, self._examples = network, examples
        self._sizes, self._batch_size, self._seed = list(sizes), batch_size, seed
        self._starts = np.cumsum([0, *sizes])
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __enter__(self) -> LocalGradients:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def epoch(self, number: int) -> Iterator[Callable[[Array], Sums]]:
        """Yield for each minibatch of an epoch what maps θ of shape (R, p) to its sums."""
        ordered_map: Any = map if self._pool is None else self._pool.map
        for batch in epoch_rows(self._sizes, self._batch_size, self._seed, number):
            rows = np.concatenate([self._starts[piece] + rows for piece, rows in batch])
            yield partial(self._sums, rows, ordered_map)

    def _sums(self, rows: NDArray[np.int64], ordered_map: OrderedMap, theta: Array) -> Sums:
        return sums(self._network, theta, self._examples, rows, ordered_map=ordered_map)
