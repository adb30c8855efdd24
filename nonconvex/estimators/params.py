"""Params of the estimators, each with its range: what pyspark's own converters do not check.

Ranges of Params: converters that refuse what pyspark's own, which check types, let through.

Each takes the name of the Param, for the message, and returns a converter, which raises ValueError
in one sentence: what, allowed, given.

Fits of several groups of models, one group after another.
"""

from __future__ import annotations

import math
import operator
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark.ml.param import Param, Params
from pyspark.ml.param.shared import HasSeed

from nonconvex.numerics.optim import (
    OPTIMIZERS,
    SCHEDULES,
    WEIGHT_DECAY,
    Optimizer,
    OptimizerError,
    ScheduleError,
    make_optimizer,
    make_schedule,
)

if TYPE_CHECKING:
    from pyspark.ml._typing import ParamMap

__all__ = [
    "DESCENT",
    "CheckedParams",
    "DescentParams",
    "FitParams",
    "InTurn",
    "ParamError",
    "choice",
    "flag",
    "fraction",
    "integer",
    "names",
    "number",
    "numbers",
    "optional",
    "param",
    "refuse_set",
    "text",
    "with_accessors",
]


def _refuse(name: str, allowed: str, value: object) -> NoReturn:
    raise ValueError(f"{name} must be {allowed}, got {value!r}")


def integer(name: str, minimum: int | None = None) -> Callable[[Any], int]:
    """Integers, ≥ `minimum` if there is one; numpy's too, but no 3.0 and no "3"."""
    allowed = "an integer" if minimum is None else f"an integer ≥ {minimum}"

    def convert(value: Any) -> int:
        number = None
        with suppress(TypeError):  # of 3.0, "3" and arrays
            number = None if isinstance(value, bool) else operator.index(value)
        if number is None or (minimum is not None and number < minimum):
            _refuse(name, allowed, value)
        return number

    return convert


def number(
    name: str, minimum: float = -math.inf, *, exclusive: bool = False, below: float = math.inf
) -> Callable[[Any], float]:
    """Finite numbers ≥ `minimum`, or > it if `exclusive`, and < `below`."""
    limits = [] if minimum == -math.inf else [f"{'>' if exclusive else '≥'} {minimum:g}"]
    limits += [] if below == math.inf else [f"< {below:g}"]
    allowed = f"a finite number {' and '.join(limits)}".rstrip()

    def convert(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, (bool, str)) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        inside = (number > minimum if exclusive else number >= minimum) and number < below
        if not (math.isfinite(number) and inside):
            _refuse(name, allowed, value)
        return number

    return convert


def fraction(name: str) -> Callable[[Any], float]:
    """Numbers > 0 and ≤ 1."""
    convert = number(name, 0, exclusive=True)

    def convert_fraction(value: Any) -> float:
        if convert(value) > 1:
            _refuse(name, "a number > 0 and ≤ 1", value)
        return convert(value)

    return convert_fraction


def choice(name: str, choices: Sequence[str]) -> Callable[[Any], str]:
    """One of some strings."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            _refuse(name, f"one of {', '.join(choices)}", value)
        return str(value)

    return convert


def flag(name: str) -> Callable[[Any], bool]:
    """True or False, numpy's too."""

    def convert(value: Any) -> bool:
        if type(value).__name__ not in ("bool", "bool_"):  # numpy's too
            _refuse(name, "True or False", value)
        return bool(value)

    return convert


def text(name: str, *, empty: bool = False) -> Callable[[Any], str]:
    """Strings that are not empty, unless `empty` says that they may be."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or not (value or empty):
            _refuse(name, "a name or ''" if empty else "a name", value)
        return str(value)

    return convert


def names(name: str) -> Callable[[Any], str | list[str]]:
    """A string that is not empty, or a list of at least one, all different."""

    def convert(value: Any) -> str | list[str]:
        several = isinstance(value, (list, tuple))
        given = list(value) if several else [value]
        right = all(isinstance(one, str) and one for one in given)
        if not (given and right and len(set(given)) == len(given)):
            _refuse(name, "a name, or a list of different names", value)
        return given if several else str(value)

    return convert


def numbers(name: str, minimum: float | None = None) -> Callable[[Any], list[float]]:
    """Lists, arrays or vectors of finite numbers, each ≥ `minimum` if that is given."""
    allowed = "a list of finite numbers" + ("" if minimum is None else f" ≥ {minimum:g}")
    entry = number(name, -math.inf if minimum is None else minimum)

    def convert(value: Any) -> list[float]:
        given: list[float] = []
        if not isinstance(value, (str, Mapping, Set)):  # the last two have no order of their own
            with suppress(TypeError, ValueError):
                given = [entry(one) for one in value]
        if not given:
            _refuse(name, allowed, value)
        return given

    return convert


def optional(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """None, or what `convert` takes."""
    return lambda value: None if value is None else convert(value)


ModelT = TypeVar("ModelT")


class InTurn(Iterator[tuple[int, ModelT]]):
    """The models of several groups of fits, each group fitted when its first model is asked for.

    Threads may share it, as those of a CrossValidator do.

    Parameters
    ----------
    groups : list of (list of int, callable)
        For each group, the numbers of its models, and what fits them.
    """

    def __init__(self, groups: Iterable[tuple[list[int], Callable[[], list[ModelT]]]]) -> None:
        self._groups = iter(groups)
        self._ready: list[tuple[int, ModelT]] = []
        self._lock = threading.Lock()

    def __next__(self) -> tuple[int, ModelT]:
        """Return the number of the next model, and the model."""
        with self._lock:
            if not self._ready:
                numbers, fit = next(self._groups)
                self._ready = list(zip(numbers, fit(), strict=True))
            return self._ready.pop(0)


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
