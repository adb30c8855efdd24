"""Splits of ratings into train, validation and test, independent of order and partitioning."""

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from nonconvex.distributed.data.validation import PARTS

METHODS = ("random", "time", "last", "column")
"""The methods of splitting."""

_TRAIN, _VALIDATION, _TEST = PARTS


@dataclass(frozen=True)
class Split:
    """A choice of held-out ratings.

    Parameters
    ----------
    method : {"random", "time", "last", "column"}
        - "random": each rating by a hash of seed, user and item, whatever the type of the ids;
        - "time": the latest ratings are for the test, those before them for validation; ratings
          of the same time stay together, so the parts may be smaller than asked, never larger;
        - "last": likewise with the last ratings of each user, of equal times that of the greater
          item; a user without any other rating keeps all of them in training;
        - "column": as the column of the ratings for it says.
    """

    method: str = "random"
    # a fraction of the ratings to hold out, or for "last" a number per user
    validation: float = 0
    test: float = 0
    seed: int = 0  # of "random"
    column: str | None = None  # of "column"; each value is one of `PARTS`

    def __post_init__(self) -> None:
        """Refuse impossible parts."""
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if (self.method == "column") != (self.column is not None):
            raise ValueError(
                "column must be named for method 'column' and for no other, "
                f"got method {self.method!r} and column {self.column!r}"
            )
        for part, size in ((_VALIDATION, self.validation), (_TEST, self.test)):
            if self.method == "column" and size:
                raise ValueError(f"{part} is for the column to say, got {size}")
            if self.method == "last" and (size < 0 or size != int(size)):
                raise ValueError(f"{part} must be a number of ratings per user ≥ 0, got {size}")
            if self.method in ("random", "time") and not 0 <= size < 1:
                raise ValueError(f"{part} must be a fraction in [0, 1), got {size}")
        if self.method in ("random", "time") and self.validation + self.test >= 1:
            raise ValueError(
                "validation and test must leave rows for training, "
                f"got {self.validation} + {self.test}"
            )


def split_ratings(ratings: DataFrame, split: Split) -> DataFrame:
    """Replace the column ``split``, if any, by ``part``, one of `PARTS`; no pair may occur twice.

    Examples
    --------
    >>> parts = split_ratings(ratings, Split("random", test=0.1, seed=7))
    >>> parts.groupBy("part").count().orderBy("part").show()
    +-----+-----+
    | part|count|
    +-----+-----+
    | test|   62|
    |train|  541|
    +-----+-----+
    """
    if split.method == "random":
        part = part_by_hash(split, *(F.col(side).cast("string") for side in ("user", "item")))
    elif split.method == "time":
        part = _time(ratings, split)
    else:
        part = _last(split) if split.method == "last" else F.col("split")
    return ratings.withColumn("part", part).drop("split")


def part_by_hash(split: Split, *columns: Column) -> Column:
    """Return the part of a row by a hash of the seed and the columns that identify it."""
    bits = F.xxhash64(F.lit(split.seed).cast("long"), *columns)
    uniform = F.shiftrightunsigned(bits, 11) / 2.0**53  # in [0, 1), every double in it exact
    return _held_out(uniform < split.test, uniform < split.validation + split.test)


def _time(ratings: DataFrame, split: Split) -> Column:
    rows = ratings.count()
    timestamp, latest = F.col("timestamp"), Window.orderBy(F.desc("timestamp"))
    times = ratings.groupBy(timestamp).count().withColumn("since", F.sum("count").over(latest))
    starts = (
        F.min(F.when(F.col("since") <= round(held_out * rows), timestamp))
        for held_out in (split.test, split.validation + split.test)
    )
    test, validation = times.agg(*starts).collect()[0]
    # Null, where no time is late enough, holds out nothing.
    return _held_out(timestamp >= F.lit(test), timestamp >= F.lit(validation))


def _last(split: Split) -> Column:
    user = Window.partitionBy("user")
    rank = F.row_number().over(user.orderBy(F.desc("timestamp"), F.desc("item")))
    held_out = split.validation + split.test
    enough = F.count("*").over(user) > held_out
    return _held_out(enough & (rank <= split.test), enough & (rank <= held_out))


def _held_out(test: Column, test_or_validation: Column) -> Column:
    return F.when(test, _TEST).when(test_or_validation, _VALIDATION).otherwise(_TRAIN)
