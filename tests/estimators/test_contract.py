"""What all estimators have in common: Params, bad calls, persistence, pipelines and tuning."""

import gc
import re
import warnings

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.evaluation import MulticlassClassificationEvaluator, RegressionEvaluator
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import functions as F

from nonconvex.distributed.files import FileSystemError
from nonconvex.estimators.params import ParamError
from nonconvex.local.model_tables import ModelError
from nonconvex.neural_network import MultilayerPerceptronClassifier as Classifier
from nonconvex.neural_network import MultilayerPerceptronRegressor as Regressor
from nonconvex.recommendation import MatrixFactorization

NETWORK = {"featuresCol": ["user", "item"], "layers": [4], "maxIter": 3, "learningRate": 0.05}
FITS = {
    MatrixFactorization: {"rank": 2, "maxIter": 3, "regUser": 0.5, "predictionStdCol": "std"},
    Regressor: {**NETWORK, "labelCol": "rating"},
    Classifier: {**NETWORK, "initialWeights": [0.1] * 17, "activation": ["tanh"]},
}
every = pytest.mark.parametrize("cls", FITS)


@pytest.fixture(scope="module")
def data(ratings):
    return ratings.withColumn("label", (F.col("rating") > 3).cast("double"))


@pytest.fixture(scope="module")
def fitted(data):
    return {cls: cls(**params).fit(data) for cls, params in FITS.items()}


# Params: what is allowed, and values that are not.
NAN = float("nan")
OUT_OF_RANGE = [
    (MatrixFactorization, "an integer ≥ 0", {"rank": -5, "patience": -1, "warmupSteps": None}),
    (MatrixFactorization, "an integer ≥ 1", {"maxIter": 0, "numRestarts": 2.0}),
    (MatrixFactorization, "an integer ≥ 1", {"numUserBlocks": True}),
    (MatrixFactorization, "an integer", {"seed": 1.5}),
    (MatrixFactorization, "a finite number ≥ 0", {"tol": -1e-3, "regUser": NAN, "regItem": "0.1"}),
    (MatrixFactorization, "a finite number ≥ 0", {"biasRegRatio": -1, "regExponent": np.inf}),
    (MatrixFactorization, "a finite number > 0", {"confidence": 0, "learningRate": 0}),
    (MatrixFactorization, "a finite number ≥ 0 and < 1", {"momentum": 1.0, "decay": 1}),
    (MatrixFactorization, "a number > 0 and ≤ 1", {"miniBatchFraction": 1.5}),
    (MatrixFactorization, ".* > 0 and < 1", {"predictionInterval": 0}),
    (MatrixFactorization, ".* > 0 and < 1", {"predictionInterval": 1}),
    (MatrixFactorization, ".* > 0 and < 1", {"predictionInterval": -0.1}),
    (
        MatrixFactorization,
        "one of auto, als, als-cg, als-coordinate, gd, vb, gibbs",
        {"solver": "sgd"},
    ),
    (MatrixFactorization, "one of bias, nan, drop", {"coldStartStrategy": "mean"}),
    (MatrixFactorization, "one of float32, float64", {"precision": "double"}),
    (MatrixFactorization, "one of gradient-descent, .*", {"optimizer": "lbfgs"}),
    (MatrixFactorization, "one of constant, .*", {"schedule": "linear"}),
    (MatrixFactorization, "True or False", {"fitIntercept": 1}),
    (MatrixFactorization, "a name", {"ratingCol": None, "userCol": "", "predictionCol": 3}),
    (Classifier, "a name, or a list of different names", {"featuresCol": []}),
    (Classifier, "a list of sizes, each an integer ≥ 1", {"layers": [4, 0]}),
    (Classifier, "a list of sizes, each an integer ≥ 1", {"layers": {64, 32}}),
    (Classifier, "a list of finite numbers", {"initialWeights": [1.0, NAN]}),
    (Classifier, "a list of finite numbers ≥ 0", {"classWeight": {"no": 1}, "thresholds": ["0.5"]}),
    (Classifier, "one of straight-through", {"stepGradient": "identity"}),
    (Classifier, "one of glorot-uniform, .*", {"initialization": "zeros"}),
    (Classifier, "one of balanced", {"classWeight": "even"}),
    (Classifier, "one of auto, driver, executors", {"gradients": "here"}),
    (Classifier, "one of error, skip, keep", {"handleInvalid": "drop"}),
    (Classifier, "a finite number ≥ 0", {"regParam": -1}),
    (Classifier, "True or False", {"standardization": 1}),
    (Classifier, "an integer ≥ 1", {"maxIter": 0, "maxSteps": 0.5, "batchSize": 0}),
    (Classifier, "a name or ''", {"predictionCol": 3}),
]
MORE = [
    (MatrixFactorization, {"initScale": 0}, "initScale must be > 0, got 0: .* stationary"),
    (Classifier, {"activation": ["elu"]}, "activation must be one of identity, .*, got 'elu'"),
    (Classifier, {"thresholds": [0.0, 0.0]}, "thresholds must be > 0 except for one at most"),
    (Classifier, {"solver": "newton"}, "must be one of gd, l-bfgs, got 'newton'"),
]


@pytest.mark.parametrize(("cls", "allowed", "values"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_refused_in_one_sentence(cls, allowed, values):
    for name, value in values.items():
        message = f"^{name} must be ({allowed}), got {re.escape(repr(value))}$"
        with pytest.raises(ValueError, match=message):
            cls(**{name: value})


@pytest.mark.parametrize(("cls", "params", "message"), MORE)
def test_or_with_what_to_do_about_it(cls, params, message):
    with pytest.raises(ValueError, match=message):
        cls(**params)


@every
def test_every_param_has_a_keyword_its_default_accessors_and_a_line_that_explains_it(cls):
    keywords, estimator = cls.__init__.__wrapped__.__kwdefaults__, cls()
    assert set(keywords) == {param.name for param in estimator.params}
    explained = estimator.explainParams()
    for name, default in keywords.items():
        title = name[0].upper() + name[1:]
        assert getattr(estimator, f"get{title}")() == estimator.getOrDefault(name) == default
        assert callable(getattr(estimator, f"set{title}"))
        assert f"{name}: " in explained
        assert len(estimator.getParam(name).doc) <= 150, name
    assert estimator.getSeed() == 42, "the same in every process"
    assert estimator.setParams(maxIter=3).getMaxIter() == 3
    with pytest.raises(TypeError, match="maxItre"):
        cls(maxItre=3)


@every
def test_a_param_of_the_class_would_be_ignored_and_is_refused(cls):
    estimator = cls()
    others = cls().maxIter  # as another stage of a Pipeline may be given
    assert estimator.copy({estimator.maxIter: 3, others: 4}).getMaxIter() == 3
    with pytest.raises(ParamError, match=r"maxIter in a map .* write \{estimator.maxIter: …\}"):
        estimator.copy({cls.maxIter: 3})


NUMPY = {
    "rank": np.int64(7), "maxIter": np.uint8(3), "seed": np.int32(-1), "patience": np.int16(2),
    "numUserBlocks": np.int64(3), "regUser": np.float32(0.5), "regItem": np.int64(1),
    "fitBiases": np.bool_(False), "solver": np.str_("gd"),
}  # fmt: skip


def test_numbers_of_numpy_become_those_of_python():
    for name, value in NUMPY.items():
        given = MatrixFactorization(**{name: value}).getOrDefault(name)
        assert given == value
        assert type(given) in (int, float, bool, str), name
    assert Classifier(layers=np.array([3, 2])).getLayers() == [3, 2]
    assert Classifier(layers=None).getLayers() is None


# Bad calls
@every
def test_bad_calls_give_one_sentence(data, fitted, cls):
    estimator, model = cls(**FITS[cls]), fitted[cls]
    folds = [model.foldInUsers, model.foldInItems] if cls is MatrixFactorization else []
    for call in (estimator.fit, model.transform, model.evaluate, *folds):
        with pytest.raises(ValueError, match=r"^dataset must be a DataFrame, got \[\(0, 1\)\]"):
            call([(0, 1)])
    for name in ("rating", "Rating"):
        with pytest.raises(ValueError, match=f"predictionCol='{name}': there is such a column alr"):
            model.copy({model.predictionCol: name}).transform(data)
    none = estimator.copy({estimator.validationIndicatorCol: "never"})
    with pytest.raises(ValueError, match=r"IndicatorCol.* is false in all .* rows; hold"):
        none.fit(data.withColumn("never", F.lit(False)))
    kinds = "a fitted model or None|a MultilayerPerceptron.*Model or None"
    with pytest.raises(ParamError, match=f"must be ({kinds}), got 'model'"):
        estimator.setInitialModel("model")
    warm = cls(**{**FITS[cls], "numRestarts": 2}).setInitialModel(model)
    if cls is Classifier:
        warm.clear(warm.initialWeights)
    with pytest.raises(ParamError, match="numRestarts=2 with an initial model would repeat one fi"):
        warm.fit(data)


# Persistence, pipelines, tuning
def values(params):
    return {param.name: value for param, value in params.extractParamMap().items()}


def predicted(model, data):
    return model.transform(data).toPandas()


@every
def test_a_pipeline_and_its_model_come_back_from_disk(data, fitted, cls, tmp_path):
    Pipeline(stages=[cls(**FITS[cls])]).save(str(tmp_path / "pipeline"))
    again = Pipeline.load(str(tmp_path / "pipeline"))
    assert values(again.getStages()[0]) == values(cls(**FITS[cls]))
    trained = again.fit(data)
    trained.save(str(tmp_path / "fitted"))
    [model], [loaded] = trained.stages, PipelineModel.load(str(tmp_path / "fitted")).stages
    assert type(loaded) is type(model)
    assert (loaded.summary, loaded.uid) == (model.summary, model.uid)
    assert values(loaded) == values(model)
    assert predicted(loaded, data).equals(predicted(model, data))
    if cls is MatrixFactorization:
        assert loaded.userFactors.columns == ["id", "bias", "features"]
    assert predicted(fitted[cls], data).equals(predicted(model, data))


@every
def test_what_cannot_be_saved_or_loaded(fitted, cls, tmp_path):
    model, path = fitted[cls], str(tmp_path / "model")
    for missing in (type(model), cls):
        match = f"there is no {missing.__name__} at .*nowhere, nor anything else; give the direct"
        with pytest.raises(ModelError, match=match) as caught:
            missing.load(str(tmp_path / "nowhere"))
        assert caught.value.__cause__ is None  # nor Java's account of it
    cls().save(path)
    for saved in (model, cls()):
        with pytest.raises(ModelError, match="already exists; name another directory, or rep"):
            saved.save(path)
    model.write().overwrite().save(path)
    others = {type(other) for other in fitted.values()} - {type(model)}
    for other in (cls, *others):
        match = rf"holds a .*\.{type(model).__name__} and not a .*\.?{other.__name__}"
        with pytest.raises(ModelError, match=match):
            other.load(path)
    with pytest.raises(FileSystemError, match=r"no-scheme://x cannot be reached: No FileSystem"):
        type(model).load("no-scheme://x")
    (tmp_path / "file").touch()
    with pytest.raises(FileSystemError, match=r"file/below cannot be written: .*file"):
        model.save(str(tmp_path / "file" / "below"))


@every
def test_tuning_chooses_by_the_evaluator(data, cls):
    estimator, choices = cls(**FITS[cls]), [9.0, 1e-3]
    name = "regUser" if cls is MatrixFactorization else "regParam"
    evaluator = RegressionEvaluator(labelCol="rating")
    if cls is Classifier:
        evaluator = MulticlassClassificationEvaluator(metricName="logLoss")
    grid = ParamGridBuilder().addGrid(estimator.getParam(name), choices).build()
    settings = {"estimator": estimator, "estimatorParamMaps": grid, "evaluator": evaluator}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pyspark does not close its pools
        validator = CrossValidator(numFolds=2, seed=1, parallelism=2, **settings).fit(data)
        split = TrainValidationSplit(trainRatio=0.8, seed=1, **settings).fit(data)
        gc.collect()
    for metrics, tuned in ((validator.avgMetrics, validator), (split.validationMetrics, split)):
        assert metrics[0] != metrics[1]
        chosen = estimator.copy({estimator.getParam(name): choices[int(np.argmin(metrics))]})
        assert predicted(tuned.bestModel, data).equals(predicted(chosen.fit(data), data))
