"""Predictions of a network, made where the rows are, with broadcast parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.ml.functions import array_to_vector
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from nonconvex.distributed.data.examples import Classes, read_vectors, select_vectors
from nonconvex.distributed.runtime import freeze_gc_once
from nonconvex.numerics.deterministic import one_thread_per_product
from nonconvex.numerics.network.model import Network, forward
from nonconvex.numerics.network.standardize import Standardization

__all__ = ["HandleInvalid", "OutputColumns", "Scorer", "raw_predictions", "score"]

HandleInvalid = Literal["error", "skip", "keep"]

_FIELDS = ("prediction", "probability", "raw", "refused")
_ROWS_AT_A_TIME = 1024  # so that the layers of a wide network stay small


class OutputColumns(NamedTuple):
    """What to call predictions; an empty name leaves the column out.

    Attributes
    ----------
    prediction : str
        The class, or the number predicted.
    probability, raw : str
        Vectors with an entry for each class: probabilities, and the logits they come from.  A
        network with one output has the logits (−z, z).  For a regression there are none.
    """

    prediction: str = "prediction"
    probability: str = ""
    raw: str = ""


@dataclass(frozen=True)
class Scorer:
    """A trained network with all that its predictions need; broadcast it once for many uses.

    Parameters
    ----------
    network : Network
    theta : float array of shape (p,)
        Its dtype is the dtype of the arithmetic.
    standardization : Standardization
    classes : Classes or None
        None for a regression.
    targets : Standardization or None
        What the numbers to predict were standardized with in training.
    """

    network: Network
    theta: NDArray[np.floating]
    standardization: Standardization
    classes: Classes | None = None
    targets: Standardization | None = None

    def logits(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return z⁽ᴸ⁾ of shape (m, d_L), in the units of the targets, for features as they are."""
        parts: list[NDArray[np.floating]] = [np.empty((0, self.network.layers[-1]))]
        with one_thread_per_product(), np.errstate(over="ignore"):
            for start in range(0, len(x), _ROWS_AT_A_TIME):
                rows = self.standardization.apply(
                    x[start : start + _ROWS_AT_A_TIME], self.theta.dtype
                )
                parts.append(forward(self.network, self.theta, rows)[-1])
        z = np.concatenate(parts).astype(np.float64)
        return z if self.targets is None else self.targets.invert(z)


def score(
    frame: DataFrame,
    features: str | Sequence[str],
    scorer: Broadcast[Scorer],
    outputs: OutputColumns,
    *,
    handle_invalid: HandleInvalid = "error",
    thresholds: Sequence[float] | None = None,
) -> DataFrame:
    """Add predictions to a dataframe.

    Parameters
    ----------
    frame : DataFrame
    features : str or sequence of str
        One column of ml vectors or arrays, or a sequence of columns of numbers.
    scorer : Broadcast of Scorer
        Needed until the result has been computed.
    outputs : OutputColumns
    handle_invalid : "error", "skip" or "keep"
        What happens to a row with null, NaN or infinite features: the query fails, the row is
        left out, or its predictions are null.
    thresholds : sequence of float, optional
        Of the classes, see `nonconvex.numerics.network.model.Network.predicted`.

    Returns
    -------
    DataFrame
        All rows with the columns of `outputs`.  The prediction is

        * of a class: a string where the labels of training were strings, else a double, which
          is what the evaluators of MLlib take;
        * of one number: a double;
        * of several numbers: an array of doubles, which SQL and files of any kind can hold and
          take apart; no evaluator of MLlib takes vectors, so there is nothing a vector is for.

    Raises
    ------
    ColumnError
        If a column of features is missing or of a wrong type.

    Examples
    --------
    >>> frame = spark.read.parquet("flowers.parquet")
    >>> scorer = spark.sparkContext.broadcast(classifier.scorer)
    >>> score(frame, "features", scorer, OutputColumns()).first().prediction
    'setosa'
    >>> scorer.destroy()
    """
    about = scorer.value
    inputs = select_vectors(frame, features, "featuresCol")
    names = repr(features) if isinstance(features, str) else f"[{features[0]!r}, …]"
    width, several = about.network.layers[0], about.network.layers[-1] > 1

    kind = "double" if about.classes is None else about.classes.kind
    if about.classes is None and several:
        kind = "array<double>"

    def scored(column: pa.Array) -> pa.Array:
        freeze_gc_once()
        vectors = read_vectors(column, width)
        wrong = (vectors.lengths != width) & (vectors.lengths >= 0)
        if wrong.any():
            return _refusal(
                f"featuresCol={names} has {vectors.lengths[wrong][0]} features in some rows, "
                f"and the model was trained on {width}; give it the columns of training",
                kind,
                len(column),
            )
        invalid = ~vectors.finite
        if handle_invalid == "error" and invalid.any():
            return _refusal(
                f"featuresCol={names} is null, NaN or infinite in some rows; fill them, or set "
                'handleInvalid to "skip" or "keep"',
                kind,
                len(column),
            )
        x = np.where(invalid[:, None], 0.0, vectors.values)
        return _answer(scorer.value, x, invalid, thresholds)

    # pyspark tells the kind of function by its annotations, which its own type stubs do not know.
    declare: Any = arrow_udf
    schema = f"prediction {kind}, probability array<double>, raw array<double>, refused string"
    function = declare(scored, f"struct<{schema.replace(' ', ':').replace(',:', ',')}>")
    if handle_invalid == "skip":
        function = function.asNondeterministic()  # or the filter would compute it a second time
    name = _free(frame, "scored")
    table = frame.withColumn(name, function(inputs))
    if handle_invalid == "skip":
        table = table.where(F.col(name).isNotNull())
    columns: dict[str, Column] = {}
    refused = F.col(name).getField("refused")
    for field, output in outputs._asdict().items():
        if output and (field == "prediction" or about.classes is not None):
            value = F.col(name).getField(field)
            # array_to_vector fails on null.
            vector = F.when(value.isNotNull(), array_to_vector(value))
            columns[output] = _unless(refused, value if field == "prediction" else vector)
    return table.withColumns(columns).drop(name)


def _answer(
    scorer: Scorer,
    x: NDArray[np.float64],
    invalid: NDArray[np.bool_],
    thresholds: Sequence[float] | None,
) -> pa.Array:
    network, z = scorer.network, scorer.logits(x)
    probability = raw = None
    if scorer.classes is None:
        prediction = _lists(z, None) if z.shape[1] > 1 else pa.array(z[:, 0])
    else:
        labels = pa.array(scorer.classes.values)
        prediction = labels.take(pa.array(network.predicted(z, thresholds)))
        probability, raw = network.probabilities(z), raw_predictions(z)
    probabilities, logits = (_lists(rows, len(x)) for rows in (probability, raw))
    return pa.StructArray.from_arrays(
        [prediction, probabilities, logits, pa.nulls(len(x), pa.string())],
        _FIELDS,
        mask=pa.array(invalid),
    )


def _refusal(sentence: str, kind: str, rows: int) -> pa.Array:
    """Answer with a sentence, which the plan raises: an exception here would come with tracebacks.

    Parameters
    ----------
    sentence : str
    kind : str
        Of predictions, as Spark names it.
    rows : int
    """
    numbers = pa.list_(pa.float64())
    of_kind = {"string": pa.string(), "double": pa.float64(), "array<double>": numbers}[kind]
    nothing = [pa.nulls(rows, one) for one in (of_kind, numbers, numbers)]
    return pa.StructArray.from_arrays([*nothing, pa.array([sentence] * rows)], _FIELDS)


def _unless(refused: Column, value: Column) -> Column:
    """Raise what was refused, in the plan; or else this is the value."""
    return F.when(refused.isNull(), value).otherwise(F.raise_error(refused))


def raw_predictions(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an entry for each class: logits of shape (m, d_L), (−z, z) of a single one."""
    return np.hstack([-z, z]) if z.shape[1] == 1 else z


def _lists(rows: NDArray[np.floating] | None, count: int | None) -> pa.Array:
    """Return a row for each list; nulls, if there are none."""
    if rows is None:
        return pa.nulls(count, pa.list_(pa.float64()))
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.ravel()))


def _free(frame: DataFrame, name: str) -> str:
    while name in frame.columns:
        name += "_"
    return name
