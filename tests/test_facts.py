"""Facts of the data travel with the data: through subsets, splits, devices, value spaces, loading and runs."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import ddsdk as dd
from ddsdk.cli import main
from ddsdk.judging import with_canaries
from ddsdk.judging.mirror import MirrorCheck, mirror_check
from ddsdk.recipes.parts import augmentation_for


def facts(real):
    return real.pictures, real.mirror_safe, real.class_names, real.name


@pytest.mark.parametrize("pictures", [True, False])
@pytest.mark.parametrize("safe", [True, False])
def test_facts_survive_every_way_that_data_can_travel(tiny, pictures, safe):
    real = dd.RealData(
        tiny.images,
        tiny.labels,
        class_names=tiny.class_names,
        preprocess=tiny.preprocess,
        name="facts",
        pictures=pictures,
        mirror_safe=safe,
    )
    copies = {
        "subset": real.subset(torch.arange(len(real))),
        "split": real.split(0.3, dd.generator("split"))[0],
        "held out": real.split(0.3, dd.generator("split"))[1],
        "device": real.to("cpu"),
        "value space": real.with_preprocess(dd.Preprocess.unit(3)),
        "other items": real.with_items(1 - real.images, real.labels),
        "joined": with_canaries(real, real, torch.arange(2)),
    }
    for name, copy in copies.items():
        assert facts(copy) == facts(real), name
    assert facts(real.with_mirror_safe(not safe)) == (pictures, not safe, real.class_names, "facts")
    flips = "flip" in augmentation_for(real, None)
    assert flips == (pictures and safe)
    assert bool(augmentation_for(real, None)) == pictures
    assert augmentation_for(real, "flip") == "flip"


@pytest.mark.parametrize("name", ["mnist", "my-mnist", "cifar10", "digits", "client", "stream"])
def test_the_name_of_the_data_decides_nothing(tiny, name):
    tiny.name = name
    assert "flip" in augmentation_for(tiny, None)
    assert "flip" not in augmentation_for(tiny.with_mirror_safe(False), None)


def picture_folder(folder):
    for c in ("a", "b"):
        (folder / c).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), color=40 * i).save(folder / c / f"{i}.png")
    return folder


@pytest.mark.parametrize("name", ["my-mnist", "mnist", "cifar10"])
def test_a_folder_is_not_mirrored_unless_that_is_said(tmp_path, name):
    folder = picture_folder(tmp_path / name)
    assert not dd.load(folder).mirror_safe
    assert dd.load(folder, mirror_safe=True).mirror_safe
    train, test = dd.load_pair(folder, folder, mirror_safe=True)
    assert train.mirror_safe and test.mirror_safe
    # Published figures belong to the data set of that name and not to a folder.
    assert train.name == (name if name == "my-mnist" else f"{name} (own data)")


def test_named_data_know_whether_they_may_be_mirrored(digits):
    assert [part.mirror_safe for part in digits] == [False, False]
    assert dd.load("digits", mirror_safe=True).mirror_safe
    text = dd.load("python-docs")
    assert (text.pictures, text.mirror_safe) == (False, False)


def two_sides(flipped: float) -> dd.RealData:
    """Return bars on the left for class 0 and in the middle or on the right for class 1."""
    rng = dd.generator("sides", str(flipped))
    images = 0.1 * torch.rand(240, 1, 12, 12, generator=rng)
    labels = torch.arange(2).repeat_interleave(120)
    images[:120, :, :, 1:4] += 0.8
    images[120:, :, :, 8:11] += 0.8
    mirrored = torch.rand(240, generator=rng) < flipped
    images[mirrored] = images[mirrored].flip(3)
    images[120:, :, 5:7] += 0.1 if flipped else 0.0
    return dd.RealData(images, labels, class_names=("left", "right"), preprocess=dd.Preprocess.unit(1))


def test_the_mirror_check_measures(tiny):
    sided = mirror_check(two_sides(0.0), epochs=6)
    assert sided.plain > 0.9 and sided.mirrored < 0.1
    assert not sided.safe
    assert mirror_check(two_sides(0.0), epochs=6) == sided
    even = mirror_check(two_sides(0.5), epochs=6)
    assert abs(even.plain - even.mirrored) < 0.1
    assert even.safe
    assert MirrorCheck(0.9, 0.89, 10_000).safe
    assert not MirrorCheck(0.9, 0.85, 10_000).safe
    assert MirrorCheck(0.9, 0.85, 50).safe
    words = dd.RealData(
        tiny.images, tiny.labels, class_names=tiny.class_names, preprocess=tiny.preprocess, pictures=False
    )
    with pytest.raises(ValueError, match="real must hold pictures"):
        mirror_check(words)


@pytest.mark.parametrize(
    ("choice", "said", "flips"),
    [("auto", "augmentation flips no images of unknown data", False), ("yes", "", True), ("no", "", False)],
)
def test_the_command_line_says_what_it_assumes(tmp_path, capsys, choice, said, flips):
    folder = picture_folder(tmp_path / "pictures")
    out = tmp_path / "out"
    args = ["distill", "--data", str(folder), "--recipe", "dm", "--ipc", "1", "--steps", "1", "--width", "4"]
    assert main([*args, "--real-batch", "2", "--mirror-safe", choice, "--out", str(out)]) == 0
    assert ("augmentation flips no images" in capsys.readouterr().out) == bool(said)
    assert ("flip" in dd.Distilled.load(out).protocol["augmentation"]) == flips


def test_the_command_line_takes_the_measured_answer(tmp_path, capsys):
    folder = picture_folder(tmp_path / "pictures")
    args = ["distill", "--data", str(folder), "--recipe", "random", "--ipc", "1", "--out", str(tmp_path / "out")]
    assert main([*args, "--mirror-safe", "check"]) == 0
    assert "mirror check: " in capsys.readouterr().out
