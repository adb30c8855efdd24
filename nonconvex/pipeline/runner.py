"""The command line, session, last line and exit status that all jobs share."""

import argparse
import gc
import inspect
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pyspark.sql import SparkSession

from nonconvex.distributed.runtime import (
    DISK_FULL,
    cancel_jobs,
    described,
    explain,
    pass_signals_on,
)
from nonconvex.distributed.termination import Termination, exit_status, terminating
from nonconvex.estimators.display import legible
from nonconvex.pipeline.config import ConfigError, Section, load, parse_date
from nonconvex.pipeline.live import logging_to_stderr
from nonconvex.pipeline.text import json_values
from nonconvex.session import get_session

ConfigT = TypeVar("ConfigT", bound=Section)
Job = Callable[[SparkSession, ConfigT], Mapping[str, Any]]

_BAD_DATA = 3

_log = logging.getLogger("nonconvex")


def run(
    job: Job[ConfigT],
    config_type: type[ConfigT],
    *,
    description: str | None,
    argv: Sequence[str] | None = None,
    name: str | None = None,
    prog: str | None = None,
) -> int:
    """Run a job from the command line, and return its exit status.

    `job` takes the Spark session and the configuration, and returns a mapping to report.  Spark
    knows it by `name`, by default that of its file, and the help by `prog`.  Settings of Spark are
    those of ``conf/`` beside the directory of that file, if there is one of the same owner.

    The last line of standard output is one JSON object: ``status``, then what `job` returned or
    the ``error``, then ``exit``; numbers that are not finite are null. All else is logged to
    standard error.

    The exit status is 0 when done, 130 after Ctrl-C and 143 after SIGTERM, which both let a fit
    finish its iteration and save it. An exception whose class has an ``exit_status`` (2 for usage
    and configuration, 3 for bad input data, 4 for a quality gate) ends the job with that status and
    one sentence, also when a Python worker raised it, and its ``details``; so does a check inside a
    query plan, with 3. Anything else is a defect: status 1, with the traceback.
    """
    parser = _parser(description, prog)
    with _logging() as handler, terminating() as termination:
        try:
            arguments = parser.parse_args(argv)
            _log.setLevel(arguments.log_level)
            if arguments.log_format == "json":
                handler.setFormatter(JsonLines(name or _script(job).stem))
            day = parse_date(arguments.run_date)
            config = load(config_type, arguments.config, arguments.set, run_date=day)
            outcome = {"status": "ok", **_call(job, config, name or _script(job).stem, termination)}
            outcome["exit"] = 0
        except (Exception, KeyboardInterrupt) as error:
            expected = _expected(termination.asked or error)  # what fails after a signal is no news
            status, sentence = expected or (1, _summary(error))
            sentence = "; ".join([sentence, *getattr(error, "__notes__", ())])  # how to go on
            _log.error("%s", sentence if expected else "the job failed", exc_info=not expected)
            details = getattr(error, "details", {})
            outcome = {"status": "error", "error": sentence, **details, "exit": status}
        print(json.dumps(json_values(outcome), allow_nan=False), flush=True)
    return int(outcome["exit"])


class JsonLines(logging.Formatter):
    """Writes ``time, level, job, message``, and ``traceback`` of an exception, as one JSON line."""

    def __init__(self, job: str) -> None:
        super().__init__()
        self._job = job

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "job": self._job,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return legible(json.dumps(line, ensure_ascii=False))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        raise ConfigError(message)


def _parser(description: str | None, prog: str | None) -> _Parser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog=prog, description=description, formatter_class=layout)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("config", metavar="FILE", nargs="?", default=argparse.SUPPRESS)
    place.add_argument("--config", metavar="FILE", help="configuration, in TOML")
    one = "replace one value of the configuration; may be given again"
    parser.add_argument("--set", metavar="SECTION.KEY=VALUE", action="append", default=[], help=one)
    parser.add_argument(
        "--run-date", metavar="YYYY-MM-DD", help="what {run_date} in the configuration stands for"
    )
    lines = "json logs one object in a line, for what collects logs"
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help=lines)
    amount = parser.add_mutually_exclusive_group()
    level: dict[str, Any] = {"dest": "log_level", "action": "store_const", "default": logging.INFO}
    quiet = "log warnings and errors only"
    amount.add_argument("--quiet", const=logging.WARNING, help=quiet, **level)
    amount.add_argument("--verbose", const=logging.DEBUG, help="log details too", **level)
    return parser


@contextmanager
def _logging() -> Iterator[logging.Handler]:
    loggers = logging.root, logging.getLogger("py4j.clientserver")
    with logging_to_stderr() as handler:
        for logger in loggers:
            logger.addFilter(_is_news)
        try:
            yield handler
        finally:
            for logger in loggers:
                logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether py4j says more than the exception that it then raises, or that ends the job."""
    known = "while sending command.", "while shutting down connection"
    return not record.getMessage().endswith(known)


def _script(job: Job[ConfigT]) -> Path:
    return Path(inspect.getfile(job)).resolve()


def _call(
    job: Job[ConfigT], config: ConfigT, name: str, termination: Termination
) -> Mapping[str, Any]:
    script, beside = _script(job), _script(job).parent.parent / "conf"
    mine = beside.is_dir() and beside.stat().st_uid in (0, os.getuid(), script.stat().st_uid)
    borrowed = SparkSession.getActiveSession() is not None
    spark = get_session(name, conf_dir=beside if mine else None)
    try:
        termination.before = partial(cancel_jobs, spark)
        termination.listen()
        if not borrowed:
            pass_signals_on(spark)
        with described(spark, name):
            if not borrowed:
                gc.freeze()  # each full collection would visit what is imported by now
            return job(spark, config)
    except Exception as error:
        reason = explain(error)  # before the session is stopped
        if reason is None:
            raise
        reason.__notes__ = getattr(error, "__notes__", [])
        raise reason from error
    finally:
        if not borrowed:
            with suppress(Exception):  # as Java may have ended
                spark.stop()


def _expected(error: BaseException) -> tuple[int, str] | None:
    """Return the exit status and the sentence of a signal or a user's error, None for a defect."""
    text = str(error)
    if isinstance(error, KeyboardInterrupt):
        return exit_status(error), text or "interrupted"
    if DISK_FULL in text:
        line = next(line.strip() for line in text.splitlines() if DISK_FULL in line)
        more = "; what was published stays: free some space, and start the job again"
        return 1, line if "free some space" in line else f"the disk is full ({line}){more}"
    status = getattr(type(error), "exit_status", None)
    if status is not None:
        return status, text
    # Raised in a Python worker: the message is the worker's traceback, and ends in our error.
    raised = re.search(r"^(nonconvex[\w.]*)\.(\w+): (.+)", text, re.MULTILINE)
    if raised is not None:
        # Of a module that is here already: these words can be anyone's, and import nothing.
        kind = getattr(sys.modules.get(raised[1]), raised[2], None)
        status = getattr(kind, "exit_status", None)
        return None if status is None else (status, raised[3])
    # Raised by raise_error or assert_true in a plan, which is how a plan refuses data.
    refused = re.search(r"\[USER_RAISED_EXCEPTION\] (.+?) SQLSTATE", text, re.DOTALL)
    return None if refused is None else (_BAD_DATA, refused[1])


def _summary(error: BaseException) -> str:
    """Return one line on a defect: the type and what it says, or the last line of a traceback."""
    lines = str(error).strip().splitlines() or [""]
    if any(line.startswith("Traceback ") for line in lines):
        return lines[-1]
    return f"{type(error).__name__}: {lines[0]}"
