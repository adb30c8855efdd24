"""Errors of predictions over labelled rows, in one pass on the executors."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import Broadcast
from pyspark.sql import DataFrame

from nonconvex.distributed.columns import TOTALS, batch_of, totals_in
from nonconvex.distributed.data.examples import (
    ExampleColumns,
    ExampleSchema,
    ExamplesError,
    raise_rejected,
    read_examples,
    select_examples,
)
from nonconvex.distributed.network.predict import HandleInvalid, Scorer
from nonconvex.numerics.deterministic import Totals
from nonconvex.numerics.metrics import (
    add_classification,
    add_regression,
    classification_errors,
    regression_errors,
)

_Batches = Iterator[pa.RecordBatch]

_UNUSABLE = ("features.null", "features.finite")  # reasons that handle_invalid may leave out


def evaluate_network(
    frame: DataFrame,
    columns: ExampleColumns,
    scorer: Broadcast[Scorer],
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
        _check_kind(selected, columns, classes.kind)
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
        errors = regression_errors(totals, _names(columns, schema.targets))
    return {**errors, "unpredicted": unpredicted}


def _errors(
    scorer: Broadcast[Scorer], schema: ExampleSchema, thresholds: Sequence[float] | None
) -> Callable[[_Batches], _Batches]:
    def errors(batches: _Batches) -> _Batches:
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


def _check_kind(selected: DataFrame, columns: ExampleColumns, kind: str) -> None:
    found = selected.schema["label"].dataType.simpleString()
    if found != kind:
        raise ExamplesError(
            f"labelCol={columns.label!r}: the labels are {found} and those of the model {kind}; "
            "cast them"
        )


def _names(columns: ExampleColumns, targets: int) -> list[str]:
    if not isinstance(columns.label, str):
        return list(columns.label)
    if targets == 1:
        return [columns.label]
    return [f"{columns.label}[{number}]" for number in range(targets)]
