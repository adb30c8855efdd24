"""Files wherever Spark writes them, through Hadoop's FileSystem; directories published whole.

Who writes: a mark in the names of temporary files, by which a later run knows what was left.

A process that is killed removes nothing.  What it left is told from what another process is
writing by asking whether the writer is still there: at once on the same machine, and on others by
the age of what it wrote last.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

__all__ = [
    "MARK",
    "ConcurrencyError",
    "FileSystem",
    "FileSystemError",
    "abandoned",
    "java_class",
    "mark",
    "publish",
]

MARK = r"[0-9a-f]{8}-\d+-\d+"
"""The form of a mark, as a regular expression."""

_PROC = Path("/proc")


def mark() -> str:
    """Return ``<machine>-<process>-<start>`` of this process.

    The machine is a hash of its name, its boot and the namespace of its processes: a process of
    another container is not asked for by a number that means another one here.

    Examples
    --------
    >>> abandoned(mark(), time.time(), lease=0.0)
    False
    """
    process = os.getpid()
    return f"{_machine()}-{process}-{_start(process) or 0}"


def abandoned(writer: str, modified: float, lease: float) -> bool:
    """Return whether what a writer has begun will never be finished.

    Parameters
    ----------
    writer : str
        From `mark`.
    modified : float
        When it wrote last, in seconds since 1970.
    lease : float
        Seconds of silence after which a process of another machine is taken for dead.

    Examples
    --------
    >>> abandoned("00000000-1-1", time.time() - 60, lease=30.0)
    True
    """
    machine, process, start = writer.split("-")
    if machine != _machine():
        return time.time() - modified > lease
    return _start(int(process)) != int(start)


@cache
def _machine() -> str:
    parts = [socket.gethostname()]
    try:
        parts.append((_PROC / "sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink(_PROC / "self/ns/pid"))
    except OSError:  # no Linux
        pass
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _start(process: int) -> int | None:
    """Return when a process started, in ticks since boot, 0 if unknown, None if it is not there."""
    if not (_PROC / "self/stat").exists():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return None
        except OSError:  # it is another user's
            pass
        return 0
    try:
        state, *fields = (_PROC / f"{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(fields[18])  # a zombie writes no more


_logger = logging.getLogger("nonconvex")

_TEMPORARY = re.compile(rf"\.(?P<name>.+)\.(?P<writer>{MARK})\.[0-9a-f]{{8}}(?P<old>\.old)?")
_HIDDEN = re.compile(r"/(\.|_(?![^/]*=))|\._COPYING_$")  # not ``_day=1``
_DAY = 86400.0


class FileSystemError(ValueError):
    """A file or directory that cannot be read, written, moved or removed."""

    exit_status = 1


class ConcurrencyError(FileSystemError):
    """Another process has written what this one was to write."""


def java_class(jvm: Any, name: str) -> Any:
    """Return a class of Java by its whole name.

    Written as ``jvm.org.apache…``, each part of it would be looked for in all of Spark's jars,
    which takes milliseconds.

    Examples
    --------
    >>> java_class(spark.sparkContext._jvm, "org.apache.hadoop.fs.Path")("a/b").getName()
    'b'
    """
    return getattr(jvm, name)


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
    >>> files = FileSystem(spark, "runs/films")
    >>> files.exists("runs/films/published.json")
    True
    """

    def __init__(self, spark: SparkSession, path: str) -> None:
        context: Any = spark.sparkContext
        self._jvm: Any = context._jvm
        self._gateway: Any = context._gateway
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

    def sizes(self, path: str) -> dict[str, int]:
        """Return the sizes in bytes of all files in a directory and those in it, by their path."""
        with _named("listed", path):
            root = f"{self._files.makeQualified(self._path(path))}/"
            found = self._files_in(self._path(path))
            sizes = {s.getPath().toString().removeprefix(root): int(s.getLen()) for s in found}
            return dict(sorted(sizes.items()))

    def empty_files(self, pattern: str) -> list[str]:
        """Return the files of 0 bytes among those that Spark finds at a path with wildcards.

        They are named from what the pattern matches.  What Spark takes no notice of, such as
        ``_SUCCESS``, is left out.
        """
        empty = []
        with _named("listed", pattern):
            for match in self._files.globStatus(self._path(pattern)) or []:
                root = match.getPath()
                for status in self._files_in(root):
                    inside = status.getPath().toString().removeprefix(root.toString())
                    if not status.getLen() and not _HIDDEN.search(inside):
                        empty.append(root.getName() + inside)
        return sorted(empty)

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of a file in hexadecimal digits; its bytes stay in Java."""
        with _named("read", path):
            stream = self._files.open(self._path(path))
            try:
                digests = java_class(self._jvm, "org.apache.commons.codec.digest.DigestUtils")
                return str(digests.sha256Hex(stream))
            finally:
                stream.close()

    def read_text(self, path: str) -> str:
        """Return the text of a small file in UTF-8."""
        with _named("read", path):
            stream = self._files.open(self._path(path))
            try:
                utilities = java_class(self._jvm, "org.apache.commons.io.IOUtils")
                return str(utilities.toString(stream, "UTF-8"))
            finally:
                stream.close()

    def write_text(self, path: str, text: str) -> None:
        """Write a small file in UTF-8, over the one that may be there."""
        self.write_bytes(path, text.encode("utf-8"))

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write a small file, over the one that may be there."""
        with _named("written", path):
            _write_bytes(self._files.create(self._path(path)), content)

    def write_new(self, path: str, text: str) -> bool:
        """Write a small file that is not there yet, all at once; return whether it was not there.

        Of several processes that do so at the same time, one gets True: by a hard link on a local
        disk, by an exclusive rename on HDFS, and elsewhere as far as the store refuses to write
        over a file.
        """
        scheme = self._scheme
        target = self._path(path)
        with _named("written", path):
            if scheme not in ("file", "hdfs"):
                return self._create_new(target, text)
            temporary = self._path(self.sibling(path))
            raw = self._files.getRaw() if scheme == "file" else self._files
            try:
                _write(raw.create(temporary, True), text)
                if scheme == "file":
                    return _link(*(raw.pathToFile(p).getPath() for p in (temporary, target)))
                return self._rename_new(temporary, target)
            finally:
                raw.delete(temporary, False)

    def modified(self, path: str) -> float:
        """Return when `path` was written last, in seconds since 1970."""
        with _named("reached", path):
            return float(self._files.getFileStatus(self._path(path)).getModificationTime()) / 1e3

    def make_directory(self, path: str) -> None:
        """Make the directory `path` and those it is in."""
        with _named("written", path):
            if not self._files.mkdirs(self._path(path)):
                raise FileSystemError(f"{path} cannot be written: name a directory that can be")

    def rename(self, path: str, target: str) -> None:
        """Give the file or directory `path` the name `target`, which must be free.

        Raises
        ------
        ConcurrencyError
            If it is not.
        """
        taken = f"{path} cannot be renamed to {target}: another process has written that meanwhile"
        with _named(f"renamed to {target}", path):
            if self._files.exists(self._path(target)):
                raise ConcurrencyError(taken)
            if not self._files.rename(self._path(path), self._path(target)):
                raise FileSystemError(f"{path} cannot be renamed to {target}")
            # Hadoop puts a directory into one that has appeared at this very moment.
            inside = self._path(f"{target}/{self._path(path).getName()}")
            if self._files.exists(inside):
                self._files.delete(inside, True)
                raise ConcurrencyError(taken)

    def delete(self, path: str, *, whole: bool = True) -> None:
        """Remove `path` with all that is in it, if it is there.

        Unless it is to be removed as a `whole`, a directory that is not empty is refused.
        """
        with _named("removed", path):
            self._files.delete(self._path(path), whole)

    def sibling(self, path: str) -> str:
        """Return a path beside `path` that nothing has and that Spark does not read as data.

        Its name says who writes there, for `sweep`.
        """
        there = self._files.makeQualified(self._path(path))
        return f"{there.getParent()}/.{there.getName()}.{mark()}.{uuid.uuid4().hex[:8]}"

    def sweep(self, directory: str, name: str | None = None, lease: float = _DAY) -> None:
        """Remove the siblings of processes that are gone, and put back what they moved away.

        Parameters
        ----------
        directory : str
            Where to look; it need not be there.
        name : str, optional
            Of what has siblings; by default of anything in the directory.
        lease : float
            See `abandoned`.
        """
        for entry in self.names(directory) if self.exists(directory) else []:
            found = _TEMPORARY.fullmatch(entry)
            if found is None or name not in (None, found["name"]):
                continue
            path, target = f"{directory}/{entry}", f"{directory}/{found['name']}"
            try:
                if not abandoned(found["writer"], self.modified(path), lease):
                    continue
                if found["old"] and not self.exists(target):
                    self.rename(path, target)
                    _logger.info("put back %s, which a run that was killed had moved away", target)
                else:
                    self.delete(path)
                    _logger.info("removed %s, which a run that was killed had left", path)
            except FileSystemError as error:  # another process sweeps, too
                _logger.debug("not swept: %s", error)

    def parent(self, path: str) -> tuple[str, str]:
        """Return the directory that `path` is in, and its name there."""
        there = self._files.makeQualified(self._path(path))
        return there.getParent().toString(), there.getName()

    def _path(self, path: str) -> Any:
        return java_class(self._jvm, "org.apache.hadoop.fs.Path")(path)

    @cached_property
    def _scheme(self) -> str:
        return str(self._files.getUri().getScheme())

    def _files_in(self, directory: Any) -> Iterator[Any]:
        """Yield the status of each file in a directory and those in it, or of the file that it is.

        A store of objects lists them all in one request.  On a local disk Java would start a
        process for each file that it lists so, to ask for permissions that nobody wants here.
        """
        if self._scheme != "file":
            found = self._files.listFiles(directory, True)
            while found.hasNext():
                yield found.next()
            return
        for status in self._files.listStatus(directory):
            if status.isDirectory():
                yield from self._files_in(status.getPath())
            else:
                yield status

    def _create_new(self, target: Any, text: str) -> bool:
        try:
            stream = self._files.create(target, False)
        except Py4JJavaError as error:
            if _already_exists(error):
                return False
            raise
        _write(stream, text)
        return True

    def _rename_new(self, path: Any, target: Any) -> bool:
        try:
            contexts = java_class(self._jvm, "org.apache.hadoop.fs.FileContext")
            context = contexts.getFileContext(self._files.getUri(), self._files.getConf())
            options = java_class(self._jvm, "org.apache.hadoop.fs.Options").Rename
            context.rename(path, target, self._gateway.new_array(options, 0))
        except Py4JJavaError as error:
            if _already_exists(error):
                return False
            raise
        return True


@contextmanager
def publish(spark: SparkSession, path: str, *, replace: bool = True) -> Iterator[str]:
    """Yield a temporary directory that takes the place of `path` once it is complete.

    What was at `path` stays there until then, and for good if the block raises; then the
    temporary directory is removed.  A process that is killed leaves it, or, between two renames,
    what was at `path` beside it: the next one for the same path clears up first.

    Parameters
    ----------
    spark : SparkSession
        The session that writes.
    path : str
        Where the directory is to be in the end.
    replace : bool
        Whether what is at `path` in the end may be replaced.

    Yields
    ------
    str
        A directory beside `path`, made and empty.

    Raises
    ------
    FileSystemError
        If `path` cannot be written.
    ConcurrencyError
        If another process has written `path` meanwhile.

    Examples
    --------
    >>> with publish(spark, "tables/latest") as directory:
    ...     ratings.write.parquet(f"{directory}/ratings")
    >>> FileSystem(spark, "tables").names("tables/latest")
    ['ratings']
    """
    files = FileSystem(spark, path)
    files.sweep(*files.parent(path))
    temporary = files.sibling(path)
    files.make_directory(temporary)
    try:
        yield temporary
        if replace and files.exists(path):
            _replace(files, temporary, path)
        else:
            files.rename(temporary, path)
    finally:
        files.delete(temporary)


def _replace(files: FileSystem, temporary: str, path: str) -> None:
    """Put `temporary` in the place of `path`, or leave `path` as it was."""
    old = f"{files.sibling(path)}.old"
    try:
        files.rename(path, old)
    except FileSystemError:
        if files.exists(path):
            raise
        files.rename(temporary, path)  # what was there has been removed by another process
        return
    try:
        files.rename(temporary, path)
    except ConcurrencyError:  # what was there has been replaced by another process
        files.delete(old)
        raise
    except FileSystemError:
        files.rename(old, path)
        raise
    try:
        files.delete(old)
    except FileSystemError as error:
        # The new directory is in place, so this must not look like a failure.
        _logger.warning("the directory that was at %s stays behind: %s", path, error)


def _write(stream: Any, text: str) -> None:
    _write_bytes(stream, text.encode("utf-8"))


def _write_bytes(stream: Any, content: bytes) -> None:
    try:
        stream.write(bytearray(content))
    finally:
        stream.close()


def _link(path: str, target: str) -> bool:
    try:
        os.link(path, target)
    except FileExistsError:
        return False
    except OSError as error:
        raise FileSystemError(f"{target} cannot be written: {error.strerror}") from None
    return True


def _already_exists(error: Py4JJavaError) -> bool:
    return "FileAlreadyExists" in str(error.java_exception)


@contextmanager
def _named(done: str, path: str) -> Iterator[None]:
    """Turn an exception of Java into one that says what could not be done to `path`."""
    try:
        yield
    except Py4JJavaError as error:
        exception = error.java_exception
        cause = exception.getMessage() or exception.getClass().getSimpleName()
        raise FileSystemError(f"{path} cannot be {done}: {' '.join(cause.split())}") from None
