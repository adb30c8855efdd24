"""The command line of the package: ``nonconvex NAME``, also ``python -m nonconvex.commands``."""

import argparse
import importlib
import inspect
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, get_type_hints

import nonconvex
from nonconvex.distributed.termination import Terminated, exit_status, terminating


class Command(NamedTuple):
    """One command: its function in a module of this package, and its line in the help.

    A `job` is a function of a session and a configuration, which the runner calls; Spark knows it
    by that name, and jobs/ has a script of that name. Without one, it takes the other arguments.
    """

    module: str
    function: str
    summary: str
    job: str | None = None

    def load(self) -> Callable[..., Any]:
        """Import the module, and with it no model that the command does not need."""
        module = importlib.import_module(f"nonconvex.commands.{self.module}")
        function: Callable[..., Any] = getattr(module, self.function)
        return function


COMMANDS = {
    "init": Command("configuration", "init", "write a configuration for a table of ratings"),
    "check": Command(
        "configuration", "check_configuration", "say what a run would do, and what is wrong"
    ),
    "prepare": Command(
        "factorization", "prepare_job", "check, split and index ratings", "prepare_ratings"
    ),
    "train": Command(
        "factorization",
        "train_job",
        "train a factorization on ratings, measure it and publish it",
        "train_factorization",
    ),
    "train-network": Command(
        "network",
        "train_network_job",
        "train a network on examples, measure it and publish it",
        "train_network",
    ),
    "evaluate": Command(
        "factorization", "evaluate_job", "measure a published model on held-out ratings", "evaluate"
    ),
    "recommend": Command(
        "factorization", "recommend_job", "recommend items to users, for a service", "recommend"
    ),
    "predict": Command("predict", "predict_job", "predict every row of a table", "predict"),
    "top": Command("runs", "top", "print the best items for a user, and why, without Spark"),
    "compare": Command("runs", "compare_runs", "show runs beside each other"),
    "nightly": Command("nightly", "run_night", "run the jobs of a night, one after the other"),
    "benchmark": Command(
        "benchmark", "benchmark_job", "measure this library beside its peers", "benchmark"
    ),
}


@contextmanager
def _while_read() -> Iterator[None]:
    """End without a word when nobody reads what is printed any more, with the status of SIGPIPE."""
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):  # as standard error is: α is not in Latin-1
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            yield
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed at the exit, too
        raise SystemExit(141) from None


@_while_read()
def main(argv: Sequence[str] | None = None) -> int:
    """Run a command with the arguments after its name; return its exit status."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{command.summary}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="nonconvex",
        description="Matrix factorization and neural networks on Spark.",
        epilog="\n".join(["commands:", *lines, "", "nonconvex NAME --help says more of each"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=nonconvex.__version__)
    parser.add_argument("name", choices=COMMANDS, metavar="NAME", help="one of the commands")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="…", help="its arguments")
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help()
        return 2
    given = parser.parse_args(argv)
    return start(given.name, given.arguments, prog=f"nonconvex {given.name}")


@_while_read()
def start(name: str, argv: Sequence[str] | None = None, *, prog: str | None = None) -> int:
    """Run one command, which `prog` names in its help; by default, that is the script's name."""
    command = COMMANDS[name]
    try:
        with terminating():  # from now on: to import all that a job needs takes a second or two
            function = command.load()
            if command.job is None:
                return int(function(argv))
            from nonconvex.pipeline.runner import run

            kind = get_type_hints(function)["config"]
            text = inspect.getdoc(function)
            return run(function, kind, description=text, argv=argv, name=command.job, prog=prog)
    except Terminated as interrupt:  # before the runner, or as it ended
        status = exit_status(interrupt)
        print(json.dumps({"status": "error", "error": str(interrupt), "exit": status}), flush=True)
        return status


if __name__ == "__main__":
    sys.exit(main())
