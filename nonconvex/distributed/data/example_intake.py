"""Examples as they are read: what can be used of a table, and why the rest cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nonconvex.distributed.data.examples import ExampleColumns, ExamplesError, Outline
from nonconvex.distributed.data.vectors import Vectors, read_vectors

__all__ = ["Accepted", "read_examples", "refuse"]

_NAMED = 3  # features that a message names


class Accepted(NamedTuple):
    """The usable examples of a table.

    Attributes
    ----------
    x : float64 array of shape (m, d)
    y : float64 array of shape (m, k), or int32 array of shape (m,) with the indices of classes
    weight : float64 array of shape (m,), or None
    held_out : bool array of shape (m,)
    """

    x: NDArray[np.float64]
    y: NDArray[Any]
    weight: NDArray[np.float64] | None
    held_out: NDArray[np.bool_]

    def take(self, rows: NDArray[Any]) -> Accepted:
        """Return some of the rows, given by number in their order, or by a mask."""
        weight = None if self.weight is None else self.weight[rows]
        return Accepted(self.x[rows], self.y[rows], weight, self.held_out[rows])


def read_examples(table: pa.Table, outline: Outline) -> tuple[Accepted, Counter[str]]:
    """Read a table of examples.

    Parameters
    ----------
    table : pyarrow.Table
        Of what `nonconvex.distributed.data.examples.select_examples` returns.
    outline : Outline

    Returns
    -------
    Accepted
    Counter
        How many rows were refused, and why, for `refuse`.  Of two tables they can be added.
    """
    features = read_vectors(_column(table, "features"), outline.features)
    reasons = _complaints("features", features, outline.features)
    good = features.finite
    y: NDArray[Any]
    if outline.classes is None:
        labels = read_vectors(_column(table, "label"), outline.targets)
        reasons.update(_complaints("label", labels, outline.targets))
        y, right = labels.values, labels.finite
    else:
        kind = pa.string() if outline.classes.kind == "string" else pa.float64()
        index = pc.index_in(_column(table, "label"), pa.array(outline.classes.values, kind))
        y = index.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
        right = y >= 0
        reasons["changed"] = int((~right).sum())
    good &= right
    weight = None
    if "weight" in table.column_names:
        weight = read_vectors(_column(table, "weight"), 1).values[:, 0]
        right = np.isfinite(weight) & (weight >= 0)
        reasons["weight"] = int((~right).sum())
        good &= right
    held_out = np.zeros(len(table), bool)
    if "held_out" in table.column_names:
        held_out = _column(table, "held_out").to_numpy(zero_copy_only=False).astype(bool)
    accepted = Accepted(features.values, y, weight, held_out)
    return (accepted if good.all() else accepted.take(good)), +reasons


def refuse(
    reasons: Mapping[str, int], columns: ExampleColumns, outline: Outline, before: str = "fit"
) -> None:
    """Raise an error that says what is wrong with examples, if anything is.

    Parameters
    ----------
    reasons : mapping
        From `read_examples`.
    columns : ExampleColumns
        What the columns are called.
    outline : Outline
    before : str
        What they are to be used for.

    Raises
    ------
    ExamplesError
    """
    found = []
    for what, names, width in (
        ("features", columns.features, outline.features),
        ("label", columns.label, outline.targets),
    ):
        role = f"{what}Col={names!r}" if isinstance(names, str) else f"{what}Col"
        if count := reasons.get(f"{what}.null"):
            found.append(f"{role} is null in {count:,} rows")
        if count := reasons.get(f"{what}.finite"):
            where = _where(reasons, what, columns) if what == "features" else ""
            found.append(f"{role} is null, NaN or infinite in {count:,} rows{where}")
        lengths = sorted(
            int(key.rpartition(".")[2]) for key in reasons if key.startswith(f"{what}.length.")
        )
        if lengths:
            count = sum(reasons[f"{what}.length.{length}"] for length in lengths)
            shown = ", ".join(map(str, lengths[:_NAMED])) + (", …" if lengths[_NAMED:] else "")
            found.append(f"{role} has {shown} entries in {count:,} rows and {width} in others")
    if count := reasons.get("weight"):
        found.append(
            f"weightCol={columns.weight!r} is null, NaN, infinite or negative in {count:,} rows"
        )
    if found:
        raise ExamplesError(
            f"{' and '.join(found)}, of {outline.rows + outline.held_out:,} in all; "
            f"drop or fill them before {before}"
        )
    if count := reasons.get("changed"):
        raise ExamplesError(
            f"labelCol={columns.label!r} has labels in {count:,} rows that it did not have a "
            "moment ago; the dataframe gives other rows each time: cache it, or write it to Parquet"
        )


def _where(reasons: Mapping[str, int], what: str, columns: ExampleColumns) -> str:
    prefix = f"{what}.finite."
    counts = {int(k.removeprefix(prefix)): n for k, n in reasons.items() if k.startswith(prefix)}
    if isinstance(columns.features, str) and len(counts) > 10 * _NAMED:
        return ""  # whole vectors, no single feature is the culprit
    worst: Sequence[int] = sorted(counts, key=lambda index: (-counts[index], index))
    named = [f"{columns.feature_name(index)} in {counts[index]:,}" for index in worst[:_NAMED]]
    return f" ({', '.join(named)}{', …' if worst[_NAMED:] else ''})"


def _complaints(what: str, vectors: Vectors, width: int) -> Counter[str]:
    """Count what is wrong with vectors: ``<what>.null``, ``.length.<n>``, ``.finite[.<j>]``."""
    found: Counter[str] = Counter()
    right = vectors.lengths == width
    if vectors.finite.all():
        return found
    for length, count in zip(*np.unique(vectors.lengths[~right], return_counts=True), strict=True):
        found[f"{what}.null" if length < 0 else f"{what}.length.{length}"] = int(count)
    infinite = ~np.isfinite(vectors.values[right])
    found[f"{what}.finite"] = int(infinite.any(axis=1).sum())
    for index in np.flatnonzero(infinite.any(axis=0)):
        found[f"{what}.finite.{index}"] = int(infinite[:, index].sum())
    return found


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
