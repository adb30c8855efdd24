"""Summary of a fit: its data, its regularization, and the course of each random start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nonconvex.distributed.factorization.gibbs import SamplingOptions
from nonconvex.distributed.factorization.state import Result
from nonconvex.estimators.display import Summary
from nonconvex.local.factorization import ridge_of
from nonconvex.numerics.factorization.model import Ridge, Side
from nonconvex.numerics.factorization.posterior import effective_size, split_r_hat


@dataclass(frozen=True)
class RestartSummary:
    """Course of one random start."""

    restart: int  # its number, which with the seed determines the start
    stop: str  # the reason why it ended
    iteration: int  # the iteration that was kept, from 1 on
    objective: float  # f at that iteration
    train_rmse: float
    validation_rmse: float | None
    # one for each half-step, with the fields of `nonconvex.numerics.convergence.HalfStep`
    history: list[dict[str, Any]] = field(repr=False)
    # ‖∇f‖ and ‖∇f‖ ‖θ‖ / f at that iteration, over α and both sides: how near it is to a stationary
    # point (`nonconvex.numerics.convergence.Stationarity`). None for solvers "gibbs" and
    # "vb", where rows are exchanged by shuffle, and for models saved before it was measured
    gradient_norm: float | None = None
    relative_gradient: float | None = None

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
            **({} if fit.stationarity is None else fit.stationarity._asdict()),
        )


@dataclass(frozen=True, repr=False)
class TrainingSummary(Summary):
    """Data, regularization and course of a fit.

    Examples
    --------
    >>> print(model.summary)
    40 users, 20 items, 490 ratings: trained in ... s
    restart  iteration         f  train RMSE  validation RMSE          stopped
    0 *              8  1.348...     0.99...          1.72...  reached maxIter
    1                8  1.334...     0.97...          1.74...  reached maxIter
    Factors explain ...% of the variance of predictions, effective rank ...
    """

    ratings: int  # number of training ratings
    total: float  # n of the objective: that number, or the sum of the weights
    users: int
    items: int
    duplicates: int  # ratings that repeat the pair of another one
    # of the training ratings
    mean: float
    deviation: float
    minimum: float
    maximum: float
    # λ₁, λ₂, ρ and ν as they were used
    reg_user: float
    reg_item: float
    bias_reg_ratio: float
    reg_exponent: float
    best: int  # position in `restarts` of the best: by validation RMSE if there is one, else by f
    restarts: list[RestartSummary]
    # for a fit that started from a model: how many users and items were ``kept``, ``new`` and
    # ``gone``
    warm_start: dict[str, dict[str, int]] | None
    seconds: float  # wall-clock time of the fit
    # with the solver "gibbs": ``burnIn``, ``samples`` of each chain, ``thinning``, the number of
    # ``kept`` samples, and for ``tau``, ``alpha`` and ``train_rmse`` the ``effectiveSize`` and
    # ``rHat`` of the samples of all chains (see `nonconvex.numerics.factorization.posterior`), None
    # if there are fewer than four samples. λ₁ and λ₂ are then those of the start of the chains.
    sampling: dict[str, Any] | None = None
    # "numpy" or "compiled", and the type of processor that its bits depend on, "any" if on none;
    # see `nonconvex.numerics.deterministic.core_of`
    kernel: str = "numpy"
    core: str = "unknown"
    # with the solver "vb": ``noise``, 1/√τ. f is then the free energy per rating.
    inference: dict[str, Any] | None = None
    # the least rank that γ_u·γ_i needs beside the noise, and the part of the variance of
    # predictions that is explained by factors beyond biases; see
    # `nonconvex.numerics.factorization.ridge_posterior.FactorVariance`. None with rank 0.
    effective_rank: int | None = None
    factor_share: float | None = None

    _restart_type = RestartSummary

    @classmethod
    def unknown(cls, users: int, items: int) -> TrainingSummary:
        """Return the summary of a model whose fit is not known, such as one that MLlib wrote."""
        sizes: dict[str, Any] = dict.fromkeys(("ratings", "total", "duplicates"), 0)
        sizes |= {"users": users, "items": items, "mean": math.nan, "deviation": math.nan}
        sizes |= {"minimum": -math.inf, "maximum": math.inf, "reg_user": 0.0, "reg_item": 0.0}
        rest: dict[str, Any] = {
            "bias_reg_ratio": 1.0,
            "reg_exponent": 1.0,
            "warm_start": None,
            "seconds": 0.0,
        }
        return cls(**sizes, **rest, best=0, restarts=[])

    @property
    def totalIterations(self) -> int:
        """Number of iterations of the restart that the model is from."""
        return int(self.restarts[self.best].history[-1]["iteration"])

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each restart and iteration, with the values at its end.

        They are for ``spark.createDataFrame(rows)`` or ``pandas.DataFrame(rows)``.
        """
        return [
            {"restart": restart.restart, **step, "stop": restart.stop}
            for restart in self.restarts
            for step in restart.history
            if step["side"] != Side.ITEMS
        ]

    def facts(self) -> dict[str, Any]:
        """Return the size of the data, and the end of the restart that the model is from."""
        facts: dict[str, Any] = {"users": self.users, "items": self.items, "ratings": self.ratings}
        if self.restarts:
            best = self.restarts[self.best]
            facts |= {"objective": best.objective, "train_rmse": best.train_rmse}
            if best.validation_rmse is not None:
                facts["validation_rmse"] = best.validation_rmse
            facts["stop"] = best.stop.partition(":")[0]
        return facts

    def _heading(self) -> str:
        sizes = f"{self.users:,} users, {self.items:,} items, {self.ratings:,} ratings"
        if self.duplicates:
            sizes += f" ({self.duplicates:,} repeat a pair)"
        return f"{sizes}: trained in {self.seconds:.1f} s"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        sampled = self.sampling is not None
        validated = any(each.validation_rmse is not None for each in self.restarts)
        header = ["chain", "sweeps", "τ"] if sampled else ["restart", "iteration", "f"]
        header += ["train RMSE"]
        header += ["validation RMSE of the mean" if sampled else "validation RMSE"] * validated
        rows = []
        for number, each in enumerate(self.restarts):
            star = "" if sampled or number != self.best else " *"
            value = f"{each.history[-1]['tau']:.4f}" if sampled else f"{each.objective:.6f}"
            row = [f"{each.restart}{star}", f"{each.iteration}", value, f"{each.train_rmse:.4f}"]
            rmse = each.validation_rmse
            row += ["" if rmse is None else f"{rmse:.4f}"] * validated
            rows.append([*row, each.stop.partition(":")[0]])
        return [*header, "stopped"], rows

    def of_factors(self) -> str:
        """Say what factors explain, and what to do if that is nothing; '' if it is not known."""
        if self.effective_rank is None or self.factor_share is None:
            return ""
        share = f"Factors explain {self.factor_share:.1%} of the variance of predictions"
        if self.effective_rank:
            return f"{share}, effective rank {self.effective_rank}"
        learned = self.sampling is not None or self.inference is not None
        lower = "" if learned else "lower regUser and regItem (regParam of ALS), or "
        return f"{share}, which is as good as none: {lower}choose rank 0"

    def _note(self) -> str:
        """Return what factors explain, and what was learned, or how far samples agree."""
        return "\n".join(filter(None, [self.of_factors(), self._learned()]))

    def _learned(self) -> str:
        if self.inference is not None:
            return f"noise {self.inference['noise']:.4f}"
        if self.sampling is None:
            return ""
        drawn = len(self.restarts) * self.sampling["samples"]
        note = f"{self.sampling['kept']} of {drawn} samples kept"
        agreement, size = self.sampling["rHat"]["tau"], self.sampling["effectiveSize"]["tau"]
        if agreement is not None and size is not None:
            note += f"; τ has R̂ {agreement:.2f} and {size:.0f} effective samples"
        return note

    def ridge(self, side: Side) -> Ridge:
        """Return the ridge of a side."""
        return ridge_of(vars(self), side)


def sampling_summary(
    chains: Sequence[RestartSummary], options: SamplingOptions, kept: int
) -> dict[str, Any]:
    """Return ``TrainingSummary.sampling``, with how far the samples of all chains agree."""
    steps = [
        [step for step in chain.history if options.sample_of(step["iteration"]) is not None]
        for chain in chains
    ]
    sizes, agreements = {}, {}
    for name in ("tau", "alpha", "train_rmse"):
        draws = np.array([[step[name] for step in of_chain] for of_chain in steps])
        size, agreement = effective_size(draws), split_r_hat(draws)
        sizes[name] = size if math.isfinite(size) else None
        agreements[name] = agreement if math.isfinite(agreement) else None
    return {
        "burnIn": options.burn_in,
        "samples": options.samples,
        "thinning": options.thinning,
        "kept": kept,
        "effectiveSize": sizes,
        "rHat": agreements,
    }
