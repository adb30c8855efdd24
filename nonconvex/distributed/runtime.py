"""How far a fit has come: one line of the log for each start and iteration, or rows of a view.

The Python processes that tasks run in, and what a first task does for those that follow.

Descriptions of Spark jobs, for the reader of Spark's web page.

Arrow tables as bytes, as they travel within other columns and between processes.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
from pyspark import Broadcast, SparkContext
from pyspark.sql import SparkSession

__all__ = [
    "Progress",
    "broadcast",
    "describe",
    "described",
    "description",
    "freeze_gc_once",
    "from_bytes",
    "report",
    "to_bytes",
    "with_frozen_gc",
]

_log = logging.getLogger("nonconvex")

T = TypeVar("T")


class Progress(NamedTuple):
    """What one start of a fit has reached.

    Attributes
    ----------
    name : str
        Which start it is, such as "restart 3"; empty if there is one only.
    unit : str
        "iteration", "sweep" or "epoch".
    done, most : int
        How many there were, and how many there can be.
    figures : mapping of str to str
        What was measured, as it is to be read.
    seconds : float
        What the last one took, which all starts share.
    stop : str or None
        Why it ended, if it has.
    """

    name: str
    unit: str
    done: int
    most: int
    figures: Mapping[str, str]
    seconds: float
    stop: str | None = None

    def line(self) -> str:
        """Return one line of a log.

        Examples
        --------
        >>> Progress("restart 1", "iteration", 2, 15, {"f": "0.81"}, 0.25).line()
        'restart 1  iteration   2  f 0.81  0.25 s'
        """
        parts = [self.name, f"{self.unit} {self.done:3d}"]
        parts += [f"{name} {value}" for name, value in self.figures.items()]
        parts += [f"{self.seconds:.2f} s", self.stop or ""]
        return "  ".join(filter(None, parts))


def report(progress: Progress) -> None:
    """Log a line, with the progress itself as ``record.progress`` for handlers that draw it."""
    _log.info("%s", progress.line(), extra={"progress": progress})


def broadcast(spark: SparkSession, value: T) -> Broadcast[T]:
    """Broadcast a value to all tasks; the caller destroys it."""
    return spark.sparkContext.broadcast(value)


_Task = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


@cache
def freeze_gc_once() -> None:
    """Take what this process has imported out of the sight of the garbage collector, once.

    After every task pyspark has the worker collect all garbage, and the next task waits.  That
    visits each object of each imported module, some 40 ms in which nothing is found: most of what
    a short task takes.  Modules stay until the process ends, so nothing is lost by not looking.

    Examples
    --------
    >>> freeze_gc_once()
    >>> gc.get_freeze_count() > 0
    True
    >>> gc.unfreeze()  # this process is no worker
    """
    gc.freeze()


def with_frozen_gc(task: _Task) -> _Task:
    """Return a task that settles the worker it runs in first.

    Examples
    --------
    >>> frame = spark.range(3)
    >>> frame.mapInArrow(with_frozen_gc(lambda batches: batches), frame.schema).count()
    3
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        freeze_gc_once()
        yield from task(batches)

    return run


_PROPERTY = "spark.job.description"


@contextmanager
def described(spark: SparkSession, text: str) -> Iterator[None]:
    """Describe the Spark jobs of a block; afterwards the description is what it was.

    Examples
    --------
    >>> with described(spark, "evaluation"):
    ...     description(spark.sparkContext)
    'evaluation'
    """
    before = description(spark.sparkContext)
    describe(spark.sparkContext, text)
    try:
        yield
    finally:
        describe(spark.sparkContext, before)


def description(context: SparkContext) -> str | None:
    """Return how the Spark jobs of this thread are described now, None if they are not."""
    return context.getLocalProperty(_PROPERTY)


def describe(context: Any, text: str | None) -> None:
    """Describe the Spark jobs that follow.

    Parameters
    ----------
    context : SparkContext
    text : str or None
        None takes the description away, and Spark names jobs by the lines that started them;
        with an empty one they would have no name.
    """
    context.setLocalProperty(_PROPERTY, text)


def to_bytes(table: pa.Table) -> bytes:
    """Write a table as a stream of Arrow.

    Examples
    --------
    >>> from_bytes(to_bytes(pa.table({"id": [3, 4]})))["id"].to_pylist()
    [3, 4]
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def from_bytes(content: bytes | pa.Buffer) -> pa.Table:
    """Read what `to_bytes` wrote."""
    with pa.ipc.open_stream(content) as stream:
        return stream.read_all()
