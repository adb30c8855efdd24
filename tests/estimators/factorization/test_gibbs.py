"""Gibbs sampling in Spark: what it predicts, how sure it is, and that its bits are the same."""

import signal
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from pyspark.sql import functions as F

from nonconvex.distributed import model_tables
from nonconvex.distributed.checkpoints import Interrupted
from nonconvex.distributed.factorization import gibbs
from nonconvex.distributed.factorization.state import FitState
from nonconvex.distributed.runtime import counted_jobs
from nonconvex.estimators.params import ParamError
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel
from tests.factories import assert_predicted_to_the_noise, told

USERS, ITEMS, RANK, NOISE = 60, 40, 2, 0.5


@pytest.fixture(scope="module")
def ratings(planted_ratings):
    return planted_ratings


def estimator(**params):
    given = {"rank": RANK, "solver": "gibbs", "numBurnIn": 10, "numSamples": 10, "numKept": 6}
    return MatrixFactorization(**{**given, "validationIndicatorCol": "held_out", **params})


@pytest.fixture(scope="module")
def model(ratings):
    return estimator(numRestarts=2).fit(ratings)


def arrays_of(model):
    posterior = model._state.posterior
    return [*model.factors[1:], posterior.users, posterior.items, posterior.user_precision]


def same(one, other):
    return [a.tobytes() for a in arrays_of(one)] == [a.tobytes() for a in arrays_of(other)]


def test_every_param_of_sampling_has_its_effect(ratings):
    params = {"numBurnIn": 1, "numSamples": 2, "thinning": 2, "numKept": 3, "meanRank": 3}
    few = estimator(**params, numRestarts=2).fit(ratings)
    predicted = [s["validation_rmse"] is not None for s in few.summary.restarts[0].history]
    assert predicted == [False, False, True, True, True]  # sweeps 3 and 5 end with a sample
    sampling = few.summary.sampling
    assert [sampling[name] for name in ("burnIn", "samples", "thinning", "kept")] == [1, 2, 2, 3]
    assert len(few._state.posterior.taus) == 3
    assert few.rank == 3


def test_held_out_ratings_are_predicted_to_the_noise_and_covered(model, ratings):
    assert_predicted_to_the_noise(model, ratings)


def test_the_summary_tells_of_every_sweep(model):
    summary = model.summary
    assert [len(chain.history) for chain in summary.restarts] == [20, 20]
    assert [chain.stop for chain in summary.restarts] == ["drew all samples"] * 2
    history = summary.restarts[0].history
    assert [step["validation_rmse"] is None for step in history] == [True] * 10 + [False] * 10
    assert history[-1]["validation_rmse"] < min(1.0, history[10]["validation_rmse"])
    assert history[-1]["tau"] == pytest.approx(1 / NOISE**2, rel=0.4)
    assert summary.sampling["kept"] == 6
    assert set(summary.sampling["rHat"]) == {"tau", "alpha", "train_rmse"}
    assert 1 <= summary.sampling["effectiveSize"]["tau"] <= 80


def test_the_validation_rmse_is_that_of_the_mean_model(model, ratings):
    predicted = model.transform(ratings.where("held_out")).toPandas()
    rmse = np.sqrt(np.mean((predicted["prediction"] - predicted["rating"]) ** 2))
    # 20 samples of rank 2 in a model of rank 14: nearly all of them
    assert model.rank == 14
    assert model.summary.restarts[0].validation_rmse == pytest.approx(rmse, rel=0.01)


@pytest.mark.parametrize(("small", "least"), [(model_tables._SMALL, 0), (0, 4)])
def test_a_model_comes_back_from_disk_with_its_samples(
    spark, model, small, least, monkeypatch, tmp_path
):
    model.write().save(str(tmp_path / "model"))
    monkeypatch.setattr(model_tables, "_SMALL", small)  # what is larger is read by jobs
    with counted_jobs(spark) as jobs:
        loaded = MatrixFactorizationModel.load(str(tmp_path / "model"))
    assert least <= jobs() <= 3 * least
    assert same(loaded, model)
    assert loaded.summary == model.summary
    spreads = (m._state.posterior.spread() for m in (loaded, model))
    for one, other in zip(*spreads, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_precisions_of_users_all_are_1_on_disk_and_for_new_users_too(ratings, tmp_path):
    few = {"numBurnIn": 2, "numSamples": 3, "numKept": 2}
    plain = estimator(**few, fitUserPrecision=False).fit(ratings)
    plain.write().save(str(tmp_path / "model"))
    loaded = MatrixFactorizationModel.load(str(tmp_path / "model"))
    new = ratings.where("user = 7").withColumn("user", F.lit(1007).cast("long"))
    for model in (plain, loaded, loaded.foldInUsers(new)):
        posterior = model._state.posterior
        assert (posterior.user_precision == 1).all()
        assert posterior.spread().scatter == 1.0
    assert len(model._state.posterior.users) == len(plain._state.posterior.users) + 1
    with pytest.raises(
        ParamError, match="fitUserPrecision=False is only for solvers 'gibbs' and 'vb', not 'als'"
    ):
        MatrixFactorization(solver="als", fitUserPrecision=False).fit(ratings)


@contextmanager
def before(owner, name, when, act):
    """Act before some calls of a method."""
    method = getattr(owner, name)

    def first(self, *arguments):
        if when(self, *arguments):
            act()
        return method(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, first)
        yield


press_ctrl_c = partial(signal.raise_signal, signal.SIGINT)


def before_sweep(sweep, act):
    return before(gibbs.ChainGroup, "take", lambda self, at, *_: at == sweep, act)


def test_an_ended_fit_goes_on_to_the_same_bits(model, ratings, tmp_path, monkeypatch):
    """On fewer blocks, killed in the midst of sampling, and then ended by Ctrl-C as well."""

    def die():
        raise KeyboardInterrupt

    def is_first(state, rule):
        return state.problem.name == "restart 0"  # a second Ctrl-C would end it at once

    params = {"checkpointPath": str(tmp_path / "fit"), "checkpointInterval": 5, "numRestarts": 2}
    interrupted = estimator(numUserBlocks=3, numItemBlocks=2, **params)
    for ended, error, match in (
        (before(FitState, "end_iteration", is_first, press_ctrl_c), Interrupted,
         "before the first sweep, and nothing is saved yet; "),
        (before_sweep(16, die), KeyboardInterrupt, None),
        (before_sweep(17, press_ctrl_c), Interrupted, "17, which is saved in .*/fit; run"),
    ):  # fmt: skip
        with ended, pytest.raises(error, match=match):
            interrupted.fit(ratings)
    monkeypatch.setattr(gibbs, "fit_loop", None)  # chains go on, and do not start again
    again = estimator(numUserBlocks=1, numItemBlocks=4, **params).fit(ratings.repartition(3))
    assert same(again, model)
    values = [[step["tau"] for step in m.summary.restarts[1].history] for m in (again, model)]
    assert values[0] == values[1]
    rmse = [m.summary.restarts[0].validation_rmse for m in (again, model)]
    assert rmse[0] == rmse[1]
    monkeypatch.setattr(gibbs, "_sweep", None)  # nor is a sweep made again
    again = estimator(**params).fit(ratings)
    assert same(again, model)
    again.write().save(str(tmp_path / "model"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_fit_that_was_interrupted_in_its_first_sweeps_has_the_same_bits(model, ratings, tmp_path):
    saving = estimator(numRestarts=2, checkpointPath=str(tmp_path / "fit"))
    # Λ is fixed for five sweeps
    with before_sweep(2, press_ctrl_c), pytest.raises(Interrupted, match="after sweep 2"):
        saving.fit(ratings)
    assert same(saving.fit(ratings), model)


def test_training_ids_are_folded_in_nearly_as_they_were_and_a_new_one_as_its_twin(model, ratings):
    train = ratings.where("not held_out")
    as_twin = {"user": F.lit(1007).cast("long")}
    twin = train.where("user = 7").withColumns(as_twin)
    folded = model.foldInUsers(train.where("user < 20").union(twin))
    items = model.foldInItems(train.where("item < 10"))
    for other, pairs in ((folded, "user < 20"), (items, "item < 10")):
        before, after = (told(m, ratings.where(pairs))["prediction"] for m in (model, other))
        assert np.sqrt(np.mean((after - before) ** 2)) < 0.3 * NOISE
    asked = folded.copy({folded.predictionStdCol: "std"})
    own, its = (told(asked, ratings.where("user = 7").withColumns(of)) for of in ({}, as_twin))
    np.testing.assert_allclose(own["prediction"], its["prediction"], atol=0.25 * NOISE)
    np.testing.assert_allclose(own["std"], its["std"], rtol=0.6)
    # one user alone is folded in to the same bits as among others
    alone = model.foldInUsers(twin.repartition(4))
    place = alone._ids.users.to_pylist().index(1007)
    one, other = alone._state.posterior.users[place], folded._state.posterior.users[-1]
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"regUser": 0.1}, "regUser=0.1 has no meaning with solver='gibbs'; unset it"),
        ({"numKept": 21, "numRestarts": 2}, "numKept=21 is more than the 20 samples there will be"),
        ({"maxIter": 3}, "maxIter=3 has no meaning with solver='gibbs'"),
        ({"implicitPrefs": True}, "implicitPrefs=True has no meaning"),
        ({"solver": "als"}, "numBurnIn=10 is only for solver='gibbs', not 'als'"),
        ({"predictionInterval": 0.5}, "predictionInterval=0.5 needs predictionIntervalCol"),
        ({"predictionNoise": False}, "predictionNoise=False needs predictionStdCol or"),
    ],
)
def test_params_that_would_be_ignored_are_refused(ratings, params, message):
    with pytest.raises(ParamError, match=message):
        estimator(**params).fit(ratings)
