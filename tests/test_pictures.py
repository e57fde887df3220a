"""Pictures are decoded one by one into one tensor, and damaged ones are counted, named or left out."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from picture_files import PIXELS, encoded, write_folder, write_parquet
from PIL import Image

from ddsdk.data import Resize, load
from ddsdk.data.folders import read_folder
from ddsdk.data.parquet import read_parquet
from ddsdk.data.pictures import decode_all


@pytest.fixture
def notes(caplog):
    """The notes of a test, as one text."""
    caplog.set_level(logging.INFO, "ddsdk")
    return lambda: "\n".join(record.getMessage() for record in caplog.records if record.name == "ddsdk")


def test_notes_go_to_the_log_or_to_standard_error():
    program = "from ddsdk.foundation import note; note('labels\\n1..3'); print('done')"
    quiet = "import logging; logging.getLogger('ddsdk').setLevel(logging.WARNING); "
    basic = "import logging; logging.basicConfig(level='INFO', format='LOG %(message)s'); "
    for setup, line in (("", "ddsdk: labels 1..3\n"), (quiet, ""), (basic, "LOG labels 1..3\n")):
        done = subprocess.run([sys.executable, "-c", setup + program], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("done\n", line)


def test_readers_decode_on_access(tmp_path):
    folder = write_folder(tmp_path / "zoo")
    (folder / "eel" / "99.png").write_bytes(b"torn")
    raw = read_folder(folder, "train")
    assert len(raw.images) == 13 and raw.images[0].shape == (6, 5, 3)
    assert raw.images.name(12) == f"image file {str(folder / 'eel' / '99.png')!r}"
    assert raw.images.resized(Resize(4, 2)).select([3, 0])[1].shape == (4, 2, 3)
    # Rows of several files and row groups, in any order, and in another process.
    file = write_parquet(tmp_path / "train-0.parquet")
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(file), tmp_path / "train-1.parquet", row_group_size=5)
    pictures = copy.deepcopy(read_parquet(tmp_path, "train").images)
    for i in (23, 0, 17, 16, 12, 11):
        assert np.array_equal(pictures[i], PIXELS[i % 12])
    assert pictures.name(17) == f"row 5 of {str(tmp_path / 'train-1.parquet')!r}"


def test_a_late_colour_picture_keeps_the_grey_ones(tmp_path):
    home = write_folder(tmp_path, PIXELS[..., 0])
    (home / "eel" / "98.png").write_bytes(encoded(PIXELS[1]))
    (home / "eel" / "99.png").write_bytes(encoded(PIXELS[2, ..., 0]))
    images, kept = decode_all(read_folder(home, "train").images)
    assert images.shape == (14, 3, 6, 5) and kept.tolist() == list(range(14))
    assert torch.equal(images[-2], torch.tensor(PIXELS[1]).permute(2, 0, 1))
    for c in range(3):
        assert np.array_equal(images[0, c], PIXELS[0, ..., 0]) and np.array_equal(images[-1, c], PIXELS[2, ..., 0])


def test_decoding_takes_little_more_than_the_tensor(tmp_path):
    home = write_folder(tmp_path, np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8))
    tracemalloc.start()
    images = load(home).images
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * images.nbytes


def test_damaged_pictures_are_all_named_or_left_out(tmp_path, notes):
    home = write_folder(tmp_path)
    for i in range(25):
        (home / "cat" / f"torn{i:02d}.png").write_bytes(encoded(PIXELS[0])[:60])
    with pytest.raises(ValueError) as raised:
        load(home)
    text = str(raised.value)
    assert "or be left out by skip_unreadable=True or --skip-unreadable, got 25 of 37 unreadable" in text
    assert text.count("torn") == 20 and text.endswith("; and 5 more")
    data = load(home, skip_unreadable=True)
    assert data.class_sizes == (4, 4, 4) and torch.equal(data.images, load_without(home))
    assert (
        "25 of 37 pictures of train are unreadable and left out" in notes()
        and notes().count("left out: image file") == 25
    )


def test_one_refusal_names_damaged_pictures_and_sizes(tmp_path):
    home = write_folder(tmp_path)
    (home / "cat" / "torn.png").write_bytes(b"torn")
    (home / "eel" / "98.png").write_bytes(encoded(PIXELS[0, :4]))
    (home / "eel" / "99.png").write_bytes(encoded(PIXELS[0, :4]))
    with pytest.raises(ValueError, match=r"1 of 15 unreadable: .*torn\.png.*; besides, .* 12 of 6x5, 2 of 4x5$"):
        load(home)


def test_the_first_frame_of_an_animation_is_read_with_a_note(tmp_path, notes):
    home = write_folder(tmp_path, PIXELS[..., 0])
    frames = [Image.new("L", (5, 6), value) for value in (30, 200)]
    frames[0].save(home / "eel" / "99.gif", save_all=True, append_images=frames[1:])
    assert (load(home).images[-1] == 30).all()
    assert "1 pictures of train have several frames, of which the first is read" in notes()


def load_without(home):
    for path in home.rglob("torn*"):
        path.unlink()
    return load(home).images


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_grey_become_eight(tmp_path, notes, suffix):
    home = write_folder(tmp_path, PIXELS[..., 0])
    values = np.array([[0, 128, 129, 257, 65535, 65406]] * 6, np.uint16).T[:, :5]
    Image.fromarray(values).save(home / "eel" / f"99.{suffix}")
    image = load(home).images[-1]
    assert image.shape == (1, 6, 5) and image[0, :, 0].tolist() == [0, 0, 1, 1, 255, 254]
    assert "reduced to 8 bits" in notes()


@pytest.mark.parametrize(
    ("fit", "row"),
    [
        ("stretch", [0, 0, 0, 0, 200, 200, 200, 200]),
        # The middle 8 of 16 columns are kept.
        ("crop", [0, 0, 0, 0, 200, 200, 200, 200]),
        ("pad", [0, 0, 0, 0, 200, 200, 200, 200]),
    ],
)
def test_geometry(fit, row):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 8:] = 200
    pixels = np.asarray(Resize(8, 8, fit)(Image.fromarray(wide)))
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels[4, :, 0].astype(int) - row).max() <= (50 if fit != "crop" else 0)
    # Borders of padding are black: a picture of 8 x 16 has the height 4 in a square of 8.
    assert (pixels[:2] == 0).all() == (fit == "pad") and (pixels[4, -1] == 200).all()


def test_a_resize_is_checked_and_read_from_json():
    assert (
        Resize.of(32) == Resize(32, 32) and Resize.of((4, 8), "pad") == Resize(4, 8, "pad") and Resize.of(None) is None
    )
    assert Resize.from_state(Resize(3, 4, "crop").state) == Resize(3, 4, "crop")
    good = {"height": 3, "width": 4, "fit": "crop"}
    bad = (None, {}, [3], good | {"more": 1}, good | {"height": 0}, good | {"width": True}, good | {"height": 1e9})
    for state in (*bad, good | {"fit": "squeeze"}, good | {"fit": []}, good | {"height": 10**9}):
        with pytest.raises(ValueError):
            Resize.from_state(state)
    for value in ((4, 0), (4,), (1, 2, 3), 2.5, "32"):
        with pytest.raises((ValueError, TypeError)):
            Resize.of(value)
