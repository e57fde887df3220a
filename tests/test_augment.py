"""Augmentation against one image and one pixel at a time, and the promises of a draw."""

from __future__ import annotations

import math

import pytest
import torch

from ddsdk.data.augment import DSA_STRATEGY, OPS, Augmentation, Draw, cutmix
from ddsdk.foundation.rng import generator

SHAPE = (3, 5, 7)


def slow_sample(image, theta, offset=(0, 0)):
    """Bilinear reading of one image at an affine map of the pixel centres, zero outside; pixel by pixel."""
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y = (2 * column + 1) / width - 1, (2 * row + 1) / height - 1
            at_x = theta[0][0] * x + theta[0][1] * y + offset[0]
            at_y = theta[1][0] * x + theta[1][1] * y + offset[1]
            source_x, source_y = ((at_x + 1) * width - 1) / 2, ((at_y + 1) * height - 1) / 2
            left, top = math.floor(source_x), math.floor(source_y)
            for r in (top, top + 1):
                for c in (left, left + 1):
                    if 0 <= r < height and 0 <= c < width:
                        weight = (1 - abs(source_x - c)) * (1 - abs(source_y - r))
                        out[:, row, column] += weight * image[:, r, c]
    return out


def slow_color(image, u):
    image = image + (u[0] - 0.5)
    grey = image.mean(0, keepdim=True)
    image = grey + (image - grey) * (2 * u[1])
    mean = image.mean()
    return mean + (image - mean) * (0.5 + u[2])


def slow_crop(image, u):
    _, height, width = image.shape
    down, right = round(height / 8 + 1e-9), round(width / 8 + 1e-9)
    dy = math.floor(u[0] * (2 * down + 1)) - down
    dx = math.floor(u[1] * (2 * right + 1)) - right
    out = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            if 0 <= row + dy < height and 0 <= column + dx < width:
                out[:, row, column] = image[:, row + dy, column + dx]
    return out


def slow_cutout(image, u):
    out = image.clone()
    sides = []
    for number, side in zip(u, image.shape[1:], strict=True):
        box = (side + 1) // 2
        centre = math.floor(number * (side + 1 - box % 2))
        sides.append(range(max(0, centre - box // 2), min(side, centre - box // 2 + box)))
    for row in sides[0]:
        for column in sides[1]:
            out[:, row, column] = 0
    return out


def slow_flip(image, u):
    if u[0] >= 0.5:
        return image
    return torch.stack([image[:, :, i] for i in reversed(range(image.shape[2]))], 2)


def slow_scale(image, u):
    x, y = (1 / 1.2 + n * (1.2 - 1 / 1.2) for n in u)
    return slow_sample(image, ((x, 0), (0, y)))


def slow_rotate(image, u):
    angle = math.radians(30 * u[0] - 15)
    cos, sin = math.cos(angle), math.sin(angle)
    return slow_sample(image, ((cos, -sin), (sin, cos)))


def slow_jitter(image, u):
    image = image + (u[0] / 2 - 0.25)
    mean = image.mean()
    image = mean + (image - mean) * math.exp(u[1] / 2 - 0.25)
    grey = image.mean(0, keepdim=True)
    return grey + (image - grey) * math.exp(u[2] / 2 - 0.25)


def slow_zoom(image, u):
    factor = 0.8 * (1.25 / 0.8) ** u[0]
    # In pixels: the centre of the window moves by at most half of what the image is larger or smaller.
    shift = [(2 * n - 1) * abs(side * factor - side) / 2 for n, side in zip(u[1:], image.shape[:0:-1], strict=True)]
    offset = [2 * pixels / side / factor for pixels, side in zip(shift, image.shape[:0:-1], strict=True)]
    return slow_sample(image, ((1 / factor, 0), (0, 1 / factor)), offset)


def slow_translate(image, u):
    pixels = [(2 * n - 1) * side / 8 for n, side in zip(u, image.shape[:0:-1], strict=True)]
    offset = [2 * p / side for p, side in zip(pixels, image.shape[:0:-1], strict=True)]
    return slow_sample(image, ((1, 0), (0, 1)), offset)


def slow_quarter_cutout(image, u):
    out = image.clone()
    starts = [math.floor(n * (side - side // 4 + 1)) for n, side in zip(u, image.shape[1:], strict=True)]
    for row in range(image.shape[1] // 4):
        for column in range(image.shape[2] // 4):
            out[:, starts[0] + row, starts[1] + column] = 0
    return out


SLOW = {
    "color": slow_color,
    "crop": slow_crop,
    "cutout": slow_cutout,
    "flip": slow_flip,
    "scale": slow_scale,
    "rotate": slow_rotate,
    "jitter": slow_jitter,
    "zoom": slow_zoom,
    "translate": slow_translate,
    "quarter-cutout": slow_quarter_cutout,
}


def images(n=6, shape=SHAPE, dtype=torch.float64):
    return torch.randn(n, *shape, generator=generator("images"), dtype=dtype)


def numbers(name, rows):
    return torch.rand(rows, OPS[name].numbers, generator=generator("numbers", name), dtype=torch.float64)


def test_every_operation_has_a_slow_twin():
    assert set(SLOW) == set(OPS) > set(DSA_STRATEGY.split("_"))


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 8, 8), (2, 28, 4)])
@pytest.mark.parametrize("siamese", [True, False])
@pytest.mark.parametrize("name", OPS)
def test_operation_equals_its_slow_twin(name, siamese, shape):
    x = images(shape=shape)
    u = numbers(name, 1 if siamese else len(x))
    fast = Draw(((name, u),))(x)
    rows = u.expand(len(x), -1).tolist()
    slow = torch.stack([SLOW[name](image, row) for image, row in zip(x, rows, strict=True)])
    # Angle and scale factors pass through arithmetic that is not the same in both.
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-9)


@pytest.mark.parametrize("low", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("name", OPS)
def test_extreme_numbers_stay_in_range(name, low):
    x = images(2, dtype=torch.float32)
    moved = Draw(((name, torch.full((2, OPS[name].numbers), low)),))(x)
    slow = torch.stack([SLOW[name](i.double(), [low] * OPS[name].numbers) for i in x])
    torch.testing.assert_close(moved, slow.float(), rtol=0, atol=2e-5)


def test_a_shift_is_at_most_an_eighth_and_a_hole_at_most_half():
    ones = torch.ones(500, 1, 16, 16)
    crop = Augmentation("crop").per_image(500, generator(0))(ones)
    rows, columns = crop.amax(3).sum((1, 2)), crop.amax(2).sum((1, 2))
    assert int(rows.min()) == int(columns.min()) == 14
    assert int(rows.max()) == int(columns.max()) == 16
    cut = Augmentation("cutout").per_image(500, generator(1))(ones)
    gone = (1 - cut).sum((1, 2, 3))
    assert int(gone.max()) == 64
    assert int(gone.min()) == 16  # the centre may lie on a corner


def test_a_quarter_cutout_always_lies_within_the_image():
    cut = Augmentation("quarter-cutout").per_image(500, generator(1))(torch.ones(500, 1, 16, 16))
    assert set((1 - cut).sum((1, 2, 3)).int().tolist()) == {16}
    assert bool((cut[:, 0, 0, 0] == 0).any())
    assert bool((cut[:, 0, -1, -1] == 0).any())


def test_flips_half_of_the_images():
    x = images(1000, (1, 1, 2))
    same = (Augmentation("flip").per_image(1000, generator(2))(x) == x).all(3).sum()
    assert 430 < int(same) < 570


def test_saturation_leaves_grey_images_alone():
    x = images(shape=(1, 4, 4))
    u = torch.tensor([[0.5, 0.9, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(Draw((("color", u),))(x), x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("strategy", [*OPS, DSA_STRATEGY])
def test_a_draw_replays_bit_for_bit_and_ignores_the_global_seed(strategy):
    x = images(dtype=torch.float32)
    torch.manual_seed(1)
    one = Augmentation(strategy).per_image(len(x), generator(3))
    first = one(x)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = Augmentation(strategy).per_image(len(x), generator(3))
    assert torch.equal(one(x), first)
    assert torch.equal(again(x), first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", OPS)
def test_a_siamese_draw_treats_every_batch_alike(name):
    x = images(dtype=torch.float32)
    draw = Augmentation(name).siamese(generator(4))
    whole = draw(torch.cat([x, x[:2]]))
    torch.testing.assert_close(whole[: len(x)], draw(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(whole[len(x) :], draw(x[:2]), rtol=0, atol=1e-6)
    assert draw.rows(2, 4).steps[0][1] is draw.steps[0][1]


@pytest.mark.parametrize("name", OPS)
def test_rows_are_the_draw_of_those_images(name):
    x = images(dtype=torch.float32)
    draw = Augmentation(name).per_image(len(x), generator(5))
    torch.testing.assert_close(draw.rows(2, 5)(x[2:5]), draw(x)[2:5], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", OPS)
def test_operations_are_differentiable(name, rows):
    x = images(2, (2, 3, 4)).requires_grad_()
    draw = Draw(((name, numbers(name, rows)),))
    assert torch.autograd.gradcheck(draw, x)


def test_every_operation_of_a_strategy_is_drawn():
    augmentation = Augmentation(DSA_STRATEGY)
    drawn = {augmentation.siamese(generator("op", i)).steps[0][0] for i in range(60)}
    assert drawn == set(DSA_STRATEGY.split("_"))


def test_no_strategy_changes_nothing():
    x = images()
    assert Augmentation().siamese(generator(0))(x) is x
    assert Augmentation("") == Augmentation()


def test_an_unknown_operation_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="'rotat' \\(did you mean 'rotate'\\?\\)"):
        Augmentation("color_rotat")
    with pytest.raises(ValueError, match="augmentation must name operations of"):
        Augmentation("zzz")


def test_a_strategy_takes_one_operation_of_each_group_in_their_order():
    augmentation = Augmentation("flip+color+crop_scale_rotate")
    assert augmentation.groups == (("flip",), ("color",), ("crop", "scale", "rotate"))
    drawn = set()
    for i in range(60):
        for draw in (augmentation.siamese(generator("group", i)), augmentation.per_image(4, generator(i))):
            first, second, third = (name for name, _ in draw.steps)
            assert (first, second) == ("flip", "color")
            drawn.add(third)
    assert drawn == {"crop", "scale", "rotate"}


def test_a_draw_of_groups_is_one_operation_after_another():
    x = images(dtype=torch.float32)
    draw = Augmentation("color+crop+cutout").per_image(len(x), generator(6))
    slow = x
    for step in draw.steps:
        slow = Draw((step,))(slow)
    assert torch.equal(draw(x), slow)
    assert all(len(u) == len(x) for _, u in draw.steps)
    torch.testing.assert_close(draw.rows(2, 5)(x[2:5]), draw(x)[2:5], rtol=0, atol=1e-6)
    assert all(len(u) == 1 for _, u in Augmentation("color+crop").siamese(generator(7)).steps)


def test_groups_of_one_operation_are_drawn_with_numbers_of_their_own():
    twice = Augmentation("crop+crop").siamese(generator(8)).steps
    assert not torch.equal(twice[0][1], twice[1][1])


@pytest.mark.parametrize("strategy", ["+", "flip+", "+flip", "flip++color", "_", "flip_", "flip + color", " "])
def test_a_strategy_with_a_hole_is_refused(strategy):
    with pytest.raises(ValueError, match="augmentation must name operations of"):
        Augmentation(strategy)


def test_an_unknown_operation_of_a_later_group_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"'rotat' \(did you mean 'rotate'\?\)"):
        Augmentation("flip+color_rotat")


def labelled(n=5, shape=(2, 6, 9)):
    x = images(n, shape)
    y = torch.rand(n, 4, generator=generator("labels"), dtype=torch.float64)
    return x, y / y.sum(1, keepdim=True)


def slow_cutmix(x, y, rng):
    """One pixel at a time, from the numbers that are drawn in this order: whether, how much, where, with whom."""
    _, share, *centre = torch.rand(4, generator=rng).tolist()
    order = torch.randperm(len(x), generator=rng).tolist()
    height, width = x.shape[2:]
    sides = [side * math.sqrt(share) for side in (height, width)]
    low = [max(0, round(at * s - cut / 2)) for at, s, cut in zip(centre, (height, width), sides, strict=True)]
    high = [min(s, round(at * s + cut / 2)) for at, s, cut in zip(centre, (height, width), sides, strict=True)]
    out, labels = x.clone(), y.clone()
    for i, other in enumerate(order):
        taken = 0
        for row in range(low[0], high[0]):
            for column in range(low[1], high[1]):
                out[i, :, row, column] = x[other, :, row, column]
                taken += 1
        share = taken / (height * width)
        labels[i] = (1 - share) * y[i] + share * y[other]
    return out, labels


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_equals_its_slow_twin(seed):
    x, y = labelled()
    mixed, labels = cutmix(x, y, 1.0, generator("cutmix", seed))
    slow, slow_labels = slow_cutmix(x, y, generator("cutmix", seed))
    assert torch.equal(mixed, slow)
    # The area is kept in single precision.
    torch.testing.assert_close(labels, slow_labels, rtol=0, atol=1e-6)
    torch.testing.assert_close(labels.sum(1), torch.ones(len(y), dtype=y.dtype), rtol=0, atol=1e-6)


def test_cutmix_labels_tell_the_area_that_is_pasted():
    """Images that are their own label: the mean pixel is the label."""
    y = torch.eye(4, dtype=torch.float64)
    x = y[:, :, None, None].expand(4, 4, 8, 12)
    areas = []
    for seed in range(200):
        mixed, labels = cutmix(x, y, 1.0, generator("area", seed))
        torch.testing.assert_close(mixed.mean((2, 3)), labels, rtol=0, atol=1e-6)
        areas.append(1 - float(labels.amax(1).min()))
    # The share is uniform in [0, 1) before the edge cuts the box.
    assert min(areas) < 0.02
    assert 0.15 < sum(areas) / len(areas) < 0.4


def test_cutmix_mixes_as_often_as_it_is_told():
    x, y = labelled()
    for probability, least, most in ((0.0, 0, 0), (0.5, 160, 240), (1.0, 390, 400)):
        mixed = 0
        for seed in range(400):
            moved, labels = cutmix(x, y, probability, generator("often", seed))
            mixed += moved is not x
            assert (labels is y) == (moved is x)
        assert least <= mixed <= most


def test_cutmix_replays_bit_for_bit_and_leaves_its_input_alone():
    x, y = labelled()
    kept, state = x.clone(), torch.get_rng_state()
    one, two = (cutmix(x, y, 1.0, generator("again")) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)


def test_cutmix_is_differentiable():
    x, y = labelled(3, (2, 3, 4))
    x.requires_grad_()
    y.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: cutmix(a, b, 1.0, generator("gradient", 2)), (x, y.float().double()), atol=1e-4
    )


@pytest.mark.parametrize("n", [0, 1])
def test_cutmix_takes_a_batch_of_one_or_none(n):
    x, y = labelled(5)
    mixed, labels = cutmix(x[:n], y[:n], 1.0, generator(0))
    assert torch.equal(mixed, x[:n])
    torch.testing.assert_close(labels, y[:n])
