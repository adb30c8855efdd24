"""Peak memory of a command and all that it starts: the resident sizes in /proc, added up."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["CommandError", "can_measure", "peak_memory", "resident"]

_PROC = Path("/proc")
_INTERVAL = 0.1
_SHOWN = 2000


class CommandError(RuntimeError):
    """A command that failed, so that its memory means nothing; the message ends in what it said."""


def can_measure(master: str) -> bool:
    """Tell whether all processes of a Spark application are on this machine, and can be seen.

    Parameters
    ----------
    master : str
        Of the application.

    Examples
    --------
    >>> can_measure("yarn")
    False
    """
    return master.startswith("local") and (_PROC / "self" / "stat").exists()


def peak_memory(command: Sequence[str], environment: Mapping[str, str], text: str = "") -> float:
    """Run a command, and return the most memory in MB that it and its descendants had at once.

    Pages that processes share count once for each of them, so this is an upper bound.

    Parameters
    ----------
    command : sequence of str
    environment : mapping
        All of the environment of the command.
    text : str
        What the command reads on standard input.

    Raises
    ------
    CommandError
        If it ends with another status than 0.

    Examples
    --------
    >>> import sys
    >>> peak = peak_memory([sys.executable, "-c", "input()"], {}, "x")
    >>> peak > 0 or not can_measure("local")
    True
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as given:
        given.write(text.encode())
        given.seek(0)
        process = subprocess.Popen(
            command, env=dict(environment), stdin=given, stdout=said, stderr=said
        )
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, resident(process.pid))
                try:
                    process.wait(_INTERVAL)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode:
            said.seek(0)
            end = said.read().decode(errors="replace").strip()[-_SHOWN:]
            raise CommandError(f"{' '.join(command)} ended with {process.returncode}: {end}")
    return peak / 1e6


def resident(root: int) -> int:
    """Return the bytes that a process and its descendants have in memory now.

    Examples
    --------
    >>> resident(os.getpid()) > 0 or not can_measure("local")
    True
    """
    children: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    page = os.sysconf("SC_PAGE_SIZE")
    for directory in _PROC.glob("[0-9]*"):
        try:
            # The name, in parentheses, may have any characters; fields 4 and 24 stand behind it.
            fields = (directory / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        process = int(directory.name)
        children.setdefault(int(fields[1]), []).append(process)
        sizes[process] = int(fields[21]) * page
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        total += sizes.get(process, 0)
        waiting += children.get(process, [])
    return total
