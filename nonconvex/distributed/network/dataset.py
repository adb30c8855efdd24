"""Examples made ready for a fit: checked, packed into pieces, and measured."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pyspark import RDD, SparkContext, StorageLevel
from pyspark.sql import DataFrame

from nonconvex.distributed.data.examples import (
    ExampleColumns,
    ExamplesError,
    Outline,
    outline,
    refuse,
    select_examples,
)
from nonconvex.distributed.network.shards import (
    PIECE_BYTES,
    Layout,
    Piece,
    Pieces,
    Reading,
    content_keys,
    pack,
)
from nonconvex.numerics.network.standardize import Moments, Standardization

__all__ = ["ExampleSet", "Measures", "check_intake", "measure", "pack_examples"]

_log = logging.getLogger("nonconvex")

_RESULT_BYTES = 64 << 20  # of moments that come to the driver at a time
_SHOWN = 10  # names in a warning
_STORED = 1.5  # a byte above 127 takes two as the JVM pickles it


class Measures(NamedTuple):
    """What the pieces hold, all summed in the order of the pieces.

    Attributes
    ----------
    sizes : tuple of int
        Rows of each piece.
    moments : Moments
        Of the features.
    targets : Moments or None
        Of the numbers to predict; None if there are classes.
    class_weights : float64 array of shape (k,)
        Sum of the weights of each class; for a regression one entry, of all examples.
    fingerprint : str
        64 bits, in hexadecimal, of all examples.
    """

    sizes: tuple[int, ...]
    moments: Moments
    targets: Moments | None
    class_weights: NDArray[np.float64]
    fingerprint: str


@dataclass(frozen=True)
class ExampleSet:
    """Everything a fit needs of its examples; what is cached stays so until `release`.

    Parameters
    ----------
    columns : ExampleColumns
    outline : Outline
    train : Pieces
    validation : Pieces or None
        None if no rows are held out.
    measures : Measures
        Of the examples to train on.
    validation_weight : float
        Sum of the weights of the examples to validate on.
    fingerprint : str
        Of all examples, with their classes.
    cached : RDD, optional
        What is to be released.
    """

    columns: ExampleColumns
    outline: Outline
    train: Pieces
    validation: Pieces | None
    measures: Measures
    validation_weight: float
    fingerprint: str
    cached: RDD[Any] | None = None

    def reading(
        self,
        *,
        standardize: bool = True,
        standardize_targets: bool = False,
        dtype: str = "float32",
        class_weights: Sequence[float] | None = None,
    ) -> Reading:
        """Say how pieces become examples.

        Parameters
        ----------
        standardize : bool
            Whether features get mean 0 and variance 1; of a constant one, the standardized value
            is 0, and one warning names those there are.
        standardize_targets : bool
            Whether the numbers to predict do.
        dtype : str
            "float32" or "float64".
        class_weights : sequence of float, optional
            What the weights of the examples of each class are multiplied by.

        Raises
        ------
        ExamplesError
            If what is to be standardized has no variance that is a number.
        """
        moments = self.measures.moments
        standardization = Standardization.none(self.outline.features)
        if standardize:
            _refuse_overflow(moments, self.columns.feature_name)
            standardization = moments.standardization()
            self._warn(np.flatnonzero(moments.constant()))
        weights = None if class_weights is None else np.asarray(class_weights, np.float64)
        targets = self.measures.targets if standardize_targets else None
        if targets is not None:
            _refuse_overflow(targets, lambda _: f"labelCol={self.columns.label!r}")
        return Reading(
            standardization,
            dtype,
            self.outline.classes is not None,
            weights,
            None if targets is None else targets.standardization(still=1.0),
        )

    def release(self) -> None:
        """Free what is cached."""
        if self.cached is not None:
            self.cached.unpersist()

    def _warn(self, constant: NDArray[np.int64]) -> None:
        if len(constant):
            names = ", ".join(self.columns.feature_name(int(j)) for j in constant[:_SHOWN])
            _log.warning(
                "%d of %d features are constant and say nothing: %s%s; leave them out",
                len(constant),
                self.outline.features,
                names,
                ", …" if len(constant) > _SHOWN else "",
            )


def pack_examples(
    frame: DataFrame,
    columns: ExampleColumns,
    *,
    classify: bool,
    features: int | None = None,
    targets: int | None = None,
    piece_bytes: int = PIECE_BYTES,
) -> ExampleSet:
    """Check, pack and measure the examples of any dataframe, which is read twice.

    Parameters
    ----------
    frame : DataFrame
    columns : ExampleColumns
    classify : bool
        Whether the labels are classes.
    features, targets : int, optional
        What the first and last entry of ``layers`` ask for, where they are given.
    piece_bytes : int
        Size of a piece, by its features in float32.

    Returns
    -------
    ExampleSet
        Cached, for the caller to release.  No bit of it depends on the order of the rows or on
        the partitions of `frame`.

    Raises
    ------
    ColumnError
        If a column is missing or of a wrong type.
    ExamplesError
        If an example cannot be used, or nothing can be learned from them.

    Examples
    --------
    >>> frame, columns = spark.read.parquet("flowers.parquet"), ExampleColumns("features", "label")
    >>> examples = pack_examples(frame, columns, classify=True)
    >>> examples.outline.classes.values
    ('setosa', 'versicolor', 'virginica')
    >>> examples.release()
    """
    selected = select_examples(frame, columns, classify=classify)
    about = outline(selected, columns, classify=classify, features=features, targets=targets)
    layout = Layout.of(about, piece_bytes)
    rdd: RDD[Any] = pack(selected, layout).rdd
    rdd.persist(_level(frame.sparkSession.sparkContext, about))
    try:
        places = tuple(range(layout.total))
        check_intake(Pieces(rdd, layout.total - 1, places[-1:]), columns, about)
        return measure(rdd, places, columns, layout, cached=rdd)
    except BaseException:
        rdd.unpersist()
        raise


def _level(context: SparkContext, about: Outline) -> StorageLevel:
    """Say where pieces are to be kept: in memory if they take no more than half of it.

    Spark would move what does not fit to disk piece by piece; but pieces are large objects to a
    heap, which they fragment, and executors ran out of it while they were a little over half full.
    """
    status = cast(Any, context)._jsc.sc().getExecutorMemoryStatus().values().iterator()
    room = 0
    while status.hasNext():  # the driver's too, which counts only where it is an executor
        room += status.next()._1()
    rows = about.rows + about.held_out
    needed = int(_STORED * rows * (about.features + about.targets) * 4)
    if 2 * needed <= room:
        return StorageLevel.MEMORY_AND_DISK
    _log.info(
        "%d MB of examples are kept on the executors' disks: their memory for storage is %d MB",
        needed >> 20,
        room >> 20,
    )
    return StorageLevel.DISK_ONLY


def check_intake(refused: Pieces, columns: ExampleColumns, about: Outline) -> None:
    """Raise if rows were refused when pieces were packed.

    Parameters
    ----------
    refused : Pieces
        The last piece, which tells.
    columns, about
        See `nonconvex.distributed.data.examples.refuse`.
    """
    for reasons in refused.run(lambda _, piece: json.loads(piece.features)).values():
        refuse(Counter(reasons), columns, about)


def measure(
    rdd: RDD[Any],
    places: Sequence[int | None],
    columns: ExampleColumns,
    layout: Layout,
    cached: RDD[Any] | None = None,
) -> ExampleSet:
    """Measure packed pieces, in a pass over them.

    Parameters
    ----------
    rdd : RDD
        Of pieces.
    places : sequence of int or None
        In which partition each lies.
    columns, layout
        What was packed.
    cached : RDD, optional
        What `ExampleSet.release` is to release.

    Raises
    ------
    ExamplesError
        If no example to train on, or none to validate on, weighs anything.
    """
    about = layout.outline
    train = Pieces(rdd, 0, tuple(places[: layout.pieces]))
    measures = _measure(train, about, about.rows)
    if not measures.moments.weight > 0:
        raise ExamplesError(
            f"weightCol={columns.weight!r} is 0 in all rows to train on; at least one must weigh "
            "something"
        )
    validation, weight, fingerprints = None, 0.0, [measures.fingerprint]
    if layout.held_out:
        validation = Pieces(rdd, layout.pieces, tuple(places[layout.pieces : layout.total - 1]))
        of_validation = _measure(validation, about, about.held_out)
        validation = replace(validation, sizes=of_validation.sizes)
        weight = of_validation.moments.weight
        fingerprints.append(of_validation.fingerprint)
        if not weight > 0:
            raise ExamplesError(
                f"weightCol={columns.weight!r} is 0 in all rows held out for validation; at least "
                "one must weigh something"
            )
    identity = json.dumps([fingerprints, about])
    return ExampleSet(
        columns,
        about,
        replace(train, sizes=measures.sizes),
        validation,
        measures,
        weight,
        hashlib.blake2b(identity.encode(), digest_size=8).hexdigest(),
        cached,
    )


def _refuse_overflow(moments: Moments, name: Callable[[int], str]) -> None:
    """Raise if a variance is no number."""
    wrong = np.flatnonzero(moments.overflowed())
    if len(wrong):
        greatest = np.maximum(-moments.minimum, moments.maximum)[wrong[0]]
        raise ExamplesError(
            f"{name(int(wrong[0]))} has values up to {greatest:.3g}, whose squares are too great "
            "to be numbers; divide them by a power of ten, or leave such rows out"
        )


class _Part(NamedTuple):
    rows: int
    moments: Moments
    targets: Moments | None
    class_weights: NDArray[np.float64]
    digest: bytes


def _measure(pieces: Pieces, about: Outline, rows: int) -> Measures:
    task = _measuring(about)
    unmeasured = replace(pieces, sizes=(1,) * len(pieces.partitions))
    sizes = [0] * len(pieces.partitions)
    moments: Moments | None = None
    targets: Moments | None = None
    weights = np.zeros(1)
    digest = hashlib.blake2b(digest_size=8)
    bytes_of_result = 4 * 8 * about.features
    for chunk in unmeasured.bounded(bytes_of_result, _RESULT_BYTES, range(len(sizes))):
        for number, part in pieces.run(task, chunk).items():
            sizes[number] = part.rows
            moments = part.moments if moments is None else moments.merge(part.moments)
            if part.targets is not None:
                targets = part.targets if targets is None else targets.merge(part.targets)
            weights = weights + part.class_weights
            digest.update(part.digest)
    if moments is None or sum(sizes) != rows:
        raise ExamplesError(
            f"the dataframe had {rows:,} examples and a moment later {sum(sizes):,}, it gives "
            "other rows each time; cache it, or write it to Parquet"
        )
    return Measures(tuple(sizes), moments, targets, weights, digest.hexdigest())


def _measuring(about: Outline) -> Any:
    classify, targets = about.classes is not None, about.targets

    def task(_: int, piece: Piece) -> _Part:
        x, y, weight = piece.arrays(classify)
        moments = Moments.of(x, weight)
        weights = np.array([moments.weight])
        of_targets = None if classify else Moments.of(y, weight)
        if classify:
            weights = np.bincount(y, weight, targets).astype(np.float64)
        keys = content_keys([x, y, weight])[0].tobytes()
        digest = hashlib.blake2b(keys, digest_size=8).digest()
        return _Part(piece.rows, moments, of_targets, weights, digest)

    return task
