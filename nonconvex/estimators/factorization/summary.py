"""What a fit reports of itself."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nonconvex.distributed.factorization.gibbs import SamplingOptions
from nonconvex.distributed.factorization.runs import Result
from nonconvex.numerics.factorization.model import Ridge, Side
from nonconvex.numerics.factorization.posterior import effective_size, split_r_hat

__all__ = ["RestartSummary", "TrainingSummary", "sampling_summary"]


@dataclass(frozen=True)
class RestartSummary:
    """How one random start went.

    Parameters
    ----------
    restart : int
        Its number: with the seed it determines where the fit started.
    stop : str
        Why it ended.
    iteration : int
        The iteration that was kept, from 1 on.
    objective : float
        f at that iteration.
    train_rmse : float
    validation_rmse : float or None
    history : list of dict
        One for each half-step, with the fields of `nonconvex.numerics.convergence.HalfStep`.
    """

    restart: int
    stop: str
    iteration: int
    objective: float
    train_rmse: float
    validation_rmse: float | None
    history: list[dict[str, Any]]

    @classmethod
    def of(cls, restart: int, fit: Result) -> RestartSummary:
        """Summarize the fit of one start."""
        end = fit.end
        return cls(
            restart=restart,
            stop=fit.stop.value,
            iteration=fit.iteration,
            objective=end.objective,
            train_rmse=end.train_rmse,
            validation_rmse=end.validation_rmse,
            history=[step._asdict() for step in fit.history],
        )


@dataclass(frozen=True)
class TrainingSummary:
    """What a model was trained on, with what, and how it went.

    Parameters
    ----------
    ratings : int
        Number of training ratings.
    total : float
        n of the objective: that number, or the sum of the weights.
    users, items : int
    duplicates : int
        Ratings that repeat the pair of another one.
    mean, deviation, minimum, maximum : float
        Of the training ratings.
    reg_user, reg_item, bias_reg_ratio, reg_exponent : float
        λ₁, λ₂, ρ and ν as they were used.
    best : int
        Position in `restarts` of the best: by validation RMSE where there is one, or else by f.
    restarts : list of RestartSummary
    warm_start : dict or None
        For a fit that started from a model: how many users and items were ``kept``, ``new`` and
        ``gone``.
    seconds : float
        Wall-clock time of the fit.
    sampling : dict or None
        With the solver "gibbs": ``burnIn``, ``samples`` of each chain, ``thinning``, how many were
        ``kept``, and for ``tau``, ``alpha`` and ``train_rmse`` the ``effectiveSize`` and ``rHat``
        of the samples of all chains (see
        `nonconvex.numerics.factorization.posterior`), None if there are fewer than four.
        λ₁ and λ₂ are then those of the start of the chains.
    """

    ratings: int
    total: float
    users: int
    items: int
    duplicates: int
    mean: float
    deviation: float
    minimum: float
    maximum: float
    reg_user: float
    reg_item: float
    bias_reg_ratio: float
    reg_exponent: float
    best: int
    restarts: list[RestartSummary]
    warm_start: dict[str, dict[str, int]] | None
    seconds: float
    sampling: dict[str, Any] | None = None

    @property
    def objective(self) -> float:
        """The value f of the model."""
        return self.restarts[self.best].objective

    @property
    def objectiveHistory(self) -> list[float]:
        """f after every half-step of the restart that the model is of."""
        return [step["objective"] for step in self.restarts[self.best].history]

    @property
    def totalIterations(self) -> int:
        """Number of iterations of the restart that the model is of."""
        return int(self.restarts[self.best].history[-1]["iteration"])

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each restart and iteration, with what was reached at its end.

        To be looked at as ``spark.createDataFrame(rows)`` or ``pandas.DataFrame(rows)``.
        """
        return [
            {"restart": restart.restart, **step, "stop": restart.stop}
            for restart in self.restarts
            for step in restart.history
            if step["side"] != Side.ITEMS
        ]

    def ridge(self, side: Side) -> Ridge:
        """Return the ridge of a side."""
        reg, rows = (
            (self.reg_user, self.users) if side == Side.USERS else (self.reg_item, self.items)
        )
        return Ridge(reg, self.reg_exponent, self.total, self.total / rows, self.bias_reg_ratio)

    def to_json(self) -> str:
        """Return the summary as JSON, to be read by `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrainingSummary:
        """Read what `to_json` wrote."""
        values = json.loads(text)
        restarts = [RestartSummary(**restart) for restart in values.pop("restarts")]
        return cls(restarts=restarts, **values)


def sampling_summary(
    chains: Sequence[RestartSummary], settings: SamplingOptions, kept: int
) -> dict[str, Any]:
    """Say how chains were sampled, and how far their samples can be trusted."""
    sizes, agreements = {}, {}
    for name in ("tau", "alpha", "train_rmse"):
        draws = np.array(
            [
                [
                    step[name]
                    for step in chain.history
                    if settings.sample_of(step["iteration"]) is not None
                ]
                for chain in chains
            ]
        )
        size, agreement = effective_size(draws), split_r_hat(draws)
        sizes[name] = size if math.isfinite(size) else None
        agreements[name] = agreement if math.isfinite(agreement) else None
    return {
        "burnIn": settings.burn_in,
        "samples": settings.samples,
        "thinning": settings.thinning,
        "kept": kept,
        "effectiveSize": sizes,
        "rHat": agreements,
    }
