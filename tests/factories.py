"""Ratings and helpers that several test modules use."""

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest

from nonconvex.distributed.checkpoints import Checkpoints
from nonconvex.distributed.factorization.dataset import pack_ratings
from nonconvex.distributed.factorization.fit import fit_loop
from nonconvex.distributed.factorization.state import Broadcast, Problem
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.estimators.network.summary import NetworkSummary
from nonconvex.numerics.convergence import StoppingRule
from nonconvex.numerics.factorization.model import Factors, Ridge, initial_rows

USERS, ITEMS = 40, 25  # of `triples`
RANK = 3  # of `problem`


def triples(seed=0, n=300):
    """Distinct pairs in a long-tailed pattern, with noisy ratings; every id occurs."""
    generator = np.random.default_rng(seed)
    pairs = generator.choice(USERS * ITEMS, n, replace=False)
    pairs = np.union1d(pairs, np.arange(USERS) * ITEMS + np.arange(USERS) % ITEMS)
    users, items = pairs // ITEMS, pairs % ITEMS
    gamma = generator.normal(size=(USERS + ITEMS, 2))
    signal = np.einsum("nk,nk->n", gamma[users], gamma[USERS + items])
    return users, items, 3 + signal + 0.1 * generator.normal(size=len(pairs))


def most_rated(ratings, items, users):
    """Return the ratings of the most rated items by the users with most of those."""
    for column, most in (("item", items), ("user", users)):
        counts = ratings.group_by(column).aggregate([([], "count_all")])
        kept = counts.sort_by([("count_all", "descending"), (column, "ascending")])[column][:most]
        ratings = ratings.filter(pc.is_in(ratings[column], value_set=kept.combine_chunks()))
    return ratings


def frame(spark, users, items, ratings, **more):
    columns = {"user": users, "item": items, "rating": ratings, **more}
    rows = list(zip(*(np.asarray(values).tolist() for values in columns.values()), strict=True))
    return spark.createDataFrame(rows, list(columns))


def planted_table(users=60, items=40, rank=2, noise=0.5):
    """Ratings of planted factors with noise; those of the last user and item are held out."""
    generator = np.random.default_rng(3)
    x, z = (generator.normal(0, 0.8, (rows, 1 + rank)) for rows in (users, items))
    pairs = np.argwhere(generator.random((users, items)) < 0.7)
    table = pd.DataFrame(pairs, columns=["user", "item"])
    u, i = table["user"], table["item"]
    mean = 3 + x[u, 0] + z[i, 0] + (x[u, 1:] * z[i, 1:]).sum(axis=1)
    table["rating"] = mean + generator.normal(0, noise, len(table))
    unseen = (u == users - 1) | (i == items - 1)
    table["held_out"] = unseen | (generator.random(len(table)) < 0.2)
    return table


def assert_predicted_to_the_noise(model, ratings, noise=0.5):
    """Held-out ratings of `planted_table` are within their intervals, and new ids less sure."""
    asked = model.copy({model.predictionStdCol: "std", model.predictionIntervalCol: "interval"})
    predicted = asked.transform(ratings.where("held_out")).toPandas()
    known = (predicted["user"] < 60 - 1) & (predicted["item"] < 40 - 1)
    errors = (predicted["prediction"] - predicted["rating"])[known]
    assert np.sqrt(np.mean(errors**2)) < 1.35 * noise
    lower, upper = (predicted["interval"].str[end] for end in ("lower", "upper"))
    assert 0.8 < predicted["rating"].between(lower, upper).mean() < 0.97
    np.testing.assert_allclose(upper - lower, 2 * 1.6448536 * predicted["std"], rtol=1e-6)
    assert predicted["std"][~known].min() > 1.5 * predicted["std"][known].median()
    mean = asked.copy({asked.predictionNoise: False}).transform(ratings.where("held_out"))
    assert (mean.toPandas()["std"] < predicted["std"]).all()


def training_summary(**changes):
    """The summary of a fit of no starts."""
    about = {
        "ratings": 1234, "total": 1234.0, "users": 1000, "items": 40, "duplicates": 0, "mean": 3.0,
        "deviation": 1.0, "minimum": 1.0, "maximum": 5.0, "reg_user": 0.02, "reg_item": 0.02,
        "bias_reg_ratio": 0.5, "reg_exponent": 0.0, "best": 0, "restarts": [], "warm_start": None,
        "seconds": 2.06,
    }  # fmt: skip
    return TrainingSummary(**about | changes)


def network_summary(**changes):
    """The summary of a fit of no starts."""
    about = {
        "training_rows": 300, "validation_rows": 40, "weight": 300.0, "layers": [4, 8, 3],
        "activations": ["relu"], "loss": "softmax-cross-entropy", "parameters": 67,
        "constant_features": 1, "class_weights": None, "gradients": "driver",
        "gradients_reason": "gradients on the driver, as was asked for", "batch_size": 32,
        "warm_start": False, "best": 0, "restarts": [], "seconds": 4.0,
    }  # fmt: skip
    return NetworkSummary(**about | changes)


def flowers(rows):
    """Three measurements of three kinds of flowers, which they tell apart."""
    generator = np.random.default_rng(0)
    kind = generator.integers(0, 3, rows)
    measured = generator.normal(3 * kind[:, None], 1, (rows, 3))
    table = pd.DataFrame(measured, columns=["a", "b", "c"])
    table["kind"] = np.array(["iris", "lily", "rose"])[kind]
    return table


def same_bits(a, b):
    """Assert that the factors of two fits are equal to the bit."""
    assert a.alpha == b.alpha
    assert a.users.tobytes() == b.users.tobytes()
    assert a.items.tobytes() == b.items.tobytes()


def same_ridge_posterior(a, b):
    """Assert that two models are equally sure, to the bit."""
    one, other = a._state.ridge_posterior, b._state.ridge_posterior
    assert one.noise == other.noise
    assert [x.tobytes() for x in one.measured] == [x.tobytes() for x in other.measured]


def told(model, ratings):
    """What a model says of ratings, as a table in the order of its users and items."""
    return model.transform(ratings).orderBy("user", "item").toPandas()


def problem(n, dtype, *, seed=0, reg=0.02, **settings):
    generator = np.random.default_rng(seed)
    users, items = (initial_rows(m, RANK, 0.3, generator).astype(dtype) for m in (USERS, ITEMS))
    return Problem(
        Factors(3.0, users, items),
        Ridge(reg, 0.5, n, n / USERS, 0.5),
        Ridge(reg, 0.5, n, n / ITEMS, 0.5),
        **settings,
    )


def fit(ratings, problems, dtype=np.float32, blocks=2, place="driver", exchange=Broadcast, **rule):
    """Minimize; on the driver, a pass takes a hundredth of the time of a job, to the same bits."""
    training = pack_ratings(
        ratings, user_blocks=blocks, item_blocks=blocks, dtype=dtype, place=place
    )
    try:
        rule = StoppingRule(**{"max_iter": 3, **rule})
        return fit_loop(training.blocks, problems, rule, exchange_type=exchange)
    finally:
        training.release()


class Killed(BaseException):
    """The end of the process of a fit, as far as the fit can tell."""


def fit_killed_after(saves, monkeypatch, estimator, data):
    """Run a fit that dies right after so many checkpoints."""
    left = [saves]
    save = Checkpoints.save

    def save_and_die(self, state):
        save(self, state)
        left[0] -= 1
        if not left[0]:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(Killed):
            estimator.fit(data)
