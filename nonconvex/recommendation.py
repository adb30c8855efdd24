"""Latent factor models of ratings, R̂_ui = α + β_u + β_i + γ_u·γ_i, as pyspark.ml estimators."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pyspark.ml import Model
from pyspark.ml.util import MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.checkpoints import BESIDE
from nonconvex.distributed.columns import check_frame, named_column
from nonconvex.distributed.data.prepared import PreparedRatings, training_ratings
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.dataset import (
    Ids,
    TrainingSet,
    load_prepared,
    pack_ratings,
)
from nonconvex.distributed.factorization.evaluate import Baselines
from nonconvex.distributed.factorization.fold_in import fold_in
from nonconvex.distributed.factorization.state import ShardedFactors
from nonconvex.distributed.model_tables import factor_table
from nonconvex.distributed.runtime import explained
from nonconvex.estimators.factorization.evaluate import (
    evaluate_model,
    explain_prediction,
    select_as_in_training,
)
from nonconvex.estimators.factorization.fit import (
    FitResult,
    WarmStart,
    check_exchange,
    exchange_policy,
    fit_together,
    select_ratings,
    unknowns_of,
    warm_start,
)
from nonconvex.estimators.factorization.params import (
    BATCHED_TOGETHER,
    IDLE,
    NON_IDENTITY_PARAMS,
    ALSParams,
    FactorizationModelParams,
    FactorizationParams,
    check_combination,
    check_prepared,
)
from nonconvex.estimators.factorization.persistence import (
    ALSReader,
    FactorizationReader,
    FactorizationWriter,
)
from nonconvex.estimators.factorization.predict import ModelState, add_predictions
from nonconvex.estimators.factorization.recommend import list_length, recommend, similar_rows
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.estimators.params import (
    GridEstimator,
    ParamError,
    keywords,
    set_defaults,
    with_accessors,
)
from nonconvex.estimators.persistence import KeepsCheckpoint
from nonconvex.numerics.deterministic import choose_kernel
from nonconvex.numerics.factorization.explain import Explanation
from nonconvex.numerics.factorization.fold_in import Equation, FoldInParts
from nonconvex.numerics.factorization.model import Factors, Side, preference_block

if TYPE_CHECKING:
    from pyspark.ml._typing import ParamMap

    from nonconvex.estimators.accessors import (
        ALSAccessors,
        ALSModelAccessors,
        MatrixFactorizationAccessors,
        MatrixFactorizationModelAccessors,
    )
else:  # `with_accessors` makes them
    ALSAccessors = ALSModelAccessors = object
    MatrixFactorizationAccessors = MatrixFactorizationModelAccessors = object

__all__ = ["ALS", "ALSModel", "MatrixFactorization", "MatrixFactorizationModel"]

_log = logging.getLogger("nonconvex")


@with_accessors
class MatrixFactorizationModel(
    Model,
    FactorizationModelParams,
    KeepsCheckpoint,
    MLReadable["MatrixFactorizationModel"],
    MLWritable,
    MatrixFactorizationModelAccessors,
):
    """A fitted latent factor model: α, and a row (β, γ) for every user and item.

    Lists of recommendations are ordered by prediction, in float64 and not clipped, and equal
    predictions by id; they do not depend on batches, partitions, or the other ids that are asked
    for.  A list is shorter than n where fewer ids are allowed.  A task holds the factors of both
    sides, 10,000 rows (``spark.sql.execution.arrow.maxRecordsPerBatch``) with their excluded
    pairs, and some 10 megabytes of scores; the driver holds nothing that grows with the lists.

    ``exclude`` is a dataframe of pairs, with columns named by ``userCol`` and ``itemCol``, that no
    list may hold; or ``"train"``, the training pairs, which are read again from the dataframe
    that was fitted (a loaded model does not have them).  ``candidates`` is a dataframe of the ids
    that lists may hold, or of the pairs if it has both columns.  Unknown ids are ignored.

    Attributes
    ----------
    rank : int
        Number of factors; ``meanRank`` if the model predicts the mean of samples.
    globalBias : float
        α.
    userFactors, itemFactors : DataFrame
        ``id`` (of the type it had in training), ``bias``, ``features`` (an array).
    summary : TrainingSummary
    restarts : list of MatrixFactorizationModel
        The models of all random starts, if ``keepRestarts`` was set; they are not saved.
    """

    # For fold-in, evaluation and explanations, which read ratings as training did.
    ratingCol = FactorizationParams.ratingCol
    weightCol = FactorizationParams.weightCol
    fitBiases = FactorizationParams.fitBiases
    nonnegative = FactorizationParams.nonnegative
    implicitPrefs = FactorizationParams.implicitPrefs
    confidence = FactorizationParams.confidence
    ensemble = FactorizationParams.ensemble

    def __init__(self, state: ModelState | None = None) -> None:
        super().__init__()
        if state is None:
            raise TypeError("a MatrixFactorizationModel comes from fit or load")
        set_defaults(self, MatrixFactorization)
        self._state = state
        self.restarts: list[MatrixFactorizationModel] = []

    def _contents(self) -> tuple[Any, ...]:
        return (self._state,)

    def _facts(self) -> dict[str, Any]:
        return {"rank": self.rank, **self.summary.facts()}

    def _repr_html_(self) -> str:
        """Return the table of the summary for a notebook."""
        return f"<p>{type(self).__name__} of rank {self.rank}</p>{self.summary._repr_html_()}"

    @property
    def factors(self) -> Factors:
        """All parameters as arrays, the rows in ascending order of their ids.

        Where rows were exchanged by shuffle they are on the executors, and `save`, `transform`
        without intervals, `userFactors` and `itemFactors` leave them there.  This property, and
        all other methods of a model, bring them to the driver.
        """
        return self._state.factors

    @property
    def rank(self) -> int:
        """Number K of factors."""
        return int(self._state.held.users.shape[1]) - 1

    @property
    def hasSummary(self) -> bool:
        """True, unless the model was written by MLlib, which keeps none."""
        return bool(self.summary.restarts)

    @property
    def globalBias(self) -> float:
        """The global bias α."""
        return float(self._state.held.alpha)

    @property
    def userFactors(self) -> DataFrame:
        """Rows ``id, bias, features`` of all users, in ascending order of their ids."""
        return factor_table(SparkSession.active(), self._ids.users, self._state.held.users)

    @property
    def itemFactors(self) -> DataFrame:
        """Rows ``id, bias, features`` of all items, in ascending order of their ids."""
        return factor_table(SparkSession.active(), self._ids.items, self._state.held.items)

    @property
    def summary(self) -> TrainingSummary:
        """Data and course of the fit."""
        return self._state.summary

    @property
    def _ids(self) -> Ids:
        """Ids of users and of items, in the order of their rows."""
        return self._state.ids

    def _transform(self, dataset: DataFrame) -> DataFrame:
        return add_predictions(self._state, self, dataset)

    def recommendForAllUsers(
        self,
        numItems: int | None = None,
        exclude: DataFrame | str | None = None,
        candidates: DataFrame | None = None,
        *,
        n: int | None = None,
    ) -> DataFrame:
        """Return the n best items for every user of the model.

        Parameters
        ----------
        numItems : int
            At least 1; ``n`` is another name of it.
        exclude : DataFrame or "train", optional
            Pairs that no list may hold.
        candidates : DataFrame, optional
            Items, or pairs of a user and an item, that lists may hold; by default all items.

        Returns
        -------
        DataFrame
            ``<userCol>, recommendations``, an array of structs ``<itemCol>, rating`` by falling
            prediction; ``rating`` is a float.

        Examples
        --------
        >>> lists = model.recommendForAllUsers(3, exclude="train")
        >>> [film.item for film in lists.where("user = 413").first().recommendations]
        ['Silver Linings Playbook', 'Gravity', 'Argo']
        """
        n = list_length(numItems=numItems, n=n)
        return recommend(self._state, self, n, None, exclude, candidates)

    def recommendForAllItems(
        self,
        numUsers: int | None = None,
        exclude: DataFrame | str | None = None,
        candidates: DataFrame | None = None,
        *,
        n: int | None = None,
    ) -> DataFrame:
        """Return the n best users for every item, as `recommendForAllUsers` does the reverse."""
        n = list_length(numUsers=numUsers, n=n)
        return recommend(self._state, self, n, None, exclude, candidates, reverse=True)

    def recommendForUserSubset(
        self,
        dataset: DataFrame,
        numItems: int | None = None,
        exclude: DataFrame | str | None = None,
        candidates: DataFrame | None = None,
        *,
        n: int | None = None,
    ) -> DataFrame:
        """Return the n best items for the users in a dataframe.

        Parameters
        ----------
        dataset : DataFrame
            With the column ``userCol``.  A user who occurs several times gets one row, and null
            gets none.  An unknown user gets items by α + β_i if ``coldStartStrategy`` is "bias",
            and else is left out, as in MLlib.
        numItems, exclude, candidates
            As for `recommendForAllUsers`, as is the result.
        """
        check_frame("dataset", dataset)
        n = list_length(numItems=numItems, n=n)
        return recommend(self._state, self, n, dataset, exclude, candidates)

    def recommendForItemSubset(
        self,
        dataset: DataFrame,
        numUsers: int | None = None,
        exclude: DataFrame | str | None = None,
        candidates: DataFrame | None = None,
        *,
        n: int | None = None,
    ) -> DataFrame:
        """Return the n best users for the items in a dataframe; see `recommendForUserSubset`."""
        check_frame("dataset", dataset)
        n = list_length(numUsers=numUsers, n=n)
        return recommend(self._state, self, n, dataset, exclude, candidates, reverse=True)

    def similarItems(self, n: int, subset: DataFrame | None = None) -> DataFrame:
        """Return the n items that are most similar to each item, by the cosine of their γ.

        An item is not similar to itself, and one with γ = 0 to none.

        Parameters
        ----------
        n : int
            At least 1.
        subset : DataFrame, optional
            Items that get a list, by default all of the model; unknown ones are left out.

        Returns
        -------
        DataFrame
            ``<itemCol>, similar``, an array of structs ``<itemCol>, similarity`` by falling
            similarity, equal ones by id; ``similarity`` is a float.
        """
        return similar_rows(self._state, self, n, subset, 1)

    def similarUsers(self, n: int, subset: DataFrame | None = None) -> DataFrame:
        """Return the n users that are most similar to each user; see `similarItems`."""
        return similar_rows(self._state, self, n, subset, 0)

    def explain(self, user: Any, item: Any, history: DataFrame | None = None) -> Explanation:
        """Explain a prediction by its terms, and by what each rating of the user contributes.

        Given the items, the row of a user is linear in the user's ratings, so γ_u·γ_i is a sum
        with a term for each of them (see `nonconvex.numerics.factorization.explain`): exactly
        after solver "als", whose last step solves for the users; nearly after other solvers; for
        a sampled model as the mean over its kept samples.

        Parameters
        ----------
        user, item : str or number
            Ids, as they were in training; an unknown one has β = 0 and γ = 0.
        history : DataFrame, optional
            All ratings of the user that the model has learned from, in the columns of training;
            those of other users are ignored.  By default they are read again from the dataframe
            that was fitted or folded in, which a loaded model does not have.

        Returns
        -------
        Explanation

        Raises
        ------
        ParamError
            For an id of another type, for an ensemble, whose rows are means of several models, or
            for a loaded model without `history`.

        Examples
        --------
        >>> print(model.explain(413, "Gravity").text(2))
        Gravity for 413: 7.70
          7.44  α, the mean level of ratings
         -0.47  β_u, the bias of 413
         +0.53  β_i, the bias of Gravity
         +0.19  γ_u·γ_i, the interaction, from
                 +0.09  Now You See Me, rated 5
                 +0.07  The Hangover Part III, rated 4
                 +0.03  10 other ratings
        """
        return explain_prediction(self._state, self, user, item, history)

    def foldInUsers(self, ratings: DataFrame) -> MatrixFactorizationModel:
        """Return a model with new or changed users: their rows, given α and the items.

        The rows are those that training would solve for, with its n, mean number of ratings per
        user, λ, ν, ρ and weights, and its ``nonnegative``, ``fitBiases`` and ``implicitPrefs``.
        A training user with exactly its training ratings gets its own row again: to the bit after
        solver "als", which ends with the users; nearly after another solver that converged; not
        in an ensemble, whose rows are means.  For a sampled model, rows and noise are drawn given
        the items of each kept sample, and predictions use the mean of their conditional means.

        Parameters
        ----------
        ratings : DataFrame
            *All* ratings of each of these users, in the columns of training.  Ratings of unknown
            items are ignored, and their number is logged; a user with no other ratings is not
            added.

        Returns
        -------
        MatrixFactorizationModel
            With the users of this one, the new ones, and the summary of training.

        Raises
        ------
        RatingsError, ColumnError
            As for ``fit``, and if no rating has a known item.

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

        See `foldInUsers`.  A training item gets nearly its own row if the fit converged, and not
        to the bit: α and the users were updated after the items.
        """
        return self._fold_in(ratings, Side.ITEMS)

    def evaluate(
        self,
        dataset: DataFrame,
        k: int = 10,
        *,
        threshold: float | None = None,
        exclude: DataFrame | str | None = "auto",
    ) -> dict[str, float]:
        """Measure predictions and top-k lists on ratings that were held out.

        RMSE and MAE compare predictions with ratings, weighted if training was, or with
        ``implicitPrefs`` with preferences (1 where the rating is positive, else 0).  The other
        metrics are of the lists of `recommendForUserSubset`, without the pairs in `exclude`, for
        the users who have a relevant item; see `nonconvex.numerics.ranking` for the formulas.

        Parameters
        ----------
        dataset : DataFrame
            Ratings, in the columns of training.
        k : int
            Length of the lists, at least 1.
        threshold : float, optional
            Least rating of a relevant item.  By default all items in `dataset` are relevant, or
            with ``implicitPrefs`` those with a positive rating.  An unknown item can be relevant,
            and is never in a list.
        exclude : DataFrame, "train", "auto" or None
            Pairs that no list may hold, by default ("auto") the training pairs; a loaded model
            does not have them, excludes none, and says so in the log.

        Returns
        -------
        dict of str to float
            ``rmse, mae``; the numbers of ``ratings`` with a prediction and ``unpredicted``
            without; ``ndcgAtK, recallAtK, precisionAtK, meanAveragePrecisionAtK``, as Spark's
            ``RankingEvaluator`` defines them; ``coverageAtK``, the fraction of the model's items
            that are in any list; ``users``, the number of lists; and ``k``.

        Raises
        ------
        EvaluationError
            If nothing can be predicted, or nothing is relevant.

        Examples
        --------
        >>> measured = model.evaluate(prepared.test, k=5, threshold=8.0)
        >>> round(measured["rmse"], 2), round(measured["ndcgAtK"], 2)
        (1.15, 0.38)
        """
        return evaluate_model(self._state, self, dataset, k, threshold, exclude)

    @explained()
    def _fold_in(self, dataset: DataFrame, side: Side) -> MatrixFactorizationModel:
        get, state = self.getOrDefault, self._state
        if not self.hasSummary:
            raise ParamError(
                "a model that MLlib wrote does not say its regularization, which new rows need; "
                "start a fit from it by setInitialModel, and fold into that"
            )
        ratings = select_as_in_training(state, self, dataset)
        equation = Equation.of(state.summary.ridge(side), get, choose_kernel(get("kernel")))
        parts = FoldInParts(state.factors, state.posterior, state.ridge_posterior)
        shared = state.share(dataset.sparkSession, "samples" if state.posterior else "rows")
        parts, ids = fold_in(ratings, side, parts, state.ids, shared, equation)
        pairs = state.training_pairs
        folded = ModelState(
            parts.factors,
            ids,
            state.summary,
            posterior=parts.posterior,
            ridge_posterior=parts.ridge_posterior,
            training_pairs=None if pairs is None else pairs.union(ratings.select("user", "item")),
            histories=(ratings, *state.histories) if side == Side.USERS else state.histories,
        )
        return self._copyValues(type(self)(folded))

    def start_for(
        self, ids: Ids, rank: int, dtype: type[np.floating], *, intercept: bool, biases: bool
    ) -> tuple[Factors, dict[str, dict[str, int]]]:
        """Return the start of a fit of other ids from this model; see `warm_start`."""
        factors, posterior = self.factors, self._state.posterior
        if posterior is not None:  # the mean of samples has another rank than they have
            factors = posterior.sample(-1).factors
        return warm_start(factors, self._ids, ids, rank, dtype, intercept=intercept, biases=biases)

    def write(self) -> MLWriter:
        """Return a writer of Parquet and JSON; see `MLWriter.overwrite`."""
        return FactorizationWriter(self)

    @classmethod
    def read(cls) -> MLReader[Self]:
        """Return a reader of what `write` wrote."""
        return FactorizationReader(cls)


@with_accessors
class MatrixFactorization(
    GridEstimator[MatrixFactorizationModel], FactorizationParams, MatrixFactorizationAccessors
):
    """Latent factor model of ratings, fitted by inference, by minimization or by sampling.

    The prediction is R̂_ui = α + β_u + β_i + γ_u·γ_i.  By default, ``solver="vb"``, its posterior
    is approximated by normal distributions of the rows, in closed forms like those of "als" (see
    `nonconvex.numerics.factorization.vb`).  Nothing is to be tuned: ``rank`` is an upper bound, f
    is the free energy per rating, and each row has its covariance, for deviations and intervals.

    With a rank above 32, or a Param set that "vb" does not read, such as ``regUser``, and with
    ``solver="als"``, a fit minimizes, over the n observed ratings,

        f = (1/n) Σ (R̂_ui − R_ui)² + λ₁ Σ_u (ρ β_u² + ‖γ_u‖²) + λ₂ Σ_i (ρ β_i² + ‖γ_i‖²)

    with ρ = 1 if λ₁ or λ₂ is given.  ``regExponent`` makes λ grow with the number of ratings of a
    user or item, ``weightCol`` weighs each rating, and ``implicitPrefs`` replaces the sum by one
    over all pairs (see `nonconvex.numerics.factorization.model`).

    With ``solver="gibbs"`` nothing is minimized: R_ui ~ N(R̂_ui, 1/(τ ω_u w_ui)), where ω_u is the
    precision of a user (``fitUserPrecision``); all unknowns are drawn in turn from their
    conditional distributions (see `nonconvex.numerics.factorization.gibbs`), and the prediction is
    the mean over the samples.  It predicts best, needs no tuning, and gives deviations and
    intervals (``predictionStdCol``, ``predictionIntervalCol``).  A sweep takes up to twice as long
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
    2.6
    """

    _model_class: ClassVar[type[MatrixFactorizationModel]] = MatrixFactorizationModel

    @keywords
    def __init__(
        self,
        *,
        rank: int = 10,
        maxIter: int = 100,
        tol: float = 1e-4,
        patience: int | None = None,
        regUser: float | None = None,
        regItem: float | None = None,
        biasRegRatio: float | None = None,
        regExponent: float = 0.0,
        solver: str = "auto",
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
        kernel: str = "auto",
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
        fitUserPrecision: bool = True,
        predictionStdCol: str | None = None,
        predictionIntervalCol: str | None = None,
        predictionInterval: float = 0.9,
        predictionNoise: bool = True,
    ) -> None:
        super().__init__()

    def setInitialModel(self, model: MatrixFactorizationModel | None) -> MatrixFactorization:
        """Start fits from the factors of an earlier model; None for random starts.

        Ids that the model knows start from its rows, new ones from zero; ids without new ratings
        are not in the new model.  The initial model is not saved with the estimator.
        """
        if not (model is None or isinstance(model, MatrixFactorizationModel)):
            raise ParamError(f"the initial model must be a fitted model or None, got {model!r}")
        self._initial_model = model
        return self

    def fitPrepared(self, prepared: PreparedRatings) -> MatrixFactorizationModel:
        """Fit prepared ratings, which are read from disk block by block without a shuffle.

        ``patience`` and the choice among restarts use their validation ratings.
        """
        with explained():
            return self._fit_prepared([self], prepared)[0]

    def fitBesideBaselines(
        self, prepared: PreparedRatings
    ) -> tuple[MatrixFactorizationModel, Baselines | None]:
        """Fit as `fitPrepared` does, and baselines to the same packed ratings if they are explicit.

        α + biases shares the passes over them, unless this is a fit of solver "gd" or "gibbs",
        with checkpoints, or whose rows are exchanged by shuffle.  Its checkpoint stays
        until that of the model is removed.
        """
        path = self.getOrDefault("checkpointPath")
        beside = path and f"{path}/{BESIDE}"
        biases = MatrixFactorization(rank=0, solver="als", checkpointPath=beside)
        both = [self] if self.getOrDefault("implicitPrefs") else [self, biases]
        with explained():
            return self._fit_prepared(both, prepared)

    def _fit_prepared(
        self, estimators: Sequence[MatrixFactorization], prepared: PreparedRatings
    ) -> tuple[MatrixFactorizationModel, Baselines | None]:
        check_prepared(self)
        self._check(has_validation=prepared.manifest.counts["validation"] > 0)
        started = time.perf_counter()
        training = load_prepared(prepared, **self._packing([self]))
        try:
            history, names = training_ratings(prepared), ["", "α + biases"]
            model, *beside = self._train(estimators, training, started, history, names)
            if (kept := model._checkpoint) is not None:
                of = [one._checkpoint.checkpoints for one in beside if one._checkpoint is not None]
                model._checkpoint = replace(kept, beside=of)
            if "weight" in prepared.manifest.types:  # for fold-in and evaluation
                model._set(weightCol="weight")
            made = [Baselines.of(prepared, training, biases.factors) for biases in beside]
            return model, made[0] if made else None
        finally:
            training.release()

    def _group(self, index: int) -> tuple[Any, ...]:
        get = self.getOrDefault
        key = [get(name) for name in BATCHED_TOGETHER]
        if get("exchange") == "shuffle":  # for one fit at a time
            key.append(index)
        solver = self.chosen_solver
        if solver in ("gd", "gibbs"):
            key.append(solver)
        if solver == "gd":  # whose samples of users depend on the seed
            key.append(get("seed"))
        return tuple(key)

    def _fit_group(
        self, dataset: DataFrame, estimators: Sequence[MatrixFactorization]
    ) -> list[MatrixFactorizationModel]:
        """Fit estimators that are equal in all of `BATCHED_TOGETHER`."""
        first = estimators[0]
        for estimator in estimators:
            has_validation = estimator.getOrDefault("validationIndicatorCol") is not None
            estimator._check(has_validation=has_validation)
        started = time.perf_counter()
        ratings = select_ratings(first, dataset)
        users, items = first.getOrDefault("numUserBlocks"), first.getOrDefault("numItemBlocks")
        packing = first._packing(estimators)
        training = pack_ratings(ratings, user_blocks=users, item_blocks=items, **packing)
        train = ratings.where("not held_out") if "held_out" in ratings.columns else ratings
        try:
            return self._train(estimators, training, started, train.drop("held_out"))
        finally:
            training.release()

    def _check(self, *, has_validation: bool) -> None:
        check_combination(self, has_validation=has_validation, warm=self._initial_model is not None)
        check_exchange(self)

    def _packing(self, estimators: Sequence[MatrixFactorization]) -> dict[str, Any]:
        """Return the options for packing the ratings of fits that share the passes over them."""
        get, transform = self.getOrDefault, None
        if get("implicitPrefs"):
            transform = partial(preference_block, confidence=get("confidence"))
        return {
            "dtype": np.float32 if get("precision") == "float32" else np.float64,
            "transform": transform,
            # A shuffle is never on the driver.
            "place": "executors" if get("exchange") == "shuffle" else get("updates"),
            "unknowns": unknowns_of(estimators),
            "policy": exchange_policy(estimators),
            "kernel": choose_kernel(get("kernel")),
        }

    def _train(
        self,
        estimators: Sequence[MatrixFactorization],
        training: TrainingSet,
        started: float,
        history: DataFrame,
        names: Sequence[str] | None = None,
    ) -> list[MatrixFactorizationModel]:
        """Fit all estimators at once, and make the model of each; `names` are for the log."""
        if not training.total:
            raise RatingsError(
                f"none of the {training.ratings:,} ratings is positive, and implicitPrefs=True "
                "learns from those; check ratingCol, or unset implicitPrefs"
            )
        if training.duplicates:
            _log.info(
                "%s ratings repeat a (user, item) pair: each row counts, as if the pair had one "
                "rating, their mean, with the sum of their weights",
                f"{training.duplicates:,}",
            )
        initial = [estimator._warm_start(training) for estimator in estimators]
        identity = {f"fit {number}": each._identity() for number, each in enumerate(estimators)}
        results = fit_together(training, estimators, initial, identity, names)
        seconds = time.perf_counter() - started
        return [
            estimator._model(result, training, seconds, history)
            for estimator, result in zip(estimators, results, strict=True)
        ]

    def _identity(self) -> dict[str, Any]:
        """Return every Param that changes the course of a fit, for its checkpoints."""
        named = {param.name: self.getOrDefault(param) for param in self.params}
        identity = {name: value for name, value in named.items() if name not in NON_IDENTITY_PARAMS}
        identity["solver"] = self.chosen_solver
        identity["kernel"] = choose_kernel(self.getOrDefault("kernel"))
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
        options = {"intercept": get("fitIntercept"), "biases": get("fitBiases")}
        return self._initial_model.start_for(
            training.ids, get("rank"), training.blocks.dtype, **options
        )

    def _model(
        self, result: FitResult, training: TrainingSet, seconds: float, history: DataFrame
    ) -> MatrixFactorizationModel:
        get = self.getOrDefault
        summary = replace(result.summary, seconds=seconds)

        def model(factors: Factors | ShardedFactors) -> MatrixFactorizationModel:
            state = ModelState(
                factors,
                training.ids,
                summary,
                posterior=result.posterior,
                ridge_posterior=result.ridge_posterior if factors is result.factors else None,
                training_pairs=history.select("user", "item"),
                histories=(history,),
            )
            made = self._model_class(state)
            made._resetUid(self.uid)
            return self._copyValues(made)

        best = model(result.factors)
        best._checkpoint = result.checkpoint
        if get("keepRestarts"):
            best.restarts = [model(factors)._set(ensemble=False) for factors in result.restarts]
        return best


@with_accessors
class ALSModel(MatrixFactorizationModel, ALSModelAccessors):
    """A fitted `ALS`: a `MatrixFactorizationModel` with the columns of MLlib's ``ALSModel``.

    Predictions are floats, and ``userFactors`` and ``itemFactors`` have ``id, features``, with
    ``bias`` only if ``fitBiases`` was set.  `load` reads models that MLlib wrote, too: they
    predict and recommend, and a fit can start from them.
    """

    blockSize = ALSParams.blockSize
    confidence = ALSParams.confidence

    def __init__(self, state: ModelState | None = None) -> None:
        super().__init__(state)
        set_defaults(self, ALS)

    @property
    def userFactors(self) -> DataFrame:
        """Rows ``id, features`` of all users, and with ``fitBiases`` their ``bias``."""
        return self._without_bias(super().userFactors)

    @property
    def itemFactors(self) -> DataFrame:
        """Rows ``id, features`` of all items, and with ``fitBiases`` their ``bias``."""
        return self._without_bias(super().itemFactors)

    def _without_bias(self, table: DataFrame) -> DataFrame:
        return table if self.getOrDefault("fitBiases") else table.drop("bias")

    def _transform(self, dataset: DataFrame) -> DataFrame:
        name, scored = self.getOrDefault("predictionCol"), super()._transform(dataset)
        floats = (column.cast("float") for column in (named_column(name), F.lit(float("nan"))))
        return scored.withColumn(name, F.coalesce(*floats))  # no null, as the schema is to say

    @classmethod
    def read(cls) -> MLReader[Self]:  # type: ignore[override]  # of the base of the base
        """Return a reader of what `write` wrote, and of models that MLlib wrote."""
        return ALSReader(cls)


@with_accessors
class ALS(MatrixFactorization, ALSParams, ALSAccessors):
    """MLlib's ``ALS`` by its own names: the same model, R̂_ui = γ_u·γ_i, and the same defaults.

    A fit minimizes Σ (γ_u·γ_i − R_ui)² + λ (Σ_u d_u ‖γ_u‖² + Σ_i d_i ‖γ_i‖²), where d is the number
    of ratings of a user or item and λ is ``regParam``; with ``implicitPrefs`` the sum is over all
    pairs, with weights 1 + α |R| and preferences 1 where R > 0, and d counts positive ratings
    (Hu, Koren and Volinsky, 2008).  A script for MLlib runs with its import changed.

    ``fitBiases=True`` adds α, β_u and β_i, and unless ``regParam`` is set takes λ from the ratings:
    that is the model of `MatrixFactorization`, whose Params may all be given here by name.

    Parameters
    ----------
    rank, maxIter, regParam, …
        Params, by name; ``explainParams()`` describes every one, with its range and default.
        ``intermediateStorageLevel, finalStorageLevel, blockSize`` are accepted and have no
        meaning.  The numbers of blocks follow from cores and ratings unless they are set.

    Examples
    --------
    >>> ratings = spark.createDataFrame(
    ...     [(0, 0, 4.0), (0, 1, 2.0), (1, 1, 3.0), (1, 2, 4.0), (2, 1, 1.0), (2, 2, 5.0)],
    ...     ["user", "item", "rating"],
    ... )
    >>> model = ALS(rank=2, maxIter=5, regParam=0.05).fit(ratings)
    >>> model.recommendForAllUsers(numItems=2).columns
    ['user', 'recommendations']
    """

    _model_class = ALSModel

    if TYPE_CHECKING:

        def fit(  # type: ignore[override]  # one map of Params, which is what is written
            self, dataset: DataFrame, params: ParamMap | None = None
        ) -> ALSModel:
            """Fit the ratings of a dataframe."""

    @keywords
    def __init__(
        self,
        *,
        rank: int = 10,
        maxIter: int = 10,
        regParam: float = 0.1,
        numUserBlocks: int | None = None,
        numItemBlocks: int | None = None,
        implicitPrefs: bool = False,
        alpha: float = 1.0,
        userCol: str = "user",
        itemCol: str = "item",
        seed: int | None = 42,
        ratingCol: str = "rating",
        nonnegative: bool = False,
        checkpointInterval: int = 10,
        intermediateStorageLevel: str = "MEMORY_AND_DISK",
        finalStorageLevel: str = "MEMORY_AND_DISK",
        coldStartStrategy: str = "nan",
        blockSize: int = 4096,
        fitBiases: bool = False,
        fitIntercept: bool = False,
        tol: float = 0.0,
        solver: str = "als",
        **further: Any,
    ) -> None:
        GridEstimator.__init__(self)

    def setNumBlocks(self, value: int) -> Self:
        """Set numUserBlocks and numItemBlocks."""
        return self._set(numUserBlocks=value, numItemBlocks=value)

    def _set(self, **kwargs: Any) -> Self:
        if "seed" in kwargs and kwargs["seed"] is None:  # MLlib's default
            del kwargs["seed"]
        return super()._set(**kwargs)

    def _check(self, *, has_validation: bool) -> None:
        super()._check(has_validation=has_validation)
        idle = [*IDLE, "checkpointInterval"] if not self.isSet("checkpointPath") else IDLE
        given = [name for name in idle if self.isSet(name)]
        if given:
            _log.info("%s: nothing depends on it here", ", ".join(given))
