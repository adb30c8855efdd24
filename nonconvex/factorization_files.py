"""Factorization models on disk: Parquet for the factors, JSON for all else."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from nonconvex.distributed.storage import read_factors, write_factors
from nonconvex.distributed.training import Ids
from nonconvex.model_files import ModelReader, ModelWriter
from nonconvex.numerics.factorization import Factors
from nonconvex.summary import TrainingSummary

__all__ = ["FactorizationReader", "FactorizationWriter"]

ModelT = TypeVar("ModelT", bound=Any)  # MatrixFactorizationModel, which imports this module


class FactorizationWriter(ModelWriter[ModelT]):
    """Writes ``userFactors/``, ``itemFactors/`` and ``metadata/``."""

    def _write(self, path: str) -> dict[str, Any]:
        model, spark = self._model, self.sparkSession
        write_factors(spark, f"{path}/userFactors", model._ids.users, model._factors.users)
        write_factors(spark, f"{path}/itemFactors", model._ids.items, model._factors.items)
        return {
            "globalBias": model.globalBias,
            "rows": [len(ids) for ids in model._ids],
            "implicitPrefs": model._implicit,
            "summary": json.loads(model.summary.to_json()),
        }


class FactorizationReader(ModelReader[ModelT]):
    """Reads what `FactorizationWriter` wrote."""

    def _model(self, path: str, metadata: dict[str, Any]) -> ModelT:
        sides = zip(("userFactors", "itemFactors"), metadata["rows"], strict=True)
        (users, x), (items, z) = (
            read_factors(self.sparkSession, f"{path}/{side}", rows) for side, rows in sides
        )
        model: ModelT = self._cls(
            Factors(metadata["globalBias"], x, z),
            Ids(users, items),
            TrainingSummary.from_json(json.dumps(metadata["summary"])),
            implicit=metadata["implicitPrefs"],
        )
        return model
