"""Factorization models on disk: Parquet for the factors, JSON for all else."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Self, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field, model_validator
from pyspark.ml.util import DefaultParamsReader

from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.model_tables import read_factors, read_mllib_factors, write_factors
from nonconvex.distributed.runtime import explained
from nonconvex.estimators.factorization.predict import ModelState
from nonconvex.estimators.factorization.summary import RestartSummary, TrainingSummary
from nonconvex.estimators.persistence import (
    ModelMetadata,
    ModelReader,
    ModelWriter,
    read_metadata,
    summary_schema,
)
from nonconvex.local.factorization import TABLES, factorization_parts
from nonconvex.numerics import Floats
from nonconvex.numerics.convergence import HalfStep
from nonconvex.numerics.factorization.gibbs import RowDistribution
from nonconvex.numerics.factorization.model import Factors, Side
from nonconvex.numerics.factorization.posterior import Posterior
from nonconvex.numerics.factorization.vb import VariationalPosterior

ModelT = TypeVar("ModelT", bound=Any)  # MatrixFactorizationModel, which imports this module
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1, lt=2**31)]

MLLIB = "org.apache.spark.ml.recommendation.ALSModel"


class FactorizationWriter(ModelWriter[ModelT]):
    """Writer of ``userFactors/``, ``itemFactors/``, ``metadata/``, and samples if there are any."""

    def _write(self, path: str) -> dict[str, Any]:
        state: ModelState = self._model._state
        extra: dict[str, Any] = {
            "globalBias": float(state.held.alpha),
            "rows": [len(ids) for ids in state.ids],
            "summary": json.loads(state.summary.to_json()),
        }
        more: tuple[dict[str, Any], ...] = ({}, {})
        known = state.ridge_posterior
        if isinstance(known, VariationalPosterior):
            extra["inference"] = known.save()
            for side, of_side, more_of in zip(Side, state.ids, known.measured, strict=True):
                write_factors(self.sparkSession, f"{path}/{side}Covariances", of_side, more_of)
        elif known is not None:
            stats = known.measured
            users = {"degree": stats.user_degrees, "noise": stats.noise}
            more = (users, {"degree": stats.item_degrees})
            extra["noise"] = known.noise
        sides = (state.held.users, state.held.items)
        for name, ids, rows, columns in zip(TABLES.values(), state.ids, sides, more, strict=True):
            write_factors(self.sparkSession, f"{path}/{name}", ids, rows, columns)
        if state.posterior is not None:
            extra["samples"] = self._write_samples(path, state.ids, state.posterior)
        return extra

    def _write_samples(self, path: str, ids: Ids, posterior: Posterior) -> dict[str, Any]:
        kappa = posterior.user_freedom
        users = np.hstack([posterior.users, posterior.user_precision])
        for side, of_side, rows in zip(Side, ids, (users, posterior.items), strict=True):
            # The first number of a row is in the place of a bias, the others are its features.
            write_factors(self.sparkSession, f"{path}/{side}Samples", of_side, rows)
        return {
            "alphas": posterior.alphas.tolist(),
            "taus": posterior.taus.tolist(),
            "seed": posterior.seed,
            "userFreedom": kappa if math.isfinite(kappa) else None,  # JSON has no ∞
            "usersRows": _to_plain(posterior.user_rows),
            "itemsRows": _to_plain(posterior.item_rows),
        }


class _Agreement(BaseModel):
    """Agreement of samples."""

    tau: float | None
    alpha: float | None
    train_rmse: float | None


class _Sampling(BaseModel):
    """``TrainingSummary.sampling``."""

    burnIn: int
    samples: int
    thinning: int
    kept: int
    effectiveSize: _Agreement
    rHat: _Agreement


_SUMMARY = summary_schema(
    TrainingSummary, RestartSummary, HalfStep, users=_Count, items=_Count, total=_Positive,
    reg_user=_NotNegative, reg_item=_NotNegative, bias_reg_ratio=_NotNegative,
    reg_exponent=_Finite, sampling=_Sampling | None,
)  # fmt: skip


class _Rows(BaseModel):
    """A distribution of rows, as `_to_plain` writes it."""

    slope: Annotated[list[_Finite], Field(min_length=1)]
    precision: list[list[_Finite]]
    least: _NotNegative

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({len(self.slope), len(self.precision), *map(len, self.precision)}) > 1:
            raise ValueError("the precision is no square matrix as wide as the slope")
        return self


class _Samples(BaseModel):
    """Samples of a posterior."""

    alphas: Annotated[list[_Finite], Field(min_length=1)]
    taus: list[_Positive]
    seed: int
    userFreedom: _Positive | None = None
    usersRows: list[_Rows]
    itemsRows: list[_Rows]

    @model_validator(mode="after")
    def _check(self) -> Self:
        rows = len(self.usersRows), len(self.itemsRows)
        if len({len(self.alphas), len(self.taus), *rows}) > 1:
            raise ValueError("the numbers of samples differ")
        if len({len(rows.slope) for rows in (*self.usersRows, *self.itemsRows)}) > 1:
            raise ValueError("the ranks of the samples differ")
        return self


class _Saved(ModelMetadata):
    """The metadata of a factorization."""

    globalBias: _Finite
    rows: tuple[_Count, _Count]
    noise: _NotNegative | None = None
    samples: _Samples | None = None


class FactorizationReader(ModelReader[ModelT]):
    """Reader of the directories of `FactorizationWriter`."""

    _schema = _Saved
    _summary = _SUMMARY

    def _check_summary(self, metadata: dict[str, Any], place: str) -> None:
        unknown = TrainingSummary.unknown(*metadata["rows"]).to_json()
        if json.dumps(metadata["summary"]) != unknown:  # of a model that MLlib fitted
            super()._check_summary(metadata, place)

    def _make(self, path: str, metadata: dict[str, Any]) -> ModelT:
        def read(
            name: str, rows: int, more: Sequence[str]
        ) -> tuple[pa.ChunkedArray, Floats, dict[str, Floats]]:
            return read_factors(self.sparkSession, f"{path}/{name}", rows, more)

        parts = factorization_parts(metadata, read)
        summary = TrainingSummary.from_json(json.dumps(parts.summary))
        factors, ids, _, posterior, ridge = parts
        state = ModelState(factors, Ids(*ids), summary, posterior=posterior, ridge_posterior=ridge)
        model: ModelT = self._cls(state)
        return model


def _to_plain(rows: list[RowDistribution]) -> list[dict[str, Any]]:
    """Return values that JSON holds to the bit."""
    return [
        {"slope": one.slope.tolist(), "precision": one.precision.tolist(), "least": one.least}
        for one in rows
    ]


class ALSReader(FactorizationReader[ModelT]):
    """Reader of the directories of `FactorizationWriter`, and of those that MLlib's ALS wrote."""

    @explained()
    def load(self, path: str) -> ModelT:
        """Read a model."""
        metadata = read_metadata(self.sparkSession, path, "ALSModel")
        if metadata["class"] != MLLIB:
            return super().load(path)
        (users, x), (items, z) = (
            read_mllib_factors(self.sparkSession, f"{path}/{name}", metadata.get("rank"))
            for name in ("userFactors", "itemFactors")
        )
        summary = TrainingSummary.unknown(len(users), len(items))
        state = ModelState(Factors(0.0, x, z), Ids(users, items), summary)
        model: ModelT = self._cls(state)
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model
