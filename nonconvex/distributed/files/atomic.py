"""Checksums of the files in a directory: written when it is complete, compared before it is used.

They tell damage, by a disk or a copy that was cut off, from what was written.  They do not tell
who wrote it: whoever can replace the files can replace their checksums, too.

Small files replaced whole, wherever they are: who reads one finds the old text or the new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from nonconvex.distributed.files.hadoop import FileSystem, FileSystemError, java_class

__all__ = ["CHECKSUMS", "ChecksumError", "read_sealed", "replace_text", "seal", "verify"]

CHECKSUMS = "checksums.json"
"""The file that says how long every other file of a directory is, and what its SHA-256 is."""


class ChecksumError(ValueError):
    """A directory whose files are not those that were written."""

    exit_status = 3


def seal(
    spark: SparkSession, path: str, *, deep: bool = True, without: Collection[str] = ()
) -> None:
    """Write the checksums of a directory, the last thing that is written to it.

    They are computed where the driver's Java is, from one reading of every file.  Files whose name,
    or whose directory's name, begins with ``_`` or ``.`` are left out: Spark does not read them.

    Parameters
    ----------
    spark : SparkSession
    path : str
    deep : bool
        Whether directories in it count, too.
    without : collection of str
        Files that are left out.

    Examples
    --------
    >>> files = FileSystem(spark, "sealed")
    >>> files.write_text("sealed/model.json", "[1, 2]")
    >>> seal(spark, "sealed")
    >>> files.write_text("sealed/model.json", "[1, 3]")
    >>> verify(spark, "sealed")
    Traceback (most recent call last):
        ...
    nonconvex.distributed.files.atomic.ChecksumError: sealed/model.json is damaged: its checksum is
    another one
    """
    files = FileSystem(spark, path)
    said = {
        name: {"bytes": size, "sha256": files.sha256(f"{path}/{name}")}
        for name, size in _files(files, path).items()
        if (deep or "/" not in name) and name not in without
    }
    files.write_text(f"{path}/{CHECKSUMS}", json.dumps({"files": said}, indent=1) + "\n")


def verify(spark: SparkSession, path: str) -> None:
    """Compare all files of a directory with its checksums.

    Sizes are compared first, so that a file that was cut off costs nothing; then every file is
    read once.

    Raises
    ------
    ChecksumError
        If a file is missing, is there without having been written, or is another one.
    """
    files = FileSystem(spark, path)
    said, there = _said(files, path), _files(files, path)
    different = sorted(said.keys() ^ there.keys())
    if different:
        what = "lacks" if different[0] in said else "has, though it was not saved,"
        raise ChecksumError(f"{path} {what} {different[0]}")
    for name, size in there.items():
        if size != said[name]["bytes"]:
            raise ChecksumError(
                f"{path}/{name} is damaged: it has {size:,} bytes and not {said[name]['bytes']:,}"
            )
    for name in there:
        try:
            same = files.sha256(f"{path}/{name}") == said[name]["sha256"]
        except FileSystemError as error:  # on local disks Hadoop has checksums of its own
            raise ChecksumError(str(error)) from None
        if not same:
            raise ChecksumError(f"{path}/{name} is damaged: its checksum is another one")


def read_sealed(spark: SparkSession, path: str, name: str) -> str:
    """Return the text of one small file of a directory that was sealed.

    Raises
    ------
    ChecksumError
        If it is not there, or not what was written.
    """
    files = FileSystem(spark, path)
    said = _said(files, path)
    try:
        text = files.read_text(f"{path}/{name}")
        same = hashlib.sha256(text.encode()).hexdigest() == said[name]["sha256"]
    except (FileSystemError, KeyError) as error:
        raise ChecksumError(f"{path}/{name} cannot be read: {error}") from None
    if not same:
        raise ChecksumError(f"{path}/{name} is damaged: its checksum is another one")
    return text


def _files(files: FileSystem, path: str) -> dict[str, int]:
    return {
        name: size
        for name, size in files.sizes(path).items()
        if name != CHECKSUMS and not any(part[0] in "_." for part in name.split("/"))
    }


def _said(files: FileSystem, path: str) -> dict[str, dict[str, Any]]:
    try:
        said = json.loads(files.read_text(f"{path}/{CHECKSUMS}"))["files"]
        return {
            str(name): {"bytes": one["bytes"], "sha256": one["sha256"]}
            for name, one in said.items()
        }
    except FileSystemError as error:
        raise ChecksumError(f"{path} has no {CHECKSUMS}, or one that is damaged: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ChecksumError(f"{path}/{CHECKSUMS} is damaged") from None


def replace_text(spark: SparkSession, path: str, text: str) -> None:
    """Write a small file over the one that may be there, so that no reader sees a part of it.

    Raises
    ------
    FileSystemError
        If it cannot be written; what was there is then there still.
    """
    try:
        _replace(spark, path, text)
    except Py4JJavaError as error:
        cause = " ".join(str(error.java_exception).split())
        raise FileSystemError(f"{path} cannot be replaced: {cause}") from None


def _replace(spark: SparkSession, path: str, text: str) -> None:
    context: Any = spark.sparkContext
    as_path = java_class(context._jvm, "org.apache.hadoop.fs.Path")
    target = as_path(path)
    files = target.getFileSystem(context._jsc.hadoopConfiguration())
    scheme = files.getUri().getScheme()
    if scheme not in _RENAME_OVER:
        _write(files, target, text)
        return
    if scheme == "file":
        files = files.getRaw()  # the other one adds a file of checksums, renamed a moment later
    temporary = as_path(FileSystem(spark, path).sibling(path))
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
    options = java_class(context._jvm, "org.apache.hadoop.fs.Options").Rename
    overwrite = context._gateway.new_array(options, 1)
    overwrite[0] = options.OVERWRITE
    configuration = context._jsc.hadoopConfiguration()
    contexts = java_class(context._jvm, "org.apache.hadoop.fs.FileContext")
    contexts.getFileContext(files.getUri(), configuration).rename(path, target, overwrite)


# Elsewhere nothing renames over a file at once, and a file is shown when it is closed.
_RENAME_OVER = {"file": _rename_local, "hdfs": _rename_over}
