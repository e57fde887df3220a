"""Coefficients of the cosine transform: beside sums over pixels, the authors' convention and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import SGD

import ddsdk as dd
from ddsdk.synthetic import Frequencies, class_slots

H, W, C = 4, 6, 2
CLASSES = class_slots(3, 3)


def images(count=9, shape=(C, H, W)):
    return torch.randn(count, *shape, generator=dd.generator("images"), dtype=torch.float64)


def decoded(frequencies, slots=None):
    slots = torch.arange(len(frequencies.coefficients)) if slots is None else slots
    return frequencies.decode(slots, dd.generator(0))[0].detach()


def transformed(image):
    """The unnormalised DCT-II of one channel by its sum, divided by 2 sqrt(HW)."""
    height, width = image.shape
    found = torch.zeros(height, width, dtype=torch.float64)
    for u in range(height):
        for v in range(width):
            for i in range(height):
                for j in range(width):
                    row = math.cos(math.pi * u * (2 * i + 1) / (2 * height))
                    column = math.cos(math.pi * v * (2 * j + 1) / (2 * width))
                    found[u, v] += 4 * float(image[i, j]) * row * column
    return found / (2 * math.sqrt(height * width))


def unnormalised(size):
    """The matrix of the authors' transform, with a factor of 2."""
    index = torch.arange(size, dtype=torch.float64)
    return 2 * torch.cos(math.pi * index[:, None] * (2 * index + 1) / (2 * size))


def all_coefficients(x):
    return torch.stack([torch.stack([transformed(channel) for channel in image]) for image in x]).flatten(2)


@pytest.mark.parametrize("mask", ["class", "all", "low"])
def test_with_all_frequencies_the_coefficients_are_those_of_the_sum_and_decode_to_the_images(mask):
    x = images()
    frequencies = Frequencies(x, CLASSES, H * W, mask)
    torch.testing.assert_close(frequencies.coefficients.detach(), all_coefficients(x))
    torch.testing.assert_close(decoded(frequencies), x)
    slots = torch.tensor([7, 0, 7])
    torch.testing.assert_close(decoded(frequencies, slots), x[slots])


@pytest.mark.parametrize("k", [1, 5, 11])
@pytest.mark.parametrize("mask", ["class", "all"])
def test_the_frequencies_of_the_largest_variance_are_stored(mask, k):
    x = images()
    groups = CLASSES.tolist() if mask == "class" else [0] * 9
    found = Frequencies(x, CLASSES, k, mask)
    spectrum = all_coefficients(x).mean(1)
    for group in set(groups):
        rows = [i for i in range(9) if groups[i] == group]
        scores = []
        for position in range(H * W):
            values = [float(spectrum[i, position]) for i in rows]
            mean = sum(values) / len(values)
            scores.append((sum((v - mean) ** 2 for v in values), position))
        assert found.kept[group].tolist() == sorted(position for _, position in sorted(scores)[-k:])
    assert found.groups.tolist() == groups
    assert found.stored_floats() == 9 * C * k


def test_low_frequencies_follow_the_sum_of_row_and_column():
    found = Frequencies(images(), CLASSES, 8, "low").kept[0]
    pairs = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0), (0, 3), (1, 2)]
    assert found.tolist() == sorted(u * W + v for u, v in pairs)


def test_of_frequencies_that_vary_equally_the_lower_ones_are_stored():
    equal = images(1).expand(9, -1, -1, -1)
    assert torch.equal(Frequencies(equal, CLASSES, 5).kept, Frequencies(equal, CLASSES, 5, "low").kept.expand(3, -1))


@pytest.mark.parametrize("mask", ["class", "all", "low"])
def test_a_start_is_the_nearest_image_with_the_stored_frequencies(mask):
    x = images()
    frequencies = Frequencies(x, CLASSES, 7, mask)
    first = decoded(frequencies)
    assert float((first - x).square().sum()) > 1
    # The residual is orthogonal to every image that the stored frequencies decode to.
    with torch.no_grad():
        frequencies.coefficients.copy_(torch.randn(9, C, 7, generator=dd.generator("other")))
    other = decoded(frequencies)
    assert float(((first - x) * other).sum((1, 2, 3)).abs().max()) < 1e-12
    frequencies.encode(first)
    torch.testing.assert_close(decoded(frequencies), first)
    kept = frequencies.kept.clone()
    frequencies.encode(-x)
    torch.testing.assert_close(decoded(frequencies), -first)
    assert torch.equal(frequencies.kept, kept)


@pytest.mark.parametrize("mask", ["class", "low"])
def test_the_gradient_is_that_of_finite_differences(mask):
    frequencies = Frequencies(images(), CLASSES, 7, mask)
    slots = torch.tensor([8, 2, 2])

    def loss(x):
        return (x.sin() * x).sum() * x.mean()

    leaf = decoded(frequencies, slots).requires_grad_()
    loss(leaf).backward()
    frequencies.pull_back_(slots, leaf.grad, dd.generator(0))
    values, step = frequencies.coefficients.data, 1e-6
    for slot, channel, position in ((8, 0, 0), (2, 1, 3), (2, 0, 6), (0, 0, 0)):
        ends = []
        for sign in (1, -1):
            values[slot, channel, position] += sign * step
            ends.append(float(loss(decoded(frequencies, slots))))
            values[slot, channel, position] -= sign * step
        slope = (ends[0] - ends[1]) / (2 * step)
        assert float(frequencies.coefficients.grad[slot, channel, position]) == pytest.approx(slope, abs=1e-6)


def test_steps_are_those_of_the_authors_coefficients(tiny):
    """Three steps of momentum on unnormalised coefficients with the rate r are those with r / (4HW) here."""
    x, published = images(9), 50.0
    frequencies = Frequencies(x, CLASSES, H * W, "low")
    row, column = unnormalised(H), unnormalised(W)
    theirs = (row @ x @ column.T).requires_grad_()
    ours = SGD(frequencies.parameters(), lr=published / (4 * H * W), momentum=0.5)
    reference = SGD([theirs], lr=published, momentum=0.5)
    row, column = row.inverse(), column.inverse()
    target = images(9).flip(0)
    for _ in range(3):
        ours.zero_grad()
        reference.zero_grad()
        (frequencies.decode(torch.arange(9), dd.generator(0))[0] - target).pow(4).mean().backward()
        (row @ theirs @ column.T - target).pow(4).mean().backward()
        ours.step()
        reference.step()
    moved = decoded(frequencies)
    assert float((moved - x).abs().max()) > 0.1
    torch.testing.assert_close(moved, (row @ theirs @ column.T).detach())
    pixels = math.prod(tiny.image_shape[1:])
    assert dd.FreDDM().coefficient_rate(tiny, published) == published / (4 * pixels)


def data(shape):
    names = [str(i) for i in range(10)]
    x = torch.rand(200, *shape, generator=dd.generator("data"))
    return dd.RealData(x, torch.arange(200) % 10, class_names=names, preprocess=dd.Preprocess.unit(shape[0]))


@pytest.mark.parametrize(
    ("shape", "ipc", "coefficients", "count"),
    [
        ((3, 32, 32), 1, None, 16),
        ((3, 32, 32), 2, 64, 32),
        ((3, 32, 32), 2, 32, 64),
        ((1, 28, 28), 1, None, 16),
        ((1, 28, 28), 1, 36, 21),
        ((1, 28, 28), 10, 100, 78),
    ],
)
def test_coefficients_fill_the_budget(shape, ipc, coefficients, count):
    """16 images of 64 coefficients are the floats of one image of 32 x 32 pixels."""
    real = data(shape)
    recipe = dd.FreDDM(ipc=ipc, coefficients=coefficients)
    syn = recipe.frequency_set(real, "real", dd.generator(0))
    k = recipe.stored_coefficients(real)
    assert len(syn) == 10 * count
    stored, budget = syn.parametrization.stored_floats(), 10 * ipc * math.prod(shape)
    assert stored == 10 * count * shape[0] * k
    assert stored <= budget < stored + 10 * shape[0] * k


def test_a_mask_by_variance_has_two_images_and_other_masks_have_one(tiny):
    pixels = math.prod(tiny.image_shape[1:])
    assert [dd.FreDDM(ipc=1, coefficients=pixels, mask=m).images_per_class(tiny) for m in ("class", "low")] == [2, 1]
    for mask, groups in (("class", 3), ("all", 1), ("low", 1)):
        recipe = dd.FreDDM(ipc=1, coefficients=20, mask=mask)
        found = recipe.frequency_set(tiny, "real", dd.generator(0)).parametrization
        first = dd.recipes.cycled_images(tiny, 1, 4, "real", dd.generator(0))
        assert found.kept.shape == (groups, 20)
        assert torch.equal(found.kept, Frequencies(first, class_slots(3, 4), 20, mask).kept)


def test_both_recipes_have_the_rates_of_the_authors(make_student, tiny):
    real = data((3, 32, 32))
    make = dd.network_factory("convnet", real.image_shape, 10, width=2)
    dm = dd.FreDDM(ipc=1).plan(real, make_student=make, rng=dd.generator(0))
    (group,) = dm.make_optimizer(dm.syn).param_groups
    assert (group["lr"], group["momentum"]) == (1e6 / 4096, 0.5)
    mtt = dd.FreD(ipc=1).plan(real, make_student=make, rng=dd.generator(0))
    coefficients, rate = mtt.make_optimizer(mtt.syn).param_groups
    assert (coefficients["lr"], rate["lr"], rate["momentum"]) == (1e8 / 4096, 1e-7, 0.5)
    assert mtt.objective.steps == 50
    with torch.no_grad():
        mtt.syn.rate.value.fill_(-1.0)
    mtt.syn.rate.project_()
    assert mtt.syn.rate().item() == pytest.approx(0.001)
    given = dd.FreD(ipc=1, image_lr=3.0).plan(tiny, make_student=make_student, rng=dd.generator(0))
    assert given.make_optimizer(given.syn).param_groups[0]["lr"] == 3.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"k": 25}, "k must not exceed the 24 pixels of a channel, got 25"),
        ({"mask": "high"}, r"mask must be one of \['class', 'all', 'low'\], got 'high'"),
        ({"classes": CLASSES[1:]}, "classes must have length 9, got 8"),
        ({"classes": torch.arange(9)}, "images must hold at least two images of class 0"),
        ({"images": images().flatten(1)}, r"images must have shape \(M, C, H, W\)"),
        ({"images": images() / 0}, "images must be finite"),
    ],
)
def test_what_cannot_be_stored_is_refused(change, message):
    given = {"images": images(), "classes": CLASSES, "k": 5, "mask": "class"} | change
    with pytest.raises(ValueError, match=f"^{message}"):
        Frequencies(given["images"], given["classes"], given["k"], given["mask"])


def test_recipes_refuse_masks_and_numbers_that_do_not_exist(tiny):
    with pytest.raises(ValueError, match=r"^mask must be one of"):
        dd.FreD(mask="high")
    with pytest.raises(ValueError, match=r"^max_start must be at most 49"):
        dd.FreD(max_start=50)
    with pytest.raises(ValueError, match=r"^coefficients must not exceed the 96 pixels of a channel, got 97"):
        dd.FreDDM(coefficients=97).images_per_class(tiny)
