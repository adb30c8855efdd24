"""Spark's daemon of Python workers, which begin ready and are silent when a query has rows enough.

Workers are forks of the daemon.  pyspark's own has imported nothing that their tasks need, so that
each worker imports it again, which takes half a second.

``show``, ``first`` and ``limit`` read a few rows and hang up.  A worker that is still writing then
has its pipe broken, and pyspark's own daemon prints the traceback of it, as if something had gone
wrong.

Where workers are reached through a socket of the file system, no secret is asked for: whoever may
connect runs code as this user.  The socket is for this user alone, whatever the umask and wherever
it lies, in any session and on executors, too.

Sessions on one machine run this module instead (``spark.python.daemon.module``).
"""

import gc
import os
import socket

import pandas
import pyarrow.compute
import pyspark.worker
from pyspark import daemon

SHARED = (pandas, pyarrow.compute, pyspark.worker)
"""What workers have from the start, with NumPy.

All of it is safe to fork: pyarrow's allocator and the threads of a BLAS see to it."""

_worker = daemon.worker
_ONLY_MINE = 0o077
_umask = os.umask(_ONLY_MINE)
os.umask(_umask)


def worker(sock: socket.socket, authenticated: bool) -> int:
    """Serve one worker; end this process if nobody listens any more."""
    os.umask(_umask)  # of the files that tasks write
    try:
        return int(_worker(sock, authenticated))
    except BrokenPipeError:
        # At once: closing its files would write what is left, and fail again.
        os._exit(0)


if __name__ == "__main__":
    gc.freeze()  # a collection in a worker would visit these modules, and so copy their pages
    daemon.worker = worker
    os.umask(_ONLY_MINE)
    daemon.manager()
