"""Prepared ratings on disk: their layout, their manifest, and opening them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.files import FileSystem, verify
from nonconvex.distributed.runtime import map_in_threads
from nonconvex.local.files import CHECKSUMS, ChecksumError, parse_json

LAYOUT = 1
"""The version of the layout that this version of the package writes and reads."""

MANIFEST = "manifest.json"
_INDICES = {"user_index": "int", "item_index": "int"}
TABLES = ("by_user", "by_item", "users", "items", "validation", "test", "rejected")


class PreparedError(ValueError):
    """A directory that is not prepared ratings, or not the expected ones."""

    exit_status = 3


@dataclass(frozen=True)
class Content:
    """Everything that determines prepared ratings: equal content means equal tables."""

    configuration: dict[str, Any]  # the choices, as they were given
    # Spark's name of the type of each column of a rating: ``user``, ``item``, ``rating`` and, if
    # there are any, ``weight`` and ``timestamp``
    types: dict[str, str]
    # numbers of rows: ``read``, ``accepted``, ``rejected`` (by reason), ``duplicates`` (``rows``
    # beyond the first of a pair, ``pairs``, ``conflicting`` pairs) and of each part
    counts: dict[str, Any]
    # of the training ratings. The mean is rounded once, so that no order matters.
    mean: float
    minimum: float
    maximum: float
    weight: float | None  # sum of the weights of the training ratings, if they have weights
    # 64-bit hash, in hexadecimal, of all ratings and their parts; no order matters
    fingerprint: str

    def differences(self, other: "Content") -> list[str]:
        """Return the names of the fields that differ in `other`."""
        names = [field.name for field in fields(Content)]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True)
class Manifest(Content):
    """Description of a directory of prepared ratings."""

    source: dict[str, str]  # ``path`` and ``format`` of the raw ratings
    # number of distinct ids in training
    users: int
    items: int
    # number of blocks of each side
    user_blocks: int
    item_blocks: int
    # for validation and test, the number of ratings whose ``user``, ``item`` is not in training
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
        manifest.json       counts, types and choices
        checksums.json      the size of each file

    The training ratings are stored twice, in blocks of neighbouring indices.  Each non-empty block
    is one file with one row group, sorted by both indices, so that one task reads a block whole and
    in order.  In validation and test, an index is null if the id is not in training.

    Examples
    --------
    >>> prepared = PreparedRatings.open(spark, "prepared/films")
    >>> prepared.manifest.users
    40
    >>> prepared.by_user.count()
    490
    """

    spark: SparkSession  # the session that reads
    path: str
    manifest: Manifest
    reused: bool = False  # whether they existed already when they were to be prepared

    @classmethod
    def open(cls, spark: SparkSession, path: str) -> "PreparedRatings":
        """Open a directory that `prepare_ratings` has written."""
        files = FileSystem(spark, path)
        again = "prepare the ratings again, with overwrite"
        if not files.exists(path):
            raise PreparedError(f"there are no prepared ratings at {path}: prepare them first")
        if not files.exists(f"{path}/{MANIFEST}"):
            raise PreparedError(
                f"{path} is not prepared ratings, it has no {MANIFEST}: name another directory"
            )
        try:
            values = parse_json(files.read_text(f"{path}/{MANIFEST}"))
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
        missing = [name for name in (*TABLES, CHECKSUMS) if not files.exists(f"{path}/{name}")]
        if missing:
            raise PreparedError(f"{path} is incomplete, it lacks {', '.join(missing)}: {again}")
        try:
            verify(spark, path)
        except ChecksumError as error:
            raise PreparedError(f"{error}: {again}") from None
        return cls(spark, path, manifest)

    @property
    def by_user(self) -> DataFrame:
        """Training ratings in blocks of users: ``user_index, item_index, rating …, block``."""
        return self._read("by_user", {**_INDICES, **self._values, "block": "int"})

    @property
    def by_item(self) -> DataFrame:
        """Training ratings in blocks of items: ``user_index, item_index, rating …, block``."""
        return self._read("by_item", {**_INDICES, **self._values, "block": "int"})

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
        return self._read("validation", {**self.manifest.types, **_INDICES})

    @property
    def test(self) -> DataFrame:
        """Ratings held out to measure a model by."""
        return self._read("test", {**self.manifest.types, **_INDICES})

    @property
    def rejected(self) -> DataFrame:
        """The refused rows with all columns of the source and the ``reason``."""
        return self.spark.read.parquet(f"{self.path}/rejected")

    def collect(
        self, name: str, columns: Sequence[str], among: pa.Array | None = None
    ) -> list[pa.Table]:
        """Collect columns of a table on the driver, without Spark if it is on a disk here.

        Then each of its files is a table.  `among` has the values of the first column whose rows
        are wanted; they are broadcast.
        """
        root = FileSystem(self.spark, self.path).local_path(f"{self.path}/{name}")
        if root is None:
            frame = getattr(self, name).select(*columns)
            if among is not None:
                wanted = self.spark.createDataFrame(pa.table({columns[0]: among}))
                frame = frame.join(F.broadcast(wanted), columns[0], "left_semi")
            return [frame.toArrow()]

        def read(path: Path) -> pa.Table:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            table = file.read(list(columns), use_threads=False)
            directory, _, value = path.parent.name.partition("=")
            if directory == "block":
                block = np.full(len(table), int(value), np.int32)
                table = table.append_column("block", pa.array(block))
            table = table.select(columns)
            return table if among is None else table.filter(pc.is_in(table[0], value_set=among))

        try:
            tables = map_in_threads(read, sorted(Path(root).rglob("*.parquet")))
        except FileNotFoundError:
            tables = []
        if not tables:
            raise PreparedError(f"{self.path}/{name} is gone: prepare the ratings again")
        return tables

    @property
    def _values(self) -> dict[str, str]:
        return {k: v for k, v in self.manifest.types.items() if k not in ("user", "item")}

    def _index_table(self, side: str) -> dict[str, str]:
        return {"id": self.manifest.types[side], "index": "int", "count": "bigint", "block": "int"}

    def _read(self, name: str, types: dict[str, str]) -> DataFrame:
        schema = ", ".join(f"{column} {kind}" for column, kind in types.items())
        return self.spark.read.schema(schema).parquet(f"{self.path}/{name}")


def training_ratings(prepared: PreparedRatings) -> DataFrame:
    """Return ``user, item, rating``, and ``weight`` if there is one, by the ids they came with."""

    def ids(side: str) -> DataFrame:
        table = prepared.users if side == "user" else prepared.items
        return table.select(F.col("index").alias(f"{side}_index"), F.col("id").alias(side))

    weight = ["weight"] if "weight" in prepared.manifest.types else []
    named = prepared.by_user.join(ids("user"), on="user_index").join(ids("item"), on="item_index")
    return named.select("user", "item", "rating", *weight)


def seen_pairs(prepared: PreparedRatings, parts: Sequence[str], user: str, item: str) -> DataFrame:
    """Return the pairs in some parts of prepared ratings, by the ids that they came with."""
    train, validation, test = training_ratings(prepared), prepared.validation, prepared.test
    tables = {"train": train, "validation": validation, "test": test}
    pairs = (tables[part].select("user", "item") for part in parts)
    return reduce(DataFrame.union, pairs).toDF(user, item)
