"""Prepared ratings on disk: the layout, what it says of itself, and how it is opened."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.files.hadoop import FileSystem

__all__ = [
    "LAYOUT",
    "LISTING",
    "MANIFEST",
    "TABLES",
    "Content",
    "Manifest",
    "PreparedError",
    "PreparedRatings",
    "write_listing",
]

LAYOUT = 1
"""The version of the layout that this version of the package writes and reads."""

LISTING = "files.json"
"""The file that says how many bytes every file of the tables has."""

MANIFEST = "manifest.json"
TABLES = ("by_user", "by_item", "users", "items", "validation", "test", "rejected")


class PreparedError(ValueError):
    """A directory that is not prepared ratings, or not those that were asked for."""

    exit_status = 3


@dataclass(frozen=True)
class Content:
    """What prepared ratings are made of, and how; the same again makes the same.

    Parameters
    ----------
    configuration : dict
        Every choice made, as it was given.
    types : dict of str to str
        Spark's name of the type of each column of a rating: ``user``, ``item``, ``rating`` and,
        if there are any, ``weight`` and ``timestamp``.
    counts : dict
        Numbers of rows: ``read``, ``accepted``, ``rejected`` (by reason), ``duplicates``
        (``rows`` beyond the first of a pair, ``pairs``, ``conflicting`` pairs) and of each part.
    mean, minimum, maximum : float
        Of the training ratings; the mean is rounded once, so it is the same for any order.
    weight : float or None
        Sum of the weights of the training ratings, if they have weights.
    fingerprint : str
        64 bits, in hexadecimal, of all ratings and their parts; no order matters.
    """

    configuration: dict[str, Any]
    types: dict[str, str]
    counts: dict[str, Any]
    mean: float
    minimum: float
    maximum: float
    weight: float | None
    fingerprint: str

    def differences(self, other: "Content") -> list[str]:
        """Return the names of the fields of a `Content` that differ in `other`."""
        names = [field.name for field in fields(Content)]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True)
class Manifest(Content):
    """What is in a directory of prepared ratings.

    Parameters
    ----------
    source : dict of str to str
        The ``path`` and ``format`` of the files that the ratings come from.
    users, items : int
        Number of different ids in training, which is also that of the indices.
    user_blocks, item_blocks : int
        Number of blocks of each side.
    unknown : dict
        For validation and test, the number of ratings of which ``user``, ``item`` is not in
        training.
    """

    source: dict[str, str]
    users: int
    items: int
    user_blocks: int
    item_blocks: int
    unknown: dict[str, dict[str, int]]

    def to_json(self) -> str:
        """Return the text of `MANIFEST`."""
        return json.dumps({"layout": LAYOUT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class PreparedRatings:
    """A directory of prepared ratings.

    ::

        by_user/block=<b>/  user_index int, item_index int, rating double, [weight], [timestamp]
        by_item/block=<b>/  the same ratings, those of an item together
        users/, items/      id, index int, count long, block int
        validation/, test/  user, item, rating, [weight], [timestamp], user_index, item_index
        rejected/           every refused row with all its columns, and the reason
        manifest.json       what is there
        files.json          how long each file is

    The training ratings are there twice, in blocks of neighbouring indices. Every block that has
    ratings is one file of one row group, sorted by both indices, so that however Spark cuts
    files, one task reads a block, whole and in order. In validation and test, an index is null
    if the id is not in training.

    Parameters
    ----------
    spark : SparkSession
        The session that reads.
    path : str
        The directory.
    manifest : Manifest
        What it says is there.
    reused : bool
        Whether it was there already when it was to be made.

    Examples
    --------
    >>> prepared = PreparedRatings.open(spark, "prepared/films")
    >>> prepared.manifest.users
    40
    >>> prepared.by_user.count()
    490
    """

    spark: SparkSession
    path: str
    manifest: Manifest
    reused: bool = False

    @classmethod
    def open(cls, spark: SparkSession, path: str) -> "PreparedRatings":
        """Open a directory that `prepare_ratings` has written.

        Parameters
        ----------
        spark : SparkSession
            The session that reads.
        path : str
            The directory.

        Returns
        -------
        PreparedRatings

        Raises
        ------
        PreparedError
            If there is none, or it is incomplete or of another version of the layout, or its files
            are not those that were written.
        """
        files = FileSystem(spark, path)
        again = "prepare the ratings again, with overwrite"
        if not files.exists(path):
            raise PreparedError(f"there are no prepared ratings at {path}: prepare them first")
        if not files.exists(f"{path}/{MANIFEST}"):
            raise PreparedError(
                f"{path} is not prepared ratings, it has no {MANIFEST}: name another directory"
            )
        try:
            values = json.loads(files.read_text(f"{path}/{MANIFEST}"))
            layout = values.pop("layout")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PreparedError(f"{path}/{MANIFEST} is damaged: {again}") from None
        if layout != LAYOUT:
            raise PreparedError(
                f"{path} has version {layout} of the layout, and this nonconvex reads {LAYOUT}: "
                f"{again}"
            )
        try:
            manifest = Manifest(**values)
        except TypeError:
            raise PreparedError(f"{path}/{MANIFEST} is damaged: {again}") from None
        missing = [name for name in (*TABLES, LISTING) if not files.exists(f"{path}/{name}")]
        if missing:
            raise PreparedError(f"{path} is incomplete, it lacks {', '.join(missing)}: {again}")
        damage = _damage(files, path)
        if damage is not None:
            raise PreparedError(f"{path} is damaged, {damage}: {again}")
        return cls(spark, path, manifest)

    @property
    def by_user(self) -> DataFrame:
        """Training ratings in blocks of users: ``user_index, item_index, rating …, block``."""
        return self._read("by_user", {**self._indices, **self._values, "block": "int"})

    @property
    def by_item(self) -> DataFrame:
        """Training ratings in blocks of items: ``user_index, item_index, rating …, block``."""
        return self._read("by_item", {**self._indices, **self._values, "block": "int"})

    @property
    def users(self) -> DataFrame:
        """The users of training: ``id, index, count, block``."""
        return self._read("users", self._index_table("user"))

    @property
    def items(self) -> DataFrame:
        """The items of training: ``id, index, count, block``."""
        return self._read("items", self._index_table("item"))

    @property
    def validation(self) -> DataFrame:
        """Ratings held out to choose a model by."""
        return self._read("validation", {**self.manifest.types, **self._indices})

    @property
    def test(self) -> DataFrame:
        """Ratings held out to measure a model by."""
        return self._read("test", {**self.manifest.types, **self._indices})

    @property
    def rejected(self) -> DataFrame:
        """The refused rows with all columns of the source and the ``reason``."""
        return self.spark.read.parquet(f"{self.path}/rejected")

    @property
    def _indices(self) -> dict[str, str]:
        return {"user_index": "int", "item_index": "int"}

    @property
    def _values(self) -> dict[str, str]:
        return {k: v for k, v in self.manifest.types.items() if k not in ("user", "item")}

    def _index_table(self, side: str) -> dict[str, str]:
        return {"id": self.manifest.types[side], "index": "int", "count": "bigint", "block": "int"}

    def _read(self, name: str, types: dict[str, str]) -> DataFrame:
        schema = ", ".join(f"{column} {kind}" for column, kind in types.items())
        return self.spark.read.schema(schema).parquet(f"{self.path}/{name}")


def write_listing(spark: SparkSession, path: str) -> None:
    """Write down how long each file is, once all tables are there."""
    files = FileSystem(spark, path)
    files.write_text(f"{path}/{LISTING}", json.dumps(_sizes(files, path), indent=1) + "\n")


def _damage(files: FileSystem, path: str) -> str | None:
    """Return how the files differ from those that were written, None if they do not."""
    there = _sizes(files, path)
    try:
        said = dict(json.loads(files.read_text(f"{path}/{LISTING}")))
    except (ValueError, TypeError):
        return f"{LISTING} cannot be read"
    for name in sorted(said.keys() | there.keys()):
        if name not in there:
            return f"it lacks {name}"
        if name not in said:
            return f"it has {name}, which was not written with it"
        if there[name] != said[name]:
            return f"{name} has {there[name]} bytes and not {said[name]}"
    return None


def _sizes(files: FileSystem, path: str) -> dict[str, int]:
    return {
        name: size
        for name, size in files.sizes(path).items()
        if "/" in name and not any(part[0] in "_." for part in name.split("/"))
    }
