"""Augmentation against one image and one pixel at a time, and the promises of a draw."""

from __future__ import annotations

import math

import pytest
import torch

from ddsdk.augment import DSA_STRATEGY, OPS, Augmentation, Draw
from ddsdk.rng import generator

SHAPE = (3, 5, 7)


def slow_sample(image, theta):
    """Bilinear reading of one image at an affine map of the pixel centres, zero outside; pixel by pixel."""
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for row in range(height):
        for column in range(width):
            x, y = (2 * column + 1) / width - 1, (2 * row + 1) / height - 1
            at_x = theta[0][0] * x + theta[0][1] * y
            at_y = theta[1][0] * x + theta[1][1] * y
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


SLOW = {
    "color": slow_color,
    "crop": slow_crop,
    "cutout": slow_cutout,
    "flip": slow_flip,
    "scale": slow_scale,
    "rotate": slow_rotate,
}


def images(n=6, shape=SHAPE, dtype=torch.float64):
    return torch.randn(n, *shape, generator=generator("images"), dtype=dtype)


def numbers(name, rows):
    return torch.rand(rows, OPS[name].numbers, generator=generator("numbers", name), dtype=torch.float64)


def test_every_operation_has_a_slow_twin():
    assert set(SLOW) == set(OPS) == set(DSA_STRATEGY.split("_"))


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
    assert drawn == set(OPS)


def test_no_strategy_changes_nothing():
    x = images()
    assert Augmentation().siamese(generator(0))(x) is x
    assert Augmentation("") == Augmentation()


def test_an_unknown_operation_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="'rotat' \\(did you mean 'rotate'\\?\\)"):
        Augmentation("color_rotat")
    with pytest.raises(ValueError, match="augmentation must name operations of"):
        Augmentation("zzz")
