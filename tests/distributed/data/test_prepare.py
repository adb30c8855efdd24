import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from nonconvex.distributed.data.prepare import (
    count_duplicates,
    needs_timestamps,
    prepare_ratings,
    resolve_duplicates,
)
from nonconvex.distributed.data.prepared import PreparedError, PreparedRatings
from nonconvex.distributed.data.sources import read_source
from nonconvex.distributed.data.splits import Split
from nonconvex.distributed.data.validation import Columns, RatingsError, Rules
from nonconvex.distributed.files import FileSystem, FileSystemError
from nonconvex.distributed.runtime import describe_jobs

COLUMNS = Columns(timestamp="when", weight="w")
RULES = Rules(minimum=0, maximum=5)
SPLIT = Split("random", validation=0.1, test=0.2, seed=2)
VALUES = ["rating", "weight", "timestamp"]


@pytest.fixture(scope="module")
def table():
    """600 rows of 200 users and 30 items, the first five of them no ratings."""
    rng = np.random.default_rng(1)
    n = 600
    pairs = rng.choice(200 * 30, n, replace=False)
    ratings = rng.choice([0.1, 0.7, 1.3, 2.9, 5.0], n)
    ratings[:4] = [np.nan, np.inf, 7.5, -1]
    return pa.table(
        {
            "user": [None if i == 4 else f"u{p // 30:03}" for i, p in enumerate(pairs)],
            "item": pa.array((pairs % 30) ** 2, pa.int32()),
            "rating": ratings,
            "w": rng.random(n) * 10.0 ** rng.integers(-8, 8, n),
            "when": rng.integers(0, 1000, n),
            "note": [f"row {i}" for i in range(n)],
        }
    )


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Path of six good ratings of two users."""
    path = tmp_path_factory.mktemp("few") / "few.csv"
    path.write_text("user,item,rating\n1,1,3\n1,2,4\n1,3,5\n2,1,1\n2,2,2\n2,3,3\n")
    return str(path)


def prepare(spark, source, path, **options):
    choices = {"columns": COLUMNS, "rules": RULES, "split": SPLIT, **options}
    return prepare_ratings(read_source(spark, str(source)), str(path), **choices)


@pytest.fixture(params=["driver", "tasks"])
def place(request, monkeypatch):
    """Both places in which ratings are prepared."""
    if request.param == "tasks":
        monkeypatch.setattr("nonconvex.distributed.data.prepare._MOST_HERE", 0)
    return request.param


def prepare_few(spark, source, path, **options):
    return prepare(spark, source, path, **{"columns": Columns(), "split": Split(), **options})


@pytest.fixture(scope="module")
def prepared(spark, table, tmp_path_factory):
    directory = tmp_path_factory.mktemp("prepared")
    pq.write_table(table, directory / "ratings.parquet")
    return prepare(
        spark, directory / "ratings.parquet", directory / "out", user_blocks=4, item_blocks=3
    )


@pytest.fixture(scope="module")
def prepared_few(spark, few, tmp_path_factory):
    return prepare_few(spark, few, tmp_path_factory.mktemp("prepared") / "few")


@pytest.fixture
def copy(prepared_few, tmp_path):
    """A copy of `prepared_few` of one's own, alone in its directory."""
    return Path(shutil.copytree(prepared_few.path, tmp_path / "out"))


def read(prepared, name):
    return pq.read_table(Path(prepared.path) / name).to_pylist()


def contents(path):
    """All values of all tables; those in order whose order is promised."""
    found = {}
    for name in ("by_user", "by_item", "users", "items"):
        found[name] = pq.read_table(path / name).to_pylist()
    for name in ("validation", "test", "rejected"):
        found[name] = sorted(map(repr, pq.read_table(path / name).to_pylist()))
    found["manifest"] = json.loads((path / "manifest.json").read_text())
    del found["manifest"]["source"]
    return found


@pytest.mark.parametrize(("side", "other"), [("user", "item"), ("item", "user")])
def test_a_block_is_one_sorted_row_group_of_one_file(prepared, side, other):
    ids = read(prepared, f"{side}s")
    in_order = []
    for block in sorted({row["block"] for row in ids}):
        (path,) = (Path(prepared.path) / f"by_{side}" / f"block={block}").glob("*.parquet")
        file = pq.ParquetFile(path)
        assert file.metadata.num_row_groups == 1
        assert file.schema_arrow.names == ["user_index", "item_index", *VALUES]
        rows = file.read().to_pylist()
        assert {row[f"{side}_index"] for row in rows} == {
            row["index"] for row in ids if row["block"] == block
        }
        in_order += [(row[f"{side}_index"], row[f"{other}_index"]) for row in rows]
    assert in_order == sorted(set(in_order))
    assert len(in_order) == prepared.manifest.counts["train"]


def test_no_rating_is_lost_or_changed(prepared, table):
    users = {row["index"]: row["id"] for row in read(prepared, "users")}
    items = {row["index"]: row["id"] for row in read(prepared, "items")}
    train = [
        (users[row["user_index"]], items[row["item_index"]], *(row[name] for name in VALUES))
        for row in read(prepared, "by_user")
    ]
    held_out = [row for part in ("validation", "test") for row in read(prepared, part)]
    found = train + [tuple(row.values())[:5] for row in held_out]
    good = table.drop_columns("note").slice(5).to_pylist()
    assert sorted(found) == sorted(tuple(row.values()) for row in good)
    for row in held_out:  # the unknown have no index
        for side, known in (("user", users), ("item", items)):
            expected = row[side] if row[side] in known.values() else None
            assert known.get(row[f"{side}_index"]) == expected
    by_user, by_item = (
        sorted((row["user_index"], row["item_index"]) for row in read(prepared, name))
        for name in ("by_user", "by_item")
    )
    assert by_user == by_item


REASONS = [
    "rating is NaN", "rating is infinite", "rating is above 5: 7.5", "rating is below 0: -1.0",
    "user is null",
]  # fmt: skip


def test_refused_rows_are_kept_whole_with_the_reason(prepared, table):
    rejected = read(prepared, "rejected")
    assert list(rejected[0]) == [*table.column_names, "reason"]
    found = {row["note"]: row["reason"] for row in rejected}
    assert found == {f"row {number}": reason for number, reason in enumerate(REASONS)}


def test_an_empty_table_of_rejected_rows_has_all_columns(spark, tmp_path):
    rows = spark.sql(
        "SELECT 1 AS user, 'a' AS item, 2.5 AS rating, timestamp'2020-01-01' `when`, 'b' reason,"
        "named_struct('x', array(1L), 'y', map('k', date'2020-01-01')) AS note, binary('b') AS b, "
        "cast(1 AS decimal(20, 3)) AS w, timestamp_ntz'2020-01-01' AS ntz"
    )
    rows.write.parquet(f"{tmp_path}/rows")
    prepared = prepare(
        spark, f"{tmp_path}/rows", tmp_path / "out", columns=Columns(), split=Split()
    )
    assert prepared.rejected.count() == 0
    [file] = Path(prepared.path, "rejected").glob("*.parquet")
    assert file.name.count("-") == 5  # of pyarrow, without a job of Spark
    found = [(field.name, field.dataType) for field in prepared.rejected.schema]
    expected = [
        (field.name, field.dataType) for field in spark.read.parquet(f"{tmp_path}/rows").schema
    ]
    assert found == [*expected, ("reason_", StringType())]


def test_few_ratings_are_read_once(spark, few, tmp_path):
    tracker = spark.sparkContext.statusTracker()
    spark.sparkContext.setJobGroup("prepare", "")
    source = read_source(spark, few)
    before = len(tracker.getJobIdsForGroup("prepare"))
    choices = {"columns": Columns(), "rules": RULES, "split": Split()}
    prepared = prepare_ratings(source, str(tmp_path / "out"), **choices)
    jobs = len(tracker.getJobIdsForGroup("prepare")) - before
    spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
    describe_jobs(spark, None)
    assert jobs == 1
    assert prepared.manifest.types["user"] == "bigint"


def test_the_manifest_says_what_is_there(prepared):
    manifest = prepared.manifest
    train = read(prepared, "by_user")
    assert manifest.mean == float(sum(Fraction(row["rating"]) for row in train) / len(train))
    assert manifest.weight == float(sum(Fraction(row["weight"]) for row in train))
    assert (manifest.minimum, manifest.maximum) == (0.1, 5.0)
    assert (manifest.user_blocks, manifest.item_blocks) == (4, 3)
    assert manifest.users == len(read(prepared, "users"))
    assert manifest.items == len(read(prepared, "items"))
    types = ("string", "int", "double", "double", "bigint")
    assert manifest.types == dict(zip(("user", "item", *VALUES), types, strict=True))
    for part in ("validation", "test"):
        rows = read(prepared, part)
        assert manifest.counts[part] == len(rows)
        for side in ("user", "item"):
            unknown = sum(row[f"{side}_index"] is None for row in rows)
            assert manifest.unknown[part][side] == unknown
    assert manifest.unknown["test"]["user"] > 0
    assert (manifest.counts["read"], manifest.counts["accepted"]) == (600, 595)
    without_values = [reason.split(":")[0] for reason in REASONS]
    assert manifest.counts["rejected"] == dict.fromkeys(without_values, 1)
    assert manifest.counts["duplicates"] == {"rows": 0, "pairs": 0, "conflicting": 0}
    assert manifest.configuration["split"]["seed"] == 2
    assert manifest.source["format"] == "parquet"


@pytest.mark.usefixtures("place")
def test_no_value_depends_on_files_order_or_partitions(spark, prepared, table, tmp_path, configure):
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    (tmp_path / "in").mkdir()
    for number, rows in enumerate((shuffled.slice(0, 100), shuffled.slice(100))):
        pq.write_table(rows, tmp_path / "in" / f"{number}.parquet", row_group_size=300)
    settings = {"shuffle.partitions": "5", "files.maxPartitionBytes": "10000"}
    settings |= {"autoBroadcastJoinThreshold": "-1", "adaptive.enabled": "false"}
    configure({f"spark.sql.{name}": value for name, value in settings.items()})
    found = prepare(spark, tmp_path / "in", tmp_path / "out", user_blocks=4, item_blocks=3)
    assert contents(tmp_path / "out") == contents(Path(prepared.path))
    for path in (tmp_path / "out").glob("by_*/*/*.parquet"):
        assert pq.read_metadata(path).num_row_groups == 1
    for name in ("by_user", "by_item", "test"):
        here, there = (
            pq.read_schema(next(Path(p.path, name).rglob("*.parquet"))) for p in (found, prepared)
        )
        assert here.equals(there)


def test_text_and_parquet_of_the_same_ratings_are_prepared_the_same(
    spark, few, prepared_few, tmp_path
):
    expected = contents(Path(prepared_few.path))
    table = pa.csv.read_csv(few)
    pq.write_table(table, tmp_path / "few.parquet")
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(r) + "\n" for r in table.to_pylist()))
    for name in ("few.parquet", "few.jsonl"):
        path = tmp_path / name.replace(".", "_")
        prepare_few(spark, tmp_path / name, path)
        assert contents(path) == expected


def test_opened_tables_have_the_schemas_of_the_layout(spark, prepared):
    opened = PreparedRatings.open(spark, prepared.path)
    assert opened == prepared
    training = ["user_index", "item_index", *VALUES, "block"]
    held_out = ["user", "item", *VALUES, "user_index", "item_index"]
    assert opened.by_user.columns == opened.by_item.columns == training
    assert opened.validation.columns == opened.test.columns == held_out
    assert opened.users.columns == opened.items.columns == ["id", "index", "count", "block"]
    types = dict(opened.test.dtypes) | dict(opened.by_user.dtypes) | dict(opened.items.dtypes)
    known = {"user": "string", "rating": "double", "weight": "double"}
    known |= {"timestamp": "bigint", "count": "bigint"}
    assert types == {
        **known,
        **dict.fromkeys(["item", "id", "index", "user_index", "item_index", "block"], "int"),
    }
    for name in ("by_user", "by_item", "users", "items", "validation", "test", "rejected"):
        assert getattr(opened, name).count() == len(read(prepared, name))


def test_a_block_is_read_by_one_task_however_files_are_cut(prepared, configure):
    configure({"spark.sql.files.maxPartitionBytes": "500", "spark.sql.files.openCostInBytes": "0"})
    rows = prepared.by_user.withColumn("task", F.spark_partition_id())
    assert rows.rdd.getNumPartitions() > prepared.manifest.user_blocks  # files were cut
    tasks = rows.groupBy("block").agg(F.count_distinct("task").alias("tasks")).collect()
    assert [row.tasks for row in tasks] == [1] * prepared.manifest.user_blocks


def test_the_same_again_is_left_and_another_is_refused_or_replaced(
    spark, few, prepared_few, copy, caplog
):
    file = next((copy / "users").glob("*.parquet"))
    cached = len(spark.sparkContext._jsc.getPersistentRDDs())
    with caplog.at_level("INFO", logger="nonconvex"):
        again = prepare_few(spark, few, copy)
    assert again.reused
    assert again.manifest == prepared_few.manifest
    assert "out holds these ratings already" in caplog.text
    split = Split("random", test=0.5)
    message = r"out holds other prepared ratings \(configuration, counts, .*fingerprint differ\)"
    with pytest.raises(PreparedError, match=message):
        prepare_few(spark, few, copy, split=split)
    assert file.exists()
    other = prepare_few(spark, few, copy, split=split, overwrite=True)
    assert not other.reused
    assert other.manifest.counts["test"] > 0
    assert not file.exists()
    assert [path.name for path in copy.parent.iterdir()] == ["out"]
    assert len(spark.sparkContext._jsc.getPersistentRDDs()) == cached


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_another_process_has_written_meanwhile_is_left(
    spark, few, prepared_few, tmp_path, monkeypatch, overwrite
):
    write_text = FileSystem.write_text

    def write_late(self, path, text):  # the manifest is written last
        if not (tmp_path / "out").exists():
            shutil.copytree(prepared_few.path, tmp_path / "out")
        write_text(self, path, text)

    monkeypatch.setattr(FileSystem, "write_text", write_late)
    found = prepare_few(spark, few, tmp_path / "out", overwrite=overwrite)
    assert found.reused
    assert found.manifest == prepared_few.manifest
    shutil.rmtree(tmp_path / "out")
    split = Split("random", test=0.5)
    with pytest.raises(PreparedError, match=r"differ.*: another process has written"):
        prepare_few(spark, few, tmp_path / "out", split=split, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_prepared_ratings_is_never_replaced(spark, few, tmp_path, overwrite):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(PreparedError, match="is not prepared ratings, it has no manifest"):
        prepare_few(spark, few, tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_bad_ratings_and_a_write_that_fails_leave_nothing(spark, few, tmp_path, monkeypatch):
    twice = tmp_path / "r.csv"
    twice.write_text("user,item,rating\n1,1,5\n1,1,4\n")
    repeat = r"1 rows repeat .* \(user 1 has 2 ratings of item 1, 4 to 5"
    none_left = "the split by 'random' leaves no ratings for test, of 6: change the sizes"
    no_time = "split 'time': this needs timestamps"
    for source, options, error, message in (
        (few, {"columns": Columns(rating="stars")}, RatingsError, "no column 'stars' for the rat"),
        (few, {"rules": Rules(minimum=9)}, RatingsError, "none of the 6 rows .* is below 9"),
        (few, {"split": Split("random", test=1e-9)}, RatingsError, none_left),
        (few, {"split": Split("time", test=0.1)}, ValueError, no_time),
        (twice, {}, RatingsError, repeat),
    ):
        with pytest.raises(error, match=message):
            prepare_few(spark, source, tmp_path / "out", **options)

    def fail(self, path, text):
        raise FileSystemError("the disk is full")

    monkeypatch.setattr(FileSystem, "write_text", fail)  # the manifest is written last
    with pytest.raises(FileSystemError, match="full"):
        prepare_few(spark, few, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [twice]


@pytest.mark.usefixtures("place")
def test_there_may_be_more_blocks_than_ids(spark, few, prepared_few, tmp_path):
    found = prepare_few(spark, few, tmp_path / "out", user_blocks=5000, item_blocks=7)
    assert found.manifest.user_blocks == 5000
    assert {row["block"] for row in read(found, "by_user")} == {0, 2500}
    assert {row["block"] for row in read(found, "by_item")} == {0, 2, 4}
    values = ("user_index", "item_index", "rating")
    for name in ("by_user", "by_item"):
        one, other = (read(p, name) for p in (found, prepared_few))
        assert [[row[v] for v in values] for row in one] == [[r[v] for v in values] for r in other]


@pytest.mark.usefixtures("place")
def test_duplicates_follow_the_policy_and_are_not_lost(spark, tmp_path):
    text = "user,item,rating,when,reason\nu,1,5,1,a\nu,2,3,2,b\nu,2,1,3,c\n,2,1,3,d\n"
    source, columns = tmp_path / "r.csv", Columns(timestamp="when")
    source.write_text(text)
    fingerprints = set()
    for policy, rating, dropped in (
        ("first", 3.0, {"c": "duplicate of an earlier row: its rating is 3.0"}),
        ("last", 1.0, {"b": "duplicate of a later row: its rating is 1.0"}),
        ("mean", 2.0, {}),
    ):
        rules = Rules(duplicates=policy)
        found = prepare_few(spark, source, tmp_path / policy, columns=columns, rules=rules)
        assert [row["rating"] for row in read(found, "by_user")] == [5.0, rating]
        assert found.manifest.counts["duplicates"] == {"rows": 1, "pairs": 1, "conflicting": 1}
        # The source has a column called reason, so ours is another.
        rejected = {row["reason"]: row["reason_"] for row in read(found, "rejected")}
        assert rejected == {"d": "user is null", **dropped}
        fingerprints.add(found.manifest.fingerprint)
    assert len(fingerprints) == 3  # one rating differs


@pytest.mark.usefixtures("place")
def test_a_ready_made_split_is_followed(spark, tmp_path):
    lines = ["user item rating fold", "1 1 5 train", "1 2 4 test", "2 2 4 validation", "3 1 4 ?"]
    (tmp_path / "r.tsv").write_text("\n".join(lines).replace(" ", "\t"))
    split = Split("column", column="fold")
    found = prepare_few(spark, tmp_path / "r.tsv", tmp_path / "out", split=split)
    assert [found.manifest.counts[part] for part in ("train", "validation", "test")] == [1, 1, 1]
    assert found.manifest.unknown["validation"] == {"user": 1, "item": 1}
    assert found.manifest.unknown["test"] == {"user": 0, "item": 1}
    assert read(found, "rejected")[0]["reason"] == "split is none of train, validation, test: ?"


def test_a_directory_that_is_not_whole_is_not_opened(spark, copy):
    def open_(message):
        with pytest.raises(PreparedError, match=message):
            PreparedRatings.open(spark, str(copy))

    (copy / ".manifest.json.crc").unlink()  # Hadoop's own check would come first
    manifest = copy / "manifest.json"
    whole = manifest.read_text()
    for text in (whole[:200], "[]", '{"layout": 1}', whole.replace("mean", "means")):
        manifest.write_text(text)
        open_("manifest.json is damaged: prepare the ratings again, with overwrite")
    manifest.write_text(whole.replace('"layout": 1', '"layout": 99'))
    open_("out has version 99 of the layout, and this nonconvex reads 1: ")
    manifest.write_text(whole)
    file, *_ = sorted((copy / "users").glob("*.parquet"))
    content = file.read_bytes()
    file.write_bytes(b"")
    open_(rf"users/{file.name} is damaged: it has 0 bytes, not {len(content):,}: prepare the")
    file.unlink()
    open_(f"out lacks users/{file.name}: prepare the ratings again")
    file.write_bytes(content)
    more = file.with_name("more.parquet")
    more.write_bytes(content)
    open_(r"out has, though it was not saved, users/more\.parquet: prepare the ratings again")
    more.unlink()
    listing = copy / "checksums.json"
    (copy / ".checksums.json.crc").unlink()
    for text in ("{", "1"):
        listing.write_text(text)
        open_(r"out/checksums\.json is damaged: prepare the ratings again")
    listing.unlink()
    open_(r"out is incomplete, it lacks checksums\.json: prepare the ratings again")
    (copy / "items").rename(copy / "articles")
    open_(r"out is incomplete, it lacks items, checksums\.json: ")
    manifest.unlink()
    open_(r"out is not prepared ratings, it has no manifest\.json: ")
    copy.rename(copy.parent / "elsewhere")
    open_("there are no prepared ratings at .*/out: prepare them first")


def test_timestamps_are_needed_for_time(spark):
    del spark
    plain, timed = Columns(), Columns(timestamp="when")
    assert not needs_timestamps(plain, Rules(), Split("random", test=0.1))
    assert needs_timestamps(timed, Rules(), Split("last", test=1))
    assert needs_timestamps(timed, Rules(duplicates="last"), Split())
    message = "split 'last' and duplicates 'last': this needs timestamps, name their column"
    with pytest.raises(ValueError, match=message):
        needs_timestamps(plain, Rules(duplicates="last"), Split("last", test=1))


SCHEMA = "user int, item string, rating double, timestamp bigint, position int"
ROWS = [
    (1, "a", 3.0, 50, 2),
    (1, "a", 5.0, 40, 1),  # first of the files
    (1, "a", 4.0, 60, 3),  # last in time
    (1, "b", 2.0, 10, 4),
    (2, "a", 1.0, 7, 5),
    (2, "a", 1.5, 7, 6),  # of equal times the later in the files
    (3, "c", 4.0, 1, 7),
    (3, "c", 4.0, 1, 8),
]


@pytest.fixture(params=[1, 4])
def ratings(spark, request):
    return spark.createDataFrame(ROWS, SCHEMA).repartition(request.param, F.rand(3))


def by_pair(frame):
    return {(row.user, row.item): row for row in frame.collect()}


def test_duplicates_are_counted_with_an_example(spark, ratings):
    found = count_duplicates(ratings)
    assert found[:3] == (4, 3, 2)
    message = (
        r"^4 rows repeat a \(user, item\) pair: 3 pairs have several rows, 2 of them different "
        r"ratings \(user 1 has 3 ratings of item 'a', 3 to 5\); set duplicates to 'first', 'last'"
    )
    with pytest.raises(RatingsError, match=message):
        found.refuse()
    found = count_duplicates(ratings.where("user = 1 and item = 'b'"))
    assert found == (0, 0, 0, None)
    found.refuse()
    rows = [(1, "a", 4.0), (1, "a", 4.0), (2, "b", 1.0), (2, "b", 3.0)]
    frame = spark.createDataFrame(rows, "user int, item string, rating double")
    assert count_duplicates(frame).example.user == 2, "a conflicting one comes first"


@pytest.mark.parametrize(
    ("policy", "expected", "dropped", "other"),
    [
        ("first", [5.0, 2.0, 1.0, 4.0], [2, 3, 6, 8], "an earlier"),
        ("last", [4.0, 2.0, 1.5, 4.0], [1, 2, 5, 7], "a later"),
        ("mean", [4.0, 2.0, 1.25, 4.0], None, None),
    ],
)
def test_one_row_is_kept_and_the_others_are_not_lost(ratings, policy, expected, dropped, other):
    kept, lost = resolve_duplicates(ratings, policy)
    found = by_pair(kept)
    assert [found[pair].rating for pair in sorted(found)] == expected
    if dropped is None:
        assert lost is None
        assert kept.columns == ["user", "item", "rating", "timestamp"]
        assert [found[pair].timestamp for pair in sorted(found)] == [60, 10, 7, 1]
        return
    assert kept.columns == ratings.columns
    lost = sorted(lost.collect(), key=lambda row: row.position)
    assert [row.position for row in lost] == dropped
    assert lost[0].reason == f"duplicate of {other} row: its rating is {expected[0]}"


def test_the_mean_by_weight_has_the_squared_error_of_the_rows_up_to_a_constant(spark):
    rows = [(1, 1, 2.0, 0.5), (1, 1, 5.0, 2.5), (1, 2, 3.0, 0.0), (1, 2, 4.0, 0.0)]
    ratings = spark.createDataFrame(rows, "user int, item int, rating double, weight double")
    kept, _ = resolve_duplicates(ratings, "mean")
    found = by_pair(kept)
    assert found[1, 2][2:] == (3.5, 0.0)  # no weight at all: the plain mean
    merged = found[1, 1]

    def error(prediction, rows):
        return sum(row[3] * (row[2] - prediction) ** 2 for row in rows)

    differences = [error(p, rows[:2]) - error(p, [merged]) for p in (0.0, 1.0, 4.5)]
    assert differences == pytest.approx([differences[0]] * 3)


def test_the_mean_is_the_same_bits_in_any_order_and_of_equal_ratings_exact(spark):
    values = [0.1, 0.7, 1e16, -1e16, 0.3]
    rows = [(1, i, v) for i in range(40) for v in values[i % 5 :] + values[: i % 5]]
    rows += [(2, 1, 0.1)] * 3
    ratings = spark.createDataFrame(rows, "user int, item int, rating double")
    found = by_pair(resolve_duplicates(ratings, "mean")[0])
    assert len({found[1, i].rating for i in range(40)}) == 1
    assert sum([0.1, 0.1, 0.1]) / 3 != 0.1
    assert found[2, 1].rating == 0.1
