"""Configuration of the jobs that prepare ratings, train factorizations and recommend."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal, Self

from pydantic import Field, FiniteFloat, PositiveInt, model_validator
from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.columns import id_column, text_column
from nonconvex.distributed.data.prepare import needs_timestamps, prepare_ratings
from nonconvex.distributed.data.prepared import PreparedRatings, seen_pairs
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.validation import Columns, Rules
from nonconvex.distributed.factorization.top_n import item_vectors, user_vectors
from nonconvex.estimators.factorization.fit import check_exchange
from nonconvex.estimators.factorization.params import check_combination
from nonconvex.pipeline.config import Section
from nonconvex.pipeline.models import read_named_table
from nonconvex.pipeline.sections import (
    PUBLISHED,
    FilesSection,
    GateSection,
    ModelSection,
    OutputSection,
    ParamTable,
    PredictionOutputSection,
    ReportSection,
    SplitSection,
    StartSection,
    Text,
    check_apart,
)
from nonconvex.recommendation import MatrixFactorization, MatrixFactorizationModel

# Params that the sections of prepared ratings set.
_PREPARED = {
    *("ratingCol", "weightCol", "validationIndicatorCol"),
    *("numUserBlocks", "numItemBlocks"),
}


class RatingsSection(FilesSection):
    """``[ratings]``: the files of ratings, their columns and the rows that are accepted."""

    user: Text = "user"
    """Column of the users' ids."""
    item: Text = "item"
    """Column of the items' ids."""
    rating: Text = "rating"
    """Column of the ratings."""
    weight: Text | None = None
    """Column of the weights, if there is one."""
    timestamp: Text | None = None
    """Column of the times, if there is one."""
    ids: Literal["auto", "string", "long"] = "auto"
    """Type of the ids; "auto" makes integers of ids in text if all of them are."""
    minimum: FiniteFloat | None = None
    """Least rating that is accepted."""
    maximum: FiniteFloat | None = None
    """Greatest rating that is accepted."""
    duplicates: Literal["error", "first", "last", "mean"] = "error"
    """The treatment of several ratings of a pair; with weights, "mean" is what ``fit`` does."""

    def columns(self) -> Columns:
        """Return the names of the columns."""
        return Columns(self.user, self.item, self.rating, self.weight, self.timestamp)

    def rules(self) -> Rules:
        """Return the rules that rows must meet."""
        return Rules(self.ids, self.minimum, self.maximum, self.duplicates)

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.rules()
        return self


class PreparedSection(Section):
    """``[prepared]``: where prepared ratings are written, and in how many blocks."""

    path: Text
    """The directory."""
    user_blocks: PositiveInt | None = None
    """By default one for a million ratings, and no fewer than cores."""
    item_blocks: PositiveInt | None = None
    """Likewise."""
    overwrite: bool = False
    """Permission to replace other prepared ratings."""


class PreparationConfig(Section):
    """Configuration of `jobs/prepare_ratings.py`."""

    ratings: RatingsSection
    split: SplitSection = SplitSection()
    prepared: PreparedSection

    def prepare(self, spark: SparkSession) -> PreparedRatings:
        """Write the prepared ratings, unless they are there already."""
        return prepare_ratings(
            self.ratings.read(spark),
            self.prepared.path,
            columns=self.ratings.columns(),
            rules=self.ratings.rules(),
            split=self.split.split(),
            user_blocks=self.prepared.user_blocks,
            item_blocks=self.prepared.item_blocks,
            overwrite=self.prepared.overwrite,
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        needs_timestamps(self.ratings.columns(), self.ratings.rules(), self.split.split())
        check_apart({"prepared.path": self.prepared.path}, {"ratings.path": self.ratings.path})
        return self


class EvaluationSection(Section):
    """``[evaluation]`` of `jobs/evaluate.py`; by default the published model is measured."""

    model: Text | None = None
    """A model, a run or a directory of runs; by default ``output.path``."""
    part: Literal["test", "validation"] = "test"
    """The ratings to predict."""
    report: Text | None = None
    """A file to write all the numbers to, as JSON; by default none."""


class ItemReportSection(ReportSection):
    """``[report]`` of a factorization, whose items may have names."""

    names: Text | None = None
    """A table of the names of items: a file, a directory or a pattern with wildcards."""
    id: Text = "item"
    """Its column of ids, as they are in the ratings."""
    name: Text = "title"
    """Its column of names."""
    format: Literal["parquet", "csv", "json"] | None = None
    """By default, what the extension says; in "json", every line is one object."""
    separator: Text | None = None
    """Of the fields of CSV: by default a tab for .tsv, else a comma."""

    def table(self, spark: SparkSession) -> DataFrame | None:
        """Return ``id, name`` as strings, or None if no table is named."""
        if self.names is None:
            return None
        rows = read_source(spark, self.names, format=self.format, separator=self.separator).rows
        ids = id_column(rows, self.id, "report.id").cast("string")
        names = text_column(rows, self.name, "report.name")
        return rows.select(ids.alias("id"), names.alias("name"))

    @model_validator(mode="after")
    def _check(self) -> Self:
        about = {"id", "name", "format", "separator"} & self.model_fields_set
        if self.names is None and about:
            raise ValueError(
                f"{', '.join(sorted(about))} is about a table of names: say which in report.names"
            )
        return self


class FactorizationConfig(Section):
    """Configuration of the jobs that train, evaluate and publish a factorization."""

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
        """The day of the run, if it has one."""
        return self.output.day or (None if self.ratings is None else self.ratings.until)

    def prepare(self, spark: SparkSession) -> PreparedRatings:
        """Prepare the ratings, or open those that are prepared."""
        if self.ratings is None:
            return PreparedRatings.open(spark, self.prepared.path)
        told = PreparationConfig(ratings=self.ratings, split=self.split, prepared=self.prepared)
        return told.prepare(spark)

    def estimator(self) -> MatrixFactorization:
        """Return the estimator with the Params of the section ``[factorization]``."""
        estimator = _params().make(self.factorization)
        if estimator.getOrDefault("ensemble"):
            estimator.setParams(keepRestarts=True)  # to measure the best start beside their mean
        return estimator

    def resolved(self) -> Self:
        """Return the configuration with every Param that has a value, defaults included."""
        return self.model_copy(update={"factorization": _params().resolved(self.factorization)})

    @model_validator(mode="after")
    def _check(self) -> Self:
        alone = PreparedSection(path=self.prepared.path)
        written = {
            "output.path": self.output.path,
            "factorization.checkpointPath": self.factorization.get("checkpointPath"),
            "evaluation.report": self.evaluation.report,
        }
        prepared = {"prepared.path": self.prepared.path}
        check_apart(written, {**prepared, "report.names": self.report.names})
        if self.ratings is not None:
            check_apart({**written, **prepared}, {"ratings.path": self.ratings.path})
            needs_timestamps(self.ratings.columns(), self.ratings.rules(), self.split.split())
        elif self.split != SplitSection() or self.prepared != alone:
            raise ValueError(
                "split, prepared.user_blocks, prepared.item_blocks and prepared.overwrite are for "
                "preparing ratings: say in [ratings] which, or leave them out"
            )
        estimator, start = self.estimator(), self.start.model
        if self.gate is not None:
            if self.gate.metric not in ("rmse", "mae"):
                raise ValueError(f"gate.metric must be rmse or mae, got {self.gate.metric}")
            if estimator.getOrDefault("implicitPrefs"):
                raise ValueError(
                    "[gate] compares errors of ratings, and factorization.implicitPrefs predicts "
                    "preferences: leave out one of them"
                )
        unknown = self.ratings is None or self.split.method == "column"
        held_out = unknown or self.split.validation > 0
        check_combination(estimator, has_validation=held_out, warm=start not in (None, PUBLISHED))
        check_exchange(estimator)
        return self


def _params() -> ParamTable[MatrixFactorization]:
    return ParamTable(MatrixFactorization, "factorization", _PREPARED)


class SeenSection(Section):
    """``[seen]``: the ratings of a user that are not recommended again."""

    prepared: Text | None = None
    """A directory of prepared ratings; needed unless `parts` is empty."""
    parts: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    """The ratings that count as seen; an empty list recommends seen items too."""

    def pairs(self, spark: SparkSession, model: MatrixFactorizationModel) -> DataFrame | None:
        """Return the pairs of a user and an item, by the columns of the model, or None."""
        if self.prepared is None or not self.parts:
            return None
        names = model.getOrDefault("userCol"), model.getOrDefault("itemCol")
        return seen_pairs(PreparedRatings.open(spark, self.prepared), self.parts, *names)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.parts and self.prepared is None:
            raise ValueError(
                "prepared must name prepared ratings, so that what was seen is not recommended; "
                "or set parts=[]"
            )
        return self


class RecommendationsSection(Section):
    """``[recommendations]``: the length of the lists, their items and their users."""

    n: PositiveInt = 10
    """Length of the lists."""
    candidates: Text | None = None
    """Parquet of the items that may be recommended, or of pairs of a user and an item."""
    users: Text | None = None
    """Parquet of the users to recommend for; by default all that the model knows."""
    buckets: PositiveInt = 16
    """Number of files."""

    def lists(
        self, spark: SparkSession, model: MatrixFactorizationModel, exclude: DataFrame | None
    ) -> DataFrame:
        """Return a row with the ranked items for each user, without the pairs in `exclude`."""
        candidates = None
        if self.candidates is not None:
            candidates = read_named_table(spark, self.candidates, "recommendations.candidates")
        if self.users is None:
            return model.recommendForAllUsers(self.n, exclude, candidates)
        users = read_named_table(spark, self.users, "recommendations.users")
        return model.recommendForUserSubset(users, self.n, exclude, candidates)


class ServingOutputSection(PredictionOutputSection):
    """``[output]`` of recommendations and vectors."""

    vectors: bool = True
    """Write vectors of users and items, too."""

    def write_vectors(self, model: MatrixFactorizationModel, directory: str) -> dict[str, Any]:
        """Write the vectors, if they are asked for; return what the manifest says of them."""
        if not self.vectors:
            return {}
        users = user_vectors(model.userFactors, model.globalBias)
        users.write.parquet(f"{directory}/user_vectors")
        item_vectors(model.itemFactors).write.parquet(f"{directory}/item_vectors")
        return {"dimension": model.rank + 1, "similarity": "inner product"}


class ServingConfig(Section):
    """Configuration of `jobs/recommend.py`."""

    model: ModelSection
    seen: SeenSection
    recommendations: RecommendationsSection = RecommendationsSection()
    output: ServingOutputSection

    @model_validator(mode="after")
    def _check(self) -> Self:
        read = {
            "seen.prepared": self.seen.prepared,
            "recommendations.candidates": self.recommendations.candidates,
            "recommendations.users": self.recommendations.users,
        }
        check_apart({"output.path": self.output.path}, read)
        return self
