"""Formats of pictures: the documented ones are read, and content in another one never reaches its parser."""

from __future__ import annotations

import contextlib
import io
import os
import re

import numpy as np
import pytest
from picture_files import PIXELS, encoded, write_folder, write_parquet
from PIL import Image

from ddsdk.data import load
from ddsdk.data.pictures import FORMATS, UnreadablePictureError, decode

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n%%EndComments\n(gift) print flush\nshowpage\n%%EOF\n"
REFUSED = "content in none of the formats " + ", ".join(FORMATS)


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """The mark that a PostScript interpreter leaves when it is started."""
    programs, mark = tmp_path / "programs", tmp_path / "started"
    programs.mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {mark}\nexit 0\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    with contextlib.suppress(OSError), Image.open(io.BytesIO(EPS)) as picture:
        picture.load()
    assert mark.exists()  # Pillow alone would have started it
    mark.unlink()
    return mark


def test_postscript_in_a_folder_is_refused(tmp_path, interpreter):
    home = write_folder(tmp_path / "zoo")
    (home / "eel" / "0.png").write_bytes(EPS)
    with pytest.raises(ValueError, match=rf"eel/0\.png' \({re.escape(REFUSED)}\)"):
        load(home)
    assert not interpreter.exists()


def test_postscript_in_a_cell_is_refused(tmp_path, interpreter):
    file = write_parquet(tmp_path / "train.parquet", contents=[EPS, *(encoded(p) for p in PIXELS[1:])])
    with pytest.raises(ValueError, match=rf"row 0 of .*{re.escape(REFUSED)}"):
        load(file)
    assert not interpreter.exists()


@pytest.mark.parametrize("form", ["bytes", "opened"])
def test_postscript_as_bytes_and_as_an_opened_picture_is_refused(interpreter, form):
    source = EPS if form == "bytes" else Image.open(io.BytesIO(EPS))
    with pytest.raises(UnreadablePictureError, match=rf"item 3 must be a readable picture, got {REFUSED}"):
        decode(source, "item 3")
    assert not interpreter.exists()


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "SGI", "DDS", "ICNS", "JPEG2000"])
def test_a_format_without_its_documentation_is_refused(kind):
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, kind)
    with pytest.raises(UnreadablePictureError, match=REFUSED):
        decode(stream.getvalue(), "item")


@pytest.mark.parametrize("kind", FORMATS)
def test_each_documented_format_is_read(kind):
    pixels = np.zeros((6, 5, 3), np.uint8)
    assert np.array_equal(decode(encoded(pixels, kind), "item")[0], pixels)
    with Image.open(io.BytesIO(encoded(pixels, kind))) as opened:
        assert np.array_equal(decode(opened, "item")[0], pixels)


def test_the_photograph_of_a_phone_is_read():
    stream = io.BytesIO()
    photo = Image.fromarray(np.zeros((6, 5, 3), np.uint8))
    photo.save(stream, "MPO", save_all=True, append_images=[photo])
    assert decode(stream.getvalue(), "item")[0].shape == (6, 5, 3)
    with Image.open(stream) as opened:
        assert opened.format == "MPO" and decode(opened, "item")[0].shape == (6, 5, 3)


def test_suffixes_and_formats_agree():
    suffixes = [".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"]
    assert {Image.registered_extensions()[suffix] for suffix in suffixes} == set(FORMATS)
