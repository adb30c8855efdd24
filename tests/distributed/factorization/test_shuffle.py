"""Rows that are exchanged by shuffle come to the bits of rows that are broadcast."""

import itertools
import logging
import shutil

import numpy as np
import pytest

from nonconvex.distributed.factorization.shuffle import Shuffle, design_moments
from nonconvex.distributed.factorization.state import RandomRows, ShardedFactors, gather_factors
from nonconvex.distributed.rows import CachedRows, CheckpointedRows, Rows, by_number
from nonconvex.estimators.factorization.fit import exchange_policy
from nonconvex.estimators.params import ParamError
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.factorization.ridge_posterior import MOMENT_ROWS, DesignMoments
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel
from tests import factories
from tests.factories import fit, problem, same_bits, same_ridge_posterior, triples


@pytest.fixture(scope="module")
def ratings(spark):
    users, items, values = triples()
    weights = np.random.default_rng(1).integers(1, 4, len(values)).astype(float)
    data = factories.frame(spark, users, items, values, weight=weights).cache()
    yield data
    data.unpersist()


@pytest.fixture(scope="module")
def validated(spark):
    """Noise, of which the first iteration is best, and ids that training does not know."""
    users, items, values = triples()
    held = np.arange(len(users)) % 4 == 1
    for ids in (users, items):
        held[np.unique(ids, return_index=True)[1]] = False
    noise = np.random.default_rng(3).normal(size=len(values))
    data = factories.frame(
        spark,
        [*users, 999, 999, 3],
        [*items, 999, 2, 999],
        [*noise, 1.0, 2.0, 0.5],
        held_out=[*held.tolist(), True, True, True],
    ).cache()
    yield data
    data.unpersist()


@pytest.fixture(autouse=True)
def kept(spark, ratings, validated):
    """Return what tells how many RDDs are kept that were not before the test, and forget these.

    Models keep two, which are forgotten here and not in another test, when Java collects garbage.
    """
    persistent = spark.sparkContext._jsc.getPersistentRDDs
    for data in (ratings, validated):
        data.count()
    before = set(persistent())
    yield lambda: len(set(persistent()) - before)
    for number, rdd in dict(persistent()).items():
        if number not in before:
            rdd.unpersist()


@pytest.mark.parametrize("case", ["weighted", "validated"])
def test_the_same_bits_as_broadcast_and_nothing_left_behind(
    ratings, validated, monkeypatch, kept, case
):
    data, dtype, settings = ratings, np.float64, {"max_iter": 2}
    start = problem(ratings.count(), dtype, solver="als-coordinate")
    if case == "validated":
        data, dtype, settings = validated, np.float32, {"max_iter": 9, "patience": 2}
        start = problem(validated.where("not held_out").count(), dtype, reg=1e-5)
    [expected] = fit(data, [start], dtype, **settings)
    assert expected.iteration < len(expected.history) // 2 or case == "weighted"
    ancestors, caches = [], []
    detach = Shuffle.detach

    def look(self, rows):
        ancestors.extend(r.elements.toDebugString().count(b"\n") for r in self._rows.values())
        caches.append(kept())
        detach(self, rows)

    monkeypatch.setattr(Shuffle, "detach", look)
    [found] = fit(data, [start], dtype, blocks=3, place="executors", exchange=Shuffle, **settings)
    same_bits(gather_factors(found.factors), expected.factors)
    np.testing.assert_array_equal(found.squares, expected.squares)
    assert found.stop is expected.stop
    assert [step._replace(seconds=0) for step in found.history] == [
        step._replace(seconds=0) for step in expected.history
    ]
    assert kept() == 2, "of users and of items"
    for rows in (found.factors.users, found.factors.items):
        rows.release()
    assert kept() == 0
    assert max(ancestors) <= 2, "rows know how they were made"
    assert max(caches) <= 12, "rows of earlier iterations are kept"


@pytest.fixture
def never_gathered(monkeypatch):
    """No row may come to the driver."""

    def refuse(self):
        pytest.fail("the driver asks for all rows")

    for kind in (RandomRows, CachedRows, CheckpointedRows):
        monkeypatch.setattr(kind, "gather", refuse)
    return monkeypatch


def test_from_ratings_to_a_saved_model_and_predictions_no_row_is_on_the_driver(
    ratings, tmp_path, never_gathered
):
    estimator = MatrixFactorization(solver="als", rank=2, maxIter=2, tol=0.0, weightCol="weight")
    expected = estimator.fit(ratings)
    model = estimator.copy().setExchange("shuffle").setNumUserBlocks(3).fit(ratings)
    for name in ("userFactors", "itemFactors"):
        assert getattr(model, name).orderBy("id").collect() == getattr(expected, name).collect()
    asked = ratings.select("user", "item").limit(50).collect()
    asked += [(999, 1), (1, 999), (None, 999)]
    pairs = ratings.sparkSession.createDataFrame(asked, "user long, item long")
    for strategy in ("bias", "nan", "drop"):
        found, wanted = (
            one.copy().setColdStartStrategy(strategy).transform(pairs) for one in (model, expected)
        )
        assert found.schema == wanted.schema
        assert sorted(map(repr, found.collect())) == sorted(map(repr, wanted.collect()))
    model.write().save(str(tmp_path / "model"))
    never_gathered.undo()
    loaded = MatrixFactorizationModel.load(str(tmp_path / "model"))
    same_bits(loaded.factors, expected.factors)
    same_ridge_posterior(loaded, expected)
    told = {model.predictionStdCol: "deviation"}
    for one in (model, loaded):  # whatever else a model does, its factors are gathered for
        deviations = one.copy(told).transform(pairs)
        assert sorted(map(repr, deviations.collect())) == sorted(
            map(repr, expected.copy(told).transform(pairs).collect())
        )
    same_bits(model.factors, expected.factors)


@pytest.mark.parametrize("goes_on", ["shuffle", "broadcast"])
def test_a_fit_goes_on_from_a_checkpoint_however_rows_are_exchanged(
    validated, tmp_path, never_gathered, caplog, kept, goes_on
):
    estimator = MatrixFactorization(
        rank=2, maxIter=4, tol=0.0, validationIndicatorCol="held_out", patience=2, regUser=1e-5
    )
    whole = estimator.fit(validated)
    assert whole.summary.restarts[0].iteration == 1, "the best iteration is not the last"
    saving = estimator.copy().setCheckpointPath(str(tmp_path / "c")).setCheckpointInterval(2)
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        shuffling = saving.copy().setExchange("shuffle")
        factories.fit_killed_after(1, never_gathered, shuffling, validated)
        enter = Shuffle.__enter__

        def begin_alone(self):
            shutil.rmtree(tmp_path / "c")  # as another process would, that has come further
            return enter(self)

        never_gathered.setattr(Shuffle, "__enter__", begin_alone)
        resumed = saving.setExchange(goes_on).setNumUserBlocks(3).fit(validated)
    assert kept() == (2 if goes_on == "shuffle" else 0)
    assert "MB of users to 2 blocks of items" in caplog.text
    assert "continuing after iteration 2" in caplog.text
    never_gathered.undo()
    same_bits(resumed.factors, whole.factors)
    same_ridge_posterior(resumed, whole)
    assert resumed.summary.objectiveHistory == whole.summary.objectiveHistory


def test_an_exchange_starts_from_an_earlier_model(ratings):
    estimator = MatrixFactorization(rank=2, maxIter=1, tol=0.0, weightCol="weight")
    estimator = estimator.setInitialModel(estimator.copy().fit(ratings))
    one, other = (estimator.copy().setExchange(e).fit(ratings) for e in ("broadcast", "shuffle"))
    same_bits(other.factors, one.factors)
    assert other.summary.objectiveHistory == one.summary.objectiveHistory
    assert other.summary.factor_share == one.summary.factor_share


@pytest.mark.parametrize("biases", [True, False])
def test_moments_of_kept_rows_have_the_bits_of_those_on_the_driver(spark, biases):
    generator = np.random.default_rng(0)
    rows = MOMENT_ROWS * 2 + 17
    x = generator.normal(size=(rows, 3)).astype(np.float32)
    degrees = generator.integers(1, 9, rows).astype(float)
    cuts = [0, 5, 5, MOMENT_ROWS + 1, rows]  # one block is empty
    slices = [slice(first, stop) for first, stop in itertools.pairwise(cuts)]
    elements = [(number, Rows(x[place], None, None)) for number, place in enumerate(slices)]
    rdd = spark.sparkContext.parallelize(elements).partitionBy(len(slices), by_number)
    kept = CachedRows(rdd, slices, 3, x.dtype)
    found = design_moments(ShardedFactors(0.0, kept, kept), (degrees, degrees), biases=biases)
    expected = DesignMoments.of(Factors(0.0, x, x), (degrees, degrees), biases=biases)
    np.testing.assert_array_equal(found.users, expected.users)
    np.testing.assert_array_equal(found.items, expected.items)
    z = np.column_stack([np.full(rows, float(biases)), x[:, 1:].astype(float)])
    np.testing.assert_allclose(found.users, (z.T * degrees) @ z / degrees.sum(), rtol=1e-10)


def test_what_no_shuffle_is_written_for_is_refused(ratings):
    for params, message in (
        ({"solver": "gd"}, "and here is solver='gd'; change that, or set exchange='auto'"),
        ({"solver": "gibbs"}, "solver='gibbs'"),
        ({"implicitPrefs": True}, "implicitPrefs=True"),
        ({"numRestarts": 2}, "numRestarts=2"),
        ({"updates": "driver"}, "updates='driver'"),
        ({"maxBroadcastBytes": 1}, "is only for exchange='auto', not 'shuffle'; unset it"),
    ):
        with pytest.raises(ParamError, match=message):
            MatrixFactorization(exchange="shuffle", **params).fit(ratings)


def test_rows_are_exchanged_if_they_are_more_than_may_be_broadcast(caplog):
    def choose(*estimators):
        return exchange_policy(estimators).choose(1000)

    bound = MatrixFactorization(
        solver="als", rank=9, maxBroadcastBytes=40_000
    )  # 1000 · (1 + 9) · 4
    below = bound.copy().setMaxBroadcastBytes(39_999)
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        assert choose(bound) == "broadcast"
        assert choose(below) == "shuffle"
        assert choose(below, below) == "broadcast"
        assert choose(below.copy().setSolver("gd")) == "broadcast"
        assert choose(below.copy().setExchange("broadcast")) == "broadcast"
    told = "{}: 1,000 rows of a side take {}0,000 bytes, and maxBroadcastBytes is {}"
    though = told.replace(":", ", though")
    assert caplog.messages == [
        told.format("rows are broadcast", 4, "40,000"),
        told.format("rows are exchanged by shuffle", 4, "39,999"),
        though.format("rows are broadcast", 8, "39,999: no shuffle is for a grid of Params"),
        though.format("rows are broadcast", 4, "39,999: no shuffle is for solver='gd'"),
    ]
