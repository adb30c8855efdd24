"""Saved models of any kind that this package has."""

from __future__ import annotations

from pyspark.sql import SparkSession

from nonconvex.distributed.model_tables import ModelError
from nonconvex.estimators.params import ParamError
from nonconvex.estimators.persistence import read_metadata
from nonconvex.neural_network import (
    MultilayerPerceptronClassificationModel,
    MultilayerPerceptronRegressionModel,
)
from nonconvex.recommendation import MatrixFactorizationModel

__all__ = ["AnyModel", "load_model"]

AnyModel = (
    MatrixFactorizationModel
    | MultilayerPerceptronClassificationModel
    | MultilayerPerceptronRegressionModel
)

# A name in a file chooses among these, and imports nothing.
_MODELS: dict[str, type[AnyModel]] = {
    f"{model.__module__}.{model.__name__}": model
    for model in (
        MatrixFactorizationModel,
        MultilayerPerceptronClassificationModel,
        MultilayerPerceptronRegressionModel,
    )
}


def load_model(spark: SparkSession, path: str, *, handle_invalid: str | None = None) -> AnyModel:
    """Load a model of the kind that its metadata name.

    Parameters
    ----------
    spark : SparkSession
    path : str
        The directory of the model.
    handle_invalid : {"error", "skip", "keep"}, optional
        What ``handleInvalid`` of a network is set to.

    Raises
    ------
    ParamError
        If `handle_invalid` is given for a model that has no such Param.
    ModelError
        If there is none, not all of it, or it is of a kind that this package does not have.

    Examples
    --------
    >>> from nonconvex.distributed.publication import find_model
    >>> load_model(spark, find_model(spark, "runs/films")).rank
    2
    """
    name = read_metadata(spark, path)["class"]
    if name not in _MODELS:
        raise ModelError(f"{path} holds a {name}; models of {', '.join(_MODELS)} can be loaded")
    model = _MODELS[name].load(path)
    if handle_invalid is not None:
        if isinstance(model, MatrixFactorizationModel):
            raise ParamError(
                f"invalid={handle_invalid!r} is about the features of a network, and {path} is a "
                "factorization; leave it out"
            )
        model.set(model.handleInvalid, handle_invalid)
    return model
