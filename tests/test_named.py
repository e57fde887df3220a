"""Data sets by name: where they are looked for, and the constants that they bring."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddsdk.data.loading import load, load_pair
from ddsdk.data.preprocess import KNOWN_NORMALISATION, Preprocess


def test_digits():
    train, test = load_pair("digits")
    assert train.image_shape == (1, 8, 8) and train.num_classes == 10 and train.name == "digits"
    assert len(train) + len(test) == 1797
    for n, m in zip(train.class_sizes, test.class_sizes, strict=True):
        assert abs(m / (n + m) - 0.25) < 0.01
    assert train.images.min() == 0 and train.images.max() == 1
    assert test.preprocess == train.preprocess and train.preprocess.space == "normalised"
    assert abs(float(train.batch(torch.arange(len(train))).x.mean())) < 1e-4
    torch.manual_seed(5)
    again = load("digits", split="test")
    assert again.fingerprint == test.fingerprint and again.preprocess == train.preprocess
    both = {image.numpy().tobytes() for image in train.images} & {i.numpy().tobytes() for i in test.images}
    assert len(both) < 5, "train and test share images"


def test_zca_is_fitted_on_the_train_split():
    train, test = load_pair("digits", zca=True)
    assert test.preprocess == train.preprocess == Preprocess.fit_zca(train.images)
    assert load("digits", split="test", zca=True).preprocess == train.preprocess


def test_a_given_preprocess_wins():
    data = load("digits", preprocess=Preprocess.unit(1))
    assert data.preprocess.space == "unit"
    with pytest.raises(ValueError, match="preprocess must be for 1 channels, got 3"):
        load("digits", preprocess=Preprocess.unit(3))


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("Fashion_MNIST", "FashionMNIST")])
def test_torchvisions_layout_is_read_without_download(tmp_path, name, folder):
    images = np.random.default_rng(1).integers(0, 256, (20, 28, 28))
    for part, n in (("train", 20), ("t10k", 10)):
        write_idx(tmp_path / folder / "raw" / f"{part}-images-idx3-ubyte", images[:n])
        write_idx(tmp_path / folder / "raw" / f"{part}-labels-idx1-ubyte", np.arange(n) % 10)
    train, test = load_pair(name, root=tmp_path)
    assert train.image_shape == (1, 28, 28) and (len(train), len(test)) == (20, 10)
    assert torch.equal(train.images[:, 0], torch.from_numpy(images).to(torch.uint8))
    constants = KNOWN_NORMALISATION[train.name]
    assert train.preprocess == test.preprocess == Preprocess.normalise(*constants)
    assert len(train.class_names) == 10


def test_cifar10_is_found_as_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pictures = []
    for pixels in np.random.default_rng(2).integers(0, 256, (10, 4, 4, 3), dtype=np.uint8):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        pictures.append({"bytes": stream.getvalue()})
    (tmp_path / "cifar10").mkdir()
    for split in ("train", "test"):
        table = pa.table({"img": pictures, "label": list(range(10))})
        pq.write_table(table, tmp_path / "cifar10" / f"{split}.parquet")
    train, test = load_pair("cifar10", root=tmp_path)
    assert train.class_names[3] == "cat" and len(test) == 10
    assert train.preprocess == Preprocess.normalise(*KNOWN_NORMALISATION["cifar10"])


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 4, 4, 3), (2, 4, 4)])
def test_the_layouts_of_torchvision_become_one(tmp_path, monkeypatch, shape):
    import torchvision.datasets

    class Fake:
        def __init__(self, root, *, split, download):
            self.data = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
            self.labels = np.array([0, 1])

    monkeypatch.setattr(torchvision.datasets, "SVHN", Fake)
    data = load("svhn", root=tmp_path)
    assert data.image_shape == (1 if len(shape) == 3 else 3, 4, 4) and data.class_names == ("0", "1")


@pytest.mark.parametrize("name", ["svhn", "usps"])
def test_a_failed_download_says_where_it_looked(tmp_path, monkeypatch, name):
    import torchvision.datasets

    def refuse(root, *, download, **split):
        raise RuntimeError("no network") if download else FileNotFoundError("no file")

    monkeypatch.setattr(torchvision.datasets, name.upper(), refuse)
    with pytest.raises(FileNotFoundError, match=f"{name} is not under .*{tmp_path.name}.*pass root=.*no network"):
        load(name, root=tmp_path)


@pytest.mark.parametrize(("name", "size"), [("fashion-mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_the_real_sets(name, size):
    root = os.environ.get("DDSDK_DATA")
    if not root:
        pytest.skip("set DDSDK_DATA to a folder with FashionMNIST and cifar10 to check the real data sets")
    train, test = load_pair(name, root=root)
    assert train.image_shape == size and test.class_sizes == (1000,) * 10
    assert train.preprocess == Preprocess.normalise(*KNOWN_NORMALISATION[name])


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"\x01" + b[1:], lambda b: b"", lambda b: b + b"xx"])
def test_damaged_idx_files_are_named_and_not_downloaded_again(tmp_path, damage):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = np.zeros((20, 28, 28), np.uint8), (np.arange(20) % 10).astype(np.uint8)
    for split in ("train", "t10k"):
        for name, array in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (raw / name).write_bytes(head + array.tobytes())
    assert len(load("mnist", root=tmp_path, preprocess=Preprocess.unit(1))) == 20
    file = raw / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match="the train files of mnist must be readable; delete its folder in"):
        load("mnist", root=tmp_path)
