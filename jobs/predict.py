"""The command ``nonconvex predict`` as a script, for spark-submit."""

import sys

from nonconvex.commands.__main__ import start

if __name__ == "__main__":
    sys.exit(start("predict"))
