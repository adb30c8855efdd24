"""Explanations: terms that add up, the ratings behind them, and what cannot be explained."""

import numpy as np
import pyarrow as pa
import pytest

from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.estimators.factorization.predict import ModelState
from nonconvex.estimators.params import ParamError
from nonconvex.numerics.factorization.als import solve_rows
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.gibbs import RowDistribution, Sample
from nonconvex.numerics.factorization.model import Factors, Ridge
from nonconvex.numerics.factorization.posterior import Posterior
from nonconvex.recommendation import MatrixFactorizationModel
from tests.factories import training_summary

TRIPLES = [
    ("ann", 3, 5.0), ("ann", 5, 1.0), ("ann", 8, 4.0), ("bob", 3, 2.0), ("bob", 8, 4.0),
    ("cy", 5, 3.0), ("cy", 9, 5.0),
]  # fmt: skip
USERS, ITEMS = ["ann", "bob", "cy"], [3, 5, 8, 9]
SUMMARY = training_summary(ratings=7, total=7.0, users=3, items=4)


@pytest.fixture(scope="module")
def ratings(spark):
    return spark.createDataFrame(TRIPLES, "user string, item long, rating double").cache()


@pytest.fixture(scope="module")
def items():
    return np.random.default_rng(3).normal(size=(4, 3))


@pytest.fixture(scope="module")
def block():
    users, rated, values = zip(*TRIPLES, strict=True)
    rows, columns = map(USERS.index, users), map(ITEMS.index, rated)
    return RatingBlock.from_triples(list(rows), list(columns), values)


@pytest.fixture(scope="module")
def make(ratings, items, block):
    """Make a model whose users are at their minimum given these items, as after "als"."""
    ids = Ids(pa.chunked_array([USERS]), pa.chunked_array([ITEMS]))
    users = solve_rows(block, items, 3.0, Ridge(0.02, 0.0, 7.0, 7 / 3, 0.5)).x

    def make(posterior=None, histories=(ratings,), pairs=ratings):
        known = {"posterior": posterior, "training_pairs": pairs, "histories": histories}
        factors = Factors(3.0, users, items)
        return MatrixFactorizationModel(ModelState(factors, ids, SUMMARY, **known))

    return make


def test_terms_and_ratings_add_up(make):
    model = make()
    why = model.explain("ann", 9)
    alpha, users, items = model.factors
    assert (why.global_bias, why.user_bias, why.item_bias) == (alpha, users[0, 0], items[3, 0])
    assert why.interaction == pytest.approx(users[0, 1:] @ items[3, 1:])
    assert why.prediction == pytest.approx(3.0 + users[0, 0] + items[3, 0] + why.interaction)
    assert {(reason.item, reason.rating) for reason in why.reasons} == {(3, 5), (5, 1), (8, 4)}
    assert sum(reason.contribution for reason in why.reasons) == pytest.approx(why.interaction)
    assert why.rest == pytest.approx(0.0, abs=1e-12)
    sizes = [abs(reason.contribution) for reason in why.reasons]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 0
    assert str(why).splitlines()[0] == f"9 for ann: {why.prediction:.2f}"


def test_history_is_what_is_given_or_was_folded_in_last(spark, make, ratings):
    rows = [("ann", 3, 2.0), ("zoe", 3, 9.0), ("ann", 77, 1.0)]
    other = spark.createDataFrame(rows, ratings.schema)
    given = make().explain("ann", 9, other)
    assert [(reason.item, reason.rating) for reason in given.reasons] == [(3, 2.0)]
    assert make(histories=(other, ratings)).explain("ann", 9).reasons == given.reasons
    assert len(make(histories=(other, ratings)).explain("bob", 9).reasons) == 2


def test_unknown_ids_have_no_interaction(make):
    cold = make().explain("nobody", 9)
    assert (cold.user_bias, cold.interaction, cold.reasons, cold.rest) == (0.0, 0.0, (), 0.0)
    new = make().explain("ann", 4)
    assert (new.item_bias, new.interaction) == (0.0, 0.0)
    assert [reason.contribution for reason in new.reasons] == [0.0, 0.0, 0.0]


def test_a_sampled_model_takes_the_mean_over_its_samples(make, items, block):
    rows = RowDistribution(np.zeros(3), np.zeros(3), np.diag([1.0, 2.0, 3.0]), least=1.0)
    omega = np.array([0.5, 1.0, 2.0])
    samples = [
        Sample(Factors(alpha, np.ones((3, 3)), z), tau, rows, rows, omega)
        for alpha, tau, z in ((3.0, 1.5, items), (2.5, 0.7, items[::-1].copy()))
    ]
    why = make(Posterior.of(samples, 1)).explain("ann", 9)
    expected = 0.0
    for alpha, tau, z in ((3.0, 1.5, items), (2.5, 0.7, items[::-1])):
        design = z[:3] * [0, 1, 1] + [1, 0, 0]
        y = np.array([5.0, 1.0, 4.0]) - alpha - z[:3, 0]
        half = 0.5 * tau * design.T
        x = np.linalg.solve(half @ design + rows.precision, half @ y)
        expected += float(x[1:] @ z[3, 1:]) / 2
    assert sum(reason.contribution for reason in why.reasons) == pytest.approx(expected)
    assert why.rest == pytest.approx(why.interaction - expected)


def test_ids_of_another_type_are_refused(make):
    for user, item, message in (
        (None, 9, "user must be an id as in training, of type string, got None"),
        ("ann", "nine", "item must be an id as in training, of type int64, got 'nine'"),
        ("ann", 2**70, "item must be an id as in training, of type int64, got 11805916207174"),
        ("ann", 9.5, "item must be an id as in training, of type int64, got 9.5"),
    ):
        with pytest.raises(ParamError, match=message):
            make().explain(user, item)


def test_what_cannot_be_explained(make, ratings):
    loaded, message = make(histories=(), pairs=None), "ratings of user 'ann'.*pass history=a DataFr"
    with pytest.raises(ParamError, match=message):
        loaded.explain("ann", 9)
    assert loaded.explain("ann", 9, ratings).reasons == make().explain("ann", 9).reasons
    with pytest.raises(ParamError, match="an ensemble predicts the mean of several models"):
        make()._set(ensemble=True).explain("ann", 9)
    with pytest.raises(ValueError, match="history must be a DataFrame or None"):
        make().explain("ann", 9, history=3)
