"""Factorization models on disk: Parquet for the factors, JSON for all else."""

from __future__ import annotations

import json
from typing import Any, Generic, TypeVar

from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReader, MLWriter

from nonconvex.distributed.storage import ModelError, read_factors, write_factors
from nonconvex.distributed.training import Ids
from nonconvex.numerics.factorization import Factors
from nonconvex.summary import TrainingSummary

__all__ = ["ModelReader", "ModelWriter"]

ModelT = TypeVar("ModelT", bound=Any)  # MatrixFactorizationModel, which imports this module


class ModelWriter(MLWriter, Generic[ModelT]):
    """Writes ``userFactors/``, ``itemFactors/`` and ``metadata/``.

    Parameters
    ----------
    model : MatrixFactorizationModel
    """

    def __init__(self, model: ModelT) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        """Write the model into an empty directory."""
        model, spark = self._model, self.sparkSession
        write_factors(spark, f"{path}/userFactors", model._ids.users, model._factors.users)
        write_factors(spark, f"{path}/itemFactors", model._ids.items, model._factors.items)
        extra = {
            "globalBias": model.globalBias,
            "rows": [len(ids) for ids in model._ids],
            "implicitPrefs": model._implicit,
            "summary": json.loads(model.summary.to_json()),
        }
        # Last, so that a directory with metadata is a whole model.
        DefaultParamsWriter.saveMetadata(model, path, spark, extra)


class ModelReader(MLReader[ModelT]):
    """Reads what `ModelWriter` wrote.

    Parameters
    ----------
    cls : type
        Of the model.
    """

    def __init__(self, cls: type[ModelT]) -> None:
        super().__init__()
        self._cls = cls

    def load(self, path: str) -> ModelT:
        """Read a model.

        Raises
        ------
        ModelError
            If there is none, or not all of it.
        """
        spark = self.sparkSession
        try:
            metadata = DefaultParamsReader.loadMetadata(path, spark)
        except Exception as error:
            raise ModelError(f"{path} does not hold a model, or only part of one") from error
        name = f"{self._cls.__module__}.{self._cls.__name__}"
        if metadata["class"] != name:
            raise ModelError(f"{path} holds a {metadata['class']} and not a {name}")
        try:
            return self._model(path, metadata)
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path}/metadata is damaged, or of another version, at {error}; "
                "save the model again, or train it"
            ) from None

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
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model
