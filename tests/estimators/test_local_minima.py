"""Gradient descent against als, and what several starts reach where there are many minima."""

import numpy as np
import pytest

from nonconvex.recommendation import MatrixFactorization
from tests.distributed.test_alternating import frame, triples


@pytest.fixture(scope="module")
def ratings(spark):
    data = frame(spark, *triples()).cache()
    yield data
    data.unpersist()


def test_descent_reaches_what_als_reaches(ratings):
    problem = {"rank": 2, "regUser": 0.02, "regItem": 0.02, "precision": "float64", "tol": 0.0}
    als = MatrixFactorization(**problem, maxIter=60).fit(ratings).summary
    adam = MatrixFactorization(
        **problem,
        solver="gd",
        maxIter=80,
        learningRate=0.1,
        schedule="cosine",
        decaySteps=80,
        gradientTol=1e-6,
    ).fit(ratings)
    assert adam.summary.objective == pytest.approx(als.objective, rel=5e-3)
    norms = [step["gradient_norm"] for step in adam.summary.restarts[0].history]
    assert norms[-1] < 0.05 * norms[0]


def test_starts_reach_different_minima_and_the_best_is_kept(spark):
    """Rank 2 with 1.5 · 2 · (m + n) observed entries: near the threshold of identifiability."""
    generator = np.random.default_rng(5)
    rows, columns, rank = 30, 30, 2
    gamma, delta = generator.normal(size=(rows, rank)), generator.normal(size=(columns, rank))
    pairs = generator.choice(rows * columns, int(1.5 * rank * (rows + columns)), replace=False)
    users, items = pairs // columns, pairs % columns
    values = np.einsum("nk,nk->n", gamma[users], delta[items])
    model = MatrixFactorization(
        rank=rank,
        maxIter=60,
        tol=1e-6,
        regUser=1e-5,
        regItem=1e-5,
        fitIntercept=False,
        fitBiases=False,
        initScale=1.0,
        precision="float64",
        numRestarts=12,
    ).fit(frame(spark, users, items, values))
    reached = np.array([restart.objective for restart in model.summary.restarts])
    print("objectives of the starts:", np.array2string(np.sort(reached), precision=5))
    assert model.summary.objective == reached.min()
    assert reached.max() > 1.5 * reached.min(), "the starts reach visibly different minima"
