"""Factorization models on disk: Parquet for the factors, JSON for all else."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

import numpy as np

from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.model_tables import read_factors, write_factors
from nonconvex.estimators.factorization.predict import ModelState
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.estimators.persistence import ModelReader, ModelWriter
from nonconvex.numerics.factorization.gibbs import USER_FREEDOM, RowDistribution
from nonconvex.numerics.factorization.model import Factors, Side
from nonconvex.numerics.factorization.posterior import Posterior
from nonconvex.numerics.factorization.ridge_posterior import ResidualStats, RidgePosterior

_TABLES = ("userFactors", "itemFactors")

ModelT = TypeVar("ModelT", bound=Any)  # MatrixFactorizationModel, which imports this module


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
        if state.ridge_posterior is not None:
            stats = state.ridge_posterior.measured
            users = {"degree": stats.user_degrees, "noise": stats.noise}
            more = (users, {"degree": stats.item_degrees})
            extra["noise"] = state.ridge_posterior.noise
        sides = (state.held.users, state.held.items)
        for name, ids, rows, columns in zip(_TABLES, state.ids, sides, more, strict=True):
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


class FactorizationReader(ModelReader[ModelT]):
    """Reader of the directories of `FactorizationWriter`."""

    def _make(self, path: str, metadata: dict[str, Any]) -> ModelT:
        bias, noise = metadata["globalBias"], metadata.get("noise")
        if not (isinstance(bias, float) and math.isfinite(bias)):
            raise ValueError(f"globalBias, which is {bias!r} and no finite number")
        if noise is not None and not (isinstance(noise, float) and 0 <= noise < math.inf):
            raise ValueError(f"noise, which is {noise!r} and no finite number ≥ 0")
        more = ((), ()) if noise is None else (("degree", "noise"), ("degree",))
        (users, x, of_users), (items, z, of_items) = (
            read_factors(self.sparkSession, f"{path}/{name}", rows, columns)
            for name, rows, columns in zip(_TABLES, metadata["rows"], more, strict=True)
        )
        summary = TrainingSummary.from_json(json.dumps(metadata["summary"]))
        ridge_posterior = None
        if noise is not None:
            stats = ResidualStats(of_users["degree"], of_items["degree"], of_users["noise"])
            biases = {**metadata["defaultParamMap"], **metadata["paramMap"]}["fitBiases"]
            ridges = (summary.ridge(Side.USERS), summary.ridge(Side.ITEMS))
            ridge_posterior = RidgePosterior(stats, noise, *ridges, biases)
        factors, ids = Factors(bias, x, z), Ids(users, items)
        kept = self._posterior(path, metadata)
        state = ModelState(factors, ids, summary, posterior=kept, ridge_posterior=ridge_posterior)
        model: ModelT = self._cls(state)
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
        user_rows, item_rows = (_from_plain(samples[f"{side}Rows"]) for side in Side)
        seed, kappa = samples["seed"], samples.get("userFreedom", USER_FREEDOM)
        rows = user_rows, item_rows, seed, math.inf if kappa is None else kappa
        return Posterior(alphas, taus, users, items, user_precision, *rows)


def _to_plain(rows: list[RowDistribution]) -> list[dict[str, Any]]:
    """Return values that JSON holds to the bit."""
    return [
        {"slope": one.slope.tolist(), "precision": one.precision.tolist(), "least": one.least}
        for one in rows
    ]


def _from_plain(plain: list[dict[str, Any]]) -> list[RowDistribution]:
    return [
        RowDistribution.centered(np.array(one["slope"]), np.array(one["precision"]), one["least"])
        for one in plain
    ]
