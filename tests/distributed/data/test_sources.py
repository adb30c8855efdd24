import bz2
import gzip
import time

import pytest
from pyspark.sql import functions as F

from nonconvex.distributed.data.sources import (
    _HALF,
    _JOINED,
    SourceError,
    _open_quote,
    read_source,
    reading,
)


def rows(source):
    return [tuple(row) for row in source.rows.collect()]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_csv_is_read_as_strings_and_keeps_malformed_lines(spark, tmp_path):
    path = write(
        tmp_path / "ratings.csv",
        'user,item.id,rating,note\n1,a,4.5,"he said ""hi"", and left"\n,b,NaN,\n2,c\n3,d,1,x,y\n',
    )
    source = read_source(spark, path)
    assert (source.format, source.text, source.malformed) == ("csv", True, "_corrupt_record")
    assert rows(source) == [
        ("1", "a", "4.5", 'he said "hi", and left', None),
        (None, "b", "NaN", None, None),
        ("2", "c", None, None, "2,c"),
        ("3", "d", "1", "x", "3,d,1,x,y"),
    ]
    # What is malformed must not depend on which columns are asked for.
    some = source.rows.select("rating", "_corrupt_record").collect()
    assert [row["_corrupt_record"] for row in some] == [None, None, "2,c", "3,d,1,x,y"]


@pytest.mark.parametrize(
    ("name", "separator", "between"),
    [("r.csv", ";", ";"), ("r.tsv", None, "\t"), ("r.TSV", "::", "::"), ("r.csv", None, ",")],
)
def test_separators(spark, tmp_path, name, separator, between):
    path = write(tmp_path / name, f"user{between}item\n1{between}2\n")
    assert rows(read_source(spark, path, separator=separator)) == [("1", "2", None)]


@pytest.mark.parametrize(("suffix", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_compressed_files(spark, tmp_path, suffix, compress):
    path = tmp_path / f"ratings.csv.{suffix}"
    path.write_bytes(compress(b"user,item\n1,2\n"))
    assert rows(read_source(spark, str(path))) == [("1", "2", None)]


def test_json_lines_are_read_as_strings_and_keep_malformed_lines(spark, tmp_path):
    path = write(
        tmp_path / "ratings.jsonl",
        '{"user": {"id": 3}, "item": 12345678901234567890123, "rating": 4.50}\n'
        '{"user": {"id": "x"}, "item": "y"}\n{bad\n\n',
    )
    source = read_source(spark, path)
    found = source.rows.select("user.id", "item", "rating", "_corrupt_record").collect()
    assert [tuple(row) for row in found] == [
        ("3", "12345678901234567890123", "4.50", None),
        ("x", "y", None, None),
        (None, None, None, "{bad"),
    ]


def test_parquet_keeps_its_types_and_has_no_malformed_lines(spark, tmp_path):
    spark.range(2).write.parquet(str(tmp_path / "ratings"))
    source = read_source(spark, str(tmp_path / "ratings"))
    assert (source.format, source.text, source.malformed) == ("parquet", False, None)
    assert source.rows.schema.simpleString() == "struct<id:bigint>"


def test_a_name_that_looks_like_a_pattern_is_a_name(spark, tmp_path):
    path = write(tmp_path / "ünï ☃" / "r [1]{2}*.csv", "user,item\n1,2\n")
    assert rows(read_source(spark, path)) == [("1", "2", None)]


def test_the_format_of_a_directory_is_that_of_its_files(spark, tmp_path):
    write(tmp_path / "ratings" / "_notes.json", "{}")
    write(tmp_path / "ratings" / "part-0.csv", "user,item\n1,2\n")
    assert read_source(spark, str(tmp_path / "ratings")).format == "csv"
    assert read_source(spark, str(tmp_path / "ratings" / "*.csv")).format == "csv"


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_positions_are_the_order_of_the_files(spark, tmp_path, kind, configure):
    path = str(tmp_path / kind)
    numbers = spark.range(3000, numPartitions=2).select(F.col("id").cast("string"))
    numbers.write.option("header", True).format(kind).save(path)
    configure({"spark.sql.files.maxPartitionBytes": "2000", "spark.sql.files.openCostInBytes": "0"})
    source = read_source(spark, path)
    numbered = source.rows.select("id", source.position.alias("position"))
    in_order = numbered.repartition(5, F.rand(1)).orderBy("position").select("id").collect()
    assert numbered.rdd.getNumPartitions() > 2
    assert [int(row.id) for row in in_order] == list(range(3000))


def test_what_cannot_be_read_is_one_sentence(spark, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    text = write(tmp_path / "ratings.txt", "user,item\n")
    cases = [
        (str(tmp_path / "no.csv"), {}, "there is nothing at .*no.csv: no such file"),
        (str(tmp_path / "no"), {"format": "parquet"}, "there is nothing at .*no: no such"),
        (text, {}, "format of .*ratings.txt cannot be told .* set it to parquet or csv or json"),
        (text, {"format": "xml"}, "format must be one of parquet, csv, json, got 'xml'"),
        (text, {"format": "parquet"}, "ratings.txt cannot be read as parquet: .*not a Parquet"),
        (str(empty), {"format": "json"}, "empty cannot be read as json: Unable to infer schema"),
    ]
    for path, options, message in cases:
        with pytest.raises(SourceError, match=message) as error:
            read_source(spark, path, **options)
        assert "\n" not in str(error.value)
        assert "SQLSTATE" not in str(error.value)


def test_files_with_other_headers_are_not_mixed_up(spark, tmp_path):
    write(tmp_path / "r" / "a.csv", "user,item\n1,2\n")
    write(tmp_path / "r" / "b.csv", "item,user\n2,1\n")
    source = read_source(spark, str(tmp_path / "r"))
    message = "cannot be read as csv: CSV header does not conform to the schema"
    with pytest.raises(SourceError, match=message), reading(source.path, source.format):
        source.rows.count()


def test_errors_that_are_not_about_files_pass(spark):
    with pytest.raises(ZeroDivisionError), reading("r.csv", "csv"):
        1 / 0  # noqa: B018


OPEN = [
    ('"ann,1,5', "csv"), ('1,2,"5', "csv"), ('1,"2"x,"5""', "csv"), ("1,2,\"", "csv"),
    ('1\t"a\t5', "tsv"), ('1::"a"::"5', "::"),
    ('{"user":1}{"user":2}', "json"), ('{"user":"}{"} {"user":2}', "json"),
    (r'{"user":"\ud800"}', "json"), (r'{"user":"\\\udc00 \ud83d\ude00"}', "json"),
]  # fmt: skip
CLOSED = [
    ('"an""n",1,5', "csv"), ('7" single,1,"5"', "csv"), ('"b" c,"",5"', "csv"), ("1,2,3", "csv"),
    ('1\t"a"\t,"', "tsv"), ('1::"a"::5:"', "::"),
    ('{"user":"}{","item":{"a":{"b":1}}}', "json"), (r'{"user":"\"}{\\"}', "json"),
    (r'{"user":"\\ud800 \ud83d\ude00"}', "json"),
]  # fmt: skip


def test_lines_that_end_within_a_row_are_told_from_others(spark):
    lines = spark.createDataFrame([*OPEN, *CLOSED], ["line", "kind"])
    line, found = F.col("line"), F.lit(False)
    for kind, separator in (("csv", ","), ("tsv", "\t"), ("::", "::")):
        found = F.when(F.col("kind") == kind, line.rlike(_open_quote(separator))).otherwise(found)
    json = line.rlike(_JOINED) | line.rlike(_HALF)
    found = F.when(F.col("kind") == "json", json).otherwise(found)
    rows = lines.select("line", found.alias("open")).collect()
    assert [row.line for row in rows if row.open] == [line for line, _ in OPEN]


@pytest.mark.parametrize("line", [OPEN[0][0], OPEN[6][0]])
def test_lines_that_end_within_a_row_are_refused_as_a_whole(spark, tmp_path, line):
    kind = "json" if line.startswith("{") else "csv"
    path = write(tmp_path / f"r.{kind}", f"user,item,rating\n{line}\n")
    with pytest.raises(SourceError, match=f"as {kind}: a line, .*, (opens a quote|has half)") as no:
        read_source(spark, path)
    assert "\n" not in str(no.value)


def test_long_lines_cost_linear_time(spark):
    lines = ['"' * 2_000_001, '","' * 700_000, '{"a":"' * 300_000, "}  " * 700_000, "\\u" * 10**6]
    frame = spark.createDataFrame([(line,) for line in lines], "line string")
    patterns = (_open_quote(","), _open_quote("::"), _JOINED, _HALF)
    start = time.monotonic()
    found = frame.select(*(F.col("line").rlike(pattern) for pattern in patterns)).collect()
    assert time.monotonic() - start < 30
    assert [row[0] for row in found] == [True, False, False, False, False]


@pytest.mark.parametrize("kind", ["csv", "parquet", "json"])
def test_a_directory_does_not_override_a_column(spark, tmp_path, kind):
    frame = spark.createDataFrame([("1", "a", "5")], ["user", "item", "Day"])
    path = str(tmp_path / f"r.{kind}")
    frame.write.format(kind).option("header", True).save(f"{path}/day=3")
    message = f"r.{kind} has a column 'day' in its files and in the names day=… of its directories"
    with pytest.raises(SourceError, match=message):
        read_source(spark, path)
    assert read_source(spark, f"{path}/*").rows.first().Day == "5"
    frame.drop("Day").write.format(kind).option("header", True).save(f"{path}2.{kind}/day=3")
    assert read_source(spark, f"{path}2.{kind}").rows.first().day in (3, "3")
