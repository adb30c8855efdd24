"""Examples that were prepared are to the bit those that are packed for a fit."""

import json

import pytest

from nonconvex.distributed.data.examples import ExamplesError
from nonconvex.distributed.data.prepared_examples import (
    PreparedExamples,
    PreparedExamplesError,
    prepare_examples,
)
from nonconvex.distributed.network.dataset import pack_examples
from nonconvex.distributed.network.gradients import open_gradients
from nonconvex.numerics.network.model import Network, initialize
from tests.distributed.network.test_dataset import COLUMNS, PIECE, pieces, rows

SCHEMA = "a double, b double, c double, label string, weight double, held boolean"


@pytest.fixture(scope="module")
def frame(spark):
    return spark.createDataFrame(rows(), SCHEMA)


@pytest.fixture(scope="module")
def prepared(frame, tmp_path_factory):
    path = tmp_path_factory.mktemp("prepared") / "examples"
    return prepare_examples(frame, COLUMNS, str(path), classify=True, piece_bytes=PIECE)


def test_prepared_examples_are_those_of_a_fit(spark, frame, prepared):
    persistent = spark.sparkContext._jsc.sc().getPersistentRDDs
    before = persistent().size()
    examples = prepared.load()
    packed = pack_examples(frame, COLUMNS, classify=True, piece_bytes=PIECE)
    assert pieces(examples) == pieces(packed)
    assert examples.fingerprint == packed.fingerprint
    assert examples.outline == packed.outline
    assert examples.columns == packed.columns
    assert examples.validation_weight == packed.validation_weight
    assert examples.train.sizes == packed.train.sizes
    assert examples.validation.sizes == packed.validation.sizes
    for found, expected in zip(examples.reading()[0], packed.reading()[0], strict=True):
        assert found.tobytes() == expected.tobytes()
    assert examples.measures.class_weights.tolist() == packed.measures.class_weights.tolist()
    packed.release()
    # Trained from Parquet, a piece a time.
    network = Network((3, 3), (), "categorical-cross-entropy")
    theta = initialize(network, "glorot-uniform", 1)[None]
    losses = []
    for place in ("driver", "executors"):
        with open_gradients(
            network,
            examples.train,
            examples.reading(),
            batch_size=100,
            seed=1,
            place=place,
            memory_bytes=1,
        ) as gradients:
            losses.append([float(step(theta).loss[0]) for step in gradients.epoch(1)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert persistent().size() == before
    manifest = json.loads(json.dumps(dict(prepared.manifest)))
    assert manifest["outline"]["classes"] == ["string", ["cat", "dog", "eel"]]


def test_a_directory_is_replaced_whole_or_not_at_all(spark, frame, prepared):
    path = prepared.path
    with pytest.raises(PreparedExamplesError, match=r"there is something at .* or overwrite it"):
        prepare_examples(frame, COLUMNS, path, classify=True)
    bad = frame.withColumn("b", frame.b / (frame.a > -9).cast("int") * float("inf"))
    with pytest.raises(
        ExamplesError, match=r"featuresCol is null, NaN or infinite in 300 rows \('b' in"
    ):
        prepare_examples(bad, COLUMNS, path, classify=True, overwrite=True)
    assert PreparedExamples.open(spark, path).manifest == prepared.manifest
    examples = prepared.load()
    prepare_examples(frame.where("a > 0"), COLUMNS, path, classify=True, overwrite=True)
    with pytest.raises(Exception, match=r"are not where they were|FILE_NOT_EXIST"):
        pieces(examples)
    prepare_examples(frame, COLUMNS, path, classify=True, overwrite=True, piece_bytes=PIECE)


def test_what_is_no_prepared_directory_is_refused(spark, tmp_path):
    for content, message in (
        (None, "it has no manifest.json: name another directory"),
        ("{}", "is damaged, or of something else: prepare the examples again, with overwrite"),
        ('{"examples_layout": 99}', "has version 99 of the layout, and this nonconvex reads 1"),
        ('{"examples_layout": 1}', "is incomplete, it lacks pieces"),
    ):
        if content is not None:
            (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(PreparedExamplesError, match=message):
            PreparedExamples.open(spark, str(tmp_path))
    with pytest.raises(PreparedExamplesError, match=r"there are no prepared examples at .*/none"):
        PreparedExamples.open(spark, str(tmp_path / "none"))
