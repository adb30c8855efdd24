"""Configuration of estimators: tables of Params by name, checked before Spark starts."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field
from pyspark.ml import Estimator

from nonconvex.config import ConfigError, Section, check_keys

__all__ = ["OutputSection", "ParamTable"]

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
    >>> table = ParamTable(MatrixFactorization, "factorization", {"ratingCol"})  # doctest: +SKIP
    >>> table.make({"rank": 20}).getRank()  # doctest: +SKIP
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
