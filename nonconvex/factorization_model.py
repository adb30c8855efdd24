"""The model that `nonconvex.recommendation.MatrixFactorization` fits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyspark import Broadcast
from pyspark.ml import Model
from pyspark.ml.util import MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.columns import check_frame, number_column
from nonconvex.distributed.data.ratings import RatingsError
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.factorization.evaluate import retrieval
from nonconvex.distributed.factorization.evaluation import evaluate
from nonconvex.distributed.factorization.fold_in import Drawing, Equation, fold_in, fold_in_samples
from nonconvex.distributed.factorization.top_n import Ranker, Side
from nonconvex.distributed.model_tables import factor_table
from nonconvex.distributed.rows import DistantFactors
from nonconvex.estimators.factorization.explain import Explainer
from nonconvex.estimators.factorization.params import FactorizationParams
from nonconvex.estimators.factorization.persistence import FactorizationReader, FactorizationWriter
from nonconvex.estimators.factorization.predictor import Predictor
from nonconvex.estimators.factorization.recommend import Recommender, positive
from nonconvex.estimators.factorization.starts import warm_start
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.estimators.params import with_accessors
from nonconvex.estimators.ranges import number, optional
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.factorization.posterior import Posterior
from nonconvex.numerics.factorization.ridge_posterior import RidgePosterior

__all__ = ["MatrixFactorizationModel"]


@with_accessors
class MatrixFactorizationModel(
    Model, Predictor, Recommender, Explainer, MLReadable["MatrixFactorizationModel"], MLWritable
):
    """A fitted latent factor model: α, and a row (β, γ) for every user and item.

    Attributes
    ----------
    rank : int
        That of the factors, which for the mean of samples is ``meanRank``.
    globalBias : float
        α.
    userFactors, itemFactors : DataFrame
        ``id`` (of the type it had in training), ``bias``, ``features`` (an array).
    summary : TrainingSummary
    restarts : list of MatrixFactorizationModel
        The models of all random starts, if ``keepRestarts`` was set; they are not saved.
    """

    # What folding in and evaluation do as training did.
    ratingCol = FactorizationParams.ratingCol
    weightCol = FactorizationParams.weightCol
    fitBiases = FactorizationParams.fitBiases
    nonnegative = FactorizationParams.nonnegative
    implicitPrefs = FactorizationParams.implicitPrefs
    confidence = FactorizationParams.confidence
    # What an explanation must know.
    ensemble = FactorizationParams.ensemble

    def __init__(
        self,
        factors: Factors | DistantFactors | None = None,
        ids: Ids | None = None,
        summary: TrainingSummary | None = None,
        *,
        implicit: bool = False,
        posterior: Posterior | None = None,
        ridge: RidgePosterior | None = None,
        training_pairs: DataFrame | None = None,
        histories: Sequence[DataFrame] = (),
    ) -> None:
        super().__init__()
        self._setDefault(
            ratingCol="rating",
            weightCol=None,
            fitBiases=True,
            nonnegative=False,
            implicitPrefs=False,
            confidence=1.0,
            ensemble=False,
        )
        if factors is None or ids is None or summary is None:
            raise TypeError("a MatrixFactorizationModel comes from fit or load")
        self._held, self._ids, self._summary = factors, ids, summary
        self._implicit, self._posterior, self._ridge = implicit, posterior, ridge
        self._training_pairs, self._histories = training_pairs, histories
        self.restarts: list[MatrixFactorizationModel] = []
        self._shared_ids: tuple[Broadcast[pa.ChunkedArray], ...] | None = None

    @property
    def userFactors(self) -> DataFrame:
        """Rows ``id, bias, features`` of all users, in ascending order of their ids."""
        return factor_table(SparkSession.active(), self._ids.users, self._held.users)

    @property
    def itemFactors(self) -> DataFrame:
        """Rows ``id, bias, features`` of all items, in ascending order of their ids."""
        return factor_table(SparkSession.active(), self._ids.items, self._held.items)

    @property
    def summary(self) -> TrainingSummary:
        """What the model was trained on, and how it went."""
        return self._summary

    def start_for(
        self, ids: Ids, rank: int, dtype: type[np.floating], *, intercept: bool, biases: bool
    ) -> tuple[Factors, dict[str, dict[str, int]]]:
        """Return where a fit of other ids starts from this model, see `starts.warm_start`."""
        factors = self.factors
        if self._posterior is not None:  # the mean of samples is of another rank than they are
            factors = self._posterior.sample(-1).factors
        return warm_start(factors, self._ids, ids, rank, dtype, intercept=intercept, biases=biases)

    def foldInUsers(self, ratings: DataFrame) -> MatrixFactorizationModel:
        """Return a model with new or changed users: their rows, given α and the items.

        The rows are those that training would solve for: with its n, mean number of ratings per
        user, λ, ν and ρ, its weights, and its ``nonnegative``, ``fitBiases`` and
        ``implicitPrefs``.  A user of training, with exactly the ratings that it had there, gets
        its own row again: to the bit if the solver was "als", which ends with the users; nearly
        for another solver, if it converged; not in an ensemble, whose rows are means.  If the
        model was sampled, rows and noise are drawn given the items of each kept sample, and what
        predicts is the mean of their conditional means.

        Parameters
        ----------
        ratings : DataFrame
            *All* ratings of each of these users, in the columns of training.  Ratings of items
            that the model does not know are ignored, and their number is logged; a user with no
            other ratings is not added.

        Returns
        -------
        MatrixFactorizationModel
            With the users of this one, and the new ones.  Its summary is that of training.

        Raises
        ------
        RatingsError, ColumnError
            As for ``fit``, and if no rating is of a known item.

        Examples
        --------
        >>> new = spark.createDataFrame(
        ...     [(1, "Gravity", 9.0), (1, "Argo", 8.0)], ["user", "item", "rating"]
        ... )
        >>> more = model.foldInUsers(new)
        >>> more.recommendForUserSubset(new, 1, exclude="train").first().recommendations[0].item
        'Star Trek Into Darkness'
        """
        return self._fold_in(ratings, "users")

    def foldInItems(self, ratings: DataFrame) -> MatrixFactorizationModel:
        """Return a model with new or changed items: their rows, given α and the users.

        See `foldInUsers`.  An item of training gets its own row only nearly, and the more so the
        more a fit has converged: after the last update of the items came one of α and the users.
        """
        return self._fold_in(ratings, "items")

    def evaluate(
        self,
        dataset: DataFrame,
        k: int = 10,
        *,
        threshold: float | None = None,
        exclude: DataFrame | str | None = "train",
    ) -> dict[str, float]:
        """Measure predictions and top-k lists on ratings that were held out.

        RMSE and MAE are of the ratings, weighted if training was, or with ``implicitPrefs`` of the
        preferences (1 where the rating is positive, else 0).  The others are of the lists that
        `recommendForUserSubset` makes for the users who have something relevant, where pairs in
        `exclude` are left out; see `nonconvex.numerics.relevance` for the formulas.

        Parameters
        ----------
        dataset : DataFrame
            Ratings, in the columns of training.
        k : int
            Length of the lists, at least 1.
        threshold : float, optional
            An item is relevant if its rating is at least this.  By default all are that are in
            `dataset`, or with ``implicitPrefs`` those with a positive rating.  One that the model
            does not know is relevant too, and never found.
        exclude : DataFrame, "train" or None
            Pairs that no list may hold, by default those of training.

        Returns
        -------
        dict of str to float
            ``rmse, mae``; ``ratings``, how many these are of, and ``unpredicted``, how many had no
            prediction; ``ndcgAtK, recallAtK, precisionAtK, meanAveragePrecisionAtK``, as Spark's
            ``RankingEvaluator`` defines them; ``coverageAtK``, the fraction of the model's items
            that are in any list; ``users``, how many lists these are of; and ``k``.

        Raises
        ------
        EvaluationError
            If nothing is predicted, or nothing relevant.

        Examples
        --------
        >>> measured = model.evaluate(prepared.test, k=5, threshold=8.0)
        >>> round(measured["rmse"], 2), round(measured["ndcgAtK"], 2)
        (1.15, 0.38)
        """
        k, pairs = positive("k", k), self._pairs(exclude)
        threshold = optional(number("threshold"))(threshold)
        ratings = self._ratings(dataset)
        users, items = self._sides(dataset.sparkSession)
        ratings.persist()
        try:
            rows = _count(ratings)
            named = self.copy({self.userCol: "user", self.itemCol: "item"})
            errors = evaluate(named._predictions(ratings), ["prediction"]).overall
            if threshold is not None:
                relevant = ratings.where(F.col("rating") >= threshold)
            else:
                relevant = ratings.where("rating > 0") if self._implicit else ratings
            lists = retrieval(
                relevant.select(F.col("user").alias("id"), F.col("item").alias("other")),
                Ranker(self.globalBias, users.rows, items.rows, k, None),
                users,
                items,
                exclude=pairs,
                unknown=self._cold(),
            )
        finally:
            ratings.unpersist()
        return {
            "rmse": errors.rmse["prediction"],
            "mae": errors.mae["prediction"],
            "ratings": errors.ratings,
            "unpredicted": rows - errors.ratings,
            **lists,
            "k": k,
        }

    def _ratings(self, dataset: DataFrame) -> DataFrame:
        """Select ``user, item, rating`` and, if training was weighted, ``weight``."""
        check_frame("dataset", dataset)
        get = self.getOrDefault
        columns = [
            side.column_of(dataset).alias(name)
            for name, side in zip(("user", "item"), self._sides(dataset.sparkSession), strict=True)
        ]
        columns.append(number_column(dataset, get("ratingCol"), "ratingCol").alias("rating"))
        if get("weightCol") is not None:
            columns.append(number_column(dataset, get("weightCol"), "weightCol").alias("weight"))
        return dataset.select(*columns)

    def _predictions(self, ratings: DataFrame) -> DataFrame:
        """What `evaluate` reads; the bins that it can also tell apart are all one here."""
        predicted = self.copy({self.predictionCol: "prediction"}).transform(ratings)
        if self._implicit:
            predicted = predicted.withColumn("rating", (F.col("rating") > 0).cast("double"))
        return predicted.withColumns({"user_count": F.lit(0), "item_count": F.lit(0)})

    def _fold_in(self, dataset: DataFrame, side: str) -> MatrixFactorizationModel:
        get = self.getOrDefault
        equation = Equation(
            self._summary.ridge(side),
            biases=get("fitBiases"),
            nonnegative=get("nonnegative"),
            confidence=get("confidence") if self._implicit else None,
        )
        ratings, posterior, ridge = self._ratings(dataset), self._posterior, self._ridge
        spark = dataset.sparkSession
        if posterior is None:
            shared = self._broadcast(spark)
            factors, ids, ridge = fold_in(
                ratings, side, self.factors, self._ids, shared, equation, ridge
            )
        else:
            drawing = Drawing(posterior, self._broadcast_samples(spark, posterior))
            factors, ids, posterior = fold_in_samples(
                ratings, side, self.factors, self._ids, drawing
            )
        pairs = self._training_pairs
        if pairs is not None:
            pairs = pairs.union(ratings.select("user", "item"))
        model = MatrixFactorizationModel(
            factors,
            ids,
            self._summary,
            implicit=self._implicit,
            posterior=posterior,
            ridge=ridge,
            training_pairs=pairs,
            histories=(ratings, *self._histories) if side == "users" else self._histories,
        )
        return self._copyValues(model)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        return self._with_predictions(dataset)

    def _sides(self, spark: SparkSession) -> tuple[Side, Side]:
        if self._shared_ids is None:
            self._shared_ids = tuple(spark.sparkContext.broadcast(ids) for ids in self._ids)
        users, items = (
            Side(role, self.getOrDefault(role), ids, shared, rows)
            for role, ids, shared, rows in zip(
                ("userCol", "itemCol"),
                self._ids,
                self._shared_ids,
                self._broadcast(spark),
                strict=True,
            )
        )
        return users, items

    def write(self) -> MLWriter:
        """Return a writer of Parquet and JSON; see `MLWriter.overwrite`."""
        return FactorizationWriter(self)

    @classmethod
    def read(cls) -> MLReader[MatrixFactorizationModel]:
        """Return a reader of what `write` wrote."""
        return FactorizationReader(cls)


def _count(ratings: DataFrame) -> int:
    """Return the number of ratings to evaluate with, which must be numbers."""
    number = F.col("rating").isNotNull() & ~F.isnan("rating")
    counts = ratings.agg(F.count("*"), F.count_if(~number)).first()
    assert counts is not None
    if counts[1]:
        raise RatingsError(
            f"{counts[1]:,} of the {counts[0]:,} ratings to evaluate with are null or NaN; "
            "drop them"
        )
    return int(counts[0])
