"""Top-N lists in Spark against `top_n` in one process: batches, partitions and types of ids."""

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from nonconvex.distributed.factorization import top_n
from nonconvex.distributed.factorization.predict import IdTable
from nonconvex.numerics import ranking
from nonconvex.numerics.factorization.model import Factors

USERS, ITEMS = 300, 90


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(0)
    return Factors(
        3.0,
        rng.normal(0, 0.5, (USERS, 6)).astype(np.float32),
        rng.normal(0, 0.5, (ITEMS, 6)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def sides(spark, factors):
    made = []
    for name, rows in (("user", factors.users), ("item", factors.items)):
        ids = pa.chunked_array([pa.array(np.arange(len(rows)) * 10)])
        shared = (spark.sparkContext.broadcast(values) for values in (ids, rows))
        made.append(top_n.ModelSide(f"{name}Col", name, ids, *shared))
    yield made
    for side in made:
        side.rows.destroy()
        side.shared_ids.destroy()


@pytest.fixture(scope="module")
def expected(factors):
    ranked = ranking.top_n(factors, np.arange(USERS), 7)
    lists = np.split(np.arange(len(ranked.columns)), ranked.offsets[1:-1])
    return {
        10 * user: [
            (int(ranked.columns[j]) * 10, float(np.float32(ranked.scores[j]))) for j in places
        ]
        for user, places in enumerate(lists)
    }


def collect(frame):
    return {row[0]: [tuple(member) for member in row[1]] for row in frame.collect()}


def ask(spark, sides, factors, asked=None, **options):
    users, items = sides
    ranker = top_n.Ranker(factors.alpha, users.rows, items.rows, 7, None)
    asked = top_n.keys(spark, users, None, unknown=True) if asked is None else asked
    asked, ranker = top_n.requests(asked, ranker, users, items, **options)
    return top_n.recommendations(asked, ranker, users, items, None)


@pytest.mark.parametrize(("batch", "partitions"), [("10000", 1), ("17", 5)])
def test_batches_and_partitions_change_no_bit(
    spark, sides, factors, expected, configure, batch, partitions
):
    configure({"spark.sql.execution.arrow.maxRecordsPerBatch": batch})
    asked = top_n.keys(spark, sides[0], None, unknown=True).repartition(partitions)
    assert collect(ask(spark, sides, factors, asked)) == expected


def test_few_lists_are_handed_on_at_a_time(spark, sides, factors, expected, monkeypatch):
    monkeypatch.setattr("nonconvex.distributed.factorization.top_n._AT_A_TIME", 20)
    assert collect(ask(spark, sides, factors)) == expected


def test_joining_lists_leaves_the_work_in_several_tasks(spark, sides, factors, configure):
    configure({"spark.sql.adaptive.enabled": "true"})  # which puts small partitions together
    seen = spark.createDataFrame([(0, 0)], "user long, item long")
    lists = ask(spark, sides, factors, exclude=seen)
    parts = lists.selectExpr("spark_partition_id() as part").distinct().count()
    assert parts == 2 * spark.sparkContext.defaultParallelism


def test_no_two_rows_meet_in_a_join(spark, sides, factors):
    seen = spark.createDataFrame([(0, 0)], "user long, item long")
    allowed = spark.createDataFrame([(0, 0)], "user long, item long")
    lists = ask(spark, sides, factors, exclude=seen, candidates=allowed)
    plan = lists._jdf.queryExecution().toString()
    assert "Cartesian" not in plan
    assert "NestedLoop" not in plan


@pytest.mark.parametrize(
    "make", [str, lambda number: Decimal(number).scaleb(-1), int], ids=["string", "decimal", "int"]
)
def test_ids_come_back_in_their_type(spark, factors, make):
    rows = factors.items
    ids = pa.chunked_array([pa.array([make(number) for number in range(ITEMS)])])
    shared = [spark.sparkContext.broadcast(values) for values in (ids, rows)]
    side = top_n.ModelSide("itemCol", "item", ids, *shared)
    try:
        similar = top_n.neighbours(top_n.keys(spark, side, None, unknown=False), side, 3)
        kind = similar.schema["item"].dataType
        assert similar.schema["similar"].dataType.elementType["item"].dataType == kind
        lists = collect(similar)
    finally:
        for broadcast in shared:
            broadcast.destroy()
    assert set(lists) == set(ids.to_pylist())
    assert {type(other) for list_ in lists.values() for other, _ in list_} == {type(make(1))}


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64()])
def test_a_table_finds_what_is_there_and_nothing_else(kind):
    ids, least, most = (
        [-5, 3, 4, 90],
        *((-128, 127) if kind == pa.int8() else (-(2**63), 2**63 - 1)),
    )
    table = IdTable.of(pa.chunked_array([pa.array(ids, kind)]))
    asked = pa.array([4, None, -5, -6, 90, 91, 0, least, most], kind)
    assert table.indices(asked).tolist() == [2, -1, 0, -1, 3, -1, -1, -1, -1]
    assert IdTable.of(pa.chunked_array([pa.array([0, 10**9])])) is None
    assert IdTable.of(pa.chunked_array([pa.array(["a"])])) is None
