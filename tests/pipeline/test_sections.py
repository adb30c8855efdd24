"""The conditions under which a model is published."""

import math

import pytest

from nonconvex.pipeline.sections import GateSection


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
