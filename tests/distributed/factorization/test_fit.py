"""The distributed loop against a loop over arrays, however the work is divided."""

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import functions as F

from nonconvex.distributed.factorization.state import Problem
from nonconvex.distributed.runtime import job_description
from nonconvex.numerics.convergence import FitError, Stop
from nonconvex.numerics.factorization.model import Factors
from tests.distributed.factorization.local import alternate
from tests.factories import RANK, USERS, fit, frame, problem, same_bits, triples


@pytest.mark.parametrize("solver", ["als", "als-coordinate"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_the_local_loop_bit_for_bit(spark, solver, dtype):
    users, items, ratings = triples()
    ratings = ratings.astype(dtype).astype(float)
    start = problem(len(ratings), dtype, solver=solver)
    [fitted] = fit(frame(spark, users, items, ratings), [start], dtype, place="executors")
    factors, values = alternate(users, items, ratings, start, 3, dtype)
    same_bits(fitted.factors, factors)
    found = [step.objective for step in fitted.history]
    np.testing.assert_allclose(found, values, rtol=1e-12 if dtype == np.float64 else 1e-6)
    assert all(later <= earlier for earlier, later in itertools.pairwise(found))


@pytest.mark.parametrize("blocks", [1, 3, 16])
def test_blocks_order_and_partitions_do_not_change_a_bit(spark, blocks):
    users, items, ratings = triples()
    start = problem(len(ratings), np.float32)
    [expected] = fit(frame(spark, users, items, ratings), [start])
    shuffled = frame(spark, users, items, ratings).orderBy(F.rand(blocks)).repartition(blocks + 1)
    [found] = fit(shuffled, [start], blocks=blocks, place="executors")
    same_bits(found.factors, expected.factors)
    assert [s._replace(seconds=0) for s in found.history] == [
        s._replace(seconds=0) for s in expected.history
    ]


@pytest.mark.parametrize(("place", "iterations"), [("driver", 3), ("executors", 1)])
def test_weights_and_empty_blocks(spark, place, iterations):
    users, items, ratings = triples()
    weights = np.random.default_rng(1).integers(1, 4, len(ratings)).astype(float)
    start = problem(float(weights.sum()), np.float64)
    weighted = frame(spark, users, items, ratings, weight=weights)
    [fitted] = fit(
        weighted, [start], np.float64, blocks=USERS + 10, place=place, max_iter=iterations
    )
    factors, values = alternate(users, items, ratings, start, iterations, np.float64, weights)
    same_bits(fitted.factors, factors)
    assert fitted.objective == pytest.approx(values[-1], rel=1e-12)


def test_problems_share_the_passes_and_nothing_else(spark):
    users, items, ratings = triples()
    starts = [
        problem(len(ratings), np.float32, seed=seed, solver=solver, reg=reg)
        for seed, solver, reg in ((0, "als", 0.02), (1, "als-coordinate", 0.01), (2, "als", 0.1))
    ]
    data = frame(spark, users, items, ratings).cache()
    together = fit(data, starts, max_iter=6, tol=1e-2, place="executors")
    assert len({len(fitted.history) for fitted in together}) > 1, "all stop at the same iteration"
    for start, fitted in zip(starts, together, strict=True):
        [alone] = fit(data, [start], max_iter=6, tol=1e-2)
        same_bits(fitted.factors, alone.factors)
        assert fitted.stop is alone.stop
    data.unpersist()


def test_validation_rmse_is_that_of_the_model(spark):
    users, items, ratings = triples()
    held = np.arange(len(ratings)) % 7 == 0
    held[[np.flatnonzero(users == u)[0] for u in range(1, USERS)]] = False
    held |= users == 0  # a user that training does not know
    data = frame(spark, users, items, ratings, held_out=held)
    known = np.unique(users[~held])
    seen_items = np.unique(items[~held])
    start = problem(int((~held).sum()), np.float64)
    start_rows = Factors(3.0, start.start.users[: len(known)], start.start.items[: len(seen_items)])
    start = Problem(start_rows, start.user_ridge, start.item_ridge)
    [fitted] = fit(data, [start], np.float64, max_iter=4, patience=1)
    x, z = fitted.factors.users, fitted.factors.items
    errors = []
    for user, item, rating in zip(users[held], items[held], ratings[held], strict=True):
        u, i = (
            (x[np.searchsorted(known, user)] if user in known else np.zeros(1 + RANK)),
            (z[np.searchsorted(seen_items, item)] if item in seen_items else np.zeros(1 + RANK)),
        )
        errors.append(fitted.factors.alpha + u[0] + i[0] + u[1:] @ i[1:] - rating)
    assert fitted.validation_rmse == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-12)
    validated = [s.validation_rmse for s in fitted.history if s.validation_rmse is not None]
    assert fitted.validation_rmse == min(validated)


def test_patience_returns_the_best_iteration(spark):
    users, items, ratings = triples()
    generator = np.random.default_rng(3)
    noise = generator.normal(size=len(ratings))  # nothing to learn: the first iteration is best
    data = frame(spark, users, items, noise, held_out=np.arange(len(ratings)) % 3 == 0)
    training_size = int((np.arange(len(ratings)) % 3 != 0).sum())
    start = problem(training_size, np.float64, reg=1e-5)
    [fitted] = fit(data, [start], np.float64, max_iter=30, patience=2)
    validated = [s.validation_rmse for s in fitted.history if s.validation_rmse is not None]
    assert fitted.stop is Stop.PATIENCE
    assert fitted.iteration == int(np.argmin(validated)) + 1 == len(validated) - 2


def test_a_problem_that_diverges_is_dropped_and_all_of_them_raise(spark):
    users, items, ratings = triples()
    good = problem(len(ratings), np.float32)
    start = good.start._replace(users=good.start.users * np.float32(1e30))
    bad = Problem(start, good.user_ridge, good.item_ridge, name="bad")
    data = frame(spark, users, items, ratings)
    dropped, kept = fit(data, [bad, good])
    assert dropped.stop is Stop.NONFINITE
    assert kept.stop is Stop.MAX_ITER
    [alone] = fit(data, [good])
    same_bits(kept.factors, alone.factors)
    with pytest.raises(FitError, match=r"the objective became .* raise regUser \(now 0.02\)"):
        fit(data, [bad])


@pytest.mark.parametrize("iterations", [10, pytest.param(100, marks=pytest.mark.thorough)])
def test_nothing_is_left_behind(spark, iterations):
    context = spark.sparkContext
    manager = context._jsc.sc()
    users, items, ratings = triples(n=100)
    data = frame(spark, users, items, ratings)
    start = problem(len(ratings), np.float32)
    fit(data, [start], max_iter=2, place="executors", blocks=1)
    temporary = Path(context._temp_dir)
    before = len(list(temporary.iterdir())), manager.getPersistentRDDs().size()
    [fitted] = fit(data, [start], max_iter=iterations, place="executors", blocks=1)
    assert len(fitted.history) == 2 * iterations
    assert (len(list(temporary.iterdir())), manager.getPersistentRDDs().size()) == before
    assert job_description(spark) is None


def test_one_line_for_each_iteration(spark, caplog):
    users, items, ratings = triples(n=100)
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        fit(frame(spark, users, items, ratings), [problem(len(ratings), np.float32)])
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0].startswith("iteration   1  f ")
    assert lines[-1].endswith("reached maxIter")
