"""Sums of doubles that are exact, and so the same for any order, partitioning and machine."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.numerics.deterministic import Totals, add_exactly, fractions_of

__all__ = ["TOTALS", "batch_of", "exact_sums", "totals_in"]

TOTALS = "group bigint, exponent int, high bigint, low bigint"
"""The columns of totals on their way from a task to the driver."""

_LOW_BITS = 62  # of a total, which may have more bits than a long


def batch_of(totals: Totals) -> pa.RecordBatch:
    """Return the totals of a task as a batch with the columns of `TOTALS`."""
    low = 2**_LOW_BITS - 1
    rows = [(*key, q >> _LOW_BITS, q & low) for key, q in totals.items()]
    columns = list(zip(*rows, strict=True)) or [()] * 4
    types = (pa.int64(), pa.int32(), pa.int64(), pa.int64())
    arrays = [pa.array(column, of) for column, of in zip(columns, types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, ["group", "exponent", "high", "low"])


def totals_in(collected: pa.Table) -> Totals:
    """Put the totals of all tasks together."""
    totals: Totals = {}
    for row in collected.to_pylist():
        key = row["group"], row["exponent"]
        totals[key] = totals.get(key, 0) + (row["high"] << _LOW_BITS) + row["low"]
    return totals


def exact_sums(frame: DataFrame, column: str, by: str) -> dict[str, Fraction]:
    """Sum a column of doubles within groups, without rounding, in one job.

    Returns
    -------
    dict of str to Fraction
        The sum of each group; ``float`` of it is the double nearest to it.

    Examples
    --------
    >>> frame = spark.createDataFrame([(0.1, "train")] * 3, ["rating", "part"])
    >>> float(exact_sums(frame, "rating", by="part")["train"] / 3)
    0.1
    >>> (0.1 + 0.1 + 0.1) / 3
    0.10000000000000002
    """

    def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        of_groups: dict[str, Totals] = {}
        for batch in filter(len, batches):
            coded = pc.dictionary_encode(batch.column("by"))
            codes, values = np.asarray(coded.indices), batch.column("value").to_numpy()
            for code, name in enumerate(coded.dictionary.to_pylist()):
                members = values[codes == code]
                zeros = np.zeros(len(members), np.int64)
                add_exactly(of_groups.setdefault(name, {}), zeros, members)
        for name, totals in of_groups.items():
            sums = batch_of(totals)
            yield sums.append_column("by", pa.array([name] * len(sums), pa.string()))

    named = frame.select(F.col(column).alias("value"), F.col(by).alias("by"))
    collected = named.mapInArrow(add, f"{TOTALS}, by string").toArrow()
    names = collected["by"].unique().to_pylist()
    return {
        name: fractions_of(totals_in(collected.filter(pc.field("by") == name)))[0] for name in names
    }
