"""Columns of vectors against the same vectors one by one; no Spark is needed."""

import numpy as np
import pyarrow as pa
import pytest

from nonconvex.distributed.data.examples import read_vectors

VECTOR = pa.struct(
    [
        ("type", pa.int8()),
        ("size", pa.int32()),
        ("indices", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float64())),
    ]
)


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
    column = pa.array([[1, 2], [3], None, [4, None], []], pa.list_(kind))
    found = read_vectors(column, 2)
    nan = np.nan
    np.testing.assert_array_equal(
        found.values, [[1, 2], [nan, nan], [nan, nan], [4, nan], [nan, nan]]
    )
    assert found.lengths.tolist() == [2, 1, -1, 2, 0]
    assert read_vectors(pa.array([[1, 2], [3, 4]], pa.list_(kind)).slice(1), 2).values.tolist() == [
        [3, 4]
    ]


def test_numbers_are_vectors_of_one_entry():
    found = read_vectors(pa.array([1, None, 3]), 1)
    np.testing.assert_array_equal(found.values, [[1], [np.nan], [3]])
    assert found.finite.tolist() == [True, False, True]
