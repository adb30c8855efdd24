"""What a model must reach to be published."""

import math

import pytest

from nonconvex.gates import Gate

FIGURES = {"model": 1.5, "published": 1.45, "user_mean": 1.6, "global_mean": 1.52}
BASELINES = ("user_mean", "global_mean")


@pytest.mark.parametrize(
    ("gate", "complaints"),
    [
        (Gate("rmse"), []),
        (Gate("rmse", published=0.0625), []),
        (Gate("rmse", published=0.04), ["rmse 1.5 is not within 0.04 of 1.45, that of the publ"]),
        (Gate("rmse", baseline=0.0), []),
        (
            Gate("mae", baseline=-0.1),
            ["mae 1.5 is not within -0.1 of 1.52, that of the baseline g"],
        ),
        (Gate("accuracy", published=0.0), []),
        (
            Gate("r2", baseline=0.05),
            ["r2 1.5 is not within 0.05 of 1.6, that of the baseline user"],
        ),
        (Gate("rmse", 0.0, -1.0), ["rmse 1.5 is not within 0 of", "rmse 1.5 is not within -1 of"]),
    ],
)
def test_complaints(gate, complaints):
    found = gate.complaints(FIGURES, BASELINES)
    assert len(found) == len(complaints)
    assert all(map(str.startswith, found, complaints))


def test_a_first_model_has_no_published_one_to_reach():
    assert Gate("rmse", published=0.0).complaints({"model": 1.5}, ()) == []


def test_what_is_not_finite_never_passes():
    assert Gate("rmse", published=1e9).complaints({**FIGURES, "model": math.nan}, ())
    assert Gate("accuracy", published=1e9).complaints({**FIGURES, "model": math.nan}, ())
