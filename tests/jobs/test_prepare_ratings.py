from functools import partial

import pyarrow.parquet as pq
import pytest

from nonconvex.commands.factorization import prepare_job
from nonconvex.pipeline.config import ConfigError, load
from nonconvex.pipeline.factorization.config import PreparationConfig
from tests.jobs.cluster import ROOT

CONFIG = """
ratings = {{ path = "{source}", user = "userId", timestamp = "when", minimum = 1, maximum = 5 }}
split = {{ method = "last", test = 1 }}
prepared = {{ path = "{target}", user_blocks = 2 }}
"""


@pytest.fixture
def config(tmp_path):
    lines = [f"{u},{i},{1 + (u * i) % 5},{100 - i}" for u in range(5) for i in range(6)]
    source = tmp_path / "ratings.csv"
    source.write_text("\n".join(["userId,item,rating,when", *lines, "9,1,9,9", ""]))
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(source=source, target=tmp_path / "out"))
    return path


@pytest.fixture
def job(run_job, config):
    return partial(run_job, prepare_job, PreparationConfig, config)


def test_the_job_reports_what_it_prepared(job, tmp_path):
    status, _, found, _ = job()
    assert status == found["exit"] == 0
    assert found["path"] == str(tmp_path / "out")
    assert not found["reused"]
    assert (found["users"], found["items"]) == (5, 5)  # item 0 is the last of every user
    assert found["counts"]["rejected"] == {"rating is above 5": 1}
    assert (found["counts"]["train"], found["counts"]["test"]) == (25, 5)
    train = pq.read_table(tmp_path / "out" / "by_user")
    assert found["mean"] == pytest.approx(train["rating"].to_numpy().mean())
    assert job().outcome == {**found, "reused": True}


@pytest.mark.parametrize(
    ("overrides", "status", "message"),
    [
        (["ratings.path=no/such.csv"], 3, "there is nothing at no/such.csv"),
        (["ratings.user=user"], 3, "no column 'user' for the user: the columns are 'userId'"),
        (["ratings.item=rating", "ratings.rating=item"], 3, "rows repeat a (user, item) pair"),
        (["ratings.maximum=0.5", "ratings.minimum=0"], 3, "none of the 31 rows of"),
        (["ratings.itm=x"], 2, "unknown key ratings.itm; did you mean ratings.item?"),
        (["ratings.ids=int"], 2, "ratings.ids must be 'auto', 'string' or 'long'"),
        (["ratings.maximum=0"], 2, "ratings: minimum must be ≤ maximum, got 1.0 and 0.0"),
        (["split.test=0.5"], 2, "split: test must be a number of ratings per user ≥ 0, got 0.5"),
        (["prepared.user_blocks=0"], 2, "prepared.user_blocks must be greater than 0, got 0"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_writes_nothing(
    job, tmp_path, overrides, status, message
):
    ended = job(*overrides)
    ended.refused(status, message)
    assert ended.outcome["status"] == "error"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "ratings.csv"]


def test_a_split_in_time_without_times_is_a_matter_of_configuration(config):
    text = config.read_text().replace('timestamp = "when", ', "")
    config.write_text(text)
    with pytest.raises(ConfigError, match="split 'last': this needs timestamps, name their column"):
        load(PreparationConfig, config)


def test_the_sample_is_shipped_with_its_licence_and_a_configuration():
    config = load(PreparationConfig, ROOT / "conf" / "prepare_movietweetings.toml")
    sample = ROOT / config.ratings.path
    assert pq.read_metadata(sample).num_rows == 141_695
    assert "MIT License" in (sample.parent / "LICENSE").read_text()
