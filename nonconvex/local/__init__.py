"""Saved models read with pyarrow and numpy alone: no Java, no session, and no pyspark.

For services, notebooks and tests. The numbers are those of the same model on Spark, to the bit.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nonconvex.local.factorization import LocalFactorization
    from nonconvex.local.network import LocalNetwork


def read_model(path: str | os.PathLike[str]) -> LocalFactorization | LocalNetwork:
    """Read a saved model.

    Parameters
    ----------
    path : path
        The directory of a model, of a run, or of runs, whose published model is then read. A URI
        of a file system that pyarrow knows, such as ``s3://bucket/model``, is read there.

    Returns
    -------
    LocalFactorization or LocalNetwork

    Raises
    ------
    ModelError
        If there is no model, or not a whole one: files and checksums are compared.

    Examples
    --------
    >>> films = load("runs/films")  # what a job has published
    >>> films
    LocalFactorization(users=40, items=20, rank=2)
    >>> rated = [row["item"] for row in ratings.where("user = 413").collect()]
    >>> len(films.recommend(413, 3, exclude=rated))
    3
    >>> round(films.explain(413, "Gravity", ratings.toArrow()).prediction, 2)
    7.7
    """
    from nonconvex.local.files import Directory
    from nonconvex.local.model_tables import ModelError, reading_model, saved_model

    directory, metadata = saved_model(Directory.at(os.fspath(path)))
    name = metadata["class"].rpartition(".")[2]
    own = metadata["class"].startswith("nonconvex.")
    if own and name in ("ALSModel", "MatrixFactorizationModel"):
        from nonconvex.local.factorization import LocalFactorization

        with reading_model(directory.path):
            return LocalFactorization.of(directory, metadata)
    if name.startswith("MultilayerPerceptron"):
        from nonconvex.local.network import LocalNetwork

        with reading_model(directory.path):
            return LocalNetwork.of(directory, metadata)
    raise ModelError(f"{path} holds a {metadata['class']}, which is no model of this package")


load = read_model
"""`read_model`, by its short name: ``nonconvex.local.load``."""
