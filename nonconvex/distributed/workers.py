"""The Python processes that tasks run in, and what a first task does for those that follow."""

import gc
from collections.abc import Callable, Iterator
from functools import cache

import pyarrow as pa

__all__ = ["settle", "settled"]

_Task = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]


@cache
def settle() -> None:
    """Take what this process has imported out of the sight of the garbage collector, once.

    After every task pyspark has the worker collect all garbage, and the next task waits.  That
    visits each object of each imported module, some 40 ms in which nothing is found: most of what
    a short task takes.  Modules stay until the process ends, so nothing is lost by not looking.

    Examples
    --------
    >>> settle()
    >>> gc.get_freeze_count() > 0
    True
    >>> gc.unfreeze()  # this process is no worker
    """
    gc.freeze()


def settled(task: _Task) -> _Task:
    """Return a task that settles the worker it runs in first.

    Examples
    --------
    >>> frame = spark.range(3)
    >>> frame.mapInArrow(settled(lambda batches: batches), frame.schema).count()
    3
    """

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        settle()
        yield from task(batches)

    return run
