"""What is given to a model must be a dataframe, of a session with broadcast variables."""

import pandas as pd
import pytest
from pyspark.sql import DataFrame

from nonconvex.distributed.columns import ColumnError, check_frame


@pytest.mark.parametrize(
    ("module", "refused"),
    [("pyspark.sql.connect.dataframe", True), ("pyspark.sql.classic.dataframe", False)],
)
def test_a_frame_of_spark_connect_is_refused_in_one_sentence(module, refused):
    frame = object.__new__(type("DataFrame", (DataFrame,), {"__module__": module}))
    if not refused:
        check_frame("dataset", frame)
        return
    with pytest.raises(
        ColumnError,
        match=r"^dataset is a DataFrame of Spark Connect, which has no broadcast variables; make",
    ):
        check_frame("dataset", frame)


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
