"""States of a fit under way, written whole and read back to the bit.

A checkpoint is a directory ``iteration=<t>`` with the arrays in Parquet and a manifest in JSON.
It is written beside its place and renamed in, so that a killed fit leaves the one before.

Ctrl-C during a fit: the iteration is finished, and its state saved, before the fit ends.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.files.atomic import publish, verify, write_checksums
from nonconvex.distributed.files.hadoop import ConcurrencyError, FileSystem, FileSystemError
from nonconvex.distributed.model_tables import reason_of
from nonconvex.distributed.rows import PIECES, CachedRows, CheckpointedRows, joined

__all__ = ["CheckpointError", "Checkpoints", "Interrupted", "Interruption", "State"]

_MANIFEST = "manifest.json"
_PIECE = 1 << 26  # bytes of an array in a row of Parquet
_LOOKS = 5  # at checkpoints that another process replaces while they are read


class CheckpointError(ValueError):
    """A checkpoint that is not of this fit, or not whole."""

    exit_status = 3


class State(NamedTuple):
    """Everything that a fit goes on from.

    Attributes
    ----------
    iteration : int
        The last one that is complete.
    arrays : dict of str to array, or to rows that executors keep or are to read
    values : dict
        What JSON can hold; floats come back to the bit.
    """

    iteration: int
    arrays: dict[str, Any]
    values: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often a fit saves its state.

    Parameters
    ----------
    spark : SparkSession
    path : str
        A directory of this fit alone.
    interval : int
        Iterations between two checkpoints.
    identity : mapping
        What the fit is of: settings and data, as JSON can hold them.  A fit goes on only from a
        checkpoint of an equal identity.
    """

    spark: SparkSession
    path: str
    interval: int
    identity: Mapping[str, Any]

    def due(self, iteration: int, ending: bool = False) -> bool:
        """Tell whether to save after an iteration: every `interval`, and where the fit ends."""
        return ending or iteration % self.interval == 0

    def save(self, state: State) -> None:
        """Write a state, and remove the earlier ones."""
        place = f"{self.path}/iteration={state.iteration}"
        with publish(self.spark, place) as directory:
            here = {n: rows for n, rows in state.arrays.items() if isinstance(rows, np.ndarray)}
            table = pa.Table.from_pylist(list(_pieces(here)), schema=_SCHEMA)
            pieces = self.spark.createDataFrame(table).coalesce(1)
            for name, rows in state.arrays.items():
                if isinstance(rows, CachedRows):
                    pieces = pieces.union(rows.pieces(self.spark, name))
            pieces.write.parquet(f"{directory}/arrays")
            manifest = {
                "identity": dict(self.identity),
                "iteration": state.iteration,
                "values": state.values,
                "arrays": {
                    name: {"dtype": values.dtype.str, "shape": values.shape}
                    for name, values in state.arrays.items()
                },
            }
            files = FileSystem(self.spark, directory)
            files.write_text(f"{directory}/{_MANIFEST}", json.dumps(manifest))
            write_checksums(self.spark, directory)
        for iteration in self._iterations():
            if iteration != state.iteration:
                FileSystem(self.spark, self.path).delete(f"{self.path}/iteration={iteration}")

    def load(self, *, distant: bool = False) -> State | None:
        """Read the newest state; None if there is none.

        Parameters
        ----------
        distant : bool
            Whether executors are to read the rows of users and items: all arrays of two axes.

        Raises
        ------
        CheckpointError
            If it is of other settings or data (the message says what differs), or damaged.
        ConcurrencyError
            If another process keeps removing what is being read.
        """
        failed = None
        for _ in range(_LOOKS):
            iterations = self._iterations()
            if not iterations:
                return None
            place = f"{self.path}/iteration={max(iterations)}"
            try:
                return self._read(place, distant)
            except CheckpointError:  # another process may be removing it, file by file
                if place == failed:
                    raise
                failed = place
        raise ConcurrencyError(
            f"another process saves and removes checkpoints in {self.path}, so none can be read: "
            "wait for its end, or use another checkpointPath"
        )

    def clear(self) -> None:
        """Remove all checkpoints: the fit is complete."""
        files = FileSystem(self.spark, self.path)
        for iteration in self._iterations():
            files.delete(f"{self.path}/iteration={iteration}")
        files.sweep(self.path)
        with suppress(FileSystemError):  # another process saves there
            files.delete(self.path, whole=False)

    def _read(self, place: str, distant: bool) -> State:
        remedy = f"delete {self.path} to start anew"
        try:
            verify(self.spark, place)
            manifest = json.loads(FileSystem(self.spark, place).read_text(f"{place}/{_MANIFEST}"))
            saved = _entries(manifest["identity"])
            wanted = _entries(json.loads(json.dumps(dict(self.identity))))
            different = [
                f"{name} was {saved.get(name)!r} and is {wanted.get(name)!r}"
                for name in sorted(saved.keys() | wanted.keys())
                if saved.get(name) != wanted.get(name)
            ]
            if different:
                raise CheckpointError(
                    f"the checkpoint in {self.path} is of another fit: {'; '.join(different)}; "
                    f"use another checkpointPath, or {remedy}"
                )
            pieces = self.spark.read.parquet(f"{place}/arrays").select(*PIECES)
            abouts = {
                name: (tuple(about["shape"]), np.dtype(about["dtype"]))
                for name, about in manifest["arrays"].items()
            }
            away = [name for name, (shape, _) in abouts.items() if distant and len(shape) == 2]
            arrays: dict[str, Any] = {
                name: CheckpointedRows.read(pieces.where(F.col("name") == name), *abouts[name])
                for name in away
            }
            here = pieces.where(~F.col("name").isin(away)).toArrow().to_pylist()
            for name, about in abouts.items():
                if name not in away:
                    arrays[name] = joined([one for one in here if one["name"] == name], *about)
            return State(manifest["iteration"], arrays, manifest["values"])
        except CheckpointError:
            raise
        except (PySparkException, Py4JJavaError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{place} is damaged ({reason_of(error)}); {remedy}") from None

    def _iterations(self) -> list[int]:
        files = FileSystem(self.spark, self.path)
        try:
            names = files.names(self.path)
        except FileSystemError:
            if files.exists(self.path):
                raise
            return []
        return [int(name[10:]) for name in names if re.fullmatch(r"iteration=\d+", name)]


_SCHEMA = pa.schema(list(zip(PIECES, (pa.string(), pa.int64(), pa.binary()), strict=True)))


def _entries(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may differ between two fits, by what it is called in a sentence."""
    entries: dict[str, Any] = {}
    for name, value in identity.items():
        if isinstance(value, dict):
            entries |= {f"{key} of {name}": one for key, one in value.items()}
        else:
            entries[name] = value
    return entries


def _pieces(arrays: Mapping[str, NDArray[Any]]) -> Iterator[dict[str, Any]]:
    for name, values in arrays.items():
        content = values.tobytes()
        for first in range(0, len(content), _PIECE):
            yield {"name": name, "offset": first, "bytes": content[first : first + _PIECE]}


_log = logging.getLogger("nonconvex")


class Interrupted(KeyboardInterrupt):
    """A fit that was ended by Ctrl-C, after a whole iteration; says how to go on."""


class Interruption:
    """Takes note of SIGINT instead of ending at once; the second one ends at once.

    Signals reach the main thread alone: in another one, and where SIGINT is ignored or not
    handled by Python, this does nothing.

    Examples
    --------
    >>> with Interruption() as interruption:
    ...     interruption.asked
    False
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        """Begin to take note."""
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            if callable(before):
                self._before = before
                signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *about: object) -> None:
        """Leave SIGINT to who had it before."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self._before(number, frame)
            return
        self.asked = True
        _log.warning("interrupted: the iteration is finished first; Ctrl-C again ends at once")

    def end(self, done: str, checkpoints: Checkpoints | None) -> NoReturn:
        """End the fit.

        Parameters
        ----------
        done : str
            The last iteration, such as "iteration 3".
        checkpoints : Checkpoints or None
            Where its state is saved.

        Raises
        ------
        Interrupted
        """
        if checkpoints is None:
            raise Interrupted(
                f"interrupted after {done}, and nothing is saved; with checkpointPath set, the "
                "same fit goes on from where it was interrupted"
            )
        raise Interrupted(
            f"interrupted after {done}, which is saved in {checkpoints.path}; the same fit, run "
            "again, goes on from there"
        )
