"""Parquet, image folder and numpy exports, read back by other tools."""

import dataclasses
import io
import json
import sys

import numpy as np
import pytest
import torch
from artefact_sets import HOSTILE, make_set
from PIL import Image

from ddsdk.artefact.export import ranking_arguments, to_image_folder, to_npz, to_parquet
from ddsdk.artefact.sheet import contact_sheet, side_by_side, to_pixels
from ddsdk.foundation.errors import MissingExtraError, StorageError


def pixels(distilled, i):
    return to_pixels(distilled.unit_images())[i]


def test_to_pixels_rounds_and_clips():
    unit = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 0.0019, 0.0020]).reshape(1, 1, 1, 7)
    assert to_pixels(unit).tolist() == [[[0, 0, 128, 255, 255, 0, 1]]]
    assert to_pixels(torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)).tolist() == [[[128]]]
    assert to_pixels(torch.rand(2, 3, 4, 5)).shape == (2, 4, 5, 3)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5)])
def test_parquet_has_the_layout_of_the_hub(tmp_path, shape):
    pq = pytest.importorskip("pyarrow.parquet")
    distilled = make_set(shape=shape, soft=True, class_names=("cat", "cat", "dog"))
    to_parquet(distilled, tmp_path / "train.parquet")
    table = pq.read_table(tmp_path / "train.parquet")
    assert table.column_names == ["image", "label", "probabilities"]
    assert str(table.schema.field("image").type) == "struct<bytes: binary, path: string>"
    rows = table.to_pylist()
    assert [row["label"] for row in rows] == distilled.owner.tolist()
    assert np.array_equal(np.array([r["probabilities"] for r in rows], np.float32), distilled.labels.numpy())
    picture = np.asarray(Image.open(io.BytesIO(rows[2]["image"]["bytes"])))
    assert np.array_equal(picture, pixels(distilled, 2))
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"names": ["cat", "cat (1)", "dog"], "_type": "ClassLabel"}
    assert json.loads(table.schema.metadata[b"ddsdk"])["id"] == distilled.content_id


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"ddsdk\[parquet\]"):
        to_parquet(make_set(), tmp_path / "a.parquet")


def test_image_folder_keeps_class_order_and_names_safe(tmp_path):
    distilled = make_set(classes=len(HOSTILE), ipc=1, class_names=HOSTILE)
    to_image_folder(distilled, tmp_path / "images")
    folders = sorted((tmp_path / "images").iterdir())
    assert [p.name[0] for p in folders] == [str(i) for i in range(len(HOSTILE))]
    assert all(len(p.name) < 70 and p.name.replace("_", "").replace("-", "").isalnum() for p in folders)
    for i, folder in enumerate(folders):
        (file,) = folder.iterdir()
        assert np.array_equal(np.asarray(Image.open(file)), pixels(distilled, i))
    assert [p.name for p in tmp_path.iterdir()] == ["images"]


def test_image_folder_is_read_by_torchvision(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    distilled = make_set(classes=12, ipc=1)
    to_image_folder(distilled, tmp_path / "images")
    found = datasets.ImageFolder(str(tmp_path / "images"))
    assert [label for _, label in found.samples] == distilled.owner.tolist()


def test_image_folder_never_mixes_two_sets(tmp_path):
    to_image_folder(make_set(), tmp_path / "images")
    with pytest.raises(StorageError, match="holds files already"):
        to_image_folder(make_set(seed=1), tmp_path / "images")
    (tmp_path / "empty").mkdir()
    to_image_folder(make_set(), tmp_path / "empty")


def test_png_needs_one_or_three_channels(tmp_path):
    with pytest.raises(ValueError, match="1 or 3 channels"):
        to_image_folder(make_set(shape=(2, 4, 4)), tmp_path / "images")
    assert list(tmp_path.iterdir()) == []


def test_npz_is_exact_and_reproducible(tmp_path):
    distilled = make_set(zca=True, shape=(1, 3, 2), ipc=4, soft=True, learned_lr=0.3)
    to_npz(distilled, tmp_path / "a.npz")
    to_npz(distilled, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert np.array_equal(file["images"], distilled.images.numpy())
        assert np.array_equal(file["labels"], distilled.labels.numpy())
        assert np.array_equal(file["owner"], distilled.owner.numpy())
        assert float(file["learned_lr"]) == distilled.learned_lr
        assert file["zca_basis"].shape == (6, 6)
        assert json.loads(str(file["metadata"]))["id"] == distilled.content_id


def test_a_failed_export_keeps_the_old_file(tmp_path, monkeypatch):
    to_npz(make_set(), tmp_path / "a.npz")
    before = (tmp_path / "a.npz").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(StorageError, match="old file is unchanged"):
        to_npz(make_set(seed=1), tmp_path / "a.npz")
    with pytest.raises(StorageError):
        to_image_folder(make_set(), tmp_path / "images")
    monkeypatch.undo()
    assert (tmp_path / "a.npz").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_contact_sheet_enlarges_without_smoothing():
    distilled = make_set(classes=2, ipc=3, shape=(3, 4, 4))
    sheet = contact_sheet(distilled, per_class=2, scale=5)
    corner = np.asarray(sheet)[12:32, sheet.width - 12 - 2 * 24 : sheet.width - 12 - 2 * 24 + 20]
    assert np.array_equal(corner, pixels(distilled, 0).repeat(5, 0).repeat(5, 1))
    assert sheet.height == 2 * 12 + 2 * 24


@pytest.mark.parametrize("shape", [(1, 200, 300), (2, 1, 1), (3, 1, 64)])
def test_contact_sheet_of_odd_shapes(shape):
    sheet = contact_sheet(make_set(classes=2, ipc=1, shape=shape))
    assert sheet.width < 700
    assert sheet.height < 400


def test_contact_sheet_of_many_and_hostile_classes():
    many = contact_sheet(make_set(classes=120, ipc=1, shape=(1, 2, 2)))
    assert many.height < 100 * 70 + 100
    sheet = contact_sheet(make_set(classes=len(HOSTILE), ipc=1, class_names=HOSTILE))
    assert sheet.width < 400


@pytest.mark.parametrize("options", [{"per_class": 0}, {"scale": 0}])
def test_contact_sheet_refuses(options):
    with pytest.raises(ValueError, match="at least 1"):
        contact_sheet(make_set(), **options)


def test_sets_side_by_side():
    """Row r, column c is the first image of class c in set r, enlarged."""
    sets = [
        ("one", make_set(classes=2, ipc=3, shape=(3, 32, 32))),
        ("two", make_set(seed=1, classes=2, ipc=3, shape=(3, 32, 32))),
    ]
    sheet = np.asarray(side_by_side(sets))
    assert sheet.shape[0] == 2 * 12 + 2 * 68
    for r, (_, distilled) in enumerate(sets):
        for c in range(2):
            left = sheet.shape[1] - 12 - (2 - c) * 68
            tile = sheet[12 + r * 68 : 76 + r * 68, left : left + 64]
            first = int((distilled.owner == c).nonzero()[0])
            assert np.array_equal(tile, pixels(distilled, first).repeat(2, 0).repeat(2, 1))
    assert np.asarray(side_by_side(sets, per_class=3)).shape[1] == sheet.shape[1] + 4 * 68


def test_side_by_side_refuses():
    with pytest.raises(ValueError, match="sets must hold at least one set"):
        side_by_side([])
    with pytest.raises(ValueError, match="per_class must be at least 1, got 0"):
        side_by_side([("a", make_set())], per_class=0)


def test_arguments_of_dd_ranking():
    hard = make_set(learned_lr=0.5)
    shuffled = torch.tensor([4, 0, 2, 5, 1, 3])
    mixed = dataclasses.replace(hard, images=hard.images[shuffled], labels=hard.labels[shuffled])
    found = ranking_arguments(mixed)
    assert set(found) == {"image_tensor", "syn_lr"}
    assert found["syn_lr"] == 0.5
    for c in range(3):
        ours = {image.numpy().tobytes() for image in hard.images[hard.owner == c]}
        assert {image.numpy().tobytes() for image in found["image_tensor"][2 * c : 2 * c + 2]} == ours
    soft = ranking_arguments(make_set(soft=True))
    assert soft["soft_labels"].shape == (6, 3)
    assert soft["syn_lr"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zca": True}, "space must be 'normalised', got 'zca'"),
        ({"learned_lr": (0.1, 0.2)}, "learned_lr must be one number"),
    ],
)
def test_what_dd_ranking_cannot_read_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ranking_arguments(make_set(**options))


def test_dd_ranking_wants_as_many_images_of_each_class():
    whole = make_set()
    uneven = dataclasses.replace(whole, images=whole.images[:5], labels=whole.labels[:5], stored_floats=0)
    with pytest.raises(ValueError, match=r"classes must have equally many images each, got \[2, 2, 1\]"):
        ranking_arguments(uneven)
