"""The quality gate: what a model must reach on held-out rows to be published."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Gate", "GateError"]

PUBLISHED = "published"
_GREATER_IS_BETTER = ("accuracy", "r2")


class GateError(ValueError):
    """A model that is not good enough to be published; the message says in what.

    Parameters
    ----------
    message : str
    details : mapping, optional
        What a job is to report beside it.
    """

    exit_status = 4

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = dict(details or {})


@dataclass(frozen=True)
class Gate:
    """How much worse than others a model may be, and by what.

    A model with error e passes if e ≤ e_published + `published` and e ≤ e_baseline + `baseline`,
    with the best of the baselines; with the signs the other way round for accuracy and R², of
    which more is better.  A number that is not finite never passes.

    Parameters
    ----------
    metric : str
        ``rmse, mae, r2, accuracy`` or ``logLoss``.
    published : float or None
        The margin to the model that is published, in the units of the metric, negative if the new
        one must be better; None if it does not matter.
    baseline : float or None
        Likewise to the best baseline.

    Examples
    --------
    >>> gate = Gate("rmse", published=0.01)
    >>> gate.complaints({"model": 1.50, "published": 1.495}, ())
    []
    >>> gate.complaints({"model": 1.50, "published": 1.48}, ())
    ['rmse 1.5 is not within 0.01 of 1.48, that of the published model']
    """

    metric: str
    published: float | None = None
    baseline: float | None = None

    def complaints(self, figures: Mapping[str, float], baselines: Collection[str]) -> list[str]:
        """Return in what a model is not good enough, empty if it passes.

        Parameters
        ----------
        figures : mapping of str to float
            The metric of ``"model"``, of baselines and, if there is one, of ``"published"``.
        baselines : collection of str
            Which of them are baselines.
        """
        best = max if self.metric in _GREATER_IS_BETTER else min
        rivals = []
        if self.published is not None and PUBLISHED in figures:
            rivals.append((self.published, figures[PUBLISHED], "the published model"))
        if self.baseline is not None:
            name = best(baselines, key=figures.__getitem__)
            title = f"the baseline {name.replace('_', ' ')}"
            rivals.append((self.baseline, figures[name], title))
        return [
            f"{self.metric} {figures['model']:.6g} is not within {margin:g} of {value:.6g}, "
            f"that of {title}"
            for margin, value, title in rivals
            if not self._is_within(margin, figures["model"], value)
        ]

    def _is_within(self, margin: float, value: float, other: float) -> bool:
        worse = other - value if self.metric in _GREATER_IS_BETTER else value - other
        return worse <= margin
