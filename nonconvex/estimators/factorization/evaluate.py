"""Errors and lists of a fitted model on held-out ratings; its predictions, explained by ratings."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_type

from nonconvex.distributed.columns import check_frame, id_column, number_column
from nonconvex.distributed.data.validation import RatingsError
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.factorization.evaluate import RatingModel, evaluate_ratings, retrieval
from nonconvex.distributed.factorization.state import ShardedFactors
from nonconvex.distributed.factorization.top_n import Ranker
from nonconvex.distributed.runtime import explained, persisted
from nonconvex.estimators.factorization.fit import rating_column
from nonconvex.estimators.factorization.params import FactorizationModelParams
from nonconvex.estimators.factorization.predict import ModelState, add_predictions
from nonconvex.estimators.factorization.recommend import excluded_pairs, has_cold_lists, model_sides
from nonconvex.estimators.params import ParamError, convert_argument, integer, number, optional
from nonconvex.local.factorization import history_block
from nonconvex.numerics.deterministic import choose_kernel
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.explain import Explanation, explain_row
from nonconvex.numerics.factorization.fold_in import Equation
from nonconvex.numerics.factorization.model import Side
from nonconvex.numerics.factorization.posterior import half_width

_TRAINING = {"userCol": "user", "itemCol": "item", "predictionCol": "prediction"}


def select_as_in_training(
    state: ModelState, params: FactorizationModelParams, dataset: DataFrame
) -> DataFrame:
    """Select ``user, item, rating`` and, if training was weighted, ``weight``."""
    check_frame("dataset", dataset)
    get = params.getOrDefault
    columns = {
        name: id_column(dataset, get(f"{name}Col"), f"{name}Col", from_arrow_type(ids.type))
        for name, ids in zip(("user", "item"), state.ids, strict=True)
    }
    columns["rating"] = rating_column(params, dataset)
    if get("weightCol") is not None:
        columns["weight"] = number_column(dataset, get("weightCol"), "weightCol")
    return dataset.select(*(column.alias(name) for name, column in columns.items()))


@explained()
def evaluate_model(
    state: ModelState,
    params: FactorizationModelParams,
    dataset: DataFrame,
    k: int,
    threshold: float | None,
    exclude: DataFrame | str | None,
) -> dict[str, float]:
    """Measure predictions and top-k lists; see ``MatrixFactorizationModel.evaluate``."""
    k, pairs = convert_argument("k", k, integer(1)), excluded_pairs(state, params, exclude)
    threshold = convert_argument("threshold", threshold, optional(number()))
    implicit = params.getOrDefault("implicitPrefs")
    ratings = select_as_in_training(state, params, dataset)
    users, items = model_sides(state, params, dataset.sparkSession)
    kernel = choose_kernel(params.getOrDefault("kernel"))
    with persisted(ratings):
        rows = _count(ratings)
        named = params.copy({params.getParam(role): name for role, name in _TRAINING.items()})
        predicted = add_predictions(state, named, ratings)
        if implicit:
            predicted = predicted.withColumn("rating", (F.col("rating") > 0).cast("double"))
        errors = evaluate_ratings(predicted).overall
        if threshold is not None:
            relevant = ratings.where(F.col("rating") >= threshold)
        else:
            relevant = ratings.where("rating > 0") if implicit else ratings
        lists = retrieval(
            relevant.select(F.col("user").alias("id"), F.col("item").alias("other")),
            Ranker(float(state.held.alpha), users.rows, items.rows, k, None, kernel),
            users,
            items,
            exclude=pairs,
            unknown=has_cold_lists(params),
        )
    return {
        "rmse": errors.rmse["prediction"],
        "mae": errors.mae["prediction"],
        "ratings": errors.ratings,
        "unpredicted": rows - errors.ratings,
        **lists,
        "k": k,
    }


def _count(ratings: DataFrame) -> int:
    """Return the number of ratings, all of which must be numbers."""
    number = F.col("rating").isNotNull() & ~F.isnan("rating")
    counts = ratings.agg(F.count("*"), F.count_if(~number)).collect()[0]
    if counts[1]:
        raise RatingsError(
            f"{counts[1]:,} of the {counts[0]:,} ratings to evaluate with are null or NaN; "
            "drop them"
        )
    return int(counts[0])


def rating_model(
    state: ModelState,
    params: FactorizationModelParams,
    ids: Ids,
    *,
    clip: bool,
    intervals: bool = False,
) -> RatingModel | None:
    """Return the parts of a model that predict held-out ratings, whose indices are in `ids`.

    With `intervals`, those of ratings too, if the Params name any and the ids are the same.  None
    if the executors hold the rows, which then stay there.
    """
    get, kept, least = params.getOrDefault, state.posterior, state.ridge_posterior
    same = all(map(pa.ChunkedArray.equals, state.ids, ids))
    intervals &= same and get("predictionIntervalCol") is not None and get("predictionNoise")
    if isinstance(state.held, ShardedFactors) and not intervals:
        return None
    model = RatingModel(
        state.factors,
        None if same else state.ids,
        (state.summary.minimum, state.summary.maximum) if clip else None,
        get("coldStartStrategy") == "bias",
        half_width=half_width(get("predictionInterval")),
    )
    if intervals and kept is not None:
        arguments = (kept.users, kept.items, kept.user_precision)
        return model._replace(spread=kept.spread(), arguments=arguments)
    if intervals and least is not None:
        spread = state.ridge_spread._replace(of_ratings=True)
        return model._replace(spread=spread, arguments=(*state.factors[1:], least.measured))
    return model


# Explanations


@explained()
def explain_prediction(
    state: ModelState,
    params: FactorizationModelParams,
    user: Any,
    item: Any,
    history: DataFrame | None,
) -> Explanation:
    """Split a prediction into its terms; see ``MatrixFactorizationModel.explain``."""
    if params.getOrDefault("ensemble"):
        raise ParamError(
            "an ensemble predicts the mean of several models, which no one row of the user "
            "explains; fit with ensemble=False"
        )
    places = [
        _place(role, value, ids)
        for role, value, ids in zip(("user", "item"), (user, item), state.ids, strict=True)
    ]
    items: list[Any] = []
    block = None
    if places[0] >= 0:
        items, block = _history(state, params, user, history)
    equation = Equation.of(state.summary.ridge(Side.USERS), params.getOrDefault)
    pair, posterior = (places[0], places[1]), state.posterior or state.ridge_posterior
    return explain_row((user, item), pair, state.factors, posterior, equation, items, block)


def _history(
    state: ModelState, params: FactorizationModelParams, user: Any, history: DataFrame | None
) -> tuple[list[Any], RatingBlock | None]:
    """Return the known items that a user has rated, and these ratings as a block of one row."""
    histories = state.histories
    if history is not None:
        check_frame("history", history, "a DataFrame or None")
        histories = (select_as_in_training(state, params, history),)
    found = None
    for ratings in histories:
        found = ratings.where(F.col("user") == F.lit(user)).drop("user").toArrow()
        if len(found):
            break
    if history is None and state.training_pairs is None and not found:
        raise ParamError(
            f"an explanation needs the ratings of user {user!r}, which a loaded model does not "
            "have; pass history=a DataFrame of them"
        )
    if not found:
        return [], None
    return history_block(found, state.ids.items)


def _place(role: str, value: Any, ids: pa.ChunkedArray) -> int:
    """Return the dense index of an id, -1 for one that is not there."""
    refusal = f"{role} must be an id as in training, of type {ids.type}, got {value!r}"
    try:
        wanted = pa.scalar(value, ids.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        raise ParamError(refusal) from None
    if value is None or wanted.as_py() != value or isinstance(value, bool):  # 9.5 as an integer
        raise ParamError(refusal)
    found = pc.index_in(pa.array([wanted]), value_set=ids)[0].as_py()
    return -1 if found is None else int(found)
