"""Configuration sections about ratings: where they are, how they are split and prepared."""

from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, PositiveInt, model_validator
from pyspark.sql import SparkSession

from nonconvex.config import Section
from nonconvex.distributed.data.prepare import needs_timestamps, prepare_ratings
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.distributed.data.validation import Columns, Rules
from nonconvex.window_sections import DailySection

__all__ = ["PreparationConfig", "PreparedSection", "RatingsSection", "SplitSection"]

_Text = Annotated[str, Field(min_length=1)]
_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class RatingsSection(DailySection):
    """``[ratings]``: the files of ratings, their columns and what is accepted.

    Examples
    --------
    >>> RatingsSection(path="ratings.csv", user="userId").columns().user
    'userId'
    """

    path: _Text
    """A file, a directory or a pattern with wildcards."""
    format: Literal["parquet", "csv", "json"] | None = None
    """By default, what the extension says; in "json", every line is one object."""
    separator: _Text | None = None
    """Of the fields of CSV: by default a tab for .tsv, else a comma."""
    user: _Text = "user"
    """Column of the users' ids."""
    item: _Text = "item"
    """Column of the items' ids."""
    rating: _Text = "rating"
    """Column of the ratings."""
    weight: _Text | None = None
    """Column of the weights, if there is one."""
    timestamp: _Text | None = None
    """Column of the times, if there is one."""
    ids: Literal["auto", "string", "long"] = "auto"
    """Type of the ids; "auto" makes integers of ids in text if all of them are."""
    minimum: FiniteFloat | None = None
    """Least rating that is accepted."""
    maximum: FiniteFloat | None = None
    """Greatest rating that is accepted."""
    duplicates: Literal["error", "first", "last", "mean"] = "error"
    """What becomes of several ratings of one item by one user."""

    def columns(self) -> Columns:
        """Return the names of the columns."""
        return Columns(self.user, self.item, self.rating, self.weight, self.timestamp)

    def rules(self) -> Rules:
        """Return what is accepted."""
        return Rules(self.ids, self.minimum, self.maximum, self.duplicates)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.rules()
        return self


class SplitSection(Section):
    """``[split]``: which ratings are held out; by default none.

    Examples
    --------
    >>> SplitSection(method="last", test=1).split().test
    1
    """

    method: Literal["random", "time", "last", "column"] = "random"
    """By hash, by time, the last of each user, or as a column says."""
    validation: int | float = 0
    """Fraction of the ratings, or their number per user for method "last"."""
    test: int | float = 0
    """Likewise."""
    seed: _Int64 = 0
    """Of method "random"."""
    column: _Text | None = None
    """Of method "column": it has the values train, validation and test."""

    def split(self) -> Split:
        """Return the split."""
        return Split(self.method, self.validation, self.test, self.seed, self.column)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.split()
        return self


class PreparedSection(Section):
    """``[prepared]``: where prepared ratings are written, and in how many blocks.

    Examples
    --------
    >>> PreparedSection(path="prepared/ratings").overwrite
    False
    """

    path: _Text
    """The directory."""
    user_blocks: PositiveInt | None = None
    """By default one for a million ratings, and no fewer than cores."""
    item_blocks: PositiveInt | None = None
    """Likewise."""
    overwrite: bool = False
    """Whether other prepared ratings that are there may be replaced."""


class PreparationConfig(Section):
    """All it takes to prepare ratings; a configuration that also trains can extend it.

    Examples
    --------
    >>> config = PreparationConfig(
    ...     ratings=RatingsSection(path="ratings.parquet", minimum=0, maximum=10),
    ...     split=SplitSection(validation=0.1, test=0.1, seed=2),
    ...     prepared=PreparedSection(path="prepared/films"),
    ... )
    >>> config.prepare(spark).reused  # as the same ratings are there already
    True
    """

    ratings: RatingsSection
    split: SplitSection = SplitSection()
    prepared: PreparedSection

    def prepare(self, spark: SparkSession) -> PreparedRatings:
        """Write the prepared ratings, unless they are there already.

        Parameters
        ----------
        spark : SparkSession
            The session that reads and writes.

        Returns
        -------
        PreparedRatings

        Raises
        ------
        RatingsError, PreparedError
            As `prepare_ratings` says.
        """
        ratings, prepared = self.ratings, self.prepared
        source = read_source(
            spark,
            ratings.path,
            format=ratings.format,
            separator=ratings.separator,
            window=ratings.window(),
        )
        return prepare_ratings(
            source,
            prepared.path,
            columns=ratings.columns(),
            rules=ratings.rules(),
            split=self.split.split(),
            user_blocks=prepared.user_blocks,
            item_blocks=prepared.item_blocks,
            overwrite=prepared.overwrite,
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        needs_timestamps(self.ratings.columns(), self.ratings.rules(), self.split.split())
        return self
