"""Estimators and models on disk: the parts of writing and reading that all of them share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReader, MLWriter
from pyspark.sql import SparkSession

from nonconvex.distributed.checkpoints import ModelCheckpoint
from nonconvex.distributed.files import FileSystem, verify, write_checksums
from nonconvex.local.files import ChecksumError
from nonconvex.local.model_tables import ModelError

ModelT = TypeVar("ModelT", bound=Any)


class KeepsCheckpoint:
    """Model that keeps the checkpoint of its fit until it is saved."""

    _checkpoint: ModelCheckpoint | None = None

    def clearCheckpoint(self) -> None:
        """Remove the checkpoint of the fit, which saving the model does, too.

        Until then the same fit, run again, takes its result from there.  For a model that is not
        to be saved, or was saved with ``write().option("clearCheckpoint", False)``.  Of models that
        were fitted together, the last one removes it.  Does nothing without a checkpoint.
        """
        kept, self._checkpoint = self._checkpoint, None
        if kept is not None:
            kept.release()


class ModelWriter(MLWriter, Generic[ModelT]):
    """Writer of a model, then its metadata, then the checksums that show that it is complete.

    At the end the checkpoint of the fit is removed, unless the option ``clearCheckpoint`` is False.
    """

    def __init__(self, model: ModelT) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        """Write the model into a new directory."""
        files = FileSystem(self.sparkSession, path)
        if files.exists(path):
            raise ModelError(
                f"{path} already exists; name another directory, or replace it by "
                "write().overwrite().save(path)"
            )
        files.make_directory(path)  # fails in one sentence, and a task in 150 lines
        extra = self._write(path)
        # As `saveMetadata` does, without a job.
        text = DefaultParamsWriter._get_metadata_to_save(self._model, self.sparkSession, extra)
        files.write_text(f"{path}/metadata/part-00000", text + "\n")
        write_checksums(self.sparkSession, path)
        if self.optionMap.get("clearcheckpoint", "true").lower() != "false":
            self._model.clearCheckpoint()

    @abstractmethod
    def _write(self, path: str) -> dict[str, Any]:
        """Write all but the metadata; return what these hold beside the Params."""


class ModelReader(MLReader[ModelT]):
    """Reader of a directory with the metadata and the tables of a model of class `cls`."""

    def __init__(self, cls: type[ModelT]) -> None:
        super().__init__()
        self._cls = cls

    def load(self, path: str) -> ModelT:
        """Read a model."""
        metadata = _metadata(self._cls, path, self.sparkSession)
        try:
            verify(self.sparkSession, path)
        except ChecksumError as error:
            raise ModelError(f"{error}; save the model again, or train it") from None
        try:
            model = self._make(path, metadata)
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
    def _make(self, path: str, metadata: dict[str, Any]) -> ModelT:
        """Make the model, without its Params; metadata that lack a key may raise KeyError."""


class EstimatorReader(DefaultParamsReader[ModelT]):
    """Reader of an estimator that pyspark's writer of Params wrote."""

    def load(self, path: str) -> ModelT:
        """Read an estimator."""
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
    """Read the metadata of a model or an estimator, called `kind` in messages."""
    exists = FileSystem(spark, path).exists(path)
    try:
        metadata: dict[str, Any] = DefaultParamsReader.loadMetadata(path, spark)
    except Exception:  # of Spark, Java or the JSON, at length
        problem = f"there is no {kind} at {path}, nor anything else"
        if exists:
            problem = f"{path} does not hold a {kind}, or only part of one"
        raise ModelError(f"{problem}; give the directory that one was saved to") from None
    return metadata
