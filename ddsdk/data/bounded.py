"""Columns of parquet files, bounded by the machine's memory: a small file may decode to gigabytes."""

from __future__ import annotations

from typing import Any

from ddsdk.foundation import memory_limit, require_memory

_CELL = 64
"""Bytes in memory of a small cell as a Python value."""


def bounded_column(table: Any, column: str, name: str, group: int | None = None) -> Any:  # noqa: ANN401
    """Return one column of a parquet file as an arrow array in chunks, unless it would fill the machine's memory.

    A cell is no larger than its uncompressed column chunk, but a dictionary repeats a cell in many rows. The rows are
    therefore read in batches that fit the limit even if each cell is as large as its chunk, and their sizes are summed.
    A column that is too large is a ValueError.

    Args:
        table: Open file, a `pyarrow.parquet.ParquetFile`.
        column: Name of the column to read.
        name: Name of the file in messages.
        group: Number of the row group to read; None for all.
    """
    import pyarrow as pa

    metadata, limit = table.metadata, memory_limit()
    groups = range(metadata.num_row_groups) if group is None else (group,)
    what, batches, total = f"column {column!r} of {name!r}", [], 0
    require_memory(_CELL * sum(metadata.row_group(g).num_rows for g in groups), what)
    for g in groups:
        chunks = (metadata.row_group(g).column(i) for i in range(metadata.num_columns))
        parts = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] == column.split(".")[0]]
        largest = max([1, *(chunk.total_uncompressed_size for chunk in parts)])
        require_memory(largest, what)
        rows = max(1, min(1 << 16, limit // largest))
        for batch in table.iter_batches(rows, row_groups=[g], columns=[column]):
            total += batch.nbytes
            require_memory(total, what)
            batches.append(batch.column(column))
    return pa.chunked_array(batches, table.schema_arrow.field(column).type)
