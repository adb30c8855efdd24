"""Spark session of the jobs: measured settings, quiet logs, and a clear error without Java."""

import atexit
import os
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pyspark import SparkConf
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from nonconvex import __version__
from nonconvex.distributed.runtime import add_python_file, delete_at_exit, running_context

__all__ = ["MINIMUM_JAVA", "JavaError", "check_java", "get_session", "read_defaults", "ship"]

MINIMUM_JAVA = 17
"""The oldest Java that Spark 4 runs on."""

_CONF_DIR = resources.files("nonconvex") / "conf"  # which may be in a zip
_JAVA_OPTIONS = "spark.driver.extraJavaOptions"
# Spark's launcher adds this module; without it Java stops with a page of errors.
_JAVA_MODULE = "jdk.incubator.vector"
# A job of seconds has few cores, for which Java's second compiler competes: it waits for code that
# runs twenty times as often as by default.  No long query got slower by it (docs/speed.md).
_COMPILER = (
    "-XX:Tier4InvocationThreshold=100000",
    "-XX:Tier4MinInvocationThreshold=12000",
    "-XX:Tier4CompileThreshold=300000",
    "-XX:Tier4BackEdgeThreshold=800000",
)
_SOCKETS = "spark.python.unix.domain.socket"
# Linux has 107 bytes for the path of a socket, and macOS 103; Spark names it by a UUID.
_LONGEST = 103 - len("/.00000000-0000-0000-0000-000000000000.sock")

# For one machine only, so these stay out of spark-defaults.conf, which clusters read too.
_LOCAL = {
    "spark.master": "local[*]",
    # In local mode the driver holds the cached blocks of all tasks; Spark's 1 GB is soon full.
    "spark.driver.memory": "4g",
    # Nothing listens beyond this machine, and a host name that does not resolve is no problem.
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    # Workers start with their imports done, and print no traceback when a query stops reading.
    "spark.python.daemon.module": "nonconvex.distributed.worker_daemon",
    # Workers find this package where this process does, installed or not.
    "spark.executorEnv.PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    # The web page needs a port, which the second job on a machine finds taken.
    "spark.ui.enabled": "false",
    # Spark would draw its own progress bars over our progress lines.
    "spark.ui.showConsoleProgress": "false",
}


class JavaError(ValueError):
    """No Java that Spark runs on."""

    exit_status = 1


def get_session(
    app_name: str,
    settings: Mapping[str, str] | None = None,
    *,
    conf_dir: str | os.PathLike[str] | None = None,
) -> SparkSession:
    """Return the active session, or start one with the project's settings.

    An active session belongs to the caller and is returned unchanged. Otherwise, in a plain
    ``python`` process, the new session is local; its settings are defaults for one machine,
    overridden by ``spark-defaults.conf``, overridden by `settings`, and its JVM logs by
    ``log4j2.properties``. Under ``spark-submit`` the JVM is already running, and only settings
    that the submit left open come from the file and from `settings`: a flag always wins.

    In local mode the JVM and its Python workers talk through sockets in a directory that is closed
    to other users of the machine, and removed at the end.

    Parameters
    ----------
    app_name : str
        Name of the application, if the submit has none.
    settings : mapping of str to str, optional
        Spark settings that override the file.
    conf_dir : path, optional
        Directory of ``spark-defaults.conf`` and ``log4j2.properties``, both optional; by default
        those of the package.

    Returns
    -------
    SparkSession
        The caller stops it.

    Raises
    ------
    JavaError
        If there is no Java of version 17 or later to start.

    Examples
    --------
    >>> get_session("example", {"spark.master": "local[2]"}) is spark  # the one that is there
    True
    """
    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    directory = _CONF_DIR if conf_dir is None else Path(conf_dir)
    wanted = {"spark.app.name": app_name, **read_defaults(directory), **(settings or {})}
    said = wanted  # what the caller or the submit has decided
    # pyspark 4.3 says so of pandas 3, with which the tests pass.
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit started the JVM, then this process
        from pyspark import SparkContext  # which pyspark-client does not have

        SparkContext._ensure_initialized()  # without its JVM a SparkConf has no submitted settings
        submitted = SparkConf()
        wanted = {key: value for key, value in wanted.items() if not submitted.contains(key)}
        said = wanted | dict(submitted.getAll())
        master = submitted.get("spark.master") or ""
    else:
        compiler = _compiler_options()
        wanted = _LOCAL | wanted
        options = [_log4j_option(directory), *compiler, wanted.get(_JAVA_OPTIONS, "")]
        wanted[_JAVA_OPTIONS] = " ".join(filter(None, options))
        master = wanted["spark.master"]
    if master.startswith("local"):
        # Spark's default, python3 from the PATH, is not the virtual environment of this process.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    sockets = _private_directory() if _wants_sockets(master, said) else None
    if sockets is not None:
        wanted = {f"{_SOCKETS}.enabled": "true", f"{_SOCKETS}.dir": sockets} | wanted
    for name in ("DataFrameQueryContextLogger", "SQLQueryContextLogger"):
        # They would print the error of a query as JSON, before pyspark raises it.
        PySparkLogger.getLogger(name).disabled = True
    builder = SparkSession.builder
    for key, value in wanted.items():
        builder = builder.config(key, value)
    with _ending_launched():
        session = builder.getOrCreate()
    if sockets is not None:
        delete_at_exit(session, sockets)  # also if this process is killed
    return session


@contextmanager
def _ending_launched() -> Iterator[None]:
    """End the Java that pyspark launches if a signal interrupts it: it would wait for ever.

    pyspark keeps no handle of that process before it answers; the traceback has it.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        for frame, _ in traceback.walk_tb(interrupt.__traceback__):
            for value in frame.f_locals.values():
                if isinstance(value, subprocess.Popen):
                    value.terminate()
        raise


def _wants_sockets(master: str, said: Mapping[str, str]) -> bool:
    """Tell whether the JVM and its Python workers talk through sockets in a directory of their own.

    That saves the 40 ms for each wave of tasks that their other way, TCP, takes.  But there they
    ask each other for a secret, and through sockets of the file system they do not: whoever may
    connect runs code as this user, and it is the directory that keeps others out.  Other machines
    do not have it, so it is for local mode alone.
    """
    off = said.get(f"{_SOCKETS}.enabled", "true").lower() == "false"
    running = running_context() is not None
    return master.startswith("local") and not (off or running or f"{_SOCKETS}.dir" in said)


def _private_directory() -> str | None:
    """Make a directory for sockets that is closed to others; None if it cannot be."""
    try:
        directory = tempfile.mkdtemp(prefix="nonconvex-")  # 0700, whatever the umask
    except OSError:
        return None
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory if len(os.fsencode(directory)) <= _LONGEST else None


def read_defaults(directory: str | os.PathLike[str] | Traversable) -> dict[str, str]:
    """Return the settings of ``spark-defaults.conf`` in `directory`; none without such a file.

    Each line is ``key value``, ``key=value`` or ``key: value``; ``#`` starts a comment line.
    """
    place = directory if isinstance(directory, Traversable) else Path(directory)
    file = place / "spark-defaults.conf"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    settings = {}
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            key, *value = re.split(r"\s*[\s=:]\s*", line, maxsplit=1)
            settings[key] = "".join(value)
    return settings


def ship(spark: SparkSession) -> None:
    """Send this package to the Python workers of a session, which need it in their tasks.

    It is zipped, and added to the session as a Python file: an artifact of a session of Spark
    Connect, a file of the application otherwise.  A session on a machine or a cluster where the
    package is installed does not need it.

    Parameters
    ----------
    spark : SparkSession
        It keeps the file until it ends.  To ship twice does nothing more.

    Examples
    --------
    >>> ship(spark)
    """
    add_python_file(spark, str(_archive()))


@cache
def _archive() -> Path:
    """Zip the package, for this process; executors may ask for the file at any time."""
    directory = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    package, path = Path(__file__).resolve().parent, Path(directory, "nonconvex.zip")
    with zipfile.ZipFile(path, "w") as archive:
        about = f"Metadata-Version: 2.1\nName: nonconvex\nVersion: {__version__}\n"
        archive.writestr(zipfile.ZipInfo(f"nonconvex-{__version__}.dist-info/METADATA"), about)
        for file in sorted(package.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                # Without the times of the files, so that the same package is the same archive.
                name = zipfile.ZipInfo(file.relative_to(package.parent).as_posix())
                archive.writestr(name, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return path


def _log4j_option(directory: Traversable) -> str:
    file = directory / "log4j2.properties"
    if not isinstance(file, Path) or not file.is_file():  # Java reads no files in a zip
        return ""
    return f"-Dlog4j2.configurationFile={file.resolve().as_uri()}"


def check_java() -> None:
    """Raise `JavaError` unless there is a Java that Spark would start, new and with all modules."""
    _compiler_options()


def _compiler_options() -> Sequence[str]:
    """Check Java, and return `_COMPILER`, or nothing for a Java that does not know it."""
    remedy = f"install a JDK {MINIMUM_JAVA} or later (on Debian: openjdk-{MINIMUM_JAVA}-jdk)"
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=Path(home) / "bin") if home else shutil.which("java")
    if java is None:
        where = f"JAVA_HOME ({home})" if home else "JAVA_HOME or on the PATH"
        raise JavaError(f"Spark needs Java, and there is none in {where}: {remedy}")
    module = f"--add-modules={_JAVA_MODULE}"
    takes_all = _version(_run(java, module, *_COMPILER, "-version"))
    version = takes_all or _version(_run(java, "-version"))
    if version is None:
        raise JavaError(f"Spark needs Java, and {java} does not run as one: {remedy}")
    if version < MINIMUM_JAVA:
        raise JavaError(f"Spark does not run on Java {version} ({java}): {remedy}")
    if takes_all is None and _version(_run(java, module, "-version")) is None:
        raise JavaError(f"{java} lacks the module {_JAVA_MODULE} that Spark needs: {remedy}")
    return _COMPILER if takes_all else ()


def _version(shown: str) -> int | None:
    found = re.search(r'version "(?:1\.)?(\d+)', shown)
    return None if found is None else int(found[1])


def _run(*command: str) -> str:
    """Return the standard error of `command`, where Java shows its version."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr
    except OSError as error:  # not a program of this machine
        return str(error)
