"""Examples cut into shards: sets of rows that the data alone determine.

A hash of its content puts a row into a shard, and into its place there.  So shards are random
samples of the data, and neither the order of the rows nor their partitions change a bit.  Equal
rows share a shard.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.data.examples import ExampleSchema, read_examples
from nonconvex.distributed.runtime import Batches, Task, combined
from nonconvex.numerics import Doubles, Longs
from nonconvex.numerics.deterministic import GOLDEN, scramble
from nonconvex.numerics.network.backprop import Examples
from nonconvex.numerics.network.model import Standardization

SHARD_BYTES = 4 << 20  # of its features in float32
MOST_SHARDS = 4096  # each is a task in every pass: with more data the shards are larger
_BATCHED_BYTES = 32 << 20
_SCHEMA = "number int, rows int, kind string, features binary, targets binary, weights binary"
_ARROW = pa.schema(
    [("number", pa.int32()), ("rows", pa.int32()), ("kind", pa.string())]
    + [(name, pa.binary()) for name in ("features", "targets", "weights")]
)

_U64 = np.uint64


class Shard(NamedTuple):
    """Some examples as bytes, a row of a dataframe."""

    number: int
    rows: int
    kind: str  # the narrowest dtype that holds all features exactly
    features: bytes  # (rows, d)
    targets: bytes  # float64 (rows, k); for classes the int32 indices (rows,)
    weights: bytes | None  # float64 (rows,); None if all are 1

    def arrays(self, classify: bool) -> tuple[NDArray[Any], NDArray[Any], Doubles | None]:
        """Return features, targets and weights, without a copy."""
        x = np.frombuffer(self.features, self.kind).reshape(self.rows, -1)
        weight = None if self.weights is None else np.frombuffer(self.weights)
        if classify:
            return x, np.frombuffer(self.targets, np.int32), weight
        return x, np.frombuffer(self.targets).reshape(self.rows, -1), weight


class ExampleDecoder(NamedTuple):
    """A function from a shard to the examples of training, the same on driver and executors."""

    standardization: Standardization
    dtype: str  # "float32" or "float64", of the features and of regression targets
    classify: bool
    class_weights: Doubles | None = None  # (k,), factors of the weights by class
    targets: Standardization | None = None

    def __call__(self, shard: Shard, rows: Longs | None = None) -> Examples:
        """Decode a shard, or some of its rows in this order."""
        x, y, weight = shard.arrays(self.classify)
        if rows is not None:
            x, y = x.take(rows, axis=0), y.take(rows, axis=0)
            weight = None if weight is None else weight.take(rows)
        if self.class_weights is not None:
            weight = self.class_weights[y] * (1.0 if weight is None else weight)
        if self.targets is not None:
            y = self.targets.apply(y, np.float64)
        return Examples(self.standardization.apply(x, np.dtype(self.dtype)), y, weight)

    def row_bytes(self) -> int:
        """Return the bytes of the decoded features of an example."""
        return len(self.standardization.mean) * np.dtype(self.dtype).itemsize


class ShardLayout(NamedTuple):
    """Numbers of shards: first those to train on, then `held_out` to validate on.

    One more, the last, counts the rejected rows by reason, as JSON in its `features`.
    """

    schema: ExampleSchema
    training: int
    held_out: int

    @classmethod
    def of(cls, schema: ExampleSchema, shard_bytes: int = SHARD_BYTES) -> ShardLayout:
        """Choose the numbers of shards by the amount of data, and nothing else."""
        row = 4 * schema.features
        training, held = (
            min(ceil(rows * row / shard_bytes), MOST_SHARDS)
            for rows in (schema.rows, schema.held_out)
        )
        return cls(schema, training, held)

    @property
    def rejected(self) -> int:
        """Number of the last shard."""
        return self.training + self.held_out


def to_shards(selected: DataFrame, layout: ShardLayout) -> DataFrame:
    """Cut the result of `select_examples` into `Shard` rows, each in the partition of its number.

    Only parts of shards are shuffled, not rows; the result is not cached.
    """
    parts = selected.mapInArrow(_cut(layout), _SCHEMA)
    placed = parts.repartitionById(layout.rejected + 1, F.col("number"))
    return placed.mapInArrow(_join(layout), _SCHEMA)


def content_keys(columns: Sequence[NDArray[Any] | None]) -> tuple[NDArray[_U64], NDArray[_U64]]:
    """Return two 64-bit hashes of each row of arrays of shape (m,) or (m, d); None is skipped.

    Multilinear hashing (Lemire and Kaser, 2014): with the bits z_j of the entries of a row and
    random odd a_j it is Σ_j a_j z_j mod 2⁶⁴, whose bits are then mixed.  Rows that agree in both
    hashes are taken to be equal.
    """
    matrices = [
        np.ascontiguousarray(values, np.float64).reshape(len(values), -1).view(_U64)
        for values in columns
        if values is not None
    ]
    sums = [np.zeros(len(matrices[0]), _U64) for _ in range(2)]
    at = 0
    for bits in matrices:
        places = np.arange(at, at + bits.shape[1], dtype=_U64)
        at += bits.shape[1]
        folded = bits ^ (bits >> _U64(32))  # the low bits of round numbers are zeros
        for number, total in enumerate(sums):
            odd = scramble(_U64(2) * places + _U64(number) + GOLDEN) | _U64(1)
            total += np.einsum("ij,j->i", folded, odd)
    return scramble(sums[0] + GOLDEN), scramble(sums[1] + GOLDEN)


def _cut(layout: ShardLayout) -> Task:
    """Return a task that cuts the examples of a partition into parts of shards."""

    def cut(batches: Batches) -> Batches:
        reasons: Counter[str] = Counter()
        # Large tables, so that a shard comes in few parts.
        for table in combined(batches, _BATCHED_BYTES):
            examples, rejected = read_examples(table, layout.schema)
            reasons.update(rejected)
            if not len(examples.x):
                continue
            keys, _ = content_keys(examples[:3])
            held_out = layout.training + _scaled(keys, layout.held_out)
            number = np.where(examples.held_out, held_out, _scaled(keys, layout.training))
            order = np.argsort(number, kind="stable")
            starts = np.flatnonzero(np.diff(number[order])) + 1
            yield _batch(
                _encode(int(number[members[0]]), *examples.take(members)[:3])
                for members in np.split(order, starts)
            )
        if reasons:
            yield _batch([_encode_reasons(layout, reasons)])

    return cut


def _join(layout: ShardLayout) -> Task:
    """Return a task that joins the parts of each shard of a partition, its rows in key order."""
    classify = layout.schema.classes is not None

    def join(batches: Batches) -> Batches:
        parts: dict[int, list[Shard]] = {}
        for batch in batches:
            for row in batch.to_pylist():
                parts.setdefault(row["number"], []).append(Shard(**row))
        for number in sorted(parts):
            found = parts.pop(number)
            if number == layout.rejected:
                reasons: Counter[str] = Counter()
                for part in found:
                    reasons.update(json.loads(part.features))
                yield _batch([_encode_reasons(layout, reasons)])
                continue
            columns = zip(*(part.arrays(classify) for part in found), strict=True)
            arrays = [None if column[0] is None else np.concatenate(column) for column in columns]
            order = np.lexsort(content_keys(arrays)[::-1])
            arrays = [None if values is None else values[order] for values in arrays]
            yield _batch([_encode(number, *arrays)])

    return join


def _encode(number: int, x: Any, y: Any, weight: Any) -> Shard:
    x = _narrowed(x)
    weights = None if weight is None else weight.tobytes()
    return Shard(number, len(x), x.dtype.name, x.tobytes(), y.tobytes(), weights)


def _encode_reasons(layout: ShardLayout, reasons: Counter[str]) -> Shard:
    return Shard(layout.rejected, 0, "json", json.dumps(reasons).encode(), b"", None)


def _narrowed(x: NDArray[Any]) -> NDArray[Any]:
    """Return the same numbers in the narrowest dtype that holds them exactly."""
    with np.errstate(invalid="ignore", over="ignore"):
        for dtype in (np.uint8, np.float32):
            narrow = x.astype(dtype)
            if (narrow == x).all():
                return narrow
    return x.astype(np.float64)


def _scaled(keys: NDArray[_U64], shards: int) -> Longs:
    """Return ⌊key · shards / 2⁶⁴⌋, up to the lower half of the key."""
    return (((keys >> _U64(32)) * _U64(shards)) >> _U64(32)).astype(np.int64)


def _batch(shards: Iterable[Shard]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([shard._asdict() for shard in shards], schema=_ARROW)
