"""Factorization models on disk: Parquet for the factors, JSON for all else."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

import numpy as np

from nonconvex.distributed.problems import SIDES
from nonconvex.distributed.storage import read_factors, write_factors
from nonconvex.distributed.training import Ids
from nonconvex.model_files import ModelReader, ModelWriter
from nonconvex.numerics.factorization import Factors
from nonconvex.numerics.hyperpriors import RowDistribution
from nonconvex.numerics.posterior import Posterior
from nonconvex.summary import TrainingSummary

__all__ = ["FactorizationReader", "FactorizationWriter"]

ModelT = TypeVar("ModelT", bound=Any)  # MatrixFactorizationModel, which imports this module


class FactorizationWriter(ModelWriter[ModelT]):
    """Writes ``userFactors/``, ``itemFactors/``, ``metadata/``, and samples if there are any."""

    def _write(self, path: str) -> dict[str, Any]:
        model, spark = self._model, self.sparkSession
        write_factors(spark, f"{path}/userFactors", model._ids.users, model._factors.users)
        write_factors(spark, f"{path}/itemFactors", model._ids.items, model._factors.items)
        extra: dict[str, Any] = {
            "globalBias": model.globalBias,
            "rows": [len(ids) for ids in model._ids],
            "implicitPrefs": model._implicit,
            "summary": json.loads(model.summary.to_json()),
        }
        posterior = model._posterior
        if posterior is not None:
            for side, ids in zip(SIDES, model._ids, strict=True):
                rows = getattr(posterior, side)
                if side == "users":
                    rows = np.hstack([rows, posterior.steadiness])
                # The first number of a row stands where a bias would, the others as features.
                write_factors(spark, f"{path}/{side}Samples", ids, rows)
            extra["samples"] = {
                "alphas": posterior.alphas.tolist(),
                "taus": posterior.taus.tolist(),
                "seed": posterior.seed,
                **{
                    f"{side}Rows": _plain(getattr(posterior, f"{side[:-1]}_rows")) for side in SIDES
                },
            }
        return extra


class FactorizationReader(ModelReader[ModelT]):
    """Reads what `FactorizationWriter` wrote."""

    def _model(self, path: str, metadata: dict[str, Any]) -> ModelT:
        bias = metadata["globalBias"]
        if not (isinstance(bias, float) and math.isfinite(bias)):
            raise ValueError(f"globalBias, which is {bias!r} and no finite number")
        sides = zip(("userFactors", "itemFactors"), metadata["rows"], strict=True)
        (users, x), (items, z) = (
            read_factors(self.sparkSession, f"{path}/{side}", rows) for side, rows in sides
        )
        model: ModelT = self._cls(
            Factors(bias, x, z),
            Ids(users, items),
            TrainingSummary.from_json(json.dumps(metadata["summary"])),
            implicit=metadata["implicitPrefs"],
            posterior=self._posterior(path, metadata),
        )
        return model

    def _posterior(self, path: str, metadata: dict[str, Any]) -> Posterior | None:
        if "samples" not in metadata:
            return None
        samples = metadata["samples"]
        (_, users), (_, items) = (
            read_factors(self.sparkSession, f"{path}/{side}Samples", rows)
            for side, rows in zip(SIDES, metadata["rows"], strict=True)
        )
        alphas, taus = (np.array(samples[name]) for name in ("alphas", "taus"))
        users, steadiness = np.split(users, [users.shape[1] - len(taus)], axis=1)
        user_rows, item_rows = (_distributions(samples[f"{side}Rows"]) for side in SIDES)
        seed = samples["seed"]
        return Posterior(alphas, taus, users, items, steadiness, user_rows, item_rows, seed)


def _plain(rows: list[RowDistribution]) -> list[dict[str, Any]]:
    """Return what JSON can hold, to the bit."""
    return [
        {"slope": one.slope.tolist(), "precision": one.precision.tolist(), "least": one.least}
        for one in rows
    ]


def _distributions(plain: list[dict[str, Any]]) -> list[RowDistribution]:
    return [
        RowDistribution(
            np.zeros(len(one["slope"])),
            np.array(one["slope"]),
            np.array(one["precision"]),
            one["least"],
        )
        for one in plain
    ]
