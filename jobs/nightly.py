"""The command ``nonconvex nightly`` as a script."""

import sys

from nonconvex.commands.__main__ import start

if __name__ == "__main__":
    sys.exit(start("nightly"))
