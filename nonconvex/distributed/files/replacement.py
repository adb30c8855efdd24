"""Small files replaced whole, wherever they are: who reads one finds the old text or the new."""

from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from nonconvex.distributed.files.hadoop import FileSystem, FileSystemError, java_class

__all__ = ["replace_text"]


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
