"""Several ratings of one item by one user: how many there are, and the one that counts."""

from collections.abc import Callable
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F

from nonconvex.distributed.data.ratings import RatingsError

__all__ = ["Duplicates", "count_duplicates", "resolve_duplicates"]

_PAIR = ("user", "item")


class Duplicates(NamedTuple):
    """How often a (user, item) pair has more than one rating."""

    rows: int
    """Rows beyond the first of each pair."""
    pairs: int
    """Pairs with more than one row."""
    conflicting: int
    """Those of them whose ratings differ."""
    example: Row | None
    """``user, item, rows, low, high`` of one such pair, a conflicting one if there is any."""

    def refuse(self) -> None:
        """Raise if there are any.

        Raises
        ------
        RatingsError
            With their number, an example and what can be done.
        """
        if self.example is not None:
            pair = self.example
            values = f"{pair.low:g} to {pair.high:g}" if pair.low < pair.high else f"{pair.low:g}"
            raise RatingsError(
                f"{self.rows:,} rows repeat a (user, item) pair: {self.pairs:,} pairs have several "
                f"rows, {self.conflicting:,} of them different ratings (user {pair.user!r} has "
                f"{pair.rows} ratings of item {pair.item!r}, {values}); set duplicates to 'first', "
                "'last' or 'mean' to say what counts"
            )


def count_duplicates(ratings: DataFrame) -> Duplicates:
    """Count the rows that repeat a (user, item) pair; no shuffle if `ratings` is by user.

    Parameters
    ----------
    ratings : DataFrame
        ``user, item, rating`` and more.

    Returns
    -------
    Duplicates

    Examples
    --------
    >>> twice = count_duplicates(ratings.union(ratings))
    >>> twice.rows, twice.pairs, twice.conflicting
    (603, 603, 0)
    """
    differ = F.col("low") < F.col("high")
    example = F.struct(~differ, "user", "item", "rows", "low", "high")
    found = (
        ratings.groupBy(*_PAIR)
        .agg(
            F.count("*").alias("rows"), F.min("rating").alias("low"), F.max("rating").alias("high")
        )
        .where("rows > 1")
        .agg(
            F.coalesce(F.sum(F.col("rows") - 1), F.lit(0)).alias("rows"),
            F.count("*").alias("pairs"),
            F.count_if(differ).alias("conflicting"),
            F.min(example).alias("example"),
        )
    )
    return Duplicates(*found.collect()[0])


def resolve_duplicates(ratings: DataFrame, policy: str) -> tuple[DataFrame, DataFrame | None]:
    """Leave one rating of each (user, item) pair.

    Parameters
    ----------
    ratings : DataFrame
        ``user, item, rating`` and what else ratings have; ``position`` too unless `policy` is
        "mean", and ``timestamp`` if it is "last".
    policy : {"first", "last", "mean"}
        "first" keeps the row of least position; "last" that of the latest timestamp, and among
        equal ones of the greatest position. "mean" makes one row of all: their mean rating, or
        with weights the mean by weight, and the sum of the weights, so that the squared errors
        of the one and of the many differ by a constant; the latest timestamp; and of several
        parts of a ready-made split the first of test, train, validation.

    Returns
    -------
    kept : DataFrame
        The ratings that count; for "mean" with no other columns than ratings have.
    dropped : DataFrame or None
        The rows that do not, with a ``reason``; None for "mean", where every row counts.

    Examples
    --------
    >>> twice = spark.createDataFrame(
    ...     [("ann", 1, 5.0, 100, 0), ("ann", 1, 3.0, 200, 1)],
    ...     ["user", "item", "rating", "timestamp", "position"],
    ... )
    >>> kept, dropped = resolve_duplicates(twice, "last")
    >>> kept.first().rating, dropped.first().reason
    (3.0, 'duplicate of a later row: its rating is 3.0')
    """
    if policy == "mean":
        return _merge(ratings), None
    pair = Window.partitionBy(*_PAIR)
    if policy == "first":
        pair = pair.orderBy("position")
    else:
        pair = pair.orderBy(F.desc("timestamp"), F.desc("position"))
    ranked = ratings.withColumns(
        {"rank": F.row_number().over(pair), "kept": F.first("rating").over(pair)}
    )
    kept = ranked.where("rank = 1").drop("rank", "kept")
    other = "an earlier" if policy == "first" else "a later"
    reason = F.concat(F.lit(f"duplicate of {other} row: its rating is "), F.col("kept"))
    dropped = ranked.where("rank > 1").withColumn("reason", reason).drop("rank", "kept")
    return kept, dropped


def _merge(ratings: DataFrame) -> DataFrame:
    weighted = "weight" in ratings.columns
    weight = F.col("weight") if weighted else F.lit(1.0)
    # Sums of doubles depend on their order, so each pair is summed in the order of its ratings.
    rows = F.array_sort(F.collect_list(F.struct(F.col("rating"), weight.alias("weight"))))
    merged: dict[str, Column] = {"rows": rows}
    if "timestamp" in ratings.columns:
        merged["timestamp"] = F.max("timestamp")
    if "split" in ratings.columns:
        merged["split"] = F.min("split")
    grouped = ratings.groupBy(*_PAIR).agg(*(c.alias(name) for name, c in merged.items()))
    total = _sum(lambda row: row["weight"])
    by_weight = _sum(lambda row: row["weight"] * row["rating"]) / total
    plain = _sum(lambda row: row["rating"]) / F.size("rows")
    mean = F.when(total > 0, by_weight).otherwise(plain)
    # Rounding must not take the mean of equal ratings off their value.
    low, high = F.col("rows")[0]["rating"], F.element_at("rows", -1)["rating"]
    columns = {"rating": F.greatest(low, F.least(mean, high)), "weight": total}
    names = [name for name in ratings.columns if name in ("rating", "weight", *grouped.columns)]
    return grouped.select(*(columns.get(name, F.col(name)).alias(name) for name in names))


def _sum(term: Callable[[Column], Column]) -> Column:
    return F.aggregate("rows", F.lit(0.0), lambda total, row: total + term(row))
