"""Configuration of the job that writes recommendations and vectors."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from nonconvex.config import Section

__all__ = [
    "ModelSection",
    "RecommendationsSection",
    "SeenSection",
    "ServingConfig",
    "ServingOutputSection",
]

_Text = Annotated[str, Field(min_length=1)]
_Part = Literal["train", "validation", "test"]


class ModelSection(Section):
    """``[model]``: what recommends.

    Examples
    --------
    >>> ModelSection(path="runs/films").path
    'runs/films'
    """

    path: _Text
    """A model, a run, or a directory of runs of which one is published."""


class SeenSection(Section):
    """``[seen]``: what is not recommended, as the user has rated it.

    Examples
    --------
    >>> SeenSection(prepared="prepared/films").parts
    ('train', 'validation', 'test')
    """

    prepared: _Text | None = None
    """A directory of prepared ratings; needed unless `parts` is empty."""
    parts: tuple[_Part, ...] = ("train", "validation", "test")
    """Which of these ratings count as seen; an empty list recommends what was seen too."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.parts and self.prepared is None:
            raise ValueError(
                "prepared must name prepared ratings, so that what was seen is not recommended; "
                "or set parts=[]"
            )
        return self


class RecommendationsSection(Section):
    """``[recommendations]``: how many, of what and for whom.

    Examples
    --------
    >>> RecommendationsSection(n=20).buckets
    16
    """

    n: PositiveInt = 10
    """Length of the lists."""
    candidates: _Text | None = None
    """Parquet of the items that may be recommended, or of pairs of a user and an item."""
    users: _Text | None = None
    """Parquet of the users to recommend for; by default all that the model knows."""
    buckets: PositiveInt = 16
    """Number of files."""


class ServingOutputSection(Section):
    """``[output]``: where everything is written.

    Examples
    --------
    >>> ServingOutputSection(path="serving/films").overwrite
    False
    """

    path: _Text
    """The directory, which appears or changes at once."""
    vectors: bool = True
    """Whether vectors of users and items are written too."""
    overwrite: bool = False
    """Whether what this job wrote there before may be replaced."""


class ServingConfig(Section):
    """All that `jobs/recommend.py` is told.

    Examples
    --------
    >>> config = ServingConfig(
    ...     model=ModelSection(path="runs/films"),
    ...     seen=SeenSection(prepared="prepared/films"),
    ...     output=ServingOutputSection(path="serving/films"),
    ... )
    >>> config.recommendations.n
    10
    """

    model: ModelSection
    seen: SeenSection
    recommendations: RecommendationsSection = RecommendationsSection()
    output: ServingOutputSection
