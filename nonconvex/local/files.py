"""Directories without Spark, and the check that a directory holds what was written to it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

CHECKSUMS = "checksums.json"
"""The file with the size, and the SHA-256 if wanted, of every other file of a directory."""


class ChecksumError(ValueError):
    """A directory whose files differ from those that were written."""

    exit_status = 3


class Files(Protocol):
    """A file system of local disks, Hadoop or pyarrow."""

    @property
    def failure(self) -> type[Exception]:
        """The type of its errors."""

    def sizes(self, path: str) -> dict[str, int]:
        """Return the size of each file under a directory, by its path from there."""

    def sha256(self, path: str) -> str:
        """Return the digest of a file."""

    def read_text(self, path: str) -> str:
        """Return a file."""


def verify_files(files: Files, path: str) -> None:
    """Compare all files of a directory with its checksums; sizes first, then digests."""
    expected, found = checksums_of(files, path), saved_files(files, path)
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
        except files.failure as error:  # on local disks Hadoop has checksums of its own
            raise ChecksumError(str(error)) from None
        if not same:
            raise ChecksumError(f"{path}/{name} is damaged: its checksum differs")


def saved_files(files: Files, path: str) -> dict[str, int]:
    """Return the sizes of the files that checksums are of: all that Spark does not ignore."""
    return {
        name: size
        for name, size in files.sizes(path).items()
        if name.partition("/")[0] != CHECKSUMS
        and not any(part[0] in "_." for part in name.split("/"))
    }


def parse_json(text: str) -> Any:
    """Read JSON of a file; nesting that is too deep is a `ValueError`, as other damage is.

    >>> parse_json('{"rank": [10]}')
    {'rank': [10]}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON that is nested too deep") from None


def checksums_of(files: Files, path: str) -> dict[str, dict[str, Any]]:
    """Read the checksums of a directory."""
    try:
        expected = parse_json(files.read_text(f"{path}/{CHECKSUMS}"))["files"]
        return {
            str(name): {key: entry[key] for key in ("bytes", "sha256")}
            for name, entry in expected.items()
        }
    except files.failure as error:
        raise ChecksumError(f"{path} has no readable {CHECKSUMS}: {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ChecksumError(f"{path}/{CHECKSUMS} is damaged") from None


@dataclass(frozen=True)
class Directory:
    """A directory of a file system that pyarrow reads; paths are those in that system."""

    system: fs.FileSystem
    path: str

    failure: ClassVar = OSError

    @classmethod
    def at(cls, path: str) -> Directory:
        """Find the file system of a path or a URI."""
        if "://" in path or path.startswith("file:"):
            return cls(*fs.FileSystem.from_uri(path))
        return cls(fs.LocalFileSystem(), path.rstrip("/") or "/")

    def of(self, name: str) -> Directory:
        """Return a directory in this one."""
        return Directory(self.system, f"{self.path}/{name}")

    def exists(self, name: str) -> bool:
        """Tell whether there is a file or a directory of that name."""
        found = self.system.get_file_info(f"{self.path}/{name}")
        return bool(found.type != fs.FileType.NotFound)

    def sizes(self, path: str) -> dict[str, int]:
        """Return the size of each file under a directory, by its path from there."""
        found = self.system.get_file_info(fs.FileSelector(path, recursive=True))
        length = len(fs.LocalFileSystem().normalize_path(path)) + 1
        return {one.path[length:]: one.size for one in found if one.type == fs.FileType.File}

    def sha256(self, path: str) -> str:
        """Return the digest of a file."""
        with self.system.open_input_stream(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read_text(self, path: str) -> str:
        """Return a file, or the only one in a directory of Spark."""
        if self.system.get_file_info(path).type != fs.FileType.File:  # nor a pipe, which blocks
            path = f"{path}/{min(name for name in self.sizes(path) if name[0] not in '_.')}"
        with self.system.open_input_stream(path) as file:
            return str(file.read().decode())

    def read_end(self, path: str, count: int) -> bytes:
        """Return the last bytes of a file, at most `count`."""
        with self.system.open_input_file(path) as file:
            file.seek(max(0, file.size() - count))
            return bytes(file.read())

    def read_table(self, name: str) -> pa.Table:
        """Read all Parquet files of a directory of this one."""
        path = f"{self.path}/{name}"
        files = sorted(one for one in saved_files(self, path) if one.endswith(".parquet"))
        if not files:
            raise FileNotFoundError(f"{path} has no Parquet files")
        tables = []
        for file in files:
            with self.system.open_input_file(f"{path}/{file}") as source:
                tables.append(pq.ParquetFile(source).read())
        return pa.concat_tables(tables)
