"""Raw tables: Parquet, CSV or JSON lines, whole or a window of daily directories."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType, StructField, StructType

from nonconvex.distributed.connect import Py4JJavaError
from nonconvex.distributed.files import FileSystem

_logger = logging.getLogger("nonconvex")

FORMATS = ("parquet", "csv", "json")
"""The formats of files; in "json", every line is one object."""

_EXTENSIONS = {**{name: name for name in FORMATS}, "tsv": "csv", "jsonl": "json", "ndjson": "json"}
_COMPRESSIONS = ("gz", "bz2", "zst", "lz4", "snappy")
_WILDCARDS = re.compile(r"[*?\[\]{}\\]")
_MALFORMED = "_corrupt_record"
_REPLACEMENT = "\ufffd"
# An object after the end of another one, where no string is open; half of a surrogate pair.  In
# both, nothing that was matched is given back, so they are linear in the length of a line.
_JOINED = r"""(?s)^(?:[^"}]|"(?:[^"\\]|\\.)*+"|\}(?!\s*+\{))*+\}\s*+\{"""
_HALF = (
    r"(?si)^(?:[^\\]|\\[^u]|\\u(?!d[89a-f])|\\ud[89ab]\p{XDigit}{2}\\ud[c-f]\p{XDigit}{2})*+"
    r"\\ud[89a-f]"
)


class WindowError(ValueError):
    """A day without data."""

    exit_status = 3


class Window(NamedTuple):
    """The last days of a table in directories ``<column>=<YYYY-MM-DD>``."""

    column: str  # what the directories are named by
    until: date  # the last day, which must be there
    days: int  # how many days, at least 1, the last one among them; others may be missing

    def directories(self, path: str, names: Collection[str]) -> list[str]:
        """Return those of `names` that are in the window, ascending; the last day must be there."""
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


class SourceError(ValueError):
    """Files that are missing or cannot be read."""

    exit_status = 3


@dataclass(frozen=True)
class Source:
    """Rows as they are in files."""

    rows: DataFrame  # every column of the files; in the text formats all of them strings
    path: str  # where the files are
    format: str  # one of `FORMATS`
    # in the text formats, the column of `rows` with the whole line if it could not be parsed, else
    # null
    malformed: str | None = None

    @property
    def text(self) -> bool:
        """True if all columns are strings."""
        return self.format != "parquet"

    @property
    def position(self) -> Column:
        """Position of a row: file, start of the split of the file, row.

        Ordered by file name and by place in the file, however Spark splits the files: one task
        reads a split from start to end.
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
    r"""Open files lazily; fields of CSV are separated by tabs in ``.tsv``, else by commas.

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
    # An existing path is no pattern, whatever its characters.
    pattern = _literally(path) if there else path
    if days:
        pattern = f"{pattern}/{{{','.join(map(_literally, days))}}}"
        path = f"{path}/{days[0]}" + (f" to {days[-1]}" if days[1:] else "")
    with reading(path, format):
        separator = separator or ("\t" if extension == "tsv" else ",")
        partitions = files.partitions(pattern)
        if format == "parquet":
            refuse_empty_files(files, pattern)
        else:
            _refuse_open_lines(spark, pattern, path, format, separator)
        if partitions:
            inside = spark.read.option("recursiveFileLookup", True)
            inside = inside.option("header", True).option("sep", separator)
            _refuse_hidden(inside.format(format).load(pattern).columns, partitions, path)
        if format == "parquet":
            return Source(spark.read.parquet(pattern), path, format)
        return Source(_read_text(spark, pattern, format, separator), path, format, _MALFORMED)


def is_undecodable(text: Column) -> Column:
    """Hold where a string has bytes that are not UTF-8, or what Spark has read in their place."""
    return ~F.is_valid_utf8(text) | F.contains(text, F.lit(_REPLACEMENT))


def is_nested(text: Column) -> Column:
    """Hold where the string that Spark has read for a value of JSON is an object or a list."""
    return F.json_object_keys(text).isNotNull() | F.json_array_length(text).isNotNull()


def _refuse_open_lines(
    spark: SparkSession, pattern: str, path: str, format: str, separator: str
) -> None:
    """Refuse text in which it is not known where a row or a character ends.

    Spark splits text into lines before it looks at quotes, and reads the first object of a line.
    """
    line = F.col("value")
    if format == "json":
        suspect = line.rlike(_JOINED) | line.rlike(_HALF)
        remedy = "has half of a character, or two objects: write one object in each line, in UTF-8"
    else:
        suspect = F.contains(line, F.lit('"')) & line.rlike(_open_quote(separator))
        remedy = (
            "opens a quote that it does not close: write each row in one line, and the quotes in "
            "a field twice, or write Parquet"
        )
    open_line = spark.read.text(pattern).where(suspect).select(F.substring(line, 1, 40)).first()
    if open_line is not None:
        raise SourceError(f"{path} cannot be read as {format}: a line, {open_line[0]!r}, {remedy}")


def _open_quote(separator: str) -> str:
    """Return a pattern, linear in the length of a line, of lines whose last field stays open."""
    end = re.escape(separator)
    rest = f"(?:(?!{end}).)*+"
    quoted = '"[^"]*+(?:""[^"]*+)*+'
    return f'(?s)^(?:(?:{quoted}"{rest}|(?!"){rest}){end})*+{quoted}$'


def _refuse_hidden(columns: Collection[str], partitions: Collection[str], path: str) -> None:
    """Refuse columns that directories give and files have, too: Spark would take the former."""
    hidden = {name.lower() for name in columns} & {name.lower() for name in partitions}
    if hidden:
        name = min(hidden)
        raise SourceError(
            f"{path} has a column {name!r} in its files and in the names {name}=… of its "
            f"directories, which may differ: read {path}/* for that of the files, or drop one"
        )


def refuse_empty_files(files: FileSystem, pattern: str) -> None:
    """Refuse Parquet files of 0 bytes: failed copies, which Spark would skip."""
    empty = files.empty_files(pattern)
    if empty:
        more = f" and {len(empty) - 1:,} more files have" if empty[1:] else " has"
        raise SourceError(
            f"{empty[0]}{more} 0 bytes, which is no Parquet: write it again, or delete it"
        )


@contextmanager
def reading(path: str, format: str) -> Iterator[None]:
    """Turn Spark's exceptions about reading into one sentence of SourceError."""
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
    # With pruning, the selected columns would decide which lines are malformed.  A file with
    # another order of columns must not be read in the order of the first.
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
    """Return the first paragraph of a message of Spark, without its codes."""
    message = " ".join(message.partition("\n\n")[0].split()).rstrip(":")
    return re.sub(r"^\[[A-Z_.0-9]+\] | SQLSTATE: \w+$", "", message)
