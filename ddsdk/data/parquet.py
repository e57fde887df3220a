"""Reader of parquet files with encoded pictures and class ids, as image data sets on the Hugging Face Hub have them."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import torch

from ddsdk.data.bounded import bounded_column
from ddsdk.data.pictures import Pictures, UnreadablePictureError
from ddsdk.data.raw import Raw
from ddsdk.data.splits import KINDS, split_kinds_in, usual_names
from ddsdk.foundation import MissingExtraError, require

T = TypeVar("T")


def parquet_files(folder: Path) -> list[Path]:
    """Return the parquet files in a folder and in its subfolder data/, sorted by path."""
    return sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])


def read_parquet(path: Path, split: str, *, image_column: str | None = None, label_column: str | None = None) -> Raw:
    """Return one split of a parquet file, or of a folder of parquet files.

    Args:
        path: Path of a file, all of whose rows are "train", or of a folder with the split in the names of its files.
        split: Split to read, "train" or "test".
        image_column: Column with encoded pictures, as bytes or as a struct with a field `bytes`. None finds it by its
            type and the names "image" and "img".
        label_column: Column of integers with class ids. None finds it by its type and the names "label" and "labels".

    Raises:
        MissingExtraError: If the package pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("parquet", "pyarrow", "parquet") from error
    cells: list[_Column] = []
    labels: list[int] = []
    classes: tuple[str, ...] | None = None
    for file in _files_of_split(path, split):
        table = _open(file)
        image, label = _columns(table.schema_arrow, image_column, label_column, file)
        classes = classes or _class_names(table.schema_arrow.metadata, label)
        ids = _read(file, partial(bounded_column, table, label, str(file))).to_pylist()
        for row, class_id in enumerate(ids):
            require(class_id is not None, f"row {row} of {str(file)!r}", f"have an integer in column {label!r}", None)
        groups = [table.metadata.row_group(g).num_rows for g in range(table.metadata.num_row_groups)]
        cells.append(_Column(file, image, tuple(accumulate(groups, initial=0))))
        labels += ids
    require(bool(labels), "data", "hold at least one row", str(path))
    return Raw(Pictures(ParquetPictures(cells)), torch.tensor(labels), classes)


@dataclass(frozen=True)
class _Column:
    """Column of encoded pictures in one file, with the first row of each row group and the number of rows."""

    file: Path
    name: str
    starts: tuple[int, ...]


class ParquetPictures:
    """Encoded pictures in columns of parquet files, of which one row group is in memory at a time."""

    def __init__(self, columns: list[_Column]) -> None:
        self.columns = columns
        self._starts = list(accumulate((column.starts[-1] for column in columns), initial=0))
        self._group: tuple[tuple[int, int], Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the row group in memory, for processes that decode pictures."""
        return self.__dict__ | {"_group": None}

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._starts[-1]

    def __getitem__(self, i: int) -> bytes:
        """Return the bytes in row `i`, counted through all files.

        Raises:
            UnreadablePictureError: If the row has no bytes.
        """
        column, row = self._row(i)
        group = bisect_right(column.starts, row) - 1
        key = (self.columns.index(column), group)
        if self._group is None or self._group[0] != key:
            read = partial(bounded_column, _open(column.file), column.name, str(column.file), group)
            self._group = (key, _read(column.file, read))
        content = self._group[1][row - column.starts[group]].as_py()
        content = content.get("bytes") if isinstance(content, dict) else content
        if not isinstance(content, bytes):
            raise UnreadablePictureError(self.name(i), f"no bytes in column {column.name!r}")
        return content

    def name(self, i: int) -> str:
        """Return row and file of picture `i` for messages."""
        column, row = self._row(i)
        return f"row {row} of {str(column.file)!r}"

    def _row(self, i: int) -> tuple[_Column, int]:
        part = bisect_right(self._starts, i) - 1
        return self.columns[part], i - self._starts[part]


def _files_of_split(path: Path, split: str) -> list[Path]:
    if path.is_file():
        rule = "be a folder with files for both splits, or come with test=..., to have a test split"
        require(split == "train", "data", rule, str(path))
        return [path]
    files = parquet_files(path)
    kinds = {file: split_kinds_in(file.stem) for file in files}
    ambiguous = [file.name for file in files if len(kinds[file]) > 1]
    require(not ambiguous, "data", "hold parquet files whose names have one split each", ambiguous)
    for kind in KINDS[split]:
        split_files = [file for file in files if kind in kinds[file]]
        if split_files:
            return split_files
    if split == "train" and files and not any(kinds.values()):
        return files
    rule = f"hold parquet files with {usual_names(split)} as a word of their names to have a {split} split"
    raise ValueError(f"folder {str(path)!r} must {rule}, got {[file.name for file in files]}")


def _open(file: Path) -> Any:  # noqa: ANN401
    import pyarrow.parquet as pq

    return _read(file, partial(pq.ParquetFile, file))


def _read(file: Path, read: Callable[[], T]) -> T:
    import pyarrow as pa

    try:
        return read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"parquet file {str(file)!r} must be readable, got an error: {error}") from error


def _columns(schema: Any, image: str | None, label: str | None, file: Path) -> tuple[str, str]:  # noqa: ANN401
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:  # noqa: ANN401
        if pa.types.is_struct(kind):
            field_index = kind.get_field_index("bytes")
            return field_index >= 0 and holds_bytes(kind.field(field_index).type)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    images = [field.name for field in schema if holds_bytes(field.type)]
    labels = [field.name for field in schema if pa.types.is_integer(field.type)]
    return (
        _column("image_column", image, images, ("image", "img"), schema.names, file),
        _column("label_column", label, labels, ("label", "labels"), schema.names, file),
    )


def _column(
    argument: str, column: str | None, fitting: list[str], usual: tuple[str, ...], names: list[str], file: Path
) -> str:
    if column is not None:
        rule = f"be one of the fitting columns {fitting} of {str(file)!r}, whose columns are {names}"
        require(column in fitting, argument, rule, column)
        return column
    candidates = [name for name in usual if name in fitting] or fitting
    if len(candidates) == 1 or (candidates and candidates[0] in usual):
        return candidates[0]
    rule = f"be given for {str(file)!r}, whose columns are {names}"
    raise ValueError(f"{argument} must {rule}, got {len(candidates)} fitting columns: {candidates}")


def _class_names(metadata: Mapping[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    try:
        card = json.loads((metadata or {})[b"huggingface"])
        names = card["info"]["features"][label]["names"]
    # The entry is optional and untrusted. Without it the names of the classes are their numbers.
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(n, str) for n in names) else None
