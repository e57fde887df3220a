"""Loaders of real data from a data set name, a folder, tables, numpy files, datasets or arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, cast

import torch
from torch import Tensor

from ddsdk.data.archives import read_numpy
from ddsdk.data.arrays import Array, Channels, read_arrays
from ddsdk.data.classes import ClassChoice, Classes, ClassIndex
from ddsdk.data.datasets import LabelledImages, read_dataset
from ddsdk.data.decoding import decode_to_disk, is_larger_than_memory
from ddsdk.data.folders import holds_class_folders, read_folder
from ddsdk.data.hub import is_hub_dataset, read_hub_dataset
from ddsdk.data.labels import listed
from ddsdk.data.named import MIRROR_SAFE, NAMED, TEXTS, known_name, nearest_name, read_named
from ddsdk.data.on_disk import DiskImages, Images
from ddsdk.data.parquet import read_parquet
from ddsdk.data.pictures import Pictures, decode_all
from ddsdk.data.preprocess import KNOWN_NORMALISATION, Preprocess
from ddsdk.data.raw import Raw, Texts
from ddsdk.data.resize import Resize
from ddsdk.data.sources import RealData
from ddsdk.data.splits import nested_files
from ddsdk.data.tars import TARS, read_tars
from ddsdk.data.texts import TABLES, fit_vocabulary, matrices, read_csv, vocabulary_state
from ddsdk.data.words import Vocabulary
from ddsdk.foundation import note, plain_torch, require

Loadable: TypeAlias = str | Path | tuple[Array, Array] | LabelledImages
Split: TypeAlias = Literal["train", "test"]


class LoadOptions(TypedDict, total=False):
    """Options of `load` and `load_pair`, all of which may be left out.

    Attributes:
        root: Folder into which named data sets are downloaded; None takes ``~/.cache/ddsdk``.
        image_column: Column of pictures in a table; None takes one with a usual name, such as "image", or the only one.
        label_column: Column of labels in a table; None takes one with a usual name, such as "label", or the only one.
        text_column: Column of texts in a table, which are read in the place of pictures; None reads pictures. In a CSV
            file, None takes a column with a usual name, such as "text".
        configuration: Configuration of a data set from the Hugging Face hub, the name of the folder above its splits;
            None requires that there is one.
        channels: Position of the channel axis of arrays, "first" or "last"; None finds it by the sizes of the axes.
        classes: Choice of classes in their new order, such as ``["cat", "dog"]`` or ``"cat,dog"``, with groups as
            ``{"cats": ["persian", "siamese"]}`` or ``"cats=persian,siamese;dogs=beagle"``; None takes all.
        resize: Geometry to which pictures are brought: the side of a square, (height, width), or a `Resize`; None
            requires pictures of one size.
        skip_unreadable: True leaves damaged pictures out, with a note that names them. False refuses them.
        on_disk: True decodes pictures into a file of the cache folder, of which only batches are in memory. None means
            True for pictures that would take more than half of the machine's memory.
        workers: Number of processes that decode pictures to disk; 1, the default, decodes in this process.
        zca: True for ZCA whitening, fitted on the train images, in place of the normalisation.
        preprocess: Preprocessing to use instead of the normalisation or whitening; None takes the default.
        pictures: False for data without pictures, see `RealData`; texts never have pictures.
        mirror_safe: True if the mirror image of an image has the same class, so that recipes may mirror images. None
            means True for "fashion-mnist", "cifar10", "cifar100" and "stl10", and False for all other data.
            `ddsdk.judging.mirror_check` measures it.
    """

    root: str | Path | None
    image_column: str | None
    label_column: str | None
    text_column: str | None
    configuration: str | None
    channels: Channels | None
    classes: Classes | None
    resize: Resize | int | tuple[int, int] | None
    skip_unreadable: bool
    on_disk: bool | None
    workers: int
    zca: bool
    preprocess: Preprocess | None
    pictures: bool
    mirror_safe: bool | None


@plain_torch()
def load(data: Loadable, *, split: Split = "train", **options: Unpack[LoadOptions]) -> RealData:
    """Return one split of a data set as real data on the CPU, with a note on its classes and its shape.

    Both splits have the classes and the preprocessing of the *train* split. The preprocessing is the normalisation with
    the published channel constants if the literature has them, and is otherwise fitted on the train images.

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
            a parquet file, or a folder of parquet files with the split in names of files or folders;
            a .npz file, a .npy file or a folder of .npy files, with usual names of images and labels;
            a tar file in the layout of webdataset, or a folder of tar files with the split in their names;
            a CSV file of texts;
            a dataset or DataLoader of PyTorch, with items (image, label) or dictionaries;
            a `datasets.Dataset` or `datasets.DatasetDict` of the Hugging Face library;
            a pair (images, labels) of tensors (N, C, H, W) or arrays (N, H, W[, C]).
        split: Split to load, "train" or "test". Datasets, pairs and single files have no "test"; see `load_pair`.
        **options: Further options by name, see `LoadOptions`.

    Returns:
        Images, uint8 or float32 in the unit range, with labels, class names and preprocessing.

    Examples:
        >>> import ddsdk
        >>> train, test = ddsdk.load("digits"), ddsdk.load("digits", split="test")
        >>> train.image_shape, train.num_classes, len(train) + len(test)
        ((1, 8, 8), 10, 1797)
    """
    require(split in ("train", "test"), "split", "be 'train' or 'test'", split)
    reader = _reader(data, options)
    if split == "train":
        return _train(reader)[0]
    raw, preprocess = reader.raw("test"), reader.preprocess
    if preprocess is None:
        train, reading = _train(reader)
        preprocess = train.preprocess
    else:
        # Class names of named data are known, so that the train images are not read.
        reading = _Reading.of(raw if reader.is_named else reader.raw("train"), reader)
    return _real(reading.test(raw), reader, reading, preprocess, "test")


@plain_torch()
def load_pair(
    data: Loadable, test: Loadable | None = None, **options: Unpack[LoadOptions]
) -> tuple[RealData, RealData]:
    """Return train and test data, both with the classes and the preprocessing of the train split.

    Classes without test images are allowed, and give a note. ValueError is raised if there is no test data, if test
    data has a class that train data has not, or if the image shapes differ.

    Args:
        data: Source of the data, see `load`.
        test: Source of the test data, if `data` has no test split; None loads the test split of `data`.
        **options: Further options by name, see `LoadOptions`.

    Examples:
        >>> import ddsdk
        >>> train, test = ddsdk.load_pair("digits")
        >>> test.preprocess == train.preprocess
        True
    """
    reader = _reader(data, options)
    if test is None:
        held_out = reader.raw("test")
    else:
        test_reader = _reader(test, options)
        held_out = test_reader.raw("test" if test_reader.is_named else "train")
    train, reading = _train(reader)
    tested = _real(reading.test(held_out), reader, reading, train.preprocess, "test", train.image_shape)
    return train, tested


@dataclass(frozen=True)
class _Reader:
    """Source of unchecked splits, with the options of its reading."""

    name: str
    raw: Callable[[str], Raw]
    options: LoadOptions
    is_named: bool = False

    @property
    def preprocess(self) -> Preprocess | None:
        given = self.options.get("preprocess")
        if given is not None or self.options.get("zca", False):
            return given
        # A choice of classes has other constants than the published ones, but they belong to the data set.
        known = KNOWN_NORMALISATION.get(self.name) if self.is_named else None
        return None if known is None else Preprocess.normalise(*known)


@dataclass(frozen=True)
class _Reading:
    """Reading of both splits: their classes, geometry and vocabulary, which the train split decides."""

    index: ClassIndex
    choice: ClassChoice | None
    resize: Resize | None
    skip_unreadable: bool
    on_disk: bool | None
    workers: int
    vocabulary: Vocabulary | None = None

    @classmethod
    def of(cls, train: Raw, reader: _Reader) -> _Reading:
        options = reader.options
        choice, resize = ClassChoice.of(options.get("classes")), Resize.of(options.get("resize"))
        is_pictures = isinstance(train.images, Pictures)
        require(resize is None or is_pictures, "resize", "be left out unless data holds pictures", resize)
        rule = "be left out unless data is a folder, parquet files or tar files"
        require(is_pictures or not options.get("on_disk"), "on_disk", rule, True)
        skip, on_disk, workers = (
            options.get("skip_unreadable", False),
            options.get("on_disk"),
            options.get("workers", 1),
        )
        reading = cls(ClassIndex.of(train), choice, resize, skip, on_disk, workers)
        chosen = reading._chosen(train, "train")
        if not isinstance(chosen.images, Texts):
            return reading
        return replace(reading, vocabulary=fit_vocabulary(chosen.images.values))

    @property
    def state(self) -> dict[str, Any]:
        """Parts of the reading that other data need too, as JSON values."""
        state: dict[str, Any] = {}
        if self.resize is not None:
            state["resize"] = self.resize.state
        if self.choice is not None:
            state["classes"] = self.choice.state
        if self.vocabulary is not None:
            state["vocabulary"] = vocabulary_state(self.vocabulary)
        return state

    def train(self, raw: Raw) -> Raw:
        """Return the train split with decoded images.

        Raises:
            ValueError: If a class has no images.
        """
        decoded = self._decoded(self._chosen(raw, "train"), "train")
        names = decoded.class_names or ()
        counts = torch.bincount(decoded.labels, minlength=len(names))
        for c in torch.nonzero(counts == 0).flatten().tolist():
            rule = "hold every class; choose the others by classes=[...] or --classes"
            got = f"no image of class {c} ({names[c]!r})"
            raise ValueError(f"labels of train must {rule}, got {got}")
        return decoded

    def test(self, raw: Raw) -> Raw:
        """Return the test split with decoded images, and a note on classes without images."""
        decoded = self._decoded(self._chosen(raw, "test"), "test")
        present = set(decoded.labels.tolist())
        empty = [name for c, name in enumerate(decoded.class_names or ()) if c not in present]
        if empty:
            note(f"test has no images of {len(empty)} classes: {listed(empty)}")
        return decoded

    def _chosen(self, raw: Raw, split: str) -> Raw:
        n, shape = len(raw.images), tuple(raw.labels.shape)
        require(shape == (n,), f"labels of {split}", f"have one entry for each of the {n} images", shape)
        require(n > 0, f"images of {split}", "be at least one, and have shape (N, C, H, W)", n)
        named = self.index.applied(raw, split)
        chosen = named if self.choice is None else self.choice.applied(named)
        require(len(chosen.labels) > 0, f"data of {split}", "hold items of the chosen classes", chosen.class_names)
        return chosen

    def _decoded(self, raw: Raw, split: str) -> Raw:
        images: Images | Pictures | Texts = raw.images
        if isinstance(images, Texts):
            require(self.vocabulary is not None, f"data of {split}", "be no texts, as in train", "texts")
            return replace(raw, images=matrices(cast("Vocabulary", self.vocabulary), images, split))
        if isinstance(images, Tensor | DiskImages):
            return raw
        pictures, skip = images.resized(self.resize), self.skip_unreadable
        on_disk = is_larger_than_memory(pictures) if self.on_disk is None else self.on_disk
        decoded, kept = (
            decode_to_disk(pictures, workers=self.workers, skip_unreadable=skip, split=split)
            if on_disk
            else decode_all(pictures, skip_unreadable=skip, split=split)
        )
        return replace(raw, images=decoded, labels=raw.labels[kept])


_TABLE_OPTIONS = ("image_column", "label_column", "text_column", "configuration")


def _reader(data: Loadable, options: LoadOptions) -> _Reader:
    for name in options:
        if name not in LoadOptions.__annotations__:
            raise TypeError(f"options must be among {', '.join(LoadOptions.__annotations__)}, got {name!r}")
    path, channels = _path(data), options.get("channels")
    columns: dict[str, Any] = {name: options[name] for name in _TABLE_OPTIONS if options.get(name) is not None}  # type: ignore[literal-required]
    kind = "hub" if is_hub_dataset(data) else "" if path is None else _kind(path, "text_column" in columns)
    accepted = {
        "parquet": _TABLE_OPTIONS,
        "csv": ("text_column", "label_column"),
        "hub": ("image_column", "label_column", "text_column"),
    }
    for option, value in columns.items():
        table = "a table" if kind not in accepted else f"another kind of table than {kind}"
        require(option in accepted.get(kind, ()), option, f"be left out unless data is {table}", value)
    in_arrays = kind == "numpy" or (path is None and not isinstance(data, str) and kind != "hub")
    require(channels is None or in_arrays, "channels", "be left out unless data holds arrays", channels)
    if path is not None:
        name = _user_name(path.name if path.is_dir() else path.stem)
        readers: dict[str, Callable[[str], Raw]] = {
            "parquet": lambda split: read_parquet(path, split, **columns),
            "csv": lambda split: read_csv(path, split, options.get("text_column"), options.get("label_column")),
            "numpy": lambda split: read_numpy(path, split, channels),
            "tar": lambda split: read_tars(path, split),
            "folder": lambda split: read_folder(path, split),
        }
        return _Reader(name, readers[kind], options)
    if isinstance(data, str):
        name, root = known_name(data) or data, options.get("root")
        folder = Path.home() / ".cache" / "ddsdk" if root is None else Path(root)
        return _Reader(name, lambda split: read_named(name, split, folder), options, is_named=True)
    if kind == "hub":
        return _Reader("data", partial(read_hub_dataset, data, **columns), options)
    return _Reader("data", lambda split: _in_memory(data, split, channels), options)


def _kind(path: Path, texts: bool) -> str:
    """Return the reader of a path: "parquet", "csv", "numpy", "tar" or "folder"."""
    if path.is_file():
        return {".parquet": "parquet", ".npz": "numpy", ".npy": "numpy", ".tar": "tar"}.get(path.suffix, "csv")
    tables = {"parquet": (".parquet",), "numpy": (".npy",), "tar": TARS} | ({"csv": TABLES} if texts else {})
    found = [kind for kind, suffixes in tables.items() if nested_files(path, suffixes)]
    if found and holds_class_folders(path):
        # A table of captions or file names may lie beside the pictures.
        return "folder"
    require(len(found) <= 1, f"folder {str(path)!r}", "hold files of one kind", found)
    return found[0] if found else "folder"


def _user_name(name: str) -> str:
    # A user's folder with the name of a public data set must not be confused with the data set in reports.
    return f"{name} (own data)" if known_name(name) else name


def _path(data: Loadable) -> Path | None:
    if not isinstance(data, str | Path) or (isinstance(data, str) and known_name(data)):
        return None
    path = Path(data).expanduser()
    suffixes = (".parquet", ".npz", ".npy", *TARS, *TABLES)
    if path.is_dir() or (path.is_file() and path.suffix in suffixes):
        return path
    if path.is_file():
        raise ValueError(f"data must be a folder or a file with a suffix of {', '.join(suffixes)}, got {str(data)!r}")
    similar = nearest_name(str(data))
    hint = f"; did you mean {similar!r}?" if similar else ""
    rule = f"be a folder, a file ({', '.join(suffixes)}), or one of {', '.join(NAMED)}"
    raise ValueError(f"data must {rule}, got {str(data)!r}, which does not exist{hint}")


def _in_memory(data: Loadable, split: str, channels: Channels | None) -> Raw:
    is_pair = isinstance(data, tuple | list) and len(data) == 2
    type_name = type(data).__name__
    has_items = hasattr(data, "__getitem__") or hasattr(data, "dataset")
    if not is_pair and (isinstance(data, tuple | list | dict) or not has_items):
        raise TypeError(f"data must be a name, a path, a dataset or a pair (images, labels), got {type_name}")
    rule = "have a test split; pass load_pair(train, test) with two of them"
    require(split == "train", "data", rule, "a pair of arrays" if is_pair else type_name)
    if isinstance(data, tuple | list):
        return read_arrays(data[0], data[1], channels)
    return read_dataset(cast("LabelledImages", data), channels)


def _train(reader: _Reader) -> tuple[RealData, _Reading]:
    """Return the train split, and the reading of other splits."""
    raw = reader.raw("train")
    reading = _Reading.of(raw, reader)
    decoded, preprocess = reading.train(raw), reader.preprocess
    if preprocess is None:
        # RealData checks the images before the fit, so that the error message for a NaN names the image.
        images = cast("Images", decoded.images)
        unit = _real(decoded, reader, reading, Preprocess.unit(images.shape[1]), "train", quiet=True)
        fit = Preprocess.fit_zca if reader.options.get("zca", False) else Preprocess.fit_normalise
        preprocess = fit(unit.stored)
    return _real(decoded, reader, reading, preprocess, "train"), reading


def _real(
    raw: Raw,
    reader: _Reader,
    reading: _Reading,
    preprocess: Preprocess,
    split: str,
    shape: tuple[int, int, int] | None = None,
    quiet: bool = False,
) -> RealData:
    images, names = cast("Images", raw.images), raw.class_names or ()
    own = tuple(images.shape[1:])
    require(shape is None or own == shape, "test images", f"have shape {shape} as in train", own)
    require(preprocess.channels == own[0], "preprocess", f"be for {own[0]} channels", preprocess.channels)
    mirror_safe, named = reader.options.get("mirror_safe"), reader.name if reader.is_named else None
    real = RealData(
        images,
        raw.labels,
        class_names=names,
        preprocess=preprocess,
        name=reader.name if reading.choice is None else f"{reader.name} ({len(names)} chosen classes)",
        pictures=reader.options.get("pictures", True) and named not in TEXTS and reading.vocabulary is None,
        mirror_safe=named in MIRROR_SAFE if mirror_safe is None else mirror_safe,
        held_out=split == "test",
        reading=reading.state,
    )
    # Part of a data set, such as the data of one federated client, may have one class; a whole data set may not.
    require(len(names) >= 2, "class_names", "name at least 2 classes", list(names))
    if not quiet:
        sizes = real.class_sizes
        least, most = sizes.index(min(sizes)), sizes.index(max(sizes))
        range_of = f"{sizes[least]} ({names[least]}) to {sizes[most]} ({names[most]})"
        range_of = f"{range_of if sizes[least] < sizes[most] else sizes[least]} each"
        size = "x".join(map(str, own))
        items = "images" if real.pictures else "items"
        note(f"{split}: {len(real)} {items} {size} of {len(names)} classes ({listed(names)}), {range_of}")
    return real
