"""Contenders of a benchmark: one interface for this library and for each of its peers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.ml import Estimator, Model, PipelineModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.data.prepare import prepare_ratings
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.distributed.data.validation import Columns, Rules
from nonconvex.distributed.files import FileSystem
from nonconvex.distributed.runtime import driver_cores
from nonconvex.neural_network import MultilayerPerceptronClassifier
from nonconvex.recommendation import MatrixFactorization


@dataclass(frozen=True)
class Contender:
    """A named thing that trains on shared Parquet files and predicts their rows.

    Each callable takes a path of rows or a model first. A benchmark measures `save` and
    `recommend` where there are any.
    """

    name: str
    fit: Callable[[str, int], Any]  # path, steps: a model, from a fresh start, of so many steps
    score: Callable[[Any, str], float]  # model, path: the error or the accuracy
    predict: Callable[[Any, str], object]  # model, path: predicts all rows
    save: Callable[[Any, str], object] | None = None  # model, path: replaces what is there
    recommend: Callable[[Any, int], object] | None = None  # model, length: lists for all users


def our_factorization(
    spark: SparkSession, rank: int, params: Mapping[str, Any], kernel: str | None = None
) -> Contender:
    """Return `MatrixFactorization` of this library; with tol=0, no fit ends early.

    A `kernel`, if there is one, is in the name.
    """
    fixed, name = {"solver": "als", "tol": 0.0, **params, "rank": rank}, "nonconvex"
    if kernel is not None:
        fixed, name = {**fixed, "kernel": kernel}, f"nonconvex ({kernel})"
    return _factorization(spark, name, lambda steps: MatrixFactorization(**fixed, maxIter=steps))


def mllib_factorization(spark: SparkSession, rank: int, params: Mapping[str, Any]) -> Contender:
    """Return ``ALS`` of MLlib."""
    from pyspark.ml.recommendation import ALS

    fixed = {"seed": 1, **params, "rank": rank}
    return _factorization(spark, "MLlib", lambda steps: ALS(**fixed, maxIter=steps))


def _factorization(
    spark: SparkSession, name: str, make: Callable[[int], Estimator[Any]]
) -> Contender:
    """Return a contender from its estimator, given the number of iterations."""

    def predict(model: Any, path: str) -> None:
        # The sum keeps Spark from pruning the predictions.
        model.transform(spark.read.parquet(path)).agg(F.sum("prediction")).collect()

    def rmse(model: Any, path: str) -> float:
        return _rmse_of(model.transform(spark.read.parquet(path)))

    def recommend(model: Any, top: int) -> None:
        model.recommendForAllUsers(top).write.format("noop").mode("overwrite").save()

    return Contender(
        name,
        fit=lambda path, steps: make(steps).fit(spark.read.parquet(path)),
        score=rmse,
        predict=predict,
        save=lambda model, path: model.write().overwrite().save(path),
        recommend=recommend,
    )


@dataclass(frozen=True)
class Pipeline:
    """A way from raw ratings in Parquet to a saved model, in steps.

    The ratings have a column ``part``.  `prepare` takes their path and a directory, and returns
    what the other steps take first.
    """

    name: str
    prepare: Callable[[str, str], Any]  # path, directory: ratings with dense indices
    fit: Callable[[Any], Any]  # ratings: a model
    evaluate: Callable[[Any, Any], float]  # ratings, model: RMSE of the test ratings
    write: Callable[[Any, Any, str], object]  # ratings, model, path


def our_pipeline(
    spark: SparkSession, rank: int, iterations: int, params: Mapping[str, Any]
) -> Pipeline:
    """Return what the jobs of this library do: prepared ratings, and a fit of these."""
    fixed = {"solver": "als", "tol": 0.0, "patience": 0, **params}
    fixed |= {"rank": rank, "maxIter": iterations}

    def prepare(path: str, directory: str) -> PreparedRatings:
        return prepare_ratings(
            read_source(spark, path, format="parquet"),
            f"{directory}/prepared",
            columns=Columns(),
            rules=Rules(),
            split=Split("column", column="part"),
            overwrite=True,
        )

    def evaluate(prepared: PreparedRatings, model: Any) -> float:
        return _rmse_of(model.copy({model.coldStartStrategy: "drop"}).transform(prepared.test))

    return Pipeline(
        "nonconvex",
        prepare,
        fit=lambda prepared: MatrixFactorization(**fixed).fitPrepared(prepared),
        evaluate=evaluate,
        write=lambda _, model, path: model.write().overwrite().save(path),
    )


def mllib_pipeline(
    spark: SparkSession, rank: int, iterations: int, params: Mapping[str, Any]
) -> Pipeline:
    """Return the usual script of MLlib: string indexers, a cached table, ``ALS``."""
    from pyspark.ml.feature import StringIndexer
    from pyspark.ml.recommendation import ALS

    indices = {"userCol": "user_index", "itemCol": "item_index"}
    fixed: dict[str, Any] = {"seed": 1, **params, "coldStartStrategy": "drop", **indices}

    def prepare(path: str, directory: str) -> tuple[Any, DataFrame, DataFrame]:
        del directory
        rows = spark.read.parquet(path)
        indexer = StringIndexer(
            inputCols=["user", "item"], outputCols=list(indices.values()), handleInvalid="skip"
        ).fit(rows.where("part = 'train'"))
        # Integers, or ALS would check each.
        whole = {name: F.col(name).cast("int") for name in indices.values()}
        indexed = indexer.transform(rows).withColumns(whole).persist()
        indexed.count()
        return indexer, indexed.where("part = 'train'"), indexed.where("part = 'test'")

    def write(ratings: Any, model: Any, path: str) -> None:
        PipelineModel([ratings[0], model]).write().overwrite().save(path)
        ratings[1].sparkSession.catalog.clearCache()

    return Pipeline(
        "MLlib",
        prepare,
        fit=lambda ratings: ALS(**fixed, rank=rank, maxIter=iterations).fit(ratings[1]),
        evaluate=lambda ratings, model: _rmse_of(model.transform(ratings[2])),
        write=write,
    )


def cmfrec_pipeline(spark: SparkSession, rank: int, iterations: int) -> Pipeline:
    """Return cmfrec in this process, in all its cores: what one machine can do, without Spark.

    Only for ratings on a disk of this machine.
    """

    def prepare(path: str, directory: str) -> tuple[Any, Any]:
        del directory
        rows = _read_for_cmfrec(spark, path)
        return tuple(rows[rows["part"] == part].drop(columns="part") for part in ("train", "test"))

    def write(ratings: Any, model: Any, path: str) -> None:
        del ratings
        local = FileSystem(spark, path).local_path(path)
        os.makedirs(os.path.dirname(str(local)), exist_ok=True)
        biases = {"user_bias": model.user_bias_, "item_bias": model.item_bias_}
        np.savez(f"{local}.npz", users=model.A_, items=model.B_, **biases)

    return Pipeline(
        "cmfrec, without Spark",
        prepare,
        fit=lambda ratings: _cmfrec(rank, iterations).fit(ratings[0]),
        evaluate=lambda ratings, model: _rmse_of_cmfrec(model, ratings[1]),
        write=write,
    )


def cmfrec_factorization(spark: SparkSession, rank: int, *, cg: bool) -> Contender:
    """Return cmfrec in this process, by Cholesky or by three conjugate gradients for each row.

    Only for ratings on a disk of this machine.
    """

    def predict(model: Any, path: str) -> None:
        rows = _read_for_cmfrec(spark, path)
        model.predict(rows["UserId"], rows["ItemId"])

    return Contender(
        f"cmfrec ({'CG' if cg else 'Cholesky'})",
        fit=lambda path, steps: _cmfrec(rank, steps, cg=cg).fit(_read_for_cmfrec(spark, path)),
        score=lambda model, path: _rmse_of_cmfrec(model, _read_for_cmfrec(spark, path)),
        predict=predict,
    )


def _cmfrec(rank: int, iterations: int, *, cg: bool = False) -> Any:
    from cmfrec import CMF

    # The regularization grows with the ratings of a row, as here and in MLlib.
    settings = {"k": rank, "lambda_": 0.05, "scale_lam": True, "niter": iterations}
    by_cg = {"use_cg": cg, "finalize_chol": False}  # else CG's last iteration is exact
    return CMF(**settings, **by_cg, nthreads=driver_cores(), verbose=False)


def _read_for_cmfrec(spark: SparkSession, path: str) -> Any:
    """Read ratings into a dataframe of pandas, with the names that cmfrec asks for."""
    local = FileSystem(spark, path).local_path(path)
    rows = pq.read_table(local, partitioning="hive").to_pandas()
    return rows.rename(columns={"user": "UserId", "item": "ItemId", "rating": "Rating"})


def _rmse_of_cmfrec(model: Any, rows: Any) -> float:
    errors = model.predict(rows["UserId"], rows["ItemId"]) - rows["Rating"]
    return float(np.sqrt(np.nanmean(errors**2)))


def has_cmfrec() -> bool:
    """Tell whether cmfrec is installed."""
    return find_spec("cmfrec") is not None


def _rmse_of(predictions: DataFrame) -> float:
    error = F.col("prediction") - F.col("rating")
    return float(predictions.agg(F.sqrt(F.avg(error * error))).collect()[0][0])


def our_network(
    spark: SparkSession,
    hidden: Sequence[int],
    batch_size: int,
    rate: float,
    gradients: str,
    params: Mapping[str, Any],
) -> Contender:
    """Return `MultilayerPerceptronClassifier` of this library; with tol=0, no fit ends early."""
    own = {"layers": list(hidden), "batchSize": batch_size, "tol": 0.0}
    fixed = {**own, "learningRate": rate, "gradients": gradients, **params}

    def fit(path: str, epochs: int) -> Any:
        estimator = MultilayerPerceptronClassifier(**{**fixed, "maxIter": epochs})
        return estimator.fit(spark.read.parquet(path))

    def accuracy(model: Any, path: str) -> float:
        return _accuracy(model, spark.read.parquet(path))

    return Contender(f"nonconvex ({gradients})", fit, accuracy, predict=accuracy)


def mllib_network(
    spark: SparkSession, layers: Sequence[int], params: Mapping[str, Any]
) -> Contender:
    """Return MLlib's perceptron, on features that MLlib standardizes.

    Its step, an epoch in the tables, is an iteration of L-BFGS over all rows. `layers` has the
    features and the classes too.
    """
    fixed = {"layers": list(layers), "featuresCol": "scaled", "tol": 0.0, "seed": 1, **params}

    def vectors(path: str) -> DataFrame:
        from pyspark.ml.functions import array_to_vector

        rows = spark.read.parquet(path)
        return rows.select(array_to_vector(F.col("features")).alias("vector"), "label")

    def fit(path: str, epochs: int) -> Any:
        from pyspark.ml.classification import MultilayerPerceptronClassifier as Peer
        from pyspark.ml.feature import StandardScaler

        rows = vectors(path)
        scaler = StandardScaler(inputCol="vector", outputCol="scaled", withMean=True).fit(rows)
        scaled = scaler.transform(rows).select("scaled", "label").persist()
        try:
            model = Peer(**{**fixed, "maxIter": epochs}).fit(scaled)
        finally:
            scaled.unpersist()
        return PipelineModel([scaler, model])

    def accuracy(model: Any, path: str) -> float:
        return _accuracy(model, vectors(path))

    return Contender("MLlib", fit, accuracy, predict=accuracy)


def sklearn_network(
    spark: SparkSession, hidden: Sequence[int], batch_size: int, rate: float
) -> Contender:
    """Return ``MLPClassifier`` of scikit-learn, in this process, by Adam, on scaled features."""

    def fit(path: str, epochs: int) -> Any:
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x, y = _read_arrays(spark, path)
        network = MLPClassifier(
            hidden_layer_sizes=tuple(hidden),
            batch_size=min(batch_size, len(y)),
            solver="adam",
            learning_rate_init=rate,
            max_iter=epochs,
            early_stopping=False,
            tol=0.0,
            n_iter_no_change=epochs,  # or it would end early
            random_state=1,
        )
        with warnings.catch_warnings():
            # It warns that it has made all its epochs, as it should.
            warnings.simplefilter("ignore")
            return make_pipeline(StandardScaler(copy=False), network).fit(x, y)

    def accuracy(model: Any, path: str) -> float:
        return float(model.score(*_read_arrays(spark, path)))

    return Contender("scikit-learn", fit, accuracy, predict=accuracy)


def has_sklearn() -> bool:
    """Tell whether scikit-learn is installed."""
    return find_spec("sklearn") is not None


def _read_arrays(spark: SparkSession, path: str) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Read features (n, d) and labels (n,), without Spark where possible."""
    columns = ["features", "label"]
    try:
        table = pq.read_table(path, columns=columns, partitioning=None)
    except (OSError, ValueError):  # a file system or a scheme that pyarrow does not know
        table = spark.read.parquet(path).select(columns).toArrow()
    features = table["features"].combine_chunks()
    x = features.flatten().to_numpy().reshape(len(features), -1)
    return x.astype(np.float32), table["label"].to_numpy()


def _accuracy(model: Model, rows: DataFrame) -> float:
    right = (F.col("prediction") == F.col("label")).cast("double")
    return float(model.transform(rows).agg(F.avg(right)).collect()[0][0])
