"""The commands before a run: a configuration for a table, and what is wrong with one."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nonconvex.commands.configuration import TableError, check_configuration, init, kind_of, look_at
from nonconvex.pipeline.config import load
from nonconvex.pipeline.factorization.config import FactorizationConfig, ServingConfig
from tests.jobs.cluster import ROOT


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Ratings as MovieLens names them, 200 of them, of which two repeat a pair."""
    monkeypatch.chdir(tmp_path)
    pairs = np.argwhere(np.ones((20, 10)))
    table = pd.DataFrame({"userId": pairs[:, 0], "movieId": pairs[:, 1]})
    table["rating"] = (table["userId"] * 7 + table["movieId"]) % 9 / 2 + 0.5
    table["timestamp"] = 1_000_000 + np.arange(200)
    table.loc[[5, 6], ["userId", "movieId"]] = [[0, 0], [0, 1]]
    return table


def ended(command, *arguments):
    """The exit status of a command."""
    try:
        return command([str(one) for one in arguments])
    except SystemExit as stop:
        return stop.code


def last(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "csv.gz", "jsonl"])
def test_what_is_written_fits_the_table_and_passes_the_check(table, kind, capsys):
    path = f"likes.{kind}"
    if kind == "parquet":
        table.to_parquet(path)
    elif kind == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    pd.DataFrame({"movieId": [1], "title": ["One"], "genres": ["x"]}).to_csv("t.csv", index=False)
    assert ended(init, path, "--names", "t.csv") == 0
    capsys.readouterr()
    config = load(FactorizationConfig, "likes.toml")
    ratings = config.ratings
    columns = (ratings.user, ratings.item, ratings.rating, ratings.timestamp)
    assert columns == ("userId", "movieId", "rating", "timestamp")
    assert (ratings.minimum, ratings.maximum, ratings.duplicates) == (0.5, 4.5, "last")
    assert (config.report.names, config.report.id, config.report.name) == (
        "t.csv",
        "movieId",
        "title",
    )
    assert load(ServingConfig, "likes_recommend.toml").model.path == config.output.path
    assert ended(check_configuration, "likes.toml") == 0
    out = capsys.readouterr().out
    assert "read 200 rows of ratings from likes." in out
    assert "fit a MatrixFactorization of rank 10 by 'vb', at most 100 iterations" in out
    assert json.loads(out.splitlines()[-1])["problems"] == []


def test_nothing_is_replaced_unless_asked(table, capsys):
    table.to_parquet("likes.parquet")
    assert [ended(init, "likes.parquet") for _ in range(2)] == [0, 2]
    assert "likes.toml is there already: give --force" in last(capsys)["error"]
    assert ended(init, "likes.parquet", "--force") == 0


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({"movieId": "what"}, [], "looks like the items: it has .*what.*; say which one by --item"),
        ({}, ["--user", "nobody"], "has no column 'nobody' for --user: it has 'userId'"),
        ({"rating": "stars"}, ["--rating", "text"], "rating='text' must be numbers, got"),
    ],
)
def test_a_table_that_is_none_of_ratings(table, columns, arguments, message, capsys):
    table.rename(columns=columns).assign(text="x").to_parquet("likes.parquet")
    assert ended(init, "likes.parquet", *arguments) == 3
    assert re.search(message, last(capsys)["error"])


def test_a_table_that_cannot_be_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.parquet").write_text("no")
    (tmp_path / "x.bin").write_text("no")
    for path, message in (
        ("nothing", "there is nothing at nothing"),
        ("empty", "empty has no files"),
        ("x.parquet", "x.parquet cannot be read as parquet: "),
        ("x.bin", "cannot be told from its name"),
    ):
        with pytest.raises(TableError, match=message):
            look_at(path)


def test_directories_of_days(table, capsys):
    for day in ("2026-11-24", "2026-11-25"):
        Path(f"data/date={day}").mkdir(parents=True)
        table.to_parquet(f"data/date={day}/part.parquet")
    assert ended(init, "data") == 0
    text = capsys.readouterr().out
    assert '# partition = "date"' in text
    assert "# minimum = 0.5  # of the first 200 rows" in text
    days = ["--set", "ratings.partition=date", "--set", "ratings.until='2026-11-25'"]
    assert ended(check_configuration, "data.toml", *days, "--set", "ratings.days=9") == 0
    assert "read 2 of 9 days until 2026-11-25 of data" in capsys.readouterr().out
    days[-1] = "ratings.until='2026-11-26'"
    assert ended(check_configuration, "data.toml", *days) == 3
    assert "has no date=2026-11-26" in last(capsys)["problems"][0]


def test_all_that_is_wrong_is_told_at_once(table, tmp_path, capsys):
    table.to_parquet("likes.parquet")
    assert ended(init, "likes.parquet") == 0
    (tmp_path / "taken").write_text("a file")
    wrong = ["ratings.user=who", "ratings.weight=movieId", "split.test=0", "gate.metric=rmse"]
    wrong += ["output.path=taken/runs", "report.names=absent.csv"]
    arguments = [word for one in wrong for word in ("--set", one)]
    assert ended(check_configuration, "likes.toml", *arguments) == 3
    said = last(capsys)
    assert (said["command"], said["exit"]) == ("train", 3)
    for problem, message in zip(
        said["problems"],
        ("no column 'who' for ratings.user", "[gate] compares on test rows", "is a file", "absent"),
        strict=True,
    ):
        assert message in problem
    assert ended(check_configuration, "likes.toml", "--set", "factorization.rnak=3") == 2
    assert "factorization" in last(capsys)["error"]
    solver = ("--set", "factorization.solver=vb")
    assert ended(check_configuration, "likes.toml", *solver) == 0
    assert "by 'vb', at most 100 iterations" in capsys.readouterr().out
    for name in ("nonnegative", "implicitPrefs"):
        setting = ("--set", f"factorization.{name}=true")
        assert ended(check_configuration, "likes.toml", *solver, *setting) == 2
        refused = f": {name}=True has no meaning with solver='vb'; unset it"
        assert last(capsys)["error"].endswith(refused)
    assert ended(check_configuration, "likes.toml", "--set", "output.path=" + 300 * "x") == 2
    assert "File name too long" in last(capsys)["problems"][0]
    assert ended(check_configuration, "absent.toml") == 2
    assert ended(check_configuration, "likes_recommend.toml") == 3
    assert "give the directory that a model was saved to" in last(capsys)["problems"][0]


def test_every_configuration_of_the_repository_is_known(monkeypatch, capsys):
    found = {path.stem: kind_of(str(path))[0] for path in (ROOT / "conf").glob("*.toml")}
    del found["benchmark"]
    assert found == {
        "diabetes": "train-network",
        "digits": "train-network",
        "movietweetings": "train",
        "movietweetings_gibbs": "train",
        "nightly": "train",
        "nightly_recommend": "recommend",
        "predict": "predict",
        "prepare_movietweetings": "prepare",
        "recommend": "recommend",
    }
    monkeypatch.chdir(ROOT)
    for name in ("digits", "diabetes", "predict"):
        ended(check_configuration, f"conf/{name}.toml")
    out = capsys.readouterr().out
    assert "fit a MultilayerPerceptronClassifier with layers [64] for a classification" in out
