"""Why a model predicts what it does for one user and one item."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from nonconvex.distributed.columns import check_frame
from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.estimators.factorization.params import FactorizationModelParams
from nonconvex.estimators.factorization.summary import TrainingSummary
from nonconvex.estimators.params import ParamError
from nonconvex.numerics.factorization.blocks import RatingBlock
from nonconvex.numerics.factorization.explain import contributions
from nonconvex.numerics.factorization.model import Background, Factors, Ridge, preferences
from nonconvex.numerics.factorization.posterior import Posterior

__all__ = ["Explainer", "Explanation", "Reason"]


@dataclass(frozen=True)
class Reason:
    """One rating of the user, and what it adds to γ_u·γ_i.

    Parameters
    ----------
    item : str or number
    rating : float
    contribution : float
        In the units of ratings; above 0 if it raises the prediction.
    """

    item: Any
    rating: float
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """R̂_ui = α + β_u + β_i + γ_u·γ_i, term by term.

    Parameters
    ----------
    user, item : str or number
    prediction : float
        The sum of the four terms, not clipped.
    global_bias, user_bias, item_bias : float
        α, β_u and β_i, where that of an id which training has not seen is 0.
    interaction : float
        γ_u·γ_i.
    reasons : tuple of Reason
        Every rating of the user, from the one that adds or takes most.
    rest : float
        What of the interaction no rating of the user carries: about 0 where the row of the user is
        at its minimum, as after "als"; with ``implicitPrefs`` what all items that the user has
        nothing to do with take away; for a sampled model what its kept samples do not tell.
    """

    user: Any
    item: Any
    prediction: float
    global_bias: float
    user_bias: float
    item_bias: float
    interaction: float
    reasons: tuple[Reason, ...]
    rest: float

    def text(self, n: int = 5, names: Mapping[Any, str] | None = None) -> str:
        """Return the explanation as lines to read, with the `n` ratings that matter most.

        Parameters
        ----------
        n : int
        names : mapping, optional
            What to call items, by id.

        Examples
        --------
        >>> reasons = (Reason(7, 9.0, 0.5), Reason(8, 3.0, -0.125), Reason(9, 6.0, 0.025))
        >>> why = Explanation("ann", 5, 8.0, 7.0, 0.25, 0.35, 0.4, reasons, 0.0)
        >>> print(why.text(2, {5: "Alien", 7: "Aliens"}))
        Alien for ann: 8.00
          7.00  α, the level of all ratings
         +0.25  β_u, how high ann rates
         +0.35  β_i, how high Alien is rated
         +0.40  γ_u·γ_i, how they go together, of which
                  +0.50  Aliens, rated 9
                  -0.12  8, rated 3
                  +0.03  1 other rating
        """
        called = {**(names or {})}

        def name(item: Any) -> str:
            return str(called.get(item, item))

        lines = [
            f"{name(self.item)} for {self.user}: {self.prediction:.2f}",
            f"{self.global_bias:6.2f}  α, the level of all ratings",
            f"{self.user_bias:+6.2f}  β_u, how high {self.user} rates",
            f"{self.item_bias:+6.2f}  β_i, how high {name(self.item)} is rated",
        ]
        others = self.reasons[n:]
        parts = [
            (reason.contribution, f"{name(reason.item)}, rated {reason.rating:g}")
            for reason in self.reasons[:n]
        ]
        if others:
            ratings = "rating" if len(others) == 1 else "ratings"
            parts.append((sum(r.contribution for r in others), f"{len(others)} other {ratings}"))
        if abs(self.rest) >= 0.005:
            parts.append((self.rest, "not of single ratings"))
        which = ", of which" if parts else ""
        lines.append(f"{self.interaction:+6.2f}  γ_u·γ_i, how they go together{which}")
        lines += [f"{'':8}{amount:+6.2f}  {what}".rstrip() for amount, what in parts]
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return `text` with its defaults."""
        return self.text()


class Explainer(FactorizationModelParams):
    """What explains single predictions of a factorization."""

    _ids: Ids
    _summary: TrainingSummary
    _posterior: Posterior | None
    _implicit: bool
    _training_pairs: DataFrame | None
    _histories: Sequence[DataFrame]  # of ratings; the first that has a user has all of its ratings

    @property
    @abstractmethod
    def factors(self) -> Factors:
        """All parameters as arrays."""

    @abstractmethod
    def _ratings(self, dataset: DataFrame) -> DataFrame:
        """Select ``user, item, rating`` and, if training was weighted, ``weight``."""

    def explain(self, user: Any, item: Any, history: DataFrame | None = None) -> Explanation:
        """Say what a prediction is made of, and which ratings of the user it comes from.

        With the items as they are, the row of a user is linear in the user's ratings, so γ_u·γ_i
        is a sum with a term for each of them (see
        `nonconvex.numerics.factorization.explain`): exactly so
        for a model that "als" made, whose last step solves for the users; nearly for other
        solvers; and for a sampled model as the mean over its kept samples.

        Parameters
        ----------
        user, item : str or number
            Ids, as they were in training; one that the model does not know has β = 0 and γ = 0.
        history : DataFrame, optional
            All ratings of the user that the model has learned from, in the columns of training;
            those of other users are ignored.  By default they are read again from the dataframe
            that was fitted or folded in, which a model that was loaded does not have.

        Returns
        -------
        Explanation

        Raises
        ------
        ParamError
            For an id of another type, for an ensemble, whose rows are means of several models, and
            if the model was loaded and there is no `history`.

        Examples
        --------
        >>> print(model.explain(413, "Gravity").text(2))
        Gravity for 413: 7.70
          7.44  α, the level of all ratings
         -0.47  β_u, how high 413 rates
         +0.53  β_i, how high Gravity is rated
         +0.19  γ_u·γ_i, how they go together, of which
                 +0.09  Now You See Me, rated 5
                 +0.07  The Hangover Part III, rated 4
                 +0.03  10 other ratings
        """
        if self.getOrDefault("ensemble"):
            raise ParamError(
                "an ensemble predicts the mean of several models, which no one row of the user "
                "explains; fit with ensemble=False"
            )
        places = [
            _place(role, value, ids)
            for role, value, ids in zip(("user", "item"), (user, item), self._ids, strict=True)
        ]
        rows = [
            side[place] if place >= 0 else np.zeros_like(side[0])
            for side, place in zip(self.factors[1:], places, strict=True)
        ]
        x, z = (row.astype(np.float64) for row in rows)
        interaction = float(x[1:] @ z[1:])
        items, block = self._history(user, history) if places[0] >= 0 else ([], None)
        carried = np.zeros(len(items))
        if block is not None and places[1] >= 0:
            carried = self._carried(block, *places)
        reasons = sorted(
            map(Reason, items, [] if block is None else block.ratings.tolist(), carried.tolist()),
            key=lambda reason: (-abs(reason.contribution), str(reason.item)),
        )
        alpha, beta_u, beta_i = self.factors.alpha, float(x[0]), float(z[0])
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
        self, user: Any, history: DataFrame | None
    ) -> tuple[list[Any], RatingBlock | None]:
        """Return the known items that a user has rated, and these ratings as a block of one row."""
        if history is not None:
            check_frame("history", history, "a DataFrame or None")
        histories = self._histories if history is None else [self._ratings(history)]
        found = None
        for ratings in histories:
            found = ratings.where(F.col("user") == F.lit(user)).drop("user").toArrow()
            if len(found):
                break
        if history is None and self._training_pairs is None and not found:
            raise ParamError(
                f"an explanation needs the ratings of user {user!r}, which this model does not "
                "have as it was loaded; pass history=a DataFrame of them"
            )
        if not found:
            return [], None
        known = pc.index_in(found["item"], value_set=self._ids.items)
        found, columns = found.filter(known.is_valid()), known.drop_null()
        if not len(found):
            return [], None
        weights = found["weight"].to_numpy() if "weight" in found.column_names else None
        block = RatingBlock.from_triples(
            np.zeros(len(found), np.int32), columns.to_numpy(), found["rating"].to_numpy(), weights
        )
        return self._ids.items.take(pa.array(block.columns)).to_pylist(), block

    def _carried(self, block: RatingBlock, user: int, item: int) -> NDArray[np.float64]:
        """Return what each rating adds to γ_u·γ_i."""
        get, summary, posterior = self.getOrDefault, self._summary, self._posterior
        if posterior is not None:
            parts = []
            for number in range(len(posterior.taus)):
                sample = posterior.sample(number)
                items = sample.factors.items
                precision = sample.tau * sample.user_precision[user]
                penalty = sample.users.precision / precision
                alpha = sample.factors.alpha
                parts.append(contributions(block, items, alpha, penalty, _target(items[item])))
            carried: NDArray[np.float64] = np.mean(parts, axis=0)
            return carried
        _, users, items = self.factors
        alpha, background = self.factors.alpha, None
        if self._implicit:
            block = preferences(block, get("confidence"))
            background = Background.of(items, alpha, biases=get("fitBiases"))
        ridge = Ridge(
            summary.reg_user,
            summary.reg_exponent,
            summary.total,
            summary.total / summary.users,
            summary.bias_reg_ratio,
        )
        free = None
        if get("nonnegative"):
            free = users[user] > 0
            free[0] = True
        return contributions(
            block,
            items,
            alpha,
            np.diag(ridge.diagonal(block.degrees, items.shape[1])[0]),
            _target(items[item]),
            biases=get("fitBiases"),
            free=free,
            background=background,
        )


def _target(row: NDArray[np.floating]) -> NDArray[np.float64]:
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
