"""Configuration of the jobs that train and evaluate factorizations."""

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pyspark.sql import SparkSession

from nonconvex.config import Section
from nonconvex.distributed.data.prepare import needs_timestamps
from nonconvex.distributed.data.prepared import PreparedRatings
from nonconvex.estimator_sections import GateSection, OutputSection, ParamTable, StartSection
from nonconvex.recommendation import MatrixFactorization
from nonconvex.report_sections import ItemReportSection
from nonconvex.sections import PreparationConfig, PreparedSection, RatingsSection, SplitSection

__all__ = ["EvaluationSection", "FactorizationConfig"]

_Text = Annotated[str, Field(min_length=1)]

# Params that say what prepared ratings have said already.
_PREPARED = {
    "ratingCol",
    "weightCol",
    "validationIndicatorCol",
    "numUserBlocks",
    "numItemBlocks",
}


class EvaluationSection(Section):
    """``[evaluation]``: what `jobs/evaluate.py` measures; by default the published model.

    Examples
    --------
    >>> EvaluationSection().part
    'test'
    """

    model: _Text | None = None
    """A model, a run or a directory of runs; by default ``output.path``."""
    part: Literal["test", "validation"] = "test"
    """The ratings to predict."""
    report: _Text | None = None
    """A file to write all the numbers to, as JSON; by default none."""


class FactorizationConfig(Section):
    """All it takes to train, evaluate and publish a factorization.

    Examples
    --------
    >>> config = FactorizationConfig(
    ...     prepared=PreparedSection(path="prepared/films"),
    ...     factorization={"rank": 20},
    ...     output=OutputSection(path="runs/films"),
    ... )
    >>> config.estimator().getRank()
    20
    """

    ratings: RatingsSection | None = None
    """Ratings to prepare; by default they must be prepared already."""
    split: SplitSection = SplitSection()
    prepared: PreparedSection
    factorization: dict[str, Any] = Field(default_factory=dict)
    """Params of `MatrixFactorization`, by name."""
    start: StartSection = StartSection()
    output: OutputSection
    gate: GateSection | None = None
    """By default, a model is published however good it is."""
    evaluation: EvaluationSection = EvaluationSection()
    report: ItemReportSection = ItemReportSection()

    @property
    def day(self) -> date | None:
        """The day that a run is of, if it is of one."""
        return self.output.day or (None if self.ratings is None else self.ratings.until)

    def prepare(self, spark: SparkSession) -> PreparedRatings:
        """Prepare the ratings, or open those that are prepared.

        Raises
        ------
        RatingsError, PreparedError
            As `prepare_ratings` and `PreparedRatings.open` say.
        """
        if self.ratings is None:
            return PreparedRatings.open(spark, self.prepared.path)
        return PreparationConfig(
            ratings=self.ratings, split=self.split, prepared=self.prepared
        ).prepare(spark)

    def estimator(self) -> MatrixFactorization:
        """Return the estimator with the Params of the section ``[factorization]``.

        Raises
        ------
        ConfigError
            For a Param that there is not, or a value that it refuses.
        """
        return _params().make(self.factorization)

    def resolved(self) -> Self:
        """Return the configuration with every Param that has a value, defaults included."""
        return self.model_copy(update={"factorization": _params().resolved(self.factorization)})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ratings is not None:
            needs_timestamps(self.ratings.columns(), self.ratings.rules(), self.split.split())
        elif self.split != SplitSection() or self.prepared != PreparedSection(
            path=self.prepared.path
        ):
            raise ValueError(
                "split, prepared.user_blocks, prepared.item_blocks and prepared.overwrite are for "
                "preparing ratings: say in [ratings] which, or leave them out"
            )
        estimator = self.estimator()
        if self.gate is not None:
            if self.gate.metric not in ("rmse", "mae"):
                raise ValueError(f"gate.metric must be rmse or mae, got {self.gate.metric}")
            if estimator.getOrDefault("implicitPrefs"):
                raise ValueError(
                    "[gate] compares errors of ratings, and factorization.implicitPrefs predicts "
                    "preferences: leave out one of them"
                )
        return self


def _params() -> ParamTable[MatrixFactorization]:
    return ParamTable(MatrixFactorization, "factorization", _PREPARED)
