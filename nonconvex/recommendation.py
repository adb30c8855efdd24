"""Latent factor models of ratings, R̂_ui = α + β_u + β_i + γ_u·γ_i, as pyspark.ml estimators."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import keyword_only
from pyspark.ml import Estimator
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.alternating import Fitted, Problem, minimize
from nonconvex.distributed.columns import boolean_column, id_column, number_column
from nonconvex.distributed.prepared import PreparedRatings
from nonconvex.distributed.training import TrainingSet, load_prepared, pack_ratings
from nonconvex.factorization_model import MatrixFactorizationModel
from nonconvex.numerics.convergence import Stop
from nonconvex.numerics.factorization import Ridge, default_reg
from nonconvex.numerics.implicit import preferences
from nonconvex.params import FactorizationParams, with_accessors
from nonconvex.starts import random_start
from nonconvex.summary import RestartSummary, TrainingSummary

__all__ = ["MatrixFactorization", "MatrixFactorizationModel"]


@with_accessors
class MatrixFactorization(
    Estimator["MatrixFactorizationModel"],
    FactorizationParams,
    DefaultParamsReadable["MatrixFactorization"],
    DefaultParamsWritable,
):
    """Latent factor model of explicit ratings, by alternating minimization.

    The prediction is R̂_ui = α + β_u + β_i + γ_u·γ_i, and what is minimized over the n observed
    ratings is

        f = (1/n) Σ (R̂_ui − R_ui)² + λ₁ Σ_u (ρ β_u² + ‖γ_u‖²) + λ₂ Σ_i (ρ β_i² + ‖γ_i‖²)

    with ρ = 1 whenever λ₁ or λ₂ is given.  ``regExponent`` makes λ grow with the number of
    ratings of a user or item, ``weightCol`` weighs each rating, and ``implicitPrefs`` changes the
    sum to one over all pairs (see `nonconvex.numerics.implicit`).

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
    ... )  # doctest: +SKIP
    >>> model = MatrixFactorization(rank=2, maxIter=5).fit(ratings)  # doctest: +SKIP
    >>> model.transform(ratings).first().prediction  # doctest: +SKIP
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
        initScale: float = 0.1,
        precision: str = "float32",
        numUserBlocks: int | None = None,
        numItemBlocks: int | None = None,
    ) -> None:
        super().__init__()
        self._initial_model: MatrixFactorizationModel | None = None
        given: dict[str, Any] = self._input_kwargs  # type: ignore[attr-defined]  # of keyword_only
        self._set(**given)

    @keyword_only
    def setParams(self, **params: Any) -> MatrixFactorization:
        """Set Params by name."""
        return self._set(**params)

    def setInitialModel(self, model: MatrixFactorizationModel | None) -> MatrixFactorization:
        """Start fits from the factors of an earlier model; None for random starts.

        Ids that the model knows start from its rows, and new ones from zero.  Ids that are not in
        the new ratings are not in the new model.
        """
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
        self._check_together(validated=prepared.manifest.counts["validation"] > 0)
        started = time.perf_counter()
        training = load_prepared(prepared, dtype=self._dtype(), transform=self._transform())
        return self._train(training, started)

    def _fit(self, dataset: DataFrame) -> MatrixFactorizationModel:
        self._check_together(validated=self.getOrDefault("validationIndicatorCol") is not None)
        started = time.perf_counter()
        training = pack_ratings(
            self._ratings(dataset),
            user_blocks=self.getOrDefault("numUserBlocks"),
            item_blocks=self.getOrDefault("numItemBlocks"),
            dtype=self._dtype(),
            transform=self._transform(),
        )
        return self._train(training, started)

    def _check_together(self, *, validated: bool) -> None:
        """Raise for Params that contradict each other, or would be ignored."""
        get = self.getOrDefault
        if get("patience") is not None and not validated:
            raise ValueError(
                f"patience={get('patience')} needs validation ratings to look at; set "
                "validationIndicatorCol, or prepare the ratings with a validation fraction"
            )
        if get("implicitPrefs") and get("weightCol") is not None:
            raise ValueError(
                f"weightCol={get('weightCol')!r} has no meaning with implicitPrefs=True, where "
                "the rating itself is the weight; unset one of them"
            )
        if self.isSet("confidence") and not get("implicitPrefs"):
            raise ValueError(
                f"confidence={get('confidence')} is only for implicitPrefs=True; unset it"
            )
        if self._initial_model is not None and get("numRestarts") > 1:
            raise ValueError(
                f"numRestarts={get('numRestarts')} with an initial model would repeat one fit; "
                "set numRestarts=1, or setInitialModel(None)"
            )
        if not (get("rank") or get("fitBiases") or get("fitIntercept")):
            raise ValueError(
                "rank=0 without intercept and biases leaves nothing to fit; "
                "set rank ≥ 1, fitBiases or fitIntercept"
            )

    def _dtype(self) -> type[np.floating]:
        return np.float32 if self.getOrDefault("precision") == "float32" else np.float64

    def _transform(self) -> Any:
        if not self.getOrDefault("implicitPrefs"):
            return None
        return partial(preferences, confidence=self.getOrDefault("confidence"))

    def _ratings(self, dataset: DataFrame) -> DataFrame:
        """Select what a fit reads, under the names it reads it by."""
        get = self.getOrDefault
        rating = number_column(dataset, get("ratingCol"), "ratingCol")
        columns = {
            "user": id_column(dataset, get("userCol"), "userCol"),
            "item": id_column(dataset, get("itemCol"), "itemCol"),
            "rating": rating,
        }
        if get("weightCol") is not None:
            columns["weight"] = number_column(dataset, get("weightCol"), "weightCol")
        if get("validationIndicatorCol") is not None:
            held_out = boolean_column(
                dataset, get("validationIndicatorCol"), "validationIndicatorCol"
            )
            columns["held_out"] = held_out
            if get("implicitPrefs"):  # what is predicted is the preference
                columns["rating"] = F.when(held_out, (rating > 0).cast("double")).otherwise(rating)
        return dataset.select(*(column.alias(name) for name, column in columns.items()))

    def _train(self, training: TrainingSet, started: float) -> MatrixFactorizationModel:
        """Minimize from every start, and make a model of the best."""
        get = self.getOrDefault
        try:
            problems, warm = self._problems(training)
            fits = minimize(
                training.blocks,
                problems,
                max_iter=get("maxIter"),
                tol=get("tol"),
                patience=get("patience"),
            )
        finally:
            training.release()
        best = min(range(len(fits)), key=lambda restart: _merit(fits[restart]))
        ridge = problems[0].user_ridge
        summary = TrainingSummary(
            ratings=training.ratings,
            total=training.total,
            users=len(training.ids.users),
            items=len(training.ids.items),
            duplicates=training.duplicates,
            mean=training.mean,
            deviation=training.deviation,
            minimum=training.minimum,
            maximum=training.maximum,
            reg_user=ridge.reg,
            reg_item=problems[0].item_ridge.reg,
            bias_reg_ratio=ridge.bias_ratio,
            reg_exponent=ridge.exponent,
            best=best,
            restarts=[RestartSummary.of(restart, fit) for restart, fit in enumerate(fits)],
            warm_start=warm,
            seconds=time.perf_counter() - started,
        )
        model = MatrixFactorizationModel(
            fits[best].factors, training.ids, summary, implicit=get("implicitPrefs")
        )
        model._resetUid(self.uid)
        return self._copyValues(model)

    def _problems(
        self, training: TrainingSet
    ) -> tuple[list[Problem], dict[str, dict[str, int]] | None]:
        """One problem for each random start."""
        get = self.getOrDefault
        reg, ratio = default_reg(training.total, training.deviation)
        given = [value for value in (get("regUser"), get("regItem")) if value is not None]
        if given:
            ratio = 1.0
        if get("biasRegRatio") is not None:
            ratio = get("biasRegRatio")

        def ridge(name: str, ids: pa.ChunkedArray) -> Ridge:
            value = get(name) if get(name) is not None else reg
            mean_degree = training.total / len(ids)
            return Ridge(value, get("regExponent"), training.total, mean_degree, ratio)

        user_ridge = ridge("regUser", training.ids.users)
        item_ridge = ridge("regItem", training.ids.items)
        if self._initial_model is not None:
            start, warm = self._initial_model.start_for(training.ids, get("rank"), self._dtype())
            starts = [start]
        else:
            # α of implicit feedback is a mean over all pairs, which the first update finds.
            centred = get("fitIntercept") and not get("implicitPrefs")
            warm, starts = (
                None,
                [
                    random_start(
                        training.ids,
                        get("rank"),
                        alpha=training.mean if centred else 0.0,
                        scale=get("initScale"),
                        seed=get("seed"),
                        restart=restart,
                        dtype=self._dtype(),
                        nonnegative=get("nonnegative"),
                    )
                    for restart in range(get("numRestarts"))
                ],
            )
        problems = [
            Problem(
                start=start,
                user_ridge=user_ridge,
                item_ridge=item_ridge,
                solver=get("solver"),
                intercept=get("fitIntercept"),
                biases=get("fitBiases"),
                nonnegative=get("nonnegative"),
                implicit=get("implicitPrefs"),
                name=f"restart {restart}" if len(starts) > 1 else "",
            )
            for restart, start in enumerate(starts)
        ]
        return problems, warm


def _merit(fit: Fitted) -> tuple[bool, float]:
    """What to choose restarts by, the less the better: validation RMSE, or else f."""
    value = fit.objective if fit.validation_rmse is None else fit.validation_rmse
    return fit.stop is Stop.NONFINITE, value
