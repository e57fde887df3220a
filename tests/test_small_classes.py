"""Classes with fewer images than the set needs: refused, filled by augmented repeats, or kept small."""

from __future__ import annotations

import pytest
import torch

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.data import repeat_small_classes
from ddsdk.foundation import derive


@pytest.fixture
def few(tiny):
    """Three classes, of which the second has two images."""
    index = torch.cat([tiny.index_of_class(0)[:5], tiny.index_of_class(1)[:2], tiny.index_of_class(2)[:5]])
    return tiny.subset(index).with_mirror_safe(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_repeats_are_variants_of_the_class_and_the_real_images_stay(few, dtype, caplog):
    scale = 255 if dtype == torch.uint8 else 1
    caplog.set_level("INFO", logger="ddsdk")
    real = few.with_items((few.images * scale).to(dtype), few.labels)
    filled = repeat_small_classes(real, 5)
    assert filled.class_sizes == (5, 5, 5)
    assert filled.images.dtype == dtype
    assert torch.equal(filled.images[: len(real)], real.images)
    repeats, originals = filled.images[len(real) :].float(), real.images[real.index_of_class(1)].float()
    assert len(repeats.unique(dim=0)) == 3
    assert all(not torch.equal(repeat, original) for repeat in repeats for original in originals)
    # The repeats take the images of the class in turn, each with its own operation.
    for i, repeat in enumerate(repeats):
        draw = dd.Augmentation("crop_scale_rotate").per_image(1, derive(dd.generator("small classes"), i))
        expected = draw(originals[[i % 2]] / scale).clamp(0, 1)[0] * scale
        torch.testing.assert_close(repeat, expected.round() if scale == 255 else expected)
    assert torch.equal(repeat_small_classes(real, 5).images, filled.images)
    assert "3 augmented repeats fill classes with fewer than 5 images: " in caplog.text


def test_large_classes_and_text_are_not_changed(few):
    assert repeat_small_classes(few, 2) is few
    few.pictures = False
    text = repeat_small_classes(few, 4)
    assert torch.equal(text.images[len(few) :], few.images[few.index_of_class(1)])


@pytest.fixture
def folder(few, tmp_path):
    import numpy as np
    from PIL import Image

    for i, (image, label) in enumerate(zip(few.images, few.labels, strict=True)):
        (tmp_path / "data" / f"c{int(label)}").mkdir(parents=True, exist_ok=True)
        pixels = (image.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "data" / f"c{int(label)}" / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "more"), [("random", ""), ("dm", "--steps 1 --real-batch 4 --width 4 --start real")]
)
def test_the_option_refuses_repeats_or_keeps_fewer(folder, recipe, more, capsys):
    command = ["distill", "--data", str(folder / "data"), "--recipe", recipe, "--ipc", "4", *more.split()]
    assert (
        main(
            [*command, "--start", "real", "--out", str(folder / "no")]
            if more
            else [*command, "--out", str(folder / "no")]
        )
        == 2
    )
    assert "--small-classes repeat" in capsys.readouterr().err
    for choice, sizes in (("repeat", [4, 4, 4]), ("fewer", [4, 2, 4])):
        out = folder / choice
        assert main([*command, "--small-classes", choice, "--out", str(out)]) == 0
        distilled = dd.Distilled.load(out)
        assert distilled.owner.bincount().tolist() == sizes
        assert distilled.stored_floats == distilled.images.numel()


def test_a_set_that_is_not_stored_as_pixels_cannot_have_fewer(folder, capsys):
    command = ["distill", "--data", str(folder / "data"), "--recipe", "idc", "--ipc", "4", "--small-classes", "fewer"]
    assert main([*command, "--width", "4", "--real-batch", "4", "--out", str(folder / "idc")]) == 2
    assert "small_classes must be refuse or repeat for idc" in capsys.readouterr().err
