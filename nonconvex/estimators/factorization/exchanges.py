"""How the rows of one side come to the ratings of the other: broadcast, or exchanged by shuffle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from nonconvex.distributed.factorization.dataset import TrainingSet
from nonconvex.distributed.factorization.execution import OnDriver
from nonconvex.estimators.factorization.params import FactorizationParams
from nonconvex.estimators.params import ParamError, refuse_set

__all__ = ["check_exchange", "choose_exchange", "may_divide"]

_log = logging.getLogger("nonconvex")


def check_exchange(params: FactorizationParams) -> None:
    """Raise `ParamError` for a fit by shuffle that has something no shuffle is written for."""
    exchange = params.getOrDefault("exchange")
    if exchange != "auto":
        refuse_set(params, ["maxBroadcastBytes"], f"is only for exchange='auto', not {exchange!r}")
    found = _obstacle(params)
    if exchange == "shuffle" and found:
        raise ParamError(
            "exchange='shuffle' is for solvers 'als' and 'als-coordinate' on the executors, from "
            f"one start, of explicit ratings, and here is {found}; change that, or set "
            "exchange='auto'"
        )


def choose_exchange(
    estimators: Sequence[FactorizationParams], training: TrainingSet
) -> Literal["broadcast", "shuffle"]:
    """Choose by the size of the larger side, and say so in the log.

    Parameters
    ----------
    estimators : sequence of FactorizationParams
        Whose fits share the passes over the data.
    training : TrainingSet
    """
    if isinstance(training.blocks.users, OnDriver):  # where all rows are
        return "broadcast"
    rows = max(len(members) for members in training.ids)
    choice = _choose(estimators, rows)
    if choice.why:
        _log.log(choice.level, "%s", choice.why)
    return choice.exchange


def may_divide(
    estimators: Sequence[FactorizationParams],
) -> Callable[[int], bool]:
    """Return what says whether several tasks may add up a row, given the rows of the larger side.

    They may where rows are broadcast, and solved as a whole from explicit ratings.
    """

    def divide(rows: int) -> bool:
        return (
            all(estimator.getOrDefault("solver") == "als" for estimator in estimators)
            and not estimators[0].getOrDefault("implicitPrefs")
            and _choose(estimators, rows).exchange == "broadcast"
        )

    return divide


class _Choice(NamedTuple):
    exchange: Literal["broadcast", "shuffle"]
    level: int = logging.INFO
    why: str = ""


def _choose(estimators: Sequence[FactorizationParams], rows: int) -> _Choice:
    params = estimators[0]
    asked = params.getOrDefault("exchange")
    if asked != "auto":
        return _Choice(asked)
    numbers = sum(
        estimator.getOrDefault("numRestarts") * (1 + estimator.getOrDefault("rank"))
        for estimator in estimators
    )
    size = rows * numbers * (4 if params.getOrDefault("precision") == "float32" else 8)
    bound = params.getOrDefault("maxBroadcastBytes")
    sizes = f"{rows:,} rows of a side take {size:,} bytes, and maxBroadcastBytes is {bound:,}"
    if size <= bound:
        return _Choice("broadcast", why=f"rows are broadcast: {sizes}")
    found = "a grid of Params"
    if len(estimators) == 1:
        found = _obstacle(params)
    if found:
        why = f"rows are broadcast, though {sizes}: no shuffle is for {found}"
        return _Choice("broadcast", logging.WARNING, why)
    return _Choice("shuffle", why=f"rows are exchanged by shuffle: {sizes}")


def _obstacle(params: FactorizationParams) -> str:
    """Return what of a fit cannot be done by shuffle; empty if all can."""
    get = params.getOrDefault
    if get("solver") not in ("als", "als-coordinate"):
        return f"solver={get('solver')!r}"
    if get("implicitPrefs"):
        return "implicitPrefs=True"
    if get("numRestarts") > 1:
        return f"numRestarts={get('numRestarts')}"
    return "updates='driver'" if get("updates") == "driver" else ""
