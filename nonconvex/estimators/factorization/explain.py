"""Explanation of one prediction: its terms, and what each rating of the user contributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.columns import check_frame
from nonconvex.estimators.factorization.evaluate import select_as_in_training
from nonconvex.estimators.factorization.params import FactorizationModelParams
from nonconvex.estimators.factorization.predict import ModelState
from nonconvex.estimators.params import ParamError
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.explain import Explanation, RowParams, explain_row
from nonconvex.numerics.factorization.model import Side


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
    get = params.getOrDefault
    known = RowParams(
        state.summary.ridge(Side.USERS),
        biases=get("fitBiases"),
        nonnegative=get("nonnegative"),
        confidence=get("confidence") if get("implicitPrefs") else None,
    )
    pair = (places[0], places[1])
    return explain_row((user, item), pair, state.factors, state.posterior, known, items, block)


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
    known = pc.index_in(found["item"], value_set=state.ids.items)
    found, columns = found.filter(known.is_valid()), known.drop_null()
    if not len(found):
        return [], None
    weights = found["weight"].to_numpy() if "weight" in found.column_names else None
    block = RatingBlock.from_triples(
        np.zeros(len(found), np.int32), columns.to_numpy(), found["rating"].to_numpy(), weights
    )
    return state.ids.items.take(pa.array(block.columns)).to_pylist(), block


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
