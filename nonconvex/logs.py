"""Logs for machines: one JSON object in a line."""

import json
import logging
from datetime import UTC, datetime

__all__ = ["JsonLines"]


class JsonLines(logging.Formatter):
    """Writes ``time, level, job, message``, and ``traceback`` of an exception.

    Parameters
    ----------
    job : str
        The name of the job.

    Examples
    --------
    >>> record = logging.makeLogRecord({"msg": "2 of 3", "levelname": "INFO", "created": 0.0})
    >>> JsonLines("fit").format(record)
    '{"time": "1970-01-01T00:00:00.000+00:00", "level": "INFO", "job": "fit", "message": "2 of 3"}'
    """

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
        return json.dumps(line, ensure_ascii=False)
