"""Conversion of labels as people have them to class ids, with one note for each conversion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddsdk.foundation import note, require

_UNIQUE_FROM = 20
"""Number of items from which labels that all differ are no classes."""


def class_labels(labels: Any, name: str = "labels") -> tuple[Tensor, tuple[str, ...] | None]:  # noqa: ANN401
    """Return class ids (N,) int64, and class names if the labels are names.

    Integers stay as they are. Strings become the ids of their names in alphabetical order, or in the order of their
    numbers if all are whole numbers; False and True become the classes "False" and "True". Rows with a single 1
    (one-hot) become the position of the 1, columns (N, 1) become (N,), and floats with whole values become integers.
    Each of these conversions gives a note. ValueError is raised for missing labels, several classes of one item
    (multi-label), and soft labels.

    Args:
        labels: Tensor, array, list, or any object with a method `to_numpy`, such as a column of pandas.
        name: Name of the labels in messages.

    Raises:
        TypeError: If the labels are of an unsupported type.
    """
    array = _array(labels, name)
    if array.ndim == 2 and array.shape[1] == 1:
        note(f"{name} of shape {array.shape} are read as {len(array)} class ids")
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "biuf":
        array = _from_rows(array, name)
    require(array.ndim == 1, name, "have shape (N,), or (N, K) with one-hot rows", array.shape)
    if array.dtype.kind in "OUST":
        return _from_names(array, name)
    if array.dtype.kind == "b":
        note(f"{name} False and True are the classes 0 and 1")
        return torch.from_numpy(array.astype(np.int64)), ("False", "True")
    if array.dtype.kind == "f":
        fractions = np.flatnonzero(~np.isfinite(array) | (array != np.round(array)))
        if len(fractions):
            rule = "be class ids; numbers with fractions (regression) and missing values are not supported"
            require(False, name, rule, f"{array[fractions[0]]} in item {fractions[0]}")
        note(f"{name} are floats with whole values, and are read as integers")
    elif array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, strings or booleans, got {array.dtype}")
    return torch.from_numpy(array.astype(np.int64)), None


def _array(labels: Any, name: str) -> NDArray[Any]:  # noqa: ANN401
    if isinstance(labels, Tensor | np.ndarray):
        require_dense(labels, name)
        return labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if hasattr(labels, "to_numpy"):
        return np.asarray(labels.to_numpy())
    if not isinstance(labels, list | tuple):
        raise TypeError(f"{name} must be a tensor, an array or a list, got {type(labels).__name__}")
    if any(isinstance(label, str) for label in labels):
        # numpy would make strings of the numbers in a mixed list.
        return _objects(labels)
    rows = [label.tolist() if hasattr(label, "tolist") else label for label in labels]
    lengths = {len(row) for row in rows if isinstance(row, list | tuple)}
    if len(lengths) > 1:
        raise ValueError(f"{name} must have one class each; multi-label data are not supported")
    try:
        return np.asarray(rows)
    except (ValueError, OverflowError) as error:
        raise TypeError(f"{name} must be class ids or class names, got an error: {error}") from error


def _objects(labels: Sequence[object]) -> NDArray[Any]:
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array


def _from_rows(rows: NDArray[Any], name: str) -> NDArray[Any]:
    values = rows.astype(np.float64)
    binary = ((values == 0) | (values == 1)).all(1)
    single = binary & (values.sum(1) == 1)
    if single.all() and len(rows):
        note(f"{name} are one-hot rows of {rows.shape[1]} classes, and are read as class ids")
        ids: NDArray[Any] = values.argmax(1)
        return ids
    bad = int(np.flatnonzero(~single)[0]) if len(rows) else 0
    if binary.all():
        rule = "have one class each; multi-label data are not supported"
        require(False, name, rule, f"{int(values[bad].sum())} classes in item {bad}")
    if (values >= 0).all() and np.allclose(values.sum(1), 1, atol=1e-3):
        rule = "be class ids or one-hot rows; soft labels are not supported, pass labels.argmax(1)"
        require(False, name, rule, f"soft labels, first in item {bad}")
    require(False, name, "have shape (N,), or (N, K) with one-hot rows", rows.shape)
    return rows


def _from_names(array: NDArray[Any], name: str) -> tuple[Tensor, tuple[str, ...]]:
    texts = [value.decode(errors="replace") if isinstance(value, bytes) else value for value in array.tolist()]
    for i, text in enumerate(texts):
        if isinstance(text, list | tuple | dict | set):
            rule = "have one class each; multi-label data and object detection are not supported"
            require(False, name, rule, f"{text!r} in item {i}")
        is_name = isinstance(text, str) and bool(text.strip())
        require(is_name, name, "be class names or class ids, without missing values", f"{text!r} in item {i}")
    distinct = set(texts)
    numeric = all(text.strip().lstrip("-").isdecimal() for text in distinct)
    names = sorted(distinct, key=(lambda text: (int(text), text)) if numeric else None)
    position = {text: i for i, text in enumerate(names)}
    order = "the order of their numbers" if numeric else "alphabetical order"
    note(f"{name} are names of {len(names)} classes, in {order}: {listed(names)}")
    return torch.tensor([position[text] for text in texts], dtype=torch.int64), tuple(names)


def require_dense(values: Tensor | NDArray[Any], name: str) -> None:
    """Check that no value of an array is masked, and that a tensor is dense and not quantised, else raise ValueError.

    Args:
        values: Tensor or array of images or labels.
        name: Name of the values in messages.
    """
    if isinstance(values, np.ma.MaskedArray):
        masked = int(np.ma.count_masked(values))  # type: ignore[no-untyped-call]
        require(masked == 0, name, "have no masked values; leave the items out, or pass masked.filled(...)", masked)
    if isinstance(values, Tensor):
        dense = values.layout == torch.strided and not values.is_quantized
        got = "a quantised tensor" if values.is_quantized else values.layout
        require(dense, name, "be a dense tensor; pass to_dense() or dequantize()", got)


def require_shared(labels: Tensor, name: str) -> None:
    """Check that labels are shared by items, else raise ValueError: identifiers and measured values are no classes."""
    n, distinct = len(labels), len(torch.unique(labels))
    rule = "name classes that items share, not identifiers or measured values"
    require(n < _UNIQUE_FROM or distinct < n, name, rule, f"{distinct} different labels of {n} items")


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first names of a list, separated by commas, and the number of further names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
