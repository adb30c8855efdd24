"""Random rows are the same whoever draws them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nonconvex.numerics.factorization.random_rows import RandomRows


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 40), st.integers(-(2**70), 2**70))
def test_a_row_depends_on_its_index_alone(one, other, rank, seed):
    first, stop = sorted((one, other))
    rows = RandomRows(500, rank, 0.1, seed, 0, 1, np.float64, False)
    np.testing.assert_array_equal(rows.between(first, stop), rows.between(0, 500)[first:stop])


def test_rows_behind_more_than_is_drawn_at_a_time():
    rows = RandomRows(40_000, 10, 0.1, 0, 0, 0, np.float32, False)
    np.testing.assert_array_equal(rows.between(39_990, 40_000), rows.between(0, 40_000)[-10:])


@pytest.mark.parametrize("changed", [{"seed": 1}, {"restart": 1}, {"side": 1}, {"scale": 0.2}])
def test_everything_changes_them(changed):
    rows = RandomRows(3, 2, 0.1, 0, 0, 0, np.float64, False)
    assert not np.array_equal(
        rows.between(0, 3)[:, 1:], rows._replace(**changed).between(0, 3)[:, 1:]
    )


def test_nonnegative_rows_are_the_sizes_of_others():
    rows = RandomRows(30, 2, 0.1, 0, 0, 0, np.float32, False)
    sizes = rows._replace(nonnegative=True).between(0, 30)
    assert sizes.dtype == np.float32
    np.testing.assert_array_equal(sizes, np.abs(rows.between(0, 30)))
