"""What the page of a network needs of the data: aggregates, made by Spark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyspark.ml.functions import vector_to_array
from pyspark.sql import functions as F

from nonconvex.distributed.calibration import Agreement, agreement, reliability
from nonconvex.distributed.data.example_tables import ExampleTable
from nonconvex.network_baselines import NetworkModel
from nonconvex.neural_network import (
    MultilayerPerceptronClassificationModel,
    MultilayerPerceptronRegressionModel,
)
from nonconvex.reporting.circumstances import Circumstances
from nonconvex.reporting.network import NetworkRun

__all__ = ["gather_network"]

_SHOWN = 4  # targets that have a figure each
_PREDICTION, _PROBABILITY = "nonconvex_prediction", "nonconvex_probability"


def gather_network(
    model: NetworkModel,
    source: str,
    table: ExampleTable,
    comparison: Mapping[str, Any] | None,
    circumstances: Circumstances,
) -> NetworkRun:
    """Collect what a page shows of a run.

    Parameters
    ----------
    model : model of a network
    source : str
        What the examples were read from.
    table : ExampleTable
    comparison : mapping or None
        From `nonconvex.network_baselines.compare_network`.
    circumstances : Circumstances

    Examples
    --------
    >>> about = Circumstances("a", "", {"nonconvex": "1.0"}, {"train": 2.5}, None)
    >>> run = gather_network(classifier, "flowers.parquet", examples, None, about)
    >>> run.summary.layers, run.counts["train"]
    ([4, 8, 3], 111)
    """
    measured, agreements = None, []
    if comparison is not None:
        test = table.part("test")
        named: dict[Any, Any] = {model.predictionCol: _PREDICTION}
        if isinstance(model, MultilayerPerceptronClassificationModel):
            named |= {model.probabilityCol: _PROBABILITY, model.rawPredictionCol: ""}
            predicted = model.copy(named).transform(test)
            right = F.col(_PREDICTION) == F.col(f"`{table.columns.label}`")
            confidence = F.array_max(vector_to_array(F.col(_PROBABILITY)))
            measured = reliability(predicted, confidence, right)
        else:
            agreements = _agreements(model, named, table)
    return NetworkRun(
        summary=model.summary,
        source=source,
        counts=table.counts,
        reasons=table.reasons,
        comparison=comparison,
        reliability=measured,
        agreements=agreements,
        circumstances=circumstances,
    )


def _agreements(
    model: MultilayerPerceptronRegressionModel, named: dict[Any, Any], table: ExampleTable
) -> list[tuple[str, Agreement]]:
    labels = table.columns.label
    names = [labels] if isinstance(labels, str) else list(labels)
    predicted = model.copy(named).transform(table.part("test"))
    several = model.numTargets > 1
    found = []
    for number, name in enumerate(names[:_SHOWN]):
        actual = F.col(f"`{name}`").cast("double")
        prediction = F.col(_PREDICTION)[number] if several else F.col(_PREDICTION)
        limits = predicted.agg(F.min(actual), F.max(actual)).first()
        assert limits is not None
        found.append((name, agreement(predicted, actual, prediction, *limits)))
    return found
