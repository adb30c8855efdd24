"""Ratings as they should not be, through the jobs: they work, or exit 3 with one sentence."""

import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame

from nonconvex.commands.factorization import prepare_job, recommend_job, train_job
from nonconvex.distributed.files import FileSystem
from nonconvex.pipeline.factorization.config import (
    FactorizationConfig,
    PreparationConfig,
    ServingConfig,
)
from nonconvex.recommendation import MatrixFactorizationModel


@pytest.fixture
def job(run_job, tmp_path):
    """Run a job on the ratings in ``data/``; return the last line that it printed."""

    def job(main, config_type, text, ratings=""):
        config = tmp_path / "config.toml"
        kind = "csv" if (tmp_path / "data/part.csv").exists() else "parquet"
        ratings = f'[ratings]\npath = "{tmp_path}/data"\nformat = "{kind}"\n{ratings}\n'
        places = f'[prepared]\npath = "{tmp_path}/prepared"\n'
        if main is recommend_job:
            ratings, places = "", ""
        config.write_text(ratings + places + text.format(root=tmp_path))
        ended = run_job(main, config_type, config)
        assert ended.status in (0, 3), ended
        return ended.outcome

    return job


@pytest.fixture
def prepare(job):
    return lambda ratings="": job(prepare_job, PreparationConfig, "", ratings)


TRAINING = """
[factorization]
rank = 2
maxIter = 2
[output]
path = "{root}/runs"
[report]
write = false
"""
SERVING = """
model.path = "{root}/runs"
seen.prepared = "{root}/prepared"
recommendations.n = 2
output.path = "{root}/serving"
"""


@pytest.fixture
def train(job):
    return lambda ratings="": job(train_job, FactorizationConfig, TRAINING, ratings)


def write(directory, name="part.parquet", **columns):
    (directory / "data").mkdir(exist_ok=True)
    path = directory / "data" / name
    pq.write_table(pa.table(columns), path)
    return path


def ratings(rows=200, seed=0):
    draw = np.random.default_rng(seed)
    pairs = draw.permutation(400)[:rows]
    return {"user": pairs // 20, "item": pairs % 20, "rating": draw.integers(1, 6, rows) * 1.0}


def refuses(outcome, *words):
    assert outcome["exit"] == 3, outcome
    for word in words:
        assert word in outcome["error"], outcome


@pytest.mark.parametrize("left", [0.97, 0.5, 0.01])
def test_a_truncated_file(prepare, tmp_path, left):
    write(tmp_path, "a.parquet", **ratings())
    path = write(tmp_path, "b.parquet", **ratings(seed=1))
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    refuses(prepare(), "b.parquet")
    assert not (tmp_path / "prepared").exists()


def test_a_file_of_0_bytes(prepare, tmp_path):
    good = write(tmp_path, "a.parquet", **ratings())
    (tmp_path / "data/b.parquet").touch()
    (tmp_path / "data/_SUCCESS").touch()
    refuses(prepare(), "data/b.parquet has 0 bytes, which is no Parquet: write it again, or")
    good.write_bytes(b"")
    refuses(prepare(), "data/a.parquet and 1 more files have 0 bytes")
    assert not (tmp_path / "prepared").exists()


def test_damage_in_the_middle_of_a_file(prepare, tmp_path):
    path = write(tmp_path, **ratings())
    content = bytearray(path.read_bytes())
    middle = slice(4, len(content) // 2)
    content[middle] = bytes(len(content[middle]))
    path.write_bytes(content)
    refuses(prepare(), "part.parquet")


@pytest.mark.parametrize(
    "other",
    [
        {"user": ["x"], "item": [1], "rating": [1.0]},
        {"user": [1], "item": [1], "rating": ["five"]},
        {"user": [1], "item": [[1, 2]], "rating": [1.0]},
        pytest.param({"who": [1], "item": [1], "rating": [1.0]}, marks=pytest.mark.thorough),
        {"user": [1.5], "item": [1], "rating": [1.0]},
    ],
)
def test_another_schema_in_one_file(prepare, tmp_path, other):
    write(tmp_path, "a.parquet", **ratings())
    write(tmp_path, "b.parquet", **other)
    outcome = prepare("duplicates = 'mean'")
    if "who" in other:  # a column that a file lacks is null there, as Parquet has it
        assert outcome["exit"] == 0, outcome
        assert outcome["counts"]["rejected"] == {"user is null": 1}, outcome
    else:
        refuses(outcome, "b.parquet" if "b.parquet" in outcome["error"] else "parquet")


def test_a_file_that_vanishes_while_it_is_read(prepare, tmp_path, monkeypatch):
    write(tmp_path, "a.parquet", **ratings())
    path = write(tmp_path, "b.parquet", **ratings(seed=1))
    exists = FileSystem.exists

    def vanish(self, asked):
        if asked.endswith("prepared") and path.exists():  # the plan has listed its files by now
            path.unlink()
        return exists(self, asked)

    monkeypatch.setattr(FileSystem, "exists", vanish)
    refuses(prepare("duplicates = 'mean'"), "b.parquet")


def test_rows_that_would_be_merged_keep_their_reason(job, tmp_path):
    (tmp_path / "data").mkdir()
    lines = ["user,item,rating", *(f"{user},{user},3" for user in range(20))]
    lines += ["Jos\u00e9,1,5", "Jos\u00e8,1,4", "9" * 20_000 + ",1,5", "1,1," + "9" * 20_000 + "x"]
    (tmp_path / "data/part.csv").write_bytes("\n".join(lines).encode("latin-1"))
    outcome = job(prepare_job, PreparationConfig, "")
    assert outcome["counts"]["rejected"] == {
        "rating has more than 1,000 characters": 1,
        "user has bytes that are not UTF-8": 2,
    }
    with open(tmp_path / "data/part.csv", "a") as file:
        file.write('\n"ann,1,5')
    refuses(job(prepare_job, PreparationConfig, ""), "opens a quote")


STRANGE = [
    *("a", "a ", "a  ", " a", "A", "", "🎬", "👩‍👩‍👧", "\u202eabc", "a\nb", "a\tb", "\x00"),
    *("\x01\x7f", "null", "NaN", "é", "e\u0301", "${jndi:ldap://x}"),
    *("'; DROP TABLE users; --", "../../etc/passwd"),
]


@pytest.mark.thorough
def test_strange_ids_and_names_of_columns_are_told_apart_and_come_back(job, train, tmp_path, spark):
    ids = [*STRANGE, "x" * 10**6, "x" * 10**6 + "y"]
    users = [one for one in ids for _ in range(len(ids))]
    columns = {"ü ser🎬": users, "it`em.\n": ids * len(ids)}
    columns["🌟"] = [float(1 + i % 5) for i in range(len(users))]
    few = [i for i in range(len(users)) if i % 7]
    write(tmp_path, **{name: [values[i] for i in few] for name, values in columns.items()})
    said = 'user = "ü ser🎬"\nitem = "it`em.\\n"\nrating = "🌟"'
    outcome = train(said)
    assert outcome["exit"] == 0, outcome
    model = MatrixFactorizationModel.load(outcome["model"])
    assert sorted(model._ids.users.to_pylist()) == sorted(ids)
    assert sorted(model._ids.items.to_pylist()) == sorted(ids)
    served = job(recommend_job, ServingConfig, SERVING)
    assert served["exit"] == 0, served
    table: DataFrame = spark.read.parquet(f"{tmp_path}/serving/recommendations")
    assert {row.user for row in table.select("user").collect()} == set(ids)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([1e30, -1e30, 3.0], 3),
        ([5e-324, 1e-310, 2.5e-308], 0),
        ([1.7e308, -1.7e308, 1.0], 3),
        ([1e15, -1e15, 3.0], 0),
        ([3.0, 3.0, 3.0], 0),
    ],
)
def test_extreme_ratings(train, tmp_path, values, status):
    table = ratings()
    table["rating"] = np.resize(values, len(table["rating"]))
    write(tmp_path, **table)
    outcome = train()
    assert outcome["exit"] == status, outcome
    if status:
        assert "overflow in float32, which takes ratings up to 3e+15" in outcome["error"]
    else:
        model = MatrixFactorizationModel.load(outcome["model"])
        assert np.isfinite(model.factors.users).all()


@pytest.mark.thorough
@pytest.mark.parametrize("one", ["user", "item"])
def test_one_user_or_one_item_has_all_ratings(train, tmp_path, one):
    table = {"user": np.arange(300), "item": np.arange(300), "rating": np.arange(300) % 5 + 1.0}
    write(tmp_path, **table | {one: np.zeros(300, int)})
    assert train()["exit"] == 0


@pytest.mark.thorough
def test_a_million_users_with_one_rating_each(train, tmp_path):
    users = np.arange(1_000_000)
    write(tmp_path, user=users, item=users % 1000, rating=users % 5 + 1.0)
    outcome = train()
    assert outcome["exit"] == 0, outcome


@pytest.mark.parametrize("table", ["by_user", "by_item"])
def test_one_flipped_bit_of_prepared_ratings(job, run_job, tmp_path, table):
    """Where the file system has no checksums of its own, as most have none."""
    write(tmp_path, **ratings())
    assert job(prepare_job, PreparationConfig, "")["exit"] == 0
    path = max((tmp_path / "prepared" / table).rglob("*.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    path.with_name(f".{path.name}.crc").unlink(missing_ok=True)
    config = tmp_path / "config.toml"
    body = TRAINING.format(root=tmp_path)
    config.write_text(f'[prepared]\npath = "{tmp_path}/prepared"\n{body}')
    ended = run_job(train_job, FactorizationConfig, config)
    ended.refused(3, f"{path.name} is damaged: its checksum differs")
    assert not (tmp_path / "runs/published.json").exists()


@pytest.mark.thorough
@pytest.mark.parametrize("table", ["by_user", "by_item", "users", "items", "test"])
def test_damaged_prepared_ratings(job, run_job, tmp_path, table):
    write(tmp_path, **ratings())
    split = "\n[split]\ntest = 0.2\n"
    text = split + TRAINING
    assert job(prepare_job, PreparationConfig, split)["exit"] == 0
    shutil.rmtree(tmp_path / "data")
    for path in (tmp_path / "prepared" / table).rglob("*.parquet"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        crc = path.with_name(f".{path.name}.crc")
        if crc.exists():
            os.remove(crc)
    config = tmp_path / "config.toml"
    body = text.replace(split, "").format(root=tmp_path)
    config.write_text(f'[prepared]\npath = "{tmp_path}/prepared"\n{body}')
    assert run_job(train_job, FactorizationConfig, config).status == 3
