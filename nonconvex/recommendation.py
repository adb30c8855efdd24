"""Latent factor models of ratings, R̂_ui = α + β_u + β_i + γ_u·γ_i, as pyspark.ml estimators.

The model that `MatrixFactorization` fits.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark import Broadcast, keyword_only
from pyspark.ml import Estimator, Model
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsWritable,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.columns import check_frame, number_column
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.dataset import (
    Ids,
    TrainingSet,
    load_prepared,
    pack_ratings,
)
from nonconvex.distributed.factorization.evaluate import evaluate_ratings, retrieval
from nonconvex.distributed.factorization.execution import ExecutionMode
from nonconvex.distributed.factorization.fold_in import Drawing, Equation, fold_in, fold_in_samples
from nonconvex.distributed.factorization.top_n import ModelSide, Ranker
from nonconvex.distributed.model_tables import factor_table
from nonconvex.distributed.rows import ShardedFactors
from nonconvex.distributed.serving import training_ratings
from nonconvex.estimators.factorization.explain import Explainer
from nonconvex.estimators.factorization.fit import (
    FitResult,
    WarmStart,
    check_exchange,
    exchange_policy,
    fit_together,
    select_ratings,
    warm_start,
)
from nonconvex.estimators.factorization.params import (
    NOT_OF_THE_FIT,
    SHARED,
    FactorizationParams,
    check_prepared,
    check_together,
)
from nonconvex.estimators.factorization.persistence import FactorizationReader, FactorizationWriter
from nonconvex.estimators.factorization.predict import Predictor
from nonconvex.estimators.factorization.recommend import Recommender, positive
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.estimators.params import InTurn, ParamError, number, optional, with_accessors
from nonconvex.estimators.persistence import EstimatorReader
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.model import Factors, Side, preferences
from nonconvex.numerics.factorization.posterior import Posterior
from nonconvex.numerics.factorization.ridge_posterior import RidgePosterior

if TYPE_CHECKING:
    from pyspark.ml._typing import ParamMap

__all__ = ["MatrixFactorization", "MatrixFactorizationModel"]


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
        factors: Factors | ShardedFactors | None = None,
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
        return self._fold_in(ratings, Side.USERS)

    def foldInItems(self, ratings: DataFrame) -> MatrixFactorizationModel:
        """Return a model with new or changed items: their rows, given α and the users.

        See `foldInUsers`.  An item of training gets its own row only nearly, and the more so the
        more a fit has converged: after the last update of the items came one of α and the users.
        """
        return self._fold_in(ratings, Side.ITEMS)

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
        `exclude` are left out; see `nonconvex.numerics.ranking` for the formulas.

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
            errors = evaluate_ratings(named._predictions(ratings), ["prediction"]).overall
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

    def _fold_in(self, dataset: DataFrame, side: Side) -> MatrixFactorizationModel:
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
            histories=(ratings, *self._histories) if side == Side.USERS else self._histories,
        )
        return self._copyValues(model)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        return self._with_predictions(dataset)

    def _sides(self, spark: SparkSession) -> tuple[ModelSide, ModelSide]:
        if self._shared_ids is None:
            self._shared_ids = tuple(spark.sparkContext.broadcast(ids) for ids in self._ids)
        users, items = (
            ModelSide(role, self.getOrDefault(role), ids, shared, rows)
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


@with_accessors
class MatrixFactorization(
    Estimator["MatrixFactorizationModel"],
    FactorizationParams,
    DefaultParamsReadable["MatrixFactorization"],
    DefaultParamsWritable,
):
    """Latent factor model of explicit ratings, by minimization or by sampling.

    The prediction is R̂_ui = α + β_u + β_i + γ_u·γ_i, and what is minimized over the n observed
    ratings is

        f = (1/n) Σ (R̂_ui − R_ui)² + λ₁ Σ_u (ρ β_u² + ‖γ_u‖²) + λ₂ Σ_i (ρ β_i² + ‖γ_i‖²)

    with ρ = 1 whenever λ₁ or λ₂ is given.  ``regExponent`` makes λ grow with the number of
    ratings of a user or item, ``weightCol`` weighs each rating, and ``implicitPrefs`` changes the
    sum to one over all pairs (see `nonconvex.numerics.factorization.model`).

    With ``solver="gibbs"`` nothing is minimized: R_ui ~ N(R̂_ui, 1/(τ ω_u w_ui)), all unknowns are
    drawn in turn from their conditional distributions (see
    `nonconvex.numerics.factorization.gibbs`), and the prediction
    is the mean over the samples.
    It predicts best, has nothing to tune, and says how
    sure it is (``predictionStdCol``, ``predictionIntervalCol``).  A sweep takes up to twice as long
    as an iteration of "als", and there are 250 of them; ``numRestarts`` is the number of chains.

    The same data, Params and seed give the same model, bit for bit, on any number of cores and
    however the data are partitioned.

    Parameters
    ----------
    rank, maxIter, tol, regUser, regItem, …
        Params, by name; ``explainParams()`` describes every one, with its range and default.

    Examples
    --------
    >>> ratings = spark.createDataFrame(
    ...     [("ann", 1, 5.0), ("ann", 2, 1.0), ("bob", 1, 4.0)], ["user", "item", "rating"]
    ... )
    >>> model = MatrixFactorization(rank=2, maxIter=5).fit(ratings)
    >>> asked = spark.createDataFrame([("bob", 2)], ["user", "item"])
    >>> round(model.transform(asked).first().prediction, 1)
    2.7
    """

    @keyword_only
    def __init__(
        self,
        *,
        rank: int = 10,
        maxIter: int = 15,
        tol: float = 1e-4,
        patience: int | None = None,
        regUser: float | None = None,
        regItem: float | None = None,
        biasRegRatio: float | None = None,
        regExponent: float = 0.0,
        solver: str = "als",
        fitIntercept: bool = True,
        fitBiases: bool = True,
        nonnegative: bool = False,
        implicitPrefs: bool = False,
        confidence: float = 1.0,
        userCol: str = "user",
        itemCol: str = "item",
        ratingCol: str = "rating",
        weightCol: str | None = None,
        validationIndicatorCol: str | None = None,
        predictionCol: str = "prediction",
        coldStartStrategy: str = "bias",
        clipPredictions: bool = False,
        seed: int = 42,
        numRestarts: int = 1,
        firstRestart: int = 0,
        keepRestarts: bool = False,
        ensemble: bool = False,
        initScale: float = 0.1,
        checkpointPath: str | None = None,
        checkpointInterval: int = 10,
        precision: str = "float32",
        numUserBlocks: int | None = None,
        numItemBlocks: int | None = None,
        updates: str = "auto",
        exchange: str = "auto",
        maxBroadcastBytes: int = 512 << 20,
        gradientTol: float = 0.0,
        miniBatchFraction: float = 1.0,
        optimizer: str = "adam",
        learningRate: float = 0.05,
        momentum: float | None = None,
        decay: float | None = None,
        epsilon: float | None = None,
        weightDecay: float | None = None,
        clipNorm: float | None = None,
        schedule: str = "constant",
        decaySteps: int | None = None,
        decayRate: float | None = None,
        finalFraction: float | None = None,
        warmupSteps: int = 0,
        numBurnIn: int = 50,
        numSamples: int = 200,
        thinning: int = 1,
        numKept: int = 20,
        meanRank: int | None = None,
        predictionStdCol: str | None = None,
        predictionIntervalCol: str | None = None,
        predictionInterval: float = 0.9,
        predictionNoise: bool = True,
    ) -> None:
        super().__init__()
        self._initial_model: MatrixFactorizationModel | None = None
        given: dict[str, Any] = self._input_kwargs  # type: ignore[attr-defined]  # of keyword_only
        self._set(**given)

    @keyword_only
    def setParams(self, **params: Any) -> MatrixFactorization:
        """Set Params by name."""
        return self._set(**params)

    @classmethod
    def read(cls) -> EstimatorReader[MatrixFactorization]:
        """Return a reader of what `write` wrote."""
        return EstimatorReader(cls)

    def setInitialModel(self, model: MatrixFactorizationModel | None) -> MatrixFactorization:
        """Start fits from the factors of an earlier model; None for random starts.

        Ids that the model knows start from its rows, and new ones from zero.  Ids that are not in
        the new ratings are not in the new model.  It is not saved with the estimator.
        """
        if not (model is None or isinstance(model, MatrixFactorizationModel)):
            raise ParamError(f"the initial model must be a fitted model or None, got {model!r}")
        self._initial_model = model
        return self

    def fitPrepared(self, prepared: PreparedRatings) -> MatrixFactorizationModel:
        """Fit prepared ratings, which are read from disk block by block without a shuffle.

        Their validation ratings are what ``patience`` and the choice among restarts look at.

        Parameters
        ----------
        prepared : PreparedRatings

        Returns
        -------
        MatrixFactorizationModel
        """
        check_prepared(self)
        self._check_together(validated=prepared.manifest.counts["validation"] > 0)
        started = time.perf_counter()
        training = load_prepared(
            prepared,
            dtype=self._dtype(),
            transform=self._preferences(),
            place=self._place(),
            unknowns=self._unknowns(),
            policy=exchange_policy([self]),
        )
        model = self._train([self], training, started, training_ratings(prepared))[0]
        if "weight" in prepared.manifest.types:  # what the model folds in and evaluates is weighted
            model._set(weightCol="weight")
        return model

    def fitMultiple(
        self, dataset: DataFrame, paramMaps: Sequence[ParamMap]
    ) -> Iterator[tuple[int, MatrixFactorizationModel]]:
        """Fit a model for each of several sets of Params, such as a regularization path.

        All that differ only in what a fit minimizes (``rank``, ``regUser``, ``regItem``, ``seed``,
        …) are fitted together: every pass over the data serves all of them.

        Parameters
        ----------
        dataset : DataFrame
        paramMaps : sequence of dict

        Yields
        ------
        int, MatrixFactorizationModel
            The position in `paramMaps`, and the model.
        """
        estimators = [self.copy(params) for params in paramMaps]
        groups: dict[tuple[Any, ...], list[int]] = {}
        for index, estimator in enumerate(estimators):
            key: list[Any] = [estimator.getOrDefault(name) for name in SHARED]
            if estimator.getOrDefault("exchange") == "shuffle":  # for one fit at a time
                key.append(index)
            solver = estimator.getOrDefault("solver")
            if solver == "gd":  # whose samples of users depend on the seed
                key += ["gd", estimator.getOrDefault("seed")]
            if solver == "gibbs":
                key += ["gibbs"]
            groups.setdefault(tuple(key), []).append(index)
        fits: list[tuple[list[int], Callable[[], list[MatrixFactorizationModel]]]] = [
            (indices, partial(self._fit_group, dataset, [estimators[i] for i in indices]))
            for indices in groups.values()
        ]
        return InTurn(fits)

    def _fit(self, dataset: DataFrame) -> MatrixFactorizationModel:
        return self._fit_group(dataset, [self])[0]

    def _fit_group(
        self, dataset: DataFrame, estimators: Sequence[MatrixFactorization]
    ) -> list[MatrixFactorizationModel]:
        """Fit estimators that are equal in all of `SHARED`."""
        first = estimators[0]
        for estimator in estimators:
            validated = estimator.getOrDefault("validationIndicatorCol") is not None
            estimator._check_together(validated=validated)
        started = time.perf_counter()
        ratings = select_ratings(first, dataset)
        training = pack_ratings(
            ratings,
            user_blocks=first.getOrDefault("numUserBlocks"),
            item_blocks=first.getOrDefault("numItemBlocks"),
            dtype=first._dtype(),
            transform=first._preferences(),
            place=first._place(),
            unknowns=sum(estimator._unknowns() for estimator in estimators),
            policy=exchange_policy(estimators),
        )
        train = ratings.where("not held_out") if "held_out" in ratings.columns else ratings
        return self._train(estimators, training, started, train.drop("held_out"))

    def _check_together(self, *, validated: bool) -> None:
        check_together(self, validated=validated, warm=self._initial_model is not None)
        check_exchange(self)

    def _place(self) -> ExecutionMode:
        """Say where rows are to be updated; by shuffle it is never on the driver."""
        place: ExecutionMode = self.getOrDefault("updates")
        return "executors" if self.getOrDefault("exchange") == "shuffle" else place

    def _unknowns(self) -> int:
        """Return how many unknowns a pass updates for each row."""
        return int(self.getOrDefault("numRestarts")) * (1 + int(self.getOrDefault("rank")))

    def _dtype(self) -> type[np.floating]:
        return np.float32 if self.getOrDefault("precision") == "float32" else np.float64

    def _preferences(self) -> Callable[[RatingBlock], RatingBlock] | None:
        if not self.getOrDefault("implicitPrefs"):
            return None
        return partial(preferences, confidence=self.getOrDefault("confidence"))

    def _train(
        self,
        estimators: Sequence[MatrixFactorization],
        training: TrainingSet,
        started: float,
        history: DataFrame,
    ) -> list[MatrixFactorizationModel]:
        """Minimize for all estimators at once, and make the model of each."""
        try:
            if not training.total:
                raise RatingsError(
                    f"none of the {training.ratings:,} ratings is positive, and implicitPrefs=True "
                    "learns from those; check ratingCol, or unset implicitPrefs"
                )
            initial = [estimator._warm_start(training) for estimator in estimators]
            identity = {
                f"fit {number}": estimator._identity()
                for number, estimator in enumerate(estimators)
            }
            results = fit_together(training, estimators, initial, identity)
        finally:
            training.release()
        seconds = time.perf_counter() - started
        return [
            estimator._model(result, training, seconds, history)
            for estimator, result in zip(estimators, results, strict=True)
        ]

    def _identity(self) -> dict[str, Any]:
        """Every Param that the course of a fit depends on."""
        values = {param.name: self.getOrDefault(param) for param in self.params}
        identity = {name: value for name, value in values.items() if name not in NOT_OF_THE_FIT}
        if self._initial_model is not None:
            digest = hashlib.sha256()
            for rows in self._initial_model.factors[1:]:
                digest.update(rows.tobytes())
            identity["initial model"] = digest.hexdigest()
        return identity

    def _warm_start(self, training: TrainingSet) -> WarmStart | None:
        """Return the start from the initial model, if there is one."""
        get = self.getOrDefault
        if self._initial_model is None:
            return None
        return self._initial_model.start_for(
            training.ids,
            get("rank"),
            self._dtype(),
            intercept=get("fitIntercept"),
            biases=get("fitBiases"),
        )

    def _model(
        self,
        result: FitResult,
        training: TrainingSet,
        seconds: float,
        history: DataFrame,
    ) -> MatrixFactorizationModel:
        get = self.getOrDefault
        summary = replace(result.summary, seconds=seconds)

        def model(factors: Factors | ShardedFactors) -> MatrixFactorizationModel:
            made = MatrixFactorizationModel(
                factors,
                training.ids,
                summary,
                implicit=get("implicitPrefs"),
                posterior=result.posterior,
                ridge=result.ridge if factors is result.factors else None,
                training_pairs=history.select("user", "item"),
                histories=(history,),
            )
            made._resetUid(self.uid)
            return self._copyValues(made)

        best = model(result.factors)
        if get("keepRestarts"):
            best.restarts = [model(factors)._set(ensemble=False) for factors in result.restarts]
        return best
