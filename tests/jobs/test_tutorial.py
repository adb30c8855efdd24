"""The tutorial runs, and says what it promises."""

import re
import runpy
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parent.parent.parent / "jobs" / "tutorial.py"


@pytest.mark.thorough
def test_it_runs_from_the_raw_file_to_the_reasons(spark, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(TUTORIAL), run_name="__main__")
    told = capsys.readouterr().out
    ranked = re.findall(r"^ *(\d+\.\d\d)  \((-?\d+\.\d) to (\d+\.\d)\)  .+$", told, re.MULTILINE)
    assert len(ranked) == 10
    for prediction, lower, upper in (map(float, row) for row in ranked):
        assert 0 <= lower <= prediction <= upper <= 10
    [covered] = re.findall(r"in their interval of 90 %: (.+)% of the test ratings", told)
    assert 88 < float(covered) < 92.5
    assert re.search(r"^.+ for 42: \d\.\d\d$", told, re.MULTILINE)
    assert re.search(r"γ_u·γ_i, the interaction, from\n +[+-]", told)
    assert (tmp_path / "output/tutorial/model/metadata").is_dir()
