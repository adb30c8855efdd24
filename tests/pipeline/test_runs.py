import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nonconvex.distributed.files import ConcurrencyError, FileSystem, FileSystemError, process_token
from nonconvex.pipeline.runs import (
    POINTER,
    PublicationError,
    Run,
    find_model,
    find_run,
    new_run,
    publish_run,
    published_run,
    recover,
    remove_old_runs,
)


@pytest.fixture
def runs(tmp_path):
    return str(tmp_path / "runs")


def complete_run(spark, runs):
    """A run with what makes a directory a model."""
    with new_run(spark, runs) as run:
        os.makedirs(f"{run.model}/metadata")
    return run


def test_the_pointer_leads_to_the_run_published_last(spark, runs):
    first = complete_run(spark, runs)
    with pytest.raises(PublicationError, match=r"no model is published at .*runs: train a model"):
        find_model(spark, runs)
    publish_run(spark, runs, first, after=None)
    assert find_model(spark, runs) == f"{runs}/run_id={first.id}/model"
    second = complete_run(spark, runs)
    assert find_model(spark, runs) == first.model
    publish_run(spark, runs, second, after=first)
    assert find_model(spark, runs) == second.model != first.model
    expected = sorted([POINTER, f"run_id={first.id}", f"run_id={second.id}"])
    assert sorted(os.listdir(runs)) == expected  # no temporary file, no checksums
    with open(f"{runs}/{POINTER}", encoding="utf-8") as file:
        assert json.load(file) == {"run_id": second.id}


def test_a_run_that_fails_leaves_nothing(spark, runs):
    publish_run(spark, runs, complete_run(spark, runs), after=None)
    before = sorted(os.listdir(runs))

    def interrupted():
        with new_run(spark, runs) as run:
            os.makedirs(run.model)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(os.listdir(runs)) == before


def test_a_model_is_found_by_its_own_path_and_by_that_of_its_run(spark, runs):
    with pytest.raises(PublicationError, match=r"there is nothing at .*runs: train a model first"):
        find_model(spark, runs)
    run = complete_run(spark, runs)
    assert find_model(spark, run.path) == run.model == find_model(spark, run.model)


DAMAGED = r"published\.json is damaged: delete it, and train again"
ABSENT = "names a run that is not there, gone: delete it"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *((text, DAMAGED) for text in ("", "{", "[]", "{}", '{"run_id": 3}', "[" * 100_000)),
        ('{"run_id": "../../elsewhere"}', DAMAGED),
        ('{"run_id": "gone"}', ABSENT),
    ],
)
def test_a_pointer_that_is_damaged_or_names_no_run_is_refused(spark, runs, text, message):
    complete_run(spark, runs)
    FileSystem(spark, runs).write_text(f"{runs}/{POINTER}", text)
    with pytest.raises(PublicationError, match=message):
        find_model(spark, runs)


def test_a_pointer_that_cannot_be_written_is_named(spark, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileSystemError, match=r"file/\.publishing.* cannot be written: .*file"):
        publish_run(spark, f"{tmp_path}/file", Run("first", "unused"), after=None)


def test_a_pointer_that_could_not_be_replaced_is_left_alone(spark, runs, monkeypatch):
    old, new = complete_run(spark, runs), complete_run(spark, runs)
    publish_run(spark, runs, old, after=None)
    monkeypatch.setattr(FileSystem, "replace_text", refuse)
    with pytest.raises(FileSystemError, match="refused"):
        publish_run(spark, runs, new, after=old)
    assert find_model(spark, runs) == old.model
    assert len(os.listdir(runs)) == 3  # no temporary file is left


def refuse(files, path, text):
    raise FileSystemError("refused")


def test_a_store_without_such_a_rename_is_written_at_once(spark, tmp_path):
    configuration = spark.sparkContext._jsc.hadoopConfiguration()
    key = "fs.viewfs.mounttable.store.link./runs"
    configuration.set(key, tmp_path.as_uri())
    try:
        first, second = Run("first", "unused"), Run("second", "unused")
        publish_run(spark, "viewfs://store/runs", first, after=None)
        publish_run(spark, "viewfs://store/runs", second, after=first)
        with pytest.raises(ConcurrencyError, match="second has been since it began"):
            publish_run(spark, "viewfs://store/runs", Run("third", "unused"), after=first)
    finally:
        configuration.unset(key)
    assert json.loads((tmp_path / POINTER).read_text()) == {"run_id": "second"}


GONE = "00000000-1-1"  # a writer on a machine that is no more


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_two_runs_that_began_together_are_not_both_published(spark, runs):
    before = complete_run(spark, runs)
    publish_run(spark, runs, before, after=None)
    first, second = complete_run(spark, runs), complete_run(spark, runs)
    publish_run(spark, runs, first, after=before)
    with pytest.raises(ConcurrencyError, match=rf"{second.id} is not published, as {first.id} has"):
        publish_run(spark, runs, second, after=before)
    assert published_run(spark, runs) == first
    assert os.path.isdir(second.path)
    assert not [name for name in os.listdir(runs) if name.startswith(".")]


def test_of_many_that_publish_at_once_one_does(spark, runs):
    several = [complete_run(spark, runs) for _ in range(8)]

    def publish(run):
        try:
            publish_run(spark, runs, run, after=None)
        except ConcurrencyError:
            return None
        return run

    with ThreadPoolExecutor(8) as pool:
        [done] = filter(None, pool.map(publish, several))
    assert published_run(spark, runs) == done


def test_a_publication_that_was_killed_is_finished(spark, runs):
    before, killed = complete_run(spark, runs), complete_run(spark, runs)
    publish_run(spark, runs, before, after=None)
    claim = Path(runs, f".publishing.after={before.id}")
    claim.write_text(json.dumps({"run_id": killed.id, "writer": GONE}))
    age(claim, 60)
    recover(spark, runs)
    assert published_run(spark, runs) == killed
    assert not claim.exists()
    claim = Path(runs, f".publishing.after={killed.id}")  # of a run that is not there any more
    claim.write_text(json.dumps({"run_id": "another", "writer": GONE}))
    age(claim, 60)
    publish_run(spark, runs, before, after=killed)
    assert published_run(spark, runs) == before


def test_a_publication_that_never_ends_is_named(spark, runs, monkeypatch):
    run = complete_run(spark, runs)
    Path(runs, ".publishing.after=none").write_text(
        json.dumps({"run_id": run.id, "writer": process_token()})
    )
    monkeypatch.setattr("nonconvex.pipeline.runs._MOMENT", 0.2)
    with pytest.raises(ConcurrencyError, match=rf"{run.id} has been about to be .* or delete"):
        publish_run(spark, runs, run, after=None)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"run_id": "../x"}', "[" * 9**6, '{"run_id": "x", "writer": 5}']
)
def test_a_publication_that_is_damaged_is_named(spark, runs, text):
    run, claim = complete_run(spark, runs), Path(runs, ".publishing.after=none")
    claim.write_text(text)
    with pytest.raises(PublicationError, match=r"publishing\.after=none is damaged: delete it"):
        publish_run(spark, runs, run, after=None)


def test_what_killed_runs_leave_is_removed_and_what_others_write_is_not(spark, runs):
    complete = complete_run(spark, runs)
    for name, writer, old in (
        ("killed", GONE, True),
        ("elsewhere", GONE, False),
        ("here", process_token(), True),
        ("cut", None, True),
    ):
        running = Path(runs, f"run_id={name}", "running.json")
        running.parent.mkdir()
        running.write_text("{" if writer is None else json.dumps({"writer": writer}))
        if old:
            age(running, 90_000)
    Path(runs, "run_id=empty").mkdir()
    Path(runs, f".published.json.{GONE}.0123abcd").touch()
    age(Path(runs, f".published.json.{GONE}.0123abcd"), 90_000)
    Path(runs, f".published.json.{process_token()}.0123abcd").touch()
    recover(spark, runs)
    left = {f"run_id={name}" for name in (complete.id, "elsewhere", "here", "empty")}
    assert set(os.listdir(runs)) == left | {f".published.json.{process_token()}.0123abcd"}


def test_old_runs_are_removed_but_for_the_published_one_and_those_under_way(spark, runs):
    several = [complete_run(spark, runs) for _ in range(4)]
    several.sort()
    publish_run(spark, runs, several[0], after=None)
    with new_run(spark, runs) as under_way:
        assert find_run(spark, runs, under_way.id) is None
        assert remove_old_runs(spark, runs, 3, several[1]) == [several[2]]
        assert find_run(spark, runs, several[2].id) is None
        assert find_run(spark, runs, several[3].id) == several[3]
        assert remove_old_runs(spark, runs, 1, several[1]) == [several[3], several[1]]
        assert published_run(spark, runs) == several[0]
        assert os.path.isdir(under_way.path)


def test_no_run_is_there_that_does_not_say_who_writes_it(spark, runs, monkeypatch):
    def die(files, path, target):
        assert FileSystem(spark, runs).exists(f"{path}/running.json")
        assert [name for name in os.listdir(runs) if name.startswith("run_id=")] == []
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FileSystem, "rename", die)
        with pytest.raises(KeyboardInterrupt), new_run(spark, runs):
            pass
    assert os.listdir(runs) == []
    with new_run(spark, runs) as run:
        assert os.path.exists(f"{run.path}/running.json")
