"""Prepared examples on disk: packed once, and trained on from there without another shuffle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pyspark import RDD
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from nonconvex.distributed.data.examples import (
    Classes,
    ExampleColumns,
    Outline,
    outline,
    select_examples,
)
from nonconvex.distributed.files.atomic import publish
from nonconvex.distributed.files.hadoop import FileSystem
from nonconvex.distributed.network.dataset import ExampleSet, Measures, check_intake, measure
from nonconvex.distributed.network.shards import PIECE_BYTES, SCHEMA, Layout, Pieces, pack
from nonconvex.numerics.network.standardize import Moments

__all__ = ["LAYOUT", "PreparedExamples", "PreparedExamplesError", "prepare_examples"]

LAYOUT = 1
"""The version of the layout that this version of the package writes and reads."""

_MANIFEST = "manifest.json"


class PreparedExamplesError(ValueError):
    """A directory that is not prepared examples, or one that may not be replaced."""

    exit_status = 3


@dataclass(frozen=True)
class PreparedExamples:
    """A directory of prepared examples.

    ::

        pieces/         a file for each piece, with one row: the fields of `pieces.Piece`
        manifest.json   what is there: columns, counts, classes, moments, fingerprint

    Parameters
    ----------
    spark : SparkSession
    path : str
    manifest : dict
        What `manifest.json` says.

    Examples
    --------
    >>> frame = spark.read.parquet("flowers.parquet")
    >>> columns = ExampleColumns("features", "label")
    >>> path = prepare_examples(frame, columns, "prepared/flowers", classify=True).path
    >>> prepared = PreparedExamples.open(spark, path)
    >>> prepared.manifest["outline"]["rows"], prepared.load().outline.classes.values
    (150, ('setosa', 'versicolor', 'virginica'))
    """

    spark: SparkSession
    path: str
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, spark: SparkSession, path: str) -> PreparedExamples:
        """Open a directory that `prepare_examples` has written.

        Raises
        ------
        PreparedExamplesError
            If there is none, or it is incomplete or of another version of the layout, or a file
            has 0 bytes.
        """
        files = FileSystem(spark, path)
        again = "prepare the examples again, with overwrite"
        if not files.exists(path):
            raise PreparedExamplesError(f"there are no prepared examples at {path}: prepare them")
        if not files.exists(f"{path}/{_MANIFEST}"):
            raise PreparedExamplesError(
                f"{path} is not prepared examples, it has no {_MANIFEST}: name another directory"
            )
        try:
            manifest = json.loads(files.read_text(f"{path}/{_MANIFEST}"))
            layout = manifest["examples_layout"]
        except (ValueError, KeyError, TypeError):
            raise PreparedExamplesError(
                f"{path}/{_MANIFEST} is damaged, or of something else: {again}"
            ) from None
        if layout != LAYOUT:
            raise PreparedExamplesError(
                f"{path} has version {layout} of the layout, and this nonconvex reads {LAYOUT}: "
                f"{again}"
            )
        if not files.exists(f"{path}/pieces"):
            raise PreparedExamplesError(f"{path} is incomplete, it lacks pieces: {again}")
        empty = files.empty_files(path)
        if empty:
            raise PreparedExamplesError(f"{path} is damaged, {empty[0]} has 0 bytes: {again}")
        return cls(spark, path, manifest)

    def load(self) -> ExampleSet:
        """Return the examples, to be read from their files each time they are needed.

        Everything is to the bit as `nonconvex.distributed.network.dataset.pack_examples` makes it.

        Raises
        ------
        PreparedExamplesError
            If files of it are not there.
        """
        about = self.manifest
        shape = dict(about["outline"])
        if shape["classes"] is not None:
            kind, values = shape["classes"]
            shape["classes"] = Classes(kind, tuple(values))
        sizes, held_out = tuple(about["sizes"]), tuple(about["validation_sizes"])
        rdd, places = _located(self.spark, f"{self.path}/pieces", len(sizes) + len(held_out))
        lost = [
            number
            for number, (rows, place) in enumerate(zip(sizes + held_out, places, strict=True))
            if rows and place is None
        ]
        if lost:
            raise PreparedExamplesError(
                f"{self.path} is incomplete, it lacks piece {lost[0]}: prepare the examples again, "
                "with overwrite"
            )
        train = Pieces(rdd, 0, places[: len(sizes)], sizes)
        validation = Pieces(rdd, len(sizes), places[len(sizes) :], held_out)
        return ExampleSet(
            _columns(about["columns"]),
            Outline(**shape),
            train,
            validation if held_out else None,
            Measures(
                sizes,
                _moments(about["moments"]),
                None if about["targets"] is None else _moments(about["targets"]),
                np.array(about["class_weights"]),
                about["train_fingerprint"],
            ),
            about["validation_weight"],
            about["fingerprint"],
        )


def prepare_examples(
    frame: DataFrame,
    columns: ExampleColumns,
    path: str,
    *,
    classify: bool,
    features: int | None = None,
    targets: int | None = None,
    overwrite: bool = False,
    piece_bytes: int = PIECE_BYTES,
) -> PreparedExamples:
    """Check and pack examples, and write them to a directory, whole or not at all.

    Parameters
    ----------
    frame, columns, classify, features, targets, piece_bytes
        See `nonconvex.distributed.network.dataset.pack_examples`.
    path : str
        Where to.
    overwrite : bool
        Whether what is at `path` may be replaced; it stays until all is written.

    Raises
    ------
    PreparedExamplesError
        If there is something at `path` that may not be replaced.
    ColumnError, ExamplesError
        As `pack_examples` raises them.

    Examples
    --------
    >>> frame = spark.createDataFrame([([0.0, 1.0], 2.5), ([1.0, 3.0], 4.0)], ["x", "y"])
    >>> prepared = prepare_examples(frame, ExampleColumns("x", "y"), "prepared/xy", classify=False)
    >>> prepared.manifest["moments"]["mean"]
    [0.5, 2.0]
    """
    spark = frame.sparkSession
    if not overwrite and FileSystem(spark, path).exists(path):
        raise PreparedExamplesError(f"there is something at {path}: name another, or overwrite it")
    selected = select_examples(frame, columns, classify=classify)
    about = outline(selected, columns, classify=classify, features=features, targets=targets)
    layout = Layout.of(about, piece_bytes)
    with publish(spark, path, replace=overwrite) as directory:
        pack(selected, layout).write.parquet(f"{directory}/pieces")
        rdd, places = _located(spark, f"{directory}/pieces", layout.total)
        check_intake(Pieces(rdd, layout.total - 1, places[-1:]), columns, about)
        examples = measure(rdd, places, columns, layout)
        text = json.dumps(_manifest(examples), indent=2, ensure_ascii=False) + "\n"
        FileSystem(spark, directory).write_text(f"{directory}/{_MANIFEST}", text)
    return PreparedExamples.open(spark, path)


def _located(
    spark: SparkSession, path: str, pieces: int
) -> tuple[RDD[Any], tuple[int | None, ...]]:
    """Return an RDD with a partition for each file, and in which of them each piece is."""
    session = spark.newSession()  # with settings of its own
    for setting in ("spark.sql.files.maxPartitionBytes", "spark.sql.files.openCostInBytes"):
        session.conf.set(setting, 1 << 40)  # a file is not cut, and no second one fits beside it
    frame = session.read.schema(SCHEMA).parquet(path)
    found = frame.select("number", F.spark_partition_id().alias("place")).collect()
    places = {row.number: row.place for row in found}
    return frame.rdd, tuple(places.get(number) for number in range(pieces))


def _manifest(examples: ExampleSet) -> dict[str, Any]:
    about, measures = examples.outline, examples.measures
    return {
        "examples_layout": LAYOUT,
        "columns": asdict(examples.columns),
        "outline": about._asdict(),
        "fingerprint": examples.fingerprint,
        "train_fingerprint": measures.fingerprint,
        "validation_weight": examples.validation_weight,
        "class_weights": measures.class_weights.tolist(),
        "sizes": measures.sizes,
        "validation_sizes": () if examples.validation is None else examples.validation.sizes,
        "moments": _values(measures.moments),
        "targets": None if measures.targets is None else _values(measures.targets),
    }


def _values(moments: Moments) -> dict[str, Any]:
    arrays = {name: getattr(moments, name).tolist() for name in Moments._fields[1:]}
    return {"weight": moments.weight, **arrays}


def _moments(values: Mapping[str, Any]) -> Moments:
    return Moments(values["weight"], *(np.array(values[name]) for name in Moments._fields[1:]))


def _columns(values: Mapping[str, Any]) -> ExampleColumns:
    def name(given: str | Sequence[str]) -> str | Sequence[str]:
        return given if isinstance(given, str) else tuple(given)

    return ExampleColumns(
        name(values["features"]), name(values["label"]), values["weight"], values["held_out"]
    )
