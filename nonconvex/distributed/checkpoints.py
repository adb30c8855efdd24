"""Checkpoints of running fits, read back to the bit, and interruption by Ctrl-C or SIGTERM.

A checkpoint is a directory ``iteration=<t>`` with the arrays in Parquet and a manifest in JSON.  It
is written under a temporary name and renamed, so that a killed fit leaves the one before.  The
state at the end of a fit is saved, too, and kept until the models are: to be killed before that
costs no iteration.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.connect import Py4JJavaError, ended
from nonconvex.distributed.files import (
    ConcurrencyError,
    FileSystem,
    FileSystemError,
    publish,
    verify,
    write_checksums,
)
from nonconvex.distributed.model_tables import reason_of
from nonconvex.distributed.rows import PIECES, CachedRows, CheckpointedRows, joined
from nonconvex.distributed.runtime import StoppedError, explain
from nonconvex.distributed.termination import TOGETHER
from nonconvex.local.files import parse_json

BESIDE = "beside"  # in the directory of a fit, that of another one that comes after it
_MANIFEST = "manifest.json"
_PIECE = 1 << 26  # bytes of an array in a row of Parquet
_ATTEMPTS = 5  # to read checkpoints that another process replaces meanwhile
_SCHEMA = pa.schema(list(zip(PIECES, (pa.string(), pa.int64(), pa.binary()), strict=True)))
_VERBS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}

_log = logging.getLogger("nonconvex")


class CheckpointError(ValueError):
    """A checkpoint of another fit, or a damaged one."""

    exit_status = 3


class State(NamedTuple):
    """The whole state of a fit."""

    iteration: int  # the last complete iteration
    arrays: dict[str, Any]
    values: dict[str, Any]  # JSON values; floats come back to the bit
    complete: bool = False  # whether the fit has ended


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a fit: where, how often, and of which fit."""

    spark: SparkSession
    path: str  # A directory for this fit alone
    interval: int  # iterations between two checkpoints
    # settings and data of the fit, as JSON values. A fit continues only from a checkpoint of equal
    # identity.
    identity: Mapping[str, Any]
    # the most iterations of each model, which may change until the fit is complete
    most: Sequence[int] = ()

    def due(self, iteration: int, ending: bool = False) -> bool:
        """Tell whether to save after an iteration: every `interval`, the last, if interrupted."""
        return ending or iteration % self.interval == 0

    def save(self, state: State) -> None:
        """Write a state, and remove the earlier ones."""
        place = f"{self.path}/iteration={state.iteration}"
        arrays = flatten(state.arrays)
        with publish(self.spark, place) as directory:
            here = {n: rows for n, rows in arrays.items() if isinstance(rows, np.ndarray)}
            table = pa.Table.from_pylist(list(_pieces(here)), schema=_SCHEMA)
            pieces = self.spark.createDataFrame(table).coalesce(1)
            for name, rows in arrays.items():
                if isinstance(rows, CachedRows):
                    pieces = pieces.union(rows.pieces(self.spark, name))
            pieces.write.parquet(f"{directory}/arrays")
            manifest = {
                "identity": dict(self.identity),
                "iteration": state.iteration,
                "complete": list(self.most) if state.complete else None,
                "values": state.values,
                "arrays": {
                    name: {"dtype": values.dtype.str, "shape": values.shape}
                    for name, values in arrays.items()
                },
            }
            files = FileSystem(self.spark, directory)
            files.write_text(f"{directory}/{_MANIFEST}", json.dumps(manifest))
            write_checksums(self.spark, directory)
        for iteration in self._iterations():
            if iteration != state.iteration:
                FileSystem(self.spark, self.path).discard(f"{self.path}/iteration={iteration}")

    def load(self, *, sharded: bool = False) -> State | None:
        """Return the newest state, or None; if `sharded`, executors read all matrices.

        The complete state of another fit, whose model was not saved, is left alone until this fit
        replaces it.  A fit that begins anew removes what is `BESIDE` it.  Raises FileSystemError
        if nothing can be written there.
        """
        files, failed = FileSystem(self.spark, self.path), None
        files.check_writable(self.path)
        for _ in range(_ATTEMPTS):
            iterations = self._iterations()
            if not iterations:
                files.discard(f"{self.path}/{BESIDE}")
                return None
            place = f"{self.path}/iteration={max(iterations)}"
            try:
                return self._read(place, sharded)
            except CheckpointError:  # another process may be removing its files
                if place == failed:
                    raise
                failed = place
        raise ConcurrencyError(
            f"another process saves and removes checkpoints in {self.path}, so none can be read: "
            "wait for its end, or use another checkpointPath"
        )

    def resume(self, unit: str, restore: Callable[[State], None], *, sharded: bool = False) -> int:
        """Load and `restore` the newest state; return its iteration, a `unit` in the log, or 0.

        Raises CheckpointError if it cannot be restored, as that of another version.
        """
        state = self.load(sharded=sharded)
        if state is None:
            return 0
        try:
            restore(state)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint in {self.path} is not one of this version ({error!r}): continue "
                f"with the version that saved it, or delete {self.path} to start anew"
            ) from error
        if state.complete:
            _log.info("the fit was complete: its result is in %s", self.path)
        else:
            _log.info("continuing after %s, from %s", f"{unit} {state.iteration}", self.path)
        return state.iteration

    def clear(self, *, running: bool = False) -> None:
        """Remove the checkpoint of the end of this fit, or if it is still `running` the others."""
        files = FileSystem(self.spark, self.path)
        wanted = None if running else list(self.most)
        for iteration in self._iterations():
            place = f"{self.path}/iteration={iteration}"
            with suppress(FileSystemError, ValueError, KeyError, TypeError):
                manifest = self._manifest(place)
                same = not _differences(manifest["identity"], self.identity)
                if same and manifest.get("complete") == wanted:
                    files.discard(place)
        files.sweep(self.path)
        with suppress(FileSystemError):  # another process saves to it
            files.delete(self.path, whole=False)

    def _manifest(self, place: str) -> dict[str, Any]:
        text = FileSystem(self.spark, place).read_text(f"{place}/{_MANIFEST}")
        manifest: dict[str, Any] = parse_json(text)
        return manifest

    def _read(self, place: str, sharded: bool) -> State | None:
        remedy = f"delete {self.path} to start anew"
        try:
            verify(self.spark, place)
            manifest = self._manifest(place)
            if f"iteration={manifest['iteration']}" != place.rpartition("/")[2]:
                raise ValueError(f"its manifest is of iteration {manifest['iteration']}")
            different = _differences(manifest["identity"], self.identity)
            complete = manifest.get("complete")
            if complete is not None and (different or complete != list(self.most)):
                _log.warning(
                    "the checkpoint in %s is of another fit, which was complete and whose model "
                    "was not saved: this fit replaces it",
                    self.path,
                )
                FileSystem(self.spark, place).discard(f"{self.path}/{BESIDE}")
                return None
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
            away = [name for name, (shape, _) in abouts.items() if sharded and len(shape) == 2]
            arrays: dict[str, Any] = {
                name: CheckpointedRows.read(pieces.where(F.col("name") == name), *abouts[name])
                for name in away
            }
            here = pieces.where(~F.col("name").isin(away)).toArrow().to_pylist()
            for name, about in abouts.items():
                if name not in away:
                    arrays[name] = joined([one for one in here if one["name"] == name], *about)
            values = manifest["values"]
            return State(manifest["iteration"], nest(arrays), values, complete is not None)
        except CheckpointError:
            raise
        except (PySparkException, Py4JJavaError, KeyError, TypeError, ValueError) as error:
            if ended(error, error.__context__):
                raise
            raise CheckpointError(f"{place} is damaged ({reason_of(error)}); {remedy}") from None

    def _iterations(self) -> list[int]:
        files = FileSystem(self.spark, self.path)
        try:
            names = files.published(self.path)
        except FileSystemError:
            if files.exists(self.path):
                raise
            return []
        return [int(name[10:]) for name in names if re.fullmatch(r"iteration=\d+", name)]


@dataclass(frozen=True)
class ModelCheckpoint:
    """The checkpoint of a complete fit, of which one model has still to be saved."""

    checkpoints: Checkpoints
    unsaved: set[int]  # the numbers of all models of the fit that are to be saved
    number: int
    beside: Sequence[Checkpoints] = ()  # which are removed with it

    @classmethod
    def of(cls, checkpoints: Checkpoints | None, models: int) -> list[ModelCheckpoint | None]:
        """Return the one of each model of a fit, None if there are no checkpoints."""
        if checkpoints is None:
            return [None] * models
        unsaved = set(range(models))
        return [cls(checkpoints, unsaved, number) for number in range(models)]

    def release(self) -> None:
        """Remove the checkpoint, if this model was the last one of its fit."""
        self.unsaved.discard(self.number)
        if self.unsaved:
            return
        try:
            for checkpoints in (*self.beside, self.checkpoints):
                checkpoints.clear()
        except FileSystemError as error:  # the model is saved all the same
            _log.warning("the checkpoint of the fit stays: %s", error)


def is_saved(spark: SparkSession, path: str) -> bool:
    """Tell whether there is a checkpoint in a directory."""
    return bool(Checkpoints(spark, path, 1, {})._iterations())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts by dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `flatten`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return tree


def _differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return how two identities differ, each entry by its name in a sentence."""
    before, now = _entries(saved), _entries(json.loads(json.dumps(dict(wanted))))
    return [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _entries(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of an identity, by their names in a sentence."""
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


class Interrupted(KeyboardInterrupt):
    """A fit that a signal ended after a whole iteration; the message says how to continue."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class Interruption:
    """Deferral of the first SIGINT or SIGTERM; the second one ends the fit at once.

    Signals reach the main thread alone: in another thread, and for a signal that is ignored or not
    handled by Python, this does nothing.  In a process of your own, SIGTERM is handled after
    ``signal.signal(signal.SIGTERM, signal.default_int_handler)``; a job handles it.
    """

    def __init__(self) -> None:
        self.asked: int | None = None  # the signal, if there was one
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in _VERBS:
                before = signal.getsignal(number)
                if callable(before):
                    self._before[number] = before
                    signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: object, error: BaseException | None, *about: object) -> None:
        """Restore the handlers of before; end a fit that came to its end when it was asked to.

        A signal that goes to the process group also ends Java, and with it the iteration.
        """
        for number, before in self._before.items():
            signal.signal(number, before)
        if self.asked is not None and error is None:
            raise Interrupted(f"{_VERBS[self.asked]} at the end of the fit", self.asked)
        if self.asked is None or isinstance(error, OSError) or not isinstance(error, Exception):
            return
        if isinstance(explain(error) or error, StoppedError):
            how = "before the iteration ended, as Spark was, too; run the same fit again"
            raise Interrupted(f"{_VERBS[self.asked]} {how}", self.asked) from error

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.asked is not None:
            if number != signal.SIGTERM or now - self._since >= TOGETHER:
                self._before[number](number, frame)
            return
        self.asked, self._since = number, now
        again = "Ctrl-C again" if number == signal.SIGINT else "a second SIGTERM"
        verb = _VERBS[number]
        _log.warning("%s: the iteration is finished first; %s ends at once", verb, again)

    def attempt(self, action: Callable[[], object]) -> None:
        """Run an action, and again if it fails after a signal.

        One that goes to the process group also ends the programs that Hadoop starts for files.
        """
        try:
            action()
        except Exception as error:
            if self.asked is None:
                raise
            _log.debug("a second attempt, after the signal: %s", error)
            action()

    def end(self, done: str, saved: str | None) -> NoReturn:
        """Raise Interrupted after `done`, such as "iteration 3", which is in the path `saved`."""
        assert self.asked is not None
        how = f"which is saved in {saved}; run the same fit again to continue from there"
        if saved is None:
            how = (
                "and nothing is saved; with checkpointPath set, the same fit would continue from "
                "there"
            )
        raise Interrupted(f"{_VERBS[self.asked]} after {done}, {how}", self.asked)
