"""Raw ratings to prepared ones: validated, deduplicated, split, indexed, blocked and written."""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import reduce
from math import ceil
from operator import xor
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from nonconvex.distributed.columns import exact_sums, free_name
from nonconvex.distributed.data.ids import (
    RATINGS_PER_BLOCK,
    attach_indices,
    default_blocks,
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
    count_reasons,
    label_ratings,
)
from nonconvex.distributed.files import FileSystem, publish, write_checksums

_PAIR = ("user", "item")


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
    example = F.struct(~differ, "user", "item", "rows", "low", "high")
    found = (
        ratings.groupBy(*_PAIR)
        .agg(
            F.count("*").alias("rows"), F.min("rating").alias("low"), F.max("rating").alias("high")
        )
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


_logger = logging.getLogger("nonconvex")

_TRAIN, *_HELD_OUT = PARTS
_VALUES = ("rating", "weight", "timestamp")


# A block must be one row group: Spark could split a file of several between two tasks.  This is
# the most that is buffered, some 50 million ratings; HDFS wants a power of two.
_ROW_GROUP_BYTES = 2**30


class _OvertakenError(Exception):
    """Another process has written the prepared ratings since this one began."""


class _Checked(NamedTuple):
    """Valid ratings, each pair once, and the rejected rows."""

    ratings: DataFrame  # user, item, rating, [weight], [timestamp], [split]
    rejected: DataFrame  # row struct, reason
    report: ValidationReport
    duplicates: Duplicates


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
    existing = _existing(spark, path, overwrite)
    stamp = _stamp(spark, path)
    configuration = {
        "columns": asdict(columns),
        "rules": asdict(rules),
        "split": asdict(split),
        "user_blocks": user_blocks,
        "item_blocks": item_blocks,
    }
    with ExitStack() as cache:
        checked = _check(cache, source, columns, rules, split)
        parts = _persist(cache, split_ratings(checked.ratings, split))
        content = _describe(parts, checked, split, configuration)
        if existing is not None:
            return _reuse(existing, content, "name another directory, or set overwrite")
        try:
            with publish(spark, path, replace=overwrite) as directory:
                manifest = _write(
                    cache, parts, directory, content, user_blocks, item_blocks, source
                )
                reason = free_name("reason", source.rows.columns)
                rejected = checked.rejected.select("row.*", F.col("reason").alias(reason))
                rejected.write.parquet(f"{directory}/rejected")
                FileSystem(spark, path).write_text(f"{directory}/{MANIFEST}", manifest.to_json())
                write_checksums(spark, directory, digests=False)
                if _stamp(spark, path) != stamp:
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


def _existing(spark: SparkSession, path: str, overwrite: bool) -> PreparedRatings | None:
    """Return the prepared ratings at `path` unless they may be replaced; refuse anything else."""
    files = FileSystem(spark, path)
    if not files.exists(path):
        return None
    if overwrite and files.exists(f"{path}/{MANIFEST}"):
        return None
    return PreparedRatings.open(spark, path)


def _stamp(spark: SparkSession, path: str) -> float | None:
    """Return the time at which the manifest at `path` was written, None if there is none."""
    files, manifest = FileSystem(spark, path), f"{path}/{MANIFEST}"
    return files.modified(manifest) if files.exists(manifest) else None


def _check(
    cache: ExitStack, source: Source, columns: Columns, rules: Rules, split: Split
) -> _Checked:
    """Reject invalid rows, and resolve duplicates."""
    labelled = label_ratings(
        source.rows,
        columns,
        rules,
        text=source.text,
        malformed=source.malformed,
        split=split.column,
        timestamp_required=needs_timestamps(columns, rules, split),
        extra={"position": source.position, "row": F.struct("*")},
    )
    infer_ids = source.text and rules.ids == "auto"
    with reading(source.path, source.format):
        report = count_reasons(labelled, source.path, integers=infer_ids)
    _logger.info(
        "%s: %s of %s rows accepted", source.path, f"{report.accepted:,}", f"{report.read:,}"
    )
    for reason, rows in report.rejected.items():
        _logger.info("rejected %s rows: %s", f"{rows:,}", reason)
    ratings = accepted_ratings(labelled, report.integers)
    rejected = labelled.where(F.col("reason").isNotNull()).select("row", "reason")
    if rules.duplicates not in ("first", "last"):
        ratings = ratings.drop("position", "row")
    partitions = default_blocks(ratings.sparkSession, report.accepted)
    ratings = _persist(cache, ratings.repartition(partitions, "user"))
    ratings.count()  # cached by user, so that counting pairs needs no shuffle
    duplicates = count_duplicates(ratings)
    if rules.duplicates == "error":
        duplicates.refuse()
    if duplicates.rows:
        _logger.info("%s duplicates: resolved by %r", f"{duplicates.rows:,}", rules.duplicates)
        ratings, dropped = resolve_duplicates(ratings, rules.duplicates)
        if dropped is not None:
            rejected = rejected.union(dropped.select("row", "reason"))
    return _Checked(ratings.drop("position", "row"), rejected, report, duplicates)


def _describe(
    parts: DataFrame, checked: _Checked, split: Split, configuration: dict[str, Any]
) -> Content:
    """Summarize the ratings of each part; refuse an empty part that was asked for."""
    ids = [F.col(side).cast("string") for side in ("user", "item")]
    values = _values_of(parts)
    rows = (
        parts.groupBy("part")
        .agg(
            F.count("*").alias("rows"),
            F.min("rating").alias("minimum"),
            F.max("rating").alias("maximum"),
            # No row occurs twice, so none cancels another.
            F.bit_xor(F.xxhash64("part", *ids, *values)).alias("bits"),
        )
        .collect()
    )
    found = {row.part: row for row in rows}
    asked = {_TRAIN: 1, "validation": split.validation, "test": split.test}
    empty = [part for part in PARTS if asked[part] and part not in found]
    if empty:
        raise RatingsError(
            f"the split by {split.method!r} leaves no ratings for {' and '.join(empty)}, "
            f"of {sum(row['rows'] for row in rows):,}: change the sizes of its parts"
        )
    bits = reduce(xor, (row.bits for row in rows)) % 2**64
    train = found[_TRAIN]
    sums = {
        name: exact_sums(parts, name, by="part")[_TRAIN] for name in values if name != "timestamp"
    }
    duplicates = checked.duplicates._asdict()
    del duplicates["example"]
    return Content(
        configuration=configuration,
        types={field.name: field.dataType.simpleString() for field in parts.drop("part").schema},
        counts={
            "read": checked.report.read,
            "accepted": checked.report.accepted,
            "rejected": checked.report.rejected,
            "duplicates": duplicates,
            **{part: found[part]["rows"] if part in found else 0 for part in PARTS},
        },
        mean=float(sums["rating"] / train["rows"]),
        minimum=train.minimum,
        maximum=train.maximum,
        weight=float(sums["weight"]) if "weight" in sums else None,
        fingerprint=f"{bits:016x}",
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
    cache: ExitStack,
    parts: DataFrame,
    directory: str,
    content: Content,
    user_blocks: int | None,
    item_blocks: int | None,
    source: Source,
) -> Manifest:
    """Index the ratings and write all tables but the rejected rows."""
    train = parts.where(F.col("part") == _TRAIN)
    users = index_ids(train, "user", user_blocks)
    cache.callback(users.unpersist)
    items = index_ids(train, "item", item_blocks)
    cache.callback(items.unpersist)
    _logger.info(
        "%s users in %d blocks, %s items in %d blocks",
        *(f"{users.size:,}", users.blocks, f"{items.size:,}", items.blocks),
    )
    values = _values_of(parts)
    indexed = _persist(cache, attach_indices(parts, users, items))
    unknown = {part: {"user": 0, "item": 0} for part in _HELD_OUT}
    counted = (
        indexed.where(F.col("part") != _TRAIN)
        .groupBy("part")
        .agg(*(F.count_if(F.col(f"{side}_index").isNull()).alias(side) for side in _PAIR))
    )
    for row in counted.collect():
        unknown[row.part] = {"user": row.user, "item": row.item}
    for side, other, index in (("user", "item", users), ("item", "user", items)):
        block = F.col(f"{side}_block").alias("block")
        (
            indexed.where(F.col("part") == _TRAIN)
            .select("user_index", "item_index", *values, block)
            # A task writes several blocks if there are more blocks than ids.
            .repartitionById(min(index.blocks, index.size), "block")
            # By block first: else the writer would sort by block and lose the rest of the order.
            .sortWithinPartitions("block", f"{side}_index", f"{other}_index")
            .write.option("parquet.block.size", _ROW_GROUP_BYTES)
            .partitionBy("block")
            .parquet(f"{directory}/by_{side}")
        )
        index.table.write.parquet(f"{directory}/{side}s")
    for part in _HELD_OUT:
        columns = ("user", "item", *values, "user_index", "item_index")
        held_out = indexed.where(F.col("part") == part).select(*columns)
        files = ceil(content.counts[part] / RATINGS_PER_BLOCK)
        held_out.coalesce(max(files, 1)).write.parquet(f"{directory}/{part}")
    return Manifest(
        **vars(content),
        source={"path": source.path, "format": source.format},
        users=users.size,
        items=items.size,
        user_blocks=users.blocks,
        item_blocks=items.blocks,
        unknown=unknown,
    )


def _persist(cache: ExitStack, frame: DataFrame) -> DataFrame:
    """Cache `frame` until `cache` is closed."""
    cache.callback(frame.persist().unpersist)
    return frame


def _values_of(ratings: DataFrame) -> list[str]:
    return [name for name in _VALUES if name in ratings.columns]
