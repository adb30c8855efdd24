"""Tables of models as Arrow: the checks of what was read, and models found in directories."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nonconvex.local.files import ChecksumError, Directory, parse_json, verify_files
from nonconvex.numerics import Floats, Ints

POINTER = "published.json"
"""The small file of a directory of runs that names the run whose model is the published one."""

FACTOR_TYPES = {
    "index": "int",
    "id": "",
    "bias": "float double",
    "features": "array<float> array<double>",
}

ReadFactors = Callable[[str, int, Sequence[str]], tuple[pa.ChunkedArray, Floats, dict[str, Floats]]]
"""A table by its name, number of rows and further columns: ids, rows (β, γ) and these columns."""

ReadEnd = Callable[[str, int], bytes]
"""The last bytes of a file of a table, by its name: at most so many."""

_REMEDY = "save the model again, or train it"
_FOOTER = 1 << 16  # bytes at the end of a file that nearly always hold its footer
_LONGEST_FOOTER = 1 << 26
# A table of more bytes than this that takes a hundredth of them on disk is none of a model.
_SUSPECT, _DENSEST = 1 << 26, 100
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4}  # bytes of a number; others have 8 or more


class ModelError(ValueError):
    """A directory that does not hold a whole model."""

    exit_status = 3


def factors_in(
    table: pa.Table, path: str, rows: int, more: Sequence[str] = ()
) -> tuple[pa.ChunkedArray, Floats, dict[str, Floats]]:
    """Return ids (m,), rows (m, 1 + K) and more columns (m,) of a table of factors, by index.

    Raise `ModelError` if they are not `rows` rows.
    """
    ids, features = table["id"], table["features"].combine_chunks()
    check_index(path, table, rows)
    if ids.null_count or len(ids.unique()) != rows:
        raise ModelError(f"{path} has null ids, or an id twice; {_REMEDY}")
    flat, width = features.flatten(), len(features.flatten()) // rows
    lengths = None if features.null_count else numbers_in(features.value_lengths())
    if lengths is None or (lengths != width).any():
        raise ModelError(f"{path} has rows with other numbers of features; {_REMEDY}")
    values, bias = finite_in(path, flat), finite_in(path, table["bias"])
    x = np.empty((rows, 1 + len(values) // rows), values.dtype)
    x[:, 0] = bias
    x[:, 1:] = values.reshape(rows, -1)
    return ids, x, {name: finite_in(path, table[name]) for name in more}


def check_index(path: str, table: pa.Table, rows: int) -> None:
    """Raise `ModelError` unless a table has the rows 0, 1, …, in order."""
    index = table["index"]
    if index.null_count or not np.array_equal(numbers_in(index), np.arange(rows)):
        raise ModelError(f"{path} does not hold the rows 0 to {rows - 1:,}; {_REMEDY}")


def finite_in(path: str, column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return numbers of a table; raise `ModelError` if one is null, NaN or infinite."""
    values = None if column.null_count else numbers_in(column)
    if values is None or not np.isfinite(values).all():
        raise ModelError(f"{path} has numbers that are null, NaN or infinite; {_REMEDY}")
    return values


def check_footers(path: str, sizes: Mapping[str, int], read_end: ReadEnd, rows: int) -> int | None:
    """Refuse files that are not of `rows` rows, or far larger than they look, by their footers.

    `sizes` are those of all files of a table by name.  Return the bytes of the files if their
    strings may be longer than these say, else None.
    """
    found = total = decoded = texts = 0
    for name, size in sizes.items():
        if name.startswith(("_", ".")):
            continue
        if "/" in name:
            raise ModelError(f"{path} has a directory, {name.split('/')[0]!r}; {_REMEDY}")
        footer = _footer(name, read_end)
        found, total = found + footer.num_rows, total + size
        for group in range(footer.num_row_groups):
            for number in range(footer.num_columns):
                column = footer.row_group(group).column(number)
                decoded += column.num_values * _WIDTHS.get(column.physical_type, 8)
                if column.physical_type == "BYTE_ARRAY":
                    texts += column.num_values * column.total_uncompressed_size
    if not total:
        raise ModelError(f"{path} cannot be read as part of a model: there are no files; {_REMEDY}")
    if found != rows:
        raise ModelError(
            f"{path} holds {found:,} rows and not the {rows:,} of the model; {_REMEDY}"
        )
    check_density(path, decoded, total)
    return total if texts > max(_SUSPECT, _DENSEST * total) else None


def check_density(path: str, decoded: int, size: int) -> None:
    """Refuse a table that takes far more memory than its files have bytes."""
    if decoded > max(_SUSPECT, _DENSEST * size):
        raise ModelError(
            f"{path} has {size:,} bytes, and would take {decoded:,} in memory, as no model does; "
            f"{_REMEDY}"
        )


def _footer(name: str, read_end: ReadEnd) -> Any:
    import pyarrow.parquet as pq

    end = read_end(name, _FOOTER)
    wanted = int.from_bytes(end[-8:-4], "little") + 12  # the footer, its length, magic at both ends
    if len(end) < wanted <= _LONGEST_FOOTER:
        end = read_end(name, wanted)
    return pq.read_metadata(pa.BufferReader(end))


def numbers_in(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return numbers without nulls; unlike ``to_numpy``, this does not import pandas."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.from_dlpack(whole)


def arrow_ids(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Return ids as an array of Arrow; unlike ``pyarrow.array``, this does not import pandas.

    Raise ValueError, TypeError or an error of Arrow for a value of another type.
    """
    if pa.types.is_integer(kind):
        buffers = [np.array(values, str(kind))]
    elif pa.types.is_string(kind):
        texts = [str.encode(value) for value in values]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int32)
        buffers = [ends, np.frombuffer(b"".join(texts), np.uint8)]
    else:
        return pa.array(values, kind)
    found = pa.Array.from_buffers(kind, len(values), [None, *map(pa.py_buffer, buffers)])
    if found.to_pylist() != values:  # 9.5 as an integer
        raise ValueError(values)
    return found


def find_ids(ids: pa.Array | pa.ChunkedArray, among: pa.ChunkedArray) -> Ints:
    """Return the place of each id among others, -1 for none; without pandas, as `numbers_in`."""
    found = pc.index_in(ids, value_set=among)
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    if not len(found):
        return np.zeros(0, np.int32)
    places = np.frombuffer(found.buffers()[1], np.int32, len(found), 4 * found.offset)
    return np.where(numbers_in(found.is_valid().cast(pa.int8())), places, np.int32(-1))


def read_ordered(directory: Directory, name: str, types: Mapping[str, str], rows: int) -> pa.Table:
    """Read a table of a model in the order of its column ``index``, of these columns and rows."""
    path = f"{directory.path}/{name}"

    def read_end(file: str, count: int) -> bytes:
        return directory.read_end(f"{path}/{file}", count)

    try:
        check_footers(path, directory.sizes(path), read_end, rows)
        table = directory.read_table(name).select(list(types))
    except (OSError, KeyError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} cannot be read as part of a model: {reason}") from None
    return in_order(path, table, types, rows)


def in_order(path: str, table: pa.Table, types: Mapping[str, str], rows: int) -> pa.Table:
    """Return a table of a model in the order of ``index``, if its columns have these types."""
    for field in table.schema:
        allowed, kind = types[field.name].split(), _kind(field.type)
        if allowed and kind not in allowed:
            raise ModelError(
                f"{path} has {field.name} as {kind} and not as {' or '.join(allowed)}; {_REMEDY}"
            )
    table = table.sort_by("index")
    check_index(path, table, rows)
    return table


def _kind(of: pa.DataType) -> str:
    if pa.types.is_list(of) or pa.types.is_large_list(of):
        return f"array<{_kind(of.value_type)}>"
    return {"int32": "int", "int64": "bigint"}.get(str(of), str(of))


def params_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all Params of a saved model."""
    return {**metadata["defaultParamMap"], **metadata["paramMap"]}


def merge_rows(
    ids: pa.ChunkedArray, rows: Floats, new: pa.ChunkedArray, new_rows: Floats
) -> tuple[pa.ChunkedArray, Floats]:
    """Replace the rows of known ids, and insert new ids in order."""
    place = pc.index_in(new, value_set=ids)
    there = place.is_valid().to_numpy()
    rows = rows.copy()
    rows[place.drop_null().to_numpy()] = new_rows[there]
    merged = pa.chunked_array([*ids.chunks, *new.filter(pa.array(~there)).chunks])
    order = pc.sort_indices(merged)
    return merged.take(order), np.concatenate([rows, new_rows[~there]])[order.to_numpy()]


@contextmanager
def reading_model(path: str) -> Iterator[None]:
    """Turn whatever metadata of wrong keys, types or values lead to into one `ModelError`."""
    try:
        yield
    except ModelError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        problem = " ".join(str(error).split())
        raise ModelError(
            f"{path}/metadata is damaged, or of another version, at {problem}; {_REMEDY}"
        ) from None


def saved_model(directory: Directory) -> tuple[Directory, dict[str, Any]]:
    """Find the model of a directory of runs, of a run or of its own, and read its metadata."""
    path, found = directory.path, directory
    if directory.exists(POINTER):
        try:
            run = parse_json(directory.read_text(f"{path}/{POINTER}"))["run_id"]
            if not re.fullmatch(r"[\w-]+", run):
                raise ValueError(run)
        except (OSError, ValueError, TypeError, KeyError):
            raise ModelError(f"{path}/{POINTER} is damaged: train again") from None
        found = directory.of(f"run_id={run}/model")
    elif directory.exists("model/metadata"):
        found = directory.of("model")
    if not found.exists("metadata"):
        there = "does not hold a model" if directory.exists("") else "is not there"
        raise ModelError(f"{path} {there}; give the directory that a model was saved to")
    try:
        parts = [name for name in found.sizes(f"{found.path}/metadata") if name[:4] == "part"]
        metadata = parse_json(found.read_text(f"{found.path}/metadata/{min(parts)}"))
        str.partition(metadata["class"], ".")
    except (OSError, ValueError, TypeError, KeyError):
        raise ModelError(f"{found.path} holds only part of a model; save it again") from None
    try:
        verify_files(found, found.path)
    except ChecksumError as error:
        raise ModelError(f"{error}; {_REMEDY}") from None
    return found, metadata
