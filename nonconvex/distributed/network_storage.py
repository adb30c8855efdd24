"""Parameters of networks as Parquet: a row for the weights that leave a unit, or for biases."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from nonconvex.distributed.model_tables import ModelError, read_rows
from nonconvex.numerics.network.model import Network
from nonconvex.numerics.network.standardize import Standardization

__all__ = [
    "read_parameters",
    "read_standardization",
    "write_parameters",
    "write_standardization",
]

_PARAMETERS = {
    "index": "int",
    "layer": "int",
    "unit": "int",
    "weights": "array<float> array<double>",
}
_STANDARDIZATION = {"index": "int", "mean": "double", "scale": "double"}


def write_parameters(
    spark: SparkSession, path: str, network: Network, theta: NDArray[np.floating]
) -> None:
    """Write θ as rows ``index, layer, unit, weights``.

    Row by row they are W_1 by the units it comes from, b_1, W_2, …, with ``unit`` null for b.
    """
    layers, units, lengths = [], [], []
    for number, (weights, bias) in enumerate(network.views(theta), start=1):
        below, above = weights.shape
        rows = below + (bias is not None)
        layers += [number] * rows
        units += [*range(below), *([None] if bias is not None else [])]
        lengths += [above] * rows
    offsets = np.cumsum([0, *lengths])
    values = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(theta))
    index = pa.array(np.arange(len(layers)), pa.int32())
    columns = [index, pa.array(layers, pa.int32()), pa.array(units, pa.int32()), values]
    table = pa.table(columns, names=["index", "layer", "unit", "weights"])
    spark.createDataFrame(table).write.parquet(path)


def read_parameters(
    spark: SparkSession, path: str, network: Network, dtype: str
) -> NDArray[np.floating]:
    """Read what `write_parameters` wrote.

    Raises
    ------
    ModelError
        If the files are not there, not such a table, or not all of it.
    """
    table = read_rows(spark, path, _PARAMETERS)
    values = table["weights"].combine_chunks()
    theta: NDArray[np.floating] = values.flatten().to_numpy()
    if len(theta) != network.size or theta.dtype != dtype:
        raise ModelError(
            f"{path} holds {len(theta):,} parameters of {theta.dtype} and not the "
            f"{network.size:,} of {dtype} of the model; save the model again, or train it"
        )
    return theta


def write_standardization(spark: SparkSession, path: str, of: Standardization) -> None:
    """Write what features or targets are standardized with as rows ``index, mean, scale``."""
    index = pa.array(np.arange(len(of.mean)), pa.int32())
    table = pa.table([index, pa.array(of.mean), pa.array(of.scale)], ["index", "mean", "scale"])
    spark.createDataFrame(table).write.parquet(path)


def read_standardization(spark: SparkSession, path: str, width: int) -> Standardization:
    """Read what `write_standardization` wrote; errors are those of `read_parameters`."""
    table = read_rows(spark, path, _STANDARDIZATION)
    if len(table) != width:
        raise ModelError(
            f"{path} holds {len(table):,} rows and not the {width:,} of the model; "
            "save the model again, or train it"
        )
    return Standardization(table["mean"].to_numpy(), table["scale"].to_numpy())
