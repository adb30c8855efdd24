"""The running Spark application: progress, jobs, broadcasts, workers, tables on the driver."""

from __future__ import annotations

import errno
import gc
import logging
import math
import os
import re
import socket
import stat
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote, urlsplit
from weakref import finalize

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession, is_remote
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from nonconvex.distributed import connect
from nonconvex.distributed.connect import Py4JError
from nonconvex.numerics.deterministic import Kernel, KernelError, core_of, require

if TYPE_CHECKING:
    from pyspark import RDD, SparkContext

_log = logging.getLogger("nonconvex")
_PROPERTY = "spark.job.description"
_GROUP = "spark.jobGroup.id"
_UNKNOWN_MEMORY = 1 << 32

DISK_FULL = os.strerror(errno.ENOSPC)
"""The words in every error that a full disk causes."""

T = TypeVar("T")
R = TypeVar("R")
_T_co = TypeVar("_T_co", covariant=True)


class Value(Protocol[_T_co]):
    """A value that every task can read until it is destroyed, such as a broadcast."""

    @property
    def value(self) -> _T_co:
        """The shared value."""

    def destroy(self) -> None:
        """Release it everywhere."""


class Progress(NamedTuple):
    """Progress of one start of a fit."""

    name: str  # the start, such as "restart 3"; empty if there is only one
    unit: str  # "iteration", "sweep" or "epoch"
    # units done, and the most there can be
    done: int
    most: int
    figures: Mapping[str, str]  # measurements, formatted
    seconds: float  # duration of the last unit, shared by all starts
    stop: str | None = None  # the reason why it ended, if it has

    def line(self) -> str:
        """Return one line of a log."""
        parts = [self.name, f"{self.unit} {self.done:3d}"]
        parts += [f"{name} {value}" for name, value in self.figures.items()]
        parts += [f"{self.seconds:.2f} s", self.stop or ""]
        return "  ".join(filter(None, parts))


def report(progress: Progress) -> None:
    """Log a line, with the progress itself as ``record.progress`` for handlers that draw it."""
    _log.info("%s", progress.line(), extra={"progress": progress})


def connected(session: SparkSession | DataFrame | None) -> bool:
    """Tell whether a session, or that of a dataframe, is one of Spark Connect."""
    return type(session).__module__.startswith("pyspark.sql.connect.")


def parallelism(spark: SparkSession) -> int:
    """Return the number of tasks that can run at once."""
    if connected(spark):
        return connect.server_cores(spark)
    return spark.sparkContext.defaultParallelism


def running_context() -> Any:
    """Return the SparkContext of this process, if there is one; pyspark-client has none."""
    try:
        from pyspark import SparkContext
    except ImportError:
        return None
    return SparkContext._active_spark_context


def driver_cores() -> int:
    """Return the number of cores that this process may use, at most N of a master ``local[N]``."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    context = running_context()
    asked = re.match(r"local(?:\[(\d+)|$)", context.master if context is not None else "")
    return min(found or 1, int(asked[1] or 1) if asked else found or 1)


def driver_memory() -> int:
    """Return how many bytes this process may still take, by its container or its machine."""
    free = []
    try:
        known = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
        free.append(int(known["MemAvailable:"]) * 1024)
        most, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
        free.append(int(most.read_text()) - int(used.read_text()))
    except (OSError, ValueError, KeyError):  # no Linux, or no limit
        pass
    return min(free, default=_UNKNOWN_MEMORY)


def driver_has_all_cores(spark: SparkSession) -> bool:
    """Tell whether the executors have no more cores than this process, as in local mode.

    Executors that are still to come count; with dynamic allocation nobody knows how many will.
    """
    get, cores = spark.conf.get, driver_cores()
    if connected(spark):
        return cores >= parallelism(spark)
    if re.fullmatch(r"local(\[.*\])?", spark.sparkContext.master or ""):
        return True
    if get("spark.dynamicAllocation.enabled", "false") == "true" or not executors(spark):
        return False
    if get("spark.submit.deployMode", "client") == "cluster":
        cores = min(cores, int(get("spark.driver.cores", "1") or 1))
    asked = (int(get(f"spark.executor.{of}", "1") or 1) for of in ("instances", "cores"))
    return cores >= max(parallelism(spark), math.prod(asked))


def executors(spark: SparkSession) -> int:
    """Return the number of executors beside the driver; 0 in local mode."""
    context: Any = spark.sparkContext
    return int(context._jsc.sc().getExecutorMemoryStatus().size()) - 1


def worker_core(spark: SparkSession, kernel: Kernel) -> str:
    """Return the type of processor that a kernel's bits depend on, as the executors have it.

    Warns once if the driver has another one, or they have several.  Raises `KernelError` if an
    executor cannot run the kernel.
    """
    own = core_of(kernel)
    if connected(spark):
        found = tuple(connect.ask_workers(spark, lambda: _ask_core(kernel)))
    elif not executors(spark):
        return own
    else:
        found = tuple(partitions(spark, [kernel] * parallelism(spark)).map(_ask_core).collect())
    for core in found:
        if isinstance(core, KernelError):
            raise core
    _warn_of_cores(tuple(sorted({own, *map(str, found)})))
    return ", ".join(sorted(set(map(str, found))))


def _ask_core(kernel: Kernel) -> str | KernelError:
    try:
        require(kernel)
    except KernelError as error:
        return error
    return core_of(kernel)


@cache
def _warn_of_cores(cores: tuple[str, ...]) -> None:
    if len(cores) > 1:
        _log.warning(
            "driver and executors have several types of processors (%s), on which numpy rounds "
            "differently: the bits of a model depend on which of them compute it, unless "
            "kernel='compiled'",
            ", ".join(cores),
        )


def collectable_bytes(spark: SparkSession) -> int:
    """Return how many bytes a job may well bring to the driver, through the memory of its Java."""
    if connected(spark):  # no Java is on the way
        return driver_memory() // 4
    context: Any = spark.sparkContext
    most = int(context._jsc.sc().conf().getSizeAsBytes("spark.driver.maxResultSize", "1g"))
    memory = int(context._jvm.Runtime.getRuntime().maxMemory()) // 8
    return min(most // 2, memory) if most else memory  # 0 sets no limit


def delete_at_exit(spark: SparkSession, directory: str) -> None:
    """Let the driver's Java remove a directory when it ends, which it does after Python."""
    context: Any = spark.sparkContext
    jvm = context._jvm
    hooks = jvm.org.apache.spark.util.ShutdownHookManager
    hooks.registerShutdownDeleteDir(jvm.java.io.File(directory))


def cancel_jobs(spark: SparkSession) -> None:
    """Cancel all Spark jobs of the application, unless Spark has ended."""
    with suppress(Exception):
        spark.sparkContext.cancelAllJobs()


def pass_signals_on(spark: SparkSession) -> None:
    """Let the driver's Java pass SIGTERM on to this process, and ignore SIGINT.

    Otherwise it ends at once, also where a signal goes to the whole process group, and takes the
    running iteration with it.  Under ``spark-submit`` it is the only process that a scheduler
    knows.  It passes the signal on by itself, so that nothing has to listen in Python.
    """
    context: Any = spark.sparkContext
    jvm = context._jvm
    try:
        kind = jvm.java.lang.Class.forName("sun.misc.SignalHandler")
        process = jvm.java.lang.ProcessHandle.of(os.getpid()).get()
        forward = jvm.java.beans.EventHandler.create(kind, process, "destroy")  # sends SIGTERM
        signals = jvm.sun.misc.Signal
        signals.handle(signals("TERM"), forward)
        signals.handle(signals("INT"), jvm.sun.misc.SignalHandler.SIG_IGN)
    except Py4JError as error:  # a Java that was cut down
        _log.debug("Java keeps its handling of signals: %s", error)


def collect_garbage(spark: SparkSession) -> None:
    """Collect the garbage of the driver's JVM."""
    context: Any = spark.sparkContext
    context._jvm.System.gc()


def use_this_python(spark: SparkSession) -> None:
    """Let the workers of a session on this machine be this Python, unless another one was named.

    Spark takes ``python3`` of the path, which in a virtual environment that is not activated is
    another one, without the modules of this process.
    """
    if connected(spark) or spark.sparkContext.pythonExec == sys.executable:
        return
    context = spark.sparkContext
    named = "PYSPARK_PYTHON" in os.environ or context.getConf().get("spark.pyspark.python")
    if not named and str(context.master).startswith("local"):
        context.pythonExec = sys.executable


def java_version(spark: SparkSession) -> str:
    """Return the version of the driver's Java."""
    context: Any = spark.sparkContext
    return str(context._jvm.System.getProperty("java.version"))


def add_python_file(spark: SparkSession, path: str) -> None:
    """Add a file or archive of Python modules to the workers of a session."""
    if connected(spark):
        spark.addArtifacts(path, pyfile=True)
    else:
        spark.sparkContext.addPyFile(path)


def broadcast(spark: SparkSession, value: T) -> Value[T]:
    """Broadcast a value to all tasks; the caller destroys it."""
    if connected(spark):
        return connect.share(spark, value)
    return spark.sparkContext.broadcast(value)


class _Unowned(NamedTuple):
    """A broadcast whose owner is gone, and which dataframes may still read."""

    context: SparkContext
    java: Any  # a weak reference of Java to the broadcast
    path: str  # the file on the driver


_unowned: list[_Unowned] = []
_MOST_UNOWNED = 64  # before Java is asked to look which are garbage


def broadcast_for(owner: object, spark: SparkSession, value: T) -> Value[T]:
    """Broadcast a value that is released with its owner, and with the last plan that reads it.

    Java drops a broadcast that nothing refers to.  The file that pyspark keeps on the driver,
    which the workers there read, is removed when a later broadcast finds that Java has done so.
    """
    if connected(spark):
        return broadcast(spark, value)
    remove_unowned(spark)
    shared = broadcast(spark, value)
    context: Any = spark.sparkContext
    parts: Any = shared
    java = context._jvm.java.lang.ref.WeakReference(parts._jbroadcast)
    finalize(owner, _unowned.append, _Unowned(context, java, parts._path)).atexit = False
    return shared


def remove_unowned(spark: SparkSession) -> int:
    """Remove the files of the broadcasts that are garbage; return how many may still be read."""
    if len(_unowned) > _MOST_UNOWNED:
        collect_garbage(spark)
    pending, _unowned[:] = _unowned[:], []
    for one in pending:
        if one.context is not spark.sparkContext:
            continue  # the files of another session have gone with it
        if one.java.refersTo(None):
            Path(one.path).unlink(missing_ok=True)
        else:
            _unowned.append(one)
    return len(_unowned)


@contextmanager
def broadcasting(spark: SparkSession) -> Iterator[Callable[[Any], Value[Any]]]:
    """Yield a function that broadcasts values; all are destroyed at the end of the block."""
    shared: list[Value[Any]] = []

    def share(value: Any) -> Value[Any]:
        shared.append(broadcast(spark, value))
        return shared[-1]

    try:
        yield share
    finally:
        for value in shared:
            value.destroy()


def partitions(spark: SparkSession, values: list[T]) -> RDD[T]:
    """Return an RDD with a partition for each value."""
    if connected(spark):
        raise connect.refuse("exchange='shuffle' keeps rows in RDDs")
    return spark.sparkContext.parallelize(values, len(values))


def rows_of(frame: DataFrame) -> RDD[Any]:
    """Return the rows of a dataframe as an RDD."""
    return frame.rdd


@contextmanager
def persisted(frame: DataFrame) -> Iterator[None]:
    """Persist a dataframe during a block, unless its server keeps none."""
    with ExitStack() as stack:
        try:
            stack.callback(connect.persist(frame))
        except PySparkException as error:
            if connect.ended(error, error.__context__):
                raise
        yield


def map_in_threads(function: Callable[[T], R], values: Iterable[T]) -> list[R]:
    """Apply a function to each value, in as many threads as this process has cores."""
    with ThreadPoolExecutor(driver_cores()) as pool:
        return list(pool.map(function, values))


@contextmanager
def described(spark: SparkSession, text: str) -> Iterator[None]:
    """Describe the Spark jobs of a block, and restore the description afterwards."""
    before = job_description(spark)
    describe_jobs(spark, text)
    try:
        yield
    finally:
        describe_jobs(spark, before)


def job_description(spark: SparkSession) -> str | None:
    """Return the description of the Spark jobs of this thread, if any."""
    if connected(spark):  # whose server describes jobs itself
        return None
    return spark.sparkContext.getLocalProperty(_PROPERTY)


@contextmanager
def counted_jobs(spark: SparkSession) -> Iterator[Callable[[], int]]:
    """Yield a function that counts the Spark jobs of this thread since the block began."""
    context, group = spark.sparkContext, uuid.uuid4().hex
    before = context.getLocalProperty(_GROUP)
    context.setLocalProperty(_GROUP, group)
    try:
        yield lambda: len(context.statusTracker().getJobIdsForGroup(group))
    finally:
        context.setLocalProperty(_GROUP, before)  # type: ignore[arg-type]  # None removes it


def describe_jobs(spark: SparkSession, text: str | None) -> None:
    """Describe the Spark jobs that follow; None removes the description, "" would be shown."""
    if connected(spark):
        return
    context: Any = spark.sparkContext
    context.setLocalProperty(_PROPERTY, text)


Batches = Iterator[pa.RecordBatch]
Task = Callable[[Batches], Batches]
"""A function of `mapInArrow`, from the batches of a task to those that it returns."""


def begin_task() -> None:
    """Take two waits of 40 ms out of a task in a Python worker, each most of a short task's time.

    After every task pyspark has the worker collect all garbage while the next task waits: imported
    modules are frozen out of it, once per process.  And Java's last piece of the input waits until
    the one before is acknowledged, which Linux delays: sockets of TCP acknowledge at once for now.
    """
    _freeze_gc()
    for name in _tcp_sockets():
        with suppress(OSError), socket.socket(fileno=os.dup(name)) as one:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


@cache
def _freeze_gc() -> None:
    gc.freeze()


@cache
def _tcp_sockets() -> list[int]:
    """Return the descriptors of this process that are sockets of TCP, on Linux."""
    sockets: list[int] = []
    if sys.platform != "linux" or not os.path.isdir("/proc/self/fd"):
        return sockets
    for name in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the listing's own is closed
            if stat.S_ISSOCK(os.fstat(name).st_mode):
                with socket.socket(fileno=os.dup(name)) as one:
                    if one.family in (socket.AF_INET, socket.AF_INET6):
                        sockets.append(name)
    return sockets


def begun(task: Task) -> Task:
    """Return a task that calls `begin_task` first."""

    def run(batches: Batches) -> Batches:
        begin_task()
        yield from task(batches)

    return run


def to_bytes(table: pa.Table) -> bytes:
    """Write a table as a stream of Arrow."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def from_bytes(content: bytes | pa.Buffer) -> pa.Table:
    """Read the table that `to_bytes` wrote."""
    with pa.ipc.open_stream(content) as stream:
        return stream.read_all()


def combined(
    batches: Iterable[pa.RecordBatch], most_bytes: int, most_rows: float = math.inf
) -> Iterator[pa.Table]:
    """Combine batches until they have that many bytes or rows; empty ones are left out."""
    held: list[pa.RecordBatch] = []
    size = rows = 0
    for batch in filter(len, batches):
        held.append(batch)
        size, rows = size + batch.nbytes, rows + len(batch)
        if size >= most_bytes or rows >= most_rows:
            yield pa.Table.from_batches(held)
            held, size, rows = [], 0, 0
    if held:
        yield pa.Table.from_batches(held)


def binary_row(
    numbers: Mapping[str, int | None], arrays: Mapping[str, NDArray[np.generic] | None]
) -> pa.RecordBatch:
    """Return a batch of one row: int columns, then the bytes of arrays as binary columns."""
    contents = [None if values is None else values.tobytes() for values in arrays.values()]
    columns = [pa.array([number], pa.int32()) for number in numbers.values()]
    columns += [pa.array([content], pa.binary()) for content in contents]
    return pa.RecordBatch.from_arrays(columns, [*numbers, *arrays])


_ARROW_TYPES = {
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
}
_EXPANSION = 8  # of the bytes of a plan, which may be those of compressed files, to rows in memory
_ROW_BYTES = 24

_SOURCES = "org.apache.spark.sql.execution.datasources"
_BINARY_FILES = ("binaryfile.BinaryFileFormat", "HadoopFsRelation")
_MOST_FILE = 1 << 25  # bytes of a file that Java and Python hold whole, for each core
_MOST_FILES = 1 << 11
_MOST_WIDTH = 2  # columns of a file for each that is chosen
_AT_ONCE = 1 << 20  # rows


class _Source(NamedTuple):
    """A column of a Parquet file that becomes one of a dataframe."""

    name: str
    kind: pa.DataType
    cast: pa.DataType

    def of(self, table: pa.Table | pa.RecordBatch) -> pa.Array | pa.ChunkedArray:
        """Take it from the rows of a file; raise ValueError if it has another type there."""
        column = table[self.name]
        if column.type == pa.large_string():  # of pyarrow's own files
            column = column.cast(pa.string())
        if column.type != self.kind:
            raise ValueError(f"{self.name} is {column.type} in a file")
        return column.cast(self.cast, safe=False)


_Columns = Mapping[str, _Source]
_Files = tuple[DataFrame, _Columns]  # contents of Parquet files, and what to read from them

# A file is gone, is damaged, or has other columns.
_UNREADABLE = (OSError, ValueError, KeyError, NotImplementedError, pa.ArrowException)


class UnreadableError(ValueError):
    """A file that a task cannot read by itself."""


def map_batches(
    frame: DataFrame, task: Task, schema: str | StructType, *, in_files: bool = True
) -> DataFrame:
    """Apply a task as `mapInArrow` does, but read files where Spark would only convert rows.

    A dataframe that only selects, renames and casts columns of small Parquet files is read by the
    tasks: Spark brings them the bytes of whole files, from any file system.  Then the task meets
    `UnreadableError` in its batches if there is any doubt about a file.
    """
    files_of = _files_on_server if connected(frame) else _whole_files
    found = files_of(frame) if in_files else None
    if found is None:
        return frame.mapInArrow(begun(task), schema)
    files, columns = found
    return files.mapInArrow(begun(lambda got: task(_read_files(got, columns))), schema)


def _read_files(batches: Batches, columns: _Columns) -> Batches:
    """Read the columns of Parquet files, from batches of their contents."""
    names = sorted({source.name for source in columns.values()})
    for content in (value.as_buffer() for batch in batches for value in batch["content"]):
        try:
            file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
            for rows in file.iter_batches(_AT_ONCE, columns=names, use_threads=False):
                chosen = [source.of(rows) for source in columns.values()]
                yield pa.RecordBatch.from_arrays(chosen, [*columns])
        except _UNREADABLE as error:
            raise UnreadableError(f"a file of the ratings cannot be read: {error}") from error


def _whole_files(frame: DataFrame) -> _Files | None:
    """Return the files of a plain scan; None unless all are small and few.

    The scan's own listing of files is read, as bytes: another version of Spark may make a relation
    of it in another way, and then rows are read as usual.
    """
    if (scan := _plain_scan(frame)) is None:
        return None
    context: Any = frame.sparkSession.sparkContext
    relation = scan.relation
    location = relation.location()
    # Spark would leave out columns that nothing asks for.
    narrow = relation.dataSchema().size() <= _MOST_WIDTH * len(scan.columns)
    if not narrow or _class(location) != "InMemoryFileIndex":
        return None
    files = location.allFiles()
    numbers = range(files.size())
    if not 0 < len(numbers) <= _MOST_FILES:
        return None
    if max(files.apply(number).getLen() for number in numbers) > _MOST_FILE:
        return None
    binary, of_files = (getattr(context._jvm, f"{_SOURCES}.{name}") for name in _BINARY_FILES)
    try:
        of_same_files = of_files(
            location, relation.partitionSchema(), binary.schema(), relation.bucketSpec(), binary(),
            relation.options(), relation.sparkSession(),
        )  # fmt: skip
    except (Py4JError, TypeError):
        return None
    session: Any = frame.sparkSession
    found = session._jsparkSession.baseRelationToDataFrame(of_same_files)
    return DataFrame(found, session).select("content"), scan.columns


def _files_on_server(frame: DataFrame) -> _Files | None:
    """Return what `_whole_files` does over Spark Connect, where a plan is known by its words alone.

    A cache, a filter, another format or another Spark has other words: rows are read as usual.
    """
    session = frame.sparkSession
    try:
        [text] = session.sql("EXPLAIN SELECT * FROM {frame}", frame=frame).toArrow()["plan"]
        if (columns := _columns_of(text.as_py(), dict(frame.dtypes))) is None:
            return None
        paths = [unquote(path) for path in frame.inputFiles()]
        if not 0 < len(paths) <= _MOST_FILES or re.search(r"[][{}*?\\]", "".join(paths)):  # globs
            return None
        files = session.read.format("binaryFile").load(paths)
        width = len(session.read.parquet(paths[0]).columns)
        if width > _MOST_WIDTH * len(columns) or files.where(F.col("length") > _MOST_FILE).take(1):
            return None
        return files.select("content"), columns
    except PySparkException:
        return None


_PLAN = re.compile(
    r"== Physical Plan ==\n(?:(?:\*\(1\) )?Project \[(?P<chosen>.+)\]\n\+- )?"
    r"(?:(?:\*\(1\) )?ColumnarToRow\n *\+- )?FileScan parquet \[[^]]+\] Batched: \w+, "
    r"DataFilters: \[\], Format: Parquet, Location: InMemoryFileIndex.+, PartitionFilters: \[\], "
    r"PushedFilters: \[\], ReadSchema: struct<(?P<kinds>\w+:\w+(?:,\w+:\w+)*)>\s*"
)
_CHOSEN = re.compile(r"(?:cast\()?(\w+)#\d+L?(?: as double\))?(?: AS \w+#\d+L?)?")


def _columns_of(plan: str, types: Mapping[str, str]) -> _Columns | None:
    """Return the columns of a plain scan of Parquet, from the text of its plan and its types."""
    if (scan := _PLAN.fullmatch(plan)) is None:
        return None
    kinds = dict(field.split(":") for field in scan["kinds"].split(","))
    chosen = scan["chosen"].split(", ") if scan["chosen"] else [f"{name}#0" for name in types]
    if len(chosen) != len(types):  # a function has commas, too
        return None
    columns: dict[str, _Source] = {}
    for (name, cast), part in zip(types.items(), chosen, strict=True):
        found = _CHOSEN.fullmatch(part)
        source = found and _source(found[1], kinds.get(found[1], ""), cast)
        if source is None:
            return None
        columns[name] = source
    return columns


def _source(name: str, kind: str, cast: str) -> _Source | None:
    """Return a column by its types, None if Spark may convert it otherwise than Arrow does."""
    same = kind == cast or (cast == "double" and kind not in ("string", "boolean"))
    if kind not in _ARROW_TYPES or not same:
        return None
    return _Source(name, _ARROW_TYPES[kind], _ARROW_TYPES[cast])


def collect_table(frame: DataFrame, most_rows: int) -> pa.Table | None:
    """Collect a dataframe if it surely has at most so many rows, else return None.

    Parquet files on a disk of this machine are read in place, in any order, if the dataframe only
    selects, renames and casts their columns: Spark would convert each row twice.
    """
    if not most_rows:
        return None
    if connected(frame):  # whose plan is on the server
        return frame.toArrow() if frame.count() <= most_rows else None
    table = _read_scan(frame, most_rows)
    if table is not None:
        return table
    return frame.toArrow() if is_surely_small(frame, most_rows) else None


def is_surely_small(frame: DataFrame, most_rows: int) -> bool:
    """Tell whether a dataframe has at most so many rows, by what its plan knows."""
    plan: Any = frame._jdf.queryExecution().optimizedPlan()
    size = int(plan.stats().sizeInBytes()) * _EXPANSION
    return size <= min(most_rows * _ROW_BYTES, collectable_bytes(frame.sparkSession))


def _read_scan(frame: DataFrame, most_rows: int) -> pa.Table | None:
    """Read the files of a plain scan of Parquet; None at any doubt, and Spark reads them."""
    if (scan := _plain_scan(frame)) is None:
        return None
    uris = [urlsplit(str(uri)) for uri in scan.relation.location().inputFiles()]
    if any(uri.scheme != "file" for uri in uris):
        return None
    try:
        paths = [unquote(uri.path) for uri in uris]
        paths = [path for path in paths if os.path.getsize(path)]  # as Spark does
        files = [pq.ParquetFile(path, page_checksum_verification=True) for path in paths]
        if not files or sum(file.metadata.num_rows for file in files) > most_rows:
            return None
        names = sorted({source.name for source in scan.columns.values()})
        tables = map_in_threads(lambda file: file.read(names, use_threads=False), files)
        return pa.concat_tables(
            pa.table({name: source.of(table) for name, source in scan.columns.items()})
            for table in tables
        )
    except _UNREADABLE:
        return None  # Spark says what is wrong


class _Scan(NamedTuple):
    """A dataframe that only selects from Parquet files."""

    relation: Any  # Spark's ``HadoopFsRelation``
    columns: _Columns


def _plain_scan(frame: DataFrame) -> _Scan | None:
    """Return the relation and the columns of a dataframe that only selects from Parquet."""
    plan: Any = frame._jdf.queryExecution().optimizedPlan()
    chosen = None
    if _class(plan) == "Project":
        chosen, plan = plan.projectList(), plan.child()
    if _class(plan) != "LogicalRelation" or _class(plan.relation()) != "HadoopFsRelation":
        return None
    relation, chosen = plan.relation(), chosen or plan.output()
    options = relation.options()
    if (
        _class(relation.fileFormat()) != "ParquetFileFormat"
        or not relation.bucketSpec().isEmpty()
        or options.size() > options.contains("path")
    ):
        return None
    columns, in_files = {}, set(relation.dataSchema().fieldNames())
    for number in range(chosen.size()):
        expression = chosen.apply(number)
        name, cast = expression.name(), expression.dataType().catalogString()
        if _class(expression) == "Alias":
            expression = expression.child()
        if _class(expression) == "Cast" and cast == "double":
            expression = expression.child()
        kind = expression.dataType().catalogString()
        if _class(expression) != "AttributeReference":
            return None
        source = _source(expression.name(), kind, cast)
        if source is None or source.name not in in_files:  # but in the names of directories
            return None
        columns[name] = source
    return _Scan(relation, columns)


def _class(of: Any) -> str:
    return str(of.getClass().getSimpleName())


_CANCELLED = re.compile(r"\[SPARK_JOB_CANCELLED\] (.+?)(?:\.|;)? SQLSTATE", re.DOTALL)
_STOPPED = re.compile(
    r"SparkContext was shut down|stopped SparkContext|SparkContext.dagScheduler\(\)\" is null"
)
_UNREAD = re.compile(r"\[FAILED_READ_FILE[.\w]*\] (.+?) SQLSTATE", re.DOTALL)
_ABSENT = re.compile(r"\[PATH_NOT_FOUND\] (.+?)\.? SQLSTATE", re.DOTALL)


class InputError(ValueError):
    """A file that is gone, or damaged."""

    exit_status = 3


class StoppedError(RuntimeError):
    """A session that was stopped, whose jobs were cancelled, or whose driver lacks memory."""

    exit_status = 1


def explain(
    error: Exception, before: BaseException | None = None
) -> InputError | StoppedError | connect.ConnectError | None:
    """Return a failure of Spark since `before` as one sentence; None if its cause is not known."""
    text = str(error)
    if connect.ended(error, before):
        return connect.ConnectError(connect.SERVER_ENDED)
    if DISK_FULL in text or hasattr(type(error), "exit_status"):
        return None
    if isinstance(error, MemoryError):
        return StoppedError(f"the driver lacks memory ({text}): use less, or a larger one")
    if "java.lang.OutOfMemoryError" in text:
        return StoppedError("Java lacks memory: give it more by spark.driver.memory, or use less")
    if (running_context() is None and not is_remote()) or _STOPPED.search(text):
        return StoppedError("the Spark session was stopped meanwhile: start one, and begin again")
    if (cancelled := _CANCELLED.search(text)) is not None:
        return StoppedError(f"the jobs of Spark were cancelled ({cancelled[1]}): begin again")
    found = _UNREAD.search(text) or _ABSENT.search(text)
    if found is None:
        return None
    causes = re.findall(r"^Caused by: [\w.$]+: (.+)$", text, re.MULTILINE)
    cause = causes[-1] if causes and causes[-1] not in found[1] else ""
    said = " ".join(f"{found[1]} {cause}".split())
    return InputError(f"{said}: bring the file back, or make it again")


@contextmanager
def explained() -> Iterator[None]:
    """Raise the failures of Spark in a block as `explain` has them."""
    before = sys.exc_info()[1]
    try:
        yield
    except Exception as error:
        found = explain(error, before)
        if found is None:
            raise
        raise found from None
