"""Loaders of real data from a data set name, a folder, parquet files, a dataset or arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, TypedDict, Unpack

import torch
from torch import Tensor

from ddsdk.data.arrays import Array, LabelledImages, read_arrays, read_dataset
from ddsdk.data.folders import read_folder
from ddsdk.data.named import MIRROR_SAFE, NAMED, TEXTS, known_name, nearest_name, read_named
from ddsdk.data.parquet import parquet_files, read_parquet
from ddsdk.data.pictures import Pictures
from ddsdk.data.preprocess import KNOWN_NORMALISATION, Preprocess
from ddsdk.data.raw import Raw
from ddsdk.data.resize import Resize
from ddsdk.data.sources import RealData
from ddsdk.foundation import require

Loadable: TypeAlias = str | Path | tuple[Array, Array] | LabelledImages
Split: TypeAlias = Literal["train", "test"]


class LoadOptions(TypedDict, total=False):
    """Options of `load` and `load_pair`, all of which may be left out.

    Attributes:
        root: Folder into which named data sets are downloaded; None takes ``~/.cache/ddsdk``.
        image_column: Column of pictures in parquet files; None finds it by its type and name.
        label_column: Column of labels in parquet files; None finds it by its type and name.
        resize: Geometry to which pictures are brought: the side of a square, (height, width), or a `Resize`; None
            requires pictures of one size.
        skip_unreadable: True leaves damaged pictures out, with a note that names them. False refuses them.
        zca: True for ZCA whitening, fitted on the train images, in place of the normalisation.
        preprocess: Preprocessing to use instead of the normalisation or whitening; None takes the default.
        pictures: False for text and other data without pictures, see `RealData`; "python-docs" never has pictures.
        mirror_safe: True if the mirror image of an image has the same class, so that recipes may mirror images. None
            means True for "fashion-mnist", "cifar10", "cifar100" and "stl10", and False for all other data.
            `ddsdk.judging.mirror_check` measures it.
    """

    root: str | Path | None
    image_column: str | None
    label_column: str | None
    resize: Resize | int | tuple[int, int] | None
    skip_unreadable: bool
    zca: bool
    preprocess: Preprocess | None
    pictures: bool
    mirror_safe: bool | None


def load(data: Loadable, *, split: Split = "train", **options: Unpack[LoadOptions]) -> RealData:
    """Return one split of a data set as real data on the CPU.

    Both splits have the preprocessing of the *train* split. It is the normalisation with the published channel
    constants if the literature has them, and is otherwise fitted on the train images.

    TypeError is raised for a source, item or dtype of an unsupported type, and ValueError for an invalid name, option
    or file. FileNotFoundError is raised if a named data set is missing and cannot be downloaded, and
    `ddsdk.foundation.MissingExtraError` if parquet files are read without the package pyarrow.

    Args:
        data: Source of the data, one of
            a name: "digits" (scikit-learn, 8x8 grey, a fixed stratified quarter held out as test), "python-docs"
            (text: docstrings of the standard library, each a matrix of 32 word vectors), or
            "mnist", "fashion-mnist", "kmnist", "usps", "cifar10", "cifar100", "svhn", "stl10";
            a folder with one subfolder of pictures for each class, optionally inside of train/ and test/; pictures are
            PNG, JPEG, BMP, GIF, WebP, PPM or TIFF files;
            a parquet file, or a folder of parquet files with the split in their names;
            a dataset with ``len(data)`` and ``data[i] -> (image, class id)``;
            a pair (images, labels) of tensors (N, C, H, W) or arrays (N, H, W[, C]).
        split: Split to load, "train" or "test". Datasets, pairs and single files have no "test"; see `load_pair`.
        **options: Further options by name, see `LoadOptions`.

    Returns:
        Images, uint8 or float32 in the unit range, with labels, class names and preprocessing.

    Example:
        >>> import ddsdk
        >>> train, test = ddsdk.load("digits"), ddsdk.load("digits", split="test")
        >>> train.image_shape, train.num_classes, len(train) + len(test)
        ((1, 8, 8), 10, 1797)
    """
    require(split in ("train", "test"), "split", "be 'train' or 'test'", split)
    reader = _reader(data, options)
    raw, prep = reader.read(split), options.get("preprocess") or _published(reader)
    if prep is None:
        prep = _fit(raw if split == "train" else reader.read("train"), reader)
    return _real(raw, reader, prep)


def load_pair(
    data: Loadable, test: Loadable | None = None, **options: Unpack[LoadOptions]
) -> tuple[RealData, RealData]:
    """Return train and test data, both with the classes and the preprocessing of the train split.

    ValueError is raised if there is no test data, or if train and test data differ in classes or image shape.

    Args:
        data: Source of the data, see `load`.
        test: Source of the test data, if `data` has no test split; None loads the test split of `data`.
        **options: Further options by name, see `LoadOptions`.

    Example:
        >>> import ddsdk
        >>> train, test = ddsdk.load_pair("digits")
        >>> test.preprocess == train.preprocess
        True
    """
    reader = _reader(data, options)
    if test is None:
        held_out = reader.read("test")
    else:
        test_reader = _reader(test, options)
        held_out = test_reader.read("test" if test_reader.is_named else "train")
    raw = reader.read("train")
    prep = options.get("preprocess") or _published(reader) or _fit(raw, reader)
    train = _real(raw, reader, prep)
    names = held_out.class_names or train.class_names
    require(names == train.class_names, "classes of test", f"be {list(train.class_names)}", list(names))
    shape = tuple(held_out.images.shape[1:])
    require(shape == train.image_shape, "test images", f"have shape {train.image_shape} as in train", shape)
    return train, _real(_Decoded(held_out.images, held_out.labels, names), reader, prep)


class _Decoded(NamedTuple):
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] | None


@dataclass(frozen=True)
class _Reader:
    name: str
    raw: Callable[[str], Raw]
    options: LoadOptions
    is_named: bool = False

    def read(self, split: str) -> _Decoded:
        raw, resize = self.raw(split), Resize.of(self.options.get("resize"))
        if isinstance(raw.images, Pictures):
            raw = replace(raw, images=raw.images.resized(resize))
        else:
            require(resize is None, "resize", "be left out unless data holds pictures", resize)
        images, labels = raw.decoded(skip_unreadable=self.options.get("skip_unreadable", False))
        return _Decoded(images, labels, raw.class_names)

    @property
    def facts(self) -> dict[str, bool]:
        """Facts of the data, which are arguments of `RealData`."""
        mirror_safe = self.options.get("mirror_safe")
        named = self.name if self.is_named else None
        return {
            "pictures": self.options.get("pictures", True) and named not in TEXTS,
            "mirror_safe": named in MIRROR_SAFE if mirror_safe is None else mirror_safe,
        }


def _reader(data: Loadable, options: LoadOptions) -> _Reader:
    for name in options:
        if name not in LoadOptions.__annotations__:
            raise TypeError(f"options must be among {', '.join(LoadOptions.__annotations__)}, got {name!r}")
    path = _path(data)
    columns = {"image_column": options.get("image_column"), "label_column": options.get("label_column")}
    in_parquet = path is not None and (path.is_file() or bool(parquet_files(path)))
    for option, value in columns.items():
        require(value is None or in_parquet, option, "be left out unless data is parquet", value)
    Resize.of(options.get("resize"))
    if path is not None and in_parquet:
        return _Reader(_user_name(path.stem), lambda split: read_parquet(path, split, **columns), options)
    if path is not None:
        return _Reader(_user_name(path.name), lambda split: read_folder(path, split), options)
    if isinstance(data, str):
        name, root = known_name(data) or data, options.get("root")
        folder = Path.home() / ".cache" / "ddsdk" if root is None else Path(root)
        return _Reader(name, lambda split: read_named(name, split, folder), options, is_named=True)
    return _Reader("data", lambda split: _in_memory(data, split), options)


def _user_name(name: str) -> str:
    # A user's folder with the name of a public data set must not be confused with the data set in reports.
    return f"{name} (own data)" if known_name(name) else name


def _path(data: Loadable) -> Path | None:
    if not isinstance(data, str | Path) or (isinstance(data, str) and known_name(data)):
        return None
    path = Path(data)
    if path.is_dir() or (path.is_file() and path.suffix == ".parquet"):
        return path
    similar = nearest_name(str(data))
    hint = f"; did you mean {similar!r}?" if similar else ""
    rule = f"be a folder, a .parquet file, or one of {', '.join(NAMED)}"
    raise ValueError(f"data must {rule}, got {str(data)!r}{hint}")


def _in_memory(data: Loadable, split: str) -> Raw:
    is_pair = isinstance(data, tuple | list) and len(data) == 2
    type_name = type(data).__name__
    if not is_pair and (isinstance(data, tuple | list | dict) or not hasattr(data, "__getitem__")):
        raise TypeError(f"data must be a name, a path, a dataset or a pair (images, labels), got {type_name}")
    rule = "have a test split; pass load_pair(train, test) with two of them"
    require(split == "train", "data", rule, "a pair of arrays" if is_pair else type_name)
    if isinstance(data, tuple | list):
        return read_arrays(data[0], data[1])
    if not hasattr(data, "__len__"):
        raise TypeError(f"data must have a length, got the iterable dataset {type_name}")
    return read_dataset(data)  # type: ignore[arg-type]


def _published(reader: _Reader) -> Preprocess | None:
    if reader.options.get("zca", False) or not reader.is_named or reader.name not in KNOWN_NORMALISATION:
        return None
    return Preprocess.normalise(*KNOWN_NORMALISATION[reader.name])


def _fit(train: _Decoded, reader: _Reader) -> Preprocess:
    # RealData checks the images before the fit, so that the error message for a NaN names the image.
    images = _real(train, reader, Preprocess.unit(train.images.shape[1])).stored
    return Preprocess.fit_zca(images) if reader.options.get("zca", False) else Preprocess.fit_normalise(images)


def _real(raw: _Decoded, reader: _Reader, preprocess: Preprocess) -> RealData:
    channels = raw.images.shape[1]
    require(preprocess.channels == channels, "preprocess", f"be for {channels} channels", preprocess.channels)
    names = raw.class_names or _numbered(raw.labels)
    real = RealData(raw.images, raw.labels, class_names=names, preprocess=preprocess, name=reader.name, **reader.facts)
    # Part of a data set, such as the data of one federated client, may have one class; a whole data set may not.
    require(len(names) >= 2, "class_names", "name at least 2 classes", list(names))
    return real


def _numbered(labels: Tensor) -> tuple[str, ...]:
    present = torch.unique(labels)
    present = present[present >= 0]
    gaps = torch.nonzero(present != torch.arange(len(present)))
    # The check does not count up to the largest class id, which may be a huge number.
    if len(gaps):
        rule = f"number the classes 0, 1, 2, … up to {int(present[-1])} without a gap"
        raise ValueError(f"labels must {rule}, got no image of class {int(gaps[0])}")
    return tuple(map(str, range(len(present))))
