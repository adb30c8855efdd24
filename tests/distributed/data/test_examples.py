"""Examples: vectors against the same one by one, which rows can be used, how they are split."""

import numpy as np
import pyarrow as pa
import pytest
from pyspark.ml.linalg import Vectors

from nonconvex.distributed.columns import ColumnError
from nonconvex.distributed.data.examples import (
    ExampleColumns,
    ExamplesError,
    ExampleTable,
    InvalidRowPolicy,
    feature_columns,
    read_example_table,
    read_vectors,
    take_examples,
)
from nonconvex.distributed.data.sources import Source, SourceError
from nonconvex.distributed.data.splits import Split

INDICES, VALUES = ("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float64()))
VECTOR = pa.struct([("type", pa.int8()), ("size", pa.int32()), INDICES, VALUES])


def dense(*values):
    return {"type": 1, "size": None, "indices": None, "values": values}


def sparse(size, entries):
    return {"type": 0, "size": size, "indices": list(entries), "values": list(entries.values())}


@pytest.mark.parametrize("sliced", [False, True])
def test_dense_and_sparse_vectors(sliced):
    rows = [
        dense(1.0, 2.0, 3.0),
        sparse(3, {1: 5.0}),
        None,
        dense(1.0),
        sparse(3, {}),
        sparse(4, {0: 1.0}),
        dense(7.0, -0.0, np.nan),
        sparse(3, {0: 1.0, 2: -2.0}),
    ]
    column = pa.array(rows, VECTOR)
    nan = [np.nan] * 3
    expected = [[1, 2, 3], [0, 5, 0], nan, nan, [0, 0, 0], nan, [7, 0, np.nan], [1, 0, -2]]
    lengths = [3, 3, -1, 1, 3, 4, 3, 3]
    if sliced:
        column, expected, lengths = column.slice(1), expected[1:], lengths[1:]
    found = read_vectors(column, 3)
    np.testing.assert_array_equal(found.values, expected)
    assert not np.signbit(found.values[-2]).any()
    assert found.lengths.tolist() == lengths
    assert found.finite.tolist() == [np.isfinite(row).all() for row in expected]
    only_dense = read_vectors(pa.array([dense(1.0, 2.0), dense(3.0, 4.0)], VECTOR), 2)
    assert only_dense.values.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.int16()])
def test_arrays_of_any_numbers(kind):
    found = read_vectors(pa.array([[1, 2], [3], None, [4, None], []], pa.list_(kind)), 2)
    nan = np.nan
    expected = [[1, 2], [nan, nan], [nan, nan], [4, nan], [nan, nan]]
    np.testing.assert_array_equal(found.values, expected)
    assert found.lengths.tolist() == [2, 1, -1, 2, 0]
    sliced = pa.array([[1, 2], [3, 4]], pa.list_(kind)).slice(1)
    assert read_vectors(sliced, 2).values.tolist() == [[3, 4]]
    found = read_vectors(pa.array([1, None, 3], kind), 1)  # numbers are vectors of one entry
    np.testing.assert_array_equal(found.values, [[1], [nan], [3]])
    assert found.finite.tolist() == [True, False, True]


REJECT = InvalidRowPolicy(invalid="reject")
TEXT = """a,b,kind,when,w
1,2.5,cat,train,1
-3,1e-2,dog,validation,2
x,1,cat,train,1
1,nan,dog,train,1
1,1,,train,1
4,4,cat,someday,1
5,5,dog,test,-1
6,6,dog,test,0
7,7
"""


def rows(frame):
    return sorted(tuple(row) for row in frame.collect())


def test_rows_of_text_are_numbers_or_are_kept_with_the_reason(spark, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TEXT)
    source = read_example_table(spark, str(path))
    assert feature_columns(source, ["kind", "when", "w"]) == ["a", "b"]
    columns = ExampleColumns(["a", "b"], "kind", "w")
    policy = InvalidRowPolicy(Split("column", column="when"), "reject")
    table = take_examples(source, columns, policy, classify=True)
    assert table.counts == {"train": 1, "validation": 1, "test": 1, "rejected": 6}
    missing = "is null, NaN, infinite or no number"
    assert table.reasons == {
        "the line is malformed": 1,
        f"a {missing}": 1,
        f"b {missing}": 1,
        f"kind {missing}": 1,
        "w is negative": 1,
        "when is none of train, validation, test": 1,
    }
    assert rows(table.training) == [(-3.0, 0.01, "dog", 2.0, True), (1.0, 2.5, "cat", 1.0, False)]
    assert rows(table.part("test")) == [(6.0, 6.0, "dog", 0.0)]
    rejected = {row.reason: row for row in table.rejected.collect()}
    assert rejected[f"a {missing}"].a == "x", "what was there is kept"
    assert table.rejected.columns == [*source.rows.columns, "reason"]
    with pytest.raises(ExamplesError, match=r"^6 of the 9 rows of .*table.csv cannot be used \(a"):
        take_examples(
            source, columns, InvalidRowPolicy(Split("column", column="when")), classify=True
        )


def test_classes_of_text_are_numbers_if_all_are(spark, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("x,y\n1,0\n2,1\n3,\n")
    source = read_example_table(spark, str(path))
    table = take_examples(source, ExampleColumns(["x"], "y"), REJECT, classify=True)
    assert rows(table.training) == [(1.0, 0.0), (2.0, 1.0)]


def test_classes_that_would_be_merged_are_refused(spark, tmp_path):
    lines = [f'{{"x": 1, "y": {y}}}' for y in ('"caf\\ufffd"', '{"a": 1}', "[1]", '"tea"')]
    (tmp_path / "t.json").write_text("\n".join(lines))
    source = read_example_table(spark, str(tmp_path / "t.json"))
    table = take_examples(source, ExampleColumns(["x"], "y"), REJECT, classify=True)
    assert table.reasons == {"y has bytes that are not UTF-8": 1, "y is an object or a list": 2}
    assert [row.y for row in table.rows.collect()] == ["tea"]


def test_vectors_and_arrays_are_judged_by_their_entries(spark):
    three = Vectors.sparse(2, [1], [3.0])
    data = [
        (Vectors.dense(1.0, 2.0), [1.0, 2.0], 1.0),
        (Vectors.sparse(2, [1], [float("inf")]), [1.0, 2.0], 1.0),
        (three, [1.0, None], 1.0),
        (three, [0.0, 3.0], None),
        (None, None, 1.0),
    ]
    source = Source(spark.createDataFrame(data, ["v", "l", "y"]), "memory", "parquet")
    for features in ("v", "l"):
        table = take_examples(source, ExampleColumns(features, "y"), REJECT, classify=False)
        assert (table.counts["train"], table.counts["rejected"]) == (2, 3)


def test_a_split_depends_on_the_rows_alone(spark):
    x = np.random.default_rng(0).integers(0, 50, (400, 2)).astype(float)
    frame = spark.createDataFrame(x.tolist(), ["x", "y"])
    policy = InvalidRowPolicy(Split("random", 0.2, 0.1, seed=3))

    def parts(frame) -> ExampleTable:
        source = Source(frame, "memory", "parquet")
        return take_examples(source, ExampleColumns(["x"], "y"), policy, classify=False)

    table, other = parts(frame), parts(frame.repartition(3).orderBy("y"))
    assert table.counts == other.counts
    assert 50 < table.counts["validation"] < 110
    test = rows(table.part("test"))
    assert test == rows(other.part("test"))
    assert not set(test) & {row[:2] for row in rows(table.training)}, "equal rows stay together"


def test_what_is_refused(spark, tmp_path):
    with pytest.raises(SourceError, match=r"there is nothing at no\.csv"):
        read_example_table(spark, "no.csv")
    with pytest.raises(ExamplesError, match="the data sets of scikit-learn are breast_cancer, "):
        read_example_table(spark, "sklearn:mnist")
    empty = tmp_path / "empty.csv"
    empty.write_text("x,y\n")
    source = read_example_table(spark, str(empty))
    with pytest.raises(ExamplesError, match=r"empty\.csv has no rows: give examples"):
        take_examples(source, ExampleColumns(["x"], "y"), REJECT, classify=False)
    with pytest.raises(ColumnError, match=r"there is no column 'z' in .*; there are 'x', 'y'"):
        take_examples(source, ExampleColumns(["z"], "y"), REJECT, classify=False)
    with pytest.raises(ColumnError, match="has no columns besides x, y: add features"):
        feature_columns(source, ["x", "y"])
    with pytest.raises(ValueError, match="method must be random or column, got 'time'"):
        InvalidRowPolicy(Split("time"))
