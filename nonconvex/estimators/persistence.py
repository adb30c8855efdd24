"""Models on disk: what writing and reading them have in common, whatever the model."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReader, MLWriter
from pyspark.sql import SparkSession

from nonconvex.distributed.files.atomic import ChecksumError, verify, write_checksums
from nonconvex.distributed.files.hadoop import FileSystem
from nonconvex.distributed.model_tables import ModelError

__all__ = ["EstimatorReader", "ModelReader", "ModelWriter", "read_metadata"]

ModelT = TypeVar("ModelT", bound=Any)


class ModelWriter(MLWriter, Generic[ModelT]):
    """Writes a model, then its metadata, then the checksums that say that it is whole.

    Parameters
    ----------
    model : Model
    """

    def __init__(self, model: ModelT) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        """Write the model into a new directory.

        Raises
        ------
        ModelError
            If there is something at `path`.
        FileSystemError
            If `path` cannot be written.
        """
        files = FileSystem(self.sparkSession, path)
        if files.exists(path):
            raise ModelError(
                f"{path} already exists; name another directory, or replace it by "
                "write().overwrite().save(path)"
            )
        files.make_directory(path)  # where it cannot be, a task would say so in 150 lines
        extra = self._write(path)
        DefaultParamsWriter.saveMetadata(self._model, path, self.sparkSession, extra)
        write_checksums(self.sparkSession, path)

    @abstractmethod
    def _write(self, path: str) -> dict[str, Any]:
        """Write all but the metadata, and return what these hold beside the Params."""


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
            If there is none, not all of it, or a file of it is not as it was saved.
        FileSystemError
            If the file system of `path` cannot be reached.
        """
        metadata = _metadata(self._cls, path, self.sparkSession)
        try:
            verify(self.sparkSession, path)
        except ChecksumError as error:
            raise ModelError(f"{error}; save the model again, or train it") from None
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


class EstimatorReader(DefaultParamsReader[ModelT]):
    """Reads what pyspark's writer of Params wrote of an estimator.

    Parameters
    ----------
    cls : type
        Of the estimator.
    """

    def load(self, path: str) -> ModelT:
        """Read an estimator.

        Raises
        ------
        ModelError
            If there is none.
        """
        _metadata(self.cls, path, self.sparkSession)
        return super().load(path)


def _metadata(cls: type, path: str, spark: SparkSession) -> dict[str, Any]:
    """Read the metadata of a `cls`."""
    name = f"{cls.__module__}.{cls.__name__}"
    metadata = read_metadata(spark, path, cls.__name__)
    if metadata["class"] != name:
        raise ModelError(f"{path} holds a {metadata['class']} and not a {name}; load it as that")
    return metadata


def read_metadata(spark: SparkSession, path: str, kind: str = "model") -> dict[str, Any]:
    """Read what pyspark's writer of Params wrote about a model or an estimator.

    Parameters
    ----------
    spark : SparkSession
    path : str
    kind : str
        What there should be, for messages.

    Raises
    ------
    ModelError
        If there is none.
    FileSystemError
        If the file system of `path` cannot be reached.

    Examples
    --------
    >>> from nonconvex.pipeline.runs import find_model
    >>> read_metadata(spark, find_model(spark, "runs/films"))["class"]
    'nonconvex.recommendation.MatrixFactorizationModel'
    """
    there = FileSystem(spark, path).exists(path)
    try:
        metadata: dict[str, Any] = DefaultParamsReader.loadMetadata(path, spark)
    except Exception:  # of Spark, Java or the JSON, at length
        lacking = f"there is no {kind} at {path}, nor anything else"
        if there:
            lacking = f"{path} does not hold a {kind}, or only part of one"
        raise ModelError(f"{lacking}; give the directory that one was saved to") from None
    return metadata
