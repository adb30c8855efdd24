"""Sections that jobs share: the conditions of publication, and places that must lie apart."""

import math

import pytest

from nonconvex.pipeline.sections import GateSection, check_apart


def gate(metric, published=None, baseline=None):
    return GateSection(metric=metric, published=published, baseline=baseline)


FIGURES = {"model": 1.5, "published": 1.45, "user_mean": 1.6, "global_mean": 1.52}
BASELINES = ("user_mean", "global_mean")


@pytest.mark.parametrize(
    ("condition", "complaints"),
    [
        (gate("rmse"), []),
        (gate("rmse", published=0.0625), []),
        (gate("rmse", published=0.04), ["rmse 1.5 is not within 0.04 of 1.45, that of the publ"]),
        (gate("rmse", baseline=0.0), []),
        (gate("mae", baseline=-0.1), ["mae 1.5 is not within -0.1 of 1.52, that of the basel"]),
        (gate("accuracy", published=0.0), []),
        (gate("r2", baseline=0.05), ["r2 1.5 is not within 0.05 of 1.6, that of the baseline u"]),
        (gate("rmse", 0.0, -1.0), ["rmse 1.5 is not within 0 of", "rmse 1.5 is not within -1 of"]),
    ],
)
def test_complaints(condition, complaints):
    found = condition.complaints(FIGURES, BASELINES)
    assert len(found) == len(complaints)
    assert all(map(str.startswith, found, complaints))


def test_a_first_model_has_none_to_reach_and_what_is_not_finite_never_passes():
    assert gate("rmse", published=0.0).complaints({"model": 1.5}, ()) == []
    assert gate("rmse", published=1e9).complaints({**FIGURES, "model": math.nan}, ())
    assert gate("accuracy", published=1e9).complaints({**FIGURES, "model": math.nan}, ())


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("ratings", "ratings"),
        ("ratings/runs/new", "ratings/"),
        ("file:{here}/ratings/../ratings/runs", "ratings"),
        ("{here}/link/runs", "file://{here}/ratings"),
        ("ratings/day=2", "ratings/day=*"),
        ("hdfs://store/films/runs", "hdfs://store/films"),
    ],
)
def test_what_is_written_into_what_is_read_is_refused(tmp_path, monkeypatch, written, read):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ratings").mkdir()
    (tmp_path / "link").symlink_to("ratings")
    written, read = written.format(here=tmp_path), read.format(here=tmp_path)
    with pytest.raises(ValueError, match=r"output\.path=.* lies in ratings\.path=.*: name another"):
        check_apart({"output.path": written}, {"other": None, "ratings.path": read})


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("ratings_runs", "ratings"),
        ("output/runs", "output/ratings.parquet"),
        ("output", "output/prepared"),
        ("ratings/runs", "ratings/*.csv"),
        ("s3a://one/films/runs", "s3a://two/films"),
        ("films/runs", "hdfs://store/films"),
        (None, "films"),
    ],
)
def test_what_lies_apart_is_not(written, read):
    check_apart({"output.path": written}, {"ratings.path": read})
