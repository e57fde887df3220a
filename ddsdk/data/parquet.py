"""Reader of parquet files with encoded pictures and class ids, as image data sets on the Hugging Face Hub have them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ddsdk.data.raw import PixelArray, Raw, decode, stack
from ddsdk.data.splits import KINDS, split_kinds_in, usual_names
from ddsdk.foundation import MissingExtraError, require

_ROWS = 1024


def parquet_files(folder: Path) -> list[Path]:
    """Return the parquet files in a folder and in its subfolder data/, sorted by path."""
    return sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])


def read_parquet(
    path: Path,
    split: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    resize: tuple[int, int] | None = None,
) -> Raw:
    """Return one split of a parquet file, or of a folder of parquet files.

    Args:
        path: Path of a file, all of whose rows are "train", or of a folder with the split in the names of its files.
        split: Split to read, "train" or "test".
        image_column: Column with encoded pictures, as bytes or as a struct with a field `bytes`. None finds it by its
            type and the names "image" and "img".
        label_column: Column of integers with class ids. None finds it by its type and the names "label" and "labels".
        resize: Height and width in pixels to which pictures are resampled; None requires pictures of one size.

    Raises:
        MissingExtraError: If the package pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("parquet", "pyarrow", "parquet") from error
    pictures: list[PixelArray] = []
    names: list[str] = []
    labels: list[int] = []
    classes: tuple[str, ...] | None = None
    for file in _files_of_split(path, split):
        table = _open(file)
        image, label = _columns(table.schema_arrow, image_column, label_column, file)
        classes = classes or _class_names(table.schema_arrow.metadata, label)
        for row, (content, class_id) in enumerate(_rows(table, image, label, file)):
            name = f"row {row} of {str(file)!r}"
            require(class_id is not None, name, f"have an integer in column {label!r}", class_id)
            require(isinstance(content, bytes), name, f"have bytes in column {image!r}", content)
            pictures.append(decode(content, name, resize))
            names.append(name)
            labels.append(class_id)
    require(bool(labels), "data", "hold at least one row", str(path))
    return Raw(stack(pictures, names), torch.tensor(labels), classes)


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"parquet file {str(file)!r} must be readable, got an error: {error}") from error


def _rows(table: Any, image: str, label: str, file: Path) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    import pyarrow as pa

    try:
        for batch in table.iter_batches(_ROWS, columns=[image, label]):
            contents = batch.column(image)
            if pa.types.is_struct(contents.type):
                # flatten() keeps the nulls of a struct as nulls of its fields; field() does not.
                contents = contents.flatten()[contents.type.get_field_index("bytes")]
            yield from zip(contents.to_pylist(), batch.column(label).to_pylist(), strict=True)
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
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(n, str) for n in names) else None
