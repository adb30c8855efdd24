"""Predictions of a fitted model, with their standard deviations and intervals.

The variance of a prediction is, for a sampled model, its variance over the kept samples; an id
that training has not seen may have any row of N(0, Λ⁻¹).  For a minimum it is that of the ridge
regressions of the user and of the item, see `nonconvex.numerics.factorization.ridge_posterior`.
The variance of a rating has that of the noise in addition.  Intervals are those of a normal
distribution about the prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_type

from nonconvex.distributed.columns import check_frame, check_new, id_column, id_type
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.factorization.predict import (
    IdTable,
    add_uncertainty,
    deviations,
    index_table,
    predictions,
    row_predictions,
    with_index,
    with_row,
)
from nonconvex.distributed.factorization.state import ShardedFactors, gather_factors
from nonconvex.distributed.model_tables import factor_table
from nonconvex.distributed.runtime import Value, broadcast_for, explained
from nonconvex.estimators.factorization.params import FactorizationModelParams
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.estimators.params import ParamError
from nonconvex.local.factorization import limits_of
from nonconvex.numerics.deterministic import choose_kernel
from nonconvex.numerics.factorization.fold_in import Uncertainty
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.factorization.posterior import Posterior, half_width
from nonconvex.numerics.factorization.ridge_posterior import RidgeSpread
from nonconvex.numerics.factorization.vb import VariationalSpread

_UNCERTAINTY = ("predictionStdCol", "predictionIntervalCol")
_NAN = float("nan")


class ModelState:
    """Parameters of a fitted model and their copies on the executors, shared by copies of it.

    Broadcasts are made once and kept as long as the model and the dataframes that read them.

    `held` is sharded as long as nothing has needed the factors on the driver, and `ids` are in the
    order of the rows.  A sampled model has a `posterior`, a minimum may have a `ridge_posterior`.
    A loaded model has no `training_pairs` ``user, item``.  Of `histories`, dataframes of ratings,
    the first that has a user has all of the user's ratings.
    """

    def __init__(
        self,
        factors: Factors | ShardedFactors,
        ids: Ids,
        summary: TrainingSummary,
        *,
        posterior: Posterior | None = None,
        ridge_posterior: Uncertainty | None = None,
        training_pairs: DataFrame | None = None,
        histories: Sequence[DataFrame] = (),
    ) -> None:
        self.held, self.ids, self.summary = factors, ids, summary
        self.posterior, self.ridge_posterior = posterior, ridge_posterior
        self.training_pairs, self.histories = training_pairs, tuple(histories)
        self._shared: dict[str, tuple[Value[Any], ...]] = {}

    def __reduce__(self) -> Any:
        """Pickle the parameters; like a loaded model, the copy does not have the training data."""
        kept: dict[str, Any] = {
            "posterior": self.posterior,
            "ridge_posterior": self.ridge_posterior,
        }
        return partial(ModelState, **kept), (self.factors, self.ids, self.summary)

    @property
    def factors(self) -> Factors:
        """All parameters as arrays, on the driver."""
        self.held = gather_factors(self.held)
        return self.held

    @cached_property
    def ridge_spread(self) -> RidgeSpread | VariationalSpread:
        """Deviations of the predictions of a minimum, or of a variational fit."""
        assert self.ridge_posterior is not None
        return self.ridge_posterior.spread(self.factors)

    def share(self, spark: SparkSession, name: str) -> tuple[Value[Any], ...]:
        """Broadcast "rows" or "ids" of both sides, "samples" with their ω, or "residual stats".

        And "tables", an `IdTable` of each side, or nothing if one would not pay.
        """
        if name not in self._shared:
            values: Iterable[Any] = self.ids
            if name == "rows":
                values = self.factors[1:]
            elif name == "tables":
                tables = tuple(map(IdTable.of, self.ids))
                values = [] if None in tables else [tables]
            elif name == "samples" and self.posterior is not None:
                kept = self.posterior
                values = (kept.users, kept.items, kept.user_precision)
            elif name == "residual stats" and self.ridge_posterior is not None:
                values = (self.ridge_posterior.measured,)
            self._shared[name] = tuple(broadcast_for(self, spark, value) for value in values)
        return self._shared[name]


def prediction_limits(
    state: ModelState, params: FactorizationModelParams
) -> tuple[float, float] | None:
    """Return the range that predictions are clipped to, if they are."""
    named = {name: params.getOrDefault(name) for name in ("clipPredictions", "implicitPrefs")}
    return limits_of(named, vars(state.summary))


@explained()
def add_predictions(
    state: ModelState, params: FactorizationModelParams, dataset: DataFrame
) -> DataFrame:
    """Add the columns of predictions, deviations and intervals that the Params of a model name.

    Rows that executors keep stay there, unless deviations or intervals are asked for.
    """
    check_frame("dataset", dataset)
    get, spark = params.getOrDefault, dataset.sparkSession
    check_new(dataset, get("predictionCol"), "predictionCol")
    uncertain = any(get(role) is not None for role in _UNCERTAINTY)
    sharded = isinstance(state.held, ShardedFactors) and not uncertain
    alpha, sides = float(state.held.alpha), (state.held.users, state.held.items)
    limits, cold = prediction_limits(state, params), get("coldStartStrategy")
    kernel = choose_kernel(get("kernel"))
    tables = None if sharded or uncertain or cold == "drop" else state.share(spark, "tables")
    if tables:  # nothing needs the indices but the predictions
        user, item = (
            id_column(dataset, get(role), role, from_arrow_type(ids.type))
            for role, ids in zip(("userCol", "itemCol"), state.ids, strict=True)
        )
        users, items = state.share(spark, "rows")
        special = {"tables": tables[0], "known_only": cold == "nan", "kernel": kernel}
        score = predictions(alpha, users, items, user, item, limits, **special)
        return dataset.withColumn(get("predictionCol"), score)
    keys, joined = {}, dataset
    for role, ids, rows in zip(("userCol", "itemCol"), state.ids, sides, strict=True):
        table = factor_table(spark, ids, rows) if sharded else index_table(dataset, ids)
        key = id_column(dataset, get(role), role, id_type(table, "id"))
        keys[role] = f"{params.uid}_{role}"
        joined = (with_row if sharded else with_index)(joined, key, table, keys[role])
    user, item = map(F.col, keys.values())
    if sharded:
        rank = state.held.users.shape[1] - 1
        score = row_predictions(alpha, rank, user, item, limits, kernel)
    else:
        users, items = state.share(spark, "rows")
        score = predictions(alpha, users, items, user, item, limits, kernel=kernel)
    known = user.isNotNull() & item.isNotNull()
    if cold == "nan":
        score = F.when(known, score).otherwise(F.lit(_NAN))
    elif cold == "drop":
        joined = joined.where(known)
    scored = joined.withColumn(get("predictionCol"), score)
    if uncertain:
        scored = _add_deviations(state, params, scored, user, item)
    return scored.drop(*keys.values())


def _add_deviations(
    state: ModelState, params: FactorizationModelParams, scored: DataFrame, *indices: Column
) -> DataFrame:
    get = params.getOrDefault
    std, interval = (get(role) for role in _UNCERTAINTY)
    for role, name in zip(_UNCERTAINTY, (std, interval), strict=True):
        if name is not None:
            check_new(scored, name, role)
    deviation = _deviation(state, scored.sparkSession, *indices, noisy=get("predictionNoise"))
    if get("coldStartStrategy") == "nan":
        known = indices[0].isNotNull() & indices[1].isNotNull()
        deviation = F.when(known, deviation).otherwise(F.lit(_NAN))
    held, width = f"{params.uid}_deviation", half_width(get("predictionInterval"))
    scored, limits = scored.withColumn(held, deviation), prediction_limits(state, params)
    return add_uncertainty(scored, get("predictionCol"), held, std, interval, width, limits)


def _deviation(
    state: ModelState, spark: SparkSession, user: Column, item: Column, *, noisy: bool
) -> Column:
    """Return the standard deviation of ratings if `noisy`, else of their means."""
    if state.posterior is not None:
        users, items, user_precision = state.share(spark, "samples")
        more = user_precision if noisy else None
        return deviations(state.posterior.spread(), (users, items), more, user, item)
    if state.ridge_posterior is None:
        raise ParamError(
            f"{' and '.join(_UNCERTAINTY)} are not for this model, which was trained with "
            "implicitPrefs, nonnegative, ensemble or a ridge of 0, or is one of several kept "
            "restarts; unset them"
        )
    [stats] = state.share(spark, "residual stats")
    spread = state.ridge_spread._replace(of_ratings=noisy)
    return deviations(spread, state.share(spark, "rows"), stats, user, item)
