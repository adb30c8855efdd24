"""Folding in: new or changed rows of one side, given the other side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BinaryType, StructField, StructType

from nonconvex.distributed.data.ids import default_blocks
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.factorization.predict import index_table, with_index
from nonconvex.distributed.runtime import Batches, Task, Value, begin_task
from nonconvex.local.factorization import merge_folded, refuse_unusable, solve_ratings
from nonconvex.numerics import Floats
from nonconvex.numerics.factorization.fold_in import Equation, FoldInParts, Solve, folded, unfolded
from nonconvex.numerics.factorization.model import Side


def fold_in(
    ratings: DataFrame,
    side: Side,
    model: FoldInParts,
    ids: Ids,
    shared: Sequence[Value[Floats]],
    equation: Equation,
) -> tuple[FoldInParts, Ids]:
    """Solve the rows of one side that have ratings, or draw them in every kept sample.

    The rows of both sides are `shared`, and of all samples if there are samples.  Takes all ratings
    of each such row, as ``user, item, rating double[, weight double]``, with ids in the types of
    the model.  One shuffle brings the ratings of a row together; a task holds at most two million
    ratings, see `nonconvex.distributed.data.ids.default_blocks`.
    """
    rows, solve = unfolded(side, model, shared[side.other.number], equation)
    own, other, noun = side.number, side.other.number, side.other.singular
    named = ratings.withColumnsRenamed({side.singular: "id", noun: "other"})
    indexed = with_index(named, F.col("other"), index_table(ratings, ids[other]), "column")
    used = _check(indexed, noun)
    placed = indexed.where("column is not null").repartition(
        default_blocks(ratings.sparkSession, used), "id"
    )
    id_type = indexed.schema["id"].dataType
    schema = StructType([StructField("ids", ArrayType(id_type)), StructField("rows", BinaryType())])
    parts = placed.mapInArrow(_task(solve, rows.dtype.type), schema).toArrow()
    new = pa.chunked_array([part.flatten() for part in parts["ids"].chunks])
    solved = np.concatenate([np.frombuffer(part, rows.dtype) for part in parts["rows"].to_pylist()])
    merged, whole = merge_folded(side, ids[own], rows, new, solved.reshape(len(new), -1))
    return folded(side, model, whole), ids._replace(**{side.value: merged})


def _check(indexed: DataFrame, noun: str) -> int:
    """Refuse unusable ratings, log how many are ignored, and return how many are used."""
    bad = F.col("id").isNull() | F.col("other").isNull()
    for name in ("rating", "weight"):
        if name in indexed.columns:
            number = F.coalesce(F.abs(name), F.lit(float("nan")))
            bad |= ~(number < float("inf"))  # NaN is greater
    if "weight" in indexed.columns:
        bad |= F.col("weight") < 0
    unknown = F.col("column").isNull()
    counts = indexed.agg(F.count("*"), F.count_if(bad), F.count_if(unknown)).collect()
    [(total, unusable, ignored)] = counts
    refuse_unusable(total, unusable, ignored, noun)
    return int(total - ignored)


def _task(solve: Solve, dtype: type[np.floating]) -> Task:
    """Return a task that solves for the rows of a partition."""

    def task(batches: Batches) -> Batches:
        begin_task()
        held = [batch for batch in batches if len(batch)]
        if not held:
            return
        names, solved = solve_ratings(pa.Table.from_batches(held), solve, dtype)
        ids = pa.ListArray.from_arrays(pa.array([0, len(solved)], pa.int32()), names)
        rows = pa.array([solved.tobytes()])
        yield pa.RecordBatch.from_arrays([ids, rows], ["ids", "rows"])

    return task
