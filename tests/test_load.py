"""Every way in for real data, and what is said to data that cannot be taken."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch
from picture_files import LABELS, PIXELS, encoded, write_folder, write_parquet
from PIL import Image

from ddsdk.data.loading import load, load_pair
from ddsdk.data.preprocess import Preprocess
from ddsdk.foundation.errors import MissingExtraError


class Listed:
    """A map-style dataset with nothing but its items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def expected() -> torch.Tensor:
    return torch.from_numpy(PIXELS).permute(0, 3, 1, 2)


# ---- folders and parquet


def test_flat_folder(tmp_path):
    data = load(write_folder(tmp_path / "zoo"))
    assert data.class_names == ("cat", "dog", "eel") and data.class_sizes == (4, 4, 4) and data.name == "zoo"
    order = [i for c in range(3) for i in range(c, 12, 3)]
    assert torch.equal(data.images, expected()[order])
    with pytest.raises(ValueError, match=r"must hold test or val with class folders to have a test split"):
        load(tmp_path / "zoo", split="test")


@pytest.mark.parametrize(
    ("seen", "held_out"),
    [
        *(("train", "test"), ("train", "val"), ("Training", "Testing"), ("Train", "Test"), ("TRAIN", "dev")),
        *(("training_set", "test_set"), ("training", "validation"), ("train-set", "Valid"), ("train set", "eval")),
    ],
)
def test_folder_with_splits(tmp_path, seen, held_out):
    write_folder(tmp_path / seen)
    write_folder(tmp_path / held_out, PIXELS[:6])
    write_folder(tmp_path / "__MACOSX" / seen)
    write_folder(tmp_path / ".cache" / seen)
    train, test = load_pair(str(tmp_path))
    assert (len(train), len(test)) == (12, 6) and test.preprocess == train.preprocess
    assert train.class_names == ("cat", "dog", "eel")
    assert train.preprocess == Preprocess.fit_normalise(train.images)


def test_a_test_folder_comes_before_a_validation_folder(tmp_path):
    for name, count in (("train", 12), ("validation", 9), ("Test", 6)):
        write_folder(tmp_path / name, PIXELS[:count])
    assert len(load_pair(str(tmp_path))[1]) == 6


@pytest.mark.parametrize(
    ("made", "message"),
    [
        # Taxonomies are no classes.
        (
            {"animals/cat": 3, "animals/dog": 3, "plants/oak": 3},
            "must hold pictures itself, got folders only, ['cat', 'dog']",
        ),
        (
            {"train/cat": 3, "train/dog": 3, "training/cat": 3, "training/dog": 3},
            "must hold one train folder, got ['train', 'training']",
        ),
        (
            {"train/cat": 3, "train/dog": 3, "unlabeled": 3},
            "must hold nothing beside its split folders ['train'], got ['unlabeled']",
        ),
        ({"Train": 3, "Test": 3}, "must hold class folders in its split folders ['Test', 'Train'], got none"),
        ({"val/cat": 3, "val/dog": 3}, "must hold train with class folders to have a train split, got ['val']"),
    ],
    ids=["taxonomy", "two train folders", "something beside", "splits without classes", "no train"],
)
def test_folders_that_may_mean_something_else_are_refused(tmp_path, made, message):
    for where, count in made.items():
        (tmp_path / where).mkdir(parents=True)
        for i in range(count):
            (tmp_path / where / f"{i}.png").write_bytes(encoded(PIXELS[i]))
    with pytest.raises(ValueError) as raised:
        load(tmp_path)
    assert message in str(raised.value)


def test_a_class_may_be_called_train(tmp_path):
    assert load(write_folder(tmp_path, classes=("bus", "train"))).class_names == ("bus", "train")


def test_kinds_of_pictures(tmp_path):
    home = write_folder(tmp_path, PIXELS[..., 0])
    assert load(home).image_shape == (1, 6, 5)
    Image.fromarray(PIXELS[0]).convert("P").save(home / "cat" / "palette.png")
    Image.fromarray(PIXELS[0]).convert("RGBA").save(home / "dog" / "alpha.png")
    (home / "cat" / "notes.txt").write_text("passed over")
    (home / "cat" / ".hidden.png").write_text("passed over")
    data = load(home)
    assert data.image_shape == (3, 6, 5) and len(data) == 14
    assert torch.equal(data.images[0, 0], data.images[0, 2])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white(tmp_path, mode):
    home = write_folder(tmp_path)
    shape = Image.new("LA" if mode == "LA" else "RGBA", (5, 6), (0, 0) if mode == "LA" else (0, 0, 0, 0))
    shape.putpixel((2, 3), (10, 255) if mode == "LA" else (10, 10, 10, 255))
    shape.putpixel((0, 0), (10, 128) if mode == "LA" else (10, 10, 10, 128))
    if mode == "P":
        shape = Image.new("P", (5, 6), 0)
        shape.putpalette([0, 0, 0, 10, 10, 10])
        shape.putpixel((2, 3), 1)
    shape.save(home / "eel" / "99.png", **({"transparency": 0} if mode == "P" else {}))
    image = load(home).images[-1]
    assert (image[:, 3, 2] == 10).all() and (image[:, 5, 4] == 255).all()
    # Half transparent: half way between the colour and white.
    assert mode == "P" or (image[:, 0, 0].int() - 132).abs().max() <= 1


def test_the_orientation_of_a_photograph_is_applied(tmp_path):
    upright = np.zeros((6, 5, 3), np.uint8)
    upright[:3] = 200
    home = write_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees against the clock
    Image.fromarray(np.rot90(upright).copy()).save(home / "eel" / "99.png", exif=exif)
    image = load(home).images[-1]
    assert image.shape == (3, 6, 5) and (image[:, :3] == 200).all() and (image[:, 3:] == 0).all()


def test_resize(tmp_path):
    home = write_folder(tmp_path)
    (home / "dog" / "large.png").write_bytes(encoded(np.full((9, 14, 3), 77, np.uint8)))
    data = load(home, resize=(4, 8))
    assert data.image_shape == (3, 4, 8)
    assert (data.images[data.labels == 1][-1] == 77).all()


def test_parquet_folder(tmp_path):
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", names=["a", "b", "c"])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", names=["a", "b", "c"])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", names=["a", "b", "c"])
    train, test = load_pair(tmp_path)
    assert (len(train), len(test)) == (24, 12) and train.class_names == ("a", "b", "c")
    assert torch.equal(train.images, expected().repeat(2, 1, 1, 1))
    assert train.labels.tolist() == [*LABELS, *LABELS]


def test_parquet_file_and_columns(tmp_path):
    more = {"fine": [0] * 12, "thumb": [encoded(p[:2, :2]) for p in PIXELS]}
    file = write_parquet(tmp_path / "one.parquet", image="image", label="labels", more=more)
    assert load(file).image_shape == (3, 6, 5) and load(file).class_names == ("0", "1", "2")
    assert load(file, image_column="thumb").image_shape == (3, 2, 2)
    file = write_parquet(tmp_path / "two.parquet", image="photo", label="species")
    assert load(file).class_sizes == (4, 4, 4)
    train, test = load_pair(file, tmp_path / "two.parquet")
    assert len(test) == len(train)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "some.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=re.escape("pip install 'ddsdk[parquet]'")):
        load(tmp_path / "some.parquet")


# ---- datasets and arrays


@pytest.mark.parametrize(
    "shown",
    [Image.fromarray, lambda p: p, lambda p: p.transpose(2, 0, 1), lambda p: torch.tensor(p).permute(2, 0, 1)],
    ids=["pil", "array HWC", "array CHW", "tensor CHW"],
)
def test_datasets(shown):
    data = load(Listed([(shown(p), label) for p, label in zip(PIXELS, LABELS, strict=True)]))
    assert torch.equal(data.images, expected()) and data.labels.tolist() == LABELS.tolist()


def test_datasets_keep_their_class_names_and_grey_items():
    items = Listed([(torch.rand(4, 4, generator=torch.Generator()), torch.tensor(i % 2)) for i in range(4)])
    items.classes = ["yes", "no"]
    data = load(items)
    assert data.class_names == ("yes", "no") and data.image_shape == (1, 4, 4)


def test_torch_datasets():
    images = expected().float() / 255
    train, test = load_pair(torch.utils.data.TensorDataset(images, torch.from_numpy(LABELS)), (images[:6], LABELS[:6]))
    assert torch.equal(train.images, images) and len(test) == 6 and test.preprocess == train.preprocess


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (PIXELS, (3, 6, 5)),
        (PIXELS.transpose(0, 3, 1, 2), (3, 6, 5)),
        (PIXELS[..., :1], (1, 6, 5)),
        (PIXELS[..., 0], (1, 6, 5)),
        (PIXELS[..., 0] / 255, (1, 6, 5)),
        (torch.tensor(PIXELS[..., 0]), (1, 6, 5)),
        (expected(), (3, 6, 5)),
        (expected().double() / 255, (3, 6, 5)),
        (torch.rand(12, 3, 7, 3, generator=torch.Generator()), (3, 7, 3)),
        (torch.rand(12, 2, 7, 7, generator=torch.Generator()), (2, 7, 7)),
    ],
)
def test_pairs(images, shape):
    data = load((images, LABELS.astype(np.int32)))
    assert data.image_shape == shape and data.labels.dtype == torch.int64
    assert data.images.dtype in (torch.uint8, torch.float32)


def test_arrays_are_copied():
    images = PIXELS.copy()
    data = load((images, LABELS))
    images[:] = 0
    assert torch.equal(data.images, expected())


# ---- refusals


def altered(array, index, value):
    out = array.copy()
    out[index] = value
    return out


UNIT = PIXELS / 255
BAD = {
    "unknown name": ("fashon-mnist", {}, ValueError, "did you mean 'fashion-mnist'?"),
    "unlike any name": ("no/such/folder", {}, ValueError, "data must be a folder, a file (.parquet, .npz, .npy"),
    "other file": (__file__, {}, ValueError, "data must be a folder or a file with a suffix of .parquet"),
    "option": ("digits", {"size": 3}, TypeError, "options must be among root, image_column"),
    "configuration of a name": ("digits", {"configuration": "c"}, ValueError, "configuration must be left out"),
    "channels of a name": ("digits", {"channels": "last"}, ValueError, "channels must be left out unless data holds"),
    "channels": ((PIXELS, LABELS), {"channels": "middle"}, ValueError, "channels must be 'first' or 'last'"),
    "split": ("digits", {"split": "valid"}, ValueError, "split must be 'train' or 'test', got 'valid'"),
    "resize of a name": (
        "digits",
        {"resize": (4, 4)},
        ValueError,
        "resize must be left out unless data holds pictures",
    ),
    "resize": ("digits", {"resize": (4, 0)}, ValueError, "resize must be one side or (height, width)"),
    "column of a name": ("digits", {"label_column": "y"}, ValueError, "label_column must be left out"),
    "kind": (7, {}, TypeError, "data must be a name, a path, a dataset or a pair (images, labels), got int"),
    "triple": ((PIXELS, LABELS, 1), {}, TypeError, "got tuple"),
    "test of a pair": ((PIXELS, LABELS), {"split": "test"}, ValueError, "load_pair(train, test)"),
    "negative label": ((PIXELS, altered(LABELS, 4, -1)), {}, ValueError, "class ids from 0 on; a negative id"),
    "one class": ((PIXELS, LABELS * 0), {}, ValueError, "at least 2 classes"),
    "fractions": ((PIXELS, LABELS * 1.5), {}, ValueError, "(regression) and missing values are not supported"),
    "one bool": ((PIXELS, torch.ones(12, dtype=torch.bool)), {}, ValueError, "no image of class 0 ('False')"),
    "label set": ((PIXELS, set(LABELS)), {}, TypeError, "labels must be a tensor, an array or a list, got set"),
    "identifiers": ((np.zeros((20, 4, 4)), np.arange(20)), {}, ValueError, "classes that items share"),
    "label shape": ((PIXELS, np.zeros((12, 3, 3))), {}, ValueError, "labels must have shape (N,), or (N, K) with one"),
    "label count": ((PIXELS, LABELS[:9]), {}, ValueError, "labels of train must have one entry for each of the 12"),
    "image list": (([1], LABELS), {}, TypeError, "images must be a tensor or a numpy array, got list"),
    "image dtype": ((PIXELS.astype(int) * 9, LABELS), {}, ValueError, "images must be uint8, or integers in 0..255"),
    "binary": (((PIXELS > 99).astype(int), LABELS), {}, ValueError, "in 0..255 with a maximum above 1"),
    "tensor dtype": ((expected() > 99, LABELS), {}, TypeError, "images must be uint8, uint16 or floating point"),
    "no images": ((PIXELS[:0], LABELS[:0]), {}, ValueError, "images of train must be at least one"),
    "NaN": ((altered(UNIT, (4, 1, 1, 0), np.nan), LABELS), {}, ValueError, "NaN or infinity in image 4"),
    "range": ((UNIT * 16, LABELS), {}, ValueError, "divide them by their largest possible value"),
    "normalised": ((UNIT - 0.5, LABELS), {}, ValueError, "leave out Normalize"),
    "constant": ((PIXELS * 0, LABELS), {}, ValueError, "images must vary in every channel"),
    "ambiguous": ((UNIT[:, :3], LABELS), {}, ValueError, "exactly one of the second and the last axis"),
    "no channels": ((UNIT.repeat(2, 3), LABELS), {}, ValueError, "exactly one of the second and the last axis"),
    "tensor NHWC": ((torch.tensor(UNIT), LABELS), {}, ValueError, "pass channels='last' or permute(0, 3, 1, 2)"),
    "deep tensor NHWC": ((torch.rand(12, 9, 9, 5, generator=torch.Generator()), LABELS), {}, ValueError, "'last' or"),
    "two axes": ((UNIT[0, ..., 0], LABELS[:6]), {}, ValueError, "images must have shape (N, H, W)"),
    "empty dataset": (Listed([]), {}, ValueError, "data must hold at least one item"),
    "item": (Listed([(PIXELS[0], 0), PIXELS[1]]), {}, TypeError, "item 1 must be a pair (image, class id)"),
    "label": (Listed([(PIXELS[0], {}), (PIXELS[1], {})]), {}, ValueError, "object detection is not supported"),
    "mask": (Listed([(PIXELS[0], PIXELS[0, ..., 0])]), {}, ValueError, "segmentation masks are not supported"),
    "missing name": (Listed([(PIXELS[0], "cat"), (PIXELS[1], "")]), {}, ValueError, "got \"'' in item 1\""),
    "image": (Listed([("cat.png", 0)]), {}, TypeError, "image of item 0 must be a PIL image, a tensor or"),
    "sizes": (
        Listed([(PIXELS[0], 0), (PIXELS[1, :4], 1)]),
        {},
        ValueError,
        "image of item 1 must have the shape and dtype of item 0, (3, 6, 5) torch.uint8, got '(3, 4, 5)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused(case):
    data, options, error, message = BAD[case]
    with pytest.raises(error) as raised:
        load(data, **options)
    assert message in str(raised.value)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must hold one subfolder for each class, got 0"):
        load(tmp_path)
    home = write_folder(tmp_path / "zoo")
    (home / "fox").mkdir()
    with pytest.raises(ValueError, match=r"class folder '.*fox' must hold pictures"):
        load(home)
    (home / "fox" / "torn.png").write_bytes(encoded(PIXELS[0])[:60])
    with pytest.raises(ValueError, match=r"1 of 13 unreadable: image file '.*torn\.png'"):
        load(home)
    (home / "fox" / "torn.png").write_bytes(b"no picture at all")
    with pytest.raises(ValueError, match=r"1 of 13 unreadable: image file '.*torn\.png'"):
        load(home)
    Image.fromarray(np.zeros((6, 5), np.float32)).save(home / "fox" / "deep.tif")
    with pytest.raises(ValueError, match=r"2 of 14 unreadable: .*deep\.tif' \(mode F.*torn\.png"):
        load(home)
    (home / "fox" / "deep.tif").unlink()
    (home / "fox" / "torn.png").write_bytes(encoded(PIXELS[0, :4]))
    with pytest.raises(ValueError, match=r"one size; pass resize=.* got 2 sizes .*: 12 of 6x5, 1 of 4x5"):
        load(home)


def test_pairs_must_agree(tmp_path):
    train = (PIXELS, LABELS)
    with pytest.raises(ValueError, match=r"data must have a test split; pass load_pair\(train, test\)"):
        load_pair(train)
    with pytest.raises(ValueError, match=r"test images must have shape \(3, 6, 5\) as in train"):
        load_pair(train, (PIXELS[:, :4], LABELS))
    with pytest.raises(ValueError, match=r"classes of test must be among those of train.*'3' in item 0"):
        load_pair(train, (PIXELS, altered(LABELS, 0, 3)))
    assert load_pair(train, (PIXELS, LABELS % 2))[1].class_sizes == (8, 4, 0)
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "test", classes=("cat", "dog", "fox"))
    with pytest.raises(ValueError, match=r"classes of test must be among .*\['cat', 'dog', 'eel'\].*'fox' in item 8"):
        load_pair(tmp_path)


def test_bad_parquet_is_refused(tmp_path):
    def refused(message, **options):
        with pytest.raises(ValueError) as raised:
            load(tmp_path / "x.parquet", **options)
        assert message in str(raised.value)

    (tmp_path / "x.parquet").write_bytes(b"PAR1 and then nothing")
    refused("x.parquet' must be readable")
    write_parquet(tmp_path / "x.parquet")
    refused("column 'label' of", image_column="label")
    refused("must hold the bytes of picture files", image_column="label")
    refused("label_column must be one of the columns ['label'] of", label_column="fine")
    refused("to have a test split", split="test")
    write_parquet(tmp_path / "x.parquet", label="fine", more={"coarse": [0] * 12})
    refused("label_column must be given for")
    write_parquet(tmp_path / "x.parquet", labels=[b"a", b"b", b"c"] * 4, more={"fine": [0] * 12})
    refused("must hold class ids or class names, or pass another label_column, got the type binary")
    write_parquet(tmp_path / "x.parquet", image="other", more={"image": ["a.png"] * 12})
    refused("paths and texts are not read, pass the folder of the pictures")
    write_parquet(tmp_path / "x.parquet", image="other", more={"image": [[1, 2]] * 12})
    refused("pass lists of numbers as arrays (images, labels)")
    write_parquet(tmp_path / "x.parquet", labels=[None, *LABELS[1:].tolist()])
    refused("row 0 of")
    write_parquet(tmp_path / "x.parquet", contents=[encoded(PIXELS[0]), b"torn"] * 6)
    refused("row 1 of '" + str(tmp_path / "x.parquet"))
    write_parquet(tmp_path / "x.parquet", contents=[encoded(PIXELS[0]), None] * 6)
    refused("x.parquet' (no bytes in column 'img')")
    write_parquet(tmp_path / "x.parquet", names=["a", "b", "c", "d"])
    refused("no image of class 3 ('d')")
    (tmp_path / "x.parquet").rename(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match=r"\.parquet files with train as a word of their names.*test\.parquet"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (("train-00000-of-00001", "test-00000-of-00001"), 0, 1),
        (("Training_a", "validation_b"), 0, 1),
        # "latest" and "restrained" hold the letters of a split, and "contest" too.
        (("latest_train", "contest-dev"), 0, 1),
    ],
)
def test_splits_are_words_of_file_names(tmp_path, names, train, test):
    for i, name in enumerate(names):
        write_parquet(
            tmp_path / f"{name}.parquet",
            contents=[encoded(p) for p in PIXELS[: 12 - 3 * i]],
            labels=LABELS[: 12 - 3 * i],
        )
    found = load_pair(str(tmp_path))
    assert (len(found[0]), len(found[1])) == (12 - 3 * train, 12 - 3 * test)


def test_a_file_belongs_to_one_split(tmp_path):
    write_parquet(tmp_path / "train-test.parquet")
    with pytest.raises(ValueError, match=r"names have one split each, got \['train-test\.parquet'\]"):
        load(tmp_path)
    (tmp_path / "train-test.parquet").rename(tmp_path / "latest.parquet")
    assert len(load(tmp_path)) == 12
    with pytest.raises(ValueError, match="test or val as a word of their names"):
        load(tmp_path, split="test")
