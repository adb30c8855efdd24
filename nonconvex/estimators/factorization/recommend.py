"""Top-N lists and similar ids of a fitted model."""

from __future__ import annotations

import logging

from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.columns import check_frame
from nonconvex.distributed.factorization.top_n import (
    ModelSide,
    Ranker,
    keys,
    neighbours,
    recommendations,
    requests,
)
from nonconvex.distributed.runtime import explained
from nonconvex.estimators.factorization.params import FactorizationModelParams
from nonconvex.estimators.factorization.predict import ModelState, prediction_limits
from nonconvex.estimators.params import ParamError, convert_argument, integer
from nonconvex.numerics.deterministic import choose_kernel

_log = logging.getLogger("nonconvex")


def model_sides(
    state: ModelState, params: FactorizationModelParams, spark: SparkSession
) -> tuple[ModelSide, ModelSide]:
    """Return users and items, broadcast to the executors."""
    shared = state.share(spark, "ids"), state.share(spark, "rows")
    users, items = (
        ModelSide(role, params.getOrDefault(role), *of_side)
        for role, *of_side in zip(("userCol", "itemCol"), state.ids, *shared, strict=True)
    )
    return users, items


def list_length(**given: int | None) -> int:
    """Return the length of lists, which was given under one of its names."""
    first, other = given
    values = {name: value for name, value in given.items() if value is not None or name == first}
    if len(values) > 1 and values[first] is None:
        del values[first]
    if len(values) > 1:
        raise ParamError(f"{first} and {other} are one argument, got both; leave {other} out")
    [(name, value)] = values.items()
    length: int = convert_argument(name, value, integer(1))
    return length


@explained()
def recommend(
    state: ModelState,
    params: FactorizationModelParams,
    n: int,
    subset: DataFrame | None,
    exclude: DataFrame | str | None,
    candidates: DataFrame | None,
    *,
    reverse: bool = False,
) -> DataFrame:
    """Return the n best items for users, or if `reverse` users for items."""
    pairs = excluded_pairs(state, params, exclude)
    if candidates is not None:
        check_frame("candidates", candidates, "a DataFrame or None")
    spark = SparkSession.active()
    sides = model_sides(state, params, spark)
    rows, columns = sides[::-1] if reverse else sides
    asked = keys(spark, rows, subset, unknown=has_cold_lists(params))
    kernel = choose_kernel(params.getOrDefault("kernel"))
    ranker = Ranker(float(state.held.alpha), rows.rows, columns.rows, n, None, kernel)
    asked, ranker = requests(asked, ranker, rows, columns, exclude=pairs, candidates=candidates)
    return recommendations(asked, ranker, rows, columns, prediction_limits(state, params))


@explained()
def similar_rows(
    state: ModelState, params: FactorizationModelParams, n: int, subset: DataFrame | None, side: int
) -> DataFrame:
    """Return the n rows of one side, 0 for users, that are most similar to each of its rows."""
    n = convert_argument("n", n, integer(1))
    if subset is not None:
        check_frame("subset", subset, "a DataFrame or None")
    spark = SparkSession.active()
    own = model_sides(state, params, spark)[side]
    kernel = choose_kernel(params.getOrDefault("kernel"))
    return neighbours(keys(spark, own, subset, unknown=False), own, n, kernel)


def has_cold_lists(params: FactorizationModelParams) -> bool:
    """Tell whether ids that the model does not know get lists."""
    return bool(params.getOrDefault("coldStartStrategy") == "bias")


def excluded_pairs(
    state: ModelState, params: FactorizationModelParams, exclude: DataFrame | str | None
) -> DataFrame | None:
    """Return the pairs that no list may hold, under the names of their columns."""
    if exclude is None or isinstance(exclude, DataFrame):
        return exclude
    if exclude not in ("train", "auto"):
        raise ValueError(f"exclude must be a DataFrame, 'train', 'auto' or None, got {exclude!r}")
    if state.training_pairs is None and exclude == "auto":
        _log.warning(
            "the lists may hold pairs of training, which a loaded model does not have; "
            "exclude=a DataFrame of them leaves them out"
        )
        return None
    if state.training_pairs is None:
        raise ValueError(
            "exclude='train' needs the pairs of training, which a loaded model does not have; pass "
            "exclude=a DataFrame of them, or None"
        )
    return state.training_pairs.toDF(*map(params.getOrDefault, ("userCol", "itemCol")))
