"""Where the gradients of minibatches are computed: by measured sizes, unless it is said."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nonconvex.distributed.network.executor_gradients import ExecutorGradients
from nonconvex.distributed.network.pieces import Pieces, Reading
from nonconvex.distributed.network.streaming import CHUNK_BYTES, StreamedGradients, fetch_examples
from nonconvex.numerics.network.backprop import LANES
from nonconvex.numerics.network.local_gradients import LocalGradients
from nonconvex.numerics.network.model import Network
from nonconvex.numerics.network.training import Gradients

__all__ = ["MEMORY_BYTES", "Choice", "Place", "Sizes", "choose", "decide", "open_gradients"]

_log = logging.getLogger("nonconvex")

Place = Literal["driver", "executors"]

MEMORY_BYTES = 512 << 20
"""How many bytes of examples the driver keeps in memory, by default."""

# Measured on two cores with 784-128-10, in float32; only their proportions decide.
_JOB_SECONDS = 0.05  # of a job whose tasks do nothing, and a broadcast
_BYTES_PER_SECOND = 300e6  # through a socket, pickled
_FLOPS_PER_SECOND = 20e9  # of a core


@dataclass(frozen=True)
class Sizes:
    """What decides where gradients are computed.

    Parameters
    ----------
    rows, row_bytes : int
        Number of examples to train on, and bytes of the features of each.
    pieces : int
        Number of pieces that they are in.
    batch_size : int
    parameters : int
        R p, of all restarts.
    parameter_bytes : int
        Of one parameter.
    memory_bytes : int
        Of examples that the driver may keep.
    driver_cores, executor_cores : int
    """

    rows: int
    row_bytes: int
    pieces: int
    batch_size: int
    parameters: int
    parameter_bytes: int
    memory_bytes: int
    driver_cores: int
    executor_cores: int

    @property
    def bytes(self) -> int:
        """Of all features."""
        return self.rows * self.row_bytes

    @property
    def fits(self) -> bool:
        """Whether the driver may keep all examples."""
        return self.bytes <= self.memory_bytes

    def driver_seconds(self) -> float:
        """Estimate a step on the driver, which computes while it fetches what comes next."""
        fetching = 0.0 if self.fits else self._batch * self.row_bytes / _BYTES_PER_SECOND
        return max(self._arithmetic(min(self.driver_cores, LANES)), fetching)

    def executors_seconds(self) -> float:
        """Estimate a step on the executors: a job, whose tasks read a piece each."""
        tasks = min(self.pieces, 1 + self._batch * self.pieces // self.rows)
        parallel = min(tasks, self.executor_cores)
        moved = (1 + tasks) * self.parameters * self.parameter_bytes
        read = tasks / parallel * self.bytes / self.pieces
        return _JOB_SECONDS + (moved + read) / _BYTES_PER_SECOND + self._arithmetic(parallel)

    @property
    def _batch(self) -> int:
        return min(self.batch_size, self.rows)

    def _arithmetic(self, cores: int) -> float:
        # A multiplication and an addition forward, twice as many backward.
        return 6 * self._batch * self.parameters / (cores * _FLOPS_PER_SECOND)


@dataclass(frozen=True)
class Choice:
    """Where gradients are computed, and why.

    Parameters
    ----------
    place : "driver" or "executors"
    reason : str
        A sentence with the sizes that decided.
    """

    place: Place
    reason: str


def choose(sizes: Sizes) -> Choice:
    """Choose the place of the shorter step, by an estimate.

    Parameters
    ----------
    sizes : Sizes

    Returns
    -------
    Choice

    Examples
    --------
    >>> print(choose(Sizes(60_000, 3136, 45, 1024, 101_770, 4, 512 << 20, 2, 2)).reason)
    gradients on the driver: 188 MB of examples fit into the 537 MB that the driver may keep, and a
    step takes some 16 ms on the driver and 98 ms on the executors
    """
    here, there = sizes.driver_seconds(), sizes.executors_seconds()
    place: Place = "driver" if here <= there else "executors"
    return Choice(
        place,
        f"gradients on the {place}: {_round(sizes.bytes / 1e6)} MB of examples "
        f"{'fit' if sizes.fits else 'do not fit'} into the {_round(sizes.memory_bytes / 1e6)} MB "
        f"that the driver may keep, and a step takes some {_round(1e3 * here)} ms on the driver "
        f"and {_round(1e3 * there)} ms on the executors",
    )


def _round(value: float) -> str:
    """Return a number as it is read.

    Examples
    --------
    >>> _round(188.2), _round(0.319), _round(0.0)
    ('188', '0.32', '0')
    """
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def decide(
    network: Network,
    pieces: Pieces,
    reading: Reading,
    *,
    batch_size: int,
    restarts: int = 1,
    place: Place | Literal["auto"] = "auto",
    memory_bytes: int = MEMORY_BYTES,
) -> Choice:
    """Return where gradients are to be computed, and why; parameters as for `open_gradients`."""
    if place != "auto":
        return Choice(place, f"gradients on the {place}, as was asked for")
    choice = choose(_sizes(network, pieces, reading, batch_size, restarts, memory_bytes))
    _log.info("%s", choice.reason)
    return choice


def open_gradients(
    network: Network,
    pieces: Pieces,
    reading: Reading,
    *,
    batch_size: int,
    seed: int,
    restarts: int = 1,
    place: Place | Literal["auto"] = "auto",
    memory_bytes: int = MEMORY_BYTES,
) -> AbstractContextManager[Gradients]:
    """Return a place where gradients are computed, to be entered before they are.

    Whatever the place, minibatches have the same rows in the same order, and their sums differ by
    rounding only.  On the driver, they are the same to the bit whether all examples are kept there
    or only some at a time.

    Parameters
    ----------
    network : Network
    pieces : Pieces
        To train on.
    reading : Reading
    batch_size, seed : int
    restarts : int
        R.
    place : "auto", "driver" or "executors"
        "auto" is what `choose` says, and it says so in the log.
    memory_bytes : int
        Of the features of examples that the driver keeps; if there are more, it fetches them
        anew in every epoch, and keeps an eighth of this at a time, or 64 MB if that is less.
    """
    choice = decide(
        network,
        pieces,
        reading,
        batch_size=batch_size,
        restarts=restarts,
        place=place,
        memory_bytes=memory_bytes,
    )
    sizes = _sizes(network, pieces, reading, batch_size, restarts, memory_bytes)
    if choice.place == "executors":
        return ExecutorGradients(network, pieces, reading, batch_size, seed)
    threads = min(sizes.driver_cores, LANES)
    chunk_bytes = min(CHUNK_BYTES, memory_bytes // 8)
    if not sizes.fits:
        return StreamedGradients(network, pieces, reading, batch_size, seed, threads, chunk_bytes)
    examples = fetch_examples(pieces, reading, chunk_bytes)
    return LocalGradients(network, examples, pieces.sizes, batch_size, seed, threads)


def _sizes(
    network: Network,
    pieces: Pieces,
    reading: Reading,
    batch_size: int,
    restarts: int,
    memory_bytes: int,
) -> Sizes:
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Sizes(
        rows=sum(pieces.sizes),
        row_bytes=reading.row_bytes(),
        pieces=len(pieces.sizes),
        batch_size=batch_size,
        parameters=restarts * network.size,
        parameter_bytes=np.dtype(reading.dtype).itemsize,
        memory_bytes=memory_bytes,
        driver_cores=threads or 1,
        executor_cores=pieces.rdd.context.defaultParallelism,
    )
