"""Columns of parquet files, bounded by the machine's memory: a small file may decode to gigabytes."""

from __future__ import annotations

from typing import Any

from ddsdk.foundation import memory_limit, require, require_memory

_CELL = 64
"""Bytes in memory of a small cell as a Python value."""


def bounded_column(table: Any, column: str, name: str, group: int | None = None) -> Any:  # noqa: ANN401
    """Return one column of a parquet file as an arrow array in chunks, unless it would fill the machine's memory.

    A cell is no larger than its uncompressed row group, but a dictionary repeats a cell in many rows. The rows are
    therefore read in batches that fit the limit even if each cell is as large as its group, and their sizes are summed.
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
    declared = sum(metadata.row_group(g).num_rows for g in groups)
    require_memory(_CELL * declared, what)
    for g in groups:
        # The metadata of a single column chunk is not read: damaged ones end the process inside of arrow.
        largest = max(1, metadata.row_group(g).total_byte_size)
        require_memory(largest, what)
        rows = max(1, min(1 << 16, limit // largest))
        for batch in table.iter_batches(rows, row_groups=[g], columns=[column]):
            total += batch.nbytes
            require_memory(total, what)
            batches.append(batch.column(column))
    found = sum(map(len, batches))
    require(found == declared, what, f"have the {declared} rows that the file declares", found)
    return pa.chunked_array(batches, table.schema_arrow.field(column).type)
