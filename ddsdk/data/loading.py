"""The loaders of real data: a name, a folder, parquet files, a dataset, or arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ddsdk.data.arrays import Array, LabelledImages, read_arrays, read_dataset
from ddsdk.data.folders import read_folder
from ddsdk.data.named import MIRROR_SAFE, NAMED, TEXTS, known_name, nearest_name, read_named
from ddsdk.data.parquet import parquet_files, read_parquet
from ddsdk.data.preprocess import KNOWN_NORMALISATION, Preprocess
from ddsdk.data.raw import Raw, check_resize
from ddsdk.data.sources import RealData
from ddsdk.foundation import require

Loadable: TypeAlias = str | Path | tuple[Array, Array] | LabelledImages
Split: TypeAlias = Literal["train", "test"]


def load(
    data: Loadable,
    *,
    root: str | Path | None = None,
    split: Split = "train",
    image_column: str | None = None,
    label_column: str | None = None,
    resize: tuple[int, int] | None = None,
    zca: bool = False,
    preprocess: Preprocess | None = None,
    pictures: bool = True,
    mirror_safe: bool | None = None,
) -> RealData:
    """Load one split as real data on the CPU.

    The preprocessing is that of the *train* split, also for the test split: the published channel constants
    where the field has them, else constants fitted on the train images.

    Args:
        data: Source of the data, one of
            a name: "digits" (scikit-learn, 8x8 grey, a fixed stratified quarter held out as test), "python-docs"
            (text: docstrings of the standard library, each a matrix of 32 word vectors), or
            "mnist", "fashion-mnist", "kmnist", "usps", "cifar10", "cifar100", "svhn", "stl10";
            a folder with one subfolder of pictures for each class, maybe below train/ and test/;
            a parquet file, or a folder of them with the split in their names;
            a dataset with ``len(data)`` and ``data[i] -> (image, class id)``;
            a pair (images, labels) of tensors (N, C, H, W) or arrays (N, H, W[, C]).
        root: Folder of named data sets, which are downloaded into it; ``~/.cache/ddsdk`` if None.
        split: "train" or "test". Datasets, pairs and single files have no "test"; see `load_pair`.
        image_column: Column of pictures in parquet; None where its type and name are plain.
        label_column: Column of class ids in parquet; None where its type and name are plain.
        resize: Height and width to resample picture files and parquet to. All must have one size if None.
        zca: Whether a ZCA fitted on the train images takes the place of the normalisation.
        preprocess: Preprocessing that takes the place of both.
        pictures: False for text and other data without pictures, see `RealData`; "python-docs" has none anyway.
        mirror_safe: Whether the mirror image of an image has the same class, so that recipes may mirror it. None takes
            True for "fashion-mnist", "cifar10", "cifar100" and "stl10", and False for all other data.
            `ddsdk.judging.mirror_check` measures it.

    Returns:
        Images as stored, uint8 or float32 in the unit range, with labels, class names and preprocessing.

    Raises:
        TypeError: If `data`, an item or a dtype is of another kind.
        ValueError: If the name, an option, a file or the content is refused; the message names it.
        FileNotFoundError: If a named data set is not there and cannot be downloaded.
        MissingExtraError: If pyarrow, which parquet needs, is not installed.
    """
    require(split in ("train", "test"), "split", "be 'train' or 'test'", split)
    found = _find(data, root, image_column, label_column, resize, pictures, mirror_safe)
    raw, ready = found.read(split), preprocess or _published(found, zca)
    if ready is None:
        ready = _fit(raw if split == "train" else found.read("train"), found, zca)
    return _real(raw, found, ready)


def load_pair(
    data: Loadable,
    test: Loadable | None = None,
    *,
    root: str | Path | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    resize: tuple[int, int] | None = None,
    zca: bool = False,
    preprocess: Preprocess | None = None,
    pictures: bool = True,
    mirror_safe: bool | None = None,
) -> tuple[RealData, RealData]:
    """Load train and test data with the classes and the preprocessing of the train split.

    The arguments are those of `load`, and `test`: test data that is taken whole, where `data` has no test split of its
    own. Without it the test split of `data` is loaded. ValueError where there is none, or where the two differ in
    classes or image shape.
    """
    found = _find(data, root, image_column, label_column, resize, pictures, mirror_safe)
    if test is None:
        held_out = found.read("test")
    else:
        other = _find(test, root, image_column, label_column, resize, pictures, mirror_safe)
        held_out = other.read("test" if other.known else "train")
    raw = found.read("train")
    ready = preprocess or _published(found, zca) or _fit(raw, found, zca)
    train = _real(raw, found, ready)
    names = held_out.class_names or train.class_names
    require(names == train.class_names, "classes of test", f"be {list(train.class_names)}", list(names))
    shape = tuple(held_out.images.shape[1:])
    require(shape == train.image_shape, "test images", f"have shape {train.image_shape} as in train", shape)
    return train, _real(Raw(held_out.images, held_out.labels, names), found, ready)


@dataclass(frozen=True)
class _Found:
    name: str
    read: Callable[[str], Raw]
    known: bool = False
    pictures: bool = True
    mirror_safe: bool = False


def _find(
    data: Loadable,
    root: str | Path | None,
    image_column: str | None,
    label_column: str | None,
    resize: tuple[int, int] | None,
    pictures: bool,
    mirror_safe: bool | None,
) -> _Found:
    check_resize(resize)
    path = _path(data)
    in_parquet = path is not None and (path.is_file() or bool(parquet_files(path)))
    for option, value in (("image_column", image_column), ("label_column", label_column)):
        require(value is None or in_parquet, option, "be left out unless data is parquet", value)
    require(resize is None or path is not None, "resize", "be left out unless data is a path", resize)
    facts = {"pictures": pictures, "mirror_safe": bool(mirror_safe)}
    if path is not None and in_parquet:
        options = {"image_column": image_column, "label_column": label_column}
        name = _own_name(path.stem)
        return _Found(name, lambda split: read_parquet(path, split, **options, resize=resize), **facts)
    if path is not None:
        return _Found(_own_name(path.name), lambda split: read_folder(path, split, resize), **facts)
    if isinstance(data, str):
        name = known_name(data) or data
        home = Path.home() / ".cache" / "ddsdk" if root is None else Path(root)
        shown = pictures and name not in TEXTS
        safe = name in MIRROR_SAFE if mirror_safe is None else mirror_safe
        return _Found(name, lambda split: read_named(name, split, home), known=True, pictures=shown, mirror_safe=safe)
    return _Found("data", lambda split: _in_memory(data, split), **facts)


def _own_name(name: str) -> str:
    """Return the name of a user's own data: never that of a data set with published figures."""
    return f"{name} (own data)" if known_name(name) else name


def _path(data: Loadable) -> Path | None:
    if not isinstance(data, str | Path) or (isinstance(data, str) and known_name(data)):
        return None
    path = Path(data)
    if path.is_dir() or (path.is_file() and path.suffix == ".parquet"):
        return path
    near = nearest_name(str(data))
    hint = f"; did you mean {near!r}?" if near else ""
    rule = f"be a folder, a .parquet file, or one of {', '.join(NAMED)}"
    raise ValueError(f"data must {rule}, got {str(data)!r}{hint}")


def _in_memory(data: Loadable, split: str) -> Raw:
    pair = isinstance(data, tuple | list) and len(data) == 2
    kind = type(data).__name__
    if not pair and (isinstance(data, tuple | list | dict) or not hasattr(data, "__getitem__")):
        raise TypeError(f"data must be a name, a path, a dataset or a pair (images, labels), got {kind}")
    rule = "have a test split; pass load_pair(train, test) with two of them"
    require(split == "train", "data", rule, "a pair of arrays" if pair else kind)
    if isinstance(data, tuple | list):
        return read_arrays(data[0], data[1])
    if not hasattr(data, "__len__"):
        raise TypeError(f"data must have a length, got the iterable dataset {kind}")
    return read_dataset(data)  # type: ignore[arg-type]


def _published(found: _Found, zca: bool) -> Preprocess | None:
    if zca or not found.known or found.name not in KNOWN_NORMALISATION:
        return None
    return Preprocess.normalise(*KNOWN_NORMALISATION[found.name])


def _fit(train: Raw, found: _Found, zca: bool) -> Preprocess:
    # Checked before it is fitted: a NaN should be reported as the NaN that it is.
    images = _real(train, found, Preprocess.unit(train.images.shape[1])).images
    return Preprocess.fit_zca(images) if zca else Preprocess.fit_normalise(images)


def _real(raw: Raw, found: _Found, preprocess: Preprocess) -> RealData:
    channels = raw.images.shape[1]
    require(preprocess.channels == channels, "preprocess", f"be for {channels} channels", preprocess.channels)
    names = raw.class_names or _numbered(raw.labels)
    real = RealData(
        raw.images,
        raw.labels,
        class_names=names,
        preprocess=preprocess,
        name=found.name,
        pictures=found.pictures,
        mirror_safe=found.mirror_safe,
    )
    # A part of some data, as of one client, may have one class; a whole data set that has one is a mistake.
    require(len(names) >= 2, "class_names", "name at least 2 classes", list(names))
    return real


def _numbered(labels: Tensor) -> tuple[str, ...]:
    present = torch.unique(labels)
    present = present[present >= 0]
    gaps = torch.nonzero(present != torch.arange(len(present)))
    # Found here and not by counting up to the largest id, which may be any number.
    if len(gaps):
        rule = f"number the classes 0, 1, 2, … up to {int(present[-1])} without a gap"
        raise ValueError(f"labels must {rule}, got no image of class {int(gaps[0])}")
    return tuple(map(str, range(len(present))))
