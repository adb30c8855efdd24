"""What several starts reach where there are many minima."""

import numpy as np

from nonconvex.recommendation import MatrixFactorization
from tests.factories import frame


def test_starts_reach_different_minima_and_the_best_is_kept(spark):
    """Rank 2 with 1.5 · 2 · (m + n) observed entries: near the threshold of identifiability."""
    generator = np.random.default_rng(5)
    rows, columns, rank = 30, 30, 2
    gamma, delta = generator.normal(size=(rows, rank)), generator.normal(size=(columns, rank))
    pairs = generator.choice(rows * columns, int(1.5 * rank * (rows + columns)), replace=False)
    users, items = pairs // columns, pairs % columns
    values = np.einsum("nk,nk->n", gamma[users], delta[items])
    given = {"rank": rank, "regUser": 1e-5, "regItem": 1e-5, "initScale": 1.0, "numRestarts": 12}
    plain = {"fitIntercept": False, "fitBiases": False, "precision": "float64"}
    estimator = MatrixFactorization(maxIter=30, tol=1e-6, **given, **plain)
    model = estimator.fit(frame(spark, users, items, values))
    reached = np.array([restart.objective for restart in model.summary.restarts])
    print("objectives of the starts:", np.array2string(np.sort(reached), precision=5))
    assert model.summary.objective == reached.min()
    assert reached.max() > 1.5 * reached.min(), "the starts reach visibly different minima"
