"""Where rows are updated: the driver and the executors come to the same bits."""

import logging

import pytest

from nonconvex.distributed.factorization.execution import fits_on_driver
from nonconvex.recommendation import MatrixFactorization
from tests.factories import same_bits

HELD = {"validationIndicatorCol": "held"}
FITS = {
    "als": {"numRestarts": 2, "weightCol": "weight", "patience": 2, **HELD},
    "als-coordinate": {"precision": "float64"},
    "gd": {"miniBatchFraction": 0.5},
    "gibbs": {"numBurnIn": 1, "numSamples": 2, "numKept": 2, **HELD},
}


@pytest.mark.parametrize("solver", FITS)
def test_the_driver_and_the_executors_come_to_the_same_bits(weighted_ratings, solver):
    estimator = MatrixFactorization(rank=2, numUserBlocks=3, solver=solver, **FITS[solver])
    if solver != "gibbs":
        estimator.setMaxIter(2)
    here = estimator.setUpdates("driver").fit(weighted_ratings)
    there = estimator.setUpdates("executors").fit(weighted_ratings)
    same_bits(here.factors, there.factors)
    ours, theirs = (
        [[step | {"seconds": 0} for step in one.history] for one in model.summary.restarts]
        for model in (here, there)
    )
    assert ours == theirs


def test_few_ratings_are_worked_through_on_the_driver(weighted_ratings, caplog):
    # One rating more, or one start more, and a job is worth its planning.
    assert fits_on_driver(1 << 18, 16)
    assert not fits_on_driver((1 << 18) + 1, 1)
    assert not fits_on_driver(1 << 18, 17)
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        MatrixFactorization(rank=2, maxIter=1).fit(weighted_ratings)
    n = weighted_ratings.count()
    message = f"updates on the driver: {n} ratings × 3 unknowns take less time than planning a job"
    assert message in caplog.messages
