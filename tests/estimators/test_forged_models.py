"""Models from a stranger: each is one sentence, or works, and no memory is taken on its word."""

import hashlib
import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nonconvex.distributed.files import CHECKSUMS
from nonconvex.neural_network import MultilayerPerceptronClassifier
from nonconvex.pipeline.models import load_model
from nonconvex.recommendation import MatrixFactorization
from tests.factories import flowers, frame, triples

ZEROS = 200_000_000
DEEP = "[" * 100_000  # which no parser follows to the end
VALUES = (
    None, "x", "", -1, 0, 1, 1.5, 1e308, float("nan"), float("inf"), True, 2**31, 2**70, [], {},
    [[]], [1], {"a": 1}, [None], "`", "a b", "${x}",
)  # fmt: skip


@pytest.fixture(scope="module")
def models(spark, tmp_path_factory):
    """Directories of an ALS model, a sampled one, and a network, and rows for each to predict."""
    root = tmp_path_factory.mktemp("models")
    users, items, ratings = triples()
    table = frame(spark, [f"u{user}" for user in users], items, ratings).cache()
    kinds = {
        "als": MatrixFactorization(rank=2, maxIter=2, numRestarts=2),
        "gibbs": MatrixFactorization(solver="gibbs", rank=2, numBurnIn=1, numSamples=6, numKept=3),
    }
    for name, estimator in kinds.items():
        estimator.fit(table).save(f"{root}/{name}")
    examples = spark.createDataFrame(flowers(60)).cache()
    network = MultilayerPerceptronClassifier(
        featuresCol=["a", "b", "c"], labelCol="kind", layers=[3, 4, 3], maxIter=2
    )
    network.fit(examples).save(f"{root}/network")
    return root, {"als": table, "gibbs": table, "network": examples}


def seal(place):
    """Write checksums that fit, as a forger would."""
    files = {
        str(path.relative_to(place)): {
            "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()
        }
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS and path.name[0] not in "._"
    }  # fmt: skip
    (place / CHECKSUMS).write_text(json.dumps({"files": files}))
    for path in place.rglob(".*.crc"):
        path.unlink()


def places_in(value, place=()):
    """Yield the path of every value in JSON, but one of each list."""
    yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places_in(inner, (*place, key))
    elif isinstance(value, list) and value:
        yield from places_in(value[0], (*place, 0))


def forge_json(place, draw):
    """Change, remove or nest a value of the metadata."""
    [path] = (place / "metadata").glob("part-*")
    metadata = json.loads(path.read_text())
    where = list(places_in(metadata))[1:]
    *parents, key = where[draw.integers(len(where))]
    inner = metadata
    for parent in parents:
        inner = inner[parent]
    how = int(draw.integers(-2, len(VALUES)))
    if how == -2:
        del inner[key]
    else:
        inner[key] = "DEEP" if how == -1 else VALUES[how]
    path.write_text(json.dumps(metadata).replace('"DEEP"', DEEP + "]" * 100_000))
    return f"{'.'.join(map(str, (*parents, key)))} {'absent' if how == -2 else inner[key]!r}"


def forge_table(place, draw):
    """Change a table of the model."""
    tables = sorted(path.parent for path in place.glob("*/*.parquet"))
    directory = tables[draw.integers(len(tables))]
    table = pq.read_table(directory)
    name = table.column_names[draw.integers(table.num_columns)]
    column, at = table[name].to_pylist(), int(draw.integers(len(table)))
    ways = "null nan twice short long other empty garbage cut rows text index"
    how = draw.choice(ways.split())
    numbers = isinstance(column[at], list)
    if how in ("null", "nan", "twice", "short", "long"):
        old = column[at]
        new = {"null": None, "twice": column[at - 1], "nan": float("nan"), "short": -1}
        new["long"] = 1 << 20
        if numbers:
            new |= {"nan": [float("nan")] * len(old), "short": old[:-1], "long": [*old, 1.0]}
        column[at] = new[how] if not isinstance(old, str) or how in ("null", "twice") else "u"
        kind = table.schema.field(name).type
        if pa.types.is_integer(kind) and how == "nan":
            kind = pa.float64()
        columns = {n: table[n] for n in table.column_names}
        table = pa.table(columns | {name: pa.array(column, kind)})
    elif how == "other":
        table = table.rename_columns([n + "x" * (n == name) for n in table.column_names])
    elif how == "text":
        table = table.set_column(
            table.column_names.index(name), name, pa.array(list(map(str, column)))
        )
    elif how in ("empty", "rows"):
        table = table[:0] if how == "empty" else table[: at + 1]
    elif how == "index":
        table = pa.concat_tables([table[at:], table[:at], table[:1]])
    for path in directory.glob("*"):
        path.unlink()
    path = directory / "part-0.parquet"
    pq.write_table(table, path)
    if how in ("garbage", "cut"):
        content = path.read_bytes()
        path.write_bytes(draw.bytes(500) if how == "garbage" else content[: len(content) // 2])
    return f"{directory.name}.{name}[{at}] {how}"


def forge_bomb(place, draw):
    """Write two kilobytes that stand for 200 million numbers, or for long strings."""
    table, kind = (
        ("weights", "numbers") if (place / "weights").exists()
        else (f"{draw.choice(['user', 'item'])}Factors", draw.choice(["numbers", "rows", "text"]))
    )  # fmt: skip
    directory = place / table
    content = pq.read_table(directory)
    name = "weights" if table == "weights" else "features"
    of = content.schema.field(name).type.value_type
    index = content["index"]
    if kind == "numbers":
        per_row = ZEROS // len(content)
        ends = np.arange(len(content) + 1, dtype=np.int64) * per_row
        zeros = pa.array(np.zeros(ends[-1], of.to_pandas_dtype()))
        columns = {name: pa.LargeListArray.from_arrays(pa.array(ends), zeros)}
    elif kind == "rows":
        columns, rows = {}, ZEROS // 4
        index = pa.array(np.zeros(rows, np.int32))
        columns = {"id": pa.array(np.zeros(rows, np.int64)), "bias": pa.array(np.zeros(rows, "f4"))}
        columns["features"] = pa.nulls(rows, pa.list_(of))
    else:
        columns = {"id": pa.array(["x" * 20_000_000] * len(content))}
    columns = {n: index if n == "index" else columns.get(n, content[n] if kind != "rows" else None)
               for n in ("index", *[n for n in content.column_names if n != "index"])}  # fmt: skip
    columns = {n: column for n, column in columns.items() if column is not None}
    for path in directory.glob("*"):
        path.unlink()
    pq.write_table(pa.table(columns), directory / "part-0.parquet", compression="zstd")
    size = (directory / "part-0.parquet").stat().st_size
    return f"{table}: {kind} in {size:,} bytes"


def use(spark, model, rows):
    """Do what one does with a model."""
    str(model.summary), repr(model), model.summary.objective, model.summary.totalIterations
    assert model.transform(rows).count() == rows.count()
    model.transform(rows.limit(3)).collect()


def judge(spark, place, rows):
    """Load and use a model: return the sentence that refuses it, or None."""
    try:
        use(spark, load_model(spark, str(place)), rows)
    except ValueError as error:  # of the model, or of a Param that names no column
        said = error
    else:
        return None
    assert type(said).__module__.startswith("nonconvex."), repr(said)
    assert "\n" not in str(said)
    assert len(str(said)) < 500, str(said)
    return str(said)


def attack(spark, models, place, numbers):
    """Judge forged models, by number; return what was done to each, and the sentence or None."""
    root, rows = models
    found = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        draw = np.random.default_rng(number)
        kind = ("als", "gibbs", "network")[number % 3]
        forge = forge_json if number // 3 % 2 else forge_table
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(root / kind, place)
        done = f"{number}: {kind}, {forge(place, draw)}"
        seal(place)
        try:
            found.append((done, judge(spark, place, rows[kind])))
        except BaseException as error:
            error.add_note(done)
            raise
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000, f"{grown:,} kB"
    return found


def test_forged_models_are_one_sentence_each(spark, models, tmp_path):
    found = attack(spark, models, Path(tmp_path / "model"), range(24))
    assert sum(sentence is not None for _, sentence in found) > 12, found


@pytest.mark.thorough
def test_two_hundred_forged_models_are_one_sentence_each(spark, models, tmp_path):
    found = attack(spark, models, Path(tmp_path / "model"), range(200))
    for done, sentence in found:
        print(done, "->", sentence)
    refused = sum(sentence is not None for _, sentence in found)
    print(f"{refused} of {len(found)} refused")
    assert refused > 120


@pytest.mark.parametrize(("kind", "seed"), [("als", 1), ("als", 4), ("network", 0)])
def test_a_few_bytes_do_not_become_millions_of_numbers(spark, models, tmp_path, kind, seed):
    root, rows = models
    place = tmp_path / "model"
    shutil.copytree(root / kind, place)
    done = forge_bomb(place, np.random.default_rng(seed))
    seal(place)
    sentence = judge(spark, place, rows[kind])
    assert sentence is not None
    print(done, sentence)
