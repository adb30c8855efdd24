"""Files wherever Spark writes them, through Hadoop's FileSystem; directories published whole."""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

__all__ = ["FileSystem", "FileSystemError", "publish"]

_logger = logging.getLogger("nonconvex")


class FileSystemError(ValueError):
    """A file or directory that cannot be read, written, moved or removed."""

    exit_status = 1


class FileSystem:
    """The file system that a path is on, be it local, HDFS or an object store.

    Parameters
    ----------
    spark : SparkSession
        Whose Hadoop configuration to use.
    path : str
        Any path on the file system; without a scheme, it is one of the default file system.

    Examples
    --------
    >>> files = FileSystem(spark, "models/latest")  # doctest: +SKIP
    >>> files.exists("models/latest/metadata.json")  # doctest: +SKIP
    True
    """

    def __init__(self, spark: SparkSession, path: str) -> None:
        context: Any = spark.sparkContext
        self._jvm: Any = context._jvm
        with _named("reached", path):
            self._files = self._path(path).getFileSystem(context._jsc.hadoopConfiguration())

    def exists(self, path: str) -> bool:
        """Return whether there is a file or directory at `path`."""
        with _named("reached", path):
            return bool(self._files.exists(self._path(path)))

    def names(self, path: str) -> list[str]:
        """Return the sorted names in the directory `path`, or of the file that it is."""
        with _named("listed", path):
            return sorted(s.getPath().getName() for s in self._files.listStatus(self._path(path)))

    def read_text(self, path: str) -> str:
        """Return the text of a small file in UTF-8."""
        with _named("read", path):
            stream = self._files.open(self._path(path))
            try:
                return str(self._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
            finally:
                stream.close()

    def write_text(self, path: str, text: str) -> None:
        """Write a small file in UTF-8, over the one that may be there."""
        with _named("written", path):
            stream = self._files.create(self._path(path))
            try:
                stream.write(bytearray(text, "utf-8"))
            finally:
                stream.close()

    def make_directory(self, path: str) -> None:
        """Make the directory `path` and those it is in."""
        with _named("written", path):
            if not self._files.mkdirs(self._path(path)):
                raise FileSystemError(f"{path} cannot be written")

    def rename(self, path: str, target: str) -> None:
        """Give the file or directory `path` the name `target`, which must be free."""
        with _named(f"renamed to {target}", path):
            if not self._files.rename(self._path(path), self._path(target)):
                raise FileSystemError(f"{path} cannot be renamed to {target}")

    def delete(self, path: str) -> None:
        """Remove `path` with all that is in it, if it is there."""
        with _named("removed", path):
            self._files.delete(self._path(path), True)

    def sibling(self, path: str) -> str:
        """Return a path beside `path` that nothing has and that Spark does not read as data."""
        there = self._files.makeQualified(self._path(path))
        return f"{there.getParent()}/.{there.getName()}.{uuid.uuid4().hex}"

    def _path(self, path: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(path)


@contextmanager
def publish(spark: SparkSession, path: str) -> Iterator[str]:
    """Yield a temporary directory that takes the place of `path` once it is complete.

    What was at `path` stays there until then, and for good if the block raises; then the
    temporary directory is removed. The caller decides whether `path` may be replaced.

    Parameters
    ----------
    spark : SparkSession
        The session that writes.
    path : str
        Where the directory is to be in the end.

    Yields
    ------
    str
        A directory beside `path`, made and empty.

    Raises
    ------
    FileSystemError
        If `path` cannot be written.

    Examples
    --------
    >>> with publish(spark, "models/latest") as directory:  # doctest: +SKIP
    ...     table.write.parquet(f"{directory}/table")
    """
    files = FileSystem(spark, path)
    temporary = files.sibling(path)
    files.make_directory(temporary)
    try:
        yield temporary
        if files.exists(path):
            _replace(files, temporary, path)
        else:
            files.rename(temporary, path)
    finally:
        files.delete(temporary)


def _replace(files: FileSystem, temporary: str, path: str) -> None:
    """Put `temporary` in the place of `path`, or leave `path` as it was."""
    old = files.sibling(path)
    files.rename(path, old)
    try:
        files.rename(temporary, path)
    except FileSystemError:
        files.rename(old, path)
        raise
    try:
        files.delete(old)
    except FileSystemError as error:
        # The new directory is in place, so this must not look like a failure.
        _logger.warning("the directory that was at %s stays behind: %s", path, error)


@contextmanager
def _named(done: str, path: str) -> Iterator[None]:
    """Turn an exception of Java into one that says what could not be done to `path`."""
    try:
        yield
    except Py4JJavaError as error:
        exception = error.java_exception
        cause = exception.getMessage() or exception.getClass().getSimpleName()
        raise FileSystemError(f"{path} cannot be {done}: {' '.join(cause.split())}") from None
