"""Which run came after which, and of which day: so that a day is repeated as it was at first."""

from __future__ import annotations

import json
import logging
from datetime import date
from typing import NamedTuple

from pyspark.sql import SparkSession

from nonconvex.distributed.files.atomic import ChecksumError, read_verified
from nonconvex.distributed.files.hadoop import FileSystem
from nonconvex.distributed.publication import Run, find_run

__all__ = ["LineageError", "Origin", "run_before_day", "write_origin"]

_ORIGIN = "origin.json"

_logger = logging.getLogger("nonconvex")


class LineageError(ValueError):
    """A day that cannot be repeated, as the run that came before it is not kept."""

    exit_status = 2


class Origin(NamedTuple):
    """Where a run comes from.

    Attributes
    ----------
    day : date or None
        The day that it is of, if it is of one.
    after : str or None
        The id of the run that it follows, if there was one.
    """

    day: date | None
    after: str | None


def write_origin(spark: SparkSession, run: Run, origin: Origin) -> None:
    """Write down where a run comes from, beside its model."""
    day = None if origin.day is None else origin.day.isoformat()
    text = json.dumps({"day": day, "after": origin.after}) + "\n"
    FileSystem(spark, run.path).write_text(f"{run.path}/{_ORIGIN}", text)


def run_before_day(
    spark: SparkSession, path: str, published: Run | None, day: date | None
) -> Run | None:
    """Return the run that a run of a day follows: the last one published that is of an older day.

    It is the published run, unless that is of this day or a later one; then what that followed,
    and so on.  Runs that are of no day are older than any.

    Parameters
    ----------
    spark : SparkSession
    path : str
        The directory of all runs.
    published : Run or None
        The published run.
    day : date or None
        By default it is the published run, whatever its day.

    Raises
    ------
    LineageError
        If that run is not kept any more.
    """
    run = published
    while run is not None and day is not None:
        origin = _origin(spark, run)
        if origin.day is None or origin.day < day:
            break
        if origin.after is None:
            return None
        earlier = find_run(spark, path, origin.after)
        if earlier is None:
            raise LineageError(
                f"{day} cannot be repeated from where it began, as {origin.after}, which "
                f"{run.id} of {origin.day} followed, is not kept any more: set start.model to a "
                "model to begin at, and keep more runs by output.keep"
            )
        run = earlier
    return run


def _origin(spark: SparkSession, run: Run) -> Origin:
    """Return where a run comes from; of no day if it does not say."""
    if not FileSystem(spark, run.path).exists(f"{run.path}/{_ORIGIN}"):  # of an earlier version
        return Origin(None, None)
    try:
        said = json.loads(read_verified(spark, run.path, _ORIGIN))
        day = None if said["day"] is None else date.fromisoformat(said["day"])
        return Origin(day, None if said["after"] is None else str(said["after"]))
    except (ChecksumError, ValueError, TypeError, KeyError) as error:
        _logger.warning("what day %s is of is not known: %s", run.id, error)
        return Origin(None, None)
