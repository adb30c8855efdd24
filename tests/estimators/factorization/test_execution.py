"""Where rows are updated: the driver and the executors come to the same bits."""

import logging

import pytest

from nonconvex.distributed.factorization.execution import fits_on_driver
from nonconvex.recommendation import MatrixFactorization
from tests.factories import same_bits

VALIDATED = {"validationIndicatorCol": "held"}
FITS = {
    "als": {"solver": "als", "numRestarts": 2, "weightCol": "weight", "patience": 2, **VALIDATED},
    "als-coordinate": {"solver": "als-coordinate", "precision": "float64"},
    "gd": {"solver": "gd", "miniBatchFraction": 0.5},
    "gibbs": {"solver": "gibbs", "numBurnIn": 1, "numSamples": 2, "numKept": 2, **VALIDATED},
}


@pytest.mark.parametrize("fit", FITS)
def test_the_driver_and_the_executors_come_to_the_same_bits(weighted_ratings, fit):
    estimator = MatrixFactorization(rank=2, numUserBlocks=3, **FITS[fit])
    if fit != "gibbs":
        estimator.setMaxIter(2)
    here = estimator.setUpdates("driver").fit(weighted_ratings)
    there = estimator.setUpdates("executors").fit(weighted_ratings)
    same_bits(here.factors, there.factors)
    for ours, theirs in zip(here.summary.restarts, there.summary.restarts, strict=True):
        assert [step | {"seconds": 0} for step in ours.history] == [
            step | {"seconds": 0} for step in theirs.history
        ]


def test_few_ratings_are_worked_through_on_the_driver(weighted_ratings, caplog):
    # One rating more, or one start more, and a job is worth its planning.
    assert fits_on_driver(1 << 18, 16)
    assert not fits_on_driver((1 << 18) + 1, 1)
    assert not fits_on_driver(1 << 18, 17)
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        MatrixFactorization(rank=2, maxIter=1).fit(weighted_ratings)
    n = weighted_ratings.count()
    assert (
        f"updates on the driver: {n} ratings × 3 unknowns take less time than planning a job"
        in caplog.messages
    )
