"""How sure models that were minimized are: intervals in Spark, saved, folded in, and refused."""

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import functions as F

from nonconvex.estimators.factorization.predict import ModelState
from nonconvex.estimators.params import ParamError
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel
from tests.factories import same_ridge_posterior, told

USERS, ITEMS, NOISE = 60, 40, 0.5


def estimator(**params):
    names = {"predictionStdCol": "std", "predictionIntervalCol": "interval"}
    return MatrixFactorization(**{"solver": "als", "rank": 2, **names, **params})


@pytest.fixture(scope="module")
def model(planted_ratings):
    return estimator().fit(planted_ratings.where("not held_out"))


def test_intervals_are_about_predictions_and_wider_for_what_is_not_known(model, planted_ratings):
    table = told(model, planted_ratings.where("held_out"))
    lower, upper = (table["interval"].map(lambda ends, k=k: ends[k]) for k in ("lower", "upper"))
    np.testing.assert_allclose((lower + upper) / 2, table["prediction"])
    np.testing.assert_allclose(upper - lower, 2 * 1.6448536 * table["std"], rtol=1e-6)
    inside = (lower <= table["rating"]) & (table["rating"] <= upper)
    assert 0.84 < inside.mean() < 0.96
    new_user, new_item = table["user"] == USERS - 1, table["item"] == ITEMS - 1
    new = new_user | new_item
    of_new_item = table[new_item & ~new_user].set_index("user")["std"]
    least_sure = table[~new].groupby("user")["std"].max()
    assert (of_new_item > least_sure.reindex(of_new_item.index).fillna(0)).all()
    assert table["std"].min() > NOISE / 2
    of_mean = told(model.copy({model.predictionNoise: False}), planted_ratings.where("held_out"))
    assert (of_mean["std"] < table["std"]).all()
    nan = model.copy({model.coldStartStrategy: "nan"})
    assert np.isnan(told(nan, planted_ratings.where("held_out"))["std"][new]).all()


def test_who_is_folded_in_again_is_as_sure_as_before(model, planted_ratings):
    train = planted_ratings.where("not held_out")
    before = told(model, train)
    users = told(model.foldInUsers(train.where("user < 30")), train)
    pd.testing.assert_frame_equal(users, before, check_exact=True)
    items = told(model.foldInItems(train.where("item < 20")), train)
    np.testing.assert_allclose(items["std"], before["std"], rtol=0.02)
    new = model.foldInUsers(planted_ratings.where(F.col("user") == USERS - 1))
    of_new = planted_ratings.where(f"user = {USERS - 1} and item < {ITEMS - 1}")
    assert (told(new, of_new)["std"] < told(model, of_new)["std"]).all()


def test_the_same_wherever_and_however_it_was_minimized(model, planted_ratings):
    train = planted_ratings.where("not held_out")
    apart = estimator(updates="executors", numUserBlocks=3).fit(train)
    same_ridge_posterior(apart, model)
    # Descent does not end with an update of the users: their squares are a pass of their own.
    descended = estimator(solver="gd", maxIter=1, updates="executors").fit(train)
    errors = told(descended, train)
    squares = (errors["rating"] - errors["prediction"]) ** 2
    posterior = descended._state.ridge_posterior
    left = posterior.spread(descended.factors)
    unknowns = left.users.unknowns(posterior.measured.user_degrees.astype(float)).sum()
    n = len(errors)
    expected = squares.sum() / (n * (1 - left.share) - unknowns)
    assert posterior.noise == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"implicitPrefs": True}, "predictionStdCol='std' does not go with implicitPrefs=True"),
        ({"nonnegative": True}, "does not go with nonnegative=True, where rows are not normal"),
        ({"ensemble": True, "numRestarts": 2}, "does not go with ensemble=True"),
        ({"regUser": 0.0}, "does not go with regUser=0.0, which leaves the row of a new id"),
        ({"regItem": 0.1, "biasRegRatio": 0.0}, "does not go with biasRegRatio=0.0"),
    ],
)
def test_what_has_no_intervals_is_refused(planted_ratings, params, message):
    with pytest.raises(ParamError, match=message):
        estimator(**params).fit(planted_ratings)


def test_a_model_without_intervals_is_not_asked_for_them(model, planted_ratings):
    bare = MatrixFactorizationModel(ModelState(model.factors, model._ids, model.summary))
    with pytest.raises(ParamError, match="predictionIntervalCol are not for this model, which was"):
        bare.copy({bare.predictionStdCol: "std"}).transform(planted_ratings)
