import pytest

from nonconvex.distributed.data.ratings import Columns, RatingsError, Rules


def test_columns_that_are_not_there_have_no_role():
    assert Columns().named() == {"user": "user", "item": "item", "rating": "rating"}
    assert Columns(timestamp="when").named()["timestamp"] == "when"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"ids": "int"}, r"ids must be one of auto, string, long, got 'int'"),
        ({"duplicates": "max"}, r"duplicates must be one of error, first, last, mean, got 'max'"),
        ({"minimum": 5, "maximum": 1}, r"minimum must be ≤ maximum, got 5 and 1"),
    ],
)
def test_rules_that_cannot_be_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        Rules(**choices)


def test_bad_ratings_are_bad_input():
    assert issubclass(RatingsError, ValueError)
    assert RatingsError.exit_status == 3
