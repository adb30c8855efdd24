"""Configuration of the job that predicts."""

from typing import Annotated, Literal

from pydantic import Field

from nonconvex.config import Section
from nonconvex.network_sections import TableSection
from nonconvex.serving_sections import ModelSection

__all__ = ["PredictionConfig", "PredictionOutputSection", "PredictionsSection"]

_Text = Annotated[str, Field(min_length=1)]


class PredictionsSection(Section):
    """``[predictions]``: what is written of each row.

    Examples
    --------
    >>> PredictionsSection(keep=("id",)).invalid is None
    True
    """

    keep: tuple[_Text, ...] | None = None
    """Columns of the table to write beside the predictions; by default all."""
    invalid: Literal["error", "skip", "keep"] | None = None
    """For a network: what happens to a row whose features are null, NaN or infinite.  Nothing is
    written, or all but this row, or it has no prediction; by default, as the model was made."""


class PredictionOutputSection(Section):
    """``[output]``: where predictions are written, as Parquet.

    Examples
    --------
    >>> PredictionOutputSection(path="predictions/digits").overwrite
    False
    """

    path: _Text
    """The directory, which appears or changes at once."""
    overwrite: bool = False
    """Whether what this job wrote there before may be replaced."""


class PredictionConfig(Section):
    """All that `jobs/predict.py` is told.

    Examples
    --------
    >>> config = PredictionConfig(
    ...     model=ModelSection(path="runs/digits"),
    ...     table=TableSection(path="sklearn:digits"),
    ...     output=PredictionOutputSection(path="predictions/digits"),
    ... )
    >>> config.predictions.keep is None
    True
    """

    model: ModelSection
    table: TableSection
    """The rows to predict."""
    predictions: PredictionsSection = PredictionsSection()
    output: PredictionOutputSection
