"""Runs in a directory each, of which one is published: the pointer to it is replaced last.

::

    published.json                 names the run that is published
    run_id=<id>/                   one run; while it has running.json, it is being written
    .publishing.after=<id or none> names the run that is being published in the place of that one

To publish after a run, a process must create the third file, which only one of several can.  It
then checks again that this run is still the published one, and replaces the pointer.  A process
that is killed in between leaves the file, and the next process finishes the publication.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pyspark.sql import SparkSession

from nonconvex.distributed.files import (
    DAY,
    ConcurrencyError,
    FileSystem,
    FileSystemError,
    is_stale,
    process_token,
    write_checksums,
)
from nonconvex.local.files import parse_json
from nonconvex.local.model_tables import POINTER

# Files of a run: its numbers, its page, and the figures of its data.
METRICS, REPORT, DATA = "metrics.json", "report.html", "data.json"
_RUNNING = "running.json"
_CLAIM = ".publishing.after="
_NONE = "none"
_MOMENT = 30.0  # far more than it takes to replace a small file

_logger = logging.getLogger("nonconvex")


class PublicationError(ValueError):
    """A directory without a model, or whose pointer names a model that is not there."""

    exit_status = 3


class Run(NamedTuple):
    """One run, and the directory that it alone writes to.

    The id is the time in UTC, to the second, and some random digits; the directory is
    ``run_id=<id>`` in that of all runs.
    """

    id: str
    path: str

    @property
    def model(self) -> str:
        """The directory of the run's model."""
        return f"{self.path}/model"


@dataclass(frozen=True)
class RunMetadata:
    """The facts about a run that every page shows, whatever was trained."""

    run: Run
    configuration: str  # resolved, as TOML
    seconds: Mapping[str, float]  # by stage
    previous: Mapping[str, Any] = field(default_factory=dict)  # metrics of the run before, if any
    drift: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)  # filled in with the page


@contextmanager
def new_run(spark: SparkSession, path: str) -> Iterator[Run]:
    """Make a directory for a run in that of all runs, and remove it again if the block raises.

    Its files get checksums at the end; a model in it has its own.
    """
    files = FileSystem(spark, path)
    now = datetime.now(UTC)
    part = now.microsecond * 0x1000 // 10**6  # so that runs of a second are in order, too
    run = _run(path, f"{now:%Y%m%dT%H%M%SZ}-{part:03x}{uuid.uuid4().hex[:3]}")
    temporary = files.sibling(run.path)  # so that a run always says who writes it
    try:
        files.write_text(f"{temporary}/{_RUNNING}", json.dumps({"writer": process_token()}) + "\n")
        files.rename(temporary, run.path)
        yield run
        write_checksums(spark, run.path, deep=False, without=(_RUNNING,))
        files.delete(f"{run.path}/{_RUNNING}")
    except BaseException:
        files.delete(temporary)
        files.delete(run.path)
        raise


def published_run(spark: SparkSession, path: str) -> Run | None:
    """Return the published run of a directory of runs, None if none has been published."""
    return _published(FileSystem(spark, path), path)


def publish_run(spark: SparkSession, path: str, run: Run, *, after: Run | None) -> None:
    """Publish the model of a complete run; `after` was published when that run began.

    The pointer is replaced whole: a reader finds the old run or the new one.  Local disks and
    HDFS rename over a file at once; an object store shows a file when it is complete.  Raises a
    `ConcurrencyError` if another run has been published meanwhile.
    """
    files = FileSystem(spark, path)
    before = None if after is None else after.id
    claim = f"{path}/{_CLAIM}{before or _NONE}"
    text = json.dumps({"run_id": run.id, "writer": process_token()}) + "\n"
    claimed = False
    try:
        while not (claimed := files.write_new(claim, text)):
            _finish_pending(files, path)
            _check_published(files, path, run, before)
        _check_published(files, path, run, before)
        _write_pointer(files, path, run)
    finally:
        if claimed:
            files.delete(claim)


def recover(spark: SparkSession, path: str) -> None:
    """Finish or remove the remains of killed runs in a directory of runs, if it is there.

    Pending publications are finished; incomplete runs and temporary files are removed.  Files of
    other running processes are left alone.
    """
    files = FileSystem(spark, path)
    if not files.exists(path):
        return
    _finish_pending(files, path)
    files.sweep(path)
    for run in _runs(files, path):
        if _is_left(files, run):
            files.delete(run.path)
            _logger.info("removed %s, a run that was killed", run.path)


def remove_old_runs(
    spark: SparkSession, path: str, keep: int, spared: Run | None = None
) -> list[Run]:
    """Remove complete runs but the newest and the published one; return the removed ones.

    `keep` ≥ 1 are kept, the published one among them; `spared` is the next one to keep.
    """
    files = FileSystem(spark, path)
    published = published_run(spark, path)
    complete = [run for run in _runs(files, path) if not files.exists(f"{run.path}/{_RUNNING}")]
    others = [run for run in complete if run != published]
    others.sort(key=lambda run: run == spared)  # as if it were the newest
    room = keep - (published is not None)
    old = others[: max(len(others) - room, 0)]
    for run in old:
        try:
            files.delete(run.path)
        except FileSystemError as error:  # the new model is published all the same
            _logger.warning("an old run stays: %s", error)
        else:
            _logger.info("removed %s, as the last %d runs are kept", run.path, keep)
    return old


def find_model(spark: SparkSession, path: str) -> str:
    """Return the directory of a model, from a directory of runs, that of a run, or its own."""
    files = FileSystem(spark, path)
    if (run := _published(files, path)) is not None:
        return run.model
    for model in (f"{path}/model", path):
        if files.exists(f"{model}/metadata"):
            return model
    there = "no model is published" if files.exists(path) else "there is nothing"
    raise PublicationError(f"{there} at {path}: train a model first, or name another directory")


def find_run(spark: SparkSession, path: str, run_id: str) -> Run | None:
    """Return a complete run of a directory of runs by its id, None if there is none."""
    files, run = FileSystem(spark, path), _run(path, run_id)
    there = files.exists(run.model) and not files.exists(f"{run.path}/{_RUNNING}")
    return run if there else None


def _pointed(files: FileSystem, path: str) -> Run | None:
    """Return the run that the pointer names, None if there is no pointer."""
    if not files.exists(f"{path}/{POINTER}"):
        return None
    text = files.read_text(f"{path}/{POINTER}")
    try:
        return _run(path, parse_json(text)["run_id"])
    except (ValueError, TypeError, KeyError):
        raise PublicationError(f"{path}/{POINTER} is damaged: delete it, and train again") from None


def _published(files: FileSystem, path: str) -> Run | None:
    """Return the run that the pointer names, which must be there."""
    run = _pointed(files, path)
    if run is not None and not files.exists(run.model):
        raise PublicationError(
            f"{path}/{POINTER} names a run that is not there, {run.id}: delete it, and train again"
        )
    return run


def _runs(files: FileSystem, path: str) -> list[Run]:
    """Return all runs in a directory, the oldest first."""
    names = [name for name in files.names(path) if re.fullmatch(r"run_id=[\w-]+", name)]
    return [_run(path, name.removeprefix("run_id=")) for name in names]


def _is_left(files: FileSystem, run: Run) -> bool:
    """Return whether a run is incomplete, and its process is gone."""
    running = f"{run.path}/{_RUNNING}"
    found = files.unless_gone(running, lambda: (files.modified(running), files.read_text(running)))
    if found is None:  # complete, or the process was killed when it began
        path = run.path
        since = files.unless_gone(path, lambda: (files.modified(path), files.names(path)))
        return since is not None and not since[1] and time.time() - since[0] > DAY
    modified, text = found
    try:
        return is_stale(parse_json(text)["writer"], modified, DAY)
    except (ValueError, TypeError, KeyError):  # killed while it wrote this very file
        return time.time() - modified > _MOMENT


def _finish_pending(files: FileSystem, path: str) -> None:
    """Wait for publications of running processes; finish those of processes that are gone."""
    deadline = time.monotonic() + _MOMENT
    for name in files.names(path):
        claim, before = f"{path}/{name}", name.removeprefix(_CLAIM)
        while name.startswith(_CLAIM) and (said := _read_claim(files, path, claim)) is not None:
            run, writer, stale = said
            if stale:
                if (_pointed_id(files, path) or _NONE) == before and files.exists(run.model):
                    _write_pointer(files, path, run)
                files.delete(claim)
            elif time.monotonic() > deadline:
                raise ConcurrencyError(
                    f"{run.id} has been about to be published for {_MOMENT:.0f} s, by {writer}: "
                    f"wait for that process, or delete {claim}"
                )
            else:
                time.sleep(0.1)


def _read_claim(files: FileSystem, path: str, claim: str) -> tuple[Run, str, bool] | None:
    """Return the run of a pending publication, its writer and whether that is gone."""

    def read() -> tuple[Run, str, bool]:
        said = parse_json(files.read_text(claim))
        run, writer = _run(path, said["run_id"]), said["writer"]
        return run, writer, is_stale(writer, files.modified(claim), _MOMENT)

    try:
        return files.unless_gone(claim, read)
    except (ValueError, TypeError, KeyError):
        raise PublicationError(f"{claim} is damaged: delete it, and start again") from None


def _pointed_id(files: FileSystem, path: str) -> str | None:
    run = _pointed(files, path)
    return None if run is None else run.id


def _check_published(files: FileSystem, path: str, run: Run, before: str | None) -> None:
    """Raise if the published run is another one than when `run` began."""
    now = _pointed_id(files, path)
    if now != before:
        raise ConcurrencyError(
            f"{run.id} is not published, as {now or 'nothing'} has been since it began, in the "
            f"place of {before or 'nothing'}; it is kept in {run.path}: start it again to follow "
            "that one"
        )


def _write_pointer(files: FileSystem, path: str, run: Run) -> None:
    files.replace_text(f"{path}/{POINTER}", json.dumps({"run_id": run.id}) + "\n")
    _logger.info("published %s", run.path)


def _run(path: str, run_id: str) -> Run:
    if not re.fullmatch(r"[\w-]+", run_id):  # nothing in a file leads out of the directory
        raise ValueError(f"a run id has letters, digits, _ and - only, got {run_id!r}")
    return Run(run_id, f"{path}/run_id={run_id}")
