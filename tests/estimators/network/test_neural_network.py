"""Networks as citizens of pyspark.ml; test_contract.py has what all estimators share."""

import json
import logging
import signal
from contextlib import contextmanager
from functools import partial

import numpy as np
import pandas as pd
import pytest
from pyspark.ml import Pipeline
from pyspark.ml.classification import MultilayerPerceptronClassifier as MLlibClassifier
from pyspark.ml.evaluation import MulticlassClassificationEvaluator
from pyspark.ml.feature import StringIndexerModel, VectorAssembler
from pyspark.ml.functions import array_to_vector
from pyspark.ml.linalg import Vectors
from pyspark.sql import functions as F

from nonconvex.distributed.checkpoints import CheckpointError, Interrupted
from nonconvex.distributed.data.examples import ExampleColumns, ExamplesError
from nonconvex.distributed.files import write_checksums
from nonconvex.distributed.network import fit as network_training
from nonconvex.distributed.network.dataset import shard_examples
from nonconvex.estimators.network.fit import plan_network
from nonconvex.estimators.params import ParamError
from nonconvex.local.model_tables import ModelError
from nonconvex.neural_network import MultilayerPerceptronClassificationModel
from nonconvex.neural_network import MultilayerPerceptronClassifier as Classifier
from nonconvex.neural_network import MultilayerPerceptronRegressor as Regressor
from nonconvex.numerics.convergence import FitError
from tests.factories import Killed

ROWS = 240
LABELS = np.array(["cat", "dog", "eel"])
NAMED = {"featuresCol": ["a", "b", "c"], "labelCol": "name", "weightCol": "weight"}
QUICK = {"layers": [6], "maxIter": 3, "batchSize": 64, "learningRate": 0.05}


def columns():
    generator = np.random.default_rng(0)
    x = generator.normal(2.0, [1.0, 3.0, 0.5], (ROWS, 3))
    score = x @ np.array([[1.0, 0.0], [-0.3, 0.4], [0.5, -1.0]])
    score += generator.normal(0, 0.3, (ROWS, 2))
    y = (score[:, 0] > 2).astype(int) + (score[:, 1] > 0.5)
    return x, score, y, generator.integers(1, 4, ROWS), generator.random(ROWS) < 0.25


@pytest.fixture(scope="module")
def frame(spark):
    x, (s, t), y, weight, held = (part.T if part.shape == (ROWS, 2) else part for part in columns())
    table = pd.DataFrame(x, columns=["a", "b", "c"]).assign(
        features=x.tolist(), label=y.astype(float), name=LABELS[y], two=(y > 0).astype(float),
        s=s, t=t, weight=weight.astype(float), held=held,
    )  # fmt: skip
    return spark.createDataFrame(table).repartition(2, "a").cache()


@pytest.fixture(scope="module")
def model(frame):
    """Of string labels in a list of columns."""
    return Classifier(**NAMED, **QUICK).fit(frame)


@pytest.fixture(scope="module")
def regression(frame):
    return Regressor(labelCol=["s", "t"], **QUICK).fit(frame)


def theta(model):
    return model.scorer.theta.tobytes()


# Params
DECAY = {"schedule": "exponential", "decaySteps": 2}
CHANGES = [
    *({"layers": [5]}, {"layers": []}, {"activation": "tanh"}, {"fitBiases": False}),
    {"activation": "step", "stepGradient": "straight-through"},
    *({"initialization": "glorot-normal"}, {"initialWeights": [0.1] * 45}, {"regParam": 0.1}),
    *({"standardization": False}, {"classWeight": "balanced"}, {"classWeight": [1.0, 2.0, 0.5]}),
    *({"maxIter": 1}, {"maxSteps": 5}, {"tol": 0.9}, {"batchSize": 50}, {"seed": 1}),
    *({"firstRestart": 1}, {"learningRate": 0.1}, {"optimizer": "rmsprop"}, {"optimizer": "adamw"}),
    *({"optimizer": "adamw", "weightDecay": 0.5}, {"momentum": 0.5}, {"decay": 0.5}),
    *({"epsilon": 0.1}, {"clipNorm": 0.01, "epsilon": 0.2}, {"warmupSteps": 4}),
    *(DECAY, {**DECAY, "decaySteps": 3}, {**DECAY, "decayRate": 0.3}, {"precision": "float64"}),
    {"schedule": "cosine", "decaySteps": 9, "finalFraction": 0.5},
]

# What these change is looked at in other tests.
ELSEWHERE = {
    *("featuresCol", "labelCol", "predictionCol", "probabilityCol", "rawPredictionCol"),
    "predictedLabelCol",
    *("thresholds", "handleInvalid", "weightCol", "validationIndicatorCol", "patience"),
    *("numRestarts", "gradients", "checkpointPath", "checkpointInterval"),
    *("stepSize", "blockSize", "solver"),
}


def test_every_param_changes_the_model_and_fit_multiple_equals_fit(frame):
    estimator = Classifier(**QUICK)
    named = [*CHANGES, {}, {"learningRate": 0.1, "stepSize": 0.1}]
    given = [{**QUICK, **change}.items() for change in named]
    maps = [Classifier(**{name: v for name, v in params if v is not None}) for params in given]
    fitted = estimator._fit_group(frame, maps)  # as fitMultiple does
    *changed, plain, step_size = fitted
    seen = {theta(plain)}
    for change, other in zip(CHANGES, changed, strict=True):
        assert theta(other) not in seen, change
        seen.add(theta(other))
    assert theta(step_size) == theta(changed[CHANGES.index({"learningRate": 0.1})])
    assert {name for change in CHANGES for name in change} | ELSEWHERE == {
        param.name for param in estimator.params
    }
    other = {estimator.seed: 1}
    found = dict(estimator.fitMultiple(frame, [{}, other]))
    assert theta(found[0]) == theta(plain)
    assert theta(found[1]) == theta(changed[CHANGES.index({"seed": 1})])
    assert [m.summary.layers for m in changed[:2]] == [[3, 5, 3], [3, 3]]
    assert changed[CHANGES.index({"maxSteps": 5})].summary.restarts[0].stop == "reached maxSteps"


def test_a_network_is_a_network_and_its_rate_falls_to_zero_by_default(frame):
    model = Classifier(batchSize=64, maxSteps=None).fit(frame)
    assert model.scorer.network.reg == 1 / (2 * ROWS)
    restart = model.summary.restarts[0]
    assert model.layers == [3, 100, 3]
    assert len(restart.history) <= 100
    rates = [epoch["learning_rate"] for epoch in restart.history]
    assert rates == sorted(rates, reverse=True)
    assert Classifier(batchSize=1)._epochs(400) == 25, "10,000 steps"
    assert [Classifier()._epochs(rows) for rows in (100, 20_000, 10**7)] == [100, 64, 20]
    assert [Classifier()._batch_size(rows) for rows in (9, 100, 512)] == [8, 25, 128]
    few = Classifier(maxSteps=3, batchSize=64, tol=0.0).fit(frame).summary.restarts[0]
    assert few.history[-1]["learning_rate"] == pytest.approx(5e-3 * 0.25), "3/4 of a wave"


# Models
def test_strings_are_predicted_and_one_row_is_predicted_as_all_are(frame, model):
    assert model.labels == ["cat", "dog", "eel"]
    assert (model.layers, model.numFeatures, model.numClasses) == ([3, 6, 3], 3, 3)
    assert model.weights.size == model.summary.parameters == 4 * 6 + 7 * 3
    rows = model.transform(frame).limit(5).collect()
    for row in rows:
        x = [row.a, row.b, row.c]
        assert model.predict(Vectors.dense(x)) == row.predictedLabel
        assert LABELS[int(row.prediction)] == row.predictedLabel
        assert model.predict(x) == LABELS[np.argmax(row.probability)]
        assert model.predictProbability(x) == row.probability
        assert model.predictRaw(x) == row.rawPrediction
    with pytest.raises(ValueError, match="must be a vector of 3 finite numbers, got"):
        model.predict([1.0])
    silent = model.copy({model.getParam(f"{n}Col"): "" for n in ("probability", "rawPrediction")})
    assert silent.transform(frame).columns == [*frame.columns, "prediction", "predictedLabel"]
    silent = silent.copy({model.predictedLabelCol: ""})
    assert silent.transform(frame).columns == [*frame.columns, "prediction"]
    with pytest.raises(ParamError, match="are all '', so nothing is added"):
        silent.copy({model.predictionCol: ""}).transform(frame)


def test_the_evaluators_of_mllib_take_labels_that_are_strings(frame, model):
    indexer = StringIndexerModel.from_labels(model.labels, inputCol="name", outputCol="index")
    scored = indexer.transform(model.transform(frame))
    evaluator = MulticlassClassificationEvaluator(labelCol="index", weightCol="weight")
    found = model.evaluate(frame)
    for name, key in (("accuracy", "accuracy"), ("logLoss", "logLoss")):
        assert evaluator.setMetricName(name).evaluate(scored) == pytest.approx(found[key])
    counted = Classifier(**{**QUICK, "labelCol": "label"}).fit(frame)
    assert "predictedLabel" not in counted.transform(frame).columns, "numbers are in prediction"
    shown = counted.copy({counted.predictedLabelCol: "shown"}).transform(frame)
    assert shown.where("shown = prediction").count() == ROWS


def test_evaluation_of_classes(frame, model):
    metrics = pytest.importorskip("sklearn.metrics")
    columns = ("name", "predictedLabel", "probability", "weight")
    scored = model.transform(frame).select(*columns).collect()
    y, predicted, p, w = (np.array(values) for values in zip(*scored, strict=True))
    found = model.evaluate(frame)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, predicted, sample_weight=w))
    assert found["logLoss"] == pytest.approx(metrics.log_loss(y, p, sample_weight=w), rel=1e-6)
    matrix = metrics.confusion_matrix(y, predicted, sample_weight=w)
    assert found["confusionMatrix"] == matrix.tolist()
    one = metrics.precision_recall_fscore_support(y, predicted, sample_weight=w, zero_division=0.0)
    for number, values in enumerate(zip(*one[:3], strict=True)):
        of_class = found["classes"][number]
        assert (of_class["precision"], of_class["recall"], of_class["f1"]) == pytest.approx(values)
    assert json.loads(json.dumps(found)) == found
    summary = model.summary.restarts[0]
    assert summary.loss == pytest.approx(found["logLoss"], rel=1e-6)
    assert summary.metric == pytest.approx(found["accuracy"])
    assert model.evaluate(frame.repartition(3, "b")) == found
    with pytest.raises(ExamplesError, match="none of the model's 3 labels in 240 of 240 rows"):
        model.evaluate(frame.withColumn("name", F.lit("fox")))
    with pytest.raises(ExamplesError, match="the labels are double and those of the model string"):
        model.copy({model.labelCol: "label"}).evaluate(frame)
    broken = frame.withColumn("a", F.expr("if(a > 3, double('NaN'), a)"))
    with pytest.raises(ExamplesError, match=r"NaN or infinite in \d+ rows .* before evaluation"):
        model.evaluate(broken)
    some = model.copy({model.handleInvalid: "skip"}).evaluate(broken)
    assert some["rows"] + some["unpredicted"] == ROWS
    assert some["unpredicted"] == broken.where("isnan(a)").count()


def test_thresholds_are_those_of_mllib(frame, model):
    moved = model.copy({model.thresholds: [0.9, 0.05, 0.0]})
    row = frame.first()
    assert moved.predict([row.a, row.b, row.c]) == "eel", "0 is always the greatest ratio"
    moved = model.copy({model.thresholds: [0.9, 0.05, 0.5]})
    for row in moved.transform(frame).select("prediction", "probability").collect():
        ratio = row.probability.toArray() / [0.9, 0.05, 0.5]
        assert row.prediction == ratio.argmax()
    assert moved.evaluate(frame)["accuracy"] < model.evaluate(frame)["accuracy"]
    with pytest.raises(ParamError, match="thresholds has 2 numbers, and there are 3 classes"):
        model.copy({model.thresholds: [0.5, 0.5]}).transform(frame)


def test_several_targets(frame, regression, tmp_path):
    assert (regression.numTargets, regression.layers) == (2, [3, 6, 2])
    rows = regression.transform(frame).select("features", "s", "t", "prediction").collect()
    assert regression.predict(rows[0].features) == pytest.approx(rows[0].prediction)
    regression.save(str(tmp_path / "model"))
    loaded = type(regression).load(str(tmp_path / "model"))
    assert loaded.predict(rows[0].features) == regression.predict(rows[0].features)
    y = np.array([[row.s, row.t] for row in rows])
    error = np.array([row.prediction for row in rows]) - y
    found = regression.evaluate(frame)
    assert [one["target"] for one in found["targets"]] == ["s", "t"]
    rmse = np.sqrt((error**2).mean(axis=0))
    assert [one["rmse"] for one in found["targets"]] == pytest.approx(rmse)
    r2 = 1 - (error[:, 1] ** 2).sum() / ((y[:, 1] - y[:, 1].mean()) ** 2).sum()
    assert found["targets"][1]["r2"] == pytest.approx(r2)
    standardized = (error / y.std(axis=0)) ** 2
    metric = np.sqrt(standardized.sum(axis=1).mean())
    assert regression.summary.restarts[0].metric == pytest.approx(metric, rel=1e-5)
    array = frame.withColumn("both", F.array("s", "t"))
    same = Regressor(labelCol="both", **QUICK).fit(array)
    assert theta(same) == theta(regression)
    assert same.evaluate(array)["targets"][1]["target"] == "both[1]"


def test_the_units_of_targets_do_not_matter(frame):
    # The rows of a step are chosen by what is in them: here they are all in each step.
    estimator = Regressor(labelCol=["s", "t"], precision="float64", **{**QUICK, "batchSize": 1000})
    own = estimator.fit(frame)
    other = estimator.fit(frame.withColumns({name: F.col(name) * 1024 - 7 for name in ("s", "t")}))
    assert other.weights.toArray() == pytest.approx(own.weights.toArray(), rel=1e-6)
    x = np.array([0.5, -1.0, 2.0])
    assert other.predict(x) == pytest.approx([1024 * y - 7 for y in own.predict(x)])
    plain = estimator.setTargetStandardization(False).fit(frame)
    assert plain.scorer.targets is None
    assert plain.weights != own.weights


def test_a_damaged_model_is_refused(spark, model, tmp_path):
    place = tmp_path / "model"
    model.save(str(place))
    loaded = MultilayerPerceptronClassificationModel.load(str(place))
    classes, predicted = model.scorer.classes, model.predict([1, 2, 3])
    assert (loaded.scorer.classes, loaded.predict([1, 2, 3])) == (classes, predicted)
    [metadata] = (place / "metadata").glob("part-*")
    next((place / "metadata").glob(".part-*.crc")).unlink()
    text = metadata.read_text()

    def refused(match):
        with pytest.raises(ModelError, match=match) as caught:
            MultilayerPerceptronClassificationModel.load(str(place))
        assert "\n" not in str(caught.value)

    for old, new, match in (
        (text[300:], "", "does not hold a .*, or only part of one"),
        ('"precision"', '"size"', "metadata is damaged, or of another version, at 'precision'"),
        ('"relu"', '"rely"', "metadata is damaged, .* got 'rely'"),
        ('"cat",', "", "metadata is damaged, .* at 'classes'"),
        ("training_rows", "rows", "metadata is damaged, .* 'training_rows'"),
        ("[3,6,3]", "[3,7,3]", "weights holds 11 rows and not the 12 of the model"),
    ):
        assert old in text, old
        metadata.write_text(text.replace(old, new, 1))
        write_checksums(spark, str(place))
        refused(match)
    metadata.write_text(text)
    weights = spark.read.parquet(str(place / "weights")).toArrow()
    turned = spark.createDataFrame(weights).withColumn("weights", F.reverse("weights"))
    turned.write.mode("overwrite").parquet(str(place / "weights"))
    refused("model (lacks|has, though it was not saved,) weights/part-")
    for file in (place / "standardization").glob("part-*"):
        file.unlink()
    write_checksums(spark, str(place))
    refused("standardization cannot be read as part of a model")


def test_two_classes_have_one_output_or_two(frame):
    assembler = VectorAssembler(inputCols=["a", "b", "c"], outputCol="x")
    network = Classifier(featuresCol="x", labelCol="two", **QUICK)
    fitted = Pipeline(stages=[assembler, network]).fit(frame)
    assert fitted.stages[1].layers == [3, 6, 1]
    assert {row.prediction for row in fitted.transform(frame).collect()} == {0.0, 1.0}
    softmax = network.copy({network.layers: [3, 6, 2]}).fit(assembler.transform(frame))
    assert softmax.summary.loss == "categorical-cross-entropy"


# Beside others
def test_no_hidden_layer_reaches_least_squares(frame):
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = Regressor(
        labelCol=["s", "t"], weightCol="weight", optimizer="gradient-descent", learningRate=0.3,
        batchSize=ROWS, maxIter=200, tol=0.0, precision="float64", layers=[], schedule="constant",
    ).fit(frame)  # fmt: skip
    assert model.scorer.network.reg == 0, "without hidden layers"
    x, score, _, weight, _ = columns()
    exact = linear_model.LinearRegression().fit(x, score, sample_weight=weight)
    found = np.array([model.predict(row) for row in x[:20].tolist()])
    np.testing.assert_allclose(found, exact.predict(x[:20]), rtol=1e-6, atol=1e-6)
    closed = Regressor(labelCol=["s", "t"], weightCol="weight", precision="float64", layers=[])
    solved = closed.fit(frame.repartition(3))
    assert solved.summary.restarts[0].stop.startswith("solved: ")
    assert solved.weights == closed.fit(frame).weights, "to the bit, however it is partitioned"
    found = np.array([solved.predict(row) for row in x[:20].tolist()])
    np.testing.assert_allclose(found, exact.predict(x[:20]), rtol=1e-9, atol=1e-9)
    with pytest.raises(ParamError, match="maxIter=3 is for gradient descent, not solver='exact'"):
        closed.copy({closed.solver: "exact", closed.maxIter: 3}).fit(frame)
    with pytest.raises(ParamError, match=r"here is layers=\[3, 2, 2\]; set solver='auto'"):
        closed.copy({closed.solver: "exact", closed.layers: [2]}).fit(frame)


def test_no_hidden_layer_reaches_logistic_regression(frame):
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = Classifier(
        labelCol="two", optimizer="nesterov", learningRate=0.5, regParam=0.01, batchSize=ROWS,
        maxIter=300, tol=0.0, precision="float64", layers=[], schedule="constant",
    ).fit(frame)  # fmt: skip
    x, _, y, _, _ = columns()
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    exact = linear_model.LogisticRegression(C=1 / (ROWS * 0.01), tol=1e-10).fit(z, y > 0)
    np.testing.assert_allclose(model.weights[:3], exact.coef_[0], rtol=1e-5)
    np.testing.assert_allclose(model.weights[3], exact.intercept_[0], rtol=1e-5)


def test_weights_of_mllib_mean_the_same_here(frame):
    data = frame.withColumn("features", array_to_vector("features"))
    theirs = MLlibClassifier(layers=[3, 4, 3], maxIter=1, seed=1).fit(data)
    ours = Classifier(
        layers=[3, 4, 3], activation="sigmoid", standardization=False, precision="float64",
        initialWeights=theirs.weights, learningRate=1e-300, maxIter=1,
    ).fit(data)  # fmt: skip
    np.testing.assert_array_equal(ours.weights.toArray(), theirs.weights.toArray())
    row = data.first().features
    np.testing.assert_allclose(ours.predictProbability(row), theirs.predictProbability(row))
    np.testing.assert_allclose(ours.predictRaw(row), theirs.predictRaw(row), rtol=1e-9)
    assert ours.getLayers() == theirs.getLayers()


def test_the_example_of_mllib_runs_with_the_import_changed(spark, tmp_path):
    rows = [(float(a != b), Vectors.dense([a, b])) for a in (0.0, 1.0) for b in (0.0, 1.0)]
    df = spark.createDataFrame(rows, ["label", "features"])
    mlp = Classifier(layers=[2, 2, 2], seed=123)
    mlp.setMaxIter(100)
    mlp.setBlockSize(1)
    assert (mlp.getMaxIter(), mlp.getBlockSize()) == (100, 1)
    model = mlp.setStepSize(0.05).fit(df)  # Adam is not L-BFGS
    assert model.getLayers() == [2, 2, 2]
    assert model.weights.size == 12
    [row, _] = model.transform(df.limit(2)).select("features", "prediction").collect()
    assert model.predict(row.features) == row.prediction
    mlp3 = mlp.setInitialWeights(list(range(12)))
    assert mlp3.fit(df).weights != model.weights


# Determinism, places, checkpoints
def test_partitions_and_order_change_no_bit(frame, model):
    shuffled = frame.orderBy(F.rand(1)).repartition(5)
    estimator = Classifier(**NAMED, **QUICK)
    assert theta(estimator.fit(shuffled)) == theta(model)
    assert estimator.fit(shuffled).summary.restarts[0].loss == model.summary.restarts[0].loss


def test_driver_and_executors_agree_after_fifty_steps(frame):
    estimator = Classifier(**{**QUICK, "maxIter": 99}, maxSteps=50, tol=0.0)
    places = [{estimator.gradients: place} for place in ("driver", "executors")]
    driver, executors = (model for _, model in sorted(estimator.fitMultiple(frame, places)))
    a, b = driver.scorer.theta, executors.scorer.theta
    assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(a)
    assert (driver.summary.gradients, executors.summary.gradients) == ("driver", "executors")
    assert executors.summary.gradients_reason == "gradients on the executors, as requested"
    assert driver.summary.rows()[-1]["steps"] == 50


def test_a_killed_fit_goes_on_to_the_same_bits(frame, tmp_path, monkeypatch):
    estimator = Classifier(**{**QUICK, "maxIter": 5}, numRestarts=2, validationIndicatorCol="held")
    whole = estimator.fit(frame)
    saving = estimator.copy().setCheckpointPath(str(tmp_path / "c")).setCheckpointInterval(2)

    @contextmanager
    def ended(epoch, end):
        def show(training, *_):
            if training.epoch == epoch:
                end()

        with monkeypatch.context() as patch:
            patch.setattr(network_training, "_show", show)
            yield

    def die():
        raise Killed

    with ended(4, die), pytest.raises(Killed):
        saving.fit(frame)
    assert (tmp_path / "c" / "iteration=2").is_dir()
    with pytest.raises(CheckpointError, match=r"regParam was None and is 0\.5"):
        saving.copy({saving.regParam: 0.5}).fit(frame)
    press = partial(signal.raise_signal, signal.SIGINT)
    with ended(3, press), pytest.raises(Interrupted, match=r"after epoch 3, .* saved in .*/c; run"):
        saving.fit(frame)
    resumed = saving.fit(frame)
    assert theta(resumed) == theta(whole)
    rows = [[row | {"seconds": 0} for row in m.summary.rows()] for m in (resumed, whole)]
    assert rows[0] == rows[1]
    resumed.write().save(str(tmp_path / "model"))
    assert not (tmp_path / "c").exists()


# Restarts, validation, warm start
def test_restarts_and_patience_look_at_the_rows_that_are_held_out(frame):
    estimator = Classifier(
        layers=[8], batchSize=16, learningRate=0.2, maxIter=30, tol=0.0, numRestarts=3, patience=3,
        validationIndicatorCol="held", classWeight="balanced",
    )  # fmt: skip
    model = estimator.fit(frame)
    summary = model.summary
    held = frame.where("held")
    assert (summary.training_rows, summary.validation_rows) == (ROWS - held.count(), held.count())
    losses = [restart.validation_loss for restart in summary.restarts]
    assert losses[summary.best] == min(losses)
    assert len(set(losses)) == 3
    for restart in summary.restarts:
        assert restart.validation_loss == min(e["validation_loss"] for e in restart.history)
        if restart.stop.startswith("the validation loss"):
            assert restart.history[-1]["epoch"] == restart.epoch + 3
    counts = [frame.where(f"not held and label = {label}").count() for label in range(3)]
    balanced = [summary.training_rows / (3 * count) for count in counts]
    assert summary.class_weights == pytest.approx(balanced)
    spread = summary.spread()
    assert (spread["best"], spread["worst"], spread["diverged"]) == (min(losses), max(losses), 0)
    assert {row["restart"] for row in summary.rows()} == {0, 1, 2}
    restart = summary.restarts[1]
    alone = estimator.copy({estimator.numRestarts: 1, estimator.firstRestart: 1}).fit(frame)
    assert alone.summary.restarts[0].history[-1]["loss"] == restart.history[-1]["loss"]
    assert alone.summary.restarts[0].validation_loss == restart.validation_loss


def test_a_warm_start_goes_on_from_what_the_model_predicts(frame, model):
    estimator = Classifier(**NAMED, maxIter=1, learningRate=1e-3, batchSize=64)
    estimator.setInitialModel(model)
    newer = frame.withColumn("a", F.col("a") + 0.5)
    warm = estimator.fit(newer)
    assert warm.layers == model.layers
    assert warm.summary.warm_start
    assert not model.summary.warm_start
    first = warm.summary.rows()[0]["loss"]
    assert first == pytest.approx(model.evaluate(newer)["logLoss"], rel=0.05)
    for change, message in (
        ({"initialWeights": [1.0]}, "cannot be used with an initial model"),
        ({"layers": [7]}, r"initial model has layers \[3, 6, 3\] and this fit \[3, 7, 3\]"),
        ({"activation": "tanh"}, "initial model has activation"),
        ({"standardization": False}, "is not that of the initial model, which is kept; unset it"),
        ({"labelCol": "label"}, "initial model has the classes 'cat', .* and the examples have"),
    ):
        changed = {estimator.getParam(name): value for name, value in change.items()}
        with pytest.raises(ParamError, match=message):
            estimator.copy(changed).fit(frame)
    with pytest.raises(ParamError, match="must be a MultilayerPerceptronRegressionModel or None"):
        Regressor().setInitialModel(model)


# Bad data
def test_params_that_contradict_the_data_give_one_sentence(frame):
    examples = shard_examples(frame, ExampleColumns("features", "label"), classify=True)
    for params, message in (
        ({"layers": [3, 8]}, r"begins with the 3 features and does not end with the 3 classes"),
        ({"classWeight": [1.0]}, "classWeight has 1 numbers, and there are 3 classes, 0.0, 1.0"),
        ({"classWeight": [0.0] * 3}, "is 0 for every class in the data; at least one"),
        (
            {"layers": [], "initialWeights": [1.0]},
            r"and with layers=\[3, 3\] there are 12 parameters",
        ),
        ({"layers": [], "activation": "tanh"}, r"needs hidden layers; layers=\[3, 3\] has none"),
        ({"layers": [4], "activation": ["tanh"] * 2}, "activation has 2 names, and layers="),
        ({"thresholds": [0.5]}, "thresholds has 1 numbers, and there are 3 classes; give one"),
    ):
        with pytest.raises(ParamError, match=message) as caught:
            Classifier(**params)._train(examples, 0.0)
        assert "\n" not in str(caught.value)
    examples.release()


def test_bad_data_give_one_sentence(frame, caplog):
    broken = F.expr("array(if(a > 3, double('NaN'), a))")
    data = frame.withColumns({"shifted": F.col("two") + 1, "broken": broken})
    for params, message in (
        ({"layers": [3, 2], "labelCol": "shifted"}, "the label 2 is outside 0 … 1"),
        ({"featuresCol": "broken"}, r"is null, NaN or infinite in \d+ rows \(broken\[0\]"),
    ):
        with pytest.raises(ExamplesError, match=message) as caught:
            Classifier(**params).fit(data)
        assert "\n" not in str(caught.value)
    unstable = {"optimizer": "gradient-descent", "learningRate": 1e6, "maxIter": 50}
    with pytest.raises(FitError, match=r"diverged: .* lower learningRate, set clipNorm, or check"):
        Regressor(labelCol="s", **unstable).fit(frame)
    constant = frame.withColumn("k", F.lit(7.0))
    with caplog.at_level(logging.WARNING, logger="nonconvex"):
        model = Classifier(featuresCol=["a", "k"], maxIter=1).fit(constant)
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning == "1 of 2 features are constant and carry no information: 'k'; leave them out"
    assert model.summary.constant_features == 1
    # Its weights are chance, so a value that training has not seen says nothing.
    logits = [model.predictRaw([1.0, k]) for k in (7.0, 700.0)]
    assert logits[0] == logits[1]
    caplog.clear()
    examples = shard_examples(frame, ExampleColumns(["a", "b"], "label"), classify=True)
    plan_network(Classifier(), examples, model.scorer)
    examples.release()
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning == (
        "1 features were constant when the initial model was trained, and it ignores them: "
        "'b'; start from random weights to use them"
    )
