"""From Params to problems, and from their results to the parts of a model.

Several fits of the same ratings, such as the points of a regularization path, and several random
starts of each, are one list of problems that share every pass over the data.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml.param import Params
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.checkpoints import Checkpoints, ModelCheckpoint
from nonconvex.distributed.columns import boolean_column, check_frame, id_column, number_column
from nonconvex.distributed.factorization.dataset import Ids, TrainingSet
from nonconvex.distributed.factorization.execution import ExchangePolicy
from nonconvex.distributed.factorization.fit import DescentOptions, fit_loop
from nonconvex.distributed.factorization.gibbs import SamplingOptions, SamplingTask, sample
from nonconvex.distributed.factorization.shuffle import Shuffle, design_moments, factor_variance
from nonconvex.distributed.factorization.state import (
    AnyFactors,
    Broadcast,
    Problem,
    Result,
    RowExchange,
    gather_factors,
)
from nonconvex.distributed.factorization.steps import user_squares
from nonconvex.distributed.runtime import driver_memory
from nonconvex.estimators.factorization.params import ALSParams, FactorizationParams
from nonconvex.estimators.factorization.summary import (
    RestartSummary,
    TrainingSummary,
    sampling_summary,
)
from nonconvex.estimators.params import ParamError, patience_of, refuse_set
from nonconvex.numerics import Bools, Ints
from nonconvex.numerics.convergence import FitError, Stop, StoppingRule
from nonconvex.numerics.deterministic import choose_kernel
from nonconvex.numerics.factorization.fold_in import Uncertainty
from nonconvex.numerics.factorization.gibbs import USER_FREEDOM
from nonconvex.numerics.factorization.model import (
    Factors,
    InitialRows,
    Ridge,
    Side,
    default_implicit_reg,
    default_reg,
    ensemble,
)
from nonconvex.numerics.factorization.posterior import Posterior
from nonconvex.numerics.factorization.ridge_posterior import RidgePosterior
from nonconvex.numerics.factorization.vb import (
    START_VARIANCE,
    WIDER,
    Hyperparameters,
    Layout,
    VariationalPosterior,
)
from nonconvex.numerics.optim import make_optimizer

WarmStart = tuple[Factors, dict[str, dict[str, int]]]
"""Initial factors, and for ``users`` and ``items`` how many ids were kept, are new and are gone."""

_log = logging.getLogger("nonconvex")


class StartError(ValueError):
    """An earlier model that a fit cannot start from."""

    exit_status = 2


class FitResult(NamedTuple):
    """The parts of a fitted model."""

    factors: AnyFactors  # of the best restart, or of the ensemble
    restarts: list[AnyFactors]
    summary: TrainingSummary
    posterior: Posterior | None = None  # the kept samples, with the solver "gibbs"
    ridge_posterior: Uncertainty | None = None  # the uncertainty of rows, if it is known
    checkpoint: ModelCheckpoint | None = None  # to be released when the model is saved


def select_ratings(params: FactorizationParams, dataset: DataFrame) -> DataFrame:
    """Select ``user, item, rating double``, and if named ``weight`` and ``held_out boolean``.

    Raises ColumnError if a column is missing or has a wrong type.
    """
    check_frame("dataset", dataset, batch=True)
    get = params.getOrDefault
    rating = rating_column(params, dataset)
    columns = {of: id_column(dataset, get(f"{of}Col"), f"{of}Col") for of in ("user", "item")}
    columns["rating"] = rating
    if get("weightCol") is not None:
        columns["weight"] = number_column(dataset, get("weightCol"), "weightCol")
    if get("validationIndicatorCol") is not None:
        held_out = boolean_column(dataset, get("validationIndicatorCol"), "validationIndicatorCol")
        columns["held_out"] = held_out
        if get("implicitPrefs"):  # the prediction is the preference
            columns["rating"] = F.when(held_out, (rating > 0).cast("double")).otherwise(rating)
    return dataset.select(*(column.alias(name) for name, column in columns.items()))


def rating_column(params: Params, dataset: DataFrame) -> Column:
    """Return the column of ratings as doubles, or 1 for a `ratingCol` of ''."""
    name = params.getOrDefault("ratingCol")
    return number_column(dataset, name, "ratingCol") if name else F.lit(1.0)


def check_exchange(params: FactorizationParams) -> None:
    """Raise `ParamError` if exchange="shuffle" is set for a fit that cannot be shuffled."""
    exchange = params.getOrDefault("exchange")
    if exchange != "auto":
        refuse_set(params, ["maxBroadcastBytes"], f"is only for exchange='auto', not {exchange!r}")
    obstacle = _obstacle(params)
    if exchange == "shuffle" and obstacle:
        raise ParamError(
            "exchange='shuffle' is for solvers 'als', 'als-cg', 'als-coordinate' and 'vb' on the "
            f"executors, from one start, of explicit ratings, and here is {obstacle}; change "
            "that, or set exchange='auto'"
        )


def exchange_policy(estimators: Sequence[FactorizationParams]) -> ExchangePolicy:
    """Return the policy of fits that share the passes over the data."""
    first = estimators[0].getOrDefault
    solvers = {estimator.chosen_solver for estimator in estimators}
    return ExchangePolicy(
        first("exchange"),
        row_bytes=unknowns_of(estimators) * (4 if first("precision") == "float32" else 8),
        max_bytes=first("maxBroadcastBytes"),
        obstacle="a grid of Params" if len(estimators) > 1 else _obstacle(estimators[0]),
        divisible=solvers == {"als"} and not first("implicitPrefs"),
    )


def unknowns_of(estimators: Sequence[FactorizationParams]) -> int:
    """Return the number of unknowns of a row in all starts of all fits, with its covariance."""
    unknowns = 0
    for params in estimators:
        rank = params.getOrDefault("rank")
        width = Layout(rank).width if params.chosen_solver == "vb" else 1 + rank
        unknowns += params.getOrDefault("numRestarts") * width
    return unknowns


def _obstacle(params: FactorizationParams) -> str:
    """Return the Param that rules out an exchange by shuffle, or an empty string."""
    get = params.getOrDefault
    if params.chosen_solver not in ("als", "als-cg", "als-coordinate", "vb"):
        return f"solver={params.chosen_solver!r}"
    if get("implicitPrefs"):
        return "implicitPrefs=True"
    if get("numRestarts") > 1:
        return f"numRestarts={get('numRestarts')}"
    if get("maxIter") == 0:
        return "maxIter=0"
    return "updates='driver'" if get("updates") == "driver" else ""


def warm_start(
    old: Factors,
    old_ids: Ids,
    ids: Ids,
    rank: int,
    dtype: type[np.floating],
    *,
    intercept: bool,
    biases: bool,
) -> WarmStart:
    """Take the rows of known ids from an earlier model, and start new ids from zero.

    Without intercept or biases, α or β start from zero, too, and stay there.  Raises StartError if
    the ranks or the types of ids differ, or no user is known.
    """
    if old.users.shape[1] - 1 != rank:
        raise StartError(
            f"the initial model has rank {old.users.shape[1] - 1} and this fit rank {rank}; "
            "they must be equal"
        )
    counts: dict[str, dict[str, int]] = {}
    rows = []
    for side in Side:
        known, place = _known(side, getattr(old_ids, side), getattr(ids, side))
        of_side = np.where(known[:, None], getattr(old, side)[place], 0).astype(dtype)
        of_side[:, 0] *= biases
        rows.append(of_side)
        kept = int(known.sum())
        gone = len(getattr(old_ids, side)) - kept
        counts[str(side)] = {"kept": kept, "new": len(known) - kept, "gone": gone}
    if not counts["users"]["kept"]:
        raise StartError(
            "none of the users of the initial model are in the ratings; "
            "train without an initial model, or check the ids"
        )
    return Factors(old.alpha if intercept else 0.0, *rows), counts


def _known(side: str, old: pa.ChunkedArray, new: pa.ChunkedArray) -> tuple[Bools, Ints]:
    """Return whether each new id is among the old ones, and its place there."""
    if pa.types.is_integer(old.type) and pa.types.is_integer(new.type):
        old, new = old.cast(pa.int64()), new.cast(pa.int64())
    if old.type != new.type:
        raise StartError(
            f"the {side} of the initial model have ids of type {old.type} and those of the "
            f"ratings {new.type}; cast the ratings"
        )
    place = pc.index_in(new, value_set=old)
    return place.is_valid().to_numpy(), place.fill_null(0).to_numpy()


def fit_together(
    training: TrainingSet,
    estimators: Sequence[FactorizationParams],
    initial: Sequence[WarmStart | None],
    identity: Mapping[str, Any],
    names: Sequence[str] | None = None,
) -> list[FitResult]:
    """Fit from every start of every estimator, and choose the best start of each.

    `names` are for the log.  Estimators that cannot share the passes are fitted one by one, all but
    the first with rows that are broadcast.  In the results, ``summary.seconds`` is 0.
    """
    if names is None:
        names = [f"fit {number}" if len(estimators) > 1 else "" for number in range(len(initial))]
    if len(estimators) > 1 and _apart(training, estimators):
        fitted = []
        for number, params in enumerate(estimators):
            alone = {"fit 0": identity[f"fit {number}"]}
            fitted += fit_together(training, [params], [initial[number]], alone, [names[number]])
            training = replace(training, exchange="broadcast")
        return fitted
    _check_memory(training, estimators)
    get = estimators[0].getOrDefault
    training = replace(training, core=training.blocks.users.core(choose_kernel(get("kernel"))))
    exchange = Shuffle if training.exchange == "shuffle" else Broadcast
    problems: list[list[Problem]] = []
    for params, warm, name in zip(estimators, initial, names, strict=False):
        starts = _starts(params, training, warm, exchange)
        labels = [name] if name else []
        of_fit = []
        for number, start in enumerate(starts, start=params.getOrDefault("firstRestart")):
            parts = [*labels, f"restart {number}"] if len(starts) > 1 else labels
            of_fit.append(_problem(params, training, start, " · ".join(parts)))
        problems.append(of_fit)
    checkpoints, path = None, get("checkpointPath")
    if path is not None:
        facts = {**identity, "ratings": training.fingerprint()}
        session, interval = training.blocks.users.session, get("checkpointInterval")
        most = [params.getOrDefault("maxIter") for params in estimators]
        checkpoints = Checkpoints(session, path, interval, facts, most)
    no_iteration = estimators[0].getOrDefault("maxIter") == 0
    if no_iteration:
        checkpoints = None
    kept = ModelCheckpoint.of(checkpoints, len(estimators))
    if estimators[0].chosen_solver == "gibbs":
        fitted = _sampled(training, estimators, problems, checkpoints)
        return [one._replace(checkpoint=of) for one, of in zip(fitted, kept, strict=True)]
    descent = None
    if estimators[0].chosen_solver == "gd":
        optimizer = estimators[0]._optimizer()
        descent = DescentOptions(optimizer, get("miniBatchFraction"), get("seed"))
    together = [problem for of_fit in problems for problem in of_fit]
    if no_iteration:  # what measures f and ∇f between the steps of "gd" measures them at the start
        descent = DescentOptions(make_optimizer("gradient-descent", 1.0))
        together = [replace(one, solver="gd") for one in together]
    rule = max((one.rule for one in together if one.rule), key=lambda rule: rule.max_iter)
    blocks = training.blocks
    ended = fit_loop(
        blocks, together, rule, descent=descent, checkpoints=checkpoints, exchange_type=exchange
    )
    results = iter(ended)
    return [
        _result(params, training, warm, [next(results) for _ in of_fit])._replace(checkpoint=of)
        for params, warm, of_fit, of in zip(estimators, initial, problems, kept, strict=True)
    ]


def _check_memory(training: TrainingSet, estimators: Sequence[FactorizationParams]) -> None:
    """Raise `ParamError` if all rows, three times in float32, are more than the driver has.

    It holds the rows before and after an update, and those that tasks are given.  Rows that are
    exchanged by shuffle it never has, but for those of "vb" at the end.
    """
    ids, inferred = training.ids, any(one.chosen_solver == "vb" for one in estimators)
    copies = 3 if training.exchange == "broadcast" else int(inferred)
    needed, free = 4 * copies * sum(map(len, ids)) * unknowns_of(estimators), driver_memory()
    if needed > free:
        remedy = "solver='als'" if inferred else "exchange='shuffle'"
        rank = max(one.getOrDefault("rank") for one in estimators)
        starts = sum(one.getOrDefault("numRestarts") for one in estimators)
        raise ParamError(
            f"the rows of {len(ids.users):,} users and {len(ids.items):,} items at rank {rank:,} "
            f"from {starts:,} starts take {needed / 1e9:,.1f} GB, and the driver has "
            f"{free / 1e9:,.1f}: lower rank or numRestarts, or set {remedy}"
        )


def _apart(training: TrainingSet, estimators: Sequence[FactorizationParams]) -> bool:
    """Tell whether fits cannot share the passes over the ratings."""
    loops = {
        (
            params.chosen_solver if params.chosen_solver in ("gd", "gibbs") else "als",
            params.getOrDefault("checkpointPath"),
            params.getOrDefault("maxIter") == 0,
        )
        for params in estimators
    }
    return training.exchange == "shuffle" or len(loops) > 1


def _sampled(
    training: TrainingSet,
    estimators: Sequence[FactorizationParams],
    problems: Sequence[Sequence[Problem]],
    checkpoints: Checkpoints | None,
) -> list[FitResult]:
    """Sample from every start of every fit, and take the mean of all samples of each."""
    lengths = ("numBurnIn", "numSamples", "thinning", "numKept")
    options = SamplingOptions(*map(estimators[0].getOrDefault, lengths))
    tasks = []
    deviation = training.deviation if training.deviation > 0 else 1.0
    for params, starts in zip(estimators, problems, strict=True):
        get = params.getOrDefault
        chains = [replace(start, solver="als") for start in starts]
        numbers = list(range(get("firstRestart"), get("firstRestart") + len(starts)))
        rank = 2 * get("rank") + 10 if get("meanRank") is None else get("meanRank")
        kappa = USER_FREEDOM if get("fitUserPrecision") else math.inf
        of_ratings = training.mean, deviation
        tasks.append(SamplingTask(chains, numbers, *of_ratings, get("seed"), rank, kappa))
    results = []
    sampled = sample(training.blocks, tasks, options, checkpoints)
    for params, one in zip(estimators, sampled, strict=True):
        result = _result(params, training, None, one.chains)
        kept = len(one.posterior.taus)
        sampling = sampling_summary(result.summary.restarts, options, kept)
        summary = replace(result.summary, sampling=sampling)
        summary = _with_variance(summary, training, one.factors)
        results.append(FitResult(one.factors, [], summary, one.posterior))
    return results


def _ridges(params: FactorizationParams, training: TrainingSet) -> tuple[Ridge, Ridge]:
    """Return the ridges of users and items; λ and ρ that are not given follow a rule."""
    get = params.getOrDefault
    if get("implicitPrefs"):
        reg, ratio = default_implicit_reg(training.total, training.weight / training.total)
    else:
        reg, ratio = default_reg(training.total, training.deviation)
    if params.chosen_solver == "vb":  # wider, as the variances of rows shrink them, too
        reg, ratio = reg * WIDER, ratio / WIDER
    if get("regUser") is not None or get("regItem") is not None:
        ratio = 1.0
    if get("biasRegRatio") is not None:
        ratio = get("biasRegRatio")

    of_mllib = _mllib_reg(params)

    def ridge(given: float | None, rows: int) -> Ridge:
        if of_mllib is not None:  # λ d
            return Ridge(of_mllib / rows, 1.0, training.total, training.total / rows, 1.0)
        value = reg if given is None else given
        return Ridge(value, get("regExponent"), training.total, training.total / rows, ratio)

    users, items = (len(members) for members in training.ids)
    return ridge(get("regUser"), users), ridge(get("regItem"), items)


def _mllib_reg(params: FactorizationParams) -> float | None:
    """Return the λ of MLlib's rule, λ d for a row with d ratings, if that is in force."""
    if not isinstance(params, ALSParams):
        return None
    of_sides = ("regUser", "regItem", "biasRegRatio", "regExponent")
    if any(params.isSet(name) for name in of_sides):
        return None
    if params.getOrDefault("fitBiases") and not params.isSet("regParam"):
        return None
    return float(params.getOrDefault("regParam"))


def _starts(
    params: FactorizationParams,
    training: TrainingSet,
    warm: WarmStart | None,
    exchange: type[RowExchange],
) -> list[AnyFactors]:
    """Return the initial factors of each restart."""
    get = params.getOrDefault
    layout = Layout(get("rank"))
    if warm is not None:
        alpha, *sides = warm[0]
        if params.chosen_solver == "vb":
            sides = [layout.start(rows, START_VARIANCE) for rows in sides]
        return [Factors(alpha, *sides)]
    more = layout.start_columns(START_VARIANCE) if params.chosen_solver == "vb" else ()
    # α of implicit feedback is a mean over all pairs, which the first update computes.
    alpha = training.mean if get("fitIntercept") and not get("implicitPrefs") else 0.0
    starts: list[AnyFactors] = []
    for restart in range(get("firstRestart"), get("firstRestart") + get("numRestarts")):
        random = (get("rank"), get("initScale"), get("seed"), restart)
        users, items = (
            InitialRows(
                len(of_side), *random, side, training.blocks.dtype, get("nonnegative"), more
            )
            for side, of_side in zip(Side, training.ids, strict=True)
        )
        starts.append(exchange.initial(alpha, users, items))
    return starts


def _problem(
    params: FactorizationParams, training: TrainingSet, start: AnyFactors, name: str
) -> Problem:
    get, validated = params.getOrDefault, training.blocks.validation is not None
    patience = patience_of(params, 10 if params.chosen_solver == "gd" else 3, validated=validated)
    user_ridge, item_ridge = _ridges(params, training)
    deviation = training.deviation if training.deviation > 0 else 1.0
    return Problem(
        start=start,
        user_ridge=user_ridge,
        item_ridge=item_ridge,
        solver=params.chosen_solver,
        intercept=get("fitIntercept"),
        biases=get("fitBiases"),
        nonnegative=get("nonnegative"),
        implicit=get("implicitPrefs"),
        kernel=choose_kernel(get("kernel")),
        name=name,
        rule=StoppingRule(get("maxIter"), None, get("tol"), patience, get("gradientTol")),
        rank=get("rank"),
        tau=deviation**-2,
        user_freedom=USER_FREEDOM if get("fitUserPrecision") else math.inf,
    )


def _result(
    params: FactorizationParams,
    training: TrainingSet,
    warm: WarmStart | None,
    results: list[Result],
) -> FitResult:
    """Choose the best restart of a fit, and summarize all."""
    get = params.getOrDefault
    best = min(range(len(results)), key=lambda number: _merit(results[number]))
    first = get("firstRestart")
    if results[best].stop is Stop.NONFINITE:
        raise FitError(
            f"every start of the fit with rank={get('rank')}, regUser={get('regUser')}, "
            f"regItem={get('regItem')} became non-finite; raise regUser and regItem"
        )
    user_ridge, item_ridge = _ridges(params, training)
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
        restarts=[RestartSummary.of(first + n, result) for n, result in enumerate(results)],
        warm_start=None if warm is None else warm[1],
        seconds=0.0,
        kernel=choose_kernel(get("kernel")),
        core=training.core,
    )
    posterior: Uncertainty | None = None
    if params.chosen_solver == "vb":
        inferred, results = _means(results, best)
    factors = results[best].factors
    if get("ensemble"):
        finite = [result.factors for result in results if result.stop is not Stop.NONFINITE]
        factors = ensemble([gather_factors(of_start) for of_start in finite])
    if params.chosen_solver != "vb":
        posterior = _ridge_posterior(params, training, results[best])
    else:
        posterior = None if get("ensemble") else inferred
        summary = replace(summary, inference={"noise": inferred.tau**-0.5})
    if params.chosen_solver != "gibbs":  # whose model is the mean of its samples
        summary = _with_variance(summary, training, factors)
    every = [result.factors for result in results]
    return FitResult(factors, every, summary, ridge_posterior=posterior)


def _with_variance(
    summary: TrainingSummary, training: TrainingSet, factors: AnyFactors
) -> TrainingSummary:
    """Add how far predictions depend on factors, and log it: a warning if they do not."""
    if factors.users.shape[1] == 1:
        return summary
    degrees = training.blocks.user_degrees, training.blocks.item_degrees
    variance = factor_variance(factors, degrees)
    if not math.isfinite(variance.total):
        return summary
    noise = summary.restarts[summary.best].train_rmse
    if summary.inference is not None:
        noise = summary.inference["noise"]
    rank = variance.effective_rank(noise)
    summary = replace(summary, effective_rank=rank, factor_share=variance.share)
    _log.log(logging.INFO if rank else logging.WARNING, "%s", summary.of_factors())
    return summary


def _means(results: Sequence[Result], best: int) -> tuple[VariationalPosterior, list[Result]]:
    """Return the posterior of the best result, and all with the means of their rows alone."""
    posterior, narrow = None, []
    for number, result in enumerate(results):
        alpha, users, items = gather_factors(result.factors)
        assert result.level is not None
        level = Hyperparameters.of(result.level)
        if number == best:
            posterior = level.posterior(users, items)
        sides = (np.ascontiguousarray(level.layout.mean(rows)) for rows in (users, items))
        narrow.append(result._replace(factors=Factors(alpha, *sides)))
    assert posterior is not None
    return posterior, narrow


def _ridge_posterior(
    params: FactorizationParams, training: TrainingSet, result: Result
) -> RidgePosterior | None:
    """Return the uncertainty at a minimum, if its rows are normal given the other side."""
    get, ridges = params.getOrDefault, _ridges(params, training)
    special = get("implicitPrefs") or get("nonnegative") or get("ensemble")
    if special or params.chosen_solver == "gibbs":
        return None
    biases = get("fitBiases")
    if not all(ridge.reg > 0 and (ridge.bias_ratio > 0 or not biases) for ridge in ridges):
        return None
    blocks, squares, factors = training.blocks, result.squares, result.factors
    degrees = (blocks.user_degrees, blocks.item_degrees)
    if squares is None:
        kernel = choose_kernel(get("kernel"))
        squares = user_squares(blocks.users, gather_factors(factors), blocks.dtype, kernel)
    known = design_moments(factors, degrees, biases=biases)
    return RidgePosterior.of(known, degrees, squares, ridges, biases=biases)


def _merit(result: Result) -> tuple[bool, float]:
    """Return the key to choose restarts by, least first: validation RMSE, or else f."""
    value = result.objective if result.validation_rmse is None else result.validation_rmse
    return result.stop is Stop.NONFINITE, value
