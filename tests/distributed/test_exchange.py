"""Rows that are exchanged by shuffle come to the bits of rows that are broadcast."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from nonconvex.distributed.exchange import Exchange
from nonconvex.exchanges import choose_exchange
from nonconvex.params import ParamError
from nonconvex.recommendation import MatrixFactorization
from tests.distributed.test_alternating import fit, frame, problem, same_bits, triples
from tests.distributed.test_checkpoints import fit_killed_after


@pytest.fixture(scope="module")
def ratings(spark):
    users, items, values = triples()
    weights = np.random.default_rng(1).integers(1, 4, len(values)).astype(float)
    data = frame(spark, users, items, values, weight=weights).cache()
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
    data = frame(
        spark,
        [*users, 999, 999, 3],
        [*items, 999, 2, 999],
        [*noise, 1.0, 2.0, 0.5],
        held_out=[*held.tolist(), True, True, True],
    ).cache()
    yield data
    data.unpersist()


@pytest.mark.parametrize("case", ["weighted", "validated"])
def test_the_same_bits_as_broadcast_and_nothing_left_behind(
    spark, ratings, validated, monkeypatch, case
):
    data, dtype, settings = ratings, np.float64, {"max_iter": 2}
    start = problem(ratings.count(), dtype, solver="als-coordinate")
    if case == "validated":
        data, dtype, settings = validated, np.float32, {"max_iter": 9, "patience": 2}
        start = problem(validated.where("not held_out").count(), dtype, reg=1e-5)
    [expected] = fit(data, [start], dtype, **settings)
    assert expected.iteration < len(expected.history) // 2 or case == "weighted"
    manager, ancestors, caches = spark.sparkContext._jsc.sc(), [], []
    gather = Exchange.gather

    def look(self):
        ancestors.extend(rows.toDebugString().count(b"\n") for rows in self._rows.values())
        caches.append(manager.getPersistentRDDs().size())
        gather(self)

    monkeypatch.setattr(Exchange, "gather", look)
    cached = manager.getPersistentRDDs().size()
    [found] = fit(data, [start], dtype, blocks=3, place="executors", exchange="shuffle", **settings)
    same_bits(found.factors, expected.factors)
    assert found.stop is expected.stop
    assert [step._replace(seconds=0) for step in found.history] == [
        step._replace(seconds=0) for step in expected.history
    ]
    assert manager.getPersistentRDDs().size() == cached
    assert max(ancestors) <= 2, "rows know how they were made"
    assert max(caches) <= cached + 12, "rows of earlier iterations are kept"


def test_a_fit_goes_on_from_a_checkpoint_however_rows_are_exchanged(
    ratings, tmp_path, monkeypatch, caplog
):
    estimator = MatrixFactorization(rank=2, maxIter=3, tol=0.0, weightCol="weight")
    whole = estimator.fit(ratings)
    saving = estimator.copy().setCheckpointPath(str(tmp_path / "c")).setCheckpointInterval(2)
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        fit_killed_after(1, monkeypatch, saving.copy().setExchange("shuffle"), ratings)
        resumed = saving.fit(ratings)
    assert "MB of users to 2 blocks of items" in caplog.text
    assert "going on after iteration 2" in caplog.text
    same_bits(resumed.factors, whole.factors)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"solver": "gd"}, "and here is solver='gd'; change that, or set exchange='auto'"),
        ({"solver": "gibbs"}, "solver='gibbs'"),
        ({"implicitPrefs": True}, "implicitPrefs=True"),
        ({"numRestarts": 2}, "numRestarts=2"),
        ({"updates": "driver"}, "updates='driver'"),
        ({"maxBroadcastBytes": 1}, "is only for exchange='auto', not 'shuffle'; unset it"),
    ],
)
def test_what_no_shuffle_is_written_for_is_refused(ratings, params, message):
    with pytest.raises(ParamError, match=message):
        MatrixFactorization(exchange="shuffle", **params).fit(ratings)


def test_rows_are_exchanged_if_they_are_more_than_may_be_broadcast(caplog):
    blocks = SimpleNamespace(users=None, validation=None, dtype=np.float32)
    training = SimpleNamespace(blocks=blocks, ids=(range(1000), range(10)))
    bound = MatrixFactorization(rank=9, maxBroadcastBytes=40_000)  # 1000 · (1 + 9) · 4
    below = bound.copy().setMaxBroadcastBytes(39_999)
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        assert choose_exchange([bound], training) == "broadcast"
        assert choose_exchange([below], training) == "shuffle"
        assert choose_exchange([below, below], training) == "broadcast"
        assert choose_exchange([below.copy().setSolver("gd")], training) == "broadcast"
        assert choose_exchange([below.copy().setExchange("broadcast")], training) == "broadcast"
    rows = "1,000 rows of a side take"
    within = f"{rows} 40,000 bytes, and maxBroadcastBytes is 40,000"
    beyond = f"{rows} 40,000 bytes, and maxBroadcastBytes is 39,999"
    twice = f"{rows} 80,000 bytes, and maxBroadcastBytes is 39,999"
    assert caplog.messages == [
        f"rows are broadcast: {within}",
        f"rows are exchanged by shuffle: {beyond}",
        f"rows are broadcast, though {twice}: no shuffle is for a grid of Params",
        f"rows are broadcast, though {beyond}: no shuffle is for solver='gd'",
    ]
