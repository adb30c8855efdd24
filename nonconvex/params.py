"""Params of the estimators, each with its range: what pyspark's own converters do not check."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from pyspark.ml.param import Param, Params
from pyspark.ml.param.shared import HasPredictionCol, HasSeed

__all__ = ["FactorizationModelParams", "FactorizationParams", "with_accessors"]

ParamsT = TypeVar("ParamsT", bound=Params)

COLD_START = ("bias", "nan", "drop")
SOLVERS = ("als", "als-coordinate")
PRECISIONS = ("float32", "float64")
DEFAULT_SEED = 42


def _refuse(name: str, allowed: str, value: object) -> None:
    raise ValueError(f"{name} must be {allowed}, got {value!r}")


def _integer(name: str, minimum: int) -> Callable[[Any], int]:
    allowed = f"an integer ≥ {minimum}"

    def convert(value: Any) -> int:
        try:
            number = operator.index(value)  # numpy integers too, but no 3.0 and no "3"
        except TypeError:
            number = minimum - 1
        if isinstance(value, bool) or number < minimum:
            _refuse(name, allowed, value)
        return number

    return convert


def _number(name: str, minimum: float, *, exclusive: bool = False) -> Callable[[Any], float]:
    allowed = f"a finite number {'>' if exclusive else '≥'} {minimum:g}"

    def convert(value: Any) -> float:
        try:
            number = math.nan if isinstance(value, (bool, str)) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        inside = number > minimum if exclusive else number >= minimum
        if not (math.isfinite(number) and inside):
            _refuse(name, allowed, value)
        return number

    return convert


def _choice(name: str, choices: Sequence[str]) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if value not in choices:
            _refuse(name, f"one of {', '.join(choices)}", value)
        return str(value)

    return convert


def _flag(name: str) -> Callable[[Any], bool]:
    def convert(value: Any) -> bool:
        if type(value).__name__ not in ("bool", "bool_"):  # numpy's too
            _refuse(name, "True or False", value)
        return bool(value)

    return convert


def _text(name: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if not isinstance(value, str) or not value:
            _refuse(name, "a name", value)
        return str(value)

    return convert


def _optional(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else convert(value)


def _stationary(value: Any) -> float:
    if value == 0:
        raise ValueError(
            "initScale must be > 0, got 0: with every γ at zero the objective is stationary, and "
            "no solver could move"
        )
    return _number("initScale", 0, exclusive=True)(value)


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

    userCol = _param(
        "userCol", "column of user ids: strings, integers or decimals", _text("userCol")
    )
    itemCol = _param(
        "itemCol", "column of item ids: strings, integers or decimals", _text("itemCol")
    )
    coldStartStrategy = _param(
        "coldStartStrategy",
        "what to predict for an id that training has not seen: 'bias' (α and the bias of the id "
        "that is known), 'nan', or 'drop' (no row)",
        _choice("coldStartStrategy", COLD_START),
    )
    clipPredictions = _param(
        "clipPredictions",
        "whether predictions are clipped to the range of the training ratings",
        _flag("clipPredictions"),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._setDefault(
            userCol="user", itemCol="item", coldStartStrategy="bias", clipPredictions=False
        )


class FactorizationParams(FactorizationModelParams, HasSeed):
    """Params of `MatrixFactorization`."""

    ratingCol = _param("ratingCol", "column of ratings: finite numbers", _text("ratingCol"))
    weightCol = _param(
        "weightCol",
        "column of weights, numbers ≥ 0: how much a rating counts; by default each counts 1",
        _optional(_text("weightCol")),
    )
    validationIndicatorCol = _param(
        "validationIndicatorCol",
        "boolean column: True for ratings to validate with instead of training on them",
        _optional(_text("validationIndicatorCol")),
    )
    rank = _param(
        "rank", "number K of factors, ≥ 0; 0 leaves α and the biases", _integer("rank", 0)
    )
    maxIter = _param("maxIter", "most iterations, ≥ 1", _integer("maxIter", 1))
    tol = _param(
        "tol",
        "stop when an iteration lowers the objective by less than tol times its value, ≥ 0",
        _number("tol", 0),
    )
    patience = _param(
        "patience",
        "stop when the validation RMSE has not improved for so many iterations, and return the "
        "best iteration; needs validation ratings",
        _optional(_integer("patience", 1)),
    )
    regUser = _param(
        "regUser",
        "λ₁ ≥ 0: regularization of users, in the units of the objective; by default "
        "14 · (standard deviation of the ratings) / (number of ratings)",
        _optional(_number("regUser", 0)),
    )
    regItem = _param(
        "regItem",
        "λ₂ ≥ 0: regularization of items; the default is that of regUser",
        _optional(_number("regItem", 0)),
    )
    biasRegRatio = _param(
        "biasRegRatio",
        "ρ ≥ 0: a bias is regularized with ρ λ; 1 if regUser or regItem is given, else by default "
        "such that n ρ λ = 3",
        _optional(_number("biasRegRatio", 0)),
    )
    regExponent = _param(
        "regExponent",
        "ν ≥ 0: a row with d ratings is regularized with λ (d / mean d)^ν; 0 is plain λ, 1 is "
        "what MLlib's ALS does",
        _number("regExponent", 0),
    )
    solver = _param(
        "solver",
        "'als' (each row exactly) or 'als-coordinate' (one unknown of each row at a time)",
        _choice("solver", SOLVERS),
    )
    fitIntercept = _param("fitIntercept", "whether the model has α", _flag("fitIntercept"))
    fitBiases = _param("fitBiases", "whether the model has β_u and β_i", _flag("fitBiases"))
    nonnegative = _param("nonnegative", "whether to demand γ ≥ 0", _flag("nonnegative"))
    implicitPrefs = _param(
        "implicitPrefs",
        "whether ratings are counts of implicit feedback rather than opinions: every pair then "
        "has a preference, 1 where the rating is positive and else 0",
        _flag("implicitPrefs"),
    )
    confidence = _param(
        "confidence",
        "κ > 0: with implicitPrefs, a pair weighs 1 + κ |rating|; MLlib's alpha",
        _number("confidence", 0, exclusive=True),
    )
    initScale = _param(
        "initScale", "standard deviation > 0 of the γ that a fit starts from", _stationary
    )
    numRestarts = _param(
        "numRestarts",
        "number of random starts, ≥ 1; the best by validation RMSE, or else by objective, is kept",
        _integer("numRestarts", 1),
    )
    precision = _param(
        "precision",
        "'float32' or 'float64': the type of factors and arithmetic",
        _choice("precision", PRECISIONS),
    )
    numUserBlocks = _param(
        "numUserBlocks",
        "number of blocks of users, ≥ 1; by default as many as cores, and one for a million "
        "ratings. It changes the time, never the result",
        _optional(_integer("numUserBlocks", 1)),
    )
    numItemBlocks = _param(
        "numItemBlocks",
        "number of blocks of items, as numUserBlocks",
        _optional(_integer("numItemBlocks", 1)),
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
            precision="float32",
            numUserBlocks=None,
            numItemBlocks=None,
            seed=DEFAULT_SEED,  # pyspark's own default changes with every process
        )
