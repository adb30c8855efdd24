"""Standard deviations of predictions for pairs of ids: kept samples are broadcast."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from nonconvex.numerics.posterior import Spread

__all__ = ["add_uncertainty", "deviations"]


def deviations(
    spread: Spread,
    users: Broadcast[NDArray[np.floating]],
    items: Broadcast[NDArray[np.floating]],
    steadiness: Broadcast[NDArray[np.floating]] | None,
    user_index: Column,
    item_index: Column,
) -> Column:
    """Return the standard deviation of predictions, or of ratings, of two columns of indices.

    Parameters
    ----------
    spread : Spread
    users, items : broadcast float arrays of shape (m, S (1 + K))
        The rows of all samples side by side.
    steadiness : broadcast float array of shape (n_u, S), optional
        ω of the users in all samples, for deviations of ratings.
    user_index, item_index : Column
        Of int, null for an unknown id.
    """

    def deviate(user: pa.Array, item: pa.Array) -> pa.Array:
        pairs = [index.fill_null(-1).to_numpy(zero_copy_only=False) for index in (user, item)]
        omega = None if steadiness is None else steadiness.value
        return pa.array(spread.deviations(users.value, items.value, omega, *pairs))

    declare: Any = arrow_udf
    deviated: Column = declare(deviate, "double")(user_index, item_index)
    return deviated


def add_uncertainty(
    frame: DataFrame,
    predicted: str,
    deviation: str,
    std: str | None,
    interval: str | None,
    half_width: float,
    limits: tuple[float, float] | None,
) -> DataFrame:
    """Put the columns that are asked for in the place of one of deviations.

    Parameters
    ----------
    frame : DataFrame
    predicted, deviation : str
        Its columns of predictions and of their deviations; the second is dropped.
    std, interval : str or None
        Columns to add: the deviation, and structs ``lower, upper``.
    half_width : float
        Deviations from the prediction to an end of the interval.
    limits : (float, float), optional
        The range that intervals are clipped to.
    """
    added = {}
    if std is not None:
        added[std] = F.col(deviation)
    if interval is not None:
        ends = [F.col(predicted) + sign * half_width * F.col(deviation) for sign in (-1, 1)]
        if limits is not None:
            least, most = map(F.lit, limits)
            ends = [F.greatest(least, F.least(most, end)) for end in ends]
        added[interval] = F.struct(ends[0].alias("lower"), ends[1].alias("upper"))
    return frame.withColumns(added).drop(deviation)
