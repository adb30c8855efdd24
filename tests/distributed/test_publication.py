import json
import os
from types import SimpleNamespace

import pytest

from nonconvex.distributed import publication
from nonconvex.distributed.filesystem import FileSystem, FileSystemError
from nonconvex.distributed.publication import (
    POINTER,
    PublicationError,
    Run,
    find_model,
    new_run,
    publish_run,
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
    publish_run(spark, runs, first)
    assert find_model(spark, runs) == f"{runs}/run_id={first.id}/model"
    second = complete_run(spark, runs)
    assert find_model(spark, runs) == first.model
    publish_run(spark, runs, second)
    assert find_model(spark, runs) == second.model != first.model
    expected = sorted([POINTER, f"run_id={first.id}", f"run_id={second.id}"])
    assert sorted(os.listdir(runs)) == expected  # no temporary file, no checksums
    with open(f"{runs}/{POINTER}", encoding="utf-8") as file:
        assert json.load(file) == {"run_id": second.id}


def test_a_run_that_fails_leaves_nothing(spark, runs):
    publish_run(spark, runs, complete_run(spark, runs))
    before = sorted(os.listdir(runs))

    def interrupted():
        with new_run(spark, runs) as run:
            os.makedirs(run.model)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(os.listdir(runs)) == before


def test_a_model_is_found_by_its_own_path_and_by_that_of_its_run(spark, runs):
    run = complete_run(spark, runs)
    assert find_model(spark, run.path) == run.model
    assert find_model(spark, run.model) == run.model


def test_where_there_is_nothing(spark, runs):
    with pytest.raises(PublicationError, match=r"there is nothing at .*runs: train a model first"):
        find_model(spark, runs)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"run_id": 3}', '{"run_id": "../../elsewhere"}']
)
def test_a_damaged_pointer_is_refused(spark, runs, text):
    complete_run(spark, runs)
    FileSystem(spark, runs).write_text(f"{runs}/{POINTER}", text)
    with pytest.raises(PublicationError, match=r"published\.json is damaged: publish a run again"):
        find_model(spark, runs)


def test_a_pointer_to_a_run_that_is_gone_is_refused(spark, runs):
    run = complete_run(spark, runs)
    publish_run(spark, runs, run)
    FileSystem(spark, runs).delete(run.path)
    with pytest.raises(PublicationError, match=f"names a run that is not there, {run.id}: publish"):
        find_model(spark, runs)


def test_a_pointer_that_cannot_be_written_is_named(spark, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileSystemError, match=r"file/published\.json cannot be replaced: .*file"):
        publish_run(spark, f"{tmp_path}/file", Run("first", "unused"))


def test_a_rename_that_says_no_is_an_error():
    files = SimpleNamespace(rename=lambda path, target: False)
    target = SimpleNamespace(toString=lambda: "runs/published.json")
    with pytest.raises(FileSystemError, match=r"runs/published\.json cannot be replaced"):
        publication._rename_local(None, files, None, target)


def test_a_pointer_that_could_not_be_replaced_is_left_alone(spark, runs, monkeypatch):
    old, new = complete_run(spark, runs), complete_run(spark, runs)
    publish_run(spark, runs, old)
    monkeypatch.setitem(publication._RENAME_OVER, "file", refuse)
    with pytest.raises(FileSystemError, match="refused"):
        publish_run(spark, runs, new)
    assert find_model(spark, runs) == old.model
    assert len(os.listdir(runs)) == 3  # no temporary file is left


def refuse(context, files, path, target):
    assert files.exists(path)
    raise FileSystemError("refused")


def test_hdfs_renames_over_a_file_when_told_so(spark, tmp_path):
    context = spark.sparkContext
    paths = [context._jvm.org.apache.hadoop.fs.Path(str(tmp_path / name)) for name in ("new", "a")]
    files = paths[0].getFileSystem(context._jsc.hadoopConfiguration())
    for path, text in zip(paths, ("new", "old"), strict=True):
        publication._write(files, path, text)
    publication._rename_over(context, files, *paths)
    assert (tmp_path / "a").read_text() == "new"
    assert not (tmp_path / "new").exists()


def test_a_store_without_such_a_rename_is_written_at_once(spark, tmp_path):
    configuration = spark.sparkContext._jsc.hadoopConfiguration()
    key = "fs.viewfs.mounttable.store.link./runs"
    configuration.set(key, tmp_path.as_uri())
    try:
        for run in (Run("first", "unused"), Run("second", "unused")):
            publish_run(spark, "viewfs://store/runs", run)
    finally:
        configuration.unset(key)
    assert json.loads((tmp_path / POINTER).read_text()) == {"run_id": "second"}
