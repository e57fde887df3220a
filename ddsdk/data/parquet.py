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

from ddsdk.data.bounded import bounded_column
from ddsdk.data.columns import PICTURE_COLUMNS, choose_column, choose_label
from ddsdk.data.datasets import LABEL_NAMES
from ddsdk.data.labels import class_labels
from ddsdk.data.pictures import Pictures, UnreadablePictureError
from ddsdk.data.raw import Raw, Texts
from ddsdk.data.splits import files_of_split
from ddsdk.foundation import MissingExtraError, require

T = TypeVar("T")


def read_parquet(
    path: Path,
    split: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    configuration: str | None = None,
) -> Raw:
    """Return one split of a parquet file, or of a folder of parquet files.

    Args:
        path: Path of a file, all of whose rows are "train", or of a folder, see `files_of_split`.
        split: Split to read, "train" or "test".
        image_column: Column with encoded pictures, as bytes or as a struct with a field `bytes`. None takes one with a
            usual name, such as "image", or else the only one of this type.
        label_column: Column with class ids or class names. None takes one with a usual name, such as "label", or else
            the only one of a fitting type.
        text_column: Column with texts, which are read in the place of pictures; None reads pictures.
        configuration: Folder above the splits of a data set from the hub; None requires that there is one.

    Raises:
        MissingExtraError: If the package pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError("parquet", "pyarrow", "parquet") from error
    parts: list[_Column] = []
    texts: list[str] = []
    labels: list[Any] = []
    classes: tuple[str, ...] | None = None
    for file in files_of_split(path, split, (".parquet",), configuration):
        table, where = _open(file), f"{str(file)!r}"
        types = {field.name: field.type for field in table.schema_arrow}
        content = _content_column(image_column, text_column, types, where)
        shown = {name: str(kind) for name, kind in types.items() if name != content}
        label = choose_label(label_column, shown, partial(_label_fault, types, label_column), where)
        if pa.types.is_integer(types[label]):
            classes = classes or _class_names(table.schema_arrow.metadata, label)
        labels += _cells(table, label, file)
        if text_column is not None:
            texts += _cells(table, content, file)
        groups = [table.metadata.row_group(g).num_rows for g in range(table.metadata.num_row_groups)]
        parts.append(_Column(file, content, tuple(accumulate(groups, initial=0))))
    require(bool(labels), "data", "hold at least one row", str(path))
    ids, names = class_labels(labels)
    images = Pictures(ParquetPictures(parts)) if text_column is None else Texts(tuple(texts))
    return Raw(images, ids, names or classes)


def _content_column(image: str | None, text: str | None, types: Mapping[str, Any], where: str) -> str:
    shown = {name: str(kind) for name, kind in types.items()}
    if text is not None:
        return choose_column("text_column", text, shown, lambda name: _text_fault(types[name]), (), where)
    return choose_column("image_column", image, shown, lambda name: _image_fault(types[name]), PICTURE_COLUMNS, where)


def _cells(table: Any, column: str, file: Path) -> list[Any]:  # noqa: ANN401
    values: list[Any] = _read(file, partial(bounded_column, table, column, str(file))).to_pylist()
    missing = next((row for row, value in enumerate(values) if value is None), None)
    require(missing is None, f"row {missing} of {str(file)!r}", f"have a value in column {column!r}", None)
    return values


def _image_fault(kind: Any) -> str | None:  # noqa: ANN401
    import pyarrow as pa

    is_struct = pa.types.is_struct(kind)
    if is_struct and kind.get_field_index("bytes") >= 0:
        kind = kind.field(kind.get_field_index("bytes")).type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "hold the bytes of picture files; paths and texts are not read, pass the folder of the pictures"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return "hold the bytes of picture files; pass lists of numbers as arrays (images, labels)"
    return "hold the bytes of picture files, or a struct with a field 'bytes'"


def _label_fault(types: Mapping[str, Any], given: str | None, name: str) -> str | None:
    import pyarrow as pa

    kind = types[name]
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    readable = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string)
    # Rows and floats may be labels in a column of this name, but no other column of them is one of labels.
    by_name = name == given or name.casefold() in LABEL_NAMES
    if any(is_kind(kind) for is_kind in readable) or (by_name and (listed or pa.types.is_floating(kind))):
        return None
    return "hold class ids or class names"


def _text_fault(kind: Any) -> str | None:  # noqa: ANN401
    import pyarrow as pa

    return None if pa.types.is_string(kind) or pa.types.is_large_string(kind) else "hold texts"


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

    @property
    def files(self) -> list[Path]:
        """Files that hold the pictures."""
        return [column.file for column in self.columns]

    @property
    def stamp(self) -> str:
        """Names of the columns, which together with the files determine the pictures."""
        return "\0".join(column.name for column in self.columns)

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


def _open(file: Path) -> Any:  # noqa: ANN401
    import pyarrow.parquet as pq

    return _read(file, partial(pq.ParquetFile, file))


def _read(file: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    # A damaged file gives errors of any type. A plain ValueError is a refusal by the checks of this package.
    except Exception as error:
        if type(error) is ValueError:
            raise
        raise ValueError(f"parquet file {str(file)!r} must be readable, got an error: {error}") from error


def _class_names(metadata: Mapping[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    try:
        card = json.loads((metadata or {})[b"huggingface"])
        names = card["info"]["features"][label]["names"]
    # The entry is optional and untrusted. Without it the names of the classes are their numbers.
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(n, str) for n in names) else None
