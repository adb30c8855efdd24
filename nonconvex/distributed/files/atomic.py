"""Directories that are published whole and verified before they are used.

Checksums detect corruption and truncation, not tampering: whoever can replace the files can replace
their checksums.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession

from nonconvex.distributed.files.hadoop import ConcurrencyError, FileSystem, FileSystemError

CHECKSUMS = "checksums.json"
"""The file with the size, and the SHA-256 if wanted, of every other file of a directory."""

_logger = logging.getLogger("nonconvex")


class ChecksumError(ValueError):
    """A directory whose files differ from those that were written."""

    exit_status = 3


def write_checksums(
    spark: SparkSession,
    path: str,
    *,
    deep: bool = True,
    digests: bool = True,
    without: Collection[str] = (),
) -> None:
    """Write `CHECKSUMS` of a directory, as the last file.

    Each file is read once, on the driver, for its digest.  Files that Spark ignores, those in
    `without`, and unless `deep` those in subdirectories, are left out.

    Examples
    --------
    >>> files = FileSystem(spark, "sealed")
    >>> files.write_text("sealed/model.json", "[1, 2]")
    >>> write_checksums(spark, "sealed")
    >>> files.write_text("sealed/model.json", "[1, 3]")
    >>> verify(spark, "sealed")
    Traceback (most recent call last):
    ChecksumError: sealed/model.json is damaged: its checksum differs
    """
    files = FileSystem(spark, path)
    entries = {
        name: {"bytes": size, "sha256": files.sha256(f"{path}/{name}") if digests else None}
        for name, size in _files(files, path).items()
        if (deep or "/" not in name) and name not in without
    }
    files.write_text(f"{path}/{CHECKSUMS}", json.dumps({"files": entries}, indent=1) + "\n")


def verify(spark: SparkSession, path: str) -> None:
    """Compare all files of a directory with its checksums; sizes first, then digests."""
    files = FileSystem(spark, path)
    expected, found = _checksums(files, path), _files(files, path)
    different = sorted(expected.keys() ^ found.keys())
    if different:
        what = "lacks" if different[0] in expected else "has, though it was not saved,"
        raise ChecksumError(f"{path} {what} {different[0]}")
    for name, size in found.items():
        if size != expected[name]["bytes"]:
            raise ChecksumError(
                f"{path}/{name} is damaged: it has {size:,} bytes, not {expected[name]['bytes']:,}"
            )
    for name in found:
        digest = expected[name]["sha256"]
        try:
            same = digest is None or files.sha256(f"{path}/{name}") == digest
        except FileSystemError as error:  # on local disks Hadoop has checksums of its own
            raise ChecksumError(str(error)) from None
        if not same:
            raise ChecksumError(f"{path}/{name} is damaged: its checksum differs")


def read_verified(spark: SparkSession, path: str, name: str) -> str:
    """Return the text of one small file of a directory with checksums; raise ChecksumError."""
    files = FileSystem(spark, path)
    expected = _checksums(files, path)
    try:
        text = files.read_text(f"{path}/{name}")
        same = hashlib.sha256(text.encode()).hexdigest() == expected[name]["sha256"]
    except (FileSystemError, KeyError) as error:
        raise ChecksumError(f"{path}/{name} cannot be read: {error}") from None
    if not same:
        raise ChecksumError(f"{path}/{name} is damaged: its checksum differs")
    return text


def _files(files: FileSystem, path: str) -> dict[str, int]:
    return {
        name: size
        for name, size in files.sizes(path).items()
        if name != CHECKSUMS and not any(part[0] in "_." for part in name.split("/"))
    }


def _checksums(files: FileSystem, path: str) -> dict[str, dict[str, Any]]:
    damaged = f"{path}/{CHECKSUMS} is damaged"
    try:
        expected = json.loads(files.read_text(f"{path}/{CHECKSUMS}"))["files"]
        return {
            str(name): {key: entry[key] for key in ("bytes", "sha256")}
            for name, entry in expected.items()
        }
    except FileSystemError as error:
        raise ChecksumError(f"{path} has no readable {CHECKSUMS}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ChecksumError(damaged) from None


@contextmanager
def publish(spark: SparkSession, path: str, *, replace: bool = True) -> Iterator[str]:
    """Yield an empty temporary directory that takes the place of `path` once it is complete.

    What was at `path` stays until then, and for good if the block raises.  A killed process leaves
    the temporary directory, or between two renames the old one; the next writer clears up.

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
        files.rename(temporary, path)  # another process has removed it
        return
    try:
        files.rename(temporary, path)
    except ConcurrencyError:  # another process has replaced it
        files.delete(old)
        raise
    except FileSystemError:
        files.rename(old, path)
        raise
    try:
        files.delete(old)
    except FileSystemError as error:
        # The new directory is in place: this is no failure.
        _logger.warning("the old directory of %s could not be removed: %s", path, error)
