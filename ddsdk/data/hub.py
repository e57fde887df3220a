"""Reader of `datasets.Dataset` and `datasets.DatasetDict` of the Hugging Face library `datasets`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ddsdk.data.columns import PICTURE_COLUMNS, choose_column, choose_label
from ddsdk.data.datasets import LABEL_NAMES
from ddsdk.data.labels import class_labels
from ddsdk.data.pictures import Pictures, UnreadablePictureError
from ddsdk.data.raw import Raw, Texts
from ddsdk.data.splits import KINDS, split_kind, usual_names
from ddsdk.foundation import require

_MODULES = {"datasets.arrow_dataset", "datasets.dataset_dict", "datasets.iterable_dataset"}


def is_hub_dataset(data: object) -> bool:
    """Return whether an object is a dataset, or a dictionary of datasets, of the library `datasets`."""
    # The classes are not imported. A project of the user may have a package "datasets" too, but not these modules.
    return any(kind.__module__ in _MODULES for kind in type(data).__mro__)


class HubPictures:
    """Encoded pictures in a column of a `datasets.Dataset`."""

    def __init__(self, data: Any, column: str) -> None:  # noqa: ANN401
        self.data = data
        self.column = column

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.data)

    def __getitem__(self, i: int) -> bytes | Path:
        """Return the bytes or the path of the picture in row `i`.

        Raises:
            UnreadablePictureError: If the row has neither bytes nor a path.
        """
        cell = self.data[i][self.column] or {}
        if cell.get("bytes"):
            return bytes(cell["bytes"])
        if not cell.get("path"):
            raise UnreadablePictureError(self.name(i), "neither bytes nor a path")
        return Path(cell["path"])

    def name(self, i: int) -> str:
        """Return the row of picture `i` for messages."""
        return f"row {i} of column {self.column!r}"


def read_hub_dataset(
    data: Any,  # noqa: ANN401
    split: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
) -> Raw:
    """Return one split of a dataset of the library `datasets`.

    Args:
        data: `datasets.Dataset`, all of whose rows are "train", or `datasets.DatasetDict` with usual names of splits.
        split: Split to read, "train" or "test".
        image_column: Column with the feature `Image`; None finds it by its name and type.
        label_column: Column with class ids or class names, such as a `ClassLabel`; None finds it by its name and type.
        text_column: Column with texts, which are read in the place of pictures; None reads pictures.

    Raises:
        TypeError: If the rows cannot be read by number, as in streaming.
    """
    if isinstance(data, Mapping):
        data = _of_split(data, split)
    else:
        require(split == "train", "data", "have a test split; pass load_pair(train, test)", type(data).__name__)
    if not hasattr(data, "features") or not hasattr(data, "__getitem__"):
        raise TypeError(f"data must be readable by row number, so load it without streaming, got {type(data).__name__}")
    require(len(data) > 0, "data", "hold at least one row", len(data))
    features = dict(data.features)
    types = {name: str(feature) for name, feature in features.items()}
    if text_column is None:
        usual, fault = PICTURE_COLUMNS, partial(_image_fault, features)
        content = choose_column("image_column", image_column, types, fault, usual, "the dataset")
    else:
        content = choose_column("text_column", text_column, types, partial(_text_fault, features), (), "the dataset")
    others = {name: kind for name, kind in types.items() if name != content}
    label = choose_label(label_column, others, partial(_label_fault, features, label_column), "the dataset")
    plain = data.with_format(None)
    labels = list(plain[label])
    missing = next((row for row, value in enumerate(labels) if value is None), None)
    require(missing is None, f"row {missing} of the dataset", f"have a value in column {label!r}", None)
    ids, names = class_labels(labels, f"column {label!r}")
    names = names or getattr(features[label], "names", None)
    images: Pictures | Texts
    if text_column is None:
        from datasets import Image

        images = Pictures(HubPictures(plain.cast_column(content, Image(decode=False)), content))
    else:
        images = Texts(tuple(map(str, plain[content])))
    return Raw(images, ids, None if names is None else tuple(names))


def _of_split(splits: Mapping[Any, Any], split: str) -> Any:  # noqa: ANN401
    for kind in KINDS[split]:
        found = [name for name in splits if split_kind(str(name)) == kind]
        require(len(found) <= 1, "data", f"have one {kind} split", found)
        if found:
            return splits[found[0]]
    raise ValueError(f"data must have a split {usual_names(split)}, got {list(splits)}")


def _image_fault(features: Mapping[str, Any], name: str) -> str | None:
    return None if type(features[name]).__name__ == "Image" else "have the feature datasets.Image"


def _text_fault(features: Mapping[str, Any], name: str) -> str | None:
    return None if getattr(features[name], "dtype", None) in ("string", "large_string") else "hold texts"


def _label_fault(features: Mapping[str, Any], given: str | None, name: str) -> str | None:
    feature = features[name]
    dtype = str(getattr(feature, "dtype", ""))
    if type(feature).__name__ == "ClassLabel" or dtype.startswith(("int", "uint", "bool", "string", "large_string")):
        return None
    # Rows and floats may be labels in a column of this name, but no other column of them is one of labels.
    by_name = name == given or name.casefold() in LABEL_NAMES
    is_rows = type(feature).__name__ in ("Sequence", "List", "LargeList") or isinstance(feature, list)
    return None if by_name and (is_rows or dtype.startswith("float")) else "hold class ids or class names"
