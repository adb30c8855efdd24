"""Scripts as people write them for MLlib, of which nothing is changed but the import.

ALS itself is what pyspark's documentation has, in test_als_examples.  They run in a classic session
and, in a process of their own, in one of Spark Connect.
"""

import os
import sys
from pathlib import Path

import pyspark
import pytest

from tests.processes import completed

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(pyspark.__file__).parent / "data/mllib"

READ = """
lines = spark.read.text(f"{data}/als/sample_movielens_ratings.txt").rdd
parts = lines.map(lambda row: row.value.split("::"))
ratings = spark.createDataFrame(parts.map(lambda p: Row(
    userId=int(p[0]), movieId=int(p[1]), rating=float(p[2]), timestamp=int(p[3]))))
training, test = ratings.randomSplit([0.8, 0.2], seed=7)
"""

# The same rows for a session of Spark Connect, which has no RDD.
READ_REMOTE = """
ratings = spark.read.csv(f"{data}/als/sample_movielens_ratings.txt", sep="::",
                         schema="userId int, movieId int, rating double, timestamp bigint")
training, test = ratings.randomSplit([0.8, 0.2], seed=7)
"""
REMOTE = "SPARK_REMOTE" in os.environ

ALS_SCRIPTS = {
    "evaluator": """
als = ALS(maxIter=5, regParam=0.1, userCol="userId", itemCol="movieId", ratingCol="rating",
          coldStartStrategy="drop")
model = als.fit(training)
predictions = model.transform(test)
evaluator = RegressionEvaluator(metricName="rmse", labelCol="rating", predictionCol="prediction")
rmse = evaluator.evaluate(predictions)
assert 0.5 < rmse < 1.5
assert predictions.schema["prediction"].dataType.simpleString() == "float"
assert model.userFactors.columns == ["id", "features"]
""",
    "nan without drop": """
cold = ALS(userCol="userId", itemCol="movieId", maxIter=2).fit(training.where("movieId != 3"))
assert cold.transform(test.where("movieId = 3")).where("not isnan(prediction)").count() == 0
""",
    "recommendations, exploded and joined": """
model = ALS(rank=5, maxIter=3, userCol="userId", itemCol="movieId").fit(training)
movies = spark.createDataFrame([(i, f"film {i}") for i in range(100)], ["movieId", "title"])
recs = model.recommendForAllUsers(numItems=10)
flat = recs.withColumn("rec", explode("recommendations")).select(
    "userId", col("rec.movieId").alias("movieId"), col("rec.rating").alias("score"))
named = flat.join(movies, "movieId")
assert named.count() == 10 * recs.count()
unseen = named.join(training, ["userId", "movieId"], "left_anti")
assert 0 < unseen.count() < named.count()
assert model.recommendForAllItems(numUsers=2).columns == ["movieId", "recommendations"]
""",
    "subsets": """
model = ALS(maxIter=2, userCol="userId", itemCol="movieId", seed=None).fit(training)
users = ratings.select("userId").distinct().limit(3)
assert model.recommendForUserSubset(users, 10).count() == 3
movies = ratings.select("movieId").distinct().limit(4)
assert model.recommendForItemSubset(dataset=movies, numUsers=10).count() == 4
""",
    "implicit with alpha": """
als = ALS(maxIter=5, regParam=0.01, implicitPrefs=True, alpha=40.0, rank=8,
          userCol="userId", itemCol="movieId", ratingCol="rating")
model = als.fit(training)
assert als.getAlpha() == 40.0
scores = model.transform(training).selectExpr("avg(prediction)").first()[0]
assert 0.5 < scores < 1.2
""",
    "StringIndexer": """
named = training.selectExpr("concat('u', userId) AS who", "concat('m', movieId) AS what", "rating")
stages = [StringIndexer(inputCol="who", outputCol="user"),
          StringIndexer(inputCol="what", outputCol="item"),
          ALS(maxIter=3, nonnegative=True, coldStartStrategy="drop")]
model = Pipeline(stages=stages).fit(named)
assert model.transform(named).where("prediction < 0").count() == 0
labels = model.stages[0].labels
first = model.stages[2].recommendForAllUsers(1).orderBy("user").first()
assert first.user == 0 and labels[int(first.user)].startswith("u")
""",
    "CrossValidator": """
als = ALS(userCol="userId", itemCol="movieId", ratingCol="rating", coldStartStrategy="drop",
          nonnegative=True, maxIter=3)
grid = ParamGridBuilder().addGrid(als.rank, [2, 5]).addGrid(als.regParam, [0.05, 0.5]).build()
evaluator = RegressionEvaluator(metricName="rmse", labelCol="rating")
cv = CrossValidator(estimator=als, estimatorParamMaps=grid, evaluator=evaluator, numFolds=2, seed=1)
model = cv.fit(training)
assert len(set(model.avgMetrics)) == 4
best = model.bestModel
assert best.rank in (2, 5)
assert isinstance(best, ALSModel)
""",
    "TrainValidationSplit": """
als = ALS(userCol="userId", itemCol="movieId", coldStartStrategy="drop", maxIter=2)
grid = ParamGridBuilder().addGrid(als.regParam, [0.1, 1.0]).build()
split = TrainValidationSplit(estimator=als, estimatorParamMaps=grid, trainRatio=0.8, seed=1,
    evaluator=RegressionEvaluator(labelCol="rating"))
assert len(split.fit(training).validationMetrics) == 2
""",
    "setters, storage levels and persistence": """
als = ALS().setRank(4).setMaxIter(3).setRegParam(0.2).setUserCol("userId").setItemCol("movieId")
als.setNumBlocks(2).setCheckpointInterval(-1).setIntermediateStorageLevel("MEMORY_ONLY")
als.setFinalStorageLevel("DISK_ONLY").setBlockSize(2048).setColdStartStrategy("drop").setSeed(3)
als.write().overwrite().save(f"{path}/als")
again = ALS.load(f"{path}/als")
assert (again.getRegParam(), again.getNumItemBlocks(), again.getBlockSize()) == (0.2, 2, 2048)
model = again.fit(training)
model.save(f"{path}/model")
loaded = ALSModel.load(f"{path}/model")
assert loaded.rank == 4 and loaded.getUserCol() == "userId"
assert loaded.transform(test).count() == model.transform(test).count()
assert loaded.itemFactors.orderBy("id").first() == model.itemFactors.orderBy("id").first()
""",
    "RankingEvaluator": """
model = ALS(maxIter=5, userCol="userId", itemCol="movieId").fit(training)
lists = model.recommendForAllUsers(10).selectExpr(
    "userId", "transform(recommendations, r -> double(r.movieId)) AS prediction")
truth = test.where("rating > 2").groupBy("userId").agg(
    expr("collect_list(double(movieId)) AS label"))
ndcg = RankingEvaluator(metricName="ndcgAtK", k=10).evaluate(lists.join(truth, "userId"))
assert 0 < ndcg < 1
""",
}

NETWORK_SCRIPTS = {
    "the guide": """
data = spark.read.format("libsvm").load(f"{data}/sample_multiclass_classification_data.txt")
train, test = data.randomSplit([0.6, 0.4], 1234)
layers = [4, 5, 4, 3]
trainer = MultilayerPerceptronClassifier(maxIter=100, layers=layers, blockSize=128, seed=1234)
model = trainer.fit(train)
result = model.transform(test)
predictionAndLabels = result.select("prediction", "label")
evaluator = MulticlassClassificationEvaluator(metricName="accuracy")
assert evaluator.evaluate(predictionAndLabels) > 0.8
""",
    "l-bfgs": """
data = spark.read.format("libsvm").load(f"{data}/sample_multiclass_classification_data.txt")
mlp = MultilayerPerceptronClassifier(layers=[4, 8, 3], solver="l-bfgs", stepSize=0.03, tol=1e-6)
model = mlp.setMaxIter(20).fit(data)
assert (mlp.getSolver(), mlp.getStepSize(), model.numClasses) == ("l-bfgs", 0.03, 3)
assert model.transform(data).select("probability").first()[0].size == 3
""",
}

IMPORTS = """
from pyspark.ml import Pipeline
from pyspark.ml.classification import MultilayerPerceptronClassifier
from pyspark.ml.evaluation import *
from pyspark.ml.feature import StringIndexer
from pyspark.ml.recommendation import ALS, ALSModel
from pyspark.ml.tuning import CrossValidator, ParamGridBuilder, TrainValidationSplit
from pyspark.sql import Row
from pyspark.sql.functions import col, explode, expr

"""
OURS = IMPORTS.replace("pyspark.ml.recommendation", "nonconvex.recommendation")
OURS = OURS.replace("pyspark.ml.classification", "nonconvex.neural_network")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the threads of pyspark's CrossValidator
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", [*ALS_SCRIPTS, *NETWORK_SCRIPTS])
def test_a_script_runs_with_its_import_changed(spark, tmp_path, name):
    read = READ_REMOTE if REMOTE else READ
    text = read + ALS_SCRIPTS[name] if name in ALS_SCRIPTS else NETWORK_SCRIPTS[name]
    exec(compile(OURS + text, name, "exec"), {"spark": spark, "data": DATA, "path": tmp_path})


@pytest.mark.thorough
def test_they_run_over_spark_connect():
    pytest.importorskip("grpc", reason="pip install 'nonconvex[connect]'")
    remote = {"SPARK_REMOTE": "local[2]", "SPARK_TESTING": "1"}  # the latter for a free port
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", __file__]
    done = completed(*command, env=os.environ | remote, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert f"{len(ALS_SCRIPTS | NETWORK_SCRIPTS)} passed" in done.stdout
