"""Models on disk: what reading them has in common, whatever the model."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeVar

from pyspark.ml.util import DefaultParamsReader, MLReader

from nonconvex.distributed.storage import ModelError

__all__ = ["ModelReader"]

ModelT = TypeVar("ModelT", bound=Any)


class ModelReader(MLReader[ModelT]):
    """Reads a directory with the metadata of a model, and what else there is of it.

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
        try:
            metadata = DefaultParamsReader.loadMetadata(path, self.sparkSession)
        except Exception as error:
            raise ModelError(f"{path} does not hold a model, or only part of one") from error
        name = f"{self._cls.__module__}.{self._cls.__name__}"
        if metadata["class"] != name:
            raise ModelError(f"{path} holds a {metadata['class']} and not a {name}")
        try:
            model = self._model(path, metadata)
            model._resetUid(metadata["uid"])
            DefaultParamsReader.getAndSetParams(model, metadata)
        except ModelError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ModelError(
                f"{path}/metadata is damaged, or of another version, at {error}; "
                "save the model again, or train it"
            ) from None
        return model

    @abstractmethod
    def _model(self, path: str, metadata: dict[str, Any]) -> ModelT:
        """Make the model, without its Params; what metadata lack may raise a KeyError."""
