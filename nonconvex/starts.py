"""Where fits start: random factors, or those of an earlier model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nonconvex.distributed.training import Ids
from nonconvex.numerics.factorization import Factors, initial_rows

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
) -> Factors:
    """Draw β = 0 and γ ~ N(0, scale²), or |γ|, for every id.

    The numbers depend on the seed, the restart, the side and the dense index, so restart r of a
    run is the same whatever other restarts there are.
    """
    rows = []
    for side, members in enumerate(ids):
        sequence = np.random.SeedSequence(seed & (2**64 - 1), spawn_key=(restart, side))
        drawn = initial_rows(len(members), rank, scale, np.random.default_rng(sequence))
        rows.append((np.abs(drawn) if nonnegative else drawn).astype(dtype))
    return Factors(alpha, *rows)


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
