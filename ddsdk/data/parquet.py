"""Parquet files with encoded pictures and class ids, the layout of image data sets on hubs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ddsdk.data.folders import SPLIT_NAMES
from ddsdk.data.raw import Pixels, Raw, decode, stack
from ddsdk.foundation import MissingExtraError, require

_ROWS = 1024


def parquet_files(folder: Path) -> list[Path]:
    """Return the parquet files in `folder` and in its subfolder data/, sorted."""
    return sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])


def read_parquet(
    path: Path,
    split: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    resize: tuple[int, int] | None = None,
) -> Raw:
    """Read one split from a parquet file, or from a folder of them.

    Args:
        path: A file, which is all "train", or a folder, where the names of the files give the split.
        split: "train" or "test".
        image_column: Column with the bytes of a picture, or a struct with a field `bytes`. Found by its type
            and the names "image" and "img" if None.
        label_column: Integer column. Found by its type and the names "label" and "labels" if None.
        resize: Height and width to resample to, or None to demand one size.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("parquet", "pyarrow", "parquet") from error
    pictures: list[Pixels] = []
    names: list[str] = []
    labels: list[int] = []
    classes: tuple[str, ...] | None = None
    for file in _files_of_split(path, split):
        opened = _open(file)
        image, label = _columns(opened.schema_arrow, image_column, label_column, file)
        classes = classes or _class_names(opened.schema_arrow.metadata, label)
        for row, (content, number) in enumerate(_rows(opened, image, label, file)):
            name = f"row {row} of {str(file)!r}"
            require(number is not None, name, f"have an integer in column {label!r}", number)
            require(isinstance(content, bytes), name, f"have bytes in column {image!r}", content)
            pictures.append(decode(content, name, resize))
            names.append(name)
            labels.append(number)
    require(bool(labels), "data", "hold at least one row", str(path))
    return Raw(stack(pictures, names), torch.tensor(labels), classes)


def _files_of_split(path: Path, split: str) -> list[Path]:
    if path.is_file():
        rule = "be a folder with files for both splits, or come with test=..., to have a test split"
        require(split == "train", "data", rule, str(path))
        return [path]
    files = parquet_files(path)
    for name in SPLIT_NAMES[split]:
        chosen = [file for file in files if name in file.name]
        if chosen:
            return chosen
    named = any(name in file.name for file in files for names in SPLIT_NAMES.values() for name in names)
    if split == "train" and files and not named:
        return files
    wanted = " or ".join(map(repr, SPLIT_NAMES[split]))
    rule = f"hold parquet files with {wanted} in their names to have a {split} split"
    raise ValueError(f"folder {str(path)!r} must {rule}, got {[file.name for file in files]}")


def _open(file: Path) -> Any:  # noqa: ANN401
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"parquet file {str(file)!r} must be readable, got an error: {error}") from error


def _rows(opened: Any, image: str, label: str, file: Path) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401
    import pyarrow as pa

    try:
        for rows in opened.iter_batches(_ROWS, columns=[image, label]):
            contents = rows.column(image)
            if pa.types.is_struct(contents.type):
                # flatten() and not field(): it hands the nulls of the struct on to its fields.
                contents = contents.flatten()[contents.type.get_field_index("bytes")]
            yield from zip(contents.to_pylist(), rows.column(label).to_pylist(), strict=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"parquet file {str(file)!r} must be readable, got an error: {error}") from error


def _columns(schema: Any, image: str | None, label: str | None, file: Path) -> tuple[str, str]:  # noqa: ANN401
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:  # noqa: ANN401
        if pa.types.is_struct(kind):
            at = kind.get_field_index("bytes")
            return at >= 0 and holds_bytes(kind.field(at).type)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    images = [field.name for field in schema if holds_bytes(field.type)]
    labels = [field.name for field in schema if pa.types.is_integer(field.type)]
    return (
        _column("image_column", image, images, ("image", "img"), schema.names, file),
        _column("label_column", label, labels, ("label", "labels"), schema.names, file),
    )


def _column(
    argument: str, given: str | None, fitting: list[str], usual: tuple[str, ...], names: list[str], file: Path
) -> str:
    if given is not None:
        rule = f"be one of the fitting columns {fitting} of {str(file)!r}, whose columns are {names}"
        require(given in fitting, argument, rule, given)
        return given
    found = [name for name in usual if name in fitting] or fitting
    if len(found) == 1 or (found and found[0] in usual):
        return found[0]
    rule = f"be given for {str(file)!r}, whose columns are {names}"
    raise ValueError(f"{argument} must {rule}, got {len(found)} that fit: {found}")


def _class_names(metadata: Mapping[bytes, bytes] | None, label: str) -> tuple[str, ...] | None:
    try:
        hub = json.loads((metadata or {})[b"huggingface"])
        names = hub["info"]["features"][label]["names"]
    # The entry is optional, and anyone may have written it: without it classes are called by their numbers.
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(n, str) for n in names) else None
