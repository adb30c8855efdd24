"""Summaries of fits of networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from nonconvex.estimators.display import Summary, one_line
from nonconvex.numerics.network.training import Trained


@dataclass(frozen=True, repr=False)
class NetworkRestart:
    """Result and history of one random start."""

    restart: int  # its number, which with the seed determines the start
    stop: str  # the reason why it ended
    epoch: int  # the epoch whose parameters were kept, from 1 on
    # f, and f without the penalty, over all training rows with the kept parameters
    objective: float
    loss: float
    # over the same rows: accuracy, or for a regression √(Σ w ‖ŷ − y‖² / Σ w), of standardized
    # targets unless ``targetStandardization`` is False
    metric: float
    # the same over the validation rows
    validation_loss: float | None
    validation_metric: float | None
    # one for each epoch, with the fields of `nonconvex.numerics.convergence.Epoch`
    history: list[dict[str, Any]]

    @classmethod
    def of(
        cls, restart: int, trained: Trained, objective: float, loss: float, metric: float
    ) -> NetworkRestart:
        """Summarize the training from one start."""
        kept = trained.history[trained.epoch - 1]
        return cls(
            restart=restart,
            stop=trained.stop.value,
            epoch=trained.epoch,
            objective=objective,
            loss=loss,
            metric=metric,
            validation_loss=kept.validation_loss,
            validation_metric=kept.validation_metric,
            history=[epoch._asdict() for epoch in trained.history],
        )

    def __repr__(self) -> str:
        """Return one line, without the history."""
        facts = {name: value for name, value in vars(self).items() if name != "history"}
        return one_line(type(self).__name__, facts)

    @property
    def merit(self) -> float:
        """The figure that restarts are compared by, validation loss or else f; least is best."""
        value = self.objective if self.validation_loss is None else self.validation_loss
        return value if math.isfinite(self.objective) and math.isfinite(value) else math.inf


@dataclass(frozen=True, repr=False)
class NetworkSummary(Summary):
    """The data and the network of a fit, and the results of its restarts.

    ``print(summary)`` shows a line and a table of the restarts.
    """

    training_rows: int
    validation_rows: int
    weight: float  # Σ w over the training rows, before class weights
    layers: list[int]  # from the features to the outputs
    activations: list[str]  # of the hidden layers
    loss: str  # one of `nonconvex.numerics.network.model.LOSSES`
    parameters: int  # number of parameters p
    constant_features: int  # number of features with a single value in all training rows
    # factors of the weights of rows by class, in the order of the labels
    class_weights: list[float] | None
    # where gradients were computed, "driver" or "executors", and why
    gradients: str
    gradients_reason: str
    batch_size: int
    warm_start: bool  # whether the fit began at an earlier model or at given weights
    # position in `restarts` of the best: by validation loss where there is one, or else by f
    best: int
    restarts: list[NetworkRestart]
    seconds: float  # wall-clock time of the fit

    _restart_type = NetworkRestart

    @property
    def totalIterations(self) -> int:
        """Number of epochs of the best restart."""
        return len(self.restarts[self.best].history)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each restart and epoch, for ``pandas.DataFrame`` or Spark."""
        return [
            {"restart": restart.restart, **epoch, "stop": restart.stop}
            for restart in self.restarts
            for epoch in restart.history
        ]

    def spread(self) -> dict[str, float]:
        """Return ``best, worst, mean, deviation`` of the restarts, and how many ``diverged``.

        The figures are validation losses, or else f, of the restarts that stayed finite.
        """
        merits = [restart.merit for restart in self.restarts if math.isfinite(restart.merit)]
        return {
            "best": min(merits),
            "worst": max(merits),
            "mean": fmean(merits),
            "deviation": pstdev(merits),
            "diverged": len(self.restarts) - len(merits),
        }

    def facts(self) -> dict[str, Any]:
        """Return the network and the end of the best restart, as `repr` shows them."""
        best = self.restarts[self.best]
        facts: dict[str, Any] = {
            "layers": self.layers,
            "activations": self.activations,
            "parameters": self.parameters,
            "loss": self.loss,
            "rows": self.training_rows,
            "objective": best.objective,
            self._metric().lower(): best.metric,
        }
        if best.validation_loss is not None:
            facts["validation_loss"] = best.validation_loss
        return facts | {"stop": best.stop.partition(":")[0]}

    def _metric(self) -> str:
        return "RMSE" if self.loss == "squared-error" else "accuracy"

    def _heading(self) -> str:
        layers = "-".join(map(str, self.layers))
        hidden = "/".join(dict.fromkeys(self.activations))
        network = f"network {layers}{f' ({hidden})' if hidden else ''}"
        rows = f"{self.training_rows:,} rows"
        if self.validation_rows:
            rows += f" and {self.validation_rows:,} to validate on"
        return f"{network}, {self.parameters:,} parameters, {rows}: trained in {self.seconds:.1f} s"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        metric = self._metric()
        validated = any(each.validation_loss is not None for each in self.restarts)
        added = ["validation loss", f"validation {metric}"] if validated else []
        rows = []
        for number, each in enumerate(self.restarts):
            star = " *" if number == self.best else ""
            row = [f"{each.restart}{star}", f"{each.epoch}", f"{each.objective:.6g}"]
            row.append(f"{each.metric:.4f}")
            if validated:
                known = each.validation_loss, each.validation_metric
                row += ["" if value is None else f"{value:.4f}" for value in known]
            rows.append([*row, each.stop.partition(":")[0]])
        return ["restart", "epoch", "f", metric, *added, "stopped"], rows
