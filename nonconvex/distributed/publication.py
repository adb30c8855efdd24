"""Runs in a directory each, of which one is published: the pointer to it is replaced last."""

import json
import logging
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from nonconvex.distributed.filesystem import FileSystem, FileSystemError

__all__ = ["POINTER", "PublicationError", "Run", "find_model", "new_run", "publish_run"]

POINTER = "published.json"
"""The small file that names the run whose model is the published one."""

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
    >>> with new_run(spark, "runs/films") as run:  # doctest: +SKIP
    ...     model.write().save(run.model)
    >>> publish_run(spark, "runs/films", run)  # doctest: +SKIP
    """
    files = FileSystem(spark, path)
    now = datetime.now(UTC)
    run = _run(path, f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}")
    files.make_directory(run.path)
    try:
        yield run
    except BaseException:
        files.delete(run.path)
        raise


def publish_run(spark: SparkSession, path: str, run: Run) -> None:
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

    Raises
    ------
    FileSystemError
        If the pointer cannot be written; it is then the old one.
    """
    pointer = f"{path}/{POINTER}"
    try:
        _replace(spark, pointer, json.dumps({"run_id": run.id}) + "\n")
    except Py4JJavaError as error:
        cause = " ".join(str(error.java_exception).split())
        raise FileSystemError(f"{pointer} cannot be replaced: {cause}") from None
    _logger.info("published %s", run.path)


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
    >>> MatrixFactorizationModel.load(find_model(spark, "runs/films"))  # doctest: +SKIP
    """
    files = FileSystem(spark, path)
    if files.exists(f"{path}/{POINTER}"):
        return _published(files, path).model
    for model in (f"{path}/model", path):
        if files.exists(f"{model}/metadata"):
            return model
    there = "no model is published" if files.exists(path) else "there is nothing"
    raise PublicationError(f"{there} at {path}: train a model first, or name another directory")


def _published(files: FileSystem, path: str) -> Run:
    try:
        run = _run(path, json.loads(files.read_text(f"{path}/{POINTER}"))["run_id"])
    except (ValueError, TypeError, KeyError):
        raise PublicationError(f"{path}/{POINTER} is damaged: publish a run again") from None
    if not files.exists(run.model):
        raise PublicationError(
            f"{path}/{POINTER} names a run that is not there, {run.id}: publish another"
        )
    return run


def _run(path: str, run_id: str) -> Run:
    if not re.fullmatch(r"[\w-]+", run_id):  # nothing in a file leads out of the directory
        raise ValueError(f"a run id has letters, digits, _ and - only, got {run_id!r}")
    return Run(run_id, f"{path}/run_id={run_id}")


def _replace(spark: SparkSession, path: str, text: str) -> None:
    """Write a small file over the one that may be there, so that no reader sees a part of it."""
    context: Any = spark.sparkContext
    hadoop = context._jvm.org.apache.hadoop.fs
    target = hadoop.Path(path)
    files = target.getFileSystem(context._jsc.hadoopConfiguration())
    scheme = files.getUri().getScheme()
    if scheme not in _RENAME_OVER:
        _write(files, target, text)
        return
    if scheme == "file":
        files = files.getRaw()  # the other one adds a file of checksums, renamed a moment later
    temporary = hadoop.Path(FileSystem(spark, path).sibling(path))
    try:
        _write(files, temporary, text)
        _RENAME_OVER[scheme](context, files, temporary, target)
    finally:
        files.delete(temporary, False)


def _write(files: Any, path: Any, text: str) -> None:
    stream = files.create(path)
    try:
        stream.write(bytearray(text, "utf-8"))
    finally:
        stream.close()


def _rename_local(context: Any, files: Any, path: Any, target: Any) -> None:
    """Rename as POSIX does, over a file that is there."""
    del context
    if not files.rename(path, target):
        raise FileSystemError(f"{target.toString()} cannot be replaced")


def _rename_over(context: Any, files: Any, path: Any, target: Any) -> None:
    """Rename as HDFS does when told to overwrite."""
    hadoop = context._jvm.org.apache.hadoop.fs
    overwrite = context._gateway.new_array(hadoop.Options.Rename, 1)
    overwrite[0] = hadoop.Options.Rename.OVERWRITE
    configuration = context._jsc.hadoopConfiguration()
    hadoop.FileContext.getFileContext(files.getUri(), configuration).rename(path, target, overwrite)


# Elsewhere nothing renames over a file at once, and a file is shown when it is closed.
_RENAME_OVER = {"file": _rename_local, "hdfs": _rename_over}
