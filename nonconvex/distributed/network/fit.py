"""Training of a network on Spark, with validation, progress and checkpoints."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from functools import partial

import numpy as np
from pyspark.sql import SparkSession

from nonconvex.distributed.checkpoints import Checkpoints, Interruption, State
from nonconvex.distributed.network.dataset import ExampleSet
from nonconvex.distributed.network.gradients import (
    GradientMode,
    NormalEquation,
    Validation,
    open_gradients,
)
from nonconvex.distributed.network.shards import ExampleDecoder
from nonconvex.distributed.runtime import Progress, describe_jobs, described, report
from nonconvex.numerics import Floats
from nonconvex.numerics.convergence import Epoch, Stop, StoppingRule
from nonconvex.numerics.network.backprop import Sums, network_objective
from nonconvex.numerics.network.least_squares import solve_least_squares
from nonconvex.numerics.network.model import Network
from nonconvex.numerics.network.training import Saved, Trained, Training, train
from nonconvex.numerics.optim import Optimizer

_log = logging.getLogger("nonconvex")


def train_network(
    network: Network,
    theta: Floats,
    examples: ExampleSet,
    decoder: ExampleDecoder,
    optimizer: Optimizer,
    rule: StoppingRule,
    mode: GradientMode,
    *,
    batch_size: int,
    seed: int,
    checkpoints: Checkpoints | None = None,
    first: int = 0,
) -> list[Trained]:
    """Train every restart, θ of shape (R, p), on the same minibatches.

    Validation rows are evaluated after each epoch, on the executors.  With checkpoints, the state
    is saved every so many epochs, an interrupted training resumes to the same bits, and the last
    one is that of the complete training, which the caller clears.  `first` is the number of the
    first restart, for the log.

    Raises FitError if no restart stays finite, and Interrupted after Ctrl-C, at the end of the
    epoch, once it is saved.
    """
    resumed: Saved | None = None

    def restore(state: State) -> None:  # tried here, where an error is the checkpoint's alone
        nonlocal resumed
        resumed = Saved(*state[:3])
        Training(network, theta, optimizer, rule).restore(resumed)

    if checkpoints is not None:
        checkpoints.resume("epoch", restore)
    spark = SparkSession.active()
    metric = "RMSE" if network.classes is None else "accuracy"
    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        stack.enter_context(described(spark, "gradients"))
        gradients = stack.enter_context(
            open_gradients(network, examples.train, decoder, mode, batch_size=batch_size, seed=seed)
        )
        validate = None
        if examples.validation is not None:
            validation = Validation(network, examples.validation, decoder)
            validate = stack.enter_context(validation)

        def on_epoch(training: Training) -> None:
            _show(training, first, metric, rule.max_iter)
            describe_jobs(spark, f"epoch {training.epoch + 1}")
            complete = not training.active
            if all(restart.stop is Stop.NONFINITE for restart in training.restarts):
                return
            ending = interruption.asked is not None or complete
            if checkpoints is not None and checkpoints.due(training.epoch, ending):
                saved = State(*training.save(), complete)
                interruption.attempt(partial(checkpoints.save, saved))
            if interruption.asked is not None:
                path = None if checkpoints is None else checkpoints.path
                interruption.end(f"epoch {training.epoch}", path)

        trained = train(
            network,
            theta,
            gradients,
            optimizer,
            rule,
            validate=validate,
            on_epoch=on_epoch,
            saved=resumed,
        )
    return trained


def solve_network(network: Network, examples: ExampleSet, decoder: ExampleDecoder) -> Trained:
    """Fit a linear regression exactly, by its normal equation; validate as training does."""
    started = time.perf_counter()
    spark = SparkSession.active()
    with ExitStack() as stack:
        stack.enter_context(described(spark, "least squares"))
        equation = stack.enter_context(NormalEquation(network, examples.train, decoder))
        theta = solve_least_squares(network, equation.sums()).astype(decoder.dtype)[None]
        evaluate = stack.enter_context(Validation(network, examples.train, decoder))
        reached = evaluate(theta)
        loss, metric = None, None
        if examples.validation is not None:
            validation = Validation(network, examples.validation, decoder)
            held_out = stack.enter_context(validation)(theta)
            loss = float(held_out.mean_loss()[0])
            metric = float(held_out.metric(network)[0])
    sums = Sums(reached.loss, np.zeros_like(theta), reached.weight)
    f, _ = network_objective(network, theta, sums)
    mean = float(reached.mean_loss()[0])
    seconds = time.perf_counter() - started
    epoch = Epoch(1, 1, mean, float(f[0]), 0.0, 0.0, loss, metric, seconds)
    figures = {"f": f"{epoch.objective:.6f}"}
    report(Progress("", "epoch", 1, 1, figures, seconds, Stop.EXACT.value))
    return Trained(theta[0], 1, [epoch], Stop.EXACT)


def _show(training: Training, first: int, metric: str, most: int) -> None:
    """Report the epoch of every restart that ran in it."""
    several = len(training.restarts) > 1
    for number, restart in enumerate(training.restarts, start=first):
        if not restart.history or restart.history[-1].epoch != training.epoch:
            continue
        epoch, name = restart.history[-1], f"restart {number}" if several else ""
        figures = {"f": f"{epoch.objective:.6f}"}
        if epoch.validation_loss is not None:
            figures["validation loss"] = f"{epoch.validation_loss:.6f}"
            figures[metric] = f"{epoch.validation_metric:.4f}"
        stop = restart.stop.value if restart.stop else None
        report(Progress(name, "epoch", epoch.epoch, most, figures, epoch.seconds, stop))
