"""Params of the estimators.  Each is declared once, with its range: pyspark checks types alone.

A class body names a Param, ``rank = param("number of factors", integer(0))``, and the signature
of an estimator's ``__init__`` gives the default.  A converter returns the value of a Param, or
raises ValueError that says what is allowed and what was given.
"""

from __future__ import annotations

import inspect
import math
import operator
import re
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from difflib import get_close_matches
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Self, TypeVar, cast

from pyspark.ml import Estimator
from pyspark.ml.param import Param, Params
from pyspark.ml.param.shared import HasSeed
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame

from nonconvex.distributed.runtime import explained
from nonconvex.estimators.display import one_line
from nonconvex.estimators.persistence import EstimatorReader, EstimatorWriter
from nonconvex.numerics import Bools, Floats
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

Converter = Callable[[Any], Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])
ParamsT = TypeVar("ParamsT", bound=Params)
ModelT = TypeVar("ModelT", bound=Any)

OTHER_NAMES = {
    "alpha": "confidence with implicitPrefs=True (α is the global bias here; ALS has alpha)",
    "regParam": "regUser and regItem, one for each side (ALS has regParam)",
    "n_factors": "rank",
    "factors": "rank",
    "k": "rank",
    "n_epochs": "maxIter",
    "epochs": "maxIter",
    "max_iter": "maxIter",
    "iterations": "maxIter",
    "maxEpochs": "maxIter",
    "lr": "learningRate",
    "learning_rate": "learningRate",
    "learning_rate_init": "learningRate",
    "hidden_layer_sizes": "layers",
    "hiddenLayers": "layers",
    "batch_size": "batchSize",
    "random_state": "seed",
    "lambda_": "regUser and regItem",
    "regularization": "regUser and regItem",
    "nonNegative": "nonnegative",
    "targetCol": "labelCol",
    "inputCol": "featuresCol",
    "inputCols": "featuresCol",
    "outputCol": "predictionCol",
    "weights": "weightCol",
}
"""Names of Params in MLlib and in other libraries, with what they are called here."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "data": (
        *("userCol", "itemCol", "ratingCol", "featuresCol", "labelCol", "weightCol"),
        *("validationIndicatorCol", "handleInvalid", "implicitPrefs", "alpha", "confidence"),
        *("standardization", "targetStandardization", "classWeight"),
    ),
    "model": (
        *("rank", "layers", "activation", "stepGradient", "fitIntercept", "fitBiases"),
        *("nonnegative", "regParam", "regUser", "regItem", "biasRegRatio", "regExponent"),
    ),
    "loop": (
        *("maxIter", "maxSteps", "batchSize", "tol", "gradientTol", "patience", "seed"),
        *("numRestarts", "firstRestart", "keepRestarts", "ensemble", "initScale"),
        *("initialization", "initialWeights", "checkpointPath", "checkpointInterval"),
    ),
    "output": (
        *("predictionCol", "predictedLabelCol", "probabilityCol", "rawPredictionCol", "thresholds"),
        *("coldStartStrategy", "clipPredictions", "predictionStdCol", "predictionIntervalCol"),
        *("predictionInterval", "predictionNoise"),
    ),
    "execution": (
        *("precision", "numUserBlocks", "numItemBlocks", "updates", "exchange"),
        *("maxBroadcastBytes", "gradients", "blockSize", "intermediateStorageLevel"),
        "finalStorageLevel",
    ),
}
"""Params by what they are about, as `explainParams` shows them; the others are of the solver."""

# Converters


def _refuse(allowed: str, value: object) -> NoReturn:
    raise ValueError(f"must be {allowed}, got {value!r}")


def integer(minimum: int | None = None) -> Callable[[Any], int]:
    """Take integers ≥ `minimum`, numpy's too, but no 3.0 and no "3"."""
    allowed = "an integer" if minimum is None else f"an integer ≥ {minimum}"

    def convert(value: Any) -> int:
        number = None
        with suppress(TypeError):  # of 3.0, "3" and arrays
            number = None if isinstance(value, bool) else operator.index(value)
        if number is None or (minimum is not None and number < minimum):
            _refuse(allowed, value)
        return number

    return convert


def number(
    minimum: float = -math.inf, *, exclusive: bool = False, below: float = math.inf
) -> Callable[[Any], float]:
    """Take finite numbers ≥ `minimum`, or > it if `exclusive`, and < `below`."""
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
            _refuse(allowed, value)
        return number

    return convert


def fraction(value: Any) -> float:
    """Take numbers > 0 and ≤ 1."""
    converted = number(0, exclusive=True)(value)
    if converted > 1:
        _refuse("a number > 0 and ≤ 1", value)
    return converted


def choice(choices: Iterable[str]) -> Callable[[Any], str]:
    """Take one of some strings."""
    allowed = tuple(choices)

    def convert(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            _refuse(f"one of {', '.join(allowed)}", value)
        return str(value)

    return convert


def flag(value: Any) -> bool:
    """Take True or False, numpy's too."""
    if type(value).__name__ not in ("bool", "bool_"):
        _refuse("True or False", value)
    return bool(value)


def text(*, empty: bool = False) -> Callable[[Any], str]:
    """Take strings, the empty one only if `empty`."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or not (value or empty):
            _refuse("a name or ''" if empty else "a name", value)
        return str(value)

    return convert


def names(value: Any) -> str | list[str]:
    """Take a string that is not empty, or a list of at least one, all different."""
    several = isinstance(value, (list, tuple))
    given = list(value) if several else [value]
    right = all(isinstance(one, str) and one for one in given)
    if not (given and right and len(set(given)) == len(given)):
        _refuse("a name, or a list of different names", value)
    return given if several else str(value)


def numbers(minimum: float = -math.inf) -> Callable[[Any], list[float]]:
    """Take lists, arrays or vectors of finite numbers ≥ `minimum`."""
    allowed = "a list of finite numbers" + ("" if minimum == -math.inf else f" ≥ {minimum:g}")
    entry = number(minimum)

    def convert(value: Any) -> list[float]:
        given: list[float] = []
        if not isinstance(value, (str, Mapping, Set)):  # the last two have no order of their own
            with suppress(TypeError, ValueError):
                given = [entry(one) for one in value]
        if not given:
            _refuse(allowed, value)
        return given

    return convert


def optional(convert: Converter) -> Converter:
    """Take None, and what `convert` takes."""
    return lambda value: None if value is None else convert(value)


def convert_argument(name: str, value: Any, convert: Converter) -> Any:
    """Convert the value of a Param or an argument; the message of the error begins with `name`."""
    try:
        return convert(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


# Params


class ParamError(ValueError):
    """Params that contradict each other, or that would be ignored."""

    exit_status = 2


class UnknownParamError(ParamError, TypeError):
    """A keyword that is no Param."""


def unknown_name(given: str, allowed: Iterable[str], owner: str) -> UnknownParamError:
    """Return the error for a name that `owner` does not have, with those that were meant."""
    allowed = list(allowed)
    lower = {name.lower(): name for name in allowed}
    close = [lower[name] for name in get_close_matches(given.lower(), lower, n=3, cutoff=0.6)]
    close = [lower[given.lower()]] if given.lower() in lower else close
    other = OTHER_NAMES.get(given)
    if other is not None and re.split(r"\W", other)[0] in allowed:
        hint = f"here it is {other}"
    else:
        hint = f"did you mean {' or '.join(close)}?" if close else "explainParams() lists all"
    return UnknownParamError(f"{owner} has no Param {given!r}; {hint}")


def keywords(init: _Function) -> _Function:
    """Decorate ``__init__`` as pyspark's keyword_only does; a wrong keyword names the nearest."""
    _, *taken = inspect.signature(init).parameters.values()
    allowed = [each.name for each in taken if each.kind is each.KEYWORD_ONLY]
    further = len(allowed) < len(taken)  # **further are those of the base

    def inherited(self: Any) -> list[str]:
        return [name for cls in type(self).__mro__ for name in _defaults_of(cls)]

    @wraps(init)
    def checked(self: Any, *args: Any, **given: Any) -> None:
        owner = type(self).__name__
        if args:
            raise UnknownParamError(
                f"{owner} takes Params by name, got {args[0]!r}; write {owner}({allowed[0]}=…)"
            )
        known = [*allowed, *inherited(self)] if further else allowed
        for name in given:
            if name not in known:
                raise unknown_name(name, known, owner)
        self._input_kwargs = given
        init(self, **given)

    return cast(_Function, checked)


class _NamedParam(Param[Any]):
    """Param that takes its name from the class body that declares it."""

    def __init__(self, doc: str, convert: Converter) -> None:
        super().__init__(Params._dummy(), "", doc, self._convert)
        self._converter = convert

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def _convert(self, value: Any) -> Any:
        return convert_argument(self.name, value, self._converter)


def param(doc: str, convert: Converter) -> Param[Any]:
    """Declare a Param in a class body, which names it; `convert` checks and converts its values."""
    return _NamedParam(doc, convert)


def declared(cls: type[Params]) -> tuple[str, ...]:
    """Return the names of the Params that a class body declares."""
    return tuple(name for name, value in vars(cls).items() if isinstance(value, Param))


def set_defaults(params: Params, cls: type) -> None:
    """Set the default of each Param that ``__init__`` in the body of a class has as a keyword."""
    defaults = _defaults_of(cls)
    known = {name: value for name, value in defaults.items() if params.hasParam(name)}
    params._setDefault(**known)


def _defaults_of(cls: type) -> dict[str, Any]:
    init = vars(cls).get("__init__")
    return getattr(inspect.unwrap(init), "__kwdefaults__", None) or {} if init else {}


class CheckedParams(Params):
    """Params with the defaults of the signature of ``__init__``, which show what was set.

    They refuse what pyspark's own let through: None, and the Params of a class.
    """

    _aliases: ClassVar[Mapping[str, str]] = {}  # other names of Params; both have one value

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        for cls in reversed(type(self).__mro__):
            set_defaults(self, cls)

    def __repr__(self) -> str:
        """Return the class, the uid and the Params that were set."""
        return one_line(type(self).__name__, {"uid": self.uid, **self._facts()})

    def _facts(self) -> dict[str, Any]:
        """Return what `repr` shows beside the uid."""
        return {each.name: self.getOrDefault(each) for each in self.params if self.isSet(each)}

    def _set(self, **kwargs: Any) -> Self:
        for name, value in kwargs.items():
            if not self.hasParam(name):
                known = [each.name for each in self.params]
                raise unknown_name(name, known, type(self).__name__)
            if value is None:  # which pyspark takes for any Param, without asking its converter
                getattr(self, name).typeConverter(None)
        super()._set(**self.with_aliases(kwargs))
        return self

    def with_aliases(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return values by name, under both names of a Param that has two."""
        both = dict(given)
        for alias, name in self._aliases.items():
            values = [given[one] for one in (alias, name) if one in given]
            if len(values) == 2 and values[0] != values[1]:
                raise ParamError(
                    f"{alias}={values[0]!r} is another name of {name}, which is {values[1]!r}; "
                    "unset one of them"
                )
            if values and values[0] is not None:
                both |= {alias: values[0], name: values[0]}
        return both

    def set(self, param: Param[Any], value: Any) -> None:
        """Set a Param of this instance."""
        self._shouldOwn(param)
        self._set(**{param.name: value})

    def clear(self, param: Param[Any]) -> None:
        """Set a Param back to its default."""
        names = {
            param.name,
            *(n for pair in self._aliases.items() if param.name in pair for n in pair),
        }
        for name in names:
            super().clear(self.getParam(name))

    def explainParams(self) -> str:
        """Describe every Param, with its default and its value, in groups."""
        left = {each.name for each in self.params}
        lines = []
        for group, members in [*GROUPS.items(), ("solver", ())]:
            names = [name for name in members if name in left]
            names = sorted(left) if group == "solver" else names
            left -= set(names)
            if names:
                lines += [f"{group}:", *(f"  {self.explainParam(name)}" for name in names)]
        return "\n".join(lines)

    def __copy__(self) -> Self:
        """Return a shallow copy, for `copy`, with all that `__reduce__` leaves behind."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __reduce__(self) -> Any:
        """Pickle the Params that are set, and what the class adds."""
        given = {each.name: self.getOrDefault(each) for each in self.params if self.isSet(each)}
        return _revive, (type(self), self._contents(), self.uid, given)

    def _contents(self) -> tuple[Any, ...]:
        """Return the arguments that make an equal object but for its Params."""
        return ()

    def copy(self, extra: ParamMap | None = None) -> Self:
        """Return a copy with some Params set to other values."""
        for key in extra or ():
            if isinstance(key, Param) and key.parent == Params._dummy().uid:
                raise ParamError(
                    f"{key.name} in a map of Params is that of a class, not of an instance: "
                    f"write {{estimator.{key.name}: …}}"
                )
        made = super().copy(extra)
        changed = {key.name: value for key, value in (extra or {}).items()}
        if self._aliases.keys() & changed or set(self._aliases.values()) & set(changed):
            made._set(**made.with_aliases(changed))
        return made


def _revive(cls: type[Any], contents: tuple[Any, ...], uid: str, given: Mapping[str, Any]) -> Any:
    made = cls(*contents)
    made._resetUid(uid)
    return made._set(**given)


def refuse_set(params: Params, names: Iterable[str], why: str) -> None:
    """Raise `ParamError` for a Param that was set and would be ignored."""
    for name in names:
        value = params.getOrDefault(name)
        if params.isSet(name) and value is not None:
            raise ParamError(f"{name}={value!r} {why}; unset it")


def patience_of(params: Params, default: int, *, validated: bool) -> int | None:
    """Return ``patience``, by default one with validation and none without."""
    given = params.getOrDefault("patience")
    return (default if validated else None) if given is None else given or None


def with_accessors(cls: type[ParamsT]) -> type[ParamsT]:
    """Give a class ``getName`` and ``setName`` for each of its Params that has none."""
    for each in [value for name in dir(cls) if isinstance(value := getattr(cls, name), Param)]:
        title = each.name[0].upper() + each.name[1:]
        for verb, accessor in (("get", _getter(each)), ("set", _setter(each))):
            accessor.__name__ = f"{verb}{title}"
            accessor.__qualname__ = f"{cls.__qualname__}.{accessor.__name__}"
            accessor.__annotations__ = {}  # accessors.pyi has the type, and `help` shows no Any
            if not hasattr(cls, accessor.__name__):
                setattr(cls, accessor.__name__, accessor)
    return cls


def _getter(of: Param[Any]) -> Callable[[Params], Any]:
    def get(self: Params) -> Any:
        return self.getOrDefault(of.name)

    get.__doc__ = f"Return {of.name}: {of.doc}."
    return get


def _setter(of: Param[Any]) -> Callable[[Params, Any], Params]:
    def set_(self: Params, value: Any) -> Params:
        return self._set(**{of.name: value})

    set_.__doc__ = f"Set {of.name}: {of.doc}."
    return set_


class DescentParams(CheckedParams):
    """Params of gradient descent, for every model that can be trained by it."""

    optimizer = param(f"one of {', '.join(OPTIMIZERS)}", choice(OPTIMIZERS))
    learningRate = param("step size η > 0", number(0, exclusive=True))
    momentum = param(
        "decay in [0, 1) of past gradients (β₁); by default 0.9", optional(number(0, below=1))
    )
    decay = param(
        "decay in [0, 1) of past squares (β₂); by default 0.999, rmsprop: 0.99",
        optional(number(0, below=1)),
    )
    epsilon = param(
        "ε > 0 in the divisor of rmsprop, adam and adamw; by default 1e-8",
        optional(number(0, exclusive=True)),
    )
    weightDecay = param("weight decay ≥ 0 of adamw; by default 0.01", optional(number(0)))
    clipNorm = param("norm > 0 that gradients are cut to", optional(number(0, exclusive=True)))
    schedule = param(f"schedule of the rate: one of {', '.join(SCHEDULES)}", choice(SCHEDULES))
    decaySteps = param(
        "steps ≥ 1 of the decay; only constant, and a network's cosine, need none",
        optional(integer(1)),
    )
    decayRate = param("factor > 0 of the rate in decaySteps", optional(number(0, exclusive=True)))
    finalFraction = param("part ≥ 0 of the rate with which cosine ends", optional(number(0)))
    warmupSteps = param("steps ≥ 0 in which the rate grows to its first value", integer(0))

    def _optimizer(
        self, *, axis: int | None = None, decays: Bools | None = None, steps: int | None = None
    ) -> Optimizer:
        """Build the optimizer; raise ParamError for settings that it or its schedule does not have.

        `axis` is that of one gradient, for ``clipNorm`` (by default the whole array is one);
        `decays` has True for the parameters that ``weightDecay`` shrinks, by default all; `steps`
        is how many there will be, if that is known.
        """
        get = self.getOrDefault
        decay_steps = get("decaySteps")
        if decay_steps is None and steps is not None and get("schedule") == "cosine":
            decay_steps = max(1, steps - int(get("warmupSteps")))
        weight_decay: float | Floats | None = get("weightDecay")
        if decays is not None and get("optimizer") == "adamw":
            weight_decay = (WEIGHT_DECAY if weight_decay is None else weight_decay) * decays
        try:
            rate = make_schedule(
                get("schedule"),
                get("learningRate"),
                warmup_steps=get("warmupSteps"),
                decay_steps=decay_steps,
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
            message = re.sub("(?<=[a-z])_([a-z])", lambda match: match[1].upper(), str(error))
            raise ParamError(message) from None


DESCENT = declared(DescentParams)
"""Names of the Params that only gradient descent reads."""


class FitParams(CheckedParams, HasSeed):
    """Params of every fit: its rows, its random starts, its arithmetic and its checkpoints."""

    weightCol = param("column of weights ≥ 0; by default 1", optional(text()))
    validationIndicatorCol = param("boolean column, true for validation rows", optional(text()))
    seed = param("seed of all random numbers, an integer", integer())
    numRestarts = param(
        "random starts, ≥ 1; the one with the least validation error is kept, or without "
        "validation the least objective",
        integer(1),
    )
    firstRestart = param("number ≥ 0 of the first random start", integer(0))
    precision = param(
        "'float32' or 'float64', of parameters and arithmetic", choice(["float32", "float64"])
    )
    checkpointPath = param(
        "directory for the state of this one fit: started again after an interruption, it goes "
        "on from there to the same bits",
        optional(text()),
    )
    checkpointInterval = param("iterations ≥ 1 between two checkpoints", integer(1))


class LazyFits(Iterator[tuple[int, ModelT]]):
    """Models of several groups of fits; a group is fitted when its first model is asked for.

    `groups` are the numbers of the models of each, and `fit` fits those of one.  Threads may share
    the iterator, as those of a CrossValidator do.
    """

    def __init__(
        self, groups: Iterable[list[int]], fit: Callable[[list[int]], list[ModelT]]
    ) -> None:
        self._groups, self._fit = iter(groups), fit
        self._ready: list[tuple[int, ModelT]] = []
        self._lock = threading.Lock()

    def __next__(self) -> tuple[int, ModelT]:
        """Return the number of the next model, and the model."""
        with self._lock:
            if not self._ready:
                numbers = next(self._groups)
                self._ready = list(zip(numbers, self._fit(numbers), strict=True))
            return self._ready.pop(0)


class GridEstimator(
    Estimator[ModelT],
    CheckedParams,
    DefaultParamsReadable[Any],
    DefaultParamsWritable,
    Generic[ModelT],
):
    """Estimator that is made by keywords, and shares work among the fits of a grid."""

    _initial_model: ModelT | None = None

    def __init__(self) -> None:
        super().__init__()
        self._set(**self._input_kwargs)  # type: ignore[attr-defined]  # of `keywords`

    def setParams(self, **params: Any) -> Self:
        """Set Params by name."""
        return self._set(**params)

    def write(self) -> EstimatorWriter:
        """Return a writer of this estimator."""
        return EstimatorWriter(self)

    @classmethod
    def read(cls) -> EstimatorReader[Self]:
        """Return a reader of estimators that `write` wrote."""
        return EstimatorReader(cls)

    def fitMultiple(
        self, dataset: DataFrame, paramMaps: Sequence[ParamMap]
    ) -> Iterator[tuple[int, ModelT]]:
        """Fit a model for each set of Params, such as a path of λ; yield its position and it.

        Factorizations that differ only in the objective and the start (``rank``, ``regUser``,
        ``regItem``, ``seed``, …) share every pass over the data.  The examples of networks are
        checked and sharded once for all that read the same columns.
        """
        estimators = [self.copy(params) for params in paramMaps]
        groups: dict[Any, list[int]] = {}
        for index, estimator in enumerate(estimators):
            groups.setdefault(estimator._group(index), []).append(index)
        return LazyFits(
            groups.values(),
            lambda indices: self._explained(dataset, [estimators[i] for i in indices]),
        )

    def _fit(self, dataset: DataFrame) -> ModelT:
        return self._explained(dataset, [self])[0]

    def _explained(self, dataset: DataFrame, estimators: Sequence[Self]) -> list[ModelT]:
        with explained():
            return self._fit_group(dataset, estimators)

    @abstractmethod
    def _group(self, index: int) -> Any:
        """Return a key that is equal for fits that share work; `index` is different in each."""

    @abstractmethod
    def _fit_group(self, dataset: DataFrame, estimators: Sequence[Self]) -> list[ModelT]:
        """Fit estimators of one group."""
