"""One file system through Hadoop, and directories that are published whole and verified.

Temporary files carry a token of the process that writes them.  A killed process removes nothing, so
a later run asks whether the writer is still alive: at once on the same machine, and for another
machine by the age of its last write.  Checksums detect corruption and truncation, not tampering:
whoever can replace the files can replace their checksums.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, NoReturn, Self, TypeVar
from urllib.parse import unquote

import pyarrow as pa
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.connect import Py4JJavaError, ended, refuse
from nonconvex.distributed.runtime import DISK_FULL, connected
from nonconvex.local.files import CHECKSUMS, ChecksumError, checksums_of, saved_files, verify_files

_TOKEN = r"[0-9a-f]{8}-\d+-\d+"
_PROC = Path("/proc")
_ATTEMPTS = 10  # at a file that other processes remove and write again

_Found = TypeVar("_Found")
_TEMPORARY = re.compile(rf"\.(?P<name>.+)\.(?P<writer>{_TOKEN})\.[0-9a-f]{{8}}(?P<old>\.old)?")
_HIDDEN = re.compile(r"/(\.|_(?![^/]*=))|\._COPYING_$")  # not ``_day=1``
DAY = 86400.0  # seconds
_logger = logging.getLogger("nonconvex")


def process_token() -> str:
    """Return ``<machine>-<process>-<start>`` of this process.

    The machine is a hash of host name, boot id and process namespace: the same process number in
    another container is another process.
    """
    process = os.getpid()
    return f"{_machine()}-{process}-{_start(process) or 0}"


def is_stale(token: str, modified: float, lease: float) -> bool:
    """Tell whether the process of a token is dead, so that its temporary files can be removed.

    A process of another machine counts as dead when its last write, at `modified` (seconds since
    1970), is more than `lease` seconds old.
    """
    machine, process, start = str.split(token, "-")
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
    """Return the start of a process in ticks since boot: 0 if unknown, None if it is dead."""
    if not (_PROC / "self/stat").exists():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return None
        except OSError:  # another user's process
            pass
        return 0
    try:
        state, *fields = (_PROC / f"{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(fields[18])  # a zombie cannot write


class FileSystemError(ValueError):
    """A file or directory that cannot be read, written, moved or removed."""

    exit_status = 1


class ConcurrencyError(FileSystemError):
    """Another process has written what this one was to write."""


def java_class(jvm: Any, name: str) -> Any:
    """Return a Java class by its full name; ``jvm.org.apache…`` would search all jars per part."""
    return getattr(jvm, name)


class FileSystem:
    """The file system of a path, local, HDFS or an object store; the default one without a scheme.

    A session of Spark Connect gets a `RemoteFileSystem`.

    Examples
    --------
    >>> files = FileSystem(spark, "runs/films")
    >>> files.exists("runs/films/published.json")
    True
    """

    failure: type[Exception] = FileSystemError
    renames = True  # whether a directory can take the place of another at once

    def __new__(cls, spark: SparkSession, path: str) -> Self:
        """Choose by the session."""
        chosen: Any = RemoteFileSystem if connected(spark) else cls
        made: Self = object.__new__(chosen)
        return made

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

    def published(self, path: str) -> list[str]:
        """Return the sorted names in the directory `path`, of what `publish` has completed."""
        return self.names(path)

    def sizes(self, path: str) -> dict[str, int]:
        """Return the size in bytes of each file in a directory, recursively, by relative path."""
        with _named("listed", path):
            root = f"{self._files.makeQualified(self._path(path))}/"
            found = self._files_in(self._path(path))
            sizes = {s.getPath().toString().removeprefix(root): int(s.getLen()) for s in found}
            return dict(sorted(sizes.items()))

    def empty_files(self, pattern: str) -> list[str]:
        """Return the files of 0 bytes that Spark would read at a path with wildcards.

        Names begin at what the pattern matches.  Files that Spark ignores are left out.
        """
        found = self._matched(pattern)
        return sorted(name + inside for name, inside, file in found if not file.getLen())

    def partitions(self, pattern: str) -> list[str]:
        """Return the columns that Spark would read from the directories ``<column>=<value>``.

        They are those above the first file, inside what the pattern matches.
        """
        for _, inside, _ in self._matched(pattern):
            return [unquote(part.split("=")[0]) for part in inside.split("/")[:-1] if "=" in part]
        return []

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of a file in hexadecimal digits; its bytes stay in Java."""
        digests = java_class(self._jvm, "org.apache.commons.codec.digest.DigestUtils")
        return self._read(path, digests.sha256Hex)

    def read_text(self, path: str) -> str:
        """Return the text of a small file in UTF-8, or of the only one in a directory of Spark."""
        with _named("read", path):
            if self._files.getFileStatus(self._path(path)).isDirectory():
                parts = [name for name in self.names(path) if name[0] not in "_."]
                path = f"{path}/{(parts or ['part'])[0]}"
        utilities = java_class(self._jvm, "org.apache.commons.io.IOUtils")
        return self._read(path, lambda stream: utilities.toString(stream, "UTF-8"))

    def read_end(self, path: str, count: int) -> bytes:
        """Return the last bytes of a file, at most `count`."""
        utilities = java_class(self._jvm, "org.apache.commons.io.IOUtils")
        with _named("read", path):
            size = int(self._files.getFileStatus(self._path(path)).getLen())

        def last(stream: Any) -> Any:  # as text: of an array, py4j decodes each byte by itself
            stream.seek(max(0, size - count))
            return utilities.toString(stream, "ISO-8859-1")

        return self._read(path, last).encode("latin-1")

    def write_text(self, path: str, text: str) -> None:
        """Write a small file in UTF-8, replacing an existing one."""
        self.write_bytes(path, text.encode("utf-8"))

    def write_bytes(self, path: str, content: bytes) -> None:
        """Write a small file, replacing an existing one."""
        with _named("written", path):
            _write(self._files.create(self._path(path)), content)

    def copy_in(self, local: str, directory: str) -> None:
        """Copy all that is in a directory of this machine into the existing `directory`."""
        with _named("written", directory):
            for name in sorted(os.listdir(local)):
                source = self._path(f"file:{local}/{name}")  # which Java does not decode
                self._files.copyFromLocalFile(False, True, source, self._path(directory))

    def replace_text(self, path: str, text: str) -> None:
        """Replace a small file atomically: a reader sees the old text or the new.

        Where nothing renames over a file, as on object stores, a file appears when it is closed.
        """
        target, content = self._path(path), text.encode("utf-8")
        with _named("replaced", path):
            if self._scheme not in ("file", "hdfs"):
                _write(self._files.create(target), content)
                return
            with self._temporary(path, content) as (files, temporary):
                if self._scheme == "hdfs":
                    self._rename_over(temporary, target)
                elif not files.rename(temporary, target):  # POSIX renames over a file
                    raise FileSystemError(f"{path} cannot be replaced")

    def write_new(self, path: str, text: str) -> bool:
        """Write a small file atomically unless it exists; return whether it was written.

        Of several processes that do so at once, one gets True: by a hard link on a local disk, by
        an exclusive rename on HDFS, and elsewhere if the store refuses to overwrite a file.
        """
        target, content = self._path(path), text.encode("utf-8")
        with _named("written", path):
            if self._scheme not in ("file", "hdfs"):
                stream = _unless_exists(lambda: self._files.create(target, False))
                if stream is not None:
                    _write(stream, content)
                return stream is not None
            with self._temporary(path, content) as (files, temporary):
                if self._scheme == "file":
                    return _link(*(files.pathToFile(p).getPath() for p in (temporary, target)))
                return bool(_unless_exists(lambda: self._rename_over(temporary, target, new=True)))

    def local_path(self, path: str) -> str | None:
        """Return `path` as the programs of this machine name it; None if it is elsewhere."""
        if self._scheme != "file":
            return None
        return str(self._files.pathToFile(self._path(path)).getPath())

    def modified(self, path: str) -> float:
        """Return the time of the last write to `path`, in seconds since 1970."""
        with _named("reached", path):
            return float(self._files.getFileStatus(self._path(path)).getModificationTime()) / 1e3

    def unless_gone(self, path: str, look: Callable[[], _Found]) -> _Found | None:
        """Return `look()`, a question about `path`; None if another process has removed `path`.

        It may have been removed and written again between two steps of the question, which is
        then asked again.
        """
        for _ in range(_ATTEMPTS):
            try:
                return look()
            except FileSystemError:
                if not self.exists(path):
                    return None
        return look()

    def make_directory(self, path: str) -> None:
        """Make the directory `path` and its parents."""
        with _named("written", path):
            if not self._files.mkdirs(self._path(path)):
                raise FileSystemError(f"{path} cannot be written: name another directory")

    def check_writable(self, path: str) -> None:
        """Raise FileSystemError unless a directory, which need not exist, can be written to.

        A small file is written and removed: in the directory, or if it does not exist in the
        nearest one above it that does.
        """
        place = path
        while self._scheme in ("file", "hdfs") and not self.exists(place):
            place = self.parent(place)[0]
        probe = self.sibling(f"{place}/probe")
        try:
            self.write_text(probe, "\n")
            self.delete(probe)
        except FileSystemError as error:
            with suppress(FileSystemError):  # a full disk has it, without content
                self.delete(probe)
            raise _unwritable(path, error) from None

    def rename(self, path: str, target: str) -> None:
        """Rename a file or directory to `target`; raise ConcurrencyError if that exists."""
        taken = f"{path} cannot be renamed to {target}: another process has written that meanwhile"
        with _named(f"renamed to {target}", path):
            if self._files.exists(self._path(target)):
                raise ConcurrencyError(taken)
            if not self._files.rename(self._path(path), self._path(target)):
                raise FileSystemError(f"{path} cannot be renamed to {target}")
            # If `target` appeared in between, Hadoop has moved the directory into it.
            inside = self._path(f"{target}/{self._path(path).getName()}")
            if self._files.exists(inside):
                self._files.delete(inside, True)
                raise ConcurrencyError(taken)

    def delete(self, path: str, *, whole: bool = True) -> None:
        """Remove `path` if it exists; unless `whole`, refuse a directory that is not empty."""
        with _named("removed", path):
            self._files.delete(self._path(path), whole)

    def discard(self, path: str) -> None:
        """Remove a directory if it exists: one that a kill leaves behind has another name."""
        gone = self.sibling(path)
        try:
            self.rename(path, gone)
        except FileSystemError:  # it is not there, or another process removes it
            gone = path
        self.delete(gone)

    def sibling(self, path: str) -> str:
        """Return a free path beside `path` that Spark ignores and `sweep` understands."""
        there = self._files.makeQualified(self._path(path))
        return f"{there.getParent()}/.{there.getName()}.{process_token()}.{uuid.uuid4().hex[:8]}"

    def sweep(self, directory: str, name: str | None = None, lease: float = DAY) -> None:
        """Clear up after killed processes: remove their siblings, restore what they moved away.

        Looks at the siblings of `name`, by default of any name, in a directory that need not
        exist.  See `is_stale` for `lease`.
        """
        for entry in self._hidden(directory, name):
            found = _TEMPORARY.fullmatch(entry)
            if found is None or name not in (None, found["name"]):
                continue
            path, target = f"{directory}/{entry}", f"{directory}/{found['name']}"
            try:
                if not is_stale(found["writer"], self.modified(path), lease):
                    continue
                if found["old"] and not self.exists(target):
                    self.rename(path, target)
                    _logger.info("restored %s, which a killed run had moved away", target)
                else:
                    self.delete(path)
                    _logger.info("removed %s, left by a killed run", path)
            except FileSystemError as error:  # another process sweeps, too
                _logger.debug("not swept: %s", error)

    def _hidden(self, directory: str, name: str | None) -> list[str]:
        """Return the names ``.<name>.…``, of any name for None; none if nobody may list them."""
        globs = java_class(self._jvm, "org.apache.hadoop.fs.GlobFilter")
        pattern = ".*" if name is None else f".{re.sub(r'[^a-zA-Z0-9_]', '?', name)}.*"
        try:
            with _named("listed", directory):
                found = self._files.listStatus(self._path(directory), globs(pattern))
        except FileSystemError as error:  # it does not exist, or may only be written
            _logger.debug("not swept: %s", error)
            return []
        return [status.getPath().getName() for status in found]

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
        """Yield the status of each file below a directory, or of the file that it is.

        An object store lists them all in one request.  On a local disk that request would start a
        process for each file, to read its permissions.
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

    def _matched(self, pattern: str) -> Iterator[tuple[str, str, Any]]:
        """Yield what a pattern matches, the path inside and the status of all that Spark reads."""
        with _named("listed", pattern):
            for match in self._files.globStatus(self._path(pattern)) or []:
                root = match.getPath()
                for status in self._files_in(root):
                    inside = status.getPath().toString().removeprefix(root.toString())
                    if not _HIDDEN.search(inside):
                        yield root.getName(), inside, status

    def _read(self, path: str, reader: Callable[[Any], Any]) -> str:
        with _named("read", path):
            stream = self._files.open(self._path(path))
            try:
                return str(reader(stream))
            finally:
                stream.close()

    @contextmanager
    def _temporary(self, path: str, content: bytes) -> Iterator[tuple[Any, Any]]:
        """Write a sibling of `path`; yield the file system and the sibling, then remove it."""
        # The checksummed local file system would add a second file, renamed a moment later.
        files = self._files.getRaw() if self._scheme == "file" else self._files
        temporary = self._path(self.sibling(path))
        try:
            _write(files.create(temporary, True), content)
            yield files, temporary
        finally:
            files.delete(temporary, False)

    def _rename_over(self, path: Any, target: Any, *, new: bool = False) -> bool:
        """Rename on HDFS, over an existing file unless it is to be `new`."""
        options = java_class(self._jvm, "org.apache.hadoop.fs.Options").Rename
        chosen = self._gateway.new_array(options, 0 if new else 1)
        if not new:
            chosen[0] = options.OVERWRITE
        contexts = java_class(self._jvm, "org.apache.hadoop.fs.FileContext")
        context = contexts.getFileContext(self._files.getUri(), self._files.getConf())
        context.rename(path, target, chosen)
        return True


class RemoteFileSystem(FileSystem):
    """A file system that only a server of Spark Connect reaches: by dataframes.

    A file of text is a directory with the one file that Spark writes into it, which a classic
    session reads alike.  Files and directories that Spark ignores, and empty ones, are not seen.
    Nothing can be renamed: a directory appears as it is written, its checksums last.
    """

    renames = False

    def __init__(self, spark: SparkSession, path: str) -> None:
        self._spark = spark
        self._root = path
        self._digests: dict[str, str] | None = None

    def exists(self, path: str) -> bool:
        """Return whether there is a file at `path` or below."""
        return bool(self._found("reached", path, "path", limit=1))

    def names(self, path: str) -> list[str]:
        """Return the sorted names in the directory `path`."""
        return sorted({name.partition("/")[0] for name in self.sizes(path)})

    def published(self, path: str) -> list[str]:
        """Return the sorted names in the directory `path`, of what has its checksums."""
        found = (name.split("/") for name in self.sizes(path))
        return sorted(parts[0] for parts in found if parts[1:2] == [CHECKSUMS])

    def sizes(self, path: str) -> dict[str, int]:
        """Return the size in bytes of each file in a directory, recursively, by relative path."""
        found = self._found("listed", path, "path", "length")
        if found is None:
            raise FileSystemError(f"{path} cannot be listed: there is nothing")
        self._root, self._digests = path, None
        return dict(sorted(zip(_relative(path, found), found["length"].to_pylist(), strict=True)))

    def sha256(self, path: str) -> str:
        """Return the SHA-256 of a file below what `sizes` has listed, "" if it is gone.

        The server computes those of all of them at once.
        """
        if self._digests is None:
            digest = F.sha2("content", 256).alias("digest")
            found = self._found("read", self._root, "path", digest)
            names = [] if found is None else _relative(self._root, found)
            digests = [] if found is None else found["digest"].to_pylist()
            self._digests = dict(zip(names, digests, strict=True))
        return self._digests.get(path.removeprefix(f"{self._root}/"), "")

    def read_text(self, path: str) -> str:
        """Return the text of a small file in UTF-8."""
        with _named("read", path):
            texts = self._spark.read.text(path, wholetext=True).toArrow()
        return "".join(texts["value"].to_pylist())

    def read_end(self, path: str, count: int) -> bytes:
        """Return the last bytes of a file, at most `count`."""
        found = self._found("read", path, F.substring("content", -count, count).alias("end"))
        if found is None:
            raise FileSystemError(f"{path} cannot be read: there is nothing")
        end: bytes = found["end"][0].as_py()
        return end

    def write_text(self, path: str, text: str) -> None:
        """Write a small file in UTF-8 into a directory, replacing what is there.

        The directory is `path`, or of a path that ends with ``part-00000``, as Spark names its
        files, its parent.
        """
        lines = self._spark.createDataFrame([(text.removesuffix("\n"),)], "value string")
        with _named("written", path):
            lines.coalesce(1).write.mode("overwrite").text(path.removesuffix("/part-00000"))

    def local_path(self, path: str) -> str | None:
        """Return None: a disk of the server is none of this machine."""
        return None

    def modified(self, path: str) -> float:
        """Return the time of the last write to a file at `path` or below, in seconds since 1970."""
        time = F.unix_micros("modificationTime").alias("time")
        found = self._found("reached", path, time)
        if found is None:
            raise FileSystemError(f"{path} cannot be reached: there is nothing")
        return float(max(found["time"].to_pylist())) / 1e6

    def make_directory(self, path: str) -> None:
        """Make the directory `path`, or empty it."""
        self._write_nothing(path, "overwrite")

    def check_writable(self, path: str) -> None:
        """Raise FileSystemError unless a directory can be written to; it is made."""
        try:
            self._write_nothing(path, "append")
        except FileSystemError as error:
            raise _unwritable(path, error) from None

    def delete(self, path: str, *, whole: bool = True) -> None:
        """Remove all files in a directory; unless `whole`, do nothing."""
        if whole and self.exists(path):
            self.make_directory(path)

    discard = delete

    def sweep(self, directory: str, name: str | None = None, lease: float = DAY) -> None:
        """Do nothing: there are no temporary files."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise refuse("preparing and publishing need files that are renamed at once, by Java")

    empty_files = partitions = write_bytes = copy_in = _refuse
    replace_text = write_new = rename = sibling = _refuse

    def parent(self, path: str) -> tuple[str, str]:
        """Return the directory that `path` is in, and its name there."""
        directory, _, name = path.rstrip("/").rpartition("/")
        return directory or ".", name

    def _write_nothing(self, path: str, mode: str) -> None:
        """Write no rows in no partitions, of which comes a directory without a file of rows."""
        none = self._spark.createDataFrame([], "value string, part int")
        with _named("written", path):
            none.write.partitionBy("part").mode(mode).text(path)

    def _found(
        self, done: str, path: str, *columns: str | Column, limit: int | None = None
    ) -> pa.Table | None:
        """Return columns of ``binaryFile`` of all files at `path`; None if there are none."""
        files = self._spark.read.format("binaryFile").option("recursiveFileLookup", "true")
        with _named(done, path):
            try:
                chosen: DataFrame = files.load(path).select(*columns)
                found = (chosen if limit is None else chosen.limit(limit)).toArrow()
            except AnalysisException as error:
                if error.getCondition() == "PATH_NOT_FOUND":
                    return None
                raise
        return found if len(found) else None


def _relative(path: str, found: pa.Table) -> list[str]:
    """Return the paths of files from the directory `path` on."""
    inside = f"/{path.partition(':')[2] or path}/".replace("//", "/").replace("/./", "/")
    return [full[full.rindex(inside) + len(inside) :] for full in found["path"].to_pylist()]


def _write(stream: Any, content: bytes) -> None:
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


def _unless_exists(action: Callable[[], Any]) -> Any:
    """Return the result of an action, None if it failed because its target exists."""
    try:
        return action()
    except Py4JJavaError as error:
        if "FileAlreadyExists" in str(error.java_exception):
            return None
        raise


@contextmanager
def _named(done: str, path: str) -> Iterator[None]:
    """Turn a Java exception into a FileSystemError that names `path` and the action."""
    try:
        yield
    except Py4JJavaError as error:
        exception = error.java_exception
        cause = exception.getMessage() or exception.getClass().getSimpleName()
        raise FileSystemError(f"{path} cannot be {done}: {' '.join(cause.split())}") from None
    except PySparkException as error:
        if ended(error, error.__context__):
            raise
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        cause = re.sub(r"^\(\S+\) ", "", cause)  # the class of an exception of the server
        raise FileSystemError(f"{path} cannot be {done}: {cause}") from None


def _unwritable(path: str, error: FileSystemError) -> FileSystemError:
    """Return the sentence on a directory, with the reason alone of what Java says of a file."""
    cause = str(error).partition(" cannot be written: ")[2] or str(error)
    cause = re.sub(r".*\(([^()]+)\)$", r"\1", cause)
    return FileSystemError(f"{path} cannot be written ({cause}): name another directory")


@contextmanager
def temporary_directory() -> Iterator[str]:
    """Yield a directory of this machine, whose disk may be full."""
    try:
        with TemporaryDirectory() as local:
            yield local
    except OSError as error:
        cause = DISK_FULL if DISK_FULL in str(error) else error.strerror or str(error)
        raise FileSystemError(
            f"the temporary directory {gettempdir()} cannot be written: {cause}: free some space "
            "there, or name another one by TMPDIR"
        ) from None


def write_checksums(
    spark: SparkSession, path: str, *, deep: bool = True, without: Collection[str] = ()
) -> None:
    """Write `CHECKSUMS` of a directory, as the last file.

    Each file is read once, on the driver, for its digest.  Files that Spark ignores, those in
    `without`, and unless `deep` those in subdirectories, are left out.
    """
    files = FileSystem(spark, path)
    entries = {
        name: {"bytes": size, "sha256": files.sha256(f"{path}/{name}")}
        for name, size in saved_files(files, path).items()
        if (deep or "/" not in name) and name not in without
    }
    files.write_text(f"{path}/{CHECKSUMS}", json.dumps({"files": entries}, indent=1) + "\n")


def verify(spark: SparkSession, path: str) -> None:
    """Compare all files of a directory with its checksums; sizes first, then digests."""
    verify_files(FileSystem(spark, path), path)


def read_verified(spark: SparkSession, path: str, name: str) -> str:
    """Return the text of one small file of a directory with checksums; raise ChecksumError."""
    files = FileSystem(spark, path)
    expected = checksums_of(files, path)
    try:
        text = files.read_text(f"{path}/{name}")
        same = hashlib.sha256(text.encode()).hexdigest() == expected[name]["sha256"]
    except (FileSystemError, KeyError) as error:
        raise ChecksumError(f"{path}/{name} cannot be read: {error}") from None
    if not same:
        raise ChecksumError(f"{path}/{name} is damaged: its checksum differs")
    return text


@contextmanager
def publish(spark: SparkSession, path: str, *, replace: bool = True) -> Iterator[str]:
    """Yield an empty temporary directory that takes the place of `path` once it is complete.

    What was at `path` stays until then, and for good if the block raises.  A killed process leaves
    the temporary directory, or between two renames the old one; the next writer clears up.  Over
    Spark Connect, which renames nothing, it is `path` itself, emptied.

    Examples
    --------
    >>> with publish(spark, "tables/latest") as directory:
    ...     ratings.write.parquet(f"{directory}/ratings")
    >>> FileSystem(spark, "tables").names("tables/latest")
    ['ratings']
    """
    files = FileSystem(spark, path)
    files.sweep(*files.parent(path))
    if not files.renames:
        if not replace and files.exists(path):
            raise ConcurrencyError(f"{path} cannot be written: it exists")
        files.make_directory(path)
        yield path
        return
    temporary = files.sibling(path)
    try:
        files.make_directory(temporary)
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
        files.rename(temporary, path)  # another process has removed it
        return
    try:
        files.rename(temporary, path)
    except ConcurrencyError:  # another process has replaced it
        files.delete(old)
        raise
    except BaseException:  # Ctrl-C, too
        with suppress(FileSystemError):  # the new one is in place
            files.rename(old, path)
        raise
    try:
        files.delete(old)
    except FileSystemError as error:
        # The new directory is in place: this is no failure.
        _logger.warning("the old directory of %s could not be removed: %s", path, error)
