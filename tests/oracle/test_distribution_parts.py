"""Parts of distribution matching against python loops, complex numbers, closed forms and finite differences."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from plain_networks import Doubled
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy

import ddsdk as dd
from ddsdk.foundation import derive
from ddsdk.objectives import (
    AttentionMaps,
    CharacteristicDistance,
    CharacteristicFunction,
    Discrimination,
    GaussianMMD,
    LayerSquares,
    all_features,
    layer_means,
)
from ddsdk.objectives.byproducts import in_micro_batches, stacked
from ddsdk.synthetic import FixedLabels, Pixels, class_slots
from ddsdk.synthetic.set import LeafView
from ddsdk.training.micro import MICRO_BATCH

DOUBLE = torch.float64


def normal(*shape, key="x", dtype=DOUBLE):
    return torch.randn(*shape, generator=dd.generator("normal", key, *shape), dtype=dtype)


def network(shape=(2, 8, 8), classes=3, name="convnet", **options):
    options = {"width": 4, "depth": 2} | options if name == "convnet" else options
    return dd.network_factory(name, shape, classes, **options)(dd.generator("network")).double()


def images(n, shape=(2, 8, 8), classes=3, key="images"):
    return dd.Batch(normal(n, *shape, key=key), torch.eye(classes, dtype=DOUBLE)[torch.arange(n) % classes])


# Distances


def slow_mmd(x, y, scales):
    x, y = x.tolist(), y.tolist()

    def squared(a, b):
        return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))

    both = x + y
    mean = sum(squared(a, b) for a in both for b in both) / len(both) ** 2
    total = 0.0
    for scale in scales:
        h = scale * mean

        def kernel(one, other, h=h):
            return sum(math.exp(-squared(a, b) / (2 * h)) for a in one for b in other) / len(one) / len(other)

        total += h * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    return total / len(scales)


def test_mmd_equals_a_double_loop():
    x, y = normal(4, 3), normal(6, 3, key="y") + 1
    found = GaussianMMD((0.5, 2.0))([x], [y])
    assert math.isclose(float(found), slow_mmd(x, y, (0.5, 2.0)), rel_tol=1e-10)
    two = GaussianMMD((0.5, 2.0))([x, y], [y, x])
    torch.testing.assert_close(two, 2 * found)


def test_mmd_of_equal_samples_is_zero():
    x = normal(5, 3)
    assert abs(float(GaussianMMD()([x], [x[torch.tensor([3, 1, 4, 0, 2])]]))) < 1e-12
    # A sample and its double hold the same distribution.
    assert abs(float(GaussianMMD()([x], [torch.cat([x, x])]))) < 1e-12
    one = x[:1].clone().requires_grad_()
    value = GaussianMMD()([one], [one.detach()])
    value.backward()
    assert float(value.detach()) == 0.0
    assert float(one.grad.abs().sum()) == 0.0


def test_a_wide_kernel_sees_the_mean_alone():
    x, y = normal(4, 3), normal(6, 3, key="y") + 1
    torch.testing.assert_close(GaussianMMD((1e5,))([x], [y]), (x.mean(0) - y.mean(0)).square().sum(), rtol=1e-4, atol=0)


def test_mmd_sees_a_spread_that_the_mean_does_not():
    x = normal(50, 3)
    y = 3 * x - 2 * x.mean(0)
    torch.testing.assert_close(x.mean(0), y.mean(0))
    assert float(GaussianMMD()([x], [y])) > 0.1


def test_mmd_keeps_its_digits_far_from_the_origin():
    x, y = normal(8, 64), normal(8, 64, key="y")
    found = GaussianMMD()([x.float() + 100], [y.float() + 100])
    torch.testing.assert_close(found.double(), GaussianMMD()([x], [y]), rtol=1e-3, atol=0)


def test_mmd_gradient():
    x, y = normal(3, 2).requires_grad_(), normal(4, 2, key="y")
    # The width is a constant by contract, so the finite differences must not move it either.
    both = torch.cat([x, y]).detach()
    h = 0.5 * (both[:, None] - both[None]).square().sum(2).mean()

    def fixed(a):
        kernels = [(-(p[:, None] - q[None]).square().sum(2) / (2 * h)).exp().mean() for p, q in ((a, a), (a, y))]
        return h * (kernels[0] - 2 * kernels[1])

    assert gradcheck(fixed, x)
    (wanted,) = torch.autograd.grad(fixed(x), x)
    (found,) = torch.autograd.grad(GaussianMMD((0.5,))([x], [y]), x)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("amplitude", "phase"), [(0.5, 0.5), (0.9, 0.1), (0.0, 1.0), (1.0, 0.0)])
def test_characteristic_distance_equals_complex_numbers(amplitude, phase):
    a, b = [normal(7, key=k) for k in "pq"], [normal(7, key=k) for k in "rs"]
    total = 0.0
    for re, im, re2, im2 in zip(*(t.tolist() for t in (*a, *b)), strict=True):
        p, q = complex(re, im), complex(re2, im2)
        turned = 1 - math.cos(cmath.phase(p) - cmath.phase(q))
        total += math.sqrt(amplitude * (abs(p) - abs(q)) ** 2 + phase * 2 * abs(p) * abs(q) * turned)
    found = CharacteristicDistance(amplitude=amplitude, phase=phase)(a, b)
    assert math.isclose(float(found), total / 7, rel_tol=1e-10)
    if amplitude == phase:
        gaps = [abs(complex(*x) - complex(*y)) for x, y in zip(zip(*a, strict=True), zip(*b, strict=True), strict=True)]
        assert math.isclose(float(found), math.sqrt(amplitude) * sum(gaps) / 7, rel_tol=1e-10)


def test_characteristic_distance_gradient_and_zero():
    p = [normal(5, key=k).requires_grad_() for k in "pq"]
    q = [normal(5, key=k) for k in "rs"]
    assert gradcheck(lambda *p: CharacteristicDistance(amplitude=0.3, phase=0.7)(p, q), p)
    for dtype in (torch.float32, DOUBLE):
        for values in (torch.zeros(2, 3, dtype=dtype), normal(2, 3).to(dtype)):
            a = values.clone().requires_grad_()
            value = CharacteristicDistance()(list(a), list(values))
            value.backward()
            assert float(value.detach()) < 1e-15
            assert float(a.grad.abs().sum()) == 0.0


def test_layer_squares():
    a, b = ([normal(n, key=(k + str(n))) for n in (3, 2, 4)] for k in "ab")
    gaps = [float((x - y).square().sum()) for x, y in zip(a, b, strict=True)]
    for weights, full in (
        ((0.1, 2.0), (0.1, 0.1, 2.0)),
        ((1.0,), (1.0, 1.0, 1.0)),
        ((9.0, 3.0, 2.0, 5.0), (3.0, 2.0, 5.0)),
    ):
        wanted = sum(w * g for w, g in zip(full, gaps, strict=True))
        assert math.isclose(float(LayerSquares(weights)(a, b)), wanted, rel_tol=1e-12)
    assert float(LayerSquares((1.0,))(a, a)) == 0.0


# Byproducts


@pytest.mark.parametrize("power", [1.0, 4.0])
def test_attention_maps_equal_loops(power):
    student, batch = network(depth=3), images(2)
    x, wanted = batch.x, []
    for level, (conv, norm, activation, pool) in enumerate(student.body):
        a = activation(norm(conv(x)).clone())
        if level < 2:
            mean = torch.zeros(a.shape[2] * a.shape[3], dtype=DOUBLE)
            for image in a.detach():
                attention = []
                for row in range(a.shape[2]):
                    for column in range(a.shape[3]):
                        attention.append(sum(abs(float(v)) ** power for v in image[:, row, column]))
                length = math.sqrt(sum(v * v for v in attention))
                mean += torch.tensor([v / length for v in attention], dtype=DOUBLE) / len(a)
            wanted.append(mean)
        x = pool(a)
    found = AttentionMaps(power)(student, batch, graph=False)
    assert len(found) == 3
    for one, other in zip(found, [*wanted, student(batch.x).mean(0)], strict=True):
        torch.testing.assert_close(one, other.detach())
    assert not student.body[0][2]._forward_hooks


def test_layer_means_equal_loops():
    student, batch = network(depth=2), images(3)
    first = student.body[0][:-1](batch.x)
    second = student.body[1][:-1](student.body[0](batch.x))
    wanted = [first.mean(0).flatten(), second.mean(0).flatten(), student.embed(batch.x).mean(0)]
    for one, other in zip(layer_means(student, batch, graph=False), wanted, strict=True):
        torch.testing.assert_close(one, other.detach())


def test_characteristic_function_equals_complex_numbers():
    student, batch = network(), images(3)
    frequencies = normal(16, 5, key="t")
    cos, sin = CharacteristicFunction(frequencies)(student, batch, graph=False)
    features = student.embed(batch.x).tolist()
    for k, t in enumerate(frequencies.T.tolist()):
        values = []
        for f in features:
            length = math.sqrt(sum(v * v for v in f))
            values.append(cmath.exp(1j * sum(p * v / length for p, v in zip(t, f, strict=True))))
        mean = sum(values) / len(values)
        assert math.isclose(float(cos[k]), mean.real, rel_tol=1e-9, abs_tol=1e-12)
        assert math.isclose(float(sin[k]), mean.imag, rel_tol=1e-9, abs_tol=1e-12)


MEANS = {
    "layers": layer_means,
    "attention": AttentionMaps(),
    "characteristic": CharacteristicFunction(normal(16, 5, key="t")),
}


@pytest.mark.parametrize("name", MEANS)
def test_pieces_of_a_mean_add_up(name, monkeypatch):
    monkeypatch.setitem(MICRO_BATCH, "cpu", 3)
    student, batch = network(), images(8)
    whole = MEANS[name](student, batch, graph=False)
    for one, other in zip(in_micro_batches(MEANS[name], student, batch), whole, strict=True):
        torch.testing.assert_close(one, other)
    rows = stacked(all_features, student, batch)
    torch.testing.assert_close(rows[0], student.embed(batch.x).detach())


@pytest.mark.parametrize("name", [*MEANS, "rows"])
def test_byproducts_have_a_graph_when_asked_and_the_right_gradient(name):
    byproduct = {**MEANS, "rows": all_features}[name]
    student = network(activation="sigmoid")
    batch = images(2)
    assert not any(t.requires_grad for t in byproduct(student, batch, graph=False))
    x = batch.x.clone().requires_grad_()
    assert gradcheck(lambda x: byproduct(student, dd.Batch(x, batch.y), graph=True), x, fast_mode=True)


NETWORKS = [("mlp", 3, 1), ("lenet", 5, 2), ("alexnet", 6, 5), ("resnet10", 7, 9)]


@pytest.mark.parametrize(("name", "layers", "attentions"), NETWORKS)
def test_other_networks_have_layers_too(name, layers, attentions):
    batch = images(2, (2, 16, 16))
    student = network((2, 16, 16), name=name)
    found = layer_means(student, batch, graph=False)
    torch.testing.assert_close(found[-1], student.embed(batch.x).mean(0).detach())
    maps = AttentionMaps()(student, batch, graph=False)
    torch.testing.assert_close(maps[-1], student(batch.x).mean(0).detach())
    assert (len(found), len(maps)) == (layers, attentions)


# Discrimination


def discriminate(real, syn, student, objective=None):
    """The loss and the gradient of the images, as a distillation takes them."""
    leaves, total = LeafView(syn), 0.0
    for term in (objective or Discrimination(real_batch=4))(student, Doubled(real), leaves, dd.generator("d")):
        torch.autograd.backward(term, inputs=leaves.inputs)
        leaves.pull_back()
        total += float(term.detach())
    return total, syn.parametrization.images.grad


def synthetic(real, ipc=2, classes=None):
    classes = class_slots(real.num_classes, ipc) if classes is None else classes
    labels = FixedLabels(torch.eye(real.num_classes, dtype=DOUBLE)[classes])
    return dd.SyntheticSet(Pixels(normal(len(classes), *real.image_shape)), labels, classes, real.num_classes)


@pytest.mark.parametrize("augmentation", ["", "crop"])
def test_discrimination_equals_the_plain_version(tiny, augmentation):
    syn, student = synthetic(tiny), network(tiny.image_shape)
    objective = Discrimination(real_batch=4, augmentation=dd.Augmentation(augmentation))
    total, gradient = discriminate(tiny, syn, student, objective)
    x = syn.parametrization.images.detach().clone().requires_grad_()
    draw = objective.augmentation.siamese(derive(dd.generator("d"), "augmentation"))
    features = student.embed(draw(x))
    centres = torch.stack([features[2 * c : 2 * c + 2].mean(0) for c in range(3)])
    loss = 0.0
    for c in range(3):
        batch = Doubled(tiny).of_class(c, 4, derive(dd.generator("d"), "real", c))
        for image in batch.x:
            logits = student.embed(draw(image[None])).detach()[0] @ centres.T
            loss = loss + torch.logsumexp(logits, 0) - logits[c]
    assert math.isclose(total, float(loss.detach()), rel_tol=1e-10)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss, x)[0])


def test_discrimination_gradient_by_finite_differences(tiny):
    student = network(tiny.image_shape, activation="sigmoid")
    syn = synthetic(tiny, ipc=1)
    _, gradient = discriminate(tiny, syn, student)
    gradient = gradient.clone()
    direction = normal(*gradient.shape, key="direction")
    losses = []
    for step in (1e-5, -1e-5):
        moved = synthetic(tiny, ipc=1)
        with torch.no_grad():
            moved.parametrization.images += step * direction
        losses.append(discriminate(tiny, moved, student)[0])
    assert math.isclose((losses[0] - losses[1]) / 2e-5, float((gradient * direction).sum()), rel_tol=1e-6)


def test_discrimination_leaves_out_classes_without_images(tiny):
    syn, student = synthetic(tiny, classes=torch.tensor([0, 2])), network(tiny.image_shape)
    total, gradient = discriminate(tiny, syn, student)
    centres = student.embed(syn.parametrization.images.detach())
    wanted = 0.0
    for i, c in enumerate((0, 2)):
        batch = Doubled(tiny).of_class(c, 4, derive(dd.generator("d"), "real", c))
        logits = student.embed(batch.x) @ centres.T
        wanted += float(cross_entropy(logits, torch.full((len(logits),), i), reduction="sum").detach())
    assert math.isclose(total, wanted, rel_tol=1e-10)
    assert bool((gradient != 0).flatten(1).any(1).all())
