"""Decoders against loops over pixels, gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.networks import initialise
from ddsdk.objectives import Inversion, ViewSimilarity
from ddsdk.students.adversary import supervised_contrast
from ddsdk.synthetic import (
    Codes,
    ConditionalGenerator,
    Hallucination,
    Latent,
    Pixels,
    class_slots,
    code_shape,
    hallucinator_floats,
    hard_labels,
    tiny_decoder,
)


def random(*shape, key="x"):
    return torch.randn(shape, generator=dd.generator(key, *shape), dtype=torch.float64)


def slow_convolution(image, weight, bias):
    """3x3, without padding: (C, H, W) to (O, H-2, W-2)."""
    c, height, width = image.shape
    out = torch.zeros(len(weight), height - 2, width - 2, dtype=image.dtype)
    for o in range(len(weight)):
        for y in range(height - 2):
            for x in range(width - 2):
                out[o, y, x] = bias[o]
                for i in range(c):
                    for dy in range(3):
                        for dx in range(3):
                            out[o, y, x] += weight[o, i, dy, dx] * image[i, y + dy, x + dx]
    return out


def slow_transposed(maps, weight, bias):
    """3x3: each number spreads over nine pixels, (C, h, w) to (O, h+2, w+2)."""
    c, height, width = maps.shape
    outputs = weight.shape[1]
    out = bias[:, None, None].expand(outputs, height + 2, width + 2).clone()
    for i in range(c):
        for o in range(outputs):
            for y in range(height):
                for x in range(width):
                    for dy in range(3):
                        for dx in range(3):
                            out[o, y + dy, x + dx] += weight[i, o, dy, dx] * maps[i, y, x]
    return out


def slow_hallucination(p, slot, h):
    maps = slow_convolution(p.bases[slot], p.inward[h], p.inward_bias[h])
    moved = torch.stack(
        [
            torch.tensor(
                [
                    [float(maps[c, y, x] * p.scale[h, c, y, x] + p.shift[h, c, y, x]) for x in range(maps.shape[2])]
                    for y in range(maps.shape[1])
                ],
                dtype=maps.dtype,
            )
            for c in range(len(maps))
        ]
    )
    return slow_transposed(moved, p.outward[h], p.outward_bias[h])


@pytest.mark.parametrize("channels", [1, 2])
def test_hallucination_equals_loops(channels):
    found = Hallucination(random(3, channels, 4, 5), 2, channels=2, rng=dd.generator(0))
    with torch.no_grad():
        for name, p in found.named_parameters():
            p.copy_(random(*p.shape, key=name))
        images, owners = found.decode(torch.tensor([2, 0]), dd.generator(0))
        wanted = [slow_hallucination(found, slot, h) for slot in (2, 0) for h in (0, 1)]
    torch.testing.assert_close(images, torch.stack(wanted), rtol=1e-12, atol=1e-12)
    assert owners.tolist() == [2, 2, 0, 0]


def test_a_sampled_hallucination_is_one_of_all():
    found = Hallucination(random(3, 2, 4, 5), 3, rng=dd.generator(0))
    whole, _ = found.decode(torch.arange(3), dd.generator(0))
    found.sampled = True
    seen = set()
    for seed in range(20):
        images, owners = found.decode(torch.arange(3), dd.generator(seed))
        assert torch.equal(images, found.decode(torch.arange(3), dd.generator(seed))[0])
        assert owners.tolist() == [0, 1, 2]
        gaps = [(images - whole[h::3]).abs().max().item() for h in range(3)]
        assert min(gaps) < 1e-12
        seen.add(gaps.index(min(gaps)))
    assert seen == {0, 1, 2}


def slow_enlarged(maps, height, width):
    c, h, w = maps.shape
    out = torch.zeros(c, height, width, dtype=maps.dtype)
    for y in range(height):
        for x in range(width):
            out[:, y, x] = maps[:, y * h // height, x * w // width]
    return out


def slow_padded(image):
    out = torch.zeros(len(image), image.shape[1] + 2, image.shape[2] + 2, dtype=image.dtype)
    out[:, 1:-1, 1:-1] = image
    return out


def slow_tiny_decoder(decoder, code, shape):
    middle = tuple(math.ceil(side / 2) for side in shape[1:])
    maps = slow_convolution(slow_padded(slow_enlarged(code, *middle)), decoder[1].weight, decoder[1].bias)
    maps = torch.where(maps < 0, 0.1 * maps, maps)
    return slow_convolution(slow_padded(slow_enlarged(maps, *shape[1:])), decoder[4].weight, decoder[4].bias)


def test_codes_equal_loops():
    shape = (1, 6, 7)
    decoders = [tiny_decoder(shape, dd.generator(i)).double() for i in range(2)]
    found = Codes(random(3, *code_shape(shape)), decoders)
    with torch.no_grad():
        images, owners = found.decode(torch.tensor([1, 1, 0]), dd.generator(0))
        wanted = [slow_tiny_decoder(d, found.codes[slot], shape) for slot in (1, 1, 0) for d in decoders]
    torch.testing.assert_close(images, torch.stack(wanted), rtol=1e-12, atol=1e-12)
    assert owners.tolist() == [1, 1, 1, 1, 0, 0]


def slow_generator(generator, latent, c, shape):
    linear = generator.stages[0][0]
    dim = len(latent)
    small = generator.stages[0][1].unflattened_size
    values = [
        sum(float(linear.weight[o, i] * latent[i]) for i in range(dim))
        + float(linear.weight[o, dim + c])
        + float(linear.bias[o])
        for o in range(len(linear.weight))
    ]
    maps = torch.tensor(values, dtype=latent.dtype).view(small)
    maps = torch.where(maps < 0, 0.1 * maps, maps)
    for stage, size in ((1, [math.ceil(side / 2) for side in shape[1:]]), (2, shape[1:])):
        conv = generator.stages[stage][1]
        maps = slow_convolution(slow_padded(slow_enlarged(maps, *size)), conv.weight, conv.bias)
        if stage == 1:
            maps = torch.where(maps < 0, 0.1 * maps, maps)
    return maps


def test_latents_equal_loops():
    shape = (2, 5, 6)
    generator = initialise(ConditionalGenerator(shape, 3, dim=4, width=2), dd.generator(0)).double()
    latents, classes = random(3, 4), torch.tensor([2, 0, 1])
    found = Latent(generator, latents, classes)
    slots = [2, 0, 1, 1]
    with torch.no_grad():
        images, owners = found.decode(torch.tensor(slots), dd.generator(0))
        wanted = [slow_generator(generator, latents[s], int(classes[s]), shape) for s in slots]
        torch.testing.assert_close(images, torch.stack(wanted), rtol=1e-12, atol=1e-12)
        for layer in (1, 2):
            inner = Latent(generator.after(layer), generator.inner(latents, classes, layer))
            again, _ = inner.decode(torch.tensor(slots), dd.generator(0))
            torch.testing.assert_close(again, images, rtol=1e-12, atol=1e-12)
    assert owners.tolist() == slots


def test_any_module_from_latents_to_images_is_a_generator():
    linear = nn.Sequential(nn.Linear(3, 2 * 4 * 5), nn.Unflatten(1, (2, 4, 5))).double()
    latents = random(4, 3)
    images, _ = Latent(linear, latents).decode(torch.tensor([3, 1]), dd.generator(0))
    wanted = latents[[3, 1]] @ linear[0].weight.T + linear[0].bias
    torch.testing.assert_close(images.flatten(1), wanted, rtol=1e-12, atol=1e-12)


class Decoded(nn.Module):
    """The images of a parametrization, as a function of its tensors."""

    def __init__(self, parametrization):
        super().__init__()
        self.p = parametrization

    def forward(self, slots, rng):
        return self.p.decode(slots, rng)[0]


def parametrizations():
    shape = (1, 4, 5)
    generator = initialise(ConditionalGenerator(shape, 2, dim=3, width=1), dd.generator(1))
    decoders = [tiny_decoder(shape, dd.generator(i)) for i in range(2)]
    classes = torch.tensor([0, 1, 1])
    return {
        "hallucination": Hallucination(random(3, *shape), 2, rng=dd.generator(0)),
        "sampled": Hallucination(random(3, *shape), 2, sampled=True, rng=dd.generator(0)),
        "codes": Codes(random(3, *code_shape(shape)), decoders),
        "latent": Latent(generator, random(3, 3), classes),
        "learned": Latent(generator, random(3, 3), classes, learned=True),
    }


@pytest.mark.parametrize("name", parametrizations())
def test_gradients_through_decoders_agree_with_finite_differences(name):
    module = Decoded(parametrizations()[name].double())
    learned = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters() if p.requires_grad}

    def images(*tensors):
        given = dict(zip(learned, tensors, strict=True))
        return functional_call(module, given, (torch.tensor([2, 0]), dd.generator("decode")))

    assert gradcheck(images, tuple(learned.values()), eps=1e-6, atol=1e-6, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize(("channels", "wanted"), [(3, 5568), (1, 84 + 84 + 5400 - 54)])
def test_one_hallucinator_for_cifar_has_as_many_floats_as_published(channels, wanted):
    assert hallucinator_floats((3, 32, 32), channels) == wanted
    found = Hallucination(torch.zeros(10, channels, 32, 32), 5, channels=3, rng=dd.generator(0))
    assert found.stored_floats() == 10 * channels * 32 * 32 + 5 * wanted


def test_five_hallucinators_weigh_nine_images():
    assert round(5 * hallucinator_floats((3, 32, 32), 3) / 3072, 2) == 9.06


@pytest.mark.parametrize(("shape", "decoder"), [((1, 28, 28), 185), ((3, 32, 32), 1635)])
def test_a_code_is_a_quarter_of_an_image_and_decoders_are_tiny(shape, decoder):
    assert math.prod(code_shape(shape)) * 4 == math.prod(shape)
    made = tiny_decoder(shape, dd.generator(0))
    assert sum(p.numel() for p in made.parameters()) == decoder
    assert made(torch.zeros(2, *code_shape(shape))).shape == (2, *shape)


def slow_cosine(a, b):
    return float((a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt()))


@pytest.mark.parametrize("views", [2, 3])
def test_similarity_equals_loops(tiny, views):
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1)
    student = make(dd.generator(0))
    classes = class_slots(3, 2)
    bases = tiny.batch(torch.arange(6)).x
    found = Hallucination(bases, views, rng=dd.generator(0))
    syn = dd.SyntheticSet(found, hard_labels(classes, 3), classes, 3)
    terms = list(ViewSimilarity(views=views)(student, tiny, syn, dd.generator("s")))
    images, _ = found.decode(torch.arange(6), dd.generator(0))
    for c, term in enumerate(terms):
        key = derive(derive(dd.generator("s"), "class", c), "views")
        a, b = torch.randperm(views, generator=key)[:2].tolist()
        with torch.no_grad():
            features = student.embed(images).view(6, views, -1)
        cosines = [slow_cosine(features[s, a], features[s, b]) for s in (2 * c, 2 * c + 1)]
        assert math.isclose(term.item(), sum((1 + cosine) / 2 for cosine in cosines) / 2 / 3, rel_tol=1e-5)


def test_similarity_is_that_of_augmented_images(tiny):
    make = dd.network_factory("convnet", tiny.image_shape, 3, width=4, depth=1)
    classes = class_slots(3, 2)
    found = Hallucination(tiny.batch(torch.arange(6)).x, 2, rng=dd.generator(0))
    syn = dd.SyntheticSet(found, hard_labels(classes, 3), classes, 3)
    student = make(dd.generator(0))
    plain, augmented = (
        torch.stack(list(ViewSimilarity(views=2, augmentation=augmentation)(student, tiny, syn, dd.generator("s"))))
        for augmentation in (dd.Augmentation(""), dd.Augmentation("cutout"))
    )
    assert not torch.allclose(plain, augmented)


def test_contrast_equals_loops():
    features, classes = random(5, 3), torch.tensor([0, 1, 0, 2, 1])
    z = [f / f.norm() for f in features]
    losses = []
    for i in range(5):
        friends = [p for p in range(5) if p != i and classes[p] == classes[i]]
        if friends:
            below = sum(math.exp(float(z[i] @ z[a]) / 0.1) for a in range(5) if a != i)
            shares = [math.exp(float(z[i] @ z[p]) / 0.1) / below for p in friends]
            losses.append(-sum(math.log(s) for s in shares) / len(friends))
    assert math.isclose(float(supervised_contrast(features, classes)), sum(losses) / 4, rel_tol=1e-12)
    alone = supervised_contrast(features.requires_grad_(), torch.arange(5))
    alone.backward()
    assert alone.item() == 0
    assert torch.isfinite(features.grad).all()


def test_inversion_equals_loops(tiny):
    classes = torch.tensor([0, 0, 2])
    anchors = random(3, 3, 8, 12)
    images = random(3, 3, 8, 12, key="images")
    syn = dd.SyntheticSet(Pixels(images), hard_labels(classes, 3), classes, 3)
    terms = [t.item() for t in Inversion(anchors)(None, tiny, syn, dd.generator(0))]
    gaps = [
        sum((a - b) ** 2 for a, b in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True))
        for x, y in zip(images, anchors, strict=True)
    ]
    assert terms == pytest.approx([(gaps[0] + gaps[1]) / 2, gaps[2]], rel=1e-12)
    same = Inversion(images)(None, tiny, syn, dd.generator(0))
    assert [t.item() for t in same] == [0, 0]
