"""Configuration of the page that a run leaves."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pyspark.sql import DataFrame, SparkSession

from nonconvex.config import Section
from nonconvex.distributed.columns import id_column, text_column
from nonconvex.distributed.data.sources import read_source

__all__ = ["ItemReportSection", "ReportSection"]

_Text = Annotated[str, Field(min_length=1)]


class ReportSection(Section):
    """``[report]``: the page of a run.

    Examples
    --------
    >>> ReportSection().write
    True
    """

    write: bool = True
    """Whether to write ``report.html`` and ``figures/`` beside the model."""


class ItemReportSection(ReportSection):
    """``[report]`` of a factorization, whose items may have names.

    Examples
    --------
    >>> ItemReportSection(names="films.csv").name
    'title'
    """

    names: _Text | None = None
    """A table of what to call items: a file, a directory or a pattern with wildcards."""
    id: _Text = "item"
    """Its column of ids, as they are in the ratings."""
    name: _Text = "title"
    """Its column of names."""
    format: Literal["parquet", "csv", "json"] | None = None
    """By default, what the extension says; in "json", every line is one object."""
    separator: _Text | None = None
    """Of the fields of CSV: by default a tab for .tsv, else a comma."""

    def table(self, spark: SparkSession) -> DataFrame | None:
        """Return ``id, name`` as strings, or None if no table is named.

        Raises
        ------
        SourceError, ColumnError
            If there is no such table, or it lacks a column.
        """
        if self.names is None:
            return None
        rows = read_source(spark, self.names, format=self.format, separator=self.separator).rows
        ids = id_column(rows, self.id, "report.id").cast("string")
        return rows.select(
            ids.alias("id"), text_column(rows, self.name, "report.name").alias("name")
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        about = {"id", "name", "format", "separator"} & self.model_fields_set
        if self.names is None and about:
            raise ValueError(
                f"{', '.join(sorted(about))} is about a table of names: say which in report.names"
            )
        return self
