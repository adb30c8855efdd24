"""What a fit of a network reports of itself."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from statistics import fmean, pstdev
from typing import Any

from nonconvex.estimators.display import Summary, one_line
from nonconvex.numerics.network.training import Trained

__all__ = ["NetworkSummary", "RestartSummary"]


@dataclass(frozen=True, repr=False)
class RestartSummary:
    """How one random start went.

    Parameters
    ----------
    restart : int
        Its number: with the seed it determines where the fit started.
    stop : str
        Why it ended.
    epoch : int
        The epoch that was kept, from 1 on.
    objective, loss : float
        f, and its part that is no penalty, over all training rows with the parameters that were
        kept.
    metric : float
        Over the same rows: accuracy, or for a regression √(Σ w ‖ŷ − y‖² / Σ w), of targets that
        are standardized if ``targetStandardization`` says so, as they are in f.
    validation_loss, validation_metric : float or None
        The same over the validation rows.
    history : list of dict
        One for each epoch, with the fields of `nonconvex.numerics.convergence.Epoch`.
    """

    restart: int
    stop: str
    epoch: int
    objective: float
    loss: float
    metric: float
    validation_loss: float | None
    validation_metric: float | None
    history: list[dict[str, Any]]

    @classmethod
    def of(
        cls, restart: int, trained: Trained, objective: float, loss: float, metric: float
    ) -> RestartSummary:
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
        """What restarts are chosen by, the less the better: validation loss, or else f."""
        value = self.objective if self.validation_loss is None else self.validation_loss
        return value if math.isfinite(self.objective) and math.isfinite(value) else math.inf


@dataclass(frozen=True, repr=False)
class NetworkSummary(Summary):
    """What a network was trained on, with what, and how it went.

    Parameters
    ----------
    training_rows, validation_rows : int
    weight : float
        Σ w over the training rows, before class weights.
    layers : list of int
        From the features to the outputs.
    activations : list of str
        Of the hidden layers.
    loss : str
        One of `nonconvex.numerics.network.model.LOSSES`.
    parameters : int
        p, how many a network has.
    constant_features : int
        Features that have one value in all training rows.
    class_weights : list of float or None
        What rows of each class were weighted with, in the order of the labels.
    gradients, gradients_reason : str
        Where gradients were computed, "driver" or "executors", and why.
    batch_size : int
    warm_start : bool
        Whether the fit began at an earlier model or at given weights.
    best : int
        Position in `restarts` of the best: by validation loss where there is one, or else by f.
    restarts : list of RestartSummary
    seconds : float
        Wall-clock time of the fit.
    """

    training_rows: int
    validation_rows: int
    weight: float
    layers: list[int]
    activations: list[str]
    loss: str
    parameters: int
    constant_features: int
    class_weights: list[float] | None
    gradients: str
    gradients_reason: str
    batch_size: int
    warm_start: bool
    best: int
    restarts: list[RestartSummary]
    seconds: float

    @property
    def objective(self) -> float:
        """The value f of the model, over all training rows."""
        return self.restarts[self.best].objective

    @property
    def objectiveHistory(self) -> list[float]:
        """The mean of f over the minibatches of each epoch, before their steps."""
        return [epoch["objective"] for epoch in self.restarts[self.best].history]

    @property
    def totalIterations(self) -> int:
        """Number of epochs of the restart that the model is of."""
        return len(self.restarts[self.best].history)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each restart and epoch.

        To be looked at as ``spark.createDataFrame(rows)`` or ``pandas.DataFrame(rows)``.
        """
        return [
            {"restart": restart.restart, **epoch, "stop": restart.stop}
            for restart in self.restarts
            for epoch in restart.history
        ]

    def facts(self) -> dict[str, Any]:
        """Return the size of the data, and the end of the restart that the model is from."""
        facts: dict[str, Any] = {"layers": self.layers, "rows": self.training_rows}
        if self.restarts:
            best = self.restarts[self.best]
            facts |= {"objective": best.objective, self._metric(): best.metric}
            if best.validation_metric is not None:
                facts[f"validation_{self._metric()}"] = best.validation_metric
            facts["stop"] = best.stop.partition(":")[0]
        return facts

    def _metric(self) -> str:
        return "rmse" if self.loss == "squared-error" else "accuracy"

    def _heading(self) -> str:
        layers, rows = " → ".join(map(str, self.layers)), f"{self.training_rows:,} rows"
        return f"layers {layers}, {rows}: trained in {self.seconds:.1f} s"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        validated = any(each.validation_loss is not None for each in self.restarts)
        title = "RMSE" if self._metric() == "rmse" else "accuracy"
        header = ["restart", "epoch", "f", title, *["validation loss"] * validated, "stopped"]
        rows = []
        for number, each in enumerate(self.restarts):
            star = " *" if number == self.best else ""
            row = [f"{each.restart}{star}", f"{each.epoch}", f"{each.objective:.6f}"]
            loss = each.validation_loss
            row += [f"{each.metric:.4f}", *["" if loss is None else f"{loss:.6f}"] * validated]
            rows.append([*row, each.stop.partition(":")[0]])
        return header, rows

    def spread(self) -> dict[str, float]:
        """Say how far the restarts differ in what they were chosen by.

        Returns
        -------
        dict of str to float
            ``best, worst, mean, deviation`` over the restarts that stayed finite, and ``diverged``,
            how many did not.
        """
        merits = [restart.merit for restart in self.restarts if math.isfinite(restart.merit)]
        return {
            "best": min(merits),
            "worst": max(merits),
            "mean": fmean(merits),
            "deviation": pstdev(merits),
            "diverged": len(self.restarts) - len(merits),
        }

    def to_json(self) -> str:
        """Return the summary as JSON, to be read by `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> NetworkSummary:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        restarts = [RestartSummary(**restart) for restart in values.pop("restarts")]
        return cls(restarts=restarts, **values)
