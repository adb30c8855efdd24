"""Predictions of networks on dataframes, and their errors, summed exactly on the executors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml.functions import array_to_vector
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from nonconvex.distributed.columns import TOTALS, batch_of, free_name, totals_in
from nonconvex.distributed.data.examples import (
    ExampleColumns,
    ExampleSchema,
    ExamplesError,
    raise_rejected,
    read_examples,
    read_vectors,
    select_examples,
    select_vectors,
)
from nonconvex.distributed.runtime import Batches, Task, Value, begin_task
from nonconvex.local.network import target_names
from nonconvex.numerics import Bools, Doubles, Floats
from nonconvex.numerics.deterministic import Totals
from nonconvex.numerics.metrics import (
    add_classification,
    add_regression,
    classification_errors,
    regression_errors,
)
from nonconvex.numerics.network.model import Scorer, raw_predictions

HandleInvalid = Literal["error", "skip", "keep"]

_FIELDS = ("prediction", "label", "probability", "raw", "refused")
_UNUSABLE = ("features.null", "features.finite")  # reasons that handle_invalid may leave out


class OutputColumns(NamedTuple):
    """Names of the columns of predictions; an empty name leaves a column out."""

    prediction: str = "prediction"  # the number predicted, or the class, which must be a number
    label: str = ""  # the class as it was in training
    probability: str = ""  # a vector with an entry for each class
    raw: str = ""  # its logits; (−z, z) for a network with one output


def score(
    frame: DataFrame,
    features: str | Sequence[str],
    scorer: Value[Scorer],
    outputs: OutputColumns,
    *,
    handle_invalid: HandleInvalid = "error",
    thresholds: Sequence[float] | None = None,
) -> DataFrame:
    """Add the columns of `outputs` to a dataframe; the broadcast must outlive its computation.

    A prediction of a class is a double, as the evaluators of MLlib want it: the label, or where
    labels were strings its index among them.  A prediction of one number is a double; of several,
    an array of doubles.  A row with null, NaN or infinite features makes the query fail ("error"),
    is left out ("skip") or has null predictions ("keep").  Raises ColumnError if a column is
    missing or of a wrong type.
    """
    about = scorer.value
    inputs = select_vectors(frame, features, "featuresCol")
    names = repr(features) if isinstance(features, str) else f"[{features[0]!r}, …]"
    width, several = about.network.layers[0], about.network.layers[-1] > 1

    kind = "array<double>" if about.classes is None and several else "double"
    label = "string" if about.classes is None else about.classes.kind

    def scored(column: pa.Array) -> pa.Array:
        begin_task()
        vectors, refuse = read_vectors(column, width), partial(_refusal, (kind, label), len(column))
        wrong = (vectors.lengths != width) & (vectors.lengths >= 0)
        if wrong.any():
            return refuse(
                f"featuresCol={names} has {vectors.lengths[wrong][0]} features in some rows, "
                f"and the model was trained on {width}; give it the columns of training"
            )
        invalid = ~vectors.finite
        if handle_invalid == "error" and invalid.any():
            return refuse(
                f"featuresCol={names} is null, NaN or infinite in some rows; fill them, or set "
                'handleInvalid to "skip" or "keep"'
            )
        x = np.where(invalid[:, None], 0.0, vectors.values)
        return _answer(scorer.value, x, invalid, thresholds)

    # pyspark tells the kind of function by its annotations, which its own type stubs do not know.
    declare: Any = arrow_udf
    vectors_of = "probability array<double>, raw array<double>"
    schema = f"prediction {kind}, label {label}, {vectors_of}, refused string"
    function = declare(scored, f"struct<{schema.replace(' ', ':').replace(',:', ',')}>")
    if handle_invalid == "skip":
        function = function.asNondeterministic()  # or the filter would compute it a second time
    name = free_name("scored", frame.columns)
    table = frame.withColumn(name, function(inputs))
    if handle_invalid == "skip":
        table = table.where(F.col(name).isNotNull())
    columns: dict[str, Column] = {}
    refused = F.col(name).getField("refused")
    for field, output in outputs._asdict().items():
        if output and (field == "prediction" or about.classes is not None):
            value = F.col(name).getField(field)
            if field in ("probability", "raw"):  # array_to_vector fails on null
                value = F.when(value.isNotNull(), array_to_vector(value))
            columns[output] = F.when(refused.isNull(), value).otherwise(F.raise_error(refused))
    return table.withColumns(columns).drop(name)


def _answer(
    scorer: Scorer, x: Doubles, invalid: Bools, thresholds: Sequence[float] | None
) -> pa.Array:
    network, z = scorer.network, scorer.logits(x)
    probability = raw = None
    label = pa.nulls(len(x), pa.string())
    if scorer.classes is None:
        prediction = _lists(z, None) if z.shape[1] > 1 else pa.array(z[:, 0])
    else:
        index = network.predicted(z, thresholds)
        label = pa.array(scorer.classes.values).take(pa.array(index))
        prediction = label if scorer.classes.kind == "double" else pa.array(index.astype(float))
        probability, raw = network.probabilities(z), raw_predictions(z)
    probabilities, logits = (_lists(rows, len(x)) for rows in (probability, raw))
    fields = [prediction, label, probabilities, logits, pa.nulls(len(x), pa.string())]
    return pa.StructArray.from_arrays(fields, _FIELDS, mask=pa.array(invalid))


def _refusal(kinds: Sequence[str], rows: int, sentence: str) -> pa.Array:
    """Return rows with an error message, which the plan raises without a traceback of Python."""
    numbers = pa.list_(pa.float64())
    of_kind = {"string": pa.string(), "double": pa.float64(), "array<double>": numbers}
    types = [*(of_kind[kind] for kind in kinds), numbers, numbers]
    nothing = [pa.nulls(rows, one) for one in types]
    return pa.StructArray.from_arrays([*nothing, pa.array([sentence] * rows)], _FIELDS)


def _lists(rows: Floats | None, count: int | None) -> pa.Array:
    """Return a list for each row, or nulls."""
    if rows is None:
        return pa.nulls(count, pa.list_(pa.float64()))
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(rows.ravel()))


def evaluate_network(
    frame: DataFrame,
    columns: ExampleColumns,
    scorer: Value[Scorer],
    *,
    handle_invalid: HandleInvalid = "error",
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Compare predictions with labels.

    Sums are exact and rounded once, so errors depend neither on the order of the rows nor on their
    partitions.  Returns the dict of `classification_errors` or `regression_errors`, and
    ``unpredicted``, the number of rows with null, NaN or infinite features, which are left out
    unless `handle_invalid` is "error".  Raises ColumnError, ExamplesError or EvaluationError if
    columns or rows cannot be used, or there are none.
    """
    about = scorer.value
    network, classes = about.network, about.classes
    selected = select_examples(frame, columns, classify=classes is not None)
    schema = ExampleSchema(0, 0, network.layers[0], network.layers[-1], classes)
    if classes is not None:
        found = selected.schema["label"].dataType.simpleString()
        if found != classes.kind:
            raise ExamplesError(
                f"labelCol={columns.label!r}: the labels are {found} and those of the model "
                f"{classes.kind}; cast them"
            )
    fields = f"{TOTALS}, reasons string"
    collected = selected.mapInArrow(_errors(scorer, schema, thresholds), fields).toArrow()
    reasons: Counter[str] = Counter()
    for text in collected["reasons"].to_pylist():
        reasons.update(json.loads(text or "{}"))
    rows, unknown = reasons.pop("rows", 0), reasons.pop("changed", 0)
    unpredicted = 0
    if handle_invalid != "error":
        unpredicted = sum(reasons.pop(reason, 0) for reason in _UNUSABLE)
    raise_rejected(reasons, columns, schema._replace(rows=rows), "evaluation")
    if unknown and classes is not None:
        raise ExamplesError(
            f"labelCol={columns.label!r} is null or none of the model's {len(classes.values)} "
            f"labels in {unknown:,} of {rows:,} rows; leave these out, or train with such labels"
        )
    totals = totals_in(collected.filter(pc.is_null(collected["reasons"])))
    if classes is not None:
        errors = classification_errors(totals, classes.values)
    else:
        errors = regression_errors(totals, target_names(columns.label, schema.targets))
    return {**errors, "unpredicted": unpredicted}


def _errors(
    scorer: Value[Scorer], schema: ExampleSchema, thresholds: Sequence[float] | None
) -> Task:
    def errors(batches: Batches) -> Batches:
        about = scorer.value
        totals: Totals = {}
        reasons: Counter[str] = Counter()
        for batch in filter(len, batches):
            examples, refused = read_examples(pa.Table.from_batches([batch]), schema)
            reasons.update(refused)
            reasons["rows"] += len(batch)
            z = about.logits(examples.x)
            if about.classes is None:
                add_regression(totals, examples.y, z, examples.weight)
                continue
            loss, _ = about.network.output.evaluate(z, examples.y)
            predicted = about.network.predicted(z, thresholds)
            k = len(about.classes.values)
            add_classification(totals, examples.y, predicted, loss, examples.weight, k)
        sums = batch_of(totals)
        yield sums.append_column("reasons", pa.nulls(len(sums), pa.string()))
        said = pa.RecordBatch.from_pylist([{"reasons": json.dumps(reasons)}])
        nothing = [pa.nulls(1, field.type) for field in sums.schema]
        yield pa.RecordBatch.from_arrays(
            [*nothing, said["reasons"]], [*sums.schema.names, "reasons"]
        )

    return errors
