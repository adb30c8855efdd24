"""Params of the estimators, each with its range: what pyspark's own converters do not check."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params
from pyspark.ml.param.shared import HasPredictionCol, HasSeed

from nonconvex.numerics.descent import Optimizer
from nonconvex.numerics.optimizers import OPTIMIZERS, make_optimizer
from nonconvex.numerics.schedules import SCHEDULES, make_schedule
from nonconvex.ranges import choice, flag, fraction, integer, number, optional, text

__all__ = [
    "DESCENT",
    "DescentParams",
    "FactorizationModelParams",
    "FactorizationParams",
    "ParamError",
    "with_accessors",
]


class ParamError(ValueError):
    """Params that contradict each other, or that would be ignored."""

    exit_status = 2


ParamsT = TypeVar("ParamsT", bound=Params)

COLD_START = ("bias", "nan", "drop")
SOLVERS = ("als", "als-coordinate", "gd")
PRECISIONS = ("float32", "float64")
DEFAULT_SEED = 42


def _stationary(value: Any) -> float:
    if value == 0:
        raise ValueError(
            "initScale must be > 0, got 0: with every γ at zero the objective is stationary, and "
            "no solver could move"
        )
    return number("initScale", 0, exclusive=True)(value)


def _param(name: str, doc: str, convert: Callable[[Any], Any]) -> Param[Any]:
    return Param(Params._dummy(), name, doc, typeConverter=convert)


def with_accessors(cls: type[ParamsT]) -> type[ParamsT]:
    """Give a class ``getName`` and ``setName`` for each of its Params that has none."""
    for param in [value for value in map(partial(getattr, cls), dir(cls)) if _is_param(value)]:
        title = param.name[0].upper() + param.name[1:]
        for verb, accessor in (("get", _getter(param)), ("set", _setter(param))):
            accessor.__name__ = f"{verb}{title}"
            accessor.__qualname__ = f"{cls.__qualname__}.{accessor.__name__}"
            if not hasattr(cls, accessor.__name__):
                setattr(cls, accessor.__name__, accessor)
    return cls


def _is_param(value: object) -> bool:
    return isinstance(value, Param)


def _getter(param: Param[Any]) -> Callable[[Params], Any]:
    def get(self: Params) -> Any:
        return self.getOrDefault(param.name)

    get.__doc__ = f"Return {param.name}: {param.doc}."
    return get


def _setter(param: Param[Any]) -> Callable[[Params, Any], Params]:
    def set_(self: Params, value: Any) -> Params:
        return self._set(**{param.name: value})

    set_.__doc__ = f"Set {param.name}: {param.doc}."
    return set_


class FactorizationModelParams(HasPredictionCol):
    """Params that `MatrixFactorization` and its model share: what prediction needs."""

    predictionCol = _param(
        "predictionCol", "column of predictions, which is added", text("predictionCol")
    )
    userCol = _param(
        "userCol", "column of user ids: strings, integers or decimals", text("userCol")
    )
    itemCol = _param(
        "itemCol", "column of item ids: strings, integers or decimals", text("itemCol")
    )
    coldStartStrategy = _param(
        "coldStartStrategy",
        "what to predict for an id that training has not seen: 'bias' (α and the bias of the id "
        "that is known), 'nan', or 'drop' (no row)",
        choice("coldStartStrategy", COLD_START),
    )
    clipPredictions = _param(
        "clipPredictions",
        "whether predictions are clipped to the range of the training ratings",
        flag("clipPredictions"),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            userCol="user", itemCol="item", coldStartStrategy="bias", clipPredictions=False
        )


class DescentParams(Params):
    """Params of gradient descent, for every model that can be trained by it."""

    optimizer = _param(
        "optimizer", f"one of {', '.join(OPTIMIZERS)}", choice("optimizer", tuple(OPTIMIZERS))
    )
    learningRate = _param(
        "learningRate", "step size η > 0", number("learningRate", 0, exclusive=True)
    )
    momentum = _param(
        "momentum",
        "decay in [0, 1) of the sum of gradients (momentum, nesterov) or of their mean (adam, "
        "adamw: β₁); by default 0.9",
        optional(number("momentum", 0)),
    )
    decay = _param(
        "decay",
        "decay in [0, 1) of the mean of squared gradients; by default 0.99 for rmsprop and 0.999 "
        "for adam and adamw (β₂)",
        optional(number("decay", 0)),
    )
    epsilon = _param(
        "epsilon",
        "ε > 0, added to the root of the mean of squared gradients; by default 1e-8",
        optional(number("epsilon", 0, exclusive=True)),
    )
    weightDecay = _param(
        "weightDecay",
        "decoupled weight decay ≥ 0 of adamw; by default 0.01",
        optional(number("weightDecay", 0)),
    )
    clipNorm = _param(
        "clipNorm",
        "> 0: a longer gradient is scaled down to this norm; by default none is",
        optional(number("clipNorm", 0, exclusive=True)),
    )
    schedule = _param(
        "schedule",
        f"how the learning rate changes with the steps: one of {', '.join(SCHEDULES)}",
        choice("schedule", tuple(SCHEDULES)),
    )
    decaySteps = _param(
        "decaySteps",
        "≥ 1: the time scale of every schedule but constant, which need it",
        optional(integer("decaySteps", 1)),
    )
    decayRate = _param(
        "decayRate",
        "> 0: by how much step, exponential and inverse-time decay in decaySteps",
        optional(number("decayRate", 0, exclusive=True)),
    )
    finalFraction = _param(
        "finalFraction",
        "≥ 0: the fraction of the learning rate that cosine ends with",
        optional(number("finalFraction", 0)),
    )
    warmupSteps = _param(
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

    def _optimizer(self) -> Optimizer:
        """Build the optimizer; raises OptimizerError or ScheduleError for settings that clash."""
        get = self.getOrDefault
        rate = make_schedule(
            get("schedule"),
            get("learningRate"),
            warmup_steps=get("warmupSteps"),
            decay_steps=get("decaySteps"),
            decay_rate=get("decayRate"),
            final_fraction=get("finalFraction"),
        )
        return make_optimizer(
            get("optimizer"),
            rate,
            clip_norm=get("clipNorm"),
            momentum=get("momentum"),
            decay=get("decay"),
            epsilon=get("epsilon"),
            weight_decay=get("weightDecay"),
        )


DESCENT = tuple(name for name, value in vars(DescentParams).items() if _is_param(value))
"""Names of the Params that only gradient descent reads."""


class FactorizationParams(FactorizationModelParams, DescentParams, HasSeed):
    """Params of `MatrixFactorization`."""

    ratingCol = _param("ratingCol", "column of ratings: finite numbers", text("ratingCol"))
    weightCol = _param(
        "weightCol",
        "column of weights, numbers ≥ 0: how much a rating counts; by default each counts 1",
        optional(text("weightCol")),
    )
    validationIndicatorCol = _param(
        "validationIndicatorCol",
        "boolean column: True for ratings to validate with instead of training on them",
        optional(text("validationIndicatorCol")),
    )
    rank = _param("rank", "number K of factors, ≥ 0; 0 leaves α and the biases", integer("rank", 0))
    maxIter = _param("maxIter", "most iterations, ≥ 1", integer("maxIter", 1))
    tol = _param(
        "tol",
        "stop when an iteration changes the objective by less than tol times its value, ≥ 0",
        number("tol", 0),
    )
    gradientTol = _param(
        "gradientTol",
        "with solver 'gd', stop when the norm of the gradient is at most this, ≥ 0",
        number("gradientTol", 0),
    )
    miniBatchFraction = _param(
        "miniBatchFraction",
        "with solver 'gd', the fraction in (0, 1] of the users that a step looks at; an iteration "
        "is as many steps as see each user once",
        fraction("miniBatchFraction"),
    )
    patience = _param(
        "patience",
        "stop when the validation RMSE has not improved for so many iterations, and return the "
        "best iteration; needs validation ratings",
        optional(integer("patience", 1)),
    )
    regUser = _param(
        "regUser",
        "λ₁ ≥ 0: regularization of users, in the units of the objective; by default "
        "16 · (standard deviation of the ratings) / (number of ratings), or with implicitPrefs "
        "5 · (mean of confidence · |rating|) / (number of positive ratings)",
        optional(number("regUser", 0)),
    )
    regItem = _param(
        "regItem",
        "λ₂ ≥ 0: regularization of items; the default is that of regUser",
        optional(number("regItem", 0)),
    )
    biasRegRatio = _param(
        "biasRegRatio",
        "ρ ≥ 0: a bias is regularized with ρ λ; 1 if regUser or regItem is given, else by default "
        "such that n ρ λ = 3 (with implicitPrefs 1)",
        optional(number("biasRegRatio", 0)),
    )
    regExponent = _param(
        "regExponent",
        "ν ≥ 0: a row with d ratings is regularized with λ (d / mean d)^ν; 0 is plain λ, 1 is "
        "what MLlib's ALS does",
        number("regExponent", 0),
    )
    solver = _param(
        "solver",
        "'als' (each row exactly), 'als-coordinate' (one unknown of each row at a time) or 'gd' "
        "(gradient descent on all at once)",
        choice("solver", SOLVERS),
    )
    fitIntercept = _param("fitIntercept", "whether the model has α", flag("fitIntercept"))
    fitBiases = _param("fitBiases", "whether the model has β_u and β_i", flag("fitBiases"))
    nonnegative = _param("nonnegative", "whether to demand γ ≥ 0", flag("nonnegative"))
    implicitPrefs = _param(
        "implicitPrefs",
        "whether ratings are counts of implicit feedback rather than opinions: every pair then "
        "has a preference, 1 where the rating is positive and else 0",
        flag("implicitPrefs"),
    )
    confidence = _param(
        "confidence",
        "κ > 0: with implicitPrefs, a pair weighs 1 + κ |rating|; MLlib's alpha",
        number("confidence", 0, exclusive=True),
    )
    initScale = _param(
        "initScale", "standard deviation > 0 of the γ that a fit starts from", _stationary
    )
    numRestarts = _param(
        "numRestarts",
        "number of random starts, ≥ 1; the best by validation RMSE, or else by objective, is kept",
        integer("numRestarts", 1),
    )
    firstRestart = _param(
        "firstRestart",
        "number of the first random start, ≥ 0: restart r of a seed is the same in any run",
        integer("firstRestart", 0),
    )
    keepRestarts = _param(
        "keepRestarts",
        "whether the model keeps the models of all random starts as its restarts",
        flag("keepRestarts"),
    )
    ensemble = _param(
        "ensemble",
        "whether the model predicts the mean of all random starts instead of the best; its rank "
        "is then numRestarts times rank",
        flag("ensemble"),
    )
    precision = _param(
        "precision",
        "'float32' or 'float64': the type of factors and arithmetic",
        choice("precision", PRECISIONS),
    )
    checkpointPath = _param(
        "checkpointPath",
        "directory, of this fit alone, to save the state of a fit in: an interrupted fit, started "
        "again with equal Params and data, goes on from there to the same bits; by default none",
        optional(text("checkpointPath")),
    )
    checkpointInterval = _param(
        "checkpointInterval",
        "iterations between two checkpoints, ≥ 1; needs checkpointPath",
        integer("checkpointInterval", 1),
    )
    numUserBlocks = _param(
        "numUserBlocks",
        "number of blocks of users, ≥ 1; by default as many as cores, and one for a million "
        "ratings. It changes the time, never the result",
        optional(integer("numUserBlocks", 1)),
    )
    numItemBlocks = _param(
        "numItemBlocks",
        "number of blocks of items, as numUserBlocks",
        optional(integer("numItemBlocks", 1)),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            ratingCol="rating",
            weightCol=None,
            validationIndicatorCol=None,
            rank=10,
            maxIter=15,
            tol=1e-4,
            gradientTol=0.0,
            miniBatchFraction=1.0,
            patience=None,
            regUser=None,
            regItem=None,
            biasRegRatio=None,
            regExponent=0.0,
            solver="als",
            fitIntercept=True,
            fitBiases=True,
            nonnegative=False,
            implicitPrefs=False,
            confidence=1.0,
            initScale=0.1,
            numRestarts=1,
            firstRestart=0,
            keepRestarts=False,
            ensemble=False,
            precision="float32",
            checkpointPath=None,
            checkpointInterval=10,
            numUserBlocks=None,
            numItemBlocks=None,
            seed=DEFAULT_SEED,  # pyspark's own default changes with every process
        )
