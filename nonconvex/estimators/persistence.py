"""Estimators and models on disk: the parts of writing and reading that all of them share."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from dataclasses import MISSING, is_dataclass
from dataclasses import fields as fields_of
from textwrap import shorten
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, conlist, create_model
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReader, MLWriter
from pyspark.sql import SparkSession

from nonconvex.distributed.checkpoints import ModelCheckpoint
from nonconvex.distributed.files import (
    FileSystem,
    FileSystemError,
    publish,
    verify,
    write_checksums,
)
from nonconvex.distributed.runtime import explained
from nonconvex.local.files import ChecksumError
from nonconvex.local.model_tables import ModelError, reading_model

ModelT = TypeVar("ModelT", bound=Any)

_MOST_METADATA = 1 << 28  # bytes: a history of a million half-steps


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


class _Overwriting(MLWriter):
    """Writer that replaces a directory once the new one is complete, without a JVM here."""

    @explained()
    def save(self, path: str) -> None:
        """Write; `MLWriter.overwrite` replaces what is there, which a failure leaves as it was."""
        if not (isinstance(path, (str, os.PathLike)) and str(path)):
            raise ModelError(f"path must name a directory to write to, got {path!r}")
        path = os.fspath(path)
        files = FileSystem(self.sparkSession, path)
        if not self.shouldOverwrite:
            if files.exists(path) and files.names(path):
                raise ModelError(
                    f"{path} already exists; name another directory, or replace it by "
                    "write().overwrite().save(path)"
                )
            self.saveImpl(path)
            return
        try:
            with publish(self.sparkSession, path) as directory:
                self.saveImpl(directory)
        except FileSystemError as error:  # of a directory beside it, which nobody has named
            raise type(error)(f"{path} cannot be written: {error}") from None


class EstimatorWriter(_Overwriting, DefaultParamsWriter):
    """Writer of the Params of an estimator."""


class ModelWriter(_Overwriting, Generic[ModelT]):
    """Writer of a model, then its metadata, then the checksums that show that it is complete.

    At the end the checkpoint of the fit is removed, unless the option ``clearCheckpoint`` is False.
    """

    def __init__(self, model: ModelT) -> None:
        super().__init__()
        self._model = model

    def save(self, path: str) -> None:
        """Write the model; `MLWriter.overwrite` replaces a directory once that is done."""
        super().save(path)
        if self.optionMap.get("clearcheckpoint", "true").lower() != "false":
            self._model.clearCheckpoint()

    def saveImpl(self, path: str) -> None:
        """Write the model into a new or empty directory."""
        files = FileSystem(self.sparkSession, path)
        files.make_directory(path)  # fails in one sentence, and a task in 150 lines
        extra = self._write(path)
        # As `saveMetadata` does, without a job.
        text = DefaultParamsWriter._get_metadata_to_save(self._model, self.sparkSession, extra)
        files.write_text(f"{path}/metadata/part-00000", text + "\n")
        write_checksums(self.sparkSession, path)

    @abstractmethod
    def _write(self, path: str) -> dict[str, Any]:
        """Write all but the metadata; return what these hold beside the Params."""


class ModelReader(MLReader[ModelT]):
    """Reader of a directory with the metadata and the tables of a model of class `cls`."""

    def __init__(self, cls: type[ModelT]) -> None:
        super().__init__()
        self._cls = cls

    @explained()
    def load(self, path: str) -> ModelT:
        """Read a model."""
        metadata = _metadata(self._cls, path, self.sparkSession)
        try:
            verify(self.sparkSession, path)
        except ChecksumError as error:
            raise ModelError(f"{error}; save the model again, or train it") from None
        with reading_model(path):
            _check(metadata, self._schema, f"{path}/metadata")
            self._check_summary(metadata, f"{path}/metadata")
            model = self._make(path, metadata)
            model._resetUid(metadata["uid"])
            DefaultParamsReader.getAndSetParams(model, metadata)
            str(model.summary)  # which reads most of it
        return model

    _schema: ClassVar[type[ModelMetadata]]  # of the metadata
    _summary: ClassVar[type[BaseModel]]  # of the summary in them

    def _check_summary(self, metadata: dict[str, Any], place: str) -> None:
        """Raise an error for a summary that is not one of a fit."""
        summary = metadata["summary"]
        _check(summary, self._summary, place)
        if summary["best"] >= len(summary["restarts"]):
            raise ValueError("'best', which is none of the restarts")

    @abstractmethod
    def _make(self, path: str, metadata: dict[str, Any]) -> ModelT:
        """Make the model, without its Params; metadata that lack a key may raise KeyError."""


def schema_of(cls: Any, **types: Any) -> type[BaseModel]:
    """Return the schema of a dataclass or named tuple in JSON, with other types for some fields."""
    hints = get_type_hints(cls) | types
    if is_dataclass(cls):
        defaults = {f.name: ... if f.default is MISSING else f.default for f in fields_of(cls)}
    else:
        defaults = {name: cls._field_defaults.get(name, ...) for name in cls._fields}
    fields: dict[str, Any] = {name: (hints[name], value) for name, value in defaults.items()}
    return create_model(cls.__name__, __config__=ConfigDict(strict=True), **fields)


def summary_schema(summary: Any, restart: Any, step: Any, **types: Any) -> type[BaseModel]:
    """Return the schema of the summary of a fit, which has restarts, and steps in each."""
    history = conlist(schema_of(step), min_length=1)
    restarts = conlist(schema_of(restart, history=history), min_length=1)
    return schema_of(summary, restarts=restarts, best=NonNegativeInt, **types)


class ModelMetadata(BaseModel):
    """The metadata that every model has; other keys are ignored."""

    model_config = ConfigDict(strict=True)

    uid: str
    paramMap: dict[str, Any]
    defaultParamMap: dict[str, Any]
    summary: dict[str, Any]


def _check(metadata: dict[str, Any], schema: type[BaseModel], place: str) -> None:
    """Raise ModelError unless metadata fit their schema."""
    try:
        schema.model_validate_json(json.dumps(metadata))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, problem = ".".join(map(str, first["loc"])), first["msg"]
        got = "" if first["type"] == "missing" else f", got {shorten(repr(first['input']), 60)}"
        raise ModelError(
            f"{place} is damaged, or of another version, at {key!r} ({problem}{got}); save the "
            "model again, or train it"
        ) from None


class EstimatorReader(DefaultParamsReader[ModelT]):
    """Reader of an estimator that pyspark's writer of Params wrote."""

    @explained()
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
    files = FileSystem(spark, path)
    exists = files.exists(path)
    try:
        # As `DefaultParamsReader.loadMetadata` does, without a job, and without inflating a file.
        place = f"{path}/metadata"
        [name] = (name for name in files.names(place) if name.startswith("part-"))
        packed = name.endswith((".gz", ".bz2", ".zst", ".lz4", ".snappy", ".deflate"))
        if packed or files.sizes(place)[name] > _MOST_METADATA:
            raise ValueError(name)
        metadata: dict[str, Any] = json.loads(files.read_text(f"{place}/{name}"))
        if not isinstance(metadata.get("class"), str):
            raise ValueError(name)
    except Exception:  # of Java or the JSON, at length
        problem = f"there is no {kind} at {path}, nor anything else"
        if exists:
            problem = f"{path} does not hold a {kind}, or only part of one"
        raise ModelError(f"{problem}; give the directory that one was saved to") from None
    return metadata
