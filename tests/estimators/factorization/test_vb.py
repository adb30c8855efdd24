"""Variational fits in Spark: their course, their deviations, and the same bits in every way."""

import signal
from functools import partial

import numpy as np
import pytest
from pyspark.sql import functions as F

from nonconvex.distributed.checkpoints import Interrupted
from nonconvex.distributed.factorization.state import FitState
from nonconvex.estimators.params import ParamError
from nonconvex.local import load
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel
from tests.factories import assert_predicted_to_the_noise, told

USERS, ITEMS, RANK, NOISE = 60, 40, 2, 0.5


@pytest.fixture(scope="module")
def ratings(planted_ratings):
    return planted_ratings


def estimator(**params):
    given = {"rank": RANK, "solver": "vb", "maxIter": 12, "patience": 0}
    return MatrixFactorization(**{**given, "validationIndicatorCol": "held_out", **params})


@pytest.fixture(scope="module")
def model(ratings):
    return estimator().fit(ratings)


def assert_same(one, other):
    arrays = [[*m.factors[1:], *m._state.ridge_posterior.measured] for m in (one, other)]
    assert [a.tobytes() for a in arrays[0]] == [a.tobytes() for a in arrays[1]]
    histories = [
        [{**step, "seconds": 0} for step in m.summary.restarts[0].history] for m in (one, other)
    ]
    assert histories[0] == histories[1]


def test_the_free_energy_never_rises_and_spare_coordinates_add_little(ratings):
    fit = estimator(rank=6, maxIter=40, precision="float64").fit(ratings)
    assert np.diff(fit.summary.objectiveHistory).max() < 1e-12
    x, z = (rows[:, 1:] for rows in fit.factors[1:])
    values = np.linalg.svd(x @ z.T, compute_uv=False) ** 2
    assert values[RANK:].sum() < 0.01 * values.sum()
    assert fit.summary.inference["noise"] == pytest.approx(NOISE, rel=0.15)
    assert fit.summary.restarts[0].history[-1]["tau"] == pytest.approx(1 / NOISE**2, rel=0.3)
    assert f", effective rank {fit.summary.effective_rank}\nnoise 0." in str(fit.summary)


def test_held_out_ratings_are_predicted_to_the_noise_and_covered(model, ratings):
    assert_predicted_to_the_noise(model, ratings)


def test_the_validation_rmse_is_that_of_the_model(model, ratings):
    predicted = model.transform(ratings.where("held_out")).toPandas()
    rmse = np.sqrt(np.mean((predicted["prediction"] - predicted["rating"]) ** 2))
    assert model.summary.restarts[0].validation_rmse == pytest.approx(rmse, rel=1e-5)


@pytest.mark.parametrize("exchange", ["broadcast", "shuffle"])
def test_blocks_places_and_exchanges_do_not_change_a_bit(model, ratings, exchange):
    params = {"updates": "executors", "exchange": exchange, "numUserBlocks": 3, "numItemBlocks": 2}
    assert_same(estimator(**params).fit(ratings.repartition(3)), model)


@pytest.mark.parametrize("exchange", ["auto", "shuffle"])
def test_an_interrupted_fit_goes_on_to_the_same_bits(model, ratings, tmp_path, exchange):
    params = {
        "checkpointPath": str(tmp_path / "fit"),
        "checkpointInterval": 4,
        "exchange": exchange,
    }
    end, press = FitState.end_iteration, partial(signal.raise_signal, signal.SIGINT)

    def ended(self, rule):
        end(self, rule)
        if self.history[-1].iteration == 6:
            press()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FitState, "end_iteration", ended)
        with pytest.raises(Interrupted, match="iteration 6, which is saved in"):
            estimator(**params).fit(ratings)
    assert_same(estimator(**params).fit(ratings), model)


def test_a_model_comes_back_from_disk_with_its_covariances(model, ratings, tmp_path):
    model.write().save(str(tmp_path / "model"))
    loaded = MatrixFactorizationModel.load(str(tmp_path / "model"))
    assert_same(loaded, model)
    assert loaded.summary == model.summary
    asked = loaded.copy({loaded.predictionStdCol: "std"})
    expected = told(asked, ratings.where("user = 7 and item < 30"))
    local = load(str(tmp_path / "model"))
    found = local.deviations([7] * len(expected), expected["item"].tolist())
    np.testing.assert_allclose(found, expected["std"], rtol=1e-6)
    history = {"user": [999] * 5, "item": [1, 2, 3, 4, 5], "rating": [3.0, 4.0, 2.0, 5.0, 1.0]}
    new = local.fold_in_users(history)
    assert new.deviations([999], [7]) < local.deviations([999], [7])


def test_training_users_are_folded_in_as_they_were_and_a_new_one_as_its_twin(model, ratings):
    train = ratings.where("not held_out")
    as_twin = {"user": F.lit(1007).cast("long")}
    twin = train.where("user = 7").withColumns(as_twin)
    folded = model.foldInUsers(train.where("user < 20").union(twin))
    asked, before = (m.copy({m.predictionStdCol: "std"}) for m in (folded, model))
    own, its = (told(asked, ratings.where("user = 7").withColumns(of)) for of in ({}, as_twin))
    np.testing.assert_allclose(own["prediction"], its["prediction"], rtol=1e-6)
    np.testing.assert_allclose(own["std"], its["std"], rtol=1e-6)
    was = told(before, ratings.where("user = 7"))
    # Λ, ξ, τ and α have been learned once more after the last update of the users
    np.testing.assert_allclose(own["prediction"], was["prediction"], atol=0.1 * NOISE)
    np.testing.assert_allclose(own["std"], was["std"], rtol=0.1)


def test_restarts_warm_starts_and_precisions_of_users(model, ratings):
    several = estimator(maxIter=3, numRestarts=2, keepRestarts=True).fit(ratings)
    assert [kept.rank for kept in several.restarts] == [RANK, RANK]
    warm = estimator(maxIter=1).setInitialModel(model).fit(ratings)
    assert (
        warm.summary.restarts[0].train_rmse < several.summary.restarts[0].history[2]["train_rmse"]
    )
    plain = estimator(maxIter=3, fitUserPrecision=False).fit(ratings)
    assert (plain._state.ridge_posterior.measured.users[:, -2:] == 1).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"regUser": 0.1}, "regUser=0.1 has no meaning with solver='vb'; unset it"),
        ({"nonnegative": True}, "nonnegative=True has no meaning with solver='vb'"),
        ({"numSamples": 3}, "numSamples=3 is only for solver='gibbs', not 'vb'"),
        ({"ensemble": True, "predictionStdCol": "s"}, "does not go with ensemble=True"),
    ],
)
def test_params_that_would_be_ignored_are_refused(ratings, params, message):
    with pytest.raises(ParamError, match=message):
        estimator(**params).fit(ratings)
