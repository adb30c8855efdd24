"""Where fits start: random factors, or those of an earlier model."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nonconvex.distributed.factorization.dataset import Ids
from nonconvex.distributed.rows import DistantFactors, DrawnRows
from nonconvex.numerics.factorization.model import Factors
from nonconvex.numerics.factorization.random_rows import RandomRows

__all__ = ["StartError", "random_start", "warm_start"]


class StartError(ValueError):
    """An earlier model that a fit cannot start from."""

    exit_status = 2


def random_start(
    ids: Ids,
    rank: int,
    *,
    alpha: float,
    scale: float,
    seed: int,
    restart: int,
    dtype: type[np.floating],
    nonnegative: bool,
    exchange: Literal["broadcast", "shuffle"] = "broadcast",
) -> Factors | DistantFactors:
    """Start from random rows, see `nonconvex.numerics.factorization.random_rows`.

    Where rows are exchanged by shuffle, each is drawn on the executor that has it.
    """
    users, items = (
        RandomRows(len(members), rank, scale, seed, restart, side, dtype, nonnegative)
        for side, members in enumerate(ids)
    )
    if exchange == "shuffle":
        return DistantFactors(alpha, DrawnRows(users), DrawnRows(items))
    return Factors(alpha, users.between(0, users.rows), items.between(0, items.rows))


def warm_start(
    old: Factors,
    old_ids: Ids,
    ids: Ids,
    rank: int,
    dtype: type[np.floating],
    *,
    intercept: bool,
    biases: bool,
) -> tuple[Factors, dict[str, dict[str, int]]]:
    """Take the rows of known ids from an earlier model, and start new ids from zero.

    So do α and the biases if this fit has none, which then stay there.

    Returns
    -------
    Factors
    dict
        For ``users`` and ``items``, how many ids were ``kept``, are ``new`` and are ``gone``.

    Raises
    ------
    StartError
        If the ranks or the types of ids differ, or no user is known.
    """
    if old.users.shape[1] - 1 != rank:
        raise StartError(
            f"the initial model has rank {old.users.shape[1] - 1} and this fit rank {rank}; "
            "they must be equal"
        )
    counts, rows = {}, []
    for side in ("users", "items"):
        known, place = _known(side, getattr(old_ids, side), getattr(ids, side))
        of_side = np.where(known[:, None], getattr(old, side)[place], 0).astype(dtype)
        of_side[:, 0] *= biases
        rows.append(of_side)
        kept = int(known.sum())
        gone = len(getattr(old_ids, side)) - kept
        counts[side] = {"kept": kept, "new": len(known) - kept, "gone": gone}
    if not counts["users"]["kept"]:
        raise StartError(
            "none of the users of the initial model are in the ratings; "
            "train without an initial model, or check the ids"
        )
    return Factors(old.alpha if intercept else 0.0, *rows), counts


def _known(
    side: str, old: pa.ChunkedArray, new: pa.ChunkedArray
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Which new ids are old, and where."""
    if old.type != new.type:
        raise StartError(
            f"the {side} of the initial model have ids of type {old.type} and those of the "
            f"ratings {new.type}; cast the ratings"
        )
    place = pc.index_in(new, value_set=old)
    return place.is_valid().to_numpy(), place.fill_null(0).to_numpy()
