"""Runs in a directory each, of which one is published: the pointer to it is replaced last.

::

    published.json                 names the run that is published
    run_id=<id>/                   one run; while it has running.json, it is being written
    .publishing.after=<id or none> names the run that is being published in the place of that one

To publish after a run, one must write the third file, which only one of several can; who does
looks once more whether that run is still the published one, and then replaces the pointer.  A
process that is killed in between leaves that file, and the next one finishes what it says.
"""

import json
import logging
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pyspark.sql import SparkSession

from nonconvex.distributed.files.atomic import write_checksums
from nonconvex.distributed.files.hadoop import (
    ConcurrencyError,
    FileSystem,
    FileSystemError,
    is_stale,
    process_token,
)

__all__ = [
    "POINTER",
    "PublicationError",
    "Run",
    "find_model",
    "find_run",
    "new_run",
    "publish_run",
    "published_run",
    "recover",
    "remove_old_runs",
]

POINTER = "published.json"
"""The small file that names the run whose model is the published one."""

_RUNNING = "running.json"
_CLAIM = ".publishing.after="
_NONE = "none"
_DAY = 86400.0
_MOMENT = 30.0  # far more than it takes to replace a small file

_logger = logging.getLogger("nonconvex")


class PublicationError(ValueError):
    """A directory in which there is no model, or not the one that is said to be there."""

    exit_status = 3


class Run(NamedTuple):
    """One run, and the directory that it alone writes to.

    Attributes
    ----------
    id : str
        The time in UTC, to the second, and some random digits.
    path : str
        ``run_id=<id>`` in the directory of all runs.
    """

    id: str
    path: str

    @property
    def model(self) -> str:
        """Where the run has its model."""
        return f"{self.path}/model"


@contextmanager
def new_run(spark: SparkSession, path: str) -> Iterator[Run]:
    """Make a directory for a run, and remove it again if the block raises.

    Its files get checksums at the end; a model in it has its own.

    Parameters
    ----------
    spark : SparkSession
    path : str
        The directory of all runs.

    Yields
    ------
    Run

    Examples
    --------
    >>> before = published_run(spark, "runs/others")
    >>> with new_run(spark, "runs/others") as run:
    ...     model.write().save(run.model)
    >>> publish_run(spark, "runs/others", run, after=before)
    >>> published_run(spark, "runs/others") == run
    True
    """
    files = FileSystem(spark, path)
    now = datetime.now(UTC)
    run = _run(path, f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}")
    temporary = files.sibling(run.path)  # so that no run is there that does not say who writes it
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
    """Return the published run of a directory of runs, None if none has been published.

    Raises
    ------
    PublicationError
        If the pointer is damaged, or its run is not there.
    """
    files = FileSystem(spark, path)
    return _published(files, path) if files.exists(f"{path}/{POINTER}") else None


def publish_run(spark: SparkSession, path: str, run: Run, *, after: Run | None) -> None:
    """Make the model of `run` the published one.

    The pointer is a file that takes the place of the old one whole: who reads it finds the old
    run or the new one.  Local disks and HDFS rename over a file at once; an object store shows
    what is written when it is complete.

    Parameters
    ----------
    spark : SparkSession
    path : str
        The directory of all runs.
    run : Run
        One that is complete.
    after : Run or None
        What was published when `run` began, from `published_run`.

    Raises
    ------
    ConcurrencyError
        If another run has been published meanwhile.
    FileSystemError
        If the pointer cannot be written; it is then the old one.
    """
    files = FileSystem(spark, path)
    before = None if after is None else after.id
    claim = f"{path}/{_claim(before)}"
    text = json.dumps({"run_id": run.id, "writer": process_token()}) + "\n"
    claimed = False
    try:
        while not (claimed := files.write_new(claim, text)):
            _settle(spark, files, path)
            _refuse_other(files, path, run, before)
        _refuse_other(files, path, run, before)
        _point(spark, path, run)
    finally:
        if claimed:
            files.delete(claim)


def recover(spark: SparkSession, path: str) -> None:
    """Finish or remove what runs that were killed have left in a directory of runs.

    A publication that had begun is finished, runs that were not complete are removed, and so are
    temporary files.  What other processes are writing is left alone.

    Parameters
    ----------
    spark : SparkSession
    path : str
        The directory of all runs, which need not be there.
    """
    files = FileSystem(spark, path)
    if not files.exists(path):
        return
    _settle(spark, files, path)
    files.sweep(path)
    for run in _runs(files, path):
        if _is_left(files, run):
            files.delete(run.path)
            _logger.info("removed %s, a run that was killed", run.path)


def remove_old_runs(
    spark: SparkSession, path: str, keep: int, spared: Run | None = None
) -> list[Run]:
    """Remove all complete runs but the newest and the published one.

    Parameters
    ----------
    spark : SparkSession
    path : str
        The directory of all runs.
    keep : int
        How many to keep, at least 1, the published one among them.
    spared : Run, optional
        The next one to keep, if any is kept beside the published one.

    Returns
    -------
    list of Run
        Those that were removed.
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
    """Return the directory of the model that `path` leads to.

    Parameters
    ----------
    spark : SparkSession
    path : str
        A directory of runs, of which one is published; or that of one run; or a model itself.

    Returns
    -------
    str

    Raises
    ------
    PublicationError
        If there is none.

    Examples
    --------
    >>> find_model(spark, "runs/films")
    'runs/films/run_id=.../model'
    """
    files = FileSystem(spark, path)
    if files.exists(f"{path}/{POINTER}"):
        return _published(files, path).model
    for model in (f"{path}/model", path):
        if files.exists(f"{model}/metadata"):
            return model
    there = "no model is published" if files.exists(path) else "there is nothing"
    raise PublicationError(f"{there} at {path}: train a model first, or name another directory")


def find_run(spark: SparkSession, path: str, run_id: str) -> Run | None:
    """Return a complete run of a directory of runs by its id, None if it has no such one."""
    files, run = FileSystem(spark, path), _run(path, run_id)
    there = files.exists(run.model) and not files.exists(f"{run.path}/{_RUNNING}")
    return run if there else None


def _published(files: FileSystem, path: str) -> Run:
    try:
        run = _run(path, json.loads(files.read_text(f"{path}/{POINTER}"))["run_id"])
    except (ValueError, TypeError, KeyError):
        raise PublicationError(f"{path}/{POINTER} is damaged: delete it, and train again") from None
    if not files.exists(run.model):
        raise PublicationError(
            f"{path}/{POINTER} names a run that is not there, {run.id}: delete it, and train again"
        )
    return run


def _runs(files: FileSystem, path: str) -> list[Run]:
    """Return all runs in a directory, the oldest first."""
    names = [name for name in files.names(path) if re.fullmatch(r"run_id=[\w-]+", name)]
    return [_run(path, name.removeprefix("run_id=")) for name in names]


def _is_left(files: FileSystem, run: Run) -> bool:
    """Return whether a run is not complete, and never will be."""
    running = f"{run.path}/{_RUNNING}"
    if not files.exists(running):  # complete, or the process was killed when it began
        return not files.names(run.path) and time.time() - files.modified(run.path) > _DAY
    modified = files.modified(running)
    try:
        return is_stale(json.loads(files.read_text(running))["writer"], modified, _DAY)
    except (json.JSONDecodeError, TypeError, KeyError):  # killed while it wrote this very file
        return time.time() - modified > _MOMENT


def _settle(spark: SparkSession, files: FileSystem, path: str) -> None:
    """Wait for publications under way; finish those of processes that are gone."""
    deadline = time.monotonic() + _MOMENT
    for name in files.names(path):
        claim = f"{path}/{name}"
        while name.startswith(_CLAIM) and (said := _claimed(files, claim)) is not None:
            run, writer = _run(path, said["run_id"]), said["writer"]
            if is_stale(writer, said["modified"], _MOMENT):
                if _pointed(files, path) == _before(name) and files.exists(run.model):
                    _point(spark, path, run)
                files.delete(claim)
            elif time.monotonic() > deadline:
                raise ConcurrencyError(
                    f"{run.id} has been about to be published for {_MOMENT:.0f} s, by {writer}: "
                    f"wait for that process, or delete {claim}"
                )
            else:
                time.sleep(0.1)


def _claimed(files: FileSystem, claim: str) -> dict[str, Any] | None:
    """Return the run that is being published, by whom and since when; None if that is done."""
    try:
        return {**json.loads(files.read_text(claim)), "modified": files.modified(claim)}
    except FileSystemError:
        if files.exists(claim):
            raise
        return None


def _claim(before: str | None) -> str:
    return f"{_CLAIM}{before or _NONE}"


def _before(claim: str) -> str | None:
    before = claim.removeprefix(_CLAIM)
    return None if before == _NONE else before


def _pointed(files: FileSystem, path: str) -> str | None:
    """Return the id of the published run, None if there is none."""
    if not files.exists(f"{path}/{POINTER}"):
        return None
    run_id: str = json.loads(files.read_text(f"{path}/{POINTER}"))["run_id"]
    return run_id


def _refuse_other(files: FileSystem, path: str, run: Run, before: str | None) -> None:
    """Raise if another run has been published than the one that was when `run` began."""
    now = _pointed(files, path)
    if now != before:
        raise ConcurrencyError(
            f"{run.id} is not published, as {now or 'nothing'} has been since it began, in the "
            f"place of {before or 'nothing'}; it is kept in {run.path}: start it again to follow "
            "that one"
        )


def _point(spark: SparkSession, path: str, run: Run) -> None:
    FileSystem(spark, path).replace_text(f"{path}/{POINTER}", json.dumps({"run_id": run.id}) + "\n")
    _logger.info("published %s", run.path)


def _run(path: str, run_id: str) -> Run:
    if not re.fullmatch(r"[\w-]+", run_id):  # nothing in a file leads out of the directory
        raise ValueError(f"a run id has letters, digits, _ and - only, got {run_id!r}")
    return Run(run_id, f"{path}/run_id={run_id}")
