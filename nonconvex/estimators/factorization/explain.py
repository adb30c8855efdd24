"""Explanation of one prediction: its terms, and what each rating of the user contributes."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.columns import check_frame
from nonconvex.estimators.factorization.evaluate import select_as_in_training
from nonconvex.estimators.factorization.params import FactorizationModelParams
from nonconvex.estimators.factorization.predict import ModelState
from nonconvex.estimators.params import ParamError
from nonconvex.numerics import Doubles, Floats
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.explain import contributions
from nonconvex.numerics.factorization.model import Background, Side, preference_block


@dataclass(frozen=True)
class Reason:
    """One rating of the user, and what it adds to γ_u·γ_i."""

    item: Any
    rating: float
    contribution: float  # in the units of ratings; above 0 if it raises the prediction


@dataclass(frozen=True)
class Explanation:
    """R̂_ui = α + β_u + β_i + γ_u·γ_i, term by term."""

    user: Any
    item: Any
    prediction: float  # the sum of the four terms, not clipped
    # α, β_u and β_i; the bias of an id that is not in the training data is 0
    global_bias: float
    user_bias: float
    item_bias: float
    interaction: float  # γ_u·γ_i
    reasons: tuple[Reason, ...]  # every rating of the user, by falling size of its contribution
    # the interaction minus all contributions: about 0 if the row of the user is at its minimum, as
    # after "als"; with ``implicitPrefs`` the contribution of all items without feedback; for a
    # sampled model the difference between all samples and the kept ones
    rest: float

    def text(self, n: int = 5, names: Mapping[Any, str] | None = None) -> str:
        """Return lines of text, with the `n` ratings that contribute most.

        Examples
        --------
        >>> reasons = (Reason(7, 9.0, 0.5), Reason(8, 3.0, -0.125), Reason(9, 6.0, 0.025))
        >>> why = Explanation("ann", 5, 8.0, 7.0, 0.25, 0.35, 0.4, reasons, 0.0)
        >>> print(why.text(2, {5: "Alien", 7: "Aliens"}))
        Alien for ann: 8.00
          7.00  α, the mean level of ratings
         +0.25  β_u, the bias of ann
         +0.35  β_i, the bias of Alien
         +0.40  γ_u·γ_i, the interaction, from
                  +0.50  Aliens, rated 9
                  -0.12  8, rated 3
                  +0.03  1 other rating
        """
        called = names or {}
        item = called.get(self.item, self.item)
        parts = [
            (one.contribution, f"{called.get(one.item, one.item)}, rated {one.rating:g}")
            for one in self.reasons[:n]
        ]
        others = [reason.contribution for reason in self.reasons[n:]]
        if others:
            parts.append((sum(others), f"{len(others)} other rating{'s'[: len(others) - 1]}"))
        if abs(self.rest) >= 0.005:
            parts.append((self.rest, "not from single ratings"))
        lines = [
            f"{item} for {self.user}: {self.prediction:.2f}",
            f"{self.global_bias:6.2f}  α, the mean level of ratings",
            f"{self.user_bias:+6.2f}  β_u, the bias of {self.user}",
            f"{self.item_bias:+6.2f}  β_i, the bias of {item}",
            f"{self.interaction:+6.2f}  γ_u·γ_i, the interaction{', from' if parts else ''}",
            *(f"{'':8}{amount:+6.2f}  {source}".rstrip() for amount, source in parts),
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return `text` with its defaults."""
        return self.text()

    def _repr_html_(self) -> str:
        """Return the text for a notebook."""
        return f"<pre>{html.escape(self.text())}</pre>"


def explain_prediction(
    state: ModelState,
    params: FactorizationModelParams,
    user: Any,
    item: Any,
    history: DataFrame | None,
) -> Explanation:
    """Split a prediction into its terms; see ``MatrixFactorizationModel.explain``."""
    if params.getOrDefault("ensemble"):
        raise ParamError(
            "an ensemble predicts the mean of several models, which no one row of the user "
            "explains; fit with ensemble=False"
        )
    places = [
        _place(role, value, ids)
        for role, value, ids in zip(("user", "item"), (user, item), state.ids, strict=True)
    ]
    alpha, *sides = state.factors
    x, z = (
        side[place].astype(np.float64) if place >= 0 else np.zeros(side.shape[1])
        for side, place in zip(sides, places, strict=True)
    )
    interaction = float(x[1:] @ z[1:])
    items: list[Any] = []
    block = None
    if places[0] >= 0:
        items, block = _history(state, params, user, history)
    carried = np.zeros(len(items))
    if block is not None and places[1] >= 0:
        carried = _contributions(state, params, block, *places)
    ratings = [] if block is None else block.ratings.tolist()
    reasons = list(map(Reason, items, ratings, carried.tolist()))
    reasons.sort(key=lambda reason: (-abs(reason.contribution), str(reason.item)))
    beta_u, beta_i = float(x[0]), float(z[0])
    return Explanation(
        user=user,
        item=item,
        prediction=alpha + beta_u + beta_i + interaction,
        global_bias=float(alpha),
        user_bias=beta_u,
        item_bias=beta_i,
        interaction=interaction,
        reasons=tuple(reasons),
        rest=interaction - float(carried.sum()),
    )


def _history(
    state: ModelState, params: FactorizationModelParams, user: Any, history: DataFrame | None
) -> tuple[list[Any], RatingBlock | None]:
    """Return the known items that a user has rated, and these ratings as a block of one row."""
    histories = state.histories
    if history is not None:
        check_frame("history", history, "a DataFrame or None")
        histories = (select_as_in_training(state, params, history),)
    found = None
    for ratings in histories:
        found = ratings.where(F.col("user") == F.lit(user)).drop("user").toArrow()
        if len(found):
            break
    if history is None and state.training_pairs is None and not found:
        raise ParamError(
            f"an explanation needs the ratings of user {user!r}, which a loaded model does not "
            "have; pass history=a DataFrame of them"
        )
    if not found:
        return [], None
    known = pc.index_in(found["item"], value_set=state.ids.items)
    found, columns = found.filter(known.is_valid()), known.drop_null()
    if not len(found):
        return [], None
    weights = found["weight"].to_numpy() if "weight" in found.column_names else None
    block = RatingBlock.from_triples(
        np.zeros(len(found), np.int32), columns.to_numpy(), found["rating"].to_numpy(), weights
    )
    return state.ids.items.take(pa.array(block.columns)).to_pylist(), block


def _contributions(
    state: ModelState, params: FactorizationModelParams, block: RatingBlock, user: int, item: int
) -> Doubles:
    """Return what each rating adds to γ_u·γ_i."""
    get, posterior = params.getOrDefault, state.posterior
    if posterior is not None:
        parts = []
        for number in range(len(posterior.taus)):
            sample = posterior.sample(number)
            alpha, _, items = sample.factors
            precision = sample.tau * sample.user_precision[user]
            penalty = sample.users.precision / precision
            parts.append(contributions(block, items, alpha, penalty, _target(items[item])))
        mean: Doubles = np.mean(parts, axis=0)
        return mean
    alpha, users, items = state.factors
    biases, background, free = get("fitBiases"), None, None
    if get("implicitPrefs"):
        block = preference_block(block, get("confidence"))
        background = Background.of(items, alpha, biases=biases)
    if get("nonnegative"):
        free = users[user] > 0
        free[0] = True
    penalty = np.diag(state.summary.ridge(Side.USERS).diagonal(block.degrees, items.shape[1])[0])
    options: dict[str, Any] = {"biases": biases, "free": free, "background": background}
    return contributions(block, items, alpha, penalty, _target(items[item]), **options)


def _target(row: Floats) -> Doubles:
    """Return (0, γ) of the row (β, γ)."""
    target = row.astype(np.float64)
    target[0] = 0.0
    return target


def _place(role: str, value: Any, ids: pa.ChunkedArray) -> int:
    """Return the dense index of an id, -1 for one that is not there."""
    refusal = f"{role} must be an id as in training, of type {ids.type}, got {value!r}"
    try:
        wanted = pa.scalar(value, ids.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        raise ParamError(refusal) from None
    if value is None or wanted.as_py() != value or isinstance(value, bool):  # 9.5 as an integer
        raise ParamError(refusal)
    found = pc.index_in(pa.array([wanted]), value_set=ids)[0].as_py()
    return -1 if found is None else int(found)
