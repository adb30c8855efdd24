"""Predicted against actual: counts on a grid, in one pass, however many rows there are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

_FINE = 81  # most levels of the actual values
_FEW = 21  # most actual values with a row of tiles each
_PREDICTED = 30


class PredictedVsActual(NamedTuple):
    """2-D histogram of predicted against actual values.

    Attributes
    ----------
    counts : int64 array of shape (rows, columns)
        By actual value and by prediction; values outside are counted at the edge.
    actual, predicted : float64 arrays of shape (rows + 1,) and (columns + 1,)
        The edges of the tiles.
    """

    counts: NDArray[np.int64]
    actual: NDArray[np.float64]
    predicted: NDArray[np.float64]


class Reliability(NamedTuple):
    """Mean confidence and accuracy of predictions, in bins of confidence.

    Attributes
    ----------
    rows : int64 array of shape (b,)
    confidence, accuracy : float64 arrays of shape (b,)
        Means over the rows of each bin.
    """

    rows: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def agreement(
    frame: DataFrame, actual: Column, predicted: Column, least: float, most: float
) -> PredictedVsActual:
    """Count predictions by actual value and by prediction.

    Examples
    --------
    >>> predicted = spark.createDataFrame(
    ...     [(1.0, 1.2), (5.0, 4.1), (5.0, 4.9)], ["rating", "prediction"]
    ... )
    >>> met = agreement(predicted, F.col("rating"), F.col("prediction"), 1.0, 5.0)
    >>> met.counts.sum(axis=1)  # of ratings of 1 and of 5
    array([1, 2])
    """
    span = (most - least) or 1.0
    fine = _bin((actual - least) / span * (_FINE - 1) + F.lit(0.5), _FINE)
    coarse = _bin((predicted - least) / span * _PREDICTED, _PREDICTED)
    finite = predicted.isNotNull() & ~F.isnan(predicted) & actual.isNotNull()
    rows = (
        frame.where(finite)
        .groupBy(fine.alias("actual"), coarse.alias("predicted"))
        .agg(F.count("*").alias("rows"))
        .collect()
    )
    counts = np.zeros((_FINE, _PREDICTED), np.int64)
    for row in rows:
        counts[row.actual, row.predicted] = row.rows
    centres = least + span * np.arange(_FINE) / (_FINE - 1)
    taken = np.flatnonzero(counts.sum(axis=1))
    if 1 < len(taken) <= _FEW:  # such as ratings from 1 to 5
        counts, places = counts[taken], centres[taken]
        between = (places[1:] + places[:-1]) / 2
        outer = 2 * places[[0, -1]] - between[[0, -1]]
        edges = np.concatenate([outer[:1], between, outer[1:]])
    else:
        counts = counts.reshape(-1, 3, _PREDICTED).sum(axis=1)
        half = span / (_FINE - 1) / 2
        edges = np.linspace(least - half, most + half, len(counts) + 1)
    return PredictedVsActual(counts, edges, np.linspace(least, most, _PREDICTED + 1))


def reliability(frame: DataFrame, confidence: Column, right: Column, bins: int = 10) -> Reliability:
    """Compare how sure predictions are with how many of them are right.

    Examples
    --------
    >>> predicted = spark.createDataFrame(
    ...     [(0.5, False), (0.9375, True), (1.0, True)], ["confidence", "right"]
    ... )
    >>> reliability(predicted, F.col("confidence"), F.col("right"))
    Reliability(rows=array([1, 2]), confidence=array([0.5    , 0.96875]), accuracy=array([0., 1.]))
    """
    place = _bin(confidence * bins, bins)
    rows = (
        frame.where(confidence.isNotNull())
        .groupBy(place.alias("bin"))
        .agg(
            F.count("*").alias("rows"),
            F.avg(confidence).alias("confidence"),
            F.avg(right.cast("double")).alias("accuracy"),
        )
        .orderBy("bin")
        .collect()
    )
    return Reliability(
        np.array([row.rows for row in rows], np.int64),
        np.array([row.confidence for row in rows], np.float64),
        np.array([row.accuracy for row in rows], np.float64),
    )


def _bin(place: Column, bins: int) -> Column:
    return F.greatest(F.lit(0), F.least(F.lit(bins - 1), F.floor(place))).cast("int")
