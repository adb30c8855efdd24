"""Fits of ratings made ready: from settings to problems, and from their ends to results.

Several fits of the same ratings, such as the points of a regularization path, and several random
starts of each, are one list of problems that share every pass over the data.

Where fits start: random factors, or those of an earlier model.

The columns that a factor model is fitted on, under the names that a fit reads them by.

How the rows of one side come to the ratings of the other: broadcast, or exchanged by shuffle.

How long fits go on and how: the settings of their loop, from Params.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.checkpoints import Checkpoints
from nonconvex.distributed.columns import boolean_column, check_frame, id_column, number_column
from nonconvex.distributed.factorization.dataset import Ids, TrainingSet
from nonconvex.distributed.factorization.execution import LocalBlocks
from nonconvex.distributed.factorization.fit import fit_loop
from nonconvex.distributed.factorization.gibbs import SamplingOptions, SamplingTask, sample
from nonconvex.distributed.factorization.gradient_descent import DescentOptions
from nonconvex.distributed.factorization.runs import Problem, Result
from nonconvex.distributed.factorization.shuffle import moments
from nonconvex.distributed.factorization.steps import user_squares
from nonconvex.distributed.rows import RandomRows, ShardedFactors, gather_factors
from nonconvex.estimators.factorization.params import FactorizationParams
from nonconvex.estimators.factorization.summary import (
    RestartSummary,
    TrainingSummary,
    sampling_summary,
)
from nonconvex.estimators.params import ParamError, refuse_set
from nonconvex.numerics.convergence import FitError, Stop
from nonconvex.numerics.factorization.model import (
    Factors,
    InitialRows,
    Ridge,
    default_implicit_reg,
    default_reg,
    ensemble,
)
from nonconvex.numerics.factorization.posterior import Posterior
from nonconvex.numerics.factorization.ridge_posterior import DesignMoments, RidgePosterior

__all__ = [
    "FitResult",
    "FitSettings",
    "LoopSettings",
    "StartError",
    "check_exchange",
    "choose_exchange",
    "fit_together",
    "loop_of",
    "may_divide",
    "random_start",
    "select_ratings",
    "warm_start",
]


class StartError(ValueError):
    """An earlier model that a fit cannot start from."""

    exit_status = 2


def random_start(
    ids: Ids,
    rank: int,
    *,
    alpha: float,
    scale: float,
    seed: int,
    restart: int,
    dtype: type[np.floating],
    nonnegative: bool,
    exchange: Literal["broadcast", "shuffle"] = "broadcast",
) -> Factors | ShardedFactors:
    """Start from random rows, see `nonconvex.numerics.factorization.model`.

    Where rows are exchanged by shuffle, each is drawn on the executor that has it.
    """
    users, items = (
        InitialRows(len(members), rank, scale, seed, restart, side, dtype, nonnegative)
        for side, members in enumerate(ids)
    )
    if exchange == "shuffle":
        return ShardedFactors(alpha, RandomRows(users), RandomRows(items))
    return Factors(alpha, users.between(0, users.rows), items.between(0, items.rows))


def warm_start(
    old: Factors,
    old_ids: Ids,
    ids: Ids,
    rank: int,
    dtype: type[np.floating],
    *,
    intercept: bool,
    biases: bool,
) -> tuple[Factors, dict[str, dict[str, int]]]:
    """Take the rows of known ids from an earlier model, and start new ids from zero.

    So do α and the biases if this fit has none, which then stay there.

    Returns
    -------
    Factors
    dict
        For ``users`` and ``items``, how many ids were ``kept``, are ``new`` and are ``gone``.

    Raises
    ------
    StartError
        If the ranks or the types of ids differ, or no user is known.
    """
    if old.users.shape[1] - 1 != rank:
        raise StartError(
            f"the initial model has rank {old.users.shape[1] - 1} and this fit rank {rank}; "
            "they must be equal"
        )
    counts, rows = {}, []
    for side in ("users", "items"):
        known, place = _known(side, getattr(old_ids, side), getattr(ids, side))
        of_side = np.where(known[:, None], getattr(old, side)[place], 0).astype(dtype)
        of_side[:, 0] *= biases
        rows.append(of_side)
        kept = int(known.sum())
        gone = len(getattr(old_ids, side)) - kept
        counts[side] = {"kept": kept, "new": len(known) - kept, "gone": gone}
    if not counts["users"]["kept"]:
        raise StartError(
            "none of the users of the initial model are in the ratings; "
            "train without an initial model, or check the ids"
        )
    return Factors(old.alpha if intercept else 0.0, *rows), counts


def _known(
    side: str, old: pa.ChunkedArray, new: pa.ChunkedArray
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Which new ids are old, and where."""
    if old.type != new.type:
        raise StartError(
            f"the {side} of the initial model have ids of type {old.type} and those of the "
            f"ratings {new.type}; cast the ratings"
        )
    place = pc.index_in(new, value_set=old)
    return place.is_valid().to_numpy(), place.fill_null(0).to_numpy()


def select_ratings(params: FactorizationParams, dataset: DataFrame) -> DataFrame:
    """Select what a fit reads.

    Parameters
    ----------
    params : FactorizationParams
        They name the columns.
    dataset : DataFrame

    Returns
    -------
    DataFrame
        ``user, item, rating double``, and where they are named ``weight double`` and
        ``held_out boolean``, which says what is for validation.

    Raises
    ------
    ColumnError
        If a column is missing or of a wrong type.

    Examples
    --------
    >>> from nonconvex.recommendation import MatrixFactorization
    >>> frame = ratings.withColumnRenamed("user", "who")
    >>> select_ratings(MatrixFactorization(userCol="who"), frame).columns
    ['user', 'item', 'rating']
    """
    check_frame("dataset", dataset)
    get = params.getOrDefault
    rating = number_column(dataset, get("ratingCol"), "ratingCol")
    columns = {
        side: id_column(dataset, get(f"{side}Col"), f"{side}Col") for side in ("user", "item")
    }
    columns["rating"] = rating
    if get("weightCol") is not None:
        columns["weight"] = number_column(dataset, get("weightCol"), "weightCol")
    if get("validationIndicatorCol") is not None:
        held_out = boolean_column(dataset, get("validationIndicatorCol"), "validationIndicatorCol")
        columns["held_out"] = held_out
        if get("implicitPrefs"):  # what is predicted is the preference
            columns["rating"] = F.when(held_out, (rating > 0).cast("double")).otherwise(rating)
    return dataset.select(*(column.alias(name) for name, column in columns.items()))


_log = logging.getLogger("nonconvex")


def check_exchange(params: FactorizationParams) -> None:
    """Raise `ParamError` for a fit by shuffle that has something no shuffle is written for."""
    exchange = params.getOrDefault("exchange")
    if exchange != "auto":
        refuse_set(params, ["maxBroadcastBytes"], f"is only for exchange='auto', not {exchange!r}")
    found = _obstacle(params)
    if exchange == "shuffle" and found:
        raise ParamError(
            "exchange='shuffle' is for solvers 'als' and 'als-coordinate' on the executors, from "
            f"one start, of explicit ratings, and here is {found}; change that, or set "
            "exchange='auto'"
        )


def choose_exchange(
    estimators: Sequence[FactorizationParams], training: TrainingSet
) -> Literal["broadcast", "shuffle"]:
    """Choose by the size of the larger side, and say so in the log.

    Parameters
    ----------
    estimators : sequence of FactorizationParams
        Whose fits share the passes over the data.
    training : TrainingSet
    """
    if isinstance(training.blocks.users, LocalBlocks):  # where all rows are
        return "broadcast"
    rows = max(len(members) for members in training.ids)
    choice = _choose(estimators, rows)
    if choice.why:
        _log.log(choice.level, "%s", choice.why)
    return choice.exchange


def may_divide(
    estimators: Sequence[FactorizationParams],
) -> Callable[[int], bool]:
    """Return what says whether several tasks may add up a row, given the rows of the larger side.

    They may where rows are broadcast, and solved as a whole from explicit ratings.
    """

    def divide(rows: int) -> bool:
        return (
            all(estimator.getOrDefault("solver") == "als" for estimator in estimators)
            and not estimators[0].getOrDefault("implicitPrefs")
            and _choose(estimators, rows).exchange == "broadcast"
        )

    return divide


class _Choice(NamedTuple):
    exchange: Literal["broadcast", "shuffle"]
    level: int = logging.INFO
    why: str = ""


def _choose(estimators: Sequence[FactorizationParams], rows: int) -> _Choice:
    params = estimators[0]
    asked = params.getOrDefault("exchange")
    if asked != "auto":
        return _Choice(asked)
    numbers = sum(
        estimator.getOrDefault("numRestarts") * (1 + estimator.getOrDefault("rank"))
        for estimator in estimators
    )
    size = rows * numbers * (4 if params.getOrDefault("precision") == "float32" else 8)
    bound = params.getOrDefault("maxBroadcastBytes")
    sizes = f"{rows:,} rows of a side take {size:,} bytes, and maxBroadcastBytes is {bound:,}"
    if size <= bound:
        return _Choice("broadcast", why=f"rows are broadcast: {sizes}")
    found = "a grid of Params"
    if len(estimators) == 1:
        found = _obstacle(params)
    if found:
        why = f"rows are broadcast, though {sizes}: no shuffle is for {found}"
        return _Choice("broadcast", logging.WARNING, why)
    return _Choice("shuffle", why=f"rows are exchanged by shuffle: {sizes}")


def _obstacle(params: FactorizationParams) -> str:
    """Return what of a fit cannot be done by shuffle; empty if all can."""
    get = params.getOrDefault
    if get("solver") not in ("als", "als-coordinate"):
        return f"solver={get('solver')!r}"
    if get("implicitPrefs"):
        return "implicitPrefs=True"
    if get("numRestarts") > 1:
        return f"numRestarts={get('numRestarts')}"
    return "updates='driver'" if get("updates") == "driver" else ""


@dataclass(frozen=True)
class LoopSettings:
    """What fits must have in common to share the passes over the data.

    Parameters
    ----------
    max_iter, tol, patience, gradient_tol
        See `nonconvex.numerics.convergence.stop_after`.
    descent : DescentOptions or None
        Given if and only if the solver is "gd".
    checkpoint_path : str or None
        Where to save the state of the fit, if anywhere.
    checkpoint_interval : int
        How many iterations apart.
    sampling : SamplingOptions or None
        Given if and only if the solver is "gibbs".
    exchange : {"broadcast", "shuffle"}
        How rows come to the ratings of the other side, see
        `nonconvex.distributed.factorization.fit.fit_loop`.
    """

    max_iter: int
    tol: float
    patience: int | None
    gradient_tol: float
    descent: DescentOptions | None
    checkpoint_path: str | None = None
    checkpoint_interval: int = 10
    sampling: SamplingOptions | None = None
    exchange: Literal["broadcast", "shuffle"] = "broadcast"

    def checkpoints(self, training: TrainingSet, identity: Mapping[str, Any]) -> Checkpoints | None:
        """Return where the state is to be saved; what a fit is of includes its ratings."""
        if self.checkpoint_path is None:
            return None
        return Checkpoints(
            training.blocks.users.session,
            self.checkpoint_path,
            self.checkpoint_interval,
            {**identity, "ratings": training.fingerprint()},
        )


@dataclass(frozen=True)
class FitSettings:
    """One fit: the Params of `nonconvex.recommendation.MatrixFactorization`, by our names."""

    rank: int
    reg_user: float | None
    reg_item: float | None
    bias_ratio: float | None
    exponent: float
    solver: str
    intercept: bool
    biases: bool
    nonnegative: bool
    implicit: bool
    scale: float
    seed: int
    first_restart: int
    restarts: int
    ensemble: bool
    mean_rank: int | None = None
    initial: tuple[Factors, dict[str, dict[str, int]]] | None = None

    def ridges(self, training: TrainingSet) -> tuple[Ridge, Ridge]:
        """Return the ridge of users and of items; what is not given follows a rule."""
        if self.implicit:
            mean_weight = training.weight / training.total
            reg, ratio = default_implicit_reg(training.total, mean_weight), 1.0
        else:
            reg, ratio = default_reg(training.total, training.deviation)
        if self.reg_user is not None or self.reg_item is not None:
            ratio = 1.0
        if self.bias_ratio is not None:
            ratio = self.bias_ratio

        def ridge(given: float | None, rows: int) -> Ridge:
            value = reg if given is None else given
            return Ridge(value, self.exponent, training.total, training.total / rows, ratio)

        users, items = (len(members) for members in training.ids)
        return ridge(self.reg_user, users), ridge(self.reg_item, items)

    def has_posterior(self, *ridges: Ridge) -> bool:
        """Tell whether the rows of a minimum are normal, given the other side."""
        regularized = all(
            ridge.reg > 0 and (ridge.bias_ratio > 0 or not self.biases) for ridge in ridges
        )
        special = self.implicit or self.nonnegative or self.ensemble
        return regularized and not special and self.solver != "gibbs"

    def starts(
        self, training: TrainingSet, exchange: Literal["broadcast", "shuffle"]
    ) -> list[tuple[int, Factors | ShardedFactors]]:
        """Return the number of each start, and the factors it begins with."""
        if self.initial is not None:
            return [(self.first_restart, self.initial[0])]
        # α of implicit feedback is a mean over all pairs, which the first update finds.
        alpha = training.mean if self.intercept and not self.implicit else 0.0
        return [
            (
                restart,
                random_start(
                    training.ids,
                    self.rank,
                    alpha=alpha,
                    scale=self.scale,
                    seed=self.seed,
                    restart=restart,
                    dtype=training.blocks.dtype,
                    nonnegative=self.nonnegative,
                    exchange=exchange,
                ),
            )
            for restart in range(self.first_restart, self.first_restart + self.restarts)
        ]


class FitResult(NamedTuple):
    """What a fit came to.

    Attributes
    ----------
    factors : Factors, or ShardedFactors if rows were exchanged by shuffle
        Of the best restart, or of the ensemble.
    restarts : list of Factors or ShardedFactors
        Of every restart.
    summary : TrainingSummary
    posterior : Posterior or None
        The samples that were kept, if it was sampled.
    ridge : RidgePosterior or None
        How sure a minimum is, if that is known.
    """

    factors: Factors | ShardedFactors
    restarts: list[Factors | ShardedFactors]
    summary: TrainingSummary
    posterior: Posterior | None = None
    ridge: RidgePosterior | None = None


def fit_together(
    training: TrainingSet,
    fits: Sequence[FitSettings],
    loop: LoopSettings,
    identity: Mapping[str, Any],
) -> list[FitResult]:
    """Minimize from every start of every fit, and choose the best start of each.

    Parameters
    ----------
    training : TrainingSet
    fits : sequence of FitSettings
    loop : LoopSettings
    identity : mapping
        What a checkpoint must be of for these fits to go on from it, as JSON can hold it.

    Returns
    -------
    list of FitResult
        One for each fit, in their order; ``summary.seconds`` is left at 0.

    Raises
    ------
    FitError
        If every start of a fit becomes non-finite.
    """
    problems: list[Problem] = []
    numbers: list[list[int]] = []
    for index, settings in enumerate(fits):
        starts = settings.starts(training, loop.exchange)
        numbers.append([restart for restart, _ in starts])
        for restart, start in starts:
            labels = [f"fit {index}"] if len(fits) > 1 else []
            labels += [f"restart {restart}"] if len(starts) > 1 else []
            problems.append(_problem(settings, training, start, " · ".join(labels)))
    if loop.sampling is not None:
        return _sampled(training, fits, problems, numbers, loop, loop.sampling, identity)
    ended = iter(
        fit_loop(
            training.blocks,
            problems,
            max_iter=loop.max_iter,
            tol=loop.tol,
            patience=loop.patience,
            gradient_tol=loop.gradient_tol,
            descent=loop.descent,
            checkpoints=loop.checkpoints(training, identity),
            exchange=loop.exchange,
        )
    )
    return [
        _result(settings, training, restarts, [next(ended) for _ in restarts])
        for settings, restarts in zip(fits, numbers, strict=True)
    ]


def _sampled(
    training: TrainingSet,
    fits: Sequence[FitSettings],
    problems: Sequence[Problem],
    numbers: Sequence[list[int]],
    loop: LoopSettings,
    settings: SamplingOptions,
    identity: Mapping[str, Any],
) -> list[FitResult]:
    """Sample from every start of every fit, and take the mean of all samples of each."""
    starts = iter(problems)
    task = [
        SamplingTask(
            [replace(next(starts), solver="als") for _ in of_fit],
            of_fit,
            training.mean,
            training.deviation if training.deviation > 0 else 1.0,
            fit.seed,
            2 * fit.rank + 10 if fit.mean_rank is None else fit.mean_rank,
        )
        for fit, of_fit in zip(fits, numbers, strict=True)
    ]
    checkpoints = loop.checkpoints(training, identity)
    results = []
    for fit, of_fit, sampled in zip(
        fits, numbers, sample(training.blocks, task, settings, checkpoints), strict=True
    ):
        result = _result(fit, training, of_fit, sampled.chains)
        kept = len(sampled.posterior.taus)
        sampling = sampling_summary(result.summary.restarts, settings, kept)
        summary = replace(result.summary, sampling=sampling)
        results.append(FitResult(sampled.factors, [], summary, sampled.posterior))
    return results


def _problem(
    settings: FitSettings, training: TrainingSet, start: Factors | ShardedFactors, name: str
) -> Problem:
    user_ridge, item_ridge = settings.ridges(training)
    return Problem(
        start=start,
        user_ridge=user_ridge,
        item_ridge=item_ridge,
        solver=settings.solver,
        intercept=settings.intercept,
        biases=settings.biases,
        nonnegative=settings.nonnegative,
        implicit=settings.implicit,
        name=name,
    )


def _result(
    settings: FitSettings, training: TrainingSet, numbers: list[int], ended: list[Result]
) -> FitResult:
    best = min(range(len(ended)), key=lambda position: _merit(ended[position]))
    finite = [fit for fit in ended if fit.stop is not Stop.NONFINITE]
    if not finite:
        raise FitError(
            f"every start of the fit with rank={settings.rank}, regUser={settings.reg_user}, "
            f"regItem={settings.reg_item} became non-finite; raise regUser and regItem"
        )
    user_ridge, item_ridge = settings.ridges(training)
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
        reg_user=user_ridge.reg,
        reg_item=item_ridge.reg,
        bias_reg_ratio=user_ridge.bias_ratio,
        reg_exponent=user_ridge.exponent,
        best=best,
        restarts=[
            RestartSummary.of(number, fit) for number, fit in zip(numbers, ended, strict=True)
        ],
        warm_start=None if settings.initial is None else settings.initial[1],
        seconds=0.0,
    )
    factors = ended[best].factors
    if settings.ensemble:
        factors = ensemble([gather_factors(fit.factors) for fit in finite])
    ridge = None
    if settings.has_posterior(user_ridge, item_ridge):
        ridge = _posterior(settings, training, ended[best])
    return FitResult(factors, [fit.factors for fit in ended], summary, ridge=ridge)


def _posterior(settings: FitSettings, training: TrainingSet, fitted: Result) -> RidgePosterior:
    blocks, squares, factors = training.blocks, fitted.squares, fitted.factors
    degrees, biases = (blocks.user_degrees, blocks.item_degrees), settings.biases
    if squares is None:
        squares = user_squares(blocks.users, gather_factors(factors), blocks.dtype)
    ridges = settings.ridges(training)
    known: Factors | DesignMoments = (
        moments(factors, degrees, biases=biases) if isinstance(factors, ShardedFactors) else factors
    )
    return RidgePosterior.of(known, degrees, squares, ridges, biases=biases)


def _merit(fit: Result) -> tuple[bool, float]:
    """What to choose restarts by, the less the better: validation RMSE, or else f."""
    value = fit.objective if fit.validation_rmse is None else fit.validation_rmse
    return fit.stop is Stop.NONFINITE, value


def loop_of(params: FactorizationParams, exchange: Literal["broadcast", "shuffle"]) -> LoopSettings:
    """Return the settings of the loop that an estimator's fits share.

    Examples
    --------
    >>> from nonconvex.recommendation import MatrixFactorization
    >>> loop_of(MatrixFactorization(maxIter=3), "broadcast").max_iter
    3
    """
    get = params.getOrDefault
    descent, sampling = None, None
    if get("solver") == "gd":
        descent = DescentOptions(params._optimizer(), get("miniBatchFraction"), get("seed"))
    if get("solver") == "gibbs":
        lengths = map(get, ("numBurnIn", "numSamples", "thinning", "numKept"))
        sampling = SamplingOptions(*lengths)
    return LoopSettings(
        max_iter=get("maxIter"),
        tol=get("tol"),
        patience=get("patience"),
        gradient_tol=get("gradientTol"),
        descent=descent,
        sampling=sampling,
        checkpoint_path=get("checkpointPath"),
        checkpoint_interval=get("checkpointInterval"),
        exchange=exchange,
    )
