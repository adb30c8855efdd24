"""MatrixFactorization as a citizen of pyspark.ml: Params, pipelines, persistence, errors."""

import logging
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyspark.ml import PipelineModel
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.recommendation import ALS
from pyspark.sql import functions as F

from nonconvex.distributed.data.prepare import prepare_ratings
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.distributed.data.validation import Columns, Rules
from nonconvex.distributed.files import FileSystemError, write_checksums
from nonconvex.estimators import persistence
from nonconvex.estimators.factorization.params import SAMPLING
from nonconvex.estimators.params import DescentParams, ParamError, declared
from nonconvex.local.model_tables import ModelError
from nonconvex.numerics.factorization.model import Side
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel
from tests.factories import frame, told

QUICK = {"solver": "als", "rank": 2, "maxIter": 3, "numUserBlocks": 2, "numItemBlocks": 2}


@pytest.fixture(scope="module")
def model(ratings):
    return MatrixFactorization(**QUICK).fit(ratings)


def scores(model):
    """The predictions for all pairs of the ids of a model, in numpy."""
    alpha, users, items = model.factors
    return alpha + users[:, :1] + items[:, 0] + users[:, 1:] @ items[:, 1:].T


# Params
CHANGES = [
    *({"rank": 3}, {"regUser": 0.1}, {"regItem": 0.1}, {"biasRegRatio": 2.0}),
    *({"regExponent": 1.0}, {"solver": "als-coordinate"}, {"fitIntercept": False}),
    *({"fitBiases": False}, {"nonnegative": True}, {"initScale": 1.0}, {"seed": 1}),
    *({"firstRestart": 1}, {"numRestarts": 3, "ensemble": True}, {"numRestarts": 4}),
    *({"maxIter": 1}, {"tol": 0.5}, {"weightCol": "weight"}, {"validationIndicatorCol": "held"}),
    *({"implicitPrefs": True}, {"implicitPrefs": True, "confidence": 3.0}, {"solver": "gd"}),
    *({"solver": "gd", "miniBatchFraction": 0.4}, {"solver": "gd", "gradientTol": 1e9}),
    *({"solver": "gd", "learningRate": 0.5}, {"solver": "gd", "clipNorm": 1e-3, "epsilon": 1.0}),
    *({"precision": "float64"}, {"numUserBlocks": 5, "numItemBlocks": 1}),
]


def test_every_param_changes_the_model_and_fit_multiple_equals_fit(ratings, model):
    estimator = MatrixFactorization(**QUICK)
    maps = [{estimator.getParam(name): v for name, v in change.items()} for change in CHANGES]
    found = dict(estimator.fitMultiple(ratings, [{}, *maps]))
    base = scores(model)
    blocks = found.pop(len(CHANGES))
    assert scores(found[0]).tobytes() == scores(blocks).tobytes() == base.tobytes()
    seen = {base.tobytes()}
    for index, change in enumerate(CHANGES[:-1], start=1):
        other = scores(found[index])
        same = np.allclose(other, base, rtol=1e-6)
        assert not same or change in ({"numRestarts": 4}, {"precision": "float64"}), change
        assert other.tobytes() not in seen or "numRestarts" in change, change
        seen.add(other.tobytes())
    alone = estimator.copy(maps[4]).fit(ratings)
    assert scores(alone).tobytes() == scores(found[5]).tobytes()
    one, ensemble, several = (found[index] for index in (12, 13, 14))
    assert ensemble.rank == 3 * QUICK["rank"]
    objectives = [restart.objective for restart in several.summary.restarts]
    assert len(set(objectives)) == 4
    assert several.summary.objective == min(objectives)
    assert one.summary.restarts[0].restart == 1
    assert one.summary.objective == objectives[1], "restart 1 alone is restart 1 of four"


def objective_and_gradient_norm(model, rows, h=1e-5):
    """f by its definition, and ‖∇f‖ by central differences of it."""
    ids = [one.to_pylist() for one in model._state.ids]
    users, items = ([of.index(i) for i in rows[n]] for of, n in zip(ids, rows, strict=False))
    alpha, x, z = model.factors
    counts = [np.bincount(of).astype(float) for of in (users, items)]
    ridges = [model.summary.ridge(side) for side in Side]

    def f(alpha):
        found = alpha + x[users, 0] + z[items, 0] + (x[users, 1:] * z[items, 1:]).sum(axis=1)
        of_sides = zip(ridges, counts, (x, z), strict=True)
        costs = [ridge.penalty(count, side).sum() for ridge, count, side in of_sides]
        return (((rows["rating"] - found) ** 2).sum() + sum(costs)) / len(rows)

    slopes = [(f(alpha + h) - f(alpha - h)) / (2 * h)]
    for side in (x, z):
        for place in np.ndindex(side.shape):
            at, ends = side[place], []
            for side[place] in (at + h, at - h):
                ends.append(f(alpha))
            side[place] = at
            slopes.append((ends[0] - ends[1]) / (2 * h))
    return f(alpha), np.linalg.norm(slopes)


@pytest.mark.parametrize("updates", ["driver", "executors"])
def test_the_gradient_at_the_end_is_that_of_the_objective(ratings, updates):
    options = {"rank": 2, "maxIter": 3, "precision": "float64", "updates": updates, "tol": 0.0}
    rows = ratings.select("user", "item", "rating").toPandas()
    found = []
    for solver in ("als", "gd"):
        model = MatrixFactorization(**options, solver=solver).fit(ratings)
        [end] = model.summary.restarts
        objective, norm = objective_and_gradient_norm(model, rows)
        assert end.objective == pytest.approx(objective, rel=1e-12)
        assert end.gradient_norm == pytest.approx(norm, rel=1e-6)
        alpha, x, z = model.factors
        theta = np.sqrt(alpha**2 + (x**2).sum() + (z**2).sum())
        assert end.relative_gradient == pytest.approx(norm * theta / objective, rel=1e-6)
        found.append(end.relative_gradient)
    assert end.history[-1]["gradient_norm"] == pytest.approx(end.gradient_norm)
    assert found[0] < found[1]


SHOWN_ELSEWHERE = {
    *("userCol", "itemCol", "ratingCol", "predictionCol"),  # odd column names
    *("coldStartStrategy", "clipPredictions"),  # predictions
    *("patience", "keepRestarts"),  # validation
    *declared(DescentParams),  # test_neural_network
    *("updates", "kernel"),  # test_execution: where a model is made, and by which loops
    *("exchange", "maxBroadcastBytes", "checkpointPath", "checkpointInterval"),
    *(*SAMPLING, "fitUserPrecision"),  # test_gibbs
    # test_gibbs and test_predict
    *("predictionStdCol", "predictionIntervalCol", "predictionInterval", "predictionNoise"),
}


def test_no_param_is_left_out():
    shown = {name for change in CHANGES for name in change} | SHOWN_ELSEWHERE
    assert shown == {param.name for param in MatrixFactorization().params}


# Ids and columns
@pytest.mark.parametrize("kind", ["string", "int", "bigint", "decimal(9,1)"])
def test_ids_of_any_comparable_type_come_back_as_they_were(ratings, kind):
    user, item = F.col("user"), F.col("item")
    if kind == "string":
        user = F.concat(F.lit("u "), user)
    elif kind == "decimal(9,1)":
        user, item = user + Decimal("0.5"), item - Decimal("0.5")
    data = ratings.select(user.cast(kind).alias("user"), item.cast(kind).alias("item"), "rating")
    model = MatrixFactorization(**{**QUICK, "maxIter": 1}).fit(data)
    for table, column in ((model.userFactors, "user"), (model.itemFactors, "item")):
        assert table.schema["id"].dataType == data.schema[column].dataType
        ids = [row.id for row in table.collect()]
        assert ids == sorted({row[0] for row in data.select(column).collect()})
    assert model.transform(data).where("prediction is null").count() == 0
    if kind == "bigint":
        narrow = data.select(F.col("user").cast("int"), F.col("item").cast("decimal(30,2)"))
        strict = model.copy({model.coldStartStrategy: "drop"})
        assert strict.transform(narrow).count() == data.count()
        between = narrow.withColumn("item", (F.col("item") + 0.5).cast("decimal(30,2)"))
        assert strict.transform(between).count() == 0, "3.5 is not item 3"


def test_odd_column_names_and_other_columns_are_kept(ratings):
    names = "user as `who. is``it`", "item as `ítem 🎬`", "rating as stars", "array(1) as more"
    odd = ratings.selectExpr(*names)
    named = {"userCol": "who. is`it", "itemCol": "ítem 🎬", "ratingCol": "stars"}
    estimator = MatrixFactorization(predictionCol="out", **named, **QUICK)
    model = estimator.fit(odd)
    scored = model.transform(odd)
    assert scored.columns == [*odd.columns, "out"]
    assert scored.count() == odd.count()
    folded = model.foldInUsers(odd)
    assert folded.factors.users.tobytes() == model.factors.users.tobytes()
    [row] = folded.recommendForUserSubset(odd.limit(1), 100, exclude="train").collect()
    seen = odd.where(F.col("`who. is``it`") == row[0]).select("`ítem 🎬`").collect()
    assert {item for item, _ in row.recommendations} == set(range(25)) - {item for (item,) in seen}


# Prediction
def test_prediction_is_the_formula_and_cold_start_is_bias(spark, model, ratings):
    users = {r.id: (r.bias, np.array(r.features)) for r in model.userFactors.collect()}
    items = {r.id: (r.bias, np.array(r.features)) for r in model.itemFactors.collect()}
    zero = (0.0, np.zeros(2))
    pairs = [(0, 3), (5, 1), (0, 999), (999, 3), (999, 999), (None, 3)]
    data = spark.createDataFrame(pairs, "user long, item long")
    for row in model.transform(data).collect():
        (bu, gu), (bi, gi) = users.get(row.user, zero), items.get(row.item, zero)
        expected = model.globalBias + bu + bi + gu @ gi
        assert row.prediction == pytest.approx(expected, rel=1e-6)
    known = [(0, 3), (5, 1)]
    nan = model.copy({model.coldStartStrategy: "nan"}).transform(data).collect()
    assert [(r.user, r.item) for r in nan if not np.isnan(r.prediction)] == known
    drop = model.copy({model.coldStartStrategy: "drop"}).transform(data).collect()
    assert sorted((r.user, r.item) for r in drop) == known


def test_predictions_can_be_clipped(model, ratings):
    low, high = model.summary.minimum, model.summary.maximum
    clipping = model.copy({model.clipPredictions: True, model.predictionCol: "clipped"})
    both = clipping.transform(model.transform(ratings)).toPandas()
    np.testing.assert_array_equal(both["clipped"], np.clip(both["prediction"], low, high))


# Persistence
def test_a_half_written_model_is_refused(spark, model, tmp_path, monkeypatch):
    path = str(tmp_path / "half")

    def refused(match):
        with pytest.raises(ModelError, match=match) as caught:
            MatrixFactorizationModel.load(path)
        assert "\n" not in str(caught.value)
        model.write().overwrite().save(path)

    def files(table):
        return sorted((tmp_path / "half" / table).glob("part-*"))

    model.save(path)
    pq.write_table(pq.read_table(files("userFactors")[0])[:39], files("userFactors")[0])
    write_checksums(spark, path)
    refused("userFactors holds 39 rows and not the 40 of the model")
    for file in files("itemFactors"):
        file.unlink()
    refused("half lacks itemFactors/part-00000.*; save the model again, or train it")
    files("itemFactors")[0].write_bytes(files("itemFactors")[0].read_bytes()[:200])
    refused("itemFactors/part-00000.* is damaged: it has 200 bytes, not")
    text = files("metadata")[0].read_text()
    for damaged, match in (
        (text[:300], "does not hold a .*, or only part of one; give the directory that one was"),
        (text.replace("globalBias", "alpha"), "metadata is damaged, .* at 'globalBias'"),
        (text.replace("deviation", "sd"), "metadata is damaged, .* 'deviation'"),
        (text.replace("clipPredictions", "clip"), "metadata is damaged, .* 'clip'"),
    ):
        next((tmp_path / "half" / "metadata").glob(".part-*.crc")).unlink()
        files("metadata")[0].write_text(damaged)
        write_checksums(spark, path)
        refused(match)
    full = Mock(side_effect=FileSystemError("no space left"))
    monkeypatch.setattr(persistence, "write_checksums", full)
    with pytest.raises(FileSystemError, match="no space left"):
        model.write().overwrite().save(path)
    assert MatrixFactorizationModel.load(path).uid == model.uid
    assert [entry.name for entry in tmp_path.iterdir()] == ["half"]


RESTART = """
import sys
from pyspark.ml import PipelineModel
from nonconvex.recommendation import MatrixFactorization
from nonconvex.session import get_session
from tests.factories import frame, triples
spark = get_session("restart", {"spark.master": "local[1]", "spark.sql.shuffle.partitions": "1"})
model = PipelineModel.load(sys.argv[1])
row = model.transform(spark.createDataFrame([(0, 3)], "user long, item long")).collect()[0]
again = MatrixFactorization(rank=2, maxIter=3).fit(frame(spark, *triples()))
sys.stdout.write(row.prediction.hex() + " " + again.factors.users.tobytes().hex())
"""


def test_another_process_with_one_core_predicts_and_fits_the_same_bits(spark, ratings, tmp_path):
    model = MatrixFactorization(rank=2, maxIter=3, numUserBlocks=3).fit(ratings)
    PipelineModel([model]).save(str(tmp_path / "fitted"))
    pair = spark.createDataFrame([(0, 3)], "user long, item long")
    expected = model.transform(pair).collect()[0].prediction
    command = [sys.executable, "-c", RESTART, str(tmp_path / "fitted")]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    prediction, users = done.stdout.split()
    assert float.fromhex(prediction) == expected
    assert users == model.factors.users.tobytes().hex()


# Validation, restarts, warm start
@pytest.mark.parametrize("patience", [2, None, 0])
def test_patience_and_restarts_look_at_validation_ratings(ratings, patience):
    loop = {"maxIter": 20, "tol": 0.0, "patience": patience, "numRestarts": 3, "keepRestarts": True}
    estimator = MatrixFactorization(rank=4, regUser=1e-4, regItem=1e-4, **loop)
    model = estimator.setValidationIndicatorCol("held").fit(ratings)
    summary = model.summary
    assert summary.ratings == ratings.where("not held").count()
    best = summary.restarts[summary.best]
    assert best.validation_rmse == min(restart.validation_rmse for restart in summary.restarts)
    for restart, kept in zip(summary.restarts, model.restarts, strict=True):
        reached = [step["validation_rmse"] for step in restart.history if step["side"] == "users"]
        assert restart.validation_rmse == (reached[-1] if patience == 0 else min(reached))
        scored = kept.transform(ratings.where("held"))
        rmse = RegressionEvaluator(labelCol="rating").evaluate(scored)
        assert rmse == pytest.approx(restart.validation_rmse, rel=1e-6)
    rows = summary.rows()
    assert {row["restart"] for row in rows} == {0, 1, 2}
    assert {"iteration", "objective", "validation_rmse", "step_norm", "stop"} <= set(rows[0])


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


@pytest.mark.parametrize("solver", ["als", "vb"])
def test_the_ensemble_predicts_the_mean_of_the_restarts(ratings, solver):
    quick = QUICK | {"solver": solver, "numRestarts": 3}
    model = MatrixFactorization(**quick, keepRestarts=True, ensemble=True).fit(ratings)
    mean = np.mean([scores(restart) for restart in model.restarts], axis=0)
    np.testing.assert_allclose(scores(model), mean, rtol=1e-5)


def test_a_warm_start_goes_on_from_the_earlier_model(ratings, model):
    user = F.expr("if(user = 3, 1000, user) as user")
    newer = ratings.where("user > 2 and item < 24").select(user, "item", "rating")
    estimator = MatrixFactorization(**{**QUICK, "maxIter": 1})
    cold = estimator.fit(newer)
    warm = estimator.setInitialModel(model).fit(newer)
    assert warm.summary.objective < cold.summary.objective
    counts = warm.summary.warm_start
    assert counts["users"] == {"kept": 36, "new": 1, "gone": 4}
    assert counts["items"] == {"kept": 24, "new": 0, "gone": 1}
    start, _ = model.start_for(model._ids, 2, np.float64, intercept=False, biases=False)
    assert start.alpha == 0
    for side, old in zip(start[1:], model.factors[1:], strict=True):
        np.testing.assert_array_equal(side, old * [0.0, 1.0, 1.0])
    with pytest.raises(ParamError, match=r"initScale=0\.2 is for random starts"):
        estimator.copy({estimator.initScale: 0.2}).fit(newer)
    with pytest.raises(ValueError, match="initial model has rank 2 and this fit rank 3"):
        estimator.copy({estimator.rank: 3}).fit(newer)
    strings = newer.select(F.col("user").cast("string").alias("user"), "item", "rating")
    with pytest.raises(ValueError, match="users of the initial model have ids of type int64"):
        estimator.fit(strings)


# Bad calls
def test_bad_calls_give_one_sentence(spark, ratings, model):
    disliked = ratings.withColumn("rating", -F.abs("rating"))
    negative = ratings.withColumn("weight", -F.col("weight"))
    null = ratings.withColumn("rating", F.expr("if(user = 0, null, 1.0D)"))
    nan = ratings.withColumn("rating", F.expr("if(user = 0, double('NaN'), null)"))
    for params, data, message in (
        ({}, ratings.drop("item"), "itemCol='item': there is no such column; there are user, rat"),
        ({}, ratings.withColumn("rating", F.lit("5")), "ratingCol='rating': the column is string"),
        ({}, ratings.withColumnRenamed("weight", "item"), "itemCol='item': there are several such"),
        ({}, ratings.withColumn("user", F.rand()), "userCol='user': .* ids must be integers of"),
        ({}, ratings.where("user < 0"), "there are no ratings to train on; at least one is needed"),
        ({}, null, r"the ratings have \d+ null ratings in \d+ rows; drop or fill"),
        ({}, nan, "null ratings and .* ratings that are not finite"),
        ({"implicitPrefs": True}, disliked, r"none of the \d+ ratings is positive, and implicitPr"),
        ({"weightCol": "weight"}, negative, "weights that are not finite numbers ≥ 0"),
        ({"userCol": "item"}, ratings, "userCol and itemCol are both 'item'; name the two columns"),
        ({"patience": 2}, ratings, "patience=2 needs validation ratings"),
        ({"confidence": 2.0}, ratings, "confidence=2.0 is only for implicitPrefs=True"),
        ({"learningRate": 0.1}, ratings, "learningRate=0.1 is only for solver='gd', not 'als'; un"),
        ({"solver": "gd", "decayRate": 0.5}, ratings, "takes no settings, got decayRate"),
        ({"fitBiases": False, "biasRegRatio": 2}, ratings, "Ratio=2.0 is only for fitBiases=True"),
        ({"checkpointInterval": 5}, ratings, "checkpointInterval=5 needs checkpointPath"),
        ({"implicitPrefs": True, "weightCol": "weight"}, ratings, "'weight' has no meaning"),
        ({"rank": 0, "fitBiases": False, "fitIntercept": False}, ratings, "leaves nothing to fit"),
        ({"weightCol": "w"}, ratings, "weightCol='w': there is no such column"),
        ({"validationIndicatorCol": "weight"}, ratings, "the column is double and must be boolean"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            MatrixFactorization(**{**QUICK, **params}).fit(data)
        assert "\n" not in str(caught.value)
    strings = spark.createDataFrame([("a", 1)], "user string, item int")
    with pytest.raises(ValueError, match="the column is string and must be bigint, as in training"):
        model.transform(strings)


def test_duplicates_count_twice_and_are_counted(spark):
    rows = [(0, 0, 1.0), (0, 1, 2.0), (1, 0, 4.0)]
    once = spark.createDataFrame(rows, ["user", "item", "rating"])
    settings = {"rank": 1, "maxIter": 2, "precision": "float64", "regUser": 0.1, "regItem": 0.1}
    twice = MatrixFactorization(**settings).fit(once.union(once.limit(1)))
    assert twice.summary.duplicates == 1
    assert "4 ratings (1 repeat a pair)" in str(twice.summary)
    weighted = once.withColumn("w", F.expr("if(user = 0 and item = 0, 2.0D, 1.0D)"))
    same = MatrixFactorization(**settings, weightCol="w").fit(weighted)
    assert twice.summary.objective == pytest.approx(same.summary.objective, rel=1e-12)


def test_repeated_pairs_mean_the_same_to_fit_and_to_prepare_ratings(spark, tmp_path, caplog):
    generator = np.random.default_rng(3)
    rows = [(u, i, float(v)) for u, i, v in generator.integers(0, 9, (120, 3)).tolist()]
    raw = spark.createDataFrame([(*row, 1.5) for row in rows], ["user", "item", "rating", "weight"])
    settings = {"rank": 2, "maxIter": 200, "tol": 0.0, "precision": "float64"}
    settings |= {"regUser": 0.1, "regItem": 0.1}  # the first α differs, and not the minimum
    caplog.set_level(logging.INFO, "nonconvex")
    kept = MatrixFactorization(**settings, weightCol="weight").fit(raw)
    assert f"{120 - len({row[:2] for row in rows})} ratings repeat a (user, item)" in caplog.text
    raw.write.parquet(f"{tmp_path}/raw")
    prepared = prepare_ratings(
        read_source(spark, f"{tmp_path}/raw"), f"{tmp_path}/prepared",
        columns=Columns(weight="weight"), rules=Rules(duplicates="mean"), split=Split(),
    )  # fmt: skip
    merged = MatrixFactorization(**settings).fitPrepared(prepared)
    asked = raw.select("user", "item")
    a, b = (told(model, asked).prediction for model in (kept, merged))
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_fit_says_what_factors_explain(ratings, caplog):
    caplog.set_level(logging.INFO, "nonconvex")
    some = MatrixFactorization(**QUICK, regUser=1e-4, regItem=1e-4).fit(ratings).summary
    assert (0.1 < some.factor_share < 1, some.effective_rank) == (True, 2)
    share = f"Factors explain {some.factor_share:.1%} of the variance of predictions"
    assert str(some).splitlines()[-1] == f"{share}, effective rank 2"
    none = MatrixFactorization(**QUICK, regUser=10.0, regItem=10.0).fit(ratings)
    assert none.summary.effective_rank == 0
    advice = "as good as none: lower regUser and regItem (regParam of ALS), or choose rank 0"
    line = f"Factors explain 0.0% of the variance of predictions, which is {advice}"
    assert str(none.summary).splitlines()[-1] == line
    assert (caplog.records[-1].levelname, caplog.records[-1].message) == ("WARNING", line)
    biases = MatrixFactorization(rank=0).fit(ratings).summary
    assert (biases.effective_rank, biases.factor_share, biases.of_factors()) == (None, None, "")


# Beside MLlib
@pytest.fixture(scope="module")
def sample(spark):
    """The 1,501 ratings that come with pyspark.  More iterations of ALS overflow Java's stack."""
    import pyspark

    path = Path(pyspark.__file__).parent / "data/mllib/als/sample_movielens_ratings.txt"
    parts = spark.read.text(str(path)).select(F.split("value", "::").alias("v"))
    names = "int(v[0]) as user", "int(v[1]) as item", "double(v[2]) as rating"
    tenth = F.expr("(user * 31 + item) % 10 = 0 as tenth")
    return parts.selectExpr(*names).select("*", tenth).cache()


def like_mllib(data, reg, **params):
    """An estimator whose objective is that of ALS(rank=5, regParam=reg) for these data."""
    users, items = (data.select(side).distinct().count() for side in ("user", "item"))
    ridge = {"regUser": reg / users, "regItem": reg / items, "regExponent": 1.0}
    plain = {"fitIntercept": False, "fitBiases": False, "rank": 5, "tol": 0.0}
    return MatrixFactorization(**ridge, **plain, **params)


def test_explicit_agrees_with_mllib_where_the_objectives_are_the_same(sample):
    train, test = sample.where("not tenth"), sample.where("tenth")
    theirs = ALS(rank=5, maxIter=8, regParam=0.2, seed=1, coldStartStrategy="drop")
    ours = like_mllib(train, 0.2, maxIter=20, numRestarts=4, coldStartStrategy="drop")
    evaluator = RegressionEvaluator(labelCol="rating")
    rmse = [evaluator.evaluate(model.fit(train).transform(test)) for model in (ours, theirs)]
    assert rmse[0] == pytest.approx(rmse[1], rel=0.02)


def test_implicit_agrees_with_mllib(sample):
    theirs = ALS(rank=5, maxIter=8, regParam=0.1, implicitPrefs=True, alpha=2.0, seed=1)
    ours = like_mllib(sample, 0.1, maxIter=15, implicitPrefs=True, confidence=2.0)
    reached = [implicit_objective(model.fit(sample), sample, 0.1, 2.0) for model in (ours, theirs)]
    assert reached[0] == pytest.approx(reached[1], rel=0.02)


def implicit_objective(model, data, reg, confidence):
    """MLlib's objective over all pairs: Σ c (p − x·y)² + reg Σ (positives of a row) ‖·‖²."""
    tables = [
        {row.id: np.array(row.features) for row in table.collect()}
        for table in (model.userFactors, model.itemFactors)
    ]
    places = [{id_: place for place, id_ in enumerate(sorted(table))} for table in tables]
    x, y = (np.array([table[id_] for id_ in sorted(table)]) for table in tables)
    weight, preference = np.ones((len(x), len(y))), np.zeros((len(x), len(y)))
    for row in data.collect():
        pair = places[0][row.user], places[1][row.item]
        weight[pair] += confidence * row.rating
        preference[pair] = 1
    counts = [preference.sum(axis=axis) for axis in (1, 0)]
    penalty = sum(c @ np.sum(m**2, axis=1) for c, m in zip(counts, (x, y), strict=True))
    return np.sum(weight * (preference - x @ y.T) ** 2) + reg * penalty


def test_defaults_converge_and_beat_the_biases(sample):
    train, test = sample.where("not tenth").cache(), sample.where("tenth").cache()
    models = [MatrixFactorization(rank=rank).fit(train) for rank in (10, 0)]
    errors = [RegressionEvaluator(labelCol="rating").evaluate(m.transform(test)) for m in models]
    assert errors[0] < errors[1]
    assert [m.summary.restarts[0].stop.split(":")[0] for m in models] == ["converged"] * 2
