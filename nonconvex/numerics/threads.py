"""One thread for each matrix product, whatever the cores: what equal bits need.

A BLAS that shares a product out among threads cuts the matrices where the number of threads says,
and rounds differently beside the cuts.  With one and with two threads OpenBLAS 0.3 gave other bits
in most products of the shapes of minibatches, down to 128 × 64 × 100 in float32, so no choice of
shapes avoids it.  Each product is therefore made by one thread, and the cores are put to use by
making several at a time, see `nonconvex.numerics.network.backprop`.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["one_thread_per_product"]


def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """What gets and sets the number of threads of the OpenBLAS that numpy calls, if it is one."""
    numpy_library = importlib.import_module("numpy._core._multiarray_umath").__file__
    library = ctypes.CDLL(numpy_library)  # its symbols, and those of what it is linked to
    for prefix in ("scipy_openblas", "openblas"):  # in numpy's wheels, and elsewhere
        for suffix in ("64_", ""):
            get, set_ = (f"{prefix}_{verb}_num_threads{suffix}" for verb in ("get", "set"))
            if hasattr(library, get) and hasattr(library, set_):
                return getattr(library, get), getattr(library, set_)
    return None


_BLAS = _openblas()
_lock = threading.Lock()
_inside, _before = 0, 1


@contextmanager
def one_thread_per_product() -> Iterator[None]:
    """Keep numpy's matrix products to one thread each while in the context.

    The number of threads is one for the whole process.  Contexts may overlap, in one thread or in
    several; at the end of the last one the number is again what it was before the first.  Another
    BLAS than OpenBLAS (MKL, Accelerate) is left alone: set its own variable, such as
    ``MKL_NUM_THREADS=1``, if equal bits matter.

    Examples
    --------
    >>> import numpy as np
    >>> with one_thread_per_product():
    ...     product = np.ones((2, 3)) @ np.ones((3, 2))
    """
    global _inside, _before
    with _lock:
        _inside += 1
        if _inside == 1 and _BLAS is not None:
            _before = _BLAS[0]()
            _BLAS[1](1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _BLAS is not None:
                _BLAS[1](_before)
