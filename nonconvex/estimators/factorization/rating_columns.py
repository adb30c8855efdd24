"""The columns that a factor model is fitted on, under the names that a fit reads them by."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.columns import boolean_column, check_frame, id_column, number_column
from nonconvex.estimators.factorization.params import FactorizationParams

__all__ = ["select_ratings"]


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
