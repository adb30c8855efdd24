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
from nonconvex.distributed.network.dataset import pack_examples
from nonconvex.distributed.network.fit import train_network
from nonconvex.distributed.network.gradients import (
    Sizes,
    Validation,
    choose,
    fetch_examples,
    open_gradients,
)
from nonconvex.distributed.runtime import describe_jobs, job_description
from nonconvex.numerics.convergence import StoppingRule
from nonconvex.numerics.network.backprop import LocalGradients, epoch_order, evaluate, merge
from nonconvex.numerics.network.model import Network, initialize
from nonconvex.numerics.network.training import train
from nonconvex.numerics.optim import make_optimizer

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
    packed = pack_examples(
        frame, ExampleColumns("x", "y", "w", "held"), classify=True, piece_bytes=4 * 4 * 45
    )
    assert len(packed.train.sizes) == 7
    yield packed
    packed.release()


@pytest.fixture(scope="module")
def reading(examples):
    return examples.reading(class_weights=[1.0, 2.0, 0.5])


def fit(examples, reading, epochs=3, **settings):
    return train_network(
        NETWORK,
        THETA,
        examples,
        reading,
        make_optimizer("adam", 0.02),
        StoppingRule(epochs, max_steps=settings.pop("max_steps", None)),
        batch_size=BATCH,
        seed=5,
        **settings,
    )


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.theta.tobytes() == b.theta.tobytes()
        assert [epoch._replace(seconds=0) for epoch in a.history] == [
            epoch._replace(seconds=0) for epoch in b.history
        ]
        assert a.stop is b.stop


def left_behind(spark):
    context = spark.sparkContext
    temporary = Path(context._temp_dir)
    threads = sum(thread.is_alive() for thread in threading.enumerate())
    return context._jsc.sc().getPersistentRDDs().size(), len(list(temporary.iterdir())), threads


def test_the_driver_keeps_or_streams_to_the_same_bits(spark, examples, reading, caplog):
    before = left_behind(spark)
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        kept = fit(examples, reading)
    lines = [record.getMessage() for record in caplog.records]
    assert re.match(r"gradients on the driver: 0\.\d+ MB of examples fit into the 537 MB", lines[0])
    assert len(lines) == 1 + 2 * 3
    assert lines[1].startswith("restart 0  epoch   1  f ")
    assert "validation loss" in lines[1]
    assert lines[-1].endswith("reached maxIter")
    same(fit(examples, reading, place="driver", memory_bytes=2000), kept)
    assert left_behind(spark) == before
    assert job_description(spark) is None

    # And as all of it in numpy, from the packed bytes.
    parts = examples.train.run(lambda _, piece: tuple(piece.arrays(True)))
    x, y, w = (np.concatenate(column) for column in zip(*parts.values(), strict=True))
    whole = fetch_examples(examples.train, reading, chunk_bytes=1)
    mean, scale = np.average(x, axis=0, weights=w), 0.0
    scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w))
    np.testing.assert_allclose(whole.x, (x - mean) / scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(whole.y, y)
    np.testing.assert_allclose(whole.weight, w * np.array([1.0, 2.0, 0.5])[y])
    local = LocalGradients(NETWORK, whole, examples.train.sizes, BATCH, 5)
    found = train(NETWORK, THETA, local, make_optimizer("adam", 0.02), StoppingRule(3))
    assert [end.theta.tobytes() for end in found] == [end.theta.tobytes() for end in kept]


def test_driver_and_executors_agree_after_fifty_steps(spark, examples, reading):
    before = left_behind(spark)
    driver = fit(examples, reading, 99, max_steps=50, place="driver")
    executors = fit(examples, reading, 99, max_steps=50, place="executors")
    for a, b in zip(driver, executors, strict=True):
        assert a.history[-1].steps == b.history[-1].steps == 50
        np.testing.assert_allclose(a.theta, b.theta, rtol=1e-5, atol=1e-5 * abs(a.theta).max())
        assert np.linalg.norm(a.theta - b.theta) < 1e-5 * np.linalg.norm(a.theta)
    assert left_behind(spark) == before


def test_validation_is_the_sum_over_the_rows_that_are_held_out(examples, reading):
    held = fetch_examples(examples.validation, reading)
    assert len(held.x) == 60
    expected = evaluate(NETWORK, THETA, held)
    with Validation(NETWORK, examples.validation, reading) as validation:
        found = validation(THETA)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    by_piece = examples.validation.run(lambda _, piece: evaluate(NETWORK, THETA, reading(piece)))
    assert reduce(merge, by_piece.values()).loss.tolist() == found.loss.tolist()


class Killed(BaseException):
    """What ends the process of a fit, as far as the fit can tell."""


@pytest.mark.parametrize("memory_bytes", [1 << 20, 2000])
def test_an_interrupted_training_goes_on_to_the_same_bits_and_leaves_nothing(
    spark, examples, reading, tmp_path, monkeypatch, memory_bytes, caplog
):
    path = tmp_path / "c"
    checkpoints = Checkpoints(spark, str(path), 2, {"data": examples.fingerprint})
    settings = {"epochs": 5, "place": "driver", "memory_bytes": memory_bytes}
    whole = fit(examples, reading, **settings)
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
            fit(examples, reading, **settings, checkpoints=checkpoints)
    assert left_behind(spark) == before
    assert [entry.name for entry in path.iterdir()] == ["iteration=2"]
    with caplog.at_level(logging.INFO, logger="nonconvex"):
        same(fit(examples, reading, **settings, checkpoints=checkpoints), whole)
    assert "going on after epoch 2" in caplog.text
    assert not path.exists()


@pytest.mark.parametrize("place", ["driver", "executors"])
def test_an_error_where_the_data_are_is_seen_and_everything_is_released(
    spark, examples, reading, place
):
    before = left_behind(spark)
    broken = reading._replace(class_weights=np.ones(1))  # there are three classes
    streamed = open_gradients(
        NETWORK, examples.train, broken, batch_size=BATCH, seed=5, place=place, memory_bytes=2000
    )
    with pytest.raises(Exception, match="IndexError"), streamed as gradients:
        [minibatch(THETA) for minibatch in gradients.epoch(1)]
    assert left_behind(spark) == before


def test_an_epoch_that_is_left_early_ends_its_thread(spark, examples, reading):
    streamed = open_gradients(
        NETWORK, examples.train, reading, batch_size=9, seed=5, place="driver", memory_bytes=2000
    )
    before = left_behind(spark)
    with streamed as gradients:
        steps = gradients.epoch(1)
        next(steps)
    assert left_behind(spark) == before
    # Pieces are left out of memory once the epoch is done with them.
    with streamed as gradients:
        held = steps = gradients.epoch(1)
        seen = set()
        for batch in epoch_order(examples.train.sizes, 9, 5, 1):
            next(steps)
            seen |= {part.piece for part in batch[:-1]}
            held = steps.gi_frame.f_locals["held"]
            assert not seen & set(held)
            assert len(held) <= 3


def test_only_the_pieces_of_a_minibatch_are_touched(spark, examples, reading):
    tracker = spark.sparkContext.statusTracker()
    with open_gradients(
        NETWORK, examples.train, reading, batch_size=BATCH, seed=5, place="executors"
    ) as gradients:
        spark.sparkContext.setJobGroup("step", "one")
        batch = next(epoch_order(examples.train.sizes, BATCH, 5, 1))
        next(gradients.epoch(1))(THETA)
        [job] = tracker.getJobIdsForGroup("step")
        describe_jobs(spark, None)
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
        [*_, stage] = sorted(tracker.getJobInfo(job).stageIds)
        assert tracker.getStageInfo(stage).numTasks == len(batch)


SMALL = Sizes(60_000, 3136, 45, 1024, 101_770, 4, 512 << 20, 2, 2)


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({}, "driver"),
        ({"rows": 3_000_000, "pieces": 2250}, "driver"),  # streamed: 11 ms a step
        ({"batch_size": 60_000, "executor_cores": 64}, "executors"),
        ({"rows": 300_000, "row_bytes": 400_000, "pieces": 4096, "parameters": 10**6}, "executors"),
        ({"batch_size": 10**9}, "driver"),
    ],
)
def test_the_place_of_the_shorter_step_is_chosen(changed, place):
    sizes = replace(SMALL, **changed)
    choice = choose(sizes)
    assert choice.place == place
    assert choice.reason.startswith(f"gradients on the {place}: ")
    assert ("do not fit" in choice.reason) == (sizes.rows * sizes.row_bytes > 512 << 20)
