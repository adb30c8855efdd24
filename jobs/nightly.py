"""The command ``nonconvex nightly`` as a script."""

import sys

from nonconvex.commands.nightly import run_night

if __name__ == "__main__":
    sys.exit(run_night())
