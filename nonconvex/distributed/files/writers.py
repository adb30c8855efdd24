"""Who writes: a mark in the names of temporary files, by which a later run knows what was left.

A process that is killed removes nothing.  What it left is told from what another process is
writing by asking whether the writer is still there: at once on the same machine, and on others by
the age of what it wrote last.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from functools import cache
from pathlib import Path

__all__ = ["MARK", "abandoned", "mark"]

MARK = r"[0-9a-f]{8}-\d+-\d+"
"""The form of a mark, as a regular expression."""

_PROC = Path("/proc")


def mark() -> str:
    """Return ``<machine>-<process>-<start>`` of this process.

    The machine is a hash of its name, its boot and the namespace of its processes: a process of
    another container is not asked for by a number that means another one here.

    Examples
    --------
    >>> abandoned(mark(), time.time(), lease=0.0)
    False
    """
    process = os.getpid()
    return f"{_machine()}-{process}-{_start(process) or 0}"


def abandoned(writer: str, modified: float, lease: float) -> bool:
    """Return whether what a writer has begun will never be finished.

    Parameters
    ----------
    writer : str
        From `mark`.
    modified : float
        When it wrote last, in seconds since 1970.
    lease : float
        Seconds of silence after which a process of another machine is taken for dead.

    Examples
    --------
    >>> abandoned("00000000-1-1", time.time() - 60, lease=30.0)
    True
    """
    machine, process, start = writer.split("-")
    if machine != _machine():
        return time.time() - modified > lease
    return _start(int(process)) != int(start)


@cache
def _machine() -> str:
    parts = [socket.gethostname()]
    try:
        parts.append((_PROC / "sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink(_PROC / "self/ns/pid"))
    except OSError:  # no Linux
        pass
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _start(process: int) -> int | None:
    """Return when a process started, in ticks since boot, 0 if unknown, None if it is not there."""
    if not (_PROC / "self/stat").exists():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return None
        except OSError:  # it is another user's
            pass
        return 0
    try:
        state, *fields = (_PROC / f"{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(fields[18])  # a zombie writes no more
