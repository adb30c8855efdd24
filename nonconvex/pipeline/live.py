"""A live view of fits on a terminal; elsewhere, and without rich, the lines of the log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, TextIO

from nonconvex.distributed.runtime import Progress
from nonconvex.estimators.display import legible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_log = logging.getLogger("nonconvex")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return legible(super().format(record))  # which a terminal does not obey


_FORMAT = _Lines("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
_WIDE = 100  # characters that leave room for bars
_HOUR = 3600.0  # seconds of iterations that the time left is estimated from


class LiveView(logging.Handler):
    """Draws a row for every start of the running fits, and prints other records above the rows.

    The rows appear with the first iteration of a fit; after the last one, their last state stays.
    With another formatter, such as one for machines, every record is a line.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.setFormatter(_FORMAT)
        self._console = console
        self._bars: Bars | None = None
        self._tasks: dict[tuple[int | None, str], TaskID] = {}  # by thread and name of the start

    def emit(self, record: logging.LogRecord) -> None:
        """Draw the progress in a record, or print the record if it has none."""
        try:
            progress: Progress | None = getattr(record, "progress", None)
            if progress is None or self.formatter is not _FORMAT:
                line = self.format(record)
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                self._draw((record.thread, progress.name), progress)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """End the view."""
        self._end()
        super().close()

    def _draw(self, key: tuple[int | None, str], progress: Progress) -> None:
        if self._bars is None:
            self._bars = _bars(self._console)
            self._bars.start()
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(progress.name, unit="", figures="", stop="")
        self._bars.update(
            self._tasks[key],
            total=progress.most,
            completed=progress.done,
            unit=progress.unit,
            figures="  ".join(f"{name} {value}" for name, value in progress.figures.items()),
            stop=progress.stop or "",
        )
        if all(task.fields["stop"] for task in self._bars.tasks):
            self._end()

    def _end(self) -> None:
        bars, self._bars, self._tasks = self._bars, None, {}
        if bars is not None:
            bars.stop()


def _bars(console: Console) -> Bars:
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class TimeLeft(TimeRemainingColumn):
        """The time left if no start stops early, or the reason for the stop."""

        def render(self, task: Task) -> Text:
            return Text(task.fields["stop"]) if task.fields["stop"] else super().render(task)

    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[unit]} {task.completed} / {task.total}", justify="right"),
        *([BarColumn(bar_width=16)] if console.width >= _WIDE else []),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeLeft(),
    ]
    # Standard output is not the console's: it may well be a file.
    return Bars(
        *columns,
        console=console,
        refresh_per_second=4,
        speed_estimate_period=_HOUR,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def log_handler(stream: TextIO) -> logging.Handler:
    """Return a `LiveView` if the stream is a terminal and rich is installed, else lines."""
    drawable = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if drawable and find_spec("rich") is not None:
        from rich.console import Console

        return LiveView(Console(file=stream))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_FORMAT)
    return handler


@contextmanager
def logging_to_stderr() -> Iterator[logging.Handler]:
    """Send the log of this package to standard error, and nowhere else, in this context."""
    handler, level, propagate = log_handler(sys.stderr), _log.level, _log.propagate
    _log.addHandler(handler)
    _log.propagate = False
    try:
        yield handler
    finally:
        handler.close()
        _log.removeHandler(handler)
        _log.propagate = propagate
        _log.setLevel(level)


@contextmanager
def showing_progress() -> Iterator[None]:
    """Show the progress of the fits in this context on standard error.

    Examples
    --------
    >>> from nonconvex.recommendation import MatrixFactorization
    >>> with showing_progress():
    ...     model = MatrixFactorization(rank=2, maxIter=2).fit(ratings)
    """
    with logging_to_stderr():
        if _log.getEffectiveLevel() > logging.INFO:
            _log.setLevel(logging.INFO)
        yield
