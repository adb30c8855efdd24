"""Spark's daemon of Python workers, silent where a query has rows enough.

``show``, ``first`` and ``limit`` read a few rows and hang up.  A worker that is still writing then
has its pipe broken, and pyspark's own daemon prints the traceback of it, as if something had gone
wrong.  Sessions on one machine run this module instead (``spark.python.daemon.module``).
"""

import os
import socket

from pyspark import daemon

__all__ = ["worker"]

_worker = daemon.worker


def worker(sock: socket.socket, authenticated: bool) -> int:
    """Serve one worker; return 1, so that it is not used again, if nobody listens any more."""
    try:
        return int(_worker(sock, authenticated))
    except BrokenPipeError:
        # What is still to be written must not fail again when the files of the socket are closed.
        os.dup2(os.open(os.devnull, os.O_RDWR), sock.fileno())
        return 1


if __name__ == "__main__":
    daemon.worker = worker
    daemon.manager()
