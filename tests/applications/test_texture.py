"""Canvases that tile: windows against rolling, seams against a loop, files that come back, and refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import ddsdk as dd
from ddsdk.synthetic import TileableCanvas
from ddsdk_integrations.texture import (
    distil_canvases,
    draw_gallery,
    export_tiles,
    repeat_tiles,
    seam_scores,
    windows_of,
)

WINDOW = (3, 4)


def numbered(height=5, width=7):
    return torch.arange(2.0 * height * width).view(2, 1, height, width)


def test_a_window_is_the_corner_of_a_rolled_canvas():
    canvases = numbered()
    images, owners = TileableCanvas(canvases, WINDOW, windows=40).decode(torch.tensor([1, 0]), dd.generator(0))
    assert owners.tolist() == [1] * 40 + [0] * 40
    seen = set()
    for image, owner in zip(images, owners, strict=True):
        place = (
            int((canvases[owner] == image[0, 0, 0]).nonzero()[0, 1]),
            int((canvases[owner] == image[0, 0, 0]).nonzero()[0, 2]),
        )
        rolled = canvases[owner].roll((-place[0], -place[1]), (1, 2))
        assert torch.equal(image, rolled[:, :3, :4])
        seen.add(place)
    assert len({row for row, _ in seen}) == 5
    assert len({column for _, column in seen}) == 7


def test_windows_that_stay_inside_are_slices():
    canvases = numbered()
    images, _ = TileableCanvas(canvases, WINDOW, windows=40, wrap=False).decode(torch.tensor([0]), dd.generator(0))
    for image in images:
        first = int(image[0, 0, 0])
        row, column = first // 7, first % 7
        assert torch.equal(image, canvases[0][:, row : row + 3, column : column + 4])


def test_all_pixels_are_seen_equally_often_only_if_windows_wrap():
    for wrap, even in ((True, True), (False, False)):
        canvas = TileableCanvas(torch.zeros(1, 1, 6, 6), WINDOW, windows=4000, wrap=wrap)
        canvas.decode(torch.tensor([0]), dd.generator(1))[0].sum().backward()
        counts = canvas.canvases.grad[0, 0]
        assert (float(counts.min()) > 0.9 * float(counts.max())) == even


def test_a_canvas_of_the_size_of_a_window_is_rolled():
    canvas = torch.rand(1, 2, 3, 4, generator=dd.generator("c"))
    images, _ = TileableCanvas(canvas, WINDOW, windows=5).decode(torch.tensor([0]), dd.generator(0))
    for image in images:
        assert torch.equal(image.flatten().sort().values, canvas.flatten().sort().values)


def test_encode_repeats_the_mean_of_a_slot():
    bounds = (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    canvas = TileableCanvas(torch.zeros(1, 1, 6, 8), WINDOW, windows=2, bounds=bounds)
    images = torch.rand(2, 1, *WINDOW, generator=dd.generator("i"))
    canvas.encode(images)
    assert torch.equal(canvas.canvases.detach(), images.mean(0, keepdim=True).repeat(1, 1, 2, 2))
    with torch.no_grad():
        canvas.canvases.mul_(-1)
        canvas.project_()
    assert float(canvas.canvases.detach().max()) == 0
    assert canvas.stored_floats() == 48


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"window": (6, 4)}, "window must have two sides"),
        ({"window": (0, 4)}, "window must have two sides"),
        ({"window": WINDOW, "windows": 0}, "windows must be at least 1"),
    ],
)
def test_windows_that_do_not_fit_are_refused(how, message):
    with pytest.raises(ValueError, match=message):
        TileableCanvas(numbered(), **how)


def test_bad_tensors_are_refused():
    with pytest.raises(ValueError, match="canvases must have shape"):
        TileableCanvas(torch.zeros(1, 4, 4), WINDOW)
    with pytest.raises(ValueError, match="canvases must be finite"):
        TileableCanvas(torch.full((1, 1, 4, 4), math.nan), WINDOW)
    with pytest.raises(ValueError, match="images must have shape"):
        TileableCanvas(numbered(), WINDOW).encode(torch.zeros(1, 1, *WINDOW))


def test_circular_padding_moves_features_with_the_image():
    make = dd.network_factory("convnet", (1, 8, 8), 3, width=4, depth=2, edges="circular")
    network = make(dd.generator(0)).eval()
    x = torch.randn(2, 1, 8, 8, generator=dd.generator("x"))
    moved = network.body(x.roll((4, -4), (2, 3)))
    torch.testing.assert_close(moved, network.body(x).roll((1, -1), (2, 3)), rtol=1e-4, atol=1e-5)
    plain = dd.network_factory("convnet", (1, 8, 8), 3, width=4, depth=2)(dd.generator(0)).eval()
    assert not torch.allclose(plain.body(x.roll(4, 2)), plain.body(x).roll(1, 2), atol=1e-3)
    with pytest.raises(ValueError, match="edges must be zeros or circular"):
        dd.network_factory("convnet", (1, 8, 8), 3, edges="mirror")(dd.generator(0))


def test_seam_scores_are_those_of_a_loop():
    image = torch.rand(1, 2, 4, 5, generator=dd.generator("s"))
    found = seam_scores(image)[0]
    pixels = image[0].tolist()

    def step(a, b):
        return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)

    rows = [[v for channel in pixels for v in channel[i]] for i in range(4)]
    columns = [[row[i] for channel in pixels for row in channel] for i in range(5)]
    for lines, score in ((rows, found[0]), (columns, found[1])):
        inside = [step(lines[i], lines[i - 1]) for i in range(1, len(lines))]
        assert float(score) == pytest.approx(step(lines[0], lines[-1]) * len(inside) / sum(inside), rel=1e-5)


def test_seams_are_judged_in_both_directions():
    # Noise that is smoothed around its edges is seamless; a single edge of it is as strong as chance has it.
    noise = torch.randn(300, 1, 32, 32, generator=dd.generator("noise"))
    smooth = sum(noise.roll((i, j), (2, 3)) for i in range(3) for j in range(3))
    assert float((seam_scores(smooth).mean(0) - 1).abs().max()) < 0.03
    inside = smooth[:, :, 5:27, 5:27]
    assert float(seam_scores(inside).mean(0).min()) > 1.5
    ramp = (torch.arange(64.0)[:, None] + torch.arange(64.0)).view(1, 1, 64, 64)
    assert float(seam_scores(ramp).min()) == pytest.approx(63)
    with pytest.raises(ValueError, match="images must not be constant"):
        seam_scores(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="images must have shape"):
        seam_scores(torch.zeros(1, 1, 2, 4))


@pytest.mark.parametrize(
    "recipe", [dd.DM(ipc=2, steps=2), dd.KIP(ipc=2, steps=2, learn_labels=True), dd.FRePo(ipc=2, steps=2)]
)
def test_any_matcher_makes_canvases(tiny, make_student, recipe):
    found = distil_canvases(recipe, tiny, make_student=make_student, seed=dd.generator("run"), factor=2)
    assert tuple(found.images.shape) == (6, 3, 16, 24)
    assert found.stored_floats == found.images.numel()
    assert found.provenance["canvas"] == {"factor": 2, "wrap": True, "window": [8, 12]}
    assert found.provenance["seam"]["rows"] == pytest.approx(float(seam_scores(found.images)[:, 0].mean()), rel=1e-4)
    low, high = (tiny.preprocess(torch.full((3, 1, 1), v)) for v in (0.0, 1.0))
    assert bool((found.images >= low - 1e-6).all() & (found.images <= high + 1e-6).all())
    cut = windows_of(found, 3, dd.generator("w"))
    assert tuple(cut.images.shape) == (18, 3, 8, 12)
    assert cut.stored_floats == found.stored_floats
    assert cut.owner.tolist() == [c for c in range(3) for _ in range(6)]


def test_canvases_keep_the_rates_that_were_learned_with_them(tiny, make_student):
    recipe = dd.SLDD(ipc=1, steps=2, real_batch=4, passes=2)
    found = distil_canvases(recipe, tiny, make_student=make_student, seed=0)
    assert found.learned_lr is not None
    assert len(found.labels) == len(found.images) == 3


def test_the_usual_networks_are_those_of_the_recipe_and_a_seed_is_a_root(tiny):
    recipe = dd.DM(ipc=1, steps=2)
    one, two = (distil_canvases(recipe, tiny, seed=seed) for seed in (5, dd.generator(5)))
    assert torch.equal(one.images, two.images)
    assert one.provenance["student"]["network"] == "convnet"


@pytest.fixture(scope="module")
def canvases(digits):
    make = dd.network_factory("convnet", (1, 8, 8), 10, width=4, depth=2)
    recipe = dd.DM(ipc=1, steps=30, augmentation="", real_batch=32, image_lr=5.0)
    return {
        wrap: distil_canvases(recipe, digits[0], make_student=make, seed=dd.generator("d"), windows=4, wrap=wrap)
        for wrap in (True, False)
    }


def test_canvases_of_wrapping_windows_tile(canvases):
    far = {w: float((seam_scores(found.images).mean(0) - 1).abs().max()) for w, found in canvases.items()}
    assert far[True] < 0.2
    assert far[False] > far[True]


def test_tiles_come_back_from_their_files(canvases, tmp_path):
    found = canvases[True]
    export_tiles(found, tmp_path / "tiles", repeat=2, limit=1.0)
    files = sorted(path.name for path in (tmp_path / "tiles").iterdir())
    assert len(files) == 21
    tile = np.asarray(Image.open(tmp_path / "tiles" / "003_3_tile.png"))
    paper = np.asarray(Image.open(tmp_path / "tiles" / "003_3_wallpaper.png"))
    assert np.array_equal(paper, np.tile(tile, (2, 2)))
    wanted = (found.unit_images()[3, 0] * 255).round().numpy()
    assert np.array_equal(tile, wanted)
    told = json.loads((tmp_path / "tiles" / "tiles.json").read_text())
    assert told["stored_floats"] == 10 * 16 * 16
    assert told["source"]["name"] == "digits"
    steps = torch.from_numpy(tile.astype(np.float32))[None, None]
    assert told["seam"]["003_3"] == pytest.approx(seam_scores(steps)[0].tolist(), rel=1e-4)


def test_what_shows_an_edge_is_not_exported(canvases, tmp_path):
    with pytest.raises(ValueError, match=r"canvases must have mean seam scores within 0\.01 of 1, got"):
        export_tiles(canvases[False], tmp_path / "tiles", limit=0.01)
    assert not (tmp_path / "tiles").exists()


def test_what_cannot_be_a_texture_is_refused(tiny, make_student, digits):
    with pytest.raises(ValueError, match="canvases must come from distil_canvases"):
        windows_of(dd.distill(dd.BASELINES["random"](ipc=1), tiny, seed=0), 2, dd.generator(0))
    white = tiny.with_preprocess(dd.Preprocess.fit_zca(tiny.images))
    with pytest.raises(ValueError, match="real must not be whitened"):
        distil_canvases(dd.DM(ipc=1, steps=1), white, make_student=make_student)


def test_a_gallery_shows_canvas_tiling_and_windows(canvases, tmp_path):
    network = dd.network_factory("convnet", (1, 8, 8), 10, width=4, depth=2)(dd.generator(0)).eval()
    draw_gallery(canvases[True], tmp_path / "g.png", rng=dd.generator(0), networks=[network])
    assert (tmp_path / "g.png").stat().st_size > 5000
    assert repeat_tiles(numbered(), 3).shape == (2, 1, 15, 21)
