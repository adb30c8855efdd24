"""Files of ratings or examples: Parquet, CSV or JSON lines, read with every column they have.

Windows of days over tables that have a directory for each day.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from nonconvex.distributed.files.hadoop import FileSystem

__all__ = [
    "FORMATS",
    "Source",
    "SourceError",
    "Window",
    "WindowError",
    "read_source",
    "reading",
    "refuse_empty_files",
]

_logger = logging.getLogger("nonconvex")


class WindowError(ValueError):
    """A day without data; the message says which."""

    exit_status = 3


class Window(NamedTuple):
    """The last days of a table in directories ``<column>=<YYYY-MM-DD>``.

    Attributes
    ----------
    column : str
        What the directories are named by.
    until : date
        The last day, which must be there.
    days : int
        How many days, at least 1, the last one among them; others may be missing.
    """

    column: str
    until: date
    days: int

    def directories(self, path: str, names: Collection[str]) -> list[str]:
        """Return the directories of the window that are there, the first day first.

        Parameters
        ----------
        path : str
            Where the table is, for the message.
        names : collection of str
            What is in the directory of the table.

        Raises
        ------
        WindowError
            If the last day is not among them.

        Examples
        --------
        >>> window = Window("date", date(2026, 3, 1), 3)
        >>> window.directories("ratings", ["date=2026-02-26", "date=2026-02-28", "date=2026-03-01"])
        ['date=2026-02-28', 'date=2026-03-01']
        """
        days = [self.until - timedelta(days=back) for back in reversed(range(self.days))]
        wanted = [f"{self.column}={day.isoformat()}" for day in days]
        there = [name for name in wanted if name in names]
        if wanted[-1] not in there:
            dated = sorted(name for name in names if name.startswith(f"{self.column}="))
            last = f"the last one is {dated[-1]}" if dated else "it has no directory of a day"
            raise WindowError(
                f"{path} has no {wanted[-1]}, {last}: wait until that day is there, or give "
                "another --run-date"
            )
        _logger.info("%s: %d of %d days", path, len(there), len(wanted))
        return there


FORMATS = ("parquet", "csv", "json")
"""The formats of files; in "json", every line is one object."""

_EXTENSIONS = {
    "parquet": "parquet",
    "csv": "csv",
    "tsv": "csv",
    "json": "json",
    "jsonl": "json",
    "ndjson": "json",
}
_COMPRESSIONS = ("gz", "bz2", "zst", "lz4", "snappy")
_WILDCARDS = re.compile(r"[*?\[\]{}\\]")
_MALFORMED = "_corrupt_record"


class SourceError(ValueError):
    """Files that are not there, or cannot be read; the message says which, and why."""

    exit_status = 3


@dataclass(frozen=True)
class Source:
    """Rows as files have them.

    Parameters
    ----------
    rows : DataFrame
        Every column of the files; in the text formats all of them strings.
    path : str
        Where the files are.
    format : str
        One of `FORMATS`.
    malformed : str, optional
        In the text formats, the column of `rows` that has a line as it stands if the line could
        not be parsed, and else null.
    """

    rows: DataFrame
    path: str
    format: str
    malformed: str | None = None

    @property
    def text(self) -> bool:
        """Whether the format is one of text, in which numbers are strings."""
        return self.format != "parquet"

    @property
    def position(self) -> Column:
        """Where a row of `rows` is in the files: file, start of the part of the file, row.

        The order of these is the order of the files by name and of the rows in them, however the
        files are cut into tasks: a part of a file is read by one task, from its start to its end.
        """
        metadata = self.rows.metadataColumn("_metadata")
        return F.struct(
            metadata.getField("file_path").alias("file"),
            metadata.getField("file_block_start").alias("start"),
            F.monotonically_increasing_id().alias("row"),
        )


def read_source(
    spark: SparkSession,
    path: str,
    *,
    format: str | None = None,
    separator: str | None = None,
    window: Window | None = None,
) -> Source:
    r"""Read files, without looking at their rows yet.

    Parameters
    ----------
    spark : SparkSession
        The session that reads.
    path : str
        A file, a directory or a pattern with wildcards.
    format : {"parquet", "csv", "json"}, optional
        By default what the extension of the path, or of the first file in the directory, says.
        CSV files begin with a line of column names; fields may be in double quotes, and double
        quotes inside them are doubled. JSON files have one object in a line.
    separator : str, optional
        What stands between the fields of CSV: by default a tab in ``.tsv``, else a comma.
    window : Window, optional
        The path is a directory of directories of days, of which these are read.

    Returns
    -------
    Source

    Raises
    ------
    SourceError
        If there is nothing at the path, its format is unknown or it cannot be read, or if a file
        of Parquet has 0 bytes.
    WindowError
        If the last day of the window is not there.

    Examples
    --------
    >>> FileSystem(spark, ".").write_text("ratings.csv", "user;item;rating\nann;1;5\nbob;1\n")
    >>> source = read_source(spark, "ratings.csv", separator=";")
    >>> source.rows.show()
    +----+----+------+---------------+
    |user|item|rating|_corrupt_record|
    +----+----+------+---------------+
    | ann|   1|     5|           NULL|
    | bob|   1|  NULL|          bob;1|
    +----+----+------+---------------+
    """
    files = FileSystem(spark, path)
    there = files.exists(path)
    if not there and not _WILDCARDS.search(path):
        raise SourceError(f"there is nothing at {path}: no such file or directory")
    extension = _known_extension(path)
    days = []
    if window is not None:
        if not there:
            raise SourceError(f"there is no directory {path} with a directory for each day in it")
        days = window.directories(path, files.names(path))
    if extension is None and there:
        names = (
            name
            for place in ([f"{path}/{day}" for day in days] or [path])
            for name in files.names(place)
            if not name.startswith(("_", "."))
        )
        extension = next(filter(None, map(_known_extension, names)), None)
    if format is None and extension is None:
        raise SourceError(
            f"the format of {path} cannot be told from its name: set it to {' or '.join(FORMATS)}"
        )
    format = format or _EXTENSIONS[str(extension)]
    if format not in FORMATS:
        raise SourceError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    # What is there under this very name is no pattern, whatever characters the name has.
    pattern = _literally(path) if there else path
    if days:
        pattern = f"{pattern}/{{{','.join(map(_literally, days))}}}"
        path = f"{path}/{days[0]}" + (f" to {days[-1]}" if days[1:] else "")
    with reading(path, format):
        if format == "parquet":
            refuse_empty_files(files, pattern)
            return Source(spark.read.parquet(pattern), path, format)
        separator = separator or ("\t" if extension == "tsv" else ",")
        return Source(_read_text(spark, pattern, format, separator), path, format, _MALFORMED)


def refuse_empty_files(files: FileSystem, pattern: str) -> None:
    """Refuse Parquet of which a file has 0 bytes: a copy that failed, which Spark would leave out.

    Raises
    ------
    SourceError
        If there is one; the message names it.
    """
    empty = files.empty_files(pattern)
    if empty:
        more = f" and {len(empty) - 1:,} more files have" if empty[1:] else " has"
        raise SourceError(
            f"{empty[0]}{more} 0 bytes, which is no Parquet: write it again, or delete it"
        )


@contextmanager
def reading(path: str, format: str) -> Iterator[None]:
    """Turn what Spark says of files it cannot read into one sentence.

    Parameters
    ----------
    path : str
        Where the files are.
    format : str
        What they are read as.

    Raises
    ------
    SourceError
        Instead of the exceptions about reading; others pass.
    """
    try:
        yield
    except PySparkException as error:
        if error.getCondition() == "PATH_NOT_FOUND":
            raise SourceError(f"there is nothing at {path}: no such file or directory") from None
        raise SourceError(f"{path} cannot be read as {format}: {_sentence(str(error))}") from None
    except Py4JJavaError as error:
        cause = error.java_exception
        if "FAILED_READ_FILE" not in str(cause.getMessage()):
            raise
        file = re.search(r"([^/\s]+?)\.?\s+SQLSTATE", str(cause.getMessage()))
        while cause.getCause() is not None:
            cause = cause.getCause()
        message = cause.getMessage() or cause.getClass().getSimpleName()
        if file is not None and file[1] not in message:
            message = f"{file[1]}: {message}"
        raise SourceError(f"{path} cannot be read as {format}: {_sentence(message)}") from None


def _read_text(spark: SparkSession, pattern: str, format: str, separator: str) -> DataFrame:
    """Return all columns as strings, so that 1, "1" and 12345678901234567890 stay what they are."""
    if format == "json":
        found = spark.read.json(pattern, primitivesAsString=True).schema
        fields = [field for field in found if field.name != _MALFORMED]
    else:
        header = spark.read.csv(pattern, header=True, sep=separator, escape='"').columns
        fields = [StructField(name, StringType()) for name in header]
    schema = StructType([*fields, StructField(_MALFORMED, StringType())])
    reader = spark.read.schema(schema).option("columnNameOfCorruptRecord", _MALFORMED)
    if format == "json":
        return reader.json(pattern, primitivesAsString=True)
    # Pruned columns are not parsed, and what is malformed would depend on what is selected; a
    # file whose header has another order must not be read as if it had the order of the first.
    reader = reader.option("columnPruning", False).option("enforceSchema", False)
    return reader.csv(pattern, header=True, sep=separator, escape='"')


def _literally(name: str) -> str:
    return _WILDCARDS.sub(r"\\\g<0>", name)


def _known_extension(name: str) -> str | None:
    parts = name.lower().rstrip("/*").split(".")
    if parts[-1] in _COMPRESSIONS:
        parts.pop()
    return parts[-1] if parts[-1] in _EXTENSIONS else None


def _sentence(message: str) -> str:
    """Return a message of Spark without the codes around it, and no more than one paragraph."""
    message = " ".join(message.partition("\n\n")[0].split()).rstrip(":")
    return re.sub(r"^\[[A-Z_.0-9]+\] | SQLSTATE: \w+$", "", message)
