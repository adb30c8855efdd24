"""Arrow tables as bytes, as they travel within other columns and between processes."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["from_bytes", "to_bytes"]


def to_bytes(table: pa.Table) -> bytes:
    """Write a table as a stream of Arrow.

    Examples
    --------
    >>> from_bytes(to_bytes(pa.table({"id": [3, 4]})))["id"].to_pylist()
    [3, 4]
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def from_bytes(content: bytes | pa.Buffer) -> pa.Table:
    """Read what `to_bytes` wrote."""
    with pa.ipc.open_stream(content) as stream:
        return stream.read_all()
