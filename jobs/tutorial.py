"""Recommend films to user 42, and say why: from the raw ratings of MovieTweetings to reasons.

To be read from top to bottom, and run: ``python jobs/tutorial.py``, or cell by cell (``# %%``) in
an editor that knows them. It needs about a minute, and writes to ``output/tutorial``.
"""

# %% A session with the settings of the jobs; `spark-submit` and notebooks bring their own.
from pathlib import Path

from pyspark.sql import functions as F

from nonconvex.recommendation import MatrixFactorization
from nonconvex.session import get_session

spark, someone = get_session("tutorial"), 42
data = Path(__file__).resolve().parent.parent / "tests/data/movietweetings"

# %% The raw file: users, films by their number at IMDb, ratings from 0 to 10, and times.
raw = spark.read.parquet(f"{data}/ratings.parquet")
titles = spark.read.csv(f"{data}/titles.csv", header=True)
names = {int(row["item"]): row["title"] for row in titles.collect()}
raw.select(F.count("*"), F.countDistinct("user"), F.countDistinct("item"), F.avg("rating")).show()

# %% Some ratings are held out, to measure models on.
train, test = (part.cache() for part in raw.randomSplit([0.9, 0.1], seed=1))
estimator = MatrixFactorization(clipPredictions=True, predictionIntervalCol="interval")

# %% Do factors predict better than the means of users and films? Rank 0 has none.
for rank in (0, 10):
    model = estimator.setParams(rank=rank).fit(train)
    measured = model.evaluate(test, k=10, threshold=8.0)
    print(f"rank {rank:2d}: test RMSE {measured['rmse']:.4f}, nDCG@10 {measured['ndcgAtK']:.4f}")

# %% Are the intervals calibrated? Nine in ten of the test ratings should be in theirs.
inside = F.col("rating").between(F.col("interval.lower"), F.col("interval.upper"))
covered = model.transform(test).agg(F.avg(inside.cast("double"))).collect()[0][0]
print(f"in their interval of 90 %: {covered:.1%} of the test ratings")

# %% Then all ratings are for training. What has the user rated?
model = estimator.fit(raw)
for row in raw.where(F.col("user") == someone).orderBy(F.desc("rating")).collect():
    print(f"{row['rating']:4.0f}  {names.get(row['item'], row['item'])}")

# %% What should they watch? Of films with at least 100 ratings, the best that they have not rated.
user = spark.createDataFrame([(someone,)], "user int")
known = raw.groupBy("item").count().where("count >= 100").select("item")
lists = model.recommendForUserSubset(user, 10, exclude="train", candidates=known)
best = lists.select("user", F.explode("recommendations").alias("film")).select("user", "film.item")
ranked = model.transform(best).orderBy(F.desc("prediction")).collect()
for row in ranked:
    interval = "{:.1f} to {:.1f}".format(*row["interval"])
    print(f"{row['prediction']:5.2f}  ({interval})  {names.get(row['item'], row['item'])}")

# %% And why the first? The parts of its prediction, and the ratings that contribute most.
print(model.explain(someone, ranked[0]["item"]).text(names=names))

# %% A model is a directory of Parquet and JSON, for the next program to load.
model.write().overwrite().save(str(Path("output/tutorial/model").resolve()))
