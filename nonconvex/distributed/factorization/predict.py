"""Predictions and their standard deviations for pairs of ids.

Indices are joined to the pairs and factors broadcast, or rows are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from nonconvex.distributed.runtime import Value, begin_task
from nonconvex.numerics import Floats, Ints
from nonconvex.numerics.deterministic import Kernel
from nonconvex.numerics.factorization.model import Factors, predict
from nonconvex.numerics.factorization.posterior import Spread
from nonconvex.numerics.factorization.ridge_posterior import RidgeSpread
from nonconvex.numerics.factorization.vb import VariationalSpread

# Up to this many ids, the table of indices is broadcast and nothing is shuffled.
_BROADCAST_IDS = 2_000_000

# A table of ids has at most so many places for each id, and these besides.
_SPARSE, _FEW = 16, 1 << 16


def index_table(frame: DataFrame, ids: pa.ChunkedArray) -> DataFrame:
    """Return ``id, index`` as a dataframe of the session of `frame`."""
    table = pa.table({"id": ids, "index": pa.array(np.arange(len(ids), dtype=np.int32))})
    indices = frame.sparkSession.createDataFrame(table)
    return F.broadcast(indices) if len(ids) <= _BROADCAST_IDS else indices


def with_index(frame: DataFrame, key: Column, indices: DataFrame, name: str) -> DataFrame:
    """Add the dense index of an id as column `name`, null for an id that has none."""
    return _joined(frame, key, indices, F.col("index"), name)


def with_row(frame: DataFrame, key: Column, factors: DataFrame, name: str) -> DataFrame:
    """Add the row of an id in ``id, bias, features`` as a struct `name`, null if it has none."""
    return _joined(frame, key, factors, F.struct("bias", "features"), name)


def _joined(frame: DataFrame, key: Column, table: DataFrame, value: Column, name: str) -> DataFrame:
    renamed = table.select(F.col("id").alias(f"{name}_id"), value.alias(name))
    return frame.join(renamed, on=key == renamed[f"{name}_id"], how="left").drop(f"{name}_id")


class IdTable(NamedTuple):
    """The dense indices of integer ids that lie close together, one for each possible id."""

    first: int  # the smallest id
    places: Ints  # (size + 1,): that of id ``first + k``, -1 for none, and a last -1

    @classmethod
    def of(cls, ids: pa.ChunkedArray) -> IdTable | None:
        """Make it of distinct ids in the order of their indices; None if it would not pay."""
        if not len(ids) or not pa.types.is_integer(ids.type):
            return None
        numbers = ids.to_numpy().astype(np.int64)
        first, last = int(numbers.min()), int(numbers.max())
        if last - first > _SPARSE * len(ids) + _FEW:
            return None
        places = np.full(last - first + 2, -1, np.int32)
        places[numbers - first] = np.arange(len(ids), dtype=np.int32)
        return cls(first, places)

    def indices(self, ids: pa.Array) -> Ints:
        """Return the index of each id, -1 for one that is unknown or null."""
        found = ids.fill_null(0).to_numpy().astype(np.int64, copy=False)
        offset = (found - self.first).view(np.uint64)  # a smaller id wraps to the end
        index = self.places[np.minimum(offset, len(self.places) - 1)]
        return np.where(ids.is_valid(), index, -1) if ids.null_count else index


def predictions(
    alpha: float,
    users: Value[Floats],
    items: Value[Floats],
    user: Column,
    item: Column,
    limits: tuple[float, float] | None,
    *,
    tables: Value[tuple[IdTable, IdTable]] | None = None,
    known_only: bool = False,
    kernel: Kernel = "numpy",
) -> Column:
    """Return α + β_u + β_i + γ_u·γ_i of two columns of indices, where null contributes 0.

    `users` and `items` are of shape (m, 1 + K).  With `tables` the columns have ids of users and of
    items, and with `known_only` the result is NaN if an index is null.
    """

    def score(user: pa.Array, item: pa.Array) -> pa.Array:
        begin_task()
        if tables is None:
            pairs = [places_of(index) for index in (user, item)]
        else:
            pairs = [of.indices(ids) for of, ids in zip(tables.value, (user, item), strict=True)]
        predicted = predict(Factors(alpha, users.value, items.value), *pairs, kernel=kernel)
        if limits is not None:
            predicted = np.clip(predicted, *limits)
        if known_only:
            predicted[np.minimum(*pairs) < 0] = np.nan
        return pa.array(predicted)

    return _doubles(score, user, item)


def row_predictions(
    alpha: float,
    rank: int,
    user_row: Column,
    item_row: Column,
    limits: tuple[float, float] | None,
    kernel: Kernel,
) -> Column:
    """Return what `predictions` does, to the bit, of two columns that `with_row` has added."""

    def score(user: pa.Array, item: pa.Array) -> pa.Array:
        begin_task()
        each = np.arange(len(user))
        factors = Factors(alpha, _rows(user, rank), _rows(item, rank))
        predicted = predict(factors, each, each, kernel=kernel)
        return pa.array(predicted if limits is None else np.clip(predicted, *limits))

    return _doubles(score, user_row, item_row)


def places_of(index: pa.Array) -> Ints:
    """Return indices, -1 for null."""
    places: Ints = index.fill_null(-1).to_numpy(zero_copy_only=False)
    return places


def _doubles(function: Callable[[pa.Array, pa.Array], pa.Array], *columns: Column) -> Column:
    # pyspark tells the kind of function by its annotations, which its own type stubs do not know.
    declare: Any = arrow_udf
    of_columns: Column = declare(function, "double")(*columns)
    return of_columns


def _rows(structs: pa.Array, rank: int) -> Floats:
    """Return structs of ``bias, features`` as an array of shape (n, 1 + K), 0 for null."""
    known = structs.is_valid()
    bias, features = structs.filter(known).flatten()
    x = np.zeros((len(structs), 1 + rank), bias.type.to_pandas_dtype())
    places = known.to_numpy(zero_copy_only=False)
    x[places, 0] = bias
    x[places, 1:] = features.flatten().to_numpy().reshape(len(bias), rank)
    return x


def deviations(
    spread: Spread | RidgeSpread | VariationalSpread,
    rows: Sequence[Value[Floats]],
    more: Value[Any] | None,
    user_index: Column,
    item_index: Column,
) -> Column:
    """Return the standard deviation of predictions, or of ratings, of two columns of indices.

    The broadcast `rows` of users and of items have shape (m, S (1 + K)), all samples side by side,
    or (m, 1 + K) of a minimum.  `more` is, for deviations of ratings, ω of the users in all
    samples, of shape (n_u, S); of a minimum it is `ResidualStats`.
    """

    def deviate(user: pa.Array, item: pa.Array) -> pa.Array:
        known: Any = None if more is None else more.value
        x, z = (side.value for side in rows)
        return pa.array(spread.deviations(x, z, known, places_of(user), places_of(item)))

    return _doubles(deviate, user_index, item_index)


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

    They are `std`, the deviation, and `interval`, of structs ``lower, upper``.
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
