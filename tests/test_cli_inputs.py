"""Options of the data on the command line: geometry, chosen classes, damaged pictures, numpy files and texts."""

from __future__ import annotations

import numpy as np
import pytest
from picture_files import LABELS, PIXELS, encoded, write_folder

from ddsdk import Distilled
from ddsdk.cli import main
from ddsdk.cli.options import DataOptions


@pytest.mark.parametrize(
    ("words", "shape"), [(("4",), (3, 4, 4)), (("4x8",), (3, 4, 8)), (("4", "8"), (3, 4, 8)), (("4X8",), (3, 4, 8))]
)
def test_forms_of_resize(tmp_path, words, shape):
    home = write_folder(tmp_path)
    (home / "cat" / "large.png").write_bytes(encoded(np.full((9, 14, 3), 77, np.uint8)))
    assert DataOptions(data=str(home), resize=words).train().image_shape == shape


@pytest.mark.parametrize("words", [("4by8",), ("4", "8", "3"), ("-4",), ("x",), ("4x",), ("0",)])
def test_other_forms_of_resize_are_refused(tmp_path, words):
    with pytest.raises(ValueError, match="resize must be"):
        DataOptions(data=str(write_folder(tmp_path)), resize=words).train()


def test_a_fit_needs_a_size(tmp_path):
    with pytest.raises(ValueError, match="fit must come with --resize, got 'crop'"):
        DataOptions(data=str(write_folder(tmp_path)), fit="crop").train()


def test_a_set_remembers_geometry_and_classes(tmp_path, capsys):
    home = write_folder(tmp_path / "zoo")
    (home / "cat" / "torn.png").write_bytes(b"torn")
    words = ["distill", "--data", str(home), "--out", str(tmp_path / "set"), "--recipe", "dm", "--ipc", "1"]
    words += ["--steps", "1", "--width", "4", "--depth", "1", "--resize", "4x8", "--fit", "pad", "--skip-unreadable"]
    assert main([*words, "--classes", "land=dog,cat;eel"]) == 0
    distilled = Distilled.load(tmp_path / "set")
    assert distilled.class_names == ("land", "eel") and distilled.images.shape == (2, 3, 4, 8)
    facts = distilled.provenance["data"]
    assert facts["resize"] == {"height": 4, "width": 8, "fit": "pad"}
    assert facts["classes"] == [["land", ["dog", "cat"]], ["eel", ["eel"]]]


def test_numpy_files_and_texts(tmp_path):
    np.savez(tmp_path / "set.npz", x_train=PIXELS, y_train=LABELS + 1, x_test=PIXELS[:3], y_test=[3, 2, 1])
    train, test = DataOptions(data=str(tmp_path / "set.npz")).pair()
    assert train.class_names == ("1", "2", "3") and test.labels.tolist() == [2, 1, 0]
    np.savez(tmp_path / "deep.npz", images=np.concatenate([PIXELS, PIXELS], 3), labels=LABELS)
    assert DataOptions(data=str(tmp_path / "deep.npz"), channels="last").train().image_shape == (6, 6, 5)
    rows = [f"{('good fine', 'bad poor')[i % 2]} film,{i % 2}" for i in range(12)]
    (tmp_path / "reviews.csv").write_text("\n".join(["words,mood", *rows]))
    options = DataOptions(data=str(tmp_path / "reviews.csv"), text_column="words", label_column="mood")
    assert options.train().class_sizes == (6, 6) and not options.train().pictures
