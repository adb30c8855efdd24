"""Standard deviations of predictions for pairs of ids: what they depend on is broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from nonconvex.numerics.factorization.posterior import Spread
from nonconvex.numerics.factorization.ridge_posterior import RidgeSpread

__all__ = ["add_uncertainty", "deviations"]


def deviations(
    spread: Spread | RidgeSpread,
    rows: Sequence[Broadcast[NDArray[np.floating]]],
    more: Broadcast[Any] | None,
    user_index: Column,
    item_index: Column,
) -> Column:
    """Return the standard deviation of predictions, or of ratings, of two columns of indices.

    Parameters
    ----------
    spread : Spread or RidgeSpread
        Of samples, or of a minimum.
    rows : two broadcast float arrays of shape (m, S (1 + K)), or (m, 1 + K) of a minimum
        Those of users and of items, of all samples side by side.
    more : broadcast, optional
        What it takes beside them: ω of the users in all samples, of shape (n_u, S), for
        deviations of ratings; `Measured` of a minimum.
    user_index, item_index : Column
        Of int, null for an unknown id.
    """

    def deviate(user: pa.Array, item: pa.Array) -> pa.Array:
        pairs = [index.fill_null(-1).to_numpy(zero_copy_only=False) for index in (user, item)]
        known: Any = None if more is None else more.value
        x, z = (side.value for side in rows)
        return pa.array(spread.deviations(x, z, known, *pairs))

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
