"""Configuration of estimators: tables of Params by name, checked before Spark starts."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, FiniteFloat, PositiveInt
from pyspark.ml import Estimator

from nonconvex.config import ConfigError, Section, check_keys
from nonconvex.gates import Gate

__all__ = ["GateSection", "OutputSection", "ParamTable", "StartSection"]

EstimatorT = TypeVar("EstimatorT", bound=Estimator[Any])


class OutputSection(Section):
    """``[output]``: where runs are written and published.

    Examples
    --------
    >>> OutputSection(path="runs/films").path
    'runs/films'
    """

    path: Annotated[str, Field(min_length=1)]
    """The directory of all runs, each of which gets one of its own in it."""
    keep: PositiveInt | None = None
    """How many runs are kept, the published one among them; older ones are removed after a new
    one is published.  By default all are kept."""
    day: date | None = None
    """The day that a run is of, such as ``"{run_date}"``; by default the last one that it reads, if
    it reads days.  A day that has been published is repeated from where it began at first."""


class GateSection(Section):
    """``[gate]``: what a model must reach on the test rows to be published.

    Examples
    --------
    >>> GateSection(metric="rmse", published=0.01).gate()
    Gate(metric='rmse', published=0.01, baseline=0.0)
    """

    metric: Literal["rmse", "mae", "r2", "accuracy", "logLoss"]
    """What is compared."""
    published: FiniteFloat | None = 0.0
    """How much worse than the published model it may be, in the units of the metric; a negative
    number asks for more."""
    baseline: FiniteFloat | None = 0.0
    """How much worse than the best baseline."""

    def gate(self) -> Gate:
        """Return the gate."""
        return Gate(self.metric, self.published, self.baseline)


class StartSection(Section):
    """``[start]``: the model that training begins at, which it does at random by default.

    Examples
    --------
    >>> StartSection(model="published").model
    'published'
    """

    model: Annotated[str, Field(min_length=1)] | None = None
    """``published``, which is random while no model is published; or a model, a run, or a
    directory of runs."""


class ParamTable(Generic[EstimatorT]):
    """Params of an estimator that a table of a configuration may set.

    Parameters
    ----------
    estimator : type of Estimator
        Made with Params by name.
    section : str
        Dotted name of the table, for messages.
    without : collection of str
        Params that other tables say.

    Examples
    --------
    >>> from nonconvex.recommendation import MatrixFactorization
    >>> table = ParamTable(MatrixFactorization, "factorization", {"ratingCol"})
    >>> table.make({"rank": 20}).getRank()
    20
    """

    def __init__(self, estimator: type[EstimatorT], section: str, without: Collection[str]) -> None:
        self._estimator, self._section = estimator, section
        default = estimator()
        self._defaults = {
            param.name: default.getOrDefault(param)
            for param in default.params
            if param.name not in without
        }

    def make(self, given: Mapping[str, Any], **others: Any) -> EstimatorT:
        """Return the estimator with these Params.

        Parameters
        ----------
        given : mapping
            What the table has.
        **others
            Params that other tables have said.

        Raises
        ------
        ConfigError
            For a Param that there is not, or a value that it refuses.
        """
        check_keys(self._section, given, self._defaults)
        try:
            self._estimator(**given)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self._section}: {error}") from None
        # A resolved configuration has all defaults, and must not count as setting those Params.
        changed = {name: v for name, v in given.items() if v != self._defaults[name]}
        return self._estimator(**changed, **others)

    def resolved(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return every Param that has a value, defaults included."""
        params = {**self._defaults, **given}
        return {name: value for name, value in params.items() if value is not None}
