"""A job imports what its model needs, and no other model."""

import os
import subprocess
import sys

import pytest

from nonconvex.commands.__main__ import COMMANDS
from tests.jobs.cluster import ROOT
from tests.processes import completed


@pytest.mark.parametrize(
    ("name", "foreign"),
    [
        ("train", ("network", "neural_network")),
        ("evaluate", ("network", "neural_network")),
        ("recommend", ("network", "neural_network")),
        ("train-network", ("factorization", "recommendation")),
        ("predict", ("network", "neural_network", "factorization", "recommendation")),
    ],
)
def test_a_job_imports_no_other_model(name, foreign):
    module = f"nonconvex.commands.{COMMANDS[name].module}"
    check = f"import sys, nonconvex.pipeline.runner, {module}; print(*sys.modules)"
    done = completed(sys.executable, "-c", check, cwd=ROOT)
    loaded = [one for one in done.stdout.split() if one.startswith("nonconvex.") and one != module]
    assert "nonconvex.pipeline.runner" in loaded
    # The tables of models, which all share, know the arrays of a factorization.
    above = [name for name in loaded if not name.startswith("nonconvex.numerics.")]
    found = [name for name in above if any(part.startswith(foreign) for part in name.split("."))]
    assert not found


def test_every_job_has_a_script_that_starts_it():
    for name, command in COMMANDS.items():
        if command.job is None and name != "nightly":
            continue
        text = (ROOT / "jobs" / f"{command.job or name}.py").read_text()
        started = "run_night()" if name == "nightly" else f'start("{name}")'
        assert started in text, name


def test_the_command_line(capsys):
    from nonconvex.commands.__main__ import main

    for arguments in (["--help"], ["prepare", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert "usage: nonconvex prepare [-h] [--config FILE]" in text
    assert "Rows that are no ratings are kept in rejected/" in text
    with pytest.raises(SystemExit) as ended:
        main(["prepair"])
    assert ended.value.code == 2
    assert "invalid choice: 'prepair'" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["compare", "nöne"], ["train", "none.toml"]])
def test_it_ends_without_a_word_when_nobody_reads(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "nonconvex.commands", *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, "Broken" in done.stderr) == (141, False), done.stderr
