"""Params of the estimators, each with its range: what pyspark's own converters do not check."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.param import Param, Params
from pyspark.ml.param.shared import HasSeed

from nonconvex.estimators.ranges import choice, integer, number, optional, text
from nonconvex.numerics.descent import Optimizer, OptimizerError
from nonconvex.numerics.optim import OPTIMIZERS, WEIGHT_DECAY, make_optimizer
from nonconvex.numerics.schedules import SCHEDULES, ScheduleError, make_schedule

if TYPE_CHECKING:
    from pyspark.ml._typing import ParamMap

__all__ = [
    "DESCENT",
    "CheckedParams",
    "DescentParams",
    "FitParams",
    "ParamError",
    "param",
    "refuse_set",
    "with_accessors",
]


class ParamError(ValueError):
    """Params that contradict each other, or that would be ignored."""

    exit_status = 2


ParamsT = TypeVar("ParamsT", bound=Params)

PRECISIONS = ("float32", "float64")
DEFAULT_SEED = 42


class CheckedParams(Params):
    """Params that refuse what pyspark's own let through: None, and the Params of the class."""

    def _set(self, **kwargs: Any) -> Self:
        for name, value in kwargs.items():
            if value is None:  # which pyspark takes for any Param, without asking its converter
                getattr(self, name).typeConverter(None)
        return super()._set(**kwargs)

    def copy(self, extra: ParamMap | None = None) -> Self:
        """Return a copy with some Params set to other values.

        Parameters
        ----------
        extra : dict, optional
            By Params of this instance; those of others, as a Pipeline has, are left to them.

        Raises
        ------
        ParamError
            For a Param of a class, which belongs to no instance and so would be ignored.
        """
        for key in extra or ():
            if isinstance(key, Param) and key.parent == Params._dummy().uid:
                raise ParamError(
                    f"{key.name} in a map of Params is that of a class, not of an instance: "
                    f"write {{estimator.{key.name}: …}}"
                )
        return super().copy(extra)


def param(name: str, doc: str, convert: Callable[[Any], Any]) -> Param[Any]:
    """Declare a Param whose values `convert` checks and converts."""
    return Param(Params._dummy(), name, doc, typeConverter=convert)


def refuse_set(params: Params, names: Iterable[str], why: str) -> None:
    """Raise `ParamError` for a Param that was set and would be ignored."""
    for name in names:
        value = params.getOrDefault(name)
        if params.isSet(name) and value is not None:
            raise ParamError(f"{name}={value!r} {why}; unset it")


def with_accessors(cls: type[ParamsT]) -> type[ParamsT]:
    """Give a class ``getName`` and ``setName`` for each of its Params that has none."""
    for declared in [value for value in map(partial(getattr, cls), dir(cls)) if _is_param(value)]:
        title = declared.name[0].upper() + declared.name[1:]
        for verb, accessor in (("get", _getter(declared)), ("set", _setter(declared))):
            accessor.__name__ = f"{verb}{title}"
            accessor.__qualname__ = f"{cls.__qualname__}.{accessor.__name__}"
            if not hasattr(cls, accessor.__name__):
                setattr(cls, accessor.__name__, accessor)
    return cls


def _is_param(value: object) -> bool:
    return isinstance(value, Param)


def _getter(declared: Param[Any]) -> Callable[[Params], Any]:
    def get(self: Params) -> Any:
        return self.getOrDefault(declared.name)

    get.__doc__ = f"Return {declared.name}: {declared.doc}."
    return get


def _setter(declared: Param[Any]) -> Callable[[Params, Any], Params]:
    def set_(self: Params, value: Any) -> Params:
        return self._set(**{declared.name: value})

    set_.__doc__ = f"Set {declared.name}: {declared.doc}."
    return set_


class DescentParams(CheckedParams):
    """Params of gradient descent, for every model that can be trained by it."""

    optimizer = param(
        "optimizer", f"one of {', '.join(OPTIMIZERS)}", choice("optimizer", tuple(OPTIMIZERS))
    )
    learningRate = param(
        "learningRate", "step size η > 0", number("learningRate", 0, exclusive=True)
    )
    momentum = param(
        "momentum",
        "decay in [0, 1) of the sum of gradients (momentum, nesterov) or of their mean (adam, "
        "adamw: β₁); by default 0.9",
        optional(number("momentum", 0, below=1)),
    )
    decay = param(
        "decay",
        "decay in [0, 1) of the mean of squared gradients; by default 0.99 for rmsprop and 0.999 "
        "for adam and adamw (β₂)",
        optional(number("decay", 0, below=1)),
    )
    epsilon = param(
        "epsilon",
        "ε > 0, added to the root of the mean of squared gradients; by default 1e-8",
        optional(number("epsilon", 0, exclusive=True)),
    )
    weightDecay = param(
        "weightDecay",
        "decoupled weight decay ≥ 0 of adamw; by default 0.01",
        optional(number("weightDecay", 0)),
    )
    clipNorm = param(
        "clipNorm",
        "> 0: a longer gradient is scaled down to this norm; by default none is",
        optional(number("clipNorm", 0, exclusive=True)),
    )
    schedule = param(
        "schedule",
        f"how the learning rate changes with the steps: one of {', '.join(SCHEDULES)}",
        choice("schedule", tuple(SCHEDULES)),
    )
    decaySteps = param(
        "decaySteps",
        "≥ 1: the time scale of every schedule but constant, which need it",
        optional(integer("decaySteps", 1)),
    )
    decayRate = param(
        "decayRate",
        "> 0: by how much step, exponential and inverse-time decay in decaySteps",
        optional(number("decayRate", 0, exclusive=True)),
    )
    finalFraction = param(
        "finalFraction",
        "≥ 0: the fraction of the learning rate that cosine ends with",
        optional(number("finalFraction", 0)),
    )
    warmupSteps = param(
        "warmupSteps",
        "≥ 0: steps in which the rate grows to its first value",
        integer("warmupSteps", 0),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            optimizer="adam",
            learningRate=0.05,
            momentum=None,
            decay=None,
            epsilon=None,
            weightDecay=None,
            clipNorm=None,
            schedule="constant",
            decaySteps=None,
            decayRate=None,
            finalFraction=None,
            warmupSteps=0,
        )

    def _rate(self) -> float:
        """Return the learning rate that is meant."""
        return float(self.getOrDefault("learningRate"))

    def _optimizer(
        self, *, axis: int | None = None, decays: NDArray[np.bool_] | None = None
    ) -> Optimizer:
        """Build the optimizer; raises ParamError for settings that it or the schedule lacks.

        Parameters
        ----------
        axis : int, optional
            Over which one gradient extends, for ``clipNorm``; the whole array by default.
        decays : bool array, optional
            Which parameters ``weightDecay`` is for; all by default.
        """
        get = self.getOrDefault
        weight_decay: float | NDArray[np.floating] | None = get("weightDecay")
        if decays is not None and get("optimizer") == "adamw":
            weight_decay = (WEIGHT_DECAY if weight_decay is None else weight_decay) * decays
        try:
            rate = make_schedule(
                get("schedule"),
                self._rate(),
                warmup_steps=get("warmupSteps"),
                decay_steps=get("decaySteps"),
                decay_rate=get("decayRate"),
                final_fraction=get("finalFraction"),
            )
            return make_optimizer(
                get("optimizer"),
                rate,
                clip_norm=get("clipNorm"),
                axis=axis,
                momentum=get("momentum"),
                decay=get("decay"),
                epsilon=get("epsilon"),
                weight_decay=weight_decay,
            )
        except (OptimizerError, ScheduleError) as error:  # which speak of decay_steps
            text = re.sub("(?<=[a-z])_([a-z])", lambda match: match[1].upper(), str(error))
            raise ParamError(text) from None


DESCENT = tuple(name for name, value in vars(DescentParams).items() if _is_param(value))
"""Names of the Params that only gradient descent reads."""


class FitParams(CheckedParams, HasSeed):
    """Params of every fit: its rows, its random starts, its arithmetic and its checkpoints."""

    weightCol = param(
        "weightCol",
        "column of weights, numbers ≥ 0: how much a row counts; by default each counts 1",
        optional(text("weightCol")),
    )
    validationIndicatorCol = param(
        "validationIndicatorCol",
        "boolean column: True for rows to validate with instead of training on them",
        optional(text("validationIndicatorCol")),
    )
    seed = param("seed", "seed of the random starts and samples, an integer", integer("seed"))
    numRestarts = param(
        "numRestarts",
        "number of random starts, ≥ 1; the best by validation rows, or else by objective, is kept",
        integer("numRestarts", 1),
    )
    firstRestart = param(
        "firstRestart",
        "number of the first random start, ≥ 0: restart r of a seed is the same in any run",
        integer("firstRestart", 0),
    )
    precision = param(
        "precision",
        "'float32' or 'float64': the type of the parameters and of the arithmetic",
        choice("precision", PRECISIONS),
    )
    checkpointPath = param(
        "checkpointPath",
        "directory, of this fit alone, to save the state of a fit in: an interrupted fit, started "
        "again with equal Params and data, goes on from there to the same bits; by default none",
        optional(text("checkpointPath")),
    )
    checkpointInterval = param(
        "checkpointInterval",
        "iterations between two checkpoints, ≥ 1; needs checkpointPath",
        integer("checkpointInterval", 1),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            weightCol=None,
            validationIndicatorCol=None,
            numRestarts=1,
            firstRestart=0,
            precision="float32",
            checkpointPath=None,
            checkpointInterval=10,
            seed=DEFAULT_SEED,  # pyspark's own default changes with every process
        )
