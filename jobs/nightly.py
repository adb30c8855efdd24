"""The command ``nonconvex nightly`` as a script."""

import sys

from nonconvex.commands.nightly import main

if __name__ == "__main__":
    sys.exit(main())
