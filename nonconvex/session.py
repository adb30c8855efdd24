"""The Spark session of the jobs: measured settings, quiet logs, and a clear word about Java."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

__all__ = ["MINIMUM_JAVA", "JavaError", "get_session", "read_defaults"]

MINIMUM_JAVA = 17
"""The oldest Java that Spark 4 runs on."""

_CONF_DIR = Path(__file__).resolve().parent.parent / "conf"
_JAVA_OPTIONS = "spark.driver.extraJavaOptions"
# Spark's launcher adds this module; without it Java stops with a page about boot layers.
_JAVA_MODULE = "jdk.incubator.vector"

# For one machine only, so these stay out of conf/spark-defaults.conf, which clusters read too.
_LOCAL = {
    "spark.master": "local[*]",
    # In local mode the driver holds the cached blocks of all tasks; Spark's 1 GB is soon full.
    "spark.driver.memory": "4g",
    # Nothing listens beyond this machine, and a host name that does not resolve stops no job.
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    # Workers begin ready; a query that needs no more rows ends without a traceback of theirs.
    "spark.python.daemon.module": "nonconvex.distributed.worker_daemon",
    # So that workers find this package where this process did, installed or not.
    "spark.executorEnv.PYTHONPATH": str(Path(__file__).resolve().parent.parent),
    # The web page wants a port of its own, which the second job on a machine finds taken.
    "spark.ui.enabled": "false",
    # Spark takes a driver started from Python for a shell, and would draw over the progress lines.
    "spark.ui.showConsoleProgress": "false",
}


class JavaError(ValueError):
    """Java is missing, or is not one that Spark runs on."""

    exit_status = 1


def get_session(
    app_name: str,
    settings: Mapping[str, str] | None = None,
    *,
    conf_dir: str | os.PathLike[str] | None = None,
) -> SparkSession:
    """Return the active session, or start one with the project's settings.

    A session that is already there belongs to the caller and comes back as it is. Otherwise, in
    a plain ``python`` process, the new session is local and takes, the later the stronger:
    defaults for one machine, ``spark-defaults.conf``, `settings`; its JVM logs as
    ``log4j2.properties`` says. Under ``spark-submit`` the JVM is already running, and only what
    the submit did not set is taken from the file and from `settings`: a flag always wins.

    Parameters
    ----------
    app_name : str
        Name of the application, unless the submit gave one.
    settings : mapping of str to str, optional
        Spark settings on top of those of the file.
    conf_dir : path, optional
        Directory of ``spark-defaults.conf`` and ``log4j2.properties``; by default ``conf/``
        beside the package. A file that is not there is not read, so a cluster needs neither.

    Returns
    -------
    SparkSession
        The caller stops it; nothing else in the package does.

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
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit started the JVM, and that this process
        SparkContext._ensure_initialized()  # a SparkConf without its JVM knows no submitted setting
        submitted = SparkConf()
        wanted = {key: value for key, value in wanted.items() if not submitted.contains(key)}
        master = submitted.get("spark.master") or ""
    else:
        _check_java()
        wanted = _LOCAL | wanted
        options = [_log4j_option(directory), wanted.get(_JAVA_OPTIONS, "")]
        wanted[_JAVA_OPTIONS] = " ".join(filter(None, options))
        master = wanted["spark.master"]
    if master.startswith("local"):
        # Spark's own choice, python3 from the PATH, is not the virtual environment of this process.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    for name in ("DataFrameQueryContextLogger", "SQLQueryContextLogger"):
        # Before it raises the error of a query, pyspark prints it as JSON on standard error.
        PySparkLogger.getLogger(name).disabled = True
    builder = SparkSession.builder
    for key, value in wanted.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def read_defaults(directory: str | os.PathLike[str]) -> dict[str, str]:
    """Return the settings of ``spark-defaults.conf`` in `directory`, none if it has no such file.

    Each line is ``key value``, ``key=value`` or ``key: value``; ``#`` starts a comment line.

    Parameters
    ----------
    directory : path
        A directory, which need not exist.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> read_defaults("/no/such/directory")
    {}
    """
    file = Path(directory) / "spark-defaults.conf"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    settings = {}
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            key, *value = re.split(r"\s*[\s=:]\s*", line, maxsplit=1)
            settings[key] = "".join(value)
    return settings


def _log4j_option(directory: Path) -> str:
    file = directory / "log4j2.properties"
    return f"-Dlog4j2.configurationFile={file.resolve().as_uri()}" if file.is_file() else ""


def _check_java() -> None:
    """Raise unless the Java that Spark would start is there, new enough and not cut down."""
    remedy = f"install a JDK {MINIMUM_JAVA} or later (on Debian: openjdk-{MINIMUM_JAVA}-jdk)"
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=Path(home) / "bin") if home else shutil.which("java")
    if java is None:
        where = f"JAVA_HOME ({home})" if home else "JAVA_HOME or on the PATH"
        raise JavaError(f"Spark needs Java, and there is none in {where}: {remedy}")
    shown = _run(java, "-version")
    version = re.search(r'version "(?:1\.)?(\d+)', shown)
    if version is None:
        raise JavaError(f"Spark needs Java, and {java} does not run as one: {remedy}")
    if int(version[1]) < MINIMUM_JAVA:
        raise JavaError(f"Spark does not run on Java {version[1]} ({java}): {remedy}")
    if "version" not in _run(java, f"--add-modules={_JAVA_MODULE}", "-version"):
        raise JavaError(f"{java} lacks the module {_JAVA_MODULE} that Spark needs: {remedy}")


def _run(*command: str) -> str:
    """Return what `command` printed on standard error, where Java shows its version."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr
    except OSError as error:  # not executable, or not a program of this machine
        return str(error)
