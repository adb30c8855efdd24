"""Factorization models on disk: Parquet for the factors, JSON for all else."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

import numpy as np

from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.model_tables import read_factors, write_factors
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.estimators.persistence import ModelReader, ModelWriter
from nonconvex.numerics.factorization.gibbs import RowDistribution
from nonconvex.numerics.factorization.model import Factors, Side
from nonconvex.numerics.factorization.posterior import Posterior
from nonconvex.numerics.factorization.ridge_posterior import RidgePosterior, RowEvidence

__all__ = ["FactorizationReader", "FactorizationWriter"]

_TABLES = ("userFactors", "itemFactors")

ModelT = TypeVar("ModelT", bound=Any)  # MatrixFactorizationModel, which imports this module


class FactorizationWriter(ModelWriter[ModelT]):
    """Writes ``userFactors/``, ``itemFactors/``, ``metadata/``, and samples if there are any."""

    def _write(self, path: str) -> dict[str, Any]:
        model, spark = self._model, self.sparkSession
        more: tuple[dict[str, Any], ...] = ({}, {})
        if model._ridge is not None:
            measured = model._ridge.measured
            users = {"degree": measured.user_degrees, "noise": measured.noise}
            more = (users, {"degree": measured.item_degrees})
        for name, ids, rows, columns in zip(_TABLES, model._ids, model._rows(), more, strict=True):
            write_factors(spark, f"{path}/{name}", ids, rows, columns)
        extra: dict[str, Any] = {
            "globalBias": model.globalBias,
            "rows": [len(ids) for ids in model._ids],
            "implicitPrefs": model._implicit,
            "summary": json.loads(model.summary.to_json()),
        }
        if model._ridge is not None:
            extra["noise"] = model._ridge.noise
        posterior = model._posterior
        if posterior is not None:
            for side, ids in zip(Side, model._ids, strict=True):
                rows = getattr(posterior, side)
                if side == Side.USERS:
                    rows = np.hstack([rows, posterior.user_precision])
                # The first number of a row stands where a bias would, the others as features.
                write_factors(spark, f"{path}/{side}Samples", ids, rows)
            extra["samples"] = {
                "alphas": posterior.alphas.tolist(),
                "taus": posterior.taus.tolist(),
                "seed": posterior.seed,
                **{
                    f"{side}Rows": _plain(getattr(posterior, f"{side.singular}_rows"))
                    for side in Side
                },
            }
        return extra


class FactorizationReader(ModelReader[ModelT]):
    """Reads what `FactorizationWriter` wrote."""

    def _model(self, path: str, metadata: dict[str, Any]) -> ModelT:
        bias = metadata["globalBias"]
        if not (isinstance(bias, float) and math.isfinite(bias)):
            raise ValueError(f"globalBias, which is {bias!r} and no finite number")
        noise = metadata.get("noise")
        if noise is not None and not (isinstance(noise, float) and 0 <= noise < math.inf):
            raise ValueError(f"noise, which is {noise!r} and no finite number ≥ 0")
        more = ((), ()) if noise is None else (("degree", "noise"), ("degree",))
        (users, x, of_users), (items, z, of_items) = (
            read_factors(self.sparkSession, f"{path}/{name}", rows, columns)
            for name, rows, columns in zip(_TABLES, metadata["rows"], more, strict=True)
        )
        summary = TrainingSummary.from_json(json.dumps(metadata["summary"]))
        ridge = None
        if noise is not None:
            measured = RowEvidence(of_users["degree"], of_items["degree"], of_users["noise"])
            biases = {**metadata["defaultParamMap"], **metadata["paramMap"]}["fitBiases"]
            ridges = (summary.ridge(Side.USERS), summary.ridge(Side.ITEMS))
            ridge = RidgePosterior(measured, noise, *ridges, biases)
        model: ModelT = self._cls(
            Factors(bias, x, z),
            Ids(users, items),
            summary,
            implicit=metadata["implicitPrefs"],
            posterior=self._posterior(path, metadata),
            ridge=ridge,
        )
        return model

    def _posterior(self, path: str, metadata: dict[str, Any]) -> Posterior | None:
        if "samples" not in metadata:
            return None
        samples = metadata["samples"]
        (_, users, _), (_, items, _) = (
            read_factors(self.sparkSession, f"{path}/{side}Samples", rows)
            for side, rows in zip(Side, metadata["rows"], strict=True)
        )
        alphas, taus = (np.array(samples[name]) for name in ("alphas", "taus"))
        users, user_precision = np.split(users, [users.shape[1] - len(taus)], axis=1)
        user_rows, item_rows = (_distributions(samples[f"{side}Rows"]) for side in Side)
        seed = samples["seed"]
        return Posterior(alphas, taus, users, items, user_precision, user_rows, item_rows, seed)


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
