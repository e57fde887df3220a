"""Multi-formation against one tile at a time, and the sets that recipes build of it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn.functional import interpolate, pad

import ddsdk as dd
from ddsdk.recipes.parts import hard_label_set, multiformation_set, pixel_set, unit_bounds, unit_rate
from ddsdk.synthetic import STARTS, LearnedRate, MultiFormation, Pixels
from ddsdk.synthetic.set import LeafView

RNG = dd.generator("unused")
SIZES = [(4, 6, 2), (5, 7, 2), (8, 12, 3), (28, 28, 3), (6, 6, 6)]


def canvases(m, height, width):
    return torch.randn(m, 3, height, width, generator=dd.generator("canvases"), dtype=torch.float64)


def slow_tiles(canvas, factor):
    """Cut one padded canvas, row by row and from left to right."""
    _, height, width = canvas.shape
    tall, wide = math.ceil(height / factor), math.ceil(width / factor)
    found = []
    for row in range(factor):
        for column in range(factor):
            tile = torch.zeros(3, tall, wide, dtype=canvas.dtype)
            for i in range(tall):
                for j in range(wide):
                    # Beyond the edge, the edge.
                    at = min(row * tall + i, height - 1), min(column * wide + j, width - 1)
                    tile[:, i, j] = canvas[:, at[0], at[1]]
            found.append(tile)
    return found


def slow_enlarge(tile, height, width):
    """Bilinear reading at the pixel centres; beyond the outermost centres, the edge."""
    _, tall, wide = tile.shape
    out = torch.zeros(3, height, width, dtype=tile.dtype)
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * tall / height - 0.5, 0), tall - 1)
            x = min(max((j + 0.5) * wide / width - 0.5, 0), wide - 1)
            top, left = math.floor(y), math.floor(x)
            for r in (top, top + 1):
                for c in (left, left + 1):
                    weight = max(0, 1 - abs(y - r)) * max(0, 1 - abs(x - c))
                    if weight:
                        out[:, i, j] += weight * tile[:, r, c]
    return out


@pytest.mark.parametrize(("height", "width", "factor"), SIZES)
def test_decoding_is_that_of_a_loop(height, width, factor):
    given = canvases(3, height, width)
    parametrization = MultiFormation(given, factor)
    images, owners = parametrization.decode(torch.tensor([2, 0]), RNG)
    slow = [slow_enlarge(t, height, width) for s in (2, 0) for t in slow_tiles(given[s], factor)]
    assert owners.tolist() == [2] * factor**2 + [0] * factor**2
    torch.testing.assert_close(images, torch.stack(slow), rtol=0, atol=1e-10)
    assert parametrization.stored_floats() == given.numel()


@pytest.mark.parametrize(("height", "width", "factor"), SIZES)
def test_encoding_shrinks_each_image_into_its_tile(height, width, factor):
    parametrization = MultiFormation(canvases(2, height, width), factor)
    images = torch.randn(2 * factor**2, 3, height, width, generator=dd.generator("images"), dtype=torch.float64)
    parametrization.encode(images)
    tall, wide = math.ceil(height / factor), math.ceil(width / factor)
    for n, image in enumerate(images):
        slot, place = divmod(n, factor**2)
        row, column = divmod(place, factor)
        small = interpolate(image[None], (tall, wide), mode="bilinear", antialias=True)[0]
        stored = parametrization.canvases[slot, :, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
        torch.testing.assert_close(stored.detach(), small[:, : stored.shape[1], : stored.shape[2]])


def test_what_fits_into_tiles_comes_back():
    """Images that are constant, and images that decoding made, survive encode and decode."""
    parametrization = MultiFormation(canvases(2, 8, 12), 2)
    flat = torch.arange(8.0, dtype=torch.float64)[:, None, None, None].expand(8, 3, 8, 12)
    parametrization.encode(flat)
    torch.testing.assert_close(parametrization.decode(torch.arange(2), RNG)[0].detach(), flat.contiguous())


@pytest.mark.parametrize("bounded", [False, True])
def test_factor_one_is_plain_pixels(tiny, bounded):
    given = 3 * canvases(4, 5, 7).float()
    bounds = unit_bounds(tiny) if bounded else None
    pixels, single = Pixels(given, bounds), MultiFormation(given, 1, bounds)
    slots = torch.tensor([3, 1, 3])
    for a, b in zip(pixels.decode(slots, RNG), single.decode(slots, RNG), strict=True):
        assert torch.equal(a, b)
    other = canvases(8, 5, 7).float()[4:]
    for parametrization in (pixels, single):
        parametrization.encode(other)
        parametrization.requires_grad_(False).project_()
    assert torch.equal(pixels.images, single.canvases)
    assert torch.equal(pixels.images, other) != bounded
    assert pixels.stored_floats() == single.stored_floats()


def test_the_given_canvases_are_copied():
    given = canvases(1, 4, 4)
    parametrization = MultiFormation(given, 2)
    kept = given.clone()
    given.zero_()
    assert torch.equal(parametrization.canvases, kept)


def test_each_pixel_gets_the_gradient_of_the_images_that_it_makes():
    parametrization = MultiFormation(canvases(2, 5, 7), 2)

    def decode(stored):
        with torch.no_grad():
            parametrization.canvases.copy_(stored)
        images, _ = torch.func.functional_call(
            Decoder(parametrization), {"inner.canvases": stored}, (torch.tensor([1]),)
        )
        return images

    given = canvases(2, 5, 7).requires_grad_()
    assert torch.autograd.gradcheck(decode, given)
    (found,) = torch.autograd.grad(decode(given).sum(), given)
    assert bool((found[1] != 0).all())
    assert not found[0].any()


class Decoder(torch.nn.Module):
    """Makes `decode` a forward, so that it can be called with other tensors."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, slots):
        return self.inner.decode(slots, RNG)


@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_a_set_of_tiles_pulls_gradients_back(tiny, chunk):
    syn = multiformation_set(tiny, 2, 2, "real", dd.generator(0))
    leaves = LeafView(syn, chunk)
    x, y = leaves.whole(dd.generator("draw"))
    assert (len(x), len(y)) == (24, 24)
    torch.autograd.backward((x.sin() * y.sum(1)[:, None, None, None]).sum(), inputs=leaves.inputs)
    leaves.pull_back()
    direct = copy.deepcopy(syn)
    direct.zero_grad()
    direct.parametrization.decode(torch.arange(6), RNG)[0].sin().sum().backward()
    torch.testing.assert_close(syn.parametrization.canvases.grad, direct.parametrization.canvases.grad)


@pytest.mark.parametrize("make", [Pixels, lambda x, bounds: MultiFormation(x, 2, bounds)])
def test_bounds_hold_channel_by_channel_after_a_projection(make):
    low, high = torch.tensor([-1.0, -2.0, 0.0]), torch.tensor([1.0, 0.5, 0.1])
    bounds = (low.view(3, 1, 1), high.view(3, 1, 1))
    parametrization = make(5 * canvases(4, 6, 6).float(), bounds)
    (before,) = (p.detach().clone() for p in parametrization.parameters())
    with torch.no_grad():
        parametrization.project_()
    (after,) = (p.detach() for p in parametrization.parameters())
    for c in range(3):
        wanted = [min(max(v, float(low[c])), float(high[c])) for v in before[:, c].flatten().tolist()]
        assert after[:, c].flatten().tolist() == pytest.approx(wanted)
    free = make(5 * canvases(4, 6, 6).float(), None)
    with torch.no_grad():
        free.project_()
    (kept,) = (p.detach() for p in free.parameters())
    assert torch.equal(kept, before)


def test_impossible_canvases_are_refused():
    whole = torch.zeros(2, 3, 8, 12)
    for given, factor, message in (
        (torch.zeros(3, 8, 12), 2, r"canvases must have shape \(M, C, H, W\), got \(3, 8, 12\)"),
        (torch.full((1, 1, 4, 4), torch.nan), 2, "canvases must be finite"),
        (whole, 0, "factor must be at least 1, got 0"),
        (whole, 2.0, "factor must be an integer, got 2.0"),
        (whole, 9, "factor must leave at least one pixel for each tile along a side of 8 pixels, got 9"),
        # Five tiles of two rows need a ninth row for the last of them.
        (whole, 5, "factor must leave at least one pixel for each tile along a side of 8 pixels, got 5"),
    ):
        with pytest.raises(ValueError, match=message):
            MultiFormation(given, factor)
    parametrization = MultiFormation(whole, 2)
    with pytest.raises(ValueError, match=r"images must have shape \(8, 3, 8, 12\), got \(2, 3, 8, 12\)"):
        parametrization.encode(whole)
    with pytest.raises(ValueError, match="images must be finite"):
        parametrization.encode(torch.full((8, 3, 8, 12), torch.inf))


def rate_reductions(images):
    return interpolate(images, (4, 6), mode="bilinear", antialias=True)


def test_every_tile_starts_as_a_real_image_of_its_class(tiny):
    syn = multiformation_set(tiny, 1, 2, "real", dd.generator(0))
    assert syn.parametrization.canvases.shape == (3, 3, 8, 12)
    for c in range(3):
        members = rate_reductions(tiny.batch(tiny.index_of_class(c)).x)
        canvas = syn.parametrization.canvases.detach()[c]
        tiles = [canvas[:, i : i + 4, j : j + 6] for i in (0, 4) for j in (0, 6)]
        places = [int(torch.isclose(members, t, atol=1e-6).flatten(1).all(1).nonzero()) for t in tiles]
        assert len(set(places)) == 4


def test_a_small_class_gives_some_images_several_times(tiny):
    syn = multiformation_set(tiny, 2, 2, "real", dd.generator(0))
    images = syn.detached(dd.generator(0)).x.view(3, 8, *tiny.image_shape)
    for c in range(3):
        # The smallest class has five: all classes show five, and the first three of them again.
        torch.testing.assert_close(images[c, 5:], images[c, :3])
        assert len({float(image.sum()) for image in images[c, :5]}) == 5


def test_canvases_from_noise_have_tiles_of_their_own(tiny):
    syn = multiformation_set(tiny, 7, 2, "noise", dd.generator(0))
    images = syn.detached(dd.generator(0)).x
    assert len({float(image.sum()) for image in images}) == 3 * 7 * 4


@pytest.mark.parametrize("start", STARTS)
def test_factor_one_gives_the_set_of_pixels(tiny, start):
    tiles = multiformation_set(tiny, 3, 1, start, dd.generator(0))
    pixels = pixel_set(tiny, 3, start, dd.generator(0), bounded=True)
    for a, b in zip(tiles.detached(dd.generator(1)), pixels.detached(dd.generator(1)), strict=True):
        assert torch.equal(a, b)
    for syn in (tiles, pixels):
        syn.project_()
    assert torch.equal(tiles.parametrization.canvases, pixels.parametrization.images)


def test_impossible_sets_are_refused(tiny):
    with pytest.raises(ValueError, match=r"ipc must not exceed the 5 images of class 2 \('cat'\), or .*, got 6"):
        multiformation_set(tiny, 6, 2, "real", dd.generator(0))
    with pytest.raises(ValueError, match="did you mean 'noise'"):
        multiformation_set(tiny, 1, 2, "nose", dd.generator(0))


def test_hard_sets_have_slots_class_by_class(tiny):
    rate = LearnedRate(0.5)
    syn = hard_label_set(tiny, 2, Pixels(canvases(6, 8, 12).float()), rate)
    assert syn.classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(syn.labels.rows(torch.arange(6)), torch.eye(3)[syn.classes])
    assert syn.rate is rate
    assert hard_label_set(tiny, 2, Pixels(canvases(6, 8, 12).float())).rate is None


def test_bounds_are_where_the_unit_range_lies(tiny):
    low, high = unit_bounds(tiny)
    for c in range(3):
        assert float(low[c, 0, 0]) == pytest.approx((0 - 0.5) / 0.25)
        assert float(high[c, 0, 0]) == pytest.approx((1 - 0.5) / 0.25)
    x = tiny.batch(torch.arange(len(tiny))).x
    assert bool(((x >= low) & (x <= high)).all())
    plain = unit_bounds(tiny.with_preprocess(dd.Preprocess.unit(3)))
    assert [float(b.unique()) for b in plain] == [0.0, 1.0]
    assert unit_bounds(tiny.with_preprocess(dd.Preprocess.fit_zca(tiny.images))) is None


def test_a_rate_for_the_unit_range_moves_images_alike(tiny):
    """A step on u and a step on x = (u - mean) / std end at the same image."""
    lr, u = 0.3, tiny.images[:4].clone().requires_grad_()

    def loss(x):
        return (x * torch.arange(4.0).view(4, 1, 1, 1)).sin().sum()

    (by_unit,) = torch.autograd.grad(loss(tiny.preprocess(u)), u)
    x = tiny.preprocess(u.detach()).requires_grad_()
    (by_value,) = torch.autograd.grad(loss(x), x)
    moved = tiny.preprocess.inverse(x.detach() - unit_rate(tiny, lr) * by_value)
    torch.testing.assert_close(moved, u.detach() - lr * by_unit)
    assert unit_rate(tiny, 1.0) == pytest.approx(16)
    assert unit_rate(tiny.with_preprocess(dd.Preprocess.unit(3)), 0.7) == 0.7
    assert unit_rate(tiny.with_preprocess(dd.Preprocess.fit_zca(tiny.images)), 0.7) == 0.7


def test_edges_that_are_padded_store_nothing():
    """A canvas of 5 x 7 under factor 2 decodes as its padded twin of 6 x 8 does, tile by tile."""
    given = canvases(1, 5, 7)
    images, _ = MultiFormation(given, 2).decode(torch.arange(1), RNG)
    padded = pad(given, (0, 1, 0, 1), mode="replicate")
    tiles = [padded[:, :, i : i + 3, j : j + 4] for i in (0, 3) for j in (0, 4)]
    wanted = torch.cat([interpolate(t, (5, 7), mode="bilinear") for t in tiles])
    torch.testing.assert_close(images, wanted)
