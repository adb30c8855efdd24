"""A factorization without Spark, and what Spark's has in common with it: reading, folding."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nonconvex.local.files import Directory
from nonconvex.local.model_tables import (
    FACTOR_TYPES,
    ModelError,
    ReadFactors,
    arrow_ids,
    factors_in,
    find_ids,
    merge_rows,
    params_of,
    read_ordered,
)
from nonconvex.numerics import Doubles, Floats, Ints
from nonconvex.numerics.convergence import FitError
from nonconvex.numerics.deterministic import Kernel, Totals, choose_kernel
from nonconvex.numerics.factorization.blocks import RatingBlock, RatingsError
from nonconvex.numerics.factorization.explain import Explanation, explain_row
from nonconvex.numerics.factorization.fold_in import (
    Equation,
    FoldInParts,
    Solve,
    Uncertainty,
    folded,
    unfolded,
)
from nonconvex.numerics.factorization.gibbs import USER_FREEDOM, RowDistribution
from nonconvex.numerics.factorization.model import Factors, Ridge, Side, predict
from nonconvex.numerics.factorization.posterior import Posterior, half_width
from nonconvex.numerics.factorization.ridge_posterior import ResidualStats, RidgePosterior
from nonconvex.numerics.factorization.vb import Covariances, VariationalPosterior
from nonconvex.numerics.metrics import EvaluationError, add_errors, evaluation_of
from nonconvex.numerics.ranking import Lists, list_metrics, mean_metrics, top_n

TABLES = {Side.USERS: "userFactors", Side.ITEMS: "itemFactors"}
"""The directories of the factors in that of a model."""

_log = logging.getLogger("nonconvex")


class FactorizationParts(NamedTuple):
    """All that is saved of a factorization but its Params."""

    factors: Factors
    ids: tuple[pa.ChunkedArray, pa.ChunkedArray]  # of users and of items, in the order of the rows
    summary: dict[str, Any]
    posterior: Posterior | None
    ridge_posterior: Uncertainty | None


def factorization_parts(metadata: Mapping[str, Any], read: ReadFactors) -> FactorizationParts:
    """Read the parts of a factorization; metadata that lack a key may raise KeyError."""
    bias, noise, summary = metadata["globalBias"], metadata.get("noise"), metadata["summary"]
    if not (isinstance(bias, float | int) and math.isfinite(bias)):
        raise ValueError(f"globalBias, which is {bias!r} and no finite number")
    if noise is not None and not (isinstance(noise, float) and 0 <= noise < math.inf):
        raise ValueError(f"noise, which is {noise!r} and no finite number ≥ 0")
    more = ((), ()) if noise is None else (("degree", "noise"), ("degree",))
    (users, x, of_users), (items, z, of_items) = (
        read(name, rows, columns)
        for name, rows, columns in zip(TABLES.values(), metadata["rows"], more, strict=True)
    )
    if x.shape[1] != z.shape[1]:
        raise ValueError(f"rows, as users have {x.shape[1] - 1} factors and items {z.shape[1] - 1}")
    ridge_posterior: Uncertainty | None = None
    if noise is not None:
        stats = ResidualStats(of_users["degree"], of_items["degree"], of_users["noise"])
        ridges = ridge_of(summary, Side.USERS), ridge_of(summary, Side.ITEMS)
        ridge_posterior = RidgePosterior(stats, noise, *ridges, params_of(metadata)["fitBiases"])
    if metadata.get("inference") is not None:
        sides = zip(Side, metadata["rows"], strict=True)
        covariances = Covariances(*(read(f"{one}Covariances", n, ())[1] for one, n in sides))
        ridge_posterior = VariationalPosterior.restore(covariances, metadata["inference"])
    posterior = None if metadata.get("samples") is None else _posterior(metadata, read)
    factors = Factors(float(bias), x, z)
    return FactorizationParts(factors, (users, items), summary, posterior, ridge_posterior)


def _posterior(metadata: Mapping[str, Any], read: ReadFactors) -> Posterior:
    samples = metadata["samples"]
    (_, users, _), (_, items, _) = (
        read(f"{side}Samples", rows, ()) for side, rows in zip(Side, metadata["rows"], strict=True)
    )
    alphas, taus = (np.array(samples[name]) for name in ("alphas", "taus"))
    width = len(taus) * len(samples["usersRows"][0]["slope"])
    if (users.shape[1], items.shape[1]) != (width + len(taus), width):
        raise ValueError(f"samples, whose rows are not {width:,} numbers wide")
    users, user_precision = np.split(users, [users.shape[1] - len(taus)], axis=1)
    user_rows, item_rows = (
        [
            RowDistribution.centered(
                np.array(one["slope"]), np.array(one["precision"]), one["least"]
            )
            for one in samples[f"{side}Rows"]
        ]
        for side in Side
    )
    seed, kappa = samples["seed"], samples.get("userFreedom", USER_FREEDOM)
    rows = user_rows, item_rows, seed, math.inf if kappa is None else kappa
    return Posterior(alphas, taus, users, items, user_precision, *rows)


def ridge_of(summary: Mapping[str, Any], side: Side) -> Ridge:
    """Return the ridge of a side, from the fields of the summary of a fit."""
    reg = summary["reg_user" if side == Side.USERS else "reg_item"]
    total, rows = summary["total"], summary[side.value]
    return Ridge(reg, summary["reg_exponent"], total, total / rows, summary["bias_reg_ratio"])


# Folding in


def refuse_unusable(total: int, unusable: int, ignored: int, noun: str) -> None:
    """Refuse ratings to fold in, and log how many are ignored: their `noun` is unknown."""
    if unusable:
        raise RatingsError(
            f"{unusable:,} of the {total:,} ratings to fold in have a null id, or a rating or "
            "weight that is not a finite number, or a negative weight; drop or fix them"
        )
    if ignored == total:
        raise RatingsError(
            f"none of the {total:,} ratings to fold in is of one of the {noun}s that the model "
            f"knows; give ratings of those, or train again"
        )
    if ignored:
        _log.info("ignored %d of %d ratings: their %ss are not in the model", ignored, total, noun)


def solve_ratings(
    table: pa.Table, solve: Solve, dtype: type[np.floating]
) -> tuple[pa.Array, Floats]:
    """Solve for the rows of ``id, column, rating[, weight]``; return their ids and rows."""
    coded = table.combine_chunks()["id"].chunk(0).dictionary_encode()
    weights = table["weight"] if "weight" in table.column_names else None
    triples = (coded.indices, table["column"], table["rating"], weights)
    block = RatingBlock.from_triples(*triples, dtype=dtype)
    return coded.dictionary, solve(block, coded.dictionary.to_pylist).astype(dtype)


def merge_folded(
    side: Side, ids: pa.ChunkedArray, rows: Floats, new: pa.ChunkedArray, solved: Floats
) -> tuple[pa.ChunkedArray, Floats]:
    """Put solved rows in the place of those of the same ids, and between the others."""
    if not np.isfinite(solved).all():
        raise FitError(
            f"folding in made {side} that are not finite; check that the ratings are on the scale "
            "of training"
        )
    merged, whole = merge_rows(ids, rows, new, solved)
    _log.info("folded in %d %s, %d of them new", len(new), side, len(merged) - len(ids))
    return merged, whole


# The model


def history_block(
    history: pa.Table, items: pa.ChunkedArray
) -> tuple[list[Any], RatingBlock | None]:
    """Return the known items in ``item, rating[, weight]``, and these ratings as one row."""
    column = pc.index_in(history["item"], value_set=items)
    known, columns = history.filter(column.is_valid()), column.drop_null()
    if not len(known):
        return [], None
    weights = known["weight"] if "weight" in known.column_names else None
    row = np.zeros(len(known), np.int32)
    block = RatingBlock.from_triples(row, columns, known["rating"], weights)
    return items.take(pa.array(block.columns)).to_pylist(), block


class _Held(NamedTuple):
    value: Floats


@dataclass(frozen=True)
class LocalFactorization:
    """A factorization read by `nonconvex.local.load`.

    R̂_ui = α + β_u + β_i + γ_u·γ_i, with β = 0 and γ = 0 for an unknown id unless the Param
    ``coldStartStrategy`` was "nan" or "drop", which give NaN.  Ratings are given as whatever
    ``pyarrow.table`` takes: a table, a dict of columns, a dataframe of pandas or polars.  Their
    columns have the names of training: ``params["userCol"]`` and the like.
    """

    params: Mapping[str, Any]
    parts: FactorizationParts

    @classmethod
    def of(cls, directory: Directory, metadata: Mapping[str, Any]) -> LocalFactorization:
        """Read the tables of a model."""

        def read(
            name: str, rows: int, more: Sequence[str]
        ) -> tuple[pa.ChunkedArray, Floats, dict[str, Floats]]:
            types = {**FACTOR_TYPES, **dict.fromkeys(more, "float double")}
            table = read_ordered(directory, name, types, rows)
            return factors_in(table, f"{directory.path}/{name}", rows, more)

        return cls(params_of(metadata), factorization_parts(metadata, read))

    def __repr__(self) -> str:
        """Return the size of the model."""
        users, items = map(len, self.parts.ids)
        rank = self.parts.factors.users.shape[1] - 1
        return f"LocalFactorization(users={users:,}, items={items:,}, rank={rank})"

    def predict(self, users: Any, items: Any) -> Doubles:
        """Predict ratings of n pairs, as ``transform`` does.

        Parameters
        ----------
        users, items : sequences of n ids, or one id each
        """
        return self._predict(*self._places(users, items))

    def deviations(self, users: Any, items: Any) -> Doubles:
        """Return the standard deviations of the ratings of n pairs, as ``predictionStdCol`` does.

        With the Param ``predictionNoise=False``, they are of the mean ratings.
        """
        return self._deviations(*self._places(users, items))

    def intervals(self, users: Any, items: Any, level: float | None = None) -> Doubles:
        """Return lower and upper ends of intervals, of shape (n, 2), as ``predictionIntervalCol``.

        `level` is the share of ratings in them, by default the Param ``predictionInterval``.
        """
        pairs = self._places(users, items)
        wanted = self.params["predictionInterval"] if level is None else level
        reach = half_width(wanted) * self._deviations(*pairs)
        predicted = self._predict(*pairs)
        return self._clipped(np.column_stack([predicted - reach, predicted + reach]))

    def recommend(
        self, user: Any, n: int = 10, *, exclude: Any = (), candidates: Any = None
    ) -> list[tuple[Any, float]]:
        """Return the n best items for a user and their predictions, the best first.

        Parameters
        ----------
        exclude : sequence of ids of items
            Items that are not wanted, such as those that the user has rated.
        candidates : sequence of ids of items, optional
            The items to choose from; by default all.
        """
        place = self._one(Side.USERS, user)
        if place < 0 and self.params["coldStartStrategy"] != "bias":
            return []
        unwanted = self._known(Side.ITEMS, exclude)
        lists = Lists(np.array([0, len(unwanted)]), unwanted)
        allowed = None if candidates is None else self._known(Side.ITEMS, candidates)
        places = np.array([place], np.int32)
        given: dict[str, Any] = {"excluded": lists, "kernel": self._kernel}
        found = top_n(self.parts.factors, places, n, columns=allowed, **given)
        items = [self.parts.ids[1][column].as_py() for column in found.columns.tolist()]
        scores = self._clipped(found.scores).astype(np.float32).tolist()
        return list(zip(items, scores, strict=True))

    def explain(self, user: Any, item: Any, history: Any) -> Explanation:
        """Explain a prediction by its terms, and by the ratings of the user in `history`.

        See ``MatrixFactorizationModel.explain``; ratings of other users are ignored.
        """
        if self.params["ensemble"]:
            raise ModelError(
                "an ensemble predicts the mean of several models, which no one row of the user "
                "explains; fit with ensemble=False"
            )
        places = self._one(Side.USERS, user), self._one(Side.ITEMS, item)
        items: list[Any] = []
        block = None
        if places[0] >= 0:
            found = self._ratings(history)
            found = found.filter(pc.equal(found["user"], pa.scalar(user, self.parts.ids[0].type)))
            items, block = history_block(found, self.parts.ids[1])
        ridge = ridge_of(self.parts.summary, Side.USERS)
        equation = Equation.of(ridge, self.params.__getitem__)
        factors, posterior = self.parts.factors, self.parts.posterior or self.parts.ridge_posterior
        return explain_row((user, item), places, factors, posterior, equation, items, block)

    def fold_in_users(self, ratings: Any) -> LocalFactorization:
        """Return a model with new or changed users, given *all* their ratings.

        See ``MatrixFactorizationModel.foldInUsers``, whose rows these are.
        """
        return self._fold_in(ratings, Side.USERS)

    def fold_in_items(self, ratings: Any) -> LocalFactorization:
        """Return a model with new or changed items, given *all* their ratings."""
        return self._fold_in(ratings, Side.ITEMS)

    def evaluate(
        self, ratings: Any, k: int = 10, *, threshold: float | None = None, exclude: Any = None
    ) -> dict[str, float]:
        """Measure predictions and top-k lists, as ``MatrixFactorizationModel.evaluate`` does.

        `exclude` has the pairs that no list may hold, such as those of training; none by default.
        """
        table, params = self._ratings(ratings), self.params
        values = table["rating"].to_numpy()
        if not np.isfinite(values).all():
            raise RatingsError(
                f"{np.count_nonzero(~np.isfinite(values)):,} of the {len(values):,} ratings to "
                "evaluate with are null or NaN; drop them"
            )
        implicit, totals = params["implicitPrefs"], Totals()
        predicted = self._predict(*(self._index(side, table[side.singular]) for side in Side))
        none = np.zeros(len(values), np.int64)
        actual = (values > 0).astype(float) if implicit else values
        weights = table["weight"].to_numpy() if "weight" in table.column_names else None
        add_errors(totals, actual, predicted[None], weights, none, none)
        evaluation = evaluation_of(totals, ["prediction"])
        errors = evaluation.overall
        if threshold is not None:
            table = table.filter(pc.greater_equal(table["rating"], threshold))
        elif implicit:
            table = table.filter(pc.greater(table["rating"], 0.0))
        lists = self._measure_lists(table, k, exclude)
        return {
            "rmse": errors.rmse["prediction"],
            "mae": errors.mae["prediction"],
            "ratings": errors.ratings,
            "unpredicted": evaluation.unpredicted,
            **lists,
            "k": k,
        }

    def _measure_lists(self, relevant: pa.Table, k: int, exclude: Any) -> dict[str, float]:
        pairs = relevant.select(["user", "item"]).drop_null()
        users = pc.unique(pairs["user"])
        places = self._index(Side.USERS, users)
        if self.params["coldStartStrategy"] != "bias":
            users, places = users.filter(pa.array(places >= 0)), places[places >= 0]
        if not len(users):
            raise EvaluationError(
                "there is nobody to rank for, as nothing is relevant for any user that can be "
                "ranked for: lower the threshold, or give ratings of users that the model knows"
            )
        wanted, total = self._lists(users, pairs)
        excluded = None
        if exclude is not None:
            excluded, _ = self._lists(users, self._table(exclude, ["user", "item"]).drop_null())
        ranked = top_n(self.parts.factors, places, k, excluded=excluded, kernel=self._kernel)
        of_users = list_metrics(ranked.lists, wanted, total, k)
        return mean_metrics(of_users, ranked.columns, len(self.parts.ids[1]))

    def _lists(self, users: pa.Array, pairs: pa.Table) -> tuple[Lists, Ints]:
        """Return the known items of each user, each once, and the number of all its items."""
        pairs = pairs.group_by(["user", "item"]).aggregate([])
        row = pc.index_in(pairs["user"], value_set=users)
        there = row.is_valid()
        row = row.filter(there).to_numpy()
        column = self._index(Side.ITEMS, pairs["item"].filter(there))
        return Lists.of(row, column, len(users)), np.bincount(row, minlength=len(users))

    def _fold_in(self, given: Any, side: Side) -> LocalFactorization:
        parts, params = self.parts, self.params
        table, noun = self._ratings(given), side.other.singular
        column = pc.index_in(table[noun], value_set=parts.ids[side.other.number])
        numbers = [table[name].to_numpy() for name in table.column_names[2:]]
        bad = pc.or_(table["user"].is_null(), table["item"].is_null()).to_numpy()
        for values in numbers:
            bad = bad | ~np.isfinite(values)
        if len(numbers) > 1:
            bad = bad | (numbers[1] < 0)
        refuse_unusable(len(table), int(bad.sum()), column.null_count, noun)
        table = table.rename_columns(
            ["id" if name == side.singular else name for name in table.column_names]
        )
        used = table.append_column("column", column).filter(column.is_valid())
        equation = Equation.of(ridge_of(parts.summary, side), params.__getitem__, self._kernel)
        changing = FoldInParts(parts.factors, parts.posterior, parts.ridge_posterior)
        fixed = _Held(getattr(parts.posterior or parts.factors, side.other))
        before, solve = unfolded(side, changing, fixed, equation)
        new, solved = solve_ratings(used, solve, before.dtype.type)
        own, merged = list(parts.ids), side.number
        ids, whole = merge_folded(side, own[merged], before, pa.chunked_array([new]), solved)
        own[merged] = ids
        changed = folded(side, changing, whole)._asdict()
        return replace(self, parts=parts._replace(ids=tuple(own), **changed))

    @property
    def _kernel(self) -> Kernel:
        return choose_kernel(self.params.get("kernel", "auto"))

    def _predict(self, users: Ints, items: Ints) -> Doubles:
        predicted = self._clipped(predict(self.parts.factors, users, items, kernel=self._kernel))
        if self.params["coldStartStrategy"] != "bias":
            predicted[np.minimum(users, items) < 0] = np.nan
        return predicted

    def _clipped(self, values: Doubles) -> Doubles:
        limits = limits_of(self.params, self.parts.summary)
        return values if limits is None else np.clip(values, *limits)

    def _deviations(self, users: Ints, items: Ints) -> Doubles:
        parts, noisy = self.parts, self.params["predictionNoise"]
        if parts.posterior is not None:
            kept = parts.posterior
            more = kept.user_precision if noisy else None
            found = kept.spread().deviations(kept.users, kept.items, more, users, items)
        elif parts.ridge_posterior is None:
            raise ModelError(
                "deviations and intervals are not for this model, which was trained with "
                "implicitPrefs, nonnegative, ensemble or a ridge of 0, or is one of several kept "
                "restarts"
            )
        else:
            spread, (_, x, z) = self._spread._replace(of_ratings=noisy), parts.factors
            found = spread.deviations(x, z, parts.ridge_posterior.measured, users, items)
        if self.params["coldStartStrategy"] != "bias":
            found[np.minimum(users, items) < 0] = np.nan
        return found

    @cached_property
    def _spread(self) -> Any:
        assert self.parts.ridge_posterior is not None
        return self.parts.ridge_posterior.spread(self.parts.factors)

    def _places(self, users: Any, items: Any) -> tuple[Ints, Ints]:
        one, two = (
            self._index(side, self._ids(side, ids))
            for side, ids in ((Side.USERS, users), (Side.ITEMS, items))
        )
        if len(one) != len(two):
            raise RatingsError(
                f"users and items must be as many, got {len(one)} and {len(two)}: a pair for each"
            )
        return one, two

    def _index(self, side: Side, ids: Any) -> Ints:
        """Return the index of each id, -1 for one that is unknown or null."""
        return find_ids(ids, self.parts.ids[side.number])

    def _one(self, side: Side, value: Any) -> int:
        return int(self._index(side, self._ids(side, [value]))[0])

    def _known(self, side: Side, ids: Any) -> Ints:
        """Return the indices of those ids that the model knows, ascending, each once."""
        places = self._index(side, self._ids(side, ids))
        return np.unique(places[places >= 0])

    def _ids(self, side: Side, values: Any) -> pa.Array:
        """Return ids in the type of training."""
        kind = self.parts.ids[side.number].type
        if isinstance(values, str | bytes | int | float):
            values = [values]
        try:
            if isinstance(values, list | tuple):
                return arrow_ids(list(values), kind)
            if not isinstance(values, pa.Array | pa.ChunkedArray):
                values = pa.array(values, from_pandas=True)
            return values.cast(kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            text = repr(values.to_pylist() if hasattr(values, "to_pylist") else values)
            shown = text if len(text) <= 60 else f"{text[:57]}…"
            raise RatingsError(
                f"{side} must be ids as in training, of type {kind}, got {shown}"
            ) from None

    def _table(self, given: Any, names: Sequence[str]) -> pa.Table:
        """Return the columns of training, under the names ``user, item, rating, weight``."""
        table = given if isinstance(given, pa.Table) else pa.table(given)
        columns = {}
        for name in names:
            column = self.params[f"{name}Col"]
            if column not in table.column_names:
                raise RatingsError(
                    f"there is no column {column!r} for {name}Col: the columns are "
                    f"{', '.join(table.column_names) or 'none'}"
                )
            columns[name] = table[column]
        for side in Side:
            columns[side.singular] = self._ids(side, columns[side.singular])
        for name in names[2:]:
            try:
                columns[name] = columns[name].cast(pa.float64())
            except (pa.ArrowException, TypeError):
                kind = columns[name].type
                raise RatingsError(f"{name}Col must be numbers, got {kind}; cast them") from None
        return pa.table(columns)

    def _ratings(self, given: Any) -> pa.Table:
        weighted = self.params.get("weightCol") is not None
        return self._table(given, ["user", "item", "rating", *["weight"] * weighted])


def limits_of(params: Mapping[str, Any], summary: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the range that predictions are clipped to, if they are."""
    if not params["clipPredictions"]:
        return None
    if params["implicitPrefs"]:
        return 0.0, 1.0
    return summary["minimum"], summary["maximum"]
