"""Latent factor models of ratings, R̂_ui = α + β_u + β_i + γ_u·γ_i, as pyspark.ml estimators."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark import keyword_only
from pyspark.ml import Estimator
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame

from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.data.ratings import RatingsError
from nonconvex.distributed.factorization.dataset import TrainingSet, load_prepared, pack_ratings
from nonconvex.distributed.factorization.execution import Place
from nonconvex.distributed.rows import DistantFactors
from nonconvex.distributed.serving import training_ratings
from nonconvex.estimators.factorization.contradictions import check_prepared, check_together
from nonconvex.estimators.factorization.exchanges import check_exchange, choose_exchange, may_divide
from nonconvex.estimators.factorization.fit import FitResult, FitSettings, fit_together
from nonconvex.estimators.factorization.loops import loop_of
from nonconvex.estimators.factorization.params import NOT_OF_THE_FIT, SHARED, FactorizationParams
from nonconvex.estimators.factorization.rating_columns import select_ratings
from nonconvex.estimators.params import ParamError, with_accessors
from nonconvex.estimators.persistence import EstimatorReader
from nonconvex.estimators.turns import InTurn
from nonconvex.factorization_model import MatrixFactorizationModel
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.implicit import preferences
from nonconvex.numerics.factorization.model import Factors

if TYPE_CHECKING:
    from pyspark.ml._typing import ParamMap

__all__ = ["MatrixFactorization", "MatrixFactorizationModel"]


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
    sum to one over all pairs (see `nonconvex.numerics.factorization.implicit`).

    With ``solver="gibbs"`` nothing is minimized: R_ui ~ N(R̂_ui, 1/(τ ω_u w_ui)), all unknowns are
    drawn in turn from their conditional distributions (see `nonconvex.numerics.factorization.gibbs`), and the
    prediction is the mean over the samples.  It predicts best, has nothing to tune, and says how
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
            divide=may_divide([self]),
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
            divide=may_divide(estimators),
        )
        train = ratings.where("not held_out") if "held_out" in ratings.columns else ratings
        return self._train(estimators, training, started, train.drop("held_out"))

    def _check_together(self, *, validated: bool) -> None:
        check_together(self, validated=validated, warm=self._initial_model is not None)
        check_exchange(self)

    def _place(self) -> Place:
        """Say where rows are to be updated; by shuffle it is never on the driver."""
        place: Place = self.getOrDefault("updates")
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
            fits = [estimator._settings(training) for estimator in estimators]
            identity = {
                f"fit {number}": estimator._identity()
                for number, estimator in enumerate(estimators)
            }
            loop = loop_of(estimators[0], choose_exchange(estimators, training))
            results = fit_together(training, fits, loop, identity)
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

    def _settings(self, training: TrainingSet) -> FitSettings:
        get = self.getOrDefault
        initial = None
        if self._initial_model is not None:
            initial = self._initial_model.start_for(
                training.ids,
                get("rank"),
                self._dtype(),
                intercept=get("fitIntercept"),
                biases=get("fitBiases"),
            )
        return FitSettings(
            rank=get("rank"),
            reg_user=get("regUser"),
            reg_item=get("regItem"),
            bias_ratio=get("biasRegRatio"),
            exponent=get("regExponent"),
            solver=get("solver"),
            intercept=get("fitIntercept"),
            biases=get("fitBiases"),
            nonnegative=get("nonnegative"),
            implicit=get("implicitPrefs"),
            scale=get("initScale"),
            seed=get("seed"),
            first_restart=get("firstRestart"),
            restarts=get("numRestarts"),
            ensemble=get("ensemble"),
            mean_rank=get("meanRank"),
            initial=initial,
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

        def model(factors: Factors | DistantFactors) -> MatrixFactorizationModel:
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
