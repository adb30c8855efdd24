"""Examples made ready for a fit: checked, cut into shards, and measured."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from pyspark.sql import DataFrame

from nonconvex.distributed.data.examples import (
    ExampleColumns,
    ExampleSchema,
    ExamplesError,
    infer_schema,
    raise_rejected,
    select_examples,
)
from nonconvex.distributed.network.gradients import ShardRows, Shards, cache_shards
from nonconvex.distributed.network.shards import (
    SHARD_BYTES,
    ExampleDecoder,
    Shard,
    ShardLayout,
    content_keys,
    to_shards,
)
from nonconvex.numerics import Doubles, Longs
from nonconvex.numerics.network.model import Moments, Standardization

_log = logging.getLogger("nonconvex")

_RESULT_BYTES = 64 << 20  # of moments that come to the driver at a time
_SHOWN = 10  # names in a warning


class ExampleStats(NamedTuple):
    """Statistics of shards, all summed in the order of the shards."""

    sizes: tuple[int, ...]  # examples of each shard
    moments: Moments  # of the features
    targets: Moments | None  # of the regression targets
    class_weights: Doubles  # (k,), Σ w of each class; (1,) for a regression
    fingerprint: str  # 64 bits, in hexadecimal


@dataclass(frozen=True)
class ExampleSet:
    """Cached shards of training and validation examples, with the statistics that a fit needs."""

    columns: ExampleColumns
    schema: ExampleSchema
    train: Shards
    validation: Shards | None  # None if no rows are held out
    stats: ExampleStats  # of the training examples
    fingerprint: str  # of all examples, with their classes
    cached: ShardRows

    def decoder(
        self,
        *,
        standardize: bool = True,
        standardize_targets: bool = False,
        dtype: str = "float32",
        class_weights: Sequence[float] | None = None,
    ) -> ExampleDecoder:
        """Make the decoder of shards; one warning names constant features, which become 0.

        Raises ExamplesError if the variance of a feature or target overflows.
        """
        moments = self.stats.moments
        standardization = Standardization.none(self.schema.features)
        if standardize:
            _check_overflow(moments, self.columns.feature_name)
            standardization = moments.standardization()
            self._warn_constant(np.flatnonzero(moments.constant()))
        weights = None if class_weights is None else np.asarray(class_weights, np.float64)
        targets = self.stats.targets if standardize_targets else None
        if targets is not None:
            _check_overflow(targets, lambda _: f"labelCol={self.columns.label!r}")
        classify = self.schema.classes is not None
        units = None if targets is None else targets.standardization(still=1.0, reach=np.inf)
        return ExampleDecoder(standardization, dtype, classify, weights, units)

    def release(self) -> None:
        """Unpersist the shards."""
        self.cached.release()

    def _warn_constant(self, constant: Longs) -> None:
        if len(constant):
            names = ", ".join(self.columns.feature_name(int(j)) for j in constant[:_SHOWN])
            _log.warning(
                "%d of %d features are constant and carry no information: %s%s; leave them out",
                len(constant),
                self.schema.features,
                names,
                ", …" if len(constant) > _SHOWN else "",
            )


def shard_examples(
    frame: DataFrame, columns: ExampleColumns, *, classify: bool, shard_bytes: int = SHARD_BYTES
) -> ExampleSet:
    """Check, shard and measure the examples of a dataframe, which is read twice.

    The caller releases the result.  No bit of it depends on the order of the rows or on their
    partitions.  Raises ColumnError or ExamplesError for examples that cannot be used.
    """
    selected = select_examples(frame, columns, classify=classify)
    schema = infer_schema(selected, columns, classify=classify)
    layout = ShardLayout.of(schema, shard_bytes)
    values = (schema.rows + schema.held_out) * (schema.features + schema.targets)
    cached = cache_shards(to_shards(selected, layout), values)
    try:
        last = Shards(cached, layout.rejected, 1)
        for reasons in last.run(lambda _, shard: json.loads(shard.features)).values():
            raise_rejected(Counter(reasons), columns, schema)
        return _example_set(cached, columns, layout)
    except BaseException:
        cached.release()
        raise


def _example_set(cached: ShardRows, columns: ExampleColumns, layout: ShardLayout) -> ExampleSet:
    schema = layout.schema
    train = Shards(cached, 0, layout.training)
    stats = _measure(train, schema, schema.rows)
    _check_weight(stats, columns, "to train on")
    validation, fingerprints = None, [stats.fingerprint]
    if layout.held_out:
        validation = Shards(cached, layout.training, layout.held_out)
        held_out = _measure(validation, schema, schema.held_out)
        _check_weight(held_out, columns, "held out for validation")
        validation = replace(validation, sizes=held_out.sizes)
        fingerprints.append(held_out.fingerprint)
    identity = json.dumps([fingerprints, schema]).encode()
    fingerprint = hashlib.blake2b(identity, digest_size=8).hexdigest()
    train = replace(train, sizes=stats.sizes)
    return ExampleSet(columns, schema, train, validation, stats, fingerprint, cached)


def _check_weight(stats: ExampleStats, columns: ExampleColumns, which: str) -> None:
    if not stats.moments.weight > 0:
        raise ExamplesError(
            f"weightCol={columns.weight!r} is 0 in all rows {which}; at least one must be positive"
        )


def _check_overflow(moments: Moments, name: Callable[[int], str]) -> None:
    wrong = np.flatnonzero(moments.overflowed())
    if len(wrong):
        greatest = np.maximum(-moments.minimum, moments.maximum)[wrong[0]]
        raise ExamplesError(
            f"{name(int(wrong[0]))} has values up to {greatest:.3g}, whose squares overflow; "
            "divide them by a power of ten, or leave such rows out"
        )


class _ShardStats(NamedTuple):
    rows: int
    moments: Moments
    targets: Moments | None
    class_weights: Doubles
    digest: bytes


def _measure(shards: Shards, schema: ExampleSchema, rows: int) -> ExampleStats:
    """Measure shards in one pass; raise ExamplesError if they have another number of rows."""
    classify, outputs = schema.classes is not None, schema.targets

    def task(_: int, shard: Shard) -> _ShardStats:
        x, y, weight = shard.arrays(classify)
        moments = Moments.of(x, weight)
        weights = np.array([moments.weight])
        of_targets = None if classify else Moments.of(y, weight)
        if classify:
            weights = np.bincount(y, weight, outputs).astype(np.float64)
        keys = content_keys([x, y, weight])[0].tobytes()
        digest = hashlib.blake2b(keys, digest_size=8).digest()
        return _ShardStats(shard.rows, moments, of_targets, weights, digest)

    unmeasured = replace(shards, sizes=(1,) * shards.count)
    sizes = [0] * shards.count
    moments: Moments | None = None
    targets: Moments | None = None
    weights = np.zeros(1)
    digest = hashlib.blake2b(digest_size=8)
    bytes_of_result = 4 * 8 * schema.features
    for chunk in unmeasured.bounded(bytes_of_result, _RESULT_BYTES, range(shards.count)):
        for number, part in shards.run(task, chunk).items():
            sizes[number] = part.rows
            moments = part.moments if moments is None else moments.merge(part.moments)
            if part.targets is not None:
                targets = part.targets if targets is None else targets.merge(part.targets)
            weights = weights + part.class_weights
            digest.update(part.digest)
    if moments is None or sum(sizes) != rows:
        raise ExamplesError(
            f"the dataframe had {rows:,} examples and a moment later {sum(sizes):,}: it gives "
            "other rows each time; cache it, or write it to Parquet"
        )
    return ExampleStats(tuple(sizes), moments, targets, weights, digest.hexdigest())
