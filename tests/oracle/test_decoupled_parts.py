"""Statistics, crops and teacher labels against slow, obvious versions."""

from __future__ import annotations

import math

import pytest
import torch

import ddsdk as dd
from ddsdk.data import easiest_crops
from ddsdk.data.crops import cropped, random_boxes
from ddsdk.data.sources import Batch
from ddsdk.foundation import derive
from ddsdk.networks.norms import calibrate_batch_norm_
from ddsdk.objectives import StatisticsMatch, StatisticsTeacher
from ddsdk.objectives.statistics import batch_moments
from ddsdk.recipes.parts import hard_label_set, pixel_set
from ddsdk.synthetic import MultiFormation, with_teacher_labels

SHAPE = (2, 8, 8)


class Slots:
    """A source of given images, so that a gradient can be asked for at a leaf of any precision."""

    def __init__(self, x, classes, k):
        self.x, self.classes, self.num_classes, self.device = x, classes, k, x.device

    def slots_of_class(self, c):
        return torch.nonzero(self.classes == c).flatten()

    def at(self, slots, rng):
        return Batch(self.x[slots], torch.eye(self.num_classes, dtype=self.x.dtype)[self.classes[slots]])

    def of_class(self, c, n, rng):
        return self.at(self.slots_of_class(c)[:n], rng)

    def mixed(self, n, rng):
        return self.at(torch.arange(len(self.x))[:n], rng)


@pytest.fixture(params=["convnet", "resnet10"])
def network(request):
    """A network in float64 whose running statistics are those of random images."""
    options = {"width": 3, "depth": 2} if request.param == "convnet" else {}
    shape = SHAPE if request.param == "convnet" else (1, 8, 9)
    make = dd.network_factory(request.param, shape, 3, norm="batch", **options)
    found = make(dd.generator("teacher")).double()
    images = torch.randn(20, *shape, generator=dd.generator("seen"), dtype=torch.float64)
    return calibrate_batch_norm_(found, images), images


def inputs_of_norms(network, x):
    """What comes into each BatchNorm layer, written down by a network that is asked layer by layer."""
    seen = []
    layers = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    hooks = [m.register_forward_hook(lambda m, i, o: seen.append((m, i[0].detach().clone()))) for m in layers]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return [z for layer in layers for m, z in seen if m is layer]


def slow_gap(z, layer):
    total = [0.0, 0.0]
    for c in range(z.shape[1]):
        values = z[:, c].flatten().tolist()
        mean = sum(values) / len(values)
        var = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
        total[0] += (mean - float(layer.running_mean[c])) ** 2
        total[1] += (var - float(layer.running_var[c])) ** 2
    return math.sqrt(total[0]) + math.sqrt(total[1])


def test_gaps_are_those_of_a_loop_over_channels(network):
    teacher, images = network
    x = torch.randn(6, *images.shape[1:], generator=dd.generator("batch"), dtype=torch.float64)
    logits, gaps = StatisticsTeacher(teacher)(x)
    torch.testing.assert_close(logits, teacher(x))
    layers = [m for m in teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    slow = [slow_gap(z, m) for z, m in zip(inputs_of_norms(teacher, x), layers, strict=True)]
    torch.testing.assert_close(gaps, torch.tensor(slow, dtype=torch.float64))
    # Nothing stays behind that would slow down or change the network.
    assert not any(layer._forward_pre_hooks for layer in layers)


def test_the_batch_that_the_statistics_are_of_has_no_gap(network):
    teacher, images = network
    layers = [m for m in teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    # Layer by layer: what comes into one depends on the statistics of those before it.
    for _ in layers:
        for z, layer in zip(inputs_of_norms(teacher, images), layers, strict=True):
            layer.running_mean.copy_(z.mean((0, 2, 3)))
            layer.running_var.copy_(z.var((0, 2, 3)))
    _, gaps = StatisticsTeacher(teacher)(images)
    torch.testing.assert_close(gaps, torch.zeros_like(gaps), rtol=0, atol=1e-9)
    _, moved = StatisticsTeacher(teacher)(images + 1)
    assert float(moved.sum()) > 0.1


def test_the_objective_is_its_formula(network):
    teacher, images = network
    student = StatisticsTeacher(teacher)
    source = Slots(images[:6], torch.tensor([0, 0, 1, 1, 2, 2]), 3)
    match = StatisticsMatch(weight=0.3, first=7.0)
    terms = list(match(student, source, source, dd.generator(0)))
    assert len(terms) == 2
    for i, term in enumerate(terms):
        x, y = images[[i, 2 + i, 4 + i]], torch.eye(3, dtype=torch.float64)
        logits, gaps = student(x)
        entropy = -(y * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(term, entropy + 0.3 * (7 * gaps[0] + sum(gaps[1:])))


def test_its_gradient_is_that_of_finite_differences(network):
    teacher, images = network
    student = StatisticsTeacher(teacher)
    match = StatisticsMatch(weight=0.5, augmentation=dd.Augmentation("crop+color"))
    classes = torch.tensor([0, 0, 1, 1, 2, 2])

    def loss(x):
        source = Slots(x, classes, 3)
        return torch.stack(list(match(student, source, source, dd.generator("step")))).sum()

    start = images[:6].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start), start)
    for i in range(3):
        way = torch.randn(start.shape, generator=dd.generator("way", i), dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(start + 1e-6 * way) - loss(start - 1e-6 * way)) / 2e-6
        torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-5, atol=1e-7)


def test_moments_of_one_value_are_no_nan():
    mean, var = batch_moments(torch.tensor([[2.0, 3.0]]))
    assert mean.tolist() == [2, 3]
    assert var.tolist() == [0, 0]


def slow_crop(image, box):
    channels, height, width = image.shape
    top, left, tall, wide = box.tolist()
    out = torch.zeros_like(image)

    def at(c, row, column):
        return float(image[c, min(max(row, 0), height - 1), min(max(column, 0), width - 1)])

    for c in range(channels):
        for i in range(height):
            for j in range(width):
                y = (top + tall * (i + 0.5) / height) * height - 0.5
                x = (left + wide * (j + 0.5) / width) * width - 0.5
                u, v = math.floor(y), math.floor(x)
                a, b = y - u, x - v
                out[c, i, j] = (1 - a) * ((1 - b) * at(c, u, v) + b * at(c, u, v + 1)) + a * (
                    (1 - b) * at(c, u + 1, v) + b * at(c, u + 1, v + 1)
                )
    return out


def test_a_crop_is_bilinear_in_its_box():
    x = torch.rand(4, 2, 5, 7, generator=dd.generator("crop"))
    boxes = random_boxes(4, dd.generator("boxes"), smallest=0.1)
    slow = torch.stack([slow_crop(image, box) for image, box in zip(x, boxes, strict=True)])
    torch.testing.assert_close(cropped(x, boxes), slow, rtol=1e-4, atol=1e-5)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(4, 4)
    torch.testing.assert_close(cropped(x, whole), x, rtol=1e-4, atol=1e-5)


def test_boxes_lie_inside_and_keep_their_share():
    top, left, tall, wide = random_boxes(2000, dd.generator("boxes"), smallest=0.3).unbind(1)
    for start, side in ((top, tall), (left, wide)):
        assert bool((start >= 0).all())
        assert bool((start + side <= 1 + 1e-6).all())
        assert bool((side > 0.3).all())
    area = tall * wide
    assert float(area.min()) < 0.32
    assert float(area.max()) > 0.9
    assert torch.equal(tall, wide)


def test_the_easiest_crops_are_those_of_a_full_search():
    """The best crop of each image, best image first; then the second-best ones."""
    n, crops = 5, 4
    x = torch.rand(n, 1, 6, 6, generator=dd.generator("images"))

    def score(y):
        return y.mean((1, 2, 3))

    rng = dd.generator("search")
    found = easiest_crops(x, score, rng, keep=n * crops, crops=crops)
    drawn = [random_boxes(n, derive(rng, "boxes", j)) for j in range(crops)]
    everything = [
        sorted((float(score(one)), one) for one in (cropped(x[i : i + 1], b[i : i + 1]) for b in drawn))
        for i in range(n)
    ]
    wanted = [one for rank in range(crops) for _, one in sorted(row[rank] for row in everything)]
    torch.testing.assert_close(found, torch.cat(wanted))
    some = easiest_crops(x, score, rng, keep=7, crops=crops)
    assert torch.equal(some, found[:7])


def test_a_planted_easy_crop_is_found():
    """Among noise, one image shows the pattern in its upper left part; the crop that shows most of it is kept."""
    x = torch.rand(8, 1, 16, 16, generator=dd.generator("noise"))
    x[3, :, :12, :12] = 1.0

    def score(y):
        return -y.mean((1, 2, 3))

    found = easiest_crops(x, score, dd.generator("crops"), keep=1, crops=100, smallest=0.2)
    assert float(found.mean()) > 0.99
    # Each image has a crop before any has a second one, so the others follow.
    two = easiest_crops(x, score, dd.generator("crops"), keep=2, crops=100, smallest=0.2)
    assert torch.equal(two[:1], found)
    assert float(two[1].mean()) < 0.8


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_labels_are_the_softmax_of_the_teacher(tiny, make_student, temperature):
    syn = pixel_set(tiny, 3, "real", dd.generator(0))
    teacher = make_student(dd.generator("teacher"))
    labelled = with_teacher_labels(syn, teacher, dd.generator(0), temperature=temperature)
    rows = labelled.labels.rows(torch.arange(9))
    for i, image in enumerate(syn.parametrization.images.detach()):
        logits = (teacher(image[None])[0] / temperature).tolist()
        total = sum(math.exp(v) for v in logits)
        assert rows[i].tolist() == pytest.approx([math.exp(v) / total for v in logits], abs=1e-6)
    assert torch.equal(labelled.classes, syn.classes)
    assert torch.equal(syn.labels.rows(torch.arange(9)), torch.eye(3)[syn.classes])


def test_a_slot_of_several_images_has_their_mean_row(tiny, make_student):
    images = torch.randn(6, 3, 8, 12, generator=dd.generator("canvases"))
    syn = hard_label_set(tiny, 2, MultiFormation(images, 2))
    teacher = make_student(dd.generator("teacher"))
    rows = with_teacher_labels(syn, teacher, dd.generator(0)).labels.rows(torch.arange(6))
    decoded, owners = syn.parametrization.decode(torch.arange(6), dd.generator(0))
    each = teacher(decoded.detach()).softmax(1)
    for i in range(6):
        torch.testing.assert_close(rows[i], each[owners == i].mean(0).detach())
