"""The oldest and the newest versions: build environments, and run the contract tests in each.

    python tests/versions.py                 # all of them, one after the other
    python tests/versions.py oldest newest   # some
    python tests/versions.py --list

It needs the Pythons on the PATH (``python3.11``, ``python3.12``, …), with `uv` or their own pip.
Where one is missing, `uv` downloads it, if it may. An environment stays in ``.versions/`` until it
is deleted, so a second run takes minutes less. The last lines are the versions that were there.

"oldest" pins the core dependencies and the extras report, live and bench; the others pin pyspark.
Everything else, such as numba and pytest, is as pip chooses it.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / ".versions"
TESTS = [
    "tests/numerics/factorization/test_als.py",
    "tests/local",
    "tests/test_session.py",
    "tests/estimators/test_contract.py",
    "tests/jobs/test_train_factorization.py",
    "tests/jobs/test_train_network.py",
]
SHOWN = ("pyspark", "numpy", "pyarrow", "pandas", "pydantic")


class Environment(NamedTuple):
    """A Python, and what is asked of pip besides this package."""

    python: str
    pins: tuple[str, ...]


def oldest() -> tuple[str, ...]:
    """Return the least versions of the core dependencies and of three extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["report"], *extras["live"], *extras["bench"]]
    least = tuple(re.sub(r">=([\d.]+).*", r"==\1", one) for one in asked)
    return (*least, "pyparsing<3.3")  # which warns of what matplotlib 3.8 calls


ENVIRONMENTS = {
    "oldest": Environment("3.11", oldest()),
    "pyspark-4.2": Environment("3.12", ("pyspark==4.2.*",)),
    "newest": Environment("3.13", ("pyspark==4.3.*",)),
}


def build(name: str, environment: Environment) -> Path:
    """Make an environment unless it is there; return its Python."""
    place = PLACE / name
    python = place / "bin" / "python"
    if (place / "complete").exists():
        return python
    shutil.rmtree(place, ignore_errors=True)
    uv, version = shutil.which("uv"), environment.python
    if uv:
        run(uv, "venv", "--quiet", "--python", version, place)
        install = [uv, "pip", "install", "--quiet", "--python", python]
    else:
        run(f"python{version}", "-m", "venv", place)
        install = [python, "-m", "pip", "install", "--quiet"]
    run(*install, "-e", f"{ROOT}[test]", *environment.pins)
    (place / "complete").touch()
    return python


def run(*command: str | Path) -> None:
    """Run a command, and end with its status if it fails."""
    done = subprocess.run([str(word) for word in command], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def versions(python: Path) -> list[str]:
    """Return what is installed, in the order of the table."""
    show = "import sys, importlib.metadata as m; print(sys.version.split()[0], *map(m.version, "
    show += f"{SHOWN!r}))"
    done = subprocess.run([python, "-c", show], capture_output=True, text=True, check=True)
    return done.stdout.split()


def main() -> int:
    """Build, run, and print the table; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="environments; by default all")
    parser.add_argument("--list", action="store_true", help="only list them")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH", help="other tests")
    given = parser.parse_args()
    unknown = set(given.names) - set(ENVIRONMENTS)
    if unknown:
        parser.error(f"there is no {min(unknown)}: choose from {', '.join(ENVIRONMENTS)}")
    rows, failed = [], False
    for name in given.names or ENVIRONMENTS:
        environment = ENVIRONMENTS[name]
        if given.list:
            print(name, *environment.pins)
            continue
        python = build(name, environment)
        options = ["-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run([python, *options, *given.tests], cwd=ROOT, check=False)
        failed |= done.returncode != 0
        told = "failed" if done.returncode else "passed"
        rows.append("| " + " | ".join([name, *versions(python), told]) + " |")
    print("\n".join(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
