"""The job that recommends: what it writes, what it leaves out, and what stays when it fails."""

import json
import zlib
from functools import partial

import numpy as np
import pandas as pd
import pytest

from nonconvex.commands.factorization import recommend_job
from nonconvex.pipeline.config import load
from nonconvex.pipeline.factorization.config import ServingConfig
from tests.jobs.cluster import ROOT

USERS, ITEMS = 30, 12
CONFIG = """
model.path = "{root}/runs"
seen.prepared = "{root}/prepared"
recommendations = {{ n = 4, buckets = 3 }}
output.path = "{directory}/out"
"""


@pytest.fixture(scope="module")
def recommend(run_job, films):
    """Run the job on the published run."""

    def recommend(directory, *overrides):
        config = directory / "recommend.toml"
        config.write_text(CONFIG.format(root=films.root, directory=directory))
        return run_job(recommend_job, ServingConfig, config, *overrides)

    return recommend


@pytest.fixture
def job(recommend, tmp_path):
    return partial(recommend, tmp_path)


@pytest.fixture(scope="module")
def written(recommend, tmp_path_factory):
    """What the job writes without options, and what it reports."""
    directory = tmp_path_factory.mktemp("written")
    ended = recommend(directory)
    assert ended.status == 0
    return directory / "out", ended.outcome


def read(directory):
    lists = pd.read_parquet(directory / "recommendations")
    return {
        user: [(member["item"], member["rating"]) for member in members]
        for user, members in zip(lists["user"], lists["recommendations"], strict=True)
    }


def scores(model):
    """Every prediction in float64, from vectors as an index of neighbours would have them."""
    users, items = (side.toPandas() for side in (model.userFactors, model.itemFactors))
    predicted = np.stack(users["features"]).astype(float) @ np.stack(items["features"]).T
    predicted += model.globalBias + users["bias"].to_numpy()[:, None] + items["bias"].to_numpy()
    return pd.DataFrame(predicted, index=users["id"], columns=items["id"])


def test_what_was_seen_is_left_out(written, films):
    out, found = written
    assert (found["path"], found["users"], found["empty"]) == (str(out), USERS, 1)
    lists, predicted = read(out), scores(films.model)
    table = films.table
    assert set(lists) == set(table["user"])
    for user, list_ in lists.items():
        left = predicted.loc[user].drop(table.loc[table["user"] == user, "item"], errors="ignore")
        best = left.sort_values(ascending=False).head(4)
        assert [item for item, _ in list_] == best.index.tolist()
        np.testing.assert_allclose([rating for _, rating in list_], best, rtol=1e-6)
    manifest = json.loads((out / "serving.json").read_text())
    assert manifest.items() <= found.items()
    assert manifest["model"].startswith(str(films.root / "runs" / "run_id="))


def test_a_user_is_found_in_its_bucket(written):
    seen = 0
    for directory in (written[0] / "recommendations").glob("bucket=*"):
        (file,) = directory.glob("*.parquet")
        users = pd.read_parquet(file)["user"].tolist()
        assert users == sorted(users)
        assert {zlib.crc32(user.encode()) % 3 for user in users} == {int(directory.name[-1])}
        seen += len(users)
    assert seen == USERS


def test_vectors_give_the_predictions(written, films):
    out, found = written
    users, items = (pd.read_parquet(out / f"{side}_vectors") for side in ("user", "item"))
    assert {len(vector) for vector in [*users["vector"], *items["vector"]]} == {found["dimension"]}
    inner = np.stack(users["vector"]) @ np.stack(items["vector"]).T
    predicted = pd.DataFrame(
        inner + users["offset"].to_numpy()[:, None], index=users["id"], columns=items["id"]
    )
    expected = scores(films.model)
    np.testing.assert_allclose(predicted.loc[expected.index, expected.columns], expected, 1e-5)


def test_options(job, films, tmp_path):
    candidates, users = tmp_path / "candidates.parquet", tmp_path / "users.parquet"
    pd.DataFrame({"item": [1, 2, 5]}).to_parquet(candidates)
    pd.DataFrame({"user": ["ü3", "ü4", "new"]}).to_parquet(users)
    options = [f"recommendations.candidates={candidates}", f"recommendations.users={users}"]
    run_path = next((films.root / "runs").glob("run_id=*"))
    options += ["seen.parts=[]", "output.vectors=false", f"model.path={run_path / 'model'}"]
    status, _, found, _ = job(*options)
    assert (status, found["users"], found["empty"]) == (0, 3, 0)
    lists = read(tmp_path / "out")
    offered = {user: {item for item, _ in list_} for user, list_ in lists.items()}
    assert offered == {user: {1, 2, 5} for user in ("ü3", "ü4", "new")}
    assert not (tmp_path / "out" / "user_vectors").exists()


def test_ratings_that_were_held_out_may_be_recommended(job, spark, films, tmp_path):
    job('seen.parts=["train"]', f"recommendations.n={ITEMS}")
    prepared = films.root / "prepared"
    held_out = {
        row.item
        for part in ("validation", "test")
        for row in spark.read.parquet(str(prepared / part)).where("user = 'ü3'").collect()
    }
    assert held_out
    assert {item for item, _ in read(tmp_path / "out")["ü3"]} == held_out


def test_what_is_there_stays(job, tmp_path):
    job("recommendations.n=1")
    before = read(tmp_path / "out")
    job().refused(3, "this job has written to")
    unread = job("output.overwrite=true", "recommendations.users=/no/such/file")
    unread.refused(3, "recommendations.users: /no/such/file cannot be read as")
    assert read(tmp_path / "out") == before
    assert job("output.overwrite=true").status == 0
    assert read(tmp_path / "out") != before
    (tmp_path / "mine").mkdir()
    of_others = job(f"output.path={tmp_path / 'mine'}", "output.overwrite=true")
    of_others.refused(3, "that this job did not write")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out", "recommend.toml"]


@pytest.mark.parametrize(
    ("override", "status", "error"),
    [
        ("model.path=/no/such/model", 3, "there is nothing at /no/such/model"),
        ("seen.prepared=/no/such/ratings", 3, "there are no prepared ratings at /no/such/ratings"),
        ("recommendations.n=0", 2, "recommendations.n must be greater than 0, got 0"),
        ("recommendations.size=3", 2, "unknown key recommendations.size"),
        ('seen.parts=["all"]', 2, "seen.parts.0 must be"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(job, tmp_path, override, status, error):
    job(override).refused(status, error)
    assert not (tmp_path / "out").exists()


def test_the_configuration_that_is_shipped_and_one_that_does_not_know_what_was_seen():
    assert load(ServingConfig, ROOT / "conf" / "recommend.toml").recommendations.n == 10
    with pytest.raises(ValueError, match="prepared must name prepared ratings, so that"):
        ServingConfig.model_validate({"model": {"path": "a"}, "seen": {}, "output": {"path": "b"}})
