"""Gradients on the driver and on the executors, validation, checkpoints; nothing is left behind."""

import itertools
import logging
import re
import threading
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from nonconvex.distributed.checkpoints import Checkpoints
from nonconvex.distributed.data.examples import ExampleColumns
from nonconvex.distributed.network import gradients
from nonconvex.distributed.network.dataset import shard_examples
from nonconvex.distributed.network.fit import train_network
from nonconvex.distributed.network.gradients import (
    StepCost,
    Validation,
    cheaper_mode,
    choose_mode,
    fetch_examples,
    open_gradients,
)
from nonconvex.distributed.runtime import describe_jobs, job_description
from nonconvex.numerics.convergence import StoppingRule
from nonconvex.numerics.network.backprop import LocalGradients, epoch_order, evaluate, merge
from nonconvex.numerics.network.model import Network, initialize
from nonconvex.numerics.network.training import train
from nonconvex.numerics.optim import make_optimizer
from tests.factories import Killed

NETWORK = Network((4, 6, 3), ("tanh",), "categorical-cross-entropy", reg=1e-3)
THETA = np.stack([initialize(NETWORK, "glorot-uniform", 1, restart) for restart in range(2)])
BATCH = 64  # about one piece and a half


@pytest.fixture(scope="module")
def examples(spark):
    generator = np.random.default_rng(0)
    x = generator.normal(3.0, 2.0, (360, 4))
    y = (x[:, :3] + generator.normal(size=(360, 3))).argmax(axis=1)
    w = generator.integers(1, 4, 360)
    columns = (values.tolist() for values in (x, y, w, np.arange(360) % 6 == 0))
    frame = spark.createDataFrame(
        list(zip(*columns, strict=True)), "x array<double>, y long, w long, held boolean"
    )
    packed = shard_examples(
        frame, ExampleColumns("x", "y", "w", "held"), classify=True, shard_bytes=4 * 4 * 45
    )
    assert len(packed.train.sizes) == 7
    yield packed
    packed.release()


@pytest.fixture(scope="module")
def decoder(examples):
    return examples.decoder(class_weights=[1.0, 2.0, 0.5])


def fit(examples, decoder, epochs=3, mode="driver", max_steps=None, **settings):
    rule, optimizer = StoppingRule(epochs, max_steps=max_steps), make_optimizer("adam", 0.02)
    options = {"batch_size": BATCH, "seed": 5, **settings}
    return train_network(NETWORK, THETA, examples, decoder, optimizer, rule, mode, **options)


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.theta.tobytes() == b.theta.tobytes()
        first, second = ([epoch._replace(seconds=0) for epoch in end.history] for end in (a, b))
        assert first == second
        assert a.stop is b.stop


def left_behind(spark):
    context = spark.sparkContext
    threads = sum(thread.is_alive() for thread in threading.enumerate())
    files = len(list(Path(context._temp_dir).iterdir()))
    return context._jsc.sc().getPersistentRDDs().size(), files, threads


def test_the_driver_keeps_or_streams_to_the_same_bits(
    spark, examples, decoder, monkeypatch, caplog
):
    before = left_behind(spark)
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        settings = {"batch_size": BATCH, "restarts": 2, "asked": "auto"}
        chosen = choose_mode(NETWORK, examples.train, decoder, **settings)
        kept = fit(examples, decoder, mode=chosen.mode)
    lines = [record.getMessage() for record in caplog.records]
    assert re.match(r"gradients on the driver: 0\.\d+ MB of examples fit into the 537 MB", lines[0])
    assert len(lines) == 1 + 2 * 3
    assert lines[1].startswith("restart 0  epoch   1  f ")
    assert "validation loss" in lines[1]
    assert lines[-1].endswith("reached maxIter")
    with monkeypatch.context() as patch:
        patch.setattr(gradients, "MEMORY_BYTES", 2000)
        same(fit(examples, decoder), kept)
    assert left_behind(spark) == before
    assert job_description(spark) is None

    # And as all of it in numpy, from the packed bytes.
    parts = examples.train.run(lambda _, shard: tuple(shard.arrays(True)))
    x, y, w = (np.concatenate(column) for column in zip(*parts.values(), strict=True))
    whole = fetch_examples(examples.train, decoder, chunk_bytes=1)
    mean, scale = np.average(x, axis=0, weights=w), 0.0
    scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w))
    np.testing.assert_allclose(whole.x, (x - mean) / scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(whole.y, y)
    np.testing.assert_allclose(whole.weight, w * np.array([1.0, 2.0, 0.5])[y])
    local = LocalGradients(NETWORK, whole, examples.train.sizes, BATCH, 5)
    found = train(NETWORK, THETA, local, make_optimizer("adam", 0.02), StoppingRule(3))
    assert [end.theta.tobytes() for end in found] == [end.theta.tobytes() for end in kept]


def test_driver_and_executors_agree_after_fifty_steps(spark, examples, decoder):
    before = left_behind(spark)
    driver = fit(examples, decoder, 99, max_steps=50, mode="driver")
    executors = fit(examples, decoder, 99, max_steps=50, mode="executors")
    for a, b in zip(driver, executors, strict=True):
        assert a.history[-1].steps == b.history[-1].steps == 50
        np.testing.assert_allclose(a.theta, b.theta, rtol=1e-5, atol=1e-5 * abs(a.theta).max())
        assert np.linalg.norm(a.theta - b.theta) < 1e-5 * np.linalg.norm(a.theta)
    assert left_behind(spark) == before


def test_validation_is_the_sum_over_the_rows_that_are_held_out(examples, decoder):
    held = fetch_examples(examples.validation, decoder)
    assert len(held.x) == 60
    expected = evaluate(NETWORK, THETA, held)
    with Validation(NETWORK, examples.validation, decoder) as validation:
        found = validation(THETA)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    by_piece = examples.validation.run(lambda _, shard: evaluate(NETWORK, THETA, decoder(shard)))
    assert reduce(merge, by_piece.values()).loss.tolist() == found.loss.tolist()


@pytest.mark.parametrize("memory_bytes", [1 << 20, 2000])
def test_an_interrupted_training_goes_on_to_the_same_bits_and_leaves_nothing(
    spark, examples, decoder, tmp_path, monkeypatch, memory_bytes, caplog
):
    path = tmp_path / "c"
    checkpoints = Checkpoints(spark, str(path), 2, {"data": examples.fingerprint})
    monkeypatch.setattr(gradients, "MEMORY_BYTES", memory_bytes)
    whole = fit(examples, decoder, 5)
    before = left_behind(spark)
    calls = itertools.count()

    def die(*arguments):
        if next(calls) == 2:
            raise Killed
        return evaluate_all(*arguments)

    evaluate_all = Validation.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "__call__", die)
        with pytest.raises(Killed):
            fit(examples, decoder, 5, checkpoints=checkpoints)
    assert left_behind(spark) == before
    assert [entry.name for entry in path.iterdir()] == ["iteration=2"]
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        same(fit(examples, decoder, 5, checkpoints=checkpoints), whole)
    assert "continuing after epoch 2" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(Validation, "__call__", None)  # no epoch ends with it
        same(fit(examples, decoder, 5, checkpoints=checkpoints), whole)
    checkpoints.clear()
    assert not path.exists()


@pytest.mark.parametrize("mode", ["driver", "executors"])
def test_an_error_where_the_data_are_is_seen_and_everything_is_released(
    spark, examples, decoder, mode, monkeypatch
):
    monkeypatch.setattr(gradients, "MEMORY_BYTES", 2000)
    before = left_behind(spark)
    broken = decoder._replace(class_weights=np.ones(1))  # there are three classes
    streamed = open_gradients(NETWORK, examples.train, broken, mode, batch_size=BATCH, seed=5)
    with pytest.raises(Exception, match="IndexError"), streamed as opened:
        [minibatch(THETA) for minibatch in opened.epoch(1)]
    assert left_behind(spark) == before


def test_an_epoch_that_is_left_early_ends_its_thread(spark, examples, decoder, monkeypatch):
    monkeypatch.setattr(gradients, "MEMORY_BYTES", 2000)
    streamed = open_gradients(NETWORK, examples.train, decoder, "driver", batch_size=9, seed=5)
    before = left_behind(spark)
    with streamed as opened:
        steps = opened.epoch(1)
        next(steps)
    assert left_behind(spark) == before
    # Pieces are left out of memory once the epoch is done with them.
    with streamed as opened:
        held = steps = opened.epoch(1)
        seen = set()
        for batch in epoch_order(examples.train.sizes, 9, 5, 1):
            next(steps)
            seen |= {part.piece for part in batch[:-1]}
            held = steps.gi_frame.f_locals["held"]
            assert not seen & set(held)
            assert len(held) <= 3


def test_only_the_pieces_of_a_minibatch_are_touched(spark, examples, decoder):
    tracker, settings = spark.sparkContext.statusTracker(), {"batch_size": BATCH, "seed": 5}
    with open_gradients(NETWORK, examples.train, decoder, "executors", **settings) as opened:
        spark.sparkContext.setJobGroup("step", "one")
        batch = next(epoch_order(examples.train.sizes, BATCH, 5, 1))
        next(opened.epoch(1))(THETA)
        [job] = tracker.getJobIdsForGroup("step")
        describe_jobs(spark, None)
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
        [*_, stage] = sorted(tracker.getJobInfo(job).stageIds)
        assert tracker.getStageInfo(stage).numTasks == len(batch)


SMALL = StepCost(60_000, 3136, 45, 1024, 101_770, 4, 2, 2)


@pytest.mark.parametrize(
    ("changed", "mode"),
    [
        ({}, "driver"),
        ({"rows": 3_000_000, "shards": 2250}, "driver"),  # streamed: 11 ms a step
        ({"batch_size": 60_000, "executor_cores": 64}, "executors"),
        ({"rows": 300_000, "row_bytes": 400_000, "shards": 4096, "parameters": 10**6}, "executors"),
        ({"batch_size": 10**9}, "driver"),
    ],
)
def test_the_place_of_the_shorter_step_is_chosen(changed, mode):
    cost = replace(SMALL, **changed)
    choice = cheaper_mode(cost)
    assert choice.mode == mode
    assert choice.reason.startswith(f"gradients on the {mode}: ")
    assert ("do not fit" in choice.reason) == (cost.rows * cost.row_bytes > 512 << 20)
