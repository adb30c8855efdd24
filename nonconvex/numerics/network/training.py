"""Training of networks: epochs of minibatches, for several restarts at once, until each stops.

The loop does not know where data are and gradients computed: a `Gradients` yields a function for
each minibatch.  Every restart sees the same minibatches, and has the same bits alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from nonconvex.numerics import Bools, Doubles, Floats
from nonconvex.numerics.convergence import Epoch, FitError, Stop, StoppingRule, best_epoch
from nonconvex.numerics.network.backprop import EvaluationSums, Sums, network_objective
from nonconvex.numerics.network.model import Network, NetworkError
from nonconvex.numerics.optim import Optimizer, OptimizerState


class Gradients(Protocol):
    """The place where gradients are computed: this process, or the executors."""

    def epoch(self, number: int) -> Iterator[Callable[[Floats], Sums]]:
        """Yield for each minibatch of an epoch, from 1 on, a function from θ (R, p) to its sums."""


class Trained(NamedTuple):
    """Result of a restart."""

    # (p,): the parameters: with patience those of the epoch of the least validation loss, else the
    # last ones
    theta: Floats
    epoch: int  # the epoch of these parameters
    history: list[Epoch]
    stop: Stop


class Saved(NamedTuple):
    """State of training at the end of an epoch."""

    epoch: int
    arrays: dict[str, Any]
    values: dict[str, Any]  # JSON values


@dataclass
class Restart:
    """Current state of one restart."""

    history: list[Epoch] = field(default_factory=list)
    stop: Stop | None = None  # the reason why it ended, if it has
    theta: Floats | None = None  # (p,): the best parameters so far, or the final ones
    epoch: int = 0  # the epoch of these parameters

    def end_epoch(self, record: Epoch, theta: Floats, rule: StoppingRule, *, finite: bool) -> None:
        """Add an epoch to the history, and apply the stopping rule."""
        self.history.append(record)
        self.stop = rule.reached(self.history) if finite else Stop.NONFINITE
        if not finite:
            wanted = self.theta is None  # the best so far is better than nothing
        elif rule.patience is not None:
            wanted = best_epoch(self.history) == record.epoch
        else:
            wanted = self.stop is not None
        if wanted:
            self.theta, self.epoch = theta.copy(), record.epoch

    def result(self) -> Trained:
        """Return the result."""
        assert self.theta is not None
        assert self.stop is not None
        return Trained(self.theta, self.epoch, self.history, self.stop)


class Training:
    """Current state of several restarts."""

    def __init__(
        self, network: Network, theta: Floats, optimizer: Optimizer, rule: StoppingRule
    ) -> None:
        self.epoch, self.steps = 0, 0  # numbers of finished ones
        self.restarts = [Restart() for _ in theta]
        self.active = list(range(len(theta)))  # numbers of the unfinished ones, in order
        self._network, self._optimizer, self._rule = network, optimizer, rule
        self._theta = theta  # of the active restarts
        self._state = optimizer.init(theta)

    def run_epoch(
        self, gradients: Gradients, validate: Callable[[Floats], EvaluationSums] | None
    ) -> None:
        """Take the steps of an epoch, evaluate, and stop restarts."""
        started, before = time.perf_counter(), self.steps
        self.epoch += 1
        running = _Running(len(self.restarts))
        diverged: dict[int, Floats] = {}
        for minibatch in gradients.epoch(self.epoch):
            sums = minibatch(self._theta)
            with np.errstate(all="ignore"):  # non-finite restarts are dropped below
                value, gradient = network_objective(self._network, self._theta, sums)
                running.add(self.active, sums, value, gradient)
                finite = np.isfinite(value)
                if not finite.all():
                    diverged |= self._drop(~finite)
                    gradient = gradient[finite]
                step, self._state = self._optimizer.update(gradient, self._state, self._theta)
                self._theta = self._theta + step
            self.steps += 1
            if not self.active or self.steps == self._rule.max_steps:
                break
        if self.steps == before:
            raise FitError("there is no row to train on; check the training data and its filters")
        diverged |= self._drop(np.any(~np.isfinite(self._theta), axis=-1))
        validation = validate(self._theta) if validate is not None and self.active else None
        rate = self._optimizer.learning_rate(self.steps - 1)
        seconds = time.perf_counter() - started

        def record(number: int) -> Epoch:
            means = running.means(number)
            return Epoch(self.epoch, self.steps, *means[:2], rate, means[2], None, None, seconds)

        for number, theta in diverged.items():
            self.restarts[number].end_epoch(record(number), theta, self._rule, finite=False)
        for row, number in enumerate(self.active):
            reached = record(number)
            if validation is not None:
                loss = float(validation.mean_loss()[row])
                reached = reached._replace(
                    validation_loss=loss if np.isfinite(loss) else np.inf,
                    validation_metric=float(validation.metric(self._network)[row]),
                )
            self.restarts[number].end_epoch(reached, self._theta[row], self._rule, finite=True)
        self._drop(np.array([self.restarts[number].stop is not None for number in self.active]))

    def _drop(self, ended: Bools) -> dict[int, Floats]:
        """Remove restarts from the batch; return their numbers and parameters."""
        dropped = {self.active[row]: self._theta[row] for row in np.flatnonzero(ended)}
        if dropped:
            self.active = [number for number in self.active if number not in dropped]
            self._theta = self._theta[~ended]
            memories = (self._state.first, self._state.second)
            kept = (memory[~ended] if memory.size else memory for memory in memories)
            self._state = OptimizerState(self._state.updates, *kept)
        return dropped

    def save(self) -> Saved:
        """Return the state."""
        best = {
            str(number): restart.theta
            for number, restart in enumerate(self.restarts)
            if restart.theta is not None
        }
        arrays = {"theta": self._theta, "optimizer": self._state._asdict(), "best": best}
        values = {
            "steps": self.steps,
            "active": self.active,
            "restarts": [
                {
                    "history": [list(epoch) for epoch in restart.history],
                    "stop": None if restart.stop is None else restart.stop.name,
                    "epoch": restart.epoch,
                }
                for restart in self.restarts
            ],
        }
        return Saved(self.epoch, arrays, values)

    def restore(self, saved: Saved) -> None:
        """Restore the state that `save` returned."""
        arrays, values = saved.arrays, saved.values
        self.epoch, self.steps, self.active = saved.epoch, values["steps"], list(values["active"])
        self._theta = arrays["theta"]
        self._state = OptimizerState(**arrays["optimizer"])
        best = arrays.get("best", {})
        for number, (restart, value) in enumerate(
            zip(self.restarts, values["restarts"], strict=True)
        ):
            restart.history = [Epoch(*epoch) for epoch in value["history"]]
            restart.stop = None if value["stop"] is None else Stop[value["stop"]]
            restart.theta, restart.epoch = best.get(str(number)), value["epoch"]


class _Running:
    """Sums over the minibatches of an epoch, for each restart."""

    def __init__(self, restarts: int) -> None:
        self._loss, self._objective, self._weight = np.zeros((3, restarts))
        self._last: tuple[list[int], Floats] | None = None

    def add(self, active: list[int], sums: Sums, value: Doubles, gradient: Floats) -> None:
        """Add the sums of a minibatch before its step."""
        self._loss[active] += sums.loss
        self._objective[active] += sums.weight * value
        self._weight[active] += sums.weight
        self._last = active, gradient

    def means(self, number: int) -> tuple[float, float, float]:
        """Return the mean loss and objective of a restart, and the norm of its last gradient."""
        assert self._last is not None
        active, gradient = self._last
        norm = np.nan
        if number in active:
            squares = np.square(gradient[active.index(number)], dtype=np.float64)
            norm = float(np.sqrt(squares.sum()))
        weight = self._weight[number] or 1.0
        return float(self._loss[number] / weight), float(self._objective[number] / weight), norm


def train(
    network: Network,
    theta: Floats,
    gradients: Gradients,
    optimizer: Optimizer,
    rule: StoppingRule,
    *,
    validate: Callable[[Floats], EvaluationSums] | None = None,
    on_epoch: Callable[[Training], None] | None = None,
    saved: Saved | None = None,
) -> list[Trained]:
    """Minimize f from every restart by minibatches: θ ← θ + step(∇f of the minibatch).

    A restart that becomes non-finite is dropped, and reported as such.

    Parameters
    ----------
    theta : float array of shape (R, p)
        Initial parameters.
    optimizer : Optimizer
        Clipping each restart needs ``axis=-1``.
    validate : callable, optional
        Evaluates θ of shape (R, p) on validation rows at the end of every epoch.
    on_epoch : callable, optional
        Called at the end of every epoch, to report or `save`.
    saved : Saved, optional
        State to continue from, to the same bits.

    Returns
    -------
    list of Trained
        One for each restart, in their order.

    Raises
    ------
    FitError
        If no restart stays finite, or there is no row.
    NetworkError
        For patience without validation.

    Examples
    --------
    The mean is the constant of least squares:

    >>> from nonconvex.numerics.network.backprop import Examples
    >>> from nonconvex.numerics.network.backprop import LocalGradients
    >>> from nonconvex.numerics.optim import gradient_descent
    >>> network = Network((1, 1), (), "squared-error")
    >>> examples = Examples(np.zeros((3, 1)), np.array([[1.0], [2.0], [6.0]]))
    >>> gradients = LocalGradients(network, examples, [3], batch_size=3, seed=1)
    >>> [end] = train(
    ...     network, np.zeros((1, 2)), gradients, gradient_descent(0.25), StoppingRule(max_iter=50)
    ... )
    >>> end.theta, end.stop.value
    (array([0., 3.]), 'reached maxIter')
    """
    if rule.patience is not None and validate is None:
        raise NetworkError("patience needs validation rows; leave it unset, or set some aside")
    training = Training(network, theta, optimizer, rule)
    if saved is not None:
        training.restore(saved)
    while training.active:
        training.run_epoch(gradients, validate)
        if on_epoch is not None:
            on_epoch(training)
    ends = [restart.result() for restart in training.restarts]
    if all(end.stop is Stop.NONFINITE for end in ends):
        last = ends[0].history[-1]
        raise FitError(
            f"training diverged: the objective became {last.objective} in epoch {last.epoch} with "
            f"learningRate {last.learning_rate:.3g}; lower learningRate, set clipNorm, or check "
            "that features and targets are on a moderate scale (standardize)"
        )
    return ends
