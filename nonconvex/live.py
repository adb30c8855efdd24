"""A live view of fits on a terminal; everywhere else, and without rich, the lines of the log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, TextIO

from nonconvex.distributed.runtime import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

__all__ = ["LiveView", "log_handler", "showing_progress"]

_log = logging.getLogger("nonconvex")

_FORMAT = logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
_RECENT = 5  # iterations that the time left is told from
_BAR = 16  # characters
_WIDE = 100  # characters that leave room for it
_PER_SECOND = 4


class LiveView(logging.Handler):
    """Draws a row for every start of the fit that is going on, and prints other records above.

    It is there from the first iteration of a fit to the last one, and leaves its last state.  With
    another formatter, such as one for machines, every record is a line.

    Parameters
    ----------
    console : rich.console.Console

    Examples
    --------
    >>> from rich.console import Console
    >>> view = LiveView(Console())
    >>> view.close()
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.setFormatter(_FORMAT)
        self._console = console
        self._live: Live | None = None
        # By thread and name: the progress, and the seconds of recent iterations.  It is replaced
        # and never changed, as the view reads it from a thread of its own.
        self._rows: dict[tuple[int | None, str], tuple[Progress, tuple[float, ...]]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take in the progress that a record has, or print it."""
        try:
            progress: Progress | None = getattr(record, "progress", None)
            if progress is None or self.formatter is not _FORMAT:
                self._console.print(
                    self.format(record), markup=False, highlight=False, soft_wrap=True
                )
            else:
                self._take((record.thread, progress.name), progress)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """End the view."""
        self._end()
        super().close()

    def table(self) -> Table:
        """Return what is drawn."""
        from rich import box
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        rows = list(self._rows.values())
        named = any(progress.name for progress, _ in rows)
        figures = list(dict.fromkeys(name for progress, _ in rows for name in progress.figures))
        barred = self._console.width >= _WIDE
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        if named:
            table.add_column("", no_wrap=True)
        table.add_column(rows[0][0].unit if rows else "", justify="right", no_wrap=True)
        if barred:
            table.add_column("", width=_BAR)
        for name in figures:  # headings may be broken, between words
            table.add_column(name, justify="right", min_width=max(8, *map(len, name.split())))
        table.add_column("time left", overflow="ellipsis", no_wrap=True)
        for progress, seconds in rows:
            table.add_row(
                *([progress.name] if named else []),
                f"{progress.done} / {progress.most}",
                *([ProgressBar(progress.most, progress.done, width=_BAR)] if barred else []),
                *(progress.figures.get(name, "") for name in figures),
                progress.stop or _at_most(_left(progress, seconds)),
            )
        return table

    def _take(self, key: tuple[int | None, str], progress: Progress) -> None:
        before = self._rows[key][1] if key in self._rows else ()
        seconds = (*before, progress.seconds)[-_RECENT:]
        self._rows = {**self._rows, key: (progress, seconds)}
        if self._live is None:
            from rich.live import Live

            # Standard output is not the console's: it may well be a file.
            self._live = Live(
                get_renderable=self.table,
                console=self._console,
                refresh_per_second=_PER_SECOND,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        if all(row.stop for row, _ in self._rows.values()):
            self._end()

    def _end(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()
        self._rows = {}


def log_handler(stream: TextIO) -> logging.Handler:
    """Return what shows the log on a stream.

    Parameters
    ----------
    stream : text file

    Returns
    -------
    logging.Handler
        A `LiveView` if the stream is a terminal and rich is there (``pip install
        'nonconvex[live]'``), else one that writes line after line.

    Examples
    --------
    >>> import io
    >>> type(log_handler(io.StringIO())).__name__
    'StreamHandler'
    """
    drawable = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if drawable and find_spec("rich") is not None:
        from rich.console import Console

        return LiveView(Console(file=stream))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_FORMAT)
    return handler


@contextmanager
def showing_progress() -> Iterator[None]:
    """Show on standard error how far the fits in this context have come.

    Examples
    --------
    >>> from nonconvex.recommendation import MatrixFactorization
    >>> with showing_progress():
    ...     model = MatrixFactorization(rank=2, maxIter=2).fit(ratings)
    """
    handler, level, propagate = log_handler(sys.stderr), _log.level, _log.propagate
    _log.addHandler(handler)
    _log.propagate = False
    if _log.getEffectiveLevel() > logging.INFO:
        _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        handler.close()
        _log.removeHandler(handler)
        _log.propagate = propagate
        _log.setLevel(level)


def _left(progress: Progress, seconds: Sequence[float]) -> float:
    """Return how many seconds there are to go, if no start stops before its time."""
    return (progress.most - progress.done) * sum(seconds) / len(seconds)


def _at_most(seconds: float) -> str:
    """Say a number of seconds, which may turn out less.

    Examples
    --------
    >>> _at_most(0.04), _at_most(75), _at_most(7500)
    ('≤ 1 s', '≤ 1 min 15 s', '≤ 2 h 05 min')
    """
    whole = max(1, round(seconds))
    if whole < 60:
        return f"≤ {whole} s"
    if whole < 3600:
        return f"≤ {whole // 60} min {whole % 60:02d} s"
    return f"≤ {whole // 3600} h {whole % 3600 // 60:02d} min"
