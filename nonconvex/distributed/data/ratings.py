"""What ratings are: the columns that hold them, the rules they keep, the error when they do not."""

from dataclasses import dataclass, fields

__all__ = ["DUPLICATES", "ID_TYPES", "PARTS", "Columns", "RatingsError", "Rules"]

ID_TYPES = ("auto", "string", "long")
"""What the ids of users and items may be asked to become."""

DUPLICATES = ("error", "first", "last", "mean")
"""What may become of several ratings of one item by one user."""

PARTS = ("train", "validation", "test")
"""The parts of a split, and the values of a column that says which part a row belongs to."""


class RatingsError(ValueError):
    """The data are not ratings that can be used; the message says what to change."""

    exit_status = 3


@dataclass(frozen=True)
class Columns:
    """Names of the columns that hold the ratings; None for a column there is not.

    A name is that of a column, whatever characters it has, or else a path with dots into columns
    of structs.

    Parameters
    ----------
    user, item : str
        Ids: strings, integers or decimals.
    rating : str
        The rating, a number.
    weight : str, optional
        How much the rating counts, a finite number ≥ 0.
    timestamp : str, optional
        When it was given: a number in any unit, or a timestamp or date, taken as Unix seconds.

    Examples
    --------
    >>> Columns(user="userId", item="movieId").named()
    {'user': 'userId', 'item': 'movieId', 'rating': 'rating'}
    """

    user: str = "user"
    item: str = "item"
    rating: str = "rating"
    weight: str | None = None
    timestamp: str | None = None

    def named(self) -> dict[str, str]:
        """Return the column of each role that has one."""
        names = {field.name: getattr(self, field.name) for field in fields(self)}
        return {role: name for role, name in names.items() if name is not None}


@dataclass(frozen=True)
class Rules:
    """Which ratings are accepted, and as what.

    Parameters
    ----------
    ids : {"auto", "string", "long"}
        The type of ids. "auto" keeps the type of a typed column; ids from text are strings
        unless every accepted one is an integer, written without leading zeros, of 64 bits.
    minimum, maximum : float, optional
        The least and the greatest rating that is accepted.
    duplicates : {"error", "first", "last", "mean"}
        What to do with several ratings of one item by one user: refuse to go on, keep the first
        in the order of the files, keep that with the latest timestamp, or take their mean.

    Examples
    --------
    >>> Rules(minimum=0, maximum=10).duplicates
    'error'
    """

    ids: str = "auto"
    minimum: float | None = None
    maximum: float | None = None
    duplicates: str = "error"

    def __post_init__(self) -> None:
        """Refuse what is not among the choices."""
        for name, value, choices in (
            ("ids", self.ids, ID_TYPES),
            ("duplicates", self.duplicates, DUPLICATES),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        low, high = self.minimum, self.maximum
        if low is not None and high is not None and low > high:
            raise ValueError(f"minimum must be ≤ maximum, got {low} and {high}")
