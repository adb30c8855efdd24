"""Sessions of Spark Connect, which have no SparkContext and no JVM in this process.

Everything that a classic session does by RDDs, broadcasts and Java is done here by dataframes: a
value travels to the workers in the closure of a task, or beyond `CLOSURE_BYTES` as a file of the
session.
"""

from __future__ import annotations

import pickle
import re
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex import __version__

try:
    from py4j.protocol import Py4JError as Py4JError
    from py4j.protocol import Py4JJavaError as Py4JJavaError
except ImportError:  # of pyspark-client, which has no Java

    class Py4JError(Exception):  # type: ignore[no-redef]
        """An error that does not occur."""

    Py4JJavaError = Py4JError


CLOSURE_BYTES = 32 << 20
"""Most bytes of a value in the closure of a task; a server takes messages of 128 MB."""

_RANGE = 1 << 16  # rows, more than there are cores

T = TypeVar("T")

_cores: WeakKeyDictionary[SparkSession, int] = WeakKeyDictionary()


class ConnectError(ValueError):
    """An operation that a session of Spark Connect does not have, or a server without nonconvex."""

    exit_status = 1


def refuse(what: str) -> ConnectError:
    """Return the error for an operation that needs RDDs or Java."""
    return ConnectError(f"{what}; Spark Connect has none, so use a session without remote()")


def server_cores(spark: SparkSession) -> int:
    """Return the number of tasks at once, by the partitions of a range: no setting can be read."""
    if spark not in _cores:
        placed = spark.range(_RANGE).select(F.spark_partition_id().alias("partition"))
        last = placed.agg(F.max("partition")).first()
        assert last is not None
        _cores[spark] = int(last[0]) + 1
    return _cores[spark]


class LocalValue(Generic[T]):
    """A value that is read in place, or travels in the closure of every task that reads it."""

    def __init__(self, value: T) -> None:
        self.value = value

    def destroy(self) -> None:
        """Do nothing: garbage collection frees the value."""


class FileValue(Generic[T]):
    """A value in a file of the session, which each Python worker reads once; it stays there."""

    def __init__(self, spark: SparkSession, value: T, content: bytes) -> None:
        self._name, self._held = f"nonconvex-{uuid.uuid4().hex}.pickle", value
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, self._name)
            path.write_bytes(content)
            spark.addArtifacts(str(path), file=True)

    @property
    def value(self) -> T:
        """The value, read on a worker."""
        value: T = self._held if "_held" in self.__dict__ else _read(self._name)
        return value

    def destroy(self) -> None:
        """Do nothing: Spark removes a file of a session with the session."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the name of the file alone."""
        return {"_name": self._name}


@lru_cache(maxsize=4)  # a worker lives as long as its session
def _read(name: str) -> Any:
    from pyspark import SparkFiles

    return pickle.loads(Path(SparkFiles.get(name)).read_bytes())


class _Answers(pickle.Unpickler):
    """Reader of what tasks send: arrays, and records and errors of this package, nothing else.

    A server that this process only talks to must not run code here.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return a class by its name; functions are only those that make arrays."""
        package = module.partition(".")[0]
        if package == "numpy" and name in ("_reconstruct", "_frombuffer", "scalar"):
            return super().find_class(module, name)
        if package in ("numpy", "nonconvex") and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and issubclass(found, _ANSWERS):
                return found
        raise ConnectError(f"the server sent a {module}.{name}, which no task of nonconvex sends")


_ANSWERS = (np.ndarray, np.dtype, tuple, Exception)


def answer_batch(result: Any) -> pa.RecordBatch:
    """Return a row with the result of a task, for `read_answers`."""
    content = pickle.dumps(result, protocol=5)
    return pa.RecordBatch.from_pydict({"answer": pa.array([content], pa.binary())})


def read_answers(frame: DataFrame, task: Callable[[Iterator[pa.RecordBatch]], Any]) -> list[Any]:
    """Run a task that yields `answer_batch` over a dataframe, and return the results."""
    found = frame.mapInArrow(task, "answer binary").toArrow()["answer"]
    return [_Answers(BytesIO(one.as_buffer())).load() for one in found]


def share(spark: SparkSession, value: T) -> LocalValue[T] | FileValue[T]:
    """Make a value available to tasks; the first time, see that the workers have this package."""
    check_workers(spark)
    content = pickle.dumps(value, protocol=5)
    if len(content) <= CLOSURE_BYTES:
        return LocalValue(value)
    return FileValue(spark, value, content)


_ENDED = re.compile(
    r"SparkConnect[\s\S]*"
    "(UNAVAILABLE|DEADLINE_EXCEEDED|INVALID_HANDLE|SESSION_CLOSED|NO_ACTIVE_SESSION)"
    r"|Unknown[\s\S]*\[INVALID_HANDLE\.SESSION"
)
SERVER_ENDED = (
    "the server of Spark Connect has ended or does not answer: open another session and start "
    "again; a fit with checkpointPath goes on from its last checkpoint"
)


def ended(error: BaseException | None, before: BaseException | None = None) -> bool:
    """Tell whether an error, or what it comes from since `before`, is the end of the server."""
    while error is not None and error is not before:
        code = getattr(error, "_grpc_status_code", "")
        if _ENDED.match(f"{type(error).__name__} {code} {error}"):
            return True
        error = error.__cause__ or error.__context__
    return False


def persist(frame: DataFrame) -> Callable[[], None]:
    """Persist a dataframe; return what unpersists it, unless its server has ended meanwhile."""
    before = sys.exc_info()[1]
    frame.persist()

    def release() -> None:  # where a block ends by an error, that is what `exc_info` has
        if not ended(sys.exc_info()[1], before):
            frame.unpersist()

    return release


def keep(frame: DataFrame) -> Callable[[], None]:
    """Persist what every pass of a fit reads, for workers that have this package."""
    check_workers(frame.sparkSession)
    try:
        return persist(frame)
    except PySparkException:
        raise ConnectError(
            "the server keeps no dataframes, as serverless ones do not, so nothing can be fitted "
            "there: set updates='driver', or gradients='driver' for a network"
        ) from None


_checked: WeakKeyDictionary[SparkSession, bool] = WeakKeyDictionary()


def check_workers(spark: SparkSession) -> None:
    """Raise `ConnectError` unless the server's Python workers have this version of the package."""
    if spark in _checked:
        return
    found = spark.range(1).mapInArrow(_version_task(), "version string").toArrow()["version"]
    if found[0].as_py() != __version__:
        what = f"nonconvex {found[0]}" if found[0].as_py() else "no nonconvex"
        raise ConnectError(
            f"the Python workers of the server have {what}, and this process has {__version__}: "
            "call nonconvex.session.ship(spark) once, or install this version there"
        )
    _checked[spark] = True


def ask_workers(spark: SparkSession, question: Callable[[], Any]) -> list[Any]:
    """Return the answers of some workers, a task for each core."""
    check_workers(spark)

    def answer(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield answer_batch(question())

    cores = server_cores(spark)
    return read_answers(spark.range(0, cores, numPartitions=cores), answer)


def _version_task() -> Any:
    """Return a task that says which version of the package a worker has.

    A nested function is pickled with its code, so that it runs without the package.
    """

    def version(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow

        try:
            import nonconvex

            found = nonconvex.__version__
        except ImportError:
            found = ""
        for _ in batches:
            yield pyarrow.RecordBatch.from_pydict({"version": [found]})

    return version
