"""The commands after a run: runs beside each other, and the list of a user with its reasons."""

import json

import numpy as np
import pandas as pd
import pytest

from nonconvex.commands.configuration import init
from nonconvex.commands.factorization import train_job
from nonconvex.commands.runs import FinishedRun, compare_runs, comparison, top
from nonconvex.local import load
from nonconvex.pipeline.factorization.config import FactorizationConfig


@pytest.fixture(scope="module")
def home(run_job, tmp_path_factory):
    """Two runs of different ranks, on a configuration of `init`."""
    root = tmp_path_factory.mktemp("home")
    draw = np.random.default_rng(3)
    pairs = np.argwhere(draw.random((40, 20)) < 0.6)
    table = pd.DataFrame(pairs, columns=["user", "item"])
    table["rating"] = draw.integers(1, 6, len(table)).astype(float)
    table["user"] = table["user"].map("ü{}".format)
    table.to_parquet(root / "likes.parquet")
    names = [f"Film \x1b[2J\u202e\u009b{n}" for n in range(18)]
    titles = pd.DataFrame({"item": range(19), "title": [*names, None]})
    titles.to_parquet(root / "titles.parquet")
    config = root / "likes.toml"
    options = ["--names", str(root / "titles.parquet"), "--output", str(config)]
    assert init([str(root / "likes.parquet"), *options]) == 0
    config.write_text(config.read_text().replace('"output/', f'"{root}/output/'))
    for rank in (1, 2):
        overrides = f"factorization.rank={rank}", "factorization.maxIter=3", "report.write=false"
        ended = run_job(train_job, FactorizationConfig, config, *overrides)
        assert ended.status == 0, ended
    return root, table


def test_runs_beside_each_other(home, capsys):
    root, _ = home
    assert compare_runs([str(root / "output/likes/runs")]) == 0
    out = capsys.readouterr().out
    metrics, settings, end = out.split("\n\n")
    assert not end, "the data do not differ"
    assert metrics.startswith("metrics, on the same test rows\n")
    rows = {line[:26].strip(): line for line in metrics.splitlines()}
    assert rows["RMSE of the model"].count(" *") == 1
    assert rows["RMSE of α + biases"].count(" *") == 0  # they are equal
    assert settings.splitlines()[2].split() == ["factorization.rank", "1", "2"]
    assert len(settings.splitlines()) == 3
    lists = {"NDCG@10 of the model", "NDCG@10 of α + biases", "coverage@10 of the model"}
    assert {*lists, "kept iteration", "stopped", "training time"} <= rows.keys()


def test_a_star_needs_two_values_and_a_setting_counts_whole():
    runs = [
        FinishedRun(name, {"evaluation": {"model": {metric: 0.5}}}, {"path": f"hdfs://{name}"}, {})
        for name, metric in (("a", "rmse"), ("b", "accuracy"))
    ]
    (_, _, metrics), (title, _, settings) = comparison(runs)
    assert metrics == [["RMSE of the model", "0.5", ""], ["accuracy of the model", "", "0.5"]]
    assert (title, settings) == ("settings that differ", [["path", "hdfs://a", "hdfs://b"]])


def test_runs_beside_each_other_on_a_page(home, tmp_path, capsys):
    root, _ = home
    page = tmp_path / "runs.html"
    assert compare_runs([str(root / "output/likes/runs"), "--page", str(page)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"page: {page}"
    html = page.read_text(encoding="utf-8")
    names = [one.name.removeprefix("run_id=") for one in (root / "output/likes/runs").glob("run_*")]
    for text in ("Metrics, on the same test rows", "Settings that differ"):
        assert f">{text}</h2>" in html
    assert all(html.count(f'<th scope="col">{name}</th>') == 2 for name in names)
    assert '<th scope="row">factorization.rank</th><td>1</td><td>2</td>' in html
    with pytest.raises(SystemExit) as ended:
        compare_runs([str(root / "output/likes/runs"), "--page", str(tmp_path / "no/runs.html")])
    assert ended.value.code == 2
    assert "cannot be written: No such file" in json.loads(capsys.readouterr().out)["error"]


def test_what_cannot_be_compared(home, tmp_path, capsys):
    root, _ = home
    [run, _] = sorted((root / "output/likes/runs").glob("run_id=*"))
    for paths, message in (
        ([run], "is one run: give two or more"),
        ([tmp_path], "has no complete runs"),
        ([tmp_path / "absent"], "there is no directory"),
    ):
        with pytest.raises(SystemExit) as ended:
            compare_runs([str(path) for path in paths])
        assert ended.value.code in (2, 3)
        assert message in json.loads(capsys.readouterr().out)["error"]


def test_the_list_of_a_user(home, capsys):
    root, table = home
    assert top([str(root / "likes.toml"), "ü3", "-n", "4"]) == 0
    out = capsys.readouterr().out
    rated = table[table["user"] == "ü3"]["item"].tolist()
    assert out.startswith(f"for ü3 ({len(rated)} rated)\n")
    found = load(root / "output/likes/runs").recommend("ü3", 4, exclude=rated)
    named = [f"Film �[2J��{item}" if item < 18 else str(item) for item, _ in found]
    shown = [line.split("  ")[0].strip() for line in out.splitlines()[2:6]]
    assert shown == named
    assert f"why the first:\n{named[0]} for ü3: " in out
    assert top([str(root / "likes.toml"), "nobody", "--least", "999"]) == 0
    assert capsys.readouterr().out.startswith("for nobody (unknown to the model")
    next((root / "output/likes/prepared/users").glob("*.parquet")).write_bytes(b"no Parquet")
    with pytest.raises(SystemExit) as ended:
        top([str(root / "likes.toml"), "ü3"])
    assert "is not whole prepared ratings" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        top([str(root / "likes_recommend.toml"), "ü3"])
    assert ended.value.code == 2
    assert "which is for 'recommend'" in capsys.readouterr().out
