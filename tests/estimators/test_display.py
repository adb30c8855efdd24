"""Estimators, models and summaries as they are printed."""

import re
from dataclasses import replace

import pytest

from nonconvex.estimators.factorization.summary import RestartSummary
from nonconvex.neural_network import MultilayerPerceptronClassifier, MultilayerPerceptronRegressor
from nonconvex.recommendation import MatrixFactorization
from tests.factories import training_summary

RESTARTS = [
    RestartSummary(3, "reached maxIter", 15, 0.81234567, 0.75, 0.9, [{"iteration": 15}]),
    RestartSummary(4, "non-finite: raise regUser", 2, 1.5, 1.25, None, [{"iteration": 2}]),
]
SUMMARY = training_summary(restarts=RESTARTS)
TABLE = """\
1,000 users, 40 items, 1,234 ratings: trained in 2.1 s
restart  iteration         f  train RMSE  validation RMSE          stopped
3 *             15  0.812346      0.7500           0.9000  reached maxIter
4                2  1.500000      1.2500                        non-finite"""


@pytest.mark.parametrize(
    ("estimator", "shown"),
    [
        (MatrixFactorization(), ""),
        (MatrixFactorization(rank=3, regUser=0.1, solver="gd"), "rank=3, regUser=0.1, solver='gd'"),
        (MultilayerPerceptronRegressor(layers=[9] * 40), "layers=[9, 9, 9, 9, 9, 9, ...]"),
        (MultilayerPerceptronClassifier(layers=[6], maxIter=3), "layers=[6], maxIter=3"),
    ],
)
def test_an_estimator_shows_the_params_that_were_set(estimator, shown):
    facts = f"uid={estimator.uid!r}" + (f", {shown}" if shown else "")
    assert repr(estimator) == f"{type(estimator).__name__}({facts})"


def test_a_summary_is_a_heading_and_a_table_and_its_repr_one_line():
    assert str(SUMMARY) == TABLE
    unvalidated = replace(SUMMARY, restarts=[replace(RESTARTS[0], validation_rmse=None)])
    assert "validation" not in str(unvalidated)
    shown = SUMMARY._repr_html_()
    assert "<p>1,000 users, 40 items, 1,234 ratings: trained in 2.1 s</p>" in shown
    assert "<td>3 *</td><td>15</td><td>0.812346</td>" in shown
    end = "objective=0.812346, train_rmse=0.75, validation_rmse=0.9, stop='reached maxIter')"
    sizes = "users=1000, items=40, ratings=1234"
    assert repr(SUMMARY) == f"TrainingSummary({sizes}, {end}"
    assert repr(replace(SUMMARY, restarts=[])) == f"TrainingSummary({sizes})"
    assert "history" not in repr(RESTARTS[0])


def test_a_summary_of_samples_tells_how_far_they_agree():
    chains = [replace(one, history=[{"tau": 4.0}]) for one in RESTARTS]
    sampling = {"samples": 20, "kept": 6, "rHat": {"tau": 1.01}, "effectiveSize": {"tau": 33.3}}
    lines = str(replace(SUMMARY, restarts=chains, sampling=sampling)).splitlines()
    title = "chain sweeps τ train RMSE validation RMSE of the mean stopped"
    assert " ".join(lines[1].split()) == title
    assert lines[2].split()[:3] == ["3", "15", "4.0000"]
    assert lines[-1] == "6 of 40 samples kept; τ has R̂ 1.01 and 33 effective samples"


def test_a_network_shows_its_layers_and_its_end(spark):
    corners = spark.createDataFrame([(0, 0.0), (1, 1.0)], ["x", "label"])
    given = {"featuresCol": ["x"], "layers": [2], "maxIter": 1, "tol": 0.0, "numRestarts": 2}
    model = MultilayerPerceptronRegressor(**given).fit(corners)
    network = r"layers=\[1, 2, 1\], activations=\['relu'\], parameters=7, loss='squared-error'"
    facts = network + r", rows=2, objective=[\d.]+, rmse=[\d.]+, stop='reached maxIter'"
    assert re.fullmatch(rf"NetworkSummary\({facts}\)", repr(model.summary))
    uid = "uid='MultilayerPerceptronRegressor_\\w+'"
    assert re.fullmatch(rf"MultilayerPerceptronRegressionModel\({uid}, {facts}\)", repr(model))
    heading, header, *rows = str(model.summary).splitlines()
    shown = r"network 1-2-1 \(relu\), 7 parameters, 2 rows: trained in [\d.]+ s"
    assert re.fullmatch(shown, heading)
    assert header.split() == ["restart", "epoch", "f", "RMSE", "stopped"]
    assert sorted(row[:3] for row in rows) in (["0  ", "1 *"], ["0 *", "1  "])
    assert {len(row) for row in rows} == {len(header)}
    assert "history" not in repr(model.summary.restarts[0])
    html = model._repr_html_()
    assert html.startswith("<p>MultilayerPerceptronRegressionModel</p><p>network 1-2-1 (relu)")
    assert "<td>0 *</td>" in html or "<td>1 *</td>" in html


def test_a_model_shows_its_size_and_its_end(ratings):
    model = MatrixFactorization(rank=2, maxIter=1).fit(ratings)
    facts = (
        r"MatrixFactorizationModel\(uid='MatrixFactorization_\w+', rank=2, users=40, items=25, "
        r"ratings=\d+, objective=[\d.]+, train_rmse=[\d.]+, stop='reached maxIter'\)"
    )
    assert re.fullmatch(facts, repr(model))
    assert model._repr_html_().startswith("<p>MatrixFactorizationModel of rank 2</p><p>40 users, ")
