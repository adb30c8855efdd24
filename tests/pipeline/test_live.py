"""The live view, on a terminal that is a string."""

import io
import json
import logging
import re
import sys

import pytest
from rich.console import Console

from nonconvex.distributed.runtime import Progress, report
from nonconvex.pipeline.live import LiveView, log_handler, showing_progress
from nonconvex.pipeline.runner import JsonLines


@pytest.fixture
def log():
    log = logging.getLogger("nonconvex")
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    yield log
    log.setLevel(before[0])
    log.propagate = before[1]


def plain(console):
    """What the terminal was sent, without the codes that move and colour."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())


@pytest.fixture
def view(log):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    handler = LiveView(console)
    log.addHandler(handler)
    yield handler
    handler.close()
    log.removeHandler(handler)


def step(name, done, stop=None, **more):
    figures = {"f": f"0.{done}00000", **more}
    return Progress(name, "iteration", done, 15, figures, 2.0, stop)


def test_a_row_for_each_start_and_the_last_state_stays(view, log):
    for done in (1, 2):
        for name in ("restart 0", "restart 1"):
            report(step(name, done, None, **{"validation RMSE": "0.9"}))
    log.warning("a word [in] \u202ebetween")
    lines = plain(view._console).splitlines()
    assert any(line.endswith("WARNING a word [in] \ufffdbetween") for line in lines)
    report(step("restart 0", 3, "converged: at last"))
    report(step("restart 1", 3, None))
    assert view._bars is not None
    report(step("restart 1", 4, "reached maxIter"))
    assert view._bars is None  # so that what is printed next has the terminal to itself
    last = [line.strip() for line in plain(view._console).splitlines() if line.strip()][-2:]
    bar = r" +[━╺╸]+ +"
    assert re.fullmatch(
        rf"restart 0 +iteration 3 / 15{bar}f 0\.300000 +converged: at last", last[0]
    )
    assert re.fullmatch(rf"restart 1 +iteration 4 / 15{bar}f 0\.400000 +reached maxIter", last[1])


def test_the_time_left_is_that_of_the_iterations_so_far(view):
    now = 0.0
    view._console.get_time = lambda: now
    for done in range(1, 7):
        report(step("", done))
        now += 60
    console = Console(file=io.StringIO(), width=100)
    console.print(view._bars.get_renderable())
    assert "0:09:00" in console.file.getvalue()


def test_a_fit_that_fails_leaves_the_terminal_and_quiet_is_quiet(view, log):
    log.setLevel(logging.WARNING)
    report(step("", 1))
    assert plain(view._console) == ""
    log.setLevel(logging.INFO)
    report(step("", 1))
    view.close()
    assert view._bars is None
    assert plain(view._console).count("1 / 15") >= 1


def test_lines_for_machines_stay_lines(view):
    view.setFormatter(JsonLines("fit"))
    report(step("restart 0", 2))
    [line] = view._console.file.getvalue().splitlines()
    assert json.loads(line)["message"].startswith("restart 0  iteration   2  f 0.200000")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_who_gets_it(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(log_handler(Terminal()), LiveView)
    monkeypatch.setenv("TERM", "dumb")
    assert type(log_handler(Terminal())) is logging.StreamHandler
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # is for colours: a file is no terminal
    assert type(log_handler(io.StringIO())) is logging.StreamHandler
    monkeypatch.setattr("nonconvex.pipeline.live.find_spec", lambda name: None)
    assert type(log_handler(Terminal())) is logging.StreamHandler


def test_in_a_session_it_shows_lines_and_goes_away(monkeypatch):
    log = logging.getLogger("nonconvex")
    before = log.level, log.propagate, list(log.handlers)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with showing_progress():
        report(step("restart 0", 2))
    assert sys.stderr.getvalue().endswith("INFO restart 0  iteration   2  f 0.200000  2.00 s\n")
    assert (log.level, log.propagate, list(log.handlers)) == before
    report(step("restart 0", 3))
    assert sys.stderr.getvalue().count("\n") == 1
