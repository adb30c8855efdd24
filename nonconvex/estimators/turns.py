"""Fits of several groups of models, one group after another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["InTurn"]

ModelT = TypeVar("ModelT")


class InTurn(Iterator[tuple[int, ModelT]]):
    """The models of several groups of fits, each group fitted when its first model is asked for.

    Threads may share it, as those of a CrossValidator do.

    Parameters
    ----------
    groups : list of (list of int, callable)
        For each group, the numbers of its models, and what fits them.
    """

    def __init__(self, groups: Iterable[tuple[list[int], Callable[[], list[ModelT]]]]) -> None:
        self._groups = iter(groups)
        self._ready: list[tuple[int, ModelT]] = []
        self._lock = threading.Lock()

    def __next__(self) -> tuple[int, ModelT]:
        """Return the number of the next model, and the model."""
        with self._lock:
            if not self._ready:
                numbers, fit = next(self._groups)
                self._ready = list(zip(numbers, fit(), strict=True))
            return self._ready.pop(0)
