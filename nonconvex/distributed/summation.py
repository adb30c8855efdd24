"""Sums of doubles that are exact, and so the same for any order, partitioning and machine."""

from fractions import Fraction

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

__all__ = ["exact_sums"]

_LOW_BITS = 28  # of a 56-bit integer, so that sums of its halves fit a long up to 2³⁵ rows
_LEAST = 2.0**-970  # what is closer to zero has no 56-bit integer of its size, and counts as zero


def exact_sums(frame: DataFrame, column: str, by: str) -> dict[str, Fraction]:
    """Sum a column of doubles within groups, without rounding.

    A double x with exponent e = ⌊log₂|x|⌋ is x = q 2^(e−53) with an integer q of at most 56 bits
    (one bit more than it needs, as the logarithm may round up to the next e). The integers of
    one exponent are summed as integers; there are at most some 2,000 exponents, so the rest is
    for the driver, in fractions.

    Parameters
    ----------
    frame : DataFrame
        Any table.
    column : str
        A column of finite doubles; those below 2⁻⁹⁷⁰ count as zero.
    by : str
        A column of few different strings.

    Returns
    -------
    dict of str to Fraction
        The sum of each group; ``float`` of it is the double nearest to it.

    Examples
    --------
    >>> float(exact_sums(ratings, "rating", by="part")["train"] / 3)  # doctest: +SKIP
    0.1
    """
    value = F.when(F.abs(column) < _LEAST, 0.0).otherwise(F.col(column))
    exponent = F.coalesce(F.floor(F.log2(F.abs(value))), F.lit(0))  # the logarithm of 0 is null
    whole = (value * F.pow(F.lit(2.0), 53 - exponent)).cast("long")
    sums = (
        frame.select(by, exponent.alias("exponent"), whole.alias("whole"))
        .groupBy(by, "exponent")
        .agg(
            F.sum(F.shiftright("whole", _LOW_BITS)).alias("high"),
            F.sum(F.col("whole").bitwiseAND(2**_LOW_BITS - 1)).alias("low"),
        )
        .collect()
    )
    totals: dict[str, Fraction] = {}
    for row in sums:
        total = ((row.high << _LOW_BITS) + row.low) * Fraction(2) ** (row.exponent - 53)
        totals[row[by]] = totals.get(row[by], Fraction()) + total
    return totals
