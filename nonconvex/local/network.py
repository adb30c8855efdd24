"""A network without Spark, and the part of reading that Spark's has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nonconvex.local.files import Directory
from nonconvex.local.model_tables import ModelError, finite_in, params_of, read_ordered
from nonconvex.numerics import Doubles, Floats
from nonconvex.numerics.deterministic import Totals
from nonconvex.numerics.metrics import (
    add_classification,
    add_regression,
    classification_errors,
    regression_errors,
)
from nonconvex.numerics.network.model import Classes, Network, NetworkError, Scorer, Standardization

_PARAMETERS = {
    "index": "int",
    "layer": "int",
    "unit": "int",
    "weights": "array<float> array<double>",
}
_STANDARDIZATION = {"index": "int", "mean": "double", "scale": "double"}

ReadRows = Callable[[str, Mapping[str, str], int], pa.Table]
"""A table of a model by its name, the types that its columns may have, and its number of rows."""


def scorer_of(metadata: Mapping[str, Any], path: str, read: ReadRows) -> Scorer:
    """Read a network; raise `ModelError` if its tables are not complete.

    Metadata that lack a key may raise KeyError.
    """
    about: dict[str, Any] = dict(metadata["network"])
    about |= {name: tuple(about[name]) for name in ("layers", "activations")}
    network = Network(**about)
    classes = metadata["classes"]
    if (classes is None) != (network.classes is None):
        raise KeyError("classes")
    if classes is not None:
        classes = Classes(classes["kind"], tuple(classes["values"]))
        if len(classes.values) != network.classes:
            raise KeyError("classes")
    dtype = metadata["precision"]
    rows = sum(below + network.bias for below in network.layers[:-1])
    weights = read("weights", _PARAMETERS, rows)["weights"].combine_chunks()
    theta: Floats = finite_in(f"{path}/weights", weights.flatten())
    if len(theta) != network.size or theta.dtype != dtype:
        raise ModelError(
            f"{path}/weights holds {len(theta):,} parameters of {theta.dtype} and not the "
            f"{network.size:,} of {dtype} of the model; save the model again, or train it"
        )

    def standardization(name: str, width: int) -> Standardization:
        table, place = read(name, _STANDARDIZATION, width), f"{path}/{name}"
        return Standardization(finite_in(place, table["mean"]), finite_in(place, table["scale"]))

    of_features = standardization("standardization", network.layers[0])
    targets = standardization("targets", network.layers[-1]) if metadata["targets"] else None
    return Scorer(network, theta, of_features, classes, targets)


def target_names(label: str | Sequence[str], targets: int) -> list[str]:
    """Return the name of each target: its column, or its place in the column of all."""
    if not isinstance(label, str):
        return list(label)
    return [label] if targets == 1 else [f"{label}[{number}]" for number in range(targets)]


@dataclass(frozen=True)
class LocalNetwork:
    """A network read by `nonconvex.local.load`.

    Features are an array of shape (m, d), or whatever ``pyarrow.table`` takes with the columns of
    training: the Param ``featuresCol`` names one of lists, or several of numbers.
    """

    params: Mapping[str, Any]
    scorer: Scorer
    summary: Mapping[str, Any]

    @classmethod
    def of(cls, directory: Directory, metadata: Mapping[str, Any]) -> LocalNetwork:
        """Read the tables of a model."""

        def read(name: str, types: Mapping[str, str], rows: int) -> pa.Table:
            return read_ordered(directory, name, types, rows)

        scorer = scorer_of(metadata, directory.path, read)
        return cls(params_of(metadata), scorer, metadata["summary"])

    def __repr__(self) -> str:
        """Return the layers of the network."""
        return f"LocalNetwork(layers={list(self.scorer.network.layers)})"

    @property
    def labels(self) -> list[Any] | None:
        """The classes in the order of the outputs; None for a regression."""
        classes = self.scorer.classes
        return None if classes is None else list(classes.values)

    def predict(self, features: Any) -> Any:
        """Predict the class of each row, (m,), or its number (m,), or its numbers (m, d)."""
        z, network = self._logits(features), self.scorer.network
        if self.scorer.classes is None:
            return z if z.shape[1] > 1 else z[:, 0]
        return np.array(self.scorer.classes.values)[network.predicted(z, self._thresholds)]

    def probabilities(self, features: Any) -> Floats:
        """Return the probability of each class, of shape (m, classes)."""
        if self.scorer.classes is None:
            raise NetworkError("probabilities are those of a classification; call predict")
        return self.scorer.network.probabilities(self._logits(features))

    def evaluate(self, features: Any, labels: Any, weights: Any = None) -> dict[str, Any]:
        """Measure predictions, with the metrics of ``evaluate`` of the models on Spark.

        Parameters
        ----------
        labels : sequence of m labels, or array of shape (m,) or (m, d) of targets
        weights : sequence of m numbers ≥ 0, optional
        """
        z, totals = self._logits(features), Totals()
        weight = None if weights is None else np.asarray(weights, float)
        network, classes = self.scorer.network, self.scorer.classes
        if classes is None:
            y = np.asarray(labels, float).reshape(len(z), -1)
            add_regression(totals, y, z, weight)
            return regression_errors(totals, target_names(self.params["labelCol"], z.shape[1]))
        given = pa.array(labels)
        if classes.kind == "double":
            given = given.cast(pa.float64())
        index = pc.index_in(given, value_set=pa.array(classes.values))
        if index.null_count:
            raise NetworkError(
                f"labels are null or none of the model's {len(classes.values)} labels in "
                f"{index.null_count:,} of {len(z):,} rows; leave these out"
            )
        y = index.to_numpy()
        loss, _ = network.output.evaluate(z, y)
        predicted = network.predicted(z, self._thresholds)
        add_classification(totals, y, predicted, loss, weight, len(classes.values))
        return classification_errors(totals, classes.values)

    @property
    def _thresholds(self) -> Any:
        return self.params.get("thresholds")

    def _logits(self, features: Any) -> Doubles:
        x, width = self._matrix(features), self.scorer.network.layers[0]
        if x.ndim != 2 or x.shape[1] != width:
            raise NetworkError(f"features must be of shape (m, {width}), got {x.shape}")
        wrong = ~np.isfinite(x).all(axis=1)
        if wrong.any():
            raise NetworkError(
                f"features are null, NaN or infinite in {np.count_nonzero(wrong):,} of "
                f"{len(x):,} rows; fill them, or leave these rows out"
            )
        return self.scorer.logits(x)

    def _matrix(self, features: Any) -> Doubles:
        if isinstance(features, np.ndarray | list | tuple):
            return np.asarray(features, float)
        table = features if isinstance(features, pa.Table) else pa.table(features)
        names = self.params["featuresCol"]
        absent = {*([names] if isinstance(names, str) else names)} - {*table.column_names}
        if absent:
            raise NetworkError(
                f"there is no column {min(absent)!r} of featuresCol: the columns are "
                f"{', '.join(table.column_names) or 'none'}"
            )
        if isinstance(names, str):
            return np.array(table[names].to_pylist(), float)
        return np.column_stack([table[name].cast(pa.float64()).to_numpy() for name in names])
