"""Raw ratings to prepared ones: validated, deduplicated, split, indexed, blocked and written."""

import json
import logging
import math
import os
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from fractions import Fraction
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from nonconvex.distributed.columns import free_name
from nonconvex.distributed.data.ids import (
    RATINGS_PER_BLOCK,
    IdIndex,
    attach_indices,
    default_blocks,
    encode_ids,
    index_ids,
)
from nonconvex.distributed.data.prepared import (
    MANIFEST,
    Content,
    Manifest,
    PreparedError,
    PreparedRatings,
)
from nonconvex.distributed.data.sources import Source, reading
from nonconvex.distributed.data.splits import Split, split_ratings
from nonconvex.distributed.data.validation import (
    PARTS,
    Columns,
    RatingsError,
    Rules,
    ValidationReport,
    accepted_ratings,
    count_collected,
    count_reasons,
    integers_in_text,
    label_ratings,
    reason_without_value,
)
from nonconvex.distributed.files import FileSystem, publish, temporary_directory, write_checksums
from nonconvex.distributed.runtime import (
    Batches,
    Task,
    begun,
    collectable_bytes,
    combined,
    driver_has_all_cores,
    is_surely_small,
    map_in_threads,
)
from nonconvex.numerics import Longs
from nonconvex.numerics.deterministic import Totals, add_exactly, fractions_of
from nonconvex.numerics.factorization.blocks import counting_order

_PAIR = ("user", "item")
_TRAIN, *_HELD_OUT = PARTS
_VALUES = ("rating", "weight", "timestamp")
# A block must be one row group: Spark could split a file of several between two tasks.  This is
# the most that is buffered, some 50 million ratings; HDFS wants a power of two.
_ROW_GROUP_BYTES = 2**30
_FEW = 2**18  # ratings that the driver prepares sooner than a cluster plans its jobs
_ROW_METADATA = "org.apache.spark.sql.parquet.row.metadata"  # where Spark keeps the schema
_AT_ONCE = 1 << 26  # bytes of ratings that a task summarizes
_ROWS_AT_ONCE = 1 << 16  # that a task returns
_MOST_HERE = 2**26  # ratings, the most that pyarrow writes as one row group

_logger = logging.getLogger("nonconvex")


class Duplicates(NamedTuple):
    """Counts of (user, item) pairs with more than one rating."""

    rows: int  # beyond the first of each pair
    pairs: int  # with more than one row
    conflicting: int  # pairs with different ratings
    example: Row | None  # ``user, item, rows, low, high`` of such a pair, conflicting if any is

    def refuse(self) -> None:
        """Raise RatingsError, with an example and a remedy, if there are any."""
        if self.example is not None:
            pair = self.example
            values = f"{pair.low:g} to {pair.high:g}" if pair.low < pair.high else f"{pair.low:g}"
            raise RatingsError(
                f"{self.rows:,} rows repeat a (user, item) pair: {self.pairs:,} pairs have several "
                f"rows, {self.conflicting:,} of them different ratings (user {pair.user!r} has "
                f"{pair.rows} ratings of item {pair.item!r}, {values}); set duplicates to 'first', "
                "'last' or 'mean' to say what counts"
            )


def count_duplicates(ratings: DataFrame) -> Duplicates:
    """Count the rows that repeat a (user, item) pair; no shuffle if partitioned by user."""
    differ = F.col("low") < F.col("high")
    ends = (F.min("rating").alias("low"), F.max("rating").alias("high"))
    example = F.struct(~differ, "user", "item", "rows", "low", "high")
    found = (
        ratings.groupBy(*_PAIR)
        .agg(F.count("*").alias("rows"), *ends)
        .where("rows > 1")
        .agg(
            F.coalesce(F.sum(F.col("rows") - 1), F.lit(0)).alias("rows"),
            F.count("*").alias("pairs"),
            F.count_if(differ).alias("conflicting"),
            F.min(example).alias("example"),
        )
    )
    return Duplicates(*found.collect()[0])


def resolve_duplicates(ratings: DataFrame, policy: str) -> tuple[DataFrame, DataFrame | None]:
    """Keep one rating of each (user, item) pair, and return the dropped rows with a ``reason``.

    "first" keeps the least ``position``; "last" the latest ``timestamp``, then the greatest
    position.  "mean" makes one row of all, and drops none: the mean rating, weighted if there are
    weights, and the sum of the weights, so that the squared errors of the one and of the many
    differ by a constant; the latest timestamp; if the ratings name their part, test before
    train before validation.
    """
    if policy == "mean":
        return _merge(ratings), None
    pair = Window.partitionBy(*_PAIR)
    if policy == "first":
        pair = pair.orderBy("position")
    else:
        pair = pair.orderBy(F.desc("timestamp"), F.desc("position"))
    ranked = ratings.withColumns(
        {"rank": F.row_number().over(pair), "kept": F.first("rating").over(pair)}
    )
    kept = ranked.where("rank = 1").drop("rank", "kept")
    other = "an earlier" if policy == "first" else "a later"
    reason = F.concat(F.lit(f"duplicate of {other} row: its rating is "), F.col("kept"))
    dropped = ranked.where("rank > 1").withColumn("reason", reason).drop("rank", "kept")
    return kept, dropped


def _merge(ratings: DataFrame) -> DataFrame:
    weighted = "weight" in ratings.columns
    weight = F.col("weight") if weighted else F.lit(1.0)
    # Sums of doubles depend on their order: sum each pair in the order of its ratings.
    rows = F.array_sort(F.collect_list(F.struct(F.col("rating"), weight.alias("weight"))))
    merged: dict[str, Column] = {"rows": rows}
    if "timestamp" in ratings.columns:
        merged["timestamp"] = F.max("timestamp")
    if "split" in ratings.columns:
        merged["split"] = F.min("split")
    grouped = ratings.groupBy(*_PAIR).agg(*(c.alias(name) for name, c in merged.items()))
    total = _sum(lambda row: row["weight"])
    by_weight = _sum(lambda row: row["weight"] * row["rating"]) / total
    plain = _sum(lambda row: row["rating"]) / F.size("rows")
    mean = F.when(total > 0, by_weight).otherwise(plain)
    # Rounding must not move the mean of equal ratings.
    low, high = F.col("rows")[0]["rating"], F.element_at("rows", -1)["rating"]
    columns = {"rating": F.greatest(low, F.least(mean, high)), "weight": total}
    names = [name for name in ratings.columns if name in ("rating", "weight", *grouped.columns)]
    return grouped.select(*(columns.get(name, F.col(name)).alias(name) for name in names))


def _sum(term: Callable[[Column], Column]) -> Column:
    return F.aggregate("rows", F.lit(0.0), lambda total, row: total + term(row))


class _OvertakenError(Exception):
    """Another process has written the prepared ratings since this one began."""


class _Checked(NamedTuple):
    """Valid ratings and the rejected rows."""

    ratings: DataFrame  # user, item, rating, [weight], [timestamp], [split]
    positioned: DataFrame  # the same with duplicates, and position, row
    rejected: DataFrame  # row struct, reason
    report: ValidationReport
    collected: pa.Table | None  # the columns of `_of_parts`, if one pass has checked and collected
    nothing_rejected: bool
    duplicates: Duplicates = Duplicates(0, 0, 0, None)


def prepare_ratings(
    source: Source,
    path: str,
    *,
    columns: Columns,
    rules: Rules,
    split: Split,
    user_blocks: int | None = None,
    item_blocks: int | None = None,
    overwrite: bool = False,
) -> PreparedRatings:
    """Validate, split and index ratings, and write them in the layout of `PreparedRatings`.

    Every value depends on the ratings and the choices alone, not on partitions, the order of rows
    (except for duplicates "first") or the number of cores (except for the default number of
    blocks).  `path` appears when all is written.  Prepared ratings of the same content that exist,
    or appear meanwhile, are reused.

    Examples
    --------
    >>> from nonconvex.distributed.data.sources import read_source
    >>> prepared = prepare_ratings(
    ...     read_source(spark, "ratings.parquet"), "prepared/ratings",
    ...     columns=Columns(), rules=Rules(minimum=0, maximum=10), split=Split(test=0.1),
    ... )
    >>> prepared.manifest.counts["train"], prepared.manifest.counts["test"]
    (534, 69)
    """
    spark = source.rows.sparkSession
    files, existing = FileSystem(spark, path), None
    if files.exists(path) and not (overwrite and files.exists(f"{path}/{MANIFEST}")):
        existing = PreparedRatings.open(spark, path)  # or refuse what is there
    stamp = _stamp(files, path)
    configuration = {
        "columns": asdict(columns),
        "rules": asdict(rules),
        "split": asdict(split),
        "user_blocks": user_blocks,
        "item_blocks": item_blocks,
    }
    with ExitStack() as cache:
        checked = _check(source, columns, rules, split)
        here = _fits_driver(spark, checked.report, len(columns.named()))
        parts: _Gathered | _Spread | None = None
        if here:
            parts = _Gathered(split_ratings(checked.ratings, split), checked.collected)
        if not isinstance(parts, _Gathered) or parts.repeated:
            checked = _resolve(cache, checked, rules.duplicates)
            resolved = _persist(cache, split_ratings(checked.ratings, split))
            parts = _Gathered(resolved) if here else _Spread(cache, resolved)
        content = _describe(parts, checked, split, configuration)
        if existing is not None:
            return _reuse(existing, content, "name another directory, or set overwrite")
        try:
            with publish(spark, path, replace=overwrite) as directory:
                manifest = _write(parts, directory, content, user_blocks, item_blocks, source)
                _write_rejected(checked, f"{directory}/rejected", source)
                files.write_text(f"{directory}/{MANIFEST}", manifest.to_json())
                write_checksums(spark, directory)
                if _stamp(files, path) != stamp:
                    raise _OvertakenError
        except _OvertakenError:  # the other process may be reading its ratings: keep them
            advice = "another process has written them meanwhile: start again, or elsewhere"
            return _reuse(PreparedRatings.open(spark, path), content, advice)
    _logger.info("wrote prepared ratings to %s", path)
    return PreparedRatings(spark, path, manifest)


def needs_timestamps(columns: Columns, rules: Rules, split: Split) -> bool:
    """Return whether every rating must have a timestamp; raise ValueError if no column is named."""
    uses = [f"split {split.method!r}"] if split.method in ("time", "last") else []
    uses += ["duplicates 'last'"] if rules.duplicates == "last" else []
    if uses and columns.timestamp is None:
        raise ValueError(f"{' and '.join(uses)}: this needs timestamps, name their column")
    return bool(uses)


def _stamp(files: FileSystem, path: str) -> float | None:
    """Return the time at which the manifest at `path` was written, None if there is none."""
    manifest = f"{path}/{MANIFEST}"
    return files.modified(manifest) if files.exists(manifest) else None


def _check(source: Source, columns: Columns, rules: Rules, split: Split) -> _Checked:
    """Reject invalid rows."""
    label = partial(
        label_ratings,
        source.rows,
        columns,
        rules,
        text=source.text,
        nested=source.format == "json",
        malformed=source.malformed,
        split=split.column,
        timestamp_required=needs_timestamps(columns, rules, split),
    )
    labelled, whole = label(), label(extra={"position": source.position, "row": F.struct("*")})
    infer_ids = source.text and rules.ids == "auto"
    with reading(source.path, source.format):
        collected = _collect_labelled(labelled, split, integers=infer_ids)
        if collected is None:
            report = count_reasons(labelled, source.path, integers=infer_ids)
        else:
            report = count_collected(collected, source.path)
    _logger.info(
        "%s: %s of %s rows accepted", source.path, f"{report.accepted:,}", f"{report.read:,}"
    )
    for reason, rows in report.rejected.items():
        _logger.info("rejected %s rows: %s", f"{rows:,}", reason)
    rejected = whole.where(F.col("reason").isNotNull()).select("row", "reason")
    if not report.rejected:
        rejected = rejected.limit(0)  # which needs no pass over the source
    ratings, positioned = (accepted_ratings(rows, report.integers) for rows in (labelled, whole))
    if collected is not None:
        collected = collected.filter(pc.is_null(collected["reason"]))
        for side in report.integers:
            place = collected.column_names.index(side)
            collected = collected.set_column(place, side, collected[side].cast(pa.int64()))
    return _Checked(ratings, positioned, rejected, report, collected, not report.rejected)


def _collect_labelled(labelled: DataFrame, split: Split, *, integers: bool) -> pa.Table | None:
    """Collect the columns of `_of_parts` and the reasons of all rows, if they are surely few.

    None, too, if the part of a rating depends on others, which must be checked before.
    """
    spark = labelled.sparkSession
    most = _MOST_HERE if driver_has_all_cores(spark) else min(_FEW, _MOST_HERE)
    if split.method not in ("random", "column") or not is_surely_small(labelled, most):
        return None
    asked = integers_in_text() if integers else {}
    more = {"reason": reason_without_value(), **asked}
    return _of_parts(split_ratings(labelled, split), **more).toArrow()


def _write_rejected(checked: _Checked, path: str, source: Source) -> None:
    """Write the rejected rows with all columns and the reason."""
    reason = free_name("reason", source.rows.columns)
    rejected = checked.rejected.select("row.*", F.col("reason").alias(reason))
    spark = rejected.sparkSession
    if checked.nothing_rejected:
        with temporary_directory() as local, suppress(PySparkException, pa.ArrowException):
            # Spark would plan and run a job to write an empty table.
            # pyspark 4.1 has no such keyword, and times of zone UTC.
            zone: dict[str, Any] = (
                {} if version("pyspark").startswith("4.1.") else {"timezone": "UTC"}
            )
            empty = to_arrow_schema(rejected.schema, **zone).empty_table()
            known = {_ROW_METADATA: rejected.schema.json()}
            _write_file(f"{local}/rejected", empty.replace_schema_metadata(known))
            FileSystem(spark, path).copy_in(local, path.rpartition("/")[0])
            return
    rejected.write.parquet(path)


def _fits_driver(spark: SparkSession, report: ValidationReport, columns: int) -> bool:
    """Tell whether the driver prepares the ratings in its memory, and log it."""
    few, alone = report.accepted <= _FEW, driver_has_all_cores(spark)
    size, most = report.id_bytes + report.accepted * 8 * (columns + 2), collectable_bytes(spark)
    here = report.accepted <= _MOST_HERE and size <= most and (few or alone)
    _logger.info(
        "prepared %s: the ratings take %d MB, the driver may collect %d MB, and it has %s cores",
        "on the driver" if here else "by tasks",
        *(size >> 20, most >> 20, "all" if alone else "not all"),
    )
    return here


def _resolve(cache: ExitStack, checked: _Checked, policy: str) -> _Checked:
    """Resolve duplicates; each pair occurs once in the ratings of the result."""
    rejected = checked.rejected
    ratings = checked.positioned if policy in ("first", "last") else checked.ratings
    partitions = default_blocks(ratings.sparkSession, checked.report.accepted)
    ratings = _persist(cache, ratings.repartition(partitions, "user"))
    ratings.count()  # cached by user, so that counting pairs needs no shuffle
    duplicates = count_duplicates(ratings)
    if policy == "error":
        duplicates.refuse()
    if duplicates.rows:
        _logger.info("%s duplicates: resolved by %r", f"{duplicates.rows:,}", policy)
        ratings, dropped = resolve_duplicates(ratings, policy)
        if dropped is not None:
            rejected = rejected.union(dropped.select("row", "reason"))
            checked = checked._replace(nothing_rejected=False)
    ratings = ratings.drop("position", "row")
    return checked._replace(ratings=ratings, rejected=rejected, duplicates=duplicates)


class _Summary:
    """Counts, range, exact sums and hash of ratings, which may be added in any order."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}  # of each part that has any
        # of the training ratings
        self.minimum, self.maximum = math.inf, -math.inf
        self.totals: dict[str, Totals] = {}  # of the ratings and weights of the training ratings
        self.bits = 0  # exclusive or of the hashes; no row occurs twice, so none cancels another

    def add(self, table: pa.Table) -> None:
        """Add ratings with the columns of `_of_parts`."""
        numbers = table["number"].to_numpy()
        counts = np.bincount(numbers, minlength=len(PARTS)).tolist()
        self._count({part: n for part, n in zip(PARTS, counts, strict=True) if n})
        self.bits ^= int(np.bitwise_xor.reduce(table["bits"].to_numpy()))
        train = numbers == 0
        for name in table.column_names:
            if counts[0] and name in ("rating", "weight"):
                values = table[name].to_numpy()[train]
                add_exactly(self.totals.setdefault(name, {}), np.zeros(len(values), int), values)
                if name == "rating":
                    self._stretch(values.min(), values.max())

    def merge(self, other: "_Summary") -> None:
        """Add what another one has added."""
        self._count(other.rows)
        self._stretch(other.minimum, other.maximum)
        self.bits ^= other.bits
        for name, totals in other.totals.items():
            ours = self.totals.setdefault(name, {})
            for key, q in totals.items():
                ours[key] = ours.get(key, 0) + q

    def to_json(self) -> str:
        """Return all that was added, exactly: integers have any number of digits."""
        totals = {name: list(of_name.items()) for name, of_name in self.totals.items()}
        return json.dumps(vars(self) | {"totals": totals})

    @classmethod
    def from_json(cls, text: str) -> "_Summary":
        """Return the summary that `to_json` wrote."""
        summary, values = cls(), json.loads(text)
        totals = values.pop("totals").items()
        vars(summary).update(values)
        summary.totals = {name: {(g, e): q for (g, e), q in of_name} for name, of_name in totals}
        return summary

    def sum(self, name: str) -> Fraction:
        """Return the sum of the ratings or weights of training."""
        return fractions_of(self.totals[name])[0]

    def _count(self, rows: dict[str, int]) -> None:
        for part, n in rows.items():
            self.rows[part] = self.rows.get(part, 0) + n

    def _stretch(self, least: float, most: float) -> None:
        self.minimum = min(self.minimum, float(least))
        self.maximum = max(self.maximum, float(most))


def _describe(
    parts: "_Gathered | _Spread", checked: _Checked, split: Split, configuration: dict[str, Any]
) -> Content:
    """Summarize the ratings of each part; refuse an empty part that was asked for."""
    found = parts.summarize()
    asked = {_TRAIN: 1, "validation": split.validation, "test": split.test}
    empty = [part for part in PARTS if asked[part] and part not in found.rows]
    if empty:
        raise RatingsError(
            f"the split by {split.method!r} leaves no ratings for {' and '.join(empty)}, "
            f"of {sum(found.rows.values()):,}: change the sizes of its parts"
        )
    duplicates = checked.duplicates._asdict()
    del duplicates["example"]
    return Content(
        configuration=configuration,
        types=dict(parts.frame.drop("part").dtypes),
        counts={
            "read": checked.report.read,
            "accepted": checked.report.accepted,
            "rejected": checked.report.rejected,
            "duplicates": duplicates,
            **{part: found.rows.get(part, 0) for part in PARTS},
        },
        mean=float(found.sum("rating") / found.rows[_TRAIN]),
        minimum=found.minimum,
        maximum=found.maximum,
        weight=float(found.sum("weight")) if "weight" in found.totals else None,
        fingerprint=f"{found.bits % 2**64:016x}",
    )


def _reuse(existing: PreparedRatings, content: Content, advice: str) -> PreparedRatings:
    different = existing.manifest.differences(content)
    if different:
        raise PreparedError(
            f"{existing.path} holds other prepared ratings ({', '.join(different)} differ): "
            f"{advice}"
        )
    _logger.info("%s holds these ratings already: reused", existing.path)
    return replace(existing, reused=True)


def _write(
    parts: "_Gathered | _Spread",
    directory: str,
    content: Content,
    user_blocks: int | None,
    item_blocks: int | None,
    source: Source,
) -> Manifest:
    """Index the ratings and write all tables but the rejected rows."""
    indices = {}
    with temporary_directory() as local:
        for side, blocks in (("user", user_blocks), ("item", item_blocks)):
            if blocks is None:
                blocks = default_blocks(parts.frame.sparkSession, content.counts[_TRAIN])
            indices[side] = index_ids(parts.count_ids(side), blocks, side)
            _write_file(f"{local}/{side}s", indices[side].table)
        users, items = indices.values()
        _logger.info(
            "%s users in %d blocks, %s items in %d blocks",
            *(f"{len(users.table):,}", users.blocks, f"{len(items.table):,}", items.blocks),
        )
        unknown = parts.write(directory, local, indices)
        FileSystem(parts.frame.sparkSession, directory).copy_in(local, directory)
    return Manifest(
        **vars(content),
        source={"path": source.path, "format": source.format},
        users=len(users.table),
        items=len(items.table),
        user_blocks=users.blocks,
        item_blocks=items.blocks,
        unknown=unknown,
    )


class _Spread:
    """Ratings that tasks summarize, index and write."""

    def __init__(self, cache: ExitStack, frame: DataFrame) -> None:
        """Take ``user, item, rating, [weight], [timestamp], part``, each pair once."""
        self._cache, self.frame, self._values = cache, frame, _values_of(frame)

    def summarize(self) -> _Summary:
        """Summarize the ratings, in one job."""

        def task(batches: Batches) -> Batches:
            found = _Summary()
            for table in combined(batches, _AT_ONCE):
                found.add(table)
            yield pa.RecordBatch.from_pydict({"summary": [found.to_json()]})

        rows = _of_parts(self.frame).drop(*_PAIR)
        whole = _Summary()
        for of_task in rows.mapInArrow(begun(task), "summary string").collect():
            whole.merge(_Summary.from_json(of_task.summary))
        return whole

    def count_ids(self, side: str) -> pa.Table:
        """Return ``id, count`` of the training ratings."""
        train = self.frame.where(F.col("part") == _TRAIN)
        return train.groupBy(F.col(side).alias("id")).agg(F.count("*").alias("count")).toArrow()

    def write(self, directory: str, local: str, indices: dict[str, IdIndex]) -> dict[str, Any]:
        """Write the blocks and the held-out ratings; return the counts of unknown ids."""
        del local
        indexed = _persist(self._cache, attach_indices(self.frame, indices))
        train = indexed.where(F.col("part") == _TRAIN)
        for side, other in (_PAIR, _PAIR[::-1]):
            order = ("block", f"{side}_index", f"{other}_index")
            block = F.col(f"{side}_block").alias("block")
            rows = train.select("user_index", "item_index", *self._values, block)
            (
                # A task writes several blocks if there are more blocks than ids.
                rows.repartitionById(min(indices[side].blocks, len(indices[side].table)), "block")
                .mapInArrow(begun(_sort(order)), rows.schema)
                # By block first: else the writer would sort by block, and lose the order in it.
                # Rows that are in order already are compared once.
                .sortWithinPartitions(*order)
                .write.option("parquet.block.size", _ROW_GROUP_BYTES)
                .partitionBy("block")
                .parquet(f"{directory}/by_{side}")
            )
        unknown = {}
        for part in _HELD_OUT:
            columns = (*_PAIR, *self._values, "user_index", "item_index")
            held_out = indexed.where(F.col("part") == part).select(*columns)
            nulls = (F.count_if(F.col(f"{side}_index").isNull()).alias(side) for side in _PAIR)
            counts = held_out.agg(F.count("*").alias("rows"), *nulls).collect()[0].asDict()
            files = max(math.ceil(counts.pop("rows") / RATINGS_PER_BLOCK), 1)
            held_out.coalesce(files).write.parquet(f"{directory}/{part}")
            unknown[part] = counts
        return unknown


class _Gathered:
    """Ratings in the memory of the driver, which does the same to them as tasks do."""

    def __init__(self, frame: DataFrame, table: pa.Table | None = None) -> None:
        """Take ``user, item, rating, [weight], [timestamp], part``.

        Collects them in one job, unless the `table` of `_of_parts` is there already.
        """
        self.frame, values = frame, _values_of(frame)
        table = (_of_parts(frame).toArrow() if table is None else table).combine_chunks()
        self._summary = _Summary()
        self._summary.add(table)
        encoded = {side: encode_ids(table[side]) for side in _PAIR}
        self._ids = {side: ids for side, (ids, _) in encoded.items()}
        self._codes = {side: codes for side, (_, codes) in encoded.items()}
        users, items = self._codes.values()
        order = counting_order(items, users)
        again = (np.diff(users[order]) == 0) & (np.diff(items[order]) == 0)
        self.repeated = bool(again.any())
        numbers = table["number"].to_numpy()[order]
        # the rows of each part, by user and item
        self._rows = {part: order[numbers == n] for n, part in enumerate(PARTS)}
        self._table = table.select(values)

    def summarize(self) -> _Summary:
        """Return the summary of the ratings."""
        return self._summary

    def count_ids(self, side: str) -> pa.Table:
        """Return ``id, count`` of the training ratings."""
        counts = np.bincount(self._codes[side][self._rows[_TRAIN]], minlength=len(self._ids[side]))
        return pa.table({"id": self._ids[side], "count": counts}).filter(pa.array(counts > 0))

    def write(self, directory: str, local: str, indices: dict[str, IdIndex]) -> dict[str, Any]:
        """Write the blocks and the held-out ratings; return the counts of unknown ids."""
        del directory
        train = self._rows[_TRAIN]
        files = [(part, self._rows[part]) for part in _HELD_OUT]
        by_item = train[counting_order(self._codes["item"][train])]
        for side, rows in (("user", train), ("item", by_item)):
            files += [(f"by_{side}/block={b}", members) for b, members in indices[side].cut(rows)]
        known = {side: index.indices_of(self._ids[side]) for side, index in indices.items()}

        def write(file: tuple[str, Longs]) -> dict[str, int]:
            name, rows = file
            values = self._table.take(pa.array(rows))
            columns = dict(zip(values.column_names, values.columns, strict=True))
            codes = {side: self._codes[side][rows] for side in _PAIR}
            found = {side: known[side][codes[side]] for side in _PAIR}
            places = {f"{side}_index": pa.array(at, mask=at < 0) for side, at in found.items()}
            if name in _HELD_OUT:
                ids = {side: self._ids[side].take(pa.array(codes[side])) for side in _PAIR}
                columns = {**ids, **columns, **places}
            else:
                columns = {**places, **columns}
            _write_file(f"{local}/{name}", pa.table(columns))
            return {side: int(np.count_nonzero(at < 0)) for side, at in found.items()}

        return dict(zip(_HELD_OUT, map_in_threads(write, files), strict=False))


def _of_parts(frame: DataFrame, **more: Column) -> DataFrame:
    """Choose ids and values, the number of the part, the bits of the hash, and other columns."""
    values = _values_of(frame)
    part = (F.array_position(F.array(*map(F.lit, PARTS)), F.col("part")) - 1).cast("byte")
    ids = (F.col(side).cast("string") for side in _PAIR)  # whatever their type
    added = {"number": part, "bits": F.xxhash64("part", *ids, *values), **more}
    return frame.select(*_PAIR, *values, *(column.alias(name) for name, column in added.items()))


def _sort(columns: Sequence[str]) -> Task:
    """Return a task that sorts all its rows by columns of indices, which it counts."""

    def sort(batches: Batches) -> Batches:
        held = list(batches)
        if not held:
            return
        rows = pa.Table.from_batches(held)
        order = counting_order(*(rows[name].to_numpy() for name in reversed(columns)))
        yield from rows.take(pa.array(order)).to_batches(max_chunksize=_ROWS_AT_ONCE)

    return sort


def _write_file(directory: str, table: pa.Table) -> None:
    """Write a table as Spark does, as a file of one row group in a new directory."""
    os.makedirs(directory)
    pq.write_table(
        table,
        # No reader of what was there before shall take it for an old file.
        f"{directory}/part-{uuid.uuid4()}.parquet",
        row_group_size=max(len(table), 1),
        store_schema=False,
        store_decimal_as_integer=True,
        write_page_checksum=True,
    )


def _persist(cache: ExitStack, frame: DataFrame) -> DataFrame:
    """Cache `frame` until `cache` is closed."""
    cache.callback(frame.persist().unpersist)
    return frame


def _values_of(ratings: DataFrame) -> list[str]:
    return [name for name in _VALUES if name in ratings.columns]
