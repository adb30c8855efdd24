"""What is given to a model must be a dataframe."""

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nonconvex.distributed.columns import ColumnError, batch_of, check_frame, resolved, totals_in
from nonconvex.numerics.deterministic import add_exactly, fractions_of


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (pd.DataFrame({"user": range(99)}), " of Spark, got one of pandas; give spark.createD"),
        (list(range(99)), r", got \[0, 1, 2.* \[\.\.\.\]$"),
        (None, ", got None$"),
    ],
)
def test_what_is_no_frame_is_named_in_one_line(value, message):
    with pytest.raises(ColumnError, match=f"^dataset must be a DataFrame{message}"):
        check_frame("dataset", value)


@pytest.mark.parametrize("name", ["*", "a.*"])
def test_what_stands_for_several_columns_is_none(spark, name):
    frame = spark.sql("SELECT named_struct('x', 1, 'y', 2) AS a, 3 AS b")
    with pytest.raises(ColumnError, match=r"^userCol='.*': there is no such column; there are "):
        resolved(frame, name, "userCol")


def test_sums_of_tasks_are_exact():
    rng = np.random.default_rng(7)
    groups = {
        "tenths": [0.1] * 10,
        "cancel": [1e300, 1.0, -1e300, 2.0**-60],
        "extremes": [1.7976931348623157e308, -1.7976931348623157e308, 5e-324, 3.5],
        "powers": [2.0**k for k in range(-1074, 1024, 31)] + [-0.0, 0.0],
        "neighbours": [np.nextafter(2.0**k, s) for k in range(-60, 60) for s in (-9e9, 9e9)],
        "random": list(rng.standard_normal(500) * 10.0 ** rng.integers(-50, 50, 500)),
    }
    tables = []
    for group, values in enumerate(groups.values()):
        for part in np.array_split(np.array(values, float), 3):
            totals = add_exactly({}, np.full(len(part), group), part)
            tables.append(pa.Table.from_batches([batch_of(totals)]))
    found = dict(
        zip(groups, fractions_of(totals_in(pa.concat_tables(tables))).values(), strict=True)
    )
    assert found == {name: sum(map(Fraction, map(float, v))) for name, v in groups.items()}
    assert float(found["random"]) == math.fsum(groups["random"])
