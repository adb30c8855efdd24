"""Top-N and similarity: the methods of a model that make lists."""

from __future__ import annotations

import operator
from abc import abstractmethod
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from nonconvex.distributed.columns import check_frame
from nonconvex.distributed.factorization.top_n import (
    ModelSide,
    Ranker,
    keys,
    neighbours,
    recommendations,
    requests,
)
from nonconvex.estimators.factorization.params import FactorizationModelParams

__all__ = ["Recommender", "positive"]


class Recommender(FactorizationModelParams):
    """What makes lists of the ids of one side for those of the other.

    Lists are ordered by prediction, in float64 and not clipped, and equal predictions by id.  They
    depend on nothing else: not on batches, partitions, or who else is asked for.  A task holds
    both sides' factors, 10,000 rows (``spark.sql.execution.arrow.maxRecordsPerBatch``) with what
    is excluded for them, and some 10 megabytes of scores; the driver holds nothing that grows
    with the lists.

    ``exclude`` is a dataframe of pairs, with columns named by ``userCol`` and ``itemCol``, that no
    list may hold; or ``"train"``, the pairs that the model was trained on, which it reads again
    from the dataframe that was fitted, and does not have if it was loaded.  ``candidates`` is a
    dataframe of what alone may be in a list: of ids that all may get, or of pairs if it has both
    columns.  Ids in them that the model does not know are ignored.

    A list is shorter than n, or empty, where no more is left.
    """

    _training_pairs: DataFrame | None  # users and items, in this order

    @property
    @abstractmethod
    def globalBias(self) -> float:
        """The global bias α."""

    @abstractmethod
    def _sides(self, spark: SparkSession) -> tuple[ModelSide, ModelSide]:
        """Users and items, shared with the executors."""

    @abstractmethod
    def _limits(self) -> tuple[float, float] | None:
        """What predictions are clipped to."""

    def recommendForAllUsers(
        self,
        n: int,
        exclude: DataFrame | str | None = None,
        candidates: DataFrame | None = None,
    ) -> DataFrame:
        """Return the n best items for every user of the model.

        Parameters
        ----------
        n : int
            At least 1.
        exclude : DataFrame or "train", optional
            Pairs that no list may hold.
        candidates : DataFrame, optional
            Items, or pairs of a user and an item, that lists may hold; by default all items.

        Returns
        -------
        DataFrame
            ``<userCol>, recommendations``, an array of structs ``<itemCol>, rating`` in the order
            of falling predictions; ``rating`` is a float.

        Examples
        --------
        >>> lists = model.recommendForAllUsers(3, exclude="train")
        >>> [film.item for film in lists.where("user = 413").first().recommendations]
        ['Silver Linings Playbook', 'Gravity', 'Argo']
        """
        return self._recommend(n, None, exclude, candidates)

    def recommendForAllItems(
        self,
        n: int,
        exclude: DataFrame | str | None = None,
        candidates: DataFrame | None = None,
    ) -> DataFrame:
        """Return the n best users for every item, as `recommendForAllUsers` does the reverse."""
        return self._recommend(n, None, exclude, candidates, reverse=True)

    def recommendForUserSubset(
        self,
        dataset: DataFrame,
        n: int,
        exclude: DataFrame | str | None = None,
        candidates: DataFrame | None = None,
    ) -> DataFrame:
        """Return the n best items for the users in a dataframe.

        Parameters
        ----------
        dataset : DataFrame
            With the column ``userCol``.  A user who is there several times gets one row, and null
            gets none.  A user whom the model does not know is recommended by α + β_i if
            ``coldStartStrategy`` is "bias", and else is left out, as in MLlib.
        n, exclude, candidates
            As for `recommendForAllUsers`, as is what is returned.
        """
        check_frame("dataset", dataset)
        return self._recommend(n, dataset, exclude, candidates)

    def recommendForItemSubset(
        self,
        dataset: DataFrame,
        n: int,
        exclude: DataFrame | str | None = None,
        candidates: DataFrame | None = None,
    ) -> DataFrame:
        """Return the n best users for the items in a dataframe; see `recommendForUserSubset`."""
        check_frame("dataset", dataset)
        return self._recommend(n, dataset, exclude, candidates, reverse=True)

    def similarItems(self, n: int, subset: DataFrame | None = None) -> DataFrame:
        """Return the n items that are most similar to each item, by the cosine of their γ.

        An item is not similar to itself, and one with γ = 0 to none.

        Parameters
        ----------
        n : int
            At least 1.
        subset : DataFrame, optional
            Items to look at, by default all of the model; those that it does not know are left
            out.

        Returns
        -------
        DataFrame
            ``<itemCol>, similar``, an array of structs ``<itemCol>, similarity`` in falling
            order, equal ones by id; ``similarity`` is a float.
        """
        return self._similar(n, subset, 1)

    def similarUsers(self, n: int, subset: DataFrame | None = None) -> DataFrame:
        """Return the n users that are most similar to each user; see `similarItems`."""
        return self._similar(n, subset, 0)

    def _recommend(
        self,
        n: int,
        subset: DataFrame | None,
        exclude: DataFrame | str | None,
        candidates: DataFrame | None,
        *,
        reverse: bool = False,
    ) -> DataFrame:
        n, pairs = positive("n", n), self._pairs(exclude)
        if candidates is not None:
            check_frame("candidates", candidates, "a DataFrame or None")
        spark = SparkSession.active()
        sides = self._sides(spark)
        rows, columns = sides[::-1] if reverse else sides
        asked = keys(spark, rows, subset, unknown=self._cold())
        ranker = Ranker(self.globalBias, rows.rows, columns.rows, n, None)
        asked, ranker = requests(asked, ranker, rows, columns, exclude=pairs, candidates=candidates)
        return recommendations(asked, ranker, rows, columns, self._limits())

    def _similar(self, n: int, subset: DataFrame | None, side: int) -> DataFrame:
        n = positive("n", n)
        if subset is not None:
            check_frame("subset", subset, "a DataFrame or None")
        spark = SparkSession.active()
        own = self._sides(spark)[side]
        return neighbours(keys(spark, own, subset, unknown=False), own, n)

    def _cold(self) -> bool:
        """Whether ids that the model does not know get lists."""
        return bool(self.getOrDefault("coldStartStrategy") == "bias")

    def _pairs(self, exclude: DataFrame | str | None) -> DataFrame | None:
        if exclude is None or isinstance(exclude, DataFrame):
            return exclude
        if exclude != "train":
            raise ValueError(f"exclude must be a DataFrame, 'train' or None, got {exclude!r}")
        if self._training_pairs is None:
            raise ValueError(
                "exclude='train' needs the pairs of training, which this model does not have as it "
                "was loaded; pass exclude=a DataFrame of them, or None"
            )
        return self._training_pairs.toDF(self.getOrDefault("userCol"), self.getOrDefault("itemCol"))


def positive(name: str, value: Any) -> int:
    """Return an argument as an integer ≥ 1, or raise."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be an integer ≥ 1, got {value!r}")
    return number
