"""The run that a run of a day follows."""

from datetime import date
from pathlib import Path

import pytest

from nonconvex.pipeline.release import LineageError, RunLineage, predecessor, write_lineage
from nonconvex.pipeline.runs import new_run, publish_run, published_run

DAY = date(2026, 11, 25)


@pytest.fixture
def runs(spark, tmp_path):
    return spark, f"{tmp_path}/runs"


def publish(spark, path, lineage):
    """Publish a run that says, or does not say, where it comes from."""
    with new_run(spark, path) as run:
        if lineage is not None:
            write_lineage(spark, run, lineage)
        (directory(run) / "model").mkdir()
    publish_run(spark, path, run, after=published_run(spark, path))
    return run


def directory(run):
    return Path(run.path)


def before(runs, day):
    spark, path = runs
    return predecessor(spark, path, published_run(spark, path), day)


def test_a_run_follows_the_last_one_of_an_older_day(runs):
    assert before(runs, DAY) is None
    first = publish(*runs, RunLineage(None, None))  # by hand
    assert before(runs, DAY) == before(runs, None) == first
    yesterday = publish(*runs, RunLineage(date(2026, 11, 24), first.id))
    assert before(runs, DAY) == yesterday
    today = publish(*runs, RunLineage(DAY, yesterday.id))
    assert before(runs, DAY) == yesterday
    assert before(runs, date(2026, 11, 26)) == before(runs, None) == today
    again = publish(*runs, RunLineage(DAY, yesterday.id))
    assert before(runs, DAY) == yesterday
    assert before(runs, date(2026, 11, 26)) == again
    assert before(runs, date(2026, 11, 24)) == first
    publish(*runs, RunLineage(date(2026, 11, 26), again.id))
    assert before(runs, DAY) == yesterday
    assert before(runs, date(2026, 11, 1)) == first


def test_the_first_day_begins_with_nothing_again(runs):
    publish(*runs, RunLineage(DAY, None))
    assert before(runs, DAY) is None


def test_a_run_that_is_not_kept_is_named(runs, tmp_path):
    yesterday = publish(*runs, RunLineage(date(2026, 11, 24), None))
    today = publish(*runs, RunLineage(DAY, yesterday.id))
    (tmp_path / f"runs/run_id={yesterday.id}/model").rmdir()
    message = (
        f"2026-11-25 cannot be repeated from where it began, as {yesterday.id}, which {today.id} "
        "of 2026-11-25 followed, is not kept any more: set start.model to a model to begin at, "
        "and keep more runs by output.keep"
    )
    with pytest.raises(LineageError, match=f"^{message}$"):
        before(runs, DAY)


@pytest.mark.parametrize("damage", [None, "{}", '{"day": "soon", "after": null}'])
def test_a_run_that_does_not_say_its_day_is_older_than_any(runs, damage, caplog):
    run = publish(*runs, None if damage is None else RunLineage(DAY, None))
    if damage is not None:
        (directory(run) / ".lineage.json.crc").unlink()
        (directory(run) / "lineage.json").write_text(damage)
    assert before(runs, DAY) == run
    assert ("the day of" in caplog.text) == (damage is not None)
