"""Configuration of tables that have a directory for each day."""

from datetime import date
from typing import Annotated, Self

from pydantic import Field, model_validator

from nonconvex.config import Section
from nonconvex.distributed.data.sources import Window

__all__ = ["DailySection"]


class DailySection(Section):
    """Which days of a table are read; all there is, unless `partition` says by what it is cut.

    Examples
    --------
    >>> DailySection(partition="date", until=date(2026, 3, 1), days=30).window().days
    30
    """

    partition: Annotated[str, Field(min_length=1)] | None = None
    """The table has directories ``<partition>=<YYYY-MM-DD>``."""
    until: date | None = None
    """The last day, which must be there: ``"{run_date}"`` for what ``--run-date`` says."""
    days: Annotated[int, Field(gt=0, le=36_525)] | None = None
    """How many days to look back, the last one among them; by default that one alone."""

    def window(self) -> Window | None:
        """Return the days, None for all there is."""
        if self.partition is None or self.until is None:
            return None
        return Window(self.partition, self.until, self.days or 1)

    @model_validator(mode="after")
    def _check_days(self) -> Self:
        together = (self.partition is None, self.until is None)
        if any(together) and not (all(together) and self.days is None):
            raise ValueError(
                "partition and until are given together, and days with them: "
                f"got partition={self.partition!r}, until={str(self.until)!r}, days={self.days!r}"
            )
        return self
